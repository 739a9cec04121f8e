"""Estimate the work of a run's pictures before they are opened: the pixels that the networks produce for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from s3diff.errors import S3DiffError
from s3diff.folders.jobs import RestoreJob
from s3diff.images.codecs import stated_size
from s3diff.options import RestoreOptions
from s3diff.restoration.sizes import sizes_of
from s3diff.restoration.speed import EACH_PIXELS


@dataclass
class _Counted:
    """Hold pictures and the sum of their known work, so that the sum of all costs the same for any number of them."""

    jobs: set[RestoreJob] = field(default_factory=set)
    known: int = 0
    num_known: int = 0


class RunWork:
    """Hold the work of each picture; a thread reads the files' headers. An unknown picture counts as the others' mean.

    Args:
        num_pictures: the run's pictures.
        jobs: those pictures whose work is found; without them all count the same.
        pixels_of: returns the networks' pixels for a job, 0 for a picture that cannot be restored.
    """

    def __init__(
        self,
        num_pictures: int,
        jobs: Sequence[RestoreJob] = (),
        pixels_of: Callable[[RestoreJob], int] | None = None,
    ) -> None:
        self._num_pictures, self._jobs, self._pixels_of = num_pictures, jobs, pixels_of
        self._work: dict[RestoreJob, int] = {}
        self._sum = 0
        self._begun, self._failed = _Counted(), _Counted()
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        if pixels_of is not None and num_pictures > 1:
            threading.Thread(target=self.look, name="s3diff-sizes", daemon=True).start()

    def look(self) -> None:
        """Find the work of all pictures, until :meth:`close`."""
        for job in self._jobs:
            if self._is_closed.is_set() or self._pixels_of is None:
                return
            if job not in self._work:
                self.learn(job, self._pixels_of(job), is_by_header=True)

    def learn(self, job: RestoreJob, num_pixels: int, *, is_by_header: bool = False) -> None:
        """Set the networks' pixels for a picture; those by its header never replace those of the opened file."""
        with self._lock:
            old = self._work.get(job)
            if is_by_header and old is not None:
                return
            self._work[job] = num_pixels + EACH_PIXELS if num_pixels else 0
            more = self._work[job] - (old or 0)
            self._sum += more
            for counted in (self._begun, self._failed):
                if job in counted.jobs:
                    counted.known += more
                    counted.num_known += old is None

    def begin(self, job: RestoreJob) -> None:
        """Count a picture as begun."""
        self._count(job, self._begun)

    def fail(self, job: RestoreJob) -> None:
        """Count a picture that ended and was never begun."""
        self._count(job, self._failed)

    def close(self) -> None:
        """End the thread."""
        self._is_closed.set()

    def of(self, job: RestoreJob) -> float:
        """Return a picture's work, in pixels."""
        with self._lock:
            return self._work.get(job, self._mean)

    def has_begun(self, job: RestoreJob) -> bool:
        """Check whether a picture was begun."""
        return job in self._begun.jobs

    @property
    def num_begun(self) -> int:
        """Number of pictures that were begun."""
        return len(self._begun.jobs)

    @property
    def num_failed(self) -> int:
        """Number of pictures that ended and were never begun."""
        return len(self._failed.jobs)

    @property
    def begun_sum(self) -> float:
        """The work of the begun pictures, in pixels."""
        return self._sum_of(self._begun)

    @property
    def failed_sum(self) -> float:
        """The work of the pictures that ended and were never begun, in pixels."""
        return self._sum_of(self._failed)

    @property
    def total(self) -> float:
        """The work of all pictures, in pixels."""
        with self._lock:
            return self._sum + self._mean * max(0, self._num_pictures - len(self._work))

    @property
    def is_known(self) -> bool:
        """Whether the work of every picture is known."""
        return len(self._work) >= self._num_pictures

    def _count(self, job: RestoreJob, counted: _Counted) -> None:
        with self._lock:
            if job not in counted.jobs:
                counted.jobs.add(job)
                counted.known += self._work.get(job, 0)
                counted.num_known += job in self._work

    def _sum_of(self, counted: _Counted) -> float:
        with self._lock:
            return counted.known + self._mean * (len(counted.jobs) - counted.num_known)

    @property
    def _mean(self) -> float:
        return self._sum / len(self._work) if self._sum else 1.0


def pixels_by_header(job: RestoreJob, options: RestoreOptions) -> int:
    """Return the number of pixels that the networks produce for a file; 0 for one that is no picture."""
    with suppress(S3DiffError, OverflowError, OSError):
        return sizes_of(stated_size(job.source), options).num_working_pixels
    return 0
