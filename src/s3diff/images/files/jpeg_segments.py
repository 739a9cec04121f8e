"""Read and write JPEG segments that Pillow neither joins nor writes (ITU T.81, B.1.1; XMP specification, part 3)."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from s3diff.images.files.exif_block import EXIF_PREFIX
from s3diff.images.files.iptc import resources_of
from s3diff.images.files.xmp_packet import XMP_NOTE, XmpError, XmpPacket

#: Within compressed data, the next marker that ends it: not an escaped 0xFF, a fill byte or a restart.
_ENDING_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
_STANDALONE_MARKERS = (0x01, *range(0xD0, 0xD9))
_APP0, _APP1, _APP13, _COMMENT = 0xE0, 0xE1, 0xED, 0xFE
_XMP_PREFIX, _EXTENSION_PREFIX = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
PHOTOSHOP_PREFIX, OLD_PHOTOSHOP_PREFIX = b"Photoshop 3.0\0", b"Adobe_Photoshop2.5:"
#: Records 1 and 2 of IPTC, which some programs write without Photoshop's resources around them.
IPTC_STARTS = (b"\x1c\1", b"\x1c\2")
#: Bytes of a segment without its length field.
_MAX_PAYLOAD_BYTES = 65533
#: Length of an extended packet's name, MD5 in hexadecimal digits, and of the two numbers behind it.
_DIGEST_BYTES, _EXTENSION_HEADER_BYTES = 32, 40


class Segment(NamedTuple):
    """Hold a marker and the place of its data."""

    marker: int
    begin: int
    end: int


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments up to the end of the first picture; a scan ends with its compressed data."""
    place = 2
    while True:
        place = data.find(b"\xff", place)
        while 0 <= place < len(data) and data[place] == 0xFF:  # a marker may have fill bytes before it
            place += 1
        if not 0 <= place < len(data):
            return
        marker, place = data[place], place + 1
        if marker == END_OF_IMAGE:
            yield Segment(marker, place, place)
            return
        if marker == 0 or marker in _STANDALONE_MARKERS:
            continue
        if place + 2 > len(data):
            return
        begin, place = place + 2, place + int.from_bytes(data[place : place + 2], "big")
        if marker == START_OF_SCAN:
            ending = _ENDING_MARKER.search(data, place)
            place = len(data) if ending is None else ending.start()
        yield Segment(marker, begin, place)


def joined_exif(payloads: Iterable[bytes]) -> tuple[bytes | None, bool]:
    """Join an EXIF block of several APP1 segments; a second block does not continue the first one.

    Returns:
        The block, and whether another one that says something else stands behind it.
    """
    joined, further = b"", b""
    for payload in payloads:
        if not payload.startswith(EXIF_PREFIX):
            continue
        body = payload[len(EXIF_PREFIX) :]
        if further or (joined and body.startswith((b"II*\0", b"MM\0*"))):
            further += body
        else:
            joined += body
    return EXIF_PREFIX + joined if joined else None, bool(further) and further != joined


def has_second_packet(payloads: Iterable[bytes]) -> bool:
    """Check whether APP1 segments hold two packets of XMP that differ."""
    return len({payload for payload in payloads if payload.startswith(_XMP_PREFIX)}) > 1


def joined_xmp(payloads: Iterable[bytes]) -> tuple[bytes | None, bool]:
    """Merge an XMP packet of APP1 segments with its extended part (XMP specification, part 3, section 1.1.3.1).

    Returns:
        The packet, and whether a part is missing or damaged.
    """
    main: bytes | None = None
    extended: dict[bytes, list[tuple[int, int, bytes]]] = {}
    for payload in payloads:
        if payload.startswith(_XMP_PREFIX) and main is None:
            main = payload[len(_XMP_PREFIX) :]
        elif payload.startswith(_EXTENSION_PREFIX):
            body = payload[len(_EXTENSION_PREFIX) :]
            if len(body) >= _EXTENSION_HEADER_BYTES:
                total, offset = struct.unpack_from(">II", body, _DIGEST_BYTES)
                part = (offset, total, body[_EXTENSION_HEADER_BYTES:])
                extended.setdefault(body[:_DIGEST_BYTES].upper(), []).append(part)
    if main is None or b"HasExtendedXMP" not in main:
        return main, bool(extended)
    try:
        packet = XmpPacket(main)
    except XmpError:
        return main, True
    digest = b""
    for description in packet.descriptions():
        found = packet.get(description, XMP_NOTE, "HasExtendedXMP")
        if found:
            digest = found[0].strip().upper().encode("ascii", "replace")
            packet.remove(description, XMP_NOTE, "HasExtendedXMP")
    whole = b"".join(part for _, _, part in sorted(extended.get(digest, [])))
    if not digest or hashlib.md5(whole, usedforsecurity=False).hexdigest().upper().encode() != digest:
        return packet.to_bytes(), True
    try:
        packet.merge(XmpPacket(whole))
    except XmpError:
        return packet.to_bytes(), True
    return packet.to_bytes(), False


