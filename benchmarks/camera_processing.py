"""What a camera's processing did to low-quality pictures, and what the presets do: blur, sharpening, spread noise.

    python benchmarks/camera_processing.py LQ_FOLDER HQ_FOLDER --photos PHOTOS [--presets NAME,NAME] [--json FILE]

For each second pair of the folders, and for crops of the photographs that a preset has degraded:

- the Gaussian blur of the high-quality luma and the unsharp mask after the reduction that explain the low-quality luma
  with the least error, of a grid of values (gain and offset of the brightness are free);
- how noise of neighbouring pixels goes together, in the twentieth of the blocks of 8 px that are flattest: about 0 for
  the noise of single pixels, 0.5 where demosaicing, resizing or a filter has spread it.

Prints the 10th, 50th and 90th percentile of each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from gaussian import blurred
from torch import Tensor

from s3diff.degradation.application import apply
from s3diff.degradation.settings import PRESETS
from s3diff.degradation.synthesis import draw
from s3diff.evaluation.psnr_ssim import luma
from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.picture import to_tensor
from s3diff.training.phases import softened

SCALE = 4
CROP_PX = 512
NUM_CROPS = 64
#: Photographs that are small or plain give no crops.
MAX_DRAWS = 20 * NUM_CROPS
#: Crops whose luma changes less from pixel to pixel, in levels, tell nothing of blur.
LEAST_DETAIL = 2.0
#: As the training of ``compact`` softens its truth, px.
TRUTH_BLUR_PX = 0.65
BLUR_SIGMAS_PX = tuple(0.2 + 0.3 * step for step in range(23))
#: Amount and standard deviation in low-quality pixels; the first one changes nothing.
MASKS = ((0.0, 1.0), *((amount, sigma) for sigma in (0.6, 1.0, 1.5, 2.0) for amount in (0.5, 1.0, 1.5)))
BLOCK_PX = 8
PERCENTILES = (10, 50, 90)


def softer(plane: Tensor, sigma_px: float) -> Tensor:
    """Blur a plane [H, W] by a Gaussian that reaches four standard deviations."""
    return blurred(plane[None, None], sigma_px, max(1, round(4 * sigma_px)))[0, 0]


def explained(high: Tensor, low: Tensor) -> tuple[float, float, float]:
    """Blur in high-quality px, amount and standard deviation of the sharpening, of luma planes [H, W]."""
    best = (float("inf"), 0.0, 0.0, 0.0)
    centred = low - low.mean()
    for blur in BLUR_SIGMAS_PX:
        # The middle of each square of SCALE x SCALE: no phase, little blur of its own.
        reduced = softer(high, blur).unfold(0, SCALE, SCALE).unfold(1, SCALE, SCALE)[..., 1:3, 1:3].mean((2, 3))
        for amount, sigma in MASKS:
            made = reduced + amount * (reduced - softer(reduced, sigma)) if amount else reduced
            made = made - made.mean()
            gain = (made * centred).sum() / made.square().sum()
            error = float((centred - gain * made).square().mean())
            best = min(best, (error, blur, amount, sigma))
    return best[1:]


def spread_of_noise(plane: Tensor) -> float | None:
    """Correlation of neighbours in the flattest blocks; None where all is black or white."""
    blocks = plane.unfold(0, BLOCK_PX, BLOCK_PX // 2).unfold(1, BLOCK_PX, BLOCK_PX // 2).flatten(0, 1)
    means = blocks.mean((1, 2))
    blocks = blocks[(means > 20 / 255) & (means < 235 / 255)]
    if len(blocks) < 100:
        return None
    place = torch.arange(BLOCK_PX) - (BLOCK_PX - 1) / 2
    slopes = torch.stack(
        [torch.ones(BLOCK_PX, BLOCK_PX), place.expand(BLOCK_PX, -1), place[:, None].expand(-1, BLOCK_PX)]
    )
    basis = torch.linalg.qr(slopes.flatten(1).T).Q.to(plane)
    flat = blocks.flatten(1)
    rest = (flat - flat @ basis @ basis.T).unflatten(1, (BLOCK_PX, BLOCK_PX))
    power = rest.square().mean((1, 2))
    chosen = rest[power.argsort()[: len(rest) // 20]]
    neighbours = ((chosen[:, 1:] * chosen[:, :-1]).mean() + (chosen[:, :, 1:] * chosen[:, :, :-1]).mean()) / 2
    return float(neighbours / chosen.square().mean().clamp(min=1e-12))


def summary(found: list[tuple[Tensor, Tensor]]) -> dict[str, list[float]]:
    """Percentiles of pairs of luma planes (high, low)."""
    fits = np.array([explained(high, low) for high, low in found])
    spread = np.array([value for _, low in found if (value := spread_of_noise(low)) is not None])
    columns = {"blur_px": fits[:, 0], "amount": fits[:, 1], "sigma_px": fits[fits[:, 1] > 0, 2], "spread": spread}
    shown = {
        name: np.percentile(values, PERCENTILES).round(2).tolist() if len(values) else []
        for name, values in columns.items()
    }
    return {**shown, "sharpened": [round(float((fits[:, 1] > 0).mean()), 2)], "pictures": [len(found)]}


def plane_of(picture: Tensor) -> Tensor:
    return luma(picture)[0, 0]


def real_pairs(low_folder: Path, high_folder: Path) -> list[tuple[Tensor, Tensor]]:
    paths = list_pictures(low_folder)[::2]
    return [
        (plane_of(to_tensor(read_picture(high_folder / path.name))), plane_of(to_tensor(read_picture(path))))
        for path in paths
    ]


def made_pairs(photos: Path, preset: str) -> list[tuple[Tensor, Tensor]]:
    generator, random, paths = torch.Generator().manual_seed(1), np.random.default_rng(0), list_pictures(photos)
    found: list[tuple[Tensor, Tensor]] = []
    for _ in range(MAX_DRAWS):
        if len(found) == NUM_CROPS:
            break
        whole = to_tensor(read_picture(paths[random.integers(len(paths))]))
        if min(whole.shape[2:]) < CROP_PX:
            continue
        top, left = (random.integers(size - CROP_PX + 1) for size in whole.shape[2:])
        truth = softened(
            whole[..., top : top + CROP_PX, left : left + CROP_PX], torch.tensor([TRUTH_BLUR_PX], dtype=torch.float64)
        )
        if float(plane_of(truth).diff(dim=1).abs().mean()) * 255 >= LEAST_DETAIL:
            low = apply(truth, draw(PRESETS[preset], 1, CROP_PX, CROP_PX, SCALE, generator))
            found.append((plane_of(truth), plane_of(low)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("low", type=Path)
    parser.add_argument("high", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--presets", default="camera,sharpened,processed,grainy")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    presets = given.presets.split(",")
    if unknown := set(presets) - set(PRESETS):
        parser.error(f"--presets: there is no {', '.join(sorted(unknown))}; give some of {', '.join(PRESETS)}")
    rows = {"pairs": summary(real_pairs(given.low, given.high))}
    for preset in presets:
        made = made_pairs(given.photos, preset)
        if not made:
            parser.error(
                f"--photos: {MAX_DRAWS} tries gave no crop of {CROP_PX} px with detail; give larger photographs"
            )
        rows[preset] = summary(made)
    for name, figures in rows.items():
        print(f"{name:10} " + "  ".join(f"{key} {' / '.join(map(str, value))}" for key, value in figures.items()))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
