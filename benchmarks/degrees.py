"""Do the estimator's degrees rise with true blur and true noise? Spearman's rank correlation over a folder of pictures.

    python benchmarks/degrees.py PICTURES [--model compact] [--json FILE]

Every picture is blurred by Gaussians of several widths and reduced, or reduced and given Gaussian noise of several
strengths; then its degrees are estimated. *Pooled* ranks all pictures and strengths together, so that a picture that is
soft by nature counts against it; *within* is the mean over pictures, each ranked alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from s3diff import Restorer
from s3diff.degradation.kernels import filter_per_image, gaussian_kernels
from s3diff.degradation.noise import gaussian_noise
from s3diff.images.codecs import list_pictures, read_picture, to_tensor

SCALE = 4
#: Standard deviations of the blur in pixels of the picture before it is reduced; real cameras of RealSR: 2 to 3.
BLUR_SIGMAS_PX = (0.2, 0.8, 1.4, 2.0, 2.6, 3.2, 3.8)
#: Standard deviations of the noise in levels of 255.
NOISE_SIGMAS = (0, 2, 5, 10, 15, 20, 25)
KERNEL_SIDE_PX = 21


def degraded(picture: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches [strengths, 3, h, w] of reduced versions: blurred, and noisy."""
    blur = torch.tensor(BLUR_SIGMAS_PX, dtype=torch.float64)
    repeated = picture.expand(len(BLUR_SIGMAS_PX), -1, -1, -1)
    kernels = gaussian_kernels(KERNEL_SIDE_PX, blur).to(torch.float32)
    blurred = reduced(filter_per_image(repeated, kernels))
    sharp = reduced(picture).expand(len(NOISE_SIGMAS), -1, -1, -1)
    sigma = torch.tensor(NOISE_SIGMAS, dtype=torch.float32)
    noisy = sharp + gaussian_noise(sharp, sigma, torch.zeros(len(sigma), dtype=torch.bool), generator)
    return blurred.clamp(0, 1), noisy.clamp(0, 1)


def reduced(pictures: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] -> [B, 3, H / 4, W / 4], by the mean of each square."""
    return torch.nn.functional.avg_pool2d(pictures, SCALE)


def spearman(first: torch.Tensor, second: torch.Tensor) -> float:
    """Rank correlation of two vectors; ties share their mean rank."""
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    spread = float(a.norm() * b.norm())
    return float(a @ b) / spread if spread else 0.0


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Mean rank of each value of a vector, from 0."""
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return below.double() + (equal.double() - 1) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    restorer = Restorer.from_pretrained(given.model, device="cpu")
    generator = torch.Generator().manual_seed(0)
    blur, noise = [], []
    with torch.inference_mode():
        for path in list_pictures(given.pictures):
            blurred, noisy = degraded(to_tensor(read_picture(path)), generator)
            blur.append(restorer.generator.estimator(blurred)[:, 0])
            noise.append(restorer.generator.estimator(noisy)[:, 1])
    report: dict[str, object] = {"model": restorer.model.fingerprint, "pictures": len(blur)}
    for name, strengths, found in (("blur", BLUR_SIGMAS_PX, blur), ("noise", NOISE_SIGMAS, noise)):
        true, degrees = torch.tensor(strengths), torch.stack(found)
        figures = {
            "pooled": spearman(true.repeat(len(degrees)), degrees.flatten()),
            "within": sum(spearman(true, row) for row in degrees) / len(degrees),
            "means": dict(zip(map(str, strengths), degrees.mean(0).tolist(), strict=True)),
        }
        report[name] = figures
        means = "  ".join(f"{strength}: {value:.3f}" for strength, value in figures["means"].items())
        print(f"{name:5}  Spearman pooled {figures['pooled']:.3f}, within {figures['within']:.3f}   means {means}")
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
