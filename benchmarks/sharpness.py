"""How fine the detail in folders of pictures is: power of the luma by octaves, in decibels.

    python benchmarks/sharpness.py FOLDER [FOLDER ...] [--json FILE]

Squares of 256 px under a Hann window; the mean power of each band of spatial frequency over that of the first band, the
median over the squares. Plain squares, with less than a fifth of the median power in the first band, are left out.
Photographs that were reduced from larger ones have far more in the last bands than what a camera gives at full size:
``data.truth_blur_px`` of the training is for that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from s3diff.evaluation.psnr_ssim import luma
from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.picture import to_tensor

SIDE_PX = 256
#: Bands in cycles per pixel; half a cycle is the finest that a picture holds.
BANDS = (
    (1 / 32, 1 / 16),
    (1 / 16, 1 / 8),
    (1 / 8, 3 / 16),
    (3 / 16, 1 / 4),
    (1 / 4, 5 / 16),
    (5 / 16, 3 / 8),
    (3 / 8, 1 / 2),
)
LEAST_SHARE = 0.2


def band_powers(picture: Tensor) -> Tensor:
    """``picture``: [1, 3, H, W] in [0, 1]. Returns [squares, bands]; no squares for a smaller picture."""
    plane = luma(picture)[0, 0]
    squares = plane.unfold(0, SIDE_PX, SIDE_PX).unfold(1, SIDE_PX, SIDE_PX).flatten(0, 1)
    window = torch.outer(*(torch.hann_window(SIDE_PX),) * 2)
    power = torch.fft.fft2((squares - squares.mean(dim=(1, 2), keepdim=True)) * window).abs().square()
    frequency = torch.fft.fftfreq(SIDE_PX)
    radius = (frequency[:, None].square() + frequency.square()).sqrt()
    return torch.stack([power[:, (radius >= low) & (radius < high)].mean(dim=1) for low, high in BANDS], dim=1)


def measured(folder: Path) -> tuple[int, list[float]]:
    """Number of squares that count, and decibels of each band below the first."""
    large = (to_tensor(read_picture(path)) for path in list_pictures(folder))
    powers = torch.cat([band_powers(picture) for picture in large if min(picture.shape[2:]) >= SIDE_PX])
    powers = powers[powers[:, 0] >= LEAST_SHARE * powers[:, 0].median()]
    decibels = 10 * (powers / powers[:, :1]).log10().median(dim=0).values
    return len(powers), [round(value, 1) for value in decibels.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print("cycles/px " + " ".join(f"{low:.2f}-{high:.2f}" for low, high in BANDS))
    figures = {}
    for folder in given.folders:
        count, decibels = measured(folder)
        figures[folder.name] = {"squares": count, "decibels": decibels}
        print(f"{folder.name:10}" + " ".join(f"{value:9.1f}" for value in decibels) + f"   {count} squares")
    if given.json:
        bands = [[round(edge, 4) for edge in band] for band in BANDS]
        given.json.write_text(json.dumps({"bands": bands, "folders": figures}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
