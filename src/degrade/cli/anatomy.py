"""`degrade inspect`: what a network consists of, before it is trained."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from degrade.cli.options import (
    DONE,
    Depth,
    Family,
    Format,
    Overrides,
    aside,
    check_suffix,
    check_word,
    settings_of,
)
from degrade.errors import ConfigError

if TYPE_CHECKING:
    from degrade.config import Experiment

Compare = Annotated[
    str | None,
    typer.Option(
        metavar="SIZES",
        help="Compare stacks of 3x3 convolutions with a large one that sees as much instead, such as 3x3,5x5,7x7.",
    ),
]


def inspect(
    overrides: Overrides = None,
    depth: Depth = None,
    plain: Family = None,
    compare: Compare = None,
    channels: Annotated[
        int, typer.Option(min=1, max=4096, help="With --compare, each convolution has so many channels in and out.")
    ] = 64,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="With --compare, write the figure into this file: png, svg or pdf. [default: compare.png]",
        ),
    ] = None,
    form: Format = "text",
) -> int:
    """List a network's layers with their output, parameters, multiply-adds and receptive field; train nothing.

    The receptive field is how many pixels a side a layer's value depends on, were the image large enough.

    Examples:

    - `degrade inspect --depth 56 --residual`

    - `degrade inspect model=vgg --depth 19 --format markdown`

    - `degrade inspect --compare 3x3,5x5,7x7 --channels 128 --output compare.pdf`
    """
    from degrade.analysis.table import FORMATS

    check_word("--format", form, FORMATS)
    if compare is not None:
        if network := settings_of(overrides, depth=depth, plain=plain):
            raise ConfigError(f"--compare {compare} {network[0]}: it compares no network; leave one of them out")
        return _compare(compare, channels, output, form)
    if output is not None:
        raise ConfigError(f"--output {output}: a figure is drawn with --compare only")
    from degrade.config import compose

    return _list(compose(settings_of(overrides, depth=depth, plain=plain)), form)


def _list(experiment: "Experiment", form: str) -> int:
    import torch

    from degrade.analysis.table import as_csv, table
    from degrade.models import build_model
    from degrade.models.anatomy import layers

    with torch.device("meta"):  # shapes without numbers: a thousand layers take no memory
        found = layers(build_model(experiment.model))
    if form == "csv":
        print(as_csv([{**vars(layer), "shape": "x".join(map(str, layer.shape))} for layer in found]))
        return DONE
    rows = [
        [
            layer.name,
            layer.kind,
            "x".join(map(str, layer.shape)),
            f"{layer.parameters:,}",
            f"{layer.multiply_adds:,}",
            "all" if layer.field is None else str(layer.field),
        ]
        for layer in found
    ]
    parameters, cost = sum(layer.parameters for layer in found), sum(layer.multiply_adds for layer in found)
    rows.append(["total", "", "", f"{parameters:,}", f"{cost:,}", ""])
    print(table(["layer", "kind", "output", "parameters", "multiply-adds", "sees"], rows, form))
    with aside(form):
        name = f"{experiment.model.family}-{experiment.model.depth}"
        print(f"\n{name}: {parameters:,} parameters, {cost / 1e6:,.1f} million multiply-adds an image")
        print("sees: receptive field, pixels a side; parameters: batch norm's included")
    return DONE


def _compare(sizes: str, channels: int, output: Path | None, form: str) -> int:
    target = output or Path("compare.png")
    check_suffix(target)
    wanted = [_odd(size) for size in sizes.split(",")]

    from degrade.analysis.figures import draw_stacks, save
    from degrade.analysis.table import as_csv, table
    from degrade.models.anatomy import stacks

    pairs = [stacks(size, channels) for size in dict.fromkeys(wanted)]
    every = [stack for pair in pairs for stack in dict.fromkeys(pair)]
    if form == "csv":
        print(as_csv([{**vars(stack), "kernels": stack.name, "channels": channels} for stack in every]))
    else:
        rows = [
            [
                stack.name,
                f"{stack.field}x{stack.field}",
                f"{stack.parameters:,}",
                f"{stack.parameters // channels**2} C²",
                f"{stack.multiply_adds:,}",
                str(stack.nonlinearities),
            ]
            for stack in every
        ]
        print(table(["convolutions", "sees", "parameters", "", "multiply-adds", "ReLUs"], rows, form))
    with aside(form):
        save(draw_stacks(pairs, channels), target)
        print(f"figure: {target}")
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
