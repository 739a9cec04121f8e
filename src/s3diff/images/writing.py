"""Pictures to files, through Pillow. Whatever is wrong with a destination is one ``OutputError``."""

from __future__ import annotations

import io
import os
import tempfile
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from s3diff.errors import OptionError, OutputError
from s3diff.images.formats import PicturePath
from s3diff.images.metadata import with_size, xmp_of_result
from s3diff.images.picture import Picture
from s3diff.images.pillow_metadata import exif_for
from s3diff.images.placing import checked_target, write_atomically
from s3diff.images.wording import reason_of, shown_path

_TIFF_XMP = 0x02BC
#: A segment's 65535 bytes without its length and XMP's own header of 29 bytes.
_MAX_JPEG_XMP_BYTES = 65504


def write_picture(picture: Picture, path: PicturePath, *, quality: int = 95, overwrite: bool = True) -> tuple[str, ...]:
    """Write a picture in the format of the path's extension: .png, .jpg, .jpeg, .webp, .tif or .tiff.

    Profile and EXIF are kept. 16 bits are kept by PNG and TIFF for grey without alpha and rounded to 8 elsewhere. JPEG
    is written without colour subsampling. Missing folders are made. The file is whole or not there: it is written
    beside its destination, flushed to the disk and then moved; an interruption leaves the old file.

    Args:
        picture: what to write.
        path: where to.
        quality: 1 to 100, of JPEG and WebP.
        overwrite: whether a file that is there may be replaced.

    Returns:
        Notes on what the format could not hold, one sentence each; mostly none.

    Raises:
        OutputError: the extension, the place or the disk does not allow it, or transparency would be lost (JPEG).
        OptionError: the quality is out of range.
    """
    if not isinstance(quality, int) or not 1 <= quality <= 100:
        raise OptionError(f"quality is {quality!r}; give a whole number from 1 to 100")
    size = (picture.width, picture.height)
    target, form = checked_target(path, size, picture.is_transparent, overwrite)
    exif, notes = exif_for(form, picture.exif)
    keeps_16_bits = form.has_16_bits and picture.is_grey and picture.alpha is None
    if picture.pixels.dtype == np.uint16 and not keeps_16_bits:
        notes += (f"16 bits were rounded to 8: {form.name} is written with 8 bits for such a picture",)
    if exif is not None:
        exif = with_size(exif, *size)
    settings: dict[str, Any] = {"exif": exif, "icc_profile": picture.icc_profile, "dpi": picture.dpi}
    xmp = None if picture.xmp is None else xmp_of_result(picture.xmp, *size)
    if form.name == "BMP":
        lost = (("EXIF", exif), ("XMP", xmp), ("a colour profile", picture.icc_profile))
        notes += tuple(f"BMP holds no {name.removeprefix('a ')}; it was left out" for name, value in lost if value)
    if xmp is not None and form.name == "PNG":
        settings["pnginfo"] = PngImagePlugin.PngInfo()
        settings["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    elif xmp is not None and form.name == "TIFF":
        settings["tiffinfo"] = {_TIFF_XMP: xmp}
    elif xmp is not None and form.name == "JPEG" and len(xmp) > _MAX_JPEG_XMP_BYTES:
        notes += (f"the XMP packet of {len(xmp)} bytes is too long for a JPEG file and was left out",)
    else:
        settings["xmp"] = xmp
    if form.name in ("JPEG", "WEBP", "AVIF"):
        settings["quality"] = quality
    if form.name == "JPEG":
        settings["subsampling"] = 0  # 4:4:4
    data = io.BytesIO()  # TIFF stays uncompressed: Pillow cannot write EXIF groups into a compressed one
    try:
        image = _to_image(picture, with_alpha=form.has_alpha, with_16_bits=form.has_16_bits)
        image.save(data, form.name, **{name: value for name, value in settings.items() if value is not None})
    except Exception as error:  # encoders raise OSError, ValueError, struct.error, MemoryError ..
        raise OutputError(
            f"{shown_path(path)} cannot be encoded as {form.name} ({reason_of(error)}); try .png"
        ) from error
    write_atomically(data.getvalue(), target, overwrite)
    return notes


def check_writable(
    path: PicturePath, *, size: tuple[int, int] | None = None, transparent: bool = False, overwrite: bool = True
) -> None:
    """Whether ``write_picture`` will be able to write there, for use before hours of work; changes nothing.

    Args:
        path: where the picture is to go; its folder need not exist yet.
        size: (width, height) of the picture in pixels, where known: JPEG and WebP have a largest side.
        transparent: whether the picture will have transparency, which JPEG cannot hold.
        overwrite: whether a file that is there may be replaced.

    Raises:
        OutputError: it cannot be written there; the message says why.
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


def to_pil(picture: Picture) -> Image.Image:
    """A Pillow image with profile and EXIF in its ``info``: mode L, LA, RGB, RGBA or, for 16-bit grey, I;16.

    Other 16-bit pictures are rounded to 8 bits: Pillow has no mode for them.
    """
    image = _to_image(picture, with_alpha=True, with_16_bits=True)
    image.info.update({} if picture.icc_profile is None else {"icc_profile": picture.icc_profile})
    image.info.update({} if picture.exif is None else {"exif": picture.exif})
    return image


def _to_image(picture: Picture, *, with_alpha: bool, with_16_bits: bool) -> Image.Image:
    array = picture.pixels
    if with_alpha and picture.alpha is not None:
        array = np.concatenate([array, picture.alpha[..., None]], axis=-1)
    if array.dtype == np.uint16 and not (with_16_bits and array.shape[2] == 1):
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257: exact rounding
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
