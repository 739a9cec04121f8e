"""Take a picture in: its file into the job's folder, its header against the limits, before it costs anything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from s3diff.errors import PictureError, PictureTooLargeError, QueueFullError
from s3diff.images.codecs import picture_header
from s3diff.messages import reason_of
from s3diff.options import RestoreOptions
from s3diff.restoration.sizes import sizes_of
from s3diff.service_errors import NO_ROOM
from s3diff.serving.jobs import Job
from s3diff.serving.limits import ServiceLimits


def within_limits(options: RestoreOptions, limits: ServiceLimits) -> RestoreOptions:
    """Put the service's limits into a picture's options."""
    return options.with_valid(
        max_output_pixels=limits.output_pixels, max_input_pixels=limits.input_pixels, max_file_bytes=limits.upload_bytes
    )


def take_in(picture: bytes | Path | BinaryIO, place: Path, limits: ServiceLimits, *, move: bool = False) -> None:
    """Write a picture's file to its place.

    Args:
        picture: the file's content, the file, or the open file, read from its beginning.
        place: of the file, in a folder that is not there yet.
        limits: ``upload_bytes`` holds.
        move: take the file away instead of copying it.

    Raises:
        QueueFullError: it cannot be written; the disk is full, say.
        PictureTooLargeError: it is larger than the limit.
    """
    try:
        place.parent.mkdir(parents=True)
        if isinstance(picture, bytes):
            place.write_bytes(picture)
        elif isinstance(picture, Path) and move:
            os.replace(picture, place)
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
    """Check size and kind of a job's picture by its header, and keep its sizes.

    Raises:
        PictureTooLargeError: the picture or its result is larger than the limits allow.
        PictureError: it is no picture.
    """
    try:
        header = picture_header(job.source)
    except PictureError as error:
        raise PictureError(job.worded(error)) from error
    pixels, limit = header.width * header.height, limits.input_pixels
    if pixels > limit:
        raise PictureTooLargeError(
            f"{job.name} has {header.width} x {header.height} pixels, at most {limit} are allowed; give a smaller "
            "picture"
        )
    if not of_result:
        return
    try:
        job.sizes = sizes_of((header.width, header.height), job.options)
        width, height = job.sizes.output
    except OverflowError:
        width, height = limit, limit
    if width * height > job.options.max_output_pixels:
        raise PictureTooLargeError(
            f"{job.name} would become {width} x {height} px, at most {job.options.max_output_pixels / 1e6:.4g} "
            "megapixels are allowed; choose a smaller scale or size"
        )
