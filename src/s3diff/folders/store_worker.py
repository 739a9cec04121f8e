"""Restore the pictures of one task from stores into a store: a cluster worker's part, without the cluster.

The conveyor of folder runs is used: one picture is fetched while another is restored and a third is uploaded.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from shutil import rmtree
from typing import Any

from s3diff.errors import DISK_FULL, DiskFullError, OutputError, PictureError, S3DiffError
from s3diff.folders.manifest import DEADLY_TRIES, Flight
from s3diff.folders.picture_runners import Finish, LocalRunner, PictureWatcher
from s3diff.folders.plan import RestoreJob, require_inside
from s3diff.folders.run_jobs import Outcome, run_jobs
from s3diff.folders.store_plan import StoreJob
from s3diff.folders.stores import AlreadyThereError, Store, fetch, is_address, local_name, open_store
from s3diff.messages import reason_of
from s3diff.options import OutputOptions, Precision, RestoreOptions
from s3diff.restoration.frames_and_pages import OpenedSeries
from s3diff.restoration.memory import is_out_of_memory
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.result import Result
from s3diff.restoration.steps import Opened

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Hold the settings of every worker of a run, as plain values that can be sent to other machines.

    Attributes:
        output: folder or address of the results.
        run, run_id: see :class:`s3diff.folders.manifest.Manifest`.
        model: a name or a model folder, at the same path on every machine.
        device, precision, fast: see :class:`Restorer`.
        threads: torch's threads in each worker; None keeps torch's own number.
        batch: most small pictures of one size that run together.
    """

    output: str
    run: Mapping[str, Any]
    run_id: str
    model: str = "compact"
    options: RestoreOptions = field(default_factory=RestoreOptions)
    writing: OutputOptions = field(default_factory=OutputOptions)
    device: str = "auto"
    precision: Precision = "auto"
    fast: bool = False
    threads: int | None = None
    batch: int = 1


@dataclass(frozen=True)
class TaskResult:
    """Hold how the pictures of a task ended.

    Attributes:
        rows: the manifest's line for each picture.
        flight: key of the object that holds the rows until a part of the manifest does; None for one that stays.
        error: why no further picture can be restored; None if the run goes on.
    """

    rows: list[dict[str, Any]]
    flight: str | None
    error: str | None = None


class StoreWorker:
    """Restore tasks one after the other with one model.

    Args:
        restorer: a loaded model; None loads the one of ``options``.

    Raises:
        ModelError, OptionError, StoreError: no picture can be restored.
    """

    def __init__(self, options: WorkerOptions, restorer: Restorer | None = None) -> None:
        from s3diff.images.files.tiff import silence_libtiff

        silence_libtiff()
        if options.threads is not None:
            import torch

            torch.set_num_threads(options.threads)
        self._options = options
        self._store = open_store(options.output)
        self._restorer = restorer or Restorer.from_pretrained(
            options.model, device=options.device, precision=options.precision, fast=options.fast
        )
        self._restorer.check(options.options)

    def restore(self, jobs: Sequence[StoreJob]) -> TaskResult:
        """Restore the pictures of one task. Every failure is a row, or the result's error."""
        rows: list[dict[str, Any]] = []
        try:
            new = [(job.target, job.stamp) for job in jobs if not job.replace]
            name = "\n".join(job.target for job in jobs)
            flight = Flight(self._store, self._options.run, self._options.run_id, new, name)
            pending = []
            for job in jobs:
                if (row := self._earlier(job, flight)) is None:
                    pending.append(job)
                else:
                    rows.append(row)
            for row in self._one_by_one(pending, flight) if flight.is_suspicious else self._restored(pending):
                rows.append(row)
                flight.add(row)
            flight.flush()
        except S3DiffError as error:
            # The flight stays: a picture whose outcome was not told may be finished.
            return TaskResult(rows, None, " ".join(str(error).split()))
        return TaskResult(rows, flight.key)

    def _earlier(self, job: StoreJob, flight: Flight) -> dict[str, Any] | None:
        """Return the outcome from an earlier try of this task, whose worker died; None without one."""
        if job.target in flight.ended:
            return flight.ended[job.target]
        if not flight.num_tries or job.replace or self._store.find(job.target) is None:
            return None
        row = {**_row_start("done", job), "recovered": True}
        flight.add(row)
        return row

    def _one_by_one(self, jobs: Sequence[StoreJob], flight: Flight) -> Iterator[dict[str, Any]]:
        """Restore pictures one by one after repeated deaths of workers; fail the picture that causes them."""
        for job in jobs:
            if flight.is_deadly(job.target):
                reason = f"{job.source}: its worker died {DEADLY_TRIES} times while it restored this picture"
                yield {**_row_start("failed", job), "reason": f"{reason}; restore it on its own, with more memory"}
            else:
                flight.begin_alone(job.target)
                yield from self._restored([job])

    def _restored(self, jobs: Sequence[StoreJob]) -> Iterator[dict[str, Any]]:
        with tempfile.TemporaryDirectory(prefix="s3diff-worker-") as scratch:
            runner = _StoreRunner(self._restorer, self._options, self._store, Path(scratch))
            places = {runner.place(index, job): job for index, job in enumerate(jobs)}
            for outcome in run_jobs(list(places), runner, root=Path(scratch)):
                row = runner.row(places[outcome.job], outcome)
                if not outcome.is_disk_full:  # which ends the task, and is no picture's failure
                    yield row


