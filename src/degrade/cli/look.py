"""The commands that look at what was trained: plot, verify, evaluate, report, watch and runs."""

import contextlib
import os
import sys
import time
import webbrowser
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from degrade.cli import completion
from degrade.cli.options import (
    DONE,
    AllRuns,
    Band,
    Device,
    FigureFile,
    Format,
    Runs,
    aside,
    chosen,
    name_losses,
    one_trained,
    output_option,
    readable,
    records_of,
    runs_argument,
    show_figure,
    table_width,
    tell,
)
from degrade.errors import ConfigError, RunError
from degrade.extras import require

if TYPE_CHECKING:
    from degrade.analysis import Curve
    from degrade.config import Experiment
    from degrade.runs import RunRecord
    from degrade.runs.trained import Trained
    from degrade.watch import Read


VERDICTS = {"reproduced": DONE, "not reproduced": 3, "inconclusive": 4, "too early": 4}


def plot(
    runs: Runs = None,
    output: FigureFile = None,
    style: Annotated[
        Literal["figure1", "figure6", "depth", "remedies"] | None,
        typer.Option(
            help="The style is figure1 (train | test), figure6 (a panel for each family), depth (last errors) or "
            "remedies (what each remedy does along training); by default the families decide.",
            show_default=False,
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
    show(curves, output or folder / figure_name(style), style=style, title=title, form=form)
    return DONE


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

    A claim decides only where the better network of each pair that it compares is trained: that network passed its
    last milestone, and its training error is below half of chance level. In a recipe shorter than the paper's, no
    network may be within 5 points of chance level either. Otherwise it is too early to say. One seed alone leaves the
    verdict inconclusive.

    The exit code is 0 for reproduced, 3 for not reproduced, and 4 for inconclusive or too early. Runs of several
    experiments or settings are judged separately, and the worst decides the exit code. VGGs are judged by the claims
    about their wall, and other families as plain networks are, or as residual ones if they have shortcuts.

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
        raise RunError("no network trained from scratch is among these runs, and only those are judged")
    print(verdict_json(found) if as_json else verdict_text(found))
    return VERDICTS[overall(found)]


def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            autocompletion=completion.runs_or_networks,
            help="This is a run's directory, or the name or file of a trained network.",
            show_default=False,
        ),
    ],
    statistics: Annotated[
        Literal["running", "batch"],
        typer.Option(help="Batch norm normalises by its running statistics or by those of each batch."),
    ] = "running",
    augmented: Annotated[
        bool, typer.Option("--augmented", help="Crop and flip the training images as in training.")
    ] = False,
    device: Device = None,
) -> int:
    """Print the training and test errors of a run's checkpoint or of a trained network, also by class.

    Where no checkpoint is left, what `degrade export --weights` wrote into the run's folder is taken.
    Weights and statistics stay as they are. The default is the record's clean training error and its test error;
    `--statistics batch` gives the batch-statistics training error, and the test error measured in the same way.

    Examples:

    - `degrade evaluate outputs/quick/plain-56/seed-0`
    - `degrade evaluate outputs/quick/plain-56/seed-0 --statistics batch --augmented`
    - `degrade evaluate plain-56-short`
    """
    from degrade.analysis.text import evaluation_text
    from degrade.runs.evaluation import evaluate as evaluate_run
    from degrade.runs.evaluation import heading

    record = one_trained(run)
    config = _on_device(record, device or "auto")
    how = {"batch_statistics": statistics == "batch", "augmented": augmented}
    train, test, iteration, images = evaluate_run(record, config, **how)
    print(heading(record, iteration, synthetic=images.synthetic))
    print(evaluation_text(config, train, test, images.classes, **how))
    return DONE


def _on_device(record: "RunRecord | Trained", device: str) -> "Experiment":
    """The settings of a run or of a trained network, on a device."""
    from degrade.config import load_config
    from degrade.config.schema import settings
    from degrade.runs import RunRecord

    if isinstance(record, RunRecord):
        return load_config(record.path / "config.yaml", [f"runtime.device={device}"])
    settings()["runtime.device"].validate("runtime.device", device)
    experiment = record.experiment
    experiment.put("runtime.device", device)
    return experiment


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


def watch(
    runs: AllRuns = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="The page is served at this port; 0 takes any that is free. [default: 8565]"
        ),
    ] = None,
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

    if terminal:
        if open_browser or port is not None:
            raise ConfigError("--terminal: there is no page then; leave --open and --port out")
        require("plotext", extra="terminal", what="--terminal")
    read = watching.find(partial(records_of, runs))
    readable(runs)  # where there is nothing to watch, or damage, that is said before anything is served
    with contextlib.suppress(KeyboardInterrupt):
        if terminal:
            _watch_in_terminal(read, every)
        else:
            with watching.server(read, 8565 if port is None else port, every) as server:
                address = f"http://{watching.HERE[0]}:{server.server_port}/"
                print(f"{address} shows the runs as they grow; Ctrl-C ends it", flush=True)
                if open_browser:
                    webbrowser.open(address)
                server.serve_forever()
    return DONE


def _watch_in_terminal(read: "Read", every: float) -> None:
    """Draw again and again; where the output is no terminal, once."""
    from degrade.analysis import error_curves
    from degrade.runs.record import undamaged
    from degrade.watch import in_terminal, running

    shown, idle = sys.stdout.isatty(), 0
    while True:
        found = undamaged(read())
        drawn = in_terminal(error_curves(found), found, colour=shown and "NO_COLOR" not in os.environ)
        print(f"\033[H\033[2J{drawn}" if shown else drawn, flush=True)
        idle = 0 if running(found) else idle + 1
        if not shown or idle > 1:  # between two runs nothing is trained for a moment
            return
        time.sleep(every)


def list_runs(
    directory: Annotated[
        Path | None, runs_argument("The runs are below this folder; by default all of yours below outputs.", "DIR")
    ] = None,
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

    folders = [directory] if directory else None
    if mean:
        print(error_table(error_curves(readable(folders)), form=form, width=table_width()))
    else:
        records = records_of(folders)
        for record in records:
            name_losses(record.path, record.file_losses())
        print(runs_table(records, below=directory or Path("outputs"), form=form, width=table_width()))
    return DONE


def figure_name(style: str | None) -> str:
    """The file that a figure of some style is written into, unless the user gives another."""
    return "remedies.png" if style == "remedies" else "figure.png"


def show(
    curves: "Sequence[Curve]", target: Path, *, style: str | None, title: str | None, form: str, judged: bool = False
) -> None:
    """Print the table, and the verdict if asked for, and write the figure; remedies have a table of their own."""
    text = ""
    if style == "remedies":
        from degrade.probes.remedies import look

        with aside(form):  # snapshots that were not measured yet are measured
            shown = look(curves, title=title, form=form, complain=tell)
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
