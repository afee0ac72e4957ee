"""What the commands have in common: declarations and checks of their options, and the choice of runs."""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from degrade.cli import completion
from degrade.errors import ConfigError, RunError
from degrade.files import present

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from degrade.config import Experiment
    from degrade.runs import RunRecord
    from degrade.runs.record import Loss
    from degrade.runs.trained import Trained

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
        help="The number of weighted layers is 6n + 2; of a VGG it is 11 or 7 + 3k; others have rules of their own. "
        "[default: 20]",
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
        autocompletion=completion.values_of("recipe"),
        help="The recipe says how long and at what rate to train: paper, short, quick, wall or smoke. "
        "[default: paper; of reproduce and story: quick, and wall for vgg_wall]",
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
        autocompletion=completion.values_of("runtime.device"),
        help="The device is auto, cpu, cuda, cuda:N, or mps, an Apple GPU (not verified). [default: auto]",
        rich_help_panel=RUN,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.values_of("runtime.precision"),
        help="The precision is fp32, bf16, or auto, which is bf16 where that is fast. [default: auto]",
        rich_help_panel=RUN,
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, whatever the record holds.", rich_help_panel=RUN)]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print what would be trained, and the directory of each run.", rich_help_panel=RUN
    ),
]


def output_option(words: str, *, figure: bool = False) -> Any:
    """The option that names the file to be written; a figure's suffix is checked before any work is done."""

    def check(output: Path | None) -> Path | None:
        if figure and output is not None:
            from degrade.analysis.figures import SUFFIXES

            if output.suffix.lower() not in SUFFIXES:
                raise ConfigError(
                    f"--output {output}: figures are written as {', '.join(SUFFIXES)}; use one of these suffixes"
                )
        return output

    return typer.Option("--output", "-o", callback=check, help=words)


Band = Annotated[
    Literal["std", "minmax", "ci95"],
    typer.Option(help="Draw this as the band over seeds; ci95 is the t interval of the mean."),
]
Format = Annotated[
    Literal["text", "csv", "markdown"], typer.Option("--format", help="Write the table in this format.")
]
FigureFile = Annotated[
    Path | None,
    output_option(
        "Write the figure into this file: png, svg or pdf. By default it is named after what it shows and lies "
        "beside the runs, or here if they lie in several folders.",
        figure=True,
    ),
]


def runs_argument(words: str, metavar: str = "RUNS") -> Any:
    """The argument that names runs, which has a default of its own kind in each command."""
    return typer.Argument(metavar=metavar, autocompletion=completion.runs, help=words, show_default=False)


_RUNS = "These are run directories, or folders of them; by default "
Runs = Annotated[list[Path] | None, runs_argument(f"{_RUNS}your newest experiment below outputs.")]
AllRuns = Annotated[list[Path] | None, runs_argument(f"{_RUNS}all of yours below outputs.")]

#: Where the runs lie that come with a checkout.
REFERENCE = Path("outputs/reference")

#: Config groups whose files are named after a setting.
_SAME = {"model": "model.family", "data": "data.name", "optim": "optim.name"}


