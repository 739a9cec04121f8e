"""Restore videos frame by frame. Finished segments stay on the disk, so that a killed run goes on.

Degrees are estimated twice a second and smoothed over time within a scene, so that they do not jump between frames. The
result appears whole, with the source's sound, subtitles and chapters. Memory holds a few frames, whatever their number.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s3diff.atomic_write import require_free, whole_path, write_atomically
from s3diff.errors import OutputError, PictureError
from s3diff.formats import VideoCodec
from s3diff.images.files.video import (
    Encoding,
    Video,
    VideoFrame,
    choose_encoding,
    frames_of,
    open_video,
    write_segment,
)
from s3diff.images.files.video_joining import join_segments, require_streams
from s3diff.images.picture import Picture
from s3diff.messages import reason_of, shown_path, too_many_pixels
from s3diff.options import LIMITS, RestoreOptions
from s3diff.restoration.conveyor import Conveyor
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.result import Degrees, Result
from s3diff.restoration.scratch_files import only_one
from s3diff.restoration.sizes import allowed_sizes
from s3diff.restoration.steps import Opened, Progress, estimate, restore
from s3diff.version import __version__

#: Frames of a segment: what a killed run loses at most.
SEGMENT_FRAMES = 48
#: Time between two estimates, and the width of the Gaussian that smooths them, in seconds.
_ESTIMATE_SECONDS, _SMOOTHING_SECONDS = 0.5, 1.0
#: (width, height) of the small frames that cuts are found in.
_SMALL = (32, 18)
#: A cut changes a small frame by this share of the full scale, and by so many times what the frames before changed.
_CUT_CHANGE, _CUT_RATIO = 0.08, 4.0


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How a restored video is encoded.

    Attributes:
        codec: ``auto`` is h264, h265 for more than 8 bits, and vp9 for .webm.
        pixel_format: FFmpeg's name; ``auto`` keeps depth and sampling of the source.
        quality: 1 to 100.
        overwrite: whether a file that is there may be replaced.
        provenance: whether the file's comment states how it was made.
    """

    codec: VideoCodec = "auto"
    pixel_format: str = "auto"
    quality: int = 95
    overwrite: bool = True
    provenance: bool = True


class _Estimate(NamedTuple):
    """Degrees at a time, in seconds, in a scene by its number."""

    seconds: float
    scene: int
    degrees: Degrees


class Course(NamedTuple):
    """The degrees of a whole video over time.

    Attributes:
        cuts: time stamps of the first frames of all scenes but the first.
        estimates: a few of each scene.
        num_frames: of the video.
    """

    cuts: list[int]
    estimates: list[_Estimate]
    num_frames: int

    def at(self, time: int, seconds: float) -> Degrees:
        """Smooth the estimates of the frame's scene; nothing passes over a cut."""
        scene = sum(cut <= time for cut in self.cuts)
        own = [each for each in self.estimates if each.scene == scene]
        offsets = np.array([each.seconds - seconds for each in own])
        # The nearest one counts 1: far from all of them the others would vanish.
        weights = np.exp((np.min(offsets**2) - offsets**2) / (2 * _SMOOTHING_SECONDS**2))
        values = np.array([each.degrees for each in own])
        blur, noise = (weights[:, None] * values).sum(axis=0) / weights.sum()
        return Degrees(float(blur), float(noise))

    @property
    def median(self) -> Degrees:
        """Of all estimates."""
        return Degrees(
            *(statistics.median(each) for each in zip(*(one.degrees for one in self.estimates), strict=True))
        )


