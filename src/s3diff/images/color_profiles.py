"""Convert colours of ICC profiles to sRGB and back.

Only profiles of three primaries and three curves are converted: Display P3, Adobe RGB, ProPhoto, Rec. 2020 and those
of cameras and screens. Floats keep colours outside sRGB as values outside [0, 1]. Pixels with profiles of tables
(scanners, printers) and grey profiles go through the networks as stored, and keep the profile.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import DTypeLike

from s3diff.images.icc_profiles import tags_of

#: Linear sRGB to XYZ at the D50 white point of ICC profiles (IEC 61966-2-1, adapted by Bradford's method).
_SRGB_TO_XYZ = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
#: Number of samples of a curve: more would change no value rounded to 8 bits.
_CURVE_SAMPLES = 65536
#: A space no further from sRGB than this (in [0, 1], at any of 125 colours) is sRGB: a level of 8 bits.
_SAME_SPACE = 1 / 255
#: Rows converted at a time: bounds the memory of a large picture.
_BAND_ROWS = 256


@dataclass(frozen=True, eq=False)
class ColorSpace:
    """Hold a colour space: three primaries and three curves.

    Attributes:
        to_linear_srgb: [3, 3]; linear RGB of this space to linear sRGB.
        curves: [3, n] increasing, the linear values at n even steps of the stored value.
    """

    to_linear_srgb: np.ndarray
    curves: np.ndarray

    def to_srgb(self, colors: np.ndarray) -> np.ndarray:
        """Convert [H, W, 3] float in [0, 1] of this space to sRGB; colours outside sRGB leave [0, 1]. float32."""
        return by_bands(colors, self._to_srgb, np.float32)

    def from_srgb(self, colors: np.ndarray) -> np.ndarray:
        """Convert [H, W, 3] float sRGB, of any value, to this space; cut to [0, 1]. float32."""
        return by_bands(colors, self._from_srgb, np.float32)

    def _to_srgb(self, colors: np.ndarray) -> np.ndarray:
        steps = np.linspace(0, 1, self.curves.shape[1])
        linear = np.stack([np.interp(colors[..., i], steps, curve) for i, curve in enumerate(self.curves)], axis=-1)
        return _srgb_encoded(linear @ self.to_linear_srgb.T)

    def _from_srgb(self, colors: np.ndarray) -> np.ndarray:
        linear = _srgb_decoded(colors.astype(np.float64)) @ np.linalg.inv(self.to_linear_srgb).T
        steps = np.linspace(0, 1, self.curves.shape[1])
        return np.stack([np.interp(linear[..., i], curve, steps) for i, curve in enumerate(self.curves)], axis=-1)


@lru_cache(maxsize=8)
def color_space(icc_profile: bytes | None) -> ColorSpace | None:
    """Read a profile's colour space; None if nothing is to be converted: no profile, sRGB, tables, grey, damage."""
    if icc_profile is None:
        return None
    try:
        space = _parsed(icc_profile)
    except (struct.error, ValueError, IndexError, KeyError, OverflowError, np.linalg.LinAlgError):
        return None
    if space is None:
        return None
    steps = np.linspace(0, 1, 5)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(5, 25, 3)
    return None if np.abs(space.to_srgb(grid) - grid).max() <= _SAME_SPACE else space


def _parsed(profile: bytes) -> ColorSpace | None:
    """Parse a profile: ICC.1:2022, sections 7.2 (header), 7.3 (tag table), 8.3 (three-component matrix-based
    profiles).
    """
    if profile[16:20] != b"RGB " or profile[20:24] != b"XYZ " or len(profile) > 2**22:
        return None
    tags = tags_of(profile)
    if b"A2B0" in tags:
        return None
    primaries = np.array([_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]).T
    if abs(np.linalg.det(primaries)) < 1e-6:
        return None
    curves = np.stack([_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")])
    if not np.isfinite(curves).all() or (np.diff(curves, axis=1) < 0).any() or (curves[:, -1] <= 0.5).any():
        return None  # no curve of a display; a falling curve cannot be inverted
    return ColorSpace(np.linalg.inv(_SRGB_TO_XYZ) @ primaries, curves)


def _xyz(tag: bytes) -> tuple[float, ...]:
    if tag[:4] != b"XYZ ":
        raise ValueError("no XYZ tag")
    return tuple(value / 65536 for value in struct.unpack_from(">3i", tag, 8))


def _curve(tag: bytes) -> np.ndarray:
    """Sample a tone curve (10.6 curveType, 10.18 parametricCurveType) at even steps of [0, 1]."""
    steps = np.linspace(0, 1, _CURVE_SAMPLES)
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return steps
        values = np.array(struct.unpack_from(f">{min(count, 70000)}H", tag, 12), dtype=np.float64)
        return steps ** (values[0] / 256) if count == 1 else np.interp(steps, np.linspace(0, 1, count), values / 65535)
    if tag[:4] != b"para":
        raise ValueError("no curve tag")
    (kind,) = struct.unpack_from(">H", tag, 8)
    num_values = (1, 3, 4, 5, 7)[kind]
    parameters = [value / 65536 for value in struct.unpack_from(f">{num_values}i", tag, 12)]
    g, a, b, c, d, e, f = parameters + [0.0] * (7 - num_values)
    if kind == 0:
        return steps**g
    if kind in (1, 2):  # Y = (aX + b)^g + c from X = -b / a on, c below
        return np.maximum(a * steps + b, 0) ** g + c
    below = c * steps + (f if kind == 4 else 0)
    return np.where(steps >= d, np.maximum(a * steps + b, 0) ** g + (e if kind == 4 else 0), below)


def _srgb_encoded(linear: np.ndarray) -> np.ndarray:
    """Encode with IEC 61966-2-1's curve, mirrored at 0 for colours outside sRGB."""
    size = np.abs(linear)
    return np.sign(linear) * np.where(size <= 0.0031308, 12.92 * size, 1.055 * size ** (1 / 2.4) - 0.055)


def _srgb_decoded(encoded: np.ndarray) -> np.ndarray:
    size = np.abs(encoded)
    return np.sign(encoded) * np.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4)


def srgb_from_lab(lab: np.ndarray) -> np.ndarray:
    """Convert CIE L*a*b* under D50 to sRGB; colours outside sRGB leave [0, 1]. float32.

    ``lab``: [H, W, 3] float64; L in [0, 100].
    """
    return by_bands(lab, _srgb_of_lab, np.float32)


def _srgb_of_lab(lab: np.ndarray) -> np.ndarray:
    """Convert L*a*b* to sRGB: CIE 15:2018, section 8.2.1, inverted."""
    roots = (lab[..., :1] + 16) / 116 + lab[..., [1, 0, 2]] * np.array([1 / 500, 0, -1 / 200])
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * 3 * (6 / 29) ** 2) * _SRGB_TO_XYZ.sum(axis=1)
    return _srgb_encoded(xyz @ np.linalg.inv(_SRGB_TO_XYZ).T)


def by_bands(values: np.ndarray, convert: Callable[[np.ndarray], np.ndarray], depth: DTypeLike) -> np.ndarray:
    """Convert some rows at a time, which bounds the memory of wider numbers."""
    result = np.empty(values.shape, depth)
    for start in range(0, len(values), _BAND_ROWS):
        result[start : start + _BAND_ROWS] = convert(values[start : start + _BAND_ROWS])
    return result
