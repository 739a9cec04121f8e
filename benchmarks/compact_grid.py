"""The pictures of docs/compact.md: input, bicubic, Real-ESRGAN, a model and the truth beside each other.

    python benchmarks/compact_grid.py [--shared ../shared] [--model compact] [--output docs] [--whole FOLDER]

Crops of real-camera pairs at twice their size, and whole photographs of Kodak24, reduced by 4 and restored. FOLDER gets
every restored picture whole, as PNG, to be looked at. Real-ESRGAN has a column where its two packages are installed
(see ``real_esrgan.py``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import real_esrgan
from enlargers import BICUBIC, SCALE, Enlarger, reduced
from PIL import Image, ImageDraw, ImageFont

from s3diff.images.files.pillow_pictures import to_pil
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, from_array, from_tensor, to_tensor

CROP_PX, ZOOM = 128, 2
GAP_PX, HEADER_PX = 4, 26
CROP_QUALITY, PHOTO_QUALITY = 85, 72


class Crop(NamedTuple):
    """A pair's name, and where in the result its crop begins."""

    pair: str
    left_px: int
    top_px: int


#: What a sheet shows: text and lines; faces, plants, sky and the dark.
SHEETS = {
    "compact_crops_1.jpg": (
        Crop("drealsr_panasonic_145_x1", 190, 60),
        Crop("drealsr_DSC_1326_x1", 150, 150),
        Crop("realsr_Nikon_035_LR4", 100, 190),
        Crop("realsr_Canon_009_LR4", 0, 40),
        Crop("realsr_Nikon_001_LR4", 190, 180),
        Crop("drealsr_IMG_113_x1", 200, 200),
        Crop("realsr_Nikon_021_LR4", 150, 150),
    ),
    "compact_crops_2.jpg": (
        Crop("realsr_Nikon_047_LR4", 90, 140),
        Crop("drealsr_DSC_1265_x1", 0, 40),
        Crop("drealsr_sony_169_x1", 200, 200),
        Crop("realsr_Nikon_013_LR4", 200, 200),
        Crop("realsr_Canon_029_LR4", 90, 340),
        Crop("realsr_Canon_005_LR4", 120, 30),
        Crop("drealsr_P1140401_x1", 250, 170),
    ),
}
PHOTO_SHEET = "compact_photographs.jpg"
PHOTOS = ("kodim04", "kodim08", "kodim20", "kodim22")

#: A picture's versions by column, all of one size.
Versions = dict[str, Picture]


def methods(model: str) -> dict[str, Enlarger]:
    """Columns between input and truth."""
    found = {"bicubic": Enlarger(BICUBIC)}
    if real_esrgan.model_files() is not None:
        found["Real-ESRGAN"] = Enlarger(real_esrgan.NAME)
    found[Path(model).name] = Enlarger(model)
    return found


def versions(low_quality: Picture, truth: Picture, columns: dict[str, Enlarger]) -> Versions:
    """The input as its pixels are, the results, and the truth."""
    nearest = low_quality.pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    results = {name: method(low_quality) for name, method in columns.items()}
    return {"input": from_array(nearest), **results, "truth": truth}


def quarter(truth: Picture) -> Picture:
    """The picture at a quarter of its size, by the mean of each square."""
    return from_array(from_tensor(reduced(to_tensor(truth)), truth))


def cut(shown: Versions, crop: Crop) -> Versions:
    rows, columns = slice(crop.top_px, crop.top_px + CROP_PX), slice(crop.left_px, crop.left_px + CROP_PX)
    return {
        name: from_array(picture.pixels[rows, columns].repeat(ZOOM, axis=0).repeat(ZOOM, axis=1))
        for name, picture in shown.items()
    }


def sheet(rows: Sequence[Versions]) -> Picture:
    """A row for each picture, a column for each version, the columns' names on top."""
    names, first = list(rows[0]), next(iter(rows[0].values()))
    width, height = first.width + GAP_PX, first.height + GAP_PX
    image = Image.new("RGB", (len(names) * width - GAP_PX, HEADER_PX + len(rows) * height - GAP_PX), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=18)
    for column, name in enumerate(names):
        draw.text((column * width + 4, 2), name, fill="black", font=font)
        for row, shown in enumerate(rows):
            image.paste(to_pil(shown[name]), (column * width, HEADER_PX + row * height))
    return from_array(np.asarray(image))


def keep_whole(shown: Versions, folder: Path | None, name: str) -> None:
    if folder is not None:
        for column, picture in shown.items():
            write_picture(picture, folder / f"{name}_{column}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="compact")
    parser.add_argument("--output", type=Path, default=Path("docs"))
    parser.add_argument("--whole", type=Path, help="also write every picture whole to this folder")
    given = parser.parse_args()
    for folder in (given.output, given.whole):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    columns = methods(given.model)
    pairs, kodak = given.shared / "data/realsr_pairs", given.shared / "data/benchmarks/kodak24"
    for name, crops in SHEETS.items():
        rows = []
        for crop in crops:
            low_quality, truth = (read_picture(pairs / side / f"{crop.pair}.png") for side in ("lr", "hr"))
            shown = versions(low_quality, truth, columns)
            keep_whole(shown, given.whole, crop.pair)
            rows.append(cut(shown, crop))
        write_picture(sheet(rows), given.output / name, quality=CROP_QUALITY)
    rows = []
    for name in PHOTOS:
        truth = read_picture(kodak / f"{name}.png")
        rows.append(versions(quarter(truth), truth, columns))
        keep_whole(rows[-1], given.whole, name)
    write_picture(sheet(rows), given.output / PHOTO_SHEET, quality=PHOTO_QUALITY)


if __name__ == "__main__":
    main()
