"""Restore many pictures on a conveyor: the next is read and the last written while the networks work."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from s3diff.errors import DiskFullError, OutputError, PictureError
from s3diff.folders.jobs import RestoreJob, check_inside
from s3diff.folders.journal import Journal, Stamp, stamp_of
from s3diff.formats import format_of
from s3diff.images.codecs import remove_leftovers
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.conveyor import Conveyor
from s3diff.restoration.result import Degrees, Result

if TYPE_CHECKING:
    from s3diff.images.files.credentials import ResultSigner
    from s3diff.restoration.restorer import Restorer
    from s3diff.restoration.sources import OpenedSeries
    from s3diff.restoration.steps import Opened

#: Pictures recorded as begun at a time: a flush of the disk for each would cost more than the line.
_BEGUN_AT_ONCE = 32

#: Reason for skipping a picture that its run had restored before an interruption.
RESUMED = "done by an earlier run"

State = Literal["done", "skipped", "failed"]
#: An opened source, and its stamp just before it was opened.
OpenedPicture = tuple[Any, Stamp | None]
#: Writes a result and returns it with all notes.
Finish = Callable[[], Result]


@dataclass(frozen=True)
class Outcome:
    """Hold how one picture ended.

    Attributes:
        job: source and target.
        state: ``done``, ``skipped`` or ``failed``.
        reason: why the picture was skipped or failed, in one sentence.
        result: for a picture that is done.
        is_disk_full: whether the picture failed because the disk is full.
    """

    job: RestoreJob
    state: State
    reason: str = ""
    result: Result | None = None
    is_disk_full: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as a line of the report."""
        line: dict[str, Any] = {"state": self.state, "source": str(self.job.source), "target": str(self.job.target)}
        if self.reason:
            line["reason"] = self.reason
        if self.is_disk_full:
            line["disk_full"] = True
        if self.result is None:
            return line
        if self.result.notes:
            line["notes"] = list(self.result.notes)
        return {**line, **self.result.facts}


@dataclass(frozen=True)
class Selection:
    """Hold the pending jobs and the skipped ones."""

    pending: list[RestoreJob]
    skipped: list[Outcome]


class PictureWatcher(Protocol):
    """Receive the progress of pictures; an exception raised here ends the run."""

    def begin(self, job: RestoreJob, opened: Any) -> None:
        """Begin a picture; ``opened``: what :meth:`JobRunner.open` returned."""

    def stage(self, name: str, part: int, num_parts: int) -> None:
        """Begin a stage; see :data:`s3diff.restoration.stage_clock.OnBegin`."""

    def parts(self, kind: str, done: int, total: int) -> None:
        """Count finished ``tiles``, ``frames`` or ``pages`` of the picture, or tiles within the stage ``predict``."""

    def share(self, fraction: float, seconds_left: float | None) -> None:
        """Receive a service's estimate: the finished share in [0, 1], and the seconds left."""


class JobRunner(Protocol):
    """Read and restore pictures for :func:`run_jobs`."""

    def prepare(self) -> None:
        """Prepare what all pictures need.

        Raises:
            S3DiffError: no picture can be restored.
        """

    def open(self, job: RestoreJob) -> Any:
        """Read a picture ahead of its turn, in another thread; make every cheap check here.

        Raises:
            PictureError, OutputError: this picture cannot be restored; others can.
        """

    def restore(self, job: RestoreJob, opened: Any, watcher: PictureWatcher | None) -> Finish:
        """Restore an opened picture; return the function that writes the result.

        Raises:
            PictureError, OutputError: this picture cannot be restored; others can.
        """


class LocalRunner:
    """Restore pictures with a model on this machine.

    Args:
        restorer: a model on a device, or a function that loads it on first use.
        options: for all pictures.
        writing: format and quality of results.
        root: the output folder.
        degrees: for all pictures, instead of estimates and the options' degrees.
        signer: signs the results.
    """

    def __init__(
        self,
        restorer: Restorer | Callable[[], Restorer],
        options: RestoreOptions,
        writing: OutputOptions,
        root: Path | None = None,
        degrees: Degrees | None = None,
        signer: ResultSigner | None = None,
    ) -> None:
        self._restorer, self._options, self._writing, self._root = restorer, options, writing, root
        self._degrees, self._signer = degrees, signer

    @property
    def restorer(self) -> Restorer:
        """The model on its device."""
        if callable(self._restorer):
            self._restorer = self._restorer()
        return self._restorer

    def prepare(self) -> None:
        """Load the model."""
        _ = self.restorer

    def open(self, job: RestoreJob) -> Opened | OpenedSeries:
        """See :class:`JobRunner`. A file of several frames or pages is opened as a series if the target can hold it."""
        from s3diff.restoration.sources import open_source  # and with it torch

        form = format_of(job.target)
        if self._signer is not None and form is not None:
            self._signer.require_fitting(form)
        check_inside(job, self._root)
        return open_source(job.source, job.target, self._options)

    def restore(self, job: RestoreJob, opened: Opened | OpenedSeries, watcher: PictureWatcher | None) -> Finish:
        """See :class:`JobRunner`. Frames of an animation are written as they are restored."""
        from s3diff.restoration.sources import restore_series  # and with it torch
        from s3diff.restoration.steps import Opened, write

        options, writing = self._options, self._writing
        progress, on_begin = (None, None) if watcher is None else (watcher.parts, watcher.stage)
        if not isinstance(opened, Opened):
            made = restore_series(
                self.restorer, opened, job.target, options, writing, progress, self._degrees, self._signer
            )
            return lambda: made
        restored = self.restorer.restore(opened, options, degrees=self._degrees, progress=progress, on_begin=on_begin)
        return lambda: write(restored, job.target, writing, self._signer)


