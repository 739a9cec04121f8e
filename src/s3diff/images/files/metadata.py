"""Update a picture's metadata: turned upright when read, cut and scaled when written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from s3diff.images.files.coordinates import QUARTER_TURNS, Transform
from s3diff.images.files.exif_block import EXIF_PREFIX, ExifBlock
from s3diff.images.files.following import follow_exif, follow_xmp, mentions_of_fields
from s3diff.images.files.iptc import with_layout
from s3diff.images.files.left_behind import drop_claims, drop_exif_claims, left_out_note, mentions_of_claims
from s3diff.images.files.xmp_packet import DC, XmpError, XmpPacket, is_plain_packet
from s3diff.images.picture import Picture, Text

__all__ = [
    "EXIF_PREFIX",
    "QUARTER_TURNS",
    "Metadata",
    "comments_of",
    "for_result",
    "take_orientation",
    "upright",
    "without_orientation",
]
_ORIENTATION = 0x0112
#: Texts in a packet that may need a change: property names, or namespaces for names that are too common.
_NAMES = re.compile(
    b"|".join(re.escape(name.encode()) for name in {*mentions_of_fields(), *mentions_of_claims(), "format"})
)
#: Texts in a packet that needs a change even for an upright picture.
_CLAIM_NAMES = re.compile(b"|".join(re.escape(name.encode()) for name in mentions_of_claims()))


class Metadata(NamedTuple):
    """Hold a file's metadata.

    Attributes:
        exif: with its prefix ``Exif\\0\\0``.
        xmp: a whole packet.
        iptc: captions and keywords, as image resources of Photoshop.
        texts: keywords of PNG and their texts; comments.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: tuple[Text, ...] = ()


def comments_of(metadata: Metadata) -> list[bytes]:
    """Return the texts as comments of a JPEG or GIF."""
    return [text.text.encode("utf-8", "replace") for text in metadata.texts]


def take_orientation(exif: bytes) -> tuple[int, bytes]:
    """Return the orientation (1 to 8; 1 if there is none) and the block with the value 1.

    Args:
        exif: the block with its prefix ``Exif\\0\\0``.
    """
    block = ExifBlock(exif)
    numbers = block.numbers("IFD0", _ORIENTATION)
    if numbers is None:
        return 1, exif
    block.set_numbers("IFD0", _ORIENTATION, (1,))
    return (int(numbers[0]) if 1 <= numbers[0] <= 8 else 1), bytes(block.data)


def without_orientation(exif: bytes) -> bytes:
    """Return an upright picture's block without the orientation tag, whose absence means upright.

    Args:
        exif: the block with its prefix ``Exif\\0\\0``.
    """
    block = ExifBlock(exif)
    block.remove("IFD0", _ORIENTATION)
    return bytes(block.data)


def upright(
    found: Metadata, size: tuple[int, int], orientation: int, left: Sequence[str] = ()
) -> tuple[Metadata, tuple[str, ...]]:
    """Return a picture's metadata in coordinates of the upright picture, and remarks.

    Args:
        found: as stored.
        size: (width, height) as stored, before the turn.
        orientation: 1 to 8, the pixels' turn.
        left: further contents that are left out, for the same remark.
    """
    transform = Transform((float(size[0]), float(size[1])), orientation)
    kinds = list(left)
    lost: list[str] = []
    notes: tuple[str, ...] = ()
    exif, xmp = found.exif, found.xmp
    if exif is not None:
        exif, more = drop_exif_claims(exif)
        kinds += more
    if exif is not None and orientation != 1:
        exif, lost = follow_exif(exif, transform)
    if xmp is not None and not is_plain_packet(xmp, _CLAIM_NAMES if orientation == 1 else _NAMES):
        try:
            packet = XmpPacket(xmp)
        except XmpError as error:
            xmp, notes = None, (f"the XMP packet is damaged ({error}) and was left out",)
        else:
            kinds += drop_claims(packet)
            if orientation != 1:
                lost += follow_xmp(packet, transform)
            xmp = packet.to_bytes()
    notes += left_out_note(kinds) + _lost_note(lost, "turn")
    return found._replace(exif=exif, xmp=xmp), notes


def for_result(picture: Picture, media_type: str = "") -> tuple[Metadata, tuple[str, ...]]:
    """Return a picture's metadata in coordinates and sizes of its current pixels, and remarks.

    Args:
        picture: its pixels may have been cut and scaled since it was read.
        media_type: media type of the file to be written, for packets that state one.
    """
    lost: list[str] = []
    exif, xmp = picture.exif, picture.xmp
    width, height = picture.metadata_size or (picture.width, picture.height)
    transform = Transform((width, height), cut=picture.metadata_cut, size=(picture.width, picture.height))
    if exif is not None:
        exif, lost = follow_exif(exif, transform)
    if xmp is not None and not is_plain_packet(xmp, _NAMES):
        try:
            packet = XmpPacket(xmp)
        except XmpError:  # not from a file
            xmp = None
            lost.append("a damaged XMP packet")
        else:
            lost += follow_xmp(packet, transform)
            for element in packet.descriptions() if media_type else []:
                if packet.get(element, DC, "format") not in (None, [media_type]):
                    packet.set(element, DC, "format", [media_type])
            xmp = packet.to_bytes()
    notes = _lost_note(lost, "cut" if transform.is_cut else "new size")
    iptc = None if picture.iptc is None else with_layout(picture.iptc, (picture.width, picture.height))
    return Metadata(exif, xmp, iptc, picture.texts), notes


def _lost_note(titles: list[str], change: str) -> tuple[str, ...]:
    if not titles:
        return ()
    return (f"metadata that cannot follow the picture's {change} is left out: {', '.join(dict.fromkeys(titles))}",)
