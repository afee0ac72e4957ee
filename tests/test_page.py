"""The page of `degrade report`: what it holds, and, where there is a chromium, what it does."""

import html
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from degrade.analysis import error_curves, facts
from degrade.analysis.charts import before_training
from degrade.analysis.layers import FORWARD, INITIAL, RELATIVE, SIGNALS
from degrade.analysis.page import LIMIT, kept_points, page, save_page
from degrade.config import compose
from degrade.errors import ConfigError
from degrade.runs import RunRecord, find_records
from degrade.runs.numbers import Row, numbers_path, read, write
from tests.conftest import Outcome
from tests.records import finished, story

Errors = dict[str, tuple[Sequence[float], Sequence[float]]]

ERRORS: Errors = {"plain-20": ([2.0, 2.1], [9.6, 9.8]), "plain-56": ([5.0, 5.2], [12.4, 12.6])}
RESIDUAL: Errors = {"residual-20": ([1.5, 1.6], [8.6, 8.7]), "residual-56": ([0.3, 0.4], [7.1, 7.3])}
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


def data_of(text: str) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def own_part(text: str) -> str:
    """The page without plotly's script."""
    start = text.index("<script>", text.index('id="data"')) + len("<script>")
    return text[:start] + text[text.index("</script>", start) :]


