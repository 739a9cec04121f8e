"""Write a result's statement of its making as XMP: our own structure, IPTC's source type and XMP's creator tool.

The AI origin that an input's Content Credentials state is kept there, although the credentials are left out.

Iptc4xmpExt:DigitalSourceType   what kind of picture this is
xmp:CreatorTool                 s3diff and its version
s3diff:Restorations             a list of structures, the last one of this result, those before it of its input
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple
from xml.sax.saxutils import escape

from s3diff.errors import OptionError, PictureError
from s3diff.images.files.dropped_contents import CREDENTIALS
from s3diff.images.files.xmp_packet import RDF, XmlElement, XmpError, XmpPacket, is_plain_packet
from s3diff.images.picture import Picture
from s3diff.images.provenance import (
    COMPOSITE,
    GENERATED,
    SOURCE_TYPES,
    Provenance,
    options_as_json,
    options_of_json,
    term_of,
)

#: Our namespace: a name, no address.
NAMESPACE = "urn:s3diff:restoration:1/"
XMP = "http://ns.adobe.com/xap/1.0/"
IPTC_EXTENSION = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_CREATOR_TOOL, _SOURCE_TYPE, _RESTORATIONS = (XMP, "CreatorTool"), (IPTC_EXTENSION, "DigitalSourceType"), "Restorations"
#: Texts in a packet that already has such a statement.
_NAMES = re.compile(b"|".join(re.escape(name.encode()) for name in (_CREATOR_TOOL[1], _SOURCE_TYPE[1], NAMESPACE)))
_ABOUT = re.compile(rb"\brdf:about\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_END = b"</rdf:RDF>"
#: Characters that XML 1.0 cannot hold.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TEXTS = {"model": "Model", "fingerprint": "Fingerprint", "version": "Version", "precision": "Precision",
          "device": "Device"}  # fmt: skip
_NUMBERS = {"blur": "Blur", "noise": "Noise", "estimated_blur": "EstimatedBlur", "estimated_noise": "EstimatedNoise"}
_TRUTHS = {"is_generative": "Generative", "is_compiled": "Compiled", "is_streamed": "Streamed"}
_OPTIONAL = {"tiles": "Tiles", "input_digest": "InputDigest", "input_creator_tool": "InputCreatorTool",
             "input_source_type": "InputDigitalSourceType"}  # fmt: skip
_OPTIONS, _QUALITY = "Options", "Quality"


class Statement(NamedTuple):
    """Hold a packet's statement of a picture's origin.

    Attributes:
        creator_tool: empty if not stated.
        source_type: an address of IPTC's vocabulary; empty if not stated.
        restorations: restorations by s3diff, in their order.
    """

    creator_tool: str = ""
    source_type: str = ""
    restorations: tuple[Provenance, ...] = ()


def with_restoration(
    xmp: bytes | None, made: Provenance, earlier: bytes | None = None
) -> tuple[bytes, tuple[str, ...]]:
    """Add a restoration to a result's packet; return the packet, and a remark if the source type changed.

    Args:
        xmp: the result's packet; None if it has none.
        earlier: the input's packet, if the result has lost it.
    """
    if xmp is not None and earlier is None and is_plain_packet(xmp, _NAMES) and xmp.count(_END) == 1:
        abouts = {found[1] or found[2] or b"" for found in _ABOUT.finditer(xmp)}
        if len(abouts) <= 1:
            head, _, tail = xmp.partition(_END)
            return head + _description(made, (abouts or {b""}).pop()) + _END + tail, ()
    packet = _packet(xmp)
    made = _completed(made, packet if earlier is None else _packet(earlier))
    if packet is None:
        text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">'.encode()
        whole = text + _description(made, b"") + _END + b"</x:xmpmeta>"
        begin = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'.encode()
        return begin + whole + b'<?xpacket end="w"?>', _remark(made)
    for element in packet.descriptions():
        for name in (_CREATOR_TOOL, _SOURCE_TYPE):
            packet.remove(element, *name)
    packet.add(_wrapped(_description(made, b"")), (NAMESPACE, _RESTORATIONS))
    return packet.to_bytes(), _remark(made)


def completed(made: Provenance, xmp: bytes | None) -> Provenance:
    """Add the input's own statement, from its packet, to the statement."""
    return _completed(made, _packet(xmp))


