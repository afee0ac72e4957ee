"""What `auto` means: which precision, engine and memory format train fastest here, by timing training steps.

Precision is timed once for each device, by one network, since networks that are set beside each other should share
it. Engine and memory format, which only round in another way, are timed for each network and batch size. What was
found is kept in the user's cache directory, so that the same command means the same on every day and in every process
of a matrix.
"""

import functools
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs
import torch
from filelock import FileLock

from degrade.config import Experiment, RuntimeConfig, compose
from degrade.data import Batches
from degrade.data.synthetic import noise
from degrade.errors import ConfigError
from degrade.files import replace_text
from degrade.training.device import UNCOMPILED, choose_engine, device_name, has_bf16
from degrade.training.engine import Engine
from degrade.training.graph import new_engine
from degrade.training.optimizers import CAPTURABLE
from degrade.training.peaks import wait

log = logging.getLogger("degrade.run")

#: Something else than the usual is taken if it is so many times as fast: less may be noise of the timing.
GAIN = 1.05

#: Another choice is taken only if its loss on the first batch is so near to the usual one's, relatively: for bf16
#: that of fp32.
NEAR = 0.02

#: Engines are timed for at most this share of the run, and never in one that takes fewer seconds than this.
SHARE, SHORTEST = 0.02, 60

#: Compiling takes about so many seconds, and so many more a layer; it is tried only where the share allows that.
COMPILING = 20, 0.5

#: A step of each is timed so many times at most.
ROUNDS = 6

#: Without compiling, timing takes at most so many seconds, but for the three rounds that it needs.
LONGEST = 20

#: For a run of less work than this, in images of 32 pixels times the depth of a network, nothing is timed.
LITTLE = 200_000

#: The depth of the plain network by which precisions are timed.
PRECISION_DEPTH = 20

#: A timing counts as undisturbed if the timed threads had the CPU for this share of the time.
UNDISTURBED = 0.9


def choose_precision(name: str, device: torch.device, *, before: str | None = None, images: float = math.inf) -> str:
    """`fp32` or `bf16`: what `runtime.precision` asks for.

    `auto` is the precision that the run was begun in; for a new run it is bf16 where the device trains faster in it.

    Args:
        name: `fp32`, `bf16` or `auto`.
        device: where the network trains.
        before: the precision of the run's last session; None for a new run.
        images: on how many the run trains (`images`). Where they are few, which is the same for all networks of a
            recipe, nothing is timed, and `auto` is what an earlier run has found, or fp32.

    Raises:
        ConfigError: bf16 is asked for on an Apple GPU, where it has not been tried.
    """
    if device.type == "mps":
        if name == "bf16":
            raise ConfigError("runtime.precision=bf16: an Apple GPU trains in fp32; use auto or fp32")
        return "fp32"
    if name != "auto":
        return name
    if before == "fp32" or not has_bf16(device):
        return "fp32"
    if before is None:
        before = _precision(device) if images * PRECISION_DEPTH >= LITTLE else _found_before(_precision_key(device))
    return "bf16" if before == "bf16" else "fp32"


def images(experiment: Experiment) -> float:
    """On how many images a run trains, as many as cost the same at 32 pixels."""
    recipe = experiment.recipe
    return recipe.iterations * recipe.batch_size * (experiment.data.pixels / 32) ** 2


def choose_runtime(experiment: Experiment, device: torch.device, *, before: Mapping[str, object]) -> RuntimeConfig:
    """The runtime of a training with precision, engine and memory format settled.

    `before` is the run's last session, whose choices stay as far as the device can; it is empty for a new run.

    Raises:
        ConfigError: what is asked for does not exist on the device.
    """
    asked = experiment.runtime
    last = {key: value for key, value in before.items() if isinstance(value, str)}
    work = images(experiment)
    precision = choose_precision(asked.precision, device, before=last.get("precision"), images=work)
    optimizer = experiment.optim.name
    engine = choose_engine(asked.engine, device, experiment.recipe.iterations, optimizer=optimizer)
    layout = "channels_last" if asked.memory_format == "auto" else asked.memory_format
    engines = _engines(engine, device, optimizer) if asked.engine == "auto" else [engine]
    layouts = [layout, "contiguous"] if asked.memory_format == "auto" else [layout]
    if before:
        engine = last["engine"] if last.get("engine") in engines else engine
        layout = last["memory_format"] if last.get("memory_format") in layouts else layout
    usual = replace(asked, precision=precision, engine=engine, memory_format=layout)
    if before or len(engines) * len(layouts) == 1 or work * experiment.model.depth < LITTLE:
        return usual
    try:
        engine, layout = _fastest(replace(experiment, runtime=usual), device, engines, layouts).split()
    except Exception as error:  # whatever compiling or recording raises; the engine's trial says it
        log.debug("nothing is timed: %s", error)
        return usual
    return replace(usual, engine=engine, memory_format=layout)