class Elements(HTMLParser):
    """Tags with their attributes, and the cells of all tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._inside = False
        self.feed(own_part(text))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self._inside = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data


def test_curves_and_tables_hold_the_records_values(tmp_path: Path) -> None:
    records = story(tmp_path, ERRORS | RESIDUAL, rows=40)
    text = page(error_curves(records))
    data, cells = data_of(text), Elements(text).cells
    by_label = {network["label"]: network for network in data["networks"]}
    for record in records:
        config, rows = asdict(record.experiment), record.rows()
        network = by_label[f"{config['model']['family']}-{config['model']['depth']}"]
        own = network["seeds"][config["seed"]]
        for which, key, unit in (
            ("train", "train_error", 100),
            ("test", "test_error", 100),
            ("speed", "images_per_second", 1),
        ):
            assert data["grids"][own[which]["grid"]] == [row["iteration"] for row in rows]
            assert own[which]["values"] == pytest.approx([unit * row[key] for row in rows], rel=1e-4)
        assert f"{100 * rows[-1]['test_error']:.2f}" in cells
    assert by_label["plain-56"]["mean"]["test"]["values"][-1] == pytest.approx(12.5)
    assert by_label["plain-56"]["clean"] == pytest.approx(5.1)
    assert by_label["plain-56"]["paper"] == {"train": 5.8, "test": 13.3}
    assert "5.10±0.14" in cells
    assert "5.80/13.30" in cells
    assert "curves were thinned" not in text


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        (
            ERRORS | RESIDUAL,
            "36 more layers raise a plain network's training error by 3.1 points, and lower that of one with "
            "shortcuts by 1.2 points",
        ),
        (ERRORS, "36 more layers raise a plain network's training error by 3.1 points"),
        (
            ERRORS | {"residual-20": ([1.5, 1.6], [8, 8]), "residual-56": ([2.5, 2.6], [9, 9])},
            "36 more layers raise a plain network's training error by 3.1 points, and that of one with shortcuts by "
            "1.0 points",
        ),
        (RESIDUAL, "36 more layers lower a residual network's training error by 1.2 points"),
        ({"plain-20": ERRORS["plain-20"]}, ""),
    ],
)
def test_the_finding_is_the_headline_with_its_numbers(errors: Errors, said: str, tmp_path: Path) -> None:
    text = page(error_curves(story(tmp_path / "paper", errors)))
    found = re.search("<h1>(.*)</h1>", text)
    assert found
    assert html.unescape(found[1]) == (said or "paper")
    panels = data_of(text)["panels"]
    assert [panel["title"] for panel in panels] == [
        f"{family} networks" for family in ("plain", "residual") if said and f"{family}-20" in errors
    ]
    for panel in panels:  # a depth has one colour in all panels
        assert [line["depth"] for line in panel["lines"]] == [20, 56]
        assert [line["colour"] for line in panel["lines"]] == [facts.colour(0), facts.colour(1)]
        # In the chart of all curves, too, where marks tell the families apart.
        networks = [data_of(text)["networks"][line["network"]] for line in panel["lines"]]
        assert [network["colour"] for network in networks] == [facts.colour(0), facts.colour(1)]
        assert {network["sign"] for network in networks} == {panels.index(panel)}


def test_of_several_experiments_the_fullest_gives_the_headline(tmp_path: Path) -> None:
    story(tmp_path / "outputs", {"plain-20": ([30.0], [40.0]), "plain-56": ([70.0], [70.0])}, "recipe=quick")
    story(tmp_path / "outputs", ERRORS | RESIDUAL)
    text = page(error_curves(find_records([tmp_path / "outputs"])))
    assert "by 3.1 points, and lower" in text
    assert [len(panel["lines"]) for panel in data_of(text)["panels"]] == [2, 2]


def test_the_verdict_is_told_in_words(tmp_path: Path) -> None:
    text = page(error_curves(story(tmp_path, ERRORS | RESIDUAL)))
    assert "plain-56 has higher test error than plain-20" in text
    assert re.search(r"plain-56 - plain-20 = \+2\.80 points of test error; the 95% interval runs from \+\d", text)
    assert "wholly above zero" in text
    assert "The paper: +3.60." in text
    assert "None: the paper&#39;s recipe" in text or "None: the paper's recipe" in text


def test_departures_differences_and_commands_are_on_the_page(tmp_path: Path) -> None:
    records = story(tmp_path, ERRORS, "recipe=quick")
    records += story(tmp_path, {"plain-20": ([3.0], [11.0])}, "recipe=quick", "optim.lr=0.02", "model.norm=none")
    text = page(error_curves(records))
    assert "all networks: iterations 2,400 (paper 64k)" in text
    assert "norm none (paper batch)" in text
    assert {"optim.lr", "0.02", "0.05"} <= set(Elements(text).cells)
    curves = error_curves(records)
    commands = re.findall(r"degrade (?:train|sweep) [^\n<]+", text[text.index('id="commands"') :])
    assert len(commands) == len(curves) == 3
    for curve, command in zip(curves, commands, strict=True):
        *words, seeds = shlex.split(command)[2:]
        assert seeds == "seed=" + ",".join(map(str, curve.paths))
        assert compose([*words, "seed=0"]).flat() == curve.experiment.flat()
    # What a seed alone has is not in the command, and is no reason to name a file.
    config = records[1].path / "config.yaml"
    config.write_text(config.read_text().replace("threads: null", "threads: 7"))
    changed = page(error_curves(records))
    assert changed[changed.index('id="commands"') :] == text[text.index('id="commands"') :]


def test_what_records_hold_is_text_and_never_markup(tmp_path: Path) -> None:
    record = finished(tmp_path, "plain-20", 0, 0.02, 0.1)
    config = (record.path / "config.yaml").read_text()
    (record.path / "config.yaml").write_text(config.replace("\nname: paper\n", f"\nname: '{HOSTILE}'\n"))
    environment = record.environment | {"device": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}
    (record.path / "environment.json").write_text(json.dumps(environment))
    (record.path / "summary.json").write_text(json.dumps(record.summary | {"status": HOSTILE}))
    folder = tmp_path / "<b onclick=x>&amp;"
    other = folder / "plain-20,<img src=x>" / "seed-1"
    shutil.copytree(record.path, other)
    (other / "config.yaml").write_text(config.replace("\nseed: 0\n", "\nseed: 1\n"))
    (folder / "<img src=x>.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(3)'/>")
    text = page(error_curves([record, RunRecord(other)]))
    for tag, attributes in Elements(text).tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
    assert HOSTILE not in text
    assert sum(tag == "script" for tag, _ in Elements(text).tags) == 3


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    text = page(error_curves([finished(tmp_path, "plain-20", 0, 0.02, 0.1)]))
    assert "default-src 'none'" in text
    for tag, attributes in Elements(text).tags:
        for name in ("src", "href", "action", "data", "poster"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("#", "data:")), (tag, name, value)
    assert not re.search(r"url\(|@import", own_part(text))


def test_sixty_runs_with_pictures_stay_below_six_megabytes(tmp_path: Path) -> None:
    errors: Errors = {name: (20 * [2.0], 20 * [9.0]) for name in ("plain-20", "plain-56", "residual-20")}
    records = story(tmp_path, errors, rows=164)
    noise = np.random.default_rng(0).bytes(400_000)
    for name in ("figure.png", "responses.png", "landscape.png", "notes.txt"):
        (records[0].path.parents[1] / name).write_bytes(noise)
    text = page(error_curves(records))
    assert len(text.encode()) < LIMIT == 6_000_000
    assert "curves were thinned" not in text
    pictures = [attributes for tag, attributes in Elements(text).tags if tag == "img"]
    assert all(str(picture["alt"]) and str(picture["src"]).startswith("data:image/png;") for picture in pictures)
    assert "Left out, to keep this page below 6 MB" in text
    assert "landscape.png" in text
    assert "notes.txt" not in text


def test_a_picture_of_each_kind_has_words(tmp_path: Path) -> None:
    record = finished(tmp_path, "plain-20", 0, 0.02, 0.1)
    (record.path.parents[1] / "gradients-initial.png").write_bytes(b"png")
    (record.path / "probes").mkdir()
    (record.path / "probes" / "own.svg").write_text("<svg/>")
    text = page(error_curves([record]))
    pictures = [own for tag, own in Elements(text).tags if tag == "img"]
    assert [own["src"] for own in pictures] == [
        "data:image/png;base64,cG5n",
        "data:image/svg+xml;base64,PHN2Zy8+",
    ]
    assert "before the first update" in str(pictures[0]["alt"])
    assert [own["id"] for tag, own in Elements(text).tags if str(own.get("id")).startswith("chapter-")] == [
        "chapter-gradients-initial",
        "chapter-other",
    ]
    assert "own.svg" in str(pictures[1]["alt"])


def test_thinning_keeps_ends_and_extremes() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    values[1234], values[4321] = 50, -50
    kept = kept_points([values, -values], 100)
    assert len(kept) <= 100
    assert {0, 1234, 4321, 4999} <= set(kept.tolist())
    assert kept_points([values[:100]], 100).tolist() == list(range(100))


def test_thinned_curves_are_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("degrade.analysis.page.NUMBERS", 400)
    text = page(error_curves([finished(tmp_path, "plain-20", 0, 0.02, 0.1, rows=300)]))
    assert "6 of 6 curves were thinned to 40 points" in text
    data = data_of(text)
    (own,) = data["networks"][0]["seeds"]
    grid = data["grids"][own["test"]["grid"]]
    assert len(grid) <= 40
    assert grid[-1] == 64_000
    assert own["test"]["values"][-1] == pytest.approx(10.0)


def test_unfinished_and_synthetic_runs_are_marked(tmp_path: Path) -> None:
    records = [
        finished(tmp_path, "plain-20", 0, 0.02, 0.1, "data=synthetic"),
        finished(tmp_path, "plain-56", 0, 0.9, 0.9, "data=synthetic", status="diverged"),
        finished(tmp_path, "plain-56", 1, 0.9, 0.9, "data=synthetic", status="interrupted"),
    ]
    text = page(error_curves(records))
    assert "SYNTHETIC DATA: plain-20; plain-56" in text
    assert "Not all runs are complete. plain-56: 1 diverged, 1 interrupted" in text
    assert "plain-56 [1 diverged, 1 interrupted]" in re.sub(r"\s+", " ", text).replace(" (SYNTHETIC)", "")
    assert data_of(text)["networks"][1]["ended"] == "x"
    assert data_of(text)["networks"][0]["paper"] == {}


def test_a_run_without_rows_or_environment_has_a_page(tmp_path: Path) -> None:
    record = finished(tmp_path, "plain-20", 0, 0.02, 0.1, status="failed")
    (record.path / "metrics.jsonl").unlink()
    (record.path / "environment.json").unlink()
    text = page(error_curves([record]))
    assert "plain-20: failed" in text
    assert "Nothing is recorded." in text


def test_what_differs_between_seeds_names_them(tmp_path: Path) -> None:
    records = story(tmp_path, ERRORS)
    changed = records[1].environment | {"threads": 7}
    (records[1].path / "environment.json").write_text(json.dumps(changed))
    config = records[1].path / "config.yaml"
    config.write_text(config.read_text().replace("threads: null", "threads: 7"))
    text = page(error_curves(records))
    assert "null (seed 0); 7 (seed 1)" in Elements(text).cells
    (cell,) = (cell for cell in Elements(text).cells if cell.startswith("not recorded"))
    assert cell == "not recorded (plain-20, seed 0; plain-56, seeds 0, 1)7 (plain-20, seed 1)"


def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    curves = error_curves(story(tmp_path, ERRORS))
    save_page(curves, tmp_path / "deep" / "one.html")
    assert (tmp_path / "deep" / "one.html").read_text() == page(curves)
    with pytest.raises(ConfigError, match="cannot be written"):
        save_page(curves, tmp_path)


def test_the_rate_falls_at_the_milestones_whatever_the_rows(tmp_path: Path) -> None:
    run = finished(tmp_path, "plain-20", 0, 0.1, 0.2, rows=8)  # every 8,000 iterations
    rows = [row | {"lr": 0.1 if row["iteration"] <= 30_000 else 0.01} for row in run.rows()]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("- 32000", "- 30000"))
    data = data_of(page(error_curves([run])))
    rate = data["networks"][0]["rate"]
    points = dict(zip(data["grids"][rate["grid"]], rate["values"], strict=True))
    assert (points[24_000], points[30_000], points[32_000]) == (0.1, 0.1, 0.01)


def test_the_command_of_a_built_network_is_what_builds_it() -> None:
    root = Path(__file__).parents[1] / "outputs" / "reference" / "quick-construct"
    text = page(error_curves(find_records([root])))
    (command,) = re.findall("degrade probe construct .*", own_part(text))
    words = shlex.split(command)
    assert words[3].endswith("outputs/reference/quick/plain-20/seed-1")
    assert words[4:8] == ["--depth", "56", "--continue", "300"]
    # Settings in which the record differs from today's recipe of its name follow.
    assert set(words[8:]) >= {"optim.lr=0.005", "eval.every=100", "log.every=25", "runtime.threads=1"}
    assert "Not trained" not in text


def test_the_papers_axis_is_for_its_own_recipe_and_said(tmp_path: Path) -> None:
    whole = page(error_curves(story(tmp_path, ERRORS)))
    assert data_of(whole)["ceiling"] == 20
    said = "Axis as in the paper, 0 to 20 %: the curves begin above it."
    assert said in whole
    for other in ("recipe=short", "recipe=quick"):
        text = page(error_curves(story(tmp_path / other, ERRORS, other)))
        assert data_of(text)["ceiling"] is None
        assert said not in text


def test_each_kind_of_training_error_has_its_name(tmp_path: Path) -> None:
    text = page(error_curves(story(tmp_path, ERRORS)))
    words = re.sub(r"\s+", " ", own_part(text))
    assert "Running training error (dashed: train mode, augmented images, while training)" in words
    assert "clean training error (eval mode, un-augmented images) of the last iterate" in words
    assert "The paper&#39;s training errors look like running ones" in words.replace("'", "&#39;")
    assert data_of(text)["kinds"] == {
        "train": "running training error",
        "clean": "clean training error",
        "test": "test error",
    }


def test_report_command(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    story(tmp_path / "outputs", ERRORS)
    done = cli("report")
    assert (done.code, done.out) == (0, "page: outputs/paper/report.html\n")
    assert cli("report", "outputs", "-o", "here.html", "--band", "ci95").code == 0
    assert "95 % t interval of the mean" in (tmp_path / "here.html").read_text()
    for arguments, words in (
        (["--output", "page.pdf"], "--output page.pdf: the page is written as .html; use this suffix"),
        (["--band", "stdd"], "--band stdd: must be one of 'std', 'minmax', 'ci95'"),
        (["nowhere"], "nowhere: no such directory"),
        (["outputs", "--output", "outputs/paper/plain-20/seed-0/config.yaml/x.html"], "choose another --output"),
    ):
        failed = cli("report", *arguments)
        assert failed.code == 2
        assert words in failed.err
        assert failed.err.count("\n") == 1


# Charts and chapters

REFERENCE = Path(__file__).parents[1] / "outputs" / "reference"


def charts_of(text: str) -> dict[str, Any]:
    """The charts of the page's chapters, by their titles."""
    return {chart["title"]: chart for chart in data_of(text)["charts"]}


