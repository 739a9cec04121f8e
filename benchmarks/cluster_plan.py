"""What the process that leads a cluster's run does for many pictures: plan, tasks on Ray, manifest, second plan.

    python benchmarks/cluster_plan.py 1000000 --output benchmarks/results/cluster_plan.json
    python benchmarks/cluster_plan.py 1000000 --no-ray       # the tasks' rows are made by the process itself

Names stand for pictures, and workers that only write a row for each of them for those that restore; the store of the
output lies in memory. Prints seconds and the peak of the process's memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from figures import show_and_keep
from ray_environment import set_up_ray

from s3diff.folders.manifest import Manifest, run_id
from s3diff.folders.store_plan import StoreJob, leave_out_done, plan_store_jobs
from s3diff.folders.store_worker import TaskResult, WorkerOptions
from s3diff.folders.stores import Entry

ROWS_PER_TASK, WORKERS = 32, 2
RUN = {"model": "stub", "options": {}}
#: Seconds are told for so many rows.
STEP = 100_000


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


def stub_task(jobs: Sequence[StoreJob]) -> TaskResult:
    """Make the rows of a task as a worker would."""
    return TaskResult(
        [
            {
                "state": "done", "source": job.source, "target": job.target, "stamp": job.stamp, "width": 4000,
                "height": 3000, "blur": 0.4211, "noise": 0.1234, "seconds": 6.1234, "bytes": 4123456,
                "sha256": "0" * 64,
            }
            for job in jobs
        ],
        None,
    )  # fmt: skip


def run_here(jobs: Sequence[StoreJob]) -> Iterator[TaskResult]:
    """Yield the results of all tasks without Ray."""
    for start in range(0, len(jobs), ROWS_PER_TASK):
        yield stub_task(jobs[start : start + ROWS_PER_TASK])


def run_on_ray(jobs: Sequence[StoreJob]) -> Iterator[TaskResult]:
    """Yield the results of all tasks as a run on a cluster does, from a Ray of this machine."""
    from s3diff.integrations.ray.cluster import Workers, connected
    from s3diff.integrations.ray.run import run_tasks

    options = WorkerOptions(output="memory", run=RUN, run_id="stub")
    with connected(cpus=WORKERS):
        yield from run_tasks(
            jobs, options, Workers(WORKERS, 1, 0), rows_per_task=ROWS_PER_TASK, load=lambda options: stub_task
        )


def follow(
    results: Iterable[TaskResult], manifest: Manifest, store: MemoryStore, figures: dict[str, float | list[float]]
) -> None:
    """Write the manifest of a run, and note the seconds of every 100,000 rows and the memory after them."""
    seconds, memory, num, started = [], [], 0, time.perf_counter()
    for result in results:
        manifest.add(result.rows, result.flight)
        for row in result.rows:
            store.write(str(row["target"]), b"", replace=True)
        num += len(result.rows)
        if num >= STEP * (len(seconds) + 1):
            now = time.perf_counter()
            seconds.append(round(now - started, 1))
            memory.append(round(peak_mib(), 1))
            started = now
            print(f"{num} rows, {seconds[-1]} s, {memory[-1]} MiB", file=sys.stderr)
    manifest.flush()
    figures |= {"seconds_of_each_100000": seconds, "mib_after_each_100000": memory}


def measure(num: int, *, on_ray: bool) -> dict[str, float | list[float]]:
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
    follow(run_on_ray(plan.jobs) if on_ray else run_here(plan.jobs), manifest, store, figures)
    figures["tasks_seconds"] = round(time.perf_counter() - started, 2)
    figures["tasks_mib"] = round(peak_mib(), 1)
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
    parser.add_argument("--ray", action=argparse.BooleanOptionalAction, default=True, help="run the tasks on Ray")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    set_up_ray()
    report = {
        "command": " ".join(["python", "benchmarks/cluster_plan.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        **measure(given.pictures, on_ray=given.ray),
        "load": os.getloadavg(),
    }
    show_and_keep(report, given.output)


if __name__ == "__main__":
    main()
