"""The paper's numbers and those of other reproductions, each with where it comes from.

The paper is He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", arXiv 1512.03385. Networks are named
by family and depth.
"""

#: What is read off the paper's figures are means over so many last iterations.
PAPER_LAST = 14_000

#: Test errors in percent: of plain networks, read off Figure 6 as means over the last 14k iterations; of residual
#: networks, from Table 6 (the one of depth 110 is the mean of 5 runs, of which the best ended at 6.43).
PAPER_TEST = {
    ("plain", 20): 9.7,
    ("plain", 32): 10.1,
    ("plain", 44): 11.3,
    ("plain", 56): 13.3,
    ("residual", 20): 8.75,
    ("residual", 32): 7.51,
    ("residual", 44): 7.17,
    ("residual", 56): 6.97,
    ("residual", 110): 6.61,
    ("residual", 1202): 7.93,
}

#: Training errors in percent, read off Figure 6 as means over the last 14k iterations.
PAPER_TRAIN = {
    ("plain", 20): 1.3,
    ("plain", 32): 1.5,
    ("plain", 44): 2.8,
    ("plain", 56): 5.8,
    ("residual", 20): 0.7,
    ("residual", 32): 0.3,
    ("residual", 44): 0.2,
    ("residual", 56): 0.14,
}

#: Range of the test errors (fractions) of independent PyTorch reproductions of the full recipe (last iterate),
#: gathered for this project.
REPRODUCED_TEST = {
    ("plain", 20): (0.094, 0.098),
    ("plain", 56): (0.119, 0.131),
    ("residual", 20): (0.080, 0.092),
    ("residual", 56): (0.071, 0.075),
}

#: Range of the same reproductions' gaps in test error (fractions) between two depths of plain networks. Training
#: errors are left out: it is mostly not known how they were measured, and that decides their size.
REPRODUCED_TEST_GAP = {(20, 56): (0.021, 0.034)}

#: Training errors in percent of one author's networks at the full recipe (a-martyn/resnet), one seed each, as means
#: of the last 36 epochs, computed for this project from published curves: with each batch's statistics (commit
#: c045fe0), and with running statistics (the last commit).
ONE_AUTHOR = {
    ("plain", 20): {"batch": 1.19, "clean": 0.85},
    ("plain", 32): {"batch": 1.53, "clean": 0.96},
    ("plain", 44): {"batch": 2.93, "clean": 3.15},
    ("plain", 56): {"batch": 5.82, "clean": 3.68},
    ("residual", 20): {"batch": 0.78, "clean": 0.47},
    ("residual", 32): {"batch": 0.34, "clean": 0.12},
    ("residual", 44): {"batch": 0.16, "clean": 0.07},
    ("residual", 56): {"batch": 0.10, "clean": 0.06},
}

#: Last test errors in percent of the same networks, as evaluated at the two commits.
ONE_AUTHOR_TEST = {
    ("plain", 20): {"batch": 10.95, "clean": 9.69},
    ("plain", 56): {"batch": 14.47, "clean": 13.07},
}


def paper_error(family: str, depth: int, which: str) -> float | None:
    """The paper's final `train` or `test` error, a fraction; None where the paper gives none.

    The paper doesn't say how it measured its training error. Its size is that of the running kind or of batch
    statistics, so it must never be set beside a clean one.
    """
    percent = (PAPER_TRAIN if which == "train" else PAPER_TEST).get((family, depth))
    return None if percent is None else percent / 100


def reproduced_training_gap(shallow: int, deep: int) -> float | None:
    """One author's gap in clean training error of the plain pair, a fraction, or None."""
    theirs = [
        ONE_AUTHOR[network]["clean"] for depth in (shallow, deep) if (network := ("plain", depth)) in ONE_AUTHOR
    ]
    return (theirs[1] - theirs[0]) / 100 if len(theirs) == 2 else None
