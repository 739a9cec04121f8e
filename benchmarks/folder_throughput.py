"""Many tiny pictures through the folder's run: memory over time, and throughput against a plain loop without journal.

    python benchmarks/folder_throughput.py [--pictures 5000] [--json FILE]

What is measured is what stands around the networks: listing, planning, reading, the journal, writing, the flushes. So
the networks are of toy size (random weights, some thousand parameters) and the pictures 4 x 4 px, PNG, four times
as large; on real pictures the networks take nearly all of the time. The plain loop reads,
restores and writes one picture after the other in the same process, with the same flushes of every result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from s3diff import RestoreOptions, Restorer
from s3diff.apps.journal import Journal
from s3diff.apps.restore_jobs import plan_jobs
from s3diff.apps.restore_run import LocalWay, run_jobs, select_jobs
from s3diff.images.codecs import Picture, read_picture, write_picture
from s3diff.options import OutputOptions
from tiny_models import save_compact

#: Memory is noted so often over the run.
SAMPLES = 10


def resident_bytes() -> int:
    """Memory of this process as Linux counts it."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def folder_run(restorer: Restorer, source: Path, target: Path, options: RestoreOptions) -> tuple[float, list[int]]:
    """Seconds of a folder's run, planning included, and the memory along it."""
    started, memory = time.perf_counter(), []
    plan = plan_jobs([str(source)], f"{target}/")
    with Journal(target / ".s3diff-journal.jsonl", {"benchmark": 1}) as journal:
        pending = select_jobs(plan.jobs, plan.root, journal, skip_existing=False, overwrite=False).pending
        outcomes = run_jobs(
            pending, LocalWay(restorer, options, OutputOptions(), plan.root), root=plan.root, journal=journal
        )
        for done, outcome in enumerate(outcomes, 1):
            assert outcome.state == "done", outcome.reason
            if done % max(1, len(pending) // SAMPLES) == 0:
                memory.append(resident_bytes())
    return time.perf_counter() - started, memory


def plain_loop(restorer: Restorer, source: Path, target: Path, options: RestoreOptions) -> float:
    """Seconds of reading, restoring and writing one after the other."""
    started = time.perf_counter()
    for path in sorted(source.iterdir()):
        write_picture(restorer.restore(read_picture(path), options).picture, target / path.name)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        save_compact(root / "model")
        (root / "in").mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (given.pictures, 4, 4, 3), dtype=np.uint8)
        for index, each in enumerate(pixels):
            write_picture(Picture(each), root / "in" / f"{index:06}.png")
        restorer = Restorer.from_pretrained(root / "model", device="cpu", precision="float32")
        options = RestoreOptions()
        restorer.restore(Picture(pixels[0]), options)
        loop_seconds = plain_loop(restorer, root / "in", root / "plain", options)
        run_seconds, memory = folder_run(restorer, root / "in", root / "run", options)
    megabytes = [round(each / 1e6, 1) for each in memory]
    figures = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "pictures": given.pictures,
        "plain_loop_seconds": round(loop_seconds, 1),
        "folder_run_seconds": round(run_seconds, 1),
        "run_over_loop": round(run_seconds / loop_seconds, 3),
        "resident_megabytes": megabytes,
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
