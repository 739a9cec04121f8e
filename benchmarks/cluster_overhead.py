"""What a cluster costs: pictures a second and processor seconds a picture of ``cluster restore`` and of ``restore``.

    python benchmarks/cluster_overhead.py --output benchmarks/results/cluster_overhead.json
    python benchmarks/cluster_overhead.py --ways restore one batch --batch 8 --side 32      # what batches bring

Needs the extra cluster, and Linux. In turn, for some rounds, on the same pictures: ``s3diff restore`` with one thread;
two of them at once with half of the pictures each (what the machine gives to two processes); one worker of one thread;
two of them. Measured from one share of the results to another one, so that starting counts in none; processor seconds
are those of every process that the command has started, Ray's own as well.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from figures import show_and_keep
from hardware import machine
from PIL import Image
from ray_environment import set_up_ray

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = [ROOT / "assets" / "photos" / name for name in ("kitten.jpg", "budgerigar.jpg")]
COMMAND = [sys.executable, "-m", "s3diff.apps"]
#: The first and the last result of what is measured, as shares of all: the workers have started, and are not idle yet.
BEGIN, END = 0.25, 0.9
#: Names the processes of one run; children inherit it, and what they detach as well.
MARK = "S3DIFF_BENCHMARK_RUN"
#: Seconds between two looks at the results and the processes; each costs some milliseconds of a core.
_LOOK_SECONDS = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")


def write_pictures(folder: Path, num: int, side: int) -> None:
    """Crops of photographs, of one size."""
    folder.mkdir()
    photos = [Image.open(path).convert("RGB") for path in PHOTOS]
    for index in range(num):
        photo = photos[index % len(photos)]
        left, top = 7 * index % (photo.width - side), 5 * index % (photo.height - side)
        photo.crop((left, top, left + side, top + side)).save(folder / f"{index:04}.png")


def processor_seconds(mark: str, known: dict[str, bool]) -> float:
    """Seconds of all processes of a run that live, and of their children that have ended.

    Args:
        mark: of the run.
        known: for each process whether it is one of them; extended.
    """
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if entry.name not in known:
                    known[entry.name] = f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
                if known[entry.name]:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def run(commands: list[list[Any]], output: Path, num: int) -> dict[str, float]:
    """Run commands at once; return their figures between two shares of their results."""
    mark, samples, known = uuid.uuid4().hex, [], {str(os.getpid()): False}
    environment = {**os.environ, MARK: mark}
    processes = [subprocess.Popen([str(word) for word in command], env=environment) for command in commands]
    started = time.monotonic()
    while any(process.poll() is None for process in processes):
        done = len(list(output.glob("[!.]*.png"))) if output.exists() else 0
        samples.append((done, time.monotonic(), processor_seconds(mark, known)))
        time.sleep(_LOOK_SECONDS)
    if codes := [process.returncode for process in processes if process.returncode]:
        raise SystemExit(f"exit code {codes[0]}")
    first = next(sample for sample in samples if sample[0] >= BEGIN * num)
    last = next((sample for sample in samples if sample[0] >= END * num), samples[-1])
    count, seconds, processor = (b - a for a, b in zip(first, last, strict=True))
    return {
        "pictures_per_second": count / seconds,
        "processor_seconds_per_picture": processor / count,
        "seconds_in_all": time.monotonic() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=120)
    parser.add_argument("--side", type=int, default=64, help="of each picture, px")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--batch", type=int, default=8, help="of the way batch")
    parser.add_argument(
        "--ways",
        nargs="+",
        default=["restore", "halves", "one", "two"],
        choices=["restore", "halves", "one", "two", "batch"],
    )
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    set_up_ray()
    import torch

    torch.set_num_threads(1)
    described = machine(torch.device("cpu"))
    shared = ["-m", given.model, "--device", "cpu", "-q"]
    on_ray = ["--cpus-per-worker", 1, "--local-cpus", 2]
    ways = {
        "restore": [["restore", *shared]],
        "halves": [["restore", *shared, "--shard", "0/2"], ["restore", *shared, "--shard", "1/2"]],
        "one": [["cluster", "restore", *shared, *on_ray, "--workers", 1]],
        "two": [["cluster", "restore", *shared, *on_ray, "--workers", 2]],
        "batch": [["cluster", "restore", *shared, *on_ray, "--workers", 1, "--batch", given.batch]],
    }
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in given.ways}
    with tempfile.TemporaryDirectory(prefix="s3diff-overhead-") as scratch:
        write_pictures(Path(scratch, "in"), given.pictures, given.side)
        expected = None
        for index in range(given.rounds):
            for way in given.ways:
                output = Path(scratch, f"{way}-{index}")
                commands = [[*COMMAND, *words, Path(scratch, "in"), "-o", output] for words in ways[way]]
                rounds[way].append(run(commands, output, given.pictures))
                print(way, rounds[way][-1], file=sys.stderr)
                found = {path.name: path.read_bytes() for path in output.glob("[!.]*.png")}
                expected = expected or found
                if found != expected:
                    raise SystemExit(f"{way} gives other bytes")
    median = {
        way: {name: statistics.median(each[name] for each in taken) for name in taken[0]}
        for way, taken in rounds.items()
    }
    report: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/cluster_overhead.py", *sys.argv[1:]]),
        "machine": described,
        "load": os.getloadavg(),
        "pictures": given.pictures,
        "side_px": given.side,
        "rounds": given.rounds,
        "median": {way: {name: round(value, 4) for name, value in each.items()} for way, each in median.items()},
    }
    for name, base in (("one", "restore"), ("halves", "restore"), ("two", "one"), ("batch", "one")):
        if name in median and base in median:
            speeds, seconds = (
                [median[way][figure] for way in (name, base)]
                for figure in ("pictures_per_second", "processor_seconds_per_picture")
            )
            workers = 2 if name in ("two", "halves") else 1
            report[f"{name}_over_{base}"] = {
                "by_the_clock": round(speeds[0] / speeds[1], 3),
                "by_processor_time": round(workers * seconds[1] / seconds[0], 3),
            }
    report["every_round"] = rounds
    show_and_keep(report, given.output)


if __name__ == "__main__":
    main()
