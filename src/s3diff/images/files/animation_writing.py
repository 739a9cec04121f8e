"""Write animations frame by frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from s3diff.atomic_write import whole_file
from s3diff.errors import OutputError
from s3diff.formats import ANIMATED_ENDINGS, Format, PicturePath
from s3diff.images.files.animation_reading import Animation, Frame
from s3diff.images.files.codec import codec_of
from s3diff.images.files.writing import as_held, checked_target, copy_signed, file_settings
from s3diff.images.picture import Picture
from s3diff.messages import reason_of, shown_path

if TYPE_CHECKING:
    from s3diff.images.files.credentials import ResultSigner


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
        animation: has the durations and the number of plays.
        quality: 1 to 100, for lossy formats.
        signer: signs the file, with the first frame's statement; None leaves it unsigned.

    Returns:
        Notes on losses that the format causes, one sentence each.

    Raises:
        OutputError: the extension, the place or the disk does not allow it.
    """
    coming = iter(frames)
    first = next(coming)
    size = (first.picture.width, first.picture.height)
    target, form = checked_target(path, size, animation.is_transparent, overwrite)
    if not form.has_frames:
        raise OutputError(f"{shown_path(path)}: {form.title} holds one picture; write {ANIMATED_ENDINGS}")
    failures: list[BaseException] = []
    pictures = _held((frame.picture for frame in itertools.chain([first], coming)), form, failures)
    _, lost = as_held(first.picture, form)
    settings, notes = file_settings(first.picture, form, quality)
    notes = (*lost, *notes)
    with whole_file(target, overwrite) as file, nullcontext(file) if signer is None else TemporaryFile() as place:
        try:
            more = codec_of(form).write_frames(place, pictures, animation, settings, size)
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
