"""How fast training is: the conventional loop and degrade's engine, side by side in one run.

Every contender runs in a process of its own, so that its memory is its own and none helps or harms another. The
parent lets one work at a time, a fraction of a second each, over many rounds: a noisy machine is then noisy for all,
and what is reported is the median of the ratios to the conventional loop within a round, with its interval.
"""

import contextlib
import logging
import math
import multiprocessing
import platform
import re
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from degrade.analysis.speed import CONVENTIONAL, EVALUATED, Contender, Report, Result, reference, settled
from degrade.config import Experiment, ModelConfig, compose
from degrade.cores import usable
from degrade.data.synthetic import noise
from degrade.errors import RunFailed
from degrade.models import build_model, layers, multiply_adds
from degrade.progress import Progress
from degrade.runs.environment import git_state
from degrade.runs.record import now
from degrade.training import Training, choose_device, choose_precision, device_name, has_bf16
from degrade.training.peaks import copy_peak, gemm_peak, rate, wait

#: Number of batches in the epoch that a bench trains on. They are noise, which costs what photographs cost.
BATCHES = 40

#: Number of turns after which a ratio may be settled: the fewest that an interval of order statistics needs.
LEAST = 6
#: The key of the copying speed in `peaks`, whose other keys are precisions.
COPYING = "copying"
PAPER_ITERATIONS, PAPER_EPOCHS, PAPER_BATCH = 64_000, 164, 128


def contenders(
    depths: Sequence[int], *, device: str, workers: int, batch_sizes: Sequence[int], compiled: bool
) -> list[Contender]:
    """The conventional loop with and without workers, and the engine at each setting that suits the device."""
    place = choose_device(device)
    best = choose_precision("auto", place)
    precisions = ["fp32", "bf16"] if has_bf16(place) else ["fp32"]
    settings = [("eager", precision, "channels_last") for precision in precisions]
    settings.append(("eager", best, "contiguous"))
    if place.type == "cuda":
        settings.append(("graph", best, "channels_last"))
    if compiled:
        settings.append(("compiled", best, "channels_last"))
    if compiled and place.type == "cuda":
        settings.append(("compiled-graph", best, "channels_last"))
    threads = _threads() if place.type == "cpu" else 1
    found = []
    for depth, batch_size in product(depths, batch_sizes):
        own = [Contender(depth, CONVENTIONAL, "fp32", count) for count in sorted({0, workers})]
        own += [Contender(depth, name, at, memory_format=layout) for name, at, layout in settings]
        if threads > 1:
            own.append(Contender(depth, "eager", best, copies=threads))
        found += [replace(each, batch_size=batch_size, device=device) for each in own]
    return found


def bench(chosen: Sequence[Contender], *, rounds: int, seconds: float, limit: float) -> Report:
    """Let contenders work in turn, `seconds` a turn, until all ratios are settled or the time is over.

    Those of one depth and batch size are alive at the same time. Each has at most `rounds` turns, and they begin no
    further round after `limit` seconds, once LEAST are made.

    Raises:
        RunFailed: a contender's process ended, or could not go on.
    """
    torch.set_num_threads(_threads())  # for what the device does at best
    results = [Result(contender) for contender in chosen]
    peaks: dict[str, float] = {}
    device = choose_device(chosen[0].device)
    groups = [
        [result for result in results if result.contender.group == group]
        for group in dict.fromkeys(contender.group for contender in chosen)
    ]
    turns = [min(rounds * len(own), max(LEAST * len(own), int(limit / seconds))) for own in groups]
    with contextlib.closing(Progress(len(results) + sum(turns))) as progress:
        for own, planned in zip(groups, turns, strict=True):
            _bench(own, peaks, device, progress, rounds=rounds, seconds=seconds, limit=limit)
            progress.expect(sum(len(result.images_per_second) for result in own) - planned)
    return Report(_machine(device), {p: peak for p, peak in peaks.items() if p != COPYING}, peaks[COPYING], results)


def _threads() -> int:
    """CPU threads of a contender, and of its copies together: as many as a training takes."""
    return min(torch.get_num_threads(), usable())


