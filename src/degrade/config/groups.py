"""The files of `configs/`: where they are and what they are called, without Hydra, so that completion is quick."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from degrade.errors import ConfigError, did_you_mean

#: The recipe of a named experiment, unless it or the command line names another.
USUAL_RECIPE = "quick"


@cache
def config_dir() -> Path:
    """The folder `configs`: inside the package in a wheel, at the top level of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parents[1] / "configs"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise ConfigError(f"no configs/config.yaml beside {package} nor two levels up: reinstall degrade")


@cache
def group_options() -> dict[str, tuple[str, ...]]:
    """Config groups and their options, as the files in `configs/` name them."""
    groups: dict[str, tuple[str, ...]] = {}
    for folder in sorted(p for p in config_dir().iterdir() if p.is_dir() and p.name != "experiment"):
        groups[folder.name] = tuple(sorted(f.stem for f in folder.glob("*.yaml")))
    return groups


def experiment_names() -> tuple[str, ...]:
    """Named experiments, which `degrade reproduce` trains."""
    return tuple(sorted(f.stem for f in (config_dir() / "experiment").glob("*.yaml")))


@cache
def own_recipes() -> dict[str, str]:
    """Named experiments whose runs have a folder of their own, by its name, and the recipe that they have there."""
    found = {}
    for experiment in experiment_names():
        settings = dict(word.split("=", 1) for word in experiment_file(experiment).get("settings", ()))
        if "name" in settings:
            found[settings["name"]] = settings.get("recipe", USUAL_RECIPE)
    return found


def experiment_file(experiment: str) -> dict[str, Any]:
    """The content of a named experiment's file.

    Raises:
        ConfigError: there is no such experiment.
    """
    known = experiment_names()
    if experiment not in known:
        raise ConfigError(f"experiment {experiment!r}: {did_you_mean(experiment, known)}")
    content: dict[str, Any] = yaml.safe_load((config_dir() / "experiment" / f"{experiment}.yaml").read_text())
    return content
