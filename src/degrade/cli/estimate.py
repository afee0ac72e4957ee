"""What a training would take on this machine, said and chosen before it begins; and the images it needs, fetched."""

import contextlib
import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from degrade.cli.options import networks_of
from degrade.errors import ConfigError, RunConflictError, RunError

if TYPE_CHECKING:
    from degrade.config import Experiment
    from degrade.config.launcher import Launcher


def fetch_images(experiments: "Sequence[Experiment]", *, fresh: bool) -> None:
    """Load the images of what is to be trained once, so that missing ones are named before any network starts.

    Raises:
        DatasetError: the images cannot be fetched or read.
    """
    from degrade.data import load_images
    from degrade.runs.estimate import plan

    try:
        todo = plan("", experiments, fresh=fresh).todo
    except RunConflictError:  # another recipe may be chosen; otherwise training names the records that are in the way
        return
    wanted = [own.data for own, _ in todo if own.data.name != "synthetic"]
    for data in {repr(data): data for data in wanted}.values():
        load_images(data, say=logging.getLogger("degrade.run").info)


def estimated(
    experiment: str,
    experiments: "list[Experiment]",
    settings: Sequence[str],
    *,
    seeds: int,
    within: float | None,
    launcher: "Launcher",
    fresh: bool,
) -> "list[Experiment]":
    """Print how long each recipe would take on this machine, and choose one.

    Training may take `within` seconds; None leaves the recipe of `experiments`, which was asked for, as it is. A
    launcher for other machines counts as training one network at a time.

    Returns:
        The networks to train, by the most faithful recipe that fits into `within`.
    """
    from degrade.runs.estimate import choose, plan, recipes, tell
    from degrade.runs.launchers import settle_threads

    asked = experiments[0].recipe.name
    others = [text for text in settings if not text.startswith("recipe=")]
    if asked == "smoke" or (within is None and not plan(asked, experiments, fresh=fresh).todo):
        return experiments
    found, plans = {}, []
    for name in recipes(asked):
        with contextlib.suppress(ConfigError, RunError):  # a recipe may not fit these networks or records
            same = name == asked
            own = experiments if same else networks_of(experiment, [f"recipe={name}", *others], seeds=seeds)
            timed = copy.deepcopy(own)
            jobs = settle_threads(launcher, timed) if launcher.name in ("local", "submitit_local") else 1
            plans.append(plan(name, timed, jobs=jobs, fresh=fresh))
            found[name] = own
    if within is not None and plans:
        return found[choose(plans, within).recipe]
    if plans:
        tell(plans)
    return experiments  # without a plan, training names the reason
