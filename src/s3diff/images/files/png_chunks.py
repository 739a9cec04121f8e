"""Read and write PNG as chunks and rows, for pixels and data that Pillow does not support.

No Pillow here. Sections are those of the PNG specification, third edition.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"
#: Texts in Latin-1, the same compressed, and in UTF-8.
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_EXIF = b"eXIf"
#: Lengths that chunks about colours and sizes have (sections 11.3.2, 11.3.4).
_LENGTHS = {b"cICP": 4, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
#: Colour type by number of channels (section 11.2.1).
COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
#: Chunks around the pixels are small; a larger one is left to Pillow, which has limits of its own.
_LARGEST_CHUNK_BYTES = 1 << 26
#: Bytes of a block of rows that is filtered at once; candidates of all filters are held together.
_BLOCK_BYTES = 1 << 20


def chunk(kind: bytes, body: bytes) -> bytes:
    """Make one chunk with its length and checksum (section 5.3)."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Read kind and body of every chunk of a whole, undamaged file."""
    start = len(PNG_START)
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        start += 12 + length


class ReadChunks(NamedTuple):
    """Hold chunks of an undamaged file.

    Attributes:
        leading: kind and body of those before the pixels, the first of each kind.
        texts: kind and body of every text, wherever it stands.
        exif: the body of every block of EXIF.
    """

    leading: dict[bytes, bytes]
    texts: tuple[tuple[bytes, bytes], ...]
    exif: tuple[bytes, ...]


def read_chunks(file: BinaryIO) -> ReadChunks:
    """Read the chunks before the pixels, and texts and EXIF wherever they stand; go back to the file's beginning."""
    leading: dict[bytes, bytes] = {}
    texts, exif, is_before_pixels = [], [], True
    for kind, start, length in _places(file):
        is_before_pixels = is_before_pixels and kind != b"IDAT"
        if not is_before_pixels and kind not in (*TEXT_CHUNKS, _EXIF):
            continue
        file.seek(start)
        body = file.read(min(length, _LARGEST_CHUNK_BYTES))
        if is_before_pixels:
            leading.setdefault(kind, body)
        if kind in TEXT_CHUNKS:
            texts.append((kind, body))
        elif kind == _EXIF:
            exif.append(body)
    file.seek(0)
    return ReadChunks(leading, tuple(texts), tuple(exif))


def without_damaged_chunks(file: BinaryIO) -> tuple[BinaryIO, tuple[str, ...]]:
    """Leave out ancillary chunks with a wrong checksum or length: a picture does not depend on them (section 5.4).

    The chunks of an animation count as pixels.

    Returns:
        The file at its beginning, or a copy in memory without these chunks; and the names of the chunks.
    """
    damaged = []
    for kind, start, length in _places(file):
        is_ancillary = kind[0] & 0x20 and kind not in (b"acTL", b"fcTL", b"fdAT")
        if is_ancillary and length <= _LARGEST_CHUNK_BYTES:
            file.seek(start)
            body, stored = file.read(length), file.read(4)
            is_right = zlib.crc32(kind + body) == int.from_bytes(stored, "big")
            if len(stored) == 4 and not (is_right and length == _LENGTHS.get(kind, length)):
                damaged.append((start - 8, start + length + 4, kind.decode("latin-1")))
    file.seek(0)
    if not damaged:
        return file, ()
    parts, place = [], 0
    for begin, end, _ in damaged:
        parts.append(file.read(begin - place))
        file.seek(end)
        place = end
    parts.append(file.read())
    file.seek(0)
    return io.BytesIO(b"".join(parts)), tuple(dict.fromkeys(name for *_, name in damaged))


def _places(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start of the body and length of every chunk, up to the end of the file's structure."""
    place = len(PNG_START)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or not head[4:].isalpha():
            return
        length = int.from_bytes(head[:4], "big")
        yield head[4:], place + 8, length
        place += 12 + length
        if head[4:] == b"IEND":
            return


def header(array: np.ndarray) -> bytes:
    """Make the body of IHDR for pixels [H, W, C] of uint8 or uint16, not interlaced."""
    height, width, channels = array.shape
    return struct.pack(">IIBBBBB", width, height, 8 * array.itemsize, COLOR_TYPES[channels], 0, 0, 0)


def with_pixels(template: bytes, array: np.ndarray) -> bytes:
    """Make a file with these pixels [H, W, C] and the other chunks of another file."""
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
    """Filter and compress pixels [H, W, C], uint8 or uint16: the bodies of IDAT, none of them empty."""
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
    """Return [R, 1 + N]: each row by the filter whose bytes, as signed numbers, sum to the least (section 12.7)."""
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
