"""Read and write GIF as blocks (GIF89a): check for completeness, and join single frames. No Pillow here."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_EXTENSION, _IMAGE = 0x21, 0x2C
#: The byte behind the last frame.
TRAILER = b"\x3b"
_PLAIN_TEXT, _CONTROL, _APPLICATION = 0x01, 0xF9, 0xFF
#: Kind of the trailer among the blocks read; the byte itself may be an extension's label.
_END = -1
XMP, PROFILE = b"XMP DataXMP", b"ICCRGBG1012"
#: Behind a packet of XMP, which is no series of sub-blocks: wherever a reader of those falls, it gets to the end.
_XMP_TRAILER = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
_HAS_TABLE, _TABLE_SIZE, _INTERLACED = 0x80, 0x07, 0x40
#: Disposal methods (section 23): the frame stays, or its place becomes clear before the next one.
_KEEP, _CLEAR = 1, 2
_LARGEST_SHORT = 65535


class GifFrame(NamedTuple):
    """Hold the picture of a file with one frame.

    Attributes:
        descriptor: its nine bytes without the separator.
        table: its colours, three bytes each.
        data: size of code and sub-blocks.
        clear_index: the transparent colour's index; None if there is none.
    """

    descriptor: bytes
    table: bytes
    data: bytes
    clear_index: int | None


def is_whole(file: BinaryIO) -> bool:
    """Check whether the blocks of an opened GIF lead to its trailer."""
    return any(kind == _END for kind, _ in _blocks(file))


def num_frames(file: BinaryIO, enough: int) -> int:
    """Count an opened GIF's frames up to its end, its damage, or one more than ``enough``."""
    images = (kind for kind, _ in _blocks(file) if kind == _IMAGE)
    return sum(1 for _ in itertools.islice(images, enough + 1))


def only_frame(file: BinaryIO) -> GifFrame:
    """Read the frame of a whole file with one; the file's own colours where the frame has none."""
    found = dict(_blocks(file))
    descriptor, table, data = found[_IMAGE][:9], found[_HAS_TABLE], found[_IMAGE][9:]
    if descriptor[8] & _HAS_TABLE:
        length = _table_bytes(descriptor[8])
        table, data = data[:length], data[length:]
    control = found.get(_CONTROL, bytes(6))
    return GifFrame(descriptor, table, data, control[4] if control[1] & 1 else None)


def begin(size: tuple[int, int], num_plays: int) -> bytes:
    """Make an animation's header.

    Args:
        size: (width, height) in pixels.
        num_plays: how often it is shown; 0 for ever.
    """
    head = b"GIF89a" + struct.pack("<HHBBB", *size, 0, 0, 0)
    if num_plays == 1:
        return head
    # The number stored is that of repetitions, which is one less.
    repetitions = 0 if num_plays == 0 else min(num_plays - 1, _LARGEST_SHORT)
    return head + b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", repetitions) + b"\0"


def framed(frame: GifFrame, centiseconds: int, *, clears: bool) -> bytes:
    """Make a frame of an animation, with its own table.

    Args:
        frame: as large as the animation.
        centiseconds: its duration.
        clears: whether it is cleared before the next frame, which transparency needs.
    """
    flags = (_CLEAR if clears else _KEEP) << 2 | (frame.clear_index is not None)
    control = struct.pack("<BBBH", _CONTROL, 4, flags, min(centiseconds, _LARGEST_SHORT))
    table_size = (len(frame.table) // 3).bit_length() - 2
    descriptor = frame.descriptor[:8] + bytes([_HAS_TABLE | table_size | frame.descriptor[8] & _INTERLACED])
    index = bytes([frame.clear_index or 0])
    return b"\x21" + control + index + b"\0" + b"\x2c" + descriptor + frame.table + frame.data


def comment(text: bytes) -> bytes:
    """Return the block of a comment (GIF89a, section 24); nothing where there is no text."""
    parts = [text[start : start + 255] for start in range(0, len(text), 255)]
    return b"!\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0" if text else b""


def applications(file: BinaryIO) -> dict[bytes, bytes]:
    """Return the content of each application's extension (GIF89a, section 26) by its name of eleven bytes."""
    found: dict[bytes, bytes] = {}
    for kind, blocks in _blocks(file):
        if kind == _APPLICATION and blocks[:1] == b"\x0b":
            name, rest = blocks[1:12], blocks[12:]
            is_raw = name == XMP and rest.endswith(_XMP_TRAILER)
            found.setdefault(name, rest[: -len(_XMP_TRAILER)] if is_raw else _joined(rest))
    return found


def unread(file: BinaryIO) -> list[str]:
    """Return the titles of texts drawn into the picture (GIF89a, section 25), and of a second XMP packet."""
    has_texts, packets = False, set[bytes]()
    for kind, blocks in _blocks(file):
        has_texts = has_texts or kind == _PLAIN_TEXT
        if kind == _APPLICATION and blocks[1:12] == XMP:
            packets.add(blocks)
    titles = ["texts that are drawn over the picture"] if has_texts else []
    return titles + (["a second packet of XMP"] if len(packets) > 1 else [])


def _joined(blocks: bytes) -> bytes:
    parts, place = [], 0
    while place < len(blocks) and blocks[place]:
        parts.append(blocks[place + 1 : place + 1 + blocks[place]])
        place += 1 + blocks[place]
    return b"".join(parts)


def xmp(packet: bytes) -> bytes:
    """Return the extension of a packet (XMP specification, part 3, section 1.1.2); nothing where there is none."""
    return b"\x21\xff\x0b" + XMP + packet + _XMP_TRAILER if packet else b""


def with_extension(data: bytes, extension: bytes) -> bytes:
    """Put an extension before the picture of a file."""
    begin = 13 + (_table_bytes(data[10]) if data[10] & _HAS_TABLE else 0)
    return b"GIF89a" + data[6:begin] + extension + data[begin:] if extension else data


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of an opened GIF's table, extensions and images in order, and of a whole one the end."""
    file.seek(0)
    head = file.read(13)
    if len(head) < 13:
        return
    if head[10] & _HAS_TABLE:
        yield _HAS_TABLE, file.read(_table_bytes(head[10]))
    while kind := file.read(1):
        if kind == TRAILER:
            yield _END, b""
            return
        if kind[0] == _EXTENSION:
            label = file.read(1)
            blocks = _sub_blocks(file)
            if not label or blocks is None:
                return
            yield label[0], blocks
        elif kind[0] == _IMAGE:
            descriptor = file.read(9)
            if len(descriptor) < 9:
                return
            table = file.read(_table_bytes(descriptor[8])) if descriptor[8] & _HAS_TABLE else b""
            code_size, blocks = file.read(1), _sub_blocks(file)
            if blocks is None:
                return
            yield _IMAGE, descriptor + table + code_size + blocks
        elif kind[0]:  # zeros between blocks are harmless
            return


def _sub_blocks(file: BinaryIO) -> bytes | None:
    """Read sub-blocks with their lengths, up to the empty one; None if the file ends before."""
    parts = []
    while length := file.read(1):
        parts.append(length)
        if not length[0]:
            return b"".join(parts)
        block = file.read(length[0])
        if len(block) < length[0]:
            return None
        parts.append(block)
    return None


def _table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & _TABLE_SIZE) + 1)
