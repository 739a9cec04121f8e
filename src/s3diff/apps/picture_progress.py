"""Show progress while pictures are restored: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from s3diff.apps.terminal import remark, remarks
from s3diff.folders.jobs import RestoreJob
from s3diff.folders.progress import RunProgress, RunWork

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
