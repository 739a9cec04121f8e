"""What stands between a file and a restoration, whoever asks for it: the command and the service use the same.

A picture is read and its result's place is checked before any work; the result is named and written, and what is to be
told of it is gathered.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3diff.images.codecs import (
    Animation,
    Picture,
    can_be_written,
    check_writable,
    holds_frames,
    is_animated,
    read_picture,
)
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.animation import checked_animation, restore_animation
from s3diff.restoration.restored import Degrees, Restored

if TYPE_CHECKING:
    from s3diff.restoration.restorer import Progress, Restorer

#: What was read of a file: a still picture, or an animation whose frames are read as they are needed.
Opened = Picture | Animation

#: What a picture is written as whose own format can be read but not written.
FALLBACK_EXTENSION = ".png"
_SAME_FORMATS = {"apng": "png", "jpeg": "jpg", "tiff": "tif", "heif": "heic"}


def read_source(source: Path, target: Path, options: RestoreOptions) -> Opened:
    """Read a picture, or open an animation where the target can hold one, and make sure that its result will be
    accepted where it goes.

    Raises:
        PictureError: it cannot be read, or its result would be too large.
        OutputError: the target's format cannot hold the result, or its place cannot be written.
    """
    limits = {"max_pixels": options.max_input_pixels, "max_bytes": options.max_file_bytes}
    if holds_frames(target) and is_animated(source, **limits):
        animation = checked_animation(source, options)
        size = options.output_size(animation.width, animation.height)
        check_writable(target, size=size, transparent=animation.is_transparent)
        return animation
    from s3diff.restoration.restorer import check_output_size  # and with it torch, which a picture for a service lacks

    picture = read_picture(source, **limits)
    size = check_output_size(picture, options)
    check_writable(target, size=size, transparent=picture.is_transparent)
    return picture


def animate(
    restorer: Restorer,
    animation: Animation,
    target: Path,
    options: RestoreOptions,
    writing: OutputOptions,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Restore an animation into a file, frame by frame; returns :func:`facts_of` it, and its notes.

    Raises:
        PictureError, OutputError, OptionError, ModelError: see :func:`s3diff.restoration.animation.restore_animation`.
    """
    restored = restore_animation(
        restorer,
        animation,
        target,
        options,
        quality=writing.quality,
        overwrite=writing.overwrite,
        progress=progress,
    )
    facts = facts_of((restored.width, restored.height), restored.degrees, restored.estimated, restored.seconds)
    return {**facts, "frames": restored.num_frames}, restored.notes


def write_result(restored: Restored, target: Path, writing: OutputOptions) -> tuple[str, ...]:
    """Write a result; returns everything that was lost, left out or unusual, one sentence each.

    Raises:
        OutputError: it cannot be written there; nothing is left half written.
    """
    lost = restored.save(target, quality=writing.quality, overwrite=writing.overwrite)
    return (*restored.picture.notes, *restored.notes, *lost)


def result_extension(extension: str, writing: OutputOptions) -> str:
    """With its dot: the format asked for, or else the input's, spelled as the input's is where they are the same."""
    if writing.format is not None:
        return extension if _plain(extension[1:]) == _plain(writing.format) else f".{writing.format}"
    return extension if can_be_written(extension) else FALLBACK_EXTENSION


def result_stem(writing: OutputOptions, values: Mapping[str, str]) -> str:
    """A result's name without extension; ``values`` holds what the template may use (see :class:`OutputOptions`)."""
    parts = string.Formatter().parse(writing.name)
    return "".join(text + (values[field] if field is not None else "") for text, field, _, _ in parts)


def facts_of(
    size: tuple[int, int], degrees: Degrees, estimated: Degrees, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """What is told of a picture that is done; ``size``: the result's (width, height)."""
    return {
        "width": size[0],
        "height": size[1],
        "blur": round(degrees.blur, 4),
        "noise": round(degrees.noise, 4),
        "estimated_blur": round(estimated.blur, 4),
        "estimated_noise": round(estimated.noise, 4),
        "seconds": round(seconds["total"], 4),
    }


def facts_of_result(restored: Restored) -> dict[str, Any]:
    """:func:`facts_of` a result in memory."""
    size = (restored.picture.width, restored.picture.height)
    return facts_of(size, restored.degrees, restored.estimated, restored.seconds)


def _plain(extension: str) -> str:
    lower = extension.lower()
    return _SAME_FORMATS.get(lower, lower)
