"""Take a picture or a video in: its file into the job's folder, its header against the limits, before all work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from s3diff.errors import (
    MissingExtraError,
    OptionError,
    OutputError,
    PictureError,
    PictureTooLargeError,
    QueueFullError,
)
from s3diff.formats import is_video
from s3diff.images.files.reading import picture_header
from s3diff.images.files.video import Video, open_video
from s3diff.images.files.video_writing import choose_encoding, require_streams
from s3diff.messages import install_command, reason_of
from s3diff.options import RestoreOptions
from s3diff.restoration.result import result_stem, video_extension
from s3diff.restoration.sizes import sizes_of
from s3diff.service_errors import NO_ROOM, NO_VIDEOS
from s3diff.serving.jobs import Job, safe_name
from s3diff.serving.limits import ServiceLimits, require_length


def within_limits(options: RestoreOptions, limits: ServiceLimits) -> RestoreOptions:
    """Put the service's limits into a picture's options."""
    return options.with_valid(
        max_output_pixels=limits.output_pixels, max_input_pixels=limits.input_pixels, max_file_bytes=limits.upload_bytes
    )


def take_in(picture: bytes | Path | BinaryIO, place: Path, limits: ServiceLimits) -> None:
    """Write a picture's file to its place.

    Args:
        picture: the file's content, the file, or the open file, read from its beginning.
        place: of the file, in a folder that is not there yet.
        limits: ``upload_bytes`` holds.

    Raises:
        QueueFullError: it cannot be written; the disk is full, say.
        PictureTooLargeError: it is larger than the limit.
    """
    try:
        place.parent.mkdir(parents=True)
        if isinstance(picture, bytes):
            place.write_bytes(picture)
        elif isinstance(picture, Path):
            shutil.copyfile(picture, place)
        else:
            picture.seek(0)
            with place.open("xb") as file:
                shutil.copyfileobj(picture, file, 1 << 20)
        size = place.stat().st_size
    except OSError as error:
        raise QueueFullError(NO_ROOM.format(reason_of(error))) from error
    if size > limits.upload_bytes:
        raise PictureTooLargeError(
            f"{place.name} has {size} bytes, at most {limits.upload_bytes} are allowed; give a smaller file"
        )


def check_header(job: Job, limits: ServiceLimits, *, of_result: bool = True) -> None:
    """Check size and kind of a job's picture or video by its header, and keep its sizes.

    Raises:
        PictureTooLargeError: the picture, the video or its result is larger than the limits allow.
        PictureError: it is neither, or a video where the service reads none.
        OptionError, OutputError: the options of a video do not go together, or with its streams.
    """
    try:
        if is_video(job.source):
            job.video = opened_video(job.source, limits)
            if job.video.is_counted:  # else the first pass counts them
                require_length(job.name, job.video.num_frames, limits)
            size = job.video.width, job.video.height
            job.options = job.options.with_valid(max_output_pixels=min(limits.video_pixels, limits.output_pixels))
        else:
            header = picture_header(job.source)
            size = header.width, header.height
    except PictureError as error:
        raise type(error)(job.worded(error)) from error
    pixels, limit = size[0] * size[1], limits.input_pixels
    if pixels > limit:
        raise PictureTooLargeError(
            f"{job.name} has {size[0]} x {size[1]} pixels, at most {limit} are allowed; give a smaller picture"
        )
    if not of_result:
        return
    try:
        job.sizes = sizes_of(size, job.options)
        width, height = job.sizes.output
    except OverflowError:
        width, height = limit, limit
    if width * height > job.options.max_output_pixels:
        a_frame = "" if job.video is None else " a frame"
        raise PictureTooLargeError(
            f"{job.name} would become {width} x {height} px, at most {job.options.max_output_pixels / 1e6:.4g} "
            f"megapixels{a_frame} are allowed; choose a smaller scale or size"
        )
    if job.video is not None:
        _check_video_options(job, job.video)


def result_path(job: Job, extension: str) -> Path:
    """Name a job's result; ``extension`` with its dot."""
    given = os.path.splitext(job.name)
    values = {"model": job.model, "scale": f"{job.options.scale:g}", "stem": given[0]}
    values["extension"] = (given[1] or extension)[1:]
    return job.folder / "result" / safe_name(result_stem(job.writing, values) + extension)


def opened_video(path: Path, limits: ServiceLimits) -> Video:
    """Look at a client's video.

    Raises:
        PictureTooLargeError: its frames are larger than the limit.
        PictureError: it cannot be read, or this service reads no videos.
    """
    try:
        return open_video(path, limits.input_pixels)
    except MissingExtraError as error:
        raise PictureError(NO_VIDEOS.format(path.name, install_command("video"))) from error


def _check_video_options(job: Job, video: Video) -> None:
    """Name the result, and refuse at once what would be refused when the work begins."""
    if job.writing.format is not None:
        raise OptionError(
            f"format is {job.writing.format!r}, and {job.name} is a video, which keeps its container; leave it out"
        )
    assert job.sizes is not None
    own, encoding = os.path.splitext(job.name)[1], job.video_options
    # Another container than those that are written may hold what .mp4 does not.
    extensions = [own] if video_extension(own) == own else [video_extension(own), ".mkv"]
    for extension in extensions:
        job.target = target = result_path(job, extension)
        try:
            require_streams(video, target)
            break
        except OutputError as error:
            if extension == extensions[-1]:
                raise OutputError(job.worded(error)) from error
    choose_encoding(video, target, job.sizes.output, encoding.codec, encoding.pixel_format, job.writing.quality)
