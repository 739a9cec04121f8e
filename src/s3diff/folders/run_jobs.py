"""Restore many pictures on a conveyor: the next is read and the last written while the networks work; report."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from s3diff.atomic_write import remove_leftovers
from s3diff.errors import DiskFullError, OutputError, PictureError
from s3diff.folders.journal import Journal, Stamp, stamp_of
from s3diff.folders.picture_runners import Finish, JobRunner, PictureWatcher
from s3diff.folders.plan import RestoreJob, require_inside
from s3diff.formats import holds_pages
from s3diff.images.files.writing import require_regular
from s3diff.json_lines import AppendedLines
from s3diff.messages import reason_of, shown_path
from s3diff.restoration.conveyor import READ_AHEAD, Conveyor
from s3diff.restoration.result import Result

_LOG = logging.getLogger(__name__)

#: Pictures recorded as begun at a time: a flush of the disk for each would cost more than the line.
_BEGUN_AT_ONCE = 32

#: Reason for skipping a picture that its run had restored before an interruption.
RESUMED = "done by an earlier run"

State = Literal["done", "skipped", "failed"]
#: An opened source, and its stamp just before it was opened.
OpenedPicture = tuple[Any, Stamp | None]
#: A picture that was read ahead, or the error of reading it.
_Read: TypeAlias = "OpenedPicture | PictureError | OutputError"
#: A job with its number, and its picture or error.
_Ready: TypeAlias = "tuple[tuple[int, RestoreJob], _Read]"


@dataclass(frozen=True)
class Outcome:
    """Hold how one picture ended.

    Attributes:
        state: ``done``, ``skipped`` or ``failed``.
        reason: why the picture was skipped or failed, in one sentence.
    """

    job: RestoreJob
    state: State
    reason: str = ""
    result: Result | None = None
    is_disk_full: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as a line of the report, and as the journal's line of a job that ended."""
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

    @property
    def line(self) -> str:
        """Describe a picture that is done: target, size, degrees, seconds; with a degree set by hand the estimate."""
        facts = self.result.facts if self.result else {}
        degrees = []
        for name in ("blur", "noise"):
            used, estimated = facts[name], facts[f"estimated_{name}"]
            degrees.append(f"{name} {used:.3f}" + (f" (estimated {estimated:.3f})" if used != estimated else ""))
        several = "pages" if holds_pages(self.job.target) else "frames"
        size = f"{facts['width']}x{facts['height']}" + (f", {facts['frames']} {several}" if "frames" in facts else "")
        return "  ".join([str(self.job.target), size, *degrees, f"{facts['seconds']:.2f} s"])


@dataclass(frozen=True)
class Selection:
    """Hold the pending jobs and the skipped ones."""

    pending: list[RestoreJob]
    skipped: list[Outcome]


