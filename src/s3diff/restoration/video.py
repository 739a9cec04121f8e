"""Restore videos frame by frame. Finished segments stay on the disk, so that a killed run goes on.

Degrees are estimated twice a second and smoothed over time within a scene, so that they do not jump between frames, and
a frame takes over in part what the one before it showed. The result appears whole, with the source's sound, subtitles
and chapters. Memory holds a few frames, whatever their number.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from s3diff.atomic_write import whole_file, whole_path, write_atomically
from s3diff.errors import OutputError, PictureError
from s3diff.images.files.video import Video, VideoFrame, frames_of
from s3diff.images.files.video_writing import Encoding, join_segments, write_segment
from s3diff.images.picture import Picture
from s3diff.messages import reason_of, shown_path
from s3diff.options import LIMITS, RestoreOptions
from s3diff.restoration.conveyor import READ_AHEAD, Conveyor
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.result import Result, add_seconds
from s3diff.restoration.scratch_files import only_one
from s3diff.restoration.steps import Opened, Progress, restore
from s3diff.restoration.video_analysis import COURSE, Course, course_of
from s3diff.restoration.video_plan import WHOLE, VideoPlan, plan_video, state_of, work_of
from s3diff.restoration.video_steadiness import Steady
from s3diff.version import __version__
from s3diff.video_options import MAX_BATCH
from s3diff.video_options import VideoOptions as VideoOptions

#: Frames of a segment; a killed run loses at most one segment.
SEGMENT_FRAMES = MAX_BATCH

#: File of the work folder that describes the segments.
_SEGMENTS = "segments.json"


def restore_video(
    model: DeviceModel,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: RestoreOptions | None = None,
    video_options: VideoOptions | None = None,
    *,
    progress: Progress | None = None,
    work: Path | None = None,
    source_id: str | None = None,
) -> Result:
    """Restore a video; continue an interrupted call with the same arguments.

    Time stamps, also of a variable frame rate, the shape of the pixels, colour tags and the depth are kept; a rotation
    is applied; sound, subtitles, attachments and chapters are copied. Unfinished work lies in a hidden folder
    next to the target, which is removed when the target is complete.

    Args:
        source: a video that FFmpeg reads, of SDR.
        target: .mp4, .mov, .m4v, .mkv or .webm.
        progress: called with ("look", done, total) after every frame of the first pass, which finds cuts and degrees,
            and with ("frames", done, total) after every batch that is restored; before they begin with
            ("look_resumed", done, total) and ("resumed", done, total), where ``done`` frames are there from an earlier
            run. In the first pass ``total`` is 0 while the number of frames is not known. What it raises ends the
            work, which the next call goes on with.
        work: the folder of unfinished work, on the target's disk; None for the hidden one. Moved or copied
            (:func:`kept_files`), it can be continued elsewhere.
        source_id: a name that only this source has, wherever it lies; None for its path, size and time of change.

    Raises:
        PictureError: the source cannot be read, is cut off, damaged or HDR, or its frames would be too large.
        OutputError: the target cannot be written, or cannot hold the source's streams.
        OptionError, ModelError, MissingExtraError: as :meth:`Restorer.restore`; codec and pixel format do not fit.
    """
    options = model.resolved(options)
    plan = plan_video(source, target, options, video_options)
    return restore_planned(model, plan, options, progress=progress, work=work, source_id=source_id)


def restore_planned(
    model: DeviceModel,
    plan: VideoPlan,
    options: RestoreOptions,
    *,
    progress: Progress | None = None,
    work: Path | None = None,
    source_id: str | None = None,
) -> Result:
    """Restore a video as planned; see :func:`restore_video`, and for its errors."""
    target = plan.target
    target.parent.mkdir(parents=True, exist_ok=True)
    with only_one(target):
        header = _header_of_course(model, plan.video, source_id)
        return _restored_into(model, plan, model.resolved(options), progress, work or work_of(target), header)


def kept_files(work: Path) -> list[Path]:
    """List the files that the next call continues from, each after those that it depends on."""
    headers = [path for path in (work / COURSE, work / _SEGMENTS) if path.is_file()]
    return headers + sorted(work.glob("*.npy")) + sorted(work.glob("*.nut"))


def _restored_into(
    model: DeviceModel,
    plan: VideoPlan,
    options: RestoreOptions,
    progress: Progress | None,
    work: Path,
    header: dict[str, Any],
) -> Result:
    video, target, writing, sizes, encoding = plan.video, plan.target, plan.writing, plan.sizes, plan.encoding
    before = _state_of_source(video)
    model.prompts(options)
    course = course_of(model, video, work, header, progress)
    segments = _Segments(work, course.num_frames, has_states=writing.steady > 0)
    if segments.keep_only(_header_of_segments(options, writing, encoding)):
        model.remark("the frames that an earlier run has restored are dropped: their options differ")
    num_there = segments.num_there()
    done = min(num_there * SEGMENT_FRAMES, course.num_frames)
    maker = _Maker(model, plan, options, course, progress, done)
    maker.notes.update(dict.fromkeys((*video.notes, *plan.converted)))
    if course.num_damaged:
        counted = f"{course.num_damaged} of {course.num_frames}"
        maker.notes[f"{counted} frames are damaged; the decoder filled in what was missing"] = None
    if plan.num_stored is not None and plan.num_stored > course.num_frames:
        missing = f"{plan.num_stored - course.num_frames} of {plan.num_stored}"
        maker.notes[f"{missing} frames are missing: they are damaged, or depend on others that are"] = None
    if num_there:
        maker.notes[f"{done} of {course.num_frames} frames were there from an earlier run"] = None
    if num_there < len(segments.paths):
        with maker.frames(segments.last_result(num_there)) as frames:
            for index in range(num_there, len(segments.paths)):
                with whole_path(segments.paths[index]) as temporary:
                    made = maker.restored(islice(frames, SEGMENT_FRAMES))
                    write_segment(made, temporary, video, sizes.output, encoding)
                    segments.keep_last_result(index, maker.last_result)
    if _state_of_source(video) != before:  # the sound would be the new one's
        raise _changed(video)
    comment = _comment(model, course) if writing.provenance else ""
    with whole_path(target, writing.overwrite, temporary=work / f"whole{target.suffix.lower()}") as temporary:
        join_segments(segments.paths, video, temporary, comment)
        write_atomically(json.dumps(state_of(temporary)), work / WHOLE)
    shutil.rmtree(work, ignore_errors=True)
    median = course.median
    return Result(
        size=sizes.output,
        degrees=median.under(options),
        estimated=median,
        seconds=maker.seconds or {"total": 0.0},
        options=options,
        notes=tuple(maker.notes),
        num_frames=course.num_frames,
        in_file=target,
    )


@dataclass
class _Maker:
    """Restore frames in their order.

    Attributes:
        done: number of finished frames.
        seconds: of each stage, all frames together.
        notes: each once, in their order.
        last_result: the frame before, as it is encoded.
    """

    model: DeviceModel
    plan: VideoPlan
    options: RestoreOptions
    course: Course
    progress: Progress | None
    done: int
    seconds: dict[str, float] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    last_result: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._steady = Steady(self.plan.writing.steady, self.model.device, self.plan.sizes.uncut)

    @contextmanager
    def frames(self, before: np.ndarray | None) -> Iterator[Iterator[VideoFrame]]:
        """Yield the frames that are still to be restored, each decoded while the ones before it are restored.

        Args:
            before: the result of the last finished frame, which the next one is blended with.
        """
        num_read = self.course.num_frames - self.done + (before is not None)
        self._tell("resumed")  # again when the first frame is decoded: what is passed over takes a time of its own
        first, batch = self.course.num_frames - num_read, self.plan.writing.batch
        with _read_ahead(self.plan.video, first, num_read, batch) as frames:
            if before is not None:
                self._steady.go_on(next(frames).pixels, before)
            yield frames

    def restored(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        time_base = self.plan.video.time_base
        while batch := list(islice(frames, self.plan.writing.batch)):
            if self.seconds == {}:
                self._tell("resumed")
            opened = [Opened(Picture(frame.pixels), self.plan.sizes) for frame in batch]
            estimates = [self.course.at(each.time, float(each.time * time_base)) for each in batch]
            degrees = [each.under(self.options) for each in estimates]
            made = restore(self.model, opened, self.options, degrees=degrees)
            for frame, result in zip(batch, made, strict=True):
                add_seconds(self.seconds, result.seconds)
                self.notes.update(dict.fromkeys((*result.picture.notes, *result.notes)))
                if frame.time in self.course.cuts:
                    self._steady.forget()
                self.last_result = self._steady.steadied(frame.pixels, result.picture.pixels)
                self.done += 1
                if frame is batch[-1]:  # once: the others took no time of their own
                    self._tell("frames")
                yield VideoFrame(self.last_result, frame.time, frame.duration)

    def _tell(self, what: str) -> None:
        if self.progress is not None:
            self.progress(what, self.done, self.course.num_frames)


class _Segments:
    """Keep the encoded segments of a video, and the last frame of the newest one as it was before encoding.

    Args:
        has_states: whether last frames are kept, since the next one is blended with it.
    """

    def __init__(self, work: Path, num_frames: int, *, has_states: bool) -> None:
        self.paths = [work / f"{index:06}.nut" for index in range(-(-num_frames // SEGMENT_FRAMES))]
        self._record, self._has_states = work / _SEGMENTS, has_states

    def keep_only(self, header: dict[str, Any]) -> bool:
        """Remove the segments of other work; return whether there were some.

        Args:
            header: describes everything that they depend on except the course.

        Raises:
            OutputError: one cannot be removed.
        """
        with suppress(OSError, ValueError):
            if json.loads(self._record.read_text("utf-8")) == header:
                return False
        there = [each for path in self.paths for each in (path, path.with_suffix(".npy")) if os.path.lexists(each)]
        for path in there:
            try:
                path.unlink()
            except OSError as error:
                raise OutputError(f"{shown_path(path)} is in use ({reason_of(error)}); close what reads it") from error
        write_atomically(json.dumps(header), self._record)
        return bool(there)

    def num_there(self) -> int:
        """Count the segments that need not be made again."""
        there = next((index for index, path in enumerate(self.paths) if not path.is_file()), len(self.paths))
        if there == len(self.paths) or not self._has_states:
            return there
        while there and not self._state(there - 1).is_file():
            there -= 1
        return there

    def last_result(self, num_there: int) -> np.ndarray | None:
        """Read the last frame of the segments that are there; None without one, or where it is of no use."""
        return np.load(self._state(num_there - 1), allow_pickle=False) if num_there and self._has_states else None

    def keep_last_result(self, index: int, pixels: np.ndarray | None) -> None:
        """Keep the last frame of a segment, before the segment itself is in its place, and drop the one before."""
        if self._has_states and pixels is not None and index + 1 < len(self.paths):
            with whole_file(self._state(index), overwrite=True) as file:
                np.save(file, pixels, allow_pickle=False)
            if index > 1:
                self._state(index - 2).unlink(missing_ok=True)

    def _state(self, index: int) -> Path:
        return self.paths[index].with_suffix(".npy")


def _header_of_course(model: DeviceModel, video: Video, source_id: str | None) -> dict[str, Any]:
    """Describe everything that the cuts and the degrees of frames depend on."""
    path = os.path.realpath(video.path)
    return {
        "software": __version__,
        "source": [path, *_state_of_source(video)] if source_id is None else source_id,
        "model": [model.model.name, model.model.fingerprint, model.precision, model.runs_on],
    }


def _state_of_source(video: Video) -> list[int]:
    try:
        return state_of(video.path)
    except OSError as error:
        raise PictureError(f"{shown_path(video.path)} cannot be read any more ({reason_of(error)})") from error


def _changed(video: Video) -> PictureError:
    return PictureError(f"{shown_path(video.path)} changed while it was read; try again")


def _header_of_segments(options: RestoreOptions, writing: VideoOptions, encoding: Encoding) -> dict[str, Any]:
    """Describe everything else that the frames depend on, but not the batch, which changes a grey level at most."""
    header = {
        "options": {name: value for name, value in asdict(options).items() if name not in LIMITS},
        "encoding": asdict(encoding),
        "steady": writing.steady,
        "frames_of_a_segment": SEGMENT_FRAMES,
    }
    return json.loads(json.dumps(header))  # as it will be read again


@contextmanager
def _read_ahead(video: Video, first: int, count: int, batch: int) -> Iterator[Iterator[VideoFrame]]:
    """Yield the frames from ``first`` on, decoded while those before them are restored."""
    is_over = threading.Event()
    frames = frames_of(video, first, is_over.is_set)
    with Conveyor[int, VideoFrame, None](
        lambda _: next(frames, None), lambda _: None, range(count),
        has_room=lambda ready: len(ready) < max(READ_AHEAD, batch),
    ) as conveyor:  # fmt: skip

        def taken() -> Iterator[VideoFrame]:
            for _ in range(count):
                found = conveyor.take()
                if found is None:
                    raise _changed(video)
                yield found[1]

        try:
            yield taken()
        finally:
            is_over.set()  # the conveyor waits for its reader, who may have thousands of frames to pass over


def _comment(model: DeviceModel, course: Course) -> str:
    blur, noise = course.median
    return (
        f"restored with s3diff {__version__}, model {model.model.name} {model.model.fingerprint}, "
        f"estimated blur {blur:.3f}, noise {noise:.3f}"
    )
