"""Does the dial do what it says? Degrees forced by hand, at each third of their range, on pictures that need them.

    python benchmarks/dial.py [--shared ../shared] [--model compact] [--json FILE] [--check]

*Blur* on defocused pictures of Kodak24: gradient energy at each setting, which has to rise by half at every third.
*Noise* on noisy ones and on JPEG of quality 12: grain and blocks, which 0 has to keep and 1 to remove, in steps.
``--check`` ends with exit code 1 where a target is missed. ``compact_report.py`` makes tables of the same figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from do_no_harm_set import defocused
from enlargers import BICUBIC, Enlarger, reduced, restored
from picture_measures import blockiness, gradient_energy
from targets import Target, all_reached, at_least, at_most

from s3diff import Restorer
from s3diff.degradation.jpeg import compress_jpeg
from s3diff.degradation.noise import gaussian_noise
from s3diff.errors import S3DiffError
from s3diff.evaluation.psnr_ssim import psnr_y
from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.picture import to_tensor

#: The dial is turned on crops of this side, reduced by 4.
CROP_PX = 256
#: Kodak's pictures take part in turn, to keep a run at a few minutes of one core.
PICTURE_STEP = 2
FORCED = (0.0, 1 / 3, 2 / 3, 1.0)
BY_ESTIMATE = "estimate"
#: Levels of 255, added to the reduced picture; and to a flat one.
NOISE_SIGMA = 10
FLAT_NOISE_SIGMAS = (3, 10, 25)
JPEG_QUALITY = 12
#: Pixels of the picture before it is reduced, in the middle of what real cameras of RealSR do; and of a picture that is
#: not reduced: a photograph out of focus.
BLUR_SIGMA_PX, INPUT_BLUR_SIGMA_PX = 2.6, 1.8
#: The targets: how the gradient energy rises at every third; grain at 0 and at 1 over bicubic's; blocks at 1 over
#: bicubic's; the least share of the fall of grain at every third.
RISE, GRAIN_AT_0, GRAIN_AT_1, BLOCKS_AT_1, LEAST_SHARE = 1.5, 0.9, 0.5, 0.5, 0.15

#: A row of a table: figures by column.
Row = dict[str, Any]


def centre_crops(folder: Path, side_px: int) -> list[torch.Tensor]:
    """[1, 3, side_px, side_px] of every second picture."""
    return [cut_centre(to_tensor(read_picture(path)), side_px) for path in list_pictures(folder)[::PICTURE_STEP]]


def cut_centre(image: torch.Tensor, side_px: int) -> torch.Tensor:
    top, left = ((side - side_px) // 2 for side in image.shape[-2:])
    return image[..., top : top + side_px, left : left + side_px]


def noisy(image: torch.Tensor, generator: torch.Generator, sigma: float = NOISE_SIGMA) -> torch.Tensor:
    noise = gaussian_noise(image, torch.tensor([float(sigma)]), torch.zeros(1, dtype=torch.bool), generator)
    return (image + noise).clamp(0, 1)


def mean(values: Iterable[Any]) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)


def dial(restorer: Restorer, data: Path) -> dict[str, list[Row]]:
    """Degrees at each third of the range and as estimated, on noisy and on blurred pictures; bicubic's first."""
    truths = centre_crops(data / "benchmarks/kodak24", CROP_PX)
    return {"noise": noise_dial(restorer, truths), "blur": blur_dial(restorer, truths)}


class _Turned:
    """One degree of a model at one setting: a number, ``BY_ESTIMATE``, or ``BICUBIC`` instead of the model."""

    def __init__(self, restorer: Restorer, name: str, setting: float | str) -> None:
        self._restorer, self._name, self._setting = restorer, name, setting
        self._bicubic = Enlarger(BICUBIC)
        self.used: list[float] = []

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if self._setting == BICUBIC:
            return self._bicubic.enlarged(image)
        options = {} if self._setting == BY_ESTIMATE else {self._name: self._setting}
        result, degrees = restored(self._restorer, image, **options)
        self.used.append(getattr(degrees, self._name))
        return result

    def row(self) -> Row:
        """The setting and the mean degree so far."""
        return {"setting": self._setting, "degree": mean(self.used) if self.used else None}


