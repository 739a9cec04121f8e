"""Picture files, arrays and tensors. The only module that knows Pillow.

A picture keeps its bit depth, transparency, colour profile and EXIF from reading to writing. Whatever is wrong with a
file is one ``PictureError``, whatever is wrong with a destination one ``OutputError``; a file is written whole or not
at all. (Longer than 400 lines because all that touches Pillow, both ways, stays in one place.)
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import struct
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import (
    BmpImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from s3diff.errors import DiskFullError, OptionError, OutputError, PictureError
from s3diff.images.metadata import EXIF_PREFIX, take_orientation, with_size, xmp_of_result

#: Largest picture read, in pixels: 8192 x 8192, four times the largest output and below Pillow's own warning limit.
MAX_PICTURE_PIXELS = 8192 * 8192

PicturePath = str | os.PathLike[str]


class _Format(NamedTuple):
    name: str
    has_alpha: bool
    has_16_bits: bool  # for grey without alpha; Pillow writes no other picture with 16
    largest_side_px: int


_FORMATS = {
    ".png": _Format("PNG", True, True, 2**31 - 1),
    ".jpg": _Format("JPEG", False, False, 65500),  # libjpeg's limit, a little below the 65535 that the format can state
    ".jpeg": _Format("JPEG", False, False, 65500),
    ".webp": _Format("WEBP", True, False, 16383),
    ".tif": _Format("TIFF", True, True, 2**31 - 1),
    ".tiff": _Format("TIFF", True, True, 2**31 - 1),
    ".avif": _Format("AVIF", True, False, 65535),
    ".bmp": _Format("BMP", False, False, 2**31 - 1),
}
#: Endings of the file names that are read and written, in lower case.
PICTURE_EXTENSIONS = tuple(_FORMATS)
#: Those that are written.
WRITTEN_EXTENSIONS = PICTURE_EXTENSIONS
_EXTENSIONS = ".png, .jpg, .jpeg, .webp, .tif, .tiff, .avif or .bmp"

_PNG_START = b"\x89PNG\r\n\x1a\n"
_MAX_JPEG_EXIF_BYTES = 65533
#: TIFF tags that say something about the scene; the others describe how this one file stores its pixels.
_DESCRIPTIVE_TAGS = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298)
_EXIF_GROUP, _GPS_GROUP, _INTEROPERABILITY_GROUP = 0x8769, 0x8825, 0xA005
_TIFF_XMP = 0x02BC
#: A segment's 65535 bytes without its length and XMP's own header of 29 bytes.
_MAX_JPEG_XMP_BYTES = 65504
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC = 0x0102, 0x0106


@dataclass(frozen=True, eq=False)
class Picture:
    """One still picture, upright (EXIF orientation already applied).

    Attributes:
        pixels: [H, W, 3] RGB or [H, W, 1] grey, uint8 or uint16, at least 1 x 1.
        alpha: opacity [H, W] of the pixels' depth, not premultiplied; None where the source has none.
        icc_profile: the colour profile of ``pixels`` as stored in the file.
        exif: EXIF block beginning with ``Exif\\0\\0``; its orientation tag, if any, says upright.
        xmp: XMP packet as stored in the file; its orientation and size are corrected when it is written.
        dpi: pixels per inch, across and down.
        format: ``PNG``, ``JPEG``, ``WEBP``, ``TIFF``, ``AVIF``, ``BMP`` or None for a picture that comes from no file.
        path: where it was read from.
        notes: what was lost or left out on reading, one sentence each.

    Raises:
        PictureError: the arrays have another shape or type.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: str | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, kind = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or kind not in (np.uint8, np.uint16):
            raise PictureError(f"pixels are {shape} {kind}; give [H, W, 3] or [H, W, 1] of uint8 or uint16")
        if 0 in shape:
            raise PictureError(f"the picture is {shape[1]} x {shape[0]} pixels; give at least 1 x 1")
        if self.alpha is not None and (self.alpha.shape != shape[:2] or self.alpha.dtype != kind):
            raise PictureError(f"alpha is {self.alpha.shape} {self.alpha.dtype}; give {shape[:2]} {kind} as the pixels")

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[1])

    @property
    def is_grey(self) -> bool:
        """Whether the picture has one channel."""
        return self.pixels.shape[2] == 1

    @property
    def is_transparent(self) -> bool:
        """Whether any pixel is less than fully opaque."""
        return self.alpha is not None and bool((self.alpha < np.iinfo(self.alpha.dtype).max).any())


# ---------------------------------------------------------------------------------------------- reading


