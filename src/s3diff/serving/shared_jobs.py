"""Share jobs between services at one place: each answers for any job, and takes over those of a dead service.

Each service works on the jobs that it has taken in, and writes down what :mod:`s3diff.serving.job_records` lists. It
writes its own record again every few seconds; one whose record stands still for longer, by the reader's own clock, is
dead, and the first service that claims its jobs goes on with them. A service that was only slow does no harm: both make
the same result, and the end that was written first counts.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from s3diff.errors import JobNotFoundError, OptionError, OutputError, S3DiffError, StoreError
from s3diff.folders.stores import open_store
from s3diff.service_errors import GIVEN_UP, NO_JOB
from s3diff.serving.job_records import MOST_TRIES, JobRecords, NoRecordError, SharedWork, job_of
from s3diff.serving.jobs import Job, JobStatus, JobStore, JobWorker, beyond_limits
from s3diff.serving.limits import ServiceLimits

_LOG = logging.getLogger("s3diff.serving")
#: Seconds between writes of a service's record, between looks at the others' records, and between clean-ups.
_BEAT_SECONDS, _LOOK_SECONDS, _SWEEP_SECONDS = 2.0, 1.0, 60.0
#: A service whose record stands still for so long is dead.
_DEAD_SECONDS = 15.0
#: Time between two looks counts up to this: where nothing was looked at for longer, the place was away.
_GAP_SECONDS = 5.0
#: So long a copy of another service's job is kept after the last question about it.
_MIRROR_SECONDS = 600.0
#: Longest wait for the place when a service ends.
_LEAVE_SECONDS = 5.0


class _Mirror(Job):
    """Another service's job, as it is written down."""

    ask_for_end: Callable[[Job], None]

    def __init__(self, **facts: object) -> None:
        super().__init__(**facts)  # type: ignore[arg-type]
        self.asked_at = time.monotonic()
        self.turn = threading.Lock()

    def cancel(self) -> None:
        super().cancel()
        if not self.status.is_final:
            self.ask_for_end(self)


