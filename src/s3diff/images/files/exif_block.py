"""Change numbers of an EXIF block in place: rewriting would move data that maker notes point to.

Offsets count from the end of the prefix (TIFF 6.0, section 2). Data outside the block counts as absent.
"""

from __future__ import annotations

import struct
from fractions import Fraction

from PIL import Image

#: Where cameras state Adobe RGB without a profile.
_EXIF_GROUP, _INTEROPERABILITY_GROUP = 0x8769, 0xA005
_COLOR_SPACE, _INTEROPERABILITY_INDEX = 0xA001, 1
_ADOBE_RGB = 2
#: DCF option file (CIPA DC-009, section 5.3): Adobe RGB.
_ADOBE_RGB_INDEX = b"R03"

EXIF_PREFIX = b"Exif\x00\x00"
#: Directories that an entry of another one leads to (CIPA DC-008, section 4.6.3).
_LINKS = {"ExifIFD": ("IFD0", 0x8769), "GPS": ("IFD0", 0x8825), "InteropIFD": ("ExifIFD", 0xA005)}
_THUMBNAIL_START, _THUMBNAIL_BYTES = 0x0201, 0x0202
_SHORT, _LONG, _RATIONAL, _SIGNED_RATIONAL, _FLOATS = 3, 4, 5, 10, (11, 12)
#: Types of numbers: their code for struct, and how many of those make one number.
_NUMBERS = {1: ("B", 1), _SHORT: ("H", 1), _LONG: ("I", 1), _RATIONAL: ("I", 2), 8: ("h", 1), 9: ("i", 1)}
_NUMBERS |= {_SIGNED_RATIONAL: ("i", 2), 11: ("f", 1), 12: ("d", 1)}
_MAX_SHORT, _MAX_LONG, _MAX_SIGNED = 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF
#: Limit above the number of values of any field of coordinates.
_MAX_COUNT = 1024


