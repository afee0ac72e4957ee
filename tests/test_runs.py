import fcntl
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from degrade import cores
from degrade.config import Experiment, compose, load_config
from degrade.config.identity import variant
from degrade.data import ImageSet
from degrade.errors import (
    ConfigError,
    DatasetError,
    RunConflictError,
    RunError,
    RunFailed,
    RunInterrupted,
    RunInUseError,
)
from degrade.runs import RunRecord, find_records, observers, run, run_directory, train, worker
from degrade.runs import environment as environment_module
from degrade.runs.many import plan
from degrade.runs.record import sessions_of
from degrade.training import Training, checkpoint, choice, device, engine
from tests.conftest import SMALL, Make, Trained, small_but
from tests.test_sweep import wait_until

CLOCK = ("seconds", "images_per_second")


@pytest.fixture
def small(small: Make) -> Make:
    """The same on images of 8 x 8 pixels, on which a network trains in a tenth of the time."""
    return functools.partial(small, "data.pixels=8")


def rows(record: RunRecord) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in record.rows()]


def weights(record: RunRecord) -> dict[str, torch.Tensor]:
    state = checkpoint.load(record.path / checkpoint.NAME, torch.device("cpu"))
    return dict(state["engine"]["model"])


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_finished_record_holds_what_the_contract_says(small: Make) -> None:
    experiment = small()
    record = run(experiment)
    assert record.path == run_directory(experiment)
    assert record.status == "complete"
    assert load_config(record.path / "config.yaml") == experiment
    names = {p.name for p in record.path.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "summary.json", "checkpoint.pt", "train.log"} <= names
    environment = record.environment
    assert environment["schema_version"] == 2
    assert environment["parameters"] == 75_290
    assert environment["synthetic"] is True
    (session,) = record.sessions
    assert session["versions"]["torch"] == torch.__version__
    assert session["threads"] == torch.get_num_threads()
    assert (session["precision"], session["engine"], session["memory_format"]) == ("fp32", "eager", "channels_last")
    assert (session["first_iteration"], session["last_iteration"]) == (0, 24)
    assert set(session["git"]) == {"commit", "dirty"}
    assert len(environment["data_hash"]) == 64
    assert environment["images"] == {"train": 90, "test": 40}
    assert 0.8 < environment["chance_error"] <= 0.9
    assert environment["open_choices"]["weight decay on batch norm"] is True
    assert "augmented" in environment["open_choices"]["train_error"]
    keys = (
        "iteration epoch lr train_loss train_error train_error_clean train_error_batch test_loss test_error "
        "images_per_second seconds row crc"
    )
    lines = (record.path / "metrics.jsonl").read_text().splitlines()
    assert [sorted(json.loads(line)) for line in lines] == [sorted(keys.split())] * 2
    summary = record.summary
    assert summary["iteration"] == summary["iterations"] == 24
    for kind in ("train_error", "train_error_clean", "train_error_batch", "test_error"):
        assert summary[kind] == record.rows()[-1][kind]
    told = f"{summary['train_error_clean']:.2%} clean, {summary['train_error_batch']:.2%} batch-statistics"
    assert told in (record.path / "train.log").read_text()
    assert "synthetic" in (record.path / "train.log").read_text()


def test_a_finished_run_is_skipped_and_fresh_starts_over(small: Make) -> None:
    record = run(small())
    before = (record.path / "metrics.jsonl").stat().st_mtime_ns
    run(small())
    assert (record.path / "metrics.jsonl").stat().st_mtime_ns == before
    expected = rows(record)
    run(small(), fresh=True)
    assert (record.path / "metrics.jsonl").stat().st_mtime_ns != before
    assert rows(record) == expected


