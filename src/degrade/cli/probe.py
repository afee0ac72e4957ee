"""`degrade probe`: what a trained network looks like inside."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from degrade.cli import completion
from degrade.cli.options import (
    DONE,
    RUN_FAILED,
    Device,
    FigureFile,
    Fresh,
    Runs,
    check_suffix,
    chosen,
    networks_of,
    one_run,
    refuse_conflicts,
    settings_of,
)
from degrade.errors import ConfigError, RunError

if TYPE_CHECKING:
    from degrade.analysis import Curve
    from degrade.config import Experiment
    from degrade.probes.numbers import Row
    from degrade.runs import RunRecord

probe_app = typer.Typer(help="Look inside networks: the diagnostics behind the story.", no_args_is_help=True)

#: Networks before their first update: the table beside the runs that their figure is drawn from.
INITIAL = "gradients-initial.csv"

Limit = Annotated[int | None, typer.Option(help="Use only the first so many images. [default: all]")]


@probe_app.command("responses")
def probe_responses(runs: Runs = None, output: FigureFile = None, limit: Limit = None, device: Device = None) -> int:
    """Standard deviation of each layer's response, after batch norm, before ReLU and addition (paper, Figure 7).

    Measured over the test images on each run's checkpoint, and kept in RUN/probes/responses.csv. Of several seeds the
    median is drawn as a line, from the least to the greatest as a band.

    Examples:

    - `degrade probe responses`

    - `degrade probe responses outputs/paper --output figure7.pdf`

    - `degrade probe responses outputs/quick/plain-56 outputs/quick/residual-56 --limit 1000`
    """
    _check(output, limit)
    records, folder = chosen(runs)
    curves = _curves(records, "responses")
    from degrade.analysis.figures import save
    from degrade.analysis.table import table
    from degrade.probes.responses import draw_responses, responses
    from degrade.runs import RunRecord

    found = [
        [responses(RunRecord(path), limit=limit, device=device or "auto") for path in curve.paths.values()]
        for curve in curves
    ]
    rows = []
    for curve, seeds in zip(curves, found, strict=True):
        stds = [[float(row["std"]) for row in own] for own in seeds]
        layers = ([pick(own) for own in stds] for pick in (min, median, max))
        rows.append([curve.label, str(len(seeds)), *map(_over_seeds, layers)])
    if any(len(seeds) > 1 for seeds in found):
        print("standard deviation of the response: median of the seeds, least-greatest seed")
    print(table(["network", "seeds", "least layer", "median layer", "greatest layer"], rows, "text"))
    save(draw_responses(curves, found), target := output or folder / "responses.png")
    print(f"figure: {target}")
    return DONE


@probe_app.command("gradients")
def probe_gradients(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUNS or KEY=VALUE",
            autocompletion=completion.runs_or_settings,
            help="Run directories (default: outputs); or networks not trained yet, as for `degrade sweep`; or "
            "experiment=gradients, to train and draw all.",
            show_default=False,
        ),
    ] = None,
    output: FigureFile = None,
    limit: Annotated[int | None, typer.Option(help="Use so many training images. [default: 256]")] = None,
    device: Device = None,
) -> int:
    """Signals forwards and gradients backwards, layer by layer, at initialisation and along training (section 4.1).

    Measured in train mode on the first training images: gradients of responses and of weights, the latter relative
    to the weights too, how the weights' norm has grown, how far gradients at neighbouring images resemble each other,
    and how many ReLUs are zero on every image. Runs trained with checkpoint.snapshots=K are looked at
    along training and drawn as heat maps, others at their last checkpoint only; RUN/probes/gradients.csv keeps the
    numbers of all seeds, the first of which is drawn. gradients-initial.csv beside the runs, of networks before their
    first update, is drawn again too.

    Examples:

    - `degrade probe gradients experiment=gradients`

    - `degrade probe gradients outputs/gradients --output gradients.pdf`

    - `degrade probe gradients model=plain,residual model.depth=20,56 model.norm=batch,none`
    """
    _check(output, limit)
    runs = [word for word in arguments or [] if "=" not in word or Path(word).exists()]
    settings = [word for word in arguments or [] if word not in runs]
    refuse_conflicts(_with_device(device, settings))
    if runs and settings:
        raise ConfigError(f"{settings[0]}: name runs, or settings of networks, not both")
    if not settings:
        records, folder = chosen([Path(run) for run in runs] or None)
        _gradients_of(records, folder, output, limit, device)
        from degrade.probes.numbers import read

        if table := read(folder / INITIAL):
            _draw_initial(table, _initial_figure(output) or folder / "gradients-initial.png")
        return DONE
    names = [word.partition("=")[2] for word in settings if word.startswith("experiment=")]
    settings = [word for word in settings if not word.startswith("experiment=")]
    if not names:
        return _initial_gradients([], settings, output, limit, device)
    return _gradients_experiment(names[-1], settings, output, limit, device)


def _gradients_experiment(
    experiment: str, settings: list[str], output: Path | None, limit: int | None, device: str | None
) -> int:
    """Networks before their first update first, since that takes seconds; then training, then what it left."""
    from degrade.config import untrained_matrix

    planned = networks_of(experiment, [f"runtime.device={device or 'auto'}", *settings])
    if not any(own.checkpoint.snapshots for own in planned):
        raise ConfigError(f"experiment={experiment}: keeps no snapshots; add checkpoint.snapshots=16 and a name=...")
    if networks := untrained_matrix(experiment):
        _initial_gradients(networks, [f"name={planned[0].name}", *settings], _initial_figure(output), limit, device)
    from degrade.runs import run_directory, run_matrix

    records = run_matrix(planned)
    _gradients_of(records, run_directory(planned[0]).parents[1], output, limit, device)
    return DONE if all(record.status == "complete" for record in records) else RUN_FAILED


def _initial_figure(output: Path | None) -> Path | None:
    """Beside the figure of the runs."""
    return output and output.with_stem(f"{output.stem}-initial")


def _gradients_of(
    records: "list[RunRecord]", folder: Path, output: Path | None, limit: int | None, device: str | None
) -> None:
    """Measure and draw runs, along training where there are snapshots."""
    curves = _curves(records, "gradients")
    from degrade.analysis.curves import first_seed
    from degrade.analysis.figures import save
    from degrade.probes import gradients as probe
    from degrade.runs import RunRecord

    measured = [
        [probe.gradients(RunRecord(path), limit=limit, device=device or "auto") for path in curve.paths.values()]
        for curve in curves
    ]
    curves, found = [first_seed(curve) for curve in curves], [seeds[0] for seeds in measured]
    lines, along = [], [probe.stages(rows) for rows in found]
    for curve, (iterations, stages) in zip(curves, along, strict=True):
        lines += [(f"{curve.label} at {iterations[k]:,}", stages[k]) for k in sorted({0, len(stages) - 1})]
    _print_gradients("network at iteration", lines)
    draw = probe.draw_last if all(len(stages) == 1 for _, stages in along) else probe.draw_heat_maps
    save(draw(curves, found), target := output or folder / "gradients.png")
    print(f"figure: {target}")


def _initial_gradients(
    networks: list[list[str]], settings: list[str], output: Path | None, limit: int | None, device: str | None
) -> int:
    """Measure and draw networks before their first update; of none, those that the settings alone describe."""
    from degrade.config import compose
    from degrade.config.compose import expand

    common = ["name=gradients", f"runtime.device={device or 'auto'}", "runtime.engine=eager"]
    experiments = [compose([*common, *network, *own]) for own in expand(settings) for network in networks or [[]]]
    from tqdm import tqdm

    from degrade.data import load_images
    from degrade.probes import gradients as probe
    from degrade.probes.numbers import write
    from degrade.runs import run_directory

    loaded = {repr(own.data): own.data for own in experiments}
    images = {key: load_images(data) for key, data in loaded.items()}
    bar = tqdm(experiments, "initialisation", leave=False, disable=None)
    found = [probe.initial_gradients(own, images[repr(own.data)], limit=limit) for own in bar]
    folder = run_directory(experiments[0]).parents[1]
    table = probe.initial_table(experiments, found, limit or probe.IMAGES)
    write(folder / INITIAL, table)
    profiles = probe.initial_profiles(table)
    _print_gradients("network", [(f"{own.panel}, {own.label}", own.rows) for own in profiles])
    _draw_initial(table, output or folder / "gradients-initial.png")
    return DONE


def _draw_initial(table: "Sequence[Row]", target: Path) -> None:
    from degrade.analysis.figures import save
    from degrade.probes.gradients import draw_initial

    save(draw_initial(table), target)
    print(f"figure: {target}")


def _print_gradients(head: str, lines: "Sequence[tuple[str, Sequence[Row]]]") -> None:
    """Norms of the gradients and growth of the weights' norms, from the least of all layers to the greatest."""
    from degrade.analysis.table import table
    from degrade.probes.gradients import CORRELATION, DEAD, GROWTH, NOISE, RELATIVE, SIGNALS, WEIGHTS

    columns = {"responses": (SIGNALS, ".0e"), "weights": (WEIGHTS, ".0e"), "relative": (RELATIVE, ".0e")}
    said = "norms of gradients, least..greatest layer: of responses, weights, and the latter\nrelative to the weights"
    if grown := any(math.isfinite(float(row.get(GROWTH, math.nan))) for _, own in lines for row in own):
        columns |= {"relative": (RELATIVE, ".1e"), "growth": (GROWTH, ".3g")}  # there is room: names are shorter
    print(f"{said}; growth: norm of the weights over the initial one" if grown else said)
    print(table([head, *columns], _least_to_greatest(lines, columns), "text"))
    before_logits = [(f"{label}:", own[:-1]) for label, own in lines if all(CORRELATION in row for row in own)]
    if before_logits:  # records of earlier versions lack the columns
        print(f"\ncorrelation: cosine of gradients at an image and with noise of {NOISE:g} of its")
        print("deviation; dead: share of ReLUs zero on every image; both without the logits")
        further = {"correlation": (CORRELATION, ".2f"), "dead": (DEAD, ".2f")}
        print(
            table([head.removesuffix(" at iteration"), *further], _least_to_greatest(before_logits, further), "text")
        )