def chapters_of(text: str) -> list[str]:
    return [str(own["id"]) for _, own in Elements(text).tags if str(own.get("id")).startswith("chapter-")]


def test_numbers_beside_the_runs_become_charts_instead_of_pictures() -> None:
    curves = error_curves(find_records([REFERENCE / "quick"]))
    text = page(curves)
    assert not [own for tag, own in Elements(text).tags if tag == "img"]
    assert chapters_of(text) == ["chapter-responses", "chapter-landscape"]
    charts = charts_of(text)
    ordered, by_size = charts["Response of each layer"]["views"]
    (own,) = (line for line in ordered["panels"][0]["lines"] if line["name"] == "plain-20")
    seeds = [read(numbers_path(RunRecord(path), "responses")) for path in curves[0].paths.values()]
    middle = [sorted(float(row["std"]) for row in layer)[1] for layer in zip(*seeds, strict=True)]
    assert own["y"] == pytest.approx(middle, rel=1e-3)
    assert own["low"][0] < own["y"][0] < own["high"][0]
    assert own["at"][:2] == ["conv1", "layer1.0.conv1"]
    falling = by_size["panels"][0]["lines"][0]["y"]
    assert falling == sorted(falling, reverse=True)
    (plane,) = charts["Loss around the trained weights"]["views"]
    panel = plane["panels"][0]
    assert panel["title"] == "plain-56, seed 1"
    rows = read(next((REFERENCE / "quick" / "plain-56" / "seed-1" / "probes").glob("landscape*.csv")))
    at = {(round(float(row["a"]), 4), round(float(row["b"]), 4)): float(row["loss"]) for row in rows}
    for x, y in ((0, 0), (3, 11)):
        assert panel["map"]["z"][y][x] == pytest.approx(
            min(23.03, at[round(panel["map"]["x"][x], 4), round(panel["map"]["y"][y], 4)]), 1e-3
        )


