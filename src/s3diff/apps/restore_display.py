"""Load a command's model, and show the progress and outcome of pictures: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

from s3diff.apps.terminal import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    on_one_line,
    progress_bar,
    remark,
    remarks,
    waiting_line,
)
from s3diff.errors import OutputError, PictureError
from s3diff.folders.picture_runners import Tell
from s3diff.folders.plan import RestoreJob
from s3diff.folders.progress import RunProgress, RunWork
from s3diff.folders.run_jobs import Outcome, failed
from s3diff.options import Backend, Precision, RestoreOptions
from s3diff.restoration.replay import Replay
from s3diff.restoration.result import Result
from s3diff.restoration.time_left import FIRST_PASS

if TYPE_CHECKING:
    from s3diff.restoration.restorer import Restorer


def load_model(
    model: str,
    device: str,
    precision: Precision,
    options: RestoreOptions,
    *,
    fast: bool,
    backend: Backend,
    replay: Replay | None,
    quiet: bool,
    how: str = "",
) -> Restorer:
    """Load a model and say where it runs; check that it takes the options, and for a replay that it is the stated one.

    Args:
        how: added to the line that says where it runs.
    """
    from s3diff.restoration.restorer import Restorer

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with (
        waiting_line(f"loading the model {Path(model).name} ...", quiet) as erase,
        progress_bar(*columns, quiet=quiet) as show,
    ):

        def after_erasing(shown: Callable[..., None]) -> Callable[..., None]:
            def show_after_erasing(*given: Any) -> None:
                erase()
                shown(*given)

            return show_after_erasing

        restorer = Restorer.from_pretrained(
            model,
            device=device,
            precision=precision,
            announce=after_erasing(lambda plan: remarks.print(plan.summary())),
            progress=after_erasing(show),
            fast=fast,
            remark=None if quiet else after_erasing(remark),
            backend=backend,
        )
    if replay is not None:
        for difference in replay.differences(restorer):
            remark(difference)
    restorer.check(options)
    if not quiet:
        where = restorer.device if restorer.runtime is None else restorer.runs_on
        remark(f"model {restorer.model.name}  device {where}  precision {restorer.precision}{how}")
        for reason in restorer.acceleration.reasons if fast else ():
            remark(f"  {reason}")
    return restorer


#: Where nobody looks at a terminal, a line about the progress comes at most so often.
_LINE_SECONDS = 30.0
#: Columns of the bar; its line gets the terminal's others.
_BAR_COLUMNS = 20


class PictureProgress(RunProgress):
    """Show the progress of pictures.

    Args:
        quiet: show nothing.
        num_pictures, speed_of, work, now: see :class:`RunProgress`.
    """

    def __init__(
        self,
        num_pictures: int,
        quiet: bool,
        speed_of: Callable[[], str] | None = None,
        work: RunWork | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(num_pictures, speed_of, work, now)
        self._quiet = quiet
        self._is_over = threading.Event()
        self._bar: Progress | None = None
        if not quiet and remarks.is_terminal:
            columns = (BarColumn(bar_width=_BAR_COLUMNS), _Told(self))
            # On a terminal a line has to go above the bar; in a file it must stay unchanged.
            is_shared = sys.stdout is not None and sys.stdout.isatty()
            self._bar = Progress(*columns, console=remarks, redirect_stdout=is_shared, transient=True)
        self._ticks = threading.Thread(target=self._tick, name="s3diff-progress", daemon=True)

    def begin(self, job: RestoreJob, opened: Any) -> None:
        """Begin a picture, and announce a long run."""
        super().begin(job, opened)
        if self._quiet:
            return
        if self.announcement is not None:
            remark(self.announcement)
            self.announcement = None
        if self._bar is not None and not self._bar.live.is_started:
            self._bar.start()
            self._bar.add_task("", total=1.0)
        elif self._bar is None and self._num_pictures == 1 and not self._ticks.is_alive():
            self._ticks.start()

    def close(self) -> None:
        """End the bar, and save the measurements."""
        self._is_over.set()
        if self._bar is not None and self._bar.live.is_started:
            self._bar.stop()
        super().close()

    def _tick(self) -> None:
        while not self._is_over.wait(_LINE_SECONDS):
            remark(self.line)


class _Told(ProgressColumn):
    """Render the line anew whenever the bar is drawn: time passes within a stage as well."""

    max_refresh = 0.2

    def __init__(self, shown: PictureProgress) -> None:
        super().__init__()
        self._shown = shown

    def get_table_column(self) -> Column:
        return Column(no_wrap=True, overflow="ellipsis")

    def render(self, task: Task) -> Text:
        task.completed = self._shown.fraction
        return Text(self._shown.line)


#: What restores: a model, or a service.
Means = TypeVar("Means")


def restore_single(
    job: RestoreJob,
    restore: Callable[[Callable[[], Means], Tell], Result],
    load: Callable[[], Means],
    report: Callable[[Outcome], None],
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
    report(outcome)
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
