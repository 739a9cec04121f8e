"""Read and write PNG and APNG."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin

from s3diff.errors import PictureError
from s3diff.images.files.codec import HEAD_BYTES, Codec, frame_notes
from s3diff.images.files.deep_pixels import deep_array
from s3diff.images.files.left_behind import attachments
from s3diff.images.files.metadata import Metadata
from s3diff.images.files.pillow_metadata import metadata_of, png_info, xmp_of
from s3diff.images.files.pillow_pictures import all_channels, picture_of
from s3diff.images.files.png_chunks import (
    PNG_START,
    chunk,
    chunks,
    compressed_rows,
    header,
    leading_chunks,
    with_pixels,
    without_damaged_chunks,
)
from s3diff.images.picture import Picture
from s3diff.images.stated_colors import profile_of_code_points, profile_of_gamma, srgb_profile
from s3diff.options import MAX_OUTPUT_PIXELS

if TYPE_CHECKING:
    from s3diff.images.files.animation_reading import Animation


class PngCodec(Codec):
    """Read and write PNG, with 16 bits per channel of colours and transparency, for which Pillow has no mode."""

    def recognises(self, head: bytes) -> bool:
        return head.startswith(PNG_START)

    def check(self, file: BinaryIO, head: bytes) -> None:
        if len(head) >= 24 and 0 in struct.unpack(">II", head[16:24]):  # Pillow calls it a file of another kind
            width, height = struct.unpack(">II", head[16:24])
            raise PictureError(f"the picture has 0 pixels ({width} x {height}); give a picture of at least 1 x 1")

    def header(self, file: BinaryIO) -> ImageFile.ImageFile:
        return PngImagePlugin.PngImageFile(without_damaged_chunks(file)[0])

    def read(self, file: BinaryIO, path: Path, limit: int) -> Picture:
        image = self.opened(file, path, limit)
        deep = deep_array(image, lambda: self.checked_header(file))
        _scale_clear_grey(image, file)
        damaged = without_damaged_chunks(file)[1]
        notes = tuple(f"the chunk {name} is damaged and was left out" for name in damaged)
        profile = self.stated_profile(file, image)
        return picture_of(image, path, (*frame_notes(image), *notes), deep, profile, attachments(file))

    def xmp(self, file: BinaryIO, path: Path) -> bytes | None:
        """See :meth:`Codec.xmp`; pixels are decoded only if no packet precedes them."""
        image = self.opened(file, path, MAX_OUTPUT_PIXELS)
        return xmp_of(image) or metadata_of(image)[0].xmp

    def stated_profile(self, file: BinaryIO, image: ImageFile.ImageFile) -> bytes | None:
        """See :meth:`Codec.stated_profile`; priorities are those of section 4.3."""
        place = file.tell()
        found = leading_chunks(without_damaged_chunks(file)[0])
        file.seek(place)
        is_grey = found[b"IHDR"][9] in (0, 4)
        coded = found.get(b"cICP", b"")
        if len(coded) == 4 and (profile := profile_of_code_points(coded[0], coded[1], is_grey)) is not None:
            return profile
        if b"iCCP" in found:
            return None
        if b"sRGB" in found:
            return srgb_profile(is_grey)
        gamma = struct.unpack(">I", found[b"gAMA"])[0] / 1e5 if len(found.get(b"gAMA", b"")) == 4 else None
        primaries = None
        if len(found.get(b"cHRM", b"")) == 32:
            values = [value / 1e5 for value in struct.unpack(">8I", found[b"cHRM"])]
            primaries = tuple(zip(values[::2], values[1::2], strict=True))
        if gamma is None and primaries is None:
            return None
        return profile_of_gamma(gamma, primaries, is_grey)  # type: ignore[arg-type]

    def settings(self, picture: Picture, metadata: Metadata, quality: int) -> dict[str, Any]:
        settings = super().settings(picture, metadata._replace(xmp=None), quality)
        return {**settings, "pnginfo": png_info(metadata)}

    def encode(self, picture: Picture, settings: dict[str, Any]) -> tuple[bytes, tuple[str, ...]]:
        array = all_channels(picture)
        if array.dtype != np.uint16 or array.shape[2] == 1:
            return super().encode(picture, settings)
        template = io.BytesIO()
        Image.new("L", (1, 1)).save(template, "PNG", **settings)
        return with_pixels(template.getvalue(), array), ()

    def write_frames(
        self,
        file: BinaryIO,
        pictures: Iterator[Picture],
        animation: Animation,
        settings: dict[str, Any],
        size: tuple[int, int],
    ) -> tuple[str, ...]:
        """See :meth:`Codec.write_frames`; APNG (PNG specification, third edition, section 11.3.6)."""
        template, numbers = io.BytesIO(), itertools.count()
        Image.new("L", (1, 1)).save(template, "PNG", **settings)
        for index, (picture, milliseconds) in enumerate(zip(pictures, animation.milliseconds, strict=True)):
            array = all_channels(picture)
            if index == 0:
                file.write(PNG_START + chunk(b"IHDR", header(array)))
                file.write(chunk(b"acTL", struct.pack(">II", animation.num_frames, animation.num_plays)))
                for kind, body in chunks(template.getvalue()):
                    if kind not in (b"IHDR", b"IDAT", b"IEND"):
                        file.write(chunk(kind, body))
            control = struct.pack(">IIIIIHHBB", next(numbers), *size, 0, 0, *_delay(milliseconds), 0, 0)
            file.write(chunk(b"fcTL", control))
            for part in compressed_rows(array):
                if index == 0:
                    file.write(chunk(b"IDAT", part))
                else:
                    file.write(chunk(b"fdAT", struct.pack(">I", next(numbers)) + part))
        file.write(chunk(b"IEND", b""))
        return ()


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
