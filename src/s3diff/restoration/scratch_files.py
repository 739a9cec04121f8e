"""Keep hidden files next to the target while a picture larger than memory is restored: its pixels
(``.NAME.s3diff-pixels``), the record of finished tiles (``.NAME.s3diff-tiles``), at the end the unfinished file
(``.NAME.s3diff-part``), and a lock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from s3diff.atomic_write import write_atomically
from s3diff.errors import DISK_FULL, DiskFullError, OutputError
from s3diff.json_lines import AppendedLines, encode_line, read_lines
from s3diff.messages import reason_of
from s3diff.options import RestoreOptions
from s3diff.restoration.regions import Canvas
from s3diff.tiling import HaloSpan

_SCRATCH = ("pixels", "tiles", "finished", "part")
#: libvips does not report a full disk as such: with less free space than this the disk counts as full.
_NO_ROOM_BYTES = 2**20
#: A longer target's scratch files are named by its hash: file systems end names at 255 bytes, encrypted ones at 143.
_LONGEST_NAME_BYTES = 120


@dataclass(frozen=True)
class Place:
    """Describe where a result is written.

    Attributes:
        target: the result.
        num_bytes: disk space of result and scratch files; 0 while unknown.
    """

    target: Path
    num_bytes: int = 0

    def require_room(self) -> None:
        """Require free space for everything that an earlier run has not written.

        Raises:
            DiskFullError: the space is missing.
        """
        available = self._available_bytes()
        if self.num_bytes > available:
            needed, free = self.num_bytes / 1e9, available / 1e9
            raise DiskFullError(
                f"{self.target} needs {needed:.2f} GB of disk while it is made, {free:.2f} are free; make room or "
                "choose another place"
            )

    def is_full(self) -> bool:
        """Check whether the disk is nearly full."""
        return shutil.disk_usage(self.target.parent).free < _NO_ROOM_BYTES

    def full(self) -> DiskFullError:
        """Make the error of a full disk."""
        missing = ""
        if self.num_bytes:
            missing = f", up to {max(1, self.num_bytes - self._available_bytes())} bytes were missing"
        return DiskFullError(
            f"{self.target} cannot be written: the disk is full{missing}; make room, and the same command goes on"
        )

    def _available_bytes(self) -> int:
        """Return the free space, plus the space of existing scratch files."""
        taken = 0
        for name in _SCRATCH:
            with suppress(FileNotFoundError):
                status = os.stat(scratch_path(self.target, name))
                taken += status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size
        return shutil.disk_usage(self.target.parent).free + taken


class PixelFile:
    """Keep [H, W, C] pixels in a file, indexed like an array.

    The file is not mapped: a full disk would end the process, where a write raises an error.

    Args:
        shape: (height, width, channels).
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: np.dtype) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.size = shape[0] * shape[1] * shape[2]
        self._pixel_bytes = shape[2] * self.dtype.itemsize
        self._file: IO[bytes] = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 - held until close
        try:
            self._file.truncate(self.size * self.dtype.itemsize)
        except OSError:
            self._file.close()
            raise

    def __setitem__(self, place: Any, values: np.ndarray) -> None:
        rows, columns = place if isinstance(place, tuple) else (place, slice(0, self.shape[1]))
        values = np.ascontiguousarray(values, self.dtype)
        for row, line in zip(range(rows.start, rows.stop), values, strict=True):
            self._file.seek((row * self.shape[1] + columns.start) * self._pixel_bytes)
            self._file.write(line.tobytes())

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Read whole rows."""
        start, stop = rows.start, min(rows.stop, self.shape[0])
        self._file.seek(start * self.shape[1] * self._pixel_bytes)
        data = self._file.read((stop - start) * self.shape[1] * self._pixel_bytes)
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])

    def sync(self) -> None:
        """Flush written pixels to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; write errors were raised by earlier calls."""
        with suppress(OSError):
            self._file.close()


class RecordedCanvas(Canvas):
    """Keep a canvas on the disk, with a record of finished parts that a later run continues.

    Args:
        pixels: the pixels, of the kept depth.
        record: one JSON object per line: a header, then a line for each part. Lines of another header and lines that
            were cut off do not count.
        header: input, model and options; equal headers give equal bytes.
        size, depth, options, in_grey: as of :class:`Canvas`.

    Raises:
        OSError: the record cannot be written.
    """

    def __init__(
        self,
        size: tuple[int, int],
        depth: np.dtype,
        options: RestoreOptions,
        *,
        in_grey: bool,
        pixels: PixelFile,
        record: Path,
        header: dict[str, Any],
        place: Place,
    ) -> None:
        super().__init__(size, depth, options.color_match, in_grey=in_grey, pixels=pixels)
        self._file_of_pixels, self._place = pixels, place
        self._held: set[tuple[int, int]] = set()
        lines = list(whole_lines(record))
        if lines and lines[0] == header:
            for line in lines[1:]:
                self._held.add((line["top"], line["left"]))
                self._moments = np.array(line["moments"])
        else:
            lines = [header]
        self.num_resumed = len(self._held)
        # Written anew rather than continued, so that a line cut off by a power cut is gone.
        try:
            write_atomically(b"".join(map(encode_line, lines)), record)
        except DiskFullError as error:
            raise place.full() from error
        self._record = AppendedLines(record)

    @property
    def num_held(self) -> int:
        """Number of finished parts."""
        return len(self._held)

    def holds(self, rows: HaloSpan, columns: HaloSpan) -> bool:
        return (rows.kept.start, columns.kept.start) in self._held

    def write(self, result: torch.Tensor, base: torch.Tensor, rows: HaloSpan, columns: HaloSpan) -> None:
        """See :meth:`Canvas.write`.

        Raises:
            OutputError: the write failed; the part does not count then.
        """
        with disk_errors(self._place):
            super().write(result, base, rows, columns)
            self._file_of_pixels.sync()
            corner = {"top": rows.kept.start, "left": columns.kept.start}
            self._record.append([{**corner, "moments": self._moments.tolist()}], at_once=True)
        self._held.add((rows.kept.start, columns.kept.start))

    def close(self) -> None:
        self._record.close()
        self._file_of_pixels.close()


def scratch_path(target: Path, what: str) -> Path:
    """Name a scratch file next to the target: ``pixels``, ``tiles``, ``finished``, ``part`` or ``lock``."""
    name = target.name
    if len(os.fsencode(name)) > _LONGEST_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return target.with_name(f".{name}.s3diff-{what}")


def remove_links(target: Path) -> None:
    """Remove symbolic links at the scratch files' paths: writes would follow them elsewhere."""
    for name in (*_SCRATCH, "lock"):
        if scratch_path(target, name).is_symlink():
            scratch_path(target, name).unlink()


