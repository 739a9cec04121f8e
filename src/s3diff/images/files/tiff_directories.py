"""Read the directories of a TIFF: find the picture's, and recognise raw files. No Pillow here.

Sections are those of TIFF 6.0; raw files are TIFFs whose first directory mostly holds a preview.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from s3diff.errors import PictureError
from s3diff.formats import RAW

NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE = 0x00FE, 0x00FF
WIDTH, HEIGHT, PHOTOMETRIC, SUB_DIRECTORIES = 0x0100, 0x0101, 0x0106, 0x014A
_DNG_VERSION = 0xC612
_WANTED = frozenset((NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, HEIGHT, PHOTOMETRIC, SUB_DIRECTORIES, _DNG_VERSION))
#: Values of a colour filter array and of linear raw (TIFF/EP, DNG).
_RAW_PHOTOMETRICS = (32803, 34892)
_REDUCED, _MASK = 1, 4
_OLD_REDUCED = 2
_LONG = 4
_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
#: Behind the header: Canon's CR2, Phase One's IIQ.
_MARKS_OF_RAW = re.compile(rb"CR\x02|.{0,16}?(?:IIII.waR|MMMMRaw)", re.S)
_HEADER_BYTES, _HEAD_BYTES = 16, 32
#: Limits above what any program writes for these tags.
_MAX_VALUES = 64
#: Types of bytes; of an entry of these no more is read.
_BYTES, _MAX_BYTES = (1, 2, 7), 1 << 26


@dataclass(frozen=True)
class Directory:
    """Describe one directory.

    Attributes:
        place: where it begins in the file.
        width: in pixels.
        height: in pixels.
        is_reduced: whether it is marked as a reduced copy or a mask of another one.
        is_mask: whether it is marked as a transparency mask.
        is_raw: whether it holds a sensor's values, or marks the file as a DNG.
        children: places of its sub-directories.
        entries: start of each tag's entry in the file.
        data: the bytes of the entries.
    """

    place: int
    width: int
    height: int
    is_reduced: bool
    is_mask: bool
    is_raw: bool
    children: tuple[int, ...]
    entries: dict[int, int]
    data: bytes = field(repr=False)

    @property
    def num_pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


class TiffDirectories:
    """Walk the directories of a TIFF or BigTIFF, up to one more than the most that are allowed."""

    def __init__(self, file: BinaryIO, max_directories: int) -> None:
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        self._file = file
        #: ``<`` or ``>``; and whether it is a BigTIFF.
        self.order, self.is_big = "<" if head.startswith(b"II") else ">", head[2:4] in (b"+\0", b"\0+")
        #: The chain of directories, up to a loop or the end of the file.
        self.pages: list[Directory] = []
        self._is_marked_raw = _MARKS_OF_RAW.match(head, 8) is not None
        place = (
            self._unpack("Q" if self.is_big else "I", head, 8 if self.is_big else 4)
            if len(head) >= _HEADER_BYTES
            else 0
        )
        seen: set[int] = set()
        while place and place not in seen and len(seen) <= max_directories:
            seen.add(place)
            try:
                page, place = self._read(place)
            except (struct.error, OSError, OverflowError, ValueError):
                self.pages.append(Directory(place, 0, 0, False, False, False, (), {}, b""))
                break
            self.pages.append(page)

    def full_pages(self) -> list[Directory]:
        """Find the full pages: a reduced copy counts only without its original.

        If every page is marked as reduced, the larger sub-directories count, or else all pages.

        Raises:
            PictureError: the file is raw.
        """
        children = self._children(self.pages[:1])
        if self._is_marked_raw or any(each.is_raw for each in (*self.pages[:_MAX_VALUES], *children)):
            raise PictureError(f"the file is {RAW.name}; {RAW.advice}")
        full = [page for page in self.pages if not page.is_reduced]
        if full and full[0] is self.pages[0]:
            larger = [each for each in children if not each.is_reduced and each.num_pixels > full[0].num_pixels]
            return [*larger[:1], *full[1:]] if larger else full
        larger = [each for each in children if not each.is_reduced]
        return [*larger, *full] or self.pages

    def contents_left_out(self, page: Directory) -> list[str]:
        """Return the titles of masks and of further pictures in sub-directories, which are left behind with a page."""
        after = self.pages[self.pages.index(page) + 1 :] if page in self.pages else []
        own = list(itertools.takewhile(lambda each: each.is_reduced, after))  # up to the next picture
        children = [each for each in self._children([page, *self.pages[:1]]) if each.place != page.place]
        has_mask = any(each.is_mask for each in (*own, *children))
        has_more = any(not each.is_reduced and each.num_pixels for each in children)
        return ["a transparency mask"] * has_mask + ["a further picture in a sub-directory"] * has_more

    def _children(self, pages: list[Directory]) -> list[Directory]:
        found = []
        for place in (place for page in pages for place in page.children):
            try:
                found.append(self._read(place)[0])
            except (struct.error, OSError, OverflowError, ValueError):
                continue
        return found

    def _read(self, place: int) -> tuple[Directory, int]:
        """Read a directory and the place of the next one."""
        count_code, entry_bytes, link_code = ("Q", 20, "Q") if self.is_big else ("H", 12, "I")
        self._file.seek(place)
        num_entries = self._unpack(count_code, self._file.read(struct.calcsize(count_code)))
        start = self._file.tell()
        entries = self._file.read(min(num_entries, 4096) * entry_bytes)
        self._file.seek(start + num_entries * entry_bytes)
        following = self._unpack(link_code, self._file.read(struct.calcsize(link_code)))
        tags = struct.unpack_from(f"{self.order}{f'H{entry_bytes - 2}x' * (len(entries) // entry_bytes)}", entries)
        places = {tag: start + entry_bytes * index for index, tag in enumerate(tags)}
        values = {tag: self._values(entries, places[tag] - start) for tag in _WANTED & places.keys()}
        width, height = (values.get(tag, (0,))[0] for tag in (WIDTH, HEIGHT))
        kind, old_kind = (values.get(tag, (0,))[0] for tag in (NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE))
        is_raw = values.get(PHOTOMETRIC, (0,))[0] in _RAW_PHOTOMETRICS or _DNG_VERSION in values
        is_reduced = bool(kind & (_REDUCED | _MASK)) or old_kind == _OLD_REDUCED
        children = values.get(SUB_DIRECTORIES, ())
        is_mask = bool(kind & _MASK)
        return Directory(place, width, height, is_reduced, is_mask, is_raw, children, places, entries), following

    def numbers(self, directory: Directory, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Read whole numbers of a directory's entry, at most ``_MAX_VALUES``; the default if it is missing."""
        if tag not in directory.entries:
            return default
        return self._values(directory.data, directory.entries[tag] - directory.place - (8 if self.is_big else 2))

    def content(self, directory: Directory, tag: int) -> bytes:
        """Read an entry of bytes (BYTE, ASCII or UNDEFINED); empty where there is none, or not in the file."""
        if tag not in directory.entries:
            return b""
        offset = directory.entries[tag] - directory.place - (8 if self.is_big else 2)
        code, place_at = ("Q", offset + 12) if self.is_big else ("I", offset + 8)
        kind, count = struct.unpack_from(f"{self.order}H{code}", directory.data, offset + 2)
        if kind not in _BYTES or count > _MAX_BYTES:
            return b""
        if count <= (8 if self.is_big else 4):
            return directory.data[place_at : place_at + count]
        self._file.seek(self._unpack(code, directory.data, place_at))
        found = self._file.read(count)
        return found if len(found) == count else b""

    def _values(self, entries: bytes, offset: int) -> tuple[int, ...]:
        kind = self._unpack("H", entries, offset + 2)
        count = self._unpack("Q" if self.is_big else "I", entries, offset + 4)
        code, inline_at, inline_bytes = _CODES.get(kind), offset + (12 if self.is_big else 8), 8 if self.is_big else 4
        if code is None or not 0 < count <= _MAX_VALUES:
            return (0,)
        layout = struct.Struct(f"{self.order}{count}{code}")
        if layout.size <= inline_bytes:
            return layout.unpack_from(entries, inline_at)
        self._file.seek(self._unpack("Q" if self.is_big else "I", entries, inline_at))
        data = self._file.read(layout.size)
        return layout.unpack(data) if len(data) == layout.size else (0,)

    def _unpack(self, code: str, data: bytes, offset: int = 0) -> Any:
        return struct.unpack_from(f"{self.order}{code}", data, offset)[0]


