"""Record the jobs and the unfinished work that several services share, in a folder or an object store.

    kept/JOB.source      the picture, until the job has ended
    kept/JOB.job         the job's options and owner
    kept/JOB.result      the restored picture
    kept/JOB.end         how the job has ended; whoever writes it first is right
    live/JOB.0, .1, ...  who works on it: the service named in the highest number
    live/JOB.progress    how far it is
    live/JOB.cancel      somebody has asked for its end
    work/JOB/...         finished segments of a video, from which another service goes on
    replicas/SERVICE     a service that lives; written again every few seconds

Everything below ``live/`` and ``work/`` goes when the job has ended.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from s3diff.atomic_write import ABANDONED_SECONDS, is_leftover, remove_leftovers
from s3diff.errors import OutputError, StoreError
from s3diff.folders.stores import AlreadyThereError, Store, stamp_of_file
from s3diff.option_texts import form_options, texts_of_options
from s3diff.restoration.result import Degrees, Result
from s3diff.serving.jobs import Job, JobStatus, safe_name

#: A job at which so many services have died is given up.
MOST_TRIES = 3
_FORGET = b"forget"
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
_PROGRESS = ("state", "stage", "tile", "num_tiles", "part", "fraction", "seconds_left")
_END = ("state", "stage", "fraction", "error", "cause", "field")
_RESULT = ("name", "size", "degrees", "estimated", "seconds", "notes", "num_frames", "size_bytes")


class NoRecordError(StoreError):
    """An object at the place is none of a service's."""


