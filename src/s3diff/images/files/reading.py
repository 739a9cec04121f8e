"""Picture files to arrays, through Pillow. Whatever is wrong with a file is one ``PictureError``."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from s3diff.errors import PictureError
from s3diff.images.files import gif_blocks
from s3diff.images.files.deep_pixels import GreyAlphaTiff, deep_array
from s3diff.images.files.formats import FORMAT_NAMES, FORMATS, PicturePath
from s3diff.images.files.heif import heif_size, is_heif, read_heif
from s3diff.images.files.left_behind import attachments, left_out_note
from s3diff.images.files.metadata import QUARTER_TURNS, take_orientation, upright
from s3diff.images.files.pillow_metadata import dpi_of, metadata_of
from s3diff.images.files.structure import check_structure
from s3diff.images.picture import Picture, split_alpha
from s3diff.messages import reason_of, shown_path, too_many_pixels
from s3diff.options import MAX_FILE_BYTES, MAX_PICTURE_PIXELS

_PNG_START = b"\x89PNG\r\n\x1a\n"
#: What ``Image.MAX_IMAGE_PIXELS`` is unless the process has set it.
_PILLOWS_DEFAULT_PIXELS = 1024**3 // 4 // 3
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC = 0x0100, 0x0101, 0x0102, 0x0106


def read_picture(path: PicturePath, max_pixels: int = MAX_PICTURE_PIXELS, max_bytes: int = MAX_FILE_BYTES) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF, AVIF, BMP, GIF or HEIC picture, recognised by its content.

    Palettes become RGB, 1-bit pictures grey, CMYK becomes RGB (through its profile, which is then dropped). 16 bits are
    kept, but for CMYK, which comes in 8, with a note. Of several frames or pages the first is taken, with a note (all
    frames: ``open_animation``). The EXIF orientation is applied. HEIC needs the extra ``heif``.

    Args:
        path: the file.
        max_pixels: largest picture accepted, judged by the header before anything is decoded. Where the process has
            changed Pillow's own ``Image.MAX_IMAGE_PIXELS``, that holds as well.
        max_bytes: largest file accepted.

    Raises:
        PictureError: there is no such file, it cannot be opened, is no picture, is damaged, cut off, too large, or
            made to keep a decoder busy (see :mod:`s3diff.images.files.structure`).
    """
    with opened_file(path, max_pixels, max_bytes) as (file, limit):
        return _read_open_file(file, Path(path), limit)