def remove_scratch(target: Path) -> None:
    """Remove the scratch files; the part has been moved, and the lock's holder removes the lock."""
    for name in ("pixels", "tiles", "finished"):
        scratch_path(target, name).unlink(missing_ok=True)


def whole_lines(record: Path) -> Iterator[dict[str, Any]]:
    """Read the record's objects up to the first damaged line."""
    for line in read_lines(record):
        if line.is_cut or not isinstance(line.value, dict):
            return
        yield line.value


@contextmanager
def only_one(target: Path) -> Iterator[None]:
    """Let one process at a time write the target.

    Raises:
        OutputError: another one is writing the target, or the disk takes no lock.
    """
    lock = FileLock(scratch_path(target, "lock"), timeout=0)
    try:
        with disk_errors(Place(target)):
            lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"{target} is being written by another process; wait for it, or choose another name"
        ) from error
    try:
        yield
    finally:
        # Before the release: afterwards the file might be another process's lock already.
        with suppress(OSError):
            scratch_path(target, "lock").unlink(missing_ok=True)
        lock.release()


@contextmanager
def disk_errors(place: Place) -> Iterator[None]:
    """Turn errors of the target's disk into one line. Only writes belong inside: other OSErrors would be blamed on the
    target.

    Raises:
        OutputError: instead of any OSError; DiskFullError if the disk is full.
    """
    try:
        yield
    except (OutputError, Timeout):
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise place.full() from error
        raise OutputError(f"{place.target} cannot be written ({reason_of(error)}); choose another place") from error
