"""Quality of bicubic, of bicubic with a plain unsharp mask, and of a model on a folder of pairs, in one run.

    python benchmarks/quality.py LR TRUTH [--model compact] [--limit N] [--json FILE]

Bicubic is torch's, clamped and rounded like every result. Needs the perceptual weights
(``python -m s3diff.evaluation.perceptual_weights``).
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from s3diff import Restorer
from s3diff.evaluation.benchmarks import mean_scores, score_folder
from s3diff.images.codecs import from_tensor, list_pictures, read_picture, to_tensor, write_picture
from s3diff.images.resampling import enlarge
from s3diff.networks.autoencoder import unsharp_mask

SCALE = 4
#: What a filter without any network reaches: the mask that the first embedded model sharpens its base with.
SHARPENING = 0.7


def write_bicubic(low_quality: Path, output: Path, limit: int, sharpening: float = 0.0) -> None:
    """Enlarge every picture of a folder by bicubic interpolation, and sharpen it by an unsharp mask."""
    for path in list_pictures(low_quality)[:limit]:
        picture = read_picture(path)
        image = enlarge(to_tensor(picture), SCALE * picture.height, SCALE * picture.width, mode="bicubic")
        image = unsharp_mask(image, sharpening).clamp(0, 1)
        write_picture(replace(picture, pixels=from_tensor(image, picture)), output / f"{path.stem}.png")


def write_restored(low_quality: Path, output: Path, model: str, limit: int) -> float:
    """Restore every picture of a folder; returns the mean seconds per picture after the first."""
    restorer, seconds = Restorer.from_pretrained(model), []
    for path in list_pictures(low_quality)[:limit]:
        started = time.perf_counter()
        restored = restorer.restore(path)
        seconds.append(time.perf_counter() - started)
        restored.save(output / f"{path.stem}.png")
    return sum(seconds[1:]) / max(1, len(seconds) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("low_quality", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--limit", type=int, default=10**9, help="only the first N pictures")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    report: dict[str, object] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "low_quality": str(given.low_quality),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("bicubic", "sharpened", given.model):
            folder = Path(scratch) / Path(name).name
            if name in ("bicubic", "sharpened"):
                write_bicubic(given.low_quality, folder, given.limit, SHARPENING * (name == "sharpened"))
            else:
                report["seconds_per_picture"] = write_restored(given.low_quality, folder, name, given.limit)
            scores = score_folder(folder, given.truth)
            means = mean_scores(scores)
            report[name] = {"pictures": len(scores), **means}
            print(f"{name:10}", "  ".join(f"{metric} {value:.4f}" for metric, value in means.items()), flush=True)
    print(f"{report['seconds_per_picture']:.2f} s per picture on {report['machine']}")
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
