"""Read picture files. Every fault of a file is one ``PictureError``."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageFile

from s3diff.errors import PictureError
from s3diff.formats import FORMAT_TITLES, RAW, PicturePath, foreign_kind, format_of
from s3diff.images.files.codec import HEAD_BYTES, Codec, recognised_codec
from s3diff.images.files.dropped_contents import attachments, left_out_note
from s3diff.images.files.exif_block import states_adobe_rgb
from s3diff.images.files.pillow_metadata import metadata_of
from s3diff.images.files.png_chunks import ReadChunks
from s3diff.images.files.provenance_xmp import with_origin_of_credentials
from s3diff.images.icc_profiles import StatedColors, adobe_rgb_profile
from s3diff.images.picture import Picture
from s3diff.messages import reason_of, shown_path, too_many_bytes
from s3diff.options import MAX_FILE_BYTES, MAX_PICTURE_PIXELS

#: Pillow's message for files of an unsupported kind.
_UNKNOWN_KIND = re.compile(r"unsupported|not supported|unknown (pixel|raw) mode|unrecognized|not implemented", re.I)
#: Default of ``Image.MAX_IMAGE_PIXELS``.
_PILLOWS_DEFAULT_PIXELS = 1024**3 // 4 // 3
#: EXIF's tags of the resolution.
_RESOLUTION_TAGS = {0x011A, 0x011B, 0x0128}


def read_picture(
    path: PicturePath, max_pixels: int = MAX_PICTURE_PIXELS, max_bytes: int = MAX_FILE_BYTES, page: int | None = None
) -> Picture:
    """Read a picture of any of :data:`s3diff.formats.FORMATS`, recognised by its content.

    Palettes become RGB, 1-bit pictures grey, CMYK becomes RGB (through its profile, which is then dropped). 16 bits are
    kept, except for CMYK, which is reduced to 8 with a note. Of several frames or pages the first is read, with a note
    (all frames: ``open_animation``; all pages: ``open_pages``). The EXIF orientation is applied. HEIC needs the extra
    ``heif``.

    Args:
        max_pixels: largest picture accepted, judged by the header before anything is decoded. Where the process has
            changed Pillow's own ``Image.MAX_IMAGE_PIXELS``, that holds as well.
        max_bytes: largest file accepted.
        page: the number, from 1, of the page to read.

    Raises:
        PictureError: there is no such file, it cannot be opened, is no picture, is damaged, cut off, too large, or
            made to keep a decoder busy (see :meth:`Codec.check`).
    """
    with opened_file(path, max_pixels, max_bytes) as (file, codec, limit):
        if page is None:
            picture = codec.read(file, Path(path), limit)
        else:
            (picture,) = codec.read_pages(file, Path(path), limit, (page,))
        return with_origin_of_credentials(picture, file)


@contextmanager
def opened_file(path: PicturePath, max_pixels: int, max_bytes: int) -> Iterator[tuple[BinaryIO, Codec, int]]:
    """Open a file; find its codec and the largest number of pixels; turn an error in the block into one line.

    Raises:
        PictureError: the file does not exist, cannot be opened, is too large or no picture.
    """
    shown, limit = shown_path(path), _pixel_limit(max_pixels)
    with reading(shown, limit):
        if os.path.isdir(path):
            raise PictureError(f"{shown} is a folder; give a picture file")
        if os.path.exists(path) and not os.path.isfile(path):
            raise PictureError(f"{shown} is not a regular file; give a picture file")
        with open(path, "rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes > max_bytes:
                raise PictureError(too_many_bytes(shown, num_bytes, max_bytes))
            yield file, recognised(file, shown), limit


@contextmanager
def _opened_of_any_size(path: PicturePath) -> Iterator[tuple[BinaryIO, Codec]]:
    """Open a file whose pixels are not decoded; see :func:`opened_file`."""
    shown = shown_path(path)
    with reading(shown, 0), open(path, "rb") as file:
        yield file, recognised(file, shown)


def decode_picture(data: bytes, name: str, max_pixels: int = MAX_PICTURE_PIXELS) -> Picture:
    """Read a picture from a file's whole content, as :func:`read_picture` would read the file.

    Raises:
        PictureError: it is no picture, damaged, cut off or too large.
    """
    limit = _pixel_limit(max_pixels)
    with reading(name, limit):
        file = io.BytesIO(data)
        return with_origin_of_credentials(recognised(file, name).read(file, Path(name), limit), file)


class PictureHeader(NamedTuple):
    """Hold a file's facts before decoding: size in pixels as stored, and the format's usual extension."""

    width: int
    height: int
    extension: str


def picture_header(path: PicturePath) -> PictureHeader:
    """Read size and format of a picture file without decoding.

    Raises:
        PictureError: it cannot be opened, or is no picture.
    """
    with _opened_of_any_size(path) as (file, codec):
        return PictureHeader(*codec.size(file), codec.form.extensions[0])


def stated_size(path: PicturePath) -> tuple[int, int]:
    """Read (width, height) as stored from a file's beginning, for estimates; :func:`picture_header` checks more.

    Raises:
        PictureError: it cannot be opened, or is no picture.
    """
    with _opened_of_any_size(path) as (file, codec):
        return codec.stated_size(file)


def stated_colors_of_file(path: PicturePath) -> StatedColors:
    """Make a profile of a file's otherwise stated colours; see :meth:`Codec.stated_colors`.

    Raises:
        PictureError: the file is no picture, a raw file, HDR, or its first page is a reduced copy.
    """
    with _opened_of_any_size(path) as (file, codec):
        image = codec.checked_header(file)
        if codec.holds_reduced_copy_first(file):
            raise PictureError("the first page is a reduced copy of the picture; restore it in memory")
        stated = codec.stated_colors(file, image)
        has_none = stated.profile is None and "icc_profile" not in image.info and image.mode == "RGB"
        is_adobe_rgb = has_none and states_adobe_rgb(image.getexif())
        return stated._replace(profile=adobe_rgb_profile()) if is_adobe_rgb else stated


def left_by_streaming(path: PicturePath) -> tuple[bool, tuple[str, ...]]:
    """List the contents of a file that a result without metadata loses; pixels are not read.

    Returns:
        Whether the file holds EXIF, XMP, IPTC or texts; and notes on its other contents.

    Raises:
        PictureError: the file is no picture.
    """
    with _opened_of_any_size(path) as (file, codec):
        kinds = attachments(file)
        image = codec.checked_header(file)
        chunks: ReadChunks | None = getattr(image, "chunks", None)
        if chunks is not None:  # of a PNG, whose pixels Pillow would decode for what is behind them
            return bool(chunks.texts or chunks.exif), left_out_note(kinds)
        found, lost, notes = metadata_of(image)
        tags = Image.Exif()
        tags.load(found.exif or b"")
        is_only_dpi = set(tags) <= _RESOLUTION_TAGS
        has_more = any(found._replace(exif=None)) or not is_only_dpi
        return has_more, left_out_note([*kinds, *lost]) + notes


def _pixel_limit(max_pixels: int) -> int:
    pillows = Image.MAX_IMAGE_PIXELS
    return max_pixels if pillows in (None, _PILLOWS_DEFAULT_PIXELS) else min(max_pixels, pillows)


@contextmanager
def reading(shown: str, limit: int) -> Iterator[None]:
    """Turn any error in the block into one line about the picture."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise PictureError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on in this process, so damaged pictures would pass for whole ones; "
            "set it to False"
        )
    try:
        yield
    except PictureError as error:
        if str(error).startswith(shown):
            raise
        raise PictureError(f"{shown}: {error}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{shown} is too large, the limit is {limit} pixels; give a smaller picture") from error
    except FileNotFoundError as error:
        raise PictureError(f"{shown}: no such file; check the path") from error
    except PermissionError as error:
        raise PictureError(f"{shown}: permission denied; make the file readable") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise PictureError(_unreadable(shown, error)) from error
        raise PictureError(
            f"{shown} is a symbolic link that leads back to itself; give the picture it means"
        ) from error
    except Exception as error:  # decoders raise anything on damaged data: struct, zlib, index errors ..
        raise PictureError(_unreadable(shown, error)) from error


