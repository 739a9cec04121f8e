"""The C library keeps freed memory for the command, counts it as free, and gives it back when memory runs out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from s3diff.restoration import memory, process_limits

pytestmark = pytest.mark.skipif(process_limits._glibc() is None, reason="the C library is no glibc 2.33 or later")

#: Allocates and frees 48 MiB again and again, in the main thread and in another one; prints what happened.
PROGRAM = """
import json, resource, sys, threading
from s3diff.restoration import process_limits
import torch
told = process_limits.keep_freed_memory() if sys.argv[1] == "keep" else None
def work():
    for _ in range(12):
        torch.ones(3 * 2**22)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(6):
        torch.ones(3 * 2**22)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults = []
work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
kept, before = process_limits.kept_bytes(), resident()
process_limits.give_back()
print(json.dumps({"told": told, "faults": faults, "kept": kept, "resident": [before, resident()]}))
"""


def run(*arguments: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_freed_memory_is_kept() -> None:
    kept, usual = run("keep"), run("usual")
    print(kept, usual)
    assert kept["told"]
    assert max(kept["faults"]) < min(usual["faults"]) / 10
    assert kept["kept"] > 3 * 2**24 > usual["kept"]
    assert kept["resident"][1] < kept["resident"][0] - 2**25


def test_the_environment_decides() -> None:
    assert not run("keep", MALLOC_TRIM_THRESHOLD_="131072")["told"]


def test_kept_memory_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "_linux_free", lambda: 1000)
    monkeypatch.setattr(memory, "kept_bytes", lambda: 24)
    assert memory.free_bytes(cpu) == 1024
