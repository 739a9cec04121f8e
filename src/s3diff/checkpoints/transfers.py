"""Download into a cache of files: check space, continue transfers that were cut off, check sizes and digests.

The connection is the caller's; no library of HTTP is imported here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from s3diff.checkpoints.release import DownloadPlan, PlannedFile, failure, megabytes
from s3diff.errors import DISK_FULL

CHUNK_BYTES = 1 << 18
#: Opens a connection to a file from this byte on; returns whether it starts there or at 0, and the chunks.
Connect = Callable[[int], AbstractContextManager[tuple[bool, Iterator[bytes]]]]


def transfer(
    connect: Connect,
    partial: Path,
    size_bytes: int,
    report: Callable[[int], None],
    reconnections: int,
    errors: tuple[type[BaseException], ...],
) -> None:
    """Fill a file up to its size; reconnect after a cut.

    Args:
        partial: the file; existing content is kept.
        report: called with the number of bytes so far.
        reconnections: how often a connection that was cut is opened again.
        errors: of the connection and the disk; the last one is raised.
    """
    first_bytes = size_of(partial)
    for attempt in range(reconnections + 1):
        if size_of(partial) == size_bytes:
            return
        try:
            _append(connect, partial, size_bytes, report)
        except errors as error:
            is_cut = size_of(partial) > first_bytes and getattr(error, "errno", None) not in DISK_FULL
            if not is_cut or attempt == reconnections:
                raise
            time.sleep(2**attempt)
        else:
            return


def _append(connect: Connect, partial: Path, size_bytes: int, report: Callable[[int], None]) -> None:
    held_bytes = size_of(partial)
    if held_bytes > size_bytes:
        held_bytes = 0
    with connect(held_bytes) as (goes_on, chunks):
        if not goes_on:
            held_bytes = 0
        with partial.open("ab" if held_bytes else "wb") as target:
            for chunk in chunks:
                target.write(chunk)
                held_bytes += len(chunk)
                if held_bytes > size_bytes:
                    break  # longer than listed: the check that follows says so
                report(held_bytes)
    if held_bytes < size_bytes:
        raise ConnectionError(f"the transfer stopped at {held_bytes:,} of {size_bytes:,} bytes")


def fault_of(path: Path, file: PlannedFile) -> str | None:
    """Return the fault of a transferred file; None if it is the listed one."""
    size_bytes = size_of(path)
    if size_bytes != file.size_bytes:
        return f"arrived with {size_bytes:,} bytes, the hub lists {file.size_bytes:,}"
    digest = str(file.digest)
    hashed = hashlib.sha1(b"blob %d\0" % size_bytes) if len(digest) == 40 else hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            hashed.update(chunk)
    return None if hashed.hexdigest() == digest else f"arrived damaged ({hashed.hexdigest()}, the hub lists {digest})"


def link(blob: Path, pointer: Path) -> None:
    """Link to a file; where the system has no links, move the file there, as huggingface_hub does."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(pointer):
        pointer.unlink()
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        os.replace(blob, pointer)  # Windows without the right to make links


def require_space(plan: DownloadPlan) -> None:
    """Require free space for the rest of the download and the converted model, which both stay on disk.

    Raises:
        DownloadError: the space is missing.
    """
    partial_bytes = sum(
        size_of(part.folder / "blobs" / f"{file.digest}.incomplete")
        for part in (plan.method, plan.base)
        for file in part.files
        if not file.is_cached
    )
    download = (plan.missing_bytes - partial_bytes, "to download", _existing(plan.hub_cache))
    converted = (plan.total_bytes, "for the converted model", _existing(plan.cache_folder))
    is_one_disk = download[2].stat().st_dev == converted[2].stat().st_dev
    for parts in [(download, converted)] if is_one_disk else [(download,), (converted,)]:
        folder = parts[0][2]
        free_bytes = shutil.disk_usage(folder).free
        if sum(size_bytes for size_bytes, _, _ in parts) > free_bytes:
            needed = " and ".join(f"{megabytes(size_bytes)} {what}" for size_bytes, what, _ in parts)
            raise failure(
                plan.release,
                f"{needed}, but {megabytes(free_bytes)} free in {folder} (HF_HOME and S3DIFF_CACHE name other places)",
            )


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


def size_of(path: Path) -> int:
    """Return a file's size in bytes; 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def has_size(path: Path, size_bytes: int) -> bool:
    """Check whether a file of this size exists."""
    return path.is_file() and path.stat().st_size == size_bytes
