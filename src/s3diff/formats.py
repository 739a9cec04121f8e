"""List the formats of picture files, one row each, from which reading, writing, help, page and documents are made.

The module of ``s3diff.images.files`` that a row names reads and writes the format.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

#: Of a restored video; ``auto`` is h264, h265 for more than 8 bits, and vp9 for .webm.
VideoCodec = Literal["auto", "h264", "h265", "av1", "vp9", "ffv1"]

#: Containers of videos that are written, by extension, and their media types.
VIDEO_TYPES = {
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".m4v": "video/mp4",
    ".mkv": "video/matroska",
    ".webm": "video/webm",
}

PicturePath = str | os.PathLike[str]
_ANY_SIDE = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Format:
    """Describe one format.

    Attributes:
        name: the name in ``Picture.format``.
        title: the name in messages and documents.
        codec: the module of ``s3diff.images.files`` that reads and writes it.
        extensions: endings of its file names; results get the first one.
        media_type: of the files.
        largest_side_px: the largest side that a file can state.
        bits: per channel, of written files.
        has_alpha: whether transparency is held.
        has_profile: whether a colour profile is held.
        has_exif: whether EXIF is held.
        has_xmp: whether XMP is held.
        has_iptc: whether captions and keywords are held as IPTC.
        has_texts: whether texts with keywords are held, as PNG does.
        has_comment: whether a comment is held.
        has_frames: whether animations are held.
        has_pages: whether several pictures of any sizes are held as pages.
        has_quality: whether the writer takes a quality from 1 to 100.
        dpi: whether the resolution is kept: ``yes``, ``no`` or ``in EXIF``.
        is_shown_by_browsers: whether browsers show it without help.
    """

    name: str
    title: str
    codec: str
    extensions: tuple[str, ...]
    media_type: str
    largest_side_px: int = _ANY_SIDE
    bits: tuple[int, ...] = (8,)
    has_alpha: bool = True
    has_profile: bool = True
    has_exif: bool = True
    has_xmp: bool = True
    has_iptc: bool = False
    has_texts: bool = False
    has_comment: bool = False
    has_frames: bool = False
    has_pages: bool = False
    has_quality: bool = False
    dpi: str = "in EXIF"
    is_shown_by_browsers: bool = True


#: libjpeg's largest side is a little below the 65535 that JPEG can state.
FORMATS = (
    Format(
        name="PNG", title="PNG", codec="png", extensions=(".png", ".apng"), media_type="image/png",
        bits=(8, 16), has_iptc=True, has_texts=True, has_comment=True, has_frames=True, dpi="yes",
    ),
    Format(
        name="JPEG", title="JPEG", codec="jpeg", extensions=(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
        media_type="image/jpeg", largest_side_px=65500, has_alpha=False, has_iptc=True, has_comment=True,
        has_quality=True, dpi="yes",
    ),
    Format(
        name="WEBP", title="WebP", codec="webp", extensions=(".webp",), media_type="image/webp",
        largest_side_px=16383, has_frames=True, has_quality=True,
    ),
    Format(
        name="TIFF", title="TIFF", codec="tiff", extensions=(".tif", ".tiff"), media_type="image/tiff",
        bits=(8, 16), has_iptc=True, has_pages=True, dpi="yes", is_shown_by_browsers=False,
    ),
    Format(
        name="AVIF", title="AVIF", codec="avif", extensions=(".avif",), media_type="image/avif",
        largest_side_px=65535, has_frames=True, has_quality=True,
    ),
    Format(
        name="BMP", title="BMP", codec="bmp", extensions=(".bmp",), media_type="image/bmp",
        has_alpha=False, has_profile=False, has_exif=False, has_xmp=False, dpi="yes",
    ),
    Format(
        name="GIF", title="GIF", codec="gif", extensions=(".gif",), media_type="image/gif", largest_side_px=65535,
        has_profile=False, has_exif=False, has_comment=True, has_frames=True, dpi="no",
    ),
    Format(
        name="HEIF", title="HEIC", codec="heif", extensions=(".heic", ".heif"), media_type="image/heic",
        largest_side_px=16384, bits=(8, 10), has_quality=True, is_shown_by_browsers=False,
    ),
)  # fmt: skip
_BY_EXTENSION = {extension: form for form in FORMATS for extension in form.extensions}
#: Endings of the file names that are read and written, in lower case.
PICTURE_EXTENSIONS = tuple(_BY_EXTENSION)


def in_words(names: tuple[str, ...]) -> str:
    """Join names for a sentence: ``PNG, GIF or WebP``."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


#: The endings and the formats for messages.
ENDINGS = in_words(PICTURE_EXTENSIONS)
FORMAT_TITLES = in_words(tuple(form.title for form in FORMATS))
ANIMATED_ENDINGS = in_words(tuple(form.extensions[0] for form in FORMATS if form.has_frames))
PAGED_ENDINGS = in_words(tuple(form.extensions[0] for form in FORMATS if form.has_pages))
ANIMATED_TITLES = in_words(tuple(form.title for form in FORMATS if form.has_frames))


def format_of(path: PicturePath) -> Format | None:
    """Find the format of a file name; None for other extensions."""
    return format_of_extension(os.path.splitext(os.fspath(path))[1])


def format_of_extension(extension: str) -> Format | None:
    """Find the format of an extension with its dot, in upper or lower case."""
    return _BY_EXTENSION.get(extension.lower())


def media_type(path: PicturePath) -> str:
    """Return the media type of a file by its name."""
    form, extension = format_of(path), os.path.splitext(os.fspath(path))[1].lower()
    return VIDEO_TYPES.get(extension, "application/octet-stream") if form is None else form.media_type


def holds_frames(path: PicturePath) -> bool:
    """Check whether a file of that name can be animated."""
    form = format_of(path)
    return form is not None and form.has_frames


def holds_pages(path: PicturePath) -> bool:
    """Check whether a file of that name can hold several pages."""
    form = format_of(path)
    return form is not None and form.has_pages
