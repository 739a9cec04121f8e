"""Convert Pillow images to pictures and back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from s3diff.errors import PictureError
from s3diff.images.files.coordinates import QUARTER_TURNS
from s3diff.images.files.exif_block import agreed_resolution, states_adobe_rgb
from s3diff.images.files.metadata import for_result, take_orientation, upright
from s3diff.images.files.pillow_metadata import dpi_of, metadata_of
from s3diff.images.icc_profiles import StatedColors, adobe_rgb_profile
from s3diff.images.picture import Picture, in_whole_numbers, split_alpha
from s3diff.messages import reason_of

_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_PHOTOMETRIC, _TIFF_ORIENTATION = 0x0100, 0x0101, 0x0106, 0x0112


def from_pil(image: Image.Image) -> Picture:
    """Make a picture of a Pillow image of any mode that ``read_picture`` accepts; EXIF orientation is applied.

    Raises:
        PictureError: the mode has no 8- or 16-bit RGB or grey form, or the image has no pixels or cannot be decoded.
    """
    try:
        return picture_of(image, None)
    except PictureError:
        raise
    except Exception as error:  # an image that Pillow opened lazily is decoded only here
        raise PictureError(
            f"the Pillow image cannot be used ({reason_of(error)}); load it with read_picture"
        ) from error


def to_pil(picture: Picture) -> Image.Image:
    """Make a Pillow image with profile and EXIF in its ``info``: mode L, LA, RGB, RGBA or, for 16-bit grey, I;16.

    Other 16-bit pictures are rounded to 8 bits: Pillow has no mode for them.
    """
    image = to_image(picture)
    image.info.update({} if picture.icc_profile is None else {"icc_profile": picture.icc_profile})
    metadata, _ = for_result(picture)
    image.info.update({} if metadata.exif is None else {"exif": metadata.exif})
    return image


def all_channels(picture: Picture) -> np.ndarray:
    """Stack the pixels and, as the last channel, the opacity: [H, W, 1 to 4]."""
    if picture.alpha is None:
        return picture.pixels
    return np.concatenate([picture.pixels, picture.alpha[..., None]], axis=-1)


def to_image(picture: Picture, *, with_alpha: bool = True, with_16_bits: bool = True) -> Image.Image:
    """Make an image; 16 bits are rounded to 8, but for grey where they are asked for."""
    picture = in_whole_numbers(picture)
    array = all_channels(picture) if with_alpha else picture.pixels
    if array.dtype == np.uint16 and not (with_16_bits and array.shape[2] == 1):
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257: exact rounding
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def picture_of(
    image: Image.Image,
    path: Path | None,
    notes: tuple[str, ...] = (),
    deep: np.ndarray | None = None,
    stated: StatedColors | None = None,
    left_out: Sequence[str] = (),
    *,
    is_srgb: bool = False,
) -> Picture:
    """Decode the current frame of an opened file, upright.

    Args:
        image: opened; it is loaded here.
        notes: notes so far, one sentence each.
        deep: the pixels [H, W, C], if Pillow's own have fewer bits or another meaning; of a TIFF upright.
        stated: otherwise stated colours; they have priority over the profile that Pillow finds.
        left_out: titles of further contents, which are left out.
        is_srgb: whether ``deep`` was converted to sRGB, so that the file's profile does not apply.
    """
    source_format = "JPEG" if image.format == "MPO" else image.format
    turned_by = _turned_by_loading(image)
    image.load()  # profile and EXIF may stand behind the pixels, and a TIFF is turned upright by it
    is_turned = turned_by in QUARTER_TURNS or _was_turned(image)
    stated = StatedColors() if stated is None else stated
    notes += stated.notes
    icc_profile = stated.profile or image.info.get("icc_profile") or None
    found, lost, more = metadata_of(image)
    notes += more
    if is_srgb:
        icc_profile = None
    elif icc_profile is None and (image.mode in ("RGB", "RGBA", "YCbCr") if deep is None else deep.shape[2] >= 3):
        is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)  # whose own tags are EXIF's
        icc_profile = adobe_rgb_profile() if states_adobe_rgb(image.getexif() if is_tiff else found.exif) else None
    orientation, exif = take_orientation(found.exif) if found.exif else (1, None)
    turned_by = orientation if orientation != 1 else turned_by
    stored_size = getattr(image, "stored_size", image.size[::-1] if is_turned else image.size)
    metadata, more = upright(found._replace(exif=exif), stored_size, turned_by, [*left_out, *lost])
    notes += more
    if image.mode == "CMYK":
        image, how = rgb_from_cmyk(image, icc_profile)
        notes += (f"CMYK was converted to RGB {how}",)
        icc_profile = None
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
        if converted is not None:
            image, icc_profile = converted, None
            notes += ("Lab was converted to sRGB",)
    pixels, alpha = split_alpha(_plain_array(image) if deep is None else _with_clear_color(image, deep))
    pixels = turned_upright(pixels, orientation)
    alpha = None if alpha is None else turned_upright(alpha, orientation)
    dpi = dpi_of(image)
    if dpi is not None and (is_turned or orientation in QUARTER_TURNS):
        dpi = dpi[1], dpi[0]
    dpi, exif = agreed_resolution(dpi, metadata.exif)
    return Picture(
        pixels, alpha, icc_profile, exif, metadata.xmp, dpi, source_format, path, notes, metadata.iptc,
        metadata.texts,
    )  # fmt: skip


def _plain_array(image: Image.Image) -> np.ndarray:
    """Return [H, W] or [H, W, C] grey, grey and alpha, RGB or RGBA; uint8 or uint16."""
    transparent = image.has_transparency_data
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in (None, "PNG")):
        values = np.asarray(image)  # "I" is how older Pillow versions hold a 16-bit grey PNG
        if values.min() < 0 or values.max() > 65535:
            raise PictureError("the picture holds values outside 16 bits; save it with 8 or 16 bits per channel")
        grey = values.astype(np.uint16)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:
            grey = 65535 - grey  # stored with 0 as white; Pillow turns round only the depths up to 8
        if not transparent:
            return grey
        alpha = np.where(values == image.info["transparency"], 0, 65535).astype(np.uint16)
        return np.stack([grey, alpha], axis=-1)
    if image.mode in ("1", "L", "LA", "La"):
        return _converted(image, "LA" if transparent else "L")
    if image.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        return _converted(image, "RGBA" if transparent else "RGB")
    raise PictureError(f"pixels of type {image.mode} cannot be used; save the picture as 8- or 16-bit RGB or grey")


def _converted(image: Image.Image, mode: str) -> np.ndarray:
    """Return the pixels in that mode; Pillow copies the image even if it has it already."""
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _with_clear_color(image: Image.Image, deep: np.ndarray) -> np.ndarray:
    """Return [H, W, 4] if a PNG names one colour as transparent."""
    clear = image.info.get("transparency")
    if deep.shape[2] != 3 or not isinstance(clear, tuple):
        return deep
    alpha = np.where((deep == np.array(clear)).all(axis=2), 0, 65535).astype(np.uint16)
    return np.dstack([deep, alpha])


def rgb_from_cmyk(image: Image.Image, icc_profile: bytes | None) -> tuple[Image.Image, str]:
    """Convert a CMYK image to RGB; return it and the method, for a remark."""
    if icc_profile:
        with suppress(ImageCms.PyCMSError, ImportError):  # a damaged profile, or a Pillow built without littlecms
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted, "through its colour profile"
    return image.convert("RGB"), "without a colour profile"


def _turned_by_loading(image: Image.Image) -> int:
    """Return the orientation that loading takes from a TIFF's tags and applies to its pixels, 1 to 8."""
    stated = getattr(image, "stored_orientation", None)
    if stated is None and isinstance(image, TiffImagePlugin.TiffImageFile):
        stated = image.tag_v2.get(_TIFF_ORIENTATION, 1)  # 1 where the image is loaded already
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else 1


def _was_turned(image: Image.Image) -> bool:
    """Check whether a TIFF was turned by a quarter before it came here; False for square images.

    After the turn the tags still hold the stored sides, but no longer the orientation.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.width == image.height:
        return False
    return (image.tag_v2.get(_TIFF_HEIGHT), image.tag_v2.get(_TIFF_WIDTH)) == image.size


def turned_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (CIPA DC-008, tag 274) on [H, W, ..]."""
    if orientation in QUARTER_TURNS:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)
