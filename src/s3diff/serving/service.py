"""Restore pictures and videos of many clients, one after the other or in small batches, with progress and cancellation.

HTTP and the web page call this class; neither defines an order of steps.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from s3diff.errors import PictureError, QueueFullError, ServiceClosedError
from s3diff.images.files.content_credentials import ResultSigner
from s3diff.images.files.provenance_inspection import Inspection, inspect_file
from s3diff.images.files.reading import read_picture
from s3diff.images.files.video import first_picture
from s3diff.images.picture import Picture
from s3diff.options import METHOD_SCALE, OutputOptions, RestoreOptions
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.result import Degrees
from s3diff.service_errors import ENDING, QUEUE_FULL, TOO_MANY
from s3diff.serving.intake import check_header, take_in, within_limits
from s3diff.serving.job_pipeline import JobPipeline
from s3diff.serving.jobs import Job, JobStore
from s3diff.serving.limits import Quota, QuotaCounter, ServiceSettings
from s3diff.serving.model_cache import ModelCache, OfferedModel
from s3diff.serving.progress import TimeEstimator
from s3diff.serving.shared_jobs import SharedJobStore
from s3diff.video_options import VideoOptions

_LOG = logging.getLogger("s3diff.serving")
#: At its end the service waits for results younger than this to be fetched.
_FRESH_SECONDS = 60.0
#: No limit for one client; the service's limits still apply.
NO_QUOTA = Quota()
#: Side of the warm-up picture. If its first run takes less than this time, a second one measures the speed.
_WARM_UP_PX, _WARM_UP_SECONDS = 64, 2.0


class Estimate(NamedTuple):
    """Hold what is known of a picture or a video before it is restored.

    Attributes:
        size: (width, height) in pixels, upright.
        degrees: of the picture, or of a video's first frame.
        num_frames: of a video, as far as its file says; 0 if it does not. None for a picture.
    """

    size: tuple[int, int]
    degrees: Degrees
    num_frames: int | None


class RestorationService:
    """Restore pictures for many clients with one device.

    Raises:
        OptionError: no model, or two of one name; ``job_store`` is no address of a store.
        MissingExtraError: object stores need the extra cluster.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.limits = settings.limits
        device, precision, fast = settings.device, settings.precision, settings.fast
        signer = None if settings.signing is None else ResultSigner(*settings.signing)
        folder = None if settings.folder is None else Path(settings.folder)

        def load(model: str | Path) -> Restorer:
            return Restorer.from_pretrained(model, device=device, precision=precision, fast=fast, remark=_LOG.warning)

        self._models = ModelCache(settings.models, load)
        self.store = JobStore(self.limits, folder)
        if settings.job_store is not None:
            self.store = SharedJobStore(self.limits, folder, settings.job_store)
        self.times = TimeEstimator()
        self._quotas = QuotaCounter(lambda owner: sum(job.owner == owner for job in self.store.live()))
        self.counts: dict[str, int] = {"done": 0, "failed": 0, "cancelled": 0, "refused": 0}
        #: Called with every job that has ended, in the service's threads.
        self.listeners: list[Callable[[Job], None]] = []
        self._pipeline = JobPipeline(self.limits, self._models, self.times, self.store.before_end, self._ended, signer)
        self._is_loaded = False
        self._estimating = threading.BoundedSemaphore(self.limits.estimates_at_once)

    # ------------------------------------------------------------------------------------------ for everybody

    def start(self) -> RestorationService:
        """Load the default model and start the threads.

        Raises:
            ModelError, DownloadError, OptionError: the model cannot be loaded.
            StoreError: the shared store of jobs cannot be reached.
        """
        try:
            self._warm_up(self._models.default)
            self.store.start(self._pipeline)
        except BaseException:  # Ctrl-C and a signal as well: no folder stays behind
            self.store.close()
            raise
        self._is_loaded = True
        self._pipeline.start()
        return self

    def _warm_up(self, model: str) -> None:
        """Restore a small picture, so that the first client does not wait for it, and estimate the speed."""
        restorer, grey = self._models.restorer(model), Picture(np.full((_WARM_UP_PX, _WARM_UP_PX, 3), 128, np.uint8))
        pixels = (_WARM_UP_PX * METHOD_SCALE) ** 2
        for _ in range(2):
            started = time.monotonic()
            restorer.restore(grey)
            seconds = time.monotonic() - started
            if seconds > _WARM_UP_SECONDS:
                break
        self.times.add(model, pixels, seconds)

    @property
    def is_ready(self) -> bool:
        """Whether pictures are accepted."""
        return self._pipeline.is_open and self._is_loaded and self._pipeline.is_alive and self.store.is_reachable

    @property
    def is_alive(self) -> bool:
        """Whether the threads that work on pictures live."""
        return self._pipeline.is_alive

    @property
    def is_ending(self) -> bool:
        """Whether the service is ending and refuses pictures."""
        return not self._pipeline.is_open

    @property
    def models(self) -> list[OfferedModel]:
        """The models that a request may name, the default first."""
        return self._models.offered()

    @property
    def num_waiting(self) -> int:
        """Jobs in the queue."""
        return self._pipeline.num_waiting

    @property
    def num_running(self) -> int:
        """Number of jobs that have left the queue and not ended."""
        return sum(job.status.state == "running" for job in self.store.live())

    @property
    def owes(self) -> bool:
        """Whether pictures are being worked on, or results of the last minute wait to be fetched from this process."""
        if self.store.keeps_results:
            return bool(self.store.live())
        fresh = time.monotonic() - _FRESH_SECONDS
        return any(
            not job.status.is_final or (job.status.result and not job.is_fetched and (job.ended_at or 0) > fresh)
            for job in self.store.jobs()
        )

    def submit(
        self,
        picture: bytes | Path | BinaryIO,
        name: str,
        options: RestoreOptions | None = None,
        *,
        model: str | None = None,
        writing: OutputOptions | None = None,
        video_options: VideoOptions | None = None,
        owner: str | None = None,
        quota: Quota = NO_QUOTA,
        is_shared: bool = True,
    ) -> Job:
        """Accept a picture or a video. Its header is read here, everything else happens in the service's threads.

        Args:
            picture: the file's content, the file, or the open file, read from its beginning.
            name: the user's name for it; its folders are ignored.
            model: see :attr:`models`; None for the default.
            writing: how the result is named and written; ``overwrite`` is ignored.
            video_options: how it is made and encoded, if it is a video; quality and provenance are those of
                ``writing``.
            owner: the only client with access to the job.
            quota: limits on this owner's pictures.
            is_shared: whether other services may be asked for the job, where jobs are shared.

        Raises:
            PictureTooLargeError: the file, the picture or its result is larger than the limits allow.
            PictureError: the file is no picture, or a video where those are not read.
            OptionError: the model is not offered, or options do not go together with a video.
            OutputError: the container of a video cannot hold its streams.
            QueueFullError: too many wait, or the disk is full; come back later.
            QuotaError: this owner's quota is used up.
            ServiceClosedError: the service is ending.
            StoreError: the shared store of jobs cannot be reached.
        """
        options = within_limits(RestoreOptions() if options is None else options, self.limits)
        model = self._models.default if model is None else model
        self._models.check(model)
        self.require_room()
        job = Job(
            name=name,
            options=options,
            writing=OutputOptions() if writing is None else writing,
            video_options=video_options,
            model=model,
            owner=owner,
            folder=self.store.folder,
        )
        with self._quotas.taking(owner, quota):
            try:
                take_in(picture, job.source, self.limits)
                check_header(job, self.limits)
                self.store.add(job, is_shared=is_shared)
                if not self._pipeline.put(job):
                    self._refuse()
            except BaseException:
                self.store.remove(job)
                raise
        return job

    def job(self, job_id: str, owner: str | None = None) -> Job:
        """Find an owner's job.

        Raises:
            JobNotFoundError: there is none.
        """
        return self.store.get(job_id, owner)

    def job_with_result(self, job_id: str, owner: str | None = None) -> Job:
        """Find an owner's job as :meth:`job` does. If another replica has recorded its end, take that over first."""
        job = self.job(job_id, owner)
        self.store.catch_up(job)
        return job

    def position(self, job: Job) -> int | None:
        """Count the jobs before this one in the queue; None if it is not in the queue."""
        return self._pipeline.position(job)

    def cancel(self, job_id: str, owner: str | None = None) -> Job:
        """Cancel what :meth:`job` finds: at once while it waits, before the networks' next layer while it runs."""
        job = self.job(job_id, owner)
        self._pipeline.cancel(job)
        return job

    def remove(self, job_id: str, owner: str | None = None) -> None:
        """Cancel what :meth:`job` finds, and remove it with its files."""
        job = self.job(job_id, owner)
        job.is_forgotten = True
        self._pipeline.cancel(job)
        if job.status.is_final:
            self.store.remove(job)

    def estimate(
        self, picture: bytes | Path | BinaryIO, name: str = "picture", *, model: str | None = None
    ) -> Estimate:
        """Estimate how blurred and noisy a picture is, as restoring would, without waiting for jobs.

        Of a video the first frame is estimated.

        Raises:
            PictureTooLargeError, PictureError, OptionError, ServiceClosedError: as :meth:`submit`.
            QueueFullError: too many pictures are being estimated; come back in a second.
        """
        with self._looking_at(picture, name, model) as (job, model):
            if job.video is None:
                seen = read_picture(job.source, self.limits.input_pixels, self.limits.upload_bytes)
            else:
                seen = first_picture(job.video)
            degrees = self._models.restorer(model).estimate(seen)
            return Estimate((seen.width, seen.height), degrees, None if job.video is None else job.video.num_frames)

    def inspect(self, picture: bytes | Path | BinaryIO, name: str = "picture") -> Inspection:
        """Read a picture's statement of its making, and check its signature, without waiting for jobs.

        Raises:
            PictureTooLargeError, PictureError, QueueFullError, ServiceClosedError: as :meth:`estimate`.
        """
        with self._looking_at(picture, name, None) as (job, _):
            if job.video is not None:
                raise PictureError(f"{job.name} is a video; only pictures are inspected")
            return inspect_file(job.source)

    @contextmanager
    def _looking_at(self, picture: bytes | Path | BinaryIO, name: str, model: str | None) -> Iterator[tuple[Job, str]]:
        """Hold a picture as the source of a job that is never queued, and the model's name."""
        model = self._models.default if model is None else model
        self._models.check(model)
        if not self._estimating.acquire(timeout=self.limits.idle_seconds):
            raise QueueFullError(TOO_MANY.format("pictures are being looked at"))
        plain = RestoreOptions(), OutputOptions()
        job = Job(name=name, options=plain[0], writing=plain[1], model=model, owner=None, folder=self.store.folder)
        try:
            if not self._pipeline.is_open:
                raise ServiceClosedError(ENDING)
            take_in(picture, job.source, self.limits)
            check_header(job, self.limits, of_result=False)
            try:
                yield job, model
            except PictureError as error:
                raise PictureError(job.worded(error)) from error
        finally:
            self._estimating.release()
            shutil.rmtree(job.folder, ignore_errors=True)

    def drain(self) -> None:
        """Refuse new pictures; finish the accepted ones."""
        self._pipeline.is_open = False

    def close(self, grace_seconds: float = 30.0) -> None:
        """Refuse new pictures, finish the accepted ones or cancel them after the grace time, remove all files."""
        self.drain()
        until = time.monotonic() + grace_seconds
        for job in self.store.live():
            job.wait(max(0.0, until - time.monotonic()))
        self.store.hand_over()
        for job in self.store.live():
            self.cancel(job.id, job.owner)
        self._pipeline.stop(self.limits.idle_seconds)
        self.store.close()

    def __enter__(self) -> RestorationService:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close(0)

    # ------------------------------------------------------------------------------------------ taking in

    def require_room(self, owner: str | None = None, quota: Quota = NO_QUOTA) -> None:
        """Check, before the upload, that a picture would be accepted now.

        Raises:
            QueueFullError, QuotaError, ServiceClosedError: the picture would be refused.
        """
        if not self._pipeline.is_open:
            raise ServiceClosedError(ENDING)
        if self.num_waiting >= self.limits.queue_length:
            self._refuse()
        self._quotas.check(owner, quota)

    def _refuse(self) -> NoReturn:
        self.counts["refused"] += 1
        waiting = self.limits.queue_length
        later = self.times.seconds_of_queue(waiting)
        raise QueueFullError(QUEUE_FULL.format(waiting), later)

    def _ended(self, job: Job) -> None:
        self.counts[job.status.state] += 1
        for listener in self.listeners:
            listener(job)
        if job.is_forgotten:
            self.store.remove(job)
        self.store.sweep()
