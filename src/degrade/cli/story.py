"""`degrade story`: chapters of the page, made by the other commands, one after the other."""

import logging
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from degrade.cli.options import DONE, RUN, Device, Overrides, Recipe, chosen, networks_of, settings_of
from degrade.errors import ConfigError, RunFailed
from degrade.progress import about

if TYPE_CHECKING:
    from degrade.config import Experiment

log = logging.getLogger("degrade.run")


class Step(NamedTuple):
    """One chapter."""

    title: str
    work: float
    """How much there is to compute, in units of `planned_work`."""
    make: Callable[[], int]
    """Does it, and returns an exit code; what is there already is left alone."""


def story(
    overrides: Overrides = None,
    recipe: Recipe = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, max=1000, help="The story's networks are trained with the seeds 0 to K-1.", rich_help_panel=RUN
        ),
    ] = 1,
    device: Device = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser at the end.")] = False,
) -> int:
    """Make the page's chapters: networks, wall, gradients, responses, landscape, constructed solution.

    Each chapter is what another command makes, and can be made alone. What is there already is left as it is, so the
    same command again goes on where it was stopped. The wall is trained by a recipe of its own, whatever --recipe
    says. The page is outputs/story.html.

    Examples:

    - `degrade story`
    - `degrade story --recipe short --seeds 3`
    - `degrade story --open`
    """
    from degrade.runs import run_directory

    own = settings_of(overrides, recipe=recipe, device=device)
    if named := [word for word in own if word.startswith("name=")]:
        raise ConfigError(f"{named[0]}: each chapter has a folder of its own; write output=DIR, or leave it out")
    first = run_directory(networks_of("story", own)[0])
    steps, folders = _steps(own, first.parents[1], seeds, device)
    _make(steps)

    from degrade.analysis import error_curves
    from degrade.analysis.page import save_page

    records, _ = chosen([folder for folder in folders if folder.is_dir()])
    save_page(error_curves(records), page := first.parents[2] / "story.html")
    print(f"page: {page}")
    if open_page:
        webbrowser.open(page.resolve().as_uri())
    return DONE


def _steps(own: list[str], folder: Path, seeds: int, device: str | None) -> tuple[list[Step], list[Path]]:
    """The chapters, and the folders of runs that the page shows."""
    from degrade.cli.probe import probe_construct, probe_gradients, probe_landscape, probe_responses
    from degrade.cli.train import reproduce
    from degrade.cli.understand import inspect
    from degrade.runs import run_directory
    from degrade.runs.estimate import plan
    from degrade.runs.observers import EVALUATION_COST, image_work, planned_work

    device = None if device == "mps" else device  # there probes measure on the CPU
    networks = networks_of("story", own, seeds=seeds)
    shallow, deep, _, residual = (run_directory(network) for network in networks[:4])
    further = max(1, networks[0].recipe.iterations // 8)
    # The wall has a recipe of its own, but for tests.
    walled = [word for word in own if not word.startswith("recipe=") or word == "recipe=smoke"]
    wall, gradients = networks_of("vgg_wall", walled), networks_of("gradients", own)

    def trained(some: "Sequence[Experiment]") -> float:
        return sum(left for _, left in plan("", some).todo)

    def looked(images: int, some: "Sequence[Experiment]") -> float:
        return sum(EVALUATION_COST * images * image_work(network) for network in some)

    steps = [
        Step("plain and residual networks", trained(networks), lambda: reproduce(["story", *own], seeds=seeds)),
        Step(
            "small convolutions beside large ones",
            0,
            lambda: inspect(compare="3x3,5x5,7x7", output=folder / "compare.png"),
        ),
        Step("the wall", trained(wall), lambda: reproduce(["vgg_wall", *walled])),
        Step("gradients", trained(gradients), lambda: probe_gradients(["experiment=gradients", *own])),
        Step("responses", looked(10_000, networks), lambda: probe_responses([folder], device=device)),
        Step(
            "the loss around the deep networks",
            looked(225 * 300, networks[1:4:2]),
            lambda: probe_landscape([deep, residual], device=device),
        ),
        Step(
            "the constructed solution",
            sum(planned_work(network) for network in networks[:2]) / 8 + looked(120_000, networks[:2]),
            lambda: probe_construct(shallow, networks[1].model.depth, iterations=further, device=device),
        ),
    ]
    others = [run_directory(some[0]).parents[1] for some in (wall, gradients)]
    return steps, [folder, folder.with_name(f"{folder.name}-construct"), *others]


def _make(steps: Sequence[Step]) -> None:
    """Make the chapters in turn, and say before each how many there are, and how long all that are left may take.

    Raises:
        RunFailed: a chapter could not be made; those after it are not tried.
    """
    done = spent = 0.0
    for number, step in enumerate(steps, start=1):
        left = sum(own.work for own in steps[number - 1 :])
        told = f"; {about(left * spent / done)} left for all" if done else ""
        log.info("\n== %d of %d: %s%s", number, len(steps), step.title, told)
        started = time.monotonic()
        if (code := step.make()) != DONE:
            raise RunFailed(f"{step.title}: not made (exit code {code}); the same command goes on from there")
        seconds = time.monotonic() - started
        if step.work and seconds > 1:  # else it was there already
            done, spent = done + step.work, spent + seconds
