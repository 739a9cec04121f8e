"""Animated pictures: every frame restored in its turn and written at once; memory holds one frame, whatever their
number.

What differs from frame to frame without reason flickers. So all frames are restored for the same degrees of blur and
noise (the median of what the estimator says of some frames), with the same seed, in grey or in colour all of them.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from s3diff.errors import PictureError
from s3diff.images.codecs import (
    MAX_FRAMES_OF_LARGEST,
    Animation,
    Frame,
    check_writable,
    open_animation,
    write_animation,
)
from s3diff.options import RestoreOptions
from s3diff.restoration.restored import Degrees

if TYPE_CHECKING:
    from s3diff.restoration.restorer import Progress, Restorer

#: Frames that are asked for blur and noise, spread evenly: the first one alone may be black or a title.
_ESTIMATED_FRAMES = 5


@dataclass(frozen=True, kw_only=True)
class RestoredAnimation:
    """A restored animation on the disk and how it came about.

    Attributes:
        path: the file.
        width: of every frame, in pixels.
        height: likewise.
        num_frames: how many there are.
        degrees: what the matrices were made for, the same for all frames.
        estimated: the median of what the estimator found.
        seconds: wall-clock time by stage as in :class:`s3diff.restoration.restored.Restored`, of all frames.
        notes: what was unusual or left out, one sentence each.
    """

    path: Path
    width: int
    height: int
    num_frames: int
    degrees: Degrees
    estimated: Degrees
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


def checked_animation(source: str | os.PathLike[str], options: RestoreOptions) -> Animation:
    """The opened file, if the options allow the pixels that its frames would have.

    Raises:
        PictureError: it cannot be read, or would become too large; seen as soon as there are too many frames.
    """
    largest, allowed = options.max_output_pixels, MAX_FRAMES_OF_LARGEST * options.max_output_pixels

    def check(frame_width: int, frame_height: int, num_frames: int) -> None:
        try:
            width, height = options.output_size(frame_width, frame_height)
        except OverflowError:
            raise PictureError(
                f"{source} would become larger than any picture; choose a smaller scale or size"
            ) from None
        if width * height > largest or width * height * num_frames > allowed:
            raise PictureError(
                f"{source} would become {num_frames} or more frames of {width} x {height} px; at most "
                f"{largest / 1e6:.3g} megapixels a frame and {allowed / 1e6:.3g} in all are allowed: choose a smaller "
                "scale or size, or raise the limit (max_output_pixels, --max-megapixels)"
            )

    return open_animation(source, options.max_input_pixels, options.max_file_bytes, check)


def restore_animation(
    restorer: Restorer,
    source: str | os.PathLike[str] | Animation,
    target: str | os.PathLike[str],
    options: RestoreOptions | None = None,
    *,
    quality: int = 95,
    overwrite: bool = True,
    progress: Progress | None = None,
) -> RestoredAnimation:
    """Restore every frame of an animated GIF, WebP, PNG or AVIF into another one; durations and loops are kept.

    Args:
        restorer: a model on a device.
        source: the file, or what :func:`s3diff.images.files.animation_reading.open_animation` made of it.
        target: where the result goes: .gif, .webp, .png or .avif.
        options: for all frames.
        quality: 1 to 100, of WebP and AVIF.
        overwrite: whether a file that is there may be replaced.
        progress: told ("frames", done, total) after every frame; what it raises ends the work, and no file is left.

    Raises:
        PictureError: the source cannot be read, is not animated, or its result would be too large.
        OutputError: the target cannot be written.
        OptionError, ModelError: as :meth:`Restorer.restore`.
    """
    options = RestoreOptions() if options is None else options
    animation = source if isinstance(source, Animation) else checked_animation(source, options)
    size = options.output_size(animation.width, animation.height)
    check_writable(target, size=size, transparent=animation.is_transparent, overwrite=overwrite)
    restorer.check(options)
    estimated = _estimated(restorer, animation, options)
    degrees = Degrees(options.degree("blur", estimated.blur), options.degree("noise", estimated.noise))
    seconds: dict[str, float] = {}
    notes: dict[str, None] = dict.fromkeys(animation.notes)  # each once, in their order

    def restored_frames() -> Iterator[Frame]:
        chosen = replace(options, blur=degrees.blur, noise=degrees.noise)
        for index, frame in enumerate(animation.frames()):
            restored = restorer.restore(frame.picture, chosen)
            if index == 0 and animation.is_grey:
                chosen = replace(chosen, grey="keep" if restored.picture.is_grey else "color")
            for stage, value in restored.seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + value
            notes.update(dict.fromkeys((*restored.picture.notes, *restored.notes)))
            yield Frame(restored.picture, frame.milliseconds)
            if progress is not None:
                progress("frames", index + 1, animation.num_frames)

    lost = write_animation(restored_frames(), animation, target, quality=quality, overwrite=overwrite)
    return RestoredAnimation(
        path=Path(target),
        width=size[0],
        height=size[1],
        num_frames=animation.num_frames,
        degrees=degrees,
        estimated=estimated,
        seconds=seconds,
        notes=(*notes, *lost),
    )


def _estimated(restorer: Restorer, animation: Animation, options: RestoreOptions) -> Degrees:
    count = min(_ESTIMATED_FRAMES, animation.num_frames)
    wanted = {round((index + 0.5) * animation.num_frames / count - 0.5) for index in range(count)}
    found = [
        restorer.estimate(frame.picture, options) for index, frame in enumerate(animation.frames()) if index in wanted
    ]
    return Degrees(*(statistics.median(values) for values in zip(*found, strict=True)))
