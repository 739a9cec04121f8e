"""Tiles against the whole picture, and the memory that a size takes.

    python benchmarks/tiles.py PHOTO [--model compact] [--tile 1536] [--sizes 37x50,2048x2048] [--json FILE]

1. Restores PHOTO at once and in tiles, and prints the PSNR between both, the seam measure and the work done twice. The
   seam measure is the mean absolute gradient of (tiled - whole) across the tiles' borders over its mean elsewhere; the
   gradient of a difference of one grey level here and there is the same everywhere, and a seam stands out of it.
2. Restores pictures of the given sizes (width x height, PHOTO repeated), each in a process of its own with the default
   options, and prints seconds and the peak memory of the whole process, file to file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from s3diff import RestoreOptions, Restorer
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import from_array
from s3diff.options import MIN_TILE_PX
from s3diff.restoration.process_limits import processor
from s3diff.restoration.tile_plan import LOCAL_TILE_PX, TilePlan

_CHILD = "import sys; sys.argv = ['s3diff', *sys.argv[1:]]; from s3diff.apps.cli import main; main()"


def seam_measure(difference: np.ndarray, borders: tuple[list[int], list[int]]) -> float:
    """Of a difference [H, W, 3]: gradient across the borders over the gradient elsewhere; 1 for none at all."""
    across, elsewhere = [], []
    for axis in (0, 1):
        gradient = np.abs(np.diff(difference, axis=axis)).mean(axis=(1 - axis, 2))
        at_border = np.zeros(len(gradient), bool)
        at_border[[border - 1 for border in borders[axis]]] = True
        across.extend(gradient[at_border])
        elsewhere.extend(gradient[~at_border])
    return 1.0 if not np.any(elsewhere) else float(np.mean(across) / np.mean(elsewhere))


def tiled_against_whole(model: str, photo: Path, tile: int) -> dict[str, float]:
    """PSNR between both, seam measure and computed over kept pixels."""
    restorer = Restorer.from_pretrained(model, device="cpu", precision="float32")
    picture = read_picture(photo)
    whole = restorer.restore(picture, RestoreOptions(tile="off")).array.astype(np.float64)
    tiled = restorer.restore(picture, RestoreOptions(tile=tile)).array.astype(np.float64)
    config = restorer.model.config
    height, width = (-(-side // config.pad_multiple) * config.pad_multiple for side in whole.shape[:2])
    plan = TilePlan(height=height, width=width, multiple=config.pad_multiple, is_local=config.is_local, tile_px=tile)
    regions = plan.regions
    borders = tuple(sorted({region[axis].kept.start for region in regions} - {0}) for axis in (0, 1))
    read = sum(rows.read.length * columns.read.length for rows, columns in regions)
    error = float(np.mean((tiled - whole) ** 2))
    return {
        "width": whole.shape[1],
        "height": whole.shape[0],
        "tiles": len(regions),
        "psnr_db": math.inf if error == 0 else 10 * math.log10(255**2 / error),
        "seams": seam_measure(tiled - whole, (borders[0], borders[1])),
        "work": read / (height * width),
    }


def memory_of(model: str, photo: Path, width: int, height: int, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of a process that restores a picture of this size."""
    pixels = read_picture(photo).pixels
    repeats = (-(-height // pixels.shape[0]), -(-width // pixels.shape[1]), 1)
    source = folder / f"{width}x{height}.png"
    write_picture(from_array(np.tile(pixels, repeats)[:height, :width]), source)
    arguments = ["restore", str(source), "-o", str(folder / f"out-{source.name}"), "-m", model, "--device", "cpu", "-q"]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", _CHILD, *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"restoring {width} x {height} px failed")
    kibibytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return {
        "width": width,
        "height": height,
        "seconds": time.perf_counter() - started,
        "peak_gib": kibibytes / 2**20,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--tile", type=int, default=LOCAL_TILE_PX, help=f"at least {MIN_TILE_PX}")
    parser.add_argument("--sizes", default="1x1,1x4000,2400x64,37x50,512x512,1024x1024,2048x2048")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes = [tuple(map(int, size)) for size in re.findall(r"(\d+)x(\d+)", given.sizes)]
    report: dict[str, object] = {
        "hardware": f"{processor().name}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "photo": given.photo.name,
    }
    # First, while this process is small: what a child inherits counts as its peak.
    report["memory"] = rows = []
    with tempfile.TemporaryDirectory() as folder:
        for width, height in sizes:
            rows.append(memory_of(given.model, given.photo, width, height, Path(folder)))
            row = rows[-1]
            print(f"{width} x {height} -> x4   {row['seconds']:.1f} s   {row['peak_gib']:.2f} GiB", flush=True)
    report["tiled_against_whole"] = compared = tiled_against_whole(given.model, given.photo, given.tile)
    print("  ".join(f"{name} {value:.4g}" for name, value in compared.items()))
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