def read_picture(path: PicturePath, max_pixels: int = MAX_PICTURE_PIXELS) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF, AVIF or BMP picture, recognised by its content.

    Palettes become RGB, 1-bit pictures grey, CMYK becomes RGB (through its profile, which is then dropped). Grey with
    16 bits is kept; colour with 16 bits comes in 8, with a note. Of several frames or pages the first is taken, with a
    note. The EXIF orientation is applied.

    Args:
        path: the file.
        max_pixels: largest picture accepted, judged by the header before anything is decoded. Pillow's own
            ``Image.MAX_IMAGE_PIXELS`` (89 million unless changed) holds as well.

    Raises:
        PictureError: there is no such file, it cannot be opened, is no picture, is damaged, cut off or too large.
    """
    shown, limit = _shown(path), min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    with _reading(shown, limit):
        if os.path.isdir(path):
            raise PictureError(f"{shown} is a folder; give a picture file")
        if os.path.exists(path) and not os.path.isfile(path):
            raise PictureError(f"{shown} is not a regular file; give a picture file")
        with open(path, "rb") as file:
            return _read_open_file(file, Path(path), shown, limit)


def decode_picture(data: bytes, name: str, max_pixels: int = MAX_PICTURE_PIXELS) -> Picture:
    """A picture from a file's whole content, as :func:`read_picture` would read the file.

    Args:
        data: the content.
        name: what it is called, for messages.
        max_pixels: see :func:`read_picture`.

    Raises:
        PictureError: it is no picture, damaged, cut off or too large.
    """
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    with _reading(name, limit):
        return _read_open_file(io.BytesIO(data), Path(name), name, limit)


@contextmanager
def _reading(shown: str, limit: int) -> Iterator[None]:
    """Whatever goes wrong inside becomes one line about the picture."""
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
            raise PictureError(f"{shown} cannot be read as a picture ({_reason(error)}); it may be damaged") from error
        raise PictureError(
            f"{shown} is a symbolic link that leads back to itself; give the picture it means"
        ) from error
    except Exception as error:  # what a decoder raises on damaged data is open-ended: struct, zlib, index errors ..
        raise PictureError(f"{shown} cannot be read as a picture ({_reason(error)}); it may be damaged") from error


def from_pil(image: Image.Image) -> Picture:
    """A picture from a Pillow image of any mode that ``read_picture`` accepts; EXIF orientation is applied.

    Raises:
        PictureError: the mode has no 8- or 16-bit RGB or grey form, the image has no pixels or cannot be decoded.
    """
    try:
        return _from_image(image, path=None, notes=())
    except PictureError:
        raise
    except Exception as error:  # an image that Pillow opened lazily is decoded only here
        raise PictureError(f"the Pillow image cannot be used ({_reason(error)}); load it with read_picture") from error


def from_array(array: np.ndarray) -> Picture:
    """A picture from an array, copied.

    Args:
        array: [H, W], [H, W, 1] grey, [H, W, 3] RGB or [H, W, 4] RGB and alpha; uint8, uint16 or float in [0, 1].
            Floats are rounded to 16 bits, the finest depth a picture has.

    Raises:
        PictureError: another shape or type, or floats outside [0, 1].
    """
    allowed = "give [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, uint16 or float in [0, 1]"
    array = np.asarray(array)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise PictureError(f"the array has shape {array.shape}; {allowed}")
    if np.issubdtype(array.dtype, np.floating):
        if array.size and not (array.min() >= 0 and array.max() <= 1):  # so written that NaN fails as well
            raise PictureError(f"the array holds values from {array.min()} to {array.max()}; {allowed}")
        array = np.rint(array.astype(np.float64) * 65535).astype(np.uint16)
    if array.dtype not in (np.uint8, np.uint16):
        raise PictureError(f"the array is of type {array.dtype}; {allowed}")
    pixels, alpha = _split_alpha(array)
    return Picture(pixels, alpha)


def list_pictures(folder: PicturePath, recursive: bool = False) -> list[Path]:
    """The files in a folder that are named as pictures, sorted by path; hidden files and folders are left out.

    Raises:
        PictureError: the folder, or one inside it, cannot be listed.
    """

    def fail(error: OSError) -> None:
        where = _shown(error.filename if error.filename is not None else folder)
        raise PictureError(f"{where} cannot be listed ({_reason(error)}); give a readable folder") from error

    found = []
    for here, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        shown = [name for name in files if not name.startswith(".") and Path(name).suffix.lower() in _FORMATS]
        found += [Path(here, name) for name in shown]
    return sorted(found)


def _read_open_file(file: BinaryIO, path: Path, shown: str, limit: int) -> Picture:
    head = file.read(32)
    file.seek(0)
    if head.startswith(_PNG_START) and len(head) >= 24 and 0 in struct.unpack(">II", head[16:24]):
        # Pillow calls it a file of another kind.
        width, height = struct.unpack(">II", head[16:24])
        raise PictureError(f"{shown} has 0 pixels ({width} x {height}); give a picture of at least 1 x 1")
    image = _recognise(file, head)
    if image is None:
        given = "is not a PNG, JPEG, WebP, TIFF, AVIF or BMP picture" if head else "is empty"
        raise PictureError(f"{shown} {given}; give a picture file in one of these formats")
    if image.width * image.height > limit:
        size = f"{image.width} x {image.height} pixels"
        raise PictureError(f"{shown} has {size}, the limit is {limit} pixels; give a smaller picture")
    if image.format in ("JPEG", "MPO"):
        # Compressed data cannot contain the end marker, so its absence is certain proof. Without this check a file
        # whose rest was never downloaded (zeros) would decode to half a picture.
        scan_start = file.tell()
        if b"\xff\xd9" not in file.read():
            raise PictureError(f"{shown} is cut off: the end of the JPEG data is missing; fetch the file again")
        file.seek(scan_start)
    notes = []
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1:
        notes.append(f"the file holds {num_frames} frames or pages; the first one is used")
    if not image.mode.startswith("I") and _has_16_bits(image, head):
        notes.append("16 bits per channel were reduced to 8: only grey pictures are read with 16")
    return _from_image(image, path, tuple(notes))


def _recognise(file: BinaryIO, head: bytes) -> ImageFile.ImageFile | None:
    """The opened header. ``Image.open`` would do the same, but warns or fails at a pixel limit that is not ours."""
    if head.startswith(_PNG_START):
        return PngImagePlugin.PngImageFile(file)
    if head.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.jpeg_factory(file)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(file)
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImagePlugin.TiffImageFile(file)
    if head.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile(file)
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc"):
        raise PictureError("the file is a HEIC picture, which is not read yet; save it as JPEG, PNG or AVIF")
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        if not features.check("avif"):
            raise PictureError("AVIF needs Pillow 11.3 or newer; pip install -U pillow")
        from PIL import AvifImagePlugin

        return AvifImagePlugin.AvifImageFile(file)
    return None


def _has_16_bits(image: Image.Image, head: bytes) -> bool:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16 in image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, ())
    return image.format == "PNG" and head[24] == 16  # the header's bit depth


def _from_image(image: Image.Image, path: Path | None, notes: tuple[str, ...]) -> Picture:
    source_format = "JPEG" if image.format == "MPO" else image.format
    image.load()  # profile and EXIF may stand behind the pixels, and a TIFF is turned upright by it
    icc_profile = image.info.get("icc_profile") or None
    exif, damaged = _exif_of(image)
    if damaged:
        notes += ("the EXIF block is damaged and was left out",)
    orientation, exif = take_orientation(exif) if exif else (1, None)
    if image.mode == "CMYK":
        image, how = _rgb_from_cmyk(image, icc_profile)
        notes += (f"CMYK was converted to RGB {how}",)
        icc_profile = None
    pixels, alpha = _split_alpha(_plain_array(image))
    pixels = _upright(pixels, orientation)
    alpha = None if alpha is None else _upright(alpha, orientation)
    return Picture(pixels, alpha, icc_profile, exif, _xmp_of(image), _dpi_of(image), source_format, path, notes)


def _xmp_of(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "surrogateescape")
    return xmp if isinstance(xmp, bytes) and xmp else None


def _dpi_of(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def _plain_array(image: Image.Image) -> np.ndarray:
    """[H, W] or [H, W, C] grey, grey and alpha, RGB or RGBA; uint8 or uint16."""
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
        return np.asarray(image.convert("LA" if transparent else "L"))
    if image.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        return np.asarray(image.convert("RGBA" if transparent else "RGB"))
    raise PictureError(f"pixels of type {image.mode} cannot be used; save the picture as 8- or 16-bit RGB or grey")


def _split_alpha(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Copies of the colour [H, W, 1 or 3] and, of 2 or 4 channels, the last one [H, W]."""
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[2] in (2, 4):
        return array[..., :-1].copy(), array[..., -1].copy()
    return array.copy(), None