def noise_dial(restorer: Restorer, truths: Sequence[torch.Tensor]) -> list[Row]:
    """Grain in levels: standard deviation of the noisy picture's result minus the clean one's, at equal settings.

    ``flat`` is that of grey squares with noise of several strengths, where nothing but the noise can change; ``blocks``
    is the blockiness of the results of strongly compressed pictures.
    """
    generator = torch.Generator().manual_seed(0)
    pairs = [(reduced(truth), noisy(reduced(truth), generator)) for truth in truths]
    squares = [noisy(torch.full_like(pairs[0][0], 0.5), generator, sigma) for sigma in FLAT_NOISE_SIGMAS]
    rows = []
    for setting in (BICUBIC, *FORCED, BY_ESTIMATE):
        turned = _Turned(restorer, "noise", setting)
        results = [turned(grainy) for _, grainy in pairs]
        row = turned.row()
        row["grain"] = mean(
            255 * (result - turned(clean)).std() for result, (clean, _) in zip(results, pairs, strict=True)
        )
        row["flat"] = [255 * float(turned(square).std()) for square in squares]
        row["psnr_y"] = mean(map(psnr_y, results, truths))
        row["blocks"] = mean(blockiness(turned(compress_jpeg(clean, JPEG_QUALITY))) for clean, _ in pairs)
        rows.append(row)
    return rows


def blur_dial(restorer: Restorer, truths: Sequence[torch.Tensor]) -> list[Row]:
    """Edges: gradient energy as a share of the truth's; ``own_size`` of pictures that were defocused, not reduced.

    Of these the share is of the sharp input's bicubic enlargement, and only their middle is taken, for the time.
    """
    bicubic = Enlarger(BICUBIC)
    middles = [cut_centre(truth, CROP_PX // 4) for truth in truths]
    sharp_energies = [gradient_energy(bicubic.enlarged(middle)) for middle in middles]
    rows = []
    for setting in (BICUBIC, *FORCED, BY_ESTIMATE):
        turned = _Turned(restorer, "blur", setting)
        results = [turned(reduced(defocused(truth, BLUR_SIGMA_PX))) for truth in truths]
        row = turned.row()
        row["edges"] = mean(map(lambda *pair: gradient_energy(pair[0]) / gradient_energy(pair[1]), results, truths))
        row["psnr_y"] = mean(map(psnr_y, results, truths))
        own_size = [turned(defocused(middle, INPUT_BLUR_SIGMA_PX)) for middle in middles]
        row["own_size"] = mean(
            gradient_energy(result) / energy for result, energy in zip(own_size, sharp_energies, strict=True)
        )
        rows.append(row)
    return rows


def targets(found: dict[str, list[Row]]) -> list[Target]:
    """What is asked of the dial."""
    noise, blur = ({row["setting"]: row for row in found[name]} for name in ("noise", "blur"))
    asked = []
    for name, where in (("edges", "then reduced"), ("own_size", "not reduced")):
        for low, high in itertools.pairwise(FORCED):
            text = f"gradient energy of defocused pictures, {where}, blur {high:.2f} over {low:.2f}"
            asked.append(at_least(text, blur[high][name] / blur[low][name], RISE))
    plain, grains = noise[BICUBIC]["grain"], [noise[setting]["grain"] for setting in FORCED]
    fall = grains[0] - grains[-1]
    least = min(high - low for high, low in itertools.pairwise(grains)) / fall if fall > 0 else 0.0
    asked += [
        at_least("grain at noise 0 over bicubic's", grains[0] / plain, GRAIN_AT_0),
        at_most("grain at noise 1 over bicubic's", grains[-1] / plain, GRAIN_AT_1),
        at_least("least share of that fall at a third", least, LEAST_SHARE),
    ]
    for setting, name in ((1.0, "at noise 1"), (BY_ESTIMATE, "by the estimate")):
        share = noise[setting]["blocks"] / noise[BICUBIC]["blocks"]
        asked.append(at_most(f"blocks of JPEG {JPEG_QUALITY} over bicubic's, {name}", share, BLOCKS_AT_1))
    return asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="compact")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a target is missed")
    given = parser.parse_args()
    try:
        restorer = Restorer.from_pretrained(given.model, device="cpu")
        found = dial(restorer, given.shared / "data")
    except S3DiffError as error:
        raise SystemExit(f"error: {error}") from error
    for name, rows in found.items():
        for row in rows:
            setting = row["setting"] if isinstance(row["setting"], str) else f"{row['setting']:.2f}"
            figures = {key: value for key, value in row.items() if key not in ("setting", "flat") and value is not None}
            print(f"{name:5} {setting:8} " + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    is_good = all_reached(targets(found))
    if given.json:
        given.json.write_text(json.dumps({"model": restorer.model.fingerprint, **found}, indent=1) + "\n", "utf-8")
    if given.check and not is_good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
