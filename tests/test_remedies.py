"""`degrade reproduce remedies`: its networks, and its figure and table from records alone."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest

from degrade.analysis import error_curves
from degrade.analysis.layers import GROWTH, Along, over_seeds, summaries
from degrade.cli.options import networks_of
from degrade.config import Experiment, ModelConfig, OptimConfig, Variant, network_matrix, variants
from degrade.probes.probe import Row, numbers_path, read, write
from degrade.probes.remedies import draw_remedies, remedy, remedy_fields, remedy_table, treated
from degrade.runs import RunRecord
from tests.conftest import SMALL, Cli
from tests.records import finished

UNSIZED = [word for word in SMALL if not word.startswith("model.")]
NAMED = "name=remedies"
NEW = ("gradient_correlation", "dead")


def layers(snapshot: int, growth: float = 1.0, relative: float = 0.1, correlation: float = 0.5) -> list[Row]:
    """Seven convolutions and the logits, of which the second convolution grows most and the logits more still."""
    rows: list[Row] = []
    for layer in range(1, 9):
        name = "linear" if layer == 8 else f"conv{layer}"
        norm = 2.0 * {2: growth, 8: 100 * growth}.get(layer, 1.0)
        row: Row = {"snapshot": snapshot, "layer": layer, "name": name, "weight_gradient": norm * relative}
        row |= {"relative_gradient": relative * {1: 10, 3: 0.1, 8: 1e6}.get(layer, 1), "weight_norm": norm}
        row |= {"response_gradient": 1.0, "response_std": 1.0, "gradient_correlation": correlation}
        dead = math.nan if layer == 8 else 0.25 if layer == 7 else 0.0
        rows.append({**row, "dead": dead, "count": 20, "iteration": 64000, "images": 20})
    return rows


def made(root: Path, network: str, seed: int, error: float, growth: float, *settings: str) -> RunRecord:
    """A finished run whose clean training error and growth are known."""
    record = finished(root, network, seed, error, error + 0.1, NAMED, *settings)
    write(
        numbers_path(record, "gradients"), [*layers(0), *layers(10, 3 * growth), *layers(64000, growth, 0.01, 0.25)]
    )
    return record


@pytest.fixture
def records(tmp_path: Path) -> list[RunRecord]:
    root = tmp_path / "outputs"
    return [
        made(root, "plain-56", 0, 0.20, 8),
        made(root, "plain-56", 1, 0.30, 16),
        made(root, "plain-56", 0, 0.15, 1, "optim.clip=1"),
        made(root, "plain-56", 1, 0.21, 2, "optim.clip=1"),
        made(root, "plain-56", 2, 0.90, 2, "optim.clip=1"),
        made(root, "residual-56", 0, 0.10, 2, "model.zero_init=true"),
    ]


def test_every_network_is_trained_under_every_remedy_that_it_can_have() -> None:
    matrix = network_matrix("remedies")
    names = [variant.name for variant in variants("remedies")]
    assert names[0] == "none"
    assert len(matrix) == 3 * len(names) - 2  # blocks of a plain network cannot begin as their shortcut
    assert [words[:2] for words in matrix if "model.zero_init=true" in words] == [
        ["model=residual", "model.depth=56"]
    ]
    experiments = networks_of("remedies", ["recipe=smoke"])
    assert len({repr(own) for own in experiments}) == len(matrix)
    assert all(own.name == "remedies" and own.checkpoint.snapshots for own in experiments)
    assert variants("story") == []


def test_settings_have_the_name_of_their_remedy() -> None:
    known = [Variant("none", (), ()), Variant("both", ("optim.clip=1", "model.init=dirac"), ())]
    assert known[1].changes == {"optim.clip": 1, "model.init": "dirac"}
    assert remedy(Experiment(optim=OptimConfig(lr=7.0)), known) == "none"
    both = Experiment(optim=OptimConfig(clip=1.0), model=ModelConfig(init="dirac"))
    assert remedy(both, known) == "both"
    both.optim.clip = 2.0
    assert remedy(both, known) == "model.init=dirac, optim.clip=2.0"


def test_a_run_comes_to_its_greatest_layer_and_to_the_mean_of_its_first() -> None:
    found = summaries([*layers(0), *layers(5, 4.0, 0.01, 0.25)])
    assert found.iterations == [0, 5]
    assert found.values["weight_growth"] == pytest.approx([1, 4])
    assert found.values["relative_gradient"] == pytest.approx([0.1, 0.01])  # of 10, 1 and 0.1 times as much
    assert found.values["gradient_correlation"] == pytest.approx([0.5, 0.25])
    assert found.values["dead"] == pytest.approx([0.25 / 7] * 2)
    none = summaries([{**row, "relative_gradient": 0.0} for row in layers(0)])
    assert none.values["relative_gradient"] == [0]
    beyond = summaries([{**row, "relative_gradient": math.inf} for row in layers(0)])
    assert math.isnan(beyond.values["relative_gradient"][0])


def test_a_point_on_fewer_seeds_than_a_later_one_is_left_out() -> None:
    whole = Along([0, 10, 100], {GROWTH: [1.0, 2.0, 3.0]}, "")
    stopped = Along([0, 10, 40], {GROWTH: [1.0, 4.0, 5.0]}, "")
    assert over_seeds([whole, whole, stopped], GROWTH)[0] == [0, 10, 100]


def test_the_table_pairs_the_seeds_and_fits_in_80_columns(records: list[RunRecord]) -> None:
    networks = treated(error_curves(records))
    first, second, third = remedy_fields(networks)
    assert (first["network"], first["remedy"], second["remedy"]) == ("plain-56", "none", "clipping")
    assert (first["growth_end"], first["growth_greatest"]) == pytest.approx((12, 36))
    assert first["clean_change_mean"] is None
    assert second["clean_change_mean"] == pytest.approx(
        -0.07
    )  # -0.05 and -0.09: seed 2 has no other to be paired with
    assert (second["clean_change_least"], second["clean_change_greatest"]) == pytest.approx((-0.09, -0.05))
    assert (second["clean_mean"], second["seeds"], second["finished"]) == (pytest.approx(0.42), 3, 3)
    assert third["clean_change_mean"] is None  # there is no residual-56 without a remedy
    text = remedy_table(networks)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "clipping                    42.0  -7.0±2.8   52.0       2  1e-02  0.25    3.6" in text
    assert "plain-56, 2/3 seeds\nnone" in text
    markdown = remedy_table(networks, form="markdown").splitlines()
    assert "| -7.00 (-9.00..-5.00) |" in markdown[3]
    assert len({line.count("|") for line in markdown[:5]}) == 1
    rows = list(csv.DictReader(io.StringIO(remedy_table(networks, form="csv"))))
    assert [row["remedy"] for row in rows] == ["none", "clipping", "blocks begin as shortcut"]
    assert float(rows[0]["relative_start"]) == pytest.approx(0.1)


def test_the_figure_has_a_column_a_network_and_a_colour_a_remedy(records: list[RunRecord]) -> None:
    figure = draw_remedies(treated(error_curves(records)), title="remedies")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["plain-56", "residual-56", "", "", "", ""]
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["none", "clipping", "blocks begin as shortcut"]
    colours = {line.get_label(): line.get_color() for line in legend.get_lines()}
    for panel in figure.axes[::2]:
        assert [line.get_color() for line in panel.get_lines()] == [colours["none"], colours["clipping"]]
    grown = figure.axes[2].get_lines()[0]
    assert np.asarray(grown.get_xdata()).tolist() == [0, 10, 64000]
    assert np.asarray(grown.get_ydata()) == pytest.approx([1, 36, 12])
    below = " ".join(figure.get_supxlabel().split())
    assert "clipping: greatest norm of the gradient 1 (paper none)" in below
    assert "the first 20 training images" in below


def test_a_remedy_of_other_settings_and_networks_that_differ_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    records = [
        made(root, "plain-20", 0, 0.2, 8, "optim.weight_decay=0.002"),
        made(root, "plain-20", 0, 0.2, 8, "optim.lr=0.05"),
        finished(root, "plain-56", 0, 0.2, 0.3, NAMED),
    ]
    told: list[str] = []
    networks = treated(error_curves(records), complain=told.append)
    assert [(own.network, own.remedy) for own in networks] == [
        ("plain-20, optim.lr=0.05", "none"),
        ("plain-20, optim.lr=0.1", "optim.weight_decay=0.002"),
        ("plain-56", "none"),
    ]
    assert len(told) == 1  # neither a checkpoint nor numbers
    assert "plain-56" in told[0]
    assert remedy_fields(networks)[-1]["growth_end"] is None
    assert "optim.weight_decay=0.002" in remedy_table(networks)
    draw_remedies(networks)


def test_one_command_trains_measures_and_draws_and_records_alone_draw_the_same(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["model=plain", "model.depth=8", NAMED, "checkpoint.snapshots=3"]
    monkeypatch.setattr("degrade.config.network_matrix", lambda _: [common, [*common, "optim.clip=1"]])
    command = ["reproduce", "remedies", *UNSIZED, "recipe.iterations=3", "log.every=1"]
    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "outputs/remedies"
    assert (folder / "remedies.png").stat().st_size > 10_000
    assert (folder / "report.html").is_file()
    table = outcome.out[outcome.out.index("errors: mean of the seeds") : outcome.out.index("figure:")]
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "\nclipping " in table
    for path in [*folder.rglob("*.pt")]:
        path.unlink()
    again = cli("plot", str(folder), "--style", "remedies", "--title", "remedies, recipe smoke", "-o", "again.png")
    assert again.out.strip() == f"{table.strip()}\nfigure: again.png"
    assert (tmp_path / "again.png").read_bytes() == (folder / "remedies.png").read_bytes()
    for path in folder.rglob("gradients.csv"):
        write(path, [{key: value for key, value in row.items() if key not in NEW} for row in read(path)])
    old = cli(*command, "--format", "csv")
    assert old.code == 0, old.err
    rows = list(csv.DictReader(io.StringIO(old.out)))
    assert [row["dead_end"] for row in rows] == ["", ""]
    assert all(float(row["growth_greatest"]) >= 1 for row in rows)


def test_what_makes_the_remedies_is_not_the_users_to_set(cli: Cli) -> None:
    outcome = cli("reproduce", "remedies", "optim.clip=2")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "optim.clip=2: the experiment sets it" in outcome.err
