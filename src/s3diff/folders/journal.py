"""Record a folder run's progress in a file that survives a power cut, so that the next run resumes.

One JSON object per line, appended and never changed: a header with model and options, a line for each picture that
is begun, and one for each that is done or failed. The header is written with the first picture, so that a refused run
leaves no trace. A line that was cut off, or that a power cut filled with zeros, counts as not written; its picture is
restored again. The same holds for a journal with nothing but a header that was cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from s3diff.errors import OutputError
from s3diff.json_lines import AppendedLines, Line, read_lines
from s3diff.messages import reason_of

#: How the name of a folder's journal begins, inside the output folder.
JOURNAL_NAME = ".s3diff-journal"
_KIND = "s3diff restore"
_VERSION = 1

#: Size in bytes and time of change in nanoseconds: a source that has another stamp is another picture.
Stamp = tuple[int, int]


def stamp_of(path: Path) -> Stamp | None:
    """Return a file's stamp; None if there is no such file."""
    with suppress(OSError, ValueError):
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    return None


def results_written_down(path: Path) -> Iterator[str]:
    """List the results that a journal names, of any run, as paths below its output folder."""
    with suppress(OSError):
        for line in read_lines(path):
            entry = line.value if isinstance(line.value, dict) else {}
            ended = entry.get("ended") if entry.get("state") == "done" else None
            for target in (entry.get("begun"), ended):
                if isinstance(target, str):
                    yield target


class Journal:
    """Hold an open journal; one process at a time.

    Args:
        path: the file; created, with its folder, on the first write.
        run: model and options. Entries of another run do not count.

    Raises:
        OutputError: another process holds the file, it is no journal, or it cannot be written.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path = path
        self.done: dict[str, Stamp | None] = {}
        self.begun: dict[str, Stamp | None] = {}
        self._run = json.loads(json.dumps(run))
        self._lines = AppendedLines(path)
        self._new_folders = [folder for folder in path.parents if not os.path.exists(folder)]
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give --journal a file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(f"{path}.lock", timeout=0)
            self._lock.acquire()
        except Timeout as error:
            raise OutputError(
                f"{path} is in use by another process that restores into this folder; wait for it, or give each "
                "process its own --shard"
            ) from error
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({reason_of(error)}); choose another --journal") from error
        try:
            self._is_headed = self._load()
            if path.exists():
                with open(path, "ab"):  # whether it may be written
                    pass
        except OutputError:
            self._lock.release()
            raise
        except OSError as error:
            self._lock.release()
            raise OutputError(f"{path} cannot be used ({reason_of(error)}); choose another --journal") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        with suppress(OSError):
            os.unlink(f"{self.path}.lock")  # before the release: afterwards it might be another process's
        self._lock.release()
        for folder in self._new_folders:
            with suppress(OSError):  # only those that are empty
                folder.rmdir()

    def begin(self, targets: Iterable[tuple[str, Stamp | None]]) -> None:
        """Record outputs before they are made: a file found there later is this run's own.

        Raises:
            OutputError: the disk does not take it.
        """
        new = dict(targets)
        self._append([{"begun": target, "stamp": stamp} for target, stamp in new.items()], at_once=True)
        self.begun.update(new)

    def finish(self, target: str, stamp: Stamp | None, outcome: Mapping[str, Any]) -> None:
        """Record how a picture ended. ``outcome`` holds ``state`` and further facts for readers.

        Raises:
            OutputError: the disk does not take it.
        """
        self._append([{"ended": target, "stamp": stamp, **outcome}])
        if outcome.get("state") == "done":
            self.done[target] = stamp

    def is_own(self, target: str, stamp: Stamp | None) -> bool:
        """Check whether this run made an existing output, from the source as it is now.

        Outputs appear whole: one that was begun and exists is complete, even if the process died before recording it.
        """
        return any(known.get(target, "") == stamp for known in (self.done, self.begun))

    def _load(self) -> bool:
        """Read the entries; return whether the last header is this run's."""
        last_run: Any = None
        is_journal, is_foreign = False, False
        for line in read_lines(self.path):
            entry = line.value
            if entry is None:  # cut off
                is_foreign |= not _is_rest_of_header(line)
            elif not isinstance(entry, dict):
                is_foreign = True
            elif entry.get("journal") == _KIND and entry.get("version") != _VERSION:
                raise OutputError(
                    f"{self.path} is the journal of another version of s3diff; go on with that one, or choose "
                    "another --journal"
                )
            elif entry.get("journal") == _KIND:
                if entry.get("run") != last_run:
                    self.done.clear()
                    self.begun.clear()
                is_journal, last_run = True, entry.get("run")
            elif isinstance(entry.get("begun"), str):
                self.begun[entry["begun"]] = _stamp(entry)
            elif isinstance(entry.get("ended"), str):
                if entry.get("state") == "done":
                    self.done[entry["ended"]] = _stamp(entry)
            else:
                is_foreign = True
        if is_foreign and not is_journal:
            raise OutputError(f"{self.path} is no journal of s3diff restore; choose another --journal")
        if last_run != self._run:
            self.done.clear()
            self.begun.clear()
        return is_journal and last_run == self._run

    def _append(self, entries: list[dict[str, Any]], at_once: bool = False) -> None:
        try:
            if not self._is_headed:
                # On the disk before any line that it holds for.
                self._lines.append([{"journal": _KIND, "version": _VERSION, "run": self._run}], at_once=True)
                self._is_headed = True
            self._lines.append(entries, at_once=at_once)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written ({reason_of(error)}); make room and run again") from error


def _is_rest_of_header(line: Line) -> bool:
    """Check whether bytes are the remains of a first line after a power cut: a beginning of it, zeros, or both."""
    start = json.dumps({"journal": _KIND})[:-1].encode()
    kept = line.raw.strip(b"\0\n")
    return start.startswith(kept) or kept.startswith(start)


def _stamp(entry: Mapping[str, Any]) -> Stamp | None:
    stamp = entry.get("stamp")
    return (stamp[0], stamp[1]) if isinstance(stamp, list) and len(stamp) == 2 else None
