"""EXIF and XMP as bytes: what has to change when a picture was turned and enlarged, patched in place.

Nothing is written anew: that would move what maker notes point to. No Pillow here.
"""

from __future__ import annotations

import re
import struct
from contextlib import suppress

EXIF_PREFIX = b"Exif\x00\x00"
_ORIENTATION, _WIDTH, _HEIGHT, _EXIF_GROUP = 0x0112, 0x0100, 0x0101, 0x8769
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_THUMBNAIL_START, _THUMBNAIL_BYTES = 0x0201, 0x0202
_SHORT, _LONG = 3, 4

#: Orientations that exchange width and height.
QUARTER_TURNS = (5, 6, 7, 8)


def take_orientation(exif: bytes) -> tuple[int, bytes]:
    """The orientation (1 to 8; 1 where there is none) and the block with it set to 1.

    Args:
        exif: the block with its prefix ``Exif\\0\\0``.
    """
    block, orientation = _Block(exif), 1
    with suppress(struct.error):  # the block ends early: no orientation beyond that point
        for entry in block.entries(block.first()):
            if block.tag(entry) == _ORIENTATION:
                orientation = block.number(entry)
                block.set_number(entry, 1)
    return (orientation if 1 <= orientation <= 8 else 1), bytes(block.data)


def without_orientation(exif: bytes) -> bytes:
    """The block of an upright picture without the tag: upright is what its absence says.

    Args:
        exif: the block with its prefix ``Exif\\0\\0``.
    """
    block = _Block(exif)
    with suppress(struct.error):
        entries = block.entries(block.first())
        for entry in entries:
            if block.tag(entry) == _ORIENTATION:
                block.remove(entry, entries)
                break
    return bytes(block.data)


def with_size(exif: bytes, width: int, height: int) -> bytes:
    """The block with its dimensions in pixels set to the picture's, and without a thumbnail of what it was before.

    Args:
        exif: the block with its prefix ``Exif\\0\\0``.
        width: in pixels.
        height: in pixels.
    """
    block = _Block(exif)
    wanted = {_WIDTH: width, _HEIGHT: height, _PIXEL_WIDTH: width, _PIXEL_HEIGHT: height}
    with suppress(struct.error):
        for entry in block.entries(block.first()):
            if block.tag(entry) in (_WIDTH, _HEIGHT):
                block.set_number(entry, wanted[block.tag(entry)])
            elif block.tag(entry) == _EXIF_GROUP:
                for inner in block.entries(block.number(entry)):
                    if block.tag(inner) in (_PIXEL_WIDTH, _PIXEL_HEIGHT):
                        block.set_number(inner, wanted[block.tag(inner)])
        block.drop_thumbnail()
    return bytes(block.data)


def xmp_of_result(xmp: bytes, width: int, height: int) -> bytes:
    """The packet of an upright picture of that size: orientation 1, dimensions corrected, as attributes or elements."""
    for name, value in (
        (b"tiff:Orientation", 1),
        (b"tiff:ImageWidth", width),
        (b"tiff:ImageLength", height),
        (b"exif:PixelXDimension", width),
        (b"exif:PixelYDimension", height),
    ):
        digits = str(value).encode()
        xmp = re.sub(rb"(\b" + name + rb"\s*=\s*[\"'])\s*[0-9]{1,9}\s*([\"'])", rb"\g<1>" + digits + rb"\g<2>", xmp)
        xmp = re.sub(rb"(<" + name + rb">)\s*[0-9]{1,9}\s*(</)", rb"\g<1>" + digits + rb"\g<2>", xmp)
    return xmp


class _Block:
    """Offsets are counted from behind the prefix (TIFF 6.0, section 2). Reading beyond the end raises struct.error."""

    def __init__(self, exif: bytes) -> None:
        self.data = bytearray(exif)
        self.start = len(EXIF_PREFIX)
        self.order = "<" if exif[self.start : self.start + 2] == b"II" else ">"

    def first(self) -> int:
        return self._unpack("I", self.start + 4)

    def entries(self, directory: int) -> list[int]:
        count = self._unpack("H", self.start + directory)
        return [self.start + directory + 2 + 12 * index for index in range(count)]

    def tag(self, entry: int) -> int:
        return self._unpack("H", entry)

    def number(self, entry: int) -> int:
        kind = self._unpack("H", entry + 2)
        return self._unpack("I" if kind == _LONG else "H", entry + 8)

    def set_number(self, entry: int, value: int) -> None:
        """One whole number; as a LONG where a SHORT would be too small."""
        kind = self._unpack("H", entry + 2)
        if kind not in (_SHORT, _LONG):
            return
        if kind == _SHORT and value <= 0xFFFF:
            struct.pack_into(f"{self.order}H", self.data, entry + 8, value)
            return
        struct.pack_into(f"{self.order}H", self.data, entry + 2, _LONG)
        struct.pack_into(f"{self.order}I", self.data, entry + 8, value)

    def remove(self, entry: int, entries: list[int]) -> None:
        """One entry of a directory: those behind it, and the link to the next directory, move up."""
        behind = entries[-1] + 12 + 4
        if behind > len(self.data):
            raise struct.error
        self.data[entry:behind] = self.data[entry + 12 : behind] + bytes(12)
        struct.pack_into(f"{self.order}H", self.data, entries[0] - 2, len(entries) - 1)

    def drop_thumbnail(self) -> None:
        """The link to the second directory is cut, and the thumbnail's bytes are blanked."""
        first = self.first()
        link = self.start + first + 2 + 12 * self._unpack("H", self.start + first)
        second = self._unpack("I", link)
        if not second:
            return
        struct.pack_into(f"{self.order}I", self.data, link, 0)
        found = {self.tag(entry): self.number(entry) for entry in self.entries(second)}
        begin, length = self.start + found.get(_THUMBNAIL_START, 0), found.get(_THUMBNAIL_BYTES, 0)
        end = min(begin + length, len(self.data))
        if self.data[begin : begin + 2] == b"\xff\xd8":  # only what is a JPEG picture for sure
            self.data[begin:end] = bytes(max(0, end - begin))
            if end == len(self.data):
                del self.data[begin:]

    def _unpack(self, code: str, offset: int) -> int:
        return int(struct.unpack_from(f"{self.order}{code}", self.data, offset)[0])
