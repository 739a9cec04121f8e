"""Read and write GIF, with colours reduced to a palette."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import GifImagePlugin, Image, ImageFile

from s3diff.errors import PictureError
from s3diff.images.files import gif_blocks
from s3diff.images.files.codec import MAX_FRAMES, Codec, frame_image, require_few
from s3diff.images.files.metadata import Metadata, comments_of
from s3diff.images.files.pillow_pictures import to_image
from s3diff.images.picture import Picture

if TYPE_CHECKING:
    from s3diff.images.files.animations import Animation

#: Allowed factor of mean error for reusing the palette of the frame before.
_SAME_PALETTE_ERROR = 1.25
#: Place of the pixels' shape in 64ths, less 15 (GIF89a, section 18).
_ASPECT_PLACE = 12


class GifCodec(Codec):
    """Read and write GIF; frames go into the file one by one."""

    def recognises(self, head: bytes) -> bool:
        return head.startswith((b"GIF87a", b"GIF89a"))

    def check(self, file: BinaryIO, head: bytes) -> None:
        require_few("frames", gif_blocks.num_frames(file, MAX_FRAMES))

    def header(self, file: BinaryIO) -> ImageFile.ImageFile:
        found = gif_blocks.applications(file)
        file.seek(0)
        image = GifImagePlugin.GifImageFile(file)
        named = {"xmp": found.get(gif_blocks.XMP), "icc_profile": found.get(gif_blocks.PROFILE)}
        image.info |= {name: data for name, data in named.items() if data}
        file.seek(_ASPECT_PLACE)
        if aspect := file.read(1)[0]:  # the shape of a pixel; info's are pixels in a length
            image.info["aspect"] = (64, aspect + 15)
        return image

    def require_whole(self, file: BinaryIO) -> None:
        if not gif_blocks.is_whole(file):  # it would decode to fewer frames
            raise PictureError("the file is cut off: the end of the GIF data is missing; fetch the file again")

    def settings(self, picture: Picture, metadata: Metadata, quality: int) -> dict[str, Any]:
        return {"comment": b"\n".join(comments_of(metadata)) or None, "xmp": metadata.xmp}

    def encode(self, picture: Picture, settings: dict[str, Any]) -> tuple[bytes, tuple[str, ...]]:
        image, packet = to_image(picture, with_16_bits=False), gif_blocks.xmp(settings.pop("xmp", b""))
        reduced = with_palette(image)
        return gif_blocks.with_extension(self.saved(reduced, settings), packet), palette_notes(image, reduced)

    def write_frames(
        self, file: BinaryIO, pictures: Iterator[Picture], animation: Animation, settings: dict[str, Any]
    ) -> tuple[str, ...]:
        file.write(gif_blocks.begin((animation.width, animation.height), animation.num_plays))
        file.write(gif_blocks.comment(settings.get("comment", b"")))
        file.write(gif_blocks.xmp(settings.get("xmp", b"")))
        shown_ms = 0.0
        reduced = None
        notes: dict[str, None] = {}  # each once
        for picture, milliseconds in zip(pictures, animation.milliseconds, strict=True):
            image = frame_image(picture)
            reduced = with_palette(image, reduced)
            notes.update(dict.fromkeys(palette_notes(image, reduced)))
            data = io.BytesIO()
            reduced.save(data, "GIF", optimize=False)
            # Counted from the beginning, so that rounding does not add up.
            centiseconds = round((shown_ms + milliseconds) / 10) - round(shown_ms / 10)
            shown_ms += milliseconds
            file.write(gif_blocks.framed(gif_blocks.only_frame(data), centiseconds, clears=animation.is_transparent))
        file.write(gif_blocks.TRAILER)
        return tuple(notes)


def with_palette(image: Image.Image, last: Image.Image | None = None) -> Image.Image:
    """Reduce an image to at most 256 colours, dithered; where it has transparency, index 255 is the transparent one.

    Args:
        image: L, LA, RGB or RGBA.
        last: the result for the frame before, whose palette is reused if it is about as good as a new one: palettes
            that change from frame to frame flicker.
    """
    if image.mode == "L":
        return image
    pixels = np.array(image.convert("RGB"))
    clear = np.asarray(image.getchannel("A")) < 128 if "A" in image.mode else np.zeros(pixels.shape[:2], bool)
    pixels[clear] = 0 if clear.all() else pixels[~clear][0]  # hidden colours get no place in the table
    num_colors = 255 if clear.any() else 256
    reduced = _reduced(Image.fromarray(pixels), num_colors, last)
    if not clear.any():
        return reduced
    result = Image.fromarray(np.where(clear, 255, np.asarray(reduced)).astype(np.uint8))
    table = (reduced.getpalette() or [])[: 3 * 255]
    result.putpalette([*table, *[0] * (3 * 256 - len(table))])
    result.info["transparency"] = 255
    return result


def _reduced(colors: Image.Image, num_colors: int, last: Image.Image | None) -> Image.Image:
    if colors.getcolors(num_colors) is not None:  # so few are kept exactly
        packed = (np.asarray(colors).astype(np.int32) * (65536, 256, 1)).sum(axis=2)
        values, indexes = np.unique(packed, return_inverse=True)
        exact = Image.fromarray(indexes.reshape(packed.shape).astype(np.uint8))
        exact.putpalette(np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1).ravel().tolist())
        return exact
    reduced = colors.quantize(palette=colors.quantize(num_colors))
    if last is not None:
        before = Image.new("P", (1, 1))
        before.putpalette((last.getpalette() or [])[: 3 * min(num_colors, last.info.get("transparency", 256))])
        as_before = colors.quantize(palette=before)
        if _mean_error(as_before, colors) <= _SAME_PALETTE_ERROR * _mean_error(reduced, colors):
            return as_before
    return reduced


def _mean_error(reduced: Image.Image, colors: Image.Image) -> float:
    return float(np.abs(np.asarray(reduced.convert("RGB")).astype(np.int16) - np.asarray(colors)).mean())


def palette_notes(image: Image.Image, reduced: Image.Image) -> tuple[str, ...]:
    """Note the losses of the reduction to 256 colours, one sentence each."""
    # Converting changes the palette of an image that has a clear colour, which Pillow then writes wrongly: a copy.
    shown, wanted = (np.asarray(each.copy().convert("RGBA")).astype(np.int16) for each in (reduced, image))
    visible = wanted[..., 3] > 0
    notes: tuple[str, ...] = ()
    if (shown != wanted)[visible & (shown[..., 3] > 0), :3].any():
        notes += ("GIF holds 256 colours; they were reduced to so many",)
    if (shown[..., 3] != wanted[..., 3]).any():
        notes += ("GIF holds no half transparency; pixels became clear or opaque",)
    return notes


CODEC = GifCodec
