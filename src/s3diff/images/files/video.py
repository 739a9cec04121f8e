"""Read frames of videos as pictures, with PyAV, when they are asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s3diff.errors import PictureError, PictureTooLargeError
from s3diff.formats import VIDEO_TYPES
from s3diff.images.picture import Picture
from s3diff.messages import needing, shown_path
from s3diff.options import MAX_PICTURE_PIXELS

if TYPE_CHECKING:
    import av

#: Containers that are written, by extension.
VIDEO_EXTENSIONS = tuple(VIDEO_TYPES)
#: Values of AVColorSpace and swscale's for the same matrix; others (ICtCp, YCgCo, constant luminance) are refused.
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
_UNSTATED, BT709, _SMPTE170M = 2, 1, 6
#: AVColorTransferCharacteristic of HDR: PQ and HLG.
_HDR = {16: "PQ", 18: "HLG"}
#: Frames of at least this height are BT.709 where they do not say, smaller ones BT.601, as players have it.
_HIGH_DEFINITION_PX = 720
_DISCARDED = 48
#: Packets and frames that show whether a file states when frames are shown.
_PROBED = 100
#: A frame that is not later than the one before it by no more than this follows it at once.
_SLACK_SECONDS = 0.2
#: What to do with a damaged file: FFmpeg's command passes over what it cannot decode.
REPAIR = "write the readable frames into a new file: ffmpeg -i INPUT -c:v ffv1 -c:a copy OUTPUT.mkv"
#: FFmpeg's names of the containers that are read. Playlists are not: a file would name others, or addresses, to read.
_READ = (
    "mov", "matroska", "avi", "asf", "flv", "mpeg", "mpegvideo", "mpegts", "ogg", "mxf", "nut", "dv", "rm", "ivf",
    "yuv4mpegpipe", "h264", "hevc", "obu",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Video:
    """Hold a video's facts, known before its frames are decoded.

    Attributes:
        path: the file.
        width: of an upright frame, in pixels.
        height: of an upright frame, in pixels.
        quarter_turns: turns to the left that make a stored frame upright.
        bits: of a stored sample.
        chroma: how colour is stored: ``420``, ``422``, ``444``.
        pixel_aspect: width of a pixel of an upright frame over its height.
        time_base: the unit of its time stamps, in seconds.
        frame_rate: the mean; None where it is not known.
        colors: AVColor values of primaries, transfer, matrix and range, as stated.
        num_frames: as the file states, or about as many as its length and rate make; 0 where neither is known.
        is_counted: whether the file states that number; its length and rate may mislead.
        max_pixels: the most that a frame may have, whatever the file says later.
        decoding_start: time stamp of the first packet, where the file states the times when frames are decoded and not
            those when they are shown, as AVI does; None elsewhere.
        is_interlaced: whether a frame's lines show two moments.
        notes: losses, one sentence each.
    """

    path: Path
    width: int
    height: int
    quarter_turns: int
    bits: int
    chroma: str
    pixel_aspect: Fraction
    time_base: Fraction
    frame_rate: Fraction | None
    colors: tuple[int, int, int, int]
    num_frames: int
    is_counted: bool = False
    max_pixels: int = MAX_PICTURE_PIXELS
    decoding_start: int | None = None
    is_interlaced: bool = False
    notes: tuple[str, ...] = ()

    @property
    def matrix(self) -> int:
        """The matrix of AVColorSpace that its pixels are converted with."""
        if self.colors[2] != _UNSTATED:
            return self.colors[2]
        stored_height = self.width if self.quarter_turns % 2 else self.height
        return BT709 if stored_height >= _HIGH_DEFINITION_PX else _SMPTE170M


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One upright frame.

    Attributes:
        pixels: [H, W, 3] RGB, uint8, or uint16 where the video has more than 8 bits.
        time: its time stamp, in units of the video's time base.
        duration: how long it is shown, in the same unit; 0 where that is not said.
        is_damaged: whether parts were missing, which the decoder filled in.
    """

    pixels: np.ndarray
    time: int
    duration: int
    is_damaged: bool = False


