"""The formats of picture files: their names, extensions and what they hold."""

from __future__ import annotations

import os
from typing import NamedTuple

PicturePath = str | os.PathLike[str]


class Format(NamedTuple):
    name: str
    has_alpha: bool
    has_16_bits: bool  # for grey without alpha; Pillow writes no other picture with 16
    largest_side_px: int


FORMATS = {
    ".png": Format("PNG", True, True, 2**31 - 1),
    ".jpg": Format("JPEG", False, False, 65500),  # libjpeg's limit, a little below the 65535 that the format can state
    ".jpeg": Format("JPEG", False, False, 65500),
    ".webp": Format("WEBP", True, False, 16383),
    ".tif": Format("TIFF", True, True, 2**31 - 1),
    ".tiff": Format("TIFF", True, True, 2**31 - 1),
    ".avif": Format("AVIF", True, False, 65535),
    ".bmp": Format("BMP", False, False, 2**31 - 1),
}
#: Endings of the file names that are read and written, in lower case.
PICTURE_EXTENSIONS = tuple(FORMATS)
#: Those that are written.
WRITTEN_EXTENSIONS = PICTURE_EXTENSIONS
ENDINGS = ".png, .jpg, .jpeg, .webp, .tif, .tiff, .avif or .bmp"
