"""Follow the progress of a run: the work of its pictures, the time left, and a line for people."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from s3diff.errors import S3DiffError
from s3diff.folders.plan import RestoreJob
from s3diff.folders.run_jobs import Outcome
from s3diff.images.files.reading import stated_size
from s3diff.messages import shown_path
from s3diff.options import RestoreOptions
from s3diff.restoration.sizes import sizes_of
from s3diff.restoration.time_left import EACH_PIXELS, PER_PART, Speeds, TimeLeft, duration_in_words


@dataclass
class Counted:
    """Hold pictures and the sum of their known work, so that the sum of all costs the same for any number of them."""

    jobs: set[RestoreJob] = field(default_factory=set)
    known: int = 0
    num_known: int = 0


class RunWork:
    """Hold the work of each picture; a thread reads the files' headers. An unknown picture counts as the others' mean.

    Args:
        jobs: those pictures whose work is found; without them all count the same.
        pixels_of: returns the networks' pixels for a job, 0 for a picture that cannot be restored.

    Attributes:
        begun: pictures that were begun.
        failed: pictures that ended and were never begun.
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
        self.begun, self.failed = Counted(), Counted()
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
            for counted in (self.begun, self.failed):
                if job in counted.jobs:
                    counted.known += more
                    counted.num_known += old is None

    def count(self, job: RestoreJob, counted: Counted) -> None:
        """Count a picture among ``begun`` or ``failed``, once."""
        with self._lock:
            if job not in counted.jobs:
                counted.jobs.add(job)
                counted.known += self._work.get(job, 0)
                counted.num_known += job in self._work

    def sum_of(self, counted: Counted) -> float:
        """Return the work of ``begun`` or ``failed``, in pixels."""
        with self._lock:
            return counted.known + self._mean * (len(counted.jobs) - counted.num_known)

    def close(self) -> None:
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


#: Expected time from which a run announces its result's size and time.
_LONG_SECONDS = 10.0
#: Number of the networks' pixels that counts as a long run while no time is known.
_LONG_PIXELS = 4_000_000
_STAGES = {
    "estimate": "looking at the picture",
    "fold": "preparing the model",
    "prepare": "enlarging",
    "encode": "encoding",
    "predict": "predicting",
    "decode": "decoding",
    "color": "matching colours",
    "finish": "finishing",
}


