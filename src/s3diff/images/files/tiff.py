"""Read and write TIFF."""

from __future__ import annotations

import ctypes
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, TiffTags

from s3diff.errors import PictureError
from s3diff.images.files.codec import MAX_FRAMES, Codec, require_few
from s3diff.images.files.coordinates import QUARTER_TURNS
from s3diff.images.files.dropped_contents import attachments
from s3diff.images.files.metadata import Metadata
from s3diff.images.files.pillow_metadata import tiff_exif, tiff_tags
from s3diff.images.files.pillow_pictures import all_channels, picture_of
from s3diff.images.files.tiff_directories import Directory, PatchedTiff, TiffDirectories
from s3diff.images.files.tiff_samples import SampleReader, TiffImage
from s3diff.images.icc_profiles import StatedColors, colors_of_gamma
from s3diff.images.picture import Picture
from s3diff.messages import reason_of, too_many_pixels

_COMPRESSION, _WHITE_POINT, _PRIMARIES, _XMP = 0x0103, 0x013E, 0x013F, 0x02BC
#: Tags that are directories of their own: EXIF and GPS.
_GROUPS = (0x8769, 0x8825)
#: Compressions without a decoder here.
_COMPRESSIONS = {
    34661: "JBIG", 34676: "SGI LogLuv", 34677: "SGI LogLuv", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip


class TiffCodec(Codec):
    """Read and write TIFF, with 16 bits per channel of colours and transparency, for which Pillow has no mode."""

    def recognises(self, head: bytes) -> bool:
        return head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))

    def size(self, file: BinaryIO) -> tuple[int, int]:
        first = _directories(file)[1][0]
        if not first.num_pixels:
            raise PictureError(f"the TIFF says that it has {first.width} x {first.height} pixels; it may be damaged")
        return first.width, first.height

    def holds_reduced_copy_first(self, file: BinaryIO) -> bool:
        directories, pages = _directories(file)
        return pages[:1] != directories.pages[:1]

    def checked_header(self, file: BinaryIO) -> ImageFile.ImageFile:
        directories, pages = _directories(file)
        return _opened(file, directories, pages[0])

    def read(self, file: BinaryIO, path: Path, limit: int) -> Picture:
        directories, pages = _directories(file)
        notes: tuple[str, ...] = ()
        if len(pages) > 1:
            notes = (f"the file holds {len(pages)} pages; the first one is used (all of them go into a .tif)",)
        return _read_page(file, path, limit, directories, pages[0], notes)

    def stated_colors(self, file: BinaryIO, image: ImageFile.ImageFile) -> StatedColors:
        return _stated_colors(image, image.mode in ("RGB", "RGBA", "RGBX"))

    def page_sizes(self, file: BinaryIO) -> list[tuple[int, int]]:
        directories, pages = _directories(file)
        turned = [SampleReader(file, directories, page).orientation in QUARTER_TURNS for page in pages]
        sizes = [(page.width, page.height) for page in pages]
        return [size[::-1] if is_turned else size for size, is_turned in zip(sizes, turned, strict=True)]

    def read_pages(self, file: BinaryIO, path: Path, limit: int, numbers: Sequence[int]) -> Iterator[Picture]:
        directories, pages = _directories(file)
        for number in numbers:
            try:
                yield _read_page(file, path, limit, directories, pages[number - 1], ())
            except PictureError as error:
                raise PictureError(f"page {number}: {error}") from error
            except Exception as error:  # as in reading a picture, but the page is named
                raise PictureError(f"page {number} cannot be read ({reason_of(error)}); it may be damaged") from error

    def xmp(self, file: BinaryIO, path: Path) -> bytes | None:
        """See :meth:`Codec.xmp`; of a picture of any size, since no pixels are read."""
        return self.page_xmps(file, path)[0]

    def page_xmps(self, file: BinaryIO, path: Path) -> list[bytes | None]:
        directories, pages = _directories(file)
        return [directories.content(page, _XMP) or None for page in pages]

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
        return _deep_tiff(array, tags, picture.icc_profile, picture.dpi), ()


def _directories(file: BinaryIO) -> tuple[TiffDirectories, list[Directory]]:
    """Return all directories, and those of full pages.

    Raises:
        PictureError: the file is raw, or has too many pages.
    """
    directories = TiffDirectories(file, MAX_FRAMES)
    require_few("pages", len(directories.pages))
    pages = directories.full_pages()
    if not pages:
        raise PictureError("the TIFF holds no picture; it may be damaged")
    return directories, pages


def _opened(file: BinaryIO, directories: TiffDirectories, page: Directory) -> TiffImage:
    if page is not directories.pages[0]:
        file = PatchedTiff(file, directories, page).opened()
    file.seek(0)
    (compression,) = directories.numbers(page, _COMPRESSION, (1,))[:1]
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise PictureError(
            f"the TIFF is compressed as {_COMPRESSIONS.get(compression, f'number {compression}')}, which is not "
            "supported; save it with LZW or deflate, or uncompressed"
        )
    try:
        return TiffImage(file)
    except SyntaxError as error:
        if "unknown" not in str(error):
            raise
        raise PictureError(
            f"the TIFF's kind of pixels is not supported ({error}); save it as RGB or grey of 8 or 16 bits"
        ) from error


