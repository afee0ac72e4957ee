import importlib
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from degrade.analysis import Curve, Verdict, error_curves, verdict, verdict_text, verdicts
from degrade.analysis.intervals import Sample, welch_interval
from degrade.analysis.verdict import Rules, at_chance, is_trained
from degrade.config import Experiment
from tests.conftest import Cli
from tests.records import finished, story

Errors = dict[str, tuple[Sequence[float], Sequence[float]]]

#: Final errors in percent, three seeds a network, at the sizes of the paper: (training, test).
PAPER: Errors = {
    "plain-20": ((1.2, 1.3, 1.4), (9.5, 9.7, 9.9)),
    "plain-56": ((5.6, 5.8, 6.0), (13.0, 13.3, 13.6)),
    "residual-20": ((0.6, 0.7, 0.8), (8.6, 8.75, 8.9)),
    "residual-56": ((0.12, 0.14, 0.16), (6.9, 7.0, 7.1)),
}

#: As the short recipe might end with three seeds: all trained but plain-56, which is not at chance.
SHORT: Errors = {
    "plain-20": ((10.7, 10.9, 10.5), (14.2, 14.0, 14.4)),
    "plain-56": ((46.9, 44.0, 49.0), (47.6, 45.0, 50.0)),
    "residual-20": ((9.3, 9.4, 9.1), (13.1, 13.0, 13.3)),
    "residual-56": ((12.3, 12.0, 12.8), (15.6, 15.5, 15.9)),
}

#: As the quick recipe ended: nothing has learnt enough, and two seeds of plain-56 are at chance.
QUICK: Errors = {
    "plain-20": ((59.7, 60.6, 59.7), (59.4, 60.1, 59.7)),
    "plain-56": ((79.8, 87.4, 89.5), (79.6, 87.5, 89.5)),
    "residual-20": ((51.6, 52.5, 54.0), (51.1, 52.3, 54.3)),
    "residual-56": ((61.3, 62.2, 63.8), (60.9, 61.8, 63.1)),
}


def first_seeds(errors: Errors, count: int = 1) -> Errors:
    return {network: (train[:count], test[:count]) for network, (train, test) in errors.items()}


def judged(root: Path, errors: Errors, *overrides: str, rules: Rules | None = None, **how: Any) -> Verdict:
    return verdict(error_curves(story(root, errors, *overrides, **how)), rules)


def outcomes(found: Verdict) -> dict[str, str]:
    return {claim.name: claim.outcome for claim in found.claims if claim.decides}


# Intervals


def test_the_interval_over_seeds_is_welchs() -> None:
    rng = np.random.default_rng(0)
    for n, m in ((2, 2), (3, 5), (7, 2)):
        a, b = rng.normal(1, 1, n), rng.normal(0, 3, m)
        expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        found = welch_interval([Sample(1, a.tolist()), Sample(-1, b.tolist())])
        np.testing.assert_allclose(found, (a.mean() - b.mean(), expected.low, expected.high))  # type: ignore[arg-type]
    assert welch_interval([Sample(1, [0.5, 0.6]), Sample(-1, [0.4])]) is None


# Statistics with known truth


def drawn(
    template: list[Curve], draws: dict[str, tuple[list[float], list[float]]], rules: Rules | None = None
) -> Verdict:
    """The verdict on these errors (fractions), everything else being the template's."""
    curves = []
    for curve in template:
        train, test = draws[curve.label]
        final = {"train_error": train, "train_error_clean": train, "train_error_batch": [], "test_error": test}
        curves.append(replace(curve, final=final))
    return verdict(curves, rules)


def many(
    root: Path,
    truth: dict[str, tuple[float, float]],
    draw: Callable[[float], list[float]],
    rules: Rules | None = None,
    count: int = 1000,
) -> list[Verdict]:
    """So many verdicts on errors drawn around the truth, (training, test) in percent."""
    template = error_curves(story(root, PAPER))
    return [
        drawn(template, {n: (draw(a / 100), draw(b / 100)) for n, (a, b) in truth.items()}, rules)
        for _ in range(count)
    ]


def seeds(count: int, deviation: float) -> Callable[[float], list[float]]:
    """Seeds that scatter normally by so many points."""
    rng = np.random.default_rng(1512_03385)
    return lambda error: list(np.abs(rng.normal(error, deviation / 100, count)))


def once(tell: Callable[[Experiment], Any]) -> Callable[[Experiment], Any]:
    """A function that asks another once for each experiment, which it keeps, so that no other gets its id."""
    found: dict[int, tuple[Experiment, Any]] = {}

    def told(experiment: Experiment) -> Any:
        if id(experiment) not in found:
            found[id(experiment)] = experiment, tell(experiment)
        return found[id(experiment)][1]

    return told


