"""The constructed solution beside the network it is built from; and its training on, a record like any other."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from degrade.analysis import error_curves
from degrade.config import ModelConfig
from degrade.errors import ConfigError, RunError
from degrade.models import BasicBlock, CifarNet, build_model
from degrade.probes.construct import (
    _become_identity,
    compare,
    constructed,
    continuations,
    exact_scale,
    look,
    train_on,
)
from degrade.probes.probe import Row, subject
from degrade.runs import RunRecord, find_records, run
from degrade.training import checkpoint
from tests.conftest import SMALL, Cli, Make, Trained, small_but
from tests.test_runs import interrupted_copy

CASES = [
    ("plain", "batch", "A"),
    ("plain", "none", "A"),
    ("residual", "batch", "A"),
    ("residual", "none", "A"),
    ("residual", "batch", "C"),
]


@pytest.mark.parametrize(("family", "norm", "shortcut"), CASES)
def test_the_built_network_has_the_very_logits_of_the_trained_one(
    trained: Trained, family: str, norm: str, shortcut: str
) -> None:
    settings = [f"model={family}", f"model.norm={norm}", f"model.shortcut={shortcut}", "recipe.iterations=6"]
    training = subject(trained(*settings), "cpu")
    deep = constructed(training, 20).eval()
    shallow = training.engine.model.eval()
    images = (training.batches.pixels.float() / 255 - training.batches.mean)[:50]
    with torch.inference_mode():
        expected, found = shallow(images), deep(images)
    assert torch.equal(found, expected)
    assert len(torch.unique(expected, dim=0)) > 40  # the images are told apart, so equality says something
    assert len(list(deep.convolutions())) == 19


def test_in_train_mode_the_built_network_differs_by_a_batchs_noise_alone(trained: Trained) -> None:
    training = subject(trained("recipe.batch_size=45"), "cpu")
    deep = constructed(training, 20).train()
    images, _ = training.batches.batch(1)
    with torch.no_grad():
        apart = (deep(images) - training.engine.model.train()(images)).std()
        spread = deep(images).std()
    assert apart < 0.1 * spread
    untrained = build_model(ModelConfig(depth=20)).train()
    assert (untrained(images) - deep(images)).std() > 0.5 * spread  # as others are not


def test_gradients_reach_the_layers_added_to_a_residual_network(trained: Trained) -> None:
    training = subject(trained("model=residual", "recipe.iterations=2"), "cpu")
    deep = constructed(training, 14).train()
    images, labels = training.batches.batch(1)
    F.cross_entropy(deep(images), labels).backward()  # type: ignore[no-untyped-call]
    gradient = dict(deep.named_parameters())["layer1.1.bn2.weight"].grad
    assert gradient is not None
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 1e-12, 0.5, 3.0])
def test_a_scale_that_undoes_any_variance_exactly_is_found(epsilon: float) -> None:
    given = torch.cat([torch.zeros(3), torch.logspace(-12, 6, 50_000)])
    variance, scale = exact_scale(given, epsilon)
    assert torch.allclose(variance + epsilon, given + epsilon, rtol=1e-6)
    mean = torch.linspace(-3, 3, len(given))
    images = torch.randn(2, len(given), 3, 3, generator=torch.Generator().manual_seed(0))
    out = F.batch_norm(images, mean, variance, scale, mean, eps=epsilon)
    assert torch.equal(out, images)


def test_errors_are_those_of_the_networks_one_image_at_a_time(trained: Trained) -> None:
    record = trained("recipe.iterations=6")
    train, test = compare(record, 14, device="cpu")
    training = subject(record, "cpu")
    model = training.engine.model.eval()
    for row, (pixels, labels) in (
        (train, (training.batches.pixels, training.batches.labels)),
        (test, training.test),
    ):
        answers = [int(model((image[None].float() / 255) - training.batches.mean).argmax()) for image in pixels]
        wrong = sum(a != b for a, b in zip(answers, labels.tolist(), strict=True)) / len(labels)
        assert row["shallow_error"] == row["deep_error"] == pytest.approx(wrong)
        assert row["largest_difference"] == 0
        assert row["count"] == len(labels)
    assert compare(record, 14, limit=10)[0]["count"] == 10


def test_it_trains_on_into_a_record_that_begins_where_the_run_ended_and_resumes(trained: Trained) -> None:
    record = trained("recipe.iterations=6")
    experiment, _ = continuations(record, 14, 4, ["log.every=1", "checkpoint.every=1"])
    assert experiment.optim.lr == pytest.approx(0.05)  # the first milestone is 12
    assert (
        experiment.model.start
        == "plain-8,data=synthetic,data.test_limit=40,data.train_limit=90,recipe.iterations=6.seed-0.6"
    )
    deep = train_on(record, experiment)
    assert deep.status == "complete"
    assert deep.path.parents[1].name == "smoke-construct"
    assert str(experiment.model.start) in deep.environment["open_choices"]["initial weights"]
    assert train_on(record, experiment).rows() == deep.rows()  # skipped
    for path in record.path.glob("checkpoint*"):
        path.unlink()
    assert run(experiment).status == "complete"  # nothing left to do, so nothing to begin
    with pytest.raises(ConfigError, match="degrade probe construct"):
        run(experiment, fresh=True)


def test_the_control_trains_on_as_long_at_the_same_rate_from_the_same_weights(trained: Trained) -> None:
    record = trained("recipe.iterations=6", "runtime.precision=fp32")
    deep, control = continuations(record, 14, 3, ["optim.lr=1e-30", "runtime.precision=auto"])
    assert (control.model.depth, control.model.start) == (8, deep.model.start)
    assert control.optim == deep.optim
    assert control.recipe == deep.recipe
    assert (
        control.runtime.precision == deep.runtime.precision == "fp32"
    )  # as the run itself, whatever auto means here
    on = train_on(record, control)
    assert on.path.parents[1] == train_on(record, deep).path.parents[1]
    assert on.path.parent.name.startswith("plain-8,")
    assert "model.start=plain-8" in on.path.parent.name
    assert on.environment["open_choices"]["initial weights"] == f"those of {control.model.start}, trained"
    before, after = (dict(subject(own, "cpu").engine.model.named_parameters()) for own in (record, on))
    assert all(torch.equal(before[name], after[name]) for name in before)  # no update is of any size at that rate
    (curve,) = error_curves([on])
    assert curve.label == "plain-8 trained on"
    assert curve.built


def test_an_interrupted_run_continues_at_the_rate_where_it_stopped(small: Make) -> None:
    settings = ["optim.lr=0.05", "recipe.milestones=[8,20]"]
    record = interrupted_copy(small, *settings, at=6)
    for experiment in continuations(record, 14, 4):
        assert experiment.optim.lr == pytest.approx(0.05)  # not the 0.0005 of its planned end
        assert str(experiment.model.start).endswith(".6")
    assert continuations(interrupted_copy(small, *settings, "name=later", at=13), 14, 4)[0].optim.lr == pytest.approx(
        0.005
    )
    warming = interrupted_copy(small, *settings, "name=warming", "recipe.warmup=on", at=3)
    assert continuations(warming, 14, 4)[0].optim.lr == pytest.approx(0.01)


def killed(record: RunRecord, iteration: int) -> None:
    """Leave a record as `kill -9` does between two checkpoints: the summary is ahead of the weights."""
    record.summarise(**{**record.summary, "iteration": iteration, "status": "running"})


def test_weights_are_filed_under_the_iteration_that_they_have(small: Make) -> None:
    record = interrupted_copy(small, at=6)
    killed(record, 11)
    assert {row["iteration"] for row in compare(record, 14, device="cpu")} == {6}
    deep, control = continuations(record, 14, 2)
    assert str(deep.model.start).endswith(".seed-0.6")
    assert train_on(record, control).status == "complete"
    checkpoint.remove(record.path)
    assert continuations(record, 14, 2) == (deep, control)  # the numbers that are kept say so still


@pytest.mark.parametrize("iterations", [0, 10_000_001, 99999999999999999999])
def test_absurd_iterations_are_refused_at_once(trained: Trained, iterations: int) -> None:
    record = trained("recipe.iterations=2")
    with pytest.raises(ConfigError, match=f"^--continue {iterations}: must lie from 1 to 10000000$"):
        continuations(record, 14, iterations)


def test_a_depth_that_is_not_greater_or_not_6n_plus_2_is_refused(trained: Trained) -> None:
    record = trained("recipe.iterations=2")
    with pytest.raises(ConfigError, match="depth 8; give a greater one"):
        compare(record, 8)
    with pytest.raises(ConfigError, match="nearest: 14 or 20"):
        compare(record, 15)


@pytest.mark.parametrize(
    "text", ["model.depth=20", "model=residual", "data.name=cifar10", "recipe.iterations=7", "name=x", "output=oo"]
)
def test_a_continuation_keeps_network_images_and_place(trained: Trained, text: str) -> None:
    record = trained("recipe.iterations=2")
    with pytest.raises(ConfigError, match=f"^{text}: .*leave it out$"):
        continuations(record, 14, 4, ["optim.lr=0.1", text])
    assert continuations(record, 14, 4, ["optim.lr=0.1", "data.root=elsewhere"])[0].optim.lr == 0.1


def test_the_command_prints_draws_and_draws_again_from_the_records_alone(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *SMALL, "recipe.iterations=4").code == 0
    assert cli("train", *small_but("recipe.iterations=4", "model.depth=14")).code == 0
    (shallow,) = tmp_path.glob("outputs/smoke/plain-8*")
    command = ("probe", "construct", str(shallow), "--depth", "14", "--continue", "2")
    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[1].split()[-1] == "0"
    lines = outcome.out.splitlines()
    last = lines[lines.index(next(line for line in lines if line.startswith("last errors"))) :][:5]
    assert all(len(line) <= 80 for line in [*lines[:3], *last])
    assert [line.split(" (synthetic)")[0] for line in last[1:]] == [
        "plain-8",
        "plain-14 built from plain-8, trained on",
        "plain-8 trained on (control)",
        "plain-14 from scratch",
    ]
    built, control = (RunRecord(Path(line[8:])) for line in lines if line.startswith("record: "))
    assert (built.experiment.model.depth, control.experiment.model.depth) == (14, 8)
    figure = tmp_path / "outputs/smoke-construct/construct.png"
    drawn = figure.read_bytes()
    for path in tmp_path.rglob("checkpoint*.pt"):
        path.unlink()
    again = cli(*command)
    assert again.code == 0
    assert again.out.count("already complete, skipped") == 2
    assert figure.read_bytes() == drawn
    assert cli("probe", "construct", "outputs/smoke", "--depth", "14").code == 2
    assert cli(*command[:-2], "optim.lr=1").code == 2
    absurd = cli(*command[:-1], "99999999999999999999")
    assert (absurd.code, absurd.err.count("\n")) == (2, 1)
    assert "--continue 99999999999999999999: must lie from" in absurd.err


@pytest.mark.parametrize(
    ("run", "beside", "shown"),
    [
        ("paper/plain-20/seed-0", "paper/plain-56/seed-0", 62_800),
        ("quick/plain-20/seed-1", "quick/plain-56/seed-1", 0),
    ],
)
def test_beside_a_long_run_the_figure_shows_its_last_part(run: str, beside: str, shown: int) -> None:
    root = Path(__file__).parents[1] / "outputs" / "reference"
    trained = find_records([root / f"{run.split('/')[0]}-construct"])
    rows: list[Row] = [
        {"set": name, "count": 1, "shallow_error": 0.1, "deep_error": 0.1, "largest_difference": 0.0}
        | {"iteration": RunRecord(root / run).summary["iteration"]}
        for name in ("train", "test")
    ]
    figure = look(RunRecord(root / run), 56, rows, trained, RunRecord(root / beside)).figure
    assert [axes.get_xlim()[0] for axes in figure.axes] == [shown, shown]
    assert figure.axes[0].get_ylim() == ((0, 12) if shown else (10, 90))


def test_identity_initialisation_passes_a_normalised_image_on() -> None:
    config = ModelConfig(depth=14, init="dirac", norm="none")
    model = build_model(config, generator=torch.Generator().manual_seed(0)).eval()
    assert isinstance(model, CifarNet)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(model.layer1(x), x)
    assert torch.equal(model.layer2[1](torch.cat([x, x], 1)), torch.cat([x, x], 1))
    first = model.layer2[0].conv1
    assert isinstance(first, torch.nn.Conv2d)
    assert first.weight.std().item() == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)


def test_a_norm_that_knows_no_identity_is_refused() -> None:
    block = BasicBlock(16, 16, 1, ModelConfig())
    block.bn2 = nn.GroupNorm(4, 16)
    with pytest.raises(RunError, match="GroupNorm"):
        _become_identity(block, torch.zeros(16), torch.ones(16))
