"""Write files and folders that appear whole or not at all; everything that replaces files uses these functions."""

from __future__ import annotations

import os
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from s3diff.errors import DISK_FULL, DiskFullError, OutputError, S3DiffError
from s3diff.messages import reason_of, shown_path

#: Nobody who lives leaves a file for so long between two writes.
ABANDONED_SECONDS = 600.0
#: Prefix of the names of unfinished files.
_START = ".s3diff-"
_HINT = "choose another place"


def require_free(target: Path, overwrite: bool) -> None:
    """Refuse to replace something without permission.

    Raises:
        OutputError: the path exists.
    """
    if not overwrite and os.path.lexists(target):
        raise OutputError(f"{shown_path(target)} is already there; choose another name or allow overwriting")


def write_atomically(data: bytes | str, target: Path, overwrite: bool = True, *, hint: str = _HINT) -> None:
    """Write a whole file; a text as UTF-8. See :func:`whole_file`."""
    content = data.encode() if isinstance(data, str) else data
    with whole_file(target, overwrite, len(content), hint=hint) as file:
        file.write(content)


@contextmanager
def whole_file(target: Path, overwrite: bool, num_bytes: int | None = None, *, hint: str = _HINT) -> Iterator[BinaryIO]:
    """Open a file that replaces the target when it is complete; see :func:`whole_path`."""
    with whole_path(target, overwrite, num_bytes, hint=hint) as temporary, open(temporary, "xb") as file:
        yield file


@contextmanager
def whole_path(
    target: Path,
    overwrite: bool = True,
    num_bytes: int | None = None,
    *,
    hint: str = _HINT,
    temporary: Path | None = None,
) -> Iterator[Path]:
    """Yield the path of a temporary file next to the target; flush it and move it to the target after the block. After
    an error nothing remains.

    Args:
        target: the target; missing folders are created.
        num_bytes: the file's size, if known.
        hint: advice for an unwritable target.
        temporary: the path, in the same folder; None for one that :func:`remove_leftovers` finds.

    Raises:
        OutputError: it cannot be written.
    """
    new_folders = _missing_folders(target)
    temporary = _temporary(target) if temporary is None else temporary
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with suppress(PermissionError), open(temporary, "r+b") as file:  # of a program that writes read-only files
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, target)
        else:
            _move_to_free(temporary, target)
    except S3DiffError:
        raise
    except OSError as error:
        raise _cannot_write(error, target, temporary, num_bytes, hint) from error
    finally:  # also on KeyboardInterrupt; after success there is no temporary file and no new folder is empty
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _remove_empty(new_folders)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that replaces the target, also a folder, when the block ends without an error.

    Raises:
        OutputError: it cannot be written.
    """
    new_folders, temporary = _missing_folders(target), _temporary(target)
    new, old = temporary / "new", temporary / "old"
    try:
        new.mkdir(parents=True)
        yield new
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    except S3DiffError:
        raise
    except OSError as error:
        raise _cannot_write(error, target, temporary, None, _HINT) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(new_folders)


def flush_folder(folder: Path) -> None:
    """Flush a folder's names to the disk; Windows does so without a request and cannot open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path: str | os.PathLike[str], *, older_than_seconds: float | None = None) -> None:
    """Remove unfinished files of killed processes, of one output or of all in a folder.

    Args:
        path: the output, or the folder.
        older_than_seconds: remove files that nobody has written to for longer; None removes all, while nobody else
            writes there.
    """
    target = Path(os.path.realpath(path))
    folder, start = (target, _START) if target.is_dir() else (target.parent, _part_start(target))
    with suppress(OSError):
        for name in os.listdir(folder):
            if is_leftover(name, start):
                with suppress(FileNotFoundError):  # finished meanwhile
                    age = time.time() - os.stat(folder / name).st_mtime
                    if older_than_seconds is None or age > older_than_seconds:
                        (folder / name).unlink()


def is_leftover(name: str, start: str = _START) -> bool:
    """Check whether a name is an unfinished file's."""
    return name.startswith(start) and name.endswith(".part")


def _move_to_free(temporary: Path, target: Path) -> None:
    """Move a file to where nothing is: of several that try, one succeeds."""
    require_free(target, False)
    try:
        if os.name == "nt":
            os.rename(temporary, target)  # replaces nothing there
        else:
            os.link(temporary, target)
    except FileExistsError:
        require_free(target, False)
    except OSError:
        if os.name == "nt":
            raise
        os.replace(temporary, target)  # on a file system without hard links


def _part_start(target: Path) -> str:
    return f"{_START}{zlib.crc32(os.fsencode(target.name)):08x}-"


def _temporary(target: Path) -> Path:
    return target.with_name(f"{_part_start(target)}{uuid.uuid4().hex}.part")


def _missing_folders(target: Path) -> list[Path]:
    return [folder for folder in target.parents if not os.path.exists(folder)]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _cannot_write(error: OSError, target: Path, temporary: Path, num_bytes: int | None, hint: str) -> OutputError:
    if error.errno not in DISK_FULL:
        return OutputError(f"{shown_path(target)} cannot be written ({reason_of(error)}); {hint}")
    missing = ""
    if num_bytes is not None:
        room = 0
        with suppress(OSError):
            room = os.stat(temporary).st_size + shutil.disk_usage(target.parent).free
        missing = f", {max(1, num_bytes - room)} of {num_bytes} bytes were missing"
    return DiskFullError(
        f"{shown_path(target)} cannot be written: the disk is full{missing}; make room or choose another place"
    )
