"""What a bench measured, as text, as JSON, and back. No torch."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from degrade.analysis.table import aligned

CONVENTIONAL = "conventional"

#: Images of the evaluation that is timed.
EVALUATED = 1000


@dataclass(frozen=True)
class Contender:
    """What runs against what: training of the plain network of a depth."""

    depth: int
    name: str
    """`conventional`, or the engine's name."""
    precision: str
    workers: int = 0
    """Processes that load data; of the conventional loop only."""
    batch_size: int = 128
    device: str = "cpu"
    memory_format: str = "channels_last"
    """Of degrade's engine only."""

    @property
    def label(self) -> str:
        """As in the table."""
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
    """Of a training step, by part, and of evaluating EVALUATED images; of degrade's engine only."""
    peak_memory: int = 0
    """Bytes resident in its process (CUDA: allocated on the device), its workers not counted."""
    start_seconds: float = 0.0
    """From nothing to the third step, compilation included."""
    ratio: float = 0.0
    """Median speed over that of the fastest conventional loop at the same depth."""
    roofline: float = 0.0
    """Share of the multiply-adds of forward and backward in the GEMM peak of that precision."""
    bandwidth: float = 0.0
    """Share of the bytes that a step must move (`traffic` in bench.py) in the measured speed of copying."""
    paper_hours: float | None = None
    """What the paper's recipe would take, evaluation after each epoch included."""

    @property
    def median(self) -> float:
        """Images per second."""
        return statistics.median(self.images_per_second)


@dataclass(frozen=True)
class Report:
    """A whole bench, of results on one machine."""

    machine: dict[str, Any]
    """Device, versions, date and commit."""
    gemm_peak: dict[str, float]
    """Multiply-adds per second by precision, the best of all rounds."""
    copy_peak: float
    """Bytes read and written per second by a copy, the best of all rounds."""
    results: list[Result]

    def as_text(self) -> str:
        """Two tables a depth, within 80 columns: speed of each contender, and how a step's time divides."""
        peaks = ", ".join(f"{p} {2 * peak / 1e9:,.0f} GFLOP/s" for p, peak in sorted(self.gemm_peak.items()))
        first = self.results[0].contender
        lines = [
            f"{self.machine['device']}, torch {self.machine['torch']}, batch {first.batch_size}",
            f"matrix products {peaks}; copying {self.copy_peak / 1e9:,.0f} GB/s",
        ]
        for depth in sorted({r.contender.depth for r in self.results}):
            own = [r for r in self.results if r.contender.depth == depth]
            lines += ["", _speeds(depth, own), "", _parts([r for r in own if r.step_ms])]
        return "\n".join(lines)

    @staticmethod
    def from_json(text: str) -> "Report":
        """What `as_json` gave."""
        held = json.loads(text)
        results = []
        for result in held.pop("results"):
            del result["label"], result["median"]
            results.append(Result(**{**result, "contender": Contender(**result["contender"])}))
        return Report(**held, results=results)

    def as_json(self) -> str:
        """All of it, as JSON."""
        results = [{**asdict(r), "label": r.contender.label, "median": r.median} for r in self.results]
        peaks = {"gemm_peak": self.gemm_peak, "copy_peak": self.copy_peak}
        return json.dumps({"machine": self.machine, **peaks, "results": results}, indent=2)


def _speeds(depth: int, results: Sequence[Result]) -> str:
    head = [f"{depth} layers", "img/s", "+-", "ratio", "GEMM", "copy", "MiB", "start", "paper"]
    rows = [
        [
            r.contender.label,
            f"{r.median:,.0f}",
            f"{(max(r.images_per_second) - min(r.images_per_second)) / 2 / r.median:.0%}",
            f"{r.ratio:.2f}",
            f"{r.roofline:.0%}",
            f"{r.bandwidth:.0%}",
            f"{r.peak_memory / 2**20:,.0f}",
            f"{r.start_seconds:.0f} s",
            "-" if r.paper_hours is None else f"{r.paper_hours:.1f} h",
        ]
        for r in results
    ]
    return aligned(head, rows)


def _parts(results: Sequence[Result]) -> str:
    names = list(dict.fromkeys(name for r in results for name in r.step_ms))
    rows = [
        [r.contender.label, *(f"{r.step_ms[name]:.1f}" if name in r.step_ms else "-" for name in names)]
        for r in results
    ]
    return aligned(["milliseconds", *names], rows)