@pytest.fixture
def settings_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from an experiment's settings is computed once, not for each of a thousand verdicts."""
    for module, name in (("verdict", "shared_settings"), ("verdict", "family_settings"), ("curves", "follows_paper")):
        own = importlib.import_module(f"degrade.analysis.{module}")
        monkeypatch.setattr(own, name, once(getattr(own, name)))


NOTHING = dict.fromkeys(PAPER, (15.0, 20.0))
#: Least gaps of independent reproductions: 2.1 points in test error; in training error as one author's clean one.
LEAST = {"plain-20": (0.9, 9.6), "plain-56": (3.7, 11.7), "residual-20": (0.5, 8.6), "residual-56": (0.1, 7.3)}

#: Points between seeds of one network, as measured: at the paper's end a few tenths (6.61 +- 0.16 at depth 110), in
#: the quick recipe up to 5.
SCATTER = (0.25, 5.0)


@pytest.mark.usefixtures("settings_told_once")
@pytest.mark.parametrize(("count", "deviation"), [(2, SCATTER[1]), (3, SCATTER[0])])
def test_where_nothing_differs_a_claim_is_decided_as_rarely_as_is_said(
    count: int, deviation: float, tmp_path: Path
) -> None:
    """95 % intervals exclude the truth 5 times in 100, 2.5 on either side; a thousand draws may say up to 7.3."""
    found = many(tmp_path, NOTHING, seeds(count, deviation))
    for k, claim in enumerate(found[0].claims):
        above = sum(v.claims[k].interval.low > 0 for v in found)  # type: ignore[union-attr]
        assert above <= stats.binom.ppf(0.999, 1000, 0.025), claim.name
        if claim.name != "residual-train":
            wrong = sum(v.claims[k].outcome != "inconclusive" for v in found)
            assert wrong <= stats.binom.ppf(0.999, 1000, 0.05), claim.name
    assert sum(v.outcome == "reproduced" for v in found) <= 5


@pytest.mark.usefixtures("settings_told_once")
def test_one_seed_decides_nothing_unless_it_is_allowed_to(tmp_path: Path) -> None:
    """Allowed, its sign decides: where nothing differs it is wrong as often as it falls so."""
    found = many(tmp_path, NOTHING, seeds(1, SCATTER[0]), count=100)
    assert {v.outcome for v in found} == {"inconclusive"}
    assert all(claim.interval is None and claim.outcome == "inconclusive" for v in found for claim in v.claims)
    allowed = many(tmp_path / "allowed", NOTHING, seeds(1, SCATTER[0]), Rules(allow_one_seed=True))
    share = sum(v.claims[0].outcome == "reproduced" for v in allowed) / 1000
    assert 0.45 < share < 0.55
    assert all("one seed, no interval" in v.qualifiers for v in allowed)
    # All six at once, which hang together, fall the paper's way about one time in thirteen.
    assert 0.03 < sum(v.outcome == "reproduced" for v in allowed) / 1000 < 0.15


@pytest.mark.usefixtures("settings_told_once")
def test_three_seeds_find_what_independent_reproductions_find(tmp_path: Path) -> None:
    found = many(tmp_path, LEAST, seeds(3, 0.3))
    for k, name in enumerate(("plain-train", "plain-test")):
        assert found[0].claims[k].name == name
        assert sum(v.claims[k].outcome == "reproduced" for v in found) > 950
    assert sum(v.outcome == "not reproduced" for v in found) <= 10


@pytest.mark.usefixtures("settings_told_once")
def test_three_seeds_reproduce_the_whole_story(tmp_path: Path) -> None:
    """Seeds scatter by a tenth of the error, and by 0.25 points at most."""
    rng = np.random.default_rng(1512_03385)

    def draw(error: float) -> list[float]:
        return list(np.abs(rng.normal(error, min(0.0025, error / 10), 3)))

    assert sum(v.outcome == "reproduced" for v in many(tmp_path, LEAST, draw)) > 950


@pytest.mark.usefixtures("settings_told_once")
def test_networks_that_never_learn_are_never_taken_for_degradation(tmp_path: Path) -> None:
    """Shallow ones at 80 %, deep ones at 89 %: a gap, and no evidence, whatever the number of seeds."""
    truth = {n: (80.0, 80.0) if n.endswith("20") else (89.0, 89.0) for n in PAPER} | {"residual-56": (81.0, 81.0)}
    for count in (1, 2, 3):
        found = many(tmp_path / str(count), truth, seeds(count, 0.5), Rules(allow_one_seed=True), 100)
        assert {v.outcome for v in found} == {"too early"}


