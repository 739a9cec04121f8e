"""The colours that AVIF and HEIC state in their boxes (ISO/IEC 14496-12, 23008-12). No Pillow here."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

#: Boxes of properties are small; one that claims to be larger is not read.
_LARGEST_BOX_BYTES = 1 << 24


def code_points(file: BinaryIO) -> tuple[int, int] | None:
    """Read the numbers of H.273 for primaries and curve that the file's first picture states as ``nclx``.

    None where the file states none, or has an ICC profile, which is stronger.
    """
    file.seek(0)
    meta = next((body for kind, body in _top_boxes(file) if kind == b"meta"), b"")
    properties = _first(_first(meta[4:], b"iprp"), b"ipco")
    stated = [body for kind, body in _boxes(properties) if kind == b"colr"]
    if any(body[:4] in (b"prof", b"rICC") for body in stated):
        return None
    found = next((body for body in stated if body[:4] == b"nclx" and len(body) >= 8), None)
    return None if found is None else struct.unpack_from(">HH", found, 4)


def _first(data: bytes, wanted: bytes) -> bytes:
    return next((body for kind, body in _boxes(data) if kind == wanted), b"")


def _top_boxes(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of the file's boxes; bodies only of ``meta``."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        body_bytes = length - 8
        if length == 1:
            large = file.read(8)
            body_bytes = int.from_bytes(large, "big") - 16
        if length == 0 or body_bytes < 0:
            return
        if kind == b"meta":
            yield kind, file.read(min(body_bytes, _LARGEST_BOX_BYTES))
            return
        file.seek(body_bytes, 1)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 0
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        if length < 8:
            return
        yield kind, data[start + 8 : start + length]
        start += length
