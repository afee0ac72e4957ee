import re
from pathlib import Path
from typing import Any

import pytest

from degrade.cli.options import seconds_of
from degrade.config import Experiment, compose
from degrade.errors import ConfigError, RunConflictError
from degrade.progress import Progress, about
from degrade.runs import RunRecord, estimate, run, run_directory, train
from degrade.runs.estimate import Plan, choose, fitting, plan, recipes
from degrade.runs.observers import EVALUATION_COST, planned_work
from degrade.training import peaks
from tests.conftest import Cli, Make

#: Settings by which every recipe trains in a second or two.
TINY = [
    *("data=synthetic", "data.train_limit=16", "data.test_limit=8", "recipe.iterations=2", "recipe.milestones=[1]"),
    *("recipe.batch_size=8", "data.pixels=8", "runtime.precision=fp32"),
]

NETWORKS = [["model=plain", "model.depth=20"], ["model=plain", "model.depth=56"]]


def never(*_: Any) -> tuple[float, str]:
    raise AssertionError("a network was timed")


def paced(monkeypatch: pytest.MonkeyPatch, quick: float) -> None:
    """Let networks be as fast as makes figure 1 at the quick recipe take `quick` seconds."""
    work = sum(planned_work(compose([*own, "recipe=quick"])) for own in NETWORKS)
    monkeypatch.setattr(estimate, "_pace", lambda *_: (quick / work, "an abacus, fp32"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("1d2h3m4s", 93784)],
)
def test_a_time_is_read_as_it_is_written(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "20", "0m", "-5m", "1.5h", "30m1h", "20 m", "20M", "h", "1e3s", "٣m", "9" * 5000]
)
def test_no_other_time_is_taken(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--within {re.escape(text)}: write a time such as 90s, 20m"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *(
            (42.4, "42 s"),
            (540, "9 min"),
            (90, "90 s"),
            (3600, "1 h"),
            (7800, "2 h 10 min"),
            (7200, "2 h"),
            (68400, "19 h"),
        ),
        *((216_000, "2.5 days"), (float("inf"), "an unknown time")),
    ],
)
def test_a_time_is_said_as_a_person_says_it(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_recipes_are_ordered_by_fidelity_and_the_one_for_tests_is_left_out() -> None:
    assert recipes("quick") == ["quick", "short", "paper"]
    assert set(recipes("wall")) == {"quick", "wall", "short", "paper"}


def test_the_most_faithful_recipe_that_fits_is_taken(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    paced(monkeypatch, quick=60)
    command = ["reproduce", "figure1", "launcher.jobs=1", "--dry-run"]
    small, large = (cli(*command, "--within", time) for time in ("2m", "1d"))
    assert "\nname: quick\n" in small.out
    assert "\nname: paper\n" in large.out
    assert small.err.startswith("on this machine (an abacus, fp32): quick 60 s, short ")
    assert small.err.splitlines()[1:] == ["taking recipe quick, the most faithful that fits into 2 min"]
    assert cli("reproduce", "figure1", "--dry-run", "--within", "1d", "--quiet").err == ""


def test_where_nothing_fits_the_shortest_is_taken_and_said_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    paced(monkeypatch, quick=7200)
    outcome = cli("reproduce", "figure1", "launcher.jobs=1", "--dry-run", "--within", "20m")
    assert "\nname: quick\n" in outcome.out
    assert outcome.err.endswith("no recipe fits into 20 min: taking quick all the same, which takes 2 h\n")


def test_settings_of_ones_own_hold_for_every_recipe(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    paced(monkeypatch, quick=600)
    outcome = cli("reproduce", "figure1", "--dry-run", "--within", "20m", "recipe.iterations=100", "data.pixels=16")
    assert "\nname: paper\n" in outcome.out
    assert "  iterations: 100\n" in outcome.out
    assert "  pixels: 16\n" in outcome.out


@pytest.mark.parametrize("experiment", ["vgg_wall", "gradients"])
def test_experiments_with_settings_of_their_own(cli: Cli, monkeypatch: pytest.MonkeyPatch, experiment: str) -> None:
    paced(monkeypatch, quick=600)
    outcome = cli("reproduce", experiment, "--dry-run", "--within", "999d", "--seeds", "2")
    assert f"# run directory: outputs/{experiment}/" in outcome.out
    assert "\n  name: paper\n" in outcome.out


def test_a_real_run_is_timed_once_and_said_aside(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(estimate, "rate", lambda step, device, _, **least: peaks.rate(step, device, 0.02, **least))
    command = ["reproduce", "figure1", *TINY, "--format", "csv"]
    first = cli(*command, "--within", "1h")
    assert first.code == 0, first.err
    assert [line.partition(",")[0].strip('"') for line in first.out.splitlines()] == [
        "network",
        "plain-20",
        "plain-56",
    ]
    line = r"on this machine \(cpu, fp32, \d+ threads? per network\): quick .+, short .+, paper .+"
    assert re.match(line, first.err)
    assert (tmp_path / "outputs/paper").exists()
    monkeypatch.setattr(estimate, "_pace", never)
    again = cli(*command, "--within", "1h")
    assert (again.code, again.out) == (0, first.out)
    assert again.err.startswith("recipe paper is complete\n")
    assert "on this machine" not in cli(*command, "--recipe", "paper").err


def test_a_plan_counts_what_is_left_of_its_own_records(small: Make) -> None:
    done, begun, new = (small(f"seed={seed}", "name=mine") for seed in range(3))
    for experiment in (done, begun):
        run(experiment)
    RunRecord(run_directory(begun)).summarise(status="interrupted", iteration=6, seconds=1.0)
    found = plan("smoke", [done, begun, new])
    assert [own.seed for own, _ in found.todo] == [1, 2]
    assert [left / planned_work(new) for _, left in found.todo] == pytest.approx([0.75, 1])
    assert (found.begun, found.precision) == (True, "fp32")
    assert found.pace > 0
    assert plan("smoke", [done, new], fresh=True) == Plan(
        "smoke", [(e, planned_work(e)) for e in (done, new)], False, 0, None
    )
    with pytest.raises(RunConflictError):
        plan("short", [small("name=mine", "recipe=short")])


def test_recipes_that_other_records_are_in_the_way_of_are_no_choice(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    paced(monkeypatch, quick=10)
    command = [
        "reproduce",
        "figure1",
        "launcher.jobs=1",
        "name=mine",
        "data=synthetic",
        "--dry-run",
        "--within",
        "9d",
    ]
    assert "\n  name: paper\n" in cli(*command).out
    begun = compose([*NETWORKS[0], "name=mine", "data=synthetic", "recipe=quick"])
    record = RunRecord(run_directory(begun))
    with record.lock():
        record.begin(begun, {}, {"first_iteration": 0}, resumed=False)
    outcome = cli(*command)
    assert "\n  name: quick\n" in outcome.out
    assert outcome.err.endswith("): quick 10 s more\ngoing on with recipe quick, which is begun\n")


def test_records_of_another_recipe_are_gone_on_with(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_training(experiments: list[Experiment], *_: Any, **__: Any) -> list[RunRecord]:
        return [RunRecord(run_directory(own)) for own in experiments]

    paced(monkeypatch, quick=10)
    monkeypatch.setattr("degrade.runs.many.run_matrix", no_training)
    begun = compose([*NETWORKS[0], "name=mine", "data=synthetic", "recipe=short"])
    record = RunRecord(run_directory(begun))
    with record.lock():
        record.begin(begun, {}, {"first_iteration": 0}, resumed=False)
    outcome = cli("reproduce", "figure1", "launcher.jobs=1", "name=mine", "data=synthetic", "--within", "9d")
    assert "going on with recipe short, which is begun\n" in outcome.out, outcome.err


def a_plan(recipe: str, left: float, *, begun: bool = False, pace: float = 0) -> Plan:
    return Plan(recipe, [(Experiment(), left)] if left else [], begun, pace, None)


@pytest.mark.parametrize(
    ("begun", "seconds", "recipe"),
    [
        ("", (10, 90, 900), "short"),
        ("", (110, 900, 9000), None),
        ("quick", (5, 90, 900), "quick"),  # whose timing may have said 110 before
        ("quick", (5, 60, 900), "short"),
        ("short", (10, 140, 900), "short"),  # which once fitted
        ("short", (10, 160, 900), "quick"),
        ("paper", (10, 90, 900), "short"),  # by somebody with more time
    ],
)
def test_a_recipe_that_is_begun_is_not_left_for_noise(
    begun: str, seconds: tuple[float, ...], recipe: str | None
) -> None:
    plans = [a_plan(name, 1, begun=name == begun) for name in ("quick", "short", "paper")]
    found = fitting(plans, seconds, 100)
    assert (found and found.recipe) == recipe


def test_a_complete_recipe_is_timed_again_only_where_more_may_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [a_plan("quick", 0, begun=True, pace=1), a_plan("short", 1000)]
    monkeypatch.setattr(estimate, "_pace", never)
    assert choose(plans, 200).recipe == "quick"
    monkeypatch.setattr(estimate, "_pace", lambda *_: (0.4, "an abacus"))
    assert choose(plans, 800).recipe == "short"


def test_no_more_networks_are_timed_than_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def pace(own: Experiment, *_: Any) -> tuple[float, str]:
        timed.append(own.model.depth)
        return 1.0, "an abacus"

    monkeypatch.setattr(estimate, "_pace", pace)
    todo = [(compose([f"model.depth={depth}", "seed=1"]), 10.0 * depth) for depth in (20, 56, 20)]
    paper = Plan("paper", todo, False, 0, None)
    assert estimate.tell([paper]) == [960]
    assert timed == [20, 56]
    monkeypatch.setattr(estimate, "LONGEST", 0)
    assert estimate.tell([paper]) == [960]
    assert timed == [20, 56, 20]


def test_networks_side_by_side_last_as_long_as_the_cores_are_busy() -> None:
    seconds = [10.0, 30.0, 10.0, 30.0]
    assert a_plan("quick", 1).lasts(seconds) == 80
    assert a_plan("quick", 1)._replace(jobs=2).lasts(seconds) == 40
    assert a_plan("quick", 1)._replace(jobs=3).lasts(seconds) == 30
    assert a_plan("quick", 1)._replace(jobs=3).lasts([]) == 0


def test_what_cannot_be_timed_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(estimate, "Training", fail)
    assert estimate.tell([Plan("paper", [(Experiment(), 5.0)], False, 0, None)]) == [float("inf")]


@pytest.mark.parametrize(
    ("settings", "evaluated"),
    [
        ("data.pixels=32", 2 * 40 + 2 * 90),
        ("data.pixels=16", 2 * 40 + 2 * 90),
        ("data.pixels=8 eval.clean_every=12", 2 * 40 + 2 * 2 * 90),
        ("data.pixels=8 eval.clean_every=12 model.norm=none", 2 * 40 + 2 * 90),  # no second pass
    ],
)
def test_work_goes_with_pixels_and_a_run_does_what_is_planned(
    settings: str, evaluated: int, small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    class Counted(Progress):
        def advance(self, work: float) -> None:
            done.append(work)
            super().advance(work)

    experiment = small(*settings.split())
    planned = 8 * (experiment.data.pixels / 32) ** 2 * (24 * 16 + EVALUATION_COST * evaluated)
    assert planned_work(experiment) == pytest.approx(planned)
    monkeypatch.setattr(train, "Progress", Counted)
    run(experiment)
    assert sum(done) == pytest.approx(planned)
