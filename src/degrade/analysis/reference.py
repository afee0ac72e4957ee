"""The paper's numbers, each with where it stands.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", arXiv 1512.03385.
"""

from degrade.config.identity import departures, follows_paper, open_choices

__all__ = [
    "departures",
    "follows_paper",
    "open_choices",
    "paper_error",
    "reproduced_gap",
    "reproduced_test_error",
    "reproduced_training_gap",
]

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