def _rgb_from_cmyk(image: Image.Image, icc_profile: bytes | None) -> tuple[Image.Image, str]:
    if icc_profile:
        with suppress(ImageCms.PyCMSError, ImportError):  # a damaged profile, or a Pillow built without littlecms
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted, "through its colour profile"
    return image.convert("RGB"), "without a colour profile"


# ---------------------------------------------------------------------------------------------- EXIF


def _exif_of(image: Image.Image) -> tuple[bytes | None, bool]:
    """The EXIF block with its prefix, and whether there was one too damaged to keep."""
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            return _descriptive_exif(image.getexif()), False
        raw = image.info.get("exif")
        if raw is None:  # ImageMagick writes it into PNG texts instead
            kept = image.getexif()
            raw = kept.tobytes() if len(kept) else None
    except Exception:  # noqa: BLE001 - tags of any content must not cost the picture; the loss is reported
        return None, True
    if not raw:
        return None, False
    body = raw.removeprefix(EXIF_PREFIX)
    damaged = not body.startswith((b"II*\0", b"MM\0*"))
    return (None, True) if damaged else (EXIF_PREFIX + body, False)


def _descriptive_exif(exif: Image.Exif) -> bytes | None:
    """Without the tags that describe the storage of pixels in one TIFF file, which are wrong in any other file."""
    kept = Image.Exif()
    for tag in _DESCRIPTIVE_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    for group in (_EXIF_GROUP, _GPS_GROUP):
        entries = {tag: value for tag, value in exif.get_ifd(group).items() if tag != _INTEROPERABILITY_GROUP}
        if entries:
            kept[group] = entries
    return kept.tobytes() if len(kept) else None


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (CIPA DC-008, tag 274) on [H, W, ..]."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


