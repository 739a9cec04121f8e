"""Have the C library keep freed memory for the next layer, and count what it keeps.

By default glibc gives every larger block back to the system when it is freed, and the next layer's memory comes page by
page, each cleared by the system: a sixth of a restoration's CPU time. Only glibc (Linux) is changed and asked.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

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
    """Let this process keep freed memory, unless the environment says how; for programs, not for libraries.

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
