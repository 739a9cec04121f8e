"""Lay shapes with clean outlines over a training crop, filled from the photographs themselves.

Photographs of landscapes and animals hold few straight edges, stripes, letters and even surfaces, which street scenes
and print are made of. A network that never saw them frays outlines and draws grain onto walls. Shapes that cover each
other make such pictures, as in the dead leaves model (Lee, Mumford and Huang, IJCV 2001; as training data for
restoration: Achddou, Gousseau and Ladjal, SSVM 2021); here they lie over a photograph, each with a colour or a piece of
another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

#: Most shapes of one collage.
MAX_SHAPES = 6
#: Random numbers that one shape takes at most.
NUMBERS_PER_SHAPE = 16

#: Signed distance in pixels of every point to a shape's outline, negative inside: (down, across, numbers) -> [H, W].
_Distance = Callable[[np.ndarray, np.ndarray, Iterator[float]], np.ndarray]


def collage(crop: np.ndarray, other: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Lay shapes over a crop.

    Args:
        crop: [S, S, 3] uint8.
        other: [S, S, 3] uint8, whose colours and pieces fill the shapes.
        shapes: [N, NUMBERS_PER_SHAPE] float64 from 0 to 1, random; one row a shape, the last one on top.

    Returns:
        [S, S, 3] uint8. Outlines are smoothed over one pixel.
    """
    side = crop.shape[0]
    down, across = np.mgrid[:side, :side].astype(np.float64) + 0.5
    picture = crop.astype(np.float64)
    for row in shapes:
        numbers = iter(row.tolist())
        fill = _fill(other, numbers)
        distance = _DISTANCES[int(next(numbers) * len(_DISTANCES))](down, across, numbers)
        inside = np.clip(0.5 - distance, 0, 1)[:, :, None]
        picture += inside * (fill - picture)
    return np.rint(picture).astype(np.uint8)


def _fill(other: np.ndarray, numbers: Iterator[float]) -> np.ndarray:
    """Choose a colour for two shapes of three, [3]; the other picture itself for the third, [S, S, 3]."""
    is_even = next(numbers) < 2 / 3
    place = [int(next(numbers) * size) for size in other.shape[:2]]
    return other[place[0], place[1]].astype(np.float64) if is_even else other.astype(np.float64)


def _turned(down: np.ndarray, across: np.ndarray, numbers: Iterator[float]) -> tuple[np.ndarray, np.ndarray]:
    """Compute coordinates from a random centre along a random direction and at a right angle to it, in pixels."""
    angle = math.pi * next(numbers)
    if next(numbers) < 1 / 3:  # upright ones are common where people build
        nearest = round(angle / (math.pi / 2)) * (math.pi / 2)
        angle = nearest + 0.1 * (angle - nearest)
    x, y = across - next(numbers) * across.shape[1], down - next(numbers) * down.shape[0]
    return math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x


def _between(low: float, high: float, number: float) -> float:
    """Draw evenly in the logarithm: small and large values are equally common."""
    return low * (high / low) ** number


def _half_plane(down: np.ndarray, across: np.ndarray, numbers: Iterator[float]) -> np.ndarray:
    along, _ = _turned(down, across, numbers)
    return along


def _rectangle(down: np.ndarray, across: np.ndarray, numbers: Iterator[float]) -> np.ndarray:
    along, beside = _turned(down, across, numbers)
    size = down.shape[0]
    return np.maximum(
        np.abs(along) - _between(3, size / 2, next(numbers)), np.abs(beside) - _between(1, size / 4, next(numbers))
    )


def _stripes(down: np.ndarray, across: np.ndarray, numbers: Iterator[float]) -> np.ndarray:
    along, beside = _turned(down, across, numbers)
    period = _between(6, 64, next(numbers))
    half_width = period * (0.1 + 0.3 * next(numbers))
    reach = _between(period, down.shape[0], next(numbers))
    lines = np.abs((along + period / 2) % period - period / 2) - half_width
    return np.maximum(lines, np.maximum(np.abs(along), np.abs(beside)) - reach)


def _ellipse(down: np.ndarray, across: np.ndarray, numbers: Iterator[float]) -> np.ndarray:
    """Draw a disc or a ring; the distance is exact on circles, nearly so elsewhere."""
    along, beside = _turned(down, across, numbers)
    long = _between(3, down.shape[0] / 2, next(numbers))
    short = long * (0.4 + 0.6 * next(numbers))
    radius = np.hypot(along / long, beside / short)
    steepness = np.hypot(along / long**2, beside / short**2) / np.maximum(radius, 1e-9)
    disc = (radius - 1) / np.maximum(steepness, 1e-9)
    return disc if next(numbers) < 0.5 else np.abs(disc) - _between(1, max(1.5, short / 2), next(numbers))


_DISTANCES: tuple[_Distance, ...] = (_half_plane, _rectangle, _stripes, _ellipse)
