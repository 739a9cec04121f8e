"""Sixteen bits per channel of colours and transparency, which Pillow decodes but has no mode for.

Its decoders hand rows to an unpacker that takes one byte of each sample. The file is therefore decoded twice: once
with the unpacker that takes the upper bytes, once with the one that takes the lower ones. Every compression and order
of bytes that Pillow reads is so read with 16 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA_SAMPLES = 0x0102, 0x0106, 0x0115, 0x011C, 0x0152
_RGB, _PREMULTIPLIED = 2, 1


class GreyAlphaTiff(TiffImagePlugin.TiffImageFile):
    """A TIFF; grey and alpha of 16 bits, for which Pillow has no rule, are opened as the four bytes that they are."""

    #: Whether the four channels are two of 16 bits, and whether zero is white.
    holds_pairs = False
    is_inverted = False
    is_premultiplied = False
    #: By which loading turns the pixels; it removes the tag.
    stored_orientation = 1

    def _setup(self) -> None:
        orientation = self.tag_v2.get(_ORIENTATION, 1)
        self.stored_orientation = orientation if orientation in range(1, 9) else 1
        self.holds_pairs, tags = False, self.tag_v2
        bits, photometric = tags.get(_BITS_PER_SAMPLE), tags.get(_PHOTOMETRIC, 0)
        if bits == (16, 16) and photometric in (0, 1) and tags.get(_PLANAR, 1) == 1:
            self.holds_pairs, self.is_inverted = True, photometric == 0
            self.is_premultiplied = tags.get(_EXTRA_SAMPLES, ()) == (_PREMULTIPLIED,)
            tags[_BITS_PER_SAMPLE], tags[_PHOTOMETRIC], tags[_SAMPLES] = (8, 8, 8, 8), _RGB, 4
            tags[_EXTRA_SAMPLES] = (2,)
        super()._setup()


def deep_array(image: ImageFile.ImageFile, again: Callable[[], ImageFile.ImageFile]) -> np.ndarray | None:
    """Pixels [H, W, 2, 3 or 4] uint16 of a picture that has 16 bits and colour or transparency; None for any other.

    Args:
        image: opened, not loaded; it is loaded afterwards.
        again: opens the same file once more.
    """
    modes = {_raw_mode(tile) for tile in image.tile}
    order = sys.byteorder
    if isinstance(image, GreyAlphaTiff) and image.tile and image.tile[0][0] != "libtiff":
        order = "little" if image.tag_v2.prefix == b"II" else "big"
    image.load()
    if isinstance(image, GreyAlphaTiff) and image.holds_pairs:
        pairs = _pairs(image, order)
        if image.is_inverted:
            pairs[..., 0] = 65535 - pairs[..., 0]
        return _unpremultiplied(pairs) if image.is_premultiplied else pairs
    if modes == {"LA;16B"}:
        # As four bytes it is one pass.
        return _pairs(_loaded(again(), lambda _: "RGBA"), "big")
    if isinstance(image, GreyAlphaTiff) and modes <= {*"RGBA"} and set(image.tag_v2[_BITS_PER_SAMPLE]) == {16}:
        # Pillow takes uncompressed planes for planes of bytes.
        plane = f"{{}};16{'L' if image.tag_v2.prefix == b'II' else 'B'}".format
        return _with_lower_bytes(_loaded(again(), plane), again(), plane)
    if not modes or not all(";16" in mode and mode.startswith("RGB") for mode in modes):
        return None
    if any(mode.startswith("RGBa") for mode in modes):
        return _unpremultiplied(_with_lower_bytes(_loaded(again(), _as_stored), again(), _as_stored))
    return _with_lower_bytes(image, again(), _as_stored)


def _as_stored(mode: str) -> str:
    return mode.replace("RGBa", "RGBA")


def _with_lower_bytes(upper: Image.Image, again: ImageFile.ImageFile, upper_mode: Callable[[str], str]) -> np.ndarray:
    """Both bytes of each sample.

    Args:
        upper: the upper ones.
        again: the same file, not loaded.
        upper_mode: from a tile's unpacker to the one that took the upper bytes.
    """
    pixels = np.asarray(upper).astype(np.uint16)
    pixels *= 256
    pixels += np.asarray(_loaded(again, lambda mode: _other_byte(upper_mode(mode))))
    return pixels


def _loaded(image: ImageFile.ImageFile, mode_of: Callable[[str], str]) -> Image.Image:
    image.tile = [_with_raw_mode(tile, mode_of(_raw_mode(tile))) for tile in image.tile]
    image.load()
    return image


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    mode = arguments[0] if isinstance(arguments, tuple) else arguments
    return mode if isinstance(mode, str) else ""


def _with_raw_mode(tile: Any, mode: str) -> Any:
    name, box, offset, arguments = tile
    changed = (name, box, offset, (mode, *arguments[1:]) if isinstance(arguments, tuple) else mode)
    return changed if type(tile) is tuple else type(tile)(*changed)


def _other_byte(mode: str) -> str:
    """The unpacker of the lower bytes, from that of the upper ones; N is the machine's order of bytes."""
    lower = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    return mode[:-1] + lower[mode[-1]]


def _pairs(image: Image.Image, order: str) -> np.ndarray:
    """[H, W, 2] from the four bytes of each pixel."""
    values = np.ascontiguousarray(np.asarray(image)).view("<u2" if order == "little" else ">u2")
    return values.astype(np.uint16)


def _unpremultiplied(pixels: np.ndarray) -> np.ndarray:
    """[H, W, C] with colours divided by the last channel, in 16 bits."""
    alpha = pixels[..., -1:].astype(np.uint64)
    colors = (pixels[..., :-1].astype(np.uint64) * 65535 + alpha // 2) // np.maximum(alpha, 1)
    return np.concatenate([np.minimum(colors, 65535).astype(np.uint16), pixels[..., -1:]], axis=-1)
