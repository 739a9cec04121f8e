"""Animations to files. Frames come one after the other and go where they belong at once: APNG and GIF into the file,
WebP and AVIF into Pillow's encoder, which holds them compressed.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from s3diff.atomic_write import whole_file
from s3diff.errors import OutputError
from s3diff.images.files import gif_blocks
from s3diff.images.files.animation_reading import Animation, Frame
from s3diff.images.files.destination import checked_target
from s3diff.images.files.formats import Format, PicturePath
from s3diff.images.files.png_chunks import PNG_START, chunk, chunks, compressed_rows, header
from s3diff.images.files.writing import all_channels, as_held, file_settings, palette_notes, with_palette
from s3diff.images.picture import Picture
from s3diff.messages import reason_of, shown_path


def write_animation(
    frames: Iterable[Frame],
    animation: Animation,
    path: PicturePath,
    *,
    quality: int = 95,
    overwrite: bool = True,
) -> tuple[str, ...]:
    """Write frames as a GIF, WebP, PNG (APNG) or AVIF, by the path's extension. The file is whole or not there.

    Args:
        frames: as many as ``animation`` has, all of one size, with 8 bits. Taken one by one; what they raise ends the
            writing.
        animation: whose durations and number of plays are written.
        path: where to.
        quality: 1 to 100, of WebP and AVIF.
        overwrite: whether a file that is there may be replaced.

    Returns:
        Notes on what the format could not hold, one sentence each.

    Raises:
        OutputError: the extension, the place or the disk does not allow it.
    """
    coming = iter(frames)
    first = next(coming)
    size = (first.picture.width, first.picture.height)
    target, form = checked_target(path, size, animation.is_transparent, overwrite)
    if not form.has_frames:
        raise OutputError(f"{shown_path(path)}: {form.name} holds one picture; write .gif, .webp, .png or .avif")
    failures: list[BaseException] = []
    pictures = _held((frame.picture for frame in itertools.chain([first], coming)), form, failures)
    _, lost = as_held(first.picture, form)
    settings, notes = file_settings(first.picture, form, quality)
    notes = (*lost, *notes)
    write = {"GIF": _write_gif, "PNG": _write_png, "WEBP": _write_webp, "AVIF": _write_avif}[form.name]
    with whole_file(target, overwrite) as file:
        try:
            more = write(file, pictures, animation, settings, size)
            if next(pictures, None) is not None:  # asked for in any case: it lets the source's file be closed
                raise ValueError(f"more than {animation.num_frames} frames were given")
        except Exception as error:
            if failures:  # of what makes the frames, not of the encoder
                raise failures[0] from None
            if isinstance(error, OSError) and error.errno is not None:
                raise
            shown, reason = shown_path(path), reason_of(error)
            raise OutputError(f"{shown} cannot be encoded as {form.name} ({reason}); try .png") from error
    return (*notes, *more)


def _held(pictures: Iterator[Picture], form: Format, failures: list[BaseException]) -> Iterator[Picture]:
    """The pictures as the format holds them; what their maker raises is written down on its way."""
    while True:
        try:
            picture = next(pictures)
        except StopIteration:
            return
        except BaseException as error:
            failures.append(error)
            raise
        yield as_held(picture, form)[0]


def _write_gif(
    file: BinaryIO, pictures: Iterator[Picture], animation: Animation, settings: dict[str, Any], size: tuple[int, int]
) -> tuple[str, ...]:
    file.write(gif_blocks.begin(size, animation.num_plays) + gif_blocks.comment(settings.get("comment", b"")))
    shown_ms = 0.0
    reduced = None
    notes: dict[str, None] = {}  # each once
    for picture, milliseconds in zip(pictures, animation.milliseconds, strict=True):
        image = _image(picture)
        reduced = with_palette(image, reduced)
        notes.update(dict.fromkeys(palette_notes(image, reduced)))
        data = io.BytesIO()
        reduced.save(data, "GIF", optimize=False)
        # Counted from the beginning, so that rounding does not add up.
        centiseconds = round((shown_ms + milliseconds) / 10) - round(shown_ms / 10)
        shown_ms += milliseconds
        file.write(gif_blocks.framed(gif_blocks.only_frame(data), centiseconds, clears=animation.is_transparent))
    file.write(gif_blocks.end())
    return tuple(notes)


def _write_png(
    file: BinaryIO, pictures: Iterator[Picture], animation: Animation, settings: dict[str, Any], size: tuple[int, int]
) -> tuple[str, ...]:
    """APNG (PNG specification, third edition, section 11.3.6)."""
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
            is_first = index == 0
            file.write(chunk(b"IDAT", part) if is_first else chunk(b"fdAT", struct.pack(">I", next(numbers)) + part))
    file.write(chunk(b"IEND", b""))
    return ()


def _delay(milliseconds: float) -> tuple[int, int]:
    """Numerator and denominator of the seconds, each below 65536."""
    delay = Fraction(min(milliseconds, 65_535_000.0) / 1000).limit_denominator(1000)
    while delay.numerator > 65535:
        delay = Fraction(round(delay * delay.denominator / 10), max(1, delay.denominator // 10))
    return delay.numerator, delay.denominator


def _write_webp(
    file: BinaryIO, pictures: Iterator[Picture], animation: Animation, settings: dict[str, Any], _: tuple[int, int]
) -> tuple[str, ...]:
    images = _Images(map(_image, pictures), animation.num_frames)
    durations = [round(each) for each in animation.milliseconds]
    images.save(
        file, "WEBP", save_all=True, duration=durations, loop=animation.num_plays, background=(0, 0, 0, 0), **settings
    )
    return ()


def _write_avif(
    file: BinaryIO, pictures: Iterator[Picture], animation: Animation, settings: dict[str, Any], _: tuple[int, int]
) -> tuple[str, ...]:
    images = _Images(map(_image, pictures), animation.num_frames)
    durations = [max(1, round(each)) for each in animation.milliseconds]
    images.save(file, "AVIF", save_all=True, duration=durations, **settings)
    if animation.num_plays == 0:
        return ()
    return (f"AVIF is written to be shown for ever, not {animation.num_plays} times",)


def _image(picture: Picture) -> Image.Image:
    """In colour: an encoder that was begun with grey takes no colours."""
    array = all_channels(picture)
    if picture.is_grey:
        array = np.concatenate([np.repeat(picture.pixels, 3, axis=2), array[..., 1:]], axis=-1)
    return Image.fromarray(array)


class _Images(Image.Image):
    """Images as the frames of one, of which Pillow's encoders ask for one after the other and hold none."""

    is_animated = True

    def __init__(self, images: Iterator[Image.Image], num_images: int) -> None:
        super().__init__()
        self.n_frames, self._coming, self._position = num_images, images, -1
        self.seek(0)

    def seek(self, frame: int) -> None:
        if frame >= self.n_frames:
            raise EOFError
        while self._position < frame:
            vars(self).update(vars(next(self._coming)))
            self._position += 1
        # An encoder goes back to the beginning when it is done: nothing is read there any more.

    def tell(self) -> int:
        return 0
