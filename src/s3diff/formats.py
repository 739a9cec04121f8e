"""List the formats of picture files, one row each, from which reading, writing, help, page and documents are made.

Further rows describe files that people give and that are not restored.

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
        has_alpha, has_profile, has_exif, has_xmp, has_comment: whether files hold that.
        has_iptc: whether captions and keywords are held as IPTC.
        has_texts: whether texts with keywords are held, as PNG does.
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


FORMATS = (
    Format(
        name="PNG", title="PNG", codec="png", extensions=(".png", ".apng"), media_type="image/png",
        bits=(8, 16), has_iptc=True, has_texts=True, has_comment=True, has_frames=True, dpi="yes",
    ),
    # libjpeg's largest side is a little below the 65535 that JPEG can state.
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
#: Formats of results, by extension.
OUTPUT_FORMATS = tuple(extension[1:] for extension in PICTURE_EXTENSIONS)


def in_words(names: tuple[str, ...]) -> str:
    """Join names for a sentence: ``PNG, GIF or WebP``."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


#: The endings and the formats for messages.
ENDINGS = in_words(PICTURE_EXTENSIONS)
FORMAT_TITLES = in_words(tuple(form.title for form in FORMATS))
ANIMATED_ENDINGS = in_words(tuple(form.extensions[0] for form in FORMATS if form.has_frames))
PAGED_ENDINGS = in_words(tuple(form.extensions[0] for form in FORMATS if form.has_pages))


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


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """Describe one kind of file that is not read.

    Attributes:
        name: of one file, with its article.
        plural: of several.
        advice: what to do instead, an imperative.
        extensions: endings of its file names, in lower case with their dots.
        beginnings: (offset, bytes) of its files, within their first 32 bytes.
    """

    name: str
    plural: str
    advice: str
    extensions: tuple[str, ...] = ()
    beginnings: tuple[tuple[int, bytes], ...] = ()