def test_other_settings_in_the_same_directory_are_refused_by_name(small: Make) -> None:
    run(small("name=mine"))
    with pytest.raises(RunConflictError, match=r"recipe\.iterations is 24 there, 24000 here.*--fresh"):
        run(small("name=mine", "recipe=short"))
    other = small("name=mine")
    other.optim.clip = 1.0
    record = RunRecord(run_directory(small("name=mine")))
    with pytest.raises(RunConflictError, match=r"\(optim\.clip is None there, 1\.0 here\)"):
        record.check_same(other)
    other = small("name=mine")
    other.recipe.warmup_lr = 0.02  # which takes no effect without a warm-up
    record.check_same(other)
    path = record.path / "config.yaml"
    path.write_text(path.read_text().replace("  clip: null", "  clip: null\n  novelty: 7"))
    with pytest.raises(RunConflictError, match=r"optim\.novelty is 7 there, unknown here.*SHA-256 differs"):
        record.check_same(small("name=mine"))


def test_different_experiments_never_share_a_directory() -> None:
    changes = [
        [], ["seed=1"], ["model=residual"], ["model.depth=56"], ["optim.lr=0.05"], ["optim.lr=0.5"], ["name=x"],
        ["recipe=quick"], ["data=synthetic"], ["data.split=45k/5k"],
        ["model=residual", "model.shortcut=B"],
        ["recipe.milestones=[1,2]"],
        ["data=folder", "data.root=/a/b"], ["data=folder", "data.root=/a_b"], ["data=folder", "data.root='/a=b'"],
        ["data=folder", f"data.root=/{'x' * 200}"], ["data=folder", f"data.root=/{'x' * 199}y"],
        ["data=folder", "data.root='/it\"s'"], ["data=folder", "data.root=x", "optim.lr=0.05"],
        ["data=folder", "data.root='x,optim.lr=0.05'"], ["optim.nesterov=true"], ["output=elsewhere"],
    ]  # fmt: skip
    directories = [run_directory(compose(change)) for change in changes]
    assert len(set(directories)) == len(changes)
    for directory in directories:
        assert len(directory.parent.name) <= 120
        assert re.fullmatch(r"[A-Za-z0-9.,=+\[\]_~-]+", directory.parent.name)
    assert str(directories[0]) == "outputs/paper/plain-20/seed-0"
    assert variant(compose(["optim.lr=0.05", "model.depth=56"])) == "plain-56,optim.lr=0.05"
    assert variant(compose(["data=synthetic", "recipe=quick"])) == "plain-20,data=synthetic"


def test_a_record_in_use_is_refused(small: Make) -> None:
    record = RunRecord(run_directory(small()))
    with record.lock():
        assert record.in_use
        with pytest.raises(RunInUseError, match="in use by another process"):
            run(small())
    assert not record.in_use


