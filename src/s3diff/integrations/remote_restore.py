"""Run ``s3diff restore --server``: a service restores pictures or a video; files are read, named and written here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from s3diff.atomic_write import require_free
from s3diff.client import Client, Progress, RemoteJob, ServedResult
from s3diff.errors import JobCancelledError, JobTimeoutError, OutputError, PictureError, S3DiffError
from s3diff.folders.picture_runners import Finish, JobRunner, PictureWatcher
from s3diff.folders.plan import RestoreJob, require_inside
from s3diff.images.files.writing import check_writable
from s3diff.messages import reason_of
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.result import Degrees, Result
from s3diff.video_options import VideoOptions


class ServerRunner(JobRunner):
    """Restore pictures with a service's model. Uploads run ahead, so that the service is never idle.

    Args:
        model: a model that the service offers; None for its default.
    """

    def __init__(
        self,
        client: Client,
        options: RestoreOptions,
        writing: OutputOptions,
        model: str | None,
        root: Path | None,
    ) -> None:
        self._client, self._options, self._writing, self._model, self._root = client, options, writing, model, root
        self._handed_in: set[RemoteJob] = set()
        self._turn, self._is_closed = threading.Lock(), False

    def prepare(self) -> None:
        """Do nothing: the service has its model."""

    def open(self, job: RestoreJob) -> RemoteJob:
        """Upload the picture.

        Raises:
            PictureError: the picture cannot be read, or the service refuses it.
            OutputError: its result could not be written.
            ServiceError: the service cannot be reached, or its queue stays full.
        """
        require_inside(job.target, self._root)
        check_writable(job.target)
        content = _read(job.source, self._options.max_file_bytes)
        suffix: Any = job.target.suffix[1:].lower()
        writing = replace(self._writing, format=suffix, name="{stem}")
        with _named(job):
            remote = self._client.submit(
                content, self._options, name=job.source.name, model=self._model, writing=writing
            )
        with self._turn:
            self._handed_in.add(remote)
            is_late = self._is_closed
        if is_late:
            self._forget(remote)
        return remote

    def restore(self, job: RestoreJob, opened: RemoteJob, watcher: PictureWatcher | None) -> Finish:
        """Wait for the result.

        Raises:
            PictureError: the service cannot restore the picture.
            OutputError: the output's format cannot hold the result.
            ServiceError: the service cannot be reached any more.
        """
        try:
            with _named(job):
                told = None if watcher is None else lambda at: watcher.share(at.fraction, at.seconds_left)
                result = opened.result(told)
        except (JobTimeoutError, JobCancelledError) as error:
            raise PictureError(f"{job.source}: {error}") from error
        finally:
            self._forget(opened)

        def finish() -> Result:
            result.save(job.target, overwrite=self._writing.overwrite)
            return _as_result(result, job.target, self._options)

        return finish

    def close(self) -> None:
        """Cancel the service's remaining jobs."""
        with self._turn:
            self._is_closed = True
        for remote in list(self._handed_in):
            self._forget(remote)

    def _forget(self, remote: RemoteJob) -> None:
        with self._turn:
            self._handed_in.discard(remote)
        with suppress(S3DiffError):
            remote.end()


def restore_video_at(
    job: RestoreJob,
    options: RestoreOptions,
    writing: OutputOptions,
    video_options: VideoOptions,
    model: str | None,
    connect: Callable[[], Client],
    tell: Callable[[str, int, int], None],
) -> Result:
    """Have a service restore a video; an exception or interruption also ends the work there.

    Args:
        model: a model that the service offers; None for its default.
        connect: gives the service, once the video was read.
        tell: as ``progress`` of :func:`s3diff.restoration.video.restore_video`.

    Raises:
        PictureError, OptionError, OutputError: the service refuses it, or it cannot be read or written here.
        ServiceError: the service cannot be reached.
    """
    begun: set[str] = set()

    def look(at: Progress) -> None:
        kind = {"estimating": "look", "restoring": "frames"}.get(at.stage)
        if kind is not None and at.part == "frame":
            if kind not in begun:
                tell("look_resumed" if kind == "look" else "resumed", at.tile, at.num_tiles)
                begun.add(kind)
            tell(kind, at.tile, at.num_tiles)

    require_free(job.target, writing.overwrite)
    content = _read(job.source, options.max_file_bytes)
    with _named(job):
        # The service makes the container that the name ends with, whatever the video's own is.
        made = connect().restore(
            content, options, name=f"{job.source.stem}{job.target.suffix}", model=model,
            writing=replace(writing, name="{stem}"), video_options=video_options, progress=look,
        )  # fmt: skip
    made.save(job.target, overwrite=writing.overwrite)
    return _as_result(made, job.target, options)


def _as_result(served: ServedResult, path: Path, options: RestoreOptions) -> Result:
    """Convert the service's result to the library's."""
    facts = served.facts
    return Result(
        size=(facts["width"], facts["height"]),
        degrees=Degrees(facts["blur"], facts["noise"]),
        estimated=Degrees(facts["estimated_blur"], facts["estimated_noise"]),
        seconds={"total": facts["seconds"]},
        options=options,
        notes=served.notes,
        num_frames=facts.get("frames"),
        in_file=path,
    )


@contextmanager
def _named(job: RestoreJob) -> Iterator[None]:
    """Replace a picture's name in the service's messages by its whole path, so that it is found in a folder run."""
    try:
        yield
    except (PictureError, OutputError) as error:
        text = str(error)
        for name in (job.source.name, f"{job.source.stem}{job.target.suffix}"):
            if text.startswith(name):
                raise type(error)(f"{job.source}{text[len(name) :]}") from error
        raise


def _read(source: Path, max_bytes: int) -> bytes:
    try:
        with open(source, "rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise PictureError(f"{source} cannot be read ({reason_of(error)}); give a picture file") from error
    if len(content) > max_bytes:
        raise PictureError(
            f"{source} has more than {max_bytes} bytes, which is the limit; give a smaller file, or raise the limit "
            "(--max-file-megabytes)"
        )
    return content
