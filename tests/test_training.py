import copy
import functools
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import platformdirs
import pytest
import torch

from degrade.config import Experiment, OptimConfig, compose
from degrade.errors import ConfigError
from degrade.models import build_model
from degrade.runs.train import load_once
from degrade.training import (
    Metrics,
    Training,
    checkpoint,
    choice,
    choose_device,
    choose_precision,
    fit,
    learning_rate,
)
from degrade.training.choice import choose_runtime
from degrade.training.engine import Engine
from degrade.training.optimizers import optimizer
from degrade.training.schedule import WARMUP_WINDOW
from tests.conftest import SMALL, Make

PAPER: dict[str, Any] = {"base": 0.1, "milestones": [32000, 48000]}


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(1, 0.1), (31999, 0.1), (32000, 0.1), (32001, 0.01), (48000, 0.01), (48001, 0.001), (64000, 0.001)],
)
def test_the_rate_at_every_boundary_of_the_paper(iteration: int, rate: float) -> None:
    assert learning_rate(iteration, **PAPER) == pytest.approx(rate, rel=1e-12)


def test_warming_up_overrides_the_schedule_and_then_leaves_it_alone() -> None:
    assert learning_rate(400, **PAPER, warming=True, warmup_lr=0.01) == 0.01
    assert learning_rate(401, **PAPER, warming=False, warmup_lr=0.01) == 0.1
    assert learning_rate(32001, **PAPER, warming=False, warmup_lr=0.01) == pytest.approx(0.01)


def test_the_rate_rises_over_the_ramp_and_then_follows_the_schedule() -> None:
    linear: dict[str, Any] = {**PAPER, "ramp": (200, 1)}
    quadratic: dict[str, Any] = {**PAPER, "ramp": (200, 2)}
    assert [learning_rate(i, **linear) for i in (1, 100, 200, 201)] == pytest.approx([0.0005, 0.05, 0.1, 0.1])
    assert [learning_rate(i, **quadratic) for i in (20, 100, 200)] == pytest.approx([0.001, 0.025, 0.1])
    assert learning_rate(48001, **linear) == pytest.approx(0.001)
    assert learning_rate(15, base=0.1, milestones=[10], ramp=(20, 1)) == pytest.approx(0.0075)


def test_a_run_follows_its_ramp(small: Make) -> None:
    ramped = small("recipe.warmup=quadratic", "recipe.warmup_iterations=4", "recipe.milestones=[]", "log.every=1")
    rates = [row.lr for row in fit(training(ramped))][:5]
    assert rates == pytest.approx([ramped.optim.lr * share for share in (1 / 16, 4 / 16, 9 / 16, 1, 1)])


def test_clipping_bounds_the_norm_of_the_whole_gradient(small: Make) -> None:
    """Without momentum and decay an update is the rate times the gradient: its length tells the clipped norm."""
    plain = ("optim.momentum=0", "optim.weight_decay=0", "optim.lr=1", "recipe.milestones=[]")

    def update(*settings: str) -> torch.Tensor:
        ours = training(small(*plain, *settings))
        before = torch.cat([p.detach().flatten().clone() for p in ours.engine.model.parameters()])
        ours.step()
        return torch.cat([p.detach().flatten() for p in ours.engine.model.parameters()]) - before

    free = update()
    assert free.norm() > 0.1
    clipped = update("optim.clip=0.1")
    assert clipped.norm().item() == pytest.approx(0.1, rel=1e-3)
    torch.testing.assert_close(clipped, free * (0.1 / free.norm()), rtol=1e-3, atol=1e-6)
    assert torch.equal(update("optim.clip=1e6"), free)


def training(experiment: Experiment) -> Training:
    return Training(experiment, load_once(experiment))


def comparable(row: Metrics) -> dict[str, Any]:
    """A row without what depends on the clock."""
    return {k: v for k, v in asdict(row).items() if k not in ("seconds", "images_per_second")}


