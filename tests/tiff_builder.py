"""TIFF files made byte by byte: any kind of numbers, strips or tiles, planes, compression, predictors, directories."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

#: Entries of a directory: tag, type, values.
Entries = dict[int, tuple[int, list[int]]]


class Tiff:
    """A file made of directories; ``>`` or ``<``."""

    def __init__(self, order: str = "<") -> None:
        self.order, self.data = order, bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8))

    def directory(self, pixels: np.ndarray, extra: Entries, following: int = 0) -> int:
        """Append pixels in one strip and a directory; returns its place."""
        values = pixels.astype(pixels.dtype.newbyteorder(self.order)).tobytes()
        place_of_pixels = len(self.data)
        self.data += values
        height, width, channels = pixels.shape
        tags: Entries = {
            256: (4, [width]), 257: (4, [height]), 258: (3, [8 * pixels.itemsize] * channels), 259: (3, [1]),
            262: (3, [2 if channels == 3 else 1]), 273: (4, [place_of_pixels]), 277: (3, [channels]),
            278: (4, [height]), 279: (4, [len(values)]), 284: (3, [1]), **extra,
        }  # fmt: skip
        return self.entries(tags, following)

    def entries(self, tags: Entries, following: int = 0) -> int:
        """Append a directory; returns its place."""
        entries = b""
        for tag, (kind, numbers) in sorted(tags.items()):
            code = {1: "B", 3: "H", 4: "I", 5: "II", 12: "d"}[kind]
            count = len(numbers) // len(code)
            body = struct.pack(f"{self.order}{code * count}", *numbers)
            if len(body) > 4:
                place, self.data = len(self.data), self.data + body
                body = struct.pack(f"{self.order}I", place)
            entries += struct.pack(f"{self.order}HHI", tag, kind, count) + body.ljust(4, b"\0")
        place = len(self.data)
        self.data += struct.pack(f"{self.order}H", len(tags)) + entries + struct.pack(f"{self.order}I", following)
        return place

    def begin_at(self, place: int) -> bytes:
        struct.pack_into(f"{self.order}I", self.data, 4, place)
        return bytes(self.data)


class Storage(NamedTuple):
    """How numbers lie in the file: rows of a strip, side of a tile, planes, compression, predictor."""

    rows: int = 3
    tile: int = 0
    planar: bool = False
    compression: int = 1
    predictor: int = 1


def stored(
    values: np.ndarray, photometric: int, extra: Entries, order: str = "<", how: Storage | None = None, bits: int = 0
) -> bytes:
    """A file of [H, W, S] numbers.

    Args:
        values: in the type that the file holds; of other numbers of bits in one that holds them.
        photometric: TIFF 6.0.
        extra: further entries.
        order: of bytes.
        how: the layout.
        bits: per number, where these are not the type's.
    """
    how, tiff = how or Storage(), Tiff(order)
    height, width, samples = values.shape
    planes = [values[..., i : i + 1] for i in range(samples)] if how.planar else [values]
    places, lengths = [], []
    for plane in planes:
        for part in _parts(plane, how):
            body = _packed(_differences(part, how.predictor, order), bits, order)
            body = {1: lambda b: b, 5: _lzw, 8: zlib.compress}[how.compression](body)
            places.append(len(tiff.data))
            lengths.append(len(body))
            tiff.data += body
    tags: Entries = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits or 8 * values.itemsize] * samples),
        259: (3, [how.compression]), 262: (3, [photometric]), 277: (3, [samples]),
        284: (3, [2 if how.planar else 1]), 317: (3, [how.predictor]),
    }  # fmt: skip
    if values.dtype.kind != "u":
        tags[339] = (3, [{"f": 3, "i": 2}[values.dtype.kind]] * samples)
    if how.tile:
        tags |= {322: (4, [how.tile]), 323: (4, [how.tile]), 324: (4, places), 325: (4, lengths)}
    else:
        tags |= {273: (4, places), 278: (4, [how.rows]), 279: (4, lengths)}
    return tiff.begin_at(tiff.entries({**tags, **extra}))


def _parts(plane: np.ndarray, how: Storage) -> list[np.ndarray]:
    if not how.tile:
        return [plane[start : start + how.rows] for start in range(0, len(plane), how.rows)]
    side = how.tile
    below, right = -len(plane) % side, -plane.shape[1] % side
    padded = np.pad(plane, ((0, below), (0, right), (0, 0)))
    return [
        padded[top : top + side, left : left + side]
        for top in range(0, len(padded), side)
        for left in range(0, padded.shape[1], side)
    ]


def _differences(part: np.ndarray, predictor: int, order: str) -> np.ndarray:
    if predictor == 1:
        return part
    if predictor == 2:
        whole = part.view(f"u{part.itemsize}")
        return np.concatenate([whole[:, :1], whole[:, 1:] - whole[:, :-1]], axis=1)
    height, width, samples = part.shape
    bytes_of = part.astype(part.dtype.newbyteorder(">")).view(np.uint8).reshape(height, width * samples, part.itemsize)
    rows = bytes_of.swapaxes(1, 2).reshape(height, -1, samples)
    return np.concatenate([rows[:, :1], rows[:, 1:] - rows[:, :-1]], axis=1)


def _packed(values: np.ndarray, bits: int, order: str) -> bytes:
    if not bits:
        return values.astype(values.dtype.newbyteorder(order)).tobytes()
    rows = values.reshape(len(values), -1)
    if bits == 24:
        wide = rows.astype(f"{order}u4").view(np.uint8).reshape(len(rows), -1, 4)
        return (wide[..., :3] if order == "<" else wide[..., 1:]).tobytes()
    digits = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def _lzw(body: bytes) -> bytes:
    """As libtiff makes it: the strip of a picture of one row."""
    data = io.BytesIO()
    Image.frombytes("L", (len(body), 1), body).save(data, "TIFF", compression="tiff_lzw")
    with Image.open(data) as image:
        start, length = image.tag_v2[273][0], image.tag_v2[279][0]  # type: ignore[attr-defined]
    return data.getvalue()[start : start + length]
