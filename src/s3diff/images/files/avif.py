"""Read and write AVIF."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import PIL
from PIL import ImageFile, features

from s3diff.errors import PictureError
from s3diff.images.files.codec import Codec, FrameImages
from s3diff.images.files.iso_boxes import aspect_notes, bits_of_av1, code_points, states_cut
from s3diff.images.files.metadata import Metadata, without_orientation
from s3diff.images.icc_profiles import StatedColors, profile_of_code_points
from s3diff.images.picture import Picture

if TYPE_CHECKING:
    from s3diff.images.files.animations import Animation

#: Older versions write grey in three channels.
_KNOWS_GREY = int(PIL.__version__.split(".")[0]) >= 13


class AvifCodec(Codec):
    """Read and write AVIF, without colour subsampling. Pillow's encoder holds the frames of an animation compressed."""

    def recognises(self, head: bytes) -> bool:
        return head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis")

    def header(self, file: BinaryIO) -> ImageFile.ImageFile:
        if not features.check("avif"):
            raise PictureError("AVIF is no part of this build of Pillow; install the usual one: pip install -U pillow")
        from PIL import AvifImagePlugin

        return AvifImagePlugin.AvifImageFile(file)

    def stated_colors(self, file: BinaryIO, image: ImageFile.ImageFile) -> StatedColors:
        place = file.tell()
        stated = code_points(file)
        file.seek(place)
        is_grey = image.mode in ("L", "LA")
        return StatedColors(None if stated is None else profile_of_code_points(*stated, is_grey=is_grey))

    def header_notes(self, file: BinaryIO) -> tuple[str, ...]:
        bits = bits_of_av1(file)
        notes: tuple[str, ...] = ()
        if bits > 8:
            notes += (f"{bits} bits per channel were reduced to 8: AVIF is read with 8",)
        if states_cut(file):
            notes += (
                "the AVIF states a cut (clean aperture), which its decoder leaves out; the whole picture is used",
            )
        return notes + aspect_notes(file)

    def num_channels(self, picture: Picture) -> int:
        return 1 if picture.is_grey and picture.alpha is None and _KNOWS_GREY else 3

    def fitted_exif(self, exif: bytes) -> tuple[bytes | None, tuple[str, ...]]:
        # Pillow would take it out itself, and write the whole block anew with ? for all beyond ASCII.
        fitted, notes = super().fitted_exif(exif)
        return without_orientation(fitted or exif), notes

    def settings(self, picture: Picture, metadata: Metadata, quality: int) -> dict[str, Any]:
        settings = super().settings(picture, metadata, quality)
        return settings if picture.is_grey else {**settings, "subsampling": "4:4:4"}

    def write_frames(
        self, file: BinaryIO, pictures: Iterator[Picture], animation: Animation, settings: dict[str, Any]
    ) -> tuple[str, ...]:
        images = FrameImages(pictures, animation.num_frames)
        durations = [max(1, round(each)) for each in animation.milliseconds]
        images.save(file, "AVIF", save_all=True, duration=durations, **settings)
        if animation.num_plays == 0:
            return ()
        return (f"AVIF is written to be shown for ever, not {animation.num_plays} times",)


CODEC = AvifCodec
