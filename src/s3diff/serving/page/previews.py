"""Pictures as a browser shows them: for formats that none displays, and for results too large for one."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from s3diff.images.codecs import (
    Picture,
    alpha_from_tensor,
    alpha_to_tensor,
    from_tensor,
    read_picture,
    to_tensor,
    write_picture,
)
from s3diff.images.resampling import enlarge

#: Largest side of a preview; twice the width of a usual screen.
PREVIEW_PX = 3200
PREVIEW_TYPE = "image/webp"
_QUALITY = 92


def preview(path: Path, max_pixels: int, max_bytes: int, largest_px: int = PREVIEW_PX) -> bytes:
    """A picture of at most ``largest_px`` a side as WebP, 8 bit, with its profile and transparency.

    Raises:
        PictureError: it cannot be read, or is larger than ``max_pixels`` or ``max_bytes``.
    """
    picture = _reduced(read_picture(path, max_pixels, max_bytes), largest_px)
    with tempfile.TemporaryDirectory(prefix="s3diff-preview-") as folder:
        target = Path(folder) / "preview.webp"
        write_picture(picture, target, quality=_QUALITY)
        return target.read_bytes()


def _reduced(picture: Picture, largest_px: int) -> Picture:
    """In 8 bits, without metadata, and no larger than asked for."""
    picture = _in_blocks(picture, max(picture.width, picture.height) // largest_px)
    factor = min(1.0, largest_px / max(picture.width, picture.height))
    height, width = (max(1, round(side * factor)) for side in (picture.height, picture.width))
    # The depth of the result; its size is the tensor's own.
    like = replace(picture, pixels=np.zeros((1, 1, picture.pixels.shape[2]), np.uint8), alpha=None)
    pixels = from_tensor(enlarge(to_tensor(picture), height, width, mode="bicubic"), like)
    alpha = None
    if picture.alpha is not None:
        opacity = enlarge(alpha_to_tensor(picture), height, width, mode="bicubic")
        alpha = alpha_from_tensor(opacity, like)
    return Picture(pixels, alpha, icc_profile=picture.icc_profile)


def _in_blocks(picture: Picture, side: int) -> Picture:
    """Means of blocks of ``side`` x ``side`` pixels, so that a large picture never lies in memory as floats."""
    if side < 2 or min(picture.width, picture.height) < side:
        return picture

    def means(plane: np.ndarray) -> np.ndarray:
        height, width = plane.shape[0] // side, plane.shape[1] // side
        made = np.empty((height, width, plane.shape[2]), plane.dtype)
        for row in range(height):
            band = plane[row * side : (row + 1) * side, : width * side]
            made[row] = band.reshape(side, width, side, -1).mean(axis=(0, 2)).round()
        return made

    alpha = None if picture.alpha is None else means(picture.alpha[..., None])[..., 0]
    return replace(picture, pixels=means(picture.pixels), alpha=alpha)