def _bench(
    results: Sequence[Result],
    peaks: dict[str, float],
    device: torch.device,
    progress: Progress,
    *,
    rounds: int,
    seconds: float,
    limit: float,
) -> None:
    """Bench the contenders of one depth and batch size; peaks are those of the device, and become no less."""
    going = {result.contender for result in results}
    runners: list[_Runner] = []
    try:
        for result in results:
            progress.tell(f"starting {result.contender.depth} {result.contender.label}")
            runners.append(_Runner(result.contender))
            result.start_seconds = max(runners[-1].ask("start"))
            progress.advance(1)
        started = time.monotonic()
        for number in range(rounds):
            if number % LEAST == 0:
                for precision in {result.contender.precision for result in results}:
                    peaks[precision] = max(peaks.get(precision, 0.0), gemm_peak(device, precision))
                peaks[COPYING] = max(peaks.get(COPYING, 0.0), copy_peak(device))
            for result, runner in zip(results, runners, strict=True):
                if result.contender not in going:
                    continue
                progress.tell(f"{result.contender.depth} {result.contender.label}")
                turns = runner.ask("run", seconds)
                result.images_per_second.append(sum(speed for speed, _ in turns))
                if device.type == "cpu":
                    result.cores.append(sum(cores for _, cores in turns))
                progress.advance(1)
            if number + 1 < LEAST:
                continue
            beside = reference(results)
            noisy = {r.contender for r in results if not settled(r.ratio(beside))} & going
            if not noisy or time.monotonic() - started > limit:
                break
            # These have the time that is left, beside the loops of which one is the reference.
            loops = {r.contender for r in results if r is beside or r.contender.name == CONVENTIONAL}
            going &= noisy | loops
        for result, runner in zip(results, runners, strict=True):
            if result.contender.copies == 1:
                result.step_ms = runner.ask("split")[0]
            result.peak_memory = sum(runner.ask("memory"))
    finally:
        for runner in runners:
            runner.stop()
    _compare(results, peaks)


def traffic(model: nn.Module, precision: str) -> int:
    """Least bytes that a training step moves for one image, if element-wise passes are fused with their neighbours.

    Forward there are 5 passes: a convolution's output is written, read for batch norm's statistics, and read again to
    be normalised into the next convolution's input, which is written and read. Backward there are 9: batch norm reads
    gradient and input twice each and writes a gradient; the convolution reads that twice and its input once, and
    writes a gradient.
    """
    values = sum(math.prod(layer.shape) for layer in layers(model) if "conv" in layer.kind)
    return 14 * values * (2 if precision == "bf16" else 4)


def profile(contender: Contender, path: Path, steps: int = 5) -> None:
    """Write a torch.profiler trace of some training steps, for a trace viewer."""
    engine = _Engine(contender)
    for _ in range(3):
        engine.step()
    with torch.profiler.profile() as profiler:
        for _ in range(steps):
            engine.step()
        wait(engine.device)
    profiler.export_chrome_trace(str(path))


def _compare(results: Sequence[Result], peaks: dict[str, float]) -> None:
    """Fill in what follows from the measurements."""
    for result in results:
        contender = result.contender
        model = build_model(ModelConfig(depth=contender.depth))
        # Backward costs twice the forward pass: gradients of inputs and of weights.
        result.roofline = 3 * multiply_adds(model) * result.median / peaks[contender.precision]
        result.bandwidth = traffic(model, contender.precision) * result.median / peaks[COPYING]
        if "evaluation" in result.step_ms and contender.batch_size == PAPER_BATCH:
            evaluation = PAPER_EPOCHS * 10_000 / EVALUATED * result.step_ms["evaluation"] / 1000
            result.paper_hours = (PAPER_ITERATIONS * PAPER_BATCH / result.median + evaluation) / 3600


