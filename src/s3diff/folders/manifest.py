"""Record the progress of a run over stores in the output itself, so that the next run resumes.

The manifest is a folder of JSON-lines objects, each written whole. Every object begins with a header: model and
options. A worker writes one *flight* per task: the pictures it has begun and the outcomes so far. The leading process
collects outcomes in *parts* and removes the flights that a part covers. An existing result that was begun for the
same source is this run's own even if its outcome is missing, since results appear whole.

Names begin with the run's start time, so that they sort in the order of runs. Once a run with another model or other
options has begun, the entries of earlier runs do not count.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from s3diff.atomic_write import ABANDONED_SECONDS, remove_leftovers
from s3diff.errors import OutputError
from s3diff.folders.stores import Store
from s3diff.json_lines import encode_line, parse_lines

#: The folder of the manifest, inside the output.
MANIFEST_FOLDER = ".s3diff-manifest"
_KIND, _VERSION = "s3diff cluster restore", 1
#: A part is written after this many outcomes or seconds.
_PART_ROWS, _PART_SECONDS = 5000, 60.0
#: After this many tries a task restores its pictures one by one; a picture that ends this many of them fails.
_SUSPICIOUS_TRIES, DEADLY_TRIES = 3, 2
#: Least time between two writes of a flight.
_FLIGHT_SECONDS = 5.0


def run_id() -> str:
    """Name a run by the time at which it starts."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")