# What is compared, and what decides


def test_the_papers_errors_reproduce_the_paper(tmp_path: Path) -> None:
    found = judged(tmp_path, PAPER)
    assert found.outcome == "reproduced"
    assert found.qualifiers == []
    assert outcomes(found) == dict.fromkeys(
        ("plain-train", "plain-test", "residual-train", "deep-train", "deep-test", "cost-of-depth"), "reproduced"
    )
    np.testing.assert_allclose(estimates(found), [4.5, 3.6, -0.56, 5.66, 6.3, 5.06])
    np.testing.assert_allclose(100 * np.array([c.paper for c in found.claims]), [4.5, 3.6, -0.56, 5.66, 6.33, 5.06])
    assert all(claim.interval is not None for claim in found.claims)
    assert [claim.reproductions for claim in found.claims] == [None, (0.021, 0.034), None, None, None, None]


def estimates(found: Verdict) -> list[float]:
    return [100 * claim.estimate for claim in found.claims if claim.estimate is not None]


def test_the_papers_training_error_stands_beside_the_running_one(cli: Cli, tmp_path: Path) -> None:
    """The records' running error is 1.5 times the clean one, by which the claims are judged."""
    story(tmp_path / "outputs", PAPER)
    text = cli("verify").out
    assert "of running training error: +6.75; the paper: +4.50" in text
    assert "another author, clean training error, one seed: +2.83" in text
    assert "= +3.60 points, +2.99 to +4.21\n                  the paper: +3.60\n" in text
    assert "The paper's training errors look like running ones, and stand beside those." in text
    found = json.loads(cli("verify", "--json").out)["verdicts"][0]["claims"]
    assert [claim["running"] is None for claim in found] == [claim["error"] == "test" for claim in found]
    # Without the paper's recipe nothing of the paper's stands beside.
    story(tmp_path / "other", SHORT, "recipe=short")
    assert "the paper: " not in cli("verify", "other").out


def test_a_shallow_network_that_is_worse_refutes(tmp_path: Path) -> None:
    worse = PAPER | {"plain-20": ((7.0, 7.2, 7.4), (14.5, 14.7, 14.9))}
    found = judged(tmp_path, worse)
    assert found.outcome == "not reproduced"
    assert outcomes(found)["plain-train"] == outcomes(found)["plain-test"] == "not reproduced"
    assert outcomes(found)["deep-train"] == "reproduced"


def test_one_interval_that_holds_zero_leaves_the_verdict_open(tmp_path: Path) -> None:
    found = judged(tmp_path, PAPER | {"plain-56": ((5.6, 5.8, 6.0), (9.0, 13.0, 14.0))})
    assert outcomes(found)["plain-test"] == "inconclusive"
    assert found.outcome == "inconclusive"
    assert found.qualifiers == []


# How far networks have come


def test_a_network_is_trained_below_half_of_chance_level_after_its_last_milestone(tmp_path: Path) -> None:
    errors = {"plain-20": (44.9, True), "plain-32": (45.1, False), "plain-44": (0.1, True)}
    for network, (error, trained) in errors.items():
        (curve,) = error_curves([finished(tmp_path, network, 0, error / 100, 0.1)])
        assert is_trained(curve, "train_error_clean") is trained, network
    held = "recipe.milestones=[32000,64000]"
    (curve,) = error_curves([finished(tmp_path, "plain-20", 0, 0.01, 0.1, held)])
    assert not is_trained(curve, "train_error_clean")
    (two,) = error_curves(story(tmp_path, {"plain-56": ([10, 50], [10, 50])}))
    assert not is_trained(two, "train_error_clean")
    (stuck,) = error_curves(story(tmp_path, {"plain-110": ([84.9, 85.0, 90.0], [90, 90, 90])}))
    assert at_chance(stuck, "train_error_clean") == 2


def test_chance_level_is_what_the_record_says(tmp_path: Path) -> None:
    record = finished(tmp_path, "plain-20", 0, 0.3, 0.3)
    assert error_curves([record])[0].chance == pytest.approx(0.9)
    path = record.path / "environment.json"
    path.write_text(json.dumps(record.environment | {"chance_error": 0.5}))
    (curve,) = error_curves([record])
    assert curve.chance == 0.5
    assert not is_trained(curve, "train_error_clean")


