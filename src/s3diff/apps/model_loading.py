"""Load the model of a run; announce a download and show its progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3diff.apps.terminal import progress_bar, remark, remarks, waiting_line

if TYPE_CHECKING:
    from s3diff.restoration.replay import Replay
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
    """Load a model; for a replay check that it is the stated one."""
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

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
    return restorer
