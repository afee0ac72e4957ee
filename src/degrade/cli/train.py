"""The commands that train: train, reproduce and sweep."""

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from degrade.cli import completion
from degrade.cli.estimate import estimated, fetch_images
from degrade.cli.look import figure_name, show
from degrade.cli.options import (
    DONE,
    FILES,
    RUN,
    Band,
    Depth,
    Device,
    DryRun,
    Family,
    FigureFile,
    Format,
    Fresh,
    Overrides,
    Precision,
    Recipe,
    Seed,
    aside,
    exit_code,
    name_losses,
    networks_of,
    seconds_of,
    settings_of,
)
from degrade.errors import ConfigError, RunInterrupted

if TYPE_CHECKING:
    from degrade.config import Experiment
    from degrade.runs import RunRecord
    from degrade.runs.many import Cell


def train(
    overrides: Overrides = None,
    depth: Depth = None,
    plain: Family = None,
    recipe: Recipe = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Run the config.yaml of a run again.", rich_help_panel=FILES),
    ] = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
) -> int:
    """Train one network into its record; the same command again skips a finished run and resumes an interrupted one.

    Examples:

    - `degrade train --depth 56 --plain`
    - `degrade train --residual --recipe quick --seed 1`
    - `degrade train model.depth=110 model.family=residual optim.lr=0.05`
    - `degrade train model=wide optim=adamw recipe.schedule=cosine`
    - `degrade train --with my_module.py model=my_network`
    """
    from degrade.config import compose, load_config

    settings = settings_of(
        overrides,
        depth=depth,
        plain=plain,
        recipe=recipe,
        seed=seed,
        device=device,
        precision=precision,
        from_file=config is not None,
    )
    experiment = load_config(config, settings) if config is not None else compose(settings)
    if dry_run:
        _print_plan([experiment])
        return DONE

    from degrade.runs import run_directory
    from degrade.runs.many import finished

    record = None if fresh else finished(experiment)  # this does not import torch
    if record is None:
        from degrade.runs import run

        _advise(experiment)
        record = run(experiment, fresh=fresh)
    _to_loggers([(experiment, record)])
    _print_outcome(record)
    print(f"record: {run_directory(experiment)}")
    print(f"next:   degrade plot {run_directory(experiment).parents[1]}")
    return exit_code([record.status])


def reproduce(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT KEY=VALUE",
            autocompletion=completion.experiment_or_settings,
            help="The experiment is story (default), figure1, figure6, vgg_wall, gradients or remedies; settings "
            "follow it, and perhaps a launcher.",
        ),
    ] = None,
    recipe: Recipe = None,
    within: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Take the most faithful recipe that fits into this time on this machine: 20m, 1h30m, 1d.",
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, max=1000, help="Each network is trained with the seeds 0 to K-1.", rich_help_panel=RUN),
    ] = 1,
    device: Device = None,
    precision: Precision = None,
    output: FigureFile = None,
    band: Band = "std",
    form: Format = "text",
    fresh: Fresh = False,
    dry_run: DryRun = False,
) -> int:
    """Train an experiment's networks, draw figure and page, and print verdict and table beside the paper's errors.

    Finished runs are skipped and interrupted ones resumed: the same command again goes on where it stopped.
    Before it trains, it times the networks for a moment and prints how long the quick, the short and the paper's
    recipe would take on this machine.
    launcher=local trains launcher.jobs networks at once; the other launchers are submitit_local, slurm and ray.

    Examples:

    - `degrade reproduce`
    - `degrade reproduce --within 20m`
    - `degrade reproduce figure1 --recipe paper --device cuda`
    - `degrade reproduce figure6 --recipe short --seeds 3 --band ci95`
    - `degrade reproduce vgg_wall`
    - `degrade reproduce remedies --seeds 2 launcher.jobs=1`
    """
    from degrade.config.compose import compose_launcher
    from degrade.config.groups import experiment_file

    names = [word for word in arguments or [] if "=" not in word]
    if len(names) > 1:
        raise ConfigError(f"{' '.join(names)}: one experiment at a time; settings are written KEY=VALUE")
    experiment = names[0] if names else "story"
    words = [word for word in arguments or [] if "=" in word]
    launcher, common = compose_launcher(
        settings_of(words, recipe=recipe, within=within, device=device, precision=precision)
    )
    limit = None if within is None else seconds_of(within)
    experiments = networks_of(experiment, common, seeds=seeds)
    if not dry_run and launcher.name in ("local", "submitit_local"):  # other machines have images of their own
        with aside(form):
            fetch_images(experiments, fresh=fresh)
    if limit is not None or not dry_run:
        with contextlib.redirect_stdout(sys.stderr) if dry_run else aside(form):
            experiments = estimated(
                experiment, experiments, common, seeds=seeds, within=limit, launcher=launcher, fresh=fresh
            )
    if dry_run:
        _print_plan(experiments)
        return DONE

    from degrade.analysis import error_curves
    from degrade.analysis.page import save_page
    from degrade.runs import run_directory, run_matrix

    with aside(form):
        records = run_matrix(experiments, launcher, fresh=fresh)
    _to_loggers(list(zip(experiments, records, strict=True)))
    folder = run_directory(experiments[0]).parents[1]
    measured = any(record.rows() for record in records)
    if measured:
        curves = error_curves((record for record in records if record.exists), band=band)
        style = experiment_file(experiment).get("figure")  # if it names one
        if style == "depth" and not any(curve.final["test_error"] for curve in curves):
            style = None  # there are no last errors yet
        target = output or folder / figure_name(style)
        title = f"{experiment}, recipe {experiments[0].recipe.name}"
        with aside(form):
            print()
        show(curves, target, style=style, title=title, form=form, judged=True)
        with aside(form):
            save_page(curves, page := target.with_name("report.html"))
            print(f"page: {page}")
    with aside(form):
        print(f"records: {folder}")
        if measured:
            after = "probe gradients" if experiments[0].checkpoint.snapshots else "plot"
            print(f"next:    degrade {after} {folder} --output figure.pdf")
    return exit_code(record.status if record.exists else "lost" for record in records)


