"""The do-no-harm set: 36 scenes of twelve kinds, each clean and with ten degradations of known strength.

    python benchmarks/do_no_harm_set.py FOLDER [--shared ../shared]     # low_quality/ and truth/, to be looked at

Photographs are cut from free pictures by name and box. Those of Kodak24, Set5 and Set14 and the kitten have been in no
training; the others are pictures that models are trained on, so that figures on them are kind ones
(docs/evaluation.md). Print, screens and line drawings are drawn here. A truth has 480 or 512 px a side, a few have
less; its inputs have a quarter of that.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from enlargers import as_picture, reduced
from gaussian import blurred
from PIL import Image, ImageDraw, ImageFont

from s3diff.degradation.jpeg import compress_jpeg
from s3diff.degradation.noise import gaussian_noise
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import from_array, to_tensor

SIDE_PX = 512
#: Folders below ``data`` of the shared files.
KODAK, SET5, SET14 = "benchmarks/kodak24", "benchmarks/set5", "benchmarks/set14"
PHOTOS, MORE = "train/photos", "train/more"


class Cut(NamedTuple):
    """A box of a picture in a file; ``grey`` takes its luma."""

    file: str
    left_px: int
    top_px: int
    width_px: int = SIDE_PX
    height_px: int = SIDE_PX
    grey: bool = False

    @property
    def name(self) -> str:
        return f"{Path(self.file).parent.name}-{Path(self.file).stem}-{self.left_px}-{self.top_px}"


def kodak(number: int) -> Cut:
    """The middle of one of the 24, all of 500 px."""
    return Cut(f"{KODAK}/kodim{number:02d}.png", 10, 10, 480, 480)


#: Kind of scene: boxes of files, or names of ``DRAWN``.
SCENES: dict[str, tuple[Cut | str, ...]] = {
    "foliage": (
        kodak(13),
        Cut(f"{PHOTOS}/popos-absolute-shrubbery.jpg", 900, 300),
        Cut(f"{MORE}/drone-dji-0018.jpg", 100, 60),
    ),
    "grass": (
        Cut(f"{SET14}/img_014.png", 100, 0, 384, 384),
        Cut(f"{PHOTOS}/mate-dune.jpg", 200, 13),
        Cut(f"{PHOTOS}/budgie-kitten-on-lawn.jpg", 950, 560),
    ),
    "fur": (
        Cut(f"{SET14}/img_001.png", 0, 0, 480, 480),
        Cut(f"{PHOTOS}/budgie-kitten-on-lawn.jpg", 600, 380),
        Cut(f"{MORE}/max-cat.jpg", 350, 150),
    ),
    "cloth": (
        Cut(f"{SET14}/img_002.png", 200, 60),
        Cut(f"{MORE}/interfaces-017.jpg", 318, 318),
        Cut(f"{MORE}/pif-april-chen-headshot.jpg", 150, 358),
    ),
    "brick": (
        kodak(1),
        Cut(f"{MORE}/ambientcg-bricks102-1k-jpg-color.jpg", 256, 0),
        Cut(f"{PHOTOS}/budgie-colorful-wall.jpg", 0, 500),
    ),
    "sky": (kodak(16), Cut(f"{PHOTOS}/xubuntu-field-by.jpg", 0, 0)),
    "small faces": (
        kodak(14),
        kodak(18),
        Cut(f"{MORE}/18f-estonia2.jpg", 100, 50),
        Cut(f"{MORE}/pif-pif-reunion.jpg", 250, 100),
    ),
    "large faces": (
        kodak(4),
        kodak(15),
        Cut(f"{SET5}/img_001.png", 0, 0),
        Cut(f"{MORE}/18f-glenn-grieves.jpg", 100, 50),
    ),
    "grey text": (
        "page",
        "white on black",
        Cut(f"{MORE}/softmatic-rossmann-27022020-01-00195.jpg", 60, 200, grey=True),
    ),
    "screens": ("window", "editor", Cut(f"{SET14}/img_013.png", 0, 144)),
    "line art": ("plan", "cartoon", Cut(f"{SET14}/img_005.png", 4, 4, 240, 352)),
    "night": (
        Cut(f"{PHOTOS}/budgie-san-francisco-skyline.jpg", 700, 600),
        Cut(f"{PHOTOS}/budgie-noche-bogota.jpg", 500, 300),
    ),
}

JPEG_QUALITIES = (90, 60, 30, 12)
#: Gaussian, in pixels of the truth: 2 to 3 is what real cameras of RealSR do.
DEFOCUS_SIGMAS_PX = (1, 2, 3)
#: Of the Gaussian's kernel, which so reaches three standard deviations and more.
KERNEL_RADIUS_PX = 10
#: Gaussian on the reduced picture, in levels of 255; grey pictures get grey noise.
NOISE_SIGMAS = (3, 10, 25)
DEGRADATIONS = (
    "clean",
    *(f"jpeg {quality}" for quality in JPEG_QUALITIES),
    *(f"defocus {sigma}" for sigma in DEFOCUS_SIGMAS_PX),
    *(f"noise {sigma}" for sigma in NOISE_SIGMAS),
)
#: Inputs on which no picture may become worse than plain enlargement makes it.
CLEAN_AND_MILD = ("clean", "jpeg 90", "jpeg 60", "defocus 1", "noise 3")


class Scene(NamedTuple):
    """A truth of the set: [1, 3, H, W] float, RGB in [0, 1] at multiples of 1/255."""

    category: str
    name: str
    truth: torch.Tensor

    @property
    def is_grey(self) -> bool:
        return bool((self.truth == self.truth[:, :1]).all())

    def degraded(self, degradation: str) -> torch.Tensor:
        """The input, [1, 3, H / 4, W / 4] at multiples of 1/255; the same at every call."""
        kind, _, strength = degradation.partition(" ")
        image = reduced(defocused(self.truth, float(strength)) if kind == "defocus" else self.truth)
        if kind == "jpeg":
            image = compress_jpeg(image, float(strength))
        elif kind == "noise":
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self.name} {degradation}".encode()))
            grey = torch.tensor([self.is_grey])
            image = image + gaussian_noise(image, torch.tensor([float(strength)]), grey, generator)
        return (image.clamp(0, 1) * 255).round() / 255


def defocused(image: torch.Tensor, sigma_px: float) -> torch.Tensor:
    """Blur by a Gaussian; the picture's edges are mirrored."""
    return blurred(image, sigma_px, KERNEL_RADIUS_PX).clamp(0, 1)


