"""Encode pictures as segments of a video, and join them and the source's other streams into one, with PyAV.

Each segment is a NUT file of its own: NUT keeps every time stamp exactly.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from s3diff.errors import OptionError, OutputError
from s3diff.formats import VideoCodec
from s3diff.images.files.video import (
    BT709,
    MATRICES,
    VIDEO_EXTENSIONS,
    Video,
    VideoFrame,
    moving_stream,
    opened_container,
)
from s3diff.images.files.video_streams import Copied, called, container_of, remedy, ways_into
from s3diff.messages import shown_path

#: The encoder of each codec, its settings besides the quality, and the quality's worst and best value.
_ENCODERS: Mapping[str, tuple[str, Mapping[str, str], tuple[int, int]]] = MappingProxyType({
    "h264": ("libx264", {"preset": "medium"}, (50, 16)),
    "h265": ("libx265", {"preset": "medium", "x265-params": "log-level=error"}, (50, 16)),
    "av1": ("libsvtav1", {"preset": "7"}, (63, 18)),
    "vp9": ("libvpx-vp9", {"row-mt": "1", "cpu-used": "3", "b": "0"}, (63, 16)),
    "ffv1": ("ffv1", {"level": "3", "slicecrc": "1"}, (0, 0)),
})  # fmt: skip
#: x265's propagation of costs (CU tree) writes past its memory in frames of fewer than about 50 columns, and the
#: process is aborted; frames with a smaller side than this are encoded without it.
_SMALL_PX = 128
#: AVColorRange.
_LIMITED, _FULL = 1, 2
_MOVIES = (".mp4", ".mov", ".m4v")
_RGB = {"uint8": "rgb24", "uint16": "rgb48le"}


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded.

    Attributes:
        codec: a key of the encoders.
        pixel_format: FFmpeg's name.
        quality: 1 to 100.
    """

    codec: str
    pixel_format: str
    quality: int


def choose_encoding(
    video: Video, target: Path, size: tuple[int, int], codec: VideoCodec, pixel_format: str, quality: int
) -> Encoding:
    """Choose codec and pixel format; ``auto`` keeps depth and chroma as far as the container's usual codec has them.

    Raises:
        OptionError: they do not go together.
        OutputError: the target's extension is not one of :data:`VIDEO_EXTENSIONS`.
    """
    extension = target.suffix.lower()
    if extension not in VIDEO_EXTENSIONS:
        raise OutputError(f"{shown_path(target)}: a video is written as {', '.join(VIDEO_EXTENSIONS)}; choose one")
    if codec == "auto":
        codec = "vp9" if extension == ".webm" else "h265" if video.bits > 8 else "h264"
    if extension == ".webm" and codec not in ("vp9", "av1"):
        raise OptionError(
            f"codec is {codec!r}, which does not go into {extension}; .webm takes vp9 and av1, others not vp9"
        )
    if codec == "ffv1" and extension != ".mkv":
        raise OptionError(f"codec is 'ffv1', which does not go into {extension}; write .mkv")
    if pixel_format == "auto":
        is_odd = bool(size[0] % 2 or size[1] % 2)
        chroma = "420" if codec == "av1" else "444" if is_odd else video.chroma
        pixel_format = f"yuv{chroma}p{'10le' if video.bits > 8 else ''}"
    known = _pixel_formats(codec)
    if pixel_format not in known:
        raise OptionError(f"pixel_format is {pixel_format!r}; {codec} takes {', '.join(known)}")
    if "420" in pixel_format and (size[0] % 2 or size[1] % 2):
        raise OptionError(
            f"the result has {size[0]} x {size[1]} px, and {pixel_format} needs even sides; choose another size, or "
            "the pixel format yuv444p"
        )
    return Encoding(codec, pixel_format, quality)


def tag_colors(context: Any, video: Video) -> None:
    """State the shape of the pixels and the colours of a result in an encoder's or a stream's context."""
    primaries, transfer, _, color_range = video.colors
    context.sample_aspect_ratio = video.pixel_aspect
    context.color_primaries, context.color_trc = primaries, transfer
    context.colorspace = video.matrix if video.matrix in MATRICES else BT709
    context.color_range = _FULL if color_range == _FULL else _LIMITED


def write_segment(
    frames: Iterable[VideoFrame], path: Path, video: Video, size: tuple[int, int], encoding: Encoding
) -> None:
    """Encode frames into a file of their own, which begins with a key frame and needs no other.

    Without B-frames: their order of decoding would not fit at the seams of videos of a variable frame rate.

    Raises:
        OutputError: it cannot be written, or the encoder fails.
    """
    import av

    try:
        with av.open(str(path), "w", format="nut") as container:
            stream = container.add_stream(_ENCODERS[encoding.codec][0], rate=video.frame_rate or 25)
            context: Any = stream.codec_context
            context.width, context.height, context.pix_fmt = *size, encoding.pixel_format
            context.time_base, context.max_b_frames = video.time_base, 0
            tag_colors(context, video)
            matrix, color_range = context.colorspace, context.color_range
            context.options = _settings(encoding, size)
            durations: dict[int, int] = {}
            for frame in frames:
                made: Any = av.VideoFrame.from_ndarray(frame.pixels, _RGB[frame.pixels.dtype.name])
                made = made.reformat(
                    format=encoding.pixel_format, dst_colorspace=MATRICES[matrix],
                    dst_color_range=color_range,
                )  # fmt: skip
                made.pts, made.time_base, durations[frame.time] = frame.time, video.time_base, frame.duration
                made.color_range, made.colorspace = color_range, matrix
                container.mux(_timed(stream.encode(made), durations))
            container.mux(_timed(stream.encode(None), durations))
    except av.FFmpegError as error:
        raise OutputError(f"the video cannot be encoded ({error.strerror}); choose another codec") from error