def test_two_that_look_whether_a_record_is_in_use_do_not_see_each_other(small: Make) -> None:
    record = RunRecord(run_directory(small()))
    with record.lock():
        pass
    with (record.path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not record.in_use


def test_fresh_takes_the_exported_network_along_and_leaves_the_log(small: Make, trained: Trained) -> None:
    record = trained()
    (record.path / "weights.safetensors").write_bytes(b"the former network")
    before = (record.path / "train.log").read_text()
    assert before
    with pytest.raises(ConfigError):
        run(small("runtime.device=cuda:99"), fresh=True)
    assert (record.path / "train.log").read_text().startswith(before)
    assert record.status == "complete"
    run(small(), fresh=True)
    assert not (record.path / "weights.safetensors").exists()


def test_a_signal_that_is_ignored_stays_so_while_it_trains() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with train.StopSignals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_finished_record_is_not_noted_as_failed(trained: Trained, tmp_path: Path) -> None:
    record = trained()
    own = worker.Worker(tmp_path)
    own._record = record
    own._ended("RunFailed: config.yaml is missing")
    assert record.status == "complete"


def test_divergence_keeps_the_record(small: Make) -> None:
    bad = ["optim.lr=1e12", "model.norm=none"]
    diverged = run(small(*bad))
    assert diverged.status == "diverged"
    assert (diverged.rows()[-1]["train_loss"], diverged.rows()[-1]["iteration"]) == (None, 12)
    assert run(small(*bad)).status == "diverged"


def test_a_failure_is_recorded_and_retried(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    original = engine.Engine.step

    def fail(self: engine.Engine, *arguments: Any) -> None:
        raise RuntimeError("out of luck\nmore")

    monkeypatch.setattr(engine.Engine, "step", fail)
    with pytest.raises(RunFailed, match="failed at iteration 0: out of luck"):
        run(small())
    record = RunRecord(run_directory(small()))
    assert record.status == "failed"
    assert "out of luck" in record.summary["error"]
    assert "RunFailed: " in str(worker._train(asdict(small("seed=1"))))  # so the process goes on with the next cell
    monkeypatch.setattr(engine.Engine, "step", original)
    assert run(small()).status == "complete"


def test_more_classes_than_outputs_are_refused(small: Make) -> None:
    with pytest.raises(ConfigError, match=r"set model\.classes=10"):
        run(small("model.classes=9"))


def interrupted_copy(small: Make, *overrides: str, at: int = 13) -> RunRecord:
    """A record stopped at an iteration by a signal to this process."""
    experiment = small(*overrides)
    original = engine.Engine.step
    calls = 0

    def step(self: engine.Engine, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        original(self, *arguments)
        if calls == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Engine, "step", step)
        with pytest.raises(RunInterrupted, match=f"iteration {at}, checkpoint written"):
            run(experiment)
    return RunRecord(run_directory(experiment))


def test_a_deterministic_run_asks_pytorch_for_it(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for wanted in ("true", "false"):
        train.set_up(small(f"runtime.deterministic={wanted}").runtime)
        assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None) == (":4096:8" if wanted == "true" else None)
    assert asked == [True, False]


def test_a_run_says_once_which_milestones_it_ends_before(small: Make, caplog: pytest.LogCaptureFixture) -> None:
    settings = ("recipe.iterations=4", "recipe.milestones=[3,4,5000]", "name=missed")
    interrupted_copy(small, *settings, at=2)
    run(small(*settings))
    run(small("recipe.iterations=4", "recipe.milestones=[3]", "name=met"))
    said = [message for message in caplog.messages if "milestones" in message]
    assert said == [
        "plain-8: it ends at update 4, so its rate does not fall at 4 or 5,000; recipe.milestones sets when it falls"
    ]


def test_a_new_run_takes_idle_cores_and_a_resumed_one_as_many_threads_as_before(
    small: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    busy = cores.Cores(2, math.inf, 1.04)
    monkeypatch.setattr(train, "at_first", lambda: busy)
    monkeypatch.setattr(train, "usable", lambda: busy.usable)
    monkeypatch.setattr(train, "_DEFAULT_THREADS", 2)
    few = ("recipe.iterations=2", "recipe.milestones=[1]", "eval.every=2")
    assert run(small("name=new", *few)).sessions[-1]["threads"] == 1
    interrupted_copy(small, "name=parts", "runtime.threads=2", *few, at=1)
    record = run(small("name=parts", *few))
    assert [session["threads"] for session in record.sessions] == [2, 2]
    said = "going on with 2 threads as before, though other work keeps 1.0 of 2 cores busy; runtime.threads=1 is"
    assert any(message.startswith(said) for message in caplog.messages)


def test_a_run_goes_on_with_the_threads_that_it_is_offered_where_that_pays(
    small: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "degrade.run")
    few = ("recipe.iterations=4", "recipe.milestones=[2]", "eval.every=4")
    short, long, one = (small(f"name={name}", "runtime.threads=1", *few) for name in ("short", "long", "one"))
    # A second before its end a new start does not pay, and one thread is no more than it has.
    assert worker._train(asdict(short), lambda: 2) is None
    monkeypatch.setattr(train, "WORTH_MORE_THREADS", 0)
    assert worker._train(asdict(one), lambda: 1) is None
    assert worker._train(asdict(long), lambda: 2) is None
    records = [RunRecord(run_directory(experiment)) for experiment in (short, one, long)]
    assert [[session["threads"] for session in record.sessions] for record in records] == [[1], [1], [1, 2]]
    assert [record.status for record in records] == ["complete"] * 3
    at = spans(records[2])[1][0]
    assert at > 0
    assert spans(records[2]) == [(0, at), (at, 4)]
    assert len(records[2].rows()) == len(records[0].rows())
    assert caplog.messages.count("plain-8: cores are free, so it goes on with 2 threads") == 1


def test_a_stop_that_comes_as_threads_are_offered_is_obeyed(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "WORTH_MORE_THREADS", 0)
    save = checkpoint.save

    def stopped(folder: Path, state: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save(folder, state)

    monkeypatch.setattr(checkpoint, "save", stopped)
    with pytest.raises(RunInterrupted, match="is interrupted; stopped there") as caught:
        run(small("runtime.threads=1"), offered=lambda: 2)
    assert not isinstance(caught.value, train.MoreThreads)
    (record,) = find_records([Path(small().output)])
    assert record.summary["status"] == record.status == "interrupted"


def test_a_cell_that_is_stopped_as_it_goes_on_with_more_threads_counts_as_interrupted(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "WORTH_MORE_THREADS", 0)
    with pytest.raises(train.MoreThreads):
        run(small("runtime.threads=1"), offered=lambda: 2)
    (cell,) = plan([small()])
    assert (cell.record.summary["status"], cell.outcome) == ("running", "interrupted")
    assert cell.may_widen


def test_many_runs_leave_the_callers_settings_as_they_are_and_resume_with_the_same_division(small: Make) -> None:
    experiments = [small(f"seed={seed}") for seed in range(2)]
    cells = plan(experiments)
    assert [experiment.runtime.threads for experiment in experiments] == [None, None]
    run(cells[0].experiment)
    assert [cell.experiment.runtime.threads for cell in plan(experiments)] == [1, 1]


def test_a_training_that_becomes_far_slower_says_what_helps(
    small: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shares = iter([None, 0.08])
    monkeypatch.setattr(observers.Pace, "add", lambda self, work: next(shares, None))
    monkeypatch.setattr(train, "look", lambda: cores.Cores(2, math.inf, 1.04))
    run(small("runtime.threads=2", "recipe.iterations=2"))
    said = "plain-8: it has run at 8% of its best speed for a minute: other work keeps 1.0 of 2 cores busy; end that"
    assert sum(message.startswith(said) for message in caplog.messages) == 1


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            cores.Cores(2, math.inf, 2.0),
            "other work keeps 2.0 of 2 cores busy; end that, or stop this and go on later",
        ),
        (cores.Cores(2, 0.5, 0.0), "the quota of this container is 0.5 of 2 cores; raise it, or stop this and"),
        (cores.Cores(2, math.inf, 1.0), "see what else uses the machine"),
    ],
)
def test_a_slow_training_of_one_thread_says_why_too(
    found: cores.Cores, said: str, small: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observers.Pace, "add", lambda self, work: 0.2)
    monkeypatch.setattr(train, "look", lambda: found)
    run(small("runtime.threads=1"))
    slow = f"plain-8: it has run at 20% of its best speed for a minute: {said}"
    assert any(message.startswith(slow) for message in caplog.messages)


@pytest.mark.parametrize("little", [choice.LITTLE, 0])
def test_training_goes_on_in_eager_where_compiling_fails(
    little: int, small: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether or not memory formats are timed before."""
    monkeypatch.setattr(choice, "LITTLE", little)
    monkeypatch.setattr(choice, "SHORTEST", 0)

    def compiled(*_: Any, **__: Any) -> Any:
        def call(images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler\nand so on")

        return call

    expected = run(small("name=eager", "runtime.engine=eager"))
    monkeypatch.setattr(torch, "compile", compiled)
    record = run(small("name=compiled", "runtime.engine=compiled"))
    assert rows(record) == rows(expected)
    session = record.sessions[-1]
    assert (session["engine"], session["engine_refused"]) == ("eager", "compiled: RuntimeError: no C++ compiler")
    said = "plain-8: engine eager in place of compiled, which cannot be trusted: RuntimeError: no C++ compiler"
    assert caplog.messages.count(said) == 1


def test_too_little_memory_on_a_gpu_names_the_mend(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(engine.Engine, "step", step)
    said = "Tried to allocate 2 GiB.; runtime.recompute=true needs less memory, and so does a smaller eval.batch_size"
    with pytest.raises(RunFailed, match=re.escape(said)):
        run(small())
    (record,) = find_records([Path(small().output)])
    assert record.summary["error"] == f"OutOfMemoryError: CUDA out of memory. {said}"


def test_interrupted_and_resumed_equals_uninterrupted(small: Make) -> None:
    whole = run(small("name=whole"))
    record = interrupted_copy(small, "name=parts")
    assert record.status == "interrupted"
    assert len(record.rows()) == 1
    run(small("name=parts"))
    assert record.status == "complete"
    assert rows(record) == rows(whole)
    assert equal(weights(record), weights(whole))
    assert spans(record) == [(0, 13), (13, 24)]


def spans(record: RunRecord) -> list[tuple[int, int | None]]:
    return [(session["first_iteration"], session["last_iteration"]) for session in record.sessions]


def test_every_session_keeps_its_own_threads_engine_and_commit(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    # One step with two threads is enough: they wait for one another where other work uses the CPU.
    record = interrupted_copy(small, "runtime.threads=2", at=1)
    commits = [{"commit": "a" * 40, "dirty": True}, {"commit": "b" * 40, "dirty": False}]
    monkeypatch.setattr(environment_module, "git_state", lambda: commits[1])
    run(small("runtime.threads=1", "runtime.memory_format=contiguous", "eval.clean_every=6"))
    first, second = record.sessions
    assert (first["threads"], second["threads"]) == (2, 1)
    assert (first["memory_format"], second["memory_format"]) == ("channels_last", "contiguous")
    assert second["git"] == commits[1] != first["git"]
    assert spans(record) == [(0, 1), (1, 24)]


def test_a_killed_sessions_last_iteration_is_where_the_next_one_goes_on(small: Make) -> None:
    record = interrupted_copy(small)
    content = record.environment
    content["sessions"][0]["last_iteration"] = None  # as a kill leaves it
    (record.path / "environment.json").write_text(json.dumps(content))
    run(small())
    assert spans(record) == [(0, 13), (13, 24)]


def test_sessions_of_a_record_of_schema_1_say_what_it_knew() -> None:
    old = {
        "schema_version": 1,
        "device": "AMD EPYC, 2 threads",
        "threads": 2,
        "precision": "fp32",
        "engine": "compiled",
        "git": {"commit": "c" * 40, "dirty": False},
        "sessions": [
            {"started": "2026-11-24T20:50:08+00:00", "iteration": 0, "device": "AMD EPYC, 1 thread"},
            {"started": "2026-11-24T20:59:25+00:00", "iteration": 1694, "device": "AMD EPYC, 2 threads"},
        ],
    }
    first, last = sessions_of(old, {"iteration": 8000})
    assert first == {
        "started": "2026-11-24T20:50:08+00:00",
        "device": "AMD EPYC",
        "threads": 1,
        "first_iteration": 0,
        "last_iteration": 1694,
    }
    assert (last["device"], last["threads"], last["precision"]) == ("AMD EPYC", 2, "fp32")
    assert (last["first_iteration"], last["last_iteration"], last["git"]["commit"]) == (1694, 8000, "c" * 40)
    assert 7 in sessions_of({"schema_version": 1, "sessions": [{"device": 7}]}, {})[0].values()
    assert sessions_of({}, {}) == []


def test_what_auto_precision_meant_is_kept_on_resuming_not_by_fresh(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "has_bf16", lambda _: True)
    monkeypatch.setattr(choice, "PRECISION_DEPTH", 10**9)  # no recipe is too short
    monkeypatch.setattr(choice, "_precision", lambda _: "bf16")
    record = interrupted_copy(small, "runtime.precision=auto")
    assert record.precision == "bf16"
    monkeypatch.setattr(choice, "_precision", lambda _: "fp32")
    monkeypatch.setattr(device, "device_name", lambda _: "another CPU")
    run(small("runtime.precision=auto"))
    assert (record.status, record.precisions) == ("complete", ["bf16", "bf16"])
    run(small("runtime.precision=auto"), fresh=True)
    assert record.precisions == ["fp32"]


def test_a_matrix_begun_in_fp32_goes_on_in_fp32(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "has_bf16", lambda _: True)
    monkeypatch.setattr(choice, "PRECISION_DEPTH", 10**9)  # no recipe is too short
    monkeypatch.setattr(choice, "_precision", lambda _: "bf16")
    run(small("seed=1"))
    cells = plan([small(f"seed={seed}", "runtime.precision=auto") for seed in range(3)])
    records = [run(cell.experiment) for cell in cells]
    assert [record.precisions for record in records] == [["fp32"]] * 3


def test_settings_that_change_no_result_make_no_other_run(small: Make) -> None:
    names = ("eval.every=3", "eval.clean_every=4", "log.every=2", "runtime.engine=compiled", "runtime.precision=bf16")
    more = ("runtime.memory_format=contiguous", "runtime.deterministic=true", "checkpoint.snapshots=3")
    incidental = ("checkpoint.every=5", "runtime.threads=1", "data.root=/elsewhere", "eval.batch_size=7")
    assert {variant(small(name)) for name in (*names, *more, *incidental)} == {variant(small())}
    record = interrupted_copy(small)
    run(small("eval.clean_every=6", "log.every=5", "runtime.memory_format=contiguous"))
    assert record.status == "complete"
    assert [row["iteration"] for row in record.rows()] == [12, 15, 18, 20, 24]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(small: Make) -> None:
    whole = run(small("name=whole"))
    record = interrupted_copy(small, "name=parts", "checkpoint.every=4")
    (record.path / checkpoint.NAME).write_bytes(b"damaged")
    run(small("name=parts"))
    assert rows(record) == rows(whole)
    assert equal(weights(record), weights(whole))
    log = (record.path / "train.log").read_text()
    assert "checkpoint.pt cannot be used: checkpoint.pt is damaged" in log
    assert not (record.path / checkpoint.PREVIOUS).read_bytes().startswith(b"damaged")
    assert (record.path / "checkpoint.pt.damaged").read_bytes() == b"damaged"
    assert "going on from iteration 12" in log


def test_a_checkpoint_that_does_not_fit_falls_back_too(small: Make) -> None:
    whole = run(small("name=whole"))
    record = interrupted_copy(small, "name=parts", "checkpoint.every=4")
    state = checkpoint.load(record.path / checkpoint.NAME, torch.device("cpu"))
    del state["engine"]["model"]["linear.bias"]
    torch.save(state, record.path / checkpoint.NAME)
    (record.path / "checkpoint.pt.damaged").write_text("of another day")
    run(small("name=parts"))
    assert rows(record) == rows(whole)
    aside = checkpoint.load(record.path / "checkpoint.pt.damaged-2", torch.device("cpu"))
    assert aside["iteration"] == state["iteration"]
    assert (record.path / "checkpoint.pt.damaged").read_text() == "of another day"
    assert "checkpoint.pt cannot be used" in (record.path / "train.log").read_text()


def test_fresh_keeps_the_old_run_until_nothing_stands_in_the_way(small: Make) -> None:
    def no_images(_: Experiment) -> ImageSet:
        raise DatasetError("offline")

    record = run(small())
    before = rows(record)
    with pytest.raises(DatasetError):
        run(small(), fresh=True, images=no_images)
    assert record.status == "complete"
    assert rows(record) == before


def test_a_failure_before_training_is_a_failed_run_not_the_end_of_its_process(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(train, "Training", no_memory)
    assert re.fullmatch("RunFailed: .* failed at iteration 0: out of memory", str(worker._train(asdict(small()))))
    assert not RunRecord(run_directory(small())).exists


def test_records_older_than_a_setting_are_still_the_same_run(small: Make) -> None:
    record = run(small())
    path = record.path / "config.yaml"
    lines = [line for line in path.read_text().splitlines() if "nesterov" not in line]
    path.write_text("\n".join(lines))
    run(small())


def test_other_images_under_an_unfinished_run_are_refused(small: Make) -> None:
    record = interrupted_copy(small)
    environment = record.environment | {"data_hash": "0" * 64}
    (record.path / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(RunConflictError, match="begun on other images"):
        run(small())


def test_without_a_checkpoint_only_fresh_starts_over_where_there_are_rows(small: Make) -> None:
    record = interrupted_copy(small, "log.every=4")
    before = (record.path / "metrics.jsonl").read_bytes()
    checkpoint.remove(record.path)
    with pytest.raises(
        RunFailed, match=r"holds 3 rows of metrics, the last of iteration 12, .*start over with --fresh"
    ):
        run(small("log.every=4"))
    assert (record.path / "metrics.jsonl").read_bytes() == before
    assert run(small("log.every=4"), fresh=True).status == "complete"


def test_a_run_killed_before_its_first_checkpoint_starts_over_by_itself(small: Make) -> None:
    whole = run(small("name=whole", "log.every=4"))
    record = interrupted_copy(small, "name=parts", "log.every=4", at=9)
    checkpoint.remove(record.path)
    record.summarise(**record.summary | {"status": "running"})  # as a kill leaves it
    run(small("name=parts", "log.every=4"))
    assert rows(record) == rows(whole)
    assert "no usable checkpoint, starting from the beginning" in (record.path / "train.log").read_text()


def test_damaged_metrics_lines_are_reported_and_survived(small: Make) -> None:
    record = interrupted_copy(small, "log.every=4")
    text = (record.path / "metrics.jsonl").read_text()
    (record.path / "metrics.jsonl").write_text('{"iteration": 2, "tra\n' + text + "\x00\x00")
    measured = record.measured()
    kept, damaged = measured.rows, measured.damaged
    assert ([r["iteration"] for r in kept], damaged) == ([4, 8, 12], 2)
    run(small("log.every=4"))
    assert [r["iteration"] for r in record.rows()] == [4, 8, 12, 16, 20, 24]
    assert record.measured().damaged == 0
    assert "dropped 2 damaged lines" in (record.path / "train.log").read_text()


def test_settings_are_read_as_omegaconf_reads_them(tmp_path: Path) -> None:
    odd = ["name=1e3", "data=folder", "data.root='2024-01-01'", "model.bn_epsilon=1e-7", "data.train_limit=1000"]
    for overrides in (["recipe=quick"], odd, ["recipe.warmup=on", "optim.lr=1e12", "recipe.milestones=[]"]):
        experiment = compose([*overrides, f"output={tmp_path}"])
        record = RunRecord(run_directory(experiment))
        record.path.mkdir(parents=True)
        record.begin(experiment, {}, {"first_iteration": 0}, resumed=False)
        assert (
            asdict(record.experiment)
            == OmegaConf.to_container(OmegaConf.load(record.path / "config.yaml"))
            == asdict(experiment)
        )
    # By hand, a number may lack its dot.
    path = record.path / "config.yaml"
    path.write_text(path.read_text().replace("lr: 1000000000000.0", "lr: 1e12"))
    assert record.experiment.optim.lr == 1e12


def test_damaged_json_and_yaml_are_survived_or_named(small: Make) -> None:
    record = run(small())
    (record.path / "summary.json").write_text("{")
    assert record.summary == {}
    assert record.status == "interrupted"
    path = record.path / "config.yaml"
    good = path.read_text()
    for bad in ("null", "[8]", "banana", "8.5"):
        path.write_text(good.replace("depth: 8", f"depth: {bad}"))
        with pytest.raises(RunError, match=r"config\.yaml: model\.depth: .* no whole number; .*--fresh"):
            _ = record.experiment
    path.write_text("a: [1,\n")
    with pytest.raises(RunError, match=r"config\.yaml cannot be read .*--fresh"):
        run(small())
    assert run(small(), fresh=True).status == "complete"


def test_find_records_names_what_is_wrong(tmp_path: Path, small: Make) -> None:
    with pytest.raises(RunError, match="no such directory"):
        find_records([tmp_path / "nowhere"])
    with pytest.raises(RunError, match="holds no run"):
        find_records([tmp_path])
    record = run(small())
    assert [r.path for r in find_records([tmp_path, record.path])] == [record.path]


def start(tmp_path: Path, *overrides: str) -> subprocess.Popen[str]:
    """`degrade train` as a user starts it, in another process."""
    settings = small_but("output=outputs", "checkpoint.every=7", *overrides)
    command = [sys.executable, "-m", "degrade", "train", *settings]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_second_ctrl_c_stops_at_once_unless_a_wrapper_repeated_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(train, "REPEAT_SECONDS", math.inf)
    with train.StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert (signals.received, left) == (signal.SIGINT, [])
        monkeypatch.setattr(train, "REPEAT_SECONDS", -1)
        signal.raise_signal(signal.SIGINT)
    assert left == [130]


def test_sigterm_while_loading_ends_with_130(tmp_path: Path) -> None:
    process = start(tmp_path, "data.train_limit=50000", "data.test_limit=10000")
    wait_until(lambda: list(tmp_path.rglob("train.log")), process)
    process.terminate()
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (130, "degrade: interrupted\n")


def begun(record: RunRecord, sessions: int) -> bool:
    log = record.path / "train.log"
    return log.is_file() and log.read_text().count(" parameters, ") == sessions


def measured(record: RunRecord, rows: int) -> bool:
    return len(record.rows()) >= rows


def test_killed_or_interrupted_at_any_moment_the_record_resumes_to_the_same_result(
    tmp_path: Path, small: Make
) -> None:
    """The command is killed; then either signal ends it with 130 and a checkpoint."""
    settings = ["recipe.iterations=200", "eval.every=6", "recipe.milestones=[30]"]
    whole = run(small("name=whole", *settings))
    record = RunRecord(run_directory(small("name=stopped", *settings)))
    for session, number in enumerate([signal.SIGKILL, signal.SIGINT, signal.SIGTERM], start=1):
        process = start(tmp_path, "name=stopped", "data.pixels=8", *settings)
        wait_until(functools.partial(begun, record, session), process)
        before = len(record.rows())
        wait_until(functools.partial(measured, record, before + 3), process)
        process.send_signal(number)
        _, err = process.communicate(timeout=150)
        assert record.status == "interrupted"
        if number != signal.SIGKILL:
            assert process.returncode == 130
            assert "checkpoint written" in err
            assert "Traceback" not in err
            kept = checkpoint.load(record.path / checkpoint.NAME, torch.device("cpu"))["iteration"]
            assert kept == record.summary["iteration"] >= 6 * (before + 3)
    run(small("name=stopped", *settings))
    assert (record.path / "train.log").read_text().count("going on from iteration") == 3
    assert record.status == "complete"
    assert rows(record) == rows(whole)
    assert equal(weights(record), weights(whole))


def test_a_new_network_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Training] = []

    def build(*arguments: Any, **more: Any) -> Training:
        built.append(Training(*arguments, **more))
        return built[-1]

    monkeypatch.setattr(train, "Training", build)
    run(compose([*SMALL, f"output={tmp_path}"]))
    assert len(built) == 1
