"""The path of a training: principal components of a known path, losses by another way, and its command."""

import logging
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from degrade.data.batches import single_view
from degrade.errors import ConfigError, RunError
from degrade.probes.probe import read, subject, write
from degrade.probes.trajectory import path, principal_path, surface
from degrade.training import checkpoint
from tests.conftest import Cli, Trained

#: Snapshots before the first update, after the first, and at the end: three weights, which lie on one plane.
THREE = ("recipe.iterations=6", "checkpoint.snapshots=3")


def test_components_of_a_known_path_are_found() -> None:
    """An ellipse in 60 dimensions, from its left end and clockwise, with a little of a third axis."""
    chance = np.random.default_rng(0)
    axes = np.linalg.qr(chance.standard_normal((60, 3)))[0].T
    angles = np.pi - 2 * np.pi * np.arange(9) / 9
    drawn = np.stack([5 * np.cos(angles), 2 * np.sin(angles), 0.1 * np.cos(3 * angles)], axis=1)
    long = drawn @ axes + chance.standard_normal(60)
    weights = [[torch.tensor(row[:40].reshape(2, 4, 5)), torch.tensor(row[40:])] for row in long]
    found = principal_path([*range(9)], weights)

    expected = drawn - drawn[-1]  # the last is the origin, and the path begins on the left
    assert found.places == pytest.approx(expected[:, :2], abs=1e-9)
    assert found.off == pytest.approx(np.abs(expected[:, 2]), abs=1e-9)
    for component, axis in zip(found.directions, axes, strict=False):
        flat = np.concatenate([own.numpy().ravel() for own in component])
        assert flat == pytest.approx(axis, abs=1e-9)
    variances = np.linalg.eigvalsh(np.cov(long.T))[::-1]
    assert found.shares == pytest.approx(variances[:2] / variances.sum())


def test_a_path_that_goes_nowhere_is_refused() -> None:
    for weights in ([[torch.ones(5)]] * 3, [[torch.ones(5)], [torch.full((5,), np.nan)], [torch.ones(5)]]):
        with pytest.raises(RunError, match="make no path"):
            principal_path([0, 1, 2], weights)


@pytest.mark.parametrize("model", [("model=plain",), ("model=residual",), ("model=plain", "model.norm=none")])
def test_three_weights_lie_on_their_plane_and_losses_are_those_of_the_networks(
    trained: Trained, model: tuple[str, ...]
) -> None:
    """Each network is loaded from its file, and gets batch norm's statistics by PyTorch's own `update_bn`."""
    record = trained(*THREE, *model)
    rows = path(record, limit=40, device="cpu")
    assert [row["snapshot"] for row in rows] == [0, 1, 6]
    assert float(rows[0]["share1"]) + float(rows[0]["share2"]) == pytest.approx(1)
    training = subject(record, "cpu")
    images, labels = single_view(training.batches.pixels[:40], training.batches.mean), training.batches.labels[:40]
    for row, file in zip(rows, checkpoint.snapshots(record.path).values(), strict=True):
        network = deepcopy(training.engine.model)
        network.load_state_dict(torch.load(file, weights_only=True)["engine"]["model"])
        loss, error = _evaluated(network, images, labels)
        assert (row["loss"], row["error"]) == pytest.approx((loss, error), rel=1e-4)
        assert row["on_plane"] == pytest.approx(loss, rel=1e-3)
        assert row["off"] == pytest.approx(0, abs=1e-4)
        flat = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
        assert row["norm"] == pytest.approx(float(flat.norm()))
    assert (rows[-1]["a"], rows[-1]["b"]) == (0, 0)