def test_without_augmentation_batches_hold_the_images_as_they_are(small: Make) -> None:
    ours = training(small("data.augment=false"))
    whole = next(ours.batches.epoch(0, augment=False))
    assert all(torch.equal(one, other) for one, other in zip(ours.batches.batch(1), whole, strict=True))


def test_rows_come_when_due_and_hold_what_they_say(small: Make) -> None:
    rows = list(fit(training(small("log.every=4", "eval.every=8", "eval.clean_every=12"))))
    assert [r.iteration for r in rows] == [4, 8, 12, 16, 20, 24]
    assert [r.iteration for r in rows if r.test_error is not None] == [8, 16, 24]
    assert [r.iteration for r in rows if r.train_error_clean is not None] == [12, 24]
    assert [r.lr for r in rows] == pytest.approx([0.05, 0.05, 0.05, 0.005, 0.0005, 0.0005])
    assert rows[-1].epoch == 4
    assert all(0 <= r.train_error <= 1 and math.isfinite(r.train_loss) for r in rows)
    assert sorted(r.seconds for r in rows) == [r.seconds for r in rows]


def test_by_default_the_test_error_is_measured_every_epoch_and_clean_error_at_the_end(small: Make) -> None:
    rows = list(fit(training(small("eval.every=null"))))
    assert [r.iteration for r in rows] == [6, 12, 18, 24]
    assert all(r.test_error is not None for r in rows)
    assert [r.train_error_clean is not None for r in rows] == [False, False, False, True]


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_is_the_textbooks(nesterov: bool, small: Make) -> None:
    """Three updates written out: momentum 0.9, the paper's or Nesterov's, decay on everything, mean loss."""
    ours = training(small("eval.every=100", f"optim.nesterov={nesterov}"))
    model = build_model(ours.experiment.model, generator=torch.Generator().manual_seed(0))
    model.to(memory_format=torch.channels_last)
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for iteration in range(1, 4):
        x, y = ours.batches.batch(iteration)
        model.train()
        grads = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), list(model.parameters()))
        with torch.no_grad():
            for p, g, v in zip(model.parameters(), grads, velocity, strict=True):
                decayed = g + 1e-4 * p
                v.mul_(0.9).add_(decayed)
                p.sub_(0.05 * (decayed + 0.9 * v if nesterov else v))
        ours.step()
    for p, q in zip(model.parameters(), ours.engine.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=5e-5)


def test_evaluation_counts_what_a_loop_counts(small: Make) -> None:
    ours = training(small())
    for _ in range(3):
        ours.step()
    model, images = ours.engine.model.eval(), ours.images
    wrong = [0] * 10
    loss = 0.0
    with torch.inference_mode():
        for pixels, label in zip(images.test_images, images.test_labels, strict=True):
            logits = model((pixels.float() / 255 - images.mean)[None])
            wrong[int(label)] += int(logits.argmax()) != int(label)
            loss += float(torch.nn.functional.cross_entropy(logits, label[None]))
    result = ours.evaluate(*ours.test)
    counts = torch.bincount(images.test_labels, minlength=10).tolist()
    assert result.error == sum(wrong) / 40
    assert result.loss == pytest.approx(loss / 40, rel=1e-4)
    assert result.by_class == pytest.approx(
        [w / n if n else math.nan for w, n in zip(wrong, counts, strict=True)], nan_ok=True
    )


def slowly_with_batch_statistics(of: Training, *, augmented: bool) -> float:
    """Training error over the first epoch's batches, each with batch norm in train mode; a loop over a copy."""
    model, batches = copy.deepcopy(of.engine.model).train(), of.batches
    wrong = 0
    for iteration in range(1, batches.per_epoch + 1):
        places = batches.prepare(iteration)
        if augmented:
            images, labels = batches.batch(iteration)
        else:
            index = batches._order[places]
            images, labels = (
                of.images.train_images[index].float() / 255 - of.images.mean,
                of.images.train_labels[index],
            )
        with torch.no_grad():
            wrong += int((model(images).argmax(1) != labels).sum())
    return wrong / len(of.images.train_labels)


