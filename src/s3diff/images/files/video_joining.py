"""Join encoded segments and the streams copied from the source into a video, with PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from s3diff.errors import OutputError
from s3diff.images.files.video import Video, opened_container, tag_colors
from s3diff.images.files.video_streams import Copied, called, container_of, copied_streams, remedy, way_into
from s3diff.messages import shown_path

_MOVIES = (".mp4", ".mov", ".m4v")


def require_streams(video: Video, target: Path) -> tuple[str, ...]:
    """Check that the target's container takes all sound, subtitles and attachments.

    Returns:
        Which kinds are converted, one sentence each.

    Raises:
        OutputError: it does not take one of them.
    """
    suffix, notes = target.suffix.lower(), dict[str, None]()
    with opened_container(video.path) as source:
        for stream in copied_streams(source):
            way = way_into(suffix, stream, video.path)
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
        beside = copied_streams(source)
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
                moving.metadata.update(source.streams.video[0].metadata)
                moving.disposition = source.streams.video[0].disposition
                if target.suffix.lower() != ".mkv" and moving.codec_context.name in ("hevc", "libx265"):
                    moving.codec_context.codec_tag = "hvc1"
                cuts = not is_movie and "mp4" in source.format.name
                ways = {each.index: way_into(target.suffix, each, video.path) or Copied for each in beside}
                copied = {each.index: ways[each.index](container, each, from_start=cuts) for each in beside}
                in_packets = [each for each in beside if each.type != "attachment"]
                packets = source.demux(in_packets) if in_packets else iter(())
                made = (one for packet in packets for one in copied[packet.stream.index].packets(packet))
                _interleave(container, moving, [first, *pending], made)
        except av.FFmpegError as error:
            raise OutputError(
                f"{shown_path(target)} cannot be written ({error.strerror}); .mkv holds most kinds of streams"
            ) from error


def _interleave(container: Any, moving: Any, segments: list[Path], others: Iterator[Any]) -> None:
    """Write the packets of the moving picture and of the other streams, in the order of their times."""
    other = next(others, None)
    for packet in _packets_of(segments):
        while other is not None and other.dts * other.time_base <= packet.dts * packet.time_base:
            container.mux_one(other)
            other = next(others, None)
        packet.stream = moving
        container.mux_one(packet)
    while other is not None:
        container.mux_one(other)
        other = next(others, None)


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
