"""Where a picture is written: checked before, whole or not there after."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
import zlib
from contextlib import suppress
from pathlib import Path

from s3diff.errors import DiskFullError, OutputError
from s3diff.images.formats import ENDINGS, FORMATS, Format, PicturePath
from s3diff.images.wording import reason_of, shown_path


def checked_target(
    path: PicturePath, size: tuple[int, int] | None, transparent: bool, overwrite: bool
) -> tuple[Path, Format]:
    """The file to write, links followed, and its format, if what can be known without writing allows it."""
    shown = shown_path(path)
    form = FORMATS.get(Path(path).suffix.lower())
    if form is None:
        raise OutputError(f"{shown} has no picture extension that can be written; end the name in {ENDINGS}")
    if transparent and not form.has_alpha:
        raise OutputError(f"{shown}: {form.name} cannot hold the picture's transparency; write .png, .webp or .tif")
    if size is not None and max(size) > form.largest_side_px:
        limit = f"a {form.name} side has at most {form.largest_side_px}"
        raise OutputError(f"{shown} would be {size[0]} x {size[1]} pixels, {limit}; write .png or .tif")
    mode = None
    try:
        target = Path(path).resolve()  # a link stays a link: what it leads to is replaced
        with suppress(FileNotFoundError):
            mode = os.stat(target).st_mode
    except (OSError, RuntimeError, ValueError) as error:  # of a link to itself; of a null character
        raise OutputError(f"{shown} cannot be written ({reason_of(error)}); choose another name") from error
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{shown} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; give another name")
    if mode is not None and not os.access(target, os.W_OK):
        raise OutputError(f"{shown} is write-protected; choose another name or make it writable")
    _require_free(target, overwrite)
    return target, form


def _require_free(target: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(target):
        raise OutputError(f"{shown_path(target)} is already there; choose another name or allow overwriting")


def write_atomically(data: bytes, target: Path, overwrite: bool) -> None:
    """Write beside the target, flush to the disk, move over it; whatever happens, nothing else stays behind."""
    new_folders = [folder for folder in target.parents if not os.path.exists(folder)]
    temporary = target.with_name(f"{_part_start(target)}{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _require_free(target, overwrite)
        os.replace(temporary, target)
    except OutputError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(_disk_full(target, len(data), temporary)) from error
        raise OutputError(
            f"{shown_path(target)} cannot be written ({reason_of(error)}); choose another place"
        ) from error
    finally:  # also on KeyboardInterrupt; after success there is no temporary file and no new folder is empty
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        for folder in new_folders:
            with suppress(OSError):
                folder.rmdir()


def _part_start(target: Path) -> str:
    return f".s3diff-{zlib.crc32(os.fsencode(target.name)):08x}-"


def remove_leftovers(path: PicturePath) -> None:
    """Remove what a killed process left half written of this output; to be called where nobody else can write it."""
    target = Path(os.path.realpath(path))
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if name.startswith(_part_start(target)) and name.endswith(".part"):
                (target.parent / name).unlink(missing_ok=True)


def _disk_full(target: Path, num_bytes: int, temporary: Path) -> str:
    written = 0
    with suppress(OSError):
        written = os.stat(temporary).st_size + shutil.disk_usage(target.parent).free
    missing = max(1, num_bytes - written)
    return (
        f"{shown_path(target)} cannot be written: the disk is full, {missing} of {num_bytes} bytes were missing; "
        "make room or choose another place"
    )
