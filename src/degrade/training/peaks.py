"""How fast a device is at best, at matrix products and at copying, and how fast at any work that is done in steps."""

import time
from collections.abc import Callable

import torch


def gemm_peak(device: torch.device, precision: str) -> float:
    """Multiply-adds per second of a square matrix product, the best of some, which no convolution exceeds."""
    size = 2048 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return size**3 / _shortest(lambda: a @ b, device)


def copy_peak(device: torch.device) -> float:
    """Bytes per second that copying a block of 256 MiB reads and writes, the best of some."""
    size = 1 << 28
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / _shortest(lambda: target.copy_(source), device)


def rate(step: Callable[[], float], device: torch.device, seconds: float, *, least: int = 1) -> float:
    """How much work is done per second, by steps that each return how much they did, such as a number of images.

    After `seconds` no further step begins, but `least` are made in any case. The device is waited for at the end,
    since it may lag behind.
    """
    counted, steps = 0.0, 0
    started = time.perf_counter()
    while steps < least or time.perf_counter() - started < seconds:
        counted += step()
        steps += 1
    wait(device)
    return counted / (time.perf_counter() - started)


def _shortest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest call, the first excepted, in which the device warms up."""
    times = []
    for _ in range(1 + 5):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