def test_layers_may_have_numbers_for_names(tmp_path: Path) -> None:
    network: Row = {"family": "own", "norm": "batch", "network": "he", "depth": 8, "images": 4}
    measured: Row = {SIGNALS: 1.0, RELATIVE: 1.0, FORWARD: 1.0}
    rows: list[Row] = [{**network, **measured, "layer": k, "name": str(k)} for k in (1, 2)]
    write(tmp_path / INITIAL, rows)
    chart = before_training(tmp_path)
    assert chart is not None
    assert chart["views"][0]["panels"][0]["lines"][0]["at"] == ["1", "2"]


def test_gradients_are_charts_of_layers_and_snapshots() -> None:
    text = page(error_curves(find_records([REFERENCE / "gradients"])))
    charts = charts_of(text)
    assert chapters_of(text) == ["chapter-gradients-initial", "chapter-gradients"]
    first = charts["Before the first update"]["views"][0]
    assert [panel["title"] for panel in first["panels"]] == [
        f"{family}, {norm} norm" for family in ("plain", "residual") for norm in ("batch", "no")
    ]
    assert {line["name"] for line in first["panels"][0]["lines"]} == {
        f"{kind}, {depth}" for kind in ("he", "xavier", "gaussian") for depth in (20, 56)
    }
    along = charts["Layers along training"]["views"]
    (relative,) = (view for view in along if view["name"] == "gradient of the weights relative to the weights")
    shown = relative["panels"][1]["map"]
    rows = read(REFERENCE / "gradients" / "plain-56" / "seed-0" / "probes" / "gradients.csv")
    assert (len(shown["y"]), len(shown["x"])) == (56, 16)
    assert shown["z"][0][0] == pytest.approx(float(rows[0]["relative_gradient"]), rel=1e-3)
    (growth,) = (view for view in along if view["name"].startswith("norm of the weights"))
    assert {row[0] for row in growth["panels"][1]["map"]["z"]} == {1}