@pytest.mark.parametrize("augmented", [False, True])
def test_batch_statistics_are_those_of_a_slow_loop(augmented: bool, small: Make) -> None:
    ours = training(small())
    for _ in range(8):  # into the second epoch
        ours.step()
    before = copy.deepcopy(ours.engine.model.state_dict())
    result = ours.evaluate_batches(batch_statistics=True, augmented=augmented)
    assert result.error == slowly_with_batch_statistics(ours, augmented=augmented)
    assert len(result.by_class) == 10
    after = ours.engine.model.state_dict()
    assert before.keys() == after.keys()
    assert any(name.endswith("num_batches_tracked") for name in before)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert ours.evaluate_batches(batch_statistics=True, augmented=augmented) == result
    clean = ours.evaluate(ours.batches.pixels, ours.batches.labels)
    assert clean.error != result.error
    running = ours.evaluate_batches(batch_statistics=False)
    assert running.error == clean.error
    assert running.by_class == pytest.approx(clean.by_class, nan_ok=True)


def test_batch_statistics_are_measured_whenever_clean_error_is(small: Make) -> None:
    ours = training(small("log.every=4", "eval.clean_every=12"))
    rows = list(fit(ours))
    assert [r.iteration for r in rows if r.train_error_batch is not None] == [12, 24]
    assert rows[-1].train_error_batch == slowly_with_batch_statistics(ours, augmented=False)
    assert rows[-1].train_error_batch != rows[-1].train_error_clean


def test_without_batch_norm_there_is_one_kind_and_one_pass(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Training, "evaluate_batches", lambda *_, **__: pytest.fail("a second pass"))
    *_, last = fit(training(small("model.norm=none")))
    assert last.train_error_batch == last.train_error_clean is not None