# ---------------------------------------------------------------------------------------------- writing


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
    target, form = _checked_target(path, size, picture.is_transparent, overwrite)
    exif, notes = _exif_for(form, picture.exif)
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
        raise OutputError(f"{_shown(path)} cannot be encoded as {form.name} ({_reason(error)}); try .png") from error
    _write_atomically(data.getvalue(), target, overwrite)
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
    target, _ = _checked_target(path, size, transparent, overwrite)
    folder = next(folder for folder in target.parents if os.path.exists(folder))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{_shown(path)} cannot be written ({_reason(error)}); choose another folder") from error


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


def _exif_for(form: _Format, exif: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    """The EXIF block as this format can hold it, and what to say if it cannot."""
    if exif is None:
        return None, ()
    if form.name == "JPEG" and len(exif) > _MAX_JPEG_EXIF_BYTES:
        return None, (f"the EXIF block of {len(exif)} bytes is too long for a JPEG file and was left out",)
    if form.name != "TIFF":
        return exif, ()
    tags = Image.Exif()
    try:
        tags.load(exif)
        return _descriptive_exif(tags), ()
    except Exception:  # noqa: BLE001 - as in reading
        return None, ("the EXIF block is damaged and was left out",)


def _checked_target(
    path: PicturePath, size: tuple[int, int] | None, transparent: bool, overwrite: bool
) -> tuple[Path, _Format]:
    """The file to write, links followed, and its format, if what can be known without writing allows it."""
    shown = _shown(path)
    form = _FORMATS.get(Path(path).suffix.lower())
    if form is None:
        raise OutputError(f"{shown} has no picture extension that can be written; end the name in {_EXTENSIONS}")
    if transparent and not form.has_alpha:
        raise OutputError(f"{shown}: {form.name} cannot hold the picture's transparency; write .png, .webp or .tif")
    if size is not None and max(size) > form.largest_side_px:
        limit = f"a {form.name} side has at most {form.largest_side_px}"
        raise OutputError(f"{shown} would be {size[0]} x {size[1]} pixels, {limit}; write .png or .tif")
    mode = None
    try:
        target = Path(path).resolve()  # a link stays a link: what it leads to is replaced
        with suppress(FileNotFoundError):
            mode = os.stat(target).st_mode
    except (OSError, RuntimeError, ValueError) as error:  # of a link to itself; of a null character
        raise OutputError(f"{shown} cannot be written ({_reason(error)}); choose another name") from error
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{shown} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; give another name")
    if mode is not None and not os.access(target, os.W_OK):
        raise OutputError(f"{shown} is write-protected; choose another name or make it writable")
    _require_free(target, overwrite)
    return target, form


def _require_free(target: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(target):
        raise OutputError(f"{_shown(target)} is already there; choose another name or allow overwriting")


def _write_atomically(data: bytes, target: Path, overwrite: bool) -> None:
    """Write beside the target, flush to the disk, move over it; whatever happens, nothing else stays behind."""
    new_folders = [folder for folder in target.parents if not os.path.exists(folder)]
    temporary = target.with_name(f"{_part_start(target)}{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _require_free(target, overwrite)
        os.replace(temporary, target)
    except OutputError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(_disk_full(target, len(data), temporary)) from error
        raise OutputError(f"{_shown(target)} cannot be written ({_reason(error)}); choose another place") from error
    finally:  # also on KeyboardInterrupt; after success there is no temporary file and no new folder is empty
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        for folder in new_folders:
            with suppress(OSError):
                folder.rmdir()


def _part_start(target: Path) -> str:
    return f".s3diff-{zlib.crc32(os.fsencode(target.name)):08x}-"


def remove_leftovers(path: PicturePath) -> None:
    """Remove what a killed process left half written of this output; to be called where nobody else can write it."""
    target = Path(os.path.realpath(path))
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if name.startswith(_part_start(target)) and name.endswith(".part"):
                (target.parent / name).unlink(missing_ok=True)


def _disk_full(target: Path, num_bytes: int, temporary: Path) -> str:
    written = 0
    with suppress(OSError):
        written = os.stat(temporary).st_size + shutil.disk_usage(target.parent).free
    missing = max(1, num_bytes - written)
    return (
        f"{_shown(target)} cannot be written: the disk is full, {missing} of {num_bytes} bytes were missing; "
        "make room or choose another place"
    )


# ---------------------------------------------------------------------------------------------- tensors


def to_tensor(picture: Picture) -> torch.Tensor:
    """The colours as [1, 3, H, W] float32 RGB in [0, 1]; grey is repeated three times. Alpha: ``alpha_to_tensor``."""
    return _plane_to_tensor(picture.pixels).expand(-1, 3, -1, -1).contiguous()


def from_tensor(image: torch.Tensor, like: Picture) -> np.ndarray:
    """Pixels of ``like``'s depth and channels, rounded once to the nearest level; the size is the tensor's own.

    A grey picture gets the mean of the three channels. The network saw three equal channels and answers with three
    estimates of one grey value; the plain mean is the one with the least noise. Luma weights describe how bright
    colours look, and here are none: they would let green's error count for more than half.

    Args:
        image: [1, 3, H, W] float RGB in [0, 1]; values outside are clamped. Any device.
        like: the input picture.

    Returns:
        [H, W, 3] or [H, W, 1], uint8 or uint16.

    Raises:
        PictureError: another shape, or values that are not finite.
    """
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise PictureError(f"the image tensor has shape {tuple(image.shape)}; give [1, 3, H, W]")
    image = image.detach().to("cpu", torch.promote_types(image.dtype, torch.float32))
    if like.is_grey:
        image = image.mean(dim=1, keepdim=True)
    return _rounded(image, like.pixels.dtype)


def alpha_to_tensor(picture: Picture) -> torch.Tensor:
    """The opacity as [1, 1, H, W] float32 in [0, 1].

    Raises:
        PictureError: the picture has none.
    """
    if picture.alpha is None:
        raise PictureError("the picture has no alpha; look at picture.alpha first")
    return _plane_to_tensor(picture.alpha[..., None])


def alpha_from_tensor(alpha: torch.Tensor, like: Picture) -> np.ndarray:
    """Opacity [H, W] of ``like``'s depth from [1, 1, H, W] float in [0, 1], rounded to the nearest level.

    Raises:
        PictureError: another shape, or values that are not finite.
    """
    if alpha.ndim != 4 or alpha.shape[:2] != (1, 1):
        raise PictureError(f"the alpha tensor has shape {tuple(alpha.shape)}; give [1, 1, H, W]")
    alpha = alpha.detach().to("cpu", torch.promote_types(alpha.dtype, torch.float32))
    return _rounded(alpha, like.pixels.dtype)[..., 0]


def _plane_to_tensor(array: np.ndarray) -> torch.Tensor:
    """[H, W, C] integers to [1, C, H, W] float32 in [0, 1]."""
    planes = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)[None]).astype(np.float32))
    return planes.div_(float(np.iinfo(array.dtype).max))


def _rounded(image: torch.Tensor, depth: np.dtype[Any]) -> np.ndarray:
    """[1, C, H, W] in [0, 1] to [H, W, C] integers of that depth."""
    if not bool(torch.isfinite(image).all()):
        raise PictureError("the picture holds values that are no finite numbers; compute it in float32")
    levels = (image.clamp(0, 1) * np.iinfo(depth).max).round()
    return np.ascontiguousarray(levels[0].permute(1, 2, 0).numpy().astype(depth))


# ---------------------------------------------------------------------------------------------- messages


def _shown(path: object) -> str:
    """A path as it can be printed on one line, whatever bytes it is made of."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(text))


def _reason(error: BaseException) -> str:
    """One line on why."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
