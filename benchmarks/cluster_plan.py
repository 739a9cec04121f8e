"""What the process that leads a cluster's run does for many pictures, without the cluster: plan, manifest, second plan.

    python benchmarks/cluster_plan.py 1000000 --output benchmarks/results/cluster_plan.json

Names stand for pictures; the store of the output lies in memory. Prints seconds and the peak of the process's memory.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from figures import show_and_keep

from s3diff.folders.manifest import Manifest, run_id
from s3diff.folders.store_plan import leave_out_done, plan_store_jobs
from s3diff.folders.stores import Entry

ROWS_PER_TASK = 32
RUN = {"model": "stub", "options": {}}


class MemoryStore:
    """Objects of a run in a dict; results are names without content."""

    name = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def entries(self, folder: str = "") -> Iterator[Entry]:
        return (Entry(key, "1") for key in list(self.objects) if key.startswith(folder))

    def find(self, key: str) -> Entry | None:
        return Entry(key, "1") if key in self.objects else None

    def read(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def write(self, key: str, data: bytes | Path, *, replace: bool) -> None:
        self.objects[key] = data if isinstance(data, bytes) else data.read_bytes()

    def remove(self, key: str) -> None:
        self.objects.pop(key, None)

    def local_path(self, key: str) -> None:
        return None

    def address(self, key: str) -> str:
        return f"{self.name}/{key}"


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(num: int) -> dict[str, float]:
    store, figures = MemoryStore(), {"pictures": num, "start_mib": round(peak_mib(), 1)}
    names = [f"s3://archive/scans/{index // 1000:05d}/scan_{index:08d}.jpg" for index in range(num)]
    figures["names_mib"] = round(peak_mib(), 1)

    started = time.perf_counter()
    plan = plan_store_jobs([], store, listed=names)
    manifest = Manifest(store, RUN, run_id())
    leave_out_done(plan, store, manifest)
    figures["plan_seconds"] = round(time.perf_counter() - started, 2)
    figures["plan_mib"] = round(peak_mib(), 1)

    started = time.perf_counter()
    for start in range(0, num, ROWS_PER_TASK):
        rows = [
            {
                "state": "done", "source": job.source, "target": job.target, "stamp": job.stamp, "width": 4000,
                "height": 3000, "blur": 0.4211, "noise": 0.1234, "seconds": 6.1234, "bytes": 4123456,
                "sha256": "0" * 64,
            }
            for job in plan.jobs[start : start + ROWS_PER_TASK]
        ]  # fmt: skip
        manifest.add(rows)
        for row in rows:
            store.write(str(row["target"]), b"", replace=True)
    manifest.flush()
    figures["manifest_seconds"] = round(time.perf_counter() - started, 2)
    figures["manifest_mib"] = round(peak_mib(), 1)
    parts = [len(data) for key, data in store.objects.items() if "-part-" in key]
    figures |= {"parts": len(parts), "part_bytes_per_picture": round(sum(parts) / num, 1)}

    started = time.perf_counter()
    again = plan_store_jobs([], store, listed=names)
    leave_out_done(again, store, Manifest(store, RUN, run_id()))
    figures["second_plan_seconds"] = round(time.perf_counter() - started, 2)
    assert (again.jobs, again.skipped) == ([], {"done by an earlier run": num})
    return {**figures, "peak_mib": round(peak_mib(), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    report = {"machine": f"{platform.machine()}, Python {platform.python_version()}", **measure(given.pictures)}
    show_and_keep(report, given.output)


if __name__ == "__main__":
    main()
