"""What a run of the command ends with, how tests start processes that import this package, and limits of this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import s3diff


class Outcome(NamedTuple):
    """What a run of the command ends with."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a user's mistake gets."""
        assert self.code in (1, 2)
        assert self.out == ""
        assert self.err.count("\n") == 1, f"one line is wanted: {self.err}"
        assert self.err.endswith("\n")
        assert self.err.startswith("s3diff: ")
        return self.err.rstrip()


Command = Callable[..., Outcome]


def environment(**changes: str) -> dict[str, str]:
    """This process's, with the package that is tested and one thread."""
    return {
        **os.environ,
        "PYTHONPATH": str(Path(s3diff.__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
        "PYTHONUTF8": "1",
        **changes,
    }


def run_python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter that sees the package where this one sees it."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True, check=False
    )


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """No file of this process may grow further: what a write beyond it gets is a real error of the system."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
