"""Copy sound, subtitles and attachments of a video into another container, and convert those that it does not take."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3diff.images.files.video import VIDEO_EXTENSIONS, Video, opened_container

#: FFmpeg's name of the container, for extensions that are no such name.
_CONTAINERS = {".mkv": "matroska", ".m4v": "mp4"}
_LAYOUTS = {"1 channels": "mono", "2 channels": "stereo", "6 channels": "5.1", "8 channels": "7.1"}


def container_of(suffix: str) -> str:
    """Return FFmpeg's name of the container with an extension."""
    return _CONTAINERS.get(suffix.lower(), suffix[1:].lower())


def ways_into(suffix: str, source: Any, path: Path) -> list[tuple[Any, type[Copied] | None]]:
    """List the streams next to the moving picture that a result keeps, each with how a container takes it.

    Args:
        suffix: of the container.
        source: the video, opened.
        path: of the video.
    """
    kept = [each for each in source.streams if each.type in ("audio", "subtitle", "attachment")]
    return [(each, _way_into(suffix.lower(), each, path)) for each in kept]


def called(stream: Any) -> str:
    """Name a stream and its kind as people know it."""
    if stream.type == "attachment":
        return "attachments"
    name = {"audio": "sound", "subtitle": "subtitles"}[stream.type]
    known = stream.codec_context
    return f"{name} ({'a kind that FFmpeg does not know' if known is None else known.codec.long_name})"


def remedy(video: Video, stream: Any) -> str:
    """Name the containers that take all streams of a video; where none does, how to leave out this one."""
    with opened_container(video.path) as source:
        fitting = [each for each in VIDEO_EXTENSIONS if all(way for _, way in ways_into(each, source, video.path))]
    if fitting:
        return f"write {' or '.join(fitting)}"
    return f"leave it out first: ffmpeg -i INPUT -map 0 -map -0:{stream.index} -c copy OUTPUT"


class Copied:
    """Copy a stream as it is.

    Args:
        container: where to.
        stream: of the source.
        from_start: whether its packets before time 0 are left out. A movie cuts them off; elsewhere they would delay
            everything.

    Attributes:
        stored_as: the kind that the stream becomes; empty where it is not converted.
    """

    stored_as = ""

    def __init__(self, container: Any, stream: Any, *, from_start: bool = False) -> None:
        self._stream, self._from_start = stream, from_start
        self._time: int | None = None  # of the packet before
        self._step = 0
        self._made = self._added(container)
        if stream.type != "attachment":
            self._made.metadata.update(stream.metadata)
            self._made.disposition = stream.disposition

    def packets(self, packet: Any) -> Iterator[Any]:
        """Yield the packets that a packet of the source becomes; the source's last one is empty."""
        if packet.size and not (self._from_start and (packet.is_discard or (packet.pts or 0) < 0)):
            if packet.dts is None:
                packet.dts = (self._time or 0) + self._step if packet.pts is None else packet.pts
            if self._stream.type == "audio":
                if self._time is not None and packet.dts <= self._time:  # some files give two packets one time
                    packet.dts = packet.pts = self._time + 1
                # Packets are of one length; a movie would not play the last one if it had none.
                self._step = packet.duration or self._step or packet.dts - (self._time or packet.dts)
                packet.duration = self._step
            self._time = packet.dts
            packet.stream = self._made
            yield packet

    def _added(self, container: Any) -> Any:
        if self._stream.type == "attachment":
            return container.add_attachment(self._stream.name, self._stream.mimetype, self._stream.data)
        return container.add_stream_from_template(self._stream)


class _Lossless(Copied):
    """Decode sound and encode it again without loss, with at most 24 bits."""

    _encoder: str

    def _added(self, container: Any) -> Any:
        context = self._stream.codec_context
        made = container.add_stream(self._encoder, rate=context.sample_rate)
        # Some files count the channels and do not name them.
        made.layout = _LAYOUTS.get(context.layout.name, context.layout)
        made.format = ("s16", "s32")[context.format.bytes > 2] + "p" * (self._encoder == "alac")
        return made

    def packets(self, packet: Any) -> Iterator[Any]:
        for frame in self._frames(packet):
            # Decoders give no time to what they hold at the end, some files one time to two packets.
            end = self._time or 0
            frame.pts = end if frame.pts is None else frame.pts if self._time is None else max(frame.pts, end)
            self._time = frame.pts + int(frame.samples / frame.sample_rate / frame.time_base)
            if frame.pts >= 0 or not self._from_start:
                yield from self._made.encode(frame)
        if packet.dts is None and not packet.size:
            yield from self._made.encode(None)

    @staticmethod
    def _frames(packet: Any) -> list[Any]:
        """Decode a packet; a damaged one has no frames, as in players."""
        from av import FFmpegError

        try:
            return packet.decode()
        except FFmpegError:
            return []


class _Flac(_Lossless):
    stored_as, _encoder = "FLAC, without loss", "flac"


class _Alac(_Lossless):
    stored_as, _encoder = "Apple Lossless", "alac"


#: Lossless sound in each container; WebM takes none.
_LOSSLESS = {".mp4": _Flac, ".mov": _Alac, ".m4v": _Flac, ".mkv": _Flac}


class _SubRip(Copied):
    """Take the text of 3GPP timed text (ISO/IEC 14496-17): two bytes of length, the text, boxes of styles."""

    stored_as = "SubRip, without colours and typefaces"

    def _added(self, container: Any) -> Any:
        return container.add_mux_stream("subrip", time_base=self._stream.time_base)

    def packets(self, packet: Any) -> Iterator[Any]:
        import av

        data = bytes(packet)
        text = data[2 : 2 + int.from_bytes(data[:2], "big")]
        if text.startswith((b"\xfe\xff", b"\xff\xfe")):
            text = text.decode("utf-16", "replace").encode()
        if text and packet.pts is not None:  # one without text ends the one before
            made = av.Packet(text)
            made.pts, made.dts, made.duration = packet.pts, packet.pts, packet.duration
            made.time_base, made.stream = packet.time_base, self._made
            yield made


def _way_into(suffix: str, stream: Any, path: Path) -> type[Copied] | None:
    """Choose how a container takes a stream of a video; None if it does not."""
    if stream.type == "attachment":
        return Copied if suffix == ".mkv" else None
    if stream.codec_context is None:
        return None
    if _is_taken(suffix, stream, path):
        return Copied
    if stream.type == "audio" and suffix in _LOSSLESS and _is_decoded(stream, path):
        return _LOSSLESS[suffix]
    return _SubRip if (suffix, stream.codec_context.name) == (".mkv", "mov_text") else None


def _is_taken(suffix: str, stream: Any, path: Path) -> bool:
    """Check whether a stream's head, of sound the first packet too, can be written, in memory.

    FFmpeg's list of a container's codecs names some that fail when they are written, such as Opus in .mov.
    """
    import av

    try:
        with opened_container(path) as source, av.open(io.BytesIO(), "w", format=container_of(suffix)) as trial:
            made = trial.add_stream_from_template(stream)
            trial.start_encoding()
            if stream.type == "audio":
                packet = next(source.demux(source.streams[stream.index]))
                if packet.size and packet.dts is not None:
                    packet.stream = made
                    trial.mux_one(packet)
    except (av.FFmpegError, ValueError):
        return False
    return True


def _is_decoded(stream: Any, path: Path) -> bool:
    """Check whether the start of a stream of sound can be decoded."""
    import av

    with opened_container(path) as source:
        try:
            return next(source.decode(source.streams[stream.index]), None) is not None
        except av.FFmpegError:
            return False