def _engines(usual: str, device: torch.device, optimizer: str) -> list[str]:
    """Engines that a device has, the usual one first, those that compile last."""
    known = {"cpu": ["eager", "compiled"], "mps": ["eager"]}
    found = known.get(device.type, ["eager", "graph", "compiled", "compiled-graph"])
    fit = [name for name in found if optimizer in CAPTURABLE or not name.endswith("graph")]
    return [usual, *(name for name in fit if name != usual)]


@functools.cache
def _precision(device: torch.device) -> str:
    """The precision in which plain-20 trains faster, by one thread: a CPU may have bf16 and be slower in it."""
    threads = torch.get_num_threads()
    own = compose([f"model.depth={PRECISION_DEPTH}"])

    def measure() -> dict[str, Any]:
        torch.set_num_threads(1)
        try:
            made = {name: functools.partial(_new, own, device, name, "eager") for name in ("fp32", "bf16")}
            return times_as_fast(made, _batches(own, device), device, seconds=20)
        finally:
            torch.set_num_threads(threads)

    return _kept(_precision_key(device), measure, "precision")


def _precision_key(device: torch.device) -> str:
    return f"precision, {_place(device)}"


def _found_before(key: str) -> str | None:
    """What was chosen before under a key; None if nothing was, or it cannot be read just now."""
    try:
        found = _read(_file()).get(key)
    except OSError:
        return None
    return None if found is None else str(found["chosen"])


def _fastest(experiment: Experiment, device: torch.device, engines: Sequence[str], layouts: Sequence[str]) -> str:
    """Engine and memory format that train fastest; the usual ones, which come first, where nothing is gained."""
    precision, size, model = experiment.runtime.precision, experiment.recipe.batch_size, experiment.model
    batches, usual = _batches(experiment, device), f"{engines[0]} {layouts[0]}"
    compiling = COMPILING[0] + COMPILING[1] * model.depth

    def spare(step: float) -> float:
        return SHARE * step * experiment.recipe.iterations

    def measure() -> dict[str, Any]:
        uncompiled = UNCOMPILED.get(engines[0], engines[0])
        engine = _new(experiment, device, precision, uncompiled)
        step = statistics.median([_step(engine, batches, device, 1 + k)[0] for k in range(4)][1:])
        seconds, compiles = spare(step), spare(step) > compiling
        known = {"step": step, "compiled": compiles}
        if seconds < SHARE * SHORTEST:
            return {"chosen": usual, "times_as_fast": 1.0, "untimed": True, **known}
        log.info("timing engines and memory formats on %s-%d", model.family, model.depth)
        pairs = [(name, layout) for name in engines for layout in layouts]
        made = {
            f"{name} {layout}": functools.partial(_new, experiment, device, precision, name, layout)
            for name, layout in pairs
            if f"{name} {layout}" == usual or not name.startswith("compiled") or (compiles and layout == layouts[0])
        }
        spared = seconds if compiles else min(seconds, LONGEST)
        return times_as_fast(made, batches, device, seconds=spared) | known

    def suffices(known: Mapping[str, Any]) -> bool:
        """Whether a run of this length would time no more than was timed, perhaps for a shorter one."""
        seconds = spare(known.get("step", math.inf))
        timed = not known.get("untimed") or seconds < SHARE * SHORTEST
        return timed and (known.get("compiled", False) or seconds <= compiling)

    network = f"{model.family}-{model.depth}, width {model.width}, {model.norm}, {experiment.data.pixels} pixels"
    unusual = [name for name in (model.activation, experiment.optim.name) if name not in ("relu", "sgd")]
    network = ", ".join([network, *unusual])  # without them the key is that of earlier versions
    how = (
        f"{precision}, {torch.get_num_threads()} threads, batches of {size}, {'/'.join(engines)}, {'/'.join(layouts)}"
    )
    return _kept(f"engine, {_place(device)}, {how}, {network}", measure, "engine", suffices)


