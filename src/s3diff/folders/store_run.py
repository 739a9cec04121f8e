"""Restore the pictures of one task from stores into a store: what a worker of a cluster does, without the cluster.

The pictures walk on the conveyor of a folder's run, through the same functions: one is fetched while another one is
restored and a third one is put.
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

from s3diff.errors import OutputError, PictureError, S3DiffError
from s3diff.folders.jobs import RestoreJob
from s3diff.folders.manifest import DEADLY_TRIES, Flight
from s3diff.folders.run import Finish, LocalWay, Outcome, PictureWatcher, run_jobs
from s3diff.folders.store_plan import StoreJob
from s3diff.folders.stores import AlreadyThereError, Store, fetch, open_store
from s3diff.messages import reason_of
from s3diff.options import OutputOptions, Precision, RestoreOptions
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.result import Result

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What every worker of a run has to know; plain values, so that it can be sent to other machines.

    Attributes:
        output: name of the output's folder or address.
        run: what is made of the pictures; see :class:`s3diff.folders.manifest.Manifest`.
        run_id: of the run.
        model: a name or a model folder, at the same path on every machine.
        options: of all pictures.
        writing: how results are written.
        device: see :class:`Restorer`.
        precision: see :class:`Restorer`.
        fast: see :class:`Restorer`.
        threads: of torch in each worker; None leaves them as they are.
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


@dataclass(frozen=True)
class TaskResult:
    """How the pictures of a task ended.

    Attributes:
        rows: one for each picture, as the manifest holds them.
        flight: the object that holds them until a part of the manifest does.
        error: why no picture can be restored any more; None where the run goes on.
    """

    rows: list[dict[str, Any]]
    flight: str | None
    error: str | None = None


class StoreWorker:
    """A model at work on tasks, one after the other.

    Args:
        options: of the run.
        restorer: a model that is loaded already.

    Raises:
        ModelError, OptionError, StoreError: no picture can be restored.
    """

    def __init__(self, options: WorkerOptions, restorer: Restorer | None = None) -> None:
        from s3diff.images.codecs import silence_libtiff

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
        """Restore the pictures of one task. Whatever goes wrong is a row, or the result's error."""
        rows: list[dict[str, Any]] = []
        flight: Flight | None = None
        try:
            new = [(job.target, job.stamp) for job in jobs if not job.replace]
            flight = Flight(
                self._store, self._options.run, self._options.run_id, new, "\n".join(job.target for job in jobs)
            )
            pending = []
            for job in jobs:
                row = self._earlier(job, flight) if flight.num_tries else None
                if row is None:
                    pending.append(job)
                else:
                    rows.append(row)
            for row in self._one_by_one(pending, flight) if flight.is_suspicious else self._restored(pending):
                rows.append(row)
                flight.add(row)
            flight.flush()
        except S3DiffError as error:
            return TaskResult(rows, flight.key if flight else None, " ".join(str(error).split()))
        return TaskResult(rows, flight.key)

    def _earlier(self, job: StoreJob, flight: Flight) -> dict[str, Any] | None:
        """How a picture ended in an earlier try of this task, whose worker died."""
        if job.target in flight.ended:
            return flight.ended[job.target]
        if job.replace or self._store.find(job.target) is None:
            return None
        row = {**_row_start("done", job), "recovered": True}
        flight.add(row)
        return row

    def _one_by_one(self, jobs: Sequence[StoreJob], flight: Flight) -> Iterator[dict[str, Any]]:
        """After workers have died again and again: find the picture that kills them, and leave it alone."""
        for job in jobs:
            if flight.is_deadly(job.target):
                reason = f"{job.source}: its worker died {DEADLY_TRIES} times while it restored this picture"
                yield {**_row_start("failed", job), "reason": f"{reason}; restore it on its own, with more memory"}
            else:
                flight.begin_alone(job.target)
                yield from self._restored([job])

    def _restored(self, jobs: Sequence[StoreJob]) -> Iterator[dict[str, Any]]:
        with tempfile.TemporaryDirectory(prefix="s3diff-worker-") as scratch:
            way = _StoreWay(self._restorer, self._options, self._store, Path(scratch))
            places = {way.place(index, job): job for index, job in enumerate(jobs)}
            for outcome in run_jobs(list(places), way, root=way.root):
                yield way.row(places[outcome.job], outcome)


