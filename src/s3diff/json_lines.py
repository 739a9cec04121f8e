"""Append objects to a file, one JSON object per line, so that a killed process or a full disk costs one line at most.

Journals and reports of folder runs, scores of evaluations, logs of trainings and records of finished tiles are such
files. No torch here.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

#: Longest time of lines in the system's buffers: work lost in a power cut is repeated. A killed process loses none.
_SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class Line:
    """Hold one line of a file.

    Attributes:
        raw: its bytes, line end included.
        value: its value; None if it is no JSON.
    """

    raw: bytes
    value: Any

    @property
    def is_cut(self) -> bool:
        """Whether the line's end is missing."""
        return not self.raw.endswith(b"\n")


def read_lines(path: Path) -> Iterator[Line]:
    """Read a file line by line; a missing file has none.

    Raises:
        OSError: it cannot be read.
    """
    with suppress(FileNotFoundError), open(path, "rb") as file:
        yield from parse_lines(file)


def parse_lines(lines: Iterable[bytes]) -> Iterator[Line]:
    """Parse lines, each with its end."""
    for raw in lines:
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        yield Line(raw, value)


def encode_line(value: Mapping[str, Any]) -> bytes:
    """Encode one line, its end included."""
    return json.dumps(value).encode() + b"\n"


class AppendedLines:
    """Append whole lines to a file; threads may share it.

    Args:
        path: opened by the first line, or by :meth:`open`; its folder has to exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._turn = threading.Lock()
        self._synced = time.monotonic()

    def open(self) -> None:
        """Open the file, and end a line that was cut off.

        Raises:
            OSError: it cannot be written.
        """
        if self._file is None:
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - held until close
            if self._file.seek(0, os.SEEK_END) > 0:
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._write(b"\n")

    def append(self, values: Iterable[Mapping[str, Any]], *, at_once: bool = False) -> None:
        """Append lines: all of them, or none.

        Args:
            values: one object a line.
            at_once: whether they have to be on the disk when this returns.

        Raises:
            OSError: the write failed.
        """
        data = b"".join(encode_line(value) for value in values)
        with self._turn:
            self.open()
            self._write(data)
            if at_once or time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()

    def close(self) -> None:
        """Flush the appended lines to the disk; failures were raised by earlier calls."""
        with suppress(OSError):
            self._sync()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _write(self, data: bytes) -> None:
        """Write all or nothing: a full disk may silently take the beginning of a line, which the next one would
        continue.
        """
        assert self._file is not None, "open() comes first"
        before, rest = os.fstat(self._file.fileno()).st_size, memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), before)
            raise
