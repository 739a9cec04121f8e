"""What a preset of ``s3diff restore`` makes of three pictures of its kind, beside the defaults: a sheet to look at.

    python benchmarks/preset_pictures.py FOLDER [--shared ../shared] [--presets web text] [--try web=noise:+0.4 ...]

The pictures are scenes of ``do_no_harm_set.py``, degraded as such pictures are: scans get the grain of film, pictures
of the web the blocks of JPEG at quality 20, print, screens and drawings mild JPEG. Columns: truth, bicubic, defaults at
the preset's size, the preset, and each ``--try``, which changes options of the preset. Printed are PSNR-Y and LPIPS
(AlexNet) against the truth; eyes decide.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from do_no_harm_set import DRAWN, KODAK, MORE, SET14, Cut, Scene, cut
from enlargers import as_picture
from gaussian import blurred
from PIL import Image, ImageDraw

from s3diff import RestoreOptions, Restorer
from s3diff.degradation.jpeg import compress_jpeg
from s3diff.evaluation.measures import load_measures
from s3diff.images.picture import from_array, to_tensor
from s3diff.images.resampling import resample
from s3diff.option_texts import options_from_texts, texts_of_options
from s3diff.presets import PRESETS

#: Of a result, from its middle: what a sheet shows, at its own size.
SHOWN_PX = 256
GRAIN_SIGMA, GRAIN_BLUR_PX, KERNEL_RADIUS_PX = 14.0, 0.7, 4
HEADER_PX, GAP_PX = 16, 4


def film(image: torch.Tensor, is_grey: bool) -> torch.Tensor:
    """Grain that reaches over neighbouring pixels, and the softness of a scanner."""
    generator = torch.Generator().manual_seed(7)
    grain = torch.randn(1, 1 if is_grey else 3, *image.shape[2:], generator=generator).expand_as(image)
    soft = blurred(image, 0.6, KERNEL_RADIUS_PX)
    return soft + blurred(grain, GRAIN_BLUR_PX, KERNEL_RADIUS_PX) * 2 * GRAIN_SIGMA / 255


Degrade = Callable[[torch.Tensor, bool], torch.Tensor]
#: Preset: three scenes, and how they are degraded once they are reduced.
KINDS: dict[str, tuple[tuple[Cut | str, ...], Degrade]] = {
    "scan": (
        (
            Cut(f"{KODAK}/kodim15.png", 160, 60, 320, 320),
            Cut(f"{KODAK}/kodim08.png", 180, 120, 320, 320),
            Cut(f"{KODAK}/kodim04.png", 60, 180, 320, 320, grey=True),
        ),
        film,
    ),
    "web": (
        (
            Cut(f"{KODAK}/kodim04.png", 10, 10, 480, 480),
            Cut(f"{KODAK}/kodim23.png", 10, 10, 480, 480),
            Cut(f"{KODAK}/kodim01.png", 10, 10, 480, 480),
        ),
        lambda image, _: compress_jpeg(image, 20.0),
    ),
    "text": (
        (
            "page",
            "editor",
            Cut(f"{MORE}/softmatic-rossmann-27022020-01-00195.jpg", 60, 200, 320, 320, grey=True),
        ),
        lambda image, _: compress_jpeg(image, 60.0),
    ),
    "drawing": (
        ("cartoon", "plan", Cut(f"{SET14}/img_005.png", 4, 4, 240, 352)),
        lambda image, _: compress_jpeg(image, 60.0),
    ),
}
#: Of drawn scenes, whose 512 px are more than a sheet needs: left, top, side.
DRAWN_BOX = (0, 0, 384)


def truths(sources: tuple[Cut | str, ...], shared: Path) -> Iterator[Scene]:
    """The scenes of a preset."""
    left, top, side = DRAWN_BOX
    for source in sources:
        if isinstance(source, str):
            drawn = DRAWN[source]()[top : top + side, left : left + side]
            yield Scene("drawn", source, to_tensor(from_array(np.ascontiguousarray(drawn))))
        else:
            yield Scene("photograph", source.name, cut(source, shared / "data"))


def middle(image: torch.Tensor) -> Image.Image:
    """What a sheet shows of [1, 3, H, W]."""
    pixels = as_picture(image).pixels
    top, left = (max(0, (side - SHOWN_PX) // 2) for side in pixels.shape[:2])
    return Image.fromarray(pixels[top : top + SHOWN_PX, left : left + SHOWN_PX])


def sheet(rows: list[list[torch.Tensor]], names: list[str], place: Path) -> None:
    """Pictures beside each other, with the names of the columns."""
    step = SHOWN_PX + GAP_PX
    page = Image.new("RGB", (step * len(names), HEADER_PX + step * len(rows)), "white")
    draw = ImageDraw.Draw(page)
    for column, name in enumerate(names):
        draw.text((column * step + 2, 2), name, fill="black")
        for row, images in enumerate(rows):
            page.paste(middle(images[column]), (column * step, HEADER_PX + row * step))
    page.save(place, quality=90)


def main() -> None:
    """Make a sheet for each preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--presets", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--try", dest="tried", nargs="+", default=[], metavar="PRESET=OPTION:VALUE[,OPTION:VALUE]")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    restorer = Restorer.from_pretrained("compact", device="cpu")
    loaded, _ = load_measures(("psnr_y", "lpips_alex"), torch.device("cpu"))
    measures = [loaded[name] for name in ("psnr_y", "lpips_alex")]
    for name in given.presets:
        compare(name, given, restorer, measures)


def compare(name: str, given: argparse.Namespace, restorer: Restorer, measures: list[Any]) -> None:
    """Restore three pictures with the defaults, the preset and each ``--try``."""
    sources, degrade = KINDS[name]
    usual = PRESETS[name].options(RestoreOptions)
    scale = int(usual.scale)
    ways: dict[str, RestoreOptions] = {"defaults": RestoreOptions(scale=scale), name: usual}
    for tried in given.tried:
        preset, _, changes = tried.partition("=")
        if preset == name:
            texts = texts_of_options(usual) | dict(change.split(":", 1) for change in changes.split(","))
            ways[changes] = replace(options_from_texts(texts)[0])
    rows, sums = [], {way: np.zeros(2) for way in ("bicubic", *ways)}
    for scene in truths(sources, given.shared):
        low = torch.nn.functional.avg_pool2d(scene.truth, scale)
        low = degrade(low, scene.is_grey).clamp(0, 1).mul(255).round().div(255)
        truth = scene.truth[..., : scale * low.shape[2], : scale * low.shape[3]]
        made = {"bicubic": resample(low, *truth.shape[2:], "bicubic").clamp(0, 1)}
        for way, options in ways.items():
            made[way] = to_tensor(restorer.restore(as_picture(low), options).picture)
        for way, image in made.items():
            sums[way] += [float(measure(image, truth)) for measure in measures]
        rows.append([truth, *made.values()])
    sheet(rows, ["truth", *sums], given.folder / f"{name}.jpg")
    for way, values in sums.items():
        psnr, lpips = values / len(rows)
        print(f"{name:8}  {way:40}  PSNR-Y {psnr:.2f}  LPIPS {lpips:.3f}", flush=True)


if __name__ == "__main__":
    main()