def test_measuring_in_the_middle_of_an_epoch_leaves_training_as_it_was(small: Make) -> None:
    """The first epoch's batches are drawn for it, and the present epoch's again afterwards."""
    often, once = (training(small(f"eval.clean_every={every}")) for every in (5, 24))
    for one in (often, once):
        list(fit(one))
    ours, theirs = (t.engine.model.state_dict() for t in (often, once))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_statistics_come_back_when_an_evaluation_is_stopped(small: Make) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    experiment = small()
    ours = Training(experiment, load_once(experiment), tick=stop)
    before = copy.deepcopy(ours.engine.model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        ours.evaluate_batches(batch_statistics=True)
    after = ours.engine.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_same_seed_gives_the_same_run_and_another_seed_another(small: Make) -> None:
    first, again, other = ([comparable(r) for r in fit(training(small(f"seed={seed}")))] for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.fixture(scope="module")
def whole() -> tuple[Training, list[dict[str, Any]]]:
    """A training without interruption, and its rows."""
    ours = training(compose([*SMALL, "model.family=residual", "log.every=5", "data.pixels=8"]))
    return ours, [comparable(row) for row in fit(ours)]


@pytest.mark.parametrize("stop", [1, 5, 12, 13, 23, 24])
def test_resumed_equals_uninterrupted_bit_for_bit(
    stop: int, whole: tuple[Training, list[dict[str, Any]]], tmp_path: Path
) -> None:
    uninterrupted, expected = whole
    experiment = uninterrupted.experiment

    class Stop(Exception): ...  # noqa: N818

    def stop_there(at: Training) -> None:
        if at.iteration == stop:
            raise Stop

    first, rows = training(experiment), []
    try:
        for row in fit(first, after_step=stop_there):
            rows.append(comparable(row))
    except Stop:
        pass
    checkpoint.save(tmp_path, first.state_dict())
    second = training(experiment)
    second.load_state_dict(checkpoint.load(tmp_path / checkpoint.NAME, torch.device("cpu")))
    rows += [comparable(row) for row in fit(second)]
    assert rows == expected
    for name, value in uninterrupted.engine.model.state_dict().items():
        assert torch.equal(value, second.engine.model.state_dict()[name]), name


def test_stopping_in_the_middle_of_an_evaluation_repeats_it(small: Make) -> None:
    experiment = small("eval.batch_size=10")
    expected = [comparable(r) for r in fit(training(experiment))]

    class Stop(Exception): ...  # noqa: N818

    calls = itertools.count()

    def stop_in_evaluation(_: int) -> None:
        if next(calls) == 2:
            raise Stop

    ours = Training(experiment, load_once(experiment), tick=stop_in_evaluation)
    with pytest.raises(Stop):
        list(fit(ours))
    assert (ours.iteration, ours.recorded) == (12, 0)
    assert [comparable(r) for r in fit(ours)] == expected


def test_warm_up_ends_by_training_error_and_never_begins_again(small: Make) -> None:
    recipe = ["recipe.warmup=on", f"recipe.iterations={3 * WARMUP_WINDOW}", "recipe.milestones=[120]", "log.every=10"]
    recipe += ["eval.every=1000", "data.pixels=8"]
    rows = list(fit(training(small(*recipe, "recipe.warmup_error=1"))))
    assert [r.lr for r in rows[:5]] == [0.01] * 5
    assert [r.lr for r in rows[5:12]] == [0.05] * 7
    assert [r.lr for r in rows[12:]] == pytest.approx([0.005] * 3)
    never = list(fit(training(small(*recipe, "recipe.warmup_error=0"))))
    assert {r.lr for r in never} == {0.01}
    assert {r.lr for r in fit(training(small("recipe.warmup=auto")))} & {0.01} == set()


def test_warm_up_looks_at_the_window_alone(small: Make) -> None:
    ours = training(small("recipe.warmup=on", "recipe.iterations=100", "recipe.warmup_error=0.5"))
    ours._images, ours._warmup_images, ours._warmup_wrong = 2000, 1000, 900
    ours.engine.wrong.fill_(1500)
    ours._look_at_warming()
    assert ours.warming
    ours._images = 3000
    ours.engine.wrong.fill_(1999)
    ours._look_at_warming()
    assert not ours.warming


def test_divergence_ends_the_run_with_a_last_row(small: Make) -> None:
    ours = training(small("optim.lr=1e12", "model.norm=none"))
    rows = list(fit(ours))
    assert ours.diverged
    assert ours.finished
    assert not math.isfinite(rows[-1].train_loss)
    assert rows[-1].test_error is None
    assert rows[-1].iteration == 12


def test_divergence_at_the_very_last_update_is_seen_and_remembered(small: Make) -> None:
    experiment = small("eval.every=100")

    def ruin_the_last(at: Training) -> None:
        if at.iteration == 24:
            next(at.engine.model.parameters()).data.fill_(math.nan)

    ours = training(experiment)
    *_, last = fit(ours, after_step=ruin_the_last)
    assert math.isfinite(last.train_loss)
    assert last.test_loss is not None
    assert not math.isfinite(last.test_loss)
    assert ours.diverged
    again = training(experiment)
    again.load_state_dict(ours.state_dict())
    assert again.finished


def test_weight_decay_of_batch_norm_is_a_setting(small: Make) -> None:
    model = build_model(small().model)
    everything = optimizer(model, OptimConfig())
    assert {g["weight_decay"] for g in everything.param_groups} == {1e-4}
    spared = optimizer(model, OptimConfig(decay_norm=False))
    assert [g["weight_decay"] for g in spared.param_groups] == [1e-4, 0.0]
    assert len(spared.param_groups[1]["params"]) == 2 * 7
    assert sum(len(g["params"]) for g in everything.param_groups) == len(list(model.parameters()))


def test_checkpoints_survive_damage_and_hold_no_code(small: Make, tmp_path: Path) -> None:
    ours = training(small())
    ours.step()
    checkpoint.save(tmp_path, ours.state_dict())
    ours.step()
    checkpoint.save(tmp_path, ours.state_dict())
    newest, before = checkpoint.candidates(tmp_path)
    cpu = torch.device("cpu")
    assert checkpoint.load(newest, cpu)["iteration"] == 2
    assert checkpoint.load(before, cpu)["iteration"] == 1
    whole = newest.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    newest.write_bytes(flipped)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(newest, cpu)
    newest.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(newest, cpu)
    torch.save({"other": 1}, newest)
    with pytest.raises(ValueError, match="no checkpoint"):
        checkpoint.load(newest, cpu)
    newest.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(newest, cpu)


def test_devices_that_are_not_there_are_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="use auto or cpu"):
        choose_device("cuda:99")
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, float]]:
    """A CPU with bf16, at 3.8 times fp32's speed, a cache directory of its own, and a clock.

    What is given are the seconds of a step by precision, engine and memory format, and how many were `made`.
    """
    seconds = {"fp32": 0.38, "bf16": 0.1, "compiled": 0.9, "contiguous": 1.2, "made": 0, "near": 1.0}
    now = 0.0

    def step(own: Engine, *_: Any) -> tuple[float, float]:
        nonlocal now
        layout = "contiguous" if own.memory_format == torch.contiguous_format else ""
        passed = math.prod(seconds.get(word, 1.0) for word in (own.precision, own.name, layout))
        now += passed
        seconds["made"] += 1
        return passed, 2.3 * seconds["near"] if own.precision == "bf16" else 2.3

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(choice, "_step", step)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _: tmp_path / "cache")
    for clock in ("monotonic", "perf_counter", "process_time"):  # no other work disturbs it
        monkeypatch.setattr(time, clock, lambda: now)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    choice._precision.cache_clear()
    yield seconds
    choice._precision.cache_clear()