class _StoreRunner(LocalRunner):
    """Restore pictures of stores, each through a scratch folder of its own.

    Results are written there, then put into the output: another try may have put the same ones there.
    """

    def __init__(self, restorer: Restorer, options: WorkerOptions, store: Store, scratch: Path) -> None:
        # Nothing is replaced in the scratch folder; whether an object of the store may be, StoreJob.replace says.
        writing = replace(options.writing, overwrite=True)
        super().__init__(restorer, options.options, writing, scratch, batch=options.batch)
        self._store, self._scratch = store, scratch
        self._jobs: dict[RestoreJob, StoreJob] = {}
        self._folders: dict[RestoreJob, Path] = {}
        self._sums: dict[RestoreJob, dict[str, Any]] = {}

    def place(self, index: int, job: StoreJob) -> RestoreJob:
        """Choose a job's local files."""
        folder = self._scratch / str(index)
        target = folder / "result" / PurePosixPath(job.target).name
        is_here = not is_address(job.source)
        source = Path(local_name(job.source)) if is_here else folder / "source" / PurePosixPath(job.source).name
        placed = RestoreJob(source, target)
        self._jobs[placed], self._folders[placed] = job, folder
        return placed

    def open(self, job: RestoreJob) -> Opened | OpenedSeries:
        """Fetch the picture and read it."""
        with _as_a_failure(self._jobs[job]), _scratch_has_room(self._scratch):
            if (place := self._store.local_path(self._jobs[job].target)) is not None:
                require_inside(place, self._store.local_path(""))
            for name in ("source", "result"):
                (self._folders[job] / name).mkdir(parents=True)
            fetch(self._jobs[job].source, self._folders[job] / "source", self._options.max_file_bytes)
            return super().open(job)

    def restore(self, job: RestoreJob, opened: Opened | OpenedSeries, watcher: PictureWatcher | None) -> Finish:
        """Restore the picture; the returned function writes and uploads the result."""
        with _as_a_failure(self._jobs[job]):
            return partial(self._put, job, super().restore(job, opened, watcher))

    def restore_batch(self, jobs: Sequence[RestoreJob], opened: Sequence[Any]) -> list[Finish]:
        finishes = super().restore_batch(jobs, opened)
        return [partial(self._put, job, finish) for job, finish in zip(jobs, finishes, strict=True)]

    def row(self, job: StoreJob, outcome: Outcome) -> dict[str, Any]:
        """Make the manifest's line of a picture."""
        line = outcome.as_json()
        for name in ("reason", "notes"):
            if name in line:
                line[name] = self._worded(job, outcome.job, line[name])
        rmtree(self._folders[outcome.job], ignore_errors=True)
        return {**line, **_row_start(outcome.state, job), **self._sums.pop(outcome.job, {})}

    def _put(self, job: RestoreJob, finish: Finish) -> Result:
        store_job = self._jobs[job]
        with _as_a_failure(store_job):
            with _scratch_has_room(self._scratch):
                result = finish()
            data = job.target.read_bytes()
            self._sums[job] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            self._put_bytes(store_job, data)
        return result

    def _put_bytes(self, job: StoreJob, data: bytes) -> None:
        try:
            self._store.write(job.target, data, replace=job.replace)
        except AlreadyThereError as error:
            # The same bytes come from another try of this task, whose worker is still running or died unnoticed.
            if self._store.read(job.target) != data:
                raise OutputError(f"{error} and is another file; choose another output") from error

    def _worded(self, job: StoreJob, placed: RestoreJob, text: Any) -> Any:
        """Replace scratch paths in a message by the picture's own names."""
        if isinstance(text, list):
            return [self._worded(job, placed, each) for each in text]
        for path, name in ((placed.source, job.source), (placed.target, self._store.address(job.target))):
            text = text.replace(str(path), name)
        return text


@contextmanager
def _as_a_failure(job: StoreJob) -> Iterator[None]:
    """Turn an unexpected error into the failure of one picture: it must not end a run of millions."""
    try:
        yield
    except S3DiffError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            _LOG.exception("%s", job.source)
        raise PictureError(f"{job.source}: {describe_unexpected(error)}") from error


@contextmanager
def _scratch_has_room(scratch: Path) -> Iterator[None]:
    """Name the scratch disk, not a picture, when it is full.

    Raises:
        DiskFullError: instead of any error that says so.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or error.errno in DISK_FULL:
            raise DiskFullError(
                f"{scratch.parent}: a worker's scratch disk is full; make room there, or set TMPDIR to another folder, "
                "and run the same command again"
            ) from error
        raise


def describe_unexpected(error: Exception) -> str:
    """Describe an error that is none of ours, for the row of its picture."""
    if is_out_of_memory(error):
        return "not enough memory; restore it by s3diff restore --stream, or on workers with more memory"
    return f"{type(error).__name__}: {reason_of(error)}; please report this"


def _row_start(state: str, job: StoreJob) -> dict[str, Any]:
    return {"state": state, "source": job.source, "target": job.target, "stamp": job.stamp}
