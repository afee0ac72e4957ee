"""The command line: what commands there are, and how they are grouped in --help.

torch and matplotlib take seconds to import, so a command imports what it needs when it runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from degrade import __version__
from degrade.cli.data import bench, data_app, export
from degrade.cli.look import evaluate, list_runs, plot, report, verify, watch
from degrade.cli.options import DONE
from degrade.cli.probe import probe_app
from degrade.cli.story import story
from degrade.cli.train import reproduce, sweep, train
from degrade.cli.understand import inspect, list_settings

#: How the commands are grouped in --help.
TRAIN, LOOK, EXPLAIN, DATA = "Train", "Look at what was trained", "Understand", "Data and speed"

app = typer.Typer(
    help="Reproduce the degradation problem: deeper plain networks train worse, identity shortcuts mend it.",
    epilog="Begin with `degrade reproduce`: it trains four networks, draws their figure and prints a table.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    quiet: Annotated[  # noqa: ARG001 - main reads this one and the next two, wherever they stand
        bool,
        typer.Option(
            "--quiet", help="Print answers and errors only, without log lines and bars; it may also follow a command."
        ),
    ] = False,
    verbose: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--verbose", help="Print the log lines of train.log too; it may also follow a command."),
    ] = False,
    files: Annotated[  # noqa: ARG001
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="FILE",
            help="Import this Python file, which adds networks, norms, schedules, ... to choose from; it may also "
            "follow a command.",
        ),
    ] = None,
) -> None:
    if version:
        print(f"degrade {__version__}")
        raise typer.Exit(DONE)


app.command(rich_help_panel=TRAIN)(story)
app.command(rich_help_panel=TRAIN)(train)
app.command(rich_help_panel=TRAIN)(reproduce)
app.command(rich_help_panel=TRAIN)(sweep)
app.command(rich_help_panel=LOOK)(plot)
app.command(rich_help_panel=LOOK)(verify)
app.command(rich_help_panel=LOOK)(evaluate)
app.command(rich_help_panel=DATA)(bench)
app.command(rich_help_panel=LOOK)(report)
app.command(rich_help_panel=LOOK)(watch)
app.command(rich_help_panel=DATA)(export)
app.command(rich_help_panel=EXPLAIN)(inspect)
app.command(name="runs", rich_help_panel=LOOK)(list_runs)
app.command(name="settings", rich_help_panel=EXPLAIN)(list_settings)
app.add_typer(probe_app, name="probe", rich_help_panel=EXPLAIN)
app.add_typer(data_app, name="data", rich_help_panel=DATA)
