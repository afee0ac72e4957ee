"""README's figures are what the product draws from the records in the repository."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from degrade.cli import main

ROOT = Path(__file__).parents[1]
REFERENCE = Path("outputs/reference")
QUICK = str(REFERENCE / "quick")
DEEP = (f"{QUICK}/plain-56/seed-1", f"{QUICK}/residual-56/seed-1")

#: The file that a command writes first, and the command. Checkpoints are not in the repository, so probes draw from
#: the numbers that they kept beside the runs.
FIGURES = {
    "short/figure.png": ["plot", str(REFERENCE / "short"), "--title", "story, recipe short"],
    "quick/figure.png": ["plot", QUICK, "--title", "story, recipe quick"],
    "quick/responses.png": ["probe", "responses", QUICK],
    "quick/landscape.png": ["probe", "landscape", *DEEP],
    "quick-construct/construct.png": [
        *("probe", "construct", f"{QUICK}/plain-20/seed-1", "--depth", "56", "--continue", "300", "optim.lr=0.005"),
        *("eval.every=100", "log.every=25", "runtime.precision=fp32", "--scratch", f"{QUICK}/plain-56/seed-1"),
    ],
    "gradients/gradients.png": ["probe", "gradients", str(REFERENCE / "gradients")],
    "vgg_wall/figure.png": [
        "plot",
        str(REFERENCE / "vgg_wall"),
        "--style",
        "depth",
        "--title",
        "VGG wall, recipe quick",
    ],
    "inspect/compare.png": ["inspect", "--compare", "3x3,5x5,7x7"],
}


#: The second file of a command that writes two.
FURTHER = {"gradients/gradients.png": "gradients/gradients-initial.png"}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_the_readme_is_drawn_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main([*FIGURES[name], "--output", str(tmp_path / Path(name).name)]) == 0
    for each in (name, FURTHER.get(name, name)):
        drawn = tmp_path / Path(each).name
        ours, theirs = (np.asarray(Image.open(path).convert("L"), dtype=float) for path in (drawn, REFERENCE / each))
        assert ours.shape == theirs.shape
        # Another version of matplotlib or its fonts may shift a letter by a fraction of a pixel.
        assert np.abs(ours - theirs).mean() < 0.5


def test_every_picture_of_the_readme_is_there_and_drawn_by_a_command_that_is_tested() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), picture
    drawn = {str(REFERENCE / name) for name in (*FIGURES, *FURTHER.values())}
    assert {p for p in pictures if p.endswith(".png")} <= drawn
