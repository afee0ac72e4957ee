"""The figures of README and docs/ are what the product draws from the records in the repository."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from degrade.cli import main
from degrade.cli.commands import app

ROOT = Path(__file__).parents[1]
REFERENCE = Path("outputs/reference")
QUICK = str(REFERENCE / "quick")
PAPER = str(REFERENCE / "paper")

#: The file that a command writes first, and the command. Checkpoints are not in the repository, so probes draw from
#: the numbers that they kept beside the runs.
FIGURES = {
    "quick/figure.png": ["plot", QUICK, "--title", "story, recipe quick"],
    "short/figure.png": ["plot", str(REFERENCE / "short"), "--title", "story, recipe short"],
    "paper/figure.png": ["plot", PAPER, "--title", "story, recipe paper"],
    "paper/kinds.png": ["probe", "kinds", PAPER],
    "paper/responses.png": ["probe", "responses", PAPER],
    "paper/gradients.png": ["probe", "gradients", PAPER],
    "paper/landscape.png": ["probe", "landscape", PAPER, "--recalibrate"],
    "paper-construct/construct.png": [
        *("probe", "construct", f"{PAPER}/plain-20/seed-0", "--depth", "56", "--continue", "300", "eval.every=100"),
        *("log.every=25", "runtime.precision=fp32", "runtime.threads=1"),
    ],
    "paths/trajectory.png": ["probe", "landscape", str(REFERENCE / "paths"), "--trajectory"],
    "remedies/remedies.png": [
        *("plot", str(REFERENCE / "remedies"), "--style", "remedies", "--title", "remedies, recipe quick"),
    ],
    "gradients/gradients.png": ["probe", "gradients", str(REFERENCE / "gradients")],
    "vgg_wall/figure.png": [
        "plot",
        str(REFERENCE / "vgg_wall"),
        "--style",
        "depth",
        "--title",
        "vgg_wall, recipe wall",
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


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_picture_is_there_and_drawn_by_a_command_that_is_tested() -> None:
    pictures = {
        (page.parent / picture).resolve()
        for page in PAGES
        for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text())
    }
    drawn = {ROOT / REFERENCE / name for name in (*FIGURES, *FURTHER.values())}
    assert {picture for picture in pictures if picture.suffix == ".png"} == drawn
    assert all(picture.is_file() for picture in pictures)


COMMANDS = sorted(
    {
        line.split("#")[0].strip().removeprefix("$ ")
        for page in PAGES
        for block in re.findall(r"```(?:sh)?\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.removeprefix("$ ").startswith("degrade ")
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_pages_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command.split(" > ")[0])[1:]
    monkeypatch.chdir(tmp_path)
    if words[0] in ("train", "reproduce", "sweep") and "--config" not in words and "..." not in words:
        wrong = "model.dpth" in command
        assert main([*words, *([] if "--dry-run" in words else ["--dry-run"])]) == (2 if wrong else 0), (
            capsys.readouterr().err
        )
        return
    own: Any = get_command(app)
    while words and words[0] in getattr(own, "commands", {}):
        own, words = own.commands[words[0]], words[1:]
    own.make_context("degrade", words)  # refuses options that the command does not have
