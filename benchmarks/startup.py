"""Wall-clock seconds of whole processes: the help, and one restoration with the embedded model; and of what a process
that restores consists of: imports, loading, the first picture and the second.

    python benchmarks/startup.py [PICTURE] [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds_of(arguments: list[str], runs: int) -> list[float]:
    """Sorted wall-clock seconds of so many runs of ``s3diff ARGUMENTS``."""
    found = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "s3diff.apps.cli", *arguments], check=True, capture_output=True)
        found.append(time.perf_counter() - started)
    return sorted(found)


#: What a new process runs; it prints its steps' wall-clock seconds and those of the processor as JSON.
_STEPS = """
import json, sys, time
steps, before = {}, (time.perf_counter(), time.process_time())
def done(step):
    global before
    now = time.perf_counter(), time.process_time()
    steps[step] = [end - start for end, start in zip(now, before)]
    before = now
from s3diff.restoration.restorer import Restorer
done("import")
restorer = Restorer.from_pretrained("compact", device="cpu")
done("load")
restorer.restore(sys.argv[1])
done("first picture")
restorer.restore(sys.argv[1])
done("second picture")
print(json.dumps(steps))
"""


def steps_of(picture: str, runs: int) -> dict[str, dict[str, list[float]]]:
    """Sorted seconds of each step in so many new processes: by the clock, and of the processor."""
    found = []
    for _ in range(runs):
        process = subprocess.run([sys.executable, "-c", _STEPS, picture], check=True, capture_output=True, text=True)
        found.append(json.loads(process.stdout))
    return {
        step: {kind: sorted(run[step][index] for run in found) for index, kind in enumerate(("wall", "cpu"))}
        for step in found[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", default="assets/photos/kitten.jpg")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measured = {
            "s3diff --help": seconds_of(["--help"], given.runs),
            f"s3diff restore {given.picture}": seconds_of(
                ["restore", given.picture, "-o", str(Path(scratch) / "out.png"), "--overwrite"], given.runs
            ),
        }
    for name, seconds in measured.items():
        print(f"{name}: median {seconds[len(seconds) // 2]:.2f} s, {seconds[0]:.2f} to {seconds[-1]:.2f}")
    steps = steps_of(given.picture, given.runs)
    for step, seconds in steps.items():
        wall, cpu = (seconds[kind][given.runs // 2] for kind in ("wall", "cpu"))
        print(f"  {step}: median {wall:.2f} s, {cpu:.2f} s of CPU time")
    if given.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        given.json.write_text(
            json.dumps({"machine": machine, "seconds": measured, "steps": steps}, indent=2) + "\n", "utf-8"
        )


if __name__ == "__main__":
    main()
