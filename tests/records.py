"""Finished records without training: real configs, curves of a realistic shape, known final errors."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from degrade.config import Experiment, compose
from degrade.runs import RunRecord, run_directory

#: Parameters of a network without projections, by depth.
PARAMETERS = {14: 172_506, 20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@cache
def _composed(overrides: tuple[str, ...]) -> Experiment:
    return compose(list(overrides))


@cache
def _yaml(experiment: str, overrides: tuple[str, ...]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(asdict(replace(_composed(overrides), output=experiment, seed=0))))


def finished(
    root: Path,
    network: str,
    seed: int,
    train: float,
    test: float,
    *overrides: str,
    rows: int = 2,
    status: str = "complete",
    clean: bool = True,
    parameters: int | None = None,
) -> RunRecord:
    """Write the record of a run that ended with these errors (fractions).

    Args:
        network: such as `plain-56`.
        rows: how many rows of metrics, evenly over the recipe.
        clean: whether the last row holds the clean training error; the running one is 1.5 times it.
        parameters: None for what the network has.
    """
    family, _, depth = network.partition("-")
    words = (f"model={family}", f"model.depth={depth}", *overrides)
    experiment = replace(_composed(words), output=str(root), seed=seed)
    made = RunRecord(run_directory(experiment))
    made.path.mkdir(parents=True)
    text = _yaml(str(root), words).replace("\nseed: 0\n", f"\nseed: {seed}\n")
    (made.path / "config.yaml").write_text(text)
    lines = _rows(experiment, rows, train, test, clean)
    (made.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    count = parameters or PARAMETERS[experiment.model.depth]
    environment = {"schema_version": 1, "precision": "fp32", "parameters": count}
    (made.path / "environment.json").write_text(json.dumps(environment))
    last = lines[-1]
    summary = {key: last[key] for key in ("iteration", "train_error", "train_error_clean", "test_error", "seconds")}
    summary |= {"status": status, "iterations": experiment.recipe.iterations, "synthetic": False}
    (made.path / "summary.json").write_text(json.dumps(summary | {"updated": f"2026-01-01T00:00:{seed % 60:02}"}))
    return made


def _rows(experiment: Experiment, count: int, train: float, test: float, clean: bool) -> list[dict[str, Any]]:
    end = experiment.recipe.iterations
    steps = np.linspace(end / count, end, count).astype(int)
    above = 0.6 * np.exp(-6 * steps / end) - 0.6 * np.exp(-6)
    made = []
    for step, more in zip(steps.tolist(), above.tolist(), strict=True):
        row = {
            "iteration": step,
            "epoch": step / 391,
            "lr": 0.1,
            "train_loss": 3 * (train + more),
            "train_error": min(1.0, 1.5 * train + more),
            "train_error_clean": train if clean and step == end else None,
            "test_loss": 3 * (test + more),
            "test_error": min(1.0, test + more),
            "images_per_second": 1234.5,
            "seconds": 0.1 * step,
        }
        made.append(row)
    return made


def story(
    root: Path, errors: Mapping[str, tuple[Sequence[float], Sequence[float]]], *overrides: str, **how: Any
) -> list[RunRecord]:
    """Records of several networks, a seed an error: network -> (training errors, test errors), in percent."""
    return [
        finished(root, network, seed, a / 100, b / 100, *overrides, **how)
        for network, (train, test) in errors.items()
        for seed, (a, b) in enumerate(zip(train, test, strict=True))
    ]
