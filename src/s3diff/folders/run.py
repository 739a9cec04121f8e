"""Restore many pictures on a conveyor: files are read and written while the networks work; nothing piles up."""

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
from s3diff.folders.jobs import RestoreJob, check_inside, open_picture
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

#: So many pictures are written down as begun at once: a flush of the disk for each would cost more than the line.
_BEGUN_AT_ONCE = 32

#: Why a picture is skipped that its run has restored before it was interrupted.
RESUMED = "done by an earlier run"

State = Literal["done", "skipped", "failed"]
#: A source as it was read, and its stamp just before.
OpenedPicture = tuple[Any, Stamp | None]
#: Writes a result and returns it with all notes.
Finish = Callable[[], Result]


@dataclass(frozen=True)
class Outcome:
    """How one picture ended.

    Attributes:
        job: source and target.
        state: ``done``, ``skipped`` or ``failed``.
        reason: why it was skipped or failed, in one sentence.
        result: of a picture that is done.
        is_disk_full: whether it failed because there is no room left.
    """

    job: RestoreJob
    state: State
    reason: str = ""
    result: Result | None = None
    is_disk_full: bool = False

    def as_json(self) -> dict[str, Any]:
        """Make one line of the report."""
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
    """What is left to do, and what is not."""

    pending: list[RestoreJob]
    skipped: list[Outcome]


class PictureWatcher(Protocol):
    """Who is told how a picture comes along; what is raised here ends the run."""

    def begin(self, job: RestoreJob, opened: Any) -> None:
        """A picture that was read has its turn; ``opened``: what the way made of it."""

    def stage(self, name: str, part: int, num_parts: int) -> None:
        """A stage begins, see :data:`s3diff.restoration.stage_clock.OnBegin`."""

    def parts(self, kind: str, done: int, total: int) -> None:
        """So many ``tiles`` or ``frames`` of the picture, or tiles within the stage ``predict``, are done."""

    def share(self, fraction: float, seconds_left: float | None) -> None:
        """A service says how much of the picture's time is over, in [0, 1], and what is left."""


class Way(Protocol):
    """How pictures are restored, as :func:`run_jobs` needs it."""

    def prepare(self) -> None:
        """Make ready what all pictures need.

        Raises:
            S3DiffError: no picture can be restored.
        """

    def open(self, job: RestoreJob) -> Any:
        """Read a picture ahead of its turn, in another thread; every check that costs little is made here.

        Raises:
            PictureError, OutputError: this picture cannot be restored; others can.
        """

    def restore(self, job: RestoreJob, opened: Any, watcher: PictureWatcher | None) -> Finish:
        """Restore what :meth:`open` returned; the writing is left to the function that is returned.

        Raises:
            PictureError, OutputError: this picture cannot be restored; others can.
        """


class LocalWay:
    """With a model of this machine.

    Args:
        restorer: a model on a device, or what loads it when it is first needed.
        options: of all pictures.
        writing: how results are written.
        root: the output folder.
        degrees: of all pictures, instead of their estimates and of the options' degrees.
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
        """See :class:`Way`. Loads the model."""
        _ = self.restorer

    def open(self, job: RestoreJob) -> Opened | OpenedSeries:
        """See :class:`Way`."""
        form = format_of(job.target)
        if self._signer is not None and form is not None:
            self._signer.require_fitting(form)
        return open_picture(job, self._options, self._root)

    def restore(self, job: RestoreJob, opened: Opened | OpenedSeries, watcher: PictureWatcher | None) -> Finish:
        """See :class:`Way`. Of an animation each frame is written once it is restored."""
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
    """Leave out what is done already.

    Raises:
        OutputError: outputs are there that neither this run made nor may be replaced.
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
    """Whether there is such a file; there is none of a name that cannot be."""
    return os.path.exists(path)


def key_of(job: RestoreJob, root: Path | None) -> str:
    """Name a job in a journal: by its place in the output folder, which may be moved."""
    return (job.target if root is None else job.target.relative_to(root)).as_posix()


def run_jobs(
    jobs: Sequence[RestoreJob],
    way: Way,
    *,
    root: Path | None = None,
    journal: Journal | None = None,
    opened: OpenedPicture | None = None,
    watcher: PictureWatcher | None = None,
) -> Generator[Outcome, None, None]:
    """Restore every picture; yields an outcome for each, in the jobs' order, once it is on the disk.

    A picture that cannot be read, restored or written is an outcome, not an end. When the caller stops early, what is
    being written is finished and nothing else is begun. Of an animation each frame is written once it is restored.

    Args:
        jobs: what to do.
        way: by which pictures are read, restored and written: here, or at a service.
        root: the output folder.
        journal: where it is written down.
        opened: the first job's picture, where the caller has read it already.
        watcher: told how each picture comes along.

    Raises:
        OptionError, ModelError: no picture can be restored like this.
        DiskFullError: after the outcome that says so.
        OutputError: the journal cannot be written.
    """

    first = [] if opened is None else [opened]  # taken out by its job, so that nothing holds it any longer
    outcomes: deque[Outcome] = deque()

    def read(place: tuple[int, RestoreJob]) -> OpenedPicture | PictureError | OutputError:
        index, job = place
        if journal is not None and index % _BEGUN_AT_ONCE == 0:
            # What is there and is to be replaced is not this run's own yet: only its line "ended" makes it so.
            new = [each for each in jobs[index : index + _BEGUN_AT_ONCE] if not is_there(each.target)]
            journal.begin((key_of(each, root), stamp_of(each.source)) for each in new)
        try:
            return first.pop() if first and index == 0 else open_stamped(job, way)
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
            return partial(finished, job, way.restore(job, picture, watcher), stamp)
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


def open_stamped(job: RestoreJob, way: Way) -> OpenedPicture:
    """Open a source by the way that restores it; return it with its stamp."""
    stamp = stamp_of(job.source)  # before its content: a source that changes meanwhile is restored again
    return way.open(job), stamp


def failed(job: RestoreJob, error: object) -> Outcome:
    """Make the outcome of a picture that failed; ``error``: the exception, or the reason as a text."""
    return Outcome(job, "failed", " ".join(str(error).split()), is_disk_full=isinstance(error, DiskFullError))