@contextmanager
def opened_file(path: PicturePath, max_pixels: int, max_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
    """The file and the largest number of pixels; whatever goes wrong inside becomes one line about the picture.

    Raises:
        PictureError: there is no such file, it cannot be opened or is too large.
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
                raise PictureError(
                    f"{shown} has {num_bytes} bytes, the limit is {max_bytes}; give a smaller file, or raise the limit "
                    "(max_file_bytes, --max-file-megabytes)"
                )
            yield file, limit


def decode_picture(data: bytes, name: str, max_pixels: int = MAX_PICTURE_PIXELS) -> Picture:
    """A picture from a file's whole content, as :func:`read_picture` would read the file.

    Args:
        data: the content.
        name: what it is called, for messages.
        max_pixels: see :func:`read_picture`.

    Raises:
        PictureError: it is no picture, damaged, cut off or too large.
    """
    limit = _pixel_limit(max_pixels)
    with reading(name, limit):
        return _read_open_file(io.BytesIO(data), Path(name), limit)


class PictureHeader(NamedTuple):
    """What a file says of itself before it is decoded: size in pixels as stored, and the format's usual extension."""

    width: int
    height: int
    extension: str


def picture_header(path: PicturePath) -> PictureHeader:
    """Size and format of a picture file; nothing is decoded, whatever size it claims.

    Raises:
        PictureError: it cannot be opened, or is no picture.
    """
    shown = shown_path(path)
    with reading(shown, 0), open(path, "rb") as file:
        head = file.read(64)
        file.seek(0)
        if is_heif(head):
            return PictureHeader(*heif_size(file), ".heic")
        image = _recognised(file, shown)
        name = "JPEG" if image.format == "MPO" else image.format
        extension = next((each for each, form in FORMATS.items() if form.name == name), ".png")
        return PictureHeader(image.width, image.height, extension)


def _pixel_limit(max_pixels: int) -> int:
    pillows = Image.MAX_IMAGE_PIXELS
    return max_pixels if pillows in (None, _PILLOWS_DEFAULT_PIXELS) else min(max_pixels, pillows)


@contextmanager
def reading(shown: str, limit: int) -> Iterator[None]:
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
            raise PictureError(
                f"{shown} cannot be read as a picture ({reason_of(error)}); it may be damaged"
            ) from error
        raise PictureError(
            f"{shown} is a symbolic link that leads back to itself; give the picture it means"
        ) from error
    except Exception as error:  # what a decoder raises on damaged data is open-ended: struct, zlib, index errors ..
        raise PictureError(f"{shown} cannot be read as a picture ({reason_of(error)}); it may be damaged") from error


def silence_libtiff() -> None:
    """For programs that say one line for each file: libtiff writes what it thinks of a damaged one to stderr itself.

    What is wrong is raised by Pillow all the same. Does nothing where libtiff cannot be reached (Windows).
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(Image.core.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)


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
        raise PictureError(
            f"the Pillow image cannot be used ({reason_of(error)}); load it with read_picture"
        ) from error


def list_pictures(folder: PicturePath, recursive: bool = False) -> list[Path]:
    """The files in a folder that are named as pictures, sorted by path; hidden files and folders are left out.

    Raises:
        PictureError: the folder, or one inside it, cannot be listed.
    """

    def fail(error: OSError) -> None:
        where = shown_path(error.filename if error.filename is not None else folder)
        raise PictureError(f"{where} cannot be listed ({reason_of(error)}); give a readable folder") from error

    found = []
    for here, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        shown = [name for name in files if not name.startswith(".") and Path(name).suffix.lower() in FORMATS]
        found += [Path(here, name) for name in shown]
    return sorted(found)


def _recognised(file: BinaryIO, shown: str) -> ImageFile.ImageFile:
    """The header, read, of whatever size."""
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    if head.startswith(_PNG_START) and len(head) >= 24 and 0 in struct.unpack(">II", head[16:24]):
        # Pillow calls it a file of another kind.
        width, height = struct.unpack(">II", head[16:24])
        raise PictureError(f"{shown} has 0 pixels ({width} x {height}); give a picture of at least 1 x 1")
    check_structure(file, head)
    image = _recognise(file, head)
    if image is None:
        if not head:
            raise PictureError(f"{shown} is empty; give a {FORMAT_NAMES} picture")
        raise PictureError(f"{shown} is not a {FORMAT_NAMES} picture; give a picture file in one of these formats")
    return image


def opened_picture(file: BinaryIO, path: Path, limit: int) -> ImageFile.ImageFile:
    """The opened header of a picture that is not too large, and whole as far as that is seen without decoding.

    Raises:
        PictureError: the file is something else.
    """
    shown = shown_path(path)
    image = _recognised(file, shown)
    if image.width * image.height > limit:
        raise PictureError(too_many_pixels(path, (image.width, image.height), limit))
    place = file.tell()
    # Compressed data of JPEG cannot contain the end marker, so its absence is certain proof. Without this check a file
    # whose rest was never downloaded (zeros) would decode to half a picture; a GIF would to fewer frames.
    if image.format in ("JPEG", "MPO") and b"\xff\xd9" not in file.read():
        raise PictureError(f"{shown} is cut off: the end of the JPEG data is missing; fetch the file again")
    if image.format == "GIF" and not gif_blocks.is_whole(file):
        raise PictureError(f"{shown} is cut off: the end of the GIF data is missing; fetch the file again")
    file.seek(place)
    return image


def _read_open_file(file: BinaryIO, path: Path, limit: int) -> Picture:
    head = file.read(64)
    file.seek(0)
    if is_heif(head):
        return read_heif(file, path, limit)
    image = opened_picture(file, path, limit)
    num_frames = getattr(image, "n_frames", 1)
    deep = deep_array(image, lambda: _again(file))
    notes = []
    if num_frames > 1 and image.format != "MPO":  # whose further pictures are named for what they are
        notes.append(f"the file holds {num_frames} frames or pages; the first one is used")
    if deep is None and _had_16_bits(image):
        notes.append(f"16 bits per channel were reduced to 8: {image.mode} pictures are read with 8")
    return _from_image(image, path, tuple(notes), deep, attachments(file))


def file_notes(file: BinaryIO) -> tuple[str, ...]:
    """Return a remark on what a file holds beside its picture, which no result has."""
    return left_out_note(attachments(file))


def pictures_of(image: Image.Image, path: Path) -> Picture:
    """The frame that an opened file stands at, in 8 bits."""
    return _from_image(image, path, ())


def _again(file: BinaryIO) -> ImageFile.ImageFile:
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    image = _recognise(file, head)
    if image is None:
        raise PictureError("the file changed while it was read; try again")
    return image


def _recognise(file: BinaryIO, head: bytes) -> ImageFile.ImageFile | None:
    """The opened header. ``Image.open`` would do the same, but warns or fails at a pixel limit that is not ours."""
    if head.startswith(_PNG_START):
        return PngImagePlugin.PngImageFile(file)
    if head.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.jpeg_factory(file)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(file)
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return GreyAlphaTiff(file)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile(file)
    if head.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile(file)
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        if not features.check("avif"):
            raise PictureError("AVIF is no part of this build of Pillow; install the usual one: pip install -U pillow")
        from PIL import AvifImagePlugin

        return AvifImagePlugin.AvifImageFile(file)
    return None


def _had_16_bits(image: Image.Image) -> bool:
    bits = image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, ()) if isinstance(image, TiffImagePlugin.TiffImageFile) else ()
    return 16 in bits and not image.mode.startswith("I")


def _from_image(
    image: Image.Image,
    path: Path | None,
    notes: tuple[str, ...],
    deep: np.ndarray | None = None,
    beside: Sequence[str] = (),
) -> Picture:
    """``deep``: the pixels [H, W, C] in 16 bits, where Pillow's own have only 8; ``beside``: what is left behind."""
    source_format = "JPEG" if image.format == "MPO" else image.format
    image.load()  # profile and EXIF may stand behind the pixels, and a TIFF is turned upright by it
    is_turned = _has_loading_turned(image)
    icc_profile = image.info.get("icc_profile") or None
    found, lost, more = metadata_of(image)
    notes += more
    orientation, exif = take_orientation(found.exif) if found.exif else (1, None)
    turned_by = orientation if orientation != 1 else getattr(image, "stored_orientation", 1)
    stored_size = image.size[::-1] if is_turned else image.size
    metadata, more = upright(found._replace(exif=exif), stored_size, turned_by, [*beside, *lost])
    notes += more
    if image.mode == "CMYK":
        image, how = _rgb_from_cmyk(image, icc_profile)
        notes += (f"CMYK was converted to RGB {how}",)
        icc_profile = None
    pixels, alpha = split_alpha(_plain_array(image) if deep is None else _with_clear_color(image, deep))
    pixels = _upright(pixels, orientation)
    alpha = None if alpha is None else _upright(alpha, orientation)
    dpi = dpi_of(image)
    if dpi is not None and (is_turned or orientation in QUARTER_TURNS):
        dpi = dpi[1], dpi[0]
    return Picture(
        pixels, alpha, icc_profile, metadata.exif, metadata.xmp, dpi, source_format, path, notes, metadata.iptc,
        metadata.texts,
    )  # fmt: skip


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


def _with_clear_color(image: Image.Image, deep: np.ndarray) -> np.ndarray:
    """[H, W, 4] where a PNG names one colour as transparent."""
    clear = image.info.get("transparency")
    if deep.shape[2] != 3 or not isinstance(clear, tuple):
        return deep
    alpha = np.where((deep == np.array(clear)).all(axis=2), 0, 65535).astype(np.uint16)
    return np.dstack([deep, alpha])


def _rgb_from_cmyk(image: Image.Image, icc_profile: bytes | None) -> tuple[Image.Image, str]:
    if icc_profile:
        with suppress(ImageCms.PyCMSError, ImportError):  # a damaged profile, or a Pillow built without littlecms
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted, "through its colour profile"
    return image.convert("RGB"), "without a colour profile"


def _has_loading_turned(image: Image.Image) -> bool:
    """Whether Pillow gave a TIFF a quarter turn; never of a square one.

    The tags then still hold the stored sides, but no longer the orientation.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.width == image.height:
        return False
    return (image.tag_v2.get(_TIFF_HEIGHT), image.tag_v2.get(_TIFF_WIDTH)) == image.size


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (CIPA DC-008, tag 274) on [H, W, ..]."""
    if orientation in QUARTER_TURNS:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)
