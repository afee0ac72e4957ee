"""`degrade export`: records and weights for other programs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from degrade.cli import completion
from degrade.cli.options import DONE, Runs, check_word, chosen, one_run
from degrade.errors import ConfigError


def export(
    runs: Runs = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            autocompletion=completion.export_formats,
            help="The table is csv, json or parquet; by default as the suffix of --output says, else csv.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            autocompletion=completion.files,
            help="Write into this file; by default a table goes to the terminal, weights to RUN/weights.safetensors.",
        ),
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Write the trained weights of one run instead, as safetensors.")
    ] = False,
) -> int:
    """Write what runs measured as one long table, one row per measurement; or write one run's weights.

    Errors are fractions. Parquet needs `pip install '.[parquet]'`, weights `pip install '.[safetensors]'`.

    Examples:

    - `degrade export > measurements.csv`

    - `degrade export outputs/quick outputs/short --output measurements.parquet`

    - `degrade export --weights outputs/quick/residual-20/seed-0 --output residual-20.safetensors`
    """
    if weights:
        return _weights(runs or [], form, output)
    form = _format(form, output)
    from degrade.analysis.export import measurements, write_csv, write_json, write_parquet

    rows = measurements(chosen(runs)[0])
    if output is None:
        (write_json if form == "json" else write_csv)(rows, sys.stdout)
        return DONE
    output.parent.mkdir(parents=True, exist_ok=True)
    if form == "parquet":
        write_parquet(rows, output)
    else:
        with output.open("w", newline="") as file:
            (write_json if form == "json" else write_csv)(rows, file)
    print(f"table: {output}")
    return DONE


def _format(form: str | None, output: Path | None) -> str:
    from degrade.analysis.export import FORMATS

    suffix = output.suffix.lower().removeprefix(".") if output is not None else ""
    if form in FORMATS and suffix in FORMATS and suffix != form:
        raise ConfigError(f"--format {form} --output {output}: they name two formats; leave --format out, or rename")
    if form is None:
        if suffix and suffix not in FORMATS:
            raise ConfigError(f"--output {output}: tables are written as {', '.join(FORMATS)}; say which by --format")
        form = suffix or "csv"
    check_word("--format", form, FORMATS)
    if form == "parquet":
        from degrade.extras import require

        require("pyarrow", extra="parquet", what="--format parquet")
        if output is None:
            raise ConfigError("--format parquet: is not for a terminal; name a file with --output")
    return form


def _weights(runs: list[Path], form: str | None, output: Path | None) -> int:
    if form is not None:
        raise ConfigError(f"--format {form}: weights are written as safetensors; leave it out")
    if len(runs) != 1:
        raise ConfigError(f"--weights: takes one run's directory, not {len(runs) or 'none'}")
    record = one_run(runs[0])
    from degrade.runs.evaluation import heading
    from degrade.runs.weights import NAME, export_weights

    target = output or record.path / NAME
    facts = export_weights(record, target)
    print(heading(record, int(facts["iteration"]), synthetic=facts["data"] == "synthetic"))
    print(f"weights: {target}")
    return DONE
