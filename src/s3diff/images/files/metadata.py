"""Update a picture's metadata: turned upright when read, cut and scaled when written."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from s3diff.images.files import coordinates
from s3diff.images.files.coordinate_fields import FIELDS, NAMESPACES, Field, Unit
from s3diff.images.files.coordinates import Numbers, Transform
from s3diff.images.files.dropped_contents import drop_claims, drop_exif_claims, left_out_note, mentions_of_claims
from s3diff.images.files.exif_block import ExifBlock
from s3diff.images.files.geotiff import follow_position
from s3diff.images.files.iptc import with_layout
from s3diff.images.files.xmp_packet import DC, XmlElement, XmpError, XmpPacket, is_plain_packet
from s3diff.images.picture import Picture, Text

#: Rows without numbers, kept or removed as a whole.
_WITHOUT_NUMBERS = (coordinates.only_scaled, coordinates.never)
_RATIONAL = re.compile(r"[+-]?[0-9]{1,18}/[0-9]{1,18}")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_BETWEEN_NUMBERS = re.compile(r"[\s,]+")
#: Decimal places of fractions: finer than a pixel of the largest picture.
_DECIMALS = 8
_UNCHANGED = 1e-9
#: Names of up to this length occur in any text; the namespace is looked for instead.
_SHORT_NAME = 5

#: Rows, by their place in the table, of every XMP name.
_ROWS_OF: dict[tuple[str, str], list[int]] = defaultdict(list)
for _row, _field in enumerate(FIELDS):
    for _name in () if _field.is_exif else _field.names:
        _ROWS_OF[NAMESPACES[_field.place], str(_name)].append(_row)


def follow_exif(exif: bytes, transform: Transform) -> tuple[bytes, list[str]]:
    """Return the block, with its prefix, for the result; and the titles of fields that cannot follow, left out."""
    block, lost = ExifBlock(exif), []
    for field in FIELDS:
        if not field.is_exif:
            continue
        tags = [tag for tag in field.names if isinstance(tag, int)]
        found = [block.numbers(field.place, tag) for tag in tags]
        present = [numbers for numbers in found if numbers]
        if not present:
            continue
        moved: Numbers | None = None
        if len(present) == len(tags):
            moved = field.moved(tuple(number for numbers in present for number in numbers), transform)
        elif not transform.swaps_sides:  # half of a pair changes as if both were the same
            moved = field.moved(tuple((numbers or present[0])[0] for numbers in found), transform)
        shares: list[Numbers | None] = [moved] * len(tags)
        if moved is not None and len(tags) > 1:
            shares = [(number,) for number in moved]
        for tag, numbers, share in zip(tags, found, shares, strict=True):
            if numbers is None or (share is not None and _are_same(share, numbers)):
                continue
            if share is None or not block.set_numbers(field.place, tag, share):
                block.remove(field.place, tag)
                lost.append(field.title)
    lost += follow_position(block, transform)
    block.drop_thumbnail()
    return bytes(block.data), lost


def follow_xmp(packet: XmpPacket, transform: Transform) -> list[str]:
    """Change a packet's fields for the result; return the titles of those that cannot follow and were left out."""
    lost = []
    for element in packet.elements():
        names = packet.names(element)
        pending = {name for name in names if name in _ROWS_OF}
        for row in sorted({row for name in pending for row in _ROWS_OF[name]}):
            field, namespace = FIELDS[row], NAMESPACES[FIELDS[row].place]
            of_row = {(namespace, str(name)) for name in field.names}
            if not of_row <= set(names):
                # A part of it says nothing; but what another row understands is not a part.
                is_part = not any(_is_complete(FIELDS[other], names) for name in of_row for other in _ROWS_OF[name])
                if is_part and of_row & pending:
                    lost.append(_removed(packet, element, field, of_row & pending))
                    pending -= of_row
                    if field.is_item:
                        break
                continue
            if not of_row <= pending or not _holds(packet, element, namespace, field):
                continue
            pending -= of_row
            if not _follow(packet, element, namespace, field, transform):
                lost.append(_removed(packet, element, field, of_row))
                if field.is_item:
                    break
    return lost


def _is_complete(field: Field, names: list[tuple[str, str]]) -> bool:
    return all((NAMESPACES[field.place], str(name)) in names for name in field.names)


