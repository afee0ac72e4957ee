"""Records as one long table for other programs, with one row per measurement: csv, JSON or Parquet."""

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from degrade.analysis.curves import legible, told_apart
from degrade.extras import require
from degrade.runs.record import Run

if TYPE_CHECKING:
    from pandas import DataFrame

FORMATS = ("csv", "json", "parquet")

SCHEMA_VERSION = 1

#: What is measured in a row of metrics. Errors are fractions; losses are mean cross-entropy in nats.
QUANTITIES = (
    "train_error",
    "train_error_clean",
    "train_error_batch",
    "test_error",
    "train_loss",
    "test_loss",
    "lr",
    "images_per_second",
    "seconds",
)

#: The table's columns and their types in Parquet; experiment and variant are the run's folders.
COLUMNS = {
    "experiment": "string",
    "variant": "string",
    "network": "string",
    "family": "string",
    "depth": "int32",
    "seed": "int64",
    "recipe": "string",
    "status": "string",
    "synthetic": "bool_",
    "iteration": "int64",
    "epoch": "float64",
    "quantity": "string",
    "value": "float64",
}

#: The number of a Parquet file's rows that are held in memory at a time.
_GROUP = 100_000


def measurements(records: Iterable[Run]) -> Iterator[tuple[Any, ...]]:
    """One tuple per measurement, in the order of COLUMNS, without what was not measured or is not a finite number.

    Raises:
        RunError: a record's config cannot be read.
    """
    found = [(record, record.path.resolve().parent) for record in records]
    names = told_apart({variant.parent for _, variant in found})
    for record, variant in found:
        own = record.experiment
        model, synthetic = own.model, own.data.name == "synthetic"
        folders = names[variant.parent] or legible(variant.parent.name), legible(variant.name)
        network = f"{model.family}-{model.depth}", model.family, model.depth
        shared = *folders, *network, own.seed, own.recipe.name, str(record.status), synthetic
        for row in record.metrics():
            for quantity in QUANTITIES:
                if (value := row.finite(quantity)) is not None:
                    yield (*shared, row.iteration, row.finite("epoch"), quantity, float(value))


def frame(records: Iterable[Run]) -> "DataFrame":
    """The measurements as one long table of pandas, to be filtered and pivoted.

    Raises:
        ConfigError: pandas is not installed.
        RunError: a record's config cannot be read.
    """
    require("pandas", extra="pandas", what="degrade.analysis.frame")
    import pandas

    return pandas.DataFrame(measurements(records), columns=list(COLUMNS))


def write_csv(rows: Iterable[tuple[Any, ...]], file: TextIO) -> None:
    """Write a header and the rows, with as many digits as it takes to read the same numbers again."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    where = list(COLUMNS).index("synthetic")
    writer.writerows((*row[:where], str(row[where]).lower(), *row[where + 1 :]) for row in rows)


def write_json(rows: Iterable[tuple[Any, ...]], file: TextIO) -> None:
    """Write `{"schema_version": 1, "measurements": [{...}, ...]}`, with one line for each measurement."""
    file.write(f'{{"schema_version": {SCHEMA_VERSION}, "measurements": [')
    for k, row in enumerate(rows):
        file.write((",\n" if k else "\n") + json.dumps(dict(zip(COLUMNS, row, strict=True))))
    file.write("\n]}\n")


def write_parquet(rows: Iterable[tuple[Any, ...]], path: Path) -> None:
    """Write a Parquet file; its metadata hold `schema_version`.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    require("pyarrow", extra="parquet", what="--format parquet")
    import pyarrow as pa
    from pyarrow import parquet

    types = {name: getattr(pa, kind)() for name, kind in COLUMNS.items()}
    schema = pa.schema(types.items(), metadata={"schema_version": str(SCHEMA_VERSION)})
    rows = iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, _GROUP)):
            columns = zip(*group, strict=True)
            arrays = [pa.array(own, kind) for own, kind in zip(columns, types.values(), strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
