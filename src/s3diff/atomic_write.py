"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from s3diff.errors import DiskFullError, OutputError, S3DiffError
from s3diff.messages import reason_of, shown_path


def require_free(target: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(target):
        raise OutputError(f"{shown_path(target)} is already there; choose another name or allow overwriting")


def write_atomically(data: bytes, target: Path, overwrite: bool) -> None:
    """Write a whole file; see :func:`whole_file`."""
    with whole_file(target, overwrite, len(data)) as file:
        file.write(data)


@contextmanager
def whole_file(target: Path, overwrite: bool, num_bytes: int | None = None) -> Iterator[BinaryIO]:
    """A file that lies beside the target while it is written, is flushed to the disk and moved over it; whatever
    happens, nothing else stays behind.

    Args:
        target: where it goes; missing folders are made.
        overwrite: whether a file that is there may be replaced.
        num_bytes: how many it will have, where that is known.

    Raises:
        OutputError: it cannot be written.
    """
    new_folders = [folder for folder in target.parents if not os.path.exists(folder)]
    temporary = target.with_name(f"{_part_start(target)}{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        require_free(target, overwrite)
        os.replace(temporary, target)
    except S3DiffError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(_disk_full(target, num_bytes, temporary)) from error
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


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what a killed process left half written of this output; to be called where nobody else can write it."""
    target = Path(os.path.realpath(path))
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if name.startswith(_part_start(target)) and name.endswith(".part"):
                (target.parent / name).unlink(missing_ok=True)


def _disk_full(target: Path, num_bytes: int | None, temporary: Path) -> str:
    if num_bytes is None:
        return f"{shown_path(target)} cannot be written: the disk is full; make room or choose another place"
    written = 0
    with suppress(OSError):
        written = os.stat(temporary).st_size + shutil.disk_usage(target.parent).free
    missing = max(1, num_bytes - written)
    return (
        f"{shown_path(target)} cannot be written: the disk is full, {missing} of {num_bytes} bytes were missing; "
        "make room or choose another place"
    )
