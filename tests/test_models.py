from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degrade.config import ModelConfig
from degrade.models import CifarNet, build_model, count_parameters

PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}


def seeded(config: ModelConfig, seed: int = 0) -> CifarNet:
    model = build_model(config, generator=torch.Generator().manual_seed(seed))
    assert isinstance(model, CifarNet)
    return model


@pytest.mark.parametrize("depth", sorted(PARAMETERS))
@pytest.mark.parametrize("family", ["plain", "residual"])
def test_parameter_counts_of_the_paper(family: str, depth: int) -> None:
    with torch.device("meta"):
        model = CifarNet(ModelConfig(family=family, depth=depth))
    assert count_parameters(model) == PARAMETERS[depth]


@pytest.mark.parametrize(("depth", "count"), [(20, 272_474), (56, 855_770), (110, 1_730_714)])
def test_parameter_counts_with_option_b(depth: int, count: int) -> None:
    assert count_parameters(CifarNet(ModelConfig(family="residual", depth=depth, shortcut="B"))) == count


def test_option_c_projects_every_block() -> None:
    names = [name for name, _ in CifarNet(ModelConfig(family="residual", shortcut="C")).named_parameters()]
    assert sum("shortcut.0.weight" in name for name in names) == 9


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_plain_and_residual_of_one_seed_start_from_identical_weights(shortcut: str) -> None:
    plain = seeded(ModelConfig()).state_dict()
    residual = seeded(ModelConfig(family="residual", shortcut=shortcut)).state_dict()
    for name, value in plain.items():
        assert torch.equal(value, residual[name]), name


def test_weighted_layers_are_the_depth() -> None:
    for depth in (8, 20, 56):
        model = CifarNet(ModelConfig(depth=depth))
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth
        assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Conv2d))


def reference(model: CifarNet, x: Tensor, *, add: bool) -> Tensor:
    """The forward pass written out as paper.md states it, from the state dict alone."""
    weights = model.state_dict()

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, weights[f"{conv}.weight"], stride=stride, padding=1)
        running = weights[f"{bn}.running_mean"], weights[f"{bn}.running_var"]
        return F.batch_norm(x, *running, weights[f"{bn}.weight"], weights[f"{bn}.bias"], eps=1e-5)

    x = conv_bn(x, "conv1", "bn1").relu()
    for stage, channels in ((1, 16), (2, 32), (3, 64)):
        for block in range((model_depth(model) - 2) // 6):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = conv_bn(x, f"{name}.conv1", f"{name}.bn1", stride).relu()
            out = conv_bn(out, f"{name}.conv2", f"{name}.bn2")
            if add and stride == 1:
                out = out + x
            elif add:
                shortcut = torch.zeros_like(out)
                shortcut[:, channels // 4 : channels // 4 + x.shape[1]] = x[:, :, ::2, ::2]
                out = out + shortcut
            x = out.relu()
    return F.linear(x.mean(dim=(2, 3)), weights["linear.weight"], weights["linear.bias"])


def model_depth(model: CifarNet) -> int:
    return sum(isinstance(m, nn.Conv2d) for m in model.modules()) + 1


@pytest.mark.parametrize("family", ["plain", "residual"])
@pytest.mark.parametrize("depth", [8, 20])
def test_plain_is_residual_without_the_addition(family: str, depth: int) -> None:
    model = seeded(ModelConfig(family=family, depth=depth)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(model(x), reference(model, x, add=family == "residual"))
        assert not torch.allclose(model(x), reference(model, x, add=family == "plain"))


def test_weights_of_the_widespread_pytorch_form_load() -> None:
    """Key names and shapes of the usual CIFAR ResNet scripts (option A), with a linear layer of that name."""
    expected = {"conv1.weight": (16, 3, 3, 3), "linear.weight": (10, 64), "linear.bias": (10,)}
    for stage, channels in ((1, 16), (2, 32), (3, 64)):
        for block in range(3):
            before = channels // 2 if stage > 1 and block == 0 else channels
            expected[f"layer{stage}.{block}.conv1.weight"] = (channels, before, 3, 3)
            expected[f"layer{stage}.{block}.conv2.weight"] = (channels, channels, 3, 3)
    found = {
        n: tuple(p.shape) for n, p in CifarNet(ModelConfig(family="residual")).named_parameters() if "bn" not in n
    }
    assert found == expected


@pytest.mark.parametrize(
    ("init", "deviation"),
    [
        ("he", lambda fan_in, _: (2 / fan_in) ** 0.5),  # the paper's
        ("xavier", lambda fan_in, fan_out: (2 / (fan_in + fan_out)) ** 0.5),
        ("gaussian", lambda *_: 0.01),
    ],
)
def test_weights_are_drawn_with_the_deviation_of_their_initialisation(
    init: str, deviation: Callable[[int, int], float]
) -> None:
    for module in seeded(ModelConfig(depth=56, init=init)).modules():
        if isinstance(module, nn.Conv2d):
            expected = deviation(9 * module.in_channels, 9 * module.out_channels)
            tolerance = 5 / (2 * module.weight.numel()) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("init", ["he", "xavier", "gaussian", "dirac"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_every_combination_gives_ten_finite_logits(init: str, norm: str) -> None:
    model = seeded(ModelConfig(family="residual", depth=8, init=init, norm=norm))
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


def test_batch_norm_begins_with_its_scale_and_a_zeroed_block_as_its_shortcut() -> None:
    scales = [m.weight for m in seeded(ModelConfig(bn_scale=0.5)).modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(scale, torch.full_like(scale, 0.5)) for scale in scales)
    norms = [
        m for m in seeded(ModelConfig(bn_momentum=0.3, bn_epsilon=0.01)).modules() if isinstance(m, nn.BatchNorm2d)
    ]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.3, 0.01)}
    zeroed = seeded(ModelConfig(family="residual", depth=8, zero_init=True))
    x = torch.rand(2, 16, 8, 8)  # as after a ReLU
    assert torch.equal(zeroed.layer1(x), x)
    other = seeded(ModelConfig(family="residual", depth=8))
    assert torch.equal(zeroed.linear.weight, other.linear.weight)  # nothing else is drawn otherwise


@pytest.mark.parametrize("side", [32, 16, 8])
def test_networks_take_images_of_every_side(side: int) -> None:
    assert seeded(ModelConfig(depth=8)).eval()(torch.rand(2, 3, side, side)).shape == (2, 10)


def test_another_seed_gives_other_weights() -> None:
    assert not torch.equal(seeded(ModelConfig(), 0).conv1.weight, seeded(ModelConfig(), 1).conv1.weight)