def settings_of(
    overrides: Sequence[str] | None,
    *,
    depth: int | None = None,
    plain: bool | None = None,
    recipe: str | None = None,
    within: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    from_file: bool = False,
) -> list[str]:
    """The overrides that options stand for, followed by the overrides themselves.

    Raises:
        ConfigError: one setting is given two values, of which the last would win silently.
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
    typed = [*given, *((text, text) for text in overrides or [])]
    first: dict[str, tuple[str, str]] = {}
    for text, override in [(f"--within {within}", "recipe=?"), *typed] if within is not None else typed:
        key, _, value = (part.strip() for part in override.partition("="))
        other, before = first.setdefault(_SAME.get(key, key), (text, value))
        if before.strip("'\"") != value.strip("'\""):
            raise ConfigError(f"{other} {text}: they give one setting two values; leave one of them out")
    return [override for _, override in typed]


def networks_of(experiment: str, settings: Sequence[str], *, seeds: int = 1) -> "list[Experiment]":
    """The trainings of a named experiment, by the quick recipe unless the experiment or the settings name another.

    A setting changes the networks in which it takes effect: `model.shortcut=B` changes the residual ones.

    Raises:
        ConfigError: there is no such experiment, or the experiment itself sets one of the settings, or a setting
            takes effect in no network.
    """
    from degrade.config import compose_where_it_can, network_matrix, variants
    from degrade.config.groups import USUAL_RECIPE

    varied = {key for variant in variants(experiment) for key in variant.changes}
    for setting in settings:
        if setting.partition("=")[0] in {"model", "model.family", "model.depth", "seed", *varied}:
            raise ConfigError(f"{setting}: the experiment sets it; for single networks use `degrade train`")
    networks = [
        [f"recipe={USUAL_RECIPE}", *network, f"seed={seed}"]
        for seed in range(seeds)  # All networks come once before any comes again, so that there is soon a figure.
        for network in network_matrix(experiment)
    ]
    return compose_where_it_can(networks, settings)


def seconds_of(within: str) -> int:
    """The seconds of a time such as `20m` or `1h30m`.

    Raises:
        ConfigError: the time is zero or written otherwise.
    """
    found = re.fullmatch("".join(f"(?:([0-9]{{1,9}}){unit})?" for unit in "dhms"), within)
    parts = [int(part or 0) for part in found.groups()] if found else [0]
    if not any(parts):
        raise ConfigError(f"--within {within}: write a time such as 90s, 20m, 2h, 1h30m or 1d")
    return sum(number * size for number, size in zip(parts, (86400, 3600, 60, 1), strict=True))


def records_of(paths: Sequence[Path] | None) -> "list[RunRecord]":
    """The records at or below the paths; without any, those below outputs but for the ones that come with degrade.

    Raises:
        RunError: there are none.
        RunFileError: a folder cannot be read just now.
    """
    from degrade.runs import find_records

    found = find_records(paths or [Path("outputs")])
    own = [record for record in found if paths or REFERENCE not in record.path.parents]
    if not own:
        raise RunError(
            "outputs holds no run of yours yet; `degrade train` makes one. Name those that come with degrade by "
            f"their folder, such as {REFERENCE}/quick"
        )
    return own


def readable(paths: Sequence[Path] | None) -> "list[RunRecord]":
    """The records as `records_of` has them; damage is named on stderr, and those that cannot be read are left out.

    Raises:
        RunFileError: a record cannot be read just now, and the answer without it would be another one.
    """
    from degrade.runs.record import undamaged

    records = undamaged(records_of(paths), lambda damage: tell(f"left out: {damage}"))
    for record in records:
        name_losses(record.path, record.losses())
    return records


def exit_code(outcomes: Iterable[str]) -> int:
    """The exit code of a command that trained: DONE if all runs are complete."""
    from degrade.runs import Status

    return DONE if all(outcome == Status.COMPLETE for outcome in outcomes) else RUN_FAILED


def tell(text: str) -> None:
    """Print a remark on stderr, which keeps it apart from the answer."""
    print(text, file=sys.stderr)


def name_losses(folder: Path, losses: "Iterable[Loss]") -> None:
    """Name each damaged file of a record in a line on stderr."""
    for loss in losses:
        tell(f"{folder}/{loss}")


def table_width() -> int | None:
    """Width of the terminal, to which a table's names are cut; None, which leaves them whole, without a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def chosen(runs: list[Path] | None) -> "tuple[list[RunRecord], Path]":
    """The records asked for and the folder they lie in; without a choice, those of the user's newest experiment."""
    from degrade.progress import quiet

    records = readable(runs)
    experiments = {record: Path(os.path.relpath(record.path.resolve().parents[1])) for record in records}
    if runs:
        folders = set(experiments.values())
        return records, folders.pop() if len(folders) == 1 else Path()
    newest = experiments[max(records, key=lambda record: str(record.summary.get("updated", "")))]
    others = sorted(map(str, set(experiments.values()) - {newest}))
    if others and not quiet():
        rest = f" and {len(others) - 4} more" if len(others) > 4 else ""
        tell(f"taking the newest experiment, {newest}; there are also {', '.join(others[:4])}{rest}")
    return [record for record in records if experiments[record] == newest], newest


def one_run(path: Path) -> "RunRecord":
    """The one record at or below a path; its damage is named on stderr.

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


def one_trained(path: Path) -> "RunRecord | Trained":
    """The one record at or below a path; else the trained network that comes with degrade, or the file, of this name.

    Raises:
        RunError, RunFileError: as `one_run` does.
        ConfigError: there is nothing of this name; the message lists the networks that come with degrade.
    """
    from degrade.runs.library import meant, networks, there_are

    there, known = present(path), networks()
    if there and path.is_dir():
        return one_run(path)
    if there or meant(str(path), known):
        from degrade.runs.trained import trained

        return trained(path)
    if len(path.parts) > 1:
        return one_run(path)  # which says what is missing
    raise ConfigError(f"{path}: no such run, nor a trained network that comes with degrade; {there_are(known)}")


def show_figure(figure: "Figure", target: Path) -> None:
    """Write a figure and print the name of its file."""
    from degrade.analysis.figures import save

    save(figure, target)
    print(f"figure: {target}")


def aside(form: str) -> contextlib.AbstractContextManager[Any]:
    """Send what is printed to stderr, unless the table is for people: a program reads nothing but the table."""
    return contextlib.nullcontext() if form == "text" else contextlib.redirect_stdout(sys.stderr)
