"""Judge whether a camera's maker notes may be moved to another place in a file. No Pillow here.

Most are a directory as in TIFF. Some makers count its offsets from the notes' own beginning, others from that of the
whole EXIF block: those point to something else as soon as a block is written anew (as in a TIFF).
"""

from __future__ import annotations

import re
import struct

MAKER_NOTE = 0x927C
TITLE = "the maker's notes (MakerNote; its entries point to places in the input's EXIF)"
#: Bytes of one value, by type (TIFF 6.0, section 2); 13 is a directory.
_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)
_ENTRY_BYTES, _INSIDE_BYTES, _MOST_ENTRIES = 12, 4, 1024
#: A maker's name, and a header as of a TIFF, precede the directory.
_LONGEST_HEADER_BYTES = 32
_INNER_HEADER = re.compile(rb"II\*\0|MM\0\*")


def can_move(note: bytes) -> bool:
    """Check that no entry of the notes' directory points outside them, counted from a beginning of their own."""
    found = [_directory(note, start, order) for start in range(min(_LONGEST_HEADER_BYTES, len(note))) for order in "<>"]
    entries = max(found, key=lambda each: sum(size <= len(note) for _, size in each), default=[])
    outside = [(offset, size) for offset, size in entries if size > _INSIDE_BYTES]
    inner = _INNER_HEADER.search(note, 0, _LONGEST_HEADER_BYTES)
    beginning = inner.start() if inner else 0
    return all(beginning + offset + size <= len(note) for offset, size in outside)


def _directory(note: bytes, start: int, order: str) -> list[tuple[int, int]]:
    """Return offset and number of bytes of each entry of a directory; none if there is no directory at that place.

    Makers write entries of types of their own, which are skipped; most entries of a directory fit into the notes.
    """
    if start + 2 > len(note):
        return []
    (count,) = struct.unpack_from(f"{order}H", note, start)
    if not 0 < count <= _MOST_ENTRIES or start + 2 + _ENTRY_BYTES * count > len(note):
        return []
    entries = []
    for index in range(count):
        _, kind, number, offset = struct.unpack_from(f"{order}HHII", note, start + 2 + _ENTRY_BYTES * index)
        if 0 < kind < len(_SIZES):
            entries.append((offset, number * _SIZES[kind]))
    num_fitting = sum(size <= len(note) for _, size in entries)
    return entries if 2 * num_fitting > count else []
