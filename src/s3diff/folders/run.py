"""Many pictures, one after the other: files are read and written while the networks work; nothing piles up.

At any time at most ``READ_AHEAD`` pictures wait to be restored, one is being restored, and one is being written, so
that memory does not depend on how many there are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from s3diff.errors import DiskFullError, OutputError, PictureError
from s3diff.folders.jobs import RestoreJob, check_inside, open_picture
from s3diff.folders.journal import Journal, Stamp, stamp_of
from s3diff.images.codecs import Animation, remove_leftovers
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.picture_files import Opened, animate, facts_of_result, write_result

if TYPE_CHECKING:
    from s3diff.restoration.restorer import Restorer

#: Pictures read before their turn. Two: one is ready while the next one is decoded.
READ_AHEAD = 2
#: So many pictures are written down as begun at once: a flush of the disk for each would cost more than the line.
_BEGUN_AT_ONCE = 32

State = Literal["done", "skipped", "failed"]
#: A source as it was read, and its stamp just before.
OpenedPicture = tuple[Any, Stamp | None]
#: Writes a result; returns the facts of it and what was lost, left out or unusual.
Finish = Callable[[], tuple[dict[str, Any], tuple[str, ...]]]


@dataclass(frozen=True)
class Outcome:
    """How one picture ended.

    Attributes:
        job: source and target.
        state: ``done``, ``skipped`` or ``failed``.
        reason: why it was skipped or failed, in one sentence.
        restored: of a picture that is done, what :attr:`facts` holds of it.
        notes: what was lost or left out, one sentence each.
    """

    job: RestoreJob
    state: State
    reason: str = ""
    facts: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """One line of the report."""
        line: dict[str, Any] = {"state": self.state, "source": str(self.job.source), "target": str(self.job.target)}
        if self.reason:
            line["reason"] = self.reason
        if self.notes:
            line["notes"] = list(self.notes)
        return {**line, **(self.facts or {})}


@dataclass(frozen=True)
class Selection:
    """What is left to do, and what is not."""

    pending: list[RestoreJob]
    skipped: list[Outcome]


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
            PictureError, OutputError: this picture alone cannot be restored.
        """

    def restore(self, job: RestoreJob, opened: Any, progress: Callable[[int, int], None] | None) -> Finish:
        """Restore what :meth:`open` returned; the writing is left to the function that is returned.

        Raises:
            PictureError, OutputError: this picture alone cannot be restored.
        """


class LocalWay:
    """With a model of this machine.

    Args:
        restorer: a model on a device, or what loads it when it is first needed.
        options: of all pictures.
        writing: how results are written.
        root: the output folder.
    """

    def __init__(
        self,
        restorer: Restorer | Callable[[], Restorer],
        options: RestoreOptions,
        writing: OutputOptions,
        root: Path | None = None,
    ) -> None:
        self._restorer, self._options, self._writing, self._root = restorer, options, writing, root

    @property
    def restorer(self) -> Restorer:
        """The model on its device."""
        if callable(self._restorer):
            self._restorer = self._restorer()
        return self._restorer

    def prepare(self) -> None:
        """See :class:`Way`. Loads the model."""
        _ = self.restorer

    def open(self, job: RestoreJob) -> Opened:
        """See :class:`Way`."""
        return open_picture(job, self._options, self._root)

    def restore(self, job: RestoreJob, opened: Opened, progress: Callable[[int, int], None] | None) -> Finish:
        """See :class:`Way`. Of an animation each frame is written once it is restored."""
        if isinstance(opened, Animation):
            told = None if progress is None else lambda _, done, total: progress(done, total)
            made = animate(self.restorer, opened, job.target, self._options, self._writing, told)
            return lambda: made
        restored = self.restorer.restore(opened, self._options)
        return lambda: (facts_of_result(restored), write_result(restored, job.target, self._writing))


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
            skipped.append(Outcome(job, "skipped", "done by an earlier run"))
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
    """How a journal names a job: by its place in the output folder, which may be moved."""
    return (job.target if root is None else job.target.relative_to(root)).as_posix()