class RunProgress:
    """Follow the pictures of a run; a :class:`s3diff.folders.picture_runners.PictureWatcher`.

    Args:
        speed_of: returns the ``speed_key``; None if a service restores the pictures.
        work: of the run's pictures; None if all count the same.
        now: a clock in seconds.

    Attributes:
        announcement: a sentence on the run's sizes and its time, where it is a long one; known with the first picture.
    """

    def __init__(
        self,
        num_pictures: int,
        speed_of: Callable[[], str] | None = None,
        work: RunWork | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_pictures, self._speed_of, self._now = num_pictures, speed_of, now
        self._work = RunWork(num_pictures) if work is None else work
        self._current: RestoreJob | None = None
        self._fraction = 0.0
        self._speeds = Speeds()
        self._pixels: dict[RestoreJob, int] = {}
        self._name, self._detail = "", ""
        self.announcement: str | None = None
        self._left = TimeLeft(None, now)
        self._first_began: float | None = None
        self._told: tuple[float, float | None] | None = None
        self._turn = threading.RLock()

    # Calls of the run.

    def begin(self, job: RestoreJob, opened: Any) -> None:
        sizes = opened.sizes if hasattr(opened, "picture") else None  # of a still picture that is restored here
        pixels = None if sizes is None else sizes.num_working_pixels
        work = pixels if sizes is not None else getattr(opened, "num_working_pixels", None)  # of all frames or pages
        expected = None
        if work is not None:
            self._work.learn(job, work)
        if pixels is not None and self._speed_of is not None:
            self._pixels[job] = pixels
            expected = self._speeds.expected(self._speed_of(), pixels)
        if expected is not None:
            expected = self._as_in_this_run(job, expected)
        with self._turn:
            self._work.count(job, self._work.begun)
            self._current = job
            self._first_began = self._now() if self._first_began is None else self._first_began
            self._name, self._detail, self._told = shown_path(job.source.name), "", None
            self._left = TimeLeft(expected, self._now)
        if sizes is not None and pixels is not None and len(self._work.begun.jobs) == 1:
            self.announcement = self._announcement(job, sizes, pixels, expected)

    def stage(self, name: str, part: int, num_parts: int) -> None:
        with self._turn:
            self._left.begin(name, part, num_parts)
            where = f"tile {part + 1} of {num_parts}, " if num_parts > 1 and name in PER_PART else ""
            self._detail = where + _STAGES[name]

    def stage_share(self, share: float) -> None:
        with self._turn:
            self._left.within(share)

    def parts(self, kind: str, done: int, total: int) -> None:
        """Count finished tiles, frames or pages; ``look`` counts those of a video that were only looked at, and
        ``look_resumed`` and ``resumed`` begin a pass over a video, with what an earlier run has done of it. The total
        is 0 while a video's number of frames is not known.
        """
        with self._turn:
            of_total = f"{done} of {total}" if total else f"{done}"
            if kind in ("look_resumed", "resumed") or not total:
                self._left, self._fraction = TimeLeft(None, self._now), 0.0
            if kind in ("look_resumed", "resumed"):
                self._left.resume(done, total)
                self._detail = f"going on after {of_total} frames" if done else "beginning"
                return
            if kind == "predict":
                self._left.within(done / max(1, total))
            elif total:
                self._left.part(done, total)
            if kind == "look":
                self._detail = f"looking through the video first, {of_total} frames"
                return
            if kind == "predict":
                self._detail = f"{_STAGES[kind]}, tile {done} of {total}"
            elif total > 1:
                self._detail = f"{done} of {total} {kind}"

    def share(self, fraction: float, seconds_left: float | None) -> None:
        with self._turn:
            self._told = (fraction, seconds_left)

    def ended(self, outcome: Outcome) -> None:
        """Count a picture, and record this machine's speed."""
        if outcome.state == "skipped":
            return
        if outcome.job not in self._work.begun.jobs:
            self._work.count(outcome.job, self._work.failed)
        pixels = self._pixels.pop(outcome.job, None)
        result = outcome.result
        if result is not None and pixels is not None and self._speed_of is not None and not result.num_resumed:
            self._speeds.add(self._speed_of(), pixels, result.seconds)

    def close(self) -> None:
        self._work.close()
        if self._work.begun.jobs and self._speed_of is not None:
            self._speeds.save()

    # The figures.

    @property
    def _num_before(self) -> int:
        """Number of pictures before the current one, some of whose results may still be written."""
        return max(0, len(self._work.begun.jobs) - 1) + len(self._work.failed.jobs)

    @property
    def fraction(self) -> float:
        """Finished share of the run's work, with the current picture's, in [0, 1]; it falls only where a video's pass
        begins or its number of frames proves to be unknown.
        """
        with self._turn:
            own = self._left.fraction if self._told is None else self._told[0]
            before, current, rest = self._work_shares()
            self._fraction = max(
                self._fraction, min(1.0, (before + own * current) / max(before + current + rest, 1e-9))
            )
            return self._fraction

    @property
    def line(self) -> str:
        """Describe the current picture, its progress and the time left."""
        with self._turn:
            left = self._left.seconds_left if self._told is None else self._told[1]
            own = self._left.fraction if self._told is None else self._told[0]
            if self._num_pictures > 1:
                whole = None if left is None else self._left_of_run(left)
                count = f"{self._num_before + 1} of {self._num_pictures}, {self._name}: {own:.0%}"
                return f"{count}{'' if whole is None else f', about {duration_in_words(whole)} left'}"
            known = f"{own:.0%}, about {duration_in_words(left)} left" if left is not None else "time not known yet"
            return f"{self._detail or 'waiting'}, {known}"

    def _left_of_run(self, left: float) -> float:
        """Estimate the seconds of this picture, and of later ones by their work and the time that earlier work took."""
        before, current, rest = self._work_shares()
        elapsed = 0.0 if self._first_began is None else self._now() - self._first_began
        return left + rest * (elapsed + left) / max(before + current, 1e-9)

    def _as_in_this_run(self, job: RestoreJob, expected: dict[str, float]) -> dict[str, float]:
        """Scale a picture's expected seconds by this run's speed so far."""
        begun, whole = self._work.sum_of(self._work.begun), sum(expected.values())
        took = 0.0 if self._first_began is None else self._now() - self._first_began
        if not took or not begun or not whole:
            return expected
        factor = took / begun * self._work.of(job) / whole
        return {stage: seconds * factor for stage, seconds in expected.items()}

    def _work_shares(self) -> tuple[float, float, float]:
        """Return the work of the pictures before the current one, of that one, and of those after it."""
        begun, failed = (self._work.sum_of(counted) for counted in (self._work.begun, self._work.failed))
        current = 0.0 if self._current is None else self._work.of(self._current)
        return begun - current + failed, current, max(0.0, self._work.total - begun - failed)

    def _announcement(self, job: RestoreJob, sizes: Any, pixels: int, expected: dict[str, float] | None) -> str | None:
        share_of_run = self._work.total / max(self._work.of(job), 1e-9)
        seconds = None if expected is None else sum(expected.values()) * share_of_run
        if (pixels < _LONG_PIXELS) if seconds is None else (seconds < _LONG_SECONDS):
            return None
        (width, height), (out_width, out_height) = sizes.input, sizes.output
        became = f"{self._name}: {width} x {height} px become {out_width} x {out_height} px"
        if self._num_pictures > 1:
            became = f"{self._num_pictures} pictures, the first of {width} x {height} px"
        if seconds is None:
            return f"{became}; how long that takes on this machine is not known yet"
        like_it = "" if self._num_pictures == 1 or self._work.is_known else ", if all are like it"
        return f"{became}; about {duration_in_words(seconds)} on this machine{like_it}"
