"""Make ICC profiles from other statements about colours (gamma, primaries, code points), and grey ones from RGB ones.

Sections are those of ICC.1:2010 (version 4.3). The profiles are small: primaries, white point and curves.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from s3diff.errors import PictureError

#: CIE chromaticities x, y of white, red, green and blue.
Chromaticities = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]

_D65 = (0.3127, 0.3290)
SRGB_PRIMARIES: Chromaticities = (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE_RGB_PRIMARIES: Chromaticities = (_D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
#: Primaries by their number in ITU-T H.273, table 2.
PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB_PRIMARIES,
    4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    8: ((0.310, 0.316), (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: (_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
#: The parameters g, a, b, c, d of a curve: Y = (aX + b)^g from d on, cX below (section 10.16, function type 3).
Curve = tuple[float, float, float, float, float]
SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT709_CURVE: Curve = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
#: Curves by their number in ITU-T H.273, table 3.
CURVES: dict[int, Curve] = {
    1: _BT709_CURVE,
    4: (2.2, 1, 0, 0, 0),
    5: (2.8, 1, 0, 0, 0),
    6: _BT709_CURVE,
    7: (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0913),
    8: (1.0, 1, 0, 0, 0),
    13: SRGB_CURVE,
    14: _BT709_CURVE,
    15: _BT709_CURVE,
}
#: Curves of HDR in the same table: PQ and HLG.
HDR_CURVES = {16: "PQ", 18: "HLG"}
#: The white point of profiles (section 7.2.16), and Bradford's cone responses (annex E.3).
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_ANY_DATE = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)


def gamma_curve(exponent: float) -> Curve:
    """Return the curve Y = X^exponent."""
    return (exponent, 1, 0, 0, 0)


def rgb_profile(name: str, primaries: Chromaticities, curve: Curve) -> bytes:
    """Make a profile of three primaries and one curve, with a name that programs show.

    Raises:
        ValueError: the primaries span no colours.
    """
    white, *colors = (np.array([x / y, 1, (1 - x - y) / y]) if y > 0 else np.zeros(3) for x, y in primaries)
    columns = np.stack(colors, axis=1)
    if abs(np.linalg.det(columns)) < 1e-4 or not white.all():
        raise ValueError("the primaries span no colours")
    weights = np.linalg.solve(columns, white)
    adaptation = _adaptation(white)
    adapted = adaptation @ (columns * weights)
    if (weights <= 0).any() or not (np.abs(adapted) < 4).all():
        raise ValueError("the primaries span no colours")
    tags = {
        b"rXYZ": _xyz(adapted[:, 0]),
        b"gXYZ": _xyz(adapted[:, 1]),
        b"bXYZ": _xyz(adapted[:, 2]),
        b"chad": b"sf32\0\0\0\0" + _fixed(adaptation.ravel()),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve_tag(curve)),
    }
    return _profile(b"RGB ", name, tags)


def fits_channels(profile: bytes, num_channels: int) -> bool:
    """Check whether a profile is for grey (1 channel) or RGB (3)."""
    return profile[16:20] == {1: b"GRAY", 3: b"RGB "}[num_channels]


def tags_of(profile: bytes) -> dict[bytes, bytes]:
    """Read the tags of the tag table (7.3).

    Raises:
        struct.error: the table is cut off.
    """
    (num_tags,) = struct.unpack_from(">I", profile, 128)
    places = [struct.unpack_from(">4sII", profile, 132 + 12 * index) for index in range(min(num_tags, 200))]
    return {name: profile[start : start + length] for name, start, length in places}


def fitting_profile(profile: bytes, num_channels: int) -> bytes | None:
    """Make a profile for grey (1 channel) or equal RGB values (3) with another one's curve; None without a curve."""
    try:
        tags = tags_of(profile)
    except struct.error:
        return None
    space = profile[16:20]
    if space == b"RGB " and num_channels == 1 and b"A2B0" not in tags and b"gTRC" in tags:
        return _profile(b"GRAY", "Grey of the RGB profile", {b"kTRC": tags[b"gTRC"]})
    if space == b"GRAY" and num_channels == 3 and b"kTRC" in tags:
        plain = tags_of(rgb_profile("", SRGB_PRIMARIES, SRGB_CURVE))
        kept = {name: body for name, body in plain.items() if name not in (b"desc", b"cprt", b"wtpt")}
        curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tags[b"kTRC"])
        return _profile(b"RGB ", "RGB of the grey profile", {**kept, **curves})
    return None


def _adaptation(white: np.ndarray) -> np.ndarray:
    """Return [3, 3] from colours under this white point to those under D50."""
    gains = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD


def _profile(space: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    """Lay out header (7.2), tag table (7.3) and tags, equal ones once."""
    tags = {b"desc": _text(name), b"cprt": _text("No rights reserved"), b"wtpt": _xyz(_D50), **tags}
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    places: dict[bytes, int] = {}
    for tag, content in tags.items():
        if content not in places:
            places[content] = start + len(body)
            body += content + bytes(-len(content) % 4)
        table += struct.pack(">4sII", tag, places[content], len(content))
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"\0" * 4, 0x04300000, b"mntr", space, b"XYZ ")
    header += _ANY_DATE + b"acsp" + bytes(28) + _fixed(_D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _text(text: str) -> bytes:
    """Encode a multiLocalizedUnicodeType (10.13) of one text."""
    data = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(data), 28) + data


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _curve_tag(curve: Curve) -> bytes:
    """Encode a parametricCurveType (10.16): a power, or a power with a linear beginning."""
    g, a, b, c, d = curve
    if (a, b, c, d) == (1, 0, 0, 0):
        return b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _fixed([g])
    return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + _fixed([g, a, b, c, d])