def select_jobs(
    jobs: Sequence[RestoreJob], root: Path | None, journal: Journal | None, *, skip_existing: bool, overwrite: bool
) -> Selection:
    """Leave out finished jobs.

    Raises:
        OutputError: an output exists that this run did not make and may not replace.
    """
    pending, skipped, in_the_way = [], [], []
    for job in jobs:
        if not is_there(job.target):
            pending.append(job)
        elif journal is not None and journal.is_own(key_of(job, root), stamp_of(job.source)):
            skipped.append(Outcome(job, "skipped", RESUMED))
        elif skip_existing:
            skipped.append(Outcome(job, "skipped", "its output is there"))
        else:
            pending.append(job)
            in_the_way.append(job.target)
    if in_the_way and not overwrite:
        more = f" and {len(in_the_way) - 1} more outputs are" if len(in_the_way) > 1 else " is"
        raise OutputError(
            f"{in_the_way[0]}{more} there already; give --overwrite to replace, --skip-existing to leave alone, or "
            "another output"
        )
    return Selection(pending, skipped)


def is_there(path: Path) -> bool:
    """Check whether a file exists; a name that no file can have counts as absent."""
    return os.path.exists(path)


def key_of(job: RestoreJob, root: Path | None) -> str:
    """Name a job in a journal: by its path in the output folder, which may be moved."""
    return (job.target if root is None else job.target.relative_to(root)).as_posix()


def run_jobs(
    jobs: Sequence[RestoreJob],
    runner: JobRunner,
    *,
    root: Path | None = None,
    journal: Journal | None = None,
    opened: OpenedPicture | None = None,
    watcher: PictureWatcher | None = None,
) -> Generator[Outcome, None, None]:
    """Restore every picture; yield each outcome, in the jobs' order, once the result is on the disk.

    A picture that cannot be read, restored or written is an outcome, and the run goes on. When the caller stops early,
    the current write is finished and nothing else is begun. Frames of an animation are written as they are restored.

    Args:
        jobs: the pictures.
        runner: reads, restores and writes pictures, here or at a service.
        root: the output folder.
        journal: records the progress.
        opened: the first job's picture, if the caller has read it already.
        watcher: receives each picture's progress.

    Raises:
        OptionError, ModelError: no picture can be restored like this.
        DiskFullError: after the outcome with ``is_disk_full``.
        OutputError: the journal cannot be written.
    """

    first = [] if opened is None else [opened]  # taken out by its job, so that nothing holds it any longer
    outcomes: deque[Outcome] = deque()

    def read(place: tuple[int, RestoreJob]) -> OpenedPicture | PictureError | OutputError:
        index, job = place
        if journal is not None and index % _BEGUN_AT_ONCE == 0:
            # A file that is to be replaced is not this run's own before its line "ended".
            new = [each for each in jobs[index : index + _BEGUN_AT_ONCE] if not is_there(each.target)]
            journal.begin((key_of(each, root), stamp_of(each.source)) for each in new)
        try:
            return first.pop() if first and index == 0 else open_stamped(job, runner)
        except (PictureError, OutputError) as error:
            return error

    def note(job: RestoreJob, stamp: Stamp | None, outcome: Outcome) -> Outcome:
        if journal is not None:
            # Without its line a failed picture is restored again, as with it: on a full disk that takes no line either,
            # what is said must be why the picture failed.
            with suppress(*((OutputError,) if outcome.state == "failed" else ())):
                journal.finish(key_of(job, root), stamp, outcome.as_json())
        return outcome

    def restore(job: RestoreJob, read: OpenedPicture | PictureError | OutputError) -> Callable[[], Outcome]:
        try:
            if isinstance(read, Exception):
                raise read
            picture, stamp = read
            check_inside(job, root)
            if watcher is not None:
                watcher.begin(job, picture)
            return partial(finished, job, runner.restore(job, picture, watcher), stamp)
        except (PictureError, OutputError) as error:
            return partial(note, job, None, failed(job, error))

    def finished(job: RestoreJob, finish: Finish, stamp: Stamp | None) -> Outcome:
        try:
            check_inside(job, root)  # again: a link may have come meanwhile
            outcome = Outcome(job, "done", result=finish())
        except OutputError as error:
            outcome = failed(job, error)
        return note(job, stamp, outcome)

    for job in jobs if journal is not None else ():
        if key_of(job, root) in journal.begun:  # type: ignore[union-attr]
            remove_leftovers(job.target)
    conveyor: Conveyor[tuple[int, RestoreJob], OpenedPicture | PictureError | OutputError, Callable[[], Outcome]]
    with (conveyor := Conveyor(read, lambda write: outcomes.append(write()), enumerate(jobs))):
        while (taken := conveyor.take()) is not None:
            conveyor.hand_on(restore(taken[0][1], taken[1]))
            del taken  # the next one may be long in coming
            yield from _ended(outcomes)
        conveyor.flush()
        yield from _ended(outcomes)


def _ended(outcomes: deque[Outcome]) -> Iterator[Outcome]:
    while outcomes:
        outcome = outcomes.popleft()
        yield outcome
        if outcome.is_disk_full:
            raise DiskFullError(outcome.reason)


def open_stamped(job: RestoreJob, runner: JobRunner) -> OpenedPicture:
    """Open a job's source; return it with its stamp."""
    stamp = stamp_of(job.source)  # before the content: a source that changes in between is restored again
    return runner.open(job), stamp


def failed(job: RestoreJob, error: object) -> Outcome:
    """Make the outcome of a failed picture; ``error``: the exception, or the reason as a text."""
    return Outcome(job, "failed", " ".join(str(error).split()), is_disk_full=isinstance(error, DiskFullError))
