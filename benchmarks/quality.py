"""Quality and speed of bicubic, a model, Real-ESRGAN and anyone's results on a folder of pairs, in one run.

    python benchmarks/quality.py LR TRUTH [--model compact] [--results NAME=FOLDER]... [--limit N] [--json FILE]

Prints PSNR-Y, SSIM-Y, LPIPS (AlexNet), DISTS and the grid measure over all pairs, then the seconds that 128 -> 512 and
256 -> 1024 px take on this CPU. Bicubic is torch's, clamped and rounded like every result. Real-ESRGAN takes part where
its two packages are installed (see ``real_esrgan.py``), other results by ``--results``, files named like the pairs.
Needs the perceptual weights (``python -m s3diff.evaluation.perceptual_weights``).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import real_esrgan
import torch

from s3diff import Restorer
from s3diff.evaluation.benchmarks import mean_scores, score_folder
from s3diff.images.codecs import Picture, from_tensor, list_pictures, read_picture, to_tensor, write_picture
from s3diff.images.resampling import enlarge

SCALE = 4
#: Sides of the inputs that are timed.
TIMED_PX = (128, 256)
TIMED_RUNS = 5


def resized(picture: Picture, width_px: int, height_px: int) -> Picture:
    """The picture at another size, by bicubic interpolation."""
    image = enlarge(to_tensor(picture), height_px, width_px, mode="bicubic")
    return replace(picture, pixels=from_tensor(image.clamp(0, 1), picture))


def methods(model: str) -> dict[str, Callable[[Picture], Picture]]:
    """What is compared, by name: each takes a picture and gives one four times as large."""
    restorer = Restorer.from_pretrained(model, device="cpu")
    found: dict[str, Callable[[Picture], Picture]] = {
        "bicubic": lambda picture: resized(picture, SCALE * picture.width, SCALE * picture.height),
        Path(model).name: lambda picture: restorer.restore(picture).picture,
    }
    if (files := real_esrgan.model_files()) is not None:
        found[real_esrgan.NAME] = real_esrgan.RealEsrgan(files, torch.get_num_threads())
    return found


def median_seconds(method: Callable[[Picture], Picture], picture: Picture) -> float:
    """Of one picture, after one that warms up."""
    seconds = []
    for _ in range(1 + TIMED_RUNS):
        started = time.perf_counter()
        method(picture)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("low_quality", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--results", action="append", default=[], metavar="NAME=FOLDER", help="results of others")
    parser.add_argument("--limit", type=int, default=10**9, help="only the first N pictures")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    paths = list_pictures(given.low_quality)[: given.limit]
    report: dict[str, dict[str, float]] = {}
    compared = methods(given.model)
    with tempfile.TemporaryDirectory() as scratch:
        for name, method in compared.items():
            folder = Path(scratch) / name
            folder.mkdir()
            for path in paths:
                write_picture(method(read_picture(path)), folder / f"{path.stem}.png")
            report[name] = scored(name, folder, given.truth)
    for text in given.results:
        name, _, folder = text.partition("=")
        report[name] = scored(name, Path(folder), given.truth)
    first = read_picture(paths[0])
    for side in TIMED_PX:
        for name, method in compared.items():
            seconds = median_seconds(method, resized(first, side, side))
            report[name][f"seconds_{side}_to_{SCALE * side}"] = seconds
            print(f"{name:12} {side} -> {SCALE * side} px: {seconds:.3f} s", flush=True)
    print(machine)
    if given.json:
        content = {"machine": machine, "low_quality": str(given.low_quality), "results": report}
        given.json.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def scored(name: str, folder: Path, truth: Path) -> dict[str, float]:
    """The means of a folder of results, printed as one line."""
    scores = score_folder(folder, truth)
    means = mean_scores(scores)
    figures = "  ".join(f"{metric} {value:.4f}" for metric, value in means.items())
    print(f"{name:12} {len(scores)} pictures  {figures}", flush=True)
    return {"pictures": len(scores), **means}


if __name__ == "__main__":
    main()