def _completed(made: Provenance, packet: XmpPacket | None) -> Provenance:
    tool, kind = (_stated(packet, *name) for name in (_CREATOR_TOOL, _SOURCE_TYPE))
    return replace(made, input_creator_tool="" if tool == made.creator_tool else tool, input_source_type=kind)


def statement_fields(made: Provenance) -> dict[str, str]:
    """Return the structure's fields by name, as texts."""
    fields = {name: getattr(made, field) for field, name in _TEXTS.items()}
    fields |= {name: repr(float(getattr(made, field))) for field, name in _NUMBERS.items()}
    fields |= {name: str(getattr(made, field)) for field, name in _TRUTHS.items()}
    fields[_OPTIONS] = options_as_json(made.options)
    if made.quality is not None:
        fields[_QUALITY] = str(made.quality)
    return fields | {name: value for field, name in _OPTIONAL.items() if (value := getattr(made, field))}


def statement_of(xmp: bytes | None) -> Statement:
    """Read a packet's statement of a picture's origin.

    Raises:
        PictureError: a restoration is stated in an unknown form.
    """
    packet = _packet(xmp)
    if packet is None:
        return Statement()
    made = []
    for description in packet.descriptions():
        for item in packet.items(description, NAMESPACE, _RESTORATIONS):
            try:
                made.append(_restoration(packet, item))
            except (KeyError, ValueError, OptionError) as error:
                reason = str(error) if isinstance(error, OptionError) else "a field is missing or damaged"
                raise PictureError(f"the file's statement of its restoration cannot be read: {reason}") from error
    return Statement(_stated(packet, *_CREATOR_TOOL), _stated(packet, *_SOURCE_TYPE), tuple(made))


def _with_source_type(packet: XmpPacket | None, source_type: str) -> bytes:
    """Return a packet with this source type, which replaces an earlier one."""
    prefix = f'<rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{IPTC_EXTENSION}">'
    added = f"{prefix}{_element('Iptc4xmpExt:DigitalSourceType', source_type)}</rdf:Description></rdf:RDF>".encode()
    if packet is None:
        return added
    for element in packet.descriptions():
        packet.remove(element, *_SOURCE_TYPE)
    packet.add(added)
    return packet.to_bytes()


def _packet(xmp: bytes | None) -> XmpPacket | None:
    try:
        return None if xmp is None else XmpPacket(xmp)
    except XmpError:  # left out with a remark when the file was read
        return None


def _stated(packet: XmpPacket | None, namespace: str, name: str) -> str:
    found = [] if packet is None else [packet.get(each, namespace, name) for each in packet.descriptions()]
    return next((texts[0].strip() for texts in found if texts and texts[0].strip()), "")


def _remark(made: Provenance) -> tuple[str, ...]:
    changed = [("CreatorTool", made.input_creator_tool)]
    if made.source_type != made.input_source_type:
        changed.append(("DigitalSourceType", made.input_source_type))
    told = ", ".join(f"{name} {value}" for name, value in changed if value)
    return (f"what the input's XMP states of its making is kept as the input's: {told}",) if told else ()


