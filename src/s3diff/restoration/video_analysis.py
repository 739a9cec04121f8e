"""Find the course of a video before a frame is restored: where its cuts are, and its degrees over time."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s3diff.atomic_write import write_atomically
from s3diff.errors import OutputError
from s3diff.images.files.video import Video, VideoFrame, frames_of
from s3diff.images.picture import Picture
from s3diff.messages import shown_path
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.result import Degrees
from s3diff.restoration.steps import Progress, estimate

#: Time between two estimates, and the width of the Gaussian that smooths them, in seconds of the video.
_ESTIMATE_SECONDS, _SMOOTHING_SECONDS = 0.5, 1.0
#: (width, height) of the small frames that cuts are found in.
_SMALL = (32, 18)
#: A cut changes a small frame by this share of the full scale, and by so many times what the frames before changed.
_CUT_CHANGE, _CUT_RATIO = 0.08, 4.0
#: Seconds of work between two writes of the findings: a killed run loses at most this much of the first pass.
KEEP_SECONDS = 5.0
#: File of the work folder with the findings.
COURSE = "course.json"


class Estimate(NamedTuple):
    """Degrees at a time, in seconds, in a scene by its number."""

    seconds: float
    scene: int
    degrees: Degrees


@dataclass
class Course:
    """The degrees of a video over time, as far as it was seen, so that a killed pass continues.

    Attributes:
        num_frames: seen so far.
        num_damaged: of them, frames with missing parts, which the decoder filled in.
        cuts: time stamps of the first frames of all scenes but the first.
        estimates: a few of each scene.
        before: the small frame before, [h, w, 3] in [0, 1]; empty before the first.
        usual_change: between small frames of this scene; None before its second frame.
        next_estimate: the time, in seconds, from which a frame's degrees are estimated.
        is_whole: whether the last frame was seen.
    """

    num_frames: int = 0
    num_damaged: int = 0
    cuts: list[int] = field(default_factory=list)
    estimates: list[Estimate] = field(default_factory=list)
    before: list[Any] = field(default_factory=list)
    usual_change: float | None = None
    next_estimate: float = 0.0
    is_whole: bool = False

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
        return Degrees.median(each.degrees for each in self.estimates)

    def see(self, model: DeviceModel, frame: VideoFrame, seconds: float) -> None:
        """Compare a frame with the one before it, and estimate its degrees where it is time."""
        small = _small(frame.pixels)
        if self.num_frames:
            change = float(np.abs(small - np.asarray(self.before, np.float32)).mean())
            if self.usual_change is None:
                self.usual_change = change  # or quick motion would be a cut at every frame
            elif change > _CUT_CHANGE and change > _CUT_RATIO * self.usual_change:
                self.cuts.append(frame.time)
                self.usual_change = None
            else:
                self.usual_change = 0.8 * self.usual_change + 0.2 * change
        scene = len(self.cuts)
        if not self.estimates or self.estimates[-1].scene != scene or seconds >= self.next_estimate:
            self.estimates.append(Estimate(seconds, scene, estimate(model, Picture(frame.pixels))))
            self.next_estimate = seconds + _ESTIMATE_SECONDS
        self.before = small.tolist()
        self.num_frames += 1
        self.num_damaged += frame.is_damaged


def course_of(
    model: DeviceModel, video: Video, work: Path, header: dict[str, Any], progress: Progress | None = None
) -> Course:
    """Find the course of the whole video; continue from an earlier run of the same work.

    Args:
        work: the folder of unfinished work; files of other work are removed from it.
        header: describes everything that the course depends on.
        progress: called with ("look_resumed", done, total) before the first frame and ("look", done, total) after each;
            ``total`` is 0 while the number of frames is not known.

    Raises:
        OutputError: other work cannot be removed.
    """
    record = work / COURSE
    course = _kept(record, header)
    if course is None:
        _drop(work, model.remark)
        course = Course()
    if not course.is_whole:
        tell = progress or (lambda *_: None)
        tell("look_resumed", course.num_frames, _total(video, course))
        kept_at = time.monotonic()
        for frame in frames_of(video, first=course.num_frames):
            course.see(model, frame, float(frame.time * video.time_base))
            if time.monotonic() - kept_at >= KEEP_SECONDS:
                _keep(course, record, header)
                kept_at = time.monotonic()
            tell("look", course.num_frames, _total(video, course))
        course.is_whole = True
        _keep(course, record, header)
    return course


def _drop(work: Path, remark: Callable[[str], None]) -> None:
    if not os.path.lexists(work):
        return
    remark("the work that an earlier run kept for this result is dropped: it is of another video, model or version")
    shutil.rmtree(work, ignore_errors=True)
    if os.path.lexists(work):  # its remains would count as this work's
        raise OutputError(f"{shown_path(work)} is in use; close what reads it")


def _total(video: Video, course: Course) -> int:
    """Return the number of frames that the file states; 0 if it states none, or fewer than there are."""
    return video.num_frames if course.num_frames <= video.num_frames else 0


def _kept(record: Path, header: dict[str, Any]) -> Course | None:
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(record.read_text("utf-8"))
        if found["header"] == header:
            course = Course(**found["look"])
            course.estimates = [Estimate(at, scene, Degrees(*degrees)) for at, scene, degrees in course.estimates]
            return course
    return None


def _keep(course: Course, record: Path, header: dict[str, Any]) -> None:
    write_atomically(json.dumps({"header": header, "look": asdict(course)}), record)


def _small(pixels: np.ndarray) -> np.ndarray:
    """Average a few fields, [h, w, 3] in [0, 1]."""
    height, width, _ = pixels.shape
    columns, rows = (
        np.arange(min(count, side)) * side // min(count, side)
        for count, side in zip(_SMALL, (width, height), strict=True)
    )
    colors = pixels / np.float32(np.iinfo(pixels.dtype).max)
    sums = np.add.reduceat(np.add.reduceat(colors, rows, axis=0), columns, axis=1)
    return (sums / np.outer(np.diff([*rows, height]), np.diff([*columns, width]))[..., None]).astype(np.float32)