def test_networks_that_have_hardly_begun_to_learn_are_too_early(cli: Cli, tmp_path: Path) -> None:
    story(tmp_path / "outputs", QUICK, "recipe=quick")
    found = cli("verify")
    assert found.code == 4
    text = " ".join(found.out.split())
    assert "verdict: too early (plain-56 is at 86%, 2 of 3 seeds at chance; plain-20 is at 60%: not trained" in text
    alone = first_seeds(QUICK) | {"plain-56": ([89.5], [89.5])}
    story(tmp_path / "one", alone, "recipe=quick")
    found = cli("verify", "one", "--allow-one-seed")
    assert (found.code, "plain-56 is at 90%: it has hardly begun to learn" in found.out) == (4, True)


def test_a_better_network_that_is_trained_and_none_at_chance_lets_a_claim_decide(tmp_path: Path) -> None:
    found = judged(tmp_path, SHORT, "recipe=short")
    assert found.outcome == "reproduced"
    assert found.qualifiers == ["early training only"]
    stuck = SHORT | {"plain-56": ((46.9, 44.0, 85.5), (47.6, 45.0, 85.5))}
    assert outcomes(judged(tmp_path / "b", stuck, "recipe=short"))["plain-train"] == "too early"
    untrained = SHORT | {"plain-20": ((45.5, 45.2, 45.9), (46, 46, 46)), "plain-56": ((60, 61, 62), (60, 61, 62))}
    decided = outcomes(judged(tmp_path / "c", untrained, "recipe=short"))
    assert decided["plain-train"] == decided["cost-of-depth"] == "too early"
    assert decided["deep-train"] == "reproduced"


def test_at_the_end_of_the_papers_recipe_a_network_at_chance_is_evidence(tmp_path: Path) -> None:
    """The paper's plain-110 ends above 60 % (caption of Figure 6)."""
    runs = story(tmp_path, PAPER) + story(tmp_path, {"plain-110": ([88, 89, 90], [88, 89, 90])})
    runs += story(tmp_path, {"residual-110": ([0.1, 0.1, 0.12], [6.5, 6.6, 6.7])})
    found = verdict(error_curves(runs))
    assert found.claims[0].text == "plain-110 has higher training error than plain-20"
    assert found.outcome == "reproduced"
    assert (
        "plain-110 stayed at chance to the end of the paper's iterations, which is evidence"
        in found.claims[0].remarks
    )
    # Yet a shallow network at chance, which nothing is better than, is none.
    same: Errors = dict.fromkeys(PAPER, ([90.0, 90.0, 89.9], [90.0, 90.0, 89.9]))
    assert judged(tmp_path / "b", same).outcome == "too early"


def test_early_in_training_the_deeper_residual_network_decides_nothing(tmp_path: Path) -> None:
    found = judged(tmp_path, SHORT, "recipe=short")
    claim = found.claims[2]
    assert (claim.name, claim.outcome, claim.decides) == ("residual-train", "not reproduced", False)
    assert "early in training depth costs both families" in claim.remarks[0]
    assert claim.paper is None
    # The same errors at the end of the paper's recipe would refute the paper.
    assert judged(tmp_path, SHORT).outcome == "not reproduced"


def test_early_in_training_plain_networks_alone_decide_nothing(tmp_path: Path) -> None:
    plain = {network: errors for network, errors in SHORT.items() if network.startswith("plain")}
    found = judged(tmp_path, plain, "recipe=short")
    assert set(outcomes(found).values()) == {"reproduced"}
    assert found.outcome == "inconclusive"
    assert found.qualifiers == ["no residual networks to compare the cost of depth with"]


# One seed, and seeds that went wrong


@pytest.mark.parametrize(
    ("deep", "allowed", "code", "words"),
    [
        (5.8, False, 4, "inconclusive (one seed: the gaps point the paper's way)"),
        (5.8, True, 0, "reproduced (one seed, no interval)"),
        (0.9, False, 4, "inconclusive (one seed: the gaps do not all point the paper's way)"),
        (0.9, True, 3, "not reproduced (one seed, no interval)"),
    ],
)
def test_one_seed_decides_only_if_it_is_allowed_to(
    deep: float, allowed: bool, code: int, words: str, cli: Cli, tmp_path: Path
) -> None:
    story(tmp_path / "outputs", first_seeds(PAPER) | {"plain-56": ([deep], [13.3])})
    found = cli("verify", *["--allow-one-seed"] * allowed)
    assert found.code == code
    assert " ".join(found.out.split()).endswith(f"verdict: {words}")
    assert "Intervals of" not in found.out
    assert " points, " not in found.out