def joined_photoshop(payloads: Iterable[bytes]) -> bytes:
    """Join the image resources of APP13 segments; datasets of IPTC may also stand there as they are."""
    joined = b""
    for payload in payloads:
        prefix = next((each for each in (PHOTOSHOP_PREFIX, OLD_PHOTOSHOP_PREFIX) if payload.startswith(each)), None)
        if prefix is not None:
            joined += payload[len(prefix) :]
        elif payload.startswith(IPTC_STARTS):
            joined += resources_of(payload) or b""
    return joined


def with_metadata(
    data: bytes, exif: bytes | None, xmp: bytes | None, photoshop: bytes | None, comments: Iterable[bytes]
) -> tuple[bytes, list[str]]:
    """Add metadata to a JPEG that has none, in as many segments as needed.

    Args:
        data: the file, which begins with its JFIF segment.
        exif: with its prefix; continued in further segments if too long, as exiftool does.
        xmp: extended if too long for one segment.
        photoshop: image resources.
        comments: one segment each.

    Returns:
        The file, and the titles of metadata that did not fit.
    """
    parts, lost = [], []
    if exif is not None:
        body, room = exif[len(EXIF_PREFIX) :], _MAX_PAYLOAD_BYTES - len(EXIF_PREFIX)
        parts += [_segment(_APP1, EXIF_PREFIX + body[start : start + room]) for start in range(0, len(body), room)]
    if xmp is not None:
        packets = _split_xmp(xmp)
        parts += packets
        lost += [] if packets else [f"the XMP packet of {len(xmp)} bytes (it cannot be split)"]
    if photoshop:
        room = _MAX_PAYLOAD_BYTES - len(PHOTOSHOP_PREFIX)
        parts += [
            _segment(_APP13, PHOTOSHOP_PREFIX + photoshop[start : start + room])
            for start in range(0, len(photoshop), room)
        ]
    for comment in comments:
        if len(comment) > _MAX_PAYLOAD_BYTES:
            lost.append(f"the comment of {len(comment)} bytes")
        else:
            parts.append(_segment(_COMMENT, comment))
    first = next((each for each in segments(data) if each.marker == _APP0), Segment(_APP0, 2, 2))
    return data[: first.end] + b"".join(parts) + data[first.end :], lost


def _split_xmp(xmp: bytes) -> list[bytes]:
    """Return the segments of a packet; none if it cannot be split."""
    if len(xmp) <= _MAX_PAYLOAD_BYTES - len(_XMP_PREFIX):
        return [_segment(_APP1, _XMP_PREFIX + xmp)]
    note_bytes = 200  # for the name of the extended packet
    try:
        packet = XmpPacket(xmp)
        extended = packet.split(_MAX_PAYLOAD_BYTES - len(_XMP_PREFIX) - note_bytes)
    except XmpError:
        return []
    if extended is None:
        return []
    digest = hashlib.md5(extended, usedforsecurity=False).hexdigest().upper()
    packet.add_attribute(XMP_NOTE, "xmpNote:HasExtendedXMP", digest)
    room = _MAX_PAYLOAD_BYTES - len(_EXTENSION_PREFIX) - _EXTENSION_HEADER_BYTES
    parts = [_segment(_APP1, _XMP_PREFIX + packet.to_bytes())]
    for start in range(0, len(extended), room):
        header = _EXTENSION_PREFIX + digest.encode() + struct.pack(">II", len(extended), start)
        parts.append(_segment(_APP1, header + extended[start : start + room]))
    return parts


def _segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
