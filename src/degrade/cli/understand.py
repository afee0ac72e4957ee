"""The commands that help to understand: inspect and settings; the probes are in probe.py."""

import re
from pathlib import Path
from typing import Annotated

import typer

from degrade.cli import completion
from degrade.cli.options import (
    DONE,
    Depth,
    Family,
    Format,
    Overrides,
    aside,
    output_option,
    settings_of,
    show_figure,
)
from degrade.errors import ConfigError


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
        int | None,
        typer.Option(
            min=1, max=4096, help="With --compare, each convolution has this many channels in and out. [default: 64]"
        ),
    ] = None,
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
        return _compare(compare, channels or 64, output or Path("compare.png"), form)
    for option, value in (("--output", output), ("--channels", channels)):
        if value is not None:
            raise ConfigError(f"{option} {value}: takes effect with --compare only; leave it out")
    from degrade.analysis.table import layers_note, layers_table
    from degrade.config import compose
    from degrade.models.anatomy import layers_of

    experiment = compose(settings_of(overrides, depth=depth, plain=plain))
    model = experiment.model
    print(layers_table(found := layers_of(model, experiment.data.pixels), form))
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
    found = re.fullmatch(r"([0-9]{1,2})(x\1)?", text.strip())
    if found is None or int(found[1]) not in range(3, 32, 2):
        raise ConfigError(f"--compare {text}: write odd sizes from 3x3 to 31x31, such as 3x3,5x5,7x7")
    return int(found[1])


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
