"""The formats of picture files: their names, extensions and what they hold."""

from __future__ import annotations

import os
from typing import NamedTuple

PicturePath = str | os.PathLike[str]


class Format(NamedTuple):
    """What files of a format hold, and how large a side they can state."""

    name: str
    has_alpha: bool
    has_16_bits: bool
    largest_side_px: int
    has_profile: bool = True
    has_exif: bool = True
    has_xmp: bool = True
    has_iptc: bool = False
    has_texts: bool = False
    has_comment: bool = False
    has_frames: bool = False


_PNG = Format("PNG", True, True, 2**31 - 1, has_iptc=True, has_texts=True, has_comment=True, has_frames=True)
#: libjpeg's limit, a little below the 65535 that the format can state.
_JPEG = Format("JPEG", False, False, 65500, has_iptc=True, has_comment=True)
_TIFF = Format("TIFF", True, True, 2**31 - 1, has_iptc=True)
#: Its 16 bits are written as 10.
_HEIF = Format("HEIF", True, True, 16384)
FORMATS = {
    ".png": _PNG,
    ".apng": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": Format("WEBP", True, False, 16383, has_frames=True),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".avif": Format("AVIF", True, False, 65535, has_frames=True),
    ".bmp": Format("BMP", False, False, 2**31 - 1, has_profile=False, has_exif=False, has_xmp=False),
    ".gif": Format(
        "GIF", True, False, 65535, has_profile=False, has_exif=False, has_xmp=False, has_comment=True, has_frames=True
    ),
    ".heic": _HEIF,
    ".heif": _HEIF,
}
#: Endings of the file names that are read and written, in lower case.
PICTURE_EXTENSIONS = tuple(FORMATS)
#: The same for messages.
ENDINGS = f"{', '.join(PICTURE_EXTENSIONS[:-1])} or {PICTURE_EXTENSIONS[-1]}"
#: The formats for a message.
FORMAT_NAMES = "PNG, JPEG, WebP, TIFF, AVIF, BMP, GIF or HEIC"


def holds_frames(path: PicturePath) -> bool:
    """Whether a file of that name can be animated."""
    form = FORMATS.get(os.path.splitext(os.fspath(path))[1].lower())
    return form is not None and form.has_frames