def test_one_seed_of_one_network_leaves_its_claims_without_interval(tmp_path: Path) -> None:
    found = judged(tmp_path, PAPER | {"residual-56": ([0.14], [7.0])})
    assert [claim.interval is None for claim in found.claims] == [False, False, True, True, True, True]
    assert found.outcome == "inconclusive"
    assert found.qualifiers == ["one seed: the gaps point the paper's way"]


def test_a_deeper_residual_network_that_is_as_good_is_no_worse(tmp_path: Path) -> None:
    """Non-inferiority with a margin of half a point: equal errors, and even equal zeros, are reproduced."""
    for k, errors in enumerate(((0.7, 0.6, 0.8), (0.0, 0.0, 0.0))):
        same = PAPER | {"residual-20": (errors, (8.6, 8.7, 8.9)), "residual-56": (errors, (6.9, 7.0, 7.1))}
        found = judged(tmp_path / str(k), same)
        assert outcomes(found)["residual-train"] == "reproduced"
        assert found.outcome == "reproduced"
    tests = ((8.6, 8.7, 8.9), (6.9, 7.0, 7.1))
    worse = PAPER | {"residual-20": ((0.69, 0.7, 0.71), tests[0]), "residual-56": ((0.9, 0.92, 0.94), tests[1])}
    assert outcomes(judged(tmp_path / "in", worse))["residual-train"] == "reproduced"  # 0.22 points behind, surely
    strict = judged(tmp_path / "strict", worse, rules=Rules(margin=0.001))
    assert outcomes(strict)["residual-train"] == "not reproduced"
    assert strict.claims[2].text.endswith("(by more than 0.1 points)")
    unsure = PAPER | {"residual-56": ((0.7, 1.2, 1.7), (6.9, 7.0, 7.1))}
    assert outcomes(judged(tmp_path / "open", unsure))["residual-train"] == "inconclusive"


def test_seeds_with_the_very_same_errors_are_no_certainty(tmp_path: Path) -> None:
    same: Errors = {n: ([float(np.mean(a))] * 2, [float(np.mean(b))] * 2) for n, (a, b) in PAPER.items()}
    found = judged(tmp_path, same, rules=Rules(allow_one_seed=True))
    claim = found.claims[0]
    assert (claim.interval, claim.outcome, found.qualifiers) == (None, "inconclusive", [])
    assert "such scatter says nothing" in claim.remarks[0]


def test_seeds_that_diverged_are_named_in_the_claim(cli: Cli, tmp_path: Path) -> None:
    story(tmp_path / "outputs", PAPER)
    finished(tmp_path / "outputs", "residual-56", 3, 0.9, 0.9, status="diverged")
    text = " ".join(cli("verify").out.split())
    assert text.count("1 of 4 seeds of residual-56 diverged, and the mean is of the others") == 4
    assert "residual-56, seed 3: diverged" in text


def test_the_running_training_error_is_taken_where_a_clean_one_is_missing(tmp_path: Path) -> None:
    assert judged(tmp_path, PAPER).kind == "train_error_clean"
    runs = [finished(tmp_path, n, 7, a[0] / 100, b[0] / 100, clean=n != "plain-56") for n, (a, b) in PAPER.items()]
    found = verdict(error_curves(runs))
    assert found.kind == "train_error"
    np.testing.assert_allclose(estimates(found)[0], 1.5 * (5.6 - 1.2))
    assert "Claims are judged by the running training error" in " ".join(verdict_text([found]).split())


# What is compared


def test_runs_on_other_images_are_not_compared(tmp_path: Path) -> None:
    records = story(tmp_path, PAPER)
    for record in records:
        digest = "a" if "plain-56" in str(record.path) else "b"
        (record.path / "environment.json").write_text(json.dumps(record.environment | {"data_hash": digest * 64}))
    found = verdicts(error_curves(records))
    assert sorted(len(one.curves) for one in found) == [1, 3]
    assert not any(one.judged for one in found)


def test_mixed_precisions_are_named(tmp_path: Path) -> None:
    records = story(tmp_path, PAPER)
    session = {"first_iteration": 0, "last_iteration": 64_000, "precision": "bf16"}
    content = records[0].environment | {"schema_version": 2, "sessions": [session]}
    (records[0].path / "environment.json").write_text(json.dumps(content))
    mixed = "precisions mixed: plain-20 bf16 and fp32, plain-56 fp32, residual-20 fp32, residual-56 fp32"
    assert verdict(error_curves(records)).qualifiers == [mixed]


