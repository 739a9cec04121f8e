"""Pictures to files, through Pillow. Whatever is wrong with a destination is one ``OutputError``."""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from s3diff.atomic_write import write_atomically
from s3diff.errors import OptionError, OutputError
from s3diff.images.color_profiles import color_space
from s3diff.images.files.destination import checked_target
from s3diff.images.files.formats import Format, PicturePath
from s3diff.images.files.heif import WRITTEN_BITS, heif_bytes
from s3diff.images.files.jpeg_segments import with_metadata
from s3diff.images.files.left_behind import left_out_note
from s3diff.images.files.metadata import comments_of, for_result
from s3diff.images.files.pillow_metadata import deep_tiff, held_by, png_info, tiff_tags
from s3diff.images.files.png_chunks import with_pixels
from s3diff.images.picture import Picture
from s3diff.messages import reason_of, shown_path

#: How much worse, in mean error, colours of the frame before may be.
_SAME_PALETTE_ERROR = 1.25


def write_picture(picture: Picture, path: PicturePath, *, quality: int = 95, overwrite: bool = True) -> tuple[str, ...]:
    """Write a picture in the format of the path's extension, one of ``PICTURE_EXTENSIONS``.

    Profile, EXIF, XMP and DPI are kept where the format can hold them, 16 bits by PNG and TIFF (10 of them by HEIC,
    which needs the extra ``heif``). JPEG and HEIC are written without colour subsampling. Missing folders are made. The
    file is whole or not there: it is written beside its destination, flushed to the disk and then moved; an
    interruption leaves the old file.

    Args:
        picture: what to write.
        path: where to.
        quality: 1 to 100, of JPEG, WebP, AVIF and HEIC.
        overwrite: whether a file that is there may be replaced.

    Returns:
        Notes on what the format could not hold, one sentence each; mostly none.

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
        raise OutputError(f"{shown_path(path)} cannot be encoded as {form.name} ({reason}); try .png") from error
    write_atomically(data, target, overwrite)
    return notes


def encoded(picture: Picture, form: Format, quality: int) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of a file, and notes on what the format cannot hold."""
    picture, notes = as_held(picture, form)
    settings, more = file_settings(picture, form, quality)
    notes += more
    data = io.BytesIO()
    if form.name == "HEIF":
        return heif_bytes(picture, settings), notes
    channels = picture.pixels.shape[2] + (picture.alpha is not None)
    if picture.pixels.dtype == np.uint16 and form.has_16_bits and channels > 1:
        if form.name == "TIFF":
            tags = settings.get("exif", Image.Exif())
            return deep_tiff(all_channels(picture), tags, picture.icc_profile, picture.dpi), notes
        Image.new("L", (1, 1)).save(data, form.name, **settings)
        return with_pixels(data.getvalue(), all_channels(picture)), notes
    image = _to_image(picture, with_alpha=form.has_alpha, with_16_bits=form.has_16_bits)
    if form.name == "GIF":
        reduced = with_palette(image)
        image, notes = reduced, notes + palette_notes(image, reduced)
    metadata = settings.pop("metadata", None)
    image.save(data, form.name, **settings)  # TIFF stays uncompressed: Pillow writes EXIF groups into no other
    if metadata is None:
        return data.getvalue(), notes
    comments = comments_of(metadata)
    file, lost = with_metadata(data.getvalue(), metadata.exif, metadata.xmp, metadata.iptc, comments)
    return file, notes + left_out_note(lost)


