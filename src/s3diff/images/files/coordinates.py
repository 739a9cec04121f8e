"""Move coordinates in metadata with a picture that is turned upright, cut and scaled: one function for each kind.

A coordinate is a distance from the stored picture's left or upper edge, in pixels: 0 is that edge, the width is the
opposite one. Functions take and return numbers in the order of the field; None means that the field cannot follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

#: Orientations that exchange width and height (CIPA DC-008, tag 274), and those that end in a mirrored axis.
QUARTER_TURNS = (5, 6, 7, 8)
_FROM_BELOW, _FROM_THE_RIGHT, _MIRRORED = (3, 4, 7, 8), (2, 3, 6, 7), (2, 4, 5, 7)

Numbers = tuple[float | Fraction, ...]


@dataclass(frozen=True)
class Transform:
    """Describe the mapping from stored pixels to the result's.

    Attributes:
        stored: (width, height) of the picture that the metadata describes.
        orientation: 1 to 8, as EXIF counts; the picture is turned upright.
        cut: (left, top, width, height) of the kept part, in pixels of the upright picture; None keeps all.
        size: (width, height) of the result; None keeps the kept part's size.
    """

    stored: tuple[float, float]
    orientation: int = 1
    cut: tuple[float, float, float, float] | None = None
    size: tuple[int, int] | None = None

    @property
    def swaps_sides(self) -> bool:
        """Whether width and height are exchanged."""
        return self.orientation in QUARTER_TURNS

    @property
    def mirrors(self) -> bool:
        """Whether left and right are exchanged, which no rotation does."""
        return self.orientation in _MIRRORED

    @property
    def upright(self) -> tuple[float, float]:
        """(width, height) after the turn."""
        width, height = self.stored
        return (height, width) if self.swaps_sides else (width, height)

    @property
    def kept(self) -> tuple[float, float, float, float]:
        """(left, top, width, height) of the kept part of the upright picture."""
        return (0, 0, *self.upright) if self.cut is None else self.cut

    @property
    def is_cut(self) -> bool:
        """Whether less than the whole picture is kept."""
        return self.kept != (0, 0, *self.upright)

    @property
    def result(self) -> tuple[float, float]:
        """(width, height) of the result."""
        return self.kept[2:] if self.size is None else self.size

    @property
    def scale(self) -> tuple[float, float]:
        """Result size divided by the kept part's size, across and down."""
        return self.result[0] / self.kept[2], self.result[1] / self.kept[3]


Follow = Callable[[Numbers, Transform], Numbers | None]


def own_width(values: Numbers, transform: Transform) -> Numbers:
    """Set to the result's width, whatever the field stated."""
    return (transform.result[0],)


def own_height(values: Numbers, transform: Transform) -> Numbers:
    """Set to the result's height, whatever the field stated."""
    return (transform.result[1],)


def sides(values: Numbers, transform: Transform) -> Numbers:
    """Turn and scale lengths (across, down)."""
    across, down = reversed(values) if transform.swaps_sides else values
    return across * transform.scale[0], down * transform.scale[1]


def length(values: Numbers, transform: Transform) -> Numbers:
    """Scale lengths without a direction, such as a diameter."""
    factor = math.sqrt(transform.scale[0] * transform.scale[1])
    return tuple(value * factor for value in values)


def point(values: Numbers, transform: Transform) -> Numbers | None:
    """Turn, cut and scale a point (x, y); one outside the picture cannot follow."""
    left, top, width, height = transform.kept
    x, y = _turned(values[0], values[1], transform)
    x, y = x - left, y - top
    if not (0 <= x <= width and 0 <= y <= height):
        return None
    return x * transform.scale[0], y * transform.scale[1]


def edges(values: Numbers, transform: Transform) -> Numbers | None:
    """Turn, cut and scale (left, top, right, bottom), clipped to the kept part."""
    left, top, width, height = transform.kept
    corners = _turned(values[0], values[1], transform), _turned(values[2], values[3], transform)
    (x1, x2), (y1, y2) = (sorted(axis) for axis in zip(*corners, strict=True))
    if x1 >= left + width or y1 >= top + height or x2 <= left or y2 <= top:
        return None
    if transform.is_cut:
        x1, y1, x2, y2 = max(x1, left), max(y1, top), min(x2, left + width), min(y2, top + height)
    across, down = transform.scale
    return (x1 - left) * across, (y1 - top) * down, (x2 - left) * across, (y2 - top) * down


def box(values: Numbers, transform: Transform) -> Numbers | None:
    """Turn, cut and scale (left, top, width, height)."""
    left, top, width, height = values
    moved = edges((left, top, left + width, top + height), transform)
    return None if moved is None else (moved[0], moved[1], moved[2] - moved[0], moved[3] - moved[1])


