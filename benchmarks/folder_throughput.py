"""Many tiny pictures through the folder's run: memory over time, and throughput with and without the journal.

    python benchmarks/folder_throughput.py [--pictures 5000] [--rounds 20] [--json FILE]

What is measured is what stands around the networks: listing, planning, reading, the journal, writing, the flushes. So
the networks are of toy size (random weights, some thousand parameters) and the pictures 4 x 4 px, PNG, four times
as large; on real pictures the networks take nearly all of the time.

Three sides restore the same pictures, with the same flushes of every result: the folder's run with its journal, the
same run without one, and a plain loop that reads, restores and writes one picture after the other. They take turns, a
part of the pictures at a time and in another order each time, so that what else the machine does falls on all of them
alike. The journal stays open and grows over all parts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from s3diff import RestoreOptions, Restorer
from s3diff.folders.journal import Journal
from s3diff.folders.picture_runners import LocalRunner
from s3diff.folders.plan import plan_jobs
from s3diff.folders.run_jobs import run_jobs, select_jobs
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture
from s3diff.options import OutputOptions
from tiny_models import save_compact


def resident_bytes() -> int:
    """Memory of this process as Linux counts it."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def folder_run(
    restorer: Restorer, source: Path, target: Path, options: RestoreOptions, journal: Journal | None
) -> float:
    """Seconds of a folder's run, planning included."""
    started = time.perf_counter()
    plan = plan_jobs([str(source)], f"{target}/")
    pending = select_jobs(plan.jobs, plan.root, journal, skip_existing=False, overwrite=False).pending
    runner = LocalRunner(restorer, options, OutputOptions(), plan.root)
    for outcome in run_jobs(pending, runner, root=plan.root, journal=journal):
        assert outcome.state == "done", outcome.reason
    return time.perf_counter() - started


def plain_loop(restorer: Restorer, source: Path, target: Path, options: RestoreOptions) -> float:
    """Seconds of reading, restoring and writing one after the other."""
    started = time.perf_counter()
    for path in sorted(source.iterdir()):
        write_picture(restorer.restore(read_picture(path), options).picture, target / path.name)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=20, help="parts that the pictures are cut into")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    sides = ("with_journal", "without_journal", "plain_loop")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    memory: list[int] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        save_compact(root / "model")
        pixels = np.random.default_rng(0).integers(0, 256, (given.pictures, 4, 4, 3), dtype=np.uint8)
        for index, each in enumerate(pixels):
            write_picture(Picture(each), root / "in" / f"{index % given.rounds:04}" / f"{index:06}.png")
        restorer = Restorer.from_pretrained(root / "model", device="cpu", precision="float32")
        options = RestoreOptions()
        restorer.restore(Picture(pixels[0]), options)
        load_before = os.getloadavg()[0]
        with Journal(root / ".s3diff-journal.jsonl", {"benchmark": 1}) as journal:
            for turn, source in enumerate(sorted((root / "in").iterdir())):
                for side in (*sides[turn % 3 :], *sides[: turn % 3]):
                    target = root / side / source.name
                    if side == "plain_loop":
                        taken = plain_loop(restorer, source, target, options)
                    else:
                        kept = journal if side == "with_journal" else None
                        taken = folder_run(restorer, source, target, options, kept)
                    seconds[side].append(taken)
                memory.append(resident_bytes())
    totals = {side: sum(values) for side, values in seconds.items()}
    ratios = [on / off for on, off in zip(seconds["with_journal"], seconds["without_journal"], strict=True)]
    figures = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_before": round(load_before, 1),
        "pictures": given.pictures,
        "rounds": given.rounds,
        "pictures_per_second": {side: round(given.pictures / total, 1) for side, total in totals.items()},
        "journal_over_none": round(totals["without_journal"] / totals["with_journal"], 3),
        "journal_over_none_median_of_rounds": round(1 / statistics.median(ratios), 3),
        "run_over_loop": round(totals["plain_loop"] / totals["with_journal"], 3),
        "resident_megabytes": [round(each / 1e6, 1) for each in memory],
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