def scenes(shared: Path, categories: tuple[str, ...] = tuple(SCENES)) -> Iterator[Scene]:
    """The scenes in the order of the table; ``shared`` is the folder that holds ``data``."""
    for category in categories:
        for source in SCENES[category]:
            if isinstance(source, str):
                yield Scene(category, source, to_tensor(from_array(DRAWN[source]())))
            else:
                yield Scene(category, source.name, cut(source, shared / "data"))


def cut(source: Cut, data: Path) -> torch.Tensor:
    image = to_tensor(read_picture(data / source.file)).expand(1, 3, -1, -1)
    box = image[..., source.top_px :, source.left_px :][..., : source.height_px, : source.width_px]
    if box.shape[2:] != (source.height_px, source.width_px):
        raise SystemExit(f"{source.file} is too small for its box of {source.width_px} x {source.height_px} px")
    if source.grey:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        box = (box * weights).sum(1, keepdim=True).expand(1, 3, -1, -1)
    return (box * 255).round() / 255


# What is drawn: at twice the size, and reduced, so that edges lie anywhere within a pixel.

_TEXT = (
    "In the first place the light of a window falls on the page from the left, and the shadow of the hand that writes "
    "lies on what is not yet written. Nothing on paper is as black as ink looks: 12 of 96 measured strokes were darker "
    "than 20 % grey. (Notes, vol. 3, p. 47; see also figure 8.) Reading depends on counters, on the white inside o, e, "
    "a and g, more than on the strokes around it; where these close, rn becomes m and cl becomes d."
)
_CODE = (
    "def radius(area: float) -> float:",
    "    # of a circle, in metres",
    "    if area < 0:",
    '        raise ValueError(f"{area} < 0")',
    "    return (area / 3.14159) ** 0.5",
    "",
    "for area in (0.5, 1, 2, 4, 8):",
    '    print(f"{area:6.2f} {radius(area):.3f}")',
)