def test_depths_are_the_outermost_that_both_families_have(tmp_path: Path) -> None:
    more = PAPER | {
        "plain-32": ((1.5, 1.5, 1.6), (10.0, 10.1, 10.2)),
        "residual-110": ((0.1, 0.1, 0.1), (6.6, 6.5, 6.7)),
    }
    assert judged(tmp_path, more).claims[0].text == "plain-56 has higher training error than plain-20"
    assert judged(tmp_path, more, "name=b").claims[2].text.startswith("residual-56 has no higher")
    alone = {n: e for n, e in more.items() if n not in ("residual-20", "residual-56")}
    found = judged(tmp_path, alone, "name=c")
    assert found.qualifiers == ["plain networks only"]
    assert outcomes(found) == {"plain-train": "reproduced", "plain-test": "reproduced"}
    assert [want.what for want in found.lacking] == ["residual-20", "residual-56"]


def test_a_diverged_network_is_no_evidence_and_the_next_depth_stands_in(tmp_path: Path) -> None:
    runs = story(tmp_path, PAPER)
    runs += [finished(tmp_path, "plain-110", seed, 0.9, 0.9, status="diverged") for seed in (0, 1)]
    runs.append(finished(tmp_path, "residual-110", 0, 0.001, 0.066))
    found = verdict(error_curves(runs))
    assert found.claims[0].text == "plain-56 has higher training error than plain-20"
    assert found.outcome == "reproduced"
    assert [tuple(want) for want in found.left_out] == [
        ("plain-110, seed 0, 1: diverged, counts neither for nor against a claim", "")
    ]


def test_unfinished_runs_are_not_counted_and_named(tmp_path: Path) -> None:
    runs = story(tmp_path, PAPER)
    runs.append(finished(tmp_path, "plain-56", 3, 0.2, 0.3, status="interrupted"))
    found = verdict(error_curves(runs))
    np.testing.assert_allclose(estimates(found)[0], 4.5)
    (want,) = found.left_out
    assert want.what == "plain-56, seed 3: interrupted"
    assert want.command == f"degrade train --config {runs[-1].path}/config.yaml"
    # A network begun and not finished leaves the verdict open, where one never begun would not.
    whole = {n: e for n, e in PAPER.items() if n != "residual-56"}
    pending = [
        *story(tmp_path, whole, "name=b"),
        finished(tmp_path, "residual-56", 0, 0.2, 0.3, "name=b", status="failed"),
    ]
    assert verdict(error_curves(pending)).outcome == "inconclusive"
    assert verdict(error_curves(pending[:-1])).outcome == "reproduced"


def test_unequal_parameters_decide_nothing(tmp_path: Path) -> None:
    plain = {n: e for n, e in PAPER.items() if n.startswith("plain")}
    other = {n: e for n, e in PAPER.items() if n.startswith("residual")}
    runs = story(tmp_path, plain)
    runs += story(tmp_path, {"residual-20": other["residual-20"]}, "model.shortcut=B", parameters=272_474)
    runs += story(tmp_path, {"residual-56": other["residual-56"]}, "model.shortcut=B", parameters=855_770)
    found = verdict(error_curves(runs))
    assert set(outcomes(found)) == {"plain-train", "plain-test", "residual-train"}
    assert found.claims[3].outcome == "reproduced"
    assert "plain-56 has 853,018 and residual-56 has 855,770" in found.claims[3].remarks[0]


def test_plain_networks_stand_beside_residual_ones_of_each_kind_of_shortcut(tmp_path: Path) -> None:
    residual = {n: e for n, e in PAPER.items() if n.startswith("residual")}
    found = verdicts(error_curves([*story(tmp_path, PAPER), *story(tmp_path, residual, "model.shortcut=B")]))
    assert [(v.extra, v.outcome, len(v.curves)) for v in found] == [
        ("", "reproduced", 4),
        ("model.shortcut=B", "reproduced", 4),
    ]


def test_each_experiment_and_setting_is_judged_for_itself(tmp_path: Path) -> None:
    runs = [*story(tmp_path, PAPER), *story(tmp_path, QUICK, "recipe=quick")]
    runs += story(tmp_path, {n: ([5.0, 5.1, 4.9], b) for n, (_, b) in PAPER.items()}, "optim.lr=0.05")
    runs += story(tmp_path, {"plain-20": ([5.0], [9.0])}, "optim.lr=0.2")
    found = verdicts(error_curves(runs))
    assert [(Path(v.folder).name, v.extra, v.judged, v.outcome) for v in found] == [
        ("paper", "", True, "reproduced"),
        ("paper", "optim.lr=0.05", True, "inconclusive"),
        ("paper", "optim.lr=0.2", False, "inconclusive"),
        ("quick", "", True, "too early"),
    ]
    assert "not judged: " in verdict_text(found)
    with pytest.raises(ValueError, match="too many"):
        verdict(error_curves(runs))


