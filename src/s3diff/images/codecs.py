"""Export the functions on picture files, arrays and tensors that other packages import.

A picture keeps its bit depth, transparency, colour profile and EXIF from reading to writing. Every fault of a file is
a ``PictureError``, every fault of a destination an ``OutputError``; a file is written whole or not at all. Contracts in
``pyproject.toml`` say which modules may import Pillow and pillow-heif.
"""

from __future__ import annotations

from s3diff.atomic_write import remove_leftovers
from s3diff.formats import PICTURE_EXTENSIONS, holds_frames, holds_pages
from s3diff.images.files.animations import (
    MAX_FRAMES_OF_LARGEST,
    Animation,
    Frame,
    is_animated,
    open_animation,
    write_animation,
)
from s3diff.images.files.pages import Pages, open_pages, write_pages
from s3diff.images.files.pillow_pictures import from_pil, to_pil
from s3diff.images.files.reading import (
    PictureHeader,
    decode_picture,
    list_pictures,
    picture_header,
    read_picture,
    stated_size,
)
from s3diff.images.files.tiff import silence_libtiff
from s3diff.images.files.writing import can_be_written, check_writable, require_regular, write_picture
from s3diff.images.picture import (
    Picture,
    alpha_from_tensor,
    alpha_to_tensor,
    from_array,
    from_tensor,
    to_tensor,
)

__all__ = [
    "MAX_FRAMES_OF_LARGEST",
    "PICTURE_EXTENSIONS",
    "Animation",
    "Frame",
    "Pages",
    "Picture",
    "PictureHeader",
    "alpha_from_tensor",
    "alpha_to_tensor",
    "can_be_written",
    "check_writable",
    "decode_picture",
    "from_array",
    "from_pil",
    "from_tensor",
    "holds_frames",
    "holds_pages",
    "is_animated",
    "list_pictures",
    "open_animation",
    "open_pages",
    "picture_header",
    "read_picture",
    "remove_leftovers",
    "require_regular",
    "silence_libtiff",
    "stated_size",
    "to_pil",
    "to_tensor",
    "write_animation",
    "write_pages",
    "write_picture",
]
