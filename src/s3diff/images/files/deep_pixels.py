"""Read 16-bit PNG with colours or transparency, for which Pillow has no mode.

Pillow's decoders pass rows to an unpacker that keeps one byte of each sample. So the file is decoded twice: once for
the upper bytes, once for the lower ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile


def deep_array(image: ImageFile.ImageFile, again: Callable[[], ImageFile.ImageFile]) -> np.ndarray | None:
    """Read [H, W, 2, 3 or 4] uint16 of a picture with 16 bits and colour or transparency; None for others.

    Args:
        image: opened, not loaded; it is loaded afterwards.
        again: opens the same file once more.
    """
    modes = {_raw_mode(tile) for tile in image.tile}
    image.load()
    if modes == {"LA;16B"}:
        # Read as four bytes it takes one pass.
        return _pairs(_loaded(again(), lambda _: "RGBA"))
    if not modes or not all(";16" in mode and mode.startswith("RGB") for mode in modes):
        return None
    return _with_lower_bytes(image, again())


def _with_lower_bytes(upper: Image.Image, again: ImageFile.ImageFile) -> np.ndarray:
    """Join both bytes of each sample.

    Args:
        upper: the upper bytes.
        again: the same file, not loaded.
    """
    pixels = np.asarray(upper).astype(np.uint16)
    pixels *= 256
    pixels += np.asarray(_loaded(again, _other_byte))
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
    """Return the unpacker of the lower bytes for that of the upper ones; N means the machine's byte order."""
    lower = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    return mode[:-1] + lower[mode[-1]]


def _pairs(image: Image.Image) -> np.ndarray:
    """Read [H, W, 2] from the four bytes of each pixel."""
    return np.ascontiguousarray(np.asarray(image)).view(">u2").astype(np.uint16)
