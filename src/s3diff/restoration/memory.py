"""Measure a device's free memory; repeat work with smaller tiles when memory runs out."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from s3diff.errors import PictureError
from s3diff.restoration.process_limits import give_back, kept_bytes

if TYPE_CHECKING:
    from s3diff.restoration.device_model import DeviceModel
    from s3diff.restoration.tile_plan import TilePlan

Outcome = TypeVar("Outcome")

#: Messages of torch's allocators; only CUDA's has its own exception type.
_OUT_OF_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory|ALLOC_FAILED", re.IGNORECASE)
#: Assumed free memory if the system reports none.
_UNKNOWN_BYTES = 4 * 2**30
_CGROUP = Path("/sys/fs/cgroup")


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))
    )


def free_bytes(device: torch.device) -> int:
    """Measure about how much more memory this process can use on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    system_free = _windows_free() if sys.platform == "win32" else _linux_free()
    return _UNKNOWN_BYTES if system_free is None else system_free + kept_bytes()


def free_cached(device: torch.device) -> None:
    """Give back the free memory that the device's allocator keeps."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    else:
        give_back()


def attempt(
    work: Callable[[TilePlan, tuple[str, ...]], Outcome], plan: TilePlan, model: DeviceModel, failure: str
) -> Outcome:
    """Run ``work`` under a plan, and under the next smaller plan whenever memory runs out.

    Args:
        work: called with the plan and the notes for its result.
        model: the cached memory of its device is freed before the next try.
        failure: message for the case that even the smallest tiles need more memory.

    Raises:
        PictureError: ``failure``.
    """
    notes: tuple[str, ...] = ()
    smaller: TilePlan | None = plan
    while smaller is not None:
        try:
            return work(smaller, notes)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler: the error holds the frames, and they hold the memory.
        free_cached(model.device)
        smaller = smaller.smaller()
        notes = () if smaller is None else (f"memory ran out; restored in tiles of {smaller.tile_px} px",)
    raise PictureError(failure)


def _linux_free() -> int | None:
    """Return the smaller of the system's and the control group's free memory; None on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kibibytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    if not kibibytes:
        return None
    free = kibibytes[0] * 1024
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
            # Cached files count as used there, and are dropped when memory is needed.
            fields = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
            free = min(free, max(0, int(limit) - used + int(fields.get("file", 0))))
    except (OSError, ValueError):
        pass
    return free


def _windows_free() -> int | None:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "page", "page_free", "virtual", "virtual_free")),
            ("extended", ctypes.c_ulonglong),
        )

    status = Status(length=ctypes.sizeof(Status))
    known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.free) if known else None
