"""Process jobs in three threads: read ahead, restore, write.

Memory holds a few pictures, however many wait: waiting ones are on the disk. A video lets a picture go first after each
of its frames, so that nobody waits for hours.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from s3diff.errors import JobCancelledError, ModelError, OptionError, S3DiffError
from s3diff.formats import format_of
from s3diff.images.files.content_credentials import ResultSigner
from s3diff.images.files.reading import picture_header
from s3diff.options import RestoreOptions
from s3diff.restoration.conveyor import READ_AHEAD, Conveyor
from s3diff.restoration.device_model import PROMPTS
from s3diff.restoration.frames_and_pages import OpenedSeries, open_source, restore_series
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.result import Result, result_extension
from s3diff.restoration.steps import Opened, write
from s3diff.service_errors import FAILED, failure_of
from s3diff.serving.intake import check_header, result_path, within_limits
from s3diff.serving.jobs import Job, JobStatus
from s3diff.serving.limits import ServiceLimits
from s3diff.serving.model_cache import ModelCache
from s3diff.serving.progress import JobMonitor, TimeEstimator, VideoMonitor

_LOG = logging.getLogger("s3diff.serving")


@dataclass(frozen=True)
class _Ready:
    """Hold a job whose picture is read, or one of a video (``opened`` is None), whose frames are read one by one."""

    job: Job
    opened: Opened | OpenedSeries | None
    target: Path

    @property
    def is_picture(self) -> bool:
        return self.opened is not None

    @property
    def batch_key(self) -> tuple[Any, ...] | None:
        """Key of pictures that may run together; None for animations, pages and videos."""
        if not isinstance(self.opened, Opened):
            return None
        job, picture = self.job, self.opened.picture
        return job.model, job.options, picture.pixels.shape, picture.pixels.dtype.str, picture.alpha is None

    @property
    def num_pixels(self) -> int:
        """Number of pixels that the networks produce, for all frames or pages; not of a video."""
        assert self.opened is not None
        sizes = self.opened.sizes if isinstance(self.opened, Opened) else self.opened
        return sizes.num_working_pixels


class JobPipeline:
    """Queue jobs and process them.

    Args:
        limits: batch sizes and the time limit of a picture.
        times: collects the time of pictures.
        before_end: called with every job that ends and its last status, before anybody sees that.
        on_end: called with every job that has ended.
    """

    def __init__(
        self,
        limits: ServiceLimits,
        models: ModelCache,
        times: TimeEstimator,
        before_end: Callable[[Job, JobStatus], None],
        on_end: Callable[[Job], None],
        signer: ResultSigner | None = None,
    ) -> None:
        self.limits, self._models, self.times = limits, models, times
        self._before_end, self._on_end = before_end, on_end
        #: Whether anything new is taken.
        self.is_open = True
        self._signer = signer
        self._conveyor: Conveyor[Job, _Ready, tuple[_Ready, Result]] = Conveyor(
            lambda job: self._guarded(job, partial(self._read, job)),
            lambda made: self._guarded(made[0].job, partial(self._write, *made)),
            has_room=self._may_read_ahead,
            max_unwritten=limits.batch_size,
        )
        self._restoring = threading.Thread(target=self._restore_loop, name="s3diff-restore", daemon=True)

    def start(self) -> None:
        self._conveyor.start()
        self._restoring.start()

    @property
    def is_alive(self) -> bool:
        return self._conveyor.is_alive and self._restoring.is_alive()

    @property
    def num_waiting(self) -> int:
        """Jobs in the queue; a video waits there until its work begins."""
        return self._conveyor.num_waiting + len(self._waiting_videos())

    def put(self, job: Job) -> bool:
        """Append a job, unless the queue is full; return whether it was appended."""
        return self._conveyor.put(job, self.limits.queue_length - len(self._waiting_videos()))

    def has_room(self, model: str) -> bool:
        """Check whether a job for a model could be appended now."""
        is_offered = model in [offered.name for offered in self._models.offered()]
        return is_offered and self.is_open and self.is_alive and self.num_waiting < self.limits.queue_length

    def take_over(self, job: Job) -> bool:
        """Append a job that another service began; return whether it was appended, or ended by its header already."""
        job.options = within_limits(job.options, self.limits)
        self._guarded(job, partial(check_header, job, self.limits))
        return job.status.is_final or self.put(job)

    def position(self, job: Job) -> int | None:
        """Count the jobs before this one in the queue; None if it is not in the queue."""
        videos = self._waiting_videos()
        return videos.index(job) if job in videos else self._conveyor.position(job)

    def cancel(self, job: Job) -> None:
        """Cancel a job: at once while it waits; while it runs before the next layer, tile or stage."""
        job.cancel()
        if self._conveyor.remove(job):
            self._end(job, state="cancelled")

    def stop(self, seconds: float) -> None:
        """End the threads; wait at most this long for their current work."""
        until = time.monotonic() + seconds
        self._conveyor.close(seconds)
        if self._restoring.is_alive():
            self._restoring.join(max(0.0, until - time.monotonic()))

    # ------------------------------------------------------------------------------------------ the threads

    def _may_read_ahead(self, ready: Sequence[_Ready]) -> bool:
        """Allow a few ready pictures, or a batch of small ones; no picture waits for a video to be read."""
        ready = [each for each in ready if each.is_picture]
        if len(ready) < READ_AHEAD:
            return True
        pixels = sum(each.num_pixels for each in ready)
        return len(ready) < self.limits.batch_size and pixels < self.limits.batch_pixels * len(ready)

    def _waiting_videos(self) -> list[Job]:
        return self._conveyor.ready_items(lambda ready: not ready.is_picture)

    def _read(self, job: Job) -> _Ready:
        if job.target is not None:
            return _Ready(job, None, job.target)
        job.update(state="running", stage="reading")
        extension = os.path.splitext(job.name)[1] or picture_header(job.source).extension
        target = result_path(job, result_extension(extension, job.writing))
        return _Ready(job, open_source(job.source, target, job.options, job.sizes), target)

    def _restore_loop(self) -> None:
        while (batch := self._next_batch(self._conveyor.take())) is not None:
            self._restore(batch)

    def _next_batch(self, first: tuple[Job, _Ready] | None) -> list[_Ready] | None:
        """Take with the first ready picture, if it is small, others of its size that come soon."""
        if first is None:
            return None
        batch, key = [first[1]], first[1].batch_key
        until = time.monotonic() + self.limits.batch_wait_seconds
        is_small = key is not None and batch[0].num_pixels <= self.limits.batch_pixels
        while is_small and len(batch) < self.limits.batch_size:
            left = max(0.0, until - time.monotonic())
            another = self._conveyor.take(lambda ready: ready.batch_key == key, left)
            if another is None:
                break
            batch.append(another[1])
        return batch

    def _restore(self, batch: list[_Ready]) -> None:
        """Restore one picture with progress, or several small ones together; a bad one does not fail the others."""
        batch = [ready for ready in batch if not self._has_ended(ready.job)]
        if not batch:
            return
        if len(batch) > 1:
            for ready in batch:
                ready.job.update(stage="restoring")
            try:
                model, options = batch[0].job.model, batch[0].job.options
                started = time.monotonic()
                pictures: list[Any] = [ready.opened for ready in batch]
                restored = self._models.restorer(model).restore_batch(pictures, options, in_turn=True)
            except Exception:  # noqa: BLE001 - which of them it was is found out by restoring each on its own
                _LOG.info("a batch of %d pictures failed; restoring one after the other", len(batch))
            else:
                self.times.add(model, sum(ready.num_pixels for ready in batch), time.monotonic() - started)
                for ready, result in zip(batch, restored, strict=True):
                    self._hand_to_writer(ready, result)
                return
        for ready in batch:
            self._guarded(ready.job, partial(self._restore_one, ready))

    def _restore_one(self, ready: _Ready) -> None:
        job = ready.job
        job.update(state="running", stage="estimating")
        restorer = self._models.restorer(job.model)
        _check_prompts(restorer, job.options)
        if ready.opened is None:
            self._finish(ready, self._restored_video(ready, restorer))
            return
        pixels = ready.num_pixels
        monitor = JobMonitor(job, self.limits, self.times.expected(job.model, pixels))
        started = time.monotonic()
        with restorer.watched(monitor.look):
            if not isinstance(ready.opened, Opened):
                made = restore_series(
                    restorer, ready.opened, ready.target, job.options, job.writing, monitor.report,
                    signer=self._signer_of(ready),
                )  # fmt: skip
                self._finish(ready, made)
                return
            restored = restorer.restore(ready.opened, job.options, progress=monitor.report)
        self.times.add(job.model, pixels, time.monotonic() - started)
        self._hand_to_writer(ready, restored)

    def _restored_video(self, ready: _Ready, restorer: Restorer) -> Result:
        from s3diff.restoration.video import restore_video

        job = ready.job
        monitor = VideoMonitor(job, self.limits)

        def progress(stage: str, done: int, total: int) -> None:
            monitor.report(stage, done, total)
            with monitor.away():
                if (batch := self._next_batch(self._conveyor.take(lambda each: each.is_picture, 0))) is not None:
                    self._restore(batch)

        writing = replace(job.video_options, quality=job.writing.quality, provenance=job.writing.provenance)
        with restorer.watched(monitor.look):
            return restore_video(
                restorer, job.source, ready.target, job.options, writing,
                progress=progress, work=job.work, source_id=job.id,
            )  # fmt: skip

    def _hand_to_writer(self, ready: _Ready, restored: Result) -> None:
        """Pass a result to the writer; wait where the disk is slow, so that results do not pile up."""
        ready.job.update(stage="writing", fraction=max(0.95, ready.job.status.fraction), seconds_left=None)
        self._conveyor.hand_on((ready, restored))

    def _write(self, ready: _Ready, restored: Result) -> None:
        if not self._has_ended(ready.job):
            self._finish(ready, write(restored, ready.target, ready.job.writing, self._signer_of(ready)))

    def _signer_of(self, ready: _Ready) -> ResultSigner | None:
        """Return the signer, if the result carries a statement and its format can be signed."""
        form = format_of(ready.target)
        if self._signer is None or form is None or not ready.job.writing.provenance:
            return None
        return self._signer if self._signer.fits(form) else None

    def _finish(self, ready: _Ready, written: Result) -> None:
        job = ready.job
        notes = tuple(job.worded(note) for note in written.notes)
        form = format_of(ready.target)
        if self._signer is not None and job.writing.provenance and self._signer_of(ready) is None:
            if form is None:
                notes += ("videos hold no Content Credentials; the result is not signed",)
            else:
                notes += (f"{form.title} holds no Content Credentials; the result is not signed",)
        result = replace(written, notes=notes, size_bytes=ready.target.stat().st_size)
        shutil.rmtree(job.source.parent, ignore_errors=True)
        if not self._has_ended(job):
            self._end(job, state="done", fraction=1.0, result=result)

    def _guarded(self, job: Job, step: Callable[[], Any]) -> Any:
        """Run one step of a job; an exception ends the job, never the thread."""
        try:
            return None if self._has_ended(job) else step()
        except JobCancelledError:
            self._end(job, state="cancelled")
        except S3DiffError as error:
            failure = failure_of(error, job.worded(error))
            if failure.kind.text is not None:  # the log has the paths, the client does not
                _LOG.error("%s: %s", failure.kind.code, error, extra={"job": job.id, "request": job.request})
            self._end(job, state="failed", error=failure.message, cause=failure.kind.code, field=failure.field)
        except Exception:  # noqa: BLE001 - the log has it; the thread has other jobs
            text = traceback.format_exc().replace(job.name, "PICTURE")
            _LOG.error("job failed: %s", text, extra={"job": job.id, "request": job.request})
            self._end(job, state="failed", error=FAILED, cause="service")
        return None

    def _has_ended(self, job: Job) -> bool:
        """End a job that was cancelled; return whether it has ended, for whatever reason."""
        if job.is_cancelled:
            self._end(job, state="cancelled")
        return job.status.is_final

    def _end(self, job: Job, *, state: str, **changes: Any) -> None:
        if state != "done":
            shutil.rmtree(job.folder, ignore_errors=True)
        changes |= {"state": state, "stage": "ended", "seconds_left": None}
        if not job.status.is_final:
            self._before_end(job, replace(job.status, **changes))
        if job.update(**changes):
            facts = {"job": job.id, "request": job.request, "state": state, "seconds": round(job.seconds, 3)}
            _LOG.info("job ended", extra=facts)
            self._on_end(job)


def _check_prompts(restorer: Restorer, options: RestoreOptions) -> None:
    """Refuse a prompt that a model without a text encoder cannot read; a damaged encoder is the service's fault."""
    for name in PROMPTS:
        try:
            restorer.prompt(name, options)
        except ModelError as error:
            if restorer.model.text_encoder is not None:
                raise
            raise OptionError(f"{name} cannot be used: {error}") from error
