"""Read, restore and write one picture, or a batch: the unit of work of runs over many pictures."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from s3diff.folders.plan import RestoreJob, require_inside
from s3diff.formats import format_of
from s3diff.images.files.writing import check_writable
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.result import Degrees, Result
from s3diff.video_options import VideoOptions

if TYPE_CHECKING:
    from s3diff.images.files.content_credentials import ResultSigner
    from s3diff.restoration.frames_and_pages import OpenedSeries
    from s3diff.restoration.restorer import Restorer
    from s3diff.restoration.steps import Opened

#: Writes a result and returns it with all notes.
Finish = Callable[[], Result]


class PictureWatcher(Protocol):
    """Receive the progress of pictures; an exception raised here ends the run."""

    def begin(self, job: RestoreJob, opened: Any) -> None:
        """Begin a picture; ``opened``: the result of :meth:`JobRunner.open`."""

    def stage(self, name: str, part: int, num_parts: int) -> None:
        """Begin a stage; see :data:`s3diff.restoration.stage_events.OnBegin`."""

    def parts(self, kind: str, done: int, total: int) -> None:
        """Count finished ``tiles``, ``frames`` or ``pages`` of the picture, or tiles within the stage ``predict``."""

    def stage_share(self, share: float) -> None:
        """Receive the current stage's finished share; see :data:`s3diff.restoration.stage_events.OnShare`."""

    def share(self, fraction: float, seconds_left: float | None) -> None:
        """Receive a service's estimate: the finished share in [0, 1], and the seconds left."""


class JobRunner(Protocol):
    """Read and restore pictures for :func:`run_jobs`.

    Attributes:
        batch: most pictures that run together; 1 for never.
    """

    batch: int = 1

    def prepare(self) -> None:
        """Prepare everything that all pictures share, such as the model.

        Raises:
            S3DiffError: no picture can be restored.
        """

    def open(self, job: RestoreJob) -> Any:
        """Read a picture ahead of its turn, in another thread; make every cheap check here.

        Raises:
            PictureError, OutputError: this picture cannot be restored; others can.
        """

    def restore(self, job: RestoreJob, opened: Any, watcher: PictureWatcher | None) -> Finish:
        """Restore an opened picture; return the function that writes the result.

        Raises:
            PictureError, OutputError: this picture cannot be restored; others can.
        """

    def batch_key(self, opened: Any) -> Hashable | None:
        """Return the key that pictures of one batch share; None for a picture that runs without others."""
        return None

    def is_enough(self, opened: Sequence[Any]) -> bool:
        """Check whether no more pictures are read ahead."""
        return len(opened) >= self.batch

    def restore_batch(self, jobs: Sequence[RestoreJob], opened: Sequence[Any]) -> list[Finish]:
        """Restore opened pictures of one key; return the functions that write the results.

        Raises:
            Exception: of whatever kind; the pictures are then restored one by one.
        """
        return [self.restore(job, each, None) for job, each in zip(jobs, opened, strict=True)]


class LocalRunner(JobRunner):
    """Restore pictures with a model on this machine.

    Args:
        restorer: a model on a device, or a function that loads it on first use.
        root: the output folder.
        degrees: for all pictures, instead of estimates and the options' degrees.
        batch: most small pictures of one size that run together.
    """

    def __init__(
        self,
        restorer: Restorer | Callable[[], Restorer],
        options: RestoreOptions,
        writing: OutputOptions,
        root: Path | None = None,
        degrees: Degrees | None = None,
        signer: ResultSigner | None = None,
        batch: int = 1,
    ) -> None:
        self._restorer, self._options, self._writing, self._root = restorer, options, writing, root
        self._degrees, self._signer, self.batch = degrees, signer, batch

    @property
    def restorer(self) -> Restorer:
        if callable(self._restorer):
            self._restorer = self._restorer()
        return self._restorer

    def prepare(self) -> None:
        _ = self.restorer

    def open(self, job: RestoreJob) -> Opened | OpenedSeries:
        """Read a picture. A file of several frames or pages is opened as a series if the target can hold it."""
        from s3diff.restoration.frames_and_pages import open_source  # and with it torch

        form = format_of(job.target)
        if self._signer is not None and form is not None:
            self._signer.require_fitting(form)
        require_inside(job.target, self._root)
        return open_source(job.source, job.target, self._options)

    def restore(self, job: RestoreJob, opened: Opened | OpenedSeries, watcher: PictureWatcher | None) -> Finish:
        """Restore a picture. Frames of an animation are written as they are restored."""
        from s3diff.restoration.frames_and_pages import restore_series  # and with it torch
        from s3diff.restoration.steps import Opened, write

        options, writing = self._options, self._writing
        progress = None if watcher is None else watcher.parts
        if not isinstance(opened, Opened):
            made = restore_series(
                self.restorer, opened, job.target, options, writing, progress, self._degrees, self._signer
            )
            return lambda: made
        restored = self.restorer.restore(
            opened,
            options,
            degrees=self._degrees,
            progress=progress,
            on_begin=None if watcher is None else watcher.stage,
            on_share=None if watcher is None else watcher.stage_share,
        )
        return lambda: write(restored, job.target, writing, self._signer)

    def speed_key(self) -> str:
        """Name this machine's speed; see :func:`s3diff.restoration.time_left.speed_key`."""
        from s3diff.restoration.time_left import speed_key

        return speed_key(self.restorer, self.restorer.resolved(self._options))

    def batch_key(self, opened: Opened | OpenedSeries) -> Hashable | None:
        """Return the pictures' size. Those that do not fit twice into the largest batch gain nothing."""
        from s3diff.restoration.restorer import MAX_BATCH_PIXELS
        from s3diff.restoration.steps import Opened

        if not isinstance(opened, Opened) or self._degrees is not None:
            return None
        return opened.sizes.input if 2 * opened.sizes.num_working_pixels <= MAX_BATCH_PIXELS else None

    def is_enough(self, opened: Sequence[Opened | OpenedSeries]) -> bool:
        """Check whether the pictures that are read fill the largest batch."""
        from s3diff.restoration.restorer import MAX_BATCH_PIXELS
        from s3diff.restoration.steps import Opened

        sizes = [each.sizes if isinstance(each, Opened) else each for each in opened]
        return len(opened) >= self.batch or sum(each.num_working_pixels for each in sizes) >= MAX_BATCH_PIXELS

    def restore_batch(self, jobs: Sequence[RestoreJob], opened: Sequence[Any]) -> list[Finish]:
        """Restore several pictures at a time.

        On a CPU the networks run so that results equal those of :meth:`restore` to the byte; on other devices all
        together, which is faster there, and within one grey level.
        """
        from s3diff.restoration.steps import write

        restored = self.restorer.restore_batch(opened, self._options, in_turn=self.restorer.device.type == "cpu")
        return [
            partial(write, result, job.target, self._writing, self._signer)
            for job, result in zip(jobs, restored, strict=True)
        ]


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
        load: loads the model, once the picture was looked at.
        degrees, tell: as ``degrees`` and ``progress`` there.
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
        load: loads the model, once the video, its result's codec and its container were looked at.
        tell: as ``progress`` there.
    """
    from s3diff.restoration.video import restore_planned
    from s3diff.restoration.video_plan import plan_video

    plan = plan_video(job.source, job.target, options, video)
    return restore_planned(load(), plan, options, progress=tell)
