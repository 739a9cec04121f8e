"""Run ``s3diff restore`` for a video."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3diff.apps.terminal import EXIT_INTERRUPTED, EXIT_SOME_FAILED, remark
from s3diff.atomic_write import require_free
from s3diff.errors import OptionError, OutputError, PictureError
from s3diff.foreign_formats import VIDEO, foreign_kind
from s3diff.formats import VideoCodec
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.video_options import MAX_BATCH, MAX_STEADY, VideoOptions

if TYPE_CHECKING:
    from s3diff.restoration.restorer import Restorer

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
    if len(inputs) != 1 or not os.path.isfile(inputs[0]):
        return None
    try:
        with open(inputs[0], "rb") as file:
            head = file.read(32)
    except OSError:
        return None  # said in the usual way
    return Path(inputs[0]) if foreign_kind(inputs[0], head) is VIDEO else None


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
    report: str | None,
    quiet: bool,
) -> None:
    """Restore one video, with its progress; the same command resumes after an interruption.

    Raises:
        S3DiffError: see :func:`s3diff.restoration.video.restore_video`.
        typer.Exit: it failed or was interrupted; a line says so.
    """
    from s3diff.apps.picture_progress import PictureProgress
    from s3diff.apps.restore_outcomes import show_outcome
    from s3diff.folders.jobs import RestoreJob
    from s3diff.folders.report import Report
    from s3diff.folders.run import Outcome, failed
    from s3diff.images.files.video import open_video
    from s3diff.restoration import video
    from s3diff.restoration.video_course import FIRST_PASS

    job = RestoreJob(source, _target(source, output, writing))
    reached = ""
    with closing(Report(report)) as written, closing(PictureProgress(1, quiet)) as shown:

        def tell(stage: str, done: int, total: int) -> None:
            nonlocal reached
            reached = " in the first pass" if stage in FIRST_PASS else f" after {done} of {total} frames"
            shown.parts(stage, done, total)

        try:
            require_free(job.target, writing.overwrite)
            open_video(source)  # looked at before a model is loaded
            restorer = load()
            if not quiet:
                remark(f"model {restorer.model.name}  device {restorer.runs_on}  precision {restorer.precision}")
            shown.begin(job, None)
            result = video.restore_video(
                restorer, source, job.target, options,
                VideoOptions(
                    quality=writing.quality, overwrite=writing.overwrite, provenance=writing.provenance, **flags
                ),
                progress=tell,
            )  # fmt: skip
            outcome = Outcome(job, "done", result=result)
        except (PictureError, OutputError) as error:
            outcome = failed(job, error)
        except KeyboardInterrupt:
            shown.close()  # its bar would be drawn below the last line
            remark(f"s3diff: stopped{reached}; the same command goes on")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        written.add(outcome)
    show_outcome(outcome, quiet)
    if outcome.state == "failed":
        raise typer.Exit(EXIT_SOME_FAILED)


def _target(source: Path, output: str | None, writing: OutputOptions) -> Path:
    from s3diff.images.files.video import VIDEO_EXTENSIONS
    from s3diff.restoration.video import remove_work_of_whole

    extension = source.suffix if source.suffix.lower() in VIDEO_EXTENSIONS else ".mp4"
    if output is None:
        numbered = (source.with_name(f"{source.stem}_restored{each}{extension}") for each in _numbers())

        def is_free(path: Path) -> bool:
            if not writing.overwrite:
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
