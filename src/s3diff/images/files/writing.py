"""Write picture files. Every fault of a destination is one ``OutputError``."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from s3diff.atomic_write import require_free, write_atomically
from s3diff.errors import OptionError, OutputError
from s3diff.formats import ENDINGS, Format, PicturePath, format_of, format_of_extension
from s3diff.images.color_profiles import color_space
from s3diff.images.files.codec import codec_of
from s3diff.images.files.metadata import for_result
from s3diff.images.files.pillow_metadata import held_by
from s3diff.images.files.provenance_xmp import completed, with_restoration
from s3diff.images.icc_profiles import DAMAGED_PROFILE, fits_channels, fitting_profile, srgb_profile
from s3diff.images.picture import Picture, in_whole_numbers
from s3diff.images.provenance import Provenance
from s3diff.messages import reason_of, shown_path

if TYPE_CHECKING:
    from s3diff.images.files.content_credentials import ResultSigner

#: In the header of every ICC profile (ICC.1:2010, section 7.2.9).
_PROFILE_SIGNATURE = b"acsp"


def write_picture(
    picture: Picture,
    path: PicturePath,
    *,
    quality: int = 95,
    overwrite: bool = True,
    signer: ResultSigner | None = None,
) -> tuple[str, ...]:
    """Write a picture in the format of the path's extension, one of ``PICTURE_EXTENSIONS``.

    Profile, EXIF, XMP and DPI are kept where the format can hold them, and a restored picture states in XMP how it was
    made. PNG and TIFF keep 16 bits, HEIC 10 (extra ``heif``). JPEG and HEIC are written without colour subsampling.
    Missing folders are created. The file is written next to its destination, flushed to the disk and then moved; an
    interruption leaves the old file.

    Args:
        quality: 1 to 100, for lossy formats.
        signer: signs the file, with a restored picture's statement and its input's file; None leaves it unsigned.

    Returns:
        Notes on losses that the format causes, one sentence each; mostly none.

    Raises:
        OutputError: the extension, the place or the disk does not allow it, or transparency would be lost (JPEG).
        OptionError: the quality is out of range.
    """
    if not isinstance(quality, int) or not 1 <= quality <= 100:
        raise OptionError(f"quality is {quality!r}; give a whole number from 1 to 100")
    target, form = checked_target(path, (picture.width, picture.height), picture.is_transparent, overwrite)
    try:
        data, notes = encoded(picture, form, quality)
    except OutputError as error:
        raise OutputError(f"{shown_path(path)}: {error}") from error
    except Exception as error:  # encoders raise OSError, ValueError, struct.error, MemoryError ..
        reason = reason_of(error)
        raise OutputError(f"{shown_path(path)} cannot be encoded as {form.title} ({reason}); try .png") from error
    if signer is not None:
        made, source = _signed_statement(picture)
        data = signer.signed(data, form, made, target.name, source)
    write_atomically(data, target, overwrite)
    return notes


def encoded(picture: Picture, form: Format, quality: int) -> tuple[bytes, tuple[str, ...]]:
    """Encode a file; return its bytes, and notes on losses that the format causes."""
    picture, notes = as_held(picture, form)
    settings, more = file_settings(picture, form, quality)
    data, lost = codec_of(form).encode(picture, settings)
    return data, (*notes, *more, *lost)


def copy_signed(
    unsigned: BinaryIO, target: BinaryIO, first: Picture, form: Format, title: str, signer: ResultSigner
) -> None:
    """Write a signed copy of a file of several pictures.

    Args:
        unsigned: opened for reading.
        target: opened for writing.
        first: its first picture, whose statement is signed.

    Raises:
        OutputError: the file cannot be signed.
    """
    made, source = _signed_statement(first)
    with tempfile.TemporaryFile() as signed:
        signer.sign(unsigned, signed, form, made, title, source)
        signed.seek(0)
        shutil.copyfileobj(signed, target)


def _signed_statement(picture: Picture) -> tuple[Provenance, Path | None]:
    """Return a restored picture's statement and, if it still exists, its input's file, for signing.

    Raises:
        OutputError: the picture has no statement.
    """
    if picture.provenance is None:
        raise OutputError("a picture that states nothing of its making cannot be signed; leave provenance on")
    source = picture.path if picture.path is not None and picture.path.is_file() else None
    return completed(picture.provenance, picture.xmp), source


def file_settings(picture: Picture, form: Format, quality: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Make Pillow's settings for everything but the pixels, and notes on losses that the format causes."""
    codec = codec_of(form)
    metadata, notes = for_result(picture, form.media_type)
    metadata, more = held_by(form, metadata)
    notes += more
    if picture.provenance is not None and form.has_xmp:
        made = replace(picture.provenance, quality=quality if form.has_quality else None)
        xmp, more = with_restoration(metadata.xmp, made)
        metadata, notes = metadata._replace(xmp=xmp), (*notes, *more)
    elif picture.provenance is not None:
        notes += (f"{form.title} holds no XMP; how the result was made is stated nowhere in it",)
    if metadata.exif is not None:
        exif, more = codec.fitted_exif(metadata.exif)
        metadata, notes = metadata._replace(exif=exif), (*notes, *more)
    settings = codec.settings(picture, metadata, quality)
    return {name: value for name, value in settings.items() if value is not None}, notes


