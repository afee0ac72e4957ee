"""How long each recipe would take on this machine, and the most faithful one that fits into a given time.

Networks are timed for a moment on noise. A recipe whose records are begun here counts with the work that is left.
"""

import heapq
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple

import torch

from degrade.config import Experiment, compose
from degrade.config.groups import group_options
from degrade.data.synthetic import noise
from degrade.progress import about, through
from degrade.runs.observers import image_work, planned_work, share_done
from degrade.runs.record import RunRecord, run_directory
from degrade.runs.train import set_up
from degrade.training import Training, choose_device, choose_engine, choose_precision
from degrade.training.choice import images
from degrade.training.device import UNCOMPILED
from degrade.training.peaks import rate, wait

log = logging.getLogger("degrade.run")

#: Two timings of one network may differ by this factor on a busy machine, so a begun recipe is not given up for less.
SLACK = 1.5

#: One recipe takes at most this many times as long for a unit of work as another: small images and small batches keep
#: a computer less busy.
UNEVEN = 3

#: After this many seconds no further network is timed if one with images and batches of the same size was timed
#: already, because the pace for a unit of work differs little between depths (EVALUATION_COST tells how little).
LONGEST = 12


class Plan(NamedTuple):
    """An experiment's networks at one recipe."""

    recipe: str
    todo: list[tuple[Experiment, float]]
    """Experiments that are not finished, each with the work that is left, as `planned_work` counts it."""
    begun: bool
    """Whether there is a record of any network."""
    pace: float
    """Seconds that a unit of work took in the records; 0 if none is known."""
    precision: str | None
    """fp32 if a network was trained in it, since `runtime.precision=auto` then means fp32 for all; else None."""
    jobs: int = 1
    """How many networks are trained at a time."""

    def lasts(self, seconds: Sequence[float]) -> float:
        """Seconds until all are trained, `jobs` at a time and the longest first, from the seconds that each takes."""
        ends = [0.0] * self.jobs
        for own in sorted(seconds, reverse=True):
            heapq.heapreplace(ends, ends[0] + own)
        return max(ends)


def recipes(asked: str) -> list[str]:
    """The recipes that are to be compared, from the least to the most faithful: by iterations and pixels.

    The one that the user asked for is among them in any case.
    """
    apart = {"smoke", "wall"} - {asked}  # one says nothing about networks, the other is for one experiment
    names = set(group_options()["recipe"]) - apart
    found = {name: compose([f"recipe={name}"]) for name in names}
    return sorted(found, key=lambda name: found[name].recipe.iterations * found[name].data.pixels ** 2)


def plan(recipe: str, experiments: Sequence[Experiment], *, jobs: int = 1, fresh: bool = False) -> Plan:
    """What is left to do of experiments that are trained by one recipe, `jobs` at a time; `fresh` leaves all to do.

    Raises:
        RunConflictError: a directory holds other settings, such as another recipe's.
        RunError: a record's settings are damaged.
        RunFileError: a record cannot be read just now.
    """
    done = seconds = 0.0
    todo, begun = [], []
    for experiment in experiments:
        record, left = RunRecord(run_directory(experiment)), planned_work(experiment)
        if record.exists and not fresh:
            record.check_same(experiment)
            begun.append(record)
            summary = record.summary
            ended = record.status_of(summary).finished
            made = left if ended else left * min(1.0, share_done(experiment, summary))
            left, done, seconds = left - made, done + made, seconds + float(summary.get("seconds") or 0)
        if left:
            todo.append((experiment, left))
    precision = "fp32" if any("fp32" in record.precisions for record in begun) else None
    return Plan(recipe, todo, bool(begun), seconds / done if done else 0, precision, jobs)