@pytest.mark.parametrize(
    ("has_it", "fp32", "near", "expected"),
    [
        (True, 0.38, 1.0, "bf16"),
        (True, 0.05, 1.0, "fp32"),
        (True, 0.102, 1.0, "fp32"),
        (False, 0.38, 1.0, "fp32"),
        (True, 0.38, 1.1, "fp32"),  # its loss is another
    ],
)
def test_a_cpu_uses_bf16_if_it_trains_faster_in_it(
    has_it: bool, fp32: float, near: float, expected: str, timed: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_it)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    timed |= {"fp32": fp32, "near": near}
    assert choose_precision("auto", torch.device("cpu")) == expected


def test_what_auto_means_is_timed_once_and_kept(timed: dict[str, float], caplog: pytest.LogCaptureFixture) -> None:
    cpu = torch.device("cpu")
    caplog.set_level("INFO", "degrade.run")
    assert choose_precision("auto", cpu) == "bf16"
    assert "precision bf16: 3.80 times as fast as the usual, by timing (kept in" in caplog.text
    made = timed["made"]
    choice._precision.cache_clear()  # as in another process
    caplog.clear()
    assert choose_precision("auto", cpu) == "bf16"
    assert (timed["made"], caplog.text) == (made, "")


@pytest.mark.usefixtures("timed")
def test_timing_beside_other_work_says_so_every_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    caplog.set_level("INFO", "degrade.run")
    for advice in ("kept in", "delete"):
        caplog.clear()
        assert choose_precision("auto", torch.device("cpu")) == "bf16"
        assert f"timed while other work used the CPU ({advice}" in caplog.text.replace("by timing, ", "")
        choice._precision.cache_clear()


@pytest.mark.parametrize("content", ["", "[]", '{"a": 3}', "\0"])
def test_a_damaged_cache_is_timed_anew(content: str, timed: dict[str, float], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "timed.json").write_text(content)
    assert choose_precision("auto", torch.device("cpu")) == "bf16"
    assert timed["made"]


