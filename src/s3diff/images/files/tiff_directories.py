"""The directories of a TIFF: which one holds the picture, and which files are raw. No Pillow here.

Sections are those of TIFF 6.0; raw files are TIFFs whose first directory mostly holds a preview.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from s3diff.errors import PictureError

NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE = 0x00FE, 0x00FF
WIDTH, HEIGHT, PHOTOMETRIC, SUB_DIRECTORIES = 0x0100, 0x0101, 0x0106, 0x014A
_DNG_VERSION = 0xC612
_WANTED = frozenset((NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, HEIGHT, PHOTOMETRIC, SUB_DIRECTORIES, _DNG_VERSION))
#: Values of a colour filter array and of linear raw (TIFF/EP, DNG).
_RAW_PHOTOMETRICS = (32803, 34892)
_REDUCED, _MASK = 1, 4
_OLD_REDUCED = 2
_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
#: No program writes so many sub-directories or so long values of the wanted tags.
_MAX_VALUES = 64


@dataclass(frozen=True)
class Directory:
    """One directory.

    Attributes:
        place: where it begins in the file.
        width: in pixels.
        height: in pixels.
        is_reduced: whether it says of itself that it is a reduced copy or a mask of another one.
        is_raw: whether it holds a sensor's values, or says that the file is a DNG.
        children: places of its sub-directories.
    """

    place: int
    width: int
    height: int
    is_reduced: bool
    is_raw: bool
    children: tuple[int, ...]

    @property
    def num_pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


class TiffDirectories:
    """Walk the directories of a TIFF or BigTIFF.

    Args:
        file: opened.
        max_directories: the walk ends after one more.
    """

    def __init__(self, file: BinaryIO, max_directories: int) -> None:
        file.seek(0)
        head = file.read(16)
        self._file, self._order = file, "<" if head.startswith(b"II") else ">"
        self._is_big = head[2:4] in (b"+\0", b"\0+")
        #: The chain, up to where it leads back or out of the file.
        self.pages: list[Directory] = []
        self.is_canon_raw = head[8:11] == b"CR\x02"
        place = self._unpack("Q" if self._is_big else "I", head, 8 if self._is_big else 4) if len(head) >= 16 else 0
        seen: set[int] = set()
        while place and place not in seen and len(seen) <= max_directories:
            seen.add(place)
            try:
                page, place = self._read(place)
            except (struct.error, OSError, OverflowError, ValueError):
                self.pages.append(Directory(place, 0, 0, False, False, ()))
                break
            self.pages.append(page)

    def full_pages(self) -> list[Directory]:
        """Find the pages that are pictures of their own: reduced copies stand back for what they are copies of.

        Where every page is marked as reduced, the larger sub-directories are taken, or else all pages as they are.

        Raises:
            PictureError: the file is raw.
        """
        children = self._children(self.pages[:1])
        if self.is_canon_raw or any(each.is_raw for each in (*self.pages[:_MAX_VALUES], *children)):
            raise PictureError("the file is a raw file of a camera; develop it first, and give the picture")
        full = [page for page in self.pages if not page.is_reduced]
        if full and full[0] is self.pages[0]:
            larger = [each for each in children if not each.is_reduced and each.num_pixels > full[0].num_pixels]
            return [*larger[:1], *full[1:]] if larger else full
        larger = [each for each in children if not each.is_reduced]
        return [*larger, *full] or self.pages

    def _children(self, pages: list[Directory]) -> list[Directory]:
        found = []
        for place in (place for page in pages for place in page.children):
            try:
                found.append(self._read(place)[0])
            except (struct.error, OSError, OverflowError, ValueError):
                continue
        return found

    def _read(self, place: int) -> tuple[Directory, int]:
        """A directory, and where the next one begins."""
        count_code, entry_bytes, link_code = ("Q", 20, "Q") if self._is_big else ("H", 12, "I")
        self._file.seek(place)
        num_entries = self._unpack(count_code, self._file.read(struct.calcsize(count_code)))
        start = self._file.tell()
        entries = self._file.read(min(num_entries, 4096) * entry_bytes)
        self._file.seek(start + num_entries * entry_bytes)
        following = self._unpack(link_code, self._file.read(struct.calcsize(link_code)))
        values: dict[int, tuple[int, ...]] = {}
        for offset in range(0, len(entries) - entry_bytes + 1, entry_bytes):
            if self._unpack("H", entries, offset) in _WANTED:
                values[self._unpack("H", entries, offset)] = self._values(entries, offset)
        width, height = (values.get(tag, (0,))[0] for tag in (WIDTH, HEIGHT))
        kind, old_kind = (values.get(tag, (0,))[0] for tag in (NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE))
        is_raw = values.get(PHOTOMETRIC, (0,))[0] in _RAW_PHOTOMETRICS or _DNG_VERSION in values
        is_reduced = bool(kind & (_REDUCED | _MASK)) or old_kind == _OLD_REDUCED
        return Directory(place, width, height, is_reduced, is_raw, values.get(SUB_DIRECTORIES, ())), following

    def _values(self, entries: bytes, offset: int) -> tuple[int, ...]:
        kind = self._unpack("H", entries, offset + 2)
        count = self._unpack("Q" if self._is_big else "I", entries, offset + 4)
        code, inline_at, inline_bytes = _CODES.get(kind), offset + (12 if self._is_big else 8), 8 if self._is_big else 4
        if code is None or not 0 < count <= _MAX_VALUES:
            return (0,)
        layout = struct.Struct(f"{self._order}{count}{code}")
        if layout.size <= inline_bytes:
            return layout.unpack_from(entries, inline_at)
        self._file.seek(self._unpack("Q" if self._is_big else "I", entries, inline_at))
        data = self._file.read(layout.size)
        return layout.unpack(data) if len(data) == layout.size else (0,)

    def _unpack(self, code: str, data: bytes, offset: int = 0) -> Any:
        return struct.unpack_from(f"{self._order}{code}", data, offset)[0]


def at_directory(file: BinaryIO, place: int) -> bytes:
    """Return a file's bytes with the directory at ``place`` as its first one."""
    file.seek(0)
    data = bytearray(file.read())
    order = "<" if data.startswith(b"II") else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    struct.pack_into(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4, place)
    return bytes(data)