def choose(plans: Sequence[Plan], within: float) -> Plan:
    """The most faithful plan that fits into `within` seconds, else the least faithful one; the reason is logged.

    Nothing is timed where a recipe is complete and the others take longer by far.
    """
    done = [plan for plan in plans if not plan.todo]
    if done:
        least = [plan.lasts([left * done[-1].pace / UNEVEN for _, left in plan.todo]) for plan in plans]
        if fitting(plans, least, within) is done[-1]:
            more = f"; no more faithful one fits into {about(within)}" if done[-1] is not plans[-1] else ""
            log.info("recipe %s is complete%s", done[-1].recipe, more)
            return done[-1]
    seconds = tell(plans)
    found = fitting(plans, seconds, within)
    if found is None:
        text = "no recipe fits into %s: taking %s all the same, which takes %s"
        log.info(text, about(within), plans[0].recipe, about(seconds[0]))
        return plans[0]
    if found.begun:
        log.info("going on with recipe %s, which is %s", found.recipe, "begun" if found.todo else "complete")
    else:
        log.info("taking recipe %s, the most faithful that fits into %s", found.recipe, about(within))
    return found


def fitting(plans: Sequence[Plan], seconds: Sequence[float], within: float) -> Plan | None:
    """The last plan that fits, which is the most faithful; None if none fits.

    A plan that is begun is not given up for a difference that may be noise of timing.
    """
    found = None
    for plan, needed in zip(plans, seconds, strict=True):
        slack = SLACK if plan.begun else 1 / SLACK if found is not None and found.begun else 1
        if needed <= within * slack:
            found = plan
    return found


def tell(plans: Sequence[Plan]) -> list[float]:
    """Time each network that is not finished, say what each recipe would take, and return the seconds.

    They are infinite where a network cannot be timed.
    """
    by_network = zip_longest(*([(plan, own) for own, _ in plan.todo] for plan in plans))
    timed = {_key(*pair): pair for pairs in by_network for pair in pairs if pair}
    moment, started = min(1.0, 8 / max(1, len(timed))), time.monotonic()
    paces, alike, place = {}, {}, ""
    for key, (plan, own) in through(timed.items(), "timing the networks", total=len(timed)):
        size = own.data.pixels, own.recipe.batch_size
        if size not in alike or time.monotonic() - started < LONGEST:
            alike[size], place = _pace(own, plan.precision, moment)
        paces[key] = alike[size]
    seconds = [plan.lasts([left * paces[_key(plan, own)] for own, left in plan.todo]) for plan in plans]
    rests = [
        about(needed) + " more" * plan.begun if plan.todo else "complete"
        for plan, needed in zip(plans, seconds, strict=True)
    ]
    parts = ", ".join(f"{plan.recipe} {rest}" for plan, rest in zip(plans, rests, strict=True))
    log.info("on this machine (%s): %s", place, parts)
    return seconds


def _key(plan: Plan, own: Experiment) -> str:
    """A text that is the same for networks whose steps take the same time."""
    return repr(
        (own.model, own.data, own.recipe.batch_size, own.optim.name, own.optim.clip, own.runtime, plan.precision)
    )


def _pace(experiment: Experiment, precision: str | None, seconds: float) -> tuple[float, str]:
    """Seconds that a unit of work takes in training steps, and device, precision and threads in words."""
    runtime, size = experiment.runtime, experiment.recipe.batch_size
    set_up(runtime)
    device = choose_device(runtime.device)
    iterations, optimizer = experiment.recipe.iterations, experiment.optim.name
    engine = choose_engine(runtime.engine, device, iterations, optimizer=optimizer)
    uncompiled = UNCOMPILED.get(engine, engine)  # compiling takes minutes
    chosen = choose_precision(runtime.precision, device, before=precision, images=images(experiment))
    place = f"{device}, {chosen}"
    if device.type == "cpu":
        place += f", {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)} per network"
    try:
        own = replace(experiment, runtime=replace(runtime, engine=uncompiled))
        training = Training(own, noise(2 * size, side=own.data.pixels, classes=2), precision=chosen)

        def step() -> float:
            training.step()
            return size * image_work(own)

        started = time.monotonic()
        step()  # the first step finds memory and chooses algorithms
        wait(device)
        least = 2 if time.monotonic() - started < 2 * seconds else 1
        return 1 / rate(step, device, seconds, least=least), place
    except RuntimeError:  # there may be too little memory, which another recipe does not need
        return math.inf, place
