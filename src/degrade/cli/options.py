"""What the commands' options have in common: their declarations, their checks, the runs that they choose."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from degrade.cli import completion
from degrade.errors import ConfigError, RunError, RunFileError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        help="These are settings, such as optim.lr=0.05 data=synthetic.",
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(
        help="The number of weighted layers is 6n + 2; of a VGG it is 11 or 7 + 3k. [default: 20]",
        rich_help_panel=NETWORK,
    ),
]
Family = Annotated[
    bool | None,
    typer.Option(
        "--plain/--residual",
        help="The network is plain, or it has identity shortcuts. [default: plain]",
        rich_help_panel=NETWORK,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.recipes,
        help="The recipe says how long and at what rate to train: paper, short, quick, wall or smoke. "
        "[default: paper]",
        rich_help_panel=RUN,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="The seed draws the initial weights, the order of the images and their augmentation. [default: 0]",
        rich_help_panel=RUN,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.devices,
        help="The device is auto, cpu, cuda or cuda:N. [default: auto]",
        rich_help_panel=RUN,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.precisions,
        help="The precision is fp32, bf16, or auto, which is bf16 where that is fast. [default: auto]",
        rich_help_panel=RUN,
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, whatever the record holds.", rich_help_panel=RUN)]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the settings and the run's directory; train nothing.", rich_help_panel=RUN),
]


def word_option(name: str, offered: Callable[[str], list[str]], words: str) -> Any:
    """An option that takes one of the words that the shell is offered, and no other."""

    def check(value: str | None) -> str | None:
        if value is not None:
            check_word(name, value, offered(""))
        return value

    return typer.Option(name, autocompletion=offered, callback=check, help=words)


def output_option(words: str, *, figure: bool = False) -> Any:
    """The option that names the file to be written."""

    def check(output: Path | None) -> Path | None:
        if figure and output is not None:
            check_suffix(output)
        return output

    return typer.Option("--output", "-o", autocompletion=completion.files, callback=check, help=words)


def exit_code(outcomes: Iterable[str]) -> int:
    """The exit code of a command that trained: whether all runs are complete."""
    from degrade.runs import Status

    return DONE if all(outcome == Status.COMPLETE for outcome in outcomes) else RUN_FAILED


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


Band = Annotated[
    str,
    word_option(
        "--band", completion.bands, "The band over seeds is std, minmax or ci95, the t interval of the mean."
    ),
]
Format = Annotated[
    str, word_option("--format", completion.table_formats, "The table is written as text, csv or markdown.")
]
FigureFile = Annotated[
    Path | None,
    output_option(
        "Write the figure into this file: png, svg or pdf. By default it is named after what it shows and lies "
        "beside the runs, or here if they lie in several folders.",
        figure=True,
    ),
]
Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RUNS",
        autocompletion=completion.runs,
        help="These are run directories, or folders of them; by default outputs.",
        show_default=False,
    ),
]

#: A config group and the setting that its files are named after.
_SAME = {"model": "model.family", "data": "data.name"}


def settings_of(
    overrides: Sequence[str] | None,
    *,
    depth: int | None = None,
    plain: bool | None = None,
    recipe: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    from_file: bool = False,
) -> list[str]:
    """Options as the overrides they stand for, and the overrides.

    Raises:
        ConfigError: a setting is given two values.
    """
    if from_file and recipe is not None:
        raise ConfigError(
            f"--recipe {recipe}: not together with --config, whose file holds a recipe; change single settings"
        )
    family = None if plain is None else "plain" if plain else "residual"
    options: list[tuple[str, str, Any]] = [
        (f"--{family}", "model.family" if from_file else "model", family),
        (f"--depth {depth}", "model.depth", depth),
        (f"--recipe {recipe}", "recipe", recipe),
        (f"--seed {seed}", "seed", seed),
        (f"--device {device}", "runtime.device", device),
        (f"--precision {precision}", "runtime.precision", precision),
    ]
    given = [(text, f"{key}={value}") for text, key, value in options if value is not None]
    refuse_conflicts([*given, *((text, text) for text in overrides or [])])
    return [*(override for _, override in given), *(overrides or [])]


def refuse_conflicts(given: Iterable[tuple[str, str]]) -> None:
    """Refuse a command line that gives one setting two values, of which the last would win silently.

    It is given as what was typed and the override that this stands for.

    Raises:
        ConfigError: names both.
    """
    first: dict[str, tuple[str, str]] = {}
    for text, override in given:
        key, _, value = (part.strip() for part in override.partition("="))
        other, before = first.setdefault(_SAME.get(key, key), (text, value))
        if before.strip("'\"") != value.strip("'\""):
            raise ConfigError(f"{other} {text}: they give one setting two values; leave one of them out")


def networks_of(experiment: str, settings: Sequence[str], *, seeds: int = 1) -> "list[Experiment]":
    """The trainings of a named experiment, at the quick recipe unless it or the settings name another.

    A setting changes the networks in which it takes effect: `model.shortcut=B` the residual ones.

    Raises:
        ConfigError: no such experiment, or a setting is not the user's to change, or takes effect in no network.
    """
    from degrade.config import compose_where_it_can, network_matrix, variants
    from degrade.config.groups import USUAL_RECIPE

    varied = {key for variant in variants(experiment) for key in variant.changes}
    for setting in settings:
        if setting.partition("=")[0] in {"model", "model.family", "model.depth", "seed", *varied}:
            raise ConfigError(f"{setting}: the experiment sets it; for single networks use `degrade train`")
    networks = [
        [f"recipe={USUAL_RECIPE}", *network, f"seed={seed}"]
        for seed in range(seeds)  # the whole story once, then again: something to look at as early as can be
        for network in network_matrix(experiment)
    ]
    return compose_where_it_can(networks, settings)


def seconds_of(within: str) -> int:
    """The seconds of a time such as `20m` or `1h30m`.

    Raises:
        ConfigError: it is written otherwise, or it is no time at all.
    """
    found = re.fullmatch("".join(f"(?:([0-9]{{1,9}}){unit})?" for unit in "dhms"), within)
    seconds = (
        sum(int(n or 0) * size for n, size in zip(found.groups(), (86400, 3600, 60, 1), strict=True)) if found else 0
    )
    if not seconds:
        raise ConfigError(f"--within {within}: write a time such as 90s, 20m, 2h, 1h30m or 1d")
    return seconds


def readable(paths: Sequence[Path]) -> "list[RunRecord]":
    """Records at or below the paths; damage is named, and those of which nothing can be made are left out.

    Raises:
        RunFileError: one cannot be read just now: what is shown without it would be another answer.
    """
    from degrade.runs import find_records

    records = []
    for record in find_records(paths):
        try:
            _ = record.experiment
            records.append(record)
        except RunFileError:
            raise
        except RunError as error:
            tell(f"left out: {error}")
            continue
        name_losses(record.path, record.losses())
    if not records:
        raise RunError(f"{paths[0]}: holds no run that can be read")
    return records


def tell(text: str) -> None:
    """Say on stderr what is no answer."""
    print(text, file=sys.stderr)


def name_losses(folder: Path, losses: "Iterable[Loss]") -> None:
    """Say on stderr which files of a record are damaged, a line each."""
    for loss in losses:
        tell(f"{folder}/{loss}")


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
        tell(f"the newest experiment, {newest}; others: {', '.join(others)}")
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


def show_figure(figure: "Figure", target: Path) -> None:
    """Write a figure and say where it is."""
    from degrade.analysis.figures import save

    save(figure, target)
    print(f"figure: {target}")


def aside(form: str) -> contextlib.AbstractContextManager[Any]:
    """What is no table goes to stderr where the table is for a program to read."""
    return contextlib.nullcontext() if form == "text" else contextlib.redirect_stdout(sys.stderr)
