"""TIFF."""

from __future__ import annotations

import ctypes
import io
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from s3diff.errors import PictureError
from s3diff.images.files.codec import MAX_FRAMES, Codec, require_few
from s3diff.images.files.deep_pixels import GreyAlphaTiff, deep_array
from s3diff.images.files.left_behind import attachments
from s3diff.images.files.metadata import Metadata
from s3diff.images.files.pillow_metadata import deep_tiff, tiff_exif, tiff_tags
from s3diff.images.files.pillow_pictures import all_channels, picture_of
from s3diff.images.files.tiff_directories import TiffDirectories, at_directory
from s3diff.images.picture import Picture

_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 0x0102, 0x0115, 0x0153
#: Sample formats (TIFF 6.0, section 19).
_SIGNED, _COMPLEX = 2, (5, 6)


class TiffCodec(Codec):
    """16 bits per channel of colours and transparency, for which Pillow has no mode, are read and written here."""

    def recognises(self, head: bytes) -> bool:
        return head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))

    def check(self, file: BinaryIO, head: bytes) -> None:
        directories = TiffDirectories(file, MAX_FRAMES)
        require_few("pages", len(directories.pages))
        directories.full_pages()

    def holds_reduced_copy_first(self, file: BinaryIO) -> bool:
        directories = TiffDirectories(file, MAX_FRAMES)
        return directories.full_pages()[:1] != directories.pages[:1]

    def header(self, file: BinaryIO) -> ImageFile.ImageFile:
        full = TiffDirectories(file, MAX_FRAMES).full_pages()
        is_reduced = self.holds_reduced_copy_first(file)
        file.seek(0)
        if is_reduced:
            file = io.BytesIO(at_directory(file, full[0].place))
        try:
            image = GreyAlphaTiff(file)
        except SyntaxError as error:
            if "unknown" not in str(error):
                raise
            raise PictureError(
                f"the TIFF's kind of pixels is not supported ({error}); save it as RGB or grey of 8 or 16 bits"
            ) from error
        if set(image.tag_v2.get(_SAMPLE_FORMAT, ())) & {_SIGNED, *_COMPLEX}:
            raise PictureError("the TIFF holds signed or complex numbers; save it as RGB or grey of 8 or 16 bits")
        return image

    def read(self, file: BinaryIO, path: Path, limit: int) -> Picture:
        image = self.opened(file, path, limit)
        num_pages = len(TiffDirectories(file, MAX_FRAMES).full_pages())
        deep, notes = _deep_values(image)
        if deep is None:
            deep = deep_array(image, lambda: self.checked_header(file))
        if num_pages > 1:
            notes += (f"the file holds {num_pages} frames or pages; the first one is used",)
        if _is_cmyk_with_more(image):
            notes += ("transparency or spot colours of the CMYK picture are left out",)
        if deep is None and _had_16_bits(image):
            notes += (f"16 bits per channel were reduced to 8: {image.mode} pictures are read with 8",)
        return picture_of(image, path, notes, deep, None, attachments(file))

    def fitted_exif(self, exif: bytes) -> tuple[bytes | None, tuple[str, ...]]:
        return tiff_exif(exif)

    def settings(self, picture: Picture, metadata: Metadata, quality: int) -> dict[str, Any]:
        settings = super().settings(picture, Metadata(), quality)
        return settings | {"exif": tiff_tags(metadata.exif, metadata.xmp, metadata.iptc)}

    def encode(self, picture: Picture, settings: dict[str, Any]) -> tuple[bytes, tuple[str, ...]]:
        array = all_channels(picture)
        if array.itemsize == 1 or array.shape[2] == 1:
            # Uncompressed: Pillow writes EXIF groups into no other.
            return super().encode(picture, settings)
        tags = settings.get("exif", Image.Exif())
        return deep_tiff(array, tags, picture.icc_profile, picture.dpi), ()


def _deep_values(image: ImageFile.ImageFile) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Grey of 12 and 32 bits, and of floats, as [H, W, 1] of 16 bits; None for any other; and what was lost."""
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, ()) if isinstance(image, TiffImagePlugin.TiffImageFile) else ()
    if image.mode == "I;16" and bits == (12,):
        image.load()
        values = np.asarray(image).astype(np.uint32)
        return ((values * 65535 + 2047) // 4095).astype(np.uint16)[..., None], ()
    if image.mode == "I" and bits == (32,):
        image.load()
        unsigned = np.asarray(image).view(np.uint32).astype(np.uint64)
        rounded = (unsigned + 32768) // 65537  # 2^32 - 1 = 65535 * 65537
        return rounded.astype(np.uint16)[..., None], ("32 bits per channel were rounded to 16",)
    if image.mode != "F":
        return None, ()
    image.load()
    numbers = np.asarray(image)
    if not np.isfinite(numbers).all():
        raise PictureError("the picture holds values that are no finite numbers; save it with 8 or 16 bits")
    notes: tuple[str, ...] = ("floating-point values were rounded to 16 bits",)
    if numbers.min() < 0 or numbers.max() > 1:
        notes += (f"values from {numbers.min():g} to {numbers.max():g} were cut to the range from 0 to 1",)
    return np.rint(numbers.clip(0, 1).astype(np.float64) * 65535).astype(np.uint16)[..., None], notes


def _is_cmyk_with_more(image: ImageFile.ImageFile) -> bool:
    is_cmyk = isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode == "CMYK"
    return is_cmyk and image.tag_v2.get(_SAMPLES_PER_PIXEL, 4) > 4  # type: ignore[attr-defined]


def _had_16_bits(image: ImageFile.ImageFile) -> bool:
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, ()) if isinstance(image, TiffImagePlugin.TiffImageFile) else ()
    return 16 in bits and not image.mode.startswith("I")


def silence_libtiff() -> None:
    """For programs that say one line for each file: libtiff writes what it thinks of a damaged one to stderr itself.

    Pillow raises its errors all the same. Does nothing where libtiff cannot be reached (Windows).
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(Image.core.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)


CODEC = TiffCodec
