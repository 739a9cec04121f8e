"""Estimate the work of a run's pictures before they are opened: the pixels that the networks produce for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from s3diff.errors import S3DiffError
from s3diff.folders.jobs import RestoreJob
from s3diff.images.codecs import stated_size
from s3diff.options import RestoreOptions
from s3diff.restoration.sizes import sizes_of
from s3diff.restoration.speed import EACH_PIXELS


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
                self.learn(job, self._pixels_of(job))

    def learn(self, job: RestoreJob, num_pixels: int) -> None:
        """Set the networks' pixels for a picture."""
        with self._lock:
            self._sum -= self._work.get(job, 0)
            self._work[job] = num_pixels + EACH_PIXELS if num_pixels else 0
            self._sum += self._work[job]

    def close(self) -> None:
        """End the thread."""
        self._is_closed.set()

    def of(self, job: RestoreJob) -> float:
        """Return a picture's work, in pixels."""
        with self._lock:
            return self._work.get(job, self._mean)

    @property
    def total(self) -> float:
        """The work of all pictures, in pixels."""
        with self._lock:
            return self._sum + self._mean * max(0, self._num_pictures - len(self._work))

    @property
    def is_known(self) -> bool:
        """Whether the work of every picture is known."""
        return len(self._work) >= self._num_pictures

    @property
    def _mean(self) -> float:
        return self._sum / len(self._work) if self._sum else 1.0


def pixels_by_header(job: RestoreJob, options: RestoreOptions) -> int:
    """Return the number of pixels that the networks produce for a file; 0 for one that is no picture."""
    with suppress(S3DiffError, OverflowError, OSError):
        return sizes_of(stated_size(job.source), options).num_working_pixels
    return 0
