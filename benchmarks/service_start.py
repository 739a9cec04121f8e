"""Measure the start of ``s3diff serve`` and the packages of its extra, against the Gradio demo.

    python benchmarks/service_start.py [--runs 3] [--json FILE]

Seconds are those of the processor and of the clock until the address is printed, memory is that of the process then
(Linux: from ``/proc``). Packages are those that an extra needs and the core install does not, with the size of their
files; both extras, ``web`` and ``demo``, have to be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

#: What is started, and the word of the line that tells its address.
STARTS = {
    "s3diff serve": (["-m", "s3diff", "serve", "--port", "0"], "http://"),
    "s3diff serve --no-page": (["-m", "s3diff", "serve", "--port", "0", "--no-page"], "http://"),
    "the Gradio demo": (["-m", "s3diff.apps.gradio_demo"], "http://"),
}


def started(arguments: list[str], sign: str) -> dict[str, float]:
    """Start a process; return its seconds and its memory once it has printed the sign, and end it."""
    before = time.perf_counter()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        if not any(sign in line for line in process.stdout):
            raise SystemExit(f"{' '.join(arguments)} ended without an address")
        seconds = time.perf_counter() - before
        # proc(5): fields 14 and 15 are the process's ticks in user and kernel mode, counted from behind its name.
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = int(fields[11]) + int(fields[12])
        resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return {"wall": seconds, "cpu": ticks / os.sysconf("SC_CLK_TCK"), "mb": resident / 1e6}
    finally:
        process.terminate()
        process.wait()


def needed(
    requirements: list[str], extras: frozenset[str] = frozenset(), known: frozenset[str] = frozenset()
) -> set[str]:
    """Names of all packages that these requirements need, themselves included, but for those that are known."""
    found: set[str] = set()
    pending = [(Requirement(text), extras) for text in requirements]
    while pending:
        requirement, own = pending.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": each}) for each in (*own, "")):
            continue
        name = requirement.name.lower().replace("_", "-")
        if name in known or (name in found and not requirement.extras):
            continue
        try:
            more = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            raise SystemExit(f"{name} is not installed; install the extras web and demo") from None
        if name != "s3diff":
            found.add(name)
        pending += [(Requirement(text), frozenset(requirement.extras)) for text in more]
    return found


def megabytes(package: str) -> float:
    """Size of a package's files."""
    files = metadata.files(package) or []
    paths = [Path(str(each.locate())) for each in files]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    core = frozenset(needed(["s3diff"]))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    found: dict[str, Any] = {
        "machine": machine,
        "load_before": round(os.getloadavg()[0], 1),
        "extras": {},
        "starts": {},
    }
    for extra in ("web", "demo"):
        names = sorted(needed([f"s3diff[{extra}]"], known=core))
        found["extras"][extra] = {"packages": names, "mb": round(sum(map(megabytes, names)), 1)}
        print(f"extra {extra}: {len(names)} packages, {sum(map(megabytes, names)):.1f} MB: {', '.join(names)}")
    for name, (arguments, sign) in STARTS.items():
        runs = sorted((started(arguments, sign) for _ in range(given.runs)), key=lambda run: run["cpu"])
        middle = runs[len(runs) // 2]
        found["starts"][name] = middle
        print(f"{name}: {middle['cpu']:.1f} s of CPU time, {middle['wall']:.1f} s by the clock, {middle['mb']:.0f} MB")
    print(f"{machine}, load {found['load_before']}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
