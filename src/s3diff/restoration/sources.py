"""Decide whether a file is restored as a still picture, an animation, or pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from s3diff.images.codecs import check_writable, holds_frames, is_animated, read_picture
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.animation import OpenedAnimation, checked_animation, restore_animation
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.pages import OpenedPages, checked_pages, restore_pages
from s3diff.restoration.result import Degrees, Result
from s3diff.restoration.sizes import Sizes
from s3diff.restoration.steps import Opened, Progress, opened_picture

if TYPE_CHECKING:
    from s3diff.images.files.credentials import ResultSigner

#: A file of several pictures, restored one by one into another file.
OpenedSeries = OpenedAnimation | OpenedPages


def open_source(
    source: Path, target: Path, options: RestoreOptions, known: Sizes | None = None
) -> Opened | OpenedSeries:
    """Read a picture, or open an animation or pages if the target's format holds them.

    Args:
        options: with the limits.
        known: the sizes by the file's header; ignored if the picture has another size.

    Raises:
        PictureError: the file cannot be read, has no such page, or its result would be too large.
        OutputError: the target's format cannot hold the result, or its place cannot be written.
    """
    if holds_frames(target) and is_animated(source, options.max_input_pixels, options.max_file_bytes):
        opened = checked_animation(source, options)
        check_writable(target, size=opened.sizes.output, transparent=opened.animation.is_transparent)
        return opened
    pages = checked_pages(source, target, options)
    if isinstance(pages, OpenedPages):
        return pages
    picture = read_picture(source, options.max_input_pixels, options.max_file_bytes, page=pages)
    still = opened_picture(picture, options, known)
    check_writable(target, size=still.sizes.output, transparent=picture.is_transparent)
    return still


def restore_series(
    model: DeviceModel,
    opened: OpenedSeries,
    target: Path,
    options: RestoreOptions,
    writing: OutputOptions,
    progress: Progress | None = None,
    degrees: Degrees | None = None,
    signer: ResultSigner | None = None,
) -> Result:
    """Restore an animation or pages; write each frame or page once it is restored.

    Args and errors are those of ``restore_animation`` and ``restore_pages``.
    """
    if isinstance(opened, OpenedPages):  # each page has its own degrees, which are estimated again
        return restore_pages(
            model, opened, target, options,
            quality=writing.quality, overwrite=writing.overwrite, provenance=writing.provenance, signer=signer,
            progress=progress,
        )  # fmt: skip
    return restore_animation(
        model, opened, target, options,
        quality=writing.quality, overwrite=writing.overwrite, provenance=writing.provenance, degrees=degrees,
        signer=signer, progress=progress,
    )  # fmt: skip
