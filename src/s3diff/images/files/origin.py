"""Keep the origin that an input's Content Credentials state, although the credentials are left out."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import BinaryIO

from s3diff.images.files.left_behind import CREDENTIALS
from s3diff.images.files.provenance_xmp import source_type_of, with_source_type
from s3diff.images.picture import Picture
from s3diff.images.provenance import COMPOSITE, GENERATED, SOURCE_TYPES, term_of

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
    term = origin_of_credentials(file)
    if not term or term_of(source_type_of(picture.xmp)) in (COMPOSITE, GENERATED):
        return picture
    note = f"the Content Credentials state {term}; that is kept as DigitalSourceType in XMP"
    return replace(picture, xmp=with_source_type(picture.xmp, SOURCE_TYPES + term), notes=(*picture.notes, note))


def origin_of_credentials(file: BinaryIO) -> str:
    """Find IPTC's term for AI in a file's bytes; the composite term if both occur.

    Args:
        file: opened; its position is restored.

    Returns:
        The term; empty if there is none.
    """
    place, rest = file.tell(), b""
    found: set[bytes] = set()
    file.seek(0)
    while piece := file.read(_PIECE_BYTES):
        found.update(term[1].lower() for term in _TERM.finditer(rest + piece))
        rest = piece[-_LONGEST_TERM_BYTES:]
    file.seek(place, os.SEEK_SET)
    return next((term for term in (COMPOSITE, GENERATED) if term.lower().encode() in found), "")