class ExifBlock:
    """Read and change an EXIF block.

    Args:
        exif: with its prefix ``Exif\\0\\0``; a bytearray is changed in place.
        start: where offsets count from, if not from behind the prefix.
        first: offset of the first directory, if the block does not say it.
        order: ``<`` or ``>``, if the block does not say it.
    """

    def __init__(
        self, exif: bytes | bytearray, start: int = len(EXIF_PREFIX), first: int | None = None, order: str = ""
    ) -> None:
        self.data = exif if isinstance(exif, bytearray) else bytearray(exif)
        self._start, self._first = start, first
        self._order = order or ("<" if exif[start : start + 2] == b"II" else ">")
        #: Entries of the directories read so far, by offset; see :meth:`_entries`.
        self._known: dict[int, dict[int, int]] = {}

    def numbers(self, directory: str, tag: int) -> tuple[Fraction, ...] | None:
        """Return an entry's numbers; None if there is no such entry, or it holds no numbers."""
        try:
            entry = self._find(directory, tag)
            return None if entry is None else self._numbers_of(entry)
        except (struct.error, ZeroDivisionError, ValueError, OverflowError):  # also of numbers that are not finite
            return None

    def set_numbers(self, directory: str, tag: int, numbers: tuple[float | Fraction, ...]) -> bool:
        """Change an entry's numbers, rounded as its type requires; SHORT becomes LONG if necessary.

        Returns:
            Whether the type can hold them.
        """
        try:
            entry = self._find(directory, tag)
            return entry is not None and self._set(entry, numbers)
        except (struct.error, OverflowError):
            return False

    def remove(self, directory: str, tag: int) -> bool:
        """Remove an entry; later entries of the directory move up. Return whether it existed."""
        try:
            entry, offset = self._find(directory, tag), self._directory(directory)
            self._known.clear()
            if entry is None or offset is None:
                return False
            count = self._unpack("H", self._start + offset)
            end = self._start + offset + 2 + 12 * count + 4
            if end > len(self.data):
                raise struct.error
            self.data[entry:end] = self.data[entry + 12 : end] + bytes(12)
            struct.pack_into(f"{self._order}H", self.data, self._start + offset, count - 1)
        except struct.error:
            return False
        return True

    def bytes_of(self, directory: str, tag: int) -> tuple[int, int] | None:
        """Return start and length of an entry's bytes in ``data``; None if they lie outside."""
        try:
            entry = self._find(directory, tag)
            if entry is None:
                return None
            count, offset = self._unpack("I", entry + 4), self._unpack("I", entry + 8)
        except struct.error:
            return None
        begin = entry + 8 if count <= 4 else self._start + offset
        return (begin, count) if begin + count <= len(self.data) else None

    def drop_thumbnail(self) -> None:
        """Cut the link to the second directory, and blank the thumbnail's bytes."""
        try:
            first = self._directory("IFD0") or 0
            link = self._start + first + 2 + 12 * self._unpack("H", self._start + first)
            second = self._unpack("I", link)
            if not second:
                return
            struct.pack_into(f"{self._order}I", self.data, link, 0)
            found = {tag: self._unpack("I", entry + 8) for tag, entry in self._entries(second).items()}
        except struct.error:
            return
        begin = self._start + found.get(_THUMBNAIL_START, 0)
        end = min(begin + found.get(_THUMBNAIL_BYTES, 0), len(self.data))
        if self.data[begin : begin + 2] == b"\xff\xd8":  # only what is a JPEG picture for sure
            self.data[begin:end] = bytes(max(0, end - begin))
            if end == len(self.data):
                del self.data[begin:]

    def _directory(self, name: str) -> int | None:
        """Return a directory's offset."""
        if name == "IFD0":
            return self._unpack("I", self._start + 4) if self._first is None else self._first
        parent, tag = _LINKS[name]
        link = self._find(parent, tag)
        return None if link is None else self._unpack("I", link + 8)

    def _find(self, directory: str, tag: int) -> int | None:
        offset = self._directory(directory)
        return None if offset is None else self._entries(offset).get(tag)

    def _entries(self, offset: int) -> dict[int, int]:
        """Return the start of each tag's entry in ``data``; of two with one tag the first. Read once."""
        if offset not in self._known:
            start = self._start + offset + 2
            count = min(self._unpack("H", start - 2), max(0, len(self.data) - start) // 12)
            tags = struct.unpack_from(f"{self._order}{'H10x' * count}", self.data, start)
            self._known[offset] = {tags[index]: start + 12 * index for index in range(count - 1, -1, -1)}
        return self._known[offset]

    def _place(self, entry: int) -> tuple[str, int, int, int]:
        """Return struct's code, the codes per number, the count of numbers and their offset."""
        kind, count = self._unpack("H", entry + 2), self._unpack("I", entry + 4)
        code, parts = _NUMBERS.get(kind, ("", 0))
        if not code or not 0 < count <= _MAX_COUNT:
            raise struct.error
        inside = struct.calcsize(f"={count * parts}{code}") <= 4
        return code, parts, count, entry + 8 if inside else self._start + self._unpack("I", entry + 8)

    def _numbers_of(self, entry: int) -> tuple[Fraction, ...]:
        code, parts, count, place = self._place(entry)
        values = struct.unpack_from(f"{self._order}{count * parts}{code}", self.data, place)
        if parts == 1:
            return tuple(map(Fraction, values))
        return tuple(Fraction(*pair) for pair in zip(values[::2], values[1::2], strict=True))

    def _set(self, entry: int, numbers: tuple[float | Fraction, ...]) -> bool:
        kind = self._unpack("H", entry + 2)
        if kind in (_RATIONAL, _SIGNED_RATIONAL):
            limit = _MAX_LONG if kind == _RATIONAL else _MAX_SIGNED
            pairs = [_ratio(number, limit) for number in numbers]
            values: list[float] = [part for pair in pairs for part in pair]
            fits = all(0 <= value <= limit for value in values)
        elif kind in _FLOATS:
            values, fits = [float(number) for number in numbers], True
        elif kind in (_SHORT, _LONG):
            values = [round(number) for number in numbers]
            kind = _LONG if kind == _LONG or max(values) > _MAX_SHORT else _SHORT
            fits = min(values) >= 0 and max(values) <= _MAX_LONG
        else:
            return False
        if not fits:
            return False
        packed = struct.pack(f"{self._order}{len(values)}{_NUMBERS[kind][0]}", *values)
        count = len(values) // _NUMBERS[kind][1]
        if len(packed) <= 4:
            place = entry + 8
            packed = packed.ljust(4, b"\0")
        else:  # always at the end: other entries, and maker notes, may share what is there
            self.data += bytes((len(self.data) - self._start) % 2)
            place = len(self.data)
            struct.pack_into(f"{self._order}I", self.data, entry + 8, place - self._start)
        struct.pack_into(f"{self._order}HI", self.data, entry + 2, kind, count)
        self.data[place : place + len(packed)] = packed
        return True

    def _unpack(self, code: str, offset: int) -> int:
        return int(struct.unpack_from(f"{self._order}{code}", self.data, offset)[0])


def _ratio(number: float | Fraction, limit: int) -> tuple[int, int]:
    """Return numerator and denominator, both below the limit if possible."""
    value = Fraction(number)
    largest = limit if value <= 1 else max(1, int(limit / value))
    value = value.limit_denominator(largest)
    return value.numerator, value.denominator


def states_adobe_rgb(exif: Image.Exif | bytes | None) -> bool:
    """Check whether an EXIF block, with its prefix, or the tags of a TIFF state Adobe RGB."""
    if exif is None:
        return False
    if isinstance(exif, bytes):
        block = ExifBlock(exif)
        if block.numbers("ExifIFD", _COLOR_SPACE) == (_ADOBE_RGB,):
            return True
        begin, count = block.bytes_of("InteropIFD", _INTEROPERABILITY_INDEX) or (0, 0)
        return bytes(block.data[begin : begin + count]).rstrip(b"\0 ") == _ADOBE_RGB_INDEX
    try:
        if exif.get_ifd(_EXIF_GROUP).get(_COLOR_SPACE) == _ADOBE_RGB:
            return True
        index = exif.get_ifd(_INTEROPERABILITY_GROUP).get(_INTEROPERABILITY_INDEX)  # KeyError where there is none
        return isinstance(index, str) and index.encode("latin-1", "replace").rstrip(b"\0 ") == _ADOBE_RGB_INDEX
    except Exception:  # noqa: BLE001 - tags of any content must not cost the picture
        return False
