"""Read and write PNG and APNG."""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin

from s3diff.errors import PictureError
from s3diff.images.files.codec import HEAD_BYTES, Codec, frame_notes
from s3diff.images.files.dropped_contents import attachments
from s3diff.images.files.metadata import Metadata
from s3diff.images.files.pillow_metadata import png_info
from s3diff.images.files.pillow_pictures import all_channels, picture_of
from s3diff.images.files.png_chunks import (
    PNG_START,
    ReadChunks,
    chunk,
    chunks,
    compressed_rows,
    decoded_texts,
    header,
    read_chunks,
    sorted_texts,
    with_pixels,
    without_damaged_chunks,
)
from s3diff.images.icc_profiles import (
    DAMAGED_PROFILE,
    StatedColors,
    colors_of_gamma,
    profile_of_code_points,
    srgb_profile,
    states_colors,
)
from s3diff.images.picture import Picture
from s3diff.options import MAX_OUTPUT_PIXELS

if TYPE_CHECKING:
    from s3diff.images.files.animations import Animation


def deep_array(image: ImageFile.ImageFile, again: Callable[[], ImageFile.ImageFile]) -> np.ndarray | None:
    """Read [H, W, 2, 3 or 4] uint16 of a picture with 16 bits and colour or transparency; None for others.

    Pillow's decoders pass rows to an unpacker that keeps one byte of each sample. So the file is decoded twice: once
    for the upper bytes, once for the lower ones.

    Args:
        image: opened, not loaded; it is loaded afterwards.
        again: opens the same file once more.
    """
    modes = {_raw_mode(tile) for tile in image.tile}
    image.load()
    if modes == {"LA;16B"}:  # read as four bytes a pixel it takes one pass
        pairs = np.ascontiguousarray(np.asarray(_loaded(again(), lambda _: "RGBA")))
        return pairs.view(">u2").astype(np.uint16)
    if not modes or not all(";16" in mode and mode.startswith("RGB") for mode in modes):
        return None
    pixels = np.asarray(image).astype(np.uint16)
    pixels *= 256
    pixels += np.asarray(_loaded(again(), _other_byte))
    return pixels


def _loaded(image: ImageFile.ImageFile, mode_of: Callable[[str], str]) -> Image.Image:
    image.tile = [_with_raw_mode(tile, mode_of(_raw_mode(tile))) for tile in image.tile]
    image.load()
    return image


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    mode = arguments[0] if isinstance(arguments, tuple) else arguments
    return mode if isinstance(mode, str) else ""


def _with_raw_mode(tile: Any, mode: str) -> Any:
    name, box, offset, arguments = tile
    changed = (name, box, offset, (mode, *arguments[1:]) if isinstance(arguments, tuple) else mode)
    return changed if type(tile) is tuple else type(tile)(*changed)


def _other_byte(mode: str) -> str:
    """Return the unpacker of the lower bytes for that of the upper ones; N means the machine's byte order."""
    lower = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    return mode[:-1] + lower[mode[-1]]


class PngImage(PngImagePlugin.PngImageFile):
    """Pillow's image; it knows every text and block of EXIF, of which Pillow keeps the last one of a keyword."""

    chunks = ReadChunks({}, (), ())
    #: Names of the chunks that were left out.
    damaged_chunks: tuple[str, ...] = ()


