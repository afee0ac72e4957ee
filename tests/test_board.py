from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from degrade.config import Experiment
from degrade.errors import ConfigError
from degrade.extras import installed
from degrade.runs import RunRecord, run, run_directory
from tests.conftest import SMALL, Outcome

Make = Callable[..., Experiment]

needs_tensorboard = pytest.mark.skipif(not installed("tensorboard"), reason="no extra [tensorboard]")


def events(record: RunRecord) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(record.path / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


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
    assert [path for path in (record.path / "tensorboard").iterdir() if path.is_dir()] == []


def test_a_missing_package_is_named_before_anything_is_trained(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("degrade.extras.installed", lambda _: False)
    experiment = small("log.tensorboard=true")
    with pytest.raises(ConfigError, match=r"log.tensorboard=true needs tensorboard.*pip install '\.\[tensorboard\]'"):
        run(experiment)
    assert not run_directory(experiment).exists()
