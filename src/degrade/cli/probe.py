"""`degrade probe`: what a trained network looks like inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from degrade.cli.options import DONE, Device, FigureFile, Runs, check_suffix, chosen
from degrade.errors import RunError

if TYPE_CHECKING:
    from degrade.analysis import Curve

probe_app = typer.Typer(help="Look inside networks: the diagnostics behind the story.", no_args_is_help=True)

Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first so many images. [default: all]")]


@probe_app.command("responses")
def probe_responses(runs: Runs = None, output: FigureFile = None, limit: Limit = None, device: Device = None) -> int:
    """Standard deviation of each layer's response, after batch norm, before ReLU and addition (paper, Figure 7).

    Measured over the test images on each run's checkpoint, and kept in RUN/probes/responses.csv.

    Examples:

    - `degrade probe responses`

    - `degrade probe responses outputs/paper --output figure7.pdf`

    - `degrade probe responses outputs/quick/plain-56 outputs/quick/residual-56 --limit 1000`
    """
    if output is not None:
        check_suffix(output)
    curves, folder = _curves(runs)
    from degrade.analysis.figures import save
    from degrade.analysis.table import aligned
    from degrade.probes.responses import draw_responses, responses
    from degrade.runs import RunRecord

    found = [
        [responses(RunRecord(path), limit=limit, device=device or "auto") for path in curve.paths.values()]
        for curve in curves
    ]
    rows = []
    for curve, seeds in zip(curves, found, strict=True):
        every = [float(row["std"]) for own in seeds for row in own]
        rows.append([curve.label, str(len(seeds[0])), *(f"{f(every):.3f}" for f in (min, _mean, max))])
    print(aligned(["network", "layers", "least", "mean", "greatest"], rows))
    save(draw_responses(curves, found), target := output or folder / "responses.png")
    print(f"figure: {target}")
    return DONE


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _curves(runs: list[Path] | None) -> "tuple[list[Curve], Path]":
    """The networks of the runs asked for, and the folder for their figure."""
    from degrade.analysis import error_curves

    records, folder = chosen(runs)
    begun = [record for record in records if record.summary.get("iteration")]
    if not begun:
        raise RunError(f"{records[0].path}: not trained yet, so there is nothing to look into")
    return error_curves(begun), folder
