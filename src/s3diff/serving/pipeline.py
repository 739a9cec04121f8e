"""The threads that jobs walk through: one reads pictures ahead, one restores, one writes.

The networks are busy while files are read and written, and memory holds a few pictures, however many wait: what waits
lies on the disk.
"""

from __future__ import annotations

import logging
import mimetypes
import os
import shutil
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from s3diff.errors import (
    DiskFullError,
    DownloadError,
    JobCancelledError,
    JobTimeoutError,
    ModelError,
    OptionError,
    OutputError,
    PictureError,
    S3DiffError,
)
from s3diff.images.codecs import Animation, picture_header
from s3diff.options import RestoreOptions
from s3diff.restoration.picture_files import (
    Opened,
    animate,
    facts_of_result,
    read_source,
    result_extension,
    result_stem,
    write_result,
)
from s3diff.restoration.restored import Restored
from s3diff.restoration.restorer import Restorer
from s3diff.serving.jobs import Cause, Job, JobResult, safe_name
from s3diff.serving.limits import ServiceLimits
from s3diff.serving.models import CANNOT_LOAD, ModelCache
from s3diff.serving.progress import JobMonitor, TimeEstimator

_LOG = logging.getLogger("s3diff.serving")
#: Pictures that wait in memory, read, for the networks; a batch may need more.
_READ_AHEAD = 2
_ANY_MEDIA_TYPE = "application/octet-stream"
#: Those that not every system's table knows.
_MEDIA_TYPES = {
    ".apng": "image/apng",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".heif": "image/heif",
}


@dataclass(frozen=True)
class _Ready:
    """A job whose picture is read."""

    job: Job
    picture: Opened
    target: Path

    @property
    def batch_key(self) -> tuple[Any, ...] | None:
        """Pictures of one key may run together; an animation has none."""
        job, picture = self.job, self.picture
        if isinstance(picture, Animation):
            return None
        return job.model, job.options, picture.pixels.shape, picture.pixels.dtype.str, picture.alpha is None


