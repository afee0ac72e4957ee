"""Which device a network trains on, and by which engine unless timing says otherwise."""

import platform
from pathlib import Path

import torch

from degrade.errors import ConfigError
from degrade.training.optimizers import CAPTURABLE

#: A run of at least this many iterations is compiled on CUDA. This is a guess, which is not measured yet.
COMPILING_PAYS = 5_000

#: What stands in for a compiled engine where compiling would take too long.
UNCOMPILED = {"compiled": "eager", "compiled-graph": "graph"}


def choose_device(name: str) -> torch.device:
    """The device that `runtime.device` names.

    Raises:
        ConfigError: there is no such device.
    """
    count = torch.cuda.device_count() if name != "cpu" else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"runtime.device={name}: PyTorch sees no Apple GPU on this machine; use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= count:
        has = f"this machine has {count} CUDA devices" if count else "PyTorch sees no CUDA device on this machine"
        raise ConfigError(f"runtime.device={name}: {has}; use auto or cpu")
    return torch.device("cuda", 0) if name == "cuda" else device


def device_name(device: torch.device) -> str:
    """The model of a GPU or of the CPU."""
    if device.type == "mps":
        return "Apple GPU, not verified"
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


def choose_engine(name: str, device: torch.device, iterations: int, *, optimizer: str = "sgd") -> str:
    """`eager`, `compiled`, `graph` or `compiled-graph`: what `runtime.engine` asks for, or what pays there.

    Compiling must earn back its time. On the CPUs measured it made steps 0.97 to 1.15 times as fast (docs/speed.md),
    and it needs a C++ compiler there. For CUDA the rule is a guess until scripts/gpu-check has run: a graph
    always, compiled in long runs.

    Raises:
        ConfigError: a graph is asked for, and the device is no CUDA device, or no graph can hold the `optimizer`; or
            anything but eager on an Apple GPU.
    """
    if device.type == "mps" and name not in ("auto", "eager"):
        raise ConfigError(f"runtime.engine={name}: an Apple GPU trains by the eager engine; use auto or eager")
    if device.type != "cuda":
        if name.endswith("graph"):
            raise ConfigError(f"runtime.engine={name}: a CUDA graph needs a CUDA device; use auto, eager or compiled")
        return "eager" if name == "auto" else name
    if name.endswith("graph") and optimizer not in CAPTURABLE:
        raise ConfigError(
            f"runtime.engine={name}: CUDA graphs hold the steps of {' and '.join(CAPTURABLE)}, not of "
            f"optim.name={optimizer}; use auto, eager or compiled"
        )
    if name == "auto":
        usual = "compiled-graph" if iterations >= COMPILING_PAYS else "graph"
        plain = {"compiled-graph": "compiled", "graph": "eager"}
        return usual if optimizer in CAPTURABLE else plain[usual]
    return name
