"""Read pictures larger than memory part by part, and write them from a file of raw pixels. Only this module knows
libvips (``pyvips``, the extra ``large``).
"""

from __future__ import annotations

import errno
import os
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s3diff.errors import OutputError, PictureError
from s3diff.images.files.coordinates import QUARTER_TURNS
from s3diff.images.files.geotiff import POSITION, is_geotiff
from s3diff.images.files.provenance_xmp import with_ai_origin
from s3diff.images.files.reading import left_by_streaming, stated_colors_of_file
from s3diff.images.picture import colors_to_tensor, is_neutral
from s3diff.messages import needing
from s3diff.tiling import Span

#: libvips' loaders that are used, by the beginning of their names.
_LOADERS = ("tiffload", "pngload", "jpegload")
_KINDS = {"srgb": 3, "rgb": 3, "rgb16": 3, "b-w": 1, "grey16": 1}
_DEPTHS: dict[str, np.dtype[Any]] = {"uchar": np.dtype(np.uint8), "ushort": np.dtype(np.uint16)}
_PROFILE, _XMP = "icc-profile-data", "xmp-data"
_MM_PER_INCH = 25.4
#: Operations that libvips keeps unless told otherwise.
_USUAL_CACHE = 100
#: Pixels that are looked at for colour at once.
_STRIP_PIXELS = 1 << 22
#: Side of a tile of the written file.
TIFF_TILE_PX = 256


class LargePicture:
    """An opened TIFF, PNG or JPEG: RGB or grey, 8 or 16 bits, without transparency, turned upright.

    Tiled TIFF is read where it is needed. Other files are decoded once, by libvips, into memory up to 100 MB and beyond
    that into a temporary file (in ``TMPDIR``). Use it from the thread that opened it.

    Raises:
        MissingExtraError: pyvips is not installed.
        PictureError: the file cannot be read, or is a picture of another kind.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._vips = _pyvips()
        if not os.path.isfile(path):
            raise PictureError(f"{path} does not exist or is no file; give a picture file")
        stated = stated_colors_of_file(path)
        try:
            # Not "truncated": of an uncompressed TIFF that is cut off, the rest would be black.
            image = self._vips.Image.new_from_file(os.fspath(path), fail_on="error", revalidate=True)
            loader = image.get("vips-loader")
            self.num_pages = int(image.get("n-pages")) if image.get_typeof("n-pages") else 1
            self.icc_profile: bytes | None = bytes(image.get(_PROFILE)) if image.get_typeof(_PROFILE) else None
            #: The input's packet, whose statement of the input's making a result takes over.
            self.xmp: bytes | None = bytes(image.get(_XMP)) if image.get_typeof(_XMP) else None
            is_turned = bool(image.get_typeof("orientation")) and image.get("orientation") in QUARTER_TURNS
            image = image.autorot()
        except self._vips.Error as error:
            raise self._unreadable(error) from error
        self.icc_profile = stated.profile or self.icc_profile
        if not loader.startswith(_LOADERS):
            raise PictureError(f"{path} is no TIFF, PNG or JPEG picture; only these are read part by part")
        if image.hasalpha():
            raise PictureError(
                f"{path} has transparency, which is not kept part by part; remove it, or restore the picture in memory "
                "(--max-megapixels)"
            )
        if _KINDS.get(image.interpretation) != image.bands or image.format not in _DEPTHS:
            raise PictureError(
                f"{path} is {image.interpretation} with {image.bands} channels of {image.format}; only RGB and grey "
                "pictures of 8 or 16 bits are read part by part"
            )
        self.num_bytes = os.path.getsize(path)
        self._region = self._vips.Region.new(image)
        self.width, self.height, self.num_channels = int(image.width), int(image.height), int(image.bands)
        self.depth: np.dtype[Any] = _DEPTHS[image.format]
        #: Pixels per inch, across and down. One pixel per mm is libvips' word for a file that states nothing.
        across, down = (image.yres, image.xres) if is_turned else (image.xres, image.yres)
        self.dpi = None if across == down == 1 else (across * _MM_PER_INCH, down * _MM_PER_INCH)
        #: Losses, one sentence each.
        self.notes: tuple[str, ...] = stated.notes
        if self.num_pages > 1:
            self.notes += (f"the file holds {self.num_pages} pages; the first one is used",)
        with open(path, "rb") as file:
            self.xmp, _ = with_ai_origin(self.xmp, file)
        if loader.startswith("tiffload") and is_geotiff(path):
            self.notes += (f"left out: {POSITION}",)
        has_metadata, more = left_by_streaming(path)
        self.notes += more
        if has_metadata:
            self.notes += ("EXIF, XMP, IPTC and texts are left out: a streamed result keeps colour profile and DPI",)

    @property
    def is_grey(self) -> bool:
        """Whether the picture has one channel."""
        return self.num_channels == 1

    @cached_property
    def is_neutral(self) -> bool:
        """Whether no pixel has colour: one channel, or three equal ones; reads the file up to the first that has.

        Raises:
            PictureError: the file is damaged.
        """
        if self.is_grey:
            return True
        rows = max(1, _STRIP_PIXELS // self.width)
        strips = (Span(top, min(top + rows, self.height)) for top in range(0, self.height, rows))
        return all(is_neutral(self._pixels(strip, Span(0, self.width))) for strip in strips)

    def read(self, rows: Span, columns: Span) -> torch.Tensor:
        """Read a part as [1, 3, h, w] float32 RGB in [0, 1]; grey is repeated.

        Raises:
            PictureError: the file is damaged there.
        """
        return colors_to_tensor(self._pixels(rows, columns))

    def _pixels(self, rows: Span, columns: Span) -> np.ndarray:
        """Read a part as [h, w, C] of the file's depth."""
        try:
            data = self._region.fetch(columns.start, rows.start, columns.length, rows.length)
        except self._vips.Error as error:
            raise self._unreadable(error) from error
        return np.frombuffer(data, self.depth).reshape(rows.length, columns.length, self.num_channels)

    def _unreadable(self, error: Exception) -> PictureError:
        if os.strerror(errno.ENOSPC) in str(error):
            folder = os.environ.get("TMPDIR") or tempfile.gettempdir()  # which passes over a full one
            return PictureError(
                f"{self.path} cannot be unpacked: the disk for temporary files, {folder}, is full; make room there, or "
                "set TMPDIR to another folder"
            )
        return PictureError(f"{self.path} cannot be read as a picture ({_reason(error)}); it may be damaged")