def _removed(packet: XmpPacket, element: XmlElement, field: Field, names: set[tuple[str, str]]) -> str:
    """Remove a field's names, or the item that it is part of; return its title."""
    if not (field.is_item and packet.remove_item(element)):
        for namespace, name in names:
            packet.remove(element, namespace, name)
    return field.title


def _holds(packet: XmpPacket, element: XmlElement, namespace: str, field: Field) -> bool:
    name, allowed = field.condition
    node = element if name else None
    while node is not None and node.nodeType == node.ELEMENT_NODE:
        found = packet.get(node, namespace, name)
        if found is not None:
            return found[0].strip().lower() in allowed
        node = node.parentNode
    return "" in allowed


def _follow(packet: XmpPacket, element: XmlElement, namespace: str, field: Field, transform: Transform) -> bool:
    """Change one field; return whether it can follow."""
    if field.follow in _WITHOUT_NUMBERS:
        return field.follow((), transform) is not None
    names = [str(name) for name in field.names]
    stored = [packet.get(element, namespace, name) or [""] for name in names]
    texts = [text for property_texts in stored for text in property_texts]
    is_joined = len(names) == 1 and len(texts) == 1
    if is_joined:
        texts = _BETWEEN_NUMBERS.split(texts[0].strip())
    numbers = tuple(number for number in map(_number, texts) if number is not None)
    if len(numbers) != len(texts) or (len(names) > 1 and len(numbers) != len(names)):
        return False
    moved = field.moved(numbers, transform)
    if moved is None or any(not math.isfinite(number) for number in moved):
        return False
    if _are_same(moved, numbers):
        return True
    written = [_written(number, text, field) for number, text in zip(moved, texts, strict=True)]
    if is_joined:
        separator = ", " if "," in stored[0][0] else " "
        packet.set(element, namespace, names[0], [separator.join(written)])
    elif len(names) == 1:
        packet.set(element, namespace, names[0], written)
    else:
        for name, text in zip(names, written, strict=True):
            packet.set(element, namespace, name, [text])
    return True


def _are_same(moved: Numbers, numbers: Numbers) -> bool:
    pairs = [(float(new), float(old)) for new, old in zip(moved, numbers, strict=False)]
    return len(moved) == len(numbers) and all(abs(new - old) <= _UNCHANGED * max(1, abs(old)) for new, old in pairs)


def _number(text: str) -> float | Fraction | None:
    text = text.strip()
    try:
        if _RATIONAL.fullmatch(text):
            return Fraction(text)
        number = float(text)
    except (ValueError, ZeroDivisionError):
        return None
    return number if abs(number) < 1e12 else None


def _written(number: float | Fraction, before: str, field: Field) -> str:
    """Return a number in the field's form: a ratio, a whole number of pixels or a decimal fraction."""
    if _RATIONAL.fullmatch(before.strip()):
        ratio = Fraction(number).limit_denominator(10**6)
        return f"{ratio.numerator}/{ratio.denominator}"
    if field.unit is Unit.PIXELS and _WHOLE.fullmatch(before.strip()):
        return str(round(number))
    return f"{float(number):.{_DECIMALS}f}".rstrip("0").rstrip(".")


_ORIENTATION = 0x0112
#: Texts in a packet that may need a change: property names, or namespaces for names that are too common.
_MENTIONS_OF_FIELDS = {name if len(name) > _SHORT_NAME else namespace for namespace, name in _ROWS_OF}
_NAMES = re.compile(
    b"|".join(re.escape(name.encode()) for name in {*_MENTIONS_OF_FIELDS, *mentions_of_claims(), "format"})
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
    """Return the orientation (1 to 8; 1 if there is none) and the block, with its prefix, with the value 1."""
    block = ExifBlock(exif)
    numbers = block.numbers("IFD0", _ORIENTATION)
    if numbers is None:
        return 1, exif
    block.set_numbers("IFD0", _ORIENTATION, (1,))
    return (int(numbers[0]) if 1 <= numbers[0] <= 8 else 1), bytes(block.data)


def without_orientation(exif: bytes) -> bytes:
    """Return an upright picture's block, with its prefix, without the orientation tag, whose absence means upright."""
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
