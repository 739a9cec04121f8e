"""Read the boxes of AVIF and HEIC (ISO/IEC 14496-12, 23008-12): stated colours, further contents. No Pillow here."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from s3diff.images.picture import NOT_SQUARE

#: Bytes read of a box of properties, which is small.
_LARGEST_BOX_BYTES = 1 << 24
#: Bytes read of any other box, enough to identify it.
_LOOKED_AT_BYTES = 1 << 16
_PIXELS = b"mdat"
_HIGH_DEPTH, _TWELVE_BITS = 0x40, 0x20


class TopBox(NamedTuple):
    """Describe a top-level box: kind, content as far as it is read, and length of the content."""

    kind: bytes
    body: bytes
    num_bytes: int


def code_points(file: BinaryIO) -> tuple[int, int] | None:
    """Read the H.273 numbers for primaries and curve that the file states for its primary picture (``nclx``).

    None if the file states none, or has an ICC profile, which has priority.
    """
    stated = [body for kind, body in _properties(file) if kind == b"colr"]
    if any(body[:4] in (b"prof", b"rICC") for body in stated):
        return None
    found = next((body for body in stated if body[:4] == b"nclx" and len(body) >= 8), None)
    return None if found is None else struct.unpack_from(">HH", found, 4)


def bits_of_av1(file: BinaryIO) -> int:
    """Read the bits per channel of an AVIF's primary picture (AV1 in ISOBMFF, section 2.3.3)."""
    body = next((body for kind, body in _properties(file) if kind == b"av1C"), b"")
    flags = body[2] if len(body) > 2 else 0
    return (12 if flags & _TWELVE_BITS else 10) if flags & _HIGH_DEPTH else 8


def states_cut(file: BinaryIO) -> bool:
    """Check whether only a part of the primary picture is to be shown (ISO/IEC 14496-12, ``clap``)."""
    return any(kind == b"clap" for kind, _ in _properties(file))


def aspect_notes(file: BinaryIO) -> tuple[str, ...]:
    """Note that the primary picture's pixels are not square (``pasp``)."""
    shape = next((body for kind, body in _properties(file) if kind == b"pasp" and len(body) >= 8), bytes(8))
    across, down = struct.unpack_from(">II", shape)  # of one pixel
    return () if across == down else (NOT_SQUARE.format(down, across),)


def _properties(file: BinaryIO) -> list[tuple[bytes, bytes]]:
    """Return kind and content of the primary picture's properties; of all pictures if the primary is unknown."""
    meta = next((box.body for box in top_boxes(file) if box.kind == b"meta"), b"")[4:]
    properties = list(_boxes(_first(_first(meta, b"iprp"), b"ipco")))
    places = _places_of_primary(meta)
    return [properties[place - 1] for place in places if 0 < place <= len(properties)] or properties


def _places_of_primary(meta: bytes) -> list[int]:
    """Return the numbers, from 1, of the primary picture's properties; none if they are not stated."""
    with suppress(struct.error):
        version, primary = _first(meta, b"pitm")[:1], _first(meta, b"pitm")[4:]
        (wanted,) = struct.unpack_from(">I" if version != b"\0" else ">H", primary)
        links = _first(_first(meta, b"iprp"), b"ipma")
        (head, count), place = struct.unpack_from(">II", links), 8
        item_code, property_code = ">I" if head >> 24 else ">H", ">H" if head & 1 else ">B"
        for _ in range(count):
            (item,) = struct.unpack_from(item_code, links, place)
            place += struct.calcsize(item_code)
            total, size = links[place], struct.calcsize(property_code)
            start, place = place + 1, place + 1 + total * size
            if item == wanted:
                numbers = [struct.unpack_from(property_code, links, start + size * index)[0] for index in range(total)]
                return [number & (0x7FFF if head & 1 else 0x7F) for number in numbers]
            if place >= len(links):
                break
    return []


def _first(data: bytes, wanted: bytes) -> bytes:
    return next((body for kind, body in _boxes(data) if kind == wanted), b"")


def top_boxes(file: BinaryIO) -> Iterator[TopBox]:
    """Yield the boxes of an opened file, and data behind them that is no box, without a kind.

    The file's position is not restored.
    """
    file.seek(0, os.SEEK_END)
    end, place = file.tell(), 0
    while place + 8 <= end:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        begin = place + 8
        if length == 1:
            length, begin = int.from_bytes(file.read(8), "big"), begin + 8
        elif length == 0:  # the last box extends to the end
            length = end - place
        if length < begin - place or (place + length > end and kind != _PIXELS):
            break
        place = min(place + length, end)
        looked_at = _LARGEST_BOX_BYTES if kind == b"meta" else _LOOKED_AT_BYTES
        yield TopBox(kind, file.read(min(place - begin, looked_at)), place - begin)
    if place < end:
        file.seek(place)
        yield TopBox(b"", file.read(_LOOKED_AT_BYTES), end - place)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 0
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        if length < 8:
            return
        yield kind, data[start + 8 : start + length]
        start += length
