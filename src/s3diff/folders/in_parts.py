"""Restore a picture larger than memory, or a video, in parts that stay when the work is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from s3diff.atomic_write import require_free
from s3diff.folders.jobs import RestoreJob, require_inside
from s3diff.images.codecs import check_writable
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.result import Degrees, Result
from s3diff.video_options import VideoOptions

if TYPE_CHECKING:
    from s3diff.restoration.restorer import Restorer

#: Receives the kind of parts, the finished ones and all.
Tell = Callable[[str, int, int], None]


def restore_large(
    job: RestoreJob,
    options: RestoreOptions,
    writing: OutputOptions,
    root: Path | None,
    degrees: Degrees | None,
    load: Callable[[], Restorer],
    tell: Tell,
) -> Result:
    """Restore a picture larger than memory; see :meth:`Restorer.restore_file`, and for its errors.

    Args:
        root: the output folder, which no link may lead out of.
        degrees: as there.
        load: loads the model, once the picture was looked at.
        tell: as ``progress`` there.
    """
    from s3diff.images.files.large_files import LargePicture
    from s3diff.restoration.streaming import require_tiff

    require_tiff(job.target)
    require_inside(job.target, root)
    check_writable(job.target)
    LargePicture(job.source)
    result = load().restore_file(
        job.source, job.target, options,
        overwrite=writing.overwrite, provenance=writing.provenance, degrees=degrees, progress=tell,
    )  # fmt: skip
    resumed = f"{result.num_resumed} of {result.num_tiles} tiles were there from an earlier run"
    return replace(result, notes=(*result.notes, resumed)) if result.num_resumed else result


def restore_film(
    job: RestoreJob, options: RestoreOptions, video: VideoOptions, load: Callable[[], Restorer], tell: Tell
) -> Result:
    """Restore a video; see :func:`s3diff.restoration.video.restore_video`, and for its errors.

    Args:
        load: loads the model, once the video was looked at.
        tell: as ``progress`` there.
    """
    from s3diff.images.files.video import open_video
    from s3diff.restoration.video import restore_video

    require_free(job.target, video.overwrite)
    open_video(job.source)
    return restore_video(load(), job.source, job.target, options, video, progress=tell)
