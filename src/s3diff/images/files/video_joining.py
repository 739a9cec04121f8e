"""Join encoded segments and the streams copied from the source into a video, with PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from s3diff.errors import OutputError
from s3diff.images.files.video import Video, opened_container, tag_colors
from s3diff.messages import shown_path

_MOVIES = (".mp4", ".mov", ".m4v")
#: FFmpeg's name of the container, for extensions that are no such name.
_CONTAINERS = {".mkv": "matroska", ".m4v": "mp4"}


def require_streams(video: Video, target: Path) -> None:
    """Refuse a target whose container cannot hold the copied streams.

    Raises:
        OutputError: it cannot.
    """
    import av

    suffix = target.suffix.lower()
    with (
        opened_container(video.path) as source,
        av.open(io.BytesIO(), "w", format=_CONTAINERS.get(suffix, suffix[1:])) as container,
    ):
        for stream in _beside(source):
            is_attached = stream.type == "attachment"
            name = "" if is_attached else f" {stream.codec_context.name}"
            is_held = suffix == ".mkv" if is_attached else name[1:] in container.supported_codecs
            if not is_held:
                raise OutputError(
                    f"{shown_path(target)}: {suffix} does not hold the source's {stream.type}{name}; write .mkv"
                )


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
        beside = _beside(source)
        try:
            is_movie = target.suffix.lower() in _MOVIES
            # Matroska's identifiers would be random numbers, and no two results of a video equal.
            settings = {"movflags": "+faststart+use_metadata_tags"} if is_movie else {"fflags": "+bitexact"}
            form = _CONTAINERS.get(target.suffix.lower(), target.suffix[1:].lower())
            with av.open(str(target), "w", format=form, options=settings) as container:
                container.metadata.update({**source.metadata, **({"comment": comment} if comment else {})})
                container.set_chapters(source.chapters())
                pending = iter(segments)
                first = next(pending)
                with av.open(str(first)) as opened:
                    moving: Any = container.add_stream_from_template(opened.streams.video[0], opaque=True)
                tag_colors(moving.codec_context, video)  # NUT does not hold colours
                moving.metadata.update(source.streams.video[0].metadata)
                moving.disposition = source.streams.video[0].disposition
                if target.suffix.lower() != ".mkv" and moving.codec_context.name in ("hevc", "libx265"):
                    moving.codec_context.codec_tag = "hvc1"
                copied = {each.index: _copied(container, each) for each in beside}
                in_packets = [each for each in beside if each.type != "attachment"]
                packets = source.demux(in_packets) if in_packets else iter(())
                if not is_movie and "mp4" in source.format.name:
                    # What a movie cuts off before time 0; elsewhere it would delay everything.
                    packets = (each for each in packets if not each.is_discard and (each.pts is None or each.pts >= 0))
                _interleave(container, moving, [first, *pending], packets, copied)
        except av.FFmpegError as error:
            raise OutputError(
                f"{shown_path(target)} cannot be written ({error.strerror}); .mkv holds most kinds of streams"
            ) from error


def _beside(source: Any) -> list[Any]:
    """List the streams that are copied."""
    return [each for each in source.streams if each.type in ("audio", "subtitle", "attachment")]


def _copied(container: Any, stream: Any) -> Any:
    if stream.type == "attachment":
        return container.add_attachment(stream.name, stream.mimetype, stream.data)
    made = container.add_stream_from_template(stream)
    made.metadata.update(stream.metadata)
    made.disposition = stream.disposition
    return made


def _interleave(
    container: Any, moving: Any, segments: list[Path], packets: Iterator[Any], copied: Mapping[int, Any]
) -> None:
    """Yield the packets of the moving picture and of the copied streams, in the order of their times."""
    waiting = (each for each in packets if each.dts is not None)
    beside = next(waiting, None)
    for packet in _packets_of(segments):
        while beside is not None and beside.dts * beside.time_base <= packet.dts * packet.time_base:
            beside.stream = copied[beside.stream.index]
            container.mux_one(beside)
            beside = next(waiting, None)
        packet.stream = moving
        container.mux_one(packet)
    while beside is not None:
        beside.stream = copied[beside.stream.index]
        container.mux_one(beside)
        beside = next(waiting, None)


def _packets_of(segments: list[Path]) -> Iterator[Any]:
    import av

    for path in segments:
        with av.open(str(path)) as segment:
            for packet in segment.demux(video=0):
                if packet.pts is not None:
                    # Without B-frames both times are one. FFmpeg gives no dts where an H.264 stream ends at its seventh
                    # frame, with which it has just guessed how frames are ordered.
                    packet.dts = packet.pts
                    yield packet