class PatchedTiff:
    """Copy a file's bytes with another directory as the first one, whose entries can be changed."""

    def __init__(self, file: BinaryIO, directories: TiffDirectories, directory: Directory) -> None:
        file.seek(0)
        self.data = bytearray(file.read())
        self._order, self._is_big, self._directory = directories.order, directories.is_big, directory
        self._pack("Q" if self._is_big else "I", 8 if self._is_big else 4, directory.place)

    def set(self, tag: int, value: int) -> None:
        """Set an existing entry to one LONG."""
        entry = self._directory.entries.get(tag)
        if entry is not None:
            self._pack("HQ" if self._is_big else "HI", entry + 2, _LONG, 1)
            self._pack("I", entry + (12 if self._is_big else 8), value)

    def rename(self, tag: int, new: int) -> None:
        """Change the tag of an existing entry."""
        if tag in self._directory.entries:
            self._pack("H", self._directory.entries[tag], new)

    def count(self, tag: int) -> int:
        """Count the numbers of an existing entry."""
        code = "Q" if self._is_big else "I"
        return int(struct.unpack_from(f"{self._order}{code}", self.data, self._directory.entries[tag] + 4)[0])

    def keep_part(self, tag: int, first: int, count: int) -> None:
        """Reduce an entry of several numbers to ``count`` of them from ``first``.

        Raises:
            struct.error: the entry has fewer.
        """
        entry = self._directory.entries[tag]
        code, place_at = "Q" if self._is_big else "I", entry + (12 if self._is_big else 8)
        kind, total = struct.unpack_from(f"{self._order}H{code}", self.data, entry + 2)
        each, inline_bytes = struct.calcsize(f"={_CODES[kind]}"), 8 if self._is_big else 4
        if first + count > total:
            raise struct.error
        place = place_at
        if total * each > inline_bytes:
            (place,) = struct.unpack_from(f"{self._order}{code}", self.data, place_at)
        part = bytes(self.data[place + first * each : place + (first + count) * each])
        self._pack(code, entry + 4, count)
        if len(part) <= inline_bytes:
            self.data[place_at : place_at + inline_bytes] = part.ljust(inline_bytes, b"\0")
        else:
            self._pack(code, place_at, place + first * each)

    def opened(self) -> BinaryIO:
        """Return the bytes as a file."""
        return io.BytesIO(self.data)

    def _pack(self, code: str, place: int, *values: int) -> None:
        struct.pack_into(f"{self._order}{code}", self.data, place, *values)