class Pipeline:
    """A queue and the threads that empty it.

    Args:
        limits: how many small pictures run together, how long a picture may take.
        models: the models.
        times: learns how long pictures take.
        on_end: called with every job that has ended.
    """

    def __init__(
        self, limits: ServiceLimits, models: ModelCache, times: TimeEstimator, on_end: Callable[[Job], None]
    ) -> None:
        self.limits, self._models, self.times, self._on_end = limits, models, times, on_end
        self._queue: deque[Job] = deque()
        self._ready: list[_Ready] = []
        self._written: deque[tuple[_Ready, Restored]] = deque()
        self._turn = threading.Condition()
        self._is_over = False
        loops = {"read": self._read_loop, "restore": self._restore_loop, "write": self._write_loop}
        self._threads = [
            threading.Thread(target=loop, name=f"s3diff-{name}", daemon=True) for name, loop in loops.items()
        ]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether all threads are at work."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def num_waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    def put(self, job: Job) -> bool:
        """Append a job, unless the queue is full; returns whether it is in."""
        with self._turn:
            if len(self._queue) >= self.limits.queue_length:
                return False
            self._queue.append(job)
            self._turn.notify_all()
            return True

    def position(self, job: Job) -> int | None:
        """How many jobs are before it in the queue; None when it is not in the queue."""
        with self._turn:
            return self._queue.index(job) if job in self._queue else None

    def cancel(self, job: Job) -> None:
        """End a job: at once where it waits, before the networks' next layer where it runs."""
        job.cancel()
        with self._turn:
            waits_ready = [ready for ready in self._ready if ready.job is job]
            was_waiting = job in self._queue or bool(waits_ready)
            if waits_ready:
                self._ready.remove(waits_ready[0])
            elif was_waiting:
                self._queue.remove(job)
            self._turn.notify_all()
        if was_waiting:
            self._end(job, state="cancelled")

    def stop(self, seconds: float) -> None:
        """End the threads; waits so long for what they are doing."""
        with self._turn:
            self._is_over = True
            self._turn.notify_all()
        until = time.monotonic() + seconds
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))

    # ------------------------------------------------------------------------------------------ the threads

    def _read_loop(self) -> None:
        while (job := self._next_to_read()) is not None:
            ready = self._guarded(job, partial(self._read, job))
            with self._turn:
                if ready is not None:
                    self._ready.append(ready)
                self._turn.notify_all()

    def _next_to_read(self) -> Job | None:
        with self._turn:
            self._turn.wait_for(lambda: self._is_over or (self._queue and self._may_read_ahead()))
            if self._is_over:
                return None
            return self._queue.popleft()

    def _may_read_ahead(self) -> bool:
        """A few pictures, or a batch of small ones."""
        if len(self._ready) < _READ_AHEAD:
            return True
        pixels = sum(_output_pixels(ready) for ready in self._ready)
        return len(self._ready) < self.limits.batch_size and pixels < self.limits.batch_pixels * len(self._ready)

    def _read(self, job: Job) -> _Ready:
        job.update(state="running", stage="reading")
        values = {"model": job.model, "scale": f"{job.options.scale:g}"}
        stem, extension = os.path.splitext(job.name)
        if not extension:
            extension = picture_header(job.source).extension
        values |= {"stem": stem, "extension": extension[1:]}
        name = safe_name(result_stem(job.writing, values) + result_extension(extension, job.writing))
        target = job.folder / "result" / name
        picture = read_source(job.source, target, job.options)
        return _Ready(job, picture, target)

    def _restore_loop(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._restore(batch)

    def _next_batch(self) -> list[_Ready] | None:
        """The first picture that is ready, and, where it is small, others of its kind that come soon."""
        with self._turn:
            self._turn.wait_for(lambda: self._is_over or self._ready)
            if self._is_over:
                return None
            first = self._ready.pop(0)
            batch, key = [first], first.batch_key
            until = time.monotonic() + self.limits.batch_wait_seconds
            is_small = key is not None and _output_pixels(first) <= self.limits.batch_pixels
            while is_small and len(batch) < self.limits.batch_size:
                alike = [ready for ready in self._ready if ready.batch_key == key]
                for ready in alike[: self.limits.batch_size - len(batch)]:
                    self._ready.remove(ready)
                    batch.append(ready)
                self._turn.notify_all()
                left = until - time.monotonic()
                if left <= 0 or self._is_over:
                    break
                self._turn.wait(left)
            return batch

    def _restore(self, batch: list[_Ready]) -> None:
        """One picture with progress, or several small ones together; a bad one of them costs only itself."""
        batch = [ready for ready in batch if not self._ended_by_request(ready.job)]
        if not batch:
            return
        if len(batch) > 1:
            for ready in batch:
                ready.job.update(stage="restoring")
            try:
                model, options = batch[0].job.model, batch[0].job.options
                started = time.monotonic()
                pictures: list[Any] = [ready.picture for ready in batch]
                restored = self._models.restorer(model).restore_batch(pictures, options, in_turn=True)
            except Exception:  # noqa: BLE001 - which of them it was is found out by restoring each on its own
                _LOG.info("a batch of %d pictures failed; restoring one after the other", len(batch))
            else:
                self.times.add(model, sum(map(_output_pixels, batch)), time.monotonic() - started)
                for ready, result in zip(batch, restored, strict=True):
                    self._hand_to_writer(ready, result)
                return
        for ready in batch:
            self._guarded(ready.job, partial(self._restore_one, ready))

    def _restore_one(self, ready: _Ready) -> None:
        job, pixels = ready.job, _output_pixels(ready)
        job.update(stage="estimating")
        restorer = self._models.restorer(job.model)
        _check_prompts(restorer, job.options)
        monitor = JobMonitor(job, self.limits, self.times.expected(job.model, pixels))
        started = time.monotonic()
        with restorer.watched(monitor.look):
            if isinstance(ready.picture, Animation):
                made = animate(restorer, ready.picture, ready.target, job.options, job.writing, monitor.told)
                self._finish(ready, *made)
                return
            restored = restorer.restore(ready.picture, job.options, progress=monitor.told)
        self.times.add(job.model, pixels, time.monotonic() - started)
        self._hand_to_writer(ready, restored)

    def _hand_to_writer(self, ready: _Ready, restored: Restored) -> None:
        """Results do not pile up in memory: the networks wait where the disk is slow."""
        ready.job.update(stage="writing", fraction=max(0.95, ready.job.status.fraction), seconds_left=None)
        with self._turn:
            self._turn.wait_for(lambda: self._is_over or len(self._written) < self.limits.batch_size)
            self._written.append((ready, restored))
            self._turn.notify_all()

    def _write_loop(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._is_over or self._written)
                if not self._written:
                    return
                ready, restored = self._written.popleft()
                self._turn.notify_all()
            self._guarded(ready.job, partial(self._write, ready, restored))
            del ready, restored  # the next one may be long in coming

    def _write(self, ready: _Ready, restored: Restored) -> None:
        job, target = ready.job, ready.target
        if self._ended_by_request(job):
            return
        notes = write_result(restored, target, job.writing)
        self._finish(ready, facts_of_result(restored), notes)

    def _finish(self, ready: _Ready, facts: dict[str, Any], notes: tuple[str, ...]) -> None:
        """The result is on the disk."""
        job, target = ready.job, ready.target
        media_type = mimetypes.guess_type(target.name)[0] or _MEDIA_TYPES.get(target.suffix.lower(), _ANY_MEDIA_TYPE)
        result = JobResult(
            path=target,
            name=target.name,
            media_type=media_type,
            size_bytes=target.stat().st_size,
            facts=facts,
            notes=tuple(job.worded(note) for note in notes),
        )
        shutil.rmtree(job.source.parent, ignore_errors=True)
        if not self._ended_by_request(job):
            self._end(job, state="done", fraction=1.0, result=result)

    def _guarded(self, job: Job, step: Callable[[], Any]) -> Any:
        """One step of a job. Whatever goes wrong is the job's end, never the thread's."""
        try:
            return None if self._ended_by_request(job) else step()
        except JobCancelledError:
            self._end(job, state="cancelled")
        except S3DiffError as error:
            cause, message = _cause_of(error), job.worded(error)
            if cause == "model":  # the service's matter: its log has the paths, its client does not
                _LOG.error("model cannot be loaded: %s", error, extra={"job": job.id, "request": job.request})
                message = CANNOT_LOAD
            self._end(job, state="failed", error=message, cause=cause)
        except Exception:  # noqa: BLE001 - the log has it; the thread has other jobs
            text = traceback.format_exc().replace(job.name, "PICTURE")
            _LOG.error("job failed: %s", text, extra={"job": job.id, "request": job.request})
            message = "the service failed on this picture, which is not the picture's fault; its log says more"
            self._end(job, state="failed", error=message, cause="service")
        return None

    def _ended_by_request(self, job: Job) -> bool:
        if job.is_cancelled:
            self._end(job, state="cancelled")
        return job.status.is_final

    def _end(self, job: Job, *, state: str, **changes: Any) -> None:
        if state != "done":
            shutil.rmtree(job.folder, ignore_errors=True)
        if job.update(state=state, stage="ended", seconds_left=None, **changes):
            facts = {"job": job.id, "request": job.request, "state": state, "seconds": round(job.seconds, 3)}
            _LOG.info("job ended", extra=facts)
            self._on_end(job)


def _check_prompts(restorer: Restorer, options: RestoreOptions) -> None:
    """Name the prompt that a model without a text encoder cannot read; a damaged encoder is the service's matter."""
    alone = {
        "positive_prompt": replace(options, negative_prompt=None),
        "negative_prompt": replace(options, positive_prompt=None),
    }
    for name, with_one in alone.items():
        try:
            restorer.check(with_one)
        except ModelError as error:
            if restorer.model.text_encoder is not None:
                raise
            raise OptionError(f"{name} cannot be used: {error}") from error


def _output_pixels(ready: _Ready) -> int:
    """Of all frames."""
    picture = ready.picture
    width, height = ready.job.options.working_size(picture.width, picture.height)
    return width * height * (picture.num_frames if isinstance(picture, Animation) else 1)


def _cause_of(error: S3DiffError) -> Cause:
    if isinstance(error, ModelError | DownloadError):
        return "model"
    if isinstance(error, PictureError):
        return "picture"
    if isinstance(error, JobTimeoutError):
        return "time"
    if isinstance(error, OptionError):
        return "options"
    if isinstance(error, OutputError) and not isinstance(error, DiskFullError):
        return "output"
    return "service"
