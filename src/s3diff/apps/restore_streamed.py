"""Run ``s3diff restore`` for one picture larger than memory, with its progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import typer

from s3diff.apps.picture_progress import PictureProgress
from s3diff.apps.terminal import EXIT_INTERRUPTED, EXIT_SOME_FAILED, remark
from s3diff.errors import MissingExtraError, OptionError, OutputError, PictureError
from s3diff.folders.jobs import RestoreJob, RestorePlan, require_inside
from s3diff.folders.report import Report
from s3diff.folders.run import Outcome, failed, select_jobs
from s3diff.images.codecs import check_writable
from s3diff.images.files.large_files import LargePicture
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.result import Degrees
from s3diff.restoration.streaming import STREAMED_EXTENSIONS, check_streaming


def is_too_large_for_memory(plan: RestorePlan, options: RestoreOptions) -> bool:
    """Check whether the plan is one picture into a TIFF that exceeds memory before or after restoring.

    Pictures that cannot be read in parts are restored in memory, with its error messages.
    """
    if plan.is_many or len(plan.jobs) != 1 or plan.jobs[0].target.suffix.lower() not in STREAMED_EXTENSIONS:
        return False
    try:
        picture = LargePicture(plan.jobs[0].source)
        width, height = options.output_size(picture.width, picture.height)
    except (MissingExtraError, PictureError, OverflowError):
        return False
    if picture.num_pages > 1:  # of which a streamed result would hold one
        return False
    is_large = picture.width * picture.height > options.max_input_pixels or picture.num_bytes > options.max_file_bytes
    return is_large or width * height > options.max_output_pixels


def restore_streamed(
    plan: RestorePlan,
    options: RestoreOptions,
    *,
    load: Callable[[], Restorer],
    writing: OutputOptions,
    degrees: Degrees | None,
    skip_existing: bool,
    report: str | None,
    quiet: bool,
) -> Outcome | None:
    """Restore the plan's one picture part by part; None if it was skipped.

    Raises:
        OptionError: there are several pictures, or model or options do not allow work in parts.
        typer.Exit: the work failed or was interrupted; a line says so.
    """
    if plan.is_many or len(plan.jobs) != 1:
        raise OptionError("--stream takes one picture and a name that ends in .tif; start it for each large picture")
    selection = select_jobs(plan.jobs, plan.root, None, skip_existing=skip_existing, overwrite=writing.overwrite)
    with closing(Report(report)) as written:
        for skipped in selection.skipped:
            written.add(skipped)
            if not quiet:
                remark(f"{skipped.job.target}: skipped, {skipped.reason}")
        if not selection.pending:
            return None
        job = selection.pending[0]
        try:
            require_inside(job.target, plan.root)
            check_writable(job.target)
            outcome = _restored(job, options, load, writing, degrees, quiet)
        except (PictureError, OutputError) as error:
            outcome = failed(job, error)
        written.add(outcome)
    if outcome.state == "failed":
        remark(f"s3diff: {outcome.reason}")
        raise typer.Exit(EXIT_SOME_FAILED)
    return outcome


def _restored(
    job: RestoreJob,
    options: RestoreOptions,
    load: Callable[[], Restorer],
    writing: OutputOptions,
    degrees: Degrees | None,
    quiet: bool,
) -> Outcome:
    LargePicture(job.source)  # looked at before a model is loaded
    restorer = load()
    check_streaming(restorer, job.target, options)
    restorer.check(options)
    if not quiet:
        remark(f"model {restorer.model.name}  device {restorer.device}  precision {restorer.precision}  streamed")
    num_done = 0
    with closing(PictureProgress(1, quiet)) as shown:
        shown.begin(job, None)

        def tell(stage: str, done: int, total: int) -> None:
            nonlocal num_done
            if stage == "tiles":
                num_done = done
                shown.parts(stage, done, total)

        try:
            restored = restorer.restore_file(
                job.source, job.target, options,
                overwrite=writing.overwrite, provenance=writing.provenance, degrees=degrees, progress=tell,
            )  # fmt: skip
        except KeyboardInterrupt:
            remark(f"s3diff: stopped{f' after {num_done} tiles' if num_done else ''}; the same command goes on")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    resumed = f"{restored.num_resumed} of {restored.num_tiles} tiles were there from an earlier run"
    notes = (*restored.notes, *((resumed,) if restored.num_resumed else ()))
    return Outcome(job, "done", result=replace(restored, notes=notes))
