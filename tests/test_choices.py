"""Norms, initial weights, nonlinearities, optimizers, schedules and families that are chosen by name."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degrade.analysis import error_curves, verdict, verdicts
from degrade.config import ModelConfig, RecipeConfig, compose
from degrade.config.identity import departures, variant
from degrade.data import load_images
from degrade.errors import ConfigError
from degrade.models import build_model, convolution, count_parameters, normalisation
from degrade.models.anatomy import layers_of
from degrade.models.preact import BottleneckBlock, PreactBlock, WideBlock
from degrade.probes.gradients import layer_gradients
from degrade.training import Training, choose_engine, fit
from degrade.training.graph import GraphEngine
from degrade.training.schedule import scheduled_rate
from tests.conftest import Make
from tests.records import finished, story

CUDA = torch.device("cuda")


# Networks


@pytest.mark.parametrize(
    ("words", "count", "published"),
    [
        ("model=preact model.depth=110", 1_727_962, "1.7"),
        ("model=bottleneck model.depth=164", 1_703_258, "1.7"),
        ("model=wide model.depth=16 model.width=128", 10_961_370, "11.0"),
        ("model=wide model.depth=28 model.width=160", 36_479_194, "36.5"),
        ("model=wide model.depth=40 model.width=64", 8_949_210, "8.9"),
    ],
)
def test_parameter_counts_are_those_of_the_papers(words: str, count: int, published: str) -> None:
    """He et al. (2016), Table 4, and Zagoruyko and Komodakis (2016), Table 4, in millions."""
    layers = layers_of(compose(words.split()).model)
    assert sum(layer.parameters for layer in layers) == count
    assert f"{count / 1e6:.1f}" == published


def test_the_paper_counts_resnet_1001_without_its_norms() -> None:
    """He et al. (2016) say 10.2 million, which are the weights of convolutions and the linear layer."""
    with torch.device("meta"):
        model = build_model(compose(["model=bottleneck", "model.depth=1001"]).model)
    assert count_parameters(model) == 10_327_706
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert f"{weights / 1e6:.1f}" == "10.2"


@pytest.mark.parametrize(("family", "depth"), [("preact", 20), ("bottleneck", 29), ("wide", 22)])
def test_the_weighted_layers_are_the_depth(family: str, depth: int) -> None:
    """Zagoruyko and Komodakis count the three 1x1 convolutions of the shortcuts, He et al. do not."""
    model = build_model(ModelConfig(family=family, depth=depth))
    assert len(list(model.convolutions())) + 1 + 2 * (family == "wide") == depth


@pytest.mark.parametrize("kind", [PreactBlock, BottleneckBlock, WideBlock])
@pytest.mark.parametrize(("channels", "stride"), [(32, 1), (64, 2)])
def test_a_block_is_its_formula(kind: type[PreactBlock], channels: int, stride: int) -> None:
    """x + F(x), each convolution after norm and activation (He et al. 2016, Figure 4e), in eval mode."""
    block = kind(32, channels, stride, ModelConfig(norm="layer")).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, 0.1, 0.2, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(1))
    weights = block.state_dict()

    def active(x: Tensor, k: int) -> Tensor:
        return F.group_norm(x, 1, weights[f"norms.{k}.weight"], weights[f"norms.{k}.bias"]).relu()

    out = activated = active(x, 0)
    strided = len(block.kernels) - 2
    for k, size in enumerate(block.kernels):
        out = active(out, k) if k else out
        out = F.conv2d(out, weights[f"convs.{k}.weight"], padding=size // 2, stride=stride if k == strided else 1)
    added = x
    if channels != 32 and block.projects:
        added = F.conv2d(activated, weights["shortcut.weight"], stride=stride)
    elif channels != 32:
        added = torch.zeros_like(out)
        added[:, 16:48] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), out + added)


@pytest.mark.parametrize(
    "words",
    [
        *("model=plain", "model=residual", "model=vgg model.depth=11 model.width=4"),  # 20 layers are two segments
        *("model=preact", "model=bottleneck", "model=wide model.depth=10 model.width=16"),
    ],
)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_recomputing_changes_nothing(words: str, norm: str) -> None:
    """Neither gradients nor running statistics, which a second forward pass would update twice."""
    config = compose([*words.split(), f"model.norm={norm}"]).model
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for recompute in (False, True):
        model = build_model(config, generator=torch.Generator().manual_seed(0))
        model.recompute = recompute
        model(x).sum().backward()
        gradients = {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
        found.append({**model.state_dict(), **gradients})
    torch.testing.assert_close(*found)


def test_depths_are_those_of_the_family() -> None:
    for words, near in (
        (
            ["model=bottleneck", "model.depth=165"],
            "a bottleneck network has depth 11, 20, 29 ...; nearest: 164 or 173",
        ),
        (["model=wide", "model.depth=20"], "nearest: 16 or 22"),
        (["model=preact", "model.depth=2"], "nearest: 8"),
    ):
        with pytest.raises(ConfigError, match=near):
            compose(words)
    assert variant(compose(["model=wide"])) == "wide-16"
    assert departures(compose(["model=wide", "model.width=160", "model.depth=28"])) == [
        "network wide (paper plain or residual)",
        "width 160",
    ]


@pytest.mark.parametrize("family", ["preact", "bottleneck", "wide"])
def test_gradients_are_measured_in_every_layer(family: str, small: Make) -> None:
    experiment = small(f"model={family}", f"model.depth={ {'preact': 8, 'bottleneck': 11, 'wide': 10}[family] }")
    model = build_model(experiment.model, generator=torch.Generator().manual_seed(0))
    rows = layer_gradients(model, torch.randn(4, 3, 32, 32), torch.arange(4))
    assert len(rows) == len(list(model.convolutions())) + 1
    assert all(float(row["weight_gradient"]) > 0 and float(row["response_std"]) > 0 for row in rows)
    assert all(math.isnan(float(row["dead"])) for row in rows)


def test_the_verdict_names_what_another_family_lacks(tmp_path: Path) -> None:
    papers = {"plain-20": ([8.0], [9.0]), "plain-56": ([12.0], [13.0])}
    others = [finished(tmp_path, name, 0, 0.01, 0.02, parameters=7) for name in ("preact-20", "wide-22")]
    records = [*story(tmp_path, papers), *others]
    preact, wide = verdicts(error_curves(records))
    assert [claim.estimate for claim in preact.claims[:2]] == [pytest.approx(0.04)] * 2
    assert [want.what for want in preact.lacking] == ["preact-56"]
    assert wide.lacking == ()  # no wide network has 20 or 56 layers
    assert not verdict(error_curves(records[2:3])).judged
    alone = [*others[1:], finished(tmp_path, "wide-16", 0, 0.01, 0.02, parameters=7)]
    (found,) = verdicts(error_curves(alone))
    assert found.lacking == ()  # nor has a plain network 16 or 22


# What networks are made of


@pytest.mark.parametrize(
    ("norm", "activation"),
    [
        *((norm, "relu") for norm in ("batch", "group", "layer", "weight_standardised", "none")),
        *(("batch", activation) for activation in ("gelu", "leaky")),
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        "plain model.depth=8",
        "residual model.depth=8 model.shortcut=B",
        "vgg model.depth=11 model.width=8",
        "preact model.depth=8",
    ],
)
def test_every_norm_and_activation_gives_ten_finite_logits(norm: str, activation: str, words: str) -> None:
    family, *more = words.split()
    config = compose([f"model={family}", *more, f"model.norm={norm}", f"model.activation={activation}"]).model
    logits = build_model(config)(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()
    assert sum(layer.parameters for layer in layers_of(config)) == count_parameters(build_model(config))


@pytest.mark.parametrize(("norm", "groups"), [("group", 3), ("layer", 1)])
def test_group_and_layer_norm_are_loops_over_groups(norm: str, groups: int) -> None:
    x = torch.randn(2, 24, 5, 5)
    ours = normalisation(24, ModelConfig(norm=norm))(x)
    for image in range(2):
        for own, values in zip(ours[image].chunk(groups), x[image].chunk(groups), strict=True):
            expected = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(own, expected)


def test_standardised_weights_are_a_loop_over_filters() -> None:
    layer = convolution(4, 6, 3, ModelConfig(norm="weight_standardised"), stride=2)
    x = torch.randn(2, 4, 9, 9)
    filters = [(own - own.mean()) / own.std(correction=0) for own in layer.weight]
    torch.testing.assert_close(layer(x), F.conv2d(x, torch.stack(filters), stride=2, padding=1))
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", F.relu), ("gelu", F.gelu), ("leaky", lambda x: torch.where(x > 0, x, 0.01 * x))],
)
def test_the_nonlinearity_is_the_one_that_is_named(activation: str, function: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-3, 3, 50)
    model = build_model(ModelConfig(depth=8, activation=activation))
    torch.testing.assert_close(model.activate(x.clone()), function(x))
    torch.testing.assert_close(model.layer1[0].activate(x.clone()), function(x))


def test_he_by_fan_out_and_orthogonal_weights_are_what_they_say() -> None:
    drawn = build_model(ModelConfig(depth=20, init="he_fan_out"), generator=torch.Generator().manual_seed(0))
    weight = drawn.layer3[0].conv1.weight.detach()  # 32 to 64 channels
    assert float(weight.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    orthogonal = build_model(ModelConfig(depth=20, init="orthogonal"), generator=torch.Generator().manual_seed(0))
    rows = orthogonal.layer3[0].conv1.weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(64), atol=1e-5, rtol=0)
    again = build_model(ModelConfig(depth=20, init="orthogonal"), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.conv1.weight, orthogonal.conv1.weight)


def test_groups_of_eight_need_a_width_of_eights() -> None:
    with pytest.raises(ConfigError, match=r"model.width=12: model.norm=group has groups of 8 channels"):
        compose(["model=vgg", "model.width=12", "model.norm=group"])


# Schedules


def rates(schedule: str, total: int, **more: object) -> list[float]:
    recipe = RecipeConfig(iterations=total, schedule=schedule, **more)  # type: ignore[arg-type]
    return [scheduled_rate(k, recipe, base=0.1) for k in range(1, total + 1)]


@pytest.mark.parametrize(
    ("schedule", "total"),
    [
        *((schedule, total) for schedule in ("cosine", "linear") for total in (1, 2, 7, 50)),
        *(("one_cycle", total) for total in (7, 50)),  # PyTorch divides by zero where a cycle has no rise
    ],
)
def test_schedules_are_pytorchs(schedule: str, total: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    of = torch.optim.lr_scheduler
    theirs: torch.optim.lr_scheduler.LRScheduler
    if schedule == "cosine":
        theirs = of.CosineAnnealingLR(optimizer, total)
    elif schedule == "linear":
        theirs = of.LinearLR(optimizer, 1.0, 0.0, total)
    else:
        theirs = of.OneCycleLR(optimizer, 0.1, total_steps=total, cycle_momentum=False)
    expected = []
    for k in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if k + 1 < total:
            theirs.step()
    assert rates(schedule, total) == pytest.approx(expected, rel=1e-6)


def test_a_ramp_comes_before_the_fall() -> None:
    found = rates("cosine", 40, warmup="linear", warmup_iterations=10)
    assert found[:10] == pytest.approx([0.01 * k for k in range(1, 11)])
    assert found[10:] == pytest.approx(rates("cosine", 30))
    assert min(rates("linear", 5, warmup="linear", warmup_iterations=9)) > 0  # the ramp is longer than the run


def test_the_papers_rates_are_the_same_to_the_last_bit() -> None:
    recipe = RecipeConfig()
    assert [scheduled_rate(k, recipe, base=0.1) for k in (1, 32000, 32001, 48001)] == [0.1, 0.1, 0.01, 0.001]
    assert scheduled_rate(9, RecipeConfig(warmup="on"), base=0.1, warming=True) == 0.01


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "recipe.schedule=cosine recipe.milestones=[3]",
            "it belongs to recipe.schedule=steps, and recipe.schedule=cos",
        ),
        ("recipe.schedule=one_cycle recipe.warmup=linear", "recipe.schedule=one_cycle begins with a rise of its own"),
        ("optim=adamw optim.momentum=0.8", "it belongs to optim=sgd, and optim.name=adamw has its own"),
        ("optim=adamw optim.nesterov=true", "it belongs to optim=sgd"),
        ("model.norm=group model.bn_epsilon=0.1", "it is a setting of batch norm, and model.norm=group has none"),
        ("model.norm=layer optim.decay_norm=false", "it is a setting of batch norm, and model.norm=layer has none"),
        ("recipe.schedule=cosin", "did you mean cosine"),
        ("optim=adam", "did you mean adamw"),
    ],
)
def test_what_has_no_effect_is_refused(words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        compose(words.split())


# Optimizers


def test_adamw_brings_a_rate_and_a_decay_of_its_own() -> None:
    for recipe in ("paper", "quick"):
        optim = compose([f"recipe={recipe}", "optim=adamw"]).optim
        assert (optim.name, optim.lr, optim.weight_decay) == ("adamw", 0.001, 0.01)
    assert compose(["optim=adamw", "recipe=short"]).optim.clip == 1.0  # the recipe's
    assert compose(["optim=adamw", "optim.lr=0.003"]).optim.lr == 0.003
    assert variant(compose(["optim=adamw"])) == "plain-20,optim.lr=0.001,optim=adamw,optim.weight_decay=0.01"
    assert departures(compose(["optim=adamw", "recipe.schedule=cosine", "model.activation=gelu"])) == [
        "schedule cosine (paper steps)",
        "optimizer adamw (paper sgd)",
        "rate 0.001 (paper 0.1)",
        "weight decay 0.01 (paper 0.0001)",
        "activation gelu (paper relu)",
    ]


def test_a_rates_departure_names_no_milestones_that_have_no_effect() -> None:
    assert departures(compose(["recipe.schedule=cosine"])) == ["schedule cosine (paper steps)"]
    assert variant(compose(["recipe.schedule=cosine"])) == "plain-20,recipe.schedule=cosine"


@pytest.mark.parametrize("name", ["adamw", "torch.optim.AdamW", "torch.optim.RMSprop"])
def test_an_optimizer_makes_the_updates_of_pytorchs_own(name: str, small: Make) -> None:
    experiment = small(f"optim.name={name}", "optim.lr=0.01", "optim.weight_decay=0.1", "recipe.milestones=[]")
    training = Training(experiment, load_images(experiment.data))
    model = build_model(experiment.model, generator=torch.Generator().manual_seed(experiment.seed))
    kind = torch.optim.RMSprop if name.endswith("RMSprop") else torch.optim.AdamW
    theirs = kind(model.parameters(), lr=0.01, weight_decay=0.1)
    for k in range(3):
        images, labels = training.batches.batch(k + 1)
        F.cross_entropy(model.train()(images), labels).backward()  # type: ignore[no-untyped-call]
        theirs.step()
        theirs.zero_grad()
        training.step()
    for ours, other in zip(training.engine.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["adamw", "torch.optim.RMSprop"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name: str, small: Make) -> None:
    experiment = small(f"optim.name={name}", "optim.lr=0.01", "recipe.schedule=one_cycle", "recipe.iterations=6")
    whole, first, second = (Training(experiment, load_images(experiment.data)) for _ in range(3))
    rows = list(fit(whole))
    for _ in range(3):
        first.step()
    second.load_state_dict(first.state_dict())
    assert [row.train_loss for row in fit(second)][-1] == rows[-1].train_loss
    for one, other in zip(whole.engine.model.parameters(), second.engine.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torch.optim.LBFGS", "it has no weight decay"),
        ("torch.nn.Linear", "cannot be made"),
        ("builtins.print", "gives a NoneType, which is no torch.optim.Optimizer"),
    ],
)
def test_what_cannot_optimise_is_refused(name: str, said: str, small: Make) -> None:
    experiment = small(f"optim.name={name}")
    with pytest.raises(ConfigError, match=f"optim.name={name}: .*{said}"):
        Training(experiment, load_images(experiment.data))


def test_graphs_hold_sgd_and_adamw_and_refuse_others() -> None:
    assert choose_engine("auto", CUDA, 24, optimizer="adamw") == "graph"
    assert [choose_engine("auto", CUDA, n, optimizer="torch.optim.Adam") for n in (24, 64_000)] == [
        "eager",
        "compiled",
    ]
    with pytest.raises(ConfigError, match=r"CUDA graphs hold the steps of sgd and adamw, not of optim.name=mine"):
        choose_engine("graph", CUDA, 24, optimizer="mine")


def test_recording_a_step_leaves_adamw_as_it_was(small: Make) -> None:
    """A stand-in that runs a step before it replays it, as recording does, changes no state and no weights."""
    experiment = small("optim=adamw")
    plain = Training(experiment, load_images(experiment.data))
    ours = Training(experiment, load_images(experiment.data))

    def record(body: Callable[[], None]) -> Callable[[], None]:
        body()
        return body

    how = {"device": torch.device("cpu"), "precision": "fp32", "name": "graph"}
    model = build_model(experiment.model, generator=torch.Generator().manual_seed(0))
    ours.engine = GraphEngine(model, experiment, record=record, **how)  # type: ignore[arg-type]
    # The graph's rate is a tensor, which on a CPU takes a loop over parameters.
    optim = experiment.optim
    ours.engine.optimizer = torch.optim.AdamW(model.parameters(), weight_decay=optim.weight_decay, foreach=False)
    for _ in range(3):
        plain.step()
        ours.step()
    for one, other in zip(plain.engine.model.parameters(), ours.engine.model.parameters(), strict=True):
        # AdamW divides tiny gradients by themselves, so rounding shows; a step too many would move weights by 1e-3.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
