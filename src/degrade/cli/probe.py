"""`degrade probe`: what a trained network looks like inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from degrade.cli.options import DONE, RUN_FAILED, Device, Fresh, Runs, check_suffix, chosen, one_run
from degrade.errors import ConfigError, RunError

if TYPE_CHECKING:
    from degrade.analysis import Curve

probe_app = typer.Typer(help="Look inside networks: the diagnostics behind the story.", no_args_is_help=True)

FigureFile = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="png, svg or pdf. Default: beside the runs, named after the probe."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first so many images. [default: all]")]


@probe_app.command("responses")
def probe_responses(runs: Runs = None, output: FigureFile = None, limit: Limit = None, device: Device = None) -> int:
    """Standard deviation of each layer's response, after batch norm, before ReLU and addition (paper, Figure 7).

    Measured over the test images on each run's checkpoint, and kept in RUN/probes/responses.csv.

    Examples:

    - `degrade probe responses`

    - `degrade probe responses outputs/paper --output figure7.pdf`

    - `degrade probe responses outputs/quick/plain-56 outputs/quick/residual-56 --limit 1000`
    """
    if output is not None:
        check_suffix(output)
    curves, folder = _curves(runs)
    from degrade.analysis.figures import save
    from degrade.analysis.table import aligned
    from degrade.probes.responses import draw_responses, responses
    from degrade.runs import RunRecord

    found = [
        [responses(RunRecord(path), limit=limit, device=device or "auto") for path in curve.paths.values()]
        for curve in curves
    ]
    rows = []
    for curve, seeds in zip(curves, found, strict=True):
        every = [float(row["std"]) for own in seeds for row in own]
        rows.append([curve.label, str(len(seeds[0])), *(f"{f(every):.3f}" for f in (min, _mean, max))])
    print(aligned(["network", "layers", "least", "mean", "greatest"], rows))
    save(draw_responses(curves, found), target := output or folder / "responses.png")
    print(f"figure: {target}")
    return DONE


@probe_app.command("construct")
def probe_construct(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained plain or residual network's directory.")],
    depth: Annotated[int, typer.Option(help="Of the network built from it: 6n + 2.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of --continue, such as optim.lr=0.01.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option("--continue", min=1, metavar="N", help="Train the built network N iterations on.")
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(help="The same depth from scratch. Default: the run beside RUN, if any.", show_default=False),
    ] = None,
    output: FigureFile = None,
    limit: Limit = None,
    device: Device = None,
    fresh: Fresh = False,
) -> int:
    """Build the deeper network whose added layers are the identity, and train it on (paper, introduction).

    Both networks are evaluated in eval mode on all images: RUN/probes/construct-M.csv. --continue trains by RUN's
    settings at the rate at which RUN ended, into a record of its own in <experiment>-construct; the same command
    again goes on where it was stopped.

    Examples:

    - `degrade probe construct outputs/quick/plain-20/seed-0 --depth 56 --limit 1000`

    - `degrade probe construct outputs/quick/plain-20/seed-0 --depth 56 --continue 300`

    - `degrade probe construct outputs/quick/plain-20/seed-0 --depth 56 --continue 300 optim.lr=0.01 eval.every=50`
    """
    if output is not None:
        check_suffix(output)
    if overrides and iterations is None:
        raise ConfigError(f"{overrides[0]}: settings are for --continue N; give it, or leave them out")
    from degrade.analysis.figures import save
    from degrade.analysis.table import aligned
    from degrade.probes.construct import (
        compare,
        continuation,
        draw_construct,
        network_curve,
        scratch_record,
        train_on,
    )

    record = one_run(run)
    if iterations is not None:
        further = [*([] if device is None else [f"runtime.device={device}"]), *(overrides or [])]
        experiment = continuation(record, depth, iterations, further)  # first: what is wrong with it is known at once
    rows = compare(record, depth, limit=limit, device=device or "auto")
    shallow = network_curve(record)
    cells = []
    for row in rows:
        errors = (f"{row[key]:.2%}" for key in ("shallow_error", "deep_error"))
        cells.append([str(row["set"]), f"{row['count']:,}", *errors, f"{row['largest_difference']:g}"])
    built = f"{shallow.family}-{depth} built"
    print(aligned(["images", "number", shallow.label, built, "largest difference of a logit"], cells))
    trained = None if iterations is None else train_on(record, experiment, fresh=fresh)
    beside = one_run(scratch) if scratch is not None else scratch_record(record, depth)
    deep, other = (None if found is None else network_curve(found) for found in (trained, beside))
    folder = (trained or record).path.parents[1]
    save(draw_construct(shallow, deep, other, rows), target := output or folder / "construct.png")
    if trained is not None:
        print(f"record: {trained.path}")
    print(f"figure: {target}")
    return RUN_FAILED if trained is not None and trained.status != "complete" else DONE


@probe_app.command("landscape")
def probe_landscape(
    runs: Runs = None,
    grid: Annotated[int, typer.Option(help="Points along each direction, odd.")] = 15,
    span: Annotated[float, typer.Option(help="How far it reaches, in units of each filter's norm.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Draws the two directions.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Training images a point, the first so many.")] = 300,
    output: FigureFile = None,
    device: Device = None,
) -> int:
    """Loss around trained networks along two random filter-normalised directions, as contours and as a surface.

    As in Li et al. (2018). Points are kept in RUN/probes/landscape-*.csv as they are found: the same command again
    goes on where it was stopped. Of several seeds of a network the first is looked at.

    Examples:

    - `degrade probe landscape outputs/quick/plain-56 outputs/quick/residual-56`

    - `degrade probe landscape outputs/quick/plain-56/seed-0 --grid 7 --limit 100`

    - `degrade probe landscape outputs/paper/residual-56 --grid 51 --limit 5000 --device cuda --output landscape.pdf`
    """
    if output is not None:
        check_suffix(output)
    curves, folder = _curves(runs)
    from degrade.analysis.figures import save
    from degrade.analysis.table import aligned
    from degrade.probes.landscape import draw_landscape, landscape
    from degrade.runs import RunRecord

    found = [
        landscape(
            RunRecord(next(iter(curve.paths.values()))),
            grid=grid,
            span=span,
            seed=seed,
            limit=limit,
            device=device or "auto",
        )
        for curve in curves
    ]
    cells = []
    for curve, rows in zip(curves, found, strict=True):
        losses = [float(row["loss"]) for row in rows]
        cells.append(
            [curve.label, *(f"{value:.3g}" for value in (losses[len(losses) // 2], min(losses), max(losses)))]
        )
    print(aligned(["network", "loss", "least", "greatest"], cells))
    facts = f"loss in eval mode on the first {limit:,} training images; directions by filter, seed {seed}"
    save(draw_landscape(curves, found, facts), target := output or folder / "landscape.png")
    print(f"figure: {target}")
    return DONE


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _curves(runs: list[Path] | None) -> "tuple[list[Curve], Path]":
    """The networks of the runs asked for, and the folder for their figure."""
    from degrade.analysis import error_curves

    records, folder = chosen(runs)
    begun = [record for record in records if record.summary.get("iteration")]
    if not begun:
        raise RunError(f"{records[0].path}: not trained yet, so there is nothing to look into")
    return error_curves(begun), folder
