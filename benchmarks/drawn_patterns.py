"""Drawn pictures that a model trained on photographs has never seen: flat, graded, chequered, lines, text, colours.

Where there are edges, ink and paper leave room below and above, so that overshoot is not hidden by clipping.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE_PX = 128
INK, PAPER = (64, 64, 64), (191, 191, 191)


def drawn_patterns() -> dict[str, np.ndarray]:
    """By name, [SIDE_PX, SIDE_PX, 3] uint8."""
    return {
        "black": flat(0),
        "white": flat(255),
        "mid grey": flat(128),
        "gradient": gradient(),
        "checkerboard, 8 px": checkerboard(8),
        "checkerboard, 1 px": checkerboard(1),
        "line drawing": line_drawing(),
        "screenshot": screenshot(),
        "saturated colours": saturated_colours(),
    }


def flat(level: int) -> np.ndarray:
    return np.full((SIDE_PX, SIDE_PX, 3), level, np.uint8)


def gradient() -> np.ndarray:
    """From black on the left to white on the right, by two levels per pixel."""
    levels = np.linspace(0, 255, SIDE_PX).round().astype(np.uint8)
    return np.broadcast_to(levels[None, :, None], (SIDE_PX, SIDE_PX, 3)).copy()


def checkerboard(square_px: int) -> np.ndarray:
    index = np.arange(SIDE_PX) // square_px
    is_ink = (index[:, None] + index[None]) % 2 == 0
    return np.where(is_ink[..., None], np.uint8(INK[0]), np.uint8(PAPER[0])).repeat(3, axis=2)


def line_drawing() -> np.ndarray:
    """A fan of lines, circles and a frame, one and two pixels wide."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), PAPER)
    draw = ImageDraw.Draw(image)
    draw.rectangle((6, 6, SIDE_PX - 7, SIDE_PX - 7), outline=INK)
    for degrees in range(0, 91, 10):
        angle = math.radians(degrees)
        draw.line((12, 115, 12 + 70 * math.cos(angle), 115 - 70 * math.sin(angle)), fill=INK)
    for radius_px, width_px in ((8, 1), (16, 1), (26, 2)):
        box = (86 - radius_px, 40 - radius_px, 86 + radius_px, 40 + radius_px)
        draw.ellipse(box, outline=INK, width=width_px)
    return np.asarray(image)


def screenshot() -> np.ndarray:
    """A window with a title bar, lines of text and a button."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), PAPER)
    draw, small = ImageDraw.Draw(image), ImageFont.load_default(size=10)
    draw.rectangle((0, 0, SIDE_PX, 15), fill=(70, 90, 150))
    draw.text((4, 2), "settings.txt", fill=PAPER, font=small)
    lines = ("The quick brown fox", "jumps over 13 dogs.", "x = 3.14159 * r ** 2", "i l 1 | O 0 o . , ; :")
    for row, text in enumerate(lines):
        draw.text((4, 20 + 15 * row), text, fill=INK, font=small)
    draw.rounded_rectangle((70, 100, 122, 120), radius=4, fill=(180, 180, 180), outline=(110, 110, 110))
    draw.text((84, 104), "Save", fill=INK, font=small)
    return np.asarray(image)


def saturated_colours() -> np.ndarray:
    """Six bars of pure colours above the same, moved by two bars."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 255, 255], [255, 0, 255], [255, 255, 0]], np.uint8)
    bar = np.minimum(np.arange(SIDE_PX) * len(colours) // SIDE_PX, len(colours) - 1)
    upper, lower = colours[bar], colours[(bar + 2) % len(colours)]
    return np.concatenate([np.broadcast_to(half, (SIDE_PX // 2, SIDE_PX, 3)) for half in (upper, lower)])
