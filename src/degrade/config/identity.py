"""Which experiments are the same, told from what each setting says about itself, without torch and Hydra.

Everything here leaves incidental settings out, and a setting without effect counts as its default.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from degrade.config.schema import Experiment, settings
from degrade.config.setting import Kind, Setting

#: The order in which figures name settings, by key or by section; others follow.
_ORDER = (
    *("model.family", "recipe.iterations", "recipe.milestones", "recipe.schedule", "recipe.batch_size"),
    *("optim", "model.width", "model", "data"),
)


def result_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings that the result is a function of; those that take no effect have their defaults.

    So have those whose value other settings bring with them, such as the classes of CIFAR-100.
    """
    flat = experiment.flat()
    return {
        key: own.default if own.unmet(experiment) or own.is_brought(experiment, flat[key]) else flat[key]
        for key, own in settings().items()
        if own.changes_result(experiment)
    }


def differing(held: Experiment, asked: Experiment) -> dict[str, tuple[Any, Any]]:
    """The settings in which two experiments differ, with both values of each."""
    one, other = result_settings(held), result_settings(asked)
    usual = {key: own.default for key, own in settings().items()}
    pairs = {key: (one.get(key, usual[key]), other.get(key, usual[key])) for key in sorted(one.keys() | other.keys())}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def without_effect(experiment: Experiment) -> dict[str, str]:
    """Settings that differ from their defaults and cannot take effect, with an error message for each."""
    model, recipe, flat = experiment.model, experiment.recipe, experiment.flat()
    facts = {
        "family": model.family,
        "depth": model.depth,
        "norm": model.norm,
        "data": experiment.data.name,
        "optim": experiment.optim.name,
        "schedule": recipe.schedule,
        "warmup": recipe.warmup,
    }
    return {
        key: f"{key}={_plain_text(flat[key])}: {need.why.format(**facts)}"
        for key, own in settings().items()
        if flat[key] != own.default and (need := own.unmet(experiment))
    }


# What a verdict compares


def shared_settings(experiment: Experiment) -> dict[str, Any]:
    """What networks of different families and depths must have in common to be compared."""
    return {
        key: value
        for key, value in result_settings(experiment).items()
        if settings()[key].kind is not Kind.COMPARED and not settings()[key].families
    }


def family_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings that only its family has, which networks of that family must have in common to be compared."""
    found = result_settings(experiment)
    return {key: found[key] for key, own in settings().items() if own.families and not own.unmet(experiment)}


# What figures say


def departures(experiment: Experiment) -> list[str]:
    """How an experiment departs from the paper's: `batch 32 (paper 128)`."""
    return [
        own.says(experiment) if own.says else f"{own.name} {own.words(value)} (paper {own.words(own.default)})"
        for own, value in _changed(experiment, Kind.FIXED, Kind.COMPARED)
        if (own.says(experiment) if own.says else own.name)
    ]


def open_choices(experiment: Experiment) -> list[str]:
    """Open choices of the paper that differ from degrade's default: `batch norm momentum 0.2 (default 0.1)`."""
    return [
        f"{own.name} {own.words(value)} (default {own.words(own.default)})"
        for own, value in _changed(experiment, Kind.OPEN)
    ]


def follows_paper(experiment: Experiment) -> bool:
    """Whether the recipe is the paper's, so that final errors can be compared with the paper's."""
    return not departures(experiment)


def _changed(experiment: Experiment, *kinds: Kind) -> Iterator[tuple[Setting, Any]]:
    """Settings of these kinds that are not the default, in the order in which figures name them."""
    found = result_settings(experiment)
    for own in sorted(settings().values(), key=_place):
        if own.kind in kinds and own.key in found and found[own.key] != own.default:
            yield own, found[own.key]


def _place(own: Setting) -> int:
    if own.says is not None and own.key not in _ORDER:
        return len(_ORDER) + 1
    return next((k for k, key in enumerate(_ORDER) if key in (own.key, own.key.partition(".")[0])), len(_ORDER))


# Where a record lies


def variant(experiment: Experiment) -> str:
    """Family and depth, plus whatever else differs from the recipe: `plain-56`, `plain-56,optim.lr=0.05`.

    The recipe is named where it is none of degrade's, and in a named experiment's folder where it is another one.
    """
    from degrade.config.compose import usual_settings  # here, since `compose` imports this module

    usual = usual_settings(experiment)
    parts = [f"{_plain_text(experiment.model.family)}-{experiment.model.depth}"]
    for key, value in sorted(experiment.flat().items()):
        own = settings()[key]
        told = key == "recipe.name" or (own.kind is not Kind.COMPARED and own.changes_result(experiment))
        if told and value != usual[key] and not own.is_brought(experiment, value):
            parts.append(f"{key.removesuffix('.name')}={_plain_text(value)}")
    return _folder_name(",".join(parts))


def _plain_text(value: Any) -> str:
    if isinstance(value, str):
        # Commas and equal signs separate settings, so inside a value they are replaced. A call is told by its target.
        called = value.startswith("{")
        told = re.sub(r"\{_target_: |\}", "", value).replace(", ", "_").replace(": ", "_") if called else value
        return _folder_name(re.sub(r"[,=\[\]~]", "_", told), value)
    return json.dumps(value, separators=(",", ":"))


def _folder_name(text: str, original: str | None = None) -> str:
    """`text` as the name of a folder; where it must be altered or cut, a hash of the original keeps it unique."""
    safe = re.sub(r"[^A-Za-z0-9.,=+\[\]~_-]", "_", text)
    if safe == (original or text) and len(safe) <= 120:
        return safe
    return f"{safe[:100]}~{hashlib.sha256((original or text).encode()).hexdigest()[:10]}"
