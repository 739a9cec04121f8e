"""Wall-clock seconds of whole processes: the help, and one restoration with the embedded model.

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
                ["restore", given.picture, "-o", str(Path(scratch) / "out.png")], given.runs
            ),
        }
    for name, seconds in measured.items():
        print(f"{name}: median {seconds[len(seconds) // 2]:.2f} s, {seconds[0]:.2f} to {seconds[-1]:.2f}")
    if given.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        given.json.write_text(json.dumps({"machine": machine, "seconds": measured}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
