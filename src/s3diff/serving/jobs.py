"""Hold a picture's work and its files, for a bounded time and space."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from s3diff.errors import JobNotFoundError
from s3diff.images.files.video import Video
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.result import Result
from s3diff.restoration.sizes import Sizes
from s3diff.service_errors import NO_JOB, Cause
from s3diff.serving.limits import ServiceLimits
from s3diff.serving.logs import request_id
from s3diff.video_options import VideoOptions

State = Literal["queued", "running", "done", "failed", "cancelled"]
Stage = Literal["waiting", "reading", "estimating", "restoring", "writing", "ended"]
#: What progress counts: the tiles of a picture, the frames of an animation or a video, the pages of a TIFF.
Part = Literal["tile", "frame", "page"]

Kept = TypeVar("Kept")

_MAX_NAME_CHARACTERS = 120
#: Random bytes of a job's id.
_ID_BYTES = 24
#: Names that Windows gives to devices, whatever their extension.
_DEVICE_NAMES = frozenset(["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))])


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """Hold a job's state as one consistent value.

    Attributes:
        tile: finished tiles, while restoring; for an animation its frames; for a video those that were looked at
            (``estimating``) or restored.
        num_tiles: tiles in all, 0 while unknown.
        fraction: finished share of the work, in [0, 1]; an estimate.
        seconds_left: time left for this picture; None while unknown.
        error: why the job failed, in one sentence.
        cause: code of :data:`s3diff.service_errors.SERVICE_ERRORS`, of a failed job.
        field: the field of the form at fault, of a failed job.
        result: for a job that is done; in a file, with the user's own name of the picture in its notes.
    """

    state: State = "queued"
    stage: Stage = "waiting"
    tile: int = 0
    num_tiles: int = 0
    part: Part = "tile"
    fraction: float = 0.0
    seconds_left: float | None = None
    error: str | None = None
    cause: Cause | None = None
    field: str | None = None
    result: Result | None = None

    @property
    def is_final(self) -> bool:
        """Whether the state cannot change any more."""
        return self.state in ("done", "failed", "cancelled")


class Job:
    """Hold one picture's work. Threads may read it and wait for it; only the service changes it.

    Attributes:
        id: unguessable; whoever knows it and is its owner may ask for the job.
        name: the picture's file name without folders.
        writing: how the result is named and written.
        video_options: how it is made and encoded, if it is a video.
        owner: the client; None if the service has no tokens.
        created: in seconds since the epoch.
        folder: holds the picture and the result, and nothing else.
        work: the folder of a video's unfinished work.
        request: id of the request with the picture, for logs.
        sizes: the picture's sizes, by its header; of every frame of a video.
        video: what is known of a video; None for a picture.
        target: the result of a video.
    """

    def __init__(
        self,
        *,
        name: str,
        options: RestoreOptions,
        writing: OutputOptions,
        model: str,
        owner: str | None,
        folder: Path,
        video_options: VideoOptions | None = None,
        job_id: str | None = None,
        created: float | None = None,
    ) -> None:
        self.id = secrets.token_urlsafe(_ID_BYTES) if job_id is None else job_id
        self.name = safe_name(name)
        self.options, self.writing, self.model, self.owner = options, writing, model, owner
        self.created = time.time() if created is None else created
        self.request = request_id.get()
        self._taken_at = time.monotonic()
        self.folder = folder / self.id
        self.source = self.folder / "source" / self.name
        self.work = self.folder / "work"
        self.video_options = VideoOptions() if video_options is None else video_options
        self.sizes: Sizes | None = None
        self.video: Video | None = None
        self.target: Path | None = None
        #: Whether the job is removed when it ends.
        self.is_forgotten = False
        #: Whether the result was requested.
        self.is_fetched = False
        self.ended_at: float | None = None  # of time.monotonic
        self._status = JobStatus()
        self._changed = threading.Condition()
        self._listeners: list[Callable[[JobStatus], None]] = []
        self._cancelled = threading.Event()

    @property
    def status(self) -> JobStatus:
        return self._status

    @property
    def seconds(self) -> float:
        """Time from submission to the end, or to now."""
        return (self.ended_at or time.monotonic()) - self._taken_at

    @property
    def is_cancelled(self) -> bool:
        """Whether the job is cancelled; its work may still run for a moment."""
        return self._cancelled.is_set()

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait for the end, at most this many seconds; return the state then."""
        with self._changed:
            self._changed.wait_for(lambda: self._status.is_final, timeout)
            return self._status

    def subscribe(self, listener: Callable[[JobStatus], None]) -> Callable[[], None]:
        """Call a quick function with every new status, in the thread that changes it.

        Returns:
            A function that ends the subscription.
        """
        with self._changed:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._changed, suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def cancel(self) -> None:
        """Cancel the job: at once while it waits, within a layer of the network while it runs."""
        self._cancelled.set()

    def worded(self, message: object) -> str:
        """Write a message or error on one line, with the user's own name of the file."""
        text = " ".join(str(message).split())
        for folder in (self.source.parent, self.folder / "result"):
            text = text.replace(f"{folder}{os.sep}", "").replace(f"{os.path.realpath(folder)}{os.sep}", "")
        return text

    def update(self, **changes: Any) -> bool:
        """Change the status, unless it is final; return whether it was changed."""
        with self._changed:
            if self._status.is_final:
                return False
            self._status = status = replace(self._status, **changes)
            if status.is_final:
                self.ended_at = time.monotonic()
            listeners = tuple(self._listeners)
            self._changed.notify_all()
        for listener in listeners:
            listener(status)
        return True


