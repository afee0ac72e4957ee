"""What loggers of `log.to` hold, read back by each tool's own reader; and loggers that break."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from degrade.config import Experiment, compose
from degrade.config.identity import variant
from degrade.errors import ConfigError, RunInterrupted
from degrade.extras import installed
from degrade.metrics import Metrics
from degrade.runs import RunRecord, loggers, run, run_directory
from degrade.runs.board import values
from degrade.runs.loggers import KINDS, STATE, log_finished
from degrade.runs.record import find_records
from degrade.training import engine
from tests.conftest import SMALL, Cli, Make

#: Iterations and values by name, in the order in which a tool has them.
History = list[tuple[int, dict[str, float]]]


def _events(record: RunRecord) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(record.path / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def _tensorboard(record: RunRecord) -> list[History]:
    found = _events(record)
    points = [(point.step, tag, point.value) for tag in found.Tags()["scalars"] for point in found.Scalars(tag)]
    return [_by_step(points)]


def _wandb(record: RunRecord) -> list[History]:
    found = []
    for folder in sorted((record.path / "wandb").glob("offline-run-*")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        records = [json.loads(line) for line in printed.splitlines()]
        rows = [own["history"]["item"] for own in records if own["type"] == "history"]
        found.append(_by_step([(row["_step"], tag, row[tag]) for row in rows for tag in row if tag[0] != "_"]))
    return found


def _mlflow(record: RunRecord) -> list[History]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{record.path.parents[2] / 'mlflow.db'}")
    found = []
    for held in client.search_runs([own.experiment_id for own in client.search_experiments()]):
        assert held.data.params["model.depth"] == "8"
        assert held.info.status == "FINISHED"
        tags = held.data.metrics
        points = [(p.step, tag, p.value) for tag in tags for p in client.get_metric_history(held.info.run_id, tag)]
        found.append(_by_step(points))
    return found


def _trackio(record: RunRecord) -> list[History]:
    command = [sys.executable, "-m", "trackio.cli", "query", "project", "--project", record.experiment.name]
    asked = ["--sql", "SELECT run_name, step, metrics FROM metrics ORDER BY id", "--json"]
    rows = json.loads(subprocess.run([*command, *asked], capture_output=True, text=True, check=True).stdout)["rows"]
    points: dict[str, list[tuple[int, str, float]]] = {}
    for row in rows:
        values = json.loads(row["metrics"]).items()
        points.setdefault(row["run_name"], []).extend((row["step"], tag, value) for tag, value in values)
    return [_by_step(own) for own in points.values()]


def _by_step(points: Sequence[tuple[int, str, float]]) -> History:
    assert max(Counter((step, tag) for step, tag, _ in points).values()) == 1, "something is there twice"
    steps = sorted({step for step, *_ in points})
    return [(step, {tag: value for own, tag, value in points if own == step}) for step in steps]


#: Each tool's own reader: what it holds of all runs, the eldest first.
READERS: dict[str, Callable[[RunRecord], list[History]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}

each_tool = pytest.mark.parametrize(
    "tool",
    [
        pytest.param(name, marks=pytest.mark.skipif(not installed(name), reason=f"no extra [{name}]"))
        for name in KINDS
    ],
)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Refuse connections to anywhere but this machine, and keep Trackio's store out of the user's own."""

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"something was to be sent to {address}")
        connect(self, address)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    if installed("trackio"):
        store = tmp_path_factory.getbasetemp() / "trackio"  # one for all tests: it is looked up once in a process
        monkeypatch.setenv("TRACKIO_DIR", str(store))


def expected(record: RunRecord) -> History:
    return [(row.iteration, values(row)) for row in record.metrics()]


def same(found: History, wanted: History) -> bool:
    """Whether two histories are the same, but for TensorBoard's float32 and what no two sessions measure alike."""
    assert [step for step, _ in found] == [step for step, _ in wanted]
    for (_, one), (_, other) in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for tag in one.keys() - {"images_per_second"}:
            assert one[tag] == pytest.approx(other[tag], rel=1e-6)
    return True


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Let the engine's call of this number raise RunInterrupted instead of training."""
    train, steps = engine.Engine.train, Counter[str]()

    def stopping(self: engine.Engine, *arguments: Any) -> None:
        steps["made"] += 1
        if steps["made"] == call:
            raise RunInterrupted
        train(self, *arguments)

    monkeypatch.setattr(engine.Engine, "train", stopping)


