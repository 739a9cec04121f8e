"""Read and write WebP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import ImageFile, WebPImagePlugin

from s3diff.images.files.codec import Codec, FrameImages
from s3diff.images.files.pillow_pictures import to_image
from s3diff.images.picture import Picture

if TYPE_CHECKING:
    from s3diff.images.files.animations import Animation


class WebPCodec(Codec):
    """Read and write WebP, lossy at the requested quality. Pillow's encoder holds the frames of an animation
    compressed.
    """

    def recognises(self, head: bytes) -> bool:
        return head.startswith(b"RIFF") and head[8:12] == b"WEBP"

    def header(self, file: BinaryIO) -> ImageFile.ImageFile:
        return WebPImagePlugin.WebPImageFile(file)

    def num_channels(self, picture: Picture) -> int:
        return 3

    def encode(self, picture: Picture, settings: dict[str, Any]) -> tuple[bytes, tuple[str, ...]]:
        return self.saved(to_image(picture, with_16_bits=False), settings), ()

    def write_frames(
        self, file: BinaryIO, pictures: Iterator[Picture], animation: Animation, settings: dict[str, Any]
    ) -> tuple[str, ...]:
        images = FrameImages(pictures, animation.num_frames)
        timing = {"duration": [round(each) for each in animation.milliseconds], "loop": animation.num_plays}
        images.save(file, "WEBP", save_all=True, background=(0, 0, 0, 0), **timing, **settings)
        return ()


CODEC = WebPCodec
