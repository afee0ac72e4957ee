"""The paper's numbers, each with where it stands, and how a run departs from the paper's recipe.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", arXiv 1512.03385.
"""

from collections.abc import Mapping
from typing import Any

from degrade.config import Experiment
from degrade.config.schema import flatten

#: Table 6: test error in percent of residual networks by depth (110: the mean of 5 runs; the best is 6.43).
TABLE6_TEST = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61, 1202: 7.93}

#: Read off Figure 6, mean over the last 14k iterations, in percent: (family, depth) -> error.
FIGURE6_TEST = {("plain", 20): 9.7, ("plain", 32): 10.1, ("plain", 44): 11.3, ("plain", 56): 13.3}
FIGURE6_TRAIN = {
    ("plain", 20): 1.3,
    ("plain", 32): 1.5,
    ("plain", 44): 2.8,
    ("plain", 56): 5.8,
    ("residual", 20): 0.7,
    ("residual", 32): 0.3,
    ("residual", 44): 0.2,
    ("residual", 56): 0.14,
}

#: What independent PyTorch reproductions of the full recipe end at (last iterate), in percent; gathered for this
#: project.
REPRODUCED_TEST = {
    ("plain", 20): (9.4, 9.8),
    ("plain", 56): (11.9, 13.1),
    ("residual", 20): (8.0, 9.2),
    ("residual", 56): (7.1, 7.5),
}

#: Of the same, plain-56 minus plain-20, in points. Their training errors are left out: of most of them it is not
#: known how they were measured, and that decides their size.
REPRODUCED_TEST_GAP = (2.1, 3.4)

#: Training error of one author's networks at the full recipe, in percent, mean of the last 36 epochs, one seed each
#: (a-martyn/resnet), by kind: with running statistics (the last commit) and with each batch's (commit c045fe0).
#: Computed for this project from the published curves. The paper's values look like the latter.
ONE_AUTHOR_TRAIN = {
    "clean": {
        ("plain", 20): 0.85,
        ("plain", 32): 0.96,
        ("plain", 44): 3.15,
        ("plain", 56): 3.68,
        ("residual", 20): 0.47,
        ("residual", 32): 0.12,
        ("residual", 44): 0.07,
        ("residual", 56): 0.06,
    },
    "batch-statistics": {
        ("plain", 20): 1.19,
        ("plain", 32): 1.53,
        ("plain", 44): 2.93,
        ("plain", 56): 5.82,
        ("residual", 20): 0.78,
        ("residual", 32): 0.34,
        ("residual", 44): 0.16,
        ("residual", 56): 0.10,
    },
}

#: All settings as they are by default, which is the paper's recipe. Made once: a verdict looks often.
USUAL = Experiment().flat()

#: Settings on which a result depends, and what a reader calls them.
_COMPARED = {
    "recipe.iterations": "iterations",
    "recipe.milestones": "milestones",
    "recipe.batch_size": "batch",
    "optim.lr": "rate",
    "optim.momentum": "momentum",
    "optim.weight_decay": "weight decay",
    "optim.nesterov": "Nesterov",
    "optim.clip": "greatest norm of the gradient",
    "model.width": "VGG's width",
    "model.shortcut": "shortcut",
    "model.norm": "norm",
    "model.init": "init",
    "model.bn_scale": "initial scale of batch norm",
    "model.zero_init": "blocks begin as their shortcut",
    "model.classes": "classes",
    "data.name": "data",
    "data.pixels": "pixels a side",
    "data.split": "split",
    "data.mean": "mean",
    "data.augment": "augmentation",
    "data.train_limit": "training images",
    "data.test_limit": "test images",
    "recipe.warmup_lr": "warm-up rate",
    "recipe.warmup_error": "warm-up error",
}


#: Settings that the paper leaves open; another choice is no departure, but a reader wants to know of it.
_OPEN = {
    "optim.decay_norm": "decay of batch norm",
    "model.bn_momentum": "batch norm momentum",
    "model.bn_epsilon": "batch norm epsilon",
}


