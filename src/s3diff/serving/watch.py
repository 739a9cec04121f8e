"""A look at a running job from inside the networks."""

from __future__ import annotations

import time

from s3diff.errors import JobCancelledError, JobTimeoutError
from s3diff.serving.jobs import Job, Part
from s3diff.serving.limits import ServiceLimits

#: Progress is told at most so often.
_TELL_SECONDS = 0.1


class Watch:
    """Is it cancelled, does it take too long, how far is it.

    Args:
        job: runs.
        limits: how long it may.
        expected_seconds: what pictures of its size took; None where that is not known yet.
    """

    def __init__(self, job: Job, limits: ServiceLimits, expected_seconds: float | None) -> None:
        self._job, self._limits, self._expected = job, limits, expected_seconds
        self._started = self._last_told = time.monotonic()
        self._done = self._total = 0
        self._in_tiles = False
        self._part: Part = "tile"

    def look(self) -> None:
        """Before every layer.

        Raises:
            JobCancelledError, JobTimeoutError: the work is to end here.
        """
        now = time.monotonic()
        if self._job.is_cancelled:
            raise JobCancelledError("the job was cancelled")
        if now - self._started > self._limits.job_seconds:
            raise JobTimeoutError(
                f"the picture took longer than the {self._limits.job_seconds:g} seconds that this service allows; "
                "choose a smaller scale or size"
            )
        if now - self._last_told >= _TELL_SECONDS or self._job.status.stage != "restoring":
            self._tell(now)

    def told(self, stage: str, done: int, total: int) -> None:
        """After every tile, or frame of an animation; where there are many, the pieces of one are not counted."""
        self._part = "frame" if stage == "frames" else self._part
        if stage in ("tiles", "frames") and total > 1:
            self._in_tiles = True
        if stage in ("tiles", "frames") or not self._in_tiles:
            self._done, self._total = done, total
        self.look()
        self._tell(time.monotonic())

    def _tell(self, now: float) -> None:
        elapsed, expected = now - self._started, self._expected
        by_tiles = self._done / self._total if self._total else 0.0
        if self._done and self._total > 1:
            # What has been measured on this very picture is better than what others took.
            expected = elapsed / by_tiles
        by_time = 0.0 if not expected else elapsed / expected
        left = None if not expected else max(0.0, expected - elapsed)
        self._last_told = now
        self._job.update(
            stage="restoring",
            tile=self._done,
            num_tiles=self._total,
            part=self._part,
            fraction=min(0.95, max(by_tiles, by_time, self._job.status.fraction)),
            seconds_left=None if left is None else round(left, 1),
        )
