"""Plan the restoration of a video, before a model is loaded; no torch."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from s3diff.atomic_write import require_free
from s3diff.errors import OutputError
from s3diff.images.files.video import Video, open_video
from s3diff.images.files.video_integrity import require_whole
from s3diff.images.files.video_writing import Encoding, choose_encoding, require_streams
from s3diff.messages import shown_path
from s3diff.options import RestoreOptions
from s3diff.restoration.sizes import Sizes, allowed_sizes
from s3diff.video_options import VideoOptions

#: File of the work folder with size and time of the whole result, so that it is known again at its place.
WHOLE = "whole.json"


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """Hold a restored video's facts and choices, before a model is there.

    Attributes:
        video: the source.
        target: the file of the result.
        writing: how it is made and encoded.
        sizes: of every frame.
        encoding: how frames are encoded.
        converted: which kinds of other streams are converted, one sentence each.
        num_stored: number of frames that the file holds; None where only decoding all of them tells.
    """

    video: Video
    target: Path
    writing: VideoOptions
    sizes: Sizes
    encoding: Encoding
    converted: tuple[str, ...]
    num_stored: int | None


def plan_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: RestoreOptions,
    video_options: VideoOptions | None = None,
) -> VideoPlan:
    """Check all that needs no model: the source, whether it is whole, and how its result is written.

    Raises:
        PictureError, OutputError, OptionError, MissingExtraError: as :func:`restore_video`.
    """
    source, target, writing = Path(source), Path(target), video_options or VideoOptions()
    if not writing.overwrite:
        remove_work_of_whole(target)
    require_free(target, writing.overwrite)
    if os.path.realpath(source) == os.path.realpath(target):
        raise OutputError(f"{shown_path(target)} would overwrite the input; choose another output")
    video = open_video(source, options.max_input_pixels)
    sizes = allowed_sizes((video.width, video.height), options, shown_path(source))
    encoding = choose_encoding(video, target, sizes.output, writing.codec, writing.pixel_format, writing.quality)
    converted = require_streams(video, target)
    return VideoPlan(
        video=video, target=target, writing=writing, sizes=sizes, encoding=encoding, converted=converted,
        num_stored=require_whole(video),
    )  # fmt: skip


def remove_work_of_whole(target: Path) -> None:
    """Remove the work folder next to its result: a run was killed after it had moved the result to its place."""
    work = work_of(target)
    with suppress(OSError, ValueError):
        if json.loads((work / WHOLE).read_text("utf-8")) == state_of(target):
            shutil.rmtree(work, ignore_errors=True)


def work_of(target: Path) -> Path:
    """Name the hidden folder of unfinished work, next to its result."""
    return target.with_name(f".s3diff-{target.name}.video")


def state_of(path: Path) -> list[int]:
    """Return size and time of change, by which a file is known again."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
