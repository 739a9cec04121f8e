"""PNG as chunks and rows: what is written where Pillow has no mode for the pixels. No Pillow here.

Sections are those of the PNG specification, third edition.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"
#: Colour type by number of channels (section 11.2.1).
COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
#: Bytes of a block of rows that is filtered at once; candidates of all filters are held together.
_BLOCK_BYTES = 1 << 20


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk with its length and its sum (section 5.3)."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of every chunk of a whole, undamaged file."""
    start = len(PNG_START)
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        start += 12 + length


def header(array: np.ndarray) -> bytes:
    """Body of IHDR for pixels [H, W, C] of uint8 or uint16, not interlaced."""
    height, width, channels = array.shape
    return struct.pack(">IIBBBBB", width, height, 8 * array.itemsize, COLOR_TYPES[channels], 0, 0, 0)


def with_pixels(template: bytes, array: np.ndarray) -> bytes:
    """A file with these pixels [H, W, C] and everything else from another file, whose own pixels are dropped."""
    parts = [PNG_START]
    for kind, body in chunks(template):
        if kind == b"IHDR":
            parts.append(chunk(kind, header(array)))
        elif kind == b"IEND":
            parts += [chunk(b"IDAT", part) for part in compressed_rows(array)] + [chunk(kind, body)]
        elif kind != b"IDAT":
            parts.append(chunk(kind, body))
    return b"".join(parts)


def compressed_rows(array: np.ndarray) -> Iterable[bytes]:
    """The pixels [H, W, C], uint8 or uint16, filtered and compressed: the bodies of IDAT, none of them empty."""
    height, width, channels = array.shape
    step = channels * array.itemsize
    rows = max(1, _BLOCK_BYTES // (width * step))
    above = np.zeros((1, width * step), np.uint8)
    compressor = zlib.compressobj()
    for start in range(0, height, rows):
        block = array[start : start + rows]
        block = np.ascontiguousarray(block.astype(block.dtype.newbyteorder(">"), copy=False))
        plain = block.view(np.uint8).reshape(len(block), -1)
        if packed := compressor.compress(_filtered(plain, np.concatenate([above, plain[:-1]]), step).tobytes()):
            yield packed
        above = plain[-1:]
    yield compressor.flush()


def _filtered(rows: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """[R, 1 + N]: each row by the filter whose bytes, as signed numbers, have the smallest sum (section 12.7)."""
    left, corner = (np.pad(each, ((0, 0), (step, 0)))[:, : rows.shape[1]] for each in (rows, above))
    a, b, c = (each.astype(np.int16) for each in (left, above, corner))
    towards_a, towards_b, towards_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    is_a = (towards_a <= towards_b) & (towards_a <= towards_c)
    paeth = np.where(is_a, left, np.where(towards_b <= towards_c, above, corner))
    average = ((a + b) >> 1).astype(np.uint8)
    candidates = np.stack([rows, rows - left, rows - above, rows - average, rows - paeth])
    costs = np.abs(candidates.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    best = costs.argmin(axis=0)
    chosen = candidates[best, np.arange(len(rows))]
    return np.concatenate([best.astype(np.uint8)[:, None], chosen], axis=1)