def write_tiled_tiff(
    raw: Path,
    target: Path,
    shape: tuple[int, int, int],
    depth: np.dtype,
    *,
    icc_profile: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    xmp: bytes | None = None,
) -> None:
    """Write a tiled BigTIFF, losslessly compressed (deflate), from a file of raw pixels; memory holds one row of tiles.

    The file is mapped: its pages in the system's cache count as resident, but can be taken back at any time.

    Args:
        raw: the pixels, row by row, channels together, in the machine's byte order.
        target: the file to write; one that is there is replaced.
        shape: (height, width, channels), 1 or 3 channels.
        depth: uint8 or uint16.
        dpi: pixels per inch, across and down.

    Raises:
        OutputError: it cannot be written.
    """
    vips = _pyvips()
    try:
        _convert(vips, raw, target, shape, np.dtype(depth), {_PROFILE: icc_profile, _XMP: xmp}, dpi)
    except vips.Error as error:
        raise OutputError(f"{target} cannot be written ({_reason(error)}); choose another place") from error
    finally:
        # libvips keeps files open for later, and a removed file that is open still occupies the disk.
        before = vips.cache_get_max() if hasattr(vips, "cache_get_max") else _USUAL_CACHE
        vips.cache_set_max(0)
        vips.cache_set_max(before)


def _convert(
    vips: Any,
    raw: Path,
    target: Path,
    shape: tuple[int, int, int],
    depth: np.dtype,
    blocks: dict[str, bytes | None],
    dpi: tuple[float, float] | None,
) -> None:
    height, width, channels = shape
    deep = depth == np.uint16
    kind = ("grey16" if deep else "b-w") if channels == 1 else ("rgb16" if deep else "srgb")
    image = vips.Image.rawload(
        os.fspath(raw), width, height, channels, format="ushort" if deep else "uchar", interpretation=kind,
        revalidate=True,
    )  # fmt: skip
    across, down = (1.0, 1.0) if dpi is None else (value / _MM_PER_INCH for value in dpi)
    image = image.copy(xres=across, yres=down)
    for name, block in blocks.items():
        if block is not None:
            image.set_type(vips.GValue.blob_type, name, block)
    image.tiffsave(
        os.fspath(target),
        tile=True, tile_width=TIFF_TILE_PX, tile_height=TIFF_TILE_PX, bigtiff=True,
        compression="deflate", predictor="horizontal", resunit="inch",
    )  # fmt: skip


def _pyvips() -> Any:
    with needing("large", "pictures larger than memory need libvips"):
        import pyvips
    return pyvips


def _reason(error: Exception) -> str:
    """Put libvips' own words on one line."""
    lines = str(getattr(error, "detail", "") or error).split("\n")
    return " ".join(next((line for line in lines if line.strip()), "no reason given").split())