def file_settings(picture: Picture, form: Format, quality: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Pillow's settings for everything but the pixels, and notes on what of it the format cannot hold."""
    metadata, notes = for_result(picture, f"image/{form.name.lower()}")
    metadata, more = held_by(form, metadata)
    notes += more
    settings: dict[str, Any] = {"icc_profile": picture.icc_profile, "dpi": picture.dpi}
    if form.name == "PNG":
        settings |= {"pnginfo": png_info(metadata), "exif": metadata.exif}
    elif form.name == "TIFF":
        settings["exif"] = tiff_tags(metadata.exif, metadata.xmp, metadata.iptc)
    elif form.name == "JPEG":
        settings["metadata"] = metadata  # in more segments than Pillow writes
    elif form.name == "GIF":
        settings["comment"] = b"\n".join(comments_of(metadata)) or None
    else:
        settings |= {"exif": metadata.exif, "xmp": metadata.xmp}
    if form.name in ("JPEG", "WEBP", "AVIF", "HEIF"):
        settings["quality"] = quality
    if form.name == "JPEG" or (form.name == "AVIF" and not picture.is_grey):
        settings["subsampling"] = "4:4:4"
    return {name: value for name, value in settings.items() if value is not None}, notes


def as_held(picture: Picture, form: Format) -> tuple[Picture, tuple[str, ...]]:
    """The picture in the depth and colours that the format can hold."""
    notes: tuple[str, ...] = ()
    if picture.icc_profile is not None and not form.has_profile:
        space = None if picture.is_grey else color_space(picture.icc_profile)
        if space is None:
            notes += (f"{form.name} holds no colour profile; it was left out",)
        else:
            notes += (f"{form.name} holds no colour profile; the colours were converted to sRGB",)
            scale = np.iinfo(picture.pixels.dtype).max
            in_srgb = np.clip(space.to_srgb(picture.pixels / np.float32(scale)), 0, 1) * scale
            picture = replace(picture, pixels=np.rint(in_srgb).astype(picture.pixels.dtype))
        picture = replace(picture, icc_profile=None)
    if picture.pixels.dtype == np.uint16 and not form.has_16_bits:
        notes += (f"16 bits were rounded to 8, which is what {form.name} is written with",)
    if picture.pixels.dtype == np.uint16 and form.name == "HEIF":
        notes += (f"16 bits were rounded to {WRITTEN_BITS}, which is what HEIC is written with",)
    return picture, notes


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
    metadata, _ = for_result(picture)
    image.info.update({} if metadata.exif is None else {"exif": metadata.exif})
    return image


def all_channels(picture: Picture) -> np.ndarray:
    """[H, W, 1 to 4]: the pixels and, as the last channel, the opacity."""
    if picture.alpha is None:
        return picture.pixels
    return np.concatenate([picture.pixels, picture.alpha[..., None]], axis=-1)


def _to_image(picture: Picture, *, with_alpha: bool, with_16_bits: bool) -> Image.Image:
    array = all_channels(picture) if with_alpha else picture.pixels
    if array.dtype == np.uint16 and not (with_16_bits and array.shape[2] == 1):
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257: exact rounding
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def with_palette(image: Image.Image, last: Image.Image | None = None) -> Image.Image:
    """An image of at most 256 colours, dithered; where it has transparency, index 255 is the transparent one.

    Args:
        image: L, LA, RGB or RGBA.
        last: what came of the frame before, whose colours are taken again where they do about as well as new ones:
            colours that change from frame to frame flicker.
    """
    if image.mode == "L":
        return image
    pixels = np.array(image.convert("RGB"))
    clear = np.asarray(image.getchannel("A")) < 128 if "A" in image.mode else np.zeros(pixels.shape[:2], bool)
    pixels[clear] = 0 if clear.all() else pixels[~clear][0]  # hidden colours take no place in the table
    num_colors = 255 if clear.any() else 256
    reduced = _reduced(Image.fromarray(pixels), num_colors, last)
    if not clear.any():
        return reduced
    result = Image.fromarray(np.where(clear, 255, np.asarray(reduced)).astype(np.uint8))
    table = (reduced.getpalette() or [])[: 3 * 255]
    result.putpalette([*table, *[0] * (3 * 256 - len(table))])
    result.info["transparency"] = 255
    return result


def _reduced(colors: Image.Image, num_colors: int, last: Image.Image | None) -> Image.Image:
    if colors.getcolors(num_colors) is not None:  # so few are kept exactly
        packed = (np.asarray(colors).astype(np.int32) * (65536, 256, 1)).sum(axis=2)
        values, indexes = np.unique(packed, return_inverse=True)
        exact = Image.fromarray(indexes.reshape(packed.shape).astype(np.uint8))
        exact.putpalette(np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1).ravel().tolist())
        return exact
    reduced = colors.quantize(palette=colors.quantize(num_colors))
    if last is not None:
        before = Image.new("P", (1, 1))
        before.putpalette((last.getpalette() or [])[: 3 * min(num_colors, last.info.get("transparency", 256))])
        as_before = colors.quantize(palette=before)
        if _mean_error(as_before, colors) <= _SAME_PALETTE_ERROR * _mean_error(reduced, colors):
            return as_before
    return reduced


def _mean_error(reduced: Image.Image, colors: Image.Image) -> float:
    return float(np.abs(np.asarray(reduced.convert("RGB")).astype(np.int16) - np.asarray(colors)).mean())


def palette_notes(image: Image.Image, reduced: Image.Image) -> tuple[str, ...]:
    """What was lost on the way to 256 colours, one sentence each."""
    # Converting changes the palette of an image that has a clear colour, which Pillow then writes wrongly: a copy.
    shown, wanted = (np.asarray(each.copy().convert("RGBA")).astype(np.int16) for each in (reduced, image))
    visible = wanted[..., 3] > 0
    notes: tuple[str, ...] = ()
    if (shown != wanted)[visible & (shown[..., 3] > 0), :3].any():
        notes += ("GIF holds 256 colours; they were reduced to so many",)
    if (shown[..., 3] != wanted[..., 3]).any():
        notes += ("GIF holds no half transparency; pixels became clear or opaque",)
    return notes
