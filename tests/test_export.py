import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from degrade.analysis import frame
from degrade.analysis.export import measurements
from degrade.data import load_images
from degrade.errors import ConfigError, RunError
from degrade.extras import installed
from degrade.probes.responses import responses
from degrade.runs import RunRecord, run
from degrade.runs.evaluation import restored
from degrade.runs.weights import keep
from tests.conftest import SMALL, Cli, Make
from tests.records import finished, story
from tests.test_runs import interrupted_copy

needs_pyarrow = pytest.mark.skipif(not installed("pyarrow"), reason="no extra [parquet]")


def test_the_table_is_long_with_one_row_per_measurement(cli: Cli, tmp_path: Path) -> None:
    story(tmp_path / "outputs", {"plain-20": ([9.0, 8.0], [10.0, 11.0])})
    outcome = cli("export")
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert outcome.code == 0
    assert len(rows) == 2 * (2 * 7 + 1)  # seven quantities in each of two rows, and the clean error at the end
    assert set(rows[0].values()) >= {"paper", "plain-20", "plain", "20", "0", "complete", "false"}
    found = {(row["seed"], row["iteration"], row["quantity"]): float(row["value"]) for row in rows}
    assert found["1", "64000", "test_error"] == 0.11
    assert found["0", "64000", "train_error_clean"] == 0.09
    assert "train_error_clean" not in {row["quantity"] for row in rows if row["iteration"] != "64000"}


def test_all_formats_hold_the_same(cli: Cli, tmp_path: Path) -> None:
    story(tmp_path / "outputs", {"plain-20": ([9.0], [10.0]), "residual-20": ([8.0], [9.0])})
    by_csv = list(csv.DictReader(io.StringIO(cli("export", "outputs").out)))
    as_json = json.loads(cli("export", "outputs", "--format", "json").out)
    assert as_json["schema_version"] == 1
    assert [str(row["value"]) for row in as_json["measurements"]] == [row["value"] for row in by_csv]
    assert as_json["measurements"][0]["synthetic"] is False
    assert cli("export", "--output", "deep/table.json").out == "table: deep/table.json\n"
    assert json.loads((tmp_path / "deep/table.json").read_text()) == as_json


@needs_pyarrow
def test_parquet_is_typed_and_written_by_its_suffix(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    monkeypatch.setattr("degrade.analysis.export._GROUP", 4)
    story(tmp_path / "outputs", {"plain-20": ([9.0], [10.0])})
    assert cli("export", "--output", "table.parquet").code == 0
    table = parquet.read_table(tmp_path / "table.parquet")
    assert str(table.schema.field("seed").type) == "int64"
    assert table.schema.metadata[b"schema_version"] == b"1"
    by_csv = list(csv.DictReader(io.StringIO(cli("export").out)))
    assert [repr(row["value"]) for row in table.to_pylist()] == [row["value"] for row in by_csv]


def test_what_is_not_finite_or_damaged_is_left_out(cli: Cli, tmp_path: Path) -> None:
    record = finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2, status="diverged")
    lines = (record.path / "metrics.jsonl").read_text().splitlines()
    (record.path / "metrics.jsonl").write_text(lines[0].replace("0.1,", "NaN,") + "\nbroken\n")
    rows = list(csv.DictReader(io.StringIO(cli("export").out)))
    assert {row["status"] for row in rows} == {"diverged"}
    assert "lr" not in {row["quantity"] for row in rows}


def test_lost_measurements_are_named(cli: Cli, tmp_path: Path) -> None:
    record = finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2)
    assert cli("export").err == ""
    metrics = record.path / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + "broken\n")
    assert cli("export").err.endswith("metrics.jsonl: 1 of 3 lines cannot be read, and are left out\n")
    metrics.write_text(whole.splitlines()[0] + "\n")
    assert "ends at iteration 32,000, though the run went on to 64,000\n" in cli("export").err
    metrics.write_text(whole)
    (record.path / "summary.json").write_text("{")
    assert cli("export").err.endswith("summary.json: missing or damaged; taken for interrupted\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "xlsx"],
        ["--output", "table.xlsx"],
        ["--format", "parquet"],
        ["nowhere"],
        ["--weights"],
        ["--weights", "outputs", "--format", "csv"],
        ["--weights", "outputs"],
        ["--output", "file/table.csv"],
        ["--format", "json", "--output", "table.csv"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line(arguments: list[str], cli: Cli, tmp_path: Path) -> None:
    finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2)
    (tmp_path / "file").write_text("")
    outcome = cli("export", *arguments)
    assert (outcome.code, outcome.err.count("\n"), outcome.err[:9]) == (2, 1, "degrade: "), outcome.err


def test_a_missing_package_says_what_installs_it(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2)
    monkeypatch.setattr("degrade.extras.installed", lambda _: False)
    outcome = cli("export", "--output", "t.parquet")
    assert outcome.code == 2
    assert "pip install pyarrow, or pip install '.[" in outcome.err


def test_the_frame_is_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = story(tmp_path, {"plain-20": ((1.0, 2.0), (8.0, 9.0))})

    class Pandas:
        @staticmethod
        def DataFrame(rows: Iterable[Any], columns: list[str]) -> list[dict[str, Any]]:  # noqa: N802 - pandas' name
            return [dict(zip(columns, row, strict=True)) for row in rows]

    monkeypatch.setitem(sys.modules, "pandas", Pandas)
    monkeypatch.setattr("degrade.extras.installed", lambda _: True)
    found: Any = frame(records)
    assert [tuple(row.values()) for row in found] == list(measurements(records))
    assert {(row["network"], row["seed"], row["status"]) for row in found} == {
        ("plain-20", 0, "complete"),
        ("plain-20", 1, "complete"),
    }
    monkeypatch.setattr("degrade.extras.installed", lambda _: False)
    with pytest.raises(ConfigError, match=r"degrade\.analysis\.frame needs pandas.*pip install '\.\[pandas\]'"):
        frame(records)


#: The documentation's, which knows nothing of degrade.
PAGE = Path(__file__).parents[1] / "docs" / "howto" / "export.md"
SCRIPT = PAGE.read_text().split("<!-- weights -->\n```python\n")[1].split("```")[0]

SCORE = """
assert "degrade" not in sys.modules
images = torch.load(sys.argv[2])
with torch.no_grad():
    torch.save(model(images.float() / 255 - mean), sys.argv[3])
"""


def test_weights_score_the_same_logits_in_a_plain_script(
    trained: Callable[..., RunRecord], cli: Cli, tmp_path: Path
) -> None:
    from safetensors import safe_open

    record = trained("model=residual", "recipe.iterations=4")
    experiment = record.experiment
    outcome = cli("export", "--weights", str(record.path))
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith(f"weights: {record.path}/weights.safetensors\n")
    with safe_open(record.path / "weights.safetensors", "pt") as file:
        facts = file.metadata()
    expected = {"family": "residual", "depth": "8", "shortcut": "A", "classes": "10", "iteration": "4", "seed": "0"}
    assert expected.items() <= facts.items()
    assert float(facts["test_error"]) == record.summary["test_error"]
    assert facts["data_hash"] == record.environment["data_hash"]

    images = load_images(experiment.data)
    training = restored(record, experiment, images)
    model = training.engine.model.eval()
    with torch.no_grad():
        ours = model(images.test_images.float() / 255 - images.mean)
    torch.save(images.test_images, tmp_path / "images.pt")
    command = [sys.executable, "-c", SCRIPT + SCORE, f"{record.path}/weights.safetensors", "images.pt", "logits.pt"]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), ours, rtol=1e-4, atol=1e-5)