class JobRecords:
    """The records of all jobs at one place.

    Raises:
        StoreError: from every method: the place cannot be reached, or holds something else.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def write_job(self, job: Job) -> None:
        """Write down a new job with its picture."""
        told = {
            "name": job.name,
            "options": texts_of_options(job.options, job.writing, job.video_options),
            "model": job.model,
            "owner": job.owner,
            "created": job.created,
            "request": job.request,
        }
        self._put(f"kept/{job.id}.source", job.source, replace=True)
        self._write(f"kept/{job.id}.job", told, replace=True)

    def read_job(self, job_id: str) -> dict[str, Any] | None:
        """Read what :func:`job_of` makes a job of; None where there is no such job."""
        return self._read(f"kept/{job_id}.job") if _JOB_ID.fullmatch(job_id) else None

    def fetch_source(self, job: Job) -> bool:
        """Put a job's picture into its folder; returns whether it is there."""
        return self._fetch(f"kept/{job.id}.source", job.source)

    def claim(self, job_id: str, number: int, service: str) -> bool:
        """Write down who works on a job; returns False where another service was faster."""
        try:
            self._put(f"live/{job_id}.{number}", service.encode(), replace=False)
        except AlreadyThereError:
            return False
        return True

    def give_back(self, job_id: str, number: int) -> None:
        """Take a claim back."""
        self._store.remove(f"live/{job_id}.{number}")

    def claimant(self, job_id: str, number: int) -> str | None:
        """Read who works on a job; None where it has ended meanwhile."""
        content = self._store.read(f"live/{job_id}.{number}")
        return None if content is None else content.decode(errors="replace")

    def write_progress(self, job: Job) -> None:
        status = job.status
        self._write(f"live/{job.id}.progress", {name: getattr(status, name) for name in _PROGRESS}, replace=True)

    def read_progress(self, job_id: str) -> dict[str, Any] | None:
        """Read how far a job is, as changes of its status; None where that is not written down."""
        return self._read(f"live/{job_id}.progress")

    def write_work(self, job_id: str, path: Path) -> None:
        """Write a file of a job's unfinished work; one that was removed meanwhile is passed over."""
        with suppress(FileNotFoundError):
            self._put(f"work/{job_id}/{path.name}", path, replace=True)

    def fetch_work(self, job: Job) -> None:
        """Put the unfinished work of another service into a job's folder."""
        for entry in list(self._store.entries(f"work/{job.id}")):
            name = entry.key.rpartition("/")[2]
            if not is_leftover(name):
                self._fetch(entry.key, job.work / name)

    def remove_work(self, job_id: str, names: Iterable[str] | None = None) -> None:
        """Remove files of a job's unfinished work; None for all of them."""
        if names is not None:
            for name in names:
                self._store.remove(f"work/{job_id}/{name}")
            return
        for entry in list(self._store.entries(f"work/{job_id}")):
            self._store.remove(entry.key)
        if (folder := self._store.local_path(f"work/{job_id}")) is not None:
            with suppress(OSError):
                folder.rmdir()

    def jobs_with_work(self) -> set[str]:
        folders = {entry.key.rpartition("/")[0].rpartition("/")[2] for entry in self._store.entries("work")}
        return set(filter(_JOB_ID.fullmatch, folders))

    def ask_for_end(self, job: Job) -> None:
        """Have the service that works on a job end it, and forget it where the job says so."""
        self._put(f"live/{job.id}.cancel", _FORGET if job.is_forgotten else b"", replace=True)

    def is_to_be_forgotten(self, job_id: str) -> bool:
        """Check whether a cancelled job is to be forgotten at its end."""
        return self._store.read(f"live/{job_id}.cancel") == _FORGET

    def write_end(self, job_id: str, status: JobStatus) -> None:
        """Write down how a job has ended, with its result, unless that is written down already.

        A job that is to be forgotten is removed instead, whenever that was asked.
        """
        result, made = status.result, None
        if result is not None:
            self._put(f"kept/{job_id}.result", result.path, replace=True)
            made = {name: getattr(result, name) for name in _RESULT}
        told = {"status": {name: getattr(status, name) for name in _END}, "result": made, "ended": time.time()}
        # Another service that was taken for dead, or took this one for it, has made the same.
        with suppress(AlreadyThereError):
            self._write(f"kept/{job_id}.end", told, replace=False)
        if self.is_to_be_forgotten(job_id):
            self.remove(job_id)
        else:
            self.clear(job_id)

    def has_ended(self, job_id: str) -> bool:
        return self._store.find(f"kept/{job_id}.end") is not None

    def read_end(self, job: Job) -> dict[str, Any] | None:
        """Read how a job has ended, as changes of its status; None where it has not.

        Its result is put into the job's folder.
        """
        told = self._read(f"kept/{job.id}.end")
        if told is None:
            return None
        result = None
        if told["result"] is not None:
            facts = dict(told["result"])
            path = job.folder / "result" / safe_name(facts.pop("name"))
            if not self._fetch(f"kept/{job.id}.result", path):
                return None  # it is being removed
            facts |= {name: Degrees(*facts[name]) for name in ("degrees", "estimated")}
            facts |= {"size": tuple(facts["size"]), "notes": tuple(facts["notes"])}
            result = Result(**facts, options=job.options, in_file=path)
        return {**told["status"], "result": result}

    def end_facts(self, job_id: str) -> tuple[float, int] | None:
        """Read when a job has ended, in seconds since the epoch, and the bytes of its result."""
        told = self._read(f"kept/{job_id}.end")
        return None if told is None else (told["ended"], (told["result"] or {}).get("size_bytes", 0))

    def clear(self, job_id: str) -> None:
        """Remove the files that are needed only until a job has ended."""
        self.remove_work(job_id)
        # The highest claim goes last, so that nobody takes the job for an abandoned one meanwhile.
        for key in (f"kept/{job_id}.source", f"live/{job_id}.progress", f"live/{job_id}.cancel"):
            self._store.remove(key)
        for number in range(MOST_TRIES):
            self._store.remove(f"live/{job_id}.{number}")

    def remove(self, job_id: str) -> None:
        """Remove everything about a job."""
        for kind in ("job", "end", "result"):
            self._store.remove(f"kept/{job_id}.{kind}")
        self.clear(job_id)

    def list(self, folder: str) -> dict[str, set[str]]:
        """List the jobs of ``live`` or ``kept``, each with its records."""
        found: dict[str, set[str]] = defaultdict(set)
        for entry in self._store.entries(folder):
            job_id, _, kind = entry.key.rpartition("/")[2].rpartition(".")
            if _JOB_ID.fullmatch(job_id):
                found[job_id].add(kind)
        return found

    def remove_leftovers(self) -> None:
        """Remove what services that were killed left unfinished, where the place is a folder."""
        for folder in ("kept", "live", "replicas"):
            if (path := self._store.local_path(folder)) is not None:
                remove_leftovers(path, older_than_seconds=ABANDONED_SECONDS)

    def beat(self, service: str, number: int) -> None:
        """Write that a service lives. The content changes, since some stores' stamps are made of it."""
        self._put(f"replicas/{service}", str(number).encode(), replace=True)

    def services(self) -> dict[str, str]:
        """Read the stamps of all services' records."""
        return {entry.key.rpartition("/")[2]: entry.stamp for entry in self._store.entries("replicas")}

    def leave(self, service: str) -> None:
        """Remove a service's record: it is dead for all others."""
        self._store.remove(f"replicas/{service}")

    def _write(self, key: str, told: dict[str, Any], *, replace: bool) -> None:
        self._put(key, json.dumps(told).encode(), replace=replace)

    def _put(self, key: str, data: bytes | Path, *, replace: bool) -> None:
        try:
            self._store.write(key, data, replace=replace)
        except AlreadyThereError:
            raise
        except OutputError as error:  # of a folder
            raise StoreError(str(error)) from error

    def _read(self, key: str) -> dict[str, Any] | None:
        content = self._store.read(key)
        if content is None:
            return None
        try:
            told = json.loads(content)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise NoRecordError(f"{self._store.address(key)} is no record of a job; give a place of its own to jobs")
        return told

    def _fetch(self, key: str, path: Path) -> bool:
        """Copy an object into a file; returns whether there is one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        local = self._store.local_path(key)
        try:
            if local is not None:
                shutil.copyfile(local, path)
                return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"{local} cannot be read ({error.strerror}); check the place") from error
        content = self._store.read(key)
        if content is not None:
            path.write_bytes(content)
        return content is not None


def job_of(job_id: str, told: dict[str, Any], folder: Path, kind: type[Job] = Job) -> Job:
    """Make a job of what :meth:`JobRecords.read_job` has read.

    Args:
        folder: holds the job's own.

    Raises:
        OptionError: it has options that this version does not know.
    """
    options, writing, video_options = form_options(told["options"])
    job = kind(
        name=told["name"], options=options, writing=writing, model=told["model"], owner=told["owner"], folder=folder,
        video_options=video_options, job_id=job_id, created=told["created"],
    )  # fmt: skip
    job.request = told["request"]
    return job


class SharedWork:
    """Mirror the work folders of own videos.

    Args:
        service: this service's name in them.
    """

    def __init__(self, records: JobRecords, service: str) -> None:
        self._records, self._service = records, service
        self._lock = threading.Lock()
        #: Of each job: the name and the stamp of each file that is written down.
        self._there: dict[str, dict[str, str]] = {}

    def fetch(self, job: Job) -> None:
        """Put the work of another service into a job's folder, for :func:`restore_video`, which checks it."""
        from s3diff.restoration.video import kept_files

        self._records.fetch_work(job)
        found = {path.name: stamp_of_file(path) for path in kept_files(job.work)}
        with self._lock:
            self._there[job.id] = {name: stamp for name, stamp in found.items() if stamp is not None}

    def keep(self, jobs: Sequence[Job]) -> None:
        """Write these jobs' new segments, and remove those of no use any more.

        Raises:
            StoreError, OutputError: the place cannot be reached, or is full; the next call goes on.
        """
        with self._lock:
            for job_id in set(self._there) - {job.id for job in jobs}:
                del self._there[job_id]
            for job in jobs:
                self._keep(job)

    def _keep(self, job: Job) -> None:
        from s3diff.restoration.video import kept_files

        there = self._there.setdefault(job.id, {})
        stamps = {path: stamp_of_file(path) for path in kept_files(job.work)}
        here = {path: stamp for path, stamp in stamps.items() if stamp is not None}
        if not here or {path.name: stamp for path, stamp in here.items()} == there:
            return
        # The folder of a job that has ended, or of a service that is ending, is being removed.
        if job.is_cancelled or job.status.is_final or not self._is_own(job.id):
            return
        if any(there.get(path.name, stamp) != stamp for path, stamp in here.items() if path.suffix == ".json"):
            self._forget(job.id, [name for name in there if not name.endswith(".json")])  # of other work
        for path, stamp in here.items():
            if there.get(path.name) != stamp:
                self._records.write_work(job.id, path)
                there[path.name] = stamp
        self._forget(job.id, set(there) - {path.name for path in here})

    def _forget(self, job_id: str, names: Sequence[str] | set[str]) -> None:
        self._records.remove_work(job_id, names)
        for name in names:
            del self._there[job_id][name]

    def _is_own(self, job_id: str) -> bool:
        """Check whether no other service has taken the job over, or ended it."""
        claimants = (self._records.claimant(job_id, number) for number in reversed(range(MOST_TRIES)))
        return next((each for each in claimants if each is not None), None) == self._service