def require_streams(video: Video, target: Path) -> tuple[str, ...]:
    """Check that the target's container takes all sound, subtitles and attachments.

    Returns:
        Which kinds are converted, one sentence each.

    Raises:
        OutputError: it does not take one of them.
    """
    suffix, notes = target.suffix.lower(), dict[str, None]()
    with opened_container(video.path) as source:
        for stream, way in ways_into(suffix, source, video.path):
            if way is None:
                refused = f"{suffix} does not take the source's {called(stream)}"
                raise OutputError(f"{shown_path(target)}: {refused}; {remedy(video, stream)}")
            if way.stored_as:
                notes[f"{suffix} does not take {called(stream)}; stored as {way.stored_as}"] = None
    return tuple(notes)


def join_segments(segments: Iterable[Path], video: Video, target: Path, comment: str) -> None:
    """Write the whole video: the segments, and of the source all sound, subtitles, attachments, chapters and texts.

    Args:
        segments: in their order.
        video: the source.
        target: the file; its extension says the container.
        comment: how it was made; empty to say nothing.

    Raises:
        OutputError: the container cannot hold one of the streams, or it cannot be written.
    """
    import av

    with opened_container(video.path) as source:
        try:
            is_movie = target.suffix.lower() in _MOVIES
            # Matroska's identifiers would be random numbers, and no two results of a video equal.
            settings = {"movflags": "+faststart+use_metadata_tags"} if is_movie else {"fflags": "+bitexact"}
            with av.open(str(target), "w", format=container_of(target.suffix), options=settings) as container:
                container.metadata.update({**source.metadata, **({"comment": comment} if comment else {})})
                container.set_chapters(source.chapters())
                pending = iter(segments)
                first = next(pending)
                with av.open(str(first)) as opened:
                    moving: Any = container.add_stream_from_template(opened.streams.video[0], opaque=True)
                tag_colors(moving.codec_context, video)  # NUT does not hold colours
                given = moving_stream(source)
                moving.metadata.update(given.metadata)
                moving.disposition = given.disposition
                if target.suffix.lower() != ".mkv" and moving.codec_context.name in ("hevc", "libx265"):
                    moving.codec_context.codec_tag = "hvc1"
                cuts = not is_movie and "mp4" in source.format.name
                ways = ways_into(target.suffix, source, video.path)
                copied = {each.index: (way or Copied)(container, each, from_start=cuts) for each, way in ways}
                in_packets = [each for each, _ in ways if each.type != "attachment"]
                packets = source.demux(in_packets) if in_packets else iter(())
                made = (one for packet in packets for one in copied[packet.stream.index].packets(packet))
                frames = _packets_of([first, *pending], moving)
                for packet in heapq.merge(made, frames, key=lambda each: each.dts * each.time_base):
                    container.mux_one(packet)
        except av.FFmpegError as error:
            raise OutputError(
                f"{shown_path(target)} cannot be written ({error.strerror}); .mkv holds most kinds of streams"
            ) from error


def _packets_of(segments: list[Path], stream: Any) -> Iterator[Any]:
    """Yield the packets of the moving picture, for its stream in the result."""
    import av

    for path in segments:
        with av.open(str(path)) as segment:
            for packet in segment.demux(video=0):
                if packet.pts is not None:
                    # Without B-frames both times are one. FFmpeg gives no dts where an H.264 stream ends at its seventh
                    # frame, with which it has just guessed how frames are ordered.
                    packet.dts = packet.pts
                    packet.stream = stream
                    yield packet


def _settings(encoding: Encoding, size: tuple[int, int]) -> dict[str, str]:
    _, fixed, (worst, best) = _ENCODERS[encoding.codec]
    settings = dict(fixed)
    if encoding.codec != "ffv1":
        settings["crf"] = str(round(worst + (best - worst) * (encoding.quality - 1) / 99))
    if encoding.codec == "h265" and min(size) < _SMALL_PX:
        settings["x265-params"] += ":cutree=0"
    return settings


def _pixel_formats(codec: str) -> list[str]:
    import av

    encoder = av.Codec(_ENCODERS[codec][0], "w")
    return sorted(each.name for each in encoder.video_formats or () if each.name.startswith("yuv"))


def _timed(packets: list[Any], durations: dict[int, int]) -> list[Any]:
    """Give packets the durations of their frames, which encoders lose."""
    for packet in packets:
        packet.duration = durations.pop(packet.pts, 0) or packet.duration
    return packets