class JobWorker(Protocol):
    """Describe a worker on jobs, as a store that shares them needs it."""

    def has_room(self, model: str) -> bool:
        """Check whether there is room for another service's job for this model."""

    def take_over(self, job: Job) -> bool:
        """Work on a job of a service that has died; returns whether it is taken on."""

    def cancel(self, job: Job) -> None:
        """End a job."""


class JobStore:
    """Keep jobs by id, with their files in a private folder that is removed when the store is closed.

    This one is a process's own; :class:`s3diff.serving.shared_jobs.SharedJobStore` shares jobs with other services.

    Args:
        limits: how long and how many bytes of results are kept.
        parent: parent of the folder; None for the system's temporary folder.
    """

    def __init__(self, limits: ServiceLimits, parent: Path | None = None) -> None:
        self.limits = limits
        self.folder = Path(tempfile.mkdtemp(prefix="s3diff-serve-", dir=parent))  # only for this user (0700)
        #: Removed with the process at the latest; only kill -9 leaves it.
        self._remove_folder = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def start(self, worker: JobWorker) -> None:
        """Begin to share jobs, where they are shared."""

    @property
    def is_reachable(self) -> bool:
        """Whether jobs can be kept."""
        return True

    @property
    def keeps_results(self) -> bool:
        """Whether results can still be fetched when this process has ended."""
        return False

    def add(self, job: Job, *, is_shared: bool = True) -> None:
        """Keep a job; remove ended ones to make room.

        Args:
            job: its picture lies in its folder.
            is_shared: whether other services are to know of it, where jobs are shared.

        Raises:
            StoreError: the place that is shared cannot be reached.
        """
        with self._lock:
            self._jobs[job.id] = job
        self.sweep()

    def get(self, job_id: str, owner: str | None) -> Job:
        """Find an owner's job.

        Raises:
            JobNotFoundError: the job does not exist or is another owner's: the message is the same.
        """
        self.sweep()
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise JobNotFoundError(NO_JOB)
        return job

    def told(self, job: Job) -> JobStatus:
        """Return where a job stands, for its client."""
        return job.status

    def before_end(self, job: Job, status: JobStatus) -> None:
        """Keep how a job ends, before anybody sees that it has ended."""

    def catch_up(self, job: Job) -> None:
        """Wait for the end of a job that clients may have been told of already."""

    def hand_over(self) -> None:
        """Leave the jobs that have not ended to other services, where jobs are shared."""

    def remove(self, job: Job) -> None:
        """Remove a job and its files."""
        with self._lock:
            self._jobs.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove expired jobs, and the oldest results if room or records run out."""
        now = time.monotonic()
        with self._lock:
            ended = [job for job in self._jobs.values() if job.ended_at is not None]
            ages = [(now - (job.ended_at or now), _result_bytes(job), job) for job in ended]
            going = beyond_limits(ages, self.limits)
            for job in going:
                del self._jobs[job.id]
        for job in going:
            shutil.rmtree(job.folder, ignore_errors=True)

    @property
    def result_bytes(self) -> int:
        """Bytes of all kept results."""
        with self._lock:
            return sum(map(_result_bytes, self._jobs.values()))

    @property
    def num_jobs(self) -> int:
        """Number of known jobs, including ended ones."""
        with self._lock:
            return len(self._jobs)

    def jobs(self) -> list[Job]:
        """List all known jobs."""
        with self._lock:
            return list(self._jobs.values())

    def live(self) -> list[Job]:
        """List the jobs that have not ended."""
        return [job for job in self.jobs() if not job.status.is_final]

    def close(self) -> None:
        """Remove the folder with everything in it."""
        with self._lock:
            self._jobs.clear()
        self._remove_folder()


def _result_bytes(job: Job) -> int:
    result = job.status.result
    return 0 if result is None else result.size_bytes


def beyond_limits(ended: Iterable[tuple[float, int, Kept]], limits: ServiceLimits) -> list[Kept]:
    """Choose the jobs to forget: old ones, and the oldest ones where room or records run out.

    Args:
        ended: seconds since its end, bytes of its result, and itself, of everything that has ended.
        limits: how long and how many are kept.
    """
    oldest_first = sorted(ended, key=lambda each: -each[0])
    room, records, going = sum(size for _, size, _ in oldest_first), len(oldest_first), []
    for seconds, size, each in oldest_first:
        # The newest result stays, whatever its size: its client is about to fetch it.
        is_over = (room > limits.result_bytes or records > limits.job_records) and records > 1
        if seconds > limits.result_seconds or is_over:
            going.append(each)
            room, records = room - size, records - 1
    return going


def safe_name(name: str) -> str:
    """Make a file name without folders that every system accepts, as near to the given one as possible.

    The name stays inside one folder: no separators, no ``..``, no control characters, no device of Windows, not too
    long; an empty name becomes ``picture``.
    """
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join("_" if not sign.isprintable() or sign in '<>:"|?*' else sign for sign in last).strip(" .")
    kept = kept.encode("utf-8", "replace").decode("utf-8")
    stem, extension = os.path.splitext(kept)
    extension = extension[:12]
    if not stem or stem.split(".")[0].lower() in _DEVICE_NAMES:
        stem = f"picture{'-' if stem else ''}{stem}"
    # Systems count bytes, not characters.
    while len((stem + extension).encode()) > _MAX_NAME_CHARACTERS:
        stem = stem[:-1]
    return stem + extension