class _StoreWay:
    """A way of :func:`run_jobs` from stores into a store; each picture has a scratch folder of its own."""

    def __init__(self, restorer: Restorer, options: WorkerOptions, store: Store, scratch: Path) -> None:
        self._store, self._scratch, self._writing = store, scratch, options.writing
        #: Where results are written by the way below: the output itself where it is a local folder.
        self.root = store.local_path("") or scratch
        self._jobs: dict[RestoreJob, StoreJob] = {}
        self._sums: dict[RestoreJob, dict[str, Any]] = {}
        # What is there may be replaced, or the plan would not hold the picture; see StoreJob.replace.
        self._new = LocalWay(restorer, options.options, replace(options.writing, overwrite=False), self.root)
        self._replacing = LocalWay(restorer, options.options, replace(options.writing, overwrite=True), self.root)

    def place(self, index: int, job: StoreJob) -> RestoreJob:
        """Give a job its files on this machine."""
        folder = self._scratch / str(index)
        target = self._store.local_path(job.target) or folder / "result" / PurePosixPath(job.target).name
        placed = RestoreJob(folder / "source" / PurePosixPath(job.source).name, target)
        self._jobs[placed] = job
        return placed

    def prepare(self) -> None:
        """See :class:`s3diff.folders.run.Way`."""

    def open(self, job: RestoreJob) -> tuple[RestoreJob, Any]:
        """See :class:`s3diff.folders.run.Way`. Fetches the picture first."""
        with _as_a_failure(self._jobs[job]):
            job.source.parent.mkdir(parents=True)
            if self._store.local_path("") is None:
                job.target.parent.mkdir()
            local = RestoreJob(fetch(self._jobs[job].source, job.source.parent), job.target)
            return local, self._way(job).open(local)

    def restore(self, job: RestoreJob, opened: tuple[RestoreJob, Any], watcher: PictureWatcher | None) -> Finish:
        """See :class:`s3diff.folders.run.Way`. The result is put once it is written."""
        with _as_a_failure(self._jobs[job]):
            return partial(self._put, job, self._way(job).restore(*opened, watcher))

    def row(self, job: StoreJob, outcome: Outcome) -> dict[str, Any]:
        """One line of the manifest."""
        line = outcome.as_json()
        for name in ("reason", "notes"):
            if name in line:
                line[name] = self._worded(job, outcome.job, line[name])
        rmtree(self._scratch / outcome.job.source.parent.parent.name, ignore_errors=True)
        return {**line, **_row_start(outcome.state, job), **self._sums.pop(outcome.job, {})}

    def _way(self, job: RestoreJob) -> LocalWay:
        return self._replacing if self._jobs[job].replace else self._new

    def _put(self, job: RestoreJob, finish: Finish) -> Result:
        store_job = self._jobs[job]
        with _as_a_failure(store_job):
            result = finish()
            data = job.target.read_bytes()
            self._sums[job] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            if self._store.local_path(store_job.target) is None:
                self._put_bytes(store_job, data)
        return result

    def _put_bytes(self, job: StoreJob, data: bytes) -> None:
        try:
            self._store.write(job.target, data, replace=job.replace)
        except AlreadyThereError as error:
            # Another try of this task, whose end nobody has heard of, has put it; anything else is not ours.
            if self._store.read(job.target) != data:
                raise OutputError(f"{error} and is another file; choose another output") from error

    def _worded(self, job: StoreJob, placed: RestoreJob, text: Any) -> Any:
        """A message with the picture's own names instead of those of the scratch folder."""
        if isinstance(text, list):
            return [self._worded(job, placed, each) for each in text]
        for path, name in ((placed.source, job.source), (placed.target, self._store.address(job.target))):
            text = text.replace(str(path), name)
        return text


@contextmanager
def _as_a_failure(job: StoreJob) -> Iterator[None]:
    """Turn an error that nobody foresaw into the failure of one picture: it must not end a run of millions."""
    try:
        yield
    except S3DiffError:
        raise
    except Exception as error:
        _LOG.exception("%s", job.source)
        raise PictureError(f"{job.source}: {type(error).__name__}: {reason_of(error)}; please report this") from error


def _row_start(state: str, job: StoreJob) -> dict[str, Any]:
    return {"state": state, "source": job.source, "target": job.target, "stamp": job.stamp}
