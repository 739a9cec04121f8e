"""Set up the environment of a Ray that a benchmark starts; its processes inherit it."""

from __future__ import annotations

import os
from pathlib import Path

_SOURCES = Path(__file__).resolve().parent.parent / "src"


def set_up_ray(**more: str) -> None:
    """Run workers at the benchmark's own priority, with one thread, on this tree's sources, and without statistics."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(_SOURCES),
        **more,
    }