class SharedJobStore(JobStore):
    """Jobs in a folder that all services see, or at an address in an object store.

    Args:
        limits: how long and how many bytes of results are kept, of all services together.
        parent: see :class:`JobStore`; files that are worked on lie there.
        place: the folder or address; for nothing else.

    Raises:
        OptionError, MissingExtraError: see :func:`s3diff.folders.stores.open_store`.
    """

    def __init__(self, limits: ServiceLimits, parent: Path | None, place: str) -> None:
        self._records = JobRecords(open_store(place))
        super().__init__(limits, parent)
        self.id = secrets.token_hex(8)
        self._worker: JobWorker | None = None
        self._is_over = threading.Event()
        self._num_beats, self._beaten = 0, time.monotonic()
        self._looked, self._swept = time.monotonic(), time.monotonic()
        #: Of each service: its record's stamp, and for how many seconds it was seen to stand still.
        self._seen: dict[str, tuple[str, float]] = {}
        self._claimants: dict[tuple[str, int], str] = {}
        self._ends: dict[str, tuple[float, int]] = {}
        self._nobodys: dict[str, float] = {}
        #: Own jobs that are shared, those whose progress is not written down yet, and ends that could not be.
        self._shared: set[str] = set()
        self._changed: set[str] = set()
        self._unwritten: dict[str, JobStatus] = {}
        self._mirrors: dict[str, _Mirror] = {}
        self._work = SharedWork(self._records, self.id)

    # ------------------------------------------------------------------------------------------ as JobStore

    def start(self, worker: JobWorker) -> None:
        """See :class:`JobStore`.

        Raises:
            StoreError: the place cannot be reached.
        """
        self._worker = worker
        self._beat()
        steps = (self._beat, _BEAT_SECONDS), (self._look, _LOOK_SECONDS), (self._keep_work, _LOOK_SECONDS)
        for step, seconds in steps:
            threading.Thread(target=self._repeat, args=(step, seconds), name="s3diff-shared", daemon=True).start()

    @property
    def is_reachable(self) -> bool:
        return time.monotonic() - self._beaten < _DEAD_SECONDS

    @property
    def keeps_results(self) -> bool:
        return True

    def add(self, job: Job, *, is_shared: bool = True) -> None:
        super().add(job)
        if is_shared:
            self._records.write_job(job)
            self._own(job)
            self._records.claim(job.id, 0, self.id)

    def get(self, job_id: str, owner: str | None) -> Job:
        """See :class:`JobStore`.

        Raises:
            StoreError: the place cannot be reached.
        """
        self.sweep()
        with self._lock:
            own = self._jobs.get(job_id)
        if own is None:
            return self._mirror(job_id, owner)
        if own.owner != owner:
            raise JobNotFoundError(NO_JOB)
        if job_id in self._shared and own.status.is_final and not self._is_kept(job_id):
            super().remove(own)  # another service was asked to forget it
            raise JobNotFoundError(NO_JOB)
        return own

    def told(self, job: Job) -> JobStatus:
        """Return what every service says of a job: a client that asks several of them sees no step back."""
        status = job.status
        if job.id not in self._shared or status.is_final or not self.is_reachable:
            return status
        with suppress(S3DiffError):
            status = JobStatus(**(self._records.read_progress(job.id) or {}))
        return status

    def before_end(self, job: Job, status: JobStatus) -> None:
        if job.id not in self._shared or job.is_forgotten or self._is_over.is_set():
            return
        try:
            self._records.write_end(job.id, status)
        except S3DiffError as error:
            _LOG.warning("the end of a job cannot be written down yet: %s", error, extra={"job": job.id})
            self._unwritten[job.id] = status

    def catch_up(self, job: Job) -> None:
        """See :class:`JobStore`: other services tell an end as soon as it is written down, this one a little later."""
        if job.id in self._shared and not job.status.is_final:
            with suppress(S3DiffError):
                if self._records.has_ended(job.id):
                    job.wait(_LEAVE_SECONDS)

    def hand_over(self) -> None:
        self._is_over.set()
        leaving = threading.Thread(target=self._leave, name="s3diff-shared", daemon=True)
        leaving.start()
        leaving.join(_LEAVE_SECONDS)

    def remove(self, job: Job) -> None:
        """See :class:`JobStore`. If the place cannot be reached, remaining files are removed when they are old."""
        super().remove(job)
        is_known_there = job.id in self._shared or self._mirrors.pop(job.id, None) is not None
        self._shared.discard(job.id)
        if is_known_there:
            try:
                self._records.remove(job.id)
            except S3DiffError as error:
                _LOG.warning("a job cannot be removed: %s", error, extra={"job": job.id})

    def close(self) -> None:
        """See :class:`JobStore`. Ended jobs stay at the shared place until they are old."""
        if not self._is_over.is_set():
            self.hand_over()
        super().close()

    # ------------------------------------------------------------------------------------------ other services' jobs

    def _mirror(self, job_id: str, owner: str | None) -> Job:
        mirror = self._mirrors.get(job_id)
        if mirror is None:
            told = self._records.read_job(job_id)
            if told is None or told["owner"] != owner:
                raise JobNotFoundError(NO_JOB)
            new = job_of(job_id, told, self.folder, _Mirror)
            assert isinstance(new, _Mirror)
            new.ask_for_end = self._records.ask_for_end
            mirror = self._mirrors.setdefault(job_id, new)
        if mirror.owner != owner or not self._refresh(mirror):
            raise JobNotFoundError(NO_JOB)
        mirror.asked_at = time.monotonic()
        return mirror

    def _refresh(self, mirror: _Mirror) -> bool:
        """Read a job's state; return whether the job still exists."""
        with mirror.turn:
            if mirror.status.is_final:
                is_there = self._records.has_ended(mirror.id)
            elif (end := self._records.read_end(mirror)) is not None:
                is_there = mirror.update(**end)
            elif (progress := self._records.read_progress(mirror.id)) is not None:
                is_there = mirror.update(**progress)
            else:
                is_there = self._records.read_job(mirror.id) is not None
        if not is_there:
            mirror.update(state="cancelled", stage="ended")
            self._drop(mirror)
        return is_there

    def _drop(self, mirror: _Mirror) -> None:
        self._mirrors.pop(mirror.id, None)
        if mirror.id not in self._jobs:  # taken over meanwhile
            shutil.rmtree(mirror.folder, ignore_errors=True)

    # ------------------------------------------------------------------------------------------ own threads

    def _repeat(self, step: Callable[[], None], seconds: float) -> None:
        """Take a step again and again. Trouble is logged when it begins and when it is over."""
        is_in_trouble = False
        while not self._is_over.wait(seconds):
            try:
                step()
            except Exception as error:  # noqa: BLE001 - the next time may go well
                if not is_in_trouble:
                    unforeseen = None if isinstance(error, S3DiffError) else error
                    _LOG.warning("the place of the jobs cannot be used: %s", error, exc_info=unforeseen)
                is_in_trouble = True
            else:
                if is_in_trouble:
                    _LOG.warning("the place of the jobs can be used again")
                is_in_trouble = False

    def _beat(self) -> None:
        self._num_beats += 1
        self._records.beat(self.id, self._num_beats)
        self._beaten = time.monotonic()

    def _leave(self) -> None:
        with suppress(StoreError, OutputError):
            self._keep_work()
        with suppress(StoreError):
            self._records.leave(self.id)

    def _keep_work(self) -> None:
        """Write the finished segments of own videos, so that another service can go on from them."""
        self._work.keep([job for job in self.live() if job.id in self._shared and job.video is not None])

    def _look(self) -> None:
        live = self._records.list("live")  # before the services: one that has claimed a job has a record already
        self._look_at_services()
        for job_id, status in list(self._unwritten.items()):
            with suppress(OutputError, StoreError):  # a full disk, say, which the sweep below may mend
                if job_id in self._jobs:  # otherwise its result is too old to be kept
                    self._records.write_end(job_id, status)
                self._unwritten.pop(job_id, None)
        for job_id, kinds in live.items():
            with suppress(NoRecordError):
                self._look_at_job(job_id, kinds)
        for job_id in list(self._changed):
            self._changed.discard(job_id)
            job = self._jobs.get(job_id)
            if job is not None and not job.status.is_final:
                self._records.write_progress(job)
        for mirror in list(self._mirrors.values()):
            if time.monotonic() - mirror.asked_at > _MIRROR_SECONDS:
                self._drop(mirror)
            elif not mirror.status.is_final:
                self._refresh(mirror)
        if time.monotonic() - self._swept > _SWEEP_SECONDS:
            self._swept = time.monotonic()
            self._sweep_place(set(live))

    def _look_at_services(self) -> None:
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _GAP_SECONDS), now
        seen: dict[str, tuple[str, float]] = {}
        for service, stamp in self._records.services().items():
            before = self._seen.get(service)
            still = before[1] + passed if before is not None and before[0] == stamp else 0.0
            seen[service] = (stamp, still)
        self._seen = seen

    def _is_dead(self, service: str) -> bool:
        return service not in self._seen or self._seen[service][1] > _DEAD_SECONDS

    def _look_at_job(self, job_id: str, kinds: set[str]) -> None:
        """End an own job on request; take over a job that no service works on."""
        numbers = [int(kind) for kind in kinds if kind.isdigit()]
        number = max(numbers, default=-1)
        if number < 0:
            if job_id not in self._jobs:
                self._records.clear(job_id)
            return
        claimant = self._claimants.get((job_id, number)) or self._records.claimant(job_id, number)
        if claimant is None:
            return
        self._claimants[job_id, number] = claimant
        own = self._jobs.get(job_id)
        if claimant == self.id and own is not None:
            if "cancel" in kinds:
                self._end_own(own)
        elif claimant == self.id or self._is_dead(claimant):
            self._take_over(job_id, number + 1)

    def _end_own(self, job: Job) -> None:
        assert self._worker is not None
        job.is_forgotten = job.is_forgotten or self._records.is_to_be_forgotten(job.id)
        self._worker.cancel(job)
        if job.is_forgotten and job.status.is_final:
            self.remove(job)

    def _take_over(self, job_id: str, number: int) -> None:
        assert self._worker is not None
        told = None if self._records.has_ended(job_id) else self._records.read_job(job_id)
        if told is None:
            self._records.clear(job_id)
            return
        if number >= MOST_TRIES:
            self._records.write_end(job_id, JobStatus(state="failed", stage="ended", error=GIVEN_UP, cause="service"))
            return
        try:
            job = job_of(job_id, told, self.folder)
        except (OptionError, KeyError, TypeError):
            return  # of another version, which can do it
        if not self._worker.has_room(job.model) or not self._records.claim(job_id, number, self.id):
            return
        is_taken = False
        try:
            if self._records.fetch_source(job):
                self._work.fetch(job)
                self._own(job)
                is_taken = self._worker.take_over(job)
        finally:
            if is_taken:
                _LOG.info("a job of a service that has died is taken over", extra={"job": job_id})
            else:
                with self._lock:
                    self._jobs.pop(job_id, None)
                self._shared.discard(job_id)
                self._claimants.pop((job_id, number), None)
                shutil.rmtree(job.folder, ignore_errors=True)
                self._records.give_back(job_id, number)

    def _own(self, job: Job) -> None:
        with self._lock:
            self._jobs[job.id] = job
        self._shared.add(job.id)
        job.subscribe(lambda _: self._changed.add(job.id))

    def _is_kept(self, job_id: str) -> bool:
        return job_id in self._unwritten or self._records.has_ended(job_id)

    def _sweep_place(self, live: set[str]) -> None:
        """Remove jobs that are older than the services keep them, and abandoned jobs that nobody has ended."""
        kept, now = self._records.list("kept"), time.time()
        ended = []
        for job_id, kinds in kept.items():
            if "end" in kinds:
                facts = self._ends.get(job_id) or self._records.end_facts(job_id)
                if facts is not None:
                    self._ends[job_id] = facts
                    ended.append((now - facts[0], facts[1], job_id))
            elif job_id not in live:
                since = self._nobodys.setdefault(job_id, time.monotonic())
                if time.monotonic() - since > self.limits.result_seconds:
                    self._records.remove(job_id)
        for job_id in beyond_limits(ended, self.limits):
            self._records.remove(job_id)
        for known in (self._ends, self._nobodys):
            for job_id in set(known) - set(kept):
                known.pop(job_id)
        abandoned = self._records.jobs_with_work()
        for job_id in abandoned - set(self._records.list("live")):  # looked at later: a new job has no work yet
            self._records.remove_work(job_id)
        for place in set(self._claimants):
            if place[0] not in live:
                self._claimants.pop(place)
        for job_id in list(self._shared):
            if job_id not in self._jobs:
                self._shared.discard(job_id)
        for job in self.jobs():
            is_lost = job.id in self._shared and job.id not in kept and job.id not in self._unwritten
            if is_lost and job.status.is_final:
                super().remove(job)
        for service, (_, still) in list(self._seen.items()):
            if service != self.id and still > 10 * _DEAD_SECONDS:
                self._records.leave(service)
        self._records.remove_leftovers()
