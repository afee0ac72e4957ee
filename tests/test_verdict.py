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
from degrade.analysis.intervals import Sample, sampling_interval, welch_interval, wilson
from tests.conftest import Outcome
from tests.records import finished, story

Cli = Callable[..., Outcome]
Errors = dict[str, tuple[Sequence[float], Sequence[float]]]

#: Final errors in percent, three seeds a network, at the sizes of the paper: (training, test).
PAPER: Errors = {
    "plain-20": ((1.2, 1.3, 1.4), (9.5, 9.7, 9.9)),
    "plain-56": ((5.6, 5.8, 6.0), (13.0, 13.3, 13.6)),
    "residual-20": ((0.6, 0.7, 0.8), (8.6, 8.75, 8.9)),
    "residual-56": ((0.12, 0.14, 0.16), (6.9, 7.0, 7.1)),
}

#: As the quick recipe ends, one seed.
QUICK: Errors = {
    "plain-20": ([60.6], [60.0]),
    "plain-56": ([87.4], [87.5]),
    "residual-20": ([52.5], [52.3]),
    "residual-56": ([62.2], [61.8]),
}


def judged(root: Path, errors: Errors, *overrides: str, **how: Any) -> Verdict:
    return verdict(error_curves(story(root, errors, *overrides, **how)))


def outcomes(found: Verdict) -> dict[str, str]:
    return {claim.name: claim.outcome for claim in found.claims if claim.decides}


# Intervals


def test_the_interval_over_seeds_is_welchs() -> None:
    rng = np.random.default_rng(0)
    for n, m in ((2, 2), (3, 5), (7, 2)):
        a, b = rng.normal(1, 1, n), rng.normal(0, 3, m)
        expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        found = welch_interval([Sample(1, a.tolist()), Sample(-1, b.tolist())])
        np.testing.assert_allclose(found, (a.mean() - b.mean(), expected.low, expected.high))


def test_the_interval_of_an_error_is_wilsons() -> None:
    for count, images in ((0, 50_000), (70, 50_000), (1330, 10_000), (90, 90)):
        expected = stats.binomtest(count, images).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose(wilson(count / images, images), expected, atol=1e-15)


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """56 of 70 against 48 of 80: the example of Newcombe, Statistics in Medicine 17 (1998), method 10."""
    found = sampling_interval([Sample(1, [56 / 70], 70), Sample(-1, [48 / 80], 80)])
    np.testing.assert_allclose(found, (0.2, 0.0524, 0.3339), atol=5e-5)  # type: ignore[arg-type]
    assert sampling_interval([Sample(1, [0.5], 70), Sample(-1, [0.5], None)]) is None


# Statistics with known truth


def networks(root: Path) -> list[Curve]:
    return error_curves(story(root, PAPER))


def drawn(template: list[Curve], draws: dict[str, tuple[list[float], list[float]]]) -> Verdict:
    """The verdict on these errors (fractions), everything else being the template's."""
    return verdict(
        replace(
            curve,
            clean_train=draws[curve.label][0],
            final_train=draws[curve.label][0],
            final_test=draws[curve.label][1],
        )
        for curve in template
    )


def many(
    root: Path, truth: dict[str, tuple[float, float]], draw: Callable[[float, int], list[float]]
) -> list[Verdict]:
    """A thousand verdicts on errors drawn around the truth, (training, test) in percent."""
    template = networks(root)
    return [
        drawn(template, {n: (draw(a / 100, 50_000), draw(b / 100, 10_000)) for n, (a, b) in truth.items()})
        for _ in range(1000)
    ]


def seeds(count: int, deviation: float) -> Callable[[float, int], list[float]]:
    rng = np.random.default_rng(1512_03385)
    return lambda error, _: list(np.abs(rng.normal(error, deviation / 100, count)))


def one_seed() -> Callable[[float, int], list[float]]:
    rng = np.random.default_rng(1512_03385)
    return lambda error, images: [rng.binomial(images, error) / images]


NOTHING = dict.fromkeys(PAPER, (5.0, 10.0))
#: Least gaps of independent reproductions: 2.1 points in training and in test error.
LEAST = {"plain-20": (1.3, 9.6), "plain-56": (3.4, 11.7), "residual-20": (0.7, 8.6), "residual-56": (0.1, 7.3)}