class PngCodec(Codec):
    """Read and write PNG, with 16 bits per channel of colours and transparency, for which Pillow has no mode."""

    def recognises(self, head: bytes) -> bool:
        return head.startswith(PNG_START)

    def check(self, file: BinaryIO, head: bytes) -> None:
        if len(head) >= 24 and 0 in struct.unpack(">II", head[16:24]):  # Pillow calls it a file of another kind
            width, height = struct.unpack(">II", head[16:24])
            raise PictureError(f"the picture has 0 pixels ({width} x {height}); give a picture of at least 1 x 1")

    def header(self, file: BinaryIO) -> ImageFile.ImageFile:
        file, damaged = without_damaged_chunks(file)
        found = read_chunks(file)
        image = PngImage(file)
        image.chunks, image.damaged_chunks = found, damaged
        return image

    def read(self, file: BinaryIO, path: Path, limit: int) -> Picture:
        image = self.opened(file, path, limit)
        deep = deep_array(image, lambda: self.checked_header(file))
        _scale_clear_grey(image, file)
        damaged = _as_png(image).damaged_chunks
        notes = tuple(f"the chunk {name} is damaged and was left out" for name in damaged)
        stated = self.stated_colors(file, image)
        left_out = attachments(without_damaged_chunks(file)[0] if damaged else file)
        return picture_of(image, path, (*frame_notes(image), *notes), deep, stated, left_out)

    def xmp(self, file: BinaryIO, path: Path) -> bytes | None:
        """See :meth:`Codec.xmp`; pixels are not decoded."""
        image = _as_png(self.opened(file, path, MAX_OUTPUT_PIXELS))
        return sorted_texts(decoded_texts(image.chunks.texts)[0]).xmp

    def stated_colors(self, file: BinaryIO, image: ImageFile.ImageFile) -> StatedColors:
        """See :meth:`Codec.stated_colors`; priorities are those of section 4.3."""
        found = _as_png(image).chunks.leading
        is_grey = found[b"IHDR"][9] in (0, 4)
        if coded := found.get(b"cICP", b""):
            _require_full_range_rgb(coded)
            if states_colors(coded[0], coded[1]):
                return StatedColors(profile_of_code_points(coded[0], coded[1], is_grey) or srgb_profile(is_grey))
        if b"iCCP" in found and image.info.get("icc_profile"):
            return StatedColors()
        notes = (DAMAGED_PROFILE,) if b"iCCP" in found else ()
        if b"sRGB" in found:
            return StatedColors(srgb_profile(is_grey), notes)
        gamma = struct.unpack(">I", found[b"gAMA"])[0] / 1e5 if b"gAMA" in found else None
        primaries = None
        if b"cHRM" in found:
            values = [value / 1e5 for value in struct.unpack(">8I", found[b"cHRM"])]
            primaries = tuple(zip(values[::2], values[1::2], strict=True))
        if gamma is None and primaries is None:
            return StatedColors(None, notes)
        stated = colors_of_gamma(gamma, primaries, is_grey, "gAMA, cHRM")  # type: ignore[arg-type]
        return stated._replace(notes=notes + stated.notes)

    def settings(self, picture: Picture, metadata: Metadata, quality: int) -> dict[str, Any]:
        settings = super().settings(picture, metadata._replace(xmp=None), quality)
        return {**settings, "pnginfo": png_info(metadata)}

    def encode(self, picture: Picture, settings: dict[str, Any]) -> tuple[bytes, tuple[str, ...]]:
        array = all_channels(picture)
        if array.dtype != np.uint16 or array.shape[2] == 1:
            return super().encode(picture, settings)
        return with_pixels(self._template(settings), array), ()

    def write_frames(
        self, file: BinaryIO, pictures: Iterator[Picture], animation: Animation, settings: dict[str, Any]
    ) -> tuple[str, ...]:
        """See :meth:`Codec.write_frames`; APNG (PNG specification, third edition, section 11.3.6)."""
        numbers = itertools.count()
        for index, (picture, milliseconds) in enumerate(zip(pictures, animation.milliseconds, strict=True)):
            array = all_channels(picture)
            if index == 0:
                file.write(PNG_START + chunk(b"IHDR", header(array)))
                file.write(chunk(b"acTL", struct.pack(">II", animation.num_frames, animation.num_plays)))
                for kind, body in chunks(self._template(settings)):
                    if kind not in (b"IHDR", b"IDAT", b"IEND"):
                        file.write(chunk(kind, body))
            size = animation.width, animation.height
            control = struct.pack(">IIIIIHHBB", next(numbers), *size, 0, 0, *_delay(milliseconds), 0, 0)
            file.write(chunk(b"fcTL", control))
            for part in compressed_rows(array):
                if index == 0:
                    file.write(chunk(b"IDAT", part))
                else:
                    file.write(chunk(b"fdAT", struct.pack(">I", next(numbers)) + part))
        file.write(chunk(b"IEND", b""))
        return ()

    def _template(self, settings: dict[str, Any]) -> bytes:
        """Return a file of one pixel with all the other chunks of a result."""
        return self.saved(Image.new("L", (1, 1)), settings)


def _as_png(image: ImageFile.ImageFile) -> PngImage:
    assert isinstance(image, PngImage)
    return image


def _require_full_range_rgb(coded: bytes) -> None:
    """Refuse values that contradict the colours of a PNG (section 11.3.2.6).

    Raises:
        PictureError: cICP states a matrix, or narrow range.
    """
    matrix, is_full_range = coded[2], coded[3]
    if matrix:
        raise PictureError(f"the chunk cICP states matrix {matrix}, which a PNG cannot have; save the picture as RGB")
    if not is_full_range:
        raise PictureError(
            "the picture's values are of narrow range (cICP), as those of video, and a result would state full range; "
            "convert it to full range first"
        )


def _scale_clear_grey(image: ImageFile.ImageFile, file: BinaryIO) -> None:
    """Scale the clear grey value of 1, 2 and 4 bits to the 8 bits of Pillow's pixels."""
    clear = image.info.get("transparency")
    file.seek(0)
    bits = file.read(HEAD_BYTES)[24]
    if image.mode in ("1", "L") and isinstance(clear, int) and bits < 8:
        largest = 2**bits - 1
        image.info["transparency"] = (clear & largest) * 255 // largest


def _delay(milliseconds: float) -> tuple[int, int]:
    """Return numerator and denominator of the seconds, each below 65536."""
    delay = Fraction(min(milliseconds, 65_535_000.0) / 1000).limit_denominator(1000)
    while delay.numerator > 65535:
        delay = Fraction(round(delay * delay.denominator / 10), max(1, delay.denominator // 10))
    return delay.numerator, delay.denominator


CODEC = PngCodec
