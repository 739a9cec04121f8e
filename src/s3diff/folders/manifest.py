"""What a run over stores has done, in the output itself: a run that comes after it goes on from there.

The manifest is a folder of JSON-lines objects, each whole or not there at all. Every object begins with a header that
says what is made of the pictures. Workers keep one *flight* for each task: its pictures that are begun, and those that
have ended. The run gathers the ends in *parts* and removes the flights that a part covers. A result that is there and
was begun for the same source is this run's own, even if its end was not written down: results appear whole.

Names begin with the time at which the run started, so that their order is the order of runs. What an earlier run with
another model or other options wrote down does not count from the moment such a run has begun.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from s3diff.errors import OutputError
from s3diff.folders.stores import Store
from s3diff.json_lines import encode_line, parse_lines

#: The folder of the manifest, inside the output.
MANIFEST_FOLDER = ".s3diff-manifest"
_KIND, _VERSION = "s3diff cluster restore", 1
#: A part is written when so many pictures have ended since the last one, or after so many seconds.
_PART_ROWS, _PART_SECONDS = 5000, 10.0
#: A task whose worker has died so often restores its pictures one by one; a picture at which it then dies so often
#: fails.
_SUSPICIOUS_TRIES, DEADLY_TRIES = 3, 2
#: A flight is written again while its pictures end, at most so often.
_FLIGHT_SECONDS = 5.0


def run_id() -> str:
    """Name a run that starts now; later runs have later names."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")


