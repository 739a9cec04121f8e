"""Print, drawings and screens drawn at random, as ground truth: what the photographs of a training set lack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

#: Drawn at twice the size and reduced, so that edges are as smooth as a photograph's.
_OVERSIZE = 2
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?-+()&%äöüéß"
_GREY_SHARE, _DARK_SHARE, _TURNED_SHARE = 0.5, 0.3, 0.3

Colour = tuple[int, ...]


def drawn_crop(rng: np.random.Generator, side_px: int, fonts: Sequence[Path]) -> np.ndarray:
    """Draw one crop [side_px, side_px, 3] uint8: lines of print (60 %), lines and shapes, or a screen (20 % each).

    Args:
        rng: source of every choice.
        side_px: side of the crop.
        fonts: TrueType files.
    """
    is_dark, is_grey = rng.random() < _DARK_SHARE, rng.random() < _GREY_SHARE

    def colour(lowest: int, highest: int) -> Colour:
        values = np.repeat(rng.integers(lowest, highest), 3) if is_grey else rng.integers(lowest, highest, 3)
        return tuple(int(value) for value in values)

    paper, ink = (colour(0, 70), colour(170, 256)) if is_dark else (colour(190, 256), colour(0, 90))
    size = _OVERSIZE * side_px
    image = Image.new("RGB", (size, size), paper)
    kind = rng.random()
    draw = _print if kind < 0.6 else _shapes if kind < 0.8 else _screen
    draw(ImageDraw.Draw(image), rng, size, fonts, ink, colour)
    if rng.random() < _TURNED_SHARE:
        image = image.rotate(rng.uniform(-30, 30), Image.Resampling.BICUBIC, fillcolor=paper)
    resampling = Image.Resampling.LANCZOS if rng.random() < 0.5 else Image.Resampling.BOX
    return np.asarray(image.resize((side_px, side_px), resampling))


def _font(rng: np.random.Generator, fonts: Sequence[Path], size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), size)


def _print(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, fonts, ink: Colour, colour) -> None:
    height = int(2 ** rng.uniform(4.6, 7.5))
    font = _font(rng, fonts, height)
    y = -int(rng.integers(0, height))
    while y < size:
        line = "".join(_LETTERS[rng.integers(len(_LETTERS))] if rng.random() > 0.16 else " " for _ in range(60))
        x = -int(rng.integers(0, height))
        draw.text((x, y), line, fill=ink if rng.random() < 0.9 else colour(0, 256), font=font)
        y += int(height * rng.uniform(1.05, 1.6))


def _shapes(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, fonts, ink: Colour, colour) -> None:
    for _ in range(rng.integers(6, 30)):
        points = [tuple(map(int, rng.integers(-40, size + 40, 2))) for _ in range(rng.integers(2, 5))]
        width = int(rng.integers(2, 16))
        line = ink if rng.random() < 0.7 else colour(0, 256)
        kind = rng.random()
        if kind < 0.5:
            draw.line(points, fill=line, width=width, joint="curve")
        elif kind < 0.75:
            (left, right), (top, bottom) = (sorted(values) for values in zip(*points[:2], strict=True))
            fill = colour(0, 256) if rng.random() < 0.4 else None
            draw.ellipse([left, top, right + 1, bottom + 1], outline=line, width=width, fill=fill)
        else:
            corner = tuple(map(int, rng.integers(0, size, 2)))
            draw.polygon([*points, corner], outline=line, fill=colour(0, 256) if rng.random() < 0.6 else None)


def _screen(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, fonts, ink: Colour, colour) -> None:
    for _ in range(rng.integers(4, 14)):
        left, top = map(int, rng.integers(-60, size, 2))
        width, height = map(int, rng.integers(30, size // 2, 2))
        draw.rounded_rectangle(
            [left, top, left + width, top + height],
            radius=int(rng.integers(0, 24)),
            fill=colour(0, 256),
            outline=ink if rng.random() < 0.5 else None,
            width=int(rng.integers(2, 6)),
        )
        font = _font(rng, fonts, int(rng.integers(22, 60)))
        label = "".join(chr(rng.integers(97, 123)) if rng.random() > 0.15 else " " for _ in range(20))
        draw.text((left + 10, top + 6), label, fill=ink if rng.random() < 0.6 else colour(0, 256), font=font)
