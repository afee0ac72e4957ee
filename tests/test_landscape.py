"""The loss around a network against one written out point by point, and its command."""

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from degrade.config import Experiment
from degrade.errors import ConfigError, RunError
from degrade.probes.landscape import direction, landscape
from degrade.probes.numbers import read, subject, write
from degrade.runs import run
from tests.conftest import SMALL, Outcome

Small = Callable[..., Experiment]
Cli = Callable[..., Outcome]


def test_a_direction_is_as_long_as_the_weights_filter_by_filter() -> None:
    weights = [torch.randn(4, 3, 3, 3) * torch.arange(1.0, 5).view(4, 1, 1, 1), torch.randn(4), torch.randn(2, 4)]
    found = direction(weights, torch.Generator().manual_seed(0))
    for k in range(4):
        assert math.isclose(found[0][k].norm(), weights[0][k].norm(), rel_tol=1e-5)
    for k in range(2):
        assert math.isclose(found[2][k].norm(), weights[2][k].norm(), rel_tol=1e-5)
    assert not found[1].any()
    assert not torch.equal(found[2], weights[2])


@pytest.mark.parametrize("family", ["plain", "residual"])
def test_losses_are_those_of_networks_moved_one_weight_tensor_at_a_time(small: Small, family: str) -> None:
    record = run(small(f"model={family}", "recipe.iterations=2", "eval.batch_size=16"))
    rows = landscape(record, grid=3, span=0.5, seed=7, limit=20, device="cpu")
    training = subject(record, "cpu")
    images, labels = training.batches.pixels[:20].float() / 255 - training.batches.mean, training.batches.labels[:20]
    generator = torch.Generator().manual_seed(7)
    drawn = [[torch.randn(w.shape, generator=generator) for w in _matrices(training.engine.model)] for _ in range(2)]
    for row in rows:
        model = deepcopy(training.engine.model).eval()
        for k, weight in enumerate(_matrices(model)):
            held = weight.detach().clone()
            for filter_ in range(len(held)):
                for step, along in zip((row["a"], row["b"]), drawn, strict=True):
                    own = along[k][filter_]
                    weight.data[filter_] += float(step) * own / own.norm() * held[filter_].norm()
        logits = torch.cat([model(image[None]).detach() for image in images])
        assert row["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-3)
        assert row["error"] == pytest.approx(float((logits.argmax(1) != labels).float().mean()), abs=0.051)
    assert [(row["a"], row["b"]) for row in rows[:4]] == [(-0.5, -0.5), (-0.5, 0.0), (-0.5, 0.5), (0.0, -0.5)]


def _matrices(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]


def test_stopped_it_goes_on_and_other_settings_do_not_overwrite(small: Small) -> None:
    record = run(small("recipe.iterations=2"))
    whole = landscape(record, grid=3, limit=10)
    (path,) = (record.path / "probes").glob("landscape*.csv")
    marked = [{**row, "loss": 5.0} for row in read(path)[:4]]
    write(path, marked)
    assert landscape(record, grid=3, limit=10) == [*marked, *whole[4:]]
    landscape(record, grid=3, limit=20)
    assert landscape(record, grid=3, limit=10)[:4] == marked
    for checkpoint in record.path.glob("checkpoint*.pt"):
        checkpoint.unlink()
    assert landscape(record, grid=3, limit=10)[:4] == marked
    with pytest.raises(RunError, match="no checkpoint"):
        landscape(record, grid=5, limit=10)


def test_grids_without_a_middle_are_refused(small: Small) -> None:
    record = run(small("recipe.iterations=2"))
    with pytest.raises(ConfigError, match="--grid 4"):
        landscape(record, grid=4)
    with pytest.raises(ConfigError, match="--span nan"):
        landscape(record, span=math.nan)


def test_the_command_draws_all_networks(cli: Cli, tmp_path: Path) -> None:
    for family in ("plain", "residual"):
        assert cli("train", f"model={family}", *SMALL, "recipe.iterations=2").code == 0
    outcome = cli("probe", "landscape", "--grid", "3", "--limit", "10")
    assert outcome.code == 0, outcome.err
    assert [line.split()[0] for line in outcome.out.splitlines()[1:3]] == ["plain-8", "residual-8"]
    assert (tmp_path / "outputs/smoke/landscape.png").stat().st_size > 10_000