class Manifest:
    """The manifest of one run, held by the process that leads it.

    Args:
        store: the output.
        run: what is made of the pictures (model and options); entries of another run do not count.
        run_id: the name of this run; see :func:`run_id`.

    Raises:
        OutputError: what lies there is no manifest, or one of another version.
        StoreError: the store cannot be reached.
    """

    def __init__(self, store: Store, run: Mapping[str, Any], run_id: str) -> None:
        self.run_id = run_id
        self._store, self._header = store, _header(run)
        self._done: dict[str, str] = {}
        self._begun: dict[str, str] = {}
        #: Ends that only flights of interrupted runs hold, by target.
        self._only_in_flights: dict[str, dict[str, Any]] = {}
        self._flights: set[str] = set()
        self._rows: list[Mapping[str, Any]] = []
        self._num_parts, self._written = 0, time.monotonic()
        self._load()

    def is_own(self, target: str, stamp: str) -> bool:
        """Whether a result that is there was made by this run, from the source as it is now."""
        return any(known.get(target) == stamp for known in (self._done, self._begun))

    def was_begun(self, target: str) -> bool:
        """Whether an interrupted run may have left something half written of this result."""
        return target in self._begun

    def adopt(self, source: str, target: str, stamp: str) -> None:
        """Write down a result that is there and whose end no part holds: an interrupted run made it."""
        if self._done.get(target) != stamp or target in self._only_in_flights:
            recovered = {"state": "done", "source": source, "target": target, "stamp": stamp, "recovered": True}
            self._rows.append(self._only_in_flights.pop(target, recovered))

    def add(self, rows: Iterable[Mapping[str, Any]], flight: str | None = None) -> None:
        """Add how pictures ended; a part is written now and then.

        Args:
            rows: of one task.
            flight: the object that holds these rows until a part does.

        Raises:
            StoreError: the store cannot be reached.
        """
        self._rows += rows
        if flight is not None:
            self._flights.add(flight)
        if len(self._rows) >= _PART_ROWS or time.monotonic() - self._written > _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write a part with everything that was added, and remove the flights that it covers.

        Raises:
            StoreError: the store cannot be reached.
        """
        if self._rows:
            key = f"{MANIFEST_FOLDER}/{self.run_id}-part-{self._num_parts:06d}.jsonl"
            self._store.write(key, _encode([self._header, *self._rows]), replace=True)
            self._num_parts, self._rows = self._num_parts + 1, []
        for flight in self._flights:
            self._store.remove(flight)
        self._flights.clear()
        self._written = time.monotonic()

    def _load(self) -> None:
        last: Any = None
        for key in _keys(self._store):
            content = self._store.read(key)
            if content is None:  # a flight that was removed meanwhile
                continue
            lines = [line.value for line in parse_lines(content.splitlines(keepends=True))]
            header = lines[0] if lines and isinstance(lines[0], dict) else {}
            if header.get("manifest") != _KIND or header.get("version") != _VERSION:
                raise OutputError(
                    f"{self._store.address(key)} is no manifest of this version of s3diff; choose another output, or "
                    "move it away"
                )
            if header != last:
                self._done.clear()
                self._begun.clear()
                self._only_in_flights.clear()
                last = header
            is_flight = "-flight-" in key
            if is_flight:
                self._flights.add(key)
            self._take(lines[1:], is_flight)
        if last != self._header:
            self._done.clear()
            self._begun.clear()
            self._only_in_flights.clear()

    def _take(self, entries: list[Any], is_flight: bool) -> None:
        for entry in entries:
            if not isinstance(entry, dict):
                continue
            if isinstance(entry.get("begun"), str):
                self._begun[entry["begun"]] = entry["stamp"]
            elif entry.get("state") == "done":
                self._done[entry["target"]] = entry["stamp"]
                if is_flight:
                    self._only_in_flights[entry["target"]] = entry
                else:
                    self._only_in_flights.pop(entry["target"], None)


class Flight:
    """The pictures of one task, written down by the worker that restores them.

    A task that is run again, since its worker died, finds what the first try has written.

    Args:
        store: the output.
        run: see :class:`Manifest`.
        run_id: of the run.
        targets: of the task, with their stamps; those that replace nothing.
        name: of the task: the same whenever it is run.

    Raises:
        StoreError: the store cannot be reached.
    """

    def __init__(
        self, store: Store, run: Mapping[str, Any], run_id: str, targets: Iterable[tuple[str, str]], name: str
    ) -> None:
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        self.key = f"{MANIFEST_FOLDER}/{run_id}-flight-{digest}.jsonl"
        self._store = store
        earlier = store.read(self.key)
        #: How pictures ended in an earlier try, by target.
        self.ended: dict[str, dict[str, Any]] = {}
        #: Earlier tries of this task.
        self.num_tries = 0
        self._alone: Counter[str] = Counter()
        for line in parse_lines((earlier or b"").splitlines(keepends=True)):
            value = line.value if isinstance(line.value, dict) else {}
            if "state" in value:
                self.ended[value["target"]] = value
            self.num_tries += value.get("try", 0)
            self._alone.update([value["alone"]] if "alone" in value else [])
        self._lines: list[Mapping[str, Any]] = [
            _header(run),
            *({"begun": target, "stamp": stamp} for target, stamp in targets),
            *({"alone": target} for target in self._alone.elements()),
            *({"try": 1} for _ in range(self.num_tries + 1)),
            *self.ended.values(),
        ]
        self._is_written = False
        self.flush()

    @property
    def is_suspicious(self) -> bool:
        """Whether so many workers have died of this task that one of its pictures may be the reason."""
        return self.num_tries >= _SUSPICIOUS_TRIES

    def is_deadly(self, target: str) -> bool:
        """Whether workers have died while they restored this picture and no other."""
        return self._alone[target] >= DEADLY_TRIES

    def begin_alone(self, target: str) -> None:
        """Write down that this picture is restored now and no other.

        Raises:
            StoreError: the store cannot be reached.
        """
        self._lines.append({"alone": target})
        self._is_written = False
        self.flush()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add how a picture ended.

        Raises:
            StoreError: the store cannot be reached.
        """
        self._lines.append(row)
        self._is_written = False
        if time.monotonic() - self._written > _FLIGHT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added.

        Raises:
            StoreError: the store cannot be reached.
        """
        if not self._is_written:
            self._store.write(self.key, _encode(self._lines), replace=True)
        self._is_written, self._written = True, time.monotonic()


def read_manifest(store: Store) -> Iterator[dict[str, Any]]:
    """Read how the pictures of a store's runs ended, from every part, in the order of the runs.

    Raises:
        StoreError: the store cannot be reached.
    """
    for key in _keys(store):
        for line in parse_lines((store.read(key) or b"").splitlines(keepends=True)) if "-part-" in key else ():
            if isinstance(line.value, dict) and "state" in line.value:
                yield line.value


def _keys(store: Store) -> list[str]:
    return sorted(entry.key for entry in store.entries(MANIFEST_FOLDER) if entry.key.endswith(".jsonl"))


def _header(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"manifest": _KIND, "version": _VERSION, "run": json.loads(json.dumps(run))}


def _encode(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(encode_line(line) for line in lines)
