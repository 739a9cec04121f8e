"""Restore animated pictures frame by frame; memory holds one frame.

Differences between frames show as flicker. So all frames are restored for the same degrees of blur and noise (the
median of the estimates for some frames), with the same seed, and either all in grey or all in colour.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from s3diff.errors import PictureError
from s3diff.images.codecs import (
    MAX_FRAMES_OF_LARGEST,
    Animation,
    Frame,
    check_writable,
    open_animation,
    write_animation,
)
from s3diff.images.provenance import Provenance
from s3diff.messages import in_megapixels
from s3diff.options import Grey, RestoreOptions
from s3diff.restoration.conveyor import read_ahead
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.result import Degrees, Result, add_seconds
from s3diff.restoration.sizes import Sizes, sizes_of
from s3diff.restoration.steps import Opened, Progress, estimate, restore

if TYPE_CHECKING:
    from s3diff.images.files.credentials import ResultSigner

#: Frames whose blur and noise are estimated, spread evenly: the first frame may be black or a title.
_ESTIMATED_FRAMES = 5


class OpenedAnimation(NamedTuple):
    """Hold an animation whose frames are read on demand, and their sizes."""

    animation: Animation
    sizes: Sizes

    @property
    def num_working_pixels(self) -> int:
        """Number of pixels that the networks produce for all frames."""
        return self.sizes.num_working_pixels * self.animation.num_frames


def checked_animation(source: str | os.PathLike[str], options: RestoreOptions) -> OpenedAnimation:
    """Open an animation, if the options allow the pixels of all restored frames.

    Raises:
        PictureError: the file cannot be read, or the result would be too large, which stops reading early.
    """
    largest, allowed = options.max_output_pixels, MAX_FRAMES_OF_LARGEST * options.max_output_pixels
    found: list[Sizes] = []

    def check(frame_width: int, frame_height: int, num_frames: int) -> None:
        try:
            if not found:
                found.append(sizes_of((frame_width, frame_height), options))
        except OverflowError:
            raise PictureError(
                f"{source} would become larger than any picture; choose a smaller scale or size"
            ) from None
        width, height = found[0].output
        if width * height > largest or width * height * num_frames > allowed:
            raise PictureError(
                f"{source} would become {num_frames} or more frames of {width} x {height} px; at most "
                f"{in_megapixels(largest)} megapixels a frame and {in_megapixels(allowed)} in all are allowed: choose "
                "a smaller scale or size, or raise the limit (max_output_pixels, --max-megapixels)"
            )

    return OpenedAnimation(open_animation(source, options.max_input_pixels, options.max_file_bytes, check), found[0])


def restore_animation(
    model: DeviceModel,
    source: str | os.PathLike[str] | OpenedAnimation,
    target: str | os.PathLike[str],
    options: RestoreOptions | None = None,
    *,
    quality: int = 95,
    overwrite: bool = True,
    provenance: bool = True,
    degrees: Degrees | None = None,
    signer: ResultSigner | None = None,
    progress: Progress | None = None,
) -> Result:
    """Restore every frame of an animated picture into another one; keep durations and loops.

    Args:
        model: the networks on a device.
        source: the file, or a result of :func:`checked_animation`.
        target: the result's path; its extension's format has to hold frames.
        quality: 1 to 100, of formats that lose something.
        provenance: whether the file states in XMP how it was made.
        degrees: for all frames, instead of the estimate and the options' degrees.
        signer: signs the file as Content Credentials (C2PA).
        progress: called with ("frames", done, total) after every frame; its exception ends the work without a file.

    Raises:
        PictureError: the source cannot be read, is not animated, or its result would be too large.
        OutputError: the target cannot be written.
        OptionError, ModelError: as :meth:`Restorer.restore`.
    """
    options = model.resolved(options)
    animation, sizes = source if isinstance(source, OpenedAnimation) else checked_animation(source, options)
    check_writable(target, size=sizes.output, transparent=animation.is_transparent, overwrite=overwrite)
    model.prompts(options)
    estimated = _estimated(model, animation)
    if degrees is None:
        degrees = Degrees(options.degree("blur", estimated.blur), options.degree("noise", estimated.noise))
    seconds: dict[str, float] = {}
    notes: dict[str, None] = dict.fromkeys(animation.notes)  # each once, in their order
    stated: Provenance | None = None

    def restored_frames() -> Iterator[Frame]:
        nonlocal stated
        grey: Grey | None = None
        for index, frame in enumerate(read_ahead(animation.frames(), animation.num_frames)):
            opened = Opened(frame.picture, sizes)
            restored = restore(model, [opened], options, degrees=degrees, grey=grey)[0]
            if index == 0 and animation.is_grey:
                grey = "keep" if restored.picture.is_grey else "color"
            add_seconds(seconds, restored.seconds)
            notes.update(dict.fromkeys((*restored.picture.notes, *restored.notes)))
            if index == 0 and provenance and restored.provenance is not None:
                stated = replace(restored.provenance, estimated_blur=estimated.blur, estimated_noise=estimated.noise)
            yield Frame(replace(restored.picture, provenance=stated), frame.milliseconds)
            if progress is not None:
                progress("frames", index + 1, animation.num_frames)

    lost = write_animation(restored_frames(), animation, target, quality=quality, overwrite=overwrite, signer=signer)
    return Result(
        size=sizes.output,
        degrees=degrees,
        estimated=estimated,
        seconds=seconds,
        options=options,
        notes=(*notes, *lost),
        num_frames=animation.num_frames,
        in_file=Path(target),
        provenance=stated,
    )


def _estimated(model: DeviceModel, animation: Animation) -> Degrees:
    count = min(_ESTIMATED_FRAMES, animation.num_frames)
    wanted = {round((index + 0.5) * animation.num_frames / count - 0.5) for index in range(count)}
    frames = enumerate(animation.frames())
    return Degrees.median(estimate(model, frame.picture) for index, frame in frames if index in wanted)