def _evaluated(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    with torch.no_grad():
        torch.optim.swa_utils.update_bn([images], network)
        logits = network.eval()(images)
    return float(F.cross_entropy(logits, labels)), float((logits.argmax(1) != labels).float().mean())


def test_points_of_the_surface_are_networks_between_the_snapshots(trained: Trained) -> None:
    """With three weights, each point of the plane is a sum of them with factors, which a linear system gives."""
    record = trained(*THREE, "model=residual")
    along, points = path(record, limit=40, device="cpu"), surface(record, grid=4, limit=40, device="cpu")
    assert len(points) == 16
    for key in ("a", "b"):
        ends, grid = ([float(row[key]) for row in rows] for rows in (along, points))
        extent = max(ends) - min(ends)
        assert (min(grid), max(grid)) == pytest.approx((min(ends) - 0.2 * extent, max(ends) + 0.2 * extent))
    training = subject(record, "cpu")
    images, labels = single_view(training.batches.pixels[:40], training.batches.mean), training.batches.labels[:40]
    files = checkpoint.snapshots(record.path).values()
    states = [torch.load(file, weights_only=True)["engine"]["model"] for file in files]
    places = np.array([[float(row["a"]), float(row["b"]), 1.0] for row in along]).T
    for row in points[::5]:
        factors = np.linalg.solve(places, [float(row["a"]), float(row["b"]), 1.0])
        network = deepcopy(training.engine.model)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                mixed = sum(float(factor) * state[name] for factor, state in zip(factors, states, strict=True))
                parameter.copy_(torch.as_tensor(mixed))
        assert (row["loss"], row["error"]) == pytest.approx(_evaluated(network, images, labels), rel=1e-3)


def test_points_are_kept_gone_on_with_and_dropped_where_the_path_is_another(trained: Trained) -> None:
    record = trained("recipe.iterations=6", "checkpoint.snapshots=6")
    whole = surface(record, grid=3, limit=10)
    file = next(record.path.glob("probes/trajectory-grid3-images10.csv"))
    marked = [{**row, "loss": 5.0} for row in read(file)[:4]]
    write(file, marked)
    assert surface(record, grid=3, limit=10) == [*marked, *whole[4:]]
    for weights in record.path.glob("checkpoint*.pt"):
        weights.rename(weights.with_suffix(".away"))
    assert surface(record, grid=3, limit=10)[:4] == marked  # the numbers alone are enough
    for weights in record.path.glob("*.away"):
        weights.rename(weights.with_suffix(".pt"))
    (record.path / "snapshots" / "1.pt").unlink()
    next(record.path.glob("probes/trajectory-path-*.csv")).unlink()
    again = surface(record, grid=3, limit=10)
    assert all(row["loss"] != 5.0 for row in again)


def test_damaged_snapshots_are_left_out(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    record = trained("recipe.iterations=6", "checkpoint.snapshots=6")
    (record.path / "snapshots" / "1.pt").write_bytes(b"no weights")
    with caplog.at_level(logging.WARNING, "degrade.run"):
        rows = path(record, limit=10)
    assert 1 not in [row["snapshot"] for row in rows]
    assert "left out, 1.pt is damaged" in caplog.text


def test_runs_without_snapshots_are_refused_with_the_mend(cli: Cli, trained: Trained) -> None:
    bare, few = trained("recipe.iterations=2"), trained("recipe.iterations=3", "checkpoint.snapshots=2")
    outcome = cli("probe", "landscape", str(bare.path), "--trajectory")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "keeps no snapshots of its weights along training; train it with checkpoint.snapshots=16" in line
    with pytest.raises(RunError, match=r"has 1 snapshots before its last weights, and a path needs 2"):
        path(few)
    with pytest.raises(ConfigError, match="--grid 2"):
        surface(few, grid=2)
    for option in ("--span", "--seed"):
        outcome = cli("probe", "landscape", str(few.path), "--trajectory", option, "1")
        assert outcome.code == 2
        assert "takes no effect with --trajectory" in outcome.err


def test_the_command_draws_the_paths_of_all_networks(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    for family in ("plain", "residual"):
        trained(*THREE, f"model={family}")
    trained("recipe.iterations=2", "model.depth=14")
    outcome = cli("probe", "landscape", "--trajectory", "--grid", "3", "--limit", "10")
    assert outcome.code == 0, outcome.err
    assert "plain-14" in outcome.err
    assert "keeps no snapshots; checkpoint.snapshots=16 does" in outcome.err
    lines = outcome.out.splitlines()
    assert [line.split(",")[0] for line in lines[1:3]] == ["plain-8", "residual-8"]
    assert all(" 100.0% " in line for line in lines[1:3])  # of the variance of three points
    assert max(map(len, lines[:6])) <= 80
    assert (tmp_path / "outputs/smoke/trajectory.png").stat().st_size > 10_000
