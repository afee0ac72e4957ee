from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from degrade.config import Experiment
from degrade.errors import ConfigError, RunInterrupted
from degrade.extras import installed
from degrade.runs import RunRecord, run, run_directory
from degrade.training import engine
from tests.conftest import SMALL, Outcome

Make = Callable[..., Experiment]

needs_tensorboard = pytest.mark.skipif(not installed("tensorboard"), reason="no extra [tensorboard]")


def events(record: RunRecord) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(record.path / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


@needs_tensorboard
def test_interrupted_and_resumed_each_step_is_there_once(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small("log.tensorboard=true", "log.every=2", "checkpoint.every=5")
    record = RunRecord(run_directory(experiment))
    train, steps = engine.Engine.train, Counter[str]()

    def stopping(self: engine.Engine, *arguments: Any) -> None:
        steps["made"] += 1
        if steps["made"] == 7:
            raise RunInterrupted
        train(self, *arguments)

    monkeypatch.setattr(engine.Engine, "train", stopping)
    with pytest.raises(RunInterrupted):
        run(experiment)
    assert run(experiment).status == "complete"
    found = events(record)
    rows = record.rows()
    assert [event.step for event in found.Scalars("loss/train")] == [row["iteration"] for row in rows]
    tags = (
        *(("error/train", "train_error"), ("error/train_batch", "train_error_batch")),
        *(("error/test", "test_error"), ("lr", "lr")),
    )
    for tag, key in tags:
        expected = [row[key] for row in rows if row[key] is not None]
        assert [event.value for event in found.Scalars(tag)] == pytest.approx(expected)
    assert "_hparams_/session_start_info" in found.summary_metadata
    assert [path for path in (record.path / "tensorboard").iterdir() if path.is_dir()] == []


@needs_tensorboard
def test_the_final_figure_is_there_once(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    for _ in range(2):
        outcome = cli("train", *SMALL, "log.tensorboard=true")
        assert outcome.code == 0, outcome.err
    record = RunRecord(next((tmp_path / "outputs").rglob("seed-0")))
    assert [image.step for image in events(record).Images("curves")] == [record.summary["iteration"]]
    assert "tensorboard" not in record.path.parent.name  # it is the same run with and without
    assert cli("train", *SMALL, "--fresh").code == 0
    assert not (record.path / "tensorboard").exists()
    assert cli("train", *SMALL, "log.tensorboard=true").code == 0  # trained without, so from the record alone
    found = events(record)
    assert [event.step for event in found.Scalars("loss/train")] == [row["iteration"] for row in record.rows()]
    assert "_hparams_/session_start_info" in found.summary_metadata
    assert len(found.Images("curves")) == 1


def test_a_missing_package_is_named_before_anything_is_trained(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("degrade.extras.installed", lambda _: False)
    experiment = small("log.tensorboard=true")
    with pytest.raises(ConfigError, match=r"log.tensorboard=true needs tensorboard.*pip install '\.\[tensorboard\]'"):
        run(experiment)
    assert not run_directory(experiment).exists()
