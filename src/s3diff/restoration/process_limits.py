"""Fit this process to its machine: name its processor, count the CPUs that it may use, keep freed memory."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


#: Turns that a thread of OpenMP waits busily for the others before it sleeps: tens of microseconds. By default libgomp
#: waits for milliseconds, which costs a machine that others use as well most of its time.
_SPIN_TURNS = "10000"


def let_threads_sleep() -> None:
    """Have torch's threads wait for each other asleep, unless the environment says how.

    To be called before torch is imported: libgomp, on Linux, reads it once, when it is loaded; others do not.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_TURNS)


class Processor(NamedTuple):
    """What a processor is called, and its sets of instructions, as far as the system tells."""

    name: str
    instructions: tuple[str, ...]


def processor(described: Path = _CPUINFO) -> Processor:
    """Return the processor of this machine.

    Args:
        described: Linux's file about it.
    """
    try:
        lines = described.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return Processor(_name_elsewhere(), ())
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    numbers = [found[key] for key in ("CPU implementer", "CPU part") if key in found]  # ARM has no name
    instructions = (found.get("flags") or found.get("Features") or "").split()
    return Processor(found.get("model name") or " ".join([_name_elsewhere(), *numbers]), tuple(sorted(instructions)))


def processor_and_threads() -> str:
    """Name what decides the speed on a CPU, so that machines that share a folder keep their own measurements."""
    import torch

    name, instructions = processor()
    digest = hashlib.sha256(" ".join(instructions).encode()).hexdigest()[:12]
    return f"{name} {digest} {torch.get_num_threads()} threads"


def _name_elsewhere() -> str:
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    return platform.processor() or platform.machine()


def granted_cpus() -> int:
    """Count the CPUs that this process may use: at least 1.

    The least of the CPUs that it may run on (affinity, cpusets), of the CPU quotas of its control groups (Docker
    ``--cpus``, a Kubernetes limit, systemd's ``CPUQuota``), rounded down, and of ``SLURM_CPUS_PER_TASK``.
    """
    limits = [float(_usable_cpus()), *cpu_quotas()]
    with suppress(KeyError, ValueError):
        limits.append(float(os.environ["SLURM_CPUS_PER_TASK"]))
    return max(1, int(min(limits)))


def set_threads(number: int | None) -> None:
    """Set torch's number of threads; None for :func:`granted_cpus`, unless ``OMP_NUM_THREADS`` is set."""
    import torch

    if number is not None:
        torch.set_num_threads(number)
    elif "OMP_NUM_THREADS" not in os.environ and granted_cpus() < torch.get_num_threads():
        torch.set_num_threads(granted_cpus())


def cpu_quotas(mounted: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> list[float]:
    """List the CPU quotas, in CPUs, of this process's control groups, of version 1 and 2.

    Args:
        mounted: where control groups are mounted.
        own: the file that names the process's groups.
    """
    quotas = []
    for folder in _groups(mounted, own):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()  # version 2
            quotas.append(float(quota) / float(period))  # "max", no quota, is no number
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            quotas += [float(quota) / float(period)] if float(quota) > 0 else []  # -1 is no quota
    return quotas


def _groups(mounted: Path, own: Path) -> Iterator[Path]:
    """Return the folders of the process's control groups and of all their parents.

    In a container the file may name the group as the host sees it, while only the container's part is mounted.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 1 is mounted under the names of its controllers, or of one of them.
        for root in dict.fromkeys((mounted / controllers, mounted / "cpu") if controllers else (mounted,)):
            path = root / group.lstrip("/")
            yield from dict.fromkeys((path, *(each for each in path.parents if each.is_relative_to(root)), root))


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


#: Parameters of ``mallopt``: free memory at the heap's end that is kept; the size of blocks that lie outside of it; the
#: number of heaps, of which all but the first cannot hold large blocks.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _NUM_HEAPS = -1, -3, -8
#: Memory that is kept, and the largest block for which that holds: above a feature map of a picture restored at once.
_KEPT_BYTES, _LARGEST_KEPT_BLOCK = 2**30, 2**28
#: The environment's own choices, which stay.
_CHOSEN_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


class _Usage(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for the next layer, unless the environment says how; for programs.

    By default glibc gives every larger block back to the system when it is freed, and the next layer's memory comes
    page by page, each cleared by the system: a sixth of a restoration's CPU time. Only glibc (Linux) is changed.

    Returns:
        Whether the C library was told.
    """
    libc = _glibc()
    if libc is None or any(name in os.environ for name in _CHOSEN_BY):
        return False
    told = ((_NUM_HEAPS, 1), (_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK), (_TRIM_THRESHOLD, _KEPT_BYTES))
    return min(libc.mallopt(parameter, value) for parameter, value in told) == 1


def kept_bytes() -> int:
    """Count the memory that was freed and is kept: it serves the next allocations."""
    libc = _glibc()
    return 0 if libc is None else int(libc.mallinfo2().fordblks)


def give_back() -> None:
    """Give the kept memory back to the system."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    """Return the C library if it is a glibc that has all of this (2.33); otherwise None."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    if not all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallinfo2")):
        return None
    libc.mallinfo2.restype = _Usage
    return libc