def _read_page(
    file: BinaryIO,
    path: Path,
    limit: int,
    directories: TiffDirectories,
    page: Directory,
    notes: tuple[str, ...],
) -> Picture:
    samples = SampleReader(file, directories, page)
    if page.num_pixels > limit:
        raise PictureError(too_many_pixels(path, (page.width, page.height), limit))
    left_out = [*attachments(file), *directories.contents_left_out(page)]
    if samples.is_needed and page.num_pixels:
        samples.require_known(limit)
        found = samples.read()
        found.image.place_among_pages = _place(directories, page)
        stated, notes = _stated_colors(found.image, found.array.shape[2] >= 3), (*notes, *found.notes)
        return picture_of(found.image, path, notes, found.array, stated, left_out, is_srgb=found.is_srgb)
    samples.require_numbers()
    image = _opened(file, directories, page)
    image.place_among_pages = _place(directories, page)
    stated = _stated_colors(image, image.mode in ("RGB", "RGBA", "RGBX"))
    return picture_of(image, path, (*notes, *samples.left_out_note()), None, stated, left_out)


def _place(directories: TiffDirectories, page: Directory) -> tuple[int, int]:
    """Return a page's number, from 0, and the number of pages."""
    pages = [each for each in directories.pages if not each.is_reduced]
    return (pages.index(page) if page in pages else 0), max(1, len(pages))


def _stated_colors(image: ImageFile.ImageFile, is_color: bool) -> StatedColors:
    """Make a profile of the white point and primaries in tags (TIFF 6.0, section 20); an ICC profile has priority."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    white, ends = tags.get(_WHITE_POINT, ()), tags.get(_PRIMARIES, ())
    if "icc_profile" in image.info or not (white or ends):
        return StatedColors()
    if not is_color:
        return StatedColors(None, ("left out: white point and primaries of a picture that is not RGB",))
    names = "WhitePoint, PrimaryChromaticities"
    try:
        values = [float(value) for value in (*white, *ends)] if len(white) == 2 and len(ends) == 6 else [math.nan] * 8
        return colors_of_gamma(None, tuple(zip(values[::2], values[1::2], strict=True)), False, names)  # type: ignore[arg-type]
    except (ValueError, TypeError, ArithmeticError):
        return colors_of_gamma(math.nan, None, False, names)


def silence_libtiff() -> None:
    """Keep libtiff's remarks on damaged files off stderr, for programs that print one line per file.

    Pillow raises its errors all the same. Does nothing where libtiff cannot be reached (Windows).
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(Image.core.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)


def _deep_tiff(
    pixels: np.ndarray, tags: Image.Exif, icc_profile: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
    """Make an uncompressed TIFF in one strip, for pixels that Pillow has no mode for.

    Args:
        pixels: [H, W, 1 to 4] uint16: grey or RGB and, as the last channel, opacity that is not premultiplied.
        tags: from :func:`~s3diff.images.files.pillow_metadata.tiff_tags`.
        dpi: pixels per inch, across and down.
    """
    height, width, channels = pixels.shape
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag in tags:
        directory[tag] = tags.get_ifd(tag) if tag in _GROUPS else tags[tag]
    storage: dict[int, Any] = {
        TiffImagePlugin.IMAGEWIDTH: width,
        TiffImagePlugin.IMAGELENGTH: height,
        TiffImagePlugin.BITSPERSAMPLE: (16,) * channels,
        TiffImagePlugin.COMPRESSION: 1,
        TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 2 if channels >= 3 else 1,
        TiffImagePlugin.STRIPOFFSETS: 0,  # the directory's own length is added when it is written
        TiffImagePlugin.SAMPLESPERPIXEL: channels,
        TiffImagePlugin.ROWSPERSTRIP: height,
        TiffImagePlugin.PLANAR_CONFIGURATION: 1,
    }
    directory.tagtype[TiffImagePlugin.STRIPBYTECOUNTS] = TiffTags.LONG
    storage[TiffImagePlugin.STRIPBYTECOUNTS] = pixels.nbytes
    if channels in (2, 4):
        storage[TiffImagePlugin.EXTRASAMPLES] = 2
    if icc_profile is not None:
        storage[TiffImagePlugin.ICCPROFILE] = icc_profile
    if dpi is not None:
        storage |= {TiffImagePlugin.X_RESOLUTION: dpi[0], TiffImagePlugin.Y_RESOLUTION: dpi[1]}
        storage[TiffImagePlugin.RESOLUTION_UNIT] = 2
    for tag, value in storage.items():
        directory[tag] = value
    data = io.BytesIO()
    directory.save(data)
    data.write(pixels.astype("<u2", copy=False).tobytes())
    return data.getvalue()


CODEC = TiffCodec