def reads_videos() -> bool:
    """Check whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def open_video(path: Path, max_pixels: int = MAX_PICTURE_PIXELS) -> Video:
    """Look at a video's head and first frame.

    Raises:
        MissingExtraError: PyAV is not installed.
        PictureError: it cannot be read, holds no moving picture, has larger frames, or is one that cannot be restored
            truly, such as HDR.
    """
    shown = shown_path(path)
    with opened_container(path) as container:
        stream = moving_stream(container)
        if stream is None:
            only_cover = ", only a cover" if container.streams.video else ""
            raise PictureError(f"{shown} holds no moving picture{only_cover}; give a video")
        stated = stream.codec_context
        if stated is None:
            raise PictureError(f"{shown} holds pictures of a kind that FFmpeg does not know; check the file")
        if stated.width * stated.height > max_pixels:
            raise PictureTooLargeError(
                f"{shown} has frames of {stated.width} x {stated.height} pixels, at most {max_pixels} are allowed; "
                "give a smaller video"
            )
        first = next(iter(_decoded(container, stream, shown, max_pixels)), None)
        if first is None:
            raise PictureError(f"{shown} holds no frame; give a video")
        notes = []
        if len(container.streams.video) > 1:
            notes.append("further video streams (other views, a cover) are left out")
        # FFmpeg discards a movie's titles of chapters, which it has read.
        if any(each.discard != _DISCARDED for each in container.streams.data):
            notes.append("streams of data (timecodes, telemetry) are left out")
        if first.interlaced_frame:
            notes.append("it is interlaced and restored line by line as it is; deinterlaced first it comes out better")
        colors = tuple(int(getattr(first, name)) for name in _COLOR_NAMES)
        if colors[1] in _HDR:
            raise PictureError(
                f"{shown} is HDR ({_HDR[colors[1]]}), whose brightness the model does not know; bring it to SDR first "
                "(in ffmpeg with the filters zscale and tonemap)"
            )
        is_rgb = first.format.name.startswith(("rgb", "bgr", "gbr", "gray", "pal"))
        if not is_rgb and colors[2] != _UNSTATED and colors[2] not in MATRICES:
            raise PictureError(f"{shown} has colours in the matrix {colors[2]} of H.273, which is not read; use BT.709")
        if any(part.is_alpha for part in first.format.components):
            notes.append("transparency is left out")
        turns = round(first.rotation / 90) % 4
        aspect = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
        width, height = (first.height, first.width) if turns % 2 else (first.width, first.height)
        return Video(
            path=path, width=width, height=height, quarter_turns=turns,
            bits=max(part.bits for part in first.format.components), chroma=_chroma(first.format),
            pixel_aspect=1 / aspect if turns % 2 else aspect, time_base=stream.time_base,
            frame_rate=stream.average_rate, colors=colors, notes=tuple(notes),  # type: ignore[arg-type]
            num_frames=stream.frames or _frames_by_length(container, stream), is_counted=stream.frames > 0,
            max_pixels=max_pixels, decoding_start=_decoding_start(path, shown, max_pixels),
            is_interlaced=bool(first.interlaced_frame),
        )  # fmt: skip


def frames_of(video: Video, first: int = 0, is_over: Callable[[], bool] = lambda: False) -> Iterator[VideoFrame]:
    """Decode every frame in its turn.

    Args:
        video: from :func:`open_video`.
        first: number of frames that are decoded and left out; they take a part of the others' time.
        is_over: asked before each of those; ends the decoding.

    Raises:
        PictureError: the file is damaged, or changes its size within.
    """
    shown, depth = shown_path(video.path), "rgb48le" if video.bits > 8 else "rgb24"
    turned = (video.height, video.width) if video.quarter_turns % 2 else (video.width, video.height)
    with opened_container(video.path) as container:
        stream: Any = moving_stream(container)
        stream.thread_type = "AUTO"
        before: int | None = None
        delay: int | None = None  # between decoding and showing
        is_timed = stream.average_rate and stream.time_base
        usual = max(1, round(1 / (stream.average_rate * stream.time_base))) if is_timed else 1
        for index, frame in enumerate(_decoded(container, stream, shown, video.max_pixels)):
            if (frame.width, frame.height) != turned:
                raise PictureError(
                    f"{shown} changes its size at frame {index + 1}; cut it there, and restore the parts"
                )
            time = frame.pts
            if video.decoding_start is not None:
                delay = (frame.dts or 0) - video.decoding_start if delay is None else delay
                time = None if frame.dts is None else frame.dts - delay
            if time is None:
                time = 0 if before is None else before + usual
            if before is not None and time <= before:
                if (before - time) * video.time_base > _SLACK_SECONDS:
                    raise PictureError(
                        f"{shown}: the time goes back at frame {index + 1}, as where recordings were joined; "
                        "write it anew first: ffmpeg -i INPUT -c:v ffv1 OUTPUT.mkv"
                    )
                time = before + 1
            before = time
            if index < first:
                if is_over():
                    return
                continue
            converted = frame.reformat(*turned, depth, src_colorspace=MATRICES.get(video.matrix, 5))
            pixels = np.rot90(converted.to_ndarray(), video.quarter_turns)
            yield VideoFrame(np.ascontiguousarray(pixels), time, int(frame.duration or 0), frame.is_corrupt)


def first_picture(video: Video) -> Picture:
    """Decode the first frame.

    Raises:
        PictureError: as :func:`frames_of`.
    """
    return Picture(next(frames_of(video)).pixels)


def _frames_by_length(container: Any, stream: Any) -> int:
    seconds = stream.duration * stream.time_base if stream.duration else Fraction(container.duration or 0, 1_000_000)
    return round(seconds * (stream.average_rate or 0))


def _decoding_start(path: Path, shown: str, max_pixels: int) -> int | None:
    """Return the first packet's time stamp if the file states when frames are decoded and not when they are shown.

    In such a file time stamps rise from packet to packet, although frames are shown in another order.
    """
    with opened_container(path) as container:
        stream: Any = moving_stream(container)
        packets = [each for each in islice(container.demux(stream), _PROBED) if each.dts is not None]
        stated = [each.pts for each in packets if each.pts is not None]
        if not packets or stated != sorted(stated) or not stream.codec_context.has_b_frames:
            return None
    with opened_container(path) as container:
        frames = islice(_decoded(container, moving_stream(container), shown, max_pixels), _PROBED)
        times = [each.pts for each in frames if each.pts is not None]
    return packets[0].dts if times != sorted(times) or not times else None


_COLOR_NAMES = ("color_primaries", "color_trc", "colorspace", "color_range")


def _chroma(form: Any) -> str:
    """Name the sampling of colour: 420, 422 or 444."""
    return next((each for each in ("420", "422") if each in form.name or form.name == {"420": "nv12"}.get(each)), "444")


def moving_stream(container: av.container.InputContainer) -> Any:
    """Find the first stream of moving pictures; None where there is none, but a cover at most."""
    from av.stream import Disposition

    return next((each for each in container.streams.video if not each.disposition & Disposition.attached_pic), None)


@contextmanager
def opened_container(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a file to read.

    Raises:
        MissingExtraError: PyAV is not installed.
        PictureError: it cannot be read as a video.
    """
    with needing("video", "videos need PyAV"):
        import av
    shown = shown_path(path)
    try:
        container = av.open(
            str(path),
            metadata_errors="replace",
            container_options={"format_whitelist": ",".join(_READ), "protocol_whitelist": "file"},
        )
    except (av.FFmpegError, OSError) as error:
        raise PictureError(f"{shown} cannot be read as a video ({error.strerror}); check the file") from error
    with container:
        yield container


def _decoded(container: Any, stream: Any, shown: str, max_pixels: int) -> Iterator[Any]:
    import av

    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    try:
        yield from container.decode(stream)
    except av.FFmpegError as error:
        raise PictureError(f"{shown} is damaged ({error.strerror}); {REPAIR}") from error
