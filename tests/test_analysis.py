import csv
import io
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from degrade.analysis import (
    departures,
    draw,
    draw_figure1,
    draw_figure6,
    error_curves,
    error_table,
    paper_error,
    runs_table,
    verdicts,
)
from degrade.analysis.facts import footer
from degrade.analysis.figures import balanced, save
from degrade.config import compose
from degrade.config.identity import follows_paper, open_choices
from degrade.errors import ConfigError, RunError
from degrade.runs import RunRecord, find_records, run_directory
from tests.records import finished


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def record(root: Path, errors: Sequence[float], *overrides: str, status: str = "complete") -> RunRecord:
    """A record as training leaves it: these test errors every 1000 iterations, half of each in training."""
    experiment = compose([*overrides, f"output={root}"])
    made = RunRecord(run_directory(experiment))
    made.path.mkdir(parents=True)
    (made.path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(experiment))))
    rows: list[dict[str, Any]] = []
    for k, error in enumerate(errors, start=1):
        row = {"iteration": 1000 * k, "train_error": error / 2, "test_error": error, "train_error_clean": None}
        rows.append(row)
    if status == "complete":
        rows[-1]["train_error_clean"] = errors[-1] / 4
    (made.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made.summarise(status=status, iteration=1000 * len(errors), iterations=experiment.recipe.iterations)
    return made


def test_mean_and_band_over_seeds_are_aligned_by_iteration(tmp_path: Path) -> None:
    runs = [record(tmp_path, e, f"seed={s}") for s, e in enumerate([[0.5, 0.3, 0.2], [0.7, 0.5], [0.6, 0.4, 0.4]])]
    (curve,) = error_curves(runs)
    assert curve.test.iteration.tolist() == [1000, 2000, 3000]
    np.testing.assert_allclose(curve.test.mean, [0.6, 0.4, 0.3])
    np.testing.assert_allclose(curve.train.mean, [0.3, 0.2, 0.15])
    assert curve.test.seeds.tolist() == [3, 3, 2]
    np.testing.assert_allclose(curve.test.high - curve.test.mean, [0.1, 0.1, float(np.std([0.2, 0.4], ddof=1))])
    assert curve.seeds == {0: "complete", 1: "complete", 2: "complete"}


def test_curves_are_told_apart_by_what_they_do_not_share(tmp_path: Path) -> None:
    runs = [
        record(tmp_path, [0.5], "data=synthetic"),
        record(tmp_path, [0.4], "data=synthetic", "model=residual"),
        record(tmp_path, [0.4], "data=synthetic", "optim.lr=0.05"),
    ]
    assert [c.label for c in error_curves(runs)] == ["plain-20", "plain-20, optim.lr=0.05", "residual-20"]
    pair = [record(tmp_path, [0.5], "name=m", f"recipe.milestones=[10,{k}]") for k in (20, 30)]
    assert [c.label for c in error_curves(pair)] == [f"plain-20, recipe.milestones=[10,{k}]" for k in (20, 30)]
    both = [record(tmp_path, [0.5], f"name={name}", "seed=9") for name in ("a", "b")]
    assert [c.label for c in error_curves(both)] == ["plain-20, a", "plain-20, b"]
    assert footer(error_curves(pair)).count("paper 32k/48k") == 2


def lines(axes: Any) -> dict[str, list[float]]:
    return {
        line.get_label(): list(line.get_ydata()) for line in axes.get_lines() if not line.get_label().startswith("_")
    }


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        finished(tmp_path / name, "plain-20", 0, 0.1, 0.2)
    labels = [curve.label for curve in error_curves(find_records([tmp_path]))]
    assert labels == ["plain-20, mine/paper", "plain-20, theirs/paper"]


def test_two_records_of_one_seed_are_no_two_seeds(tmp_path: Path) -> None:
    record = finished(tmp_path, "plain-20", 0, 0.1, 0.2)
    shutil.copytree(record.path, record.path.with_name("seed-0-backup"))
    with pytest.raises(RunError, match="seed-0-backup: both are of seed 0; move one of them away"):
        error_curves(find_records([tmp_path]))
    shutil.rmtree(record.path.with_name("seed-0-backup"))
    shutil.copytree(record.path.parent, record.path.parent.with_name("plain-20 (copy)"))
    with pytest.raises(RunError, match="both are of seed 0; move one of them away"):
        error_curves(find_records([tmp_path]))


def test_a_record_without_its_settings_is_named(tmp_path: Path) -> None:
    record = finished(tmp_path, "plain-20", 0, 0.1, 0.2)
    (record.path / "config.yaml").unlink()
    with pytest.raises(RunError, match=r"config\.yaml"):
        error_curves(find_records([tmp_path]))


def test_seeds_of_other_settings_in_one_folder_are_curves_of_their_own(tmp_path: Path) -> None:
    finished(tmp_path, "plain-20", 0, 0.1, 0.2)
    record = finished(tmp_path, "plain-20", 1, 0.3, 0.4)
    config = record.path / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 128", "batch_size: 64"))
    curves = error_curves(find_records([tmp_path]))
    assert [(curve.label, list(curve.seeds)) for curve in curves] == [
        ("plain-20, recipe.batch_size=128", [0]),
        ("plain-20, recipe.batch_size=64", [1]),
    ]


def test_recipes_are_lines_of_their_own_against_depth(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        for network in ("plain-20", "plain-56"):
            finished(tmp_path, network, 0, 0.1, 0.2, f"name={folder}")
    figure = draw(error_curves(find_records([tmp_path])), style="depth")
    assert [line.get_label() for line in figure.axes[0].lines[:2]] == ["plain, one", "plain, two"]
    with pytest.raises(RunError, match="no run is finished"):
        draw([], style="depth")


def test_figure_1_has_training_error_left_and_test_error_right(tmp_path: Path) -> None:
    runs = [record(tmp_path, [0.5, 0.1]), record(tmp_path, [0.6, 0.2], "model.depth=56")]
    left, right = draw_figure1(error_curves(runs)).axes
    assert lines(left) == {"plain-20": [25, 5], "plain-56": [30, 10]}
    assert lines(right) == {"plain-20": [50, 10], "plain-56": [60, 20]}
    assert left.get_lines()[0].get_xdata().tolist() == [1000, 2000]  # type: ignore[union-attr]
    assert (left.get_ylabel(), right.get_ylabel()) == ("running training error (%)", "test error (%)")


@pytest.mark.parametrize(
    ("rows", "label", "ticks"), [(4, "iterations", {"2,000", "4,000"}), (32, "iterations (1e4)", {"1", "3"})]
)
def test_iterations_are_plain_numbers_where_they_are_few(
    rows: int, label: str, ticks: set[str], tmp_path: Path
) -> None:
    figure = draw_figure1(error_curves([record(tmp_path, [0.5] * rows, "recipe=short")]))
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.get_xlabel() == label
        assert ticks <= {text.get_text() for text in axes.get_xticklabels()}


@pytest.mark.parametrize("recipe", ["paper", "short"])
@pytest.mark.parametrize("last", [0.1, 0.19, 0.5])
def test_every_curve_is_seen_from_its_first_point(recipe: str, last: float, tmp_path: Path) -> None:
    """But where the recipe is the paper's in full, and all curves come down into its axis."""
    runs = [
        record(tmp_path, errors, f"recipe={recipe}", f"model.depth={d}")
        for d, errors in ((20, [0.5, 0.1]), (56, [0.9, last]))
    ]
    for style in ("figure1", "figure6"):
        figure = draw(error_curves(runs), style=style)
        papers = recipe == "paper" and last == 0.1
        assert [axes.get_ylim() for axes in figure.axes] == [(0, 20 if papers else pytest.approx(92.7))] * len(
            figure.axes
        )
        said = "axis as in the paper, 0 to 20 %: the curves begin above it"
        assert (said in figure.get_supxlabel()) == papers


@pytest.mark.parametrize("style", ["figure1", "figure6"])
def test_the_clean_training_error_ends_the_training_curve(style: str, tmp_path: Path) -> None:
    runs = [record(tmp_path, [0.4, e], f"seed={s}") for s, e in enumerate([0.2, 0.4])]
    runs.append(record(tmp_path, [0.6, 0.5], "model.depth=56", status="interrupted"))
    figure = draw(error_curves(runs), style=style)
    (mark,) = (line for line in figure.axes[0].get_lines() if line.get_marker() == "D")
    assert np.asarray(mark.get_xdata()).tolist() == [2000]
    assert np.asarray(mark.get_ydata()).tolist() == pytest.approx([7.5])
    assert mark.get_color() == figure.axes[0].get_lines()[0].get_color()
    assert "clean training error, last iterate" in kinds(figure)
    assert ("running training error" in kinds(figure)) == (style == "figure6")
    unfinished = draw(error_curves(runs[2:]), style=style)
    assert "clean training error, last iterate" not in kinds(unfinished)


def kinds(figure: Figure) -> list[str]:
    """What the legend above the panels names."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_legends_are_within_the_figure_and_above_the_panels(tmp_path: Path) -> None:
    runs = [record(tmp_path, [0.2, 0.1], f"model={family}") for family in ("plain", "residual")]
    curves = error_curves(runs)
    for own in (curves, curves[:1]):
        for style, title in (("figure1", None), ("figure6", "two lines " * 20), ("figure6", None)):
            figure = draw(own, style=style, title=title)
            figure.draw_without_rendering()
            box = figure.legends[0].get_window_extent()
            panels = [axes.get_tightbbox() for axes in figure.axes]
            assert all(panel is not None and box.y0 >= panel.y1 for panel in panels)
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
            above = figure.bbox.y1 if title is None else figure._suptitle.get_window_extent().y0  # type: ignore[attr-defined]
            assert box.y1 <= above


def test_figure_6_has_a_panel_a_family_dashed_training_and_bold_test(tmp_path: Path) -> None:
    runs = [record(tmp_path, [0.5, 0.1]), record(tmp_path, [0.4, 0.05], "model=residual")]
    figure = draw(error_curves(runs))
    assert [axes.get_title() for axes in figure.axes] == ["plain networks", "residual networks"]
    for axes, test in zip(figure.axes, ([50, 10], [40, 5]), strict=True):
        train_line, test_line = axes.get_lines()[:2]
        assert train_line.get_linestyle() == "--"
        assert test_line.get_linewidth() > train_line.get_linewidth()
        assert np.asarray(test_line.get_ydata()).tolist() == test
        assert train_line.get_color() == test_line.get_color()


def marks(axes: Any) -> list[float]:
    return [line.get_ydata()[0] for line in axes.get_lines() if line.get_linestyle() == ":"]


def test_the_papers_errors_are_marked_only_where_the_recipe_is_the_papers(tmp_path: Path) -> None:
    papers = error_curves([record(tmp_path, [0.2], "model.depth=56")])
    left, right = draw_figure1(papers).axes
    assert marks(left) == pytest.approx([5.8])
    assert marks(right) == pytest.approx([13.3])
    assert "the paper's final error (its training error looks like running)" in kinds(draw_figure1(papers))
    assert marks(draw_figure6(papers).axes[0]) == pytest.approx([13.3])
    assert "the paper's final test error" in kinds(draw_figure6(papers))
    for change in ("recipe=quick", "optim.lr=0.05", "data=synthetic", "data.train_limit=100"):
        curves = error_curves([record(tmp_path, [0.2], "model.depth=56", "name=other", change)])
        assert all(marks(axes) == [] for axes in draw_figure1(curves).axes)


def test_unfinished_and_diverged_runs_are_drawn_and_marked(tmp_path: Path) -> None:
    runs = [
        record(tmp_path, [0.5, 0.4], status="interrupted"),
        record(tmp_path, [0.9], "model.depth=56", status="diverged"),
    ]
    left, _ = draw_figure1(error_curves(runs)).axes
    assert list(lines(left)) == ["plain-20 [interrupted]", "plain-56 [diverged]"]
    assert {line.get_marker() for line in left.get_lines()} >= {"o", "x"}
    assert error_table(error_curves(runs)).endswith("plain-20: interrupted\nplain-56: diverged")


@pytest.mark.parametrize("style", ["figure1", "figure6", "depth"])
@pytest.mark.parametrize("tested", [0, 2])
def test_a_run_without_a_test_error_yet_is_drawn_beside_others(style: str, tested: int, tmp_path: Path) -> None:
    begun = record(tmp_path, [0.5, 0.4, 0.3], "model=residual", status="running")
    rows = [row | {"test_error": None} for row in begun.rows()[:tested]]
    (begun.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = error_curves([record(tmp_path, [0.5, 0.3]), begun])
    save(draw(curves, style=style), tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size > 10_000


def test_names_are_no_mathematics_and_no_title_is_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("degrade"), "propagate", True)
    runs = [record(tmp_path, [0.2], f"name={name}") for name in ("one", "two")]
    odd = tmp_path / "a$\\frac{1$b\udcff"
    (tmp_path / "one").rename(odd)
    runs[0] = RunRecord(odd / runs[0].path.relative_to(tmp_path / "one"))
    figure = draw(error_curves(runs), title="word " * 80)
    save(figure, tmp_path / "figure.png")
    assert figure.get_suptitle().count("\n") > 3
    assert not caplog.records
    save(draw(error_curves(runs), title="\u65e5"), tmp_path / "figure.png")
    assert "lacks some letters" in caplog.text


def test_a_built_network_is_told_apart_and_not_set_beside_the_papers(tmp_path: Path) -> None:
    built = record(tmp_path, [0.2], "model.depth=56")
    config = built.path / "config.yaml"
    config.write_text(config.read_text().replace("start: null", "start: plain-20.seed-1.900"))
    (curve,) = error_curves([built])
    assert curve.label == "plain-56 built from plain-20"
    assert error_table([curve]).splitlines()[1].split()[-1] == "-"
    assert verdicts([curve]) == []


def test_the_footer_says_recipe_data_seeds_and_departures(tmp_path: Path) -> None:
    paper = footer(error_curves([record(tmp_path, [0.2])]))
    assert paper == "recipe paper · CIFAR-10 · 1 seed · last iterate\nthe paper's recipe"
    quick = footer(error_curves([record(tmp_path, [0.2], "recipe=quick", f"seed={s}") for s in (0, 1)]))
    assert "batch 64 (paper 128)" in quick
    assert "2 seeds" in quick
    assert "SYNTHETIC" in footer(error_curves([record(tmp_path, [0.2], "data=synthetic")]))


def test_departures_are_named_and_effectless_settings_are_not() -> None:
    def of(*overrides: str) -> list[str]:
        return departures(compose(list(overrides)))

    def held(**without_effect: Any) -> list[str]:  # by records of versions that did not refuse it
        experiment = compose()
        for name, value in without_effect.items():
            experiment.put(name.replace("__", "."), value)
        return departures(experiment)

    assert of() == of("seed=7", "runtime.device=cpu", "model=residual") == []
    assert held(model__shortcut="B") == held(model__width=16) == []
    assert of("model=residual", "model.shortcut=B") == ["shortcut B (paper A)"]
    assert of("optim.nesterov=true") == ["Nesterov on (paper off)"]
    assert of("model.depth=110", "recipe.warmup=off") == ["warm-up off (paper on)"]
    assert held(recipe__warmup_lr=0.02) == []
    assert of("model.bn_momentum=0.2", "optim.decay_norm=false", "runtime.precision=bf16") == []
    assert open_choices(compose(["model.bn_momentum=0.2"])) == ["batch norm momentum 0.2 (default 0.1)"]
    assert held(recipe__warmup="linear", recipe__warmup_error=0.5) == of("recipe.warmup=linear")
    assert of("recipe.warmup=linear") == ["warm-up linear over 200 iterations (paper off)"]
    assert of("data.pixels=16", "optim.clip=1") == [
        "greatest norm of the gradient 1 (paper none)",
        "pixels a side 16 (paper 32)",
    ]
    assert of("model.depth=110", "recipe.warmup_lr=0.02") == ["warm-up rate 0.02 (paper 0.01)"]
    assert follows_paper(compose(["model=residual", "model.depth=110"]))


def test_the_papers_numbers() -> None:
    assert paper_error("residual", 56, "test") == pytest.approx(0.0697)
    assert paper_error("plain", 56, "train") == pytest.approx(0.058)
    assert paper_error("plain", 26, "test") is None


def test_the_table_sets_errors_beside_the_papers(tmp_path: Path) -> None:
    runs = [record(tmp_path, [0.12, 0.1], f"seed={s}", "model.depth=56") for s in (0, 1)]
    head, row, _, *note = error_table(error_curves(runs)).splitlines()
    assert head.split() == ["network", "seeds", "running%", "clean%", "test%", "paper"]
    assert row.split() == ["plain-56", "2", "5.00±0.00", "2.50±0.00", "10.00±0.00", "5.80/13.30"]
    assert "to be set beside running%" in " ".join(note)
    assert max(len(head), len(row)) <= 80
    synthetic = error_table(error_curves([record(tmp_path, [0.1], "data=synthetic")]))
    assert synthetic.splitlines()[1].split()[-1] == "-"


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_figures_are_saved_and_drawn_again_are_the_same(suffix: str, tmp_path: Path) -> None:
    curves = error_curves([record(tmp_path, [0.5, 0.1])])
    files = [tmp_path / f"{k}{suffix}" for k in range(2)]
    for file in files:
        save(draw(curves), file)
    assert files[0].stat().st_size > 5000
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(ConfigError, match="png"):
        save(draw(curves), tmp_path / "figure.jpg")


@pytest.mark.parametrize(
    ("band", "half"),
    [
        ("std", [0.1, 0.1]),
        ("minmax", [0.1, 0.1]),
        # The interval that scipy gives for the mean of three.
        ("ci95", [0.1 / 3**0.5 * 4.302653, 0.1 / 3**0.5 * 4.302653]),
    ],
)
def test_bands_over_seeds(band: str, half: list[float], tmp_path: Path) -> None:
    runs = [record(tmp_path, e, f"seed={s}") for s, e in enumerate([[0.5, 0.3], [0.7, 0.5], [0.6, 0.4]])]
    (curve,) = error_curves(runs, band=band)
    np.testing.assert_allclose(curve.test.high - curve.test.mean, half, rtol=1e-6)
    np.testing.assert_allclose(curve.test.mean - curve.test.low, half, rtol=1e-6)
    words = {"std": "mean ± std", "minmax": "least to greatest", "ci95": "95 % t interval of the mean"}
    assert f"3 seeds, band: {words[band]} ·" in footer([curve])


def test_the_least_and_greatest_are_not_around_the_mean(tmp_path: Path) -> None:
    runs = [record(tmp_path, [e], f"seed={s}") for s, e in enumerate([0.1, 0.1, 0.4])]
    series = error_curves(runs, band="minmax")[0].test
    assert [*series.low, *series.mean, *series.high] == pytest.approx([0.1, 0.2, 0.4])
    with pytest.raises(ConfigError, match=r"band minmx: did you mean minmax"):
        error_curves(runs, band="minmx")


def test_a_point_measured_by_fewer_seeds_than_later_ones_is_left_out(tmp_path: Path) -> None:
    """As when a run diverges between two rows: the mean must not jump to its value and back."""
    runs = [record(tmp_path, [0.5, 0.4, 0.3], f"seed={s}") for s in range(3)]
    rows = [{"iteration": i, "test_error": e, "train_error": e} for i, e in ((1000, 0.5), (1234, 0.9))]
    (runs[2].path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs[2].summarise(status="diverged", iteration=1234, iterations=64000)
    series = error_curves(runs)[0].test
    assert series.iteration.tolist() == [1000, 2000, 3000]
    assert series.seeds.tolist() == [3, 2, 2]
    np.testing.assert_allclose(series.mean, [0.5, 0.4, 0.3])


def test_the_figure_says_where_a_band_stands_on_fewer_seeds(tmp_path: Path) -> None:
    runs = [record(tmp_path, e, f"seed={s}") for s, e in enumerate([[0.5, 0.3, 0.2], [0.7, 0.5]])]
    runs[1].summarise(status="interrupted", iteration=2000, iterations=64000)
    curves = error_curves(runs)
    assert [t.get_text() for axes in draw_figure1(curves).axes for t in axes.texts] == ["1/2", "1/2"]
    assert draw_figure1(curves).axes[1].texts[0].xy == (3000, 20)  # type: ignore[attr-defined]
    assert [t.get_text() for t in draw_figure6(curves).axes[0].texts] == ["1/2"]
    assert "n/N: of so many seeds from there on" in footer(curves)
    assert "n/N" not in footer(error_curves(runs[:1]))


def test_tables_are_csv_and_markdown_too(tmp_path: Path) -> None:
    errors = [0.10, 0.13]
    runs = [record(tmp_path, [0.2, e], f"seed={s}", "model.depth=56") for s, e in enumerate(errors)]
    runs.append(record(tmp_path, [0.3], "seed=2", "model.depth=56", status="interrupted"))
    (row,) = parsed(error_table(error_curves(runs), form="csv"))
    assert (row["network"], row["seeds"], row["finished"], row["synthetic"]) == ("plain-56", "3", "2", "false")
    numbers = {
        key: float(value)
        for key, value in row.items()
        if value and (key.endswith(("mean", "std", "difference")) or "paper" in key)
    }
    assert numbers == pytest.approx(
        {
            "train_error_mean": 0.0575,
            "train_error_std": float(np.std([0.05, 0.065], ddof=1)),
            "train_error_clean_mean": 0.02875,
            "train_error_clean_std": float(np.std([0.025, 0.0325], ddof=1)),
            "test_error_mean": 0.115,
            "test_error_std": float(np.std(errors, ddof=1)),
            "paper_train_error": 0.058,
            "paper_test_error": 0.133,
            "test_error_difference": 0.115 - 0.133,
        }
    )
    head, rule, line, _, *_, remark = error_table(error_curves(runs), form="markdown").splitlines()
    assert head.count("|") == rule.count("|") == line.count("|") == 7
    assert "| plain-56 | 2/3 | 5.75±1.06 |" in line
    assert remark == "plain-56: 1 interrupted"
    listed = parsed(runs_table(runs, below=tmp_path, form="csv"))
    assert [(r["run"], r["status"], r["iteration"], r["test_error"]) for r in listed] == [
        (f"paper/plain-56/seed-{s}", status, n, "")
        for s, (status, n) in enumerate([("complete", "2000"), ("complete", "2000"), ("interrupted", "1000")])
    ]


def test_text_is_cut_in_the_middle_to_fit_80_columns(tmp_path: Path) -> None:
    runs = [record(tmp_path, [0.2], f"seed={s}", "recipe=quick", "optim.weight_decay=0.00012345") for s in (7, 8)]
    lines = runs_table(runs, below=tmp_path).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0][-7:] for line in lines[1:]] == ["/seed-7", "/seed-8"]
    assert all("…" in line for line in lines[1:])
    assert "optim.weight_decay=0.00012345/seed-7" in runs_table(runs, below=tmp_path, form="csv")
    more = [record(tmp_path, [0.2], f"model.depth={d}", "optim.weight_decay=0.00012345") for d in (20, 26, 32)]
    lines = runs_table(more, below=tmp_path).splitlines()
    assert len({line.split()[0] for line in lines}) == 4
    assert max(map(len, lines)) <= 80
    deep = [RunRecord(Path(f"reference/vgg_wall/vgg-{d},model.width=16/seed-0")) for d in (11, 13, 37)]
    lines = runs_table([*deep, RunRecord(Path("reference") / ("x" * 150))], below=Path()).splitlines()
    assert len({line.split()[0] for line in lines}) == 5
    assert max(map(len, lines)) <= 90


def test_csv_names_the_experiment_and_the_settings_that_differ(tmp_path: Path) -> None:
    records = [
        finished(tmp_path, "plain-20", 0, 0.2, 0.3),
        finished(tmp_path, "plain-20", 1, 0.2, 0.3, "optim.clip=1", "recipe.milestones=[5,7]"),
    ]
    rows = list(csv.DictReader(io.StringIO(runs_table(records, below=tmp_path, form="csv"))))
    assert [(row["experiment"], row["seed"], row["optim.clip"], row["recipe.milestones"]) for row in rows] == [
        ("paper", "0", "", "32000/48000"),
        ("paper", "1", "1", "5/7"),
    ]
    assert "optim.lr" not in rows[0]
    assert "model.family" not in rows[0]
    (records[0].path / "config.yaml").write_text("")
    rows = list(csv.DictReader(io.StringIO(runs_table(records, below=tmp_path, form="csv"))))
    assert [(row["status"], row["seed"]) for row in rows] == [("complete", ""), ("complete", "1")]


def test_names_are_whole_where_no_width_is_given(tmp_path: Path) -> None:
    long = "optim.weight_decay=0.00012345"
    curves = error_curves(
        [finished(tmp_path, "plain-20", 0, 0.2, 0.3), finished(tmp_path, "plain-20", 0, 0.2, 0.3, long)]
    )
    assert any(
        line.startswith("plain-20, ") and long in line for line in error_table(curves, width=None).splitlines()
    )


def test_a_narrow_table_names_experiments_and_what_differs_on_lines_of_their_own(tmp_path: Path) -> None:
    long = "optim.weight_decay=0.00012345"
    runs = [
        finished(tmp_path / "one", "plain-20", 0, 0.2, 0.3),
        finished(tmp_path / "one", "plain-20", 0, 0.2, 0.3, long),
    ]
    lines = error_table(error_curves(runs)).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["plain-20", "plain-20"]
    assert lines[3] == f"  {long}"
    runs.append(finished(tmp_path / "two", "plain-20", 0, 0.2, 0.3, "recipe=quick", long))
    lines = error_table(error_curves(runs)).splitlines()
    assert lines[1] == "paper:"
    assert f"  {long}" in lines
    assert lines[lines.index("quick:") + 1].startswith("plain-20  ")
    assert lines[lines.index("quick:") + 2] == ""
    assert max(map(len, lines)) <= 80


def test_guessing_is_marked_where_the_axis_reaches_it(tmp_path: Path) -> None:
    for name, error, marked in (("early", 0.85, True), ("late", 0.3, False)):
        curves = error_curves([finished(tmp_path / name, "plain-20", 0, error, error, "recipe=quick")])
        axes = draw(curves).axes[0]
        assert ("guessing" in [text.get_text() for text in axes.texts]) is marked


def test_footers_end_in_no_orphaned_word() -> None:
    text = " ".join(["word"] * 30)
    lines = balanced(text, 60)
    assert " ".join(lines) == text
    assert len(lines) == 3
    assert max(map(len, lines)) - min(map(len, lines)) <= 5
    assert balanced("a warm-up of eight words", 9) == ["a warm-up", "of eight", "words"]
    assert balanced("one", 60) == ["one"]
    assert balanced("", 60) == []
