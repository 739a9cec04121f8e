"""Change numbers of an EXIF block in place: rewriting would move data that maker notes point to.

Offsets count from the end of the prefix (TIFF 6.0, section 2). Data outside the block counts as absent.
"""

from __future__ import annotations

import re
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
        """Change an entry's numbers, rounded as its type requires (SHORT may become LONG); return whether it can."""
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


_RESOLUTIONS, _UNIT = (0x011A, 0x011B), 0x0128
#: Units of EXIF's resolution in inches; without a unit it is inches (CIPA DC-008, section 4.6.2).
_INCH, _CM = 2, 3
_PER_INCH = {_INCH: Fraction(1), _CM: Fraction(254, 100)}
#: What EXIF asks writers to state where no resolution is known, and what libraries write into JFIF; 1 is a number that
#: stands for none, as for :func:`s3diff.images.files.pillow_metadata.dpi_of`.
_UNKNOWN, _PLACEHOLDER = 72, 1
#: JFIF holds whole numbers and PNG whole pixels per metre: closer numbers count as equal.
_ROUNDING = 1.0


def agreed_resolution(
    dpi: tuple[float, float] | None, exif: bytes | None
) -> tuple[tuple[float, float] | None, bytes | None]:
    """Make a format's pixels per inch and the EXIF block of a picture state the same resolution; return both.

    EXIF wins, unless it says "not known": 72 per inch in whatever spelling, or 1. Then its block is changed.

    Args:
        dpi: the format's own statement, across and down; None if there is none.
        exif: the block with its prefix, upright as ``dpi`` is.
    """
    if dpi is None or exif is None:
        return dpi, exif
    block = ExifBlock(exif)
    found = [block.numbers("IFD0", tag) for tag in _RESOLUTIONS]
    unit = block.numbers("IFD0", _UNIT) or (Fraction(_INCH),)
    factor = _PER_INCH.get(int(unit[0]))
    if factor is None or not all(found):
        return dpi, exif
    stated = [numbers[0] for numbers in found if numbers]
    across, down = (float(number * factor) for number in stated)
    is_unknown = all(abs(each - _UNKNOWN) <= _ROUNDING for each in (across, down)) or stated == [_PLACEHOLDER] * 2
    is_usable = 0 < across < 1e6 and 0 < down < 1e6
    if abs(across - dpi[0]) <= _ROUNDING and abs(down - dpi[1]) <= _ROUNDING:
        return dpi, exif
    if is_usable and not is_unknown:
        return (across, down), exif
    for tag, value in zip(_RESOLUTIONS, dpi, strict=True):
        if not block.set_numbers("IFD0", tag, (Fraction(value).limit_denominator(1000) / factor,)):
            block.remove("IFD0", tag)
    return dpi, bytes(block.data)


MAKER_NOTE = 0x927C
MAKER_NOTE_TITLE = "the maker's notes (MakerNote; its entries point to places in the input's EXIF)"
#: Bytes of one value, by type (TIFF 6.0, section 2); 13 is a directory.
VALUE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)
_ENTRY_BYTES, _INSIDE_BYTES, _MOST_ENTRIES = 12, 4, 1024
#: A maker's name, and a header as of a TIFF, precede the directory.
_LONGEST_HEADER_BYTES = 32
_INNER_HEADER = re.compile(rb"II\*\0|MM\0\*")


def can_move(note: bytes) -> bool:
    """Check that no entry of a maker note's directory points outside it, counted from a beginning of its own.

    Most notes are a directory as in TIFF. Some makers count its offsets from the notes' own beginning, others from that
    of the whole EXIF block: those point to something else as soon as a block is written anew (as in a TIFF).
    """
    found = [_directory(note, start, order) for start in range(min(_LONGEST_HEADER_BYTES, len(note))) for order in "<>"]
    entries = max(found, key=lambda each: sum(size <= len(note) for _, size in each), default=[])
    outside = [(offset, size) for offset, size in entries if size > _INSIDE_BYTES]
    inner = _INNER_HEADER.search(note, 0, _LONGEST_HEADER_BYTES)
    beginning = inner.start() if inner else 0
    return all(beginning + offset + size <= len(note) for offset, size in outside)


def _directory(note: bytes, start: int, order: str) -> list[tuple[int, int]]:
    if start + 2 > len(note):
        return []
    (count,) = struct.unpack_from(f"{order}H", note, start)
    if not 0 < count <= _MOST_ENTRIES or start + 2 + _ENTRY_BYTES * count > len(note):
        return []
    entries = []
    for index in range(count):
        _, kind, number, offset = struct.unpack_from(f"{order}HHII", note, start + 2 + _ENTRY_BYTES * index)
        if 0 < kind < len(VALUE_BYTES):
            entries.append((offset, number * VALUE_BYTES[kind]))
    num_fitting = sum(size <= len(note) for _, size in entries)
    return entries if 2 * num_fitting > count else []
