"""Which device a network trains on, in which precision, and by which engine.

What has to be timed is timed once for each device and version of PyTorch, and kept in the user's cache directory, so
that the same command means the same on every day and in every process of a matrix.
"""

import functools
import json
import logging
import platform
import time
from pathlib import Path
from typing import Any

import platformdirs
import torch
from filelock import FileLock

from degrade.errors import ConfigError
from degrade.files import replace_text
from degrade.training.peaks import gemm_peak

log = logging.getLogger("degrade.training")

#: A run of at least this many iterations is compiled on CUDA. This is a guess, which is not measured yet.
COMPILING_PAYS = 5_000

#: A CPU trains in bf16 if it multiplies matrices in it this many times as fast as in fp32. This is a guess: autocast
#: also costs time, so 1 is too little; the CPU in outputs/reference/bench is at 0.5.
BF16_PAYS = 1.5

#: A timing counts as undisturbed if the timed thread had the CPU for this share of the time.
UNDISTURBED = 0.9


def choose_device(name: str) -> torch.device:
    """The device that `runtime.device` names.

    Raises:
        ConfigError: there is no such device.
    """
    count = torch.cuda.device_count() if name != "cpu" else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        has = f"this machine has {count} CUDA devices" if count else "PyTorch sees no CUDA device on this machine"
        raise ConfigError(f"runtime.device={name}: {has}; use auto or cpu")
    return torch.device("cuda", 0) if name == "cuda" else device


def device_name(device: torch.device) -> str:
    """The model name of a GPU or of the CPU."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return models[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16, fast or not."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # PyTorch calls bf16 "supported" on AVX2 as well, where it is emulated and 12 times slower than fp32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_precision(name: str, device: torch.device, *, before: str | None = None) -> str:
    """`fp32` or `bf16`: what `runtime.precision` asks for.

    `auto` is the precision that the run was begun in; for a new run it is bf16 where the device is fast at it.

    Args:
        name: `fp32`, `bf16` or `auto`.
        device: where the network trains.
        before: the precision of the run's last session; None for a new run.
    """
    if name != "auto":
        return name
    if before == "fp32" or not has_bf16(device):
        return "fp32"
    return "bf16" if before == "bf16" or device.type == "cuda" or _cpu_is_fast_at_bf16() else "fp32"


@functools.cache
def _cpu_is_fast_at_bf16() -> bool:
    """Whether bf16 pays, which is timed once, since some CPUs have it and are slower with it (docs/speed.md)."""
    key = f"{device_name(torch.device('cpu'))}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    file = platformdirs.user_cache_path("degrade") / "precision.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):  # processes that begin together decide once
            known = _read(file)
            if key not in known:
                known[key] = _timed()
                replace_text(file, json.dumps(known, indent=2) + "\n")
                _tell(known[key], kept=f"kept in {file}")
            elif known[key].get("disturbed"):
                _tell(known[key], kept=f"delete {file} to time it again")
            return _pays(known[key])
    except OSError as error:
        timed = _timed()
        _tell(timed, kept=f"not kept: {error}")
        return _pays(timed)


def _timed() -> dict[str, Any]:
    """How many times as fast as in fp32 this CPU multiplies matrices in bf16, and whether other work disturbed that.

    One thread takes the two precisions in turn, so that what disturbs one disturbs the other.
    """
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    best = {"fp32": 0.0, "bf16": 0.0}
    torch.set_num_threads(1)
    try:
        wall, own = time.perf_counter(), time.thread_time()
        for _ in range(5):
            for precision in best:
                best[precision] = max(best[precision], gemm_peak(cpu, precision, size=1024, repeats=1))
        wall, own = time.perf_counter() - wall, time.thread_time() - own
    finally:
        torch.set_num_threads(threads)
    return {"times_as_fast": round(best["bf16"] / best["fp32"], 2), "disturbed": own < UNDISTURBED * wall}


def _pays(timed: dict[str, Any]) -> bool:
    return float(timed["times_as_fast"]) >= BF16_PAYS


def _tell(timed: dict[str, Any], *, kept: str) -> None:
    chosen = "bf16" if _pays(timed) else "fp32"
    while_busy = ", timed while other work used the CPU" if timed.get("disturbed") else ""
    log.info(
        "precision %s: this CPU multiplies matrices in bf16 at %.2f times its speed in fp32%s (%s)",
        chosen,
        timed["times_as_fast"],
        while_busy,
        kept,
    )


def _read(file: Path) -> dict[str, Any]:
    """What was timed before; nothing if the file is missing or holds something else."""
    try:
        known = json.loads(file.read_text())
        return {key: timed for key, timed in known.items() if isinstance(timed["times_as_fast"], int | float)}
    except (FileNotFoundError, ValueError, AttributeError, TypeError, KeyError):
        return {}


def choose_engine(name: str, device: torch.device, iterations: int) -> str:
    """`eager`, `compiled`, `graph` or `compiled-graph`: what `runtime.engine` asks for, or what pays there.

    Compiling must earn back its time. On the CPUs measured (outputs/reference/bench) it gained 1 to 9 %, within the
    noise, and it needs a C++ compiler there. For CUDA the rule is a guess until scripts/gpu-check has run: a graph
    always, compiled in long runs.

    Raises:
        ConfigError: a graph is asked for, and the device is not a CUDA device.
    """
    if device.type != "cuda":
        if name.endswith("graph"):
            raise ConfigError(f"runtime.engine={name}: a CUDA graph needs a CUDA device; use auto, eager or compiled")
        return "eager" if name == "auto" else name
    if name == "auto":
        return "compiled-graph" if iterations >= COMPILING_PAYS else "graph"
    return name