def paper_error(family: str, depth: int, which: str) -> float | None:
    """The paper's final `train` or `test` error, a fraction; None where the paper gives none.

    How the paper measured its training error is open; its size is that of the running kind, or of batch statistics,
    and never to be set beside a clean one.
    """
    if which == "train":
        percent = FIGURE6_TRAIN.get((family, depth))
    elif family == "residual":
        percent = TABLE6_TEST.get(depth)
    else:
        percent = FIGURE6_TEST.get((family, depth))
    return None if percent is None else percent / 100


def reproduced_test_error(family: str, depth: int) -> tuple[float, float] | None:
    """Least and greatest test error of independent reproductions, fractions; None where there are none."""
    found = REPRODUCED_TEST.get((family, depth))
    return None if found is None else (found[0] / 100, found[1] / 100)


def reproduced_gap(shallow: int, deep: int) -> tuple[float, float] | None:
    """Least and greatest gap in test error of the plain pair in independent reproductions, fractions, or None."""
    return (REPRODUCED_TEST_GAP[0] / 100, REPRODUCED_TEST_GAP[1] / 100) if (shallow, deep) == (20, 56) else None


def reproduced_training_gap(kind: str, shallow: int, deep: int) -> float | None:
    """One author's gap in `clean` or `batch-statistics` training error of the plain pair, a fraction, or None."""
    errors = ONE_AUTHOR_TRAIN[kind]
    if ("plain", shallow) not in errors or ("plain", deep) not in errors or shallow == deep:
        return None
    return (errors["plain", deep] - errors["plain", shallow]) / 100


def departures(config: Mapping[str, Any]) -> list[str]:
    """How settings depart from the paper's, in words: `batch 32 (paper 128)`.

    Args:
        config: a record's nested settings.
    """
    paper, ours = USUAL, flatten(dict(config))
    found = ["network VGG (paper plain or residual)"] if ours.get("model.family") == "vgg" else []
    found += [
        f"{name} {_words(ours[key], key)} (paper {_words(paper[key], key)})"
        for key, name in _COMPARED.items()
        if key in ours and ours[key] != paper[key] and not _without_effect(key, ours)
    ]
    if ours.get("model.start") is not None:
        found.append(f"begins as {ours['model.start']}")
    warmup, depth = ours.get("recipe.warmup", "auto"), ours.get("model.depth", 20)
    paper_warms = "on" if depth >= 110 else "off"
    if warmup in ("linear", "quadratic"):
        warmup = f"{warmup} over {ours['recipe.warmup_iterations']:,} iterations"
    if warmup not in ("auto", paper_warms):
        found.append(f"warm-up {warmup} (paper {paper_warms})")
    return found


def open_choices(config: Mapping[str, Any]) -> list[str]:
    """Choices the paper leaves open, other than degrade's default: `batch norm momentum 0.2 (default 0.1)`."""
    usual, ours = USUAL, flatten(dict(config))
    return [
        f"{name} {_words(ours[key])} (default {_words(usual[key])})"
        for key, name in _OPEN.items()
        if key in ours and ours[key] != usual[key]
    ]


def follows_paper(config: Mapping[str, Any]) -> bool:
    """Whether the recipe is the paper's, so that its final errors can be compared with the paper's."""
    return not departures(config)


def _without_effect(key: str, settings: Mapping[str, Any]) -> bool:
    plain, warmup = settings.get("model.family") != "residual", settings.get("recipe.warmup")
    depth = settings.get("model.depth", 20)
    if key == "model.shortcut":
        return plain
    if key.startswith("recipe.warmup_"):
        return warmup not in ("on", "auto") or (warmup == "auto" and depth < 110)
    return False


def _words(value: Any, key: str = "") -> str:
    if value is None:
        return "none" if key == "optim.clip" else "all"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return "/".join(_words(v) for v in value) or "none"
    if isinstance(value, int) and value >= 1000:
        return f"{value // 1000}k" if value % 1000 == 0 else f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