#: Trains what its arguments describe, and is killed in the seventh step.
KILLED = """
import os, signal, sys
from degrade.config import compose
from degrade.runs import run
from degrade.training.engine import Engine

train, steps = Engine.train, []

def killed(self, *arguments):
    steps.append(1)
    if len(steps) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    train(self, *arguments)

Engine.train = killed
run(compose(sys.argv[1:]))
"""


@each_tool
def test_stopped_and_killed_and_resumed_each_row_is_there_once(
    tool: str, small: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is killed with rows logged that come after its last checkpoint, and so are measured and logged again."""
    words = [f"log.to=[{tool}]", "log.every=2", "checkpoint.every=5", f"name=again-{tool}"]
    experiment = small(*words)
    stop_at(monkeypatch, 8)
    with pytest.raises(RunInterrupted):
        run(experiment)
    record = RunRecord(run_directory(experiment))
    assert record.rows()[-1]["iteration"] == 6
    command = [sys.executable, "-c", KILLED, *SMALL, *words, f"output={tmp_path / 'outputs'}"]
    # wandb lets a child process use the helper process of its parent, which would keep the killed run open.
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_SERVICE")}
    assert subprocess.run(command, capture_output=True, env=own).returncode == -signal.SIGKILL
    assert record.rows()[-1]["iteration"] == 12  # the checkpoint is of 10
    assert run(experiment).status == "complete"
    (found,) = READERS[tool](record)
    assert same(found, expected(record))


@each_tool
def test_a_run_trained_without_is_logged_afterwards_once_and_a_fresh_one_anew(
    tool: str, cli: Cli, tmp_path: Path
) -> None:
    command = ["train", *SMALL, f"name=after-{tool}"]
    assert cli(*command).code == 0
    for _ in range(2):
        outcome = cli(*command, f"log.to=[{tool}]")
        assert outcome.code == 0, outcome.err
        assert outcome.err == ""
        assert [line.split()[0] for line in outcome.out.splitlines()[-3:]] == ["complete", "record:", "next:"]
        assert len(outcome.out.splitlines()) == 4  # the first says that it is finished already
    record = RunRecord(next((tmp_path / "outputs").rglob("seed-0")))
    (found,) = READERS[tool](record)
    assert same(found, expected(record))
    assert cli(*command, f"log.to=[{tool}]", "--fresh").code == 0
    histories = READERS[tool](record)
    kept = KINDS[tool].folder == ""  # what is not in the run's directory stays
    assert len(histories) == 1 + kept
    assert any(same(own, expected(record)) for own in histories)


@each_tool
def test_loggers_print_nothing_and_put_nothing_beside_the_records(tool: str, cli: Cli, tmp_path: Path) -> None:
    outcome = cli("train", *SMALL, "name=quiet", f"log.to=[{tool}]")
    assert outcome.code == 0
    assert outcome.err == ""
    words = {"plain-8:", "plain-8", "complete", "record:", "next:"}
    assert {line.split()[0] for line in outcome.out.splitlines()} == words
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    assert {path.name for path in (tmp_path / "outputs").iterdir()} <= {"quiet", "mlflow.db", ".mlflow.lock"}
    assert len(find_records([tmp_path / "outputs"])) == 1  # no file of a tool is taken for a record


@each_tool
def test_runs_side_by_side_are_all_there(tool: str, cli: Cli, tmp_path: Path) -> None:
    words = [f"name=beside-{tool}", f"log.to=[{tool}]", "log.every=2", "seed=0,1", "launcher.jobs=2"]
    outcome = cli("sweep", *SMALL, *words)
    assert outcome.code == 0, outcome.err
    assert "log.to" not in outcome.out
    records = find_records([tmp_path / "outputs"])
    histories = [history for record in records for history in READERS[tool](record)]
    for record in records:
        assert "log.to" not in (record.path / "train.log").read_text()
        assert any([row for row, _ in own] == [row for row, _ in expected(record)] for own in histories)
    assert len({json.loads((record.path / STATE).read_text())["run"] for record in records}) == 2


class Fake:
    """A logger that keeps rows in memory, and raises where it is told to."""

    def __init__(self, breaks: str = "") -> None:
        self.breaks, self.rows, self.ended = breaks, list[int](), list[Any]()
        self.error: BaseException = OSError(28, "No space left on device")

    def _may_break(self, where: str) -> None:
        print("chatter of a tool")  # noqa: T201
        assert (sys.stdin.isatty(), sys.stdin.read()) == (False, "")  # it cannot ask anybody
        warnings.warn("something old", DeprecationWarning, stacklevel=1)
        if self.breaks == where:
            raise self.error

    def make(self, *_: Any) -> "Fake":
        self._may_break("make")
        return self

    def holds(self, iteration: int) -> bool:
        self._may_break("holds")
        return iteration in self.rows

    def add(self, rows: Sequence[Metrics]) -> None:
        self._may_break("add")
        self.rows += [row.iteration for row in rows]

    def close(self, last: Mapping[str, Any] | None) -> None:
        self.ended.append(last)
        self._may_break("close")


def fake(monkeypatch: pytest.MonkeyPatch, name: str, breaks: str = "") -> Fake:
    logger = Fake(breaks)
    monkeypatch.setitem(KINDS, name, loggers._Kind(logger.make))
    monkeypatch.setattr("degrade.extras.installed", lambda _: True)
    return logger


@pytest.mark.parametrize("breaks", ["make", "add", "close"])
def test_a_tool_that_ends_its_process_ends_no_training(
    breaks: str, small: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake(monkeypatch, "wandb", breaks).error = SystemExit("no key")
    with caplog.at_level(logging.WARNING, "degrade.run"):
        assert run(small("log.to=[wandb]", "recipe.iterations=2")).status == "complete"
    (said,) = [found.getMessage() for found in caplog.records if "log.to" in found.getMessage()]
    assert "log.to=wandb: SystemExit: no key; given up" in said


@pytest.mark.parametrize("breaks", ["make", "holds", "add", "close"])
def test_a_broken_logger_costs_one_line_and_no_training(
    breaks: str, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken, whole = fake(monkeypatch, "wandb", breaks), fake(monkeypatch, "mlflow")
    outcome = cli("train", *SMALL, "log.to=[wandb,mlflow]", "log.every=2")
    assert outcome.code == 0
    record = RunRecord(next((tmp_path / "outputs").rglob("seed-0")))
    assert record.status == "complete"
    (line,) = [line for line in outcome.out.splitlines() if "wandb" in line]
    assert "log.to=wandb: OSError: No space left on device; given up" in line
    assert "chatter" not in outcome.out + outcome.err
    assert whole.rows == [row["iteration"] for row in record.rows()]
    assert whole.ended[0]["test_error"] == record.summary["test_error"]
    assert json.loads((record.path / STATE).read_text())["complete"] == ["mlflow"]
    assert broken.ended in ([], [None], whole.ended)

    broken.breaks = ""  # mended, it is given what it lacks by the same command
    loggers._broken.clear()
    assert cli("train", *SMALL, "log.to=[wandb,mlflow]", "log.every=2").code == 0
    assert sorted(set(broken.rows)) == broken.rows == whole.rows
    assert len(whole.ended) == 1
    assert json.loads((record.path / STATE).read_text())["complete"] == ["mlflow", "wandb"]


def test_an_interrupted_run_is_closed_as_unfinished(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = fake(monkeypatch, "trackio")
    experiment = small("log.to=[trackio]", "log.every=2")
    stop_at(monkeypatch, 6)
    with pytest.raises(RunInterrupted):
        run(experiment)
    assert logger.ended == [None]
    assert logger.rows == [2, 4]
    key = json.loads((run_directory(experiment) / STATE).read_text())
    assert run(experiment).status == "complete"
    assert logger.rows == [row["iteration"] for row in RunRecord(run_directory(experiment)).rows()]
    assert json.loads((run_directory(experiment) / STATE).read_text()) == {**key, "complete": ["trackio"]}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run": 3, "complete": ["trackio", 7, "other"]}'])
def test_a_damaged_file_of_what_was_logged_is_written_anew(
    content: str, trained: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, "mlflow")
    record = trained("recipe.iterations=2")
    (record.path / STATE).write_text(content)
    log_finished(record.path, compose(["log.to=[mlflow]"]), record.metrics())
    state = json.loads((record.path / STATE).read_text())
    assert isinstance(state["run"], str)
    assert state["complete"][-1] == "mlflow"


def test_what_a_tool_warns_of_is_said_once(
    trained: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = fake(monkeypatch, "trackio")
    monkeypatch.setattr(logger, "add", lambda _: warnings.warn("the store\nis odd", UserWarning, stacklevel=1))
    record = trained("recipe.iterations=2")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "degrade.run"):
        log_finished(record.path, compose(["log.to=[trackio]"]), record.metrics())
    assert [found.getMessage() for found in caplog.records] == [f"{record.path}: log.to=trackio: the store"]


@pytest.mark.skipif(not installed("tensorboard"), reason="no extra [tensorboard]")
def test_the_final_figure_is_in_tensorboard_once(cli: Cli, tmp_path: Path) -> None:
    for _ in range(2):
        outcome = cli("train", *SMALL, "log.tensorboard=true")
        assert outcome.code == 0, outcome.err
    record = RunRecord(next((tmp_path / "outputs").rglob("seed-0")))
    assert [image.step for image in _events(record).Images("curves")] == [record.summary["iteration"]]
    assert "tensorboard" not in record.path.parent.name  # it is the same run with and without
    assert cli("train", *SMALL, "--fresh").code == 0
    assert not (record.path / "tensorboard").exists()
    assert cli("train", *SMALL, "log.tensorboard=true").code == 0  # trained without, so from the record alone
    found = _events(record)
    assert [event.step for event in found.Scalars("loss/train")] == [row["iteration"] for row in record.rows()]
    assert "_hparams_/session_start_info" in found.summary_metadata
    assert len(found.Images("curves")) == 1
    assert [path for path in (record.path / "tensorboard").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("setting", "tool"), [*((f"log.to=[{tool}]", tool) for tool in KINDS), ("log.tensorboard=true", "tensorboard")]
)
def test_a_missing_package_is_named_before_anything_is_trained(
    setting: str, tool: str, small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("degrade.extras.installed", lambda _: False)
    experiment = small(setting)
    with pytest.raises(ConfigError, match=rf"{re.escape(setting)} needs {tool}.*pip install '\.\[{tool}\]'"):
        run(experiment)
    assert not run_directory(experiment).exists()


def test_names_of_loggers_are_checked_and_make_no_other_run() -> None:
    with pytest.raises(ConfigError, match=r"^log.to=\[mlflow,wandbb\]: did you mean wandb\? \(one of tensorboard,"):
        compose(["log.to=[mlflow,wandbb]"])
    with pytest.raises(ConfigError, match=r"write a list as \[a,b\]"):
        compose(["log.to=mlflow,wandb"])
    both = compose(["log.to=[mlflow,tensorboard,mlflow]", "log.tensorboard=true"])
    assert both.log.loggers == ["mlflow", "tensorboard"]
    assert compose(["log.tensorboard=true"]).log.loggers == ["tensorboard"]
    assert variant(both) == variant(compose())
    assert Experiment.read({"log": {"tensorboard": True}}).log.loggers == ["tensorboard"]  # an older record
    with pytest.raises(ConfigError, match=r"log.to: .* is no list of names"):
        Experiment.read({"log": {"to": "mlflow"}})


@pytest.mark.parametrize("mode", [None, "online"])
def test_wandb_is_online_only_where_its_own_environment_says_so(
    mode: str | None, trained: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for wandb: online, its server says how far the run is."""
    from types import SimpleNamespace

    asked: dict[str, Any] = {}
    logged: list[int] = []

    def init(**how: Any) -> SimpleNamespace:
        asked.update(how)
        log = lambda row, step, commit: logged.append(step)  # noqa: E731
        return SimpleNamespace(starting_step=2 if mode else 0, log=log, summary={}, finish=lambda exit_code: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    record = trained("recipe.iterations=3", "log.every=1")
    log_finished(record.path, compose(["log.to=[wandb]", "name=mine"]), record.metrics())
    assert asked["mode"] == (None if mode else "offline")  # None: as the environment says
    assert (asked["project"], asked["resume"]) == ("mine", "allow")
    assert logged == ([2, 3] if mode else [1, 2, 3])