def times_as_fast(
    made: Mapping[str, Callable[[], Engine]],
    batches: Batches,
    device: torch.device,
    *,
    seconds: float,
    near: float = NEAR,
) -> dict[str, Any]:
    """Time engines side by side, a step each in turn, so that what disturbs one disturbs the others.

    Args:
        made: makes each of them, the usual one first; one that raises is left out, unless it is the usual one.
        batches: what they train on.
        device: where.
        seconds: after which no further round begins; three are made in any case.
        near: how far the first loss of another may be from the usual one's, relatively.

    Returns:
        The `chosen` one, how many `times_as_fast` as the usual it is, whether other work `disturbed` the timing, and
        whether nothing stood beside the usual one, which is then `untimed`.
    """
    started, usual = time.monotonic(), next(iter(made))
    engines, losses = {}, {}
    for name in sorted(made, key=lambda name: name.startswith("compiled")):  # compiling may take all of the time
        make = made[name]
        if name != usual and time.monotonic() - started > seconds:
            continue
        try:
            engine = make()
            losses[name] = _step(engine, batches, device, 1)[1]
            _step(engine, batches, device, 2)
            engines[name] = engine
        except Exception as error:  # whatever recording or compiling raises
            if name == usual:
                raise
            log.debug("%s is left out: %s", name, error)
    engines = {n: e for n, e in engines.items() if abs(losses[n] - losses[usual]) <= near * abs(losses[usual])}
    if len(engines) == 1:
        return {"chosen": usual, "times_as_fast": 1.0, "untimed": True}
    times: dict[str, list[float]] = {name: [] for name in engines}
    wall, used = time.perf_counter(), time.process_time()
    while (rounds := len(times[usual])) < 3 or (rounds < ROUNDS and time.monotonic() - started < seconds):
        for name, engine in engines.items():
            times[name].append(_step(engine, batches, device, 3 + rounds)[0])
    wall, used = time.perf_counter() - wall, time.process_time() - used
    middle = {name: statistics.median(turns) for name, turns in times.items()}
    best = min(middle, key=lambda name: middle[name])
    chosen = best if middle[usual] >= GAIN * middle[best] else usual
    disturbed = device.type == "cpu" and used < UNDISTURBED * wall * torch.get_num_threads()
    return {"chosen": chosen, "times_as_fast": round(middle[usual] / middle[chosen], 2), "disturbed": disturbed}


def _new(
    experiment: Experiment, device: torch.device, precision: str, name: str, layout: str = "channels_last"
) -> Engine:
    own = replace(experiment, runtime=replace(experiment.runtime, memory_format=layout))
    return new_engine(own, device=device, precision=precision, name=name)


def _batches(experiment: Experiment, device: torch.device) -> Batches:
    size, side = experiment.recipe.batch_size, experiment.data.pixels
    images = noise(2 * size, side=side, classes=2)
    return Batches(images, batch_size=size, augment=experiment.data.augment, seed=0, device=device)


def _step(engine: Engine, batches: Batches, device: torch.device, iteration: int) -> tuple[float, float]:
    """Seconds of a step, and its loss summed over the batch."""
    engine.loss_sum.zero_()
    wait(device)
    started = time.perf_counter()
    engine.train(batches, iteration, 1e-4)
    wait(device)
    return time.perf_counter() - started, float(engine.loss_sum)


def _place(device: torch.device) -> str:
    capability = f", {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else ""
    return f"{device_name(device)}{capability}, torch {torch.__version__}"


def _kept(
    key: str,
    measure: Callable[[], dict[str, Any]],
    what: str,
    suffices: Callable[[Mapping[str, Any]], bool] = lambda _: True,
) -> str:
    """What was chosen before under a key, if that `suffices`, else what `measure` finds, which is kept and said."""
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):  # processes that begin together decide once
            known = _read(file)
            if key not in known or not suffices(known[key]):
                known[key] = measure()
                replace_text(file, json.dumps(known, indent=2) + "\n")
                _tell(what, known[key], f"kept in {file}")
            elif known[key].get("disturbed"):
                _tell(what, known[key], f"delete {file} to time it again")
            return str(known[key]["chosen"])
    except OSError as error:
        found = measure()
        _tell(what, found, f"not kept: {error}")
        return str(found["chosen"])


def _file() -> Path:
    return platformdirs.user_cache_path("degrade") / "timed.json"


def _tell(what: str, found: Mapping[str, Any], kept: str) -> None:
    if found.get("untimed"):
        return
    gained = (
        f"{found['times_as_fast']:.2f} times as fast as the usual" if found["times_as_fast"] != 1 else "the usual"
    )
    while_busy = ", timed while other work used the CPU" if found.get("disturbed") else ""
    log.info("%s %s: %s, by timing%s (%s)", what, found["chosen"], gained, while_busy, kept)


def _read(file: Path) -> dict[str, Any]:
    """What was timed before; nothing if the file is missing or holds something else."""
    try:
        known = json.loads(file.read_text())
        return {k: v for k, v in known.items() if isinstance(v["times_as_fast"], int | float) and v["chosen"]}
    except (FileNotFoundError, ValueError, AttributeError, TypeError, KeyError):
        return {}
