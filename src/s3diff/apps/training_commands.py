"""Run ``s3diff train`` and ``s3diff train-estimator``. Heavy imports stay inside functions."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from s3diff.apps.option_flags import takes_flags
from s3diff.apps.terminal import progress_bar, remark, remarks
from s3diff.messages import needing

if TYPE_CHECKING:
    from s3diff.training.loop import StepReport


@takes_flags()
def train(
    recipe: str,
    *,
    data: str,
    output: Path,
    source: str | None = None,
    estimator: Path | None = None,
    validate: str | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    changes: list[str] | None = None,
    dry_run: bool = False,
    cpu: bool = False,
) -> None:
    """Train a model on a folder of photographs. The run's folder ends up with a model folder that restore takes.

    Several GPUs or machines: accelerate launch -m s3diff.apps.cli train ...

    Args:
        recipe: paper, as_released, compact, tune, tune_lora, debug, or your own: my_file.py:my_recipe.
        output: Folder of the run: checkpoints, log, validation, the result.
        source (--from MODEL): What to start from: a model, SD-Turbo's folder, or random.
        estimator: Estimator: a model folder, a train-estimator folder or a de_net.pth.
        validate: Pictures to validate on. [default: the recipe's held-out ones of --data]
        dry_run: Print parameters, memory and steps per epoch; train nothing.
    """
    with _training(output) as report:
        from s3diff.training import run

        request = run.TrainRequest(
            recipe=recipe,
            data=data,
            output=output,
            source=source,
            estimator=estimator,
            validate=validate,
            resume=resume,
            accept_changes=accept_changes,
            changes=tuple(changes or ()),
            cpu=cpu,
        )
        if dry_run:
            from s3diff.training.dry_run import dry_run as plan

            for line in plan(request):
                typer.echo(line)
        else:
            _print_result(run.train(request, report))


@takes_flags()
def train_estimator(
    *,
    data: str,
    output: Path,
    recipe: str = "estimator",
    model: str | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    changes: list[str] | None = None,
    cpu: bool = False,
) -> None:
    """Train a degradation estimator without labels (MM-RealSR: rankings and anchors).

    Args:
        output: Folder of the run: checkpoints, log, validation, the result.
        recipe: estimator (the release's shape), compact_estimator, or my_file.py:my_recipe.
        model: Model whose copy, in OUTPUT/model, gets the trained estimator.
    """
    with _training(output) as report:
        from s3diff.training import run

        request = run.TrainRequest(
            recipe=recipe,
            data=data,
            output=output,
            source=model,
            resume=resume,
            accept_changes=accept_changes,
            changes=tuple(changes or ()),
            cpu=cpu,
        )
        _print_result(run.train_estimator(request, report))


@contextmanager
def _training(output: Path) -> Iterator[Callable[[StepReport], None]]:
    """Print errors in one line, the log on stderr, a bar on a terminal; end by a signal with its usual exit code."""
    with needing("train", "training needs the extra train; install it"):
        from s3diff.training.loop import Stopped

    logger = logging.getLogger("s3diff")
    handler = _Remarks()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with _progress() as report:
            yield report
    except Stopped as stopped:
        if _is_main_process():
            remark(f"s3diff: {stopped}; {output} is saved, go on with --resume")
        raise typer.Exit(128 + stopped.signal_number) from None
    finally:
        logger.removeHandler(handler)


@contextmanager
def _progress() -> Iterator[Callable[[StepReport], None]]:
    """Print figures in one line each; on a terminal keep a bar with the time left."""
    if not remarks.is_terminal or not _is_main_process():
        yield lambda report: remark(f"step {report.step} of {report.max_steps}  {_figures(report)}")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with progress_bar(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as show:
        yield lambda report: show(report.step, report.max_steps, _figures(report))


def _figures(report: StepReport) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in report.values.items())


def _print_result(path: Path) -> None:
    if _is_main_process():
        typer.echo(str(path))


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


class _Remarks(logging.Handler):
    """Print log records as remarks on stderr: the main process's, and those meant for every process."""

    def emit(self, record: logging.LogRecord) -> None:
        if _is_main_process() or record.levelno >= logging.ERROR or hasattr(record, "every_process"):
            remark(record.getMessage())
