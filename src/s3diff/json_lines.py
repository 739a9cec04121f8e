"""Append objects to a file, one JSON object a line, so that a killed process or a full disk costs one line at most.

The journal of a folder's run, its report, the scores of an evaluation and the finished tiles of a large picture are
such files. No torch here.
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

#: Lines may stay in the system's buffers for so long: what a power cut takes is done again. A killed process loses
#: none.
_SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        raw: its bytes, line end included.
        value: what it says; None where it is no JSON.
    """

    raw: bytes
    value: Any

    @property
    def is_cut(self) -> bool:
        """Whether its end is missing."""
        return not self.raw.endswith(b"\n")


def read_lines(path: Path) -> Iterator[Line]:
    """Read a file line by line; a file that is not there has none.

    Raises:
        OSError: it cannot be read.
    """
    with suppress(FileNotFoundError), open(path, "rb") as file:
        yield from parse_lines(file)


def parse_lines(lines: Iterable[bytes]) -> Iterator[Line]:
    """Read lines, each with its end."""
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
    """A file that grows by whole lines; threads may share it.

    Args:
        path: opened by the first line, or by :meth:`open`; its folder has to be there.
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
            OSError: the disk does not take them.
        """
        data = b"".join(encode_line(value) for value in values)
        with self._turn:
            self.open()
            self._write(data)
            if at_once or time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()

    def close(self) -> None:
        """Bring what was appended onto the disk, as far as it takes it: what it did not take was said before."""
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
        """All of it or nothing: a full disk may take the beginning of a line in silence, and the next line would be
        glued to it."""
        assert self._file is not None, "open() comes first"
        before, rest = os.fstat(self._file.fileno()).st_size, memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), before)
            raise