def as_held(picture: Picture, form: Format) -> tuple[Picture, tuple[str, ...]]:
    """Convert a picture to the depth and colours that the format can hold."""
    notes: tuple[str, ...] = ()
    picture = in_whole_numbers(picture)
    if not form.has_profile and picture.icc_profile in (srgb_profile(), srgb_profile(is_grey=True)):
        picture = replace(picture, icc_profile=None)  # a missing profile means sRGB
    if picture.icc_profile is not None and not form.has_profile:
        space = None if picture.is_grey else color_space(picture.icc_profile)
        if space is None:
            notes += (f"{form.title} holds no colour profile; it was left out",)
        else:
            notes += (f"{form.title} holds no colour profile; the colours were converted to sRGB",)
            scale = np.iinfo(picture.pixels.dtype).max
            in_srgb = np.clip(space.to_srgb(picture.pixels / np.float32(scale)), 0, 1) * scale
            picture = replace(picture, pixels=np.rint(in_srgb).astype(picture.pixels.dtype))
        picture = replace(picture, icc_profile=None)
    if picture.icc_profile is not None:
        picture, more = _with_fitting_profile(picture, codec_of(form).num_channels(picture), form)
        notes += more
    if picture.pixels.dtype == np.uint16 and max(form.bits) < 16:
        notes += (f"16 bits were rounded to {max(form.bits)}, which is what {form.title} is written with",)
    return picture, notes


def _with_fitting_profile(picture: Picture, num_channels: int, form: Format) -> tuple[Picture, tuple[str, ...]]:
    """Return the picture with a profile for this number of channels."""
    profile, kind = picture.icc_profile, "grey" if num_channels == 1 else "RGB"
    if profile is None or fits_channels(profile, num_channels):
        return picture, ()
    if profile[36:40] != _PROFILE_SIGNATURE:
        return replace(picture, icc_profile=None), (DAMAGED_PROFILE,)
    profile = fitting_profile(profile, num_channels)
    how = "left out" if profile is None else f"replaced by one for {kind} with the same curve"
    note = f"the colour profile is not one for {kind}, which the {form.title} file is written in; it was {how}"
    return replace(picture, icc_profile=profile), (note,)


def check_writable(
    path: PicturePath, *, size: tuple[int, int] | None = None, transparent: bool = False, overwrite: bool = True
) -> None:
    """Check before hours of work that ``write_picture`` will be able to write; nothing is changed.

    Args:
        path: the target; its folder need not exist yet.
        size: (width, height) of the picture in pixels, where known: JPEG and WebP have a largest side.
        transparent: whether the picture will have transparency, which JPEG cannot hold.

    Raises:
        OutputError: the target cannot be written; the message says why.
    """
    target, _ = checked_target(path, size, transparent, overwrite)
    folder = next(folder for folder in target.parents if os.path.exists(folder))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{shown_path(path)} cannot be written ({reason_of(error)}); choose another folder"
        ) from error


def checked_target(
    path: PicturePath, size: tuple[int, int] | None, transparent: bool, overwrite: bool
) -> tuple[Path, Format]:
    """Return the file to write, links followed, and its format; make all checks that need no writing."""
    shown = shown_path(path)
    form = format_of(path)
    if form is None:
        raise OutputError(f"{shown} has no picture extension that can be written; end the name in {ENDINGS}")
    try:
        codec_of(form).require_encoder()
    except OutputError as error:
        raise OutputError(f"{shown}: {error}") from error
    if transparent and not form.has_alpha:
        raise OutputError(f"{shown}: {form.title} cannot hold the picture's transparency; write .png, .webp or .tif")
    if size is not None and max(size) > form.largest_side_px:
        limit = f"a {form.title} side has at most {form.largest_side_px}"
        raise OutputError(f"{shown} would be {size[0]} x {size[1]} pixels, {limit}; write .png or .tif")
    target = require_regular(path)
    require_free(target, overwrite)
    return target, form


def require_regular(path: PicturePath) -> Path:
    """Return a target, links followed, that is missing or a file that may be written.

    Raises:
        OutputError: a folder, a pipe or a write-protected file is there, or a link leads nowhere.
    """
    shown, mode = shown_path(path), None
    try:
        target = Path(path).resolve()  # a link stays a link: its target is replaced
        with suppress(FileNotFoundError):
            mode = os.stat(target).st_mode
    except (OSError, RuntimeError, ValueError) as error:  # of a link to itself; of a null character
        raise OutputError(f"{shown} cannot be written ({reason_of(error)}); choose another name") from error
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{shown} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; give another name")
    if mode is not None and not os.access(target, os.W_OK):
        raise OutputError(f"{shown} is write-protected; choose another name or make it writable")
    return target


def can_be_written(extension: str) -> bool:
    """Check whether results can have this extension here: HEIC needs its encoder."""
    form = format_of_extension(extension)
    return form is not None and codec_of(form).can_write