def centered_box(values: Numbers, transform: Transform) -> Numbers | None:
    """Turn, cut and scale (center x, center y, width, height)."""
    x, y, width, height = values
    moved = edges((x - width / 2, y - height / 2, x + width / 2, y + height / 2), transform)
    if moved is None:
        return None
    return (moved[0] + moved[2]) / 2, (moved[1] + moved[3]) / 2, moved[2] - moved[0], moved[3] - moved[1]


def circle(values: Numbers, transform: Transform) -> Numbers | None:
    """Turn, cut and scale (center x, center y, diameter)."""
    center = point(values[:2], transform)
    return None if center is None else (*center, *length(values[2:], transform))


def subject_area(values: Numbers, transform: Transform) -> Numbers | None:
    """Follow EXIF's SubjectArea (CIPA DC-008, tag 0x9214): a point, a circle or a rectangle by its center."""
    follow = {2: point, 3: circle, 4: centered_box}.get(len(values))
    return None if follow is None else follow(values, transform)


def resolution(values: Numbers, transform: Transform) -> Numbers:
    """Turn pixels per unit of a print (across, down): the result is printed larger, not finer."""
    return tuple(reversed(values)) if transform.swaps_sides else values


def density(values: Numbers, transform: Transform) -> Numbers:
    """Turn and scale pixels per unit of the scene or sensor (across, down), which has more pixels now."""
    across, down = reversed(values) if transform.swaps_sides else values
    return across * Fraction(transform.scale[0]), down * Fraction(transform.scale[1])


def angle(values: Numbers, transform: Transform) -> Numbers:
    """Turn the angle of a box whose own sides turn with the picture: a mirror reverses it."""
    return tuple(-value for value in values) if transform.mirrors else values


def panorama(values: Numbers, transform: Transform) -> Numbers | None:
    """Turn and scale GPano's (full width, full height, width, height, left, top): the picture within the panorama."""
    if transform.is_cut:
        return None
    full_width, full_height, width, height, left, top = values
    around = Transform((float(full_width), float(full_height)), transform.orientation)
    moved = box((left, top, width, height), around)
    if moved is None:
        return None
    across, down = transform.scale
    left, top, width, height = moved[0] * across, moved[1] * down, moved[2] * across, moved[3] * down
    return around.upright[0] * across, around.upright[1] * down, width, height, left, top


def only_uncut(values: Numbers, transform: Transform) -> Numbers | None:
    """Turn and scale lengths (across, down) that mean the whole picture."""
    return None if transform.is_cut else sides(values, transform)


def upright(values: Numbers, transform: Transform) -> Numbers:
    """Set to the orientation of an upright picture."""
    return (1,)


def only_scaled(values: Numbers, transform: Transform) -> Numbers | None:
    """Keep a value that holds for any scale, but not for a turned or cut picture."""
    return None if transform.is_cut or transform.orientation != 1 else values


def never(values: Numbers, transform: Transform) -> None:
    """Drop a field that cannot follow."""


#: Number of arguments of each function.
COUNTS: dict[Follow, tuple[int, ...]] = {
    own_width: (1,), own_height: (1,), upright: (1,), angle: (1,), length: (1,), point: (2,), sides: (2,),
    resolution: (2,), density: (2,), only_uncut: (2,), circle: (3,), subject_area: (2, 3, 4), box: (4,),
    centered_box: (4,), edges: (4,), panorama: (6,),
}  # fmt: skip


def moved_fractions(follow: Follow, values: Numbers, transform: Transform, *, of_width: bool) -> Numbers | None:
    """Follow coordinates (x, y, x, y ..) that are fractions of the picture's sides.

    Args:
        of_width: whether an odd last number, of a circle, is a fraction of the width; otherwise of the shorter side.
    """

    def units(size: tuple[float, float]) -> list[float]:
        return [*size, size[0] if of_width else min(size)]

    moved = follow(_times(values, units(transform.stored)), transform)
    return None if moved is None else _times(moved, [1 / side for side in units(transform.result)])


def _times(values: Numbers, factors: list[float]) -> Numbers:
    """Multiply x and y in turn by the first two factors, and an odd last number by the third."""
    num_pairs = len(values) // 2
    each = [*factors[:2] * num_pairs, *factors[2:] * (len(values) % 2)]
    return tuple(float(value) * factor for value, factor in zip(values, each, strict=True))


def _turned(x: float | Fraction, y: float | Fraction, transform: Transform) -> tuple[float, float]:
    """Map a point of the stored picture to the upright one."""
    width, height = transform.upright
    if transform.swaps_sides:
        x, y = y, x
    if transform.orientation in _FROM_BELOW:
        y = height - y
    if transform.orientation in _FROM_THE_RIGHT:
        x = width - x
    return float(x), float(y)
