"""What `degrade inspect` says of a network, against its definition and against gradients on the image."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degrade.analysis.table import layers_table
from degrade.config import ModelConfig
from degrade.models import build_model, count_parameters, multiply_adds
from degrade.models.anatomy import layers, stacks
from tests.conftest import Cli

NETWORKS = [
    ModelConfig(depth=8),
    *(ModelConfig(family="residual", depth=8, shortcut=option) for option in "ABC"),
    ModelConfig(family="vgg", depth=11, width=2),
    ModelConfig(family="vgg", depth=13, width=2, norm="none"),
]


def seen(model: nn.Module, name: str, side: int) -> int:
    """Pixels a side of the image on which the middle value of a layer's output depends, by its gradient."""
    image = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    outputs: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda *args: outputs.append(args[2].clone()))
    model(image)
    handle.remove()
    middle = outputs[0].shape[-1] // 2
    outputs[0][0, :, middle, middle].sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    touched = (image.grad.abs().sum(dim=(0, 1)) > 0).nonzero()
    return int((touched.max(0).values - touched.min(0).values + 1).max())


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: f"{c.family}-{c.depth}-{c.shortcut}-{c.norm}")
def test_a_layer_sees_what_its_gradient_on_the_image_reaches(config: ModelConfig) -> None:
    model = build_model(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # positive: nothing cancels and no ReLU or pooling hides a path for good
            parameter.copy_(torch.rand_like(parameter) + 0.5)
    side = 160 if config.family == "vgg" else 64  # the others, of few layers, see at most 25 pixels
    found = layers(model, side)
    mean_pooled(model)
    for layer in found:
        if layer.field is not None and layer.field < side // 2 and "pool" not in layer.kind:
            assert seen(model, layer.name, side) == layer.field, layer.name


def mean_pooled(model: nn.Module) -> None:
    """Pool by the mean instead of the greatest value, whose gradient reaches one pixel of four only."""

    def pool(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    for module in model.modules():
        if isinstance(module, nn.MaxPool2d):
            module.forward = pool  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: f"{c.family}-{c.depth}-{c.shortcut}-{c.norm}")
def test_layers_add_up_to_the_network(config: ModelConfig) -> None:
    model = build_model(config)
    found = layers(model)
    assert sum(layer.parameters for layer in found) == count_parameters(model)
    assert sum(layer.weighted and "shortcut" not in layer.name for layer in found) == config.depth
    assert found[-1].field is None
    assert model.training
    weights = dict(model.named_parameters())
    for layer in found:  # in closed form: each weight is used once at each place of the map
        places = math.prod(layer.shape[1:])
        assert layer.multiply_adds == (weights[f"{layer.name}.weight"].numel() * places if layer.weighted else 0)
    assert multiply_adds(model) == sum(layer.multiply_adds for layer in found)


class Scaled(nn.Module):
    """A block with a scale of its own, as LayerScale has it, around a layer that is passed twice; and a spare one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.scale = nn.Parameter(torch.full((3, 1, 1), 1e-4))
        self.spare = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + self.scale * self.norm(self.conv(x))
        return x


def test_parameters_that_no_layer_holds_are_rows_of_their_own() -> None:
    model = nn.Sequential(Scaled(), nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    found = layers(model)
    assert sum(layer.parameters for layer in found) == count_parameters(model)
    assert [layer.name for layer in found] == ["0.conv", "0.conv", "2", "0.scale", "0.spare.weight", "0.spare.bias"]
    assert found[0].parameters == 3 * 3 * 9 + 3 + 6
    assert (found[3].kind, found[3].shape, found[3].parameters, found[3].weighted) == (
        "parameter",
        (3, 1, 1),
        3,
        False,
    )
    assert multiply_adds(model) == 2 * 3 * 3 * 9 * 32 * 32 + 3 * 32 * 32 * 10
    lines = layers_table(found).splitlines()
    assert lines[4].split() == ["0.scale", "parameter", "3x1x1", "3", "0", "-"]
    assert f"{count_parameters(model):,}" in lines[-1]


def test_fields_of_the_vgg_paper_and_of_the_papers_network() -> None:
    by_name = {layer.name: layer.field for layer in layers(build_model(ModelConfig(family="vgg", depth=16, width=1)))}
    assert [by_name[name] for name in ("stage1.1.conv", "stage1.2", "stage5.3")] == [5, 6, 212]
    # 1 + 2 (2n + 1), then twice and four times as wide steps: n = 3.
    deep = [layer.field for layer in layers(build_model(ModelConfig(depth=20)))]
    assert deep[:-1] == [*range(3, 17, 2), 17, *range(21, 40, 4), 41, *range(49, 82, 8)]


@pytest.mark.parametrize(("size", "ours", "theirs"), [(3, 9, 9), (5, 18, 25), (7, 27, 49), (9, 36, 81)])
def test_a_stack_of_small_convolutions_sees_as_much_for_less(size: int, ours: int, theirs: int) -> None:
    stack, large = stacks(size, 12)
    assert (stack.parameters, large.parameters) == (ours * 144, theirs * 144)
    assert (stack.multiply_adds, large.multiply_adds) == (ours * 144 * 1024, theirs * 144 * 1024)
    assert stack.field == large.field == size
    assert (stack.nonlinearities, large.nonlinearities) == ((size - 1) // 2, 1)


def test_inspect_lists_the_layers_in_eighty_columns(cli: Cli) -> None:
    outcome = cli("inspect", "--depth", "56", "--residual", "model.shortcut=B")
    assert outcome.code == 0
    assert "residual-56: 855,770 parameters" in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert cli("inspect", "model=vgg", "--depth", "16").out.splitlines()[-2].startswith("vgg-16: 15,2")
    table = cli("inspect", "--format", "csv").out.splitlines()
    assert table[0] == "name,kind,weighted,shape,parameters,multiply_adds,field"
    assert len(table) == 21


def test_inspect_counts_for_the_images_of_the_recipe(cli: Cli) -> None:
    whole, half = (cli("inspect", f"data.pixels={side}", "--format", "csv").out.splitlines() for side in (32, 16))
    assert [int(line.split(",")[-2]) for line in (whole[1], half[1])] == [442_368, 110_592]


def test_compare_draws_and_prints(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("inspect", "--compare", "3x3,5,7x7", "--channels", "10", "--output", "c.svg")
    assert outcome.code == 0, outcome.err
    assert "2 of 3x3       5x5       1,800  18 C²" in outcome.out
    assert (tmp_path / "c.svg").read_text().count("<svg") == 1
    for sizes in ("4x4", "3x5", "", "1", "seven"):
        assert cli("inspect", "--compare", sizes).code == 2
    assert cli("inspect", "--output", "x.png").code == 2
