"""Make ICC profiles of other statements about a file's colours: gamma, primaries, code points."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from s3diff.errors import PictureError
from s3diff.images.icc_profiles import (
    ADOBE_RGB_PRIMARIES,
    CURVES,
    HDR_CURVES,
    PRIMARIES,
    SRGB_CURVE,
    SRGB_PRIMARIES,
    Chromaticities,
    Curve,
    gamma_curve,
    grey_profile,
    rgb_profile,
)

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
    """Make a profile from numbers of ITU-T H.273 (cICP of PNG, nclx of AVIF and HEIC).

    Args:
        primaries: number of table 2.
        curve: number of table 3.
        is_grey: whether the picture has one channel.

    Returns:
        The profile; None if the numbers are unspecified, or mean sRGB.

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
    return _profile(f"H.273 {primaries}/{curve}", stated, shape, is_grey)


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
        return StatedColors(_profile("Stated by the picture", primaries, curve, is_grey))
    except ValueError:
        return unusable


@lru_cache(maxsize=2)
def srgb_profile(is_grey: bool = False) -> bytes:
    """Make sRGB's profile, of RGB or grey."""
    return _profile("sRGB", SRGB_PRIMARIES, SRGB_CURVE, is_grey)


@lru_cache(maxsize=1)
def adobe_rgb_profile() -> bytes:
    """Make the profile of Adobe RGB (1998), whose power is 563/256."""
    return rgb_profile("Adobe RGB (1998) compatible", ADOBE_RGB_PRIMARIES, gamma_curve(563 / 256))


def _profile(name: str, primaries: Chromaticities, curve: Curve, is_grey: bool) -> bytes:
    return grey_profile(name, curve) if is_grey else rgb_profile(name, primaries, curve)


def _is_srgb(primaries: Chromaticities) -> bool:
    pairs = zip(primaries, SRGB_PRIMARIES, strict=True)
    return all(abs(stated - usual) < _SAME for pair in pairs for stated, usual in zip(*pair, strict=True))