def restore_video(
    model: DeviceModel,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: RestoreOptions | None = None,
    video_options: VideoOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Result:
    """Restore a video; what an earlier call has done of the same work is used.

    Time stamps, also of a variable frame rate, the shape of the pixels, colour tags and the depth are kept; a rotation
    is carried out; sound, subtitles, attachments and chapters are copied. The work in hand lies in a hidden folder
    beside the target and goes when the target is whole.

    Args:
        model: the networks on a device.
        source: a video that FFmpeg reads, of SDR.
        target: .mp4, .mov, .m4v, .mkv or .webm.
        options: for all frames.
        video_options: how it is encoded.
        progress: called with ("frames", done, total) after every frame; what it raises ends the work, which the next
            call goes on with.

    Raises:
        PictureError: the source cannot be read, is HDR, or its frames would be too large.
        OutputError: the target cannot be written, or cannot hold the source's streams.
        OptionError, ModelError, MissingExtraError: as :meth:`Restorer.restore`; codec and pixel format do not fit.
    """
    source, target, writing = Path(source), Path(target), video_options or VideoOptions()
    options = model.resolved(options)
    require_free(target, writing.overwrite)
    if os.path.realpath(source) == os.path.realpath(target):
        raise OutputError(f"{shown_path(target)} would overwrite the input; choose another output")
    video = open_video(source)  # before a folder is made for its result
    target.parent.mkdir(parents=True, exist_ok=True)
    with only_one(target):
        return _restored_into(model, video, target, options, writing, progress)


def _restored_into(
    model: DeviceModel,
    video: Video,
    target: Path,
    options: RestoreOptions,
    writing: VideoOptions,
    progress: Progress | None,
) -> Result:
    source = video.path
    if video.width * video.height > options.max_input_pixels:
        raise PictureError(too_many_pixels(source, (video.width, video.height), options.max_input_pixels))
    sizes = allowed_sizes((video.width, video.height), options, shown_path(source))
    encoding = choose_encoding(video, target, sizes.output, writing.codec, writing.pixel_format, writing.quality)
    require_streams(video, target)
    model.prompts(options)
    work = target.with_name(f".s3diff-{target.name}.video")
    course = _course_of(model, video, work, _header(model, video, options, encoding))
    seconds: dict[str, float] = {}
    notes = dict.fromkeys(video.notes)
    done = 0

    def restored(frame: VideoFrame) -> VideoFrame:
        nonlocal done
        found = course.at(frame.time, float(frame.time * video.time_base))
        degrees = Degrees(options.degree("blur", found.blur), options.degree("noise", found.noise))
        made = restore(model, [Opened(Picture(frame.pixels), sizes)], options, degrees=degrees)[0]
        for stage, value in made.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
        notes.update(dict.fromkeys((*made.picture.notes, *made.notes)))
        done += 1
        if progress is not None:
            progress("frames", done, course.num_frames)
        return VideoFrame(made.picture.pixels, frame.time, frame.duration)

    segments = [work / f"{index:06}.nut" for index in range(-(-course.num_frames // SEGMENT_FRAMES))]
    num_there = next((index for index, path in enumerate(segments) if not path.is_file()), len(segments))
    done = min(num_there * SEGMENT_FRAMES, course.num_frames)
    if num_there:
        notes[f"{done} of {course.num_frames} frames were there from an earlier run"] = None
    with _read_ahead(video, done, course.num_frames - done) as frames:
        for path in segments[num_there:]:
            with whole_path(path) as temporary:
                write_segment(map(restored, islice(frames, SEGMENT_FRAMES)), temporary, video, sizes.output, encoding)
    comment = _comment(model, course) if writing.provenance else ""
    with whole_path(target, writing.overwrite, temporary=work / f"whole{target.suffix.lower()}") as temporary:
        join_segments(segments, video, temporary, comment)
    shutil.rmtree(work, ignore_errors=True)
    median = course.median
    return Result(
        size=sizes.output,
        degrees=Degrees(options.degree("blur", median.blur), options.degree("noise", median.noise)),
        estimated=median,
        seconds=seconds or {"total": 0.0},
        options=options,
        notes=tuple(notes),
        num_frames=course.num_frames,
        in_file=target,
    )


def _header(model: DeviceModel, video: Video, options: RestoreOptions, encoding: Encoding) -> dict[str, Any]:
    """Describe what decides every byte of the segments."""
    try:
        status = os.stat(video.path)
    except OSError as error:
        raise PictureError(f"{shown_path(video.path)} cannot be read any more ({reason_of(error)})") from error
    header = {
        "software": __version__,
        "source": [os.path.realpath(video.path), status.st_size, status.st_mtime_ns],
        "model": [model.model.name, model.model.fingerprint, model.precision, model.runs_on],
        "options": {name: value for name, value in asdict(options).items() if name not in LIMITS},
        "encoding": asdict(encoding),
        "frames_of_a_segment": SEGMENT_FRAMES,
    }
    return json.loads(json.dumps(header))  # as it will be read again


def _course_of(model: DeviceModel, video: Video, work: Path, header: dict[str, Any]) -> Course:
    """Read the degrees that an earlier run of the same work found, or estimate them over the whole video."""
    record = work / "course.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(record.read_text("utf-8"))
        if found["header"] == header:
            estimates = [_Estimate(at, scene, Degrees(*degrees)) for at, scene, degrees in found["estimates"]]
            return Course(found["cuts"], estimates, found["num_frames"])
    shutil.rmtree(work, ignore_errors=True)  # of other work: nothing of it fits
    course = _look(model, video)
    content = {"header": header, "cuts": course.cuts, "estimates": course.estimates, "num_frames": course.num_frames}
    write_atomically(json.dumps(content), record)
    return course


def _look(model: DeviceModel, video: Video) -> Course:
    """Find the cuts, and estimate the degrees of some frames of every scene."""
    cuts: list[int] = []
    estimates: list[_Estimate] = []
    before: np.ndarray | None = None
    usual, next_estimate, num_frames = 0.0, 0.0, 0
    for frame in frames_of(video):
        seconds, small = float(frame.time * video.time_base), _small(frame.pixels)
        if before is not None:
            change = float(np.abs(small - before).mean())
            if change > _CUT_CHANGE and change > _CUT_RATIO * usual:
                cuts.append(frame.time)
                usual = 0.0
            else:
                usual = 0.8 * usual + 0.2 * change
        if not estimates or estimates[-1].scene != len(cuts) or seconds >= next_estimate:
            estimates.append(_Estimate(seconds, len(cuts), estimate(model, Picture(frame.pixels))))
            next_estimate = seconds + _ESTIMATE_SECONDS
        before = small
        num_frames += 1
    return Course(cuts, estimates, num_frames)


def _small(pixels: np.ndarray) -> np.ndarray:
    """Average a few fields, [h, w, 3] in [0, 1]."""
    height, width, _ = pixels.shape
    columns, rows = (
        np.arange(min(count, side)) * side // min(count, side)
        for count, side in zip(_SMALL, (width, height), strict=True)
    )
    colors = pixels / np.float32(np.iinfo(pixels.dtype).max)
    sums = np.add.reduceat(np.add.reduceat(colors, rows, axis=0), columns, axis=1)
    return sums / np.outer(np.diff([*rows, height]), np.diff([*columns, width]))[..., None]


@contextmanager
def _read_ahead(video: Video, skipped: int, count: int) -> Iterator[Iterator[VideoFrame]]:
    """Yield the frames after ``skipped`` ones, each decoded while the one before it is restored."""
    frames = islice(frames_of(video), skipped, None)
    with Conveyor[int, VideoFrame, None](lambda _: next(frames, None), lambda _: None, range(count)) as conveyor:

        def taken() -> Iterator[VideoFrame]:
            for _ in range(count):
                found = conveyor.take()
                if found is None:
                    raise PictureError(f"{shown_path(video.path)} changed while it was read; try again")
                yield found[1]

        yield taken()


def _comment(model: DeviceModel, course: Course) -> str:
    blur, noise = course.median
    return (
        f"restored with s3diff {__version__}, model {model.model.name} {model.model.fingerprint}, "
        f"estimated blur {blur:.3f}, noise {noise:.3f}"
    )
