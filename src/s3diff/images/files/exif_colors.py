"""Recognise Adobe RGB that EXIF states without a profile, as cameras do."""

from __future__ import annotations

from PIL import Image

from s3diff.images.files.exif_block import ExifBlock

_EXIF_GROUP, _INTEROPERABILITY_GROUP = 0x8769, 0xA005
_COLOR_SPACE, _INTEROPERABILITY_INDEX = 0xA001, 1
_ADOBE_RGB = 2
#: DCF option file (CIPA DC-009, section 5.3): Adobe RGB.
_ADOBE_RGB_INDEX = b"R03"


def states_adobe_rgb(exif: Image.Exif | bytes | None) -> bool:
    """Whether an EXIF block, with its prefix, or the tags of a TIFF say that the picture is in Adobe RGB."""
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
