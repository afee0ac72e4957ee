"""What a bench measured, as text and as JSON, and read from JSON again. This module does not import torch."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from degrade.analysis.table import aligned

CONVENTIONAL = "conventional"

#: Number of images in the evaluation that is timed.
EVALUATED = 1000


@dataclass(frozen=True)
class Contender:
    """What is timed: training of the plain network of a depth, in one way."""

    depth: int
    name: str
    """`conventional`, or the engine's name."""
    precision: str
    workers: int = 0
    """Number of processes that load data, in the conventional loop only."""
    batch_size: int = 128
    device: str = "cpu"
    memory_format: str = "channels_last"
    """How degrade's engine lays out activations and weights; the conventional loop doesn't have the setting."""

    @property
    def label(self) -> str:
        """Its name in the table."""
        if self.name == CONVENTIONAL:
            return f"{self.name}, {self.workers} workers"  # always fp32
        return f"{self.name} {self.precision}{' NCHW' if self.memory_format == 'contiguous' else ''}"


@dataclass
class Result:
    """What a contender reached."""

    contender: Contender
    images_per_second: list[float] = field(default_factory=list)
    """One value for each round."""
    step_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds of each part of a training step, and of evaluating EVALUATED images, for degrade's engine only."""
    peak_memory: int = 0
    """Bytes resident in its process without its workers (CUDA: allocated on the device)."""
    start_seconds: float = 0.0
    """Seconds that it takes to build all and to make three steps, compilation included."""
    ratio: float = 0.0
    """Median speed over that of the fastest conventional loop at the same depth."""
    roofline: float = 0.0
    """Multiply-adds of forward and backward per second, divided by the GEMM peak of that precision."""
    bandwidth: float = 0.0
    """Minimum memory traffic of a step (`traffic` in bench.py) per second, divided by the measured copy bandwidth."""
    paper_hours: float | None = None
    """Hours that the paper's recipe would take, with an evaluation after each epoch."""

    @property
    def median(self) -> float:
        """Median images per second over the rounds."""
        return statistics.median(self.images_per_second)


#: Columns of the table of speeds, and what stands in them.
_SPEEDS: dict[str, Callable[[Result], str]] = {
    "img/s": lambda r: f"{r.median:,.0f}",
    "+-": lambda r: f"{(max(r.images_per_second) - min(r.images_per_second)) / 2 / r.median:.0%}",
    "ratio": lambda r: f"{r.ratio:.2f}",
    "GEMM": lambda r: f"{r.roofline:.0%}",
    "copy": lambda r: f"{r.bandwidth:.0%}",
    "MiB": lambda r: f"{r.peak_memory / 2**20:,.0f}",
    "start": lambda r: f"{r.start_seconds:.0f} s",
    "paper": lambda r: "-" if r.paper_hours is None else f"{r.paper_hours:.1f} h",
}


@dataclass(frozen=True)
class Report:
    """A whole bench: results on one machine."""

    machine: dict[str, Any]
    """Device, versions, date and commit."""
    gemm_peak: dict[str, float]
    """Multiply-adds per second by precision, the best of all rounds."""
    copy_peak: float
    """Bytes read and written per second by a copy, the best of all rounds."""
    results: list[Result]

    def as_text(self) -> str:
        """Two tables for each depth, within 80 columns: speed of each contender, and how a step's time divides."""
        peaks = ", ".join(f"{p} {2 * peak / 1e9:,.0f} GFLOP/s" for p, peak in sorted(self.gemm_peak.items()))
        batch_size = self.results[0].contender.batch_size
        lines = [
            f"{self.machine['device']}, torch {self.machine['torch']}, batch {batch_size}",
            f"matrix products {peaks}; copying {self.copy_peak / 1e9:,.0f} GB/s",
        ]
        for depth in sorted({r.contender.depth for r in self.results}):
            own = [r for r in self.results if r.contender.depth == depth]
            speeds = [[r.contender.label, *(cell(r) for cell in _SPEEDS.values())] for r in own]
            lines += ["", aligned([f"{depth} layers", *_SPEEDS], speeds)]
            lines += ["", _parts([r for r in own if r.step_ms])]
        return "\n".join(lines)

    @staticmethod
    def from_json(text: str) -> "Report":
        """The report of which `as_json` gave the text."""
        held = json.loads(text)
        results = []
        for result in held.pop("results"):
            del result["label"], result["median"]
            results.append(Result(**{**result, "contender": Contender(**result["contender"])}))
        return Report(**held, results=results)

    def as_json(self) -> str:
        """The whole report as JSON."""
        results = [{**asdict(r), "label": r.contender.label, "median": r.median} for r in self.results]
        return json.dumps({**asdict(self), "results": results}, indent=2)


def _parts(results: Sequence[Result]) -> str:
    names = list(dict.fromkeys(name for r in results for name in r.step_ms))
    rows = [
        [r.contender.label, *(f"{r.step_ms[name]:.1f}" if name in r.step_ms else "-" for name in names)]
        for r in results
    ]
    return aligned(["milliseconds", *names], rows)
