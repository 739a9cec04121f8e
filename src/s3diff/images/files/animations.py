"""Read animated pictures, every frame as a viewer shows it, and write them; one frame is in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ImageFile

from s3diff.atomic_write import whole_file
from s3diff.errors import OutputError, PictureError
from s3diff.formats import ANIMATED_ENDINGS, Format, PicturePath
from s3diff.images.files.codec import Codec, codec_of
from s3diff.images.files.dropped_contents import CREDENTIALS, attachments, left_out_note
from s3diff.images.files.pillow_pictures import picture_of
from s3diff.images.files.provenance_xmp import with_origin_of_credentials
from s3diff.images.files.reading import opened_file
from s3diff.images.files.writing import as_held, checked_target, copy_signed, file_settings
from s3diff.images.picture import Picture
from s3diff.messages import reason_of, shown_path
from s3diff.options import MAX_FILE_BYTES, MAX_PICTURE_PIXELS

if TYPE_CHECKING:
    from s3diff.images.files.content_credentials import ResultSigner

#: Largest size of all frames together, as a multiple of the largest picture.
MAX_FRAMES_OF_LARGEST = 16


@dataclass(frozen=True, eq=False)
class Frame:
    """Hold one frame and its duration in milliseconds."""

    picture: Picture
    milliseconds: float


@dataclass(frozen=True)
class Animation:
    """Hold the facts about an animated file after one pass over all its frames.

    Attributes:
        width: of every frame, in pixels, upright.
        height: of every frame, in pixels.
        milliseconds: duration of each frame, as stored; viewers show 0 as about 100.
        num_plays: number of plays; 0 for ever, as for AVIF, whose number Pillow does not report.
        is_grey: whether every frame is grey; frames have one channel then, and else three.
        is_transparent: whether any pixel of any frame is not opaque; every frame has alpha then, and else none.
        notes: omissions, one sentence each.
        max_pixels: largest frame accepted by :meth:`frames`.
        max_bytes: largest file accepted by :meth:`frames`.
    """

    path: Path
    width: int
    height: int
    milliseconds: tuple[float, ...]
    num_plays: int
    is_grey: bool
    is_transparent: bool
    notes: tuple[str, ...] = ()
    max_pixels: int = MAX_PICTURE_PIXELS
    max_bytes: int = MAX_FILE_BYTES

    @property
    def num_frames(self) -> int:
        """Number of frames, at least 2."""
        return len(self.milliseconds)

    def frames(self) -> Iterator[Frame]:
        """Read every frame in order, 8 bits per channel, all with the same channels.

        Raises:
            PictureError: the file is damaged, or changed since it was opened.
        """
        shown, count = shown_path(self.path), 0
        for frame in _frames(self.path, self.max_pixels, self.max_bytes):
            count += 1
            if (frame.picture.width, frame.picture.height) != (self.width, self.height) or count > self.num_frames:
                raise PictureError(f"{shown} changed while it was read; try again")
            yield Frame(self._uniform(frame.picture), frame.milliseconds)
        if count < self.num_frames:
            raise PictureError(f"{shown} changed while it was read; try again")

    def _uniform(self, picture: Picture) -> Picture:
        pixels, alpha = picture.pixels, picture.alpha
        if not self.is_grey:
            pixels = np.repeat(pixels, 3, axis=2) if picture.is_grey else pixels
        elif not picture.is_grey:
            pixels = np.ascontiguousarray(pixels[..., :1])
        if not self.is_transparent:
            alpha = None
        elif alpha is None:
            alpha = np.full(pixels.shape[:2], 255, np.uint8)
        return replace(picture, pixels=pixels, alpha=alpha, notes=())


def is_animated(path: PicturePath, max_pixels: int = MAX_PICTURE_PIXELS, max_bytes: int = MAX_FILE_BYTES) -> bool:
    """Check whether a file holds several frames that a viewer shows in turn; False for unreadable files."""
    try:
        with opened_file(path, max_pixels, max_bytes) as (file, codec, limit):
            return codec.form.has_frames and _num_shown(codec.opened(file, Path(path), limit)) > 1
    except PictureError:
        return False


def open_animation(
    path: PicturePath,
    max_pixels: int = MAX_PICTURE_PIXELS,
    max_bytes: int = MAX_FILE_BYTES,
    check: Callable[[int, int, int], None] | None = None,
) -> Animation:
    """Read the facts about an animated file in one pass over its frames.

    Args:
        path: a file of a format that holds frames.
        max_pixels: largest frame accepted; all frames together may have ``MAX_FRAMES_OF_LARGEST`` times as many.
        max_bytes: largest file accepted.
        check: called with (width, height, number of frames so far) after every frame; its exception ends the pass.

    Raises:
        PictureError: the file cannot be read, is damaged, not animated, or too large.
    """
    is_grey, is_transparent, size = True, False, (0, 0)
    durations: list[float] = []
    notes: tuple[str, ...] = ()
    shown = shown_path(path)
    with opened_file(path, max_pixels, max_bytes) as (file, codec, limit):
        image = _opened(file, codec, Path(path), limit)
        # Before any frame is decoded: a frame of a few bytes may stand for as many pixels as are allowed.
        if _num_shown(image) * image.width * image.height > MAX_FRAMES_OF_LARGEST * limit:
            raise PictureError(
                f"{shown} has {_num_shown(image)} frames of {image.width} x {image.height} pixels, the limit is "
                f"{MAX_FRAMES_OF_LARGEST * limit} pixels in all; give a shorter animation or raise the limit "
                "(max_input_pixels, --max-input-megapixels)"
            )
        num_plays = _num_plays(image)
        if getattr(image, "default_image", False):
            notes += ("the picture for viewers that show no animation is left out",)
        if image.format == "PNG" and any("16" in str(tile[3]) for tile in image.tile):
            notes += ("16 bits per channel were reduced to 8: animations are read with 8",)
        notes += codec.header_notes(file) + left_out_note(attachments(file))
    for frame in _frames(path, max_pixels, max_bytes):
        picture = frame.picture
        size = (picture.width, picture.height)
        notes += () if durations else picture.notes
        durations.append(frame.milliseconds)
        if check is not None:
            check(*size, len(durations))
        is_grey = is_grey and picture.is_neutral
        is_transparent = is_transparent or picture.is_transparent
    if len(durations) < 2:
        raise PictureError(f"{shown} is not animated; read it as a picture")
    notes = tuple(dict.fromkeys(notes))
    return Animation(
        Path(path), *size, tuple(durations), num_plays, is_grey, is_transparent, notes, max_pixels, max_bytes
    )


def _frames(path: PicturePath, max_pixels: int, max_bytes: int) -> Iterator[Frame]:
    with opened_file(path, max_pixels, max_bytes) as (file, codec, limit):
        image = _opened(file, codec, Path(path), limit)
        stated = codec.stated_colors(file, image)
        width, height = image.size
        place = file.tell()
        left_out = [kind for kind in attachments(file) if kind == CREDENTIALS]
        file.seek(place)
        # The first picture of an APNG may be meant only for viewers that show no animation.
        first = 1 if getattr(image, "default_image", False) else 0
        for index in range(first, first + _num_shown(image)):
            image.seek(index)
            if image.width * image.height > limit:  # a GIF's frame that stands over makes Pillow's picture larger
                size = f"{image.width} x {image.height}"
                raise PictureError(f"frame {index + 1} has {size} pixels; give a smaller picture")
            image.load()
            picture = picture_of(image, Path(path), stated=stated, left_out=left_out)
            if index == first:
                picture = with_origin_of_credentials(picture, file)
            if image.size != (width, height):
                pixels, alpha = picture.pixels[:height, :width], picture.alpha
                picture = replace(picture, pixels=pixels, alpha=None if alpha is None else alpha[:height, :width])
            yield Frame(picture, float(image.info.get("duration") or 0))


def _opened(file: BinaryIO, codec: Codec, path: Path, limit: int) -> ImageFile.ImageFile:
    if not codec.form.has_frames:
        raise PictureError(f"{shown_path(path)} is not animated; read it as a picture")
    return codec.opened(file, path, limit)


def _num_shown(image: object) -> int:
    return getattr(image, "n_frames", 1) - bool(getattr(image, "default_image", False))


def _num_plays(image: object) -> int:
    info = getattr(image, "info", {})
    if getattr(image, "format", "") != "GIF":
        return int(info.get("loop", 0))
    # GIF stores the number of repetitions; a GIF without it is shown once.
    return 1 if "loop" not in info else 0 if info["loop"] == 0 else int(info["loop"]) + 1


def write_animation(
    frames: Iterable[Frame],
    animation: Animation,
    path: PicturePath,
    *,
    quality: int = 95,
    overwrite: bool = True,
    signer: ResultSigner | None = None,
) -> tuple[str, ...]:
    """Write frames, whole or not at all, into the format of the path's extension.

    Args:
        frames: as many as ``animation`` has, all of one size, with 8 bits. Taken one by one; their exception ends the
            writing.
        animation: has the durations and the number of plays; its size may be another one.
        quality: 1 to 100, for lossy formats.
        signer: signs the file, with the first frame's statement; None leaves it unsigned.

    Returns:
        Notes on losses that the format causes, one sentence each.

    Raises:
        OutputError: the extension, the place or the disk does not allow it.
    """
    coming = iter(frames)
    first = next(coming)
    animation = replace(animation, width=first.picture.width, height=first.picture.height)
    target, form = checked_target(path, (animation.width, animation.height), animation.is_transparent, overwrite)
    if not form.has_frames:
        raise OutputError(f"{shown_path(path)}: {form.title} holds one picture; write {ANIMATED_ENDINGS}")
    failures: list[BaseException] = []
    pictures = _held((frame.picture for frame in itertools.chain([first], coming)), form, failures)
    _, lost = as_held(first.picture, form)
    settings, notes = file_settings(first.picture, form, quality)
    notes = (*lost, *notes)
    with whole_file(target, overwrite) as file, nullcontext(file) if signer is None else TemporaryFile() as place:
        try:
            more = codec_of(form).write_frames(place, pictures, animation, settings)
            if next(pictures, None) is not None:  # asked for in any case: it lets the source's file be closed
                raise ValueError(f"more than {animation.num_frames} frames were given")
        except Exception as error:
            if failures:  # of the frames' source, not of the encoder
                raise failures[0] from None
            if isinstance(error, OSError) and error.errno is not None:
                raise
            shown, reason = shown_path(path), reason_of(error)
            raise OutputError(f"{shown} cannot be encoded as {form.title} ({reason}); try .png") from error
        if signer is not None:
            copy_signed(place, file, first.picture, form, target.name, signer)
    return (*notes, *more)


def _held(pictures: Iterator[Picture], form: Format, failures: list[BaseException]) -> Iterator[Picture]:
    """Convert frames to the format's depth and colours; keep an exception of their source, for the caller."""
    while True:
        try:
            picture = next(pictures)
        except StopIteration:
            return
        except BaseException as error:
            failures.append(error)
            raise
        yield as_held(picture, form)[0]