def test_where_no_checkpoint_is_left_exported_weights_stand_for_it(
    trained: Callable[..., RunRecord], cli: Cli, tmp_path: Path
) -> None:
    record = trained("recipe.iterations=4")
    commands = (["evaluate"], ["evaluate", "--statistics", "batch"], ["export", "--weights"])
    assert cli("export", "--weights", str(record.path)).code == 0
    file = record.path / "weights.safetensors"
    content = file.read_bytes()
    before = [cli(*command, str(record.path)).out for command in commands]
    for path in record.path.glob("checkpoint*"):
        path.unlink()
    assert [cli(*command, str(record.path)).out for command in commands] == before
    assert file.read_bytes() == content
    file.write_bytes(content[:-1])
    damaged = cli("evaluate", str(record.path))
    assert (damaged.code, damaged.err.count("\n")) == (2, 1)
    assert "has no usable checkpoint" in damaged.err
    assert f"{file}: is damaged, and is not used" in damaged.out
    (record.path / "checkpoint.pt").write_bytes(b"damaged too")
    file.write_bytes(content)
    assert before[0] in cli("evaluate", str(record.path)).out


def test_weights_from_before_the_run_went_on_do_not_stand_for_it(cli: Cli, small: Make, tmp_path: Path) -> None:
    record = interrupted_copy(small, at=6)
    assert cli("export", "--weights", str(record.path)).code == 0
    kept = responses(record)
    run(small())
    for path in record.path.glob("checkpoint*"):
        path.unlink()
    refused = cli("evaluate", str(record.path))
    assert refused.code == 2
    assert "weights.safetensors: is of iteration 6, and the run's last is 24; it is not used" in refused.out
    assert responses(record) == kept  # what there is
    with pytest.raises(RunError, match="no usable checkpoint"):
        keep(record, tmp_path / "networks")


def test_weights_without_a_checkpoint_are_refused(
    trained: Callable[..., RunRecord], cli: Cli, tmp_path: Path
) -> None:
    record = trained()
    for path in record.path.glob("checkpoint*"):
        path.unlink()
    outcome = cli("export", "--weights", str(record.path), "--output", "w.safetensors")
    assert outcome.code == 2
    assert "no usable checkpoint" in outcome.err
    assert "diverged" not in outcome.err
    assert not (tmp_path / "w.safetensors").exists()


def test_weights_of_a_diverged_run_say_so(cli: Cli, tmp_path: Path) -> None:
    from safetensors import safe_open

    assert cli("train", *SMALL, "optim.lr=1e12", "model.norm=none").code == 1
    record = RunRecord(next((tmp_path / "outputs").rglob("seed-0")))
    outcome = cli("export", "--weights", str(record.path))
    assert outcome.code == 0
    assert "iteration 12 (diverged at iteration 12, synthetic data)\n" in outcome.out
    with safe_open(record.path / "weights.safetensors", "pt") as file:
        assert file.metadata()["remark"] == "diverged at iteration 12"
    for path in record.path.glob("checkpoint*"):
        path.unlink()
    assert "iteration 12 (diverged at iteration 12, synthetic data)\n" in cli("evaluate", str(record.path)).out
    (record.path / "weights.safetensors").unlink()
    for arguments in (["export", "--weights"], ["evaluate"]):
        refused = cli(*arguments, str(record.path))
        assert refused.code == 2
        assert "diverged at iteration 12, and has no usable checkpoint" in refused.err
        assert refused.err.count("\n") == 1


def test_the_batch_statistics_error_is_in_the_table(trained: Callable[..., RunRecord], cli: Cli) -> None:
    trained()
    rows = list(csv.DictReader(io.StringIO(cli("export").out)))
    assert [row["iteration"] for row in rows if row["quantity"] == "train_error_batch"] == ["24"]