#: The first row that fits counts: CR3 is a kind of MP4 file.
FOREIGN = (
    Foreign(
        name="a raw file of a camera", plural="raw files of cameras",
        advice="develop it first, in darktable or your camera's program, and give the TIFF or JPEG",
        extensions=(
            ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".rwl", ".dng",
            ".pef", ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".erf", ".kdc", ".k25", ".dcr", ".mrw", ".mos", ".mef",
            ".gpr", ".raw",
        ),
        beginnings=(
            (4, b"ftypcrx "), (0, b"FUJIFILMCCD-RAW"), (0, b"FOVb"), (6, b"HEAPCCDR"), (0, b"IIRO"), (0, b"IIRS"),
            (0, b"MMOR"), (0, b"IIU\0"), (0, b"\0MRM"),
        ),
    ),
    Foreign(
        name="a picture in JPEG XL, JPEG 2000, EXR or a format like these", plural="pictures in other formats",
        advice="save it as PNG or TIFF first",
        extensions=(".jxl", ".jp2", ".j2k", ".jpx", ".exr", ".hdr", ".tga", ".ico", ".pcx", ".ppm", ".pgm", ".qoi"),
        beginnings=(
            (0, b"\xff\x0a"), (4, b"JXL "), (4, b"jP  "), (0, b"\xff\x4f\xff\x51"), (0, b"v/1\x01"),
            (0, b"#?RADIANCE"), (0, b"\0\0\x01\0"), (0, b"qoif"),
        ),
    ),
    Foreign(
        name="a video", plural="videos",
        advice="take its pictures out (ffmpeg -i VIDEO frames/%05d.png), and restore that folder",
        extensions=(
            ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".flv", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts",
            ".vob", ".ogv", ".ogm", ".f4v", ".3g2", ".asf", ".ts", ".m2t", ".m1v", ".m2v", ".mxf", ".nut", ".dv",
            ".ivf", ".y4m", ".h264", ".264", ".h265", ".265", ".hevc", ".obu", ".rm", ".rmvb",
        ),
        beginnings=(
            (4, b"ftypiso"), (4, b"ftypmp4"), (4, b"ftypM4V"), (4, b"ftypqt"), (4, b"ftyp3g"), (4, b"ftypavc1"),
            (4, b"ftypMSNV"), (4, b"ftypXAVC"), (8, b"AVI "), (0, b"\x1a\x45\xdf\xa3"), (0, b"\0\0\x01\xba"),
            (0, b"\0\0\x01\xb3"), (0, b"FLV\x01"), (0, b"\x30\x26\xb2\x75"), (4, b"moov"), (4, b"mdat"),
            (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01"), (0, b"nut/multimedia container"), (0, b"DKIF"), (0, b"YUV4MPEG2"),
            (0, b".RMF"),
        ),
    ),
    Foreign(
        name="a sound file", plural="sound files",
        advice="give a picture or a video",
        extensions=(".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff"),
        beginnings=((8, b"WAVE"), (0, b"ID3"), (0, b"fLaC"), (4, b"ftypM4A")),
    ),
    Foreign(
        name="a document", plural="documents",
        advice="make pictures of its pages (pdftoppm -r 300 -png DOCUMENT.pdf page), and restore those",
        extensions=(
            ".pdf", ".doc", ".docx", ".odt", ".rtf", ".ppt", ".pptx", ".odp", ".xls", ".xlsx", ".ods", ".epub", ".djvu",
        ),
        beginnings=((0, b"%PDF"), (0, b"\xd0\xcf\x11\xe0"), (0, b"{\\rtf"), (0, b"AT&TFORM")),
    ),
    Foreign(
        name="a file of an image editor", plural="files of image editors",
        advice="export it as PNG or TIFF first",
        extensions=(".psd", ".psb", ".xcf", ".kra", ".ora", ".afphoto", ".procreate"),
        beginnings=((0, b"8BPS"), (0, b"gimp xcf")),
    ),
    Foreign(
        name="a vector drawing", plural="vector drawings",
        advice="export it as PNG in the size that you want: it has no pixels to restore",
        extensions=(".svg", ".svgz", ".ai", ".eps", ".cdr"),
        beginnings=((0, b"<svg"), (0, b"%!PS")),
    ),
    Foreign(
        name="an archive", plural="archives",
        advice="unpack it, and restore the folder",
        extensions=(".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".cbz", ".cbr"),
        beginnings=((0, b"PK\x03\x04"), (0, b"7z\xbc\xaf\x27\x1c"), (0, b"Rar!"), (0, b"\x1f\x8b"), (0, b"\xfd7zXZ")),
    ),
    Foreign(
        name="a web page", plural="web pages",
        advice="download the picture itself: its address gave a page",
        extensions=(".html", ".htm", ".mht"),
        beginnings=((0, b"<!DOCTYPE html"), (0, b"<!doctype html"), (0, b"<html")),
    ),
    Foreign(
        name="a pointer of Git LFS", plural="pointers of Git LFS",
        advice="fetch the picture itself with git lfs pull",
        beginnings=((0, b"version https://git-lfs"),),
    ),
)  # fmt: skip
RAW = FOREIGN[0]
VIDEO = next(kind for kind in FOREIGN if kind.name == "a video")
_FOREIGN_BY_EXTENSION = {extension: kind for kind in FOREIGN for extension in kind.extensions}


def is_video(path: PicturePath) -> bool:
    """Check whether a file is a video, by its beginning and its name; False for a file that cannot be read."""
    if not os.path.isfile(path):  # a pipe is read once only
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(32)
    except OSError:
        return False
    return foreign_kind(path, head) is VIDEO


def foreign_kind(path: PicturePath, head: bytes = b"") -> Foreign | None:
    """Recognise a file that is not restored; None for an unknown kind.

    Args:
        path: its name, which decides if the content does not; an office document is an archive by content.
        head: its first 32 bytes or more.
    """
    by_name = _FOREIGN_BY_EXTENSION.get(os.path.splitext(os.fspath(path))[1].lower())
    by_content = next(
        (kind for kind in FOREIGN if any(head.startswith(start, at) for at, start in kind.beginnings)), None
    )
    is_packed = by_content is not None and by_content.name == "an archive"
    return by_name if by_name is not None and (is_packed or by_content is None) else by_content