def test_without_a_cache_directory_the_choice_is_made_and_said(
    timed: dict[str, float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    caplog.set_level("INFO", "degrade.run")
    assert choose_precision("auto", torch.device("cpu")) == "bf16"
    assert "not kept" in caplog.text


LONG = ("recipe=paper", "model.depth=8", "data.pixels=8", "runtime.precision=fp32", "recipe.batch_size=16")


@pytest.mark.parametrize(
    ("settings", "changed", "expected"),
    [
        (LONG, {}, "compiled channels_last"),
        (LONG, {"compiled": 0.97}, "eager channels_last"),  # hardly faster
        (LONG, {"contiguous": 0.5}, "eager contiguous"),
        ((*LONG, "runtime.engine=eager"), {}, "eager channels_last"),
        ((*LONG, "runtime.engine=eager", "runtime.memory_format=contiguous"), {}, "eager contiguous"),
        ((*LONG, "runtime.memory_format=contiguous"), {"contiguous": 9.0}, "compiled contiguous"),
        (
            (*LONG, "recipe.iterations=9000", "recipe.milestones=[9]"),
            {"contiguous": 0.5},
            "eager channels_last",
        ),  # too little work
        ((*LONG, "recipe.milestones=[9]"), {"fp32": 0.0001}, "eager channels_last"),  # a short run
        ((*LONG, "recipe.milestones=[9]"), {"fp32": 0.018}, "eager channels_last"),  # too short for compiling
        ((*LONG, "recipe.milestones=[9]"), {"fp32": 0.019}, "compiled channels_last"),
        ((*LONG, "recipe.milestones=[9]"), {"fp32": 0.018, "contiguous": 0.5}, "eager contiguous"),
    ],
)
def test_engine_and_memory_format_are_the_fastest_ones(
    settings: tuple[str, ...], changed: dict[str, float], expected: str, timed: dict[str, float]
) -> None:
    timed |= {"fp32": 1.0, **changed}
    found = choose_runtime(compose(list(settings)), torch.device("cpu"), before={})
    assert f"{found.engine} {found.memory_format}" == expected
    made = timed["made"]
    assert choose_runtime(compose(list(settings)), torch.device("cpu"), before={}) == found
    assert timed["made"] == made


def test_a_longer_run_times_what_a_shorter_one_had_no_time_for(timed: dict[str, float]) -> None:
    """A run of a minute times nothing, one of an hour no compiling; the longest answer serves them all afterwards."""
    timed["fp32"] = 0.05
    cpu, chosen = torch.device("cpu"), []
    for iterations in (1_100, 20_000, 200_000, 20_000):
        words = [*LONG, "recipe.batch_size=1024", f"recipe.iterations={iterations}", "recipe.milestones=[9]"]
        made = timed["made"]
        found = choose_runtime(compose(words), cpu, before={})
        chosen.append((found.engine, timed["made"] > made))
    assert chosen == [("eager", True), ("eager", True), ("compiled", True), ("compiled", False)]


def test_a_resumed_run_keeps_what_was_chosen_where_that_exists(timed: dict[str, float]) -> None:
    timed["fp32"] = 1.0
    cpu, long = torch.device("cpu"), compose(list(LONG))
    before = {"engine": "compiled", "memory_format": "contiguous", "precision": "fp32"}
    found = choose_runtime(long, cpu, before=before)
    assert (found.engine, found.memory_format) == ("compiled", "contiguous")
    found = choose_runtime(long, cpu, before={"engine": "compiled-graph", "memory_format": "contiguous"})
    assert (found.engine, found.memory_format) == ("eager", "contiguous")
    found = choose_runtime(compose([*LONG, "runtime.engine=eager"]), cpu, before=before)
    assert (found.engine, timed["made"]) == ("eager", 0)


def test_an_engine_that_raises_is_left_out_of_the_choice(
    timed: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler")

    timed["fp32"] = 1.0
    monkeypatch.setattr(torch, "compile", raising)
    assert choose_runtime(compose(list(LONG)), torch.device("cpu"), before={}).engine == "eager"


GPU = ("eager", "graph", "compiled", "compiled-graph")


@pytest.mark.parametrize(
    ("iterations", "seconds", "broken", "expected"),
    [
        (64_000, (4, 2, 3, 1), "", "compiled-graph"),
        (64_000, (4, 1, 3, 1), "compiled-graph", "compiled-graph"),  # the engine's trial will say that it fails
        (64_000, (4, 0.5, 3, 1), "", "graph"),
        (64_000, (0.004, 0.001, 0.003, 0.002), "", "graph"),  # compiling is made once, since it is the usual one
        (4_000, (0.4, 0.2, 0.3, 0.1), "", "graph"),  # without time for compiling
        (4_000, (0.05, 0.2, 0.3, 0.1), "", "eager"),
        (4_000, (0.05, 0.2, 0.3, 0.1), "graph", "graph"),
        (4_000, (0.05, 0.2, 0.3, 0.1), "eager", "graph"),
    ],
)
def test_on_a_gpu_too_the_fastest_engine_is_taken(
    iterations: int,
    seconds: tuple[float, ...],
    broken: str,
    expected: str,
    timed: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With engines that stand for those of a CUDA device."""
    timed |= {"fp32": 1.0, **dict(zip(GPU, seconds, strict=True))}

    def new(_: Any, device: torch.device, precision: str, name: str, layout: str = "channels_last") -> Any:
        if name == broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        return SimpleNamespace(precision=precision, name=name, memory_format=getattr(torch, layout, None))

    monkeypatch.setattr(choice, "_new", new)
    monkeypatch.setattr(choice, "_place", str)
    monkeypatch.setattr(choice, "_batches", lambda *_: None)
    settings = (*LONG, "runtime.memory_format=channels_last", f"recipe.iterations={iterations}")
    experiment = compose([*settings, "recipe.milestones=[9]", "recipe.batch_size=256"])
    assert choose_runtime(experiment, torch.device("cuda", 0), before={}).engine == expected


def test_a_short_recipe_times_no_precision(timed: dict[str, float], tmp_path: Path) -> None:
    cpu, smoke = torch.device("cpu"), compose(["recipe=smoke"])
    assert choose_runtime(smoke, cpu, before={}).precision == "fp32"
    assert timed["made"] == 0
    assert choose_runtime(compose(["recipe=quick"]), cpu, before={}).precision == "bf16"
    assert choose_runtime(smoke, cpu, before={}).precision == "bf16"  # as was found
    (tmp_path / "cache" / "timed.json").write_text("{")
    assert choose_runtime(smoke, cpu, before={}).precision == "fp32"


def test_the_real_timing_compares_real_steps(small: Make) -> None:
    own, cpu = small("data.pixels=8", "recipe.batch_size=4"), torch.device("cpu")
    made = {p: functools.partial(choice._new, own, cpu, p, "eager") for p in ("fp32", "bf16")}
    found = choice.times_as_fast(made, choice._batches(own, cpu), cpu, seconds=60, near=0.1)
    assert found["chosen"] in made
    assert found["times_as_fast"] >= 1
    assert isinstance(found["disturbed"], bool)


def test_bf16_on_request_trains_close_to_fp32(small: Make) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        experiment = small(f"runtime.precision={precision}", "data.pixels=16", "log.every=1", "recipe.iterations=6")
        rows = list(fit(training(experiment)))
        losses[precision] = [r.train_loss for r in rows]
    assert losses["fp32"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_a_step_reads_no_device_value(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA each read would wait for the device."""
    ours = training(small())

    def refuse(*_: object) -> None:
        raise AssertionError("a step read a tensor's value")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    x, y = torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
    ours.engine.step(x, y, 0.1)