def _least_to_greatest(
    lines: "Sequence[tuple[str, Sequence[Row]]]", columns: Mapping[str, tuple[str, str]]
) -> list[list[str]]:
    """A line of a table for each network: its label, and over its layers the quantities that columns name."""
    return [
        [label, *(_over_layers([float(row[key]) for row in own], form) for key, form in columns.values())]
        for label, own in lines
    ]


def _over_layers(values: list[float], form: str) -> str:
    """The least and the greatest; where one is not finite, that one as the greatest."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "-"
    beyond = next((value for value in values if not math.isfinite(value)), max(finite))
    return f"{min(finite):{form}}..{beyond:{form}}"


def _over_seeds(values: list[float]) -> str:
    """The median, and the least and the greatest of several."""
    return f"{median(values):#.3g}" + (f" {min(values):#.3g}-{max(values):#.3g}" if len(values) > 1 else "")


@probe_app.command("construct")
def probe_construct(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", autocompletion=completion.runs, help="A trained plain or residual network's directory."
        ),
    ],
    depth: Annotated[int, typer.Option(help="Of the network built from it: 6n + 2.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            autocompletion=completion.settings,
            help="Settings of --continue, such as optim.lr=0.01; network and images stay.",
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            "--continue", metavar="N", help="Train the built network N iterations on, and RUN's beside it as control."
        ),
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(
            autocompletion=completion.runs,
            help="The same depth from scratch. Default: the run beside RUN, if any.",
            show_default=False,
        ),
    ] = None,
    output: FigureFile = None,
    limit: Limit = None,
    device: Device = None,
    fresh: Fresh = False,
) -> int:
    """Build the deeper network whose added layers are the identity, and train it on (paper, introduction).

    Both networks are evaluated in eval mode on all images: RUN/probes/construct-M.csv. --continue trains both, the
    built one and RUN's own as its control, by RUN's settings at the rate at which RUN stopped, into records of their
    own in <experiment>-construct; the same command again goes on where it was stopped.

    Examples:

    - `degrade probe construct outputs/quick/plain-20/seed-0 --depth 56 --limit 1000`

    - `degrade probe construct outputs/quick/plain-20/seed-0 --depth 56 --continue 300`

    - `degrade probe construct outputs/quick/plain-20/seed-0 --depth 56 --continue 300 optim.lr=0.01 eval.every=50`
    """
    _check(output, limit)
    if overrides and iterations is None:
        raise ConfigError(f"{overrides[0]}: settings are for --continue N; give it, or leave them out")
    from degrade.analysis.figures import save
    from degrade.analysis.table import BATCH, aligned, error_cells
    from degrade.probes.construct import (
        compare,
        continuations,
        draw_construct,
        networks,
        scratch_record,
        train_on,
    )

    record = one_run(run)
    planned: tuple[Experiment, ...] = ()
    if iterations is not None:
        further = settings_of(overrides, device=device)
        planned = continuations(record, depth, iterations, further)  # first: what is wrong with it is known at once
    rows = compare(record, depth, limit=limit, device=device or "auto")
    cells = []
    for row in rows:
        both = (f"{row[key]:.2%}" for key in ("shallow_error", "deep_error"))
        cells.append([str(row["set"]), f"{row['count']:,}", *both, f"{row['largest_difference']:g}"])
    model = record.config["model"]
    heads = [f"{model['family']}-{model['depth']}", f"{model['family']}-{depth} built"]
    print(aligned(["images", "number", *heads, "largest difference of a logit"], cells))
    trained = [train_on(record, experiment, fresh=fresh) for experiment in planned]
    beside = one_run(scratch) if scratch is not None else scratch_record(record, depth)
    drawn = networks(record, depth, trained, beside)
    if trained:
        named = [drawn.shallow, *drawn.continued, *([] if drawn.scratch is None else [drawn.scratch])]
        errors = [[own[0], own[2], own[3], own[BATCH + 1]] for own in map(error_cells, named)]
        print(aligned(["last errors", "running%", "clean%", "test%"], errors))
    folder = (trained[0] if trained else record).path.parents[1]
    save(draw_construct(drawn, rows), target := output or folder / "construct.png")
    for continued in trained:
        print(f"record: {continued.path}")
    print(f"figure: {target}")
    return RUN_FAILED if any(continued.status != "complete" for continued in trained) else DONE


@probe_app.command("landscape")
def probe_landscape(
    runs: Runs = None,
    grid: Annotated[int, typer.Option(help="Points along each direction, odd.")] = 15,
    span: Annotated[float, typer.Option(help="How far it reaches, in units of each filter's norm.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Draws the two directions.")] = 0,
    limit: Annotated[int, typer.Option(help="Training images at each point, the first so many.")] = 300,
    recalibrate: Annotated[
        bool,
        typer.Option(
            "--recalibrate", help="Measure batch norm's mean and variance anew at each point, over the same images."
        ),
    ] = False,
    output: FigureFile = None,
    device: Device = None,
) -> int:
    """Loss around trained networks along two random filter-normalised directions, as contours and as a surface.

    As in Li et al. (2018), in eval mode. Batch norm's running statistics belong to the weights in the middle, and
    grow stale away from it; --recalibrate measures them anew at each point. Points are kept in
    RUN/probes/landscape-*.csv as they are found: the same command again goes on where it was stopped. Of several
    seeds of a network the first is looked at.

    Examples:

    - `degrade probe landscape outputs/quick/plain-56 outputs/quick/residual-56`

    - `degrade probe landscape outputs/quick/plain-56/seed-0 --grid 7 --limit 100`

    - `degrade probe landscape outputs/quick/plain-56 outputs/quick/residual-56 --recalibrate`

    - `degrade probe landscape outputs/paper/residual-56 --grid 51 --limit 5000 --device cuda --output landscape.pdf`
    """
    _check(output, None)  # the limit and the rest are looked at where they are used, before any work
    records, folder = chosen(runs)
    curves = _curves(records, "landscape")
    from degrade.analysis.curves import first_seed
    from degrade.analysis.figures import save
    from degrade.analysis.table import aligned
    from degrade.probes.landscape import draw_landscape, landscape
    from degrade.runs import RunRecord

    curves = [first_seed(curve) for curve in curves]
    bare = [curve.label for curve in curves if curve.config["model"].get("norm", "batch") != "batch"]
    if recalibrate and bare:
        print(f"{', '.join(bare)}: no batch norm, for which --recalibrate changes nothing", file=sys.stderr)
    recalibrate = recalibrate and len(bare) < len(curves)
    found = [
        landscape(
            RunRecord(next(iter(curve.paths.values()))),
            grid=grid,
            span=span,
            seed=seed,
            limit=limit,
            recalibrate=recalibrate,
            device=device or "auto",
        )
        for curve in curves
    ]
    cells = []
    for curve, rows in zip(curves, found, strict=True):
        losses = [float(row["loss"]) for row in rows]
        own = f"{curve.label}, seed {next(iter(curve.seeds))}"
        cells.append([own, *(f"{value:.3g}" for value in (losses[len(losses) // 2], min(losses), max(losses)))])
    print(aligned(["network", "loss", "least", "greatest"], cells))
    figure = draw_landscape(curves, found, seed=seed, limit=limit, recalibrate=recalibrate)
    save(figure, target := output or folder / f"landscape{'-recalibrated' * recalibrate}.png")
    print(f"figure: {target}")
    return DONE


def _check(output: Path | None, limit: int | None) -> None:
    """Refuse options that no probe can use, before any work is done."""
    if output is not None:
        check_suffix(output)
    if limit is not None:
        from degrade.probes.numbers import MOST, within

        within("--limit", limit, 1, MOST)


def _with_device(device: str | None, settings: list[str]) -> list[tuple[str, str]]:
    option = [] if device is None else [(f"--device {device}", f"runtime.device={device}")]
    return [*option, *((text, text) for text in settings)]


def _curves(records: "Sequence[RunRecord]", probe: str) -> "list[Curve]":
    """The networks of those runs that can be looked into: by a checkpoint, or by what the probe found before."""
    from degrade.analysis import error_curves
    from degrade.training import checkpoint

    def open_to(record: "RunRecord") -> bool:
        return bool(checkpoint.candidates(record.path) or [*record.path.glob(f"probes/{probe}*.csv")])

    found = [record for record in records if record.summary.get("iteration") and open_to(record)]
    if not found:
        raise RunError(f"{records[0].path}: has no checkpoint to look into; train it, or again with --fresh")
    for record in records:
        if record not in found:
            print(f"left out: {record.path} has no checkpoint to look into", file=sys.stderr)
    return error_curves(found)
