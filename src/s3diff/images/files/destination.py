"""Check a picture's destination before writing."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from s3diff.atomic_write import require_free
from s3diff.errors import OutputError
from s3diff.formats import ENDINGS, Format, PicturePath, format_of, format_of_extension
from s3diff.images.files.registry import codec_of
from s3diff.messages import reason_of, shown_path


def checked_target(
    path: PicturePath, size: tuple[int, int] | None, transparent: bool, overwrite: bool
) -> tuple[Path, Format]:
    """Return the file to write, links followed, and its format; make all checks that need no writing."""
    shown = shown_path(path)
    form = format_of(path)
    if form is None:
        raise OutputError(f"{shown} has no picture extension that can be written; end the name in {ENDINGS}")
    try:
        codec_of(form).require_encoder()
    except OutputError as error:
        raise OutputError(f"{shown}: {error}") from error
    if transparent and not form.has_alpha:
        raise OutputError(f"{shown}: {form.title} cannot hold the picture's transparency; write .png, .webp or .tif")
    if size is not None and max(size) > form.largest_side_px:
        limit = f"a {form.title} side has at most {form.largest_side_px}"
        raise OutputError(f"{shown} would be {size[0]} x {size[1]} pixels, {limit}; write .png or .tif")
    mode = None
    try:
        target = Path(path).resolve()  # a link stays a link: its target is replaced
        with suppress(FileNotFoundError):
            mode = os.stat(target).st_mode
    except (OSError, RuntimeError, ValueError) as error:  # of a link to itself; of a null character
        raise OutputError(f"{shown} cannot be written ({reason_of(error)}); choose another name") from error
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{shown} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; give another name")
    if mode is not None and not os.access(target, os.W_OK):
        raise OutputError(f"{shown} is write-protected; choose another name or make it writable")
    require_free(target, overwrite)
    return target, form


def can_be_written(extension: str) -> bool:
    """Check whether results can have this extension here: HEIC needs its encoder."""
    form = format_of_extension(extension)
    return form is not None and codec_of(form).can_write
