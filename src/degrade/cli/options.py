"""What the commands' options have in common: their declarations, their checks, the runs that they choose."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from degrade.cli import completion
from degrade.errors import ConfigError, RunError, RunFileError, did_you_mean

if TYPE_CHECKING:
    from degrade.config import Experiment
    from degrade.runs import RunRecord
    from degrade.runs.record import Loss

DONE, RUN_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

NETWORK, RUN, FILES = "Network", "Run", "Settings from files"

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        autocompletion=completion.settings,
        help="Settings, such as optim.lr=0.05 data=synthetic. See --dry-run.",
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(help="Weighted layers: 6n + 2; of a VGG 11 or 7 + 3k. [default: 20]", rich_help_panel=NETWORK),
]
Family = Annotated[
    bool | None,
    typer.Option(
        "--plain/--residual", help="Without or with identity shortcuts. [default: plain]", rich_help_panel=NETWORK
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.recipes,
        help="paper, short, quick or smoke: how long and at what rate. [default: paper]",
        rich_help_panel=RUN,
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Initial weights, order and augmentation. [default: 0]", rich_help_panel=RUN)
]
Device = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.devices, help="auto, cpu, cuda or cuda:N. [default: auto]", rich_help_panel=RUN
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.precisions,
        help="auto (bf16 where that is fast), fp32 or bf16. [default: auto]",
        rich_help_panel=RUN,
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, whatever was there.", rich_help_panel=RUN)]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the settings and the run's directory; train nothing.", rich_help_panel=RUN),
]
Band = Annotated[
    str,
    typer.Option(autocompletion=completion.bands, help="Over seeds: std, minmax or ci95 (t interval of the mean)."),
]
Format = Annotated[
    str,
    typer.Option("--format", autocompletion=completion.table_formats, help="Of the table: text, csv or markdown."),
]
FigureFile = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        autocompletion=completion.files,
        help="png, svg or pdf. Default: named after what it shows, beside the runs; here if they lie in several "
        "folders.",
    ),
]
Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RUNS",
        autocompletion=completion.runs,
        help="Run directories, or folders of them. Default: outputs.",
        show_default=False,
    ),
]


def sugar(
    depth: int | None,
    plain: bool | None,
    recipe: str | None,
    seed: int | None,
    device: str | None,
    precision: str | None,
    *,
    from_file: bool,
) -> list[str]:
    """Options as the overrides they stand for."""
    if from_file and recipe is not None:
        raise ConfigError("--recipe: not together with --config, whose file holds a recipe; change single settings")
    family = None if plain is None else "plain" if plain else "residual"
    pairs: list[tuple[str, Any]] = [
        ("model.family" if from_file else "model", family),
        ("model.depth", depth),
        ("recipe", recipe),
        ("seed", seed),
        ("runtime.device", device),
        ("runtime.precision", precision),
    ]
    return [f"{key}={value}" for key, value in pairs if value is not None]


def networks_of(experiment: str, settings: Sequence[str], *, seeds: int = 1) -> "list[Experiment]":
    """The trainings of a named experiment, at the quick recipe unless the settings name another.

    Raises:
        ConfigError: no such experiment, or a setting is not the user's to change.
    """
    from degrade.config import compose, network_matrix

    for setting in settings:
        if setting.partition("=")[0] in ("model", "model.family", "model.depth", "seed"):
            raise ConfigError(f"{setting}: the experiment sets it; for single networks use `degrade train`")
    if not any(setting.startswith("recipe=") for setting in settings):
        settings = ["recipe=quick", *settings]
    return [
        compose([*network, f"seed={seed}", *settings])
        for seed in range(seeds)  # the whole story once, then again: something to look at as early as can be
        for network in network_matrix(experiment)
    ]


def check_word(option: str, word: str, known: Iterable[str]) -> None:
    """Refuse an option's value that is none of the known ones, naming the nearest."""
    if word not in known:
        raise ConfigError(f"{option} {word}: {did_you_mean(word, known)}")


def check_suffix(output: Path) -> None:
    """Refuse a figure's file of a kind that is not drawn, before any work is done."""
    from degrade.analysis.figures import SUFFIXES

    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"--output {output}: figures are written as {', '.join(SUFFIXES)}; use one of these suffixes"
        )


def readable(paths: Sequence[Path]) -> "list[RunRecord]":
    """Records at or below the paths; damage is named, and those of which nothing can be made are left out.

    Raises:
        RunFileError: one cannot be read just now: what is shown without it would be another answer.
    """
    from degrade.runs import find_records

    records = []
    for record in find_records(paths):
        try:
            _ = record.config
            records.append(record)
        except RunFileError:
            raise
        except RunError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        name_losses(record.path, record.losses())
    if not records:
        raise RunError(f"{paths[0]}: holds no run that can be read")
    return records


def name_losses(folder: Path, losses: "Iterable[Loss]") -> None:
    """Say on stderr which files of a record are damaged, a line each."""
    for loss in losses:
        print(f"{folder}/{loss}", file=sys.stderr)


def chosen(runs: list[Path] | None) -> "tuple[list[RunRecord], Path]":
    """The records asked for and the folder they lie in; without a choice, those of the newest experiment."""
    records = readable(runs or [Path("outputs")])
    experiments = {record: Path(os.path.relpath(record.path.resolve().parents[1])) for record in records}
    if runs:
        folders = set(experiments.values())
        return records, folders.pop() if len(folders) == 1 else Path()
    newest = experiments[max(records, key=lambda record: str(record.summary.get("updated", "")))]
    others = sorted(map(str, set(experiments.values()) - {newest}))
    if others and not any(handler.level >= logging.ERROR for handler in logging.getLogger("degrade").handlers):
        print(f"the newest experiment, {newest}; others: {', '.join(others)}", file=sys.stderr)
    return [record for record in records if experiments[record] == newest], newest


def one_run(path: Path) -> "RunRecord":
    """The record at or below a path; what is damaged of it is named.

    Raises:
        RunError: there are several, or none.
        RunFileError: it cannot be read just now.
    """
    from degrade.runs import find_records

    records = find_records([path])
    if len(records) > 1:
        raise RunError(f"{path}: holds {len(records)} runs; name one, such as {records[0].path}")
    name_losses(records[0].path, records[0].losses())
    return records[0]


def aside(form: str) -> contextlib.AbstractContextManager[Any]:
    """What is no table goes to stderr where the table is for a program to read."""
    return contextlib.nullcontext() if form == "text" else contextlib.redirect_stdout(sys.stderr)
