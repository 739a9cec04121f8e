"""The machine under a benchmark: what it is, what it reaches at most, and the memory a run took."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from s3diff.restoration.process_limits import processor

#: Sides of the large matrix product, and of the 3x3 convolution's picture with its channels: large enough for every
#: device to reach what it can, and no more than a second on two cores.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
CONVOLUTION_SIDE, CONVOLUTION_CHANNELS = {"cpu": 64, "cuda": 256}, 512
PEAK_RUNS = 5


def machine(device: torch.device) -> dict[str, Any]:
    """What ran: processor, cores and threads, system, versions, device, and how busy the machine was before."""
    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "date": time.strftime("%Y-%m-%d"),
    }
    if hasattr(os, "getloadavg"):
        described["load_before"] = round(os.getloadavg()[0], 1)
    return described


def _processor() -> str:
    """The processor's name, with the vector instructions that half precision depends on."""
    name, instructions = processor()
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
    return " ".join([name, *(each for each in known if each in instructions)])


@torch.inference_mode()
def peak_tflops(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """TFLOP/s of a large matrix product and of a large convolution in this number format; the best of a few runs."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    side, px, channels = MATRIX_SIDE[kind], CONVOLUTION_SIDE[kind], CONVOLUTION_CHANNELS
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    image = torch.randn(1, channels, px, px, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return {
        "matrix": 2 * side**3 / _best_seconds(lambda: left @ right, device) / 1e12,
        "convolution": 2
        * 9
        * channels**2
        * px**2
        / _best_seconds(lambda: F.conv2d(image, weight, padding=1), device)
        / 1e12,
    }


def _best_seconds(compute: Callable[[], Any], device: torch.device) -> float:
    seconds = []
    for _ in range(1 + PEAK_RUNS):
        started = time.perf_counter()
        compute()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def forget_peak_memory(device: torch.device) -> None:
    """Start measuring anew, where the system can: CUDA, and processes on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return


def peak_memory_gib(device: torch.device) -> float | None:
    """GiB since :func:`forget_peak_memory`: CUDA's allocations, else the process's resident memory, weights included.

    None where nobody counts it (outside Linux, resident memory is that of the whole process's life).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        status = Path("/proc/self/status").read_text("utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 2**20
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**30 if platform.system() == "Darwin" else 2**20)
