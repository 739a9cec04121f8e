"""Restore one large picture or video with its progress: work in parts, which the same command goes on with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

import typer

from s3diff.apps.picture_progress import PictureProgress
from s3diff.apps.terminal import EXIT_INTERRUPTED, EXIT_SOME_FAILED, on_one_line, remark
from s3diff.errors import OutputError, PictureError
from s3diff.folders.jobs import RestoreJob
from s3diff.folders.run import Outcome, Report, failed
from s3diff.folders.runners import Tell
from s3diff.restoration.replay import Replay
from s3diff.restoration.result import Result
from s3diff.restoration.time_left import FIRST_PASS

#: What restores: a model, or a service.
Means = TypeVar("Means")


def restore_single(
    job: RestoreJob,
    restore: Callable[[Callable[[], Means], Tell], Result],
    load: Callable[[], Means],
    report: Report,
    *,
    quiet: bool,
    then: str = "the same command goes on",
    replay: Replay | None = None,
) -> None:
    """Restore one file, and print its outcome.

    Args:
        restore: called with the function that loads, and one that receives the progress.
        load: loads the means; the progress begins after it.
        then: what follows after an interruption.

    Raises:
        S3DiffError: no file can be restored like this.
        typer.Exit: the work failed or was interrupted; a line says so.
    """
    reached = ""
    with closing(PictureProgress(1, quiet)) as shown:

        def loaded() -> Means:
            means = load()
            shown.begin(job, None)
            return means

        def tell(kind: str, done: int, total: int) -> None:
            nonlocal reached
            if kind in FIRST_PASS:
                reached = " in the first pass"
            elif kind == "tiles":
                reached = f" after {done} tiles" * (done > 0)
            elif kind in ("frames", "resumed"):
                reached = f" after {done} of {total} frames"
            else:
                return
            shown.parts(kind, done, total)

        try:
            outcome = Outcome(job, "done", result=restore(loaded, tell))
        except (PictureError, OutputError) as error:
            outcome = failed(job, error)
        except KeyboardInterrupt:
            shown.close()  # its bar would be drawn below the last line
            remark(f"s3diff: stopped{reached}; {then}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    report.add(outcome)
    show_outcome(outcome, quiet, replay)
    if outcome.state == "failed":
        raise typer.Exit(EXIT_SOME_FAILED)


def show_outcome(outcome: Outcome, quiet: bool, replay: Replay | None = None) -> None:
    """Print one picture; for a ``replay`` also how its result differs from the stated one."""
    if outcome.state == "failed":
        remark(f"s3diff: {outcome.reason}")
    if outcome.result is None:
        return
    if not quiet:
        print(on_one_line(outcome.line), flush=True)
    notes = (*(outcome.result.notes if not quiet else ()), *(replay.strangeness(outcome.result) if replay else ()))
    for note in notes:
        remark(f"{outcome.job.source}: {note}")