class Manifest:
    """Hold the manifest of one run in its leading process.

    Args:
        store: the output.
        run: model and options; entries of another run do not count.
        run_id: the name of this run; see :func:`run_id`.

    Raises:
        OutputError: the folder holds something else, or a manifest of another version.
        StoreError: by every method that writes, too: the store cannot be reached.
    """

    def __init__(self, store: Store, run: Mapping[str, Any], run_id: str) -> None:
        self.run_id = run_id
        self._store, self._header = store, _header(run)
        self._done: dict[str, str] = {}
        self._begun: dict[str, str] = {}
        #: What only flights of interrupted runs hold, by target: outcomes, and pictures that were begun.
        self._only_in_flights: dict[str, dict[str, Any]] = {}
        self._flights: set[str] = set()
        self._num_parts, self._written = 0, time.monotonic()
        self._load()
        #: Of the next part. The flights go with it, and their pictures need not be among those of this run.
        self._rows: list[Mapping[str, Any]] = list(self._only_in_flights.values())

    def is_own(self, target: str, stamp: str) -> bool:
        """Check whether this run made an existing result, from the source as it is now."""
        return any(known.get(target) == stamp for known in (self._done, self._begun))

    def was_begun(self, target: str) -> bool:
        """Check whether an interrupted run may have left this result half written."""
        return target in self._begun

    def adopt(self, source: str, target: str, stamp: str) -> None:
        """Record an existing result whose outcome was not written down: an interrupted run made it."""
        if self._done.get(target) != stamp:
            self._rows.append({"state": "done", "source": source, "target": target, "stamp": stamp, "recovered": True})

    def add(self, rows: Iterable[Mapping[str, Any]], flight: str | None = None) -> None:
        """Add the outcomes of one task; write a part from time to time.

        Args:
            flight: the object that holds these rows until a part does.
        """
        self._rows += rows
        if flight is not None:
            self._flights.add(flight)
        if len(self._rows) >= _PART_ROWS or time.monotonic() - self._written > _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write a part with all added outcomes, and remove the flights that it covers."""
        if self._rows:
            key = f"{MANIFEST_FOLDER}/{self.run_id}-part-{self._num_parts:06d}.jsonl"
            self._store.write(key, _encode([self._header, *self._rows]), replace=True)
            self._num_parts, self._rows = self._num_parts + 1, []
        for flight in self._flights:
            self._store.remove(flight)
        self._flights.clear()
        self._written = time.monotonic()

    def _load(self) -> None:
        if (folder := self._store.local_path(MANIFEST_FOLDER)) is not None:
            remove_leftovers(folder, older_than_seconds=ABANDONED_SECONDS)
        last: Any = None
        for key in _keys(self._store):
            content = self._store.read(key)
            if content is None:  # a flight that was removed meanwhile
                continue
            header, *entries = _decode(content) or [{}]
            if header.get("manifest") != _KIND or header.get("version") != _VERSION:
                raise OutputError(
                    f"{self._store.address(key)} is no manifest of this version of s3diff; choose another output, or "
                    "move it away"
                )
            if header != last:
                self._forget()
                last = header
            is_flight = "-flight-" in key
            if is_flight:
                self._flights.add(key)
            self._take(entries, is_flight)
        if last != self._header:
            self._forget()

    def _forget(self) -> None:
        for known in (self._done, self._begun, self._only_in_flights):
            known.clear()

    def _take(self, entries: list[dict[str, Any]], is_flight: bool) -> None:
        for entry in entries:
            if isinstance(target := entry.get("begun"), str):
                self._begun[target] = entry["stamp"]
            elif entry.get("state") == "done":
                target = entry["target"]
                self._done[target] = entry["stamp"]
            else:
                continue
            if is_flight:
                self._only_in_flights[target] = entry
            else:
                self._only_in_flights.pop(target, None)


class Flight:
    """Record the pictures of one task, in the worker that restores them.

    A task that is repeated because its worker died reads the records of the earlier tries.

    Args:
        store, run, run_id: see :class:`Manifest`.
        targets: the task's targets that replace nothing, with the stamps of their sources.
        name: the task's name, the same in every try.

    Raises:
        StoreError: by every method that writes, too: the store cannot be reached.
    """

    def __init__(
        self, store: Store, run: Mapping[str, Any], run_id: str, targets: Iterable[tuple[str, str]], name: str
    ) -> None:
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        self.key = f"{MANIFEST_FOLDER}/{run_id}-flight-{digest}.jsonl"
        self._store = store
        #: Outcomes of earlier tries, by target.
        self.ended: dict[str, dict[str, Any]] = {}
        #: Number of earlier tries.
        self.num_tries = 0
        self._alone: Counter[str] = Counter()
        for value in _decode(store.read(self.key)):
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
        """Check whether so many workers have died that one of the task's pictures may be the cause."""
        return self.num_tries >= _SUSPICIOUS_TRIES

    def is_deadly(self, target: str) -> bool:
        """Check whether enough workers have died while restoring this picture only."""
        return self._alone[target] >= DEADLY_TRIES

    def begin_alone(self, target: str) -> None:
        """Record that the worker now restores this picture and no other."""
        self._lines.append({"alone": target})
        self._is_written = False
        self.flush()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the outcome of a picture."""
        self._lines.append(row)
        self._is_written = False
        if time.monotonic() - self._written > _FLIGHT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all added outcomes."""
        if not self._is_written:
            self._store.write(self.key, _encode(self._lines), replace=True)
        self._is_written, self._written = True, time.monotonic()


def read_manifest(store: Store) -> Iterator[dict[str, Any]]:
    """Read the outcomes of all runs of a store from every part, in the order of the runs.

    Raises:
        StoreError: the store cannot be reached.
    """
    for key in _keys(store):
        if "-part-" in key:
            yield from (entry for entry in _decode(store.read(key)) if "state" in entry)


def _keys(store: Store) -> list[str]:
    return sorted(entry.key for entry in store.entries(MANIFEST_FOLDER) if entry.key.endswith(".jsonl"))


def _header(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"manifest": _KIND, "version": _VERSION, "run": json.loads(json.dumps(run))}


def _encode(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(encode_line(line) for line in lines)


def _decode(content: bytes | None) -> list[dict[str, Any]]:
    """Return the objects of the lines; one that was cut off, or is no object, is an empty one."""
    values = (line.value for line in parse_lines((content or b"").splitlines(keepends=True)))
    return [value if isinstance(value, dict) else {} for value in values]