@pytest.mark.parametrize("draw", [seeds(3, 0.25), seeds(5, 0.25), one_seed()], ids=["3 seeds", "5 seeds", "one seed"])
def test_where_nothing_differs_a_claim_is_decided_as_rarely_as_is_said(
    draw: Callable[[float, int], list[float]], tmp_path: Path
) -> None:
    """95 % intervals exclude the truth 5 times in 100, 2.5 on either side; a thousand draws may say 2.9 to 7.3."""
    found = many(tmp_path, NOTHING, draw)
    most = stats.binom.ppf(0.999, 1000, 0.05)
    least = stats.binom.ppf(0.001, 1000, 0.025)  # Welch's interval of few seeds is somewhat too wide
    for k in range(6):
        wrong = sum(v.claims[k].outcome != "inconclusive" for v in found)
        assert least <= wrong <= most, (found[0].claims[k].name, wrong)
        above = sum(v.claims[k].interval.low > 0 for v in found)  # type: ignore[union-attr]
        assert above <= stats.binom.ppf(0.999, 1000, 0.025)
    assert sum(v.outcome == "reproduced" for v in found) <= stats.binom.ppf(0.999, 1000, 0.025)


@pytest.mark.parametrize("deviation", [0.2, 0.3])
def test_three_seeds_find_what_independent_reproductions_find(deviation: float, tmp_path: Path) -> None:
    found = many(tmp_path, LEAST, seeds(3, deviation))
    for k, name in enumerate(("plain-train", "plain-test")):
        assert found[0].claims[k].name == name
        assert sum(v.claims[k].outcome == "reproduced" for v in found) > 950
    assert sum(v.outcome == "not reproduced" for v in found) <= 10


def test_one_seed_finds_the_papers_gaps(tmp_path: Path) -> None:
    truth = {n: (float(np.mean(a)), float(np.mean(b))) for n, (a, b) in PAPER.items()}
    assert sum(v.outcome == "reproduced" for v in many(tmp_path, truth, one_seed())) > 990


def test_three_seeds_reproduce_the_whole_story(tmp_path: Path) -> None:
    """Seeds scatter by a tenth of the error, and by 0.25 points at most."""
    rng = np.random.default_rng(1512_03385)

    def draw(error: float, _: int) -> list[float]:
        return list(np.abs(rng.normal(error, min(0.0025, error / 10), 3)))

    assert sum(v.outcome == "reproduced" for v in many(tmp_path, LEAST, draw)) > 950


# What is compared, and what decides


def test_the_papers_errors_reproduce_the_paper(tmp_path: Path) -> None:
    found = judged(tmp_path, PAPER)
    assert found.outcome == "reproduced"
    assert found.qualifiers == []
    assert outcomes(found) == dict.fromkeys(
        ("plain-train", "plain-test", "residual-train", "deep-train", "deep-test", "cost-of-depth"), "reproduced"
    )
    estimates = [100 * claim.interval.estimate for claim in found.claims if claim.interval]
    np.testing.assert_allclose(estimates, [4.5, 3.6, -0.56, 5.66, 6.3, 5.06])
    np.testing.assert_allclose(100 * np.array([c.paper for c in found.claims]), [4.5, 3.6, -0.56, 5.66, 6.33, 5.06])
    assert {claim.method for claim in found.claims} == {"welch"}
    assert [claim.others for claim in found.claims[:3]] == [(0.021, 0.032), (0.021, 0.034), None]


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


def test_early_in_training_the_deeper_residual_network_decides_nothing(tmp_path: Path) -> None:
    found = judged(tmp_path, QUICK, "recipe=quick")
    claim = found.claims[2]
    assert (claim.name, claim.outcome, claim.decides) == ("residual-train", "not reproduced", False)
    assert found.outcome == "reproduced"
    assert found.qualifiers == ["early training only", "one seed"]
    assert claim.paper is None
    # The same errors at the end of the paper's recipe would refute the paper.
    assert judged(tmp_path, QUICK).outcome == "not reproduced"


def test_the_running_training_error_is_taken_where_a_clean_one_is_missing(tmp_path: Path) -> None:
    assert judged(tmp_path, QUICK, "recipe=quick").clean
    runs = [finished(tmp_path, n, 7, a[0] / 100, b[0] / 100, clean=n != "plain-56") for n, (a, b) in QUICK.items()]
    found = verdict(error_curves(runs))
    assert not found.clean
    np.testing.assert_allclose(found.claims[0].interval.estimate, 1 - 1.5 * 0.606)  # type: ignore[union-attr]
    # Half of 64,000 updates of 128 images are behind the last running error.
    expected = sampling_interval([Sample(1, [1.0], 32_000 * 128), Sample(-1, [0.909], 32_000 * 128)])
    np.testing.assert_allclose(found.claims[0].interval, expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "train", "test"),
    [
        ("data.name=cifar10", 50_000, 10_000),
        ("data.test_limit=300", 50_000, 300),
        ("data.train_limit=90", 90, 10_000),
        ("data.split=45k/5k", 45_000, 5_000),
    ],
)
def test_one_seeds_interval_knows_how_many_images_there_were(
    setting: str, train: int, test: int, tmp_path: Path
) -> None:
    found = judged(tmp_path, QUICK, setting)
    for claim, error, images in ((found.claims[0], (0.874, 0.606), train), (found.claims[1], (0.875, 0.6), test)):
        expected = sampling_interval([Sample(1, [error[0]], images), Sample(-1, [error[1]], images)])
        np.testing.assert_allclose(claim.interval, expected)  # type: ignore[arg-type]