def run_jobs(
    jobs: Sequence[RestoreJob],
    way: Way,
    *,
    root: Path | None = None,
    journal: Journal | None = None,
    opened: OpenedPicture | None = None,
    progress: Callable[[int, int], None] | None = None,
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
        progress: told how many frames of an animation are done, and how many there are.

    Raises:
        OptionError, ModelError: no picture can be restored like this.
        DiskFullError: after the outcome that says so.
        OutputError: the journal cannot be written.
    """

    first = [] if opened is None else [opened]  # taken out by its job, so that nothing holds it any longer

    def read(job: RestoreJob) -> OpenedPicture:
        return first.pop() if first and job is jobs[0] else open_stamped(job, way)

    def note(job: RestoreJob, stamp: Stamp | None, outcome: Outcome) -> None:
        if journal is not None:
            # Without its line a failed picture is restored again, as with it: on a full disk that takes no line either,
            # what is said must be why the picture failed.
            with suppress(*((OutputError,) if outcome.state == "failed" else ())):
                journal.finish(key_of(job, root), stamp, outcome.as_json())

    def write(job: RestoreJob, finish: Finish, stamp: Stamp | None) -> Outcome:
        try:
            check_inside(job, root)  # again: a link may have come meanwhile
            facts, notes = finish()
            outcome = Outcome(job, "done", facts=facts, notes=notes)
        except OutputError as error:
            outcome = _failed(job, error)
        note(job, stamp, outcome)
        return outcome

    def settle(job: RestoreJob, reading: Future[OpenedPicture]) -> Outcome | Future[Outcome]:
        try:
            picture, stamp = reading.result()
            check_inside(job, root)
            finish = way.restore(job, picture, progress)
        except (PictureError, OutputError) as error:
            outcome = _failed(job, error)
            note(job, None, outcome)
            return outcome
        return writer.submit(write, job, finish, stamp)

    reader, writer = ThreadPoolExecutor(READ_AHEAD, "read"), ThreadPoolExecutor(1, "write")
    readings: deque[tuple[RestoreJob, Future[OpenedPicture]]] = deque()
    ended: deque[Outcome | Future[Outcome]] = deque()
    for job in jobs if journal is not None else ():
        if key_of(job, root) in journal.begun:  # type: ignore[union-attr]
            remove_leftovers(job.target)
    coming = _begun(jobs, root, journal)
    try:
        readings.extend((job, reader.submit(read, job)) for job in islice(coming, READ_AHEAD))
        while readings:
            job, reading = readings.popleft()
            ended.append(settle(job, reading))
            readings.extend((job, reader.submit(read, job)) for job in islice(coming, 1))
            while len(ended) > 1 or (ended and not readings):
                outcome = _result(ended.popleft())
                yield outcome
                if isinstance(outcome.facts, dict) and "disk_full" in outcome.facts:
                    raise DiskFullError(outcome.reason)
    finally:
        reader.shutdown(wait=True, cancel_futures=True)
        writer.shutdown(wait=True)


def open_stamped(job: RestoreJob, way: Way) -> OpenedPicture:
    """What the way opens, with the source's stamp."""
    stamp = stamp_of(job.source)  # before its content: a source that changes meanwhile is restored again
    return way.open(job), stamp


def _begun(jobs: Sequence[RestoreJob], root: Path | None, journal: Journal | None) -> Iterator[RestoreJob]:
    """The jobs, written down as begun some at a time."""
    for start in range(0, len(jobs), _BEGUN_AT_ONCE):
        part = jobs[start : start + _BEGUN_AT_ONCE]
        if journal is not None:
            # What is there and is to be replaced is not this run's own yet: only its line "ended" makes it so.
            new = [job for job in part if not is_there(job.target)]
            journal.begin((key_of(job, root), stamp_of(job.source)) for job in new)
        yield from part


def _result(ended: Outcome | Future[Outcome]) -> Outcome:
    return ended.result() if isinstance(ended, Future) else ended


def _failed(job: RestoreJob, error: PictureError | OutputError) -> Outcome:
    facts = {"disk_full": True} if isinstance(error, DiskFullError) else None
    return Outcome(job, "failed", " ".join(str(error).split()), facts)
