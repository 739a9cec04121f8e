"""Run the tests in processes, say where test data lies, and define the fixtures that several files share."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

# A shell's background job ignores Ctrl-C, and so would every command that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDENS = Path(__file__).resolve().parent / "goldens"
#: What one process of the whole suite takes at its peak, with its share of what the tests start, and a margin.
PROCESS_BYTES = 3 * 2**30


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run a whole folder of tests in several processes; ``-n`` decides otherwise, and what is named runs right here.

    A process starts with some seconds of imports, too many for one file or a handful of tests.
    """
    option = config.option
    if not hasattr(option, "numprocesses"):  # no pytest-xdist: one process, and every test passes there as well
        return
    if option.numprocesses is None:
        names_tests = option.keyword or not all(Path(argument).is_dir() for argument in config.args)
        alone = names_tests or option.usepdb or option.collectonly or option.capture == "no"
        option.numprocesses = 0 if alone else num_processes()
    if option.numprocesses and option.dist == "no":
        option.dist = "worksteal"  # neighbours stay together, with the fixtures that they share, until one runs dry
    if option.numprocesses:
        # Each process computes on one core; two threads each would only take turns. What they start inherits it.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def num_processes() -> int:
    """As many processes as there are cores to use and memory to hold them; 0, no other process, when that is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_bytes = free_memory_bytes()
    if memory_bytes is not None:
        cores = min(cores, memory_bytes // PROCESS_BYTES)
    return cores if cores > 1 else 0


def free_memory_bytes() -> int | None:
    """Memory that Linux would hand out, elsewhere all that the machine has; None where the system does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def goldens_path(name: str) -> Path:
    """A golden file or folder inside the repository; its absence is a failure, never a skip."""
    path = GOLDENS / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing from the clone; goldens are committed files")
    return path


def shared_path(name: str) -> Path:
    """Data that lies beside the project (``../shared``); the test is skipped, with the reason, where it does not."""
    root = Path(os.environ.get("S3DIFF_SHARED", REPOSITORY.parent / "shared"))
    path = root / name
    if not path.exists():
        pytest.skip(f"needs {name} beside the project (../shared), which is not part of a clone")
    return path