def test_a_folder_of_unknown_size_needs_a_second_seed(tmp_path: Path) -> None:
    found = judged(tmp_path, QUICK, "data=folder", f"data.root={tmp_path}")
    assert found.outcome == "inconclusive"
    assert "a second seed gives an interval" in found.claims[0].remark


def test_seeds_with_the_very_same_errors_are_no_certainty(tmp_path: Path) -> None:
    same: Errors = {n: ([float(np.mean(a))] * 2, [float(np.mean(b))] * 2) for n, (a, b) in PAPER.items()}
    claim = judged(tmp_path, same).claims[0]
    assert claim.method == "sampling"
    assert claim.interval is not None
    assert claim.interval.high - claim.interval.low > 0.001


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


def test_a_network_that_learns_next_to_nothing_is_evidence(tmp_path: Path) -> None:
    """The paper's plain-110 ends above 60 % (caption of Figure 6)."""
    runs = story(tmp_path, PAPER) + story(tmp_path, {"plain-110": ([88, 89, 90], [88, 89, 90])})
    runs += story(tmp_path, {"residual-110": ([0.1, 0.1, 0.12], [6.5, 6.6, 6.7])})
    found = verdict(error_curves(runs))
    assert found.claims[0].text == "plain-110 has higher training error than plain-20"
    assert found.outcome == "reproduced"


def test_unfinished_runs_are_not_counted_and_named(tmp_path: Path) -> None:
    runs = story(tmp_path, PAPER)
    runs.append(finished(tmp_path, "plain-56", 3, 0.2, 0.3, status="interrupted"))
    found = verdict(error_curves(runs))
    np.testing.assert_allclose(found.claims[0].interval.estimate, 0.045)  # type: ignore[union-attr]
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
    runs = story(tmp_path, plain, "model.shortcut=B")
    runs += story(tmp_path, {"residual-20": other["residual-20"]}, "model.shortcut=B", parameters=272_474)
    runs += story(tmp_path, {"residual-56": other["residual-56"]}, "model.shortcut=B", parameters=855_770)
    found = verdict(error_curves(runs))
    assert set(outcomes(found)) == {"plain-train", "plain-test", "residual-train"}
    assert found.claims[3].outcome == "reproduced"
    assert "plain-56 has 853,018 and residual-56 has 855,770" in found.claims[3].remark


def test_each_experiment_and_setting_is_judged_for_itself(tmp_path: Path) -> None:
    runs = [*story(tmp_path, PAPER), *story(tmp_path, QUICK, "recipe=quick")]
    runs += story(tmp_path, {n: ([5.0] * 3, b) for n, (_, b) in PAPER.items()}, "optim.lr=0.05")
    runs += story(tmp_path, {"plain-20": ([5.0], [9.0])}, "optim.lr=0.2")
    found = verdicts(error_curves(runs))
    assert [(Path(v.folder).name, v.extra, v.judged, v.outcome) for v in found] == [
        ("paper", "", True, "reproduced"),
        ("paper", "optim.lr=0.05", True, "inconclusive"),
        ("paper", "optim.lr=0.2", False, "inconclusive"),
        ("quick", "", True, "reproduced"),
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
    assert found["schema_version"] == 1
    (one,) = found["verdicts"]
    assert one["training_error"] == "train_error_clean"
    claim = one["claims"][0]
    expected = stats.ttest_ind(PAPER["plain-56"][0], PAPER["plain-20"][0], equal_var=False).confidence_interval()
    np.testing.assert_allclose([100 * claim["low"], 100 * claim["high"]], [expected.low, expected.high])
    assert claim["contrast"] == [[1, "plain-56"], [-1, "plain-20"]]
    assert claim["inside_reproductions"] is False
    assert [n["inside_reproductions"] for n in one["networks"]] == [True, False, True, False]


def test_synthetic_images_are_labelled(cli: Cli, tmp_path: Path) -> None:
    story(tmp_path / "outputs", PAPER, "data=synthetic")
    found = cli("verify")
    assert found.out.splitlines()[-1] == "verdict: reproduced (SYNTHETIC data)"
    assert "others' test" not in found.out
