"""Follow running jobs: their progress, their cancellation, and the time that pictures and videos take."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from s3diff.errors import JobCancelledError, JobTimeoutError, PictureTooLargeError
from s3diff.restoration.time_left import FIRST_PASS, TimeLeft
from s3diff.serving.jobs import Job, Part
from s3diff.serving.limits import ServiceLimits, require_length

#: Least time between two reports of progress.
_TELL_SECONDS = 0.1

#: Weight of earlier measurements against a new picture.
_KEPT = 0.7
#: Parts of a picture by the stages that report them.
_PARTS: dict[str, Part] = {"tiles": "tile", "frames": "frame", "pages": "page"}
#: Longest wait that an answer proposes to a client.
_LONGEST_WAIT_SECONDS = 300


class TimeEstimator:
    """Estimate times by running means: seconds per output pixel for each model, and seconds per picture.

    Large pictures weigh more, so that the first one outweighs the warm-up's small one.
    """

    def __init__(self) -> None:
        self._measured: dict[str, tuple[float, float]] = {}  # seconds and pixels
        self._pictures: tuple[float, float] = (0.0, 0.0)  # seconds and number
        self._lock = threading.Lock()

    def add(self, model: str, pixels: int, seconds: float) -> None:
        """Add the time of a picture, or of a batch as one."""
        with self._lock:
            self._measured[model] = _with(self._measured.get(model, (0.0, 0.0)), seconds, max(1, pixels))
            self._pictures = _with(self._pictures, seconds, 1)

    def expected(self, model: str, pixels: int) -> float | None:
        """Estimate the seconds of a picture; None before the first one."""
        if model not in self._measured:
            return None
        seconds, measured = self._measured[model]
        return seconds / measured * pixels

    def seconds_of_queue(self, num_waiting: int) -> int:
        """Estimate the whole seconds until half of the queue is done: the wait for a refused client."""
        seconds, number = self._pictures
        each = seconds / number if number else 1.0
        return max(1, min(_LONGEST_WAIT_SECONDS, math.ceil(each * num_waiting / 2)))


class JobMonitor:
    """Watch one running job for cancellation, its time limit and its progress.

    Args:
        expected_seconds: time of pictures of its size; None while unknown.
    """

    def __init__(self, job: Job, limits: ServiceLimits, expected_seconds: float | None) -> None:
        self._job, self._limits, self._expected = job, limits, expected_seconds
        self._started = self._last_told = time.monotonic()
        self._done = self._total = 0
        self._in_tiles = False
        self._part: Part = "tile"

    def look(self) -> None:
        """Check the job before every layer.

        Raises:
            JobCancelledError, JobTimeoutError: the work has to end.
        """
        now = time.monotonic()
        remedy = "choose a smaller scale or size"
        _require_going_on(self._job, "picture", now - self._started, self._limits.job_seconds, remedy)
        if now - self._last_told >= _TELL_SECONDS or self._job.status.stage != "restoring":
            self._tell(now)

    def report(self, stage: str, done: int, total: int) -> None:
        """Report progress after every tile, frame or page; tiles of one of many frames or pages are not counted."""
        part = _PARTS.get(stage)
        self._part = part or self._part
        if part is not None and total > 1:
            self._in_tiles = True
        if part is not None or not self._in_tiles:
            self._done, self._total = done, total
        self.look()
        self._tell(time.monotonic())

    def _tell(self, now: float) -> None:
        elapsed, expected = now - self._started, self._expected
        by_tiles = self._done / self._total if self._total else 0.0
        if self._done and self._total > 1:
            # This picture's own measurements are better than other pictures'.
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


class VideoMonitor:
    """Watch one running video for cancellation, its limits of time, length and room, and its progress.

    The time of the pictures that are restored in between (:meth:`away`) is none of the video's.
    """

    def __init__(self, job: Job, limits: ServiceLimits) -> None:
        self._job, self._limits = job, limits
        self._is_away, self._seconds_away = False, 0.0
        self._started = self._now()
        self._left = TimeLeft(now=self._now)

    def look(self) -> None:
        """Check the job before every layer.

        Raises:
            JobCancelledError, JobTimeoutError: the work has to end.
        """
        if not self._is_away:
            remedy = "choose a smaller scale or size, or cut it shorter"
            _require_going_on(self._job, "video", self._now() - self._started, self._limits.video_seconds, remedy)

    def report(self, stage: str, done: int, total: int) -> None:
        """Report progress after every frame; see :func:`s3diff.restoration.video.restore_video`.

        Raises:
            JobCancelledError, JobTimeoutError, PictureTooLargeError: the work has to end.
        """
        self.look()
        if stage in FIRST_PASS:
            require_length(self._job.name, done, self._limits)
            self._job.update(stage="estimating", tile=done, num_tiles=total, part="frame")
            return
        self._require_room()
        if stage == "resumed":
            self._left.resume(done, total)
        else:
            self._left.part(done, total)
        left = self._left.seconds_left
        self._job.update(
            stage="restoring" if done < total else "writing",
            tile=done,
            num_tiles=total,
            part="frame",
            fraction=min(0.99, done / total),
            seconds_left=None if left is None else round(left, 1),
        )

    def _require_room(self) -> None:
        """Make sure that a lossless codec, say, does not fill the disk."""
        folders = self._job.folder / "result", self._job.work
        made = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
        if made > self._limits.result_bytes:
            raise PictureTooLargeError(
                f"the result of {self._job.name} has more than {self._limits.result_bytes} bytes, which is the room "
                "here; choose a smaller scale or size, a lower quality or another codec"
            )

    @contextmanager
    def away(self) -> Iterator[None]:
        """Leave the device to pictures."""
        started = time.monotonic()
        self._is_away = True
        try:
            yield
        finally:
            self._is_away = False
            self._seconds_away += time.monotonic() - started

    def _now(self) -> float:
        return time.monotonic() - self._seconds_away


def _require_going_on(job: Job, kind: str, seconds: float, allowed_seconds: float, remedy: str) -> None:
    if job.is_cancelled:
        raise JobCancelledError("the job was cancelled")
    if seconds > allowed_seconds:
        raise JobTimeoutError(
            f"the {kind} took longer than the {allowed_seconds:g} seconds that this service allows; {remedy}"
        )


def _with(before: tuple[float, float], seconds: float, amount: float) -> tuple[float, float]:
    return _KEPT * before[0] + seconds, _KEPT * before[1] + amount