def _unreadable(shown: str, error: Exception) -> str:
    """Return the message about a file that a decoder could not read: damaged, or of an unknown kind."""
    reason = reason_of(error)
    what = "it may be damaged"
    if isinstance(error, NotImplementedError) or _UNKNOWN_KIND.search(reason):
        what = "its kind is not supported; save it as 8- or 16-bit RGB or grey"
    return f"{shown} cannot be read as a picture ({reason}); {what}"


def list_pictures(folder: PicturePath, recursive: bool = False) -> list[Path]:
    """List the files in a folder with a picture's extension, sorted by path; hidden files and folders are left out.

    Raises:
        PictureError: the folder, or one inside it, cannot be listed.
    """

    def fail(error: OSError) -> None:
        where = shown_path(error.filename if error.filename is not None else folder)
        raise PictureError(f"{where} cannot be listed ({reason_of(error)}); give a readable folder") from error

    found = []
    for here, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        shown = [name for name in files if not name.startswith(".") and format_of(name) is not None]
        found += [Path(here, name) for name in shown]
    return sorted(found)


def recognised(file: BinaryIO, shown: str) -> Codec:
    """Find the codec of an opened file, which is left at its beginning.

    Raises:
        PictureError: it is no picture.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    codec = recognised_codec(head)
    if codec is None and foreign_kind("", head) is RAW:
        raise PictureError(f"{shown} is a raw file of a camera; develop it first, and give the picture")
    if codec is None and not head:
        raise PictureError(f"{shown} is empty; give a {FORMAT_TITLES} picture")
    if codec is None and (foreign := foreign_kind(shown, head)) is not None:
        raise PictureError(f"{shown} is {foreign.name}; {foreign.advice}")
    if codec is None:
        raise PictureError(f"{shown} is not a {FORMAT_TITLES} picture; give a picture file in one of these formats")
    return codec