def _canvas(background: int | tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    colour = (background,) * 3 if isinstance(background, int) else background
    image = Image.new("RGB", (2 * SIDE_PX, 2 * SIDE_PX), colour)
    return image, ImageDraw.Draw(image)


def _halved(image: Image.Image) -> np.ndarray:
    return np.asarray(image.reduce(2))


def _lines(draw: ImageDraw.ImageDraw, sizes_px: tuple[int, ...], ink: int, left: int, top: int) -> None:
    """Running text, a paragraph of each size."""
    words, word = _TEXT.split(), 0
    for size_px in sizes_px:
        font = ImageFont.load_default(size=size_px)
        for _ in range(max(2, 220 // size_px)):
            line = ""
            while draw.textlength(f"{line} {words[word % len(words)]}", font=font) < 2 * SIDE_PX - 2 * left:
                line = f"{line} {words[word % len(words)]}".strip()
                word += 1
            draw.text((left, top), line, fill=(ink,) * 3, font=font)
            top += round(1.3 * size_px)
        top += size_px


def page() -> np.ndarray:
    """Grey print on white paper; the smallest letters are 4 px high in the input."""
    image, draw = _canvas(245)
    _lines(draw, (88, 56, 40, 32), 50, 44, 36)
    return _halved(image)


def white_on_black() -> np.ndarray:
    image, draw = _canvas(16)
    _lines(draw, (120, 72, 48, 36), 240, 60, 40)
    return _halved(image)


def window() -> np.ndarray:
    """A bright program window: bar, list, buttons, a graph."""
    image, draw = _canvas((240, 240, 243))
    small, large = ImageFont.load_default(size=36), ImageFont.load_default(size=52)
    draw.rectangle((0, 0, 1023, 91), fill=(44, 86, 160))
    draw.text((30, 18), "Measurements - March", fill="white", font=large)
    for row, name in enumerate(("Overview", "Kitchen", "Cellar", "Garden 2", "Settings...")):
        top = 120 + 76 * row
        draw.rectangle((0, top, 300, top + 68), fill=(205, 222, 250) if row == 1 else (250, 250, 250))
        draw.text((28, top + 14), name, fill=(40, 40, 40), font=small)
    draw.rectangle((340, 130, 990, 600), fill="white", outline=(170, 170, 170), width=3)
    points = [(360 + 10 * i, 370 - 120 * math.sin(i / 6) - 60 * math.sin(i / 2.3)) for i in range(62)]
    draw.line(points, fill=(214, 60, 44), width=6, joint="curve")
    for line in range(5):
        draw.line((340, 200 + 90 * line, 990, 200 + 90 * line), fill=(225, 225, 225), width=2)
    _lines(draw, (34,), 90, 350, 640)
    for left, name, colour in ((560, "Cancel", (228, 228, 228)), (790, "Save", (60, 140, 80))):
        draw.rounded_rectangle((left, 910, left + 190, 980), radius=14, fill=colour, outline=(130, 130, 130), width=3)
        draw.text((left + 38, 922), name, fill="white" if name == "Save" else (50, 50, 50), font=small)
    return _halved(image)


def editor() -> np.ndarray:
    """A dark editor: line numbers, coloured code."""
    image, draw = _canvas((30, 32, 40))
    font = ImageFont.load_default(size=44)
    colours = ((198, 120, 221), (120, 130, 150), (152, 195, 121), (224, 108, 117), (220, 220, 225))
    draw.rectangle((0, 0, 90, 1023), fill=(40, 43, 52))
    for row in range(16):
        text, top = _CODE[row % len(_CODE)], 20 + 62 * row
        draw.text((22, top), str(row + 1), fill=(110, 115, 130), font=font)
        draw.text((120 + 26 * (len(text) - len(text.lstrip())), top), text.lstrip(), fill=colours[row % 5], font=font)
    draw.rectangle((500, 84, 506, 130), fill=(250, 200, 90))
    return _halved(image)


def plan() -> np.ndarray:
    """Black lines of several widths on white: walls, arcs, hatching, a fan."""
    image, draw = _canvas(255)
    for width, inset in ((14, 40), (4, 76), (2, 100)):
        draw.rectangle((inset, inset, 1023 - inset, 620 - inset), outline="black", width=width)
    for step in range(24):
        draw.line((130 + 12 * step, 490, 230 + 12 * step, 130), fill="black", width=2 + step % 3)
    for radius in (30, 60, 100, 150, 190):
        draw.ellipse((760 - radius, 310 - radius, 760 + radius, 310 + radius), outline="black", width=2 + radius // 40)
    for degrees in range(0, 91, 5):
        angle = math.radians(degrees)
        end = (60 + 900 * math.cos(angle), 1000 - 360 * math.sin(angle))
        draw.line((60, 1000, *end), fill="black", width=2 + degrees % 4)
    return _halved(image)


def cartoon() -> np.ndarray:
    """Flat colours within dark outlines."""
    image, draw = _canvas((160, 210, 240))
    outline = {"outline": (30, 25, 35), "width": 9}
    draw.rectangle((0, 720, 1023, 1023), fill=(120, 180, 90))
    draw.ellipse((760, 60, 940, 240), fill=(250, 215, 90), **outline)
    draw.rectangle((90, 420, 470, 860), fill=(235, 225, 205), **outline)
    draw.polygon(((50, 420), (280, 200), (510, 420)), fill=(190, 70, 60), **outline)
    for left, top in ((140, 480), (320, 480), (140, 660)):
        draw.rectangle((left, top, left + 100, top + 110), fill=(110, 150, 200), **outline)
    draw.rectangle((320, 660, 430, 860), fill=(130, 85, 55), **outline)
    draw.ellipse((600, 400, 920, 720), fill=(245, 200, 170), **outline)
    for left in (680, 800):
        draw.ellipse((left, 490, left + 60, 570), fill="white", **outline)
        draw.ellipse((left + 22, 522, left + 44, 552), fill=(30, 25, 35))
    draw.arc((690, 540, 830, 670), 20, 160, fill=(30, 25, 35), width=9)
    for hair in range(14):
        draw.line((620 + 20 * hair, 470 - 4 * hair, 600 + 26 * hair, 360), fill=(90, 55, 30), width=7)
    draw.polygon(((600, 1000), (680, 720), (840, 720), (930, 1000)), fill=(90, 90, 170), **outline)
    return _halved(image)


DRAWN: dict[str, Callable[[], np.ndarray]] = {
    "page": page,
    "white on black": white_on_black,
    "window": window,
    "editor": editor,
    "plan": plan,
    "cartoon": cartoon,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    given = parser.parse_args()
    for scene in scenes(given.shared):
        name = f"{scene.category} {scene.name}".replace(" ", "_")
        images = {f"truth/{name}.png": scene.truth}
        for kind in DEGRADATIONS:
            images[f"low_quality/{name}_{kind.replace(' ', '_')}.png"] = scene.degraded(kind)
        for path, image in images.items():
            (given.folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_picture(as_picture(image), given.folder / path)


if __name__ == "__main__":
    main()
