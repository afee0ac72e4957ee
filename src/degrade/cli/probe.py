"""The commands of `degrade probe`, which look inside trained networks."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from degrade.cli import completion
from degrade.cli.options import (
    DONE,
    Device,
    FigureFile,
    Fresh,
    Runs,
    chosen,
    exit_code,
    networks_of,
    one_run,
    settings_of,
    show_figure,
    tell,
)
from degrade.errors import ConfigError

if TYPE_CHECKING:
    from degrade.config import Experiment
    from degrade.probes.probe import Shown

probe_app = typer.Typer(help="Look inside networks: the diagnostics behind the story.", no_args_is_help=True)


#: Far more images than any data set here has.
_MOST = 10_000_000

Limit = Annotated[
    int | None,
    typer.Option(min=1, max=_MOST, help="Use only this many images, the first ones. [default: all]"),
]


@probe_app.command("responses")
def probe_responses(runs: Runs = None, output: FigureFile = None, limit: Limit = None, device: Device = None) -> int:
    """Measure the standard deviation of each layer's response, after batch norm, before ReLU (paper, Figure 7).

    It is measured over the test images on each run's checkpoint, and kept in RUN/probes/responses.csv. Of several
    seeds, a line shows the median and a band reaches from the least to the greatest.

    Examples:

    - `degrade probe responses`
    - `degrade probe responses outputs/paper --output figure7.pdf`
    - `degrade probe responses outputs/quick/plain-56 outputs/quick/residual-56 --limit 1000`
    """
    records, folder = chosen(runs)
    from degrade.probes.responses import look

    _show(look(records, limit=limit, device=device or "auto", complain=tell), folder, output)
    return DONE


@probe_app.command("kinds")
def probe_kinds(runs: Runs = None, output: FigureFile = None, limit: Limit = None, device: Device = None) -> int:
    """Measure all kinds of training error along training, and how far the weights have grown.

    At each snapshot, and at the last checkpoint, the weights stand still: batch norm takes its running statistics or
    those of each batch, and images are augmented or not. Running training error, which the record has, stands beside
    them. Runs trained with checkpoint.snapshots=K are measured along training. RUN/probes/kinds.csv keeps the numbers
    of all seeds, of which the first is drawn.

    Examples:

    - `degrade probe kinds outputs/paper`
    - `degrade probe kinds outputs/quick/plain-56 --limit 10000`
    """
    records, folder = chosen(runs)
    from degrade.probes.kinds import look

    _show(look(records, limit=limit, device=device or "auto", complain=tell), folder, output)
    return DONE


@probe_app.command("gradients")
def probe_gradients(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUNS or KEY=VALUE",
            autocompletion=completion.runs_or_settings,
            help="These are run directories (default: your newest experiment below outputs), or settings of networks "
            "that are not trained yet, as for `degrade sweep`, or experiment=gradients, which trains and draws all.",
            show_default=False,
        ),
    ] = None,
    output: FigureFile = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=_MOST, help="Use this many training images. [default: 256]")
    ] = None,
    device: Device = None,
) -> int:
    """Measure signals and gradients layer by layer, at initialisation and along training (paper, section 4.1).

    They are measured in train mode on the first training images: gradients of responses and of weights, the latter
    also relative to the weights, how the weights' norm has grown, how far gradients at neighbouring images resemble
    each other, and how many ReLUs are zero on every image. Runs trained with checkpoint.snapshots=K are measured
    along training and drawn as heat maps, others at their last checkpoint only. RUN/probes/gradients.csv keeps the
    numbers of all seeds, of which the first is drawn. Where gradients-initial.csv of untrained networks lies beside
    the runs, it is drawn again too.

    Examples:

    - `degrade probe gradients experiment=gradients`
    - `degrade probe gradients outputs/gradients --output gradients.pdf`
    - `degrade probe gradients model=plain,residual model.depth=20,56 model.norm=batch,none`
    """
    runs = [word for word in arguments or [] if "=" not in word or Path(word).exists()]
    words = [word for word in arguments or [] if word not in runs]
    if runs and words:
        raise ConfigError(f"{words[0]}: name runs, or settings of networks, not both")
    names = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    settings = [word for word in settings_of(words, device=device) if not word.startswith("experiment=")]
    planned = networks_of(names[-1], settings) if names else []
    if names and not any(own.checkpoint.snapshots for own in planned):
        raise ConfigError(f"experiment={names[-1]}: keeps no snapshots; add checkpoint.snapshots=16 and a name=...")
    beside = output and output.with_stem(f"{output.stem}-initial")
    if not words:
        records, folder = chosen([Path(run) for run in runs] or None)
    elif not names:
        _show(*_before_training(settings, limit, name="gradients"), output)
        return DONE
    else:
        from degrade.config import untrained_matrix
        from degrade.runs import run_directory, run_matrix

        if networks := untrained_matrix(names[-1]):  # first, since it takes only seconds
            _show(*_before_training(settings, limit, *networks, name=planned[0].name), beside)
        records, folder = run_matrix(planned), run_directory(planned[0]).parents[1]
    from degrade.probes.gradients import look, looked_at_first

    _show(look(records, limit=limit, device=device or "auto", complain=tell), folder, output)
    if not words:
        for shown in looked_at_first(folder):
            _show(replace(shown, text=""), folder, beside)
    return exit_code(record.status for record in records if names)


def _before_training(settings: list[str], limit: int | None, *networks: list[str], name: str) -> "tuple[Shown, Path]":
    """Measure networks before their first update; without `networks`, those that the settings alone describe."""
    from degrade.config import compose_where_it_can
    from degrade.config.compose import expand
    from degrade.probes.gradients import look_initial
    from degrade.runs import run_directory

    cells = [[f"name={name}", "runtime.engine=eager", *network] for network in networks or [[]]]
    experiments: list[Experiment] = []
    for each in (each for own in expand(settings) for each in compose_where_it_can(cells, own)):
        if each not in experiments:  # a setting that the networks are swept over makes some of them equal
            experiments.append(each)
    folder = run_directory(experiments[0]).parents[1]
    return look_initial(experiments, folder, limit=limit), folder


@probe_app.command("construct")
def probe_construct(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            autocompletion=completion.runs,
            help="The directory of a trained plain or residual network.",
        ),
    ],
    depth: Annotated[int, typer.Option(help="The depth of the network that is built from it is 6n + 2.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            autocompletion=completion.settings,
            help="These are settings for --continue, such as optim.lr=0.01; network and images stay.",
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            "--continue",
            metavar="N",
            help="Train the built network for N more iterations, and RUN's network as its control.",
        ),
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(
            autocompletion=completion.runs,
            help="Compare with this run of the same depth from scratch; by default it is the run beside RUN, if any.",
            show_default=False,
        ),
    ] = None,
    output: FigureFile = None,
    limit: Limit = None,
    device: Device = None,
    fresh: Fresh = False,
) -> int:
    """Build the deeper network whose added layers are the identity, and train it further (paper, introduction).

    Both networks are evaluated in eval mode on all images, and RUN/probes/construct-M.csv keeps the numbers.
    --continue trains both, the built one and RUN's own as its control, by RUN's settings at the rate at which RUN
    stopped, into records of their own in EXPERIMENT-construct. The same command again goes on where it was stopped.

    Examples:

    - `degrade probe construct outputs/quick/plain-20/seed-0 --depth 56 --limit 1000`
    - `degrade probe construct outputs/quick/plain-20/seed-0 --depth 56 --continue 300`
    - `degrade probe construct outputs/quick/plain-20/seed-0 --depth 56 --continue 300 optim.lr=0.01 eval.every=50`
    """
    if (further := [*(overrides or []), *["--fresh"] * fresh]) and iterations is None:
        raise ConfigError(f"{further[0]}: takes effect with --continue N only; give it, or leave this out")
    from degrade.probes.construct import compare, comparison, continuations, look, train_on

    record = one_run(run)
    planned: tuple[Experiment, ...] = ()
    if iterations is not None:
        settings = settings_of(overrides, device=device)
        planned = continuations(record, depth, iterations, settings)  # first, since it refuses bad settings at once
    rows = compare(record, depth, limit=limit, device=device or "auto")
    print(comparison(record, depth, rows))
    trained = [train_on(record, experiment, fresh=fresh) for experiment in planned]
    shown = look(record, depth, rows, trained, one_run(scratch) if scratch else None)
    _show(shown, (trained[0] if trained else record).path.parents[1], output)
    return exit_code(continued.status for continued in trained)


@probe_app.command("landscape")
def probe_landscape(
    runs: Runs = None,
    grid: Annotated[int, typer.Option(help="Each direction has this many points, an odd number.")] = 15,
    span: Annotated[
        float | None,
        typer.Option(
            help="The directions reach this far, in units of each filter's norm. [default: 0.5]", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The seed draws the two directions. [default: 0]", show_default=False)
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=_MOST, help="Measure each point on only this many training images.")
    ] = 300,
    recalibrate: Annotated[
        bool,
        typer.Option(
            "--recalibrate", help="Measure batch norm's mean and variance anew at each point, over the same images."
        ),
    ] = False,
    trajectory: Annotated[
        bool,
        typer.Option(
            "--trajectory",
            help="Draw the path of each training instead, on the plane of the first two principal components of its "
            "snapshots (checkpoint.snapshots).",
        ),
    ] = False,
    output: FigureFile = None,
    device: Device = None,
) -> int:
    """Draw the loss around trained networks along two random filter-normalised directions.

    The loss is measured in eval mode, as in Li et al. (2018), and drawn as contours and as a surface. Batch norm's
    running statistics belong to the weights in the middle and grow stale away from it; --recalibrate measures them
    anew at each point. RUN/probes/landscape-*.csv keeps the points as they are found: the same command again goes on
    where it was stopped. Of several seeds of a network, only the first is measured.

    With --trajectory the plane goes through the last weights along the first two principal components of the run's
    snapshots, and the figure shows the path on the loss there, with the share of the variance that it has. Such runs
    were trained with checkpoint.snapshots=16. The statistics are always measured anew, and
    RUN/probes/trajectory-*.csv keeps the numbers.

    Examples:

    - `degrade probe landscape outputs/quick/plain-56 outputs/quick/residual-56`
    - `degrade probe landscape outputs/quick/plain-56/seed-0 --grid 7 --limit 100`
    - `degrade probe landscape outputs/quick/plain-56 outputs/quick/residual-56 --recalibrate`
    - `degrade probe landscape outputs/quick/plain-56 outputs/quick/residual-56 --trajectory`
    - `degrade probe landscape outputs/paper/residual-56 --grid 51 --limit 5000 --device cuda --output landscape.pdf`
    """
    for option, value in (("--span", span), ("--seed", seed)):
        if trajectory and value is not None:
            raise ConfigError(f"{option} {value}: takes no effect with --trajectory, whose plane is the path's own")
    records, folder = chosen(runs)
    how: dict[str, Any] = {"grid": grid, "limit": limit, "device": device or "auto", "complain": tell}
    if trajectory:
        from degrade.probes.trajectory import look as look_along

        _show(look_along(records, **how), folder, output)
        return DONE
    from degrade.probes.landscape import look

    how |= {"span": 0.5 if span is None else span, "seed": seed or 0, "recalibrate": recalibrate}
    _show(look(records, **how), folder, output)
    return DONE


def _show(shown: "Shown", folder: Path, output: Path | None) -> None:
    """Print the text of a probe and write its figure."""
    if shown.text:
        print(shown.text)
    show_figure(shown.figure, output or folder / shown.name)
