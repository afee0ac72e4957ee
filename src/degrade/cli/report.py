"""`degrade report`: everything known of some runs, as one page that opens from disk."""

from pathlib import Path
from typing import Annotated

import typer

from degrade.cli import completion
from degrade.cli.options import DONE, Band, Runs, check_word, chosen
from degrade.errors import ConfigError


def report(
    runs: Runs = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            autocompletion=completion.files,
            help="Write the page into this .html file; by default report.html beside the runs, or here if they lie "
            "in several folders.",
        ),
    ] = None,
    band: Band = "std",
) -> int:
    """Write one HTML page that needs no network: curves to explore, verdict, tables, settings, pictures, commands.

    Examples:

    - `degrade report`

    - `degrade report outputs/paper --band ci95`

    - `degrade report outputs/quick --output quick.html`
    """
    from degrade.analysis.curves import BANDS

    check_word("--band", band, BANDS)
    if output is not None and output.suffix.lower() != ".html":
        raise ConfigError(f"--output {output}: the page is written as .html; use this suffix")
    from degrade.analysis import error_curves
    from degrade.analysis.page import save_page

    records, folder = chosen(runs)
    save_page(error_curves(records, band=band), target := output or folder / "report.html")
    print(f"page: {target}")
    return DONE
