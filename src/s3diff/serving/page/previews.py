"""Make what the page shows and saves: previews, pieces, and one zip file of several results."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from s3diff.errors import OptionError
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, alpha_from_tensor, alpha_to_tensor, from_tensor, to_tensor
from s3diff.images.resampling import enlarge
from s3diff.restoration.result import Result

#: Largest side of a preview; twice the width of a usual screen.
PREVIEW_PX = 3200
PREVIEW_TYPE, PIECE_TYPE = "image/webp", "image/png"
_QUALITY = 92


def preview(picture: Picture, largest_px: int = PREVIEW_PX) -> bytes:
    """Make a WebP of at most ``largest_px`` a side, 8 bit, with profile and transparency."""
    return _written(_reduced(picture, largest_px), "preview.webp")


def piece(picture: Picture, box: Sequence[int]) -> bytes:
    """Cut out a part of a picture, without scaling, as PNG.

    Args:
        picture: the whole.
        box: left, top, right and bottom edge in pixels, cut at the picture's edges.

    Raises:
        OptionError: the box lies outside the picture.
    """
    left, top, right, bottom = (max(0, edge) for edge in box)
    rows, columns = slice(top, bottom), slice(left, right)
    pixels = picture.pixels[rows, columns]
    if pixels.size == 0:
        raise OptionError(f"box is {tuple(box)}; give one inside {picture.width} x {picture.height} pixels")
    alpha = None if picture.alpha is None else picture.alpha[rows, columns]
    return _written(Picture(pixels, alpha, icc_profile=picture.icc_profile), "piece.png")


def _written(picture: Picture, name: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="s3diff-preview-") as folder:
        target = Path(folder) / name
        write_picture(picture, target, quality=_QUALITY)
        return target.read_bytes()


def _reduced(picture: Picture, largest_px: int) -> Picture:
    """Convert to 8 bits without metadata, at the given size at most."""
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
    """Return means of blocks of ``side`` x ``side`` pixels, so that a large picture is never held as floats."""
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


_READ_BYTES = 1 << 20


class _Pipe:
    """Hold written bytes until they are taken; not seekable."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: no bytes are buffered."""

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def zip_of(results: Sequence[Result]) -> Iterator[bytes]:
    """Yield the bytes of an archive with every result, uncompressed (pictures are); number repeated names."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, result in zip(distinct_names([each.name for each in results]), results, strict=True):
            with result.path.open("rb") as file, archive.open(name, "w", force_zip64=True) as entry:
                while part := file.read(_READ_BYTES):
                    entry.write(part)
                    yield pipe.take()
            yield pipe.take()
    yield pipe.take()


def distinct_names(names: Sequence[str]) -> list[str]:
    """Make names distinct: ``photo.jpg``, ``photo (2).jpg``. Case is ignored, as on many disks."""
    taken: set[str] = set()
    chosen = []
    for name in names:
        path, number, candidate = PurePath(name), 1, name
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{path.stem} ({number}){path.suffix}"
        taken.add(candidate.casefold())
        chosen.append(candidate)
    return chosen