def _description(made: Provenance, about: bytes) -> bytes:
    fields = [_element(f"s3diff:{name}", text) for name, text in statement_fields(made).items()]
    return (
        f'<rdf:Description xmlns:rdf="{RDF}" xmlns:xmp="{XMP}" xmlns:Iptc4xmpExt="{IPTC_EXTENSION}"'
        f' xmlns:s3diff="{NAMESPACE}" rdf:about="'.encode()
        + about
        + (
            f'">{_element("Iptc4xmpExt:DigitalSourceType", made.source_type)}'
            f"{_element('xmp:CreatorTool', made.creator_tool)}"
            f'<s3diff:{_RESTORATIONS}><rdf:Seq><rdf:li rdf:parseType="Resource">{"".join(fields)}</rdf:li></rdf:Seq>'
            f"</s3diff:{_RESTORATIONS}></rdf:Description>"
        ).encode()
    )


def _wrapped(description: bytes) -> bytes:
    return f'<rdf:RDF xmlns:rdf="{RDF}">'.encode() + description + _END


def _element(name: str, text: str) -> str:
    return f"<{name}>{escape(_NOT_XML.sub(chr(0xFFFD), text))}</{name}>"


def _restoration(packet: XmpPacket, item: XmlElement) -> Provenance:
    def text(name: str) -> str:
        found = packet.get(item, NAMESPACE, name)
        if found is None:
            raise KeyError(name)
        return found[0]

    def number(name: str) -> float:
        value = float(text(name))
        if not 0 <= value <= 1:
            raise ValueError(name)
        return value

    quality = packet.get(item, NAMESPACE, _QUALITY)
    values: dict[str, Any] = {field: text(name) for field, name in _TEXTS.items()}
    values |= {field: number(name) for field, name in _NUMBERS.items()}
    values |= {field: (packet.get(item, NAMESPACE, name) or [""])[0] for field, name in _OPTIONAL.items()}
    return Provenance(
        options=options_of_json(text(_OPTIONS)),
        quality=None if quality is None else int(quality[0]),
        is_generative=text(_TRUTHS["is_generative"]) != "False",
        is_compiled=text(_TRUTHS["is_compiled"]) == "True",
        is_streamed=text(_TRUTHS["is_streamed"]) == "True",
        **values,
    )


#: Terms as the text strings of a manifest's CBOR hold them.
_TERM = re.compile(rb"digitalsourcetype/((?:composite[Ww]ith)?[Tt]rainedAlgorithmicMedia)")
_LONGEST_TERM_BYTES = 64
_PIECE_BYTES = 1 << 20


def with_origin_of_credentials(picture: Picture, file: BinaryIO) -> Picture:
    """Return the picture with the AI origin of its file's Content Credentials, stated in XMP.

    Args:
        picture: as read; its notes say whether there are Content Credentials.
        file: opened; its position is restored.
    """
    if not any(CREDENTIALS in note for note in picture.notes):
        return picture
    xmp, term = with_ai_origin(picture.xmp, file)
    note = f"the Content Credentials state {term}; that is kept as DigitalSourceType in XMP"
    return replace(picture, xmp=xmp, notes=(*picture.notes, note)) if term else picture


def with_ai_origin(xmp: bytes | None, file: BinaryIO) -> tuple[bytes | None, str]:
    """Add the AI origin that an opened file's Content Credentials state to its packet, unless the packet states one.

    Return the packet and the term that was added, empty if none was. The file's position is restored.
    """
    packet, term = _packet(xmp), _origin_of_credentials(file)
    if not term or term_of(_stated(packet, *_SOURCE_TYPE)) in (COMPOSITE, GENERATED):
        return xmp, ""
    return _with_source_type(packet, SOURCE_TYPES + term), term


def _origin_of_credentials(file: BinaryIO) -> str:
    """Find IPTC's term for AI in a file's bytes; the composite term if both occur, an empty text if neither."""
    place, rest = file.tell(), b""
    found: set[bytes] = set()
    file.seek(0)
    while piece := file.read(_PIECE_BYTES):
        found.update(term[1].lower() for term in _TERM.finditer(rest + piece))
        rest = piece[-_LONGEST_TERM_BYTES:]
    file.seek(place, os.SEEK_SET)
    return next((term for term in (COMPOSITE, GENERATED) if term.lower().encode() in found), "")
