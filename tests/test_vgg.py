"""VGG beside the paper's networks: its configurations, its depths, and what tables and verdicts make of it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from degrade.analysis import departures, error_curves, verdicts
from degrade.analysis.figures import draw_depth
from degrade.analysis.text import headline
from degrade.config import Experiment, ModelConfig, compose, network_matrix
from degrade.errors import ConfigError
from degrade.models import VggNet, build_model
from degrade.models.vgg import convolutions_by_stage
from degrade.runs import find_records, run, run_directory
from tests.records import finished


def vgg(depth: int, **settings: str | int) -> VggNet:
    model = build_model(ModelConfig(family="vgg", depth=depth, **settings))  # type: ignore[arg-type]
    assert isinstance(model, VggNet)
    return model


@pytest.mark.parametrize(
    ("depth", "stages"),
    [(11, (1, 1, 2, 2, 2)), (13, (2,) * 5), (16, (2, 2, 3, 3, 3)), (19, (2, 2, 4, 4, 4)), (37, (2, 2, 10, 10, 10))],
)
def test_configurations_are_the_vgg_papers_and_go_on_by_their_rule(depth: int, stages: tuple[int, ...]) -> None:
    assert convolutions_by_stage(depth) == stages
    model = vgg(depth, width=4)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth
    assert len(list(model.convolutions())) == depth - 3
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_forward_pass_is_the_network_written_out() -> None:
    model = vgg(11, width=4, norm="none").eval()
    x = image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for k, convolution in enumerate(convolutions):
        x = nn.functional.conv2d(x, convolution.weight, convolution.bias, padding=1).relu()
        if k in (0, 1, 3, 5, 7):
            x = nn.functional.max_pool2d(x, 2)
    x = model.linear(model.linear2(model.linear1(x.flatten(1)).relu()).relu())
    torch.testing.assert_close(model(image), x)


def test_convolutions_have_biases_where_no_batch_norm_has() -> None:
    for norm, bias in (("batch", False), ("none", True)):
        model = vgg(11, width=2, norm=norm)
        assert {m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d)} == {bias}


@pytest.mark.parametrize(("depth", "near"), [(10, "11"), (12, "11 or 13"), (20, "19 or 22"), (36, "34 or 37")])
def test_other_depths_are_refused_by_name(depth: int, near: str) -> None:
    with pytest.raises(ConfigError, match=f"model.depth={depth}: .* nearest: {near}$"):
        compose(["model=vgg", f"model.depth={depth}"])


def test_plain_networks_have_no_width() -> None:
    with pytest.raises(ConfigError, match="a plain network begins with 16 channels; vgg and wide have a width"):
        compose(["model.width=32"])


def test_a_vgg_trains_into_its_record_and_recomputing_changes_nothing(small: Callable[..., Experiment]) -> None:
    overrides = ["model=vgg", "model.depth=11", "model.width=4", "recipe.iterations=3"]
    experiment = small(*overrides)
    assert run_directory(experiment).parent.name.startswith("vgg-11,")
    assert "model.width=4" in run_directory(experiment).parent.name
    losses = [run(small(*overrides, f"name={n}", f"runtime.recompute={n == 'b'}")).rows()[-1] for n in "ab"]
    assert losses[0]["train_loss"] == losses[1]["train_loss"]


def test_departures_name_it(tmp_path: Path) -> None:
    made = finished(tmp_path, "vgg-11", 0, 0.1, 0.2, "model.width=16", parameters=1)
    assert departures(made.experiment)[:2] == ["network VGG (paper plain or residual)", "VGG's width 16 (paper 64)"]


def test_the_headline_says_of_each_family_how_many_layers_more() -> None:
    (verdict,) = verdicts(error_curves(find_records([Path(__file__).parents[1] / "outputs/reference/vgg_wall"])))
    assert re.fullmatch(
        "26 more layers raise VGG's training error by .* points, and 24 more layers raise that of one with "
        "shortcuts by .* points",
        headline(verdict),
    )


def test_the_wall_is_drawn_by_depth(tmp_path: Path) -> None:
    matrix = network_matrix("vgg_wall")
    assert ["model=vgg", "model.depth=37", "name=vgg_wall", "recipe=wall", "model.width=16"] in matrix
    assert {compose(own).model.family for own in matrix} == {"vgg", "residual"}
    for seed in (0, 1):
        for depth in (11, 13):
            finished(tmp_path, f"vgg-{depth}", seed, 0.1 + depth / 100, 0.3, "model.width=16", parameters=1)
        finished(tmp_path, "residual-20", seed, 0.1, 0.2)
    left, right = draw_depth(error_curves(find_records([tmp_path]))).axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["residual", "vgg, model.width=16"]
    assert left.containers[1].lines[0].get_ydata().tolist() == pytest.approx([21, 23])  # type: ignore[attr-defined]
    assert right.containers[0].lines[0].get_xdata().tolist() == [20]  # type: ignore[attr-defined]