def sweep(
    overrides: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE,...",
            autocompletion=completion.swept_settings,
            help="These are settings, and perhaps a launcher; of settings with several values every combination is "
            "trained.",
        ),
    ],
    fresh: Fresh = False,
    dry_run: DryRun = False,
) -> int:
    """Train every combination of settings into its own record, on this machine or on a cluster.

    Finished cells are skipped and interrupted ones resumed: the same command again goes on where it stopped.
    The launcher is local (launcher.jobs cells at once), submitit_local, slurm or ray.

    Examples:

    - `degrade sweep model=plain,residual model.depth=20,56 seed=0,1,2`
    - `degrade sweep seed='range(5)' recipe=quick launcher.jobs=2`
    - `degrade sweep optim.lr=0.05,0.1 seed=0,1 launcher=slurm launcher.partition=gpu`
    """
    from degrade.config.compose import compose_cells, compose_launcher
    from degrade.runs.many import plan, train_all

    launcher, settings = compose_launcher(settings_of(overrides))
    cells = plan(compose_cells(settings), launcher, fresh=fresh)
    if dry_run:
        for cell in cells:
            begun = "skip" if cell.finished else "resume"
            print(f"{begun if cell.record.exists and not fresh else 'train':7} {cell.record.path}")
        print(f"{len(cells)} cell{'s' * (len(cells) != 1)}, launcher {launcher.name}")
        return DONE
    try:
        train_all(cells, launcher, fresh=fresh)
    except RunInterrupted:
        _print_cells(cells)
        raise
    _to_loggers([(cell.experiment, cell.record) for cell in cells])
    _print_cells(cells)
    return exit_code(cell.outcome for cell in cells)


def _to_loggers(runs: "Sequence[tuple[Experiment, RunRecord]]") -> None:
    """Log finished runs to those of their loggers that lack some of them.

    TensorBoard's final figure is added here, since `runs` may not import what draws.
    """
    for experiment, record in runs:
        if experiment.log.loggers and record.status.finished and (rows := record.metrics()):
            from degrade.analysis import draw, error_curves
            from degrade.runs.board import add_figure
            from degrade.runs.loggers import guarded, log_finished

            log_finished(record.path, experiment, rows)
            if "tensorboard" in experiment.log.loggers:
                with guarded(record.path, "tensorboard"):
                    add_figure(
                        record.path, draw(error_curves([record]), title=None), int(record.summary["iteration"])
                    )


def _print_outcome(record: "RunRecord") -> None:
    summary = record.summary
    parts = [f"{record.status} at iteration {summary.get('iteration', 0):,}"]
    for label, key in (
        ("running training", "train_error"),
        ("clean training", "train_error_clean"),
        ("batch-statistics training", "train_error_batch"),
        ("test", "test_error"),
    ):
        if summary.get(key) is not None:
            parts.append(f"{label} error {summary[key]:.2%}")
    print(", ".join(parts) + (" (synthetic data)" if summary.get("synthetic") else ""))


def _print_cells(cells: "Sequence[Cell]") -> None:
    """Print what became of cells, as their records tell."""
    from degrade.analysis import runs_table
    from degrade.runs import Status
    from degrade.runs.many import OUTCOMES

    outcomes = [cell.outcome for cell in cells]
    for cell, outcome in zip(cells, outcomes, strict=True):
        if outcome in (Status.COMPLETE, Status.DIVERGED):
            name_losses(cell.record.path, cell.record.losses())
    print(runs_table([cell.record for cell in cells], below=Path(), statuses=outcomes))
    for cell, outcome in zip(cells, outcomes, strict=True):
        if outcome == Status.FAILED:
            print(f"{cell.record.path}: {cell.record.summary.get('error', 'no message')}")
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in OUTCOMES if kind in outcomes)
    print(f"{len(outcomes)} cells: {counts}")
    if any(outcome not in (Status.COMPLETE, Status.DIVERGED) for outcome in outcomes):
        print("the same command again goes on with what is not finished")
    print(f"next:   degrade plot {cells[0].record.path.parents[1]}")


def _print_plan(experiments: "Sequence[Experiment]") -> None:
    from dataclasses import asdict

    from omegaconf import OmegaConf

    from degrade.runs import run_directory

    print(OmegaConf.to_yaml(OmegaConf.create(asdict(experiments[0]))), end="")
    for experiment in experiments:
        print(f"# run directory: {run_directory(experiment)}")


def _advise(experiment: "Experiment") -> None:
    """Before a long training on a CPU, point out how long it takes and that there is a short recipe."""
    from degrade.training import choose_device

    if choose_device(experiment.runtime.device).type == "cpu" and experiment.recipe.iterations >= 8000:
        logging.getLogger("degrade.cli").info(
            "recipe %s: %s iterations on a CPU take hours; --recipe quick takes minutes. Ctrl-C keeps what is done.",
            experiment.recipe.name,
            f"{experiment.recipe.iterations:,}",
        )