def test_experiments_of_many_networks_are_told_apart() -> None:
    folders = [REFERENCE / name for name in ("remedies", "quick", "vgg_wall")]
    curves = error_curves(find_records(folders))
    text = page(curves)
    data = data_of(text)
    titles = [html.unescape(own) for own in re.findall('<h3 id="experiment-\\d+">(.*?)</h3>', text)]
    assert titles == [
        *("quick", "remedies, plain-20", "remedies, plain-56", "remedies, residual-56", "vgg_wall"),
    ]
    assert data["groups"] == 5
    for k in range(5):
        own = [network for network in data["networks"] if network["group"] == k]
        assert len({network["name"] for network in own}) == len(own)
        assert len({(network["colour"], network["sign"]) for network in own}) == len(own)
    assert {"plain-20", "optim.clip=1.0, recipe.warmup=auto"} <= {
        n["name"] for n in data["networks"] if n["group"] == 1
    }
    assert chapters_of(text)[:2] == ["chapter-wall", "chapter-remedies"]
    error, growth, _ = charts_of(text)["Remedies side by side"]["views"]
    assert [panel["title"] for panel in error["panels"]] == ["plain-20", "plain-56", "residual-56"]
    colours = [{line["name"]: line["colour"] for line in panel["lines"]} for panel in error["panels"]]
    assert colours[0].items() <= colours[2].items()
    assert growth["panels"][0]["lines"][0]["y"][0] == 1
    wall = charts_of(text)["Last errors against depth"]["views"][1]["panels"][0]["lines"]
    assert [line["x"] for line in wall] == [[14, 20, 26, 32, 38], [11, 13, 16, 19, 25, 31, 37]]
    tests = [100 * curve.final["test_error"][0] for curve in curves if curve.family == "vgg"]
    assert wall[1]["y"] == pytest.approx(tests, rel=1e-3)