def _fixed(values: object) -> bytes:
    """Encode numbers as s15Fixed16Number (4.6)."""
    numbers = np.rint(np.asarray(values, np.float64) * 65536).astype(np.int64).ravel().tolist()
    return struct.pack(f">{len(numbers)}i", *numbers)


#: The power that stands for sRGB's curve in files that state only a power (PNG, section 11.3.2.2).
_SRGB_GAMMA = 0.45455
#: Numbers of H.273 for "unspecified".
_UNSPECIFIED = (0, 2)
DAMAGED_PROFILE = "the colour profile is damaged and was left out"
#: Tolerance for equal chromaticities.
_SAME = 0.002


class StatedColors(NamedTuple):
    """Hold a file's statement of its colours, other than an ICC profile that Pillow finds.

    Attributes:
        profile: a profile that says the same and is stronger than an ICC profile of the file; None where nothing is
            stated.
        notes: statements that cannot be understood and are left out, one sentence each.
    """

    profile: bytes | None = None
    notes: tuple[str, ...] = ()


def states_colors(primaries: int, curve: int) -> bool:
    """Check whether numbers of ITU-T H.273 state anything."""
    return primaries not in _UNSPECIFIED or curve not in _UNSPECIFIED


@lru_cache(maxsize=32)
def profile_of_code_points(primaries: int, curve: int, is_grey: bool = False) -> bytes | None:
    """Make a profile from numbers of ITU-T H.273, tables 2 and 3 (cICP of PNG, nclx of AVIF and HEIC).

    None if the numbers are unspecified, or mean sRGB.

    Raises:
        PictureError: the picture is HDR, or its numbers are unknown.
    """
    if curve in HDR_CURVES:
        raise PictureError(
            f"the picture is HDR ({HDR_CURVES[curve]}), which a result could not keep; convert it to SDR first"
        )
    if not states_colors(primaries, curve) or (curve == 13 and primaries in (1, *_UNSPECIFIED)):
        return None
    stated = SRGB_PRIMARIES if primaries in _UNSPECIFIED else PRIMARIES.get(primaries)
    shape = SRGB_CURVE if curve in _UNSPECIFIED else CURVES.get(curve)
    if stated is None or shape is None:
        raise PictureError(f"the picture's colours ({primaries}/{curve} of H.273) are not known; convert it to sRGB")
    return _profile_of_curve(f"H.273 {primaries}/{curve}", stated, shape, is_grey)


def colors_of_gamma(gamma: float | None, primaries: Chromaticities | None, is_grey: bool, names: str) -> StatedColors:
    """Make a profile from a power and chromaticities (gAMA and cHRM of PNG, version 4 of BMP).

    Args:
        gamma: from linear to stored values; None takes sRGB's curve.
        primaries: white, red, green, blue; None takes sRGB's.
        is_grey: whether the picture has one channel.
        names: of the fields, for a remark.

    Returns:
        The profile, None if the values mean sRGB; a note if they make no sense.
    """
    unusable = StatedColors(None, (f"the stated colours ({names}) make no sense and were left out",))
    has_srgb_curve = gamma is None or abs(gamma - _SRGB_GAMMA) < 0.0005
    if primaries is None or _is_srgb(primaries):
        primaries = SRGB_PRIMARIES
        if has_srgb_curve:
            return StatedColors()
    if gamma is not None and not 0.05 < gamma < 20:
        return unusable
    curve = SRGB_CURVE if gamma is None or has_srgb_curve else gamma_curve(1 / gamma)
    try:
        return StatedColors(_profile_of_curve("Stated by the picture", primaries, curve, is_grey))
    except ValueError:
        return unusable


@lru_cache(maxsize=2)
def srgb_profile(is_grey: bool = False) -> bytes:
    """Make sRGB's profile, of RGB or grey."""
    return _profile_of_curve("sRGB", SRGB_PRIMARIES, SRGB_CURVE, is_grey)


@lru_cache(maxsize=1)
def adobe_rgb_profile() -> bytes:
    """Make the profile of Adobe RGB (1998), whose power is 563/256."""
    return rgb_profile("Adobe RGB (1998) compatible", ADOBE_RGB_PRIMARIES, gamma_curve(563 / 256))


def _profile_of_curve(name: str, primaries: Chromaticities, curve: Curve, is_grey: bool) -> bytes:
    if is_grey:
        return _profile(b"GRAY", name, {b"kTRC": _curve_tag(curve)})
    return rgb_profile(name, primaries, curve)


def _is_srgb(primaries: Chromaticities) -> bool:
    pairs = zip(primaries, SRGB_PRIMARIES, strict=True)
    return all(abs(stated - usual) < _SAME for pair in pairs for stated, usual in zip(*pair, strict=True))
