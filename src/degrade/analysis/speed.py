"""What a bench measured, as text and as JSON, and read from JSON again. This module does not import torch."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from degrade.analysis.intervals import Interval, median_interval
from degrade.analysis.table import aligned

CONVENTIONAL = "conventional"

#: Number of images in the evaluation that is timed.
EVALUATED = 1000

#: A ratio is told if its interval is at most so wide, as a share of it.
WIDEST = 0.1

#: What stands in the table in place of another ratio.
NOISY = "too noisy"

#: A turn counts as disturbed if the process had less CPU time in it than this share of what it had in its best turn.
DISTURBED = 0.85


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
    copies: int = 1
    """Number of networks that are trained at once, which share the CPU's threads; their speeds are added."""

    @property
    def label(self) -> str:
        """Its name in the table."""
        if self.name == CONVENTIONAL:
            return f"{self.name}, {self.workers} workers"  # always fp32
        layout = " NCHW" if self.memory_format == "contiguous" else ""
        return f"{self.name} {self.precision}{layout}{f', {self.copies} at once' if self.copies > 1 else ''}"

    @property
    def group(self) -> tuple[int, int]:
        """Depth and batch size: those that share both are set beside each other."""
        return self.depth, self.batch_size


@dataclass
class Result:
    """What a contender reached."""

    contender: Contender
    images_per_second: list[float] = field(default_factory=list)
    """One value for each turn."""
    cores: list[float] = field(default_factory=list)
    """CPU time divided by time, for each turn; empty where the CPU does not set the pace."""
    step_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds of each part of a training step, and of evaluating EVALUATED images, for degrade's engine only."""
    peak_memory: int = 0
    """Bytes resident in its process without its workers (CUDA: allocated on the device); 0: not known."""
    start_seconds: float = 0.0
    """Time from a process that has imported torch to the third step, with compilation."""
    roofline: float = 0.0
    """Multiply-adds of forward and backward per second, divided by the GEMM peak of that precision."""
    bandwidth: float = 0.0
    """Minimum memory traffic of a step (`traffic` in bench.py) per second, divided by the measured copy bandwidth."""
    paper_hours: float | None = None
    """Hours that the paper's recipe would take, with an evaluation after each epoch."""

    @property
    def counted(self) -> dict[int, float]:
        """Images per second of the turns in which nothing else took the CPU, by number; of all, if there is none."""
        least = DISTURBED * max(self.cores, default=0.0)
        turns = dict(enumerate(self.images_per_second))
        return {k: speed for k, speed in turns.items() if not self.cores or self.cores[k] >= least} or turns

    @property
    def median(self) -> float:
        """Images per second."""
        return statistics.median(self.counted.values())

    def ratio(self, reference: "Result") -> Interval | None:
        """Median of the ratios to another one's speed in the same round; None where no round counts for both."""
        ours, theirs = self.counted, reference.counted
        pairs = [ours[k] / theirs[k] for k in ours.keys() & theirs.keys()]
        return median_interval(pairs) if pairs else None


def settled(ratio: Interval | None) -> bool:
    """Whether a ratio's interval is narrow enough for the ratio to be told."""
    return ratio is not None and ratio.high - ratio.low <= WIDEST * ratio.estimate


def reference(results: Sequence[Result]) -> Result:
    """The conventional loop that is the faster one, or the first contender of all if there is none."""
    loops = [result for result in results if result.contender.name == CONVENTIONAL]
    return max(loops, key=lambda result: result.median) if loops else results[0]


def _ratio(result: Result, beside: Result) -> str:
    found = result.ratio(beside)
    if result is beside:
        return "1"
    if found is None or not settled(found):
        return NOISY
    return f"{found.estimate:.2f} ±{(found.high - found.low) / 2 / found.estimate:.0%}"


#: Columns of the table of speeds, and what stands in them, by the result and the one that it is set beside.
_SPEEDS: dict[str, Callable[[Result, Result], str]] = {
    "img/s": lambda r, _: f"{r.median:,.0f}",
    "ratio": _ratio,
    "GEMM": lambda r, _: f"{r.roofline:.0%}",
    "copy": lambda r, _: f"{r.bandwidth:.0%}",
    "MiB": lambda r, _: f"{r.peak_memory / 2**20:,.0f}" if r.peak_memory else "-",
    "start": lambda r, _: f"{r.start_seconds:.0f} s",
    "paper": lambda r, _: "-" if r.paper_hours is None else f"{r.paper_hours:.1f} h",
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
        lines = [
            f"{self.machine['device']}, torch {self.machine['torch']}",
            f"matrix products {peaks}; copying {self.copy_peak / 1e9:,.0f} GB/s",
        ]
        for depth, batch_size in dict.fromkeys(r.contender.group for r in self.results):
            own = [r for r in self.results if r.contender.group == (depth, batch_size)]
            beside = reference(own)
            speeds = [[r.contender.label, *(cell(r, beside) for cell in _SPEEDS.values())] for r in own]
            lines += ["", f"{depth} layers, batches of {batch_size}, {_turns(own)}"]
            lines += [aligned(["", *_SPEEDS], speeds), "", _parts([r for r in own if r.step_ms])]
        return "\n".join(lines)

    @staticmethod
    def from_json(text: str) -> "Report":
        """The report of which `as_json` gave the text."""
        held = json.loads(text)
        results = []
        for result in held.pop("results"):
            for name in ("label", "median", "ratio"):  # the last stands in benches of earlier versions only
                result.pop(name, None)
            results.append(Result(**{**result, "contender": Contender(**result["contender"])}))
        return Report(**held, results=results)

    def as_json(self) -> str:
        """The whole report as JSON."""
        results = [{**asdict(r), "label": r.contender.label, "median": r.median} for r in self.results]
        return json.dumps({**asdict(self), "results": results}, indent=2)


def _turns(results: Sequence[Result]) -> str:
    """How many turns each had, and how many of all are left out."""
    counts = sorted({len(r.images_per_second) for r in results})
    turns = sum(len(r.images_per_second) for r in results)
    left_out = turns - sum(len(r.counted) for r in results)
    disturbed = f", {left_out} of {turns} in all left out as disturbed" if left_out else ""
    return f"{' to '.join(map(str, counts[:1] + counts[1:][-1:]))} turns each{disturbed}"


def _parts(results: Sequence[Result]) -> str:
    names = list(dict.fromkeys(name for r in results for name in r.step_ms))
    rows = [
        [r.contender.label, *(f"{r.step_ms[name]:.1f}" if name in r.step_ms else "-" for name in names)]
        for r in results
    ]
    return aligned(["milliseconds", *names], rows)