# The command


@pytest.mark.parametrize(
    ("errors", "code", "outcome"),
    [
        (PAPER, 0, "reproduced"),
        ({"plain-20": PAPER["plain-56"], "plain-56": PAPER["plain-20"]}, 3, "not reproduced (plain networks only)"),
        ({"plain-20": PAPER["plain-20"]}, 4, "inconclusive"),
    ],
)
def test_the_exit_code_is_the_outcomes(errors: Errors, code: int, outcome: str, cli: Cli, tmp_path: Path) -> None:
    story(tmp_path / "outputs", errors)
    found = cli("verify")
    assert found.code == code
    assert found.out.splitlines()[-1] == f"verdict: {outcome}"
    machine = cli("verify", "--json", "outputs/paper")
    assert machine.code == code
    assert json.loads(machine.out)["outcome"] == outcome.partition(" (")[0]


def test_text_fits_80_columns_but_for_commands(cli: Cli, tmp_path: Path) -> None:
    story(tmp_path / "outputs", PAPER | {"residual-110": ([0.1, 0.12], [6.5, 6.6])}, "recipe=short")
    story(tmp_path / "outputs", {"plain-110": ([88.0], [89.0])}, "recipe=short", status="interrupted")
    for command in (["verify"], ["runs"], ["runs", "--mean"], ["plot"]):
        text = [line for line in cli(*command).out.splitlines() if "degrade train" not in line]
        assert max(map(len, text)) <= 80, command
    assert "not counted:\n  plain-110, seed 0: interrupted\n  degrade train --config" in cli("verify").out


def test_what_is_lacking_is_named_with_a_command_that_supplies_it(cli: Cli, tmp_path: Path) -> None:
    story(tmp_path / "outputs", {"plain-20": ([60.0], [60.0])}, "recipe=quick", "optim.lr=0.03")
    text = cli("verify").out
    assert "a verdict needs plain networks of two depths" in text
    line = next(line for line in text.splitlines() if "model.family=plain model.depth=56" in line)
    dry = cli(*shlex.split(line)[1:], "--dry-run")
    assert "lr: 0.03" in dry.out
    assert "# run directory: outputs/quick/plain-56,optim.lr=0.03/seed-0" in dry.out.replace(f"{tmp_path}/", "")


def test_json_holds_every_number(cli: Cli, tmp_path: Path) -> None:
    story(tmp_path / "outputs", PAPER)
    found = json.loads(cli("verify", "--json").out)
    assert found["schema_version"] == 2
    (one,) = found["verdicts"]
    assert one["training_error"] == "train_error_clean"
    claim = one["claims"][0]
    expected = stats.ttest_ind(PAPER["plain-56"][0], PAPER["plain-20"][0], equal_var=False).confidence_interval()
    np.testing.assert_allclose([100 * claim["low"], 100 * claim["high"]], [expected.low, expected.high])
    assert claim["contrast"] == [[1, "plain-56"], [-1, "plain-20"]]
    assert [c["inside_reproductions"] for c in one["claims"]] == [None, False, None, None, None, None]
    assert [n["trained"] for n in one["networks"]] == [True] * 4
    assert [n["inside_reproductions"] for n in one["networks"]] == [True, False, True, False]


def test_synthetic_images_are_labelled(cli: Cli, tmp_path: Path) -> None:
    story(tmp_path / "outputs", PAPER, "data=synthetic")
    found = cli("verify")
    assert found.out.splitlines()[-1] == "verdict: reproduced (SYNTHETIC data)"
    assert "other reproductions" not in found.out


# The wall

WALL: Errors = {
    "vgg-11": ((5.0, 5.2, 4.8), (15, 15, 15)),
    "vgg-13": ((4.0, 4.2, 3.8), (14, 14, 14)),
    "vgg-19": ((9.0, 9.4, 8.8), (19, 19, 19)),
    "residual-14": ((4.0, 4.1, 3.9), (14, 14, 14)),
    "residual-20": ((2.0, 2.1, 1.9), (12, 12, 12)),
}


def wall(root: Path, errors: Errors, *overrides: str) -> Verdict:
    return judged(root, {n: e for n, e in errors.items() if n.startswith("vgg")} | errors, *overrides, parameters=7)