def test_a_built_network_begins_where_the_trained_one_ended() -> None:
    text = page(error_curves(find_records([REFERENCE / "quick-construct"])))
    assert not [own for tag, own in Elements(text).tags if tag == "img"]
    view = charts_of(text)["The built network trained on"]["views"][0]
    lines = {line["name"]: line for line in view["panels"][0]["lines"]}
    assert list(lines) == ["plain-20", "plain-56 from scratch", "plain-20 trained on", "plain-56 built from plain-20"]
    assert lines["plain-20"]["x"][-1] == lines["plain-56 from scratch"]["x"][-1] == 2400
    assert (lines["plain-20 trained on"]["x"][0], lines["plain-20 trained on"]["x"][-1]) == (2425, 2700)


def test_numbers_of_another_kind_or_not_finite_draw_nothing_and_break_nothing(tmp_path: Path) -> None:
    record = finished(tmp_path, "plain-20", 0, 0.02, 0.1)
    rows: list[Row] = [
        {"layer": k, "name": f"conv{k}", "std": std, "images": 0} for k, std in ((1, 0.5), (2, float("nan")))
    ]
    write(numbers_path(record, "responses"), rows)
    write(numbers_path(record, "gradients"), [{"what": "else"}])
    numbers_path(record, "landscape-grid3").write_text("a,b,loss\n0,0\n")
    text = page(error_curves([record]))
    assert "NaN" not in json.dumps(data_of(text))
    (view, _) = charts_of(text)["Response of each layer"]["views"]
    assert view["panels"][0]["lines"][0]["y"] == [0.5, None]
    assert list(charts_of(text)) == ["Response of each layer"]


def test_networks_that_share_a_colour_are_told_apart_in_every_chart(tmp_path: Path) -> None:
    errors: dict[str, tuple[list[float], list[float]]] = {
        f"{family}-20": ([2.0], [9.0]) for family in ("plain", "residual", "preact")
    }
    records = story(tmp_path, {**errors, "plain-56": ([5.0], [13.0]), "preact-56": ([1.0], [7.0])})
    records.append(finished(tmp_path, "wide-22", 0, 0.02, 0.1, parameters=7))
    for record in records:
        write(numbers_path(record, "responses"), [{"layer": 1, "name": "conv1", "std": 0.5, "images": 0}])
    text = page(error_curves(records))
    (view, _) = charts_of(text)["Response of each layer"]["views"]
    lines = view["panels"][0]["lines"]
    assert len({(line["colour"], line["dash"]) for line in lines}) == len(lines) == 6
    assert {line["dash"] for line in lines if line["name"].startswith("plain")} == {"dash"}
    data = data_of(text)
    for panel in data["panels"]:
        assert all(line["colour"] == data["networks"][line["network"]]["colour"] for line in panel["lines"])


def test_a_path_is_drawn_on_the_loss_of_its_plane(tmp_path: Path) -> None:
    record = finished(tmp_path, "plain-20", 0, 0.02, 0.1)
    along: list[Row] = [
        {"snapshot": k, "a": a, "b": b, "loss": loss, "share1": 0.8, "share2": 0.15}
        for k, a, b, loss in ((0, -2.0, 0.5, 2.5), (100, -1.0, 1.0, 1.0), (2400, 0.0, 0.0, 0.2))
    ]
    grid: list[Row] = [
        {"a": a, "b": b, "loss": 1 + a + b, "error": 0.1, "count": 90} for a in (0.0, 1.0) for b in (0.0, 1.0)
    ]
    write(numbers_path(record, "trajectory-path-images90"), along)
    write(numbers_path(record, "trajectory-grid2-images100"), grid)
    assert not charts_of(page(error_curves([record])))  # the points are of other images than the path
    write(numbers_path(record, "trajectory-grid2-images90"), grid)
    (chart,) = charts_of(page(error_curves([record]))).values()
    (panel,) = chart["views"][0]["panels"]
    assert panel["title"] == "plain-20, seed 0 (95%)"
    assert panel["map"]["z"] == [[1, 2], [2, 3]]
    (line,) = panel["lines"]
    assert (line["x"], line["y"]) == ([-2, -1, 0], [0.5, 1, 0])
    assert line["at"][-1] == "iteration 2,400, loss 0.2"


