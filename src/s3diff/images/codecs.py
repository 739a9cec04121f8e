"""Picture files, arrays and tensors: what other packages import. Pillow lies behind it, in ``reading``, ``writing``
and ``pillow_metadata`` alone.

A picture keeps its bit depth, transparency, colour profile and EXIF from reading to writing. Whatever is wrong with a
file is one ``PictureError``, whatever is wrong with a destination one ``OutputError``; a file is written whole or not
at all.
"""

from __future__ import annotations

from s3diff.images.formats import PICTURE_EXTENSIONS, WRITTEN_EXTENSIONS
from s3diff.images.picture import (
    Picture,
    alpha_from_tensor,
    alpha_to_tensor,
    from_array,
    from_tensor,
    to_tensor,
)
from s3diff.images.placing import remove_leftovers
from s3diff.images.reading import PictureHeader, decode_picture, from_pil, list_pictures, picture_header, read_picture
from s3diff.images.writing import check_writable, to_pil, write_picture

__all__ = [
    "PICTURE_EXTENSIONS",
    "WRITTEN_EXTENSIONS",
    "Picture",
    "PictureHeader",
    "alpha_from_tensor",
    "alpha_to_tensor",
    "check_writable",
    "decode_picture",
    "from_array",
    "from_pil",
    "from_tensor",
    "list_pictures",
    "picture_header",
    "read_picture",
    "remove_leftovers",
    "to_pil",
    "to_tensor",
    "write_picture",
]
