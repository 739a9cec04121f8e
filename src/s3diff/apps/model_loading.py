"""Load the model of a run; announce a download and show its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3diff.apps.terminal import remark, remarks, waiting_line

if TYPE_CHECKING:
    from s3diff.apps.replay import Replay
    from s3diff.checkpoints.hub import DownloadPlan
    from s3diff.restoration.restorer import Restorer


def load_model(
    model: str,
    device: str,
    precision: Any,
    quiet: bool,
    *,
    fast: bool = False,
    backend: Any = "torch",
    replay: Replay | None = None,
) -> Restorer:
    from s3diff.restoration.restorer import Restorer

    with (
        waiting_line(f"loading the model {Path(model).name} ...", quiet) as erase,
        _download_bar(quiet, erase) as (announce, progress),
    ):

        def told(text: str) -> None:
            erase()
            remark(text)

        restorer = Restorer.from_pretrained(
            model,
            device=device,
            precision=precision,
            announce=announce,
            progress=progress,
            fast=fast,
            remark=None if quiet else told,
            backend=backend,
        )
    if replay is not None:
        replay.check(restorer)
        for difference in replay.differences(restorer):
            remark(difference)
    return restorer


@contextmanager
def _download_bar(
    quiet: bool, erase: Callable[[], None]
) -> Iterator[tuple[Callable[[DownloadPlan], None], Callable[[int, int], None]]]:
    """Announce a download with its size and licences, then show a bar; ``erase`` clears the line before."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=remarks, disable=quiet)
    task = None

    def announce(plan: DownloadPlan) -> None:
        erase()
        remarks.print(plan.summary())

    def progress(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            erase()
            bar.start()
            task = bar.add_task("", total=total)
        bar.update(task, completed=done, total=total)

    try:
        yield announce, progress
    finally:
        if task is not None:
            bar.stop()
