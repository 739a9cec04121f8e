"""Run ``s3diff restore`` for a video."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from s3diff.apps.terminal import EXIT_INTERRUPTED, EXIT_SOME_FAILED, remark
from s3diff.atomic_write import require_free
from s3diff.errors import OptionError, OutputError, PictureError
from s3diff.foreign_formats import is_video
from s3diff.formats import VideoCodec
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.video_options import MAX_BATCH, MAX_STEADY, VideoOptions

if TYPE_CHECKING:
    from s3diff.apps.picture_progress import PictureProgress
    from s3diff.folders.jobs import RestoreJob
    from s3diff.restoration.restorer import Restorer
    from s3diff.restoration.result import Result

#: Has a service restore a video: the job, the options, and what is told of its progress.
ServedVideo: TypeAlias = (
    "Callable[[RestoreJob, RestoreOptions, OutputOptions, VideoOptions, Callable[[str, int, int], None]], Result]"
)

Codec = Annotated[
    VideoCodec, typer.Option(help="Of a video: its codec; auto is h264, h265 above 8 bits, vp9 in .webm.")
]
PixelFormat = Annotated[
    str, typer.Option(metavar="NAME", help="Of a video: its pixel format, such as yuv420p; auto is the input's.")
]
SteadyShare = Annotated[
    float,
    typer.Option(
        "--steady", min=0, max=MAX_STEADY,
        help="Of a video: share of the previous result in each frame, where both inputs show the same; 0: none.",
    ),
]  # fmt: skip
Batch = Annotated[
    int,
    typer.Option(
        "--batch", min=1, max=MAX_BATCH, metavar="N",
        help="Of a video: frames that go through the networks together: faster on a GPU, with more memory.",
    ),
]  # fmt: skip


def video_of(inputs: list[str]) -> Path | None:
    """Return the one input where it is a video."""
    return Path(inputs[0]) if len(inputs) == 1 and is_video(inputs[0]) else None


def check_for_video(source: Path | None, flags: Mapping[str, Any], **given: bool) -> None:
    """Refuse options that a video, or a picture, has no use for.

    Raises:
        OptionError: it is given.
    """
    if source is None:
        for name, value in flags.items():
            if value != getattr(VideoOptions, name):
                raise OptionError(f"--{name.replace('_', '-')} is only for one video as the input; leave it out")
        return
    for name, is_given in given.items():
        if is_given:
            raise OptionError(f"{source} is a video, and --{name.replace('_', '-')} is for pictures; leave it out")


def restore_video(
    source: Path,
    output: str | None,
    options: RestoreOptions,
    writing: OutputOptions,
    flags: Mapping[str, Any],
    *,
    load: Callable[[], Restorer],
    at_server: ServedVideo | None,
    report: str | None,
    quiet: bool,
) -> None:
    """Restore one video, with its progress; here the same command resumes after an interruption.

    Args:
        load: loads the model that restores it here.
        at_server: has a service restore it; None for here.

    Raises:
        S3DiffError: see :func:`s3diff.restoration.video.restore_video`.
        typer.Exit: it failed or was interrupted; a line says so.
    """
    from s3diff.apps.picture_progress import PictureProgress
    from s3diff.apps.restore_outcomes import show_outcome
    from s3diff.folders.jobs import RestoreJob
    from s3diff.folders.report import Report
    from s3diff.folders.run import Outcome, failed
    from s3diff.restoration.time_left import FIRST_PASS

    job = RestoreJob(source, _target(source, output, writing, is_here=at_server is None))
    reached, video_options = (
        "",
        VideoOptions(quality=writing.quality, overwrite=writing.overwrite, provenance=writing.provenance, **flags),
    )
    with closing(Report(report)) as written, closing(PictureProgress(1, quiet)) as shown:

        def tell(stage: str, done: int, total: int) -> None:
            nonlocal reached
            reached = " in the first pass" if stage in FIRST_PASS else f" after {done} of {total} frames"
            shown.parts(stage, done, total)

        try:
            require_free(job.target, writing.overwrite)
            if at_server is not None:
                shown.begin(job, None)
                result = at_server(job, options, writing, video_options, tell)
            else:
                result = _restored_here(job, options, video_options, load, tell, shown, quiet)
            outcome = Outcome(job, "done", result=result)
        except (PictureError, OutputError) as error:
            outcome = failed(job, error)
        except KeyboardInterrupt:
            shown.close()  # its bar would be drawn below the last line
            then = "the same command goes on" if at_server is None else "the service ends the work, which begins anew"
            remark(f"s3diff: stopped{reached}; {then}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        written.add(outcome)
    show_outcome(outcome, quiet)
    if outcome.state == "failed":
        raise typer.Exit(EXIT_SOME_FAILED)


def _restored_here(
    job: RestoreJob,
    options: RestoreOptions,
    video_options: VideoOptions,
    load: Callable[[], Restorer],
    tell: Callable[[str, int, int], None],
    shown: PictureProgress,
    quiet: bool,
) -> Result:
    from s3diff.images.files.video import open_video
    from s3diff.restoration import video

    open_video(job.source)  # looked at before a model is loaded
    restorer = load()
    if not quiet:
        remark(f"model {restorer.model.name}  device {restorer.runs_on}  precision {restorer.precision}")
    shown.begin(job, None)
    return video.restore_video(restorer, job.source, job.target, options, video_options, progress=tell)


def _target(source: Path, output: str | None, writing: OutputOptions, *, is_here: bool) -> Path:
    from s3diff.restoration.result_names import video_extension

    extension = video_extension(source.suffix)
    if output is None:
        numbered = (source.with_name(f"{source.stem}_restored{each}{extension}") for each in _numbers())

        def is_free(path: Path) -> bool:
            if is_here and not writing.overwrite:
                from s3diff.restoration.video import remove_work_of_whole

                remove_work_of_whole(path)
            return writing.overwrite or not os.path.lexists(path)

        return next(path for path in numbered if is_free(path))
    target = Path(output)
    if target.is_dir() or output.endswith(("/", os.sep)):
        target /= f"{source.stem}{extension}"
    if os.path.realpath(target) == os.path.realpath(source):
        raise OutputError(f"{target} would overwrite the input; choose another output")
    return target


def _numbers() -> itertools.chain[str]:
    return itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