def test_charts_for_which_there_is_no_room_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("degrade.analysis.page.LIMIT", 4_900_000)
    text = page(error_curves(find_records([REFERENCE / "gradients"])))
    assert "outputs/reference/gradients: Layers along training" in text


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless chromium, 1200 pixels wide."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver on PATH")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)  # no sandbox: as root there is none
    options.add_argument("--window-size=1200,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    own = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield own
    own.quit()


@pytest.fixture(scope="module")
def records_in_browser(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    root = tmp_path_factory.mktemp("page")
    records = story(root, ERRORS | RESIDUAL, rows=40)
    hostile = records[0].path.parents[1] / "plain-20,<img src=x onerror=document.title=1>&lt;b>" / "seed-0"
    shutil.copytree(records[0].path, hostile)
    config = hostile / "config.yaml"
    config.write_text(config.read_text().replace("bn_momentum: 0.1", "bn_momentum: 0.2"))
    save_page(error_curves(find_records([root])), root / "report.html")
    return records


@pytest.fixture
def opened(browser: Any, records_in_browser: list[RunRecord]) -> Any:
    """The page, freshly opened and drawn."""
    browser.get_log("browser")
    browser.get((records_in_browser[0].path.parents[2] / "report.html").as_uri())
    wait_until_drawn(browser)
    return browser


def wait_until_drawn(browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda b: b.execute_script("return document.documentElement.dataset.ready"))


def run_script(script: str, browser: Any) -> Any:
    return browser.execute_script(script)


TRACES = "return document.getElementById('errors').data.map(t => [t.name, t.visible, t.meta.role, t.y])"


def traces(browser: Any) -> dict[str, tuple[bool, str, list[float]]]:
    """The curves that are no bands: name -> (visible, role, percent)."""
    return {name: (on, role, y) for name, on, role, y in browser.execute_script(TRACES) if role != "band"}


def test_in_a_browser_the_page_draws_the_records_without_an_error(
    opened: Any, records_in_browser: list[RunRecord]
) -> None:
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    drawn = traces(opened)
    for record in records_in_browser:
        config = asdict(record.experiment)
        network = f"{config['model']['family']}-{config['model']['depth']}"
        for which, key in (("running training", "train_error"), ("test", "test_error")):
            _, _, percent = drawn[f"{network}, {which} error, seed {config['seed']}"]
            assert percent == pytest.approx([100 * row[key] for row in record.rows()], rel=1e-4)
    shown, _, percent = drawn["plain-56, clean training error, last iterate"]
    assert shown
    assert percent == pytest.approx([5.1])
    told = opened.execute_script(
        "const own = document.getElementById('story'), bold = own.data.filter(t => t.line && t.line.width === 3);"
        "return [bold.map(t => t.name), own.getBoundingClientRect().bottom]"
    )
    assert {f"{network}, running training error" for network in (*ERRORS, *RESIDUAL)} <= set(told[0])
    assert told[1] < 900  # above the fold of a laptop's screen
    cells = [cell.text for cell in opened.find_elements("css selector", "#table ~ .scroll td")]
    assert "12.50±0.14" in cells
    assert opened.title == "paper: degrade report"  # no hostile name has run
    assert opened.find_elements("css selector", "img[src=x], .graph b") == []


def test_in_a_browser_controls_work_by_mouse_and_keyboard(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def drawn_lines() -> int:
        return len(opened.find_elements("css selector", "#errors .scatterlayer .trace .js-line"))

    before, shown = drawn_lines(), traces(opened)
    assert shown["residual-56, test error"][0]
    last = len(opened.find_elements("css selector", "#networks input")) - 1
    opened.find_element("id", f"network-{last}").click()
    hidden = traces(opened)
    assert not any(on for name, (on, *_) in hidden.items() if "residual-56" in name)
    assert drawn_lines() < before
    assert hidden["residual-20, test error"][0]
    opened.find_element("id", f"network-{last}").send_keys(Keys.SPACE)
    assert traces(opened)["residual-56, test error"][0]
    opened.find_element("id", "which-train").send_keys(Keys.SPACE)
    assert not traces(opened)["plain-20, running training error"][0]
    assert not traces(opened)["plain-20, clean training error, last iterate"][0]
    opened.find_element("css selector", "[name=seeds][value=mean]").send_keys(Keys.ARROW_RIGHT)
    each = traces(opened)
    assert each["residual-20, test error, seed 1"][0]
    assert not each["residual-20, test error"][0]
    axis = "return document.getElementById('errors')._fullLayout.yaxis.type"
    assert opened.execute_script(axis) == "linear"
    opened.find_element("id", "log").send_keys(Keys.SPACE)
    assert opened.execute_script(axis) == "log"
    reach = "return document.getElementById('errors')._fullLayout.xaxis.range[0]"
    opened.find_element("id", "zoom-in").send_keys(Keys.ENTER)
    assert opened.execute_script(reach) > 10_000
    low = "return document.getElementById('errors')._fullLayout.yaxis.range[0]"
    left, bottom = opened.execute_script(reach), opened.execute_script(low)
    opened.find_element("id", "pan-left").send_keys(Keys.ENTER)
    opened.find_element("id", "pan-down").send_keys(Keys.ENTER)
    assert opened.execute_script(reach) < left
    assert opened.execute_script(low) < bottom


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_the_page_fits_a_phone_in_both_schemes(opened: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        opened.refresh()
        wait_until_drawn(opened)
        width, colour = opened.execute_script(
            "const gd = document.getElementById('errors');"
            "return [document.documentElement.scrollWidth, gd._fullLayout.paper_bgcolor]"
        )
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert width <= 390
    assert colour == {"light": "#ffffff", "dark": "#14171a"}[scheme]


@pytest.fixture(scope="module")
def chapters_in_browser(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page of three experiments with charts of all kinds, freshly opened."""
    target = tmp_path_factory.mktemp("chapters") / "report.html"
    folders = [REFERENCE / name for name in ("gradients", "quick", "remedies")]
    save_page(error_curves(find_records(folders)), target)
    browser.get_log("browser")
    browser.get(target.as_uri())
    wait_until_drawn(browser)
    return browser


def test_in_a_browser_chapters_are_drawn_and_views_change_by_keyboard(chapters_in_browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened = chapters_in_browser
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    ids = opened.execute_script("return [...document.querySelectorAll('.chapter .graph')].map(g => g.id)")
    assert len(ids) == 5
    kinds = "return [...new Set(arguments[0].map(id => document.getElementById(id).data[0].type))]"
    assert set(opened.execute_script(kinds, ids)) == {"scatter", "heatmap", "contour"}
    label = f"return document.getElementById('{ids[0]}')._fullLayout.yaxis.title.text"
    assert opened.execute_script(label) == "gradient of the response"
    opened.find_element("css selector", f"[name={ids[0]}-view]").send_keys(Keys.ARROW_RIGHT)
    assert opened.execute_script(label) == "gradient of the weights relative to the weights"
    assert not opened.execute_script("return document.querySelector('.experiment .buttons').checkVisibility()")
    opened.find_element("css selector", ".experiment details > summary").send_keys(Keys.ENTER)
    opened.find_element("id", "zoom-in").send_keys(Keys.ENTER)
    assert opened.execute_script("return document.getElementById('errors')._fullLayout.xaxis.range[0]") > 100
    opened.find_element("css selector", "#training ~ details > summary").send_keys(Keys.ENTER)
    width = "return document.querySelector('#rates .main-svg').getBoundingClientRect().width"
    assert 300 < opened.execute_script(width) < 500


def test_in_a_browser_the_nearest_curve_is_told_anywhere_in_a_chart(chapters_in_browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    opened = chapters_in_browser
    for graph in ("errors", "story"):
        box = opened.execute_script(
            f"const box = document.querySelector('#{graph} .nsewdrag'); box.scrollIntoView({{block: 'center'}});"
            "const at = box.getBoundingClientRect(); return [at.left + 0.63 * at.width, at.top + 0.9 * at.height]"
        )
        opened.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": box[0], "y": box[1]})
        told = f"return document.querySelector('#{graph} .hoverlayer')?.textContent"
        script = f"{told} || null"
        assert "error" in WebDriverWait(opened, 10).until(partial(run_script, script))


def test_on_paper_nothing_tells_to_hover_and_nothing_is_folded(chapters_in_browser: Any) -> None:
    opened = chapters_in_browser
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        opened.execute_script("dispatchEvent(new Event('beforeprint'))")
        text = opened.execute_script("return document.body.innerText")
        folded = opened.execute_script("return document.querySelectorAll('details:not([open], .screen)').length")
        widths = opened.execute_script("return [...document.querySelectorAll('.graph')].map(g => g.layout.width)")
    finally:
        opened.execute_script("dispatchEvent(new Event('afterprint'))")
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert "Hover" not in text
    assert "Zoom" not in text
    assert "degrade verify" in text
    assert folded == 0
    assert set(widths) == {330, 680}


def test_pictures_turn_dark_on_a_dark_page(browser: Any, tmp_path: Path) -> None:
    record = finished(tmp_path, "plain-20", 0, 0.02, 0.1)
    for name in ("compare.svg", "own.svg"):
        (record.path.parents[1] / name).write_text("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    save_page(error_curves([record]), tmp_path / "report.html")
    dark: dict[str, Any] = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    found = []
    light: dict[str, Any] = {"features": []}
    for media in (dark, light):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get((tmp_path / "report.html").as_uri())
        filters = "return [...document.querySelectorAll('img')].map(i => getComputedStyle(i).filter)"
        found.append(browser.execute_script(filters))
    assert found == [["invert(0.91) hue-rotate(180deg)", "none"], ["none", "none"]]