def select_jobs(
    jobs: Sequence[RestoreJob], root: Path | None, journal: Journal | None, *, skip_existing: bool, overwrite: bool
) -> Selection:
    """Leave out finished jobs.

    Raises:
        OutputError: an output exists that this run did not make and may not replace.
    """
    pending, skipped, in_the_way = [], [], []
    for job in jobs:
        if not os.path.exists(job.target):
            pending.append(job)
        elif journal is not None and journal.is_own(key_of(job, root), stamp_of(job.source)):
            if key_of(job, root) not in journal.done:  # a process may have died when its result had two names
                remove_leftovers(job.target)
            skipped.append(Outcome(job, "skipped", RESUMED))
        elif skip_existing:
            skipped.append(Outcome(job, "skipped", "its output is there"))
        else:
            pending.append(job)
            in_the_way.append(job.target)
    if in_the_way and not overwrite:
        require_regular(in_the_way[0])
        more = f" and {len(in_the_way) - 1} more outputs are" if len(in_the_way) > 1 else " is"
        raise OutputError(
            f"{in_the_way[0]}{more} there already; give --overwrite to replace, --skip-existing to keep it, or "
            "another output"
        )
    return Selection(pending, skipped)


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
    """Restore every picture; yield each outcome once the result is on the disk.

    Outcomes keep the jobs' order, unless pictures run together. A picture that cannot be read, restored or written is
    an outcome, and the run goes on. When the caller stops early, the current write is finished and nothing else is
    begun. Frames of an animation are written as they are restored.

    Args:
        runner: reads, restores and writes pictures, here or at a service; several at a time without progress.
        root: the output folder.
        opened: the first job's picture, if the caller has read it already.

    Raises:
        OptionError, ModelError: no picture can be restored like this.
        DiskFullError: after the outcome with ``is_disk_full``.
        OutputError: the journal cannot be written.
    """

    first = [] if opened is None else [opened]  # taken out by its job, so that nothing holds it any longer
    outcomes: deque[Outcome] = deque()

    def read(place: tuple[int, RestoreJob]) -> _Read:
        index, job = place
        if journal is not None and index % _BEGUN_AT_ONCE == 0:
            # A file that is to be replaced is not this run's own before its line "ended".
            new = [each for each in jobs[index : index + _BEGUN_AT_ONCE] if not os.path.exists(each.target)]
            journal.begin((key_of(each, root), stamp_of(each.source)) for each in new)
        try:
            return first.pop() if first and index == 0 else open_stamped(job, runner)
        except (PictureError, OutputError) as error:
            return error

    def note(job: RestoreJob, stamp: Stamp | None, outcome: Outcome) -> Outcome:
        if journal is not None:
            # Without its line a failed picture is restored again, as with it: on a full disk that takes no line either,
            # the reported reason must be the picture's own.
            with suppress(*((OutputError,) if outcome.state == "failed" else ())):
                journal.finish(key_of(job, root), stamp, outcome.as_json())
        return outcome

    def restore(job: RestoreJob, read: _Read) -> Callable[[], Outcome]:
        try:
            if isinstance(read, Exception):
                raise read
            picture, stamp = read
            require_inside(job.target, root)
            if watcher is not None:
                watcher.begin(job, picture)
            return partial(finished, job, runner.restore(job, picture, watcher), stamp)
        except (PictureError, OutputError) as error:
            return partial(note, job, None, failed(job, error))

    def finished(job: RestoreJob, finish: Finish, stamp: Stamp | None) -> Outcome:
        try:
            require_inside(job.target, root)  # again: a link may have come meanwhile
            outcome = Outcome(job, "done", result=finish())
        except (PictureError, OutputError) as error:
            outcome = failed(job, error)
        return note(job, stamp, outcome)

    def restore_together(batch: Sequence[_Ready]) -> list[Callable[[], Outcome]]:
        jobs, opened = [job for (_, job), _ in batch], [read for _, read in batch if not isinstance(read, Exception)]
        for job in jobs:
            require_inside(job.target, root)
        finishes = runner.restore_batch(jobs, [picture for picture, _ in opened])
        return [
            partial(finished, job, finish, stamp)
            for job, finish, (_, stamp) in zip(jobs, finishes, opened, strict=True)
        ]

    def restore_all(batch: Sequence[_Ready]) -> list[Callable[[], Outcome]]:
        if len(batch) > 1:
            try:
                return restore_together(batch)
            except Exception as error:  # noqa: BLE001 - restored one by one, each says what is wrong with it
                _LOG.info("a batch of %d pictures failed, restoring one by one: %s", len(batch), error)
        return [restore(job, read) for (_, job), read in batch]

    for job in jobs if journal is not None else ():
        if key_of(job, root) in journal.begun:  # type: ignore[union-attr]
            remove_leftovers(job.target)
    conveyor: Conveyor[tuple[int, RestoreJob], _Read, Callable[[], Outcome]] = Conveyor(
        read,
        lambda write: outcomes.append(write()),
        enumerate(jobs),
        has_room=partial(_may_read_ahead, runner),
        max_unwritten=runner.batch,
    )
    with conveyor:
        while batch := conveyor.take_batch(partial(_batch_key, runner), runner.batch):
            writes = restore_all(batch)
            del batch  # the next one may be long in coming
            while writes:
                conveyor.hand_on(writes.pop(0))
                yield from _ended(outcomes)
        conveyor.flush()
        yield from _ended(outcomes)


def _may_read_ahead(runner: JobRunner, ready: Sequence[_Read]) -> bool:
    """Allow a few ready pictures, or enough small ones for a batch."""
    if len(ready) < READ_AHEAD:
        return True
    opened = [read[0] for read in ready if not isinstance(read, Exception)]
    return len(ready) < runner.batch and not runner.is_enough(opened)


def _batch_key(runner: JobRunner, read: _Read) -> Hashable | None:
    return None if isinstance(read, Exception) else runner.batch_key(read[0])


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
    reason, name = (" ".join(text.split()) for text in (str(error), shown_path(job.source)))
    if isinstance(error, PictureError) and name not in reason:  # a line of many must name its picture
        reason = f"{name}: {reason}"
    return Outcome(job, "failed", reason, is_disk_full=isinstance(error, DiskFullError))


@contextmanager
def reporting(path: str | Path | None) -> Iterator[Callable[[Outcome], None]]:
    """Give what writes an outcome to the report, a JSON line that is on the disk at once; None reports nothing.

    An existing report is continued, any other file refused.

    Raises:
        OutputError: the file cannot be written, or exists and is no report; here and where the disk takes no more.
    """
    if path is None:
        yield lambda outcome: None
        return
    with closing(AppendedLines(Path(path))) as lines:
        try:
            is_other = os.path.exists(path) and not _is_report(lines.path)
            if not is_other:
                lines.open()
        except (OSError, ValueError) as error:
            raise OutputError(
                f"the report {path} cannot be written ({reason_of(error)}); choose another place"
            ) from error
        if is_other:
            raise OutputError(f"{path} is there and no report; choose another name for the report")

        def add(outcome: Outcome) -> None:
            try:
                lines.append([outcome.as_json()])
            except OSError as error:
                raise OutputError(
                    f"the report {path} cannot be written ({reason_of(error)}); make room and run again"
                ) from error

        yield add


def _is_report(path: Path) -> bool:
    """Check whether a file is empty or begins with a line of a report."""
    with open(path, "rb") as file:
        line = file.readline(1 << 16)  # of a file that is no report it may have no end
    if not line:
        return path.is_file()
    try:
        first = json.loads(line)
    except ValueError:
        return False
    return isinstance(first, dict) and {"state", "source", "target"} <= set(first)