def test_the_wall_is_judged_from_the_best_vgg_to_the_deepest(cli: Cli, tmp_path: Path) -> None:
    found = wall(tmp_path, WALL)
    assert found.wall
    assert [claim.text for claim in found.claims] == [
        "vgg-19 has higher training error than vgg-13",
        "residual-20 has no higher training error than residual-14 (by more than 0.5 points)",
        "depth costs the residual networks less training error than VGG",
    ]
    assert found.outcome == "reproduced"
    assert "the interval allows for the best having been chosen among 2" in found.claims[0].remarks
    plain = stats.ttest_ind(WALL["vgg-19"][0], WALL["vgg-13"][0], equal_var=False).confidence_interval(0.975)
    np.testing.assert_allclose(found.claims[0].interval[1:], np.array([plain.low, plain.high]) / 100)  # type: ignore[index]
    falls = wall(tmp_path / "falls", WALL | {"vgg-19": ((3.0, 3.1, 2.9), (12, 12, 12))})
    assert (falls.claims[0].outcome, falls.outcome) == ("not reproduced", "not reproduced")
    early = wall(tmp_path / "early", WALL | {"vgg-19": ((88.9, 87, 86), (88, 87, 86))}, "recipe=wall")
    assert (early.outcome, early.claims[1].decides) == ("too early", False)
    story(tmp_path / "outputs", {"vgg-11": ([5.0], [15.0])}, parameters=7)
    alone = cli("verify")
    assert (alone.code, "a verdict needs VGGs of two depths" in alone.out) == (4, True)


@pytest.mark.usefixtures("settings_told_once")
def test_where_no_depth_differs_the_wall_stands_no_more_often_than_is_said(tmp_path: Path) -> None:
    """The best of four shallower networks is the best by chance, which its interval allows for."""
    errors: Errors = {f"vgg-{depth}": ((15, 15.1, 15.2), (20, 20, 20)) for depth in (11, 13, 16, 19, 25)}
    template = error_curves(story(tmp_path, errors, parameters=7))
    rng = np.random.default_rng(0)
    stands = 0
    for _ in range(500):
        draws = {c.label: ([*rng.normal(0.15, 0.02, 3)], [0.2] * 3) for c in template}
        stands += drawn(template, draws).claims[0].outcome == "reproduced"
    assert stands <= stats.binom.ppf(0.999, 500, 0.05)


def test_plain_networks_and_vggs_of_one_folder_are_judged_apart(tmp_path: Path) -> None:
    runs = [*story(tmp_path, PAPER), *story(tmp_path, WALL | PAPER, "name=b", parameters=7)]
    found = verdicts(error_curves(runs))
    assert [(Path(v.folder).name, v.wall) for v in found] == [("b", False), ("b", True), ("paper", False)]


def test_another_family_with_shortcuts_is_set_against_the_plain_networks(tmp_path: Path) -> None:
    preact = {f"preact-{n.partition('-')[2]}": errors for n, errors in PAPER.items() if n.startswith("residual")}
    found = verdicts(error_curves([*story(tmp_path, PAPER), *story(tmp_path, preact)]))
    assert [v.families for v in found] == [("plain", "residual"), ("plain", "preact")]
    assert [v.title.rpartition("/")[2] for v in found] == ["paper", "paper, preact"]
    assert outcomes(found[1]) == outcomes(found[0])  # preact networks have as many parameters
    assert found[1].claims[2].text.startswith("preact-56 has no higher training error than preact-20")
    assert "network preact (paper plain or residual)" in " ".join(verdict_text(found[1:]).split())


def test_what_depth_costs_any_family_without_shortcuts_is_judged(tmp_path: Path) -> None:
    own = "model.family=torch.nn.Sequential"
    plain = {n: e for n, e in PAPER.items() if n.startswith("plain")}
    alone = verdict(error_curves(story(tmp_path / "alone", plain, own)))
    assert alone.judged
    assert alone.claims[0].text == "torch.nn.Sequential-56 has higher training error than torch.nn.Sequential-20"
    assert alone.headline == "reproduced (torch.nn.Sequential networks only)"
    residual = {n: e for n, e in PAPER.items() if n.startswith("residual")}
    runs = [*story(tmp_path / "both", plain, own), *story(tmp_path / "both", residual)]
    assert verdict(error_curves(runs)).headline == "reproduced"


def test_a_record_says_whether_its_network_has_shortcuts(tmp_path: Path) -> None:
    """A network's own word for it is kept beside its number of parameters."""
    own = "model.family=torch.nn.Sequential"
    runs = story(tmp_path, {n: e for n, e in PAPER.items() if n.startswith("residual")}, own)
    for run in runs:
        path = run.path / "environment.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"shortcuts": True}))
    found = verdict(error_curves([*runs, *story(tmp_path, {n: e for n, e in PAPER.items() if "plain" in n})]))
    assert (found.families, found.outcome) == (("plain", "torch.nn.Sequential"), "reproduced")