class _Runner:
    """A contender's processes, one for each of its copies, asked over pipes."""

    def __init__(self, contender: Contender) -> None:
        # Spawned, not forked: a fork would inherit this process's memory and threads.
        context = multiprocessing.get_context("spawn")
        self.contender = contender
        self.members: list[tuple[Connection, Any]] = []
        for _ in range(contender.copies):
            connection, theirs = context.Pipe()
            # Not a daemon: daemons may not have children, and the conventional loop's workers are its children.
            process = context.Process(target=_serve, args=(theirs, contender, max(1, _threads() // contender.copies)))
            process.start()
            theirs.close()
            self.members.append((connection, process))

    def ask(self, what: str, *arguments: Any) -> list[Any]:
        """The answers of all, which work at the same time."""
        try:
            for connection, _ in self.members:
                connection.send((what, *arguments))
            answers = [connection.recv() for connection, _ in self.members]
        except (EOFError, OSError) as error:
            raise RunFailed(f"bench: the process of {self.contender.label} ended") from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise RunFailed(f"bench: {self.contender.label} failed: {answer}") from answer
        return answers

    def stop(self) -> None:
        for connection, _ in self.members:
            connection.close()  # this makes the process return
        for _, process in self.members:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
                process.join()


def _serve(connection: Connection, contender: Contender, threads: int) -> None:
    """Answer questions until the parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which closes the pipe
    torch.set_num_threads(threads)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # on a CPU it warns that CUDA is missing
    loop: _Conventional | _Engine | None = None
    started = time.perf_counter()
    while True:
        try:
            what, *arguments = connection.recv()
        except EOFError:
            return
        try:
            if loop is None:
                loop = _Conventional(contender) if contender.name == CONVENTIONAL else _Engine(contender)
                for _ in range(3):
                    loop.step()
                wait(loop.device)
            if what == "start":
                connection.send(time.perf_counter() - started)
            elif what == "run":
                loop.discard_prepared()  # what was made ready while others worked is not counted
                wall, own = time.perf_counter(), time.process_time()
                speed = rate(loop.step, loop.device, *arguments)
                connection.send((speed, (time.process_time() - own) / (time.perf_counter() - wall)))
            elif what == "split":
                connection.send(loop.split())
            else:
                connection.send(_peak_memory(loop.device))
        except Exception as error:
            connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


class _Conventional:
    """The usual CIFAR ResNet scripts' loop: PIL transforms in a DataLoader, eager fp32, `.item()` every step."""

    def __init__(self, contender: Contender) -> None:
        from torchvision import transforms

        self.contender = contender
        self.device = choose_device(contender.device)
        normalise = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        flip_and_crop = [transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, 4)]
        self.loader = torch.utils.data.DataLoader(
            _Photographs(contender, transforms.Compose([*flip_and_crop, transforms.ToTensor(), normalise])),
            batch_size=contender.batch_size,
            shuffle=True,
            num_workers=contender.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=contender.workers > 0,
            # Loops on Linux fork by default, but this process was spawned, and its children would be spawned too.
            multiprocessing_context="fork" if contender.workers and sys.platform.startswith("linux") else None,
        )
        self.batches = iter(self.loader)
        self.model = build_model(ModelConfig(depth=contender.depth)).to(self.device).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
        self.criterion = nn.CrossEntropyLoss()
        self.loss = self.correct = 0.0

    def step(self) -> int:
        images, labels = self._next()
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        output = self.model(images)
        loss = self.criterion(output, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loss += loss.item() * len(labels)
        self.correct += (output.argmax(1) == labels).sum().item()
        return len(labels)

    def discard_prepared(self) -> None:
        for _ in range(2 * self.contender.workers):  # DataLoader's default prefetch_factor
            self._next()

    def split(self) -> dict[str, float]:
        return {}

    def _next(self) -> tuple[Tensor, Tensor]:
        if (batch := next(self.batches, None)) is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        return batch[0], batch[1]


class _Photographs(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Noise as PIL images, as torchvision's CIFAR10 gives photographs."""

    def __init__(self, contender: Contender, transform: Callable[[Any], Tensor]) -> None:
        self.images = noise(BATCHES * contender.batch_size).train_images.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), index % 10


class _Engine:
    """degrade's own training, as `degrade train` runs it."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        images = noise(BATCHES * contender.batch_size)
        few = replace(images, test_images=images.test_images[:EVALUATED], test_labels=images.test_labels[:EVALUATED])
        self.training = Training(_experiment(contender), few)
        self.device = self.training.engine.device

    def step(self) -> int:
        self.training.step()
        return self.contender.batch_size

    def discard_prepared(self) -> None:
        """Nothing is prepared ahead."""

    def split(self) -> dict[str, float]:
        """Milliseconds of each part, medians of 3."""
        engine, batches = self.training.engine, self.training.batches
        times: dict[str, list[float]] = {}

        def clocked(part: str, work: Callable[..., Any], *arguments: Any) -> Any:
            wait(self.device)
            started = time.perf_counter()
            result = work(*arguments)
            wait(self.device)
            times.setdefault(part, []).append(1000 * (time.perf_counter() - started))
            return result

        for iteration in range(1, 4):
            if engine.name.endswith("graph"):  # the parts of a graph cannot be timed
                clocked("whole", engine.train, batches, iteration, 0.01)
                continue
            images, labels = clocked("data", batches.batch, iteration)
            loss, logits = clocked("forward", engine.loss, images, labels)
            clocked("backward", loss.backward)
            clocked("optimizer", engine.update, 0.01)
            clocked("metrics", engine.count, loss, logits, labels)
            times.setdefault("whole", []).append(sum(values[-1] for name, values in times.items() if name != "whole"))
        pixels, labels = self.training.test
        self.training.evaluate(pixels, labels)  # an engine that compiles or records does so here
        for _ in range(3):
            clocked("evaluation", self.training.evaluate, pixels, labels)
        return {part: statistics.median(values) for part, values in times.items()}


def _experiment(contender: Contender) -> Experiment:
    size = 250 if choose_device(contender.device).type == "cpu" else EVALUATED
    settings: dict[str, object] = {
        "model.depth": contender.depth,
        "recipe.batch_size": contender.batch_size,
        "eval.batch_size": size,
    }
    settings |= {"runtime.device": contender.device, "runtime.precision": contender.precision}
    settings |= {"runtime.engine": contender.name, "runtime.memory_format": contender.memory_format}
    return compose([f"{key}={value}" for key, value in settings.items()])


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):  # what getrusage says of a child begins at its parent's size
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _machine(device: torch.device) -> dict[str, Any]:
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    name, threads = device_name(device), torch.get_num_threads()
    if device.type == "cpu":
        name += f", {threads} thread{'s' * (threads > 1)}"
    return {"device": name, **versions, "date": now(), "git": git_state()}
