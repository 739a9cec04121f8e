"""Restore folders of pictures: plan, skip finished pictures, restore, record each outcome."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3diff.errors import DiskFullError, OptionError
from s3diff.folders.inputs import LeftOut
from s3diff.folders.journal import JOURNAL_NAME, Journal, stamp_of
from s3diff.folders.picture_runners import JobRunner, LocalRunner, PictureWatcher
from s3diff.folders.plan import RestorePlan, plan_jobs, require_inside
from s3diff.folders.progress import RunWork, pixels_by_header
from s3diff.folders.run_jobs import (
    RESUMED,
    Outcome,
    failed,
    key_of,
    open_stamped,
    reporting,
    run_jobs,
    select_jobs,
)
from s3diff.options import LIMITS, OutputOptions, RestoreOptions

if TYPE_CHECKING:
    from s3diff.restoration.restorer import Restorer

PathName = str | os.PathLike[str]

#: Failed pictures that the final table repeats; the report has all of them.
_FAILURES_SHOWN = 20


@dataclass
class FolderResult:
    """Hold how a folder run ended.

    Attributes:
        skipped: pictures that were left as they are, by reason.
        failed: every picture that could not be restored, and every folder that could not be searched.
        num_not_tried: pictures that were not reached because the disk was full.
        left_out: files and folders that were passed over.
        seconds: wall-clock time from the first picture.
    """

    num_done: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    failed: list[Outcome] = field(default_factory=list)
    num_not_tried: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)
    seconds: float = 0.0

    def lines(self) -> Iterator[str]:
        """Yield the lines of a table that sums up the run; of many failures it lists the first ones."""
        rows = [("done", self.num_done, f"in {self.seconds:.1f} s")]
        rows += [("skipped", count, reason) for reason, count in self.skipped.items()]
        rows += [("left out", count, what) for count, what in self.left_out.lines()]
        if self.failed:
            rows.append(("failed", len(self.failed), "see above" if len(self.failed) <= 1 else "namely"))
        width = max(len(str(count)) for _, count, _ in rows)
        yield from (f"{state:8} {count:{width}}  {text}" for state, count, text in rows)
        if len(self.failed) > 1:
            yield from (f"  {outcome.reason}" for outcome in self.failed[:_FAILURES_SHOWN])
        if len(self.failed) > _FAILURES_SHOWN:
            yield f"  and {len(self.failed) - _FAILURES_SHOWN} more, all of them in --report"


class FolderRun:
    """Hold a run that is ready; iterating over it once restores each picture and yields its outcome.

    Attributes:
        num_resumed: pictures that an earlier run has restored.
        result: complete when the iteration has ended.

    Raises:
        OutputError: an output exists that this run did not make and may not replace.
    """

    def __init__(
        self,
        plan: RestorePlan,
        runner: JobRunner,
        *,
        journal: Journal | None = None,
        report: PathName | None = None,
        overwrite: bool = False,
        skip_existing: bool = False,
        watcher: PictureWatcher | None = None,
    ) -> None:
        self._plan, self._runner, self._journal, self.watcher = plan, runner, journal, watcher
        self._report = None if report is None else Path(report)
        self._selection = select_jobs(plan.jobs, plan.root, journal, skip_existing=skip_existing, overwrite=overwrite)
        self.num_pending = len(self._selection.pending)
        self.num_resumed = sum(outcome.reason == RESUMED for outcome in self._selection.skipped)
        self.result = FolderResult(left_out=plan.left_out)

    def __iter__(self) -> Generator[Outcome, None, None]:
        """Restore the pictures; the outcomes of skipped pictures and failed searches come first.

        Raises:
            OptionError, ModelError: no picture can be restored like this.
            OutputError: journal or report cannot be written.
        """
        pending, opened = self._selection.pending, None
        if pending and not self._plan.is_many:
            # A single picture is read before a model is loaded or downloaded.
            opened = open_stamped(pending[0], self._runner)
        started = time.monotonic()
        with reporting(self._report) as report:
            known = [failed(job, reason) for job, reason in self._plan.failed]
            for outcome in (*self._selection.skipped, *known):
                yield self._counted(outcome, report)
            if pending:
                self._runner.prepare()
                outcomes = run_jobs(
                    pending,
                    self._runner,
                    root=self._plan.root,
                    journal=self._journal,
                    opened=opened,
                    watcher=self.watcher,
                )
                opened = None  # the run frees the picture when it has restored it
                num_ended = 0
                with closing(outcomes):
                    try:
                        for outcome in outcomes:
                            num_ended += 1
                            yield self._counted(outcome, report)
                    except DiskFullError:
                        self.result.num_not_tried = len(pending) - num_ended
        self.result.seconds = time.monotonic() - started

    def work(self, options: RestoreOptions) -> RunWork:
        """Start to estimate the work of the pictures to restore, from the headers of their files."""
        return RunWork(self.num_pending, self._selection.pending, partial(pixels_by_header, options=options))

    def count_done(self) -> int:
        """Count the existing results of this run and of earlier ones; 0 without a journal."""
        journal, root = self._journal, self._plan.root
        if journal is None:
            return 0
        return sum(
            os.path.exists(job.target) and journal.is_own(key_of(job, root), stamp_of(job.source))
            for job in self._plan.jobs
        )

    def _counted(self, outcome: Outcome, report: Callable[[Outcome], None]) -> Outcome:
        if outcome.state == "done":
            self.result.num_done += 1
        elif outcome.state == "failed":
            self.result.failed.append(outcome)
        else:
            self.result.skipped[outcome.reason] = self.result.skipped.get(outcome.reason, 0) + 1
        report(outcome)
        return outcome


def restore_folder(
    inputs: PathName | Iterable[PathName],
    output: PathName,
    options: RestoreOptions | None = None,
    *,
    restorer: Restorer | None = None,
    writing: OutputOptions | None = None,
    recursive: bool = False,
    listed: Iterable[str] | None = None,
    shard: tuple[int, int] | None = None,
    journal: PathName | None = None,
    keep_journal: bool = True,
    skip_existing: bool = False,
    report: PathName | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> FolderResult:
    """Restore every picture of folders into another folder, as ``s3diff restore`` does.

    A picture that cannot be restored is one of the result's failures; the others are restored. After an interruption
    the same call resumes.

    Args:
        inputs: one or more folders, files, and patterns such as ``photos/**/*.jpg``.
        output: the folder of the results, created if missing; pictures keep their relative paths.
        restorer: a model on a device; None for the embedded one.
        writing: format, names and quality of the results, and whether they may replace files.
        listed: further files by name.
        shard: (i, N): only part i of N of the pictures, counted from 0.
        journal: the journal's file; None for a hidden file in the output folder.
        report: a file for the outcomes, one JSON object a line.
        on_outcome: called with each outcome once it is on the disk.

    Raises:
        PictureError: an input does not exist or holds no pictures.
        OutputError: nothing can be written there, or files are there that may not be replaced.
        OptionError, ModelError: no picture can be restored like this.
    """
    options = RestoreOptions() if options is None else options
    writing = OutputOptions() if writing is None else writing
    if restorer is None:
        from s3diff.restoration.restorer import Restorer

        restorer = Restorer.from_pretrained()
    restorer.check(options)
    names = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    plan = plan_jobs(
        [os.fspath(name) for name in names],
        os.path.join(os.fspath(output), ""),
        recursive=recursive,
        listed=listed,
        writing=writing,
        shard=shard,
        names={"model": restorer.model.name, "scale": f"{options.scale:g}"},
        journal=None if journal is None else Path(journal),
    )
    described = describe_run(restorer.model.fingerprint, options, writing)
    with open_journal(plan, described, path=journal, shard=shard, keep=keep_journal) as kept:
        run = FolderRun(
            plan,
            LocalRunner(restorer, options, writing, plan.root),
            journal=kept,
            report=report,
            overwrite=writing.overwrite,
            skip_existing=skip_existing,
        )
        for outcome in run:
            if on_outcome is not None:
                on_outcome(outcome)
    return run.result


def describe_run(
    model: str, options: RestoreOptions, writing: OutputOptions, *, is_signed: bool = False
) -> dict[str, Any]:
    """Describe everything that results depend on, for a journal; limits and tiles do not change pixels."""
    decisive = {name: value for name, value in dataclasses.asdict(options).items() if name not in (*LIMITS, "tile")}
    told = ({} if writing.provenance else {"provenance": False}) | ({"signed": True} if is_signed else {})
    return {"model": model, "options": decisive, "quality": writing.quality, **told}


@contextmanager
def open_journal(
    plan: RestorePlan,
    run: dict[str, Any],
    *,
    path: PathName | None = None,
    shard: tuple[int, int] | None = None,
    keep: bool = True,
) -> Iterator[Journal | None]:
    """Open the journal of a folder run; None for a single picture or without ``keep``.

    Args:
        path: the journal's file; None for a hidden one in the output folder.
        shard: the part that the run restores; each part has its own journal.

    Raises:
        OptionError: a path is given although no journal is wanted.
        OutputError: the file is in use, is no journal, or cannot be written.
    """
    if not keep and path is not None:
        raise OptionError("--journal and --no-journal exclude each other; give one of them")
    if not keep or plan.root is None or not (plan.is_many or path is not None):
        yield None
        return
    part = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
    place = plan.root / f"{JOURNAL_NAME}{part}.jsonl" if path is None else Path(path)
    if path is None:
        require_inside(place, plan.root)
    with Journal(place, run) as journal:
        yield journal
