"""Check that a video's file is whole: FFmpeg reads a cut or damaged one without a word about lost frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

from s3diff.errors import PictureError
from s3diff.images.files.video import REPAIR, Video, moving_stream, opened_container
from s3diff.messages import shown_path

#: FFmpeg's names of the containers that state the length of each stream, and of those that state the longest one's.
_STATE_EACH = ("mov", "avi", "mxf", "ivf")
_STATE_LONGEST = ("flv", "asf")
#: A stated length may exceed the stream's by this: times are rounded, and the last picture's duration is not known.
_SLACK_SECONDS, _SLACK_FRAMES = Fraction(1, 10), 2
#: As above where the stated length is not the moving picture's own.
_SLACK_OF_ALL_SECONDS = Fraction(1, 4)
#: Codecs of which every packet makes one frame, unless it is interlaced.
_A_FRAME_A_PACKET = ("h264", "hevc", "ffv1", "mjpeg", "prores")
#: Identifiers of Matroska (RFC 9559): the parts of a file, of its segment and of a segment's cluster.
_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_IN_ANY = {0xEC, 0xBF}
_TRACKS, _TRACK_ENTRY, _TRACK_NUMBER = 0x1654AE6B, 0xAE, 0xD7
_BLOCK_GROUP, _BLOCK = 0xA0, 0xA1
_IN_SEGMENT = {0x114D9B74, 0x1549A966, _TRACKS, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, _CLUSTER} | _IN_ANY
_BLOCKS = {0xA3, _BLOCK_GROUP}
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xAF} | _BLOCKS | _IN_ANY
#: Kinds of FLV's tags: sound, picture, data.
_FLV_TAGS = (8, 9, 18)


def require_whole(video: Video) -> int | None:
    """Compare what the file states with what it has. All of it is read, and nothing decoded.

    MPEG streams, Ogg, NUT and bare streams state no length: where they are cut off is their end.

    Returns:
        The number of frames that its packets hold; None where that is known to the decoder only.

    Raises:
        PictureError: it is cut off, or damaged where no decoder would notice.
    """
    shown = shown_path(video.path)
    with opened_container(video.path) as container:
        kind, moving = container.format.name, moving_stream(container)
        states_each = any(name in kind for name in _STATE_EACH)
        states_longest = any(name in kind for name in _STATE_LONGEST)
        found = _counted([moving, *container.streams.audio] if states_longest else [moving], container)
        whole = Fraction(container.duration or 0, 1_000_000)
        stated, slack = Fraction(0), _SLACK_OF_ALL_SECONDS
        if states_each and not 0 < moving.frames <= found.num_packets:
            stated = (moving.duration or 0) * moving.time_base
            slack = max(_SLACK_SECONDS, _SLACK_FRAMES / Fraction(moving.average_rate or 25))
        elif states_longest:
            stated = whole
        is_countable = moving.codec_context.name in _A_FRAME_A_PACKET
    fault = ""
    if find := next((find for name, find in _FAULTS.items() if name in kind), None):
        with video.path.open("rb") as file:
            fault = find(file, os.fstat(file.fileno()).st_size)
    if fault and whole - found.seconds > _SLACK_OF_ALL_SECONDS:
        fault += f" ({float(found.seconds):.2f} of {float(whole):.2f} s)"
    if not fault and stated - found.seconds > slack:
        fault = f"cut off or damaged: it states {float(stated):.2f} s, and {float(found.seconds):.2f} s are there"
    if fault:
        raise PictureError(f"{shown} is {fault}; {REPAIR}")
    return found.num_shown if is_countable and not video.is_interlaced else None


class _Counted(NamedTuple):
    """What the packets of streams amount to.

    Attributes:
        num_packets: of the first stream.
        num_shown: of them, those that are not for the decoder only, as at the start of a part that was cut out.
        seconds: from the first to the end of the last, of all streams.
    """

    num_packets: int
    num_shown: int
    seconds: Fraction


def _counted(streams: list[Any], container: Any) -> _Counted:
    num_packets = num_shown = 0
    start, end = None, Fraction(0)
    for packet in container.demux(streams):
        if packet.size and packet.stream is streams[0]:
            num_packets += 1
            num_shown += not packet.is_discard
        time = packet.dts if packet.pts is None else packet.pts
        if packet.size and time is not None:
            start = time * packet.time_base if start is None else min(start, time * packet.time_base)
            end = max(end, (time + (packet.duration or 0)) * packet.time_base)
    return _Counted(num_packets, num_shown, end - (start or 0))


class _Element(NamedTuple):
    """The head of an EBML element (RFC 8794).

    Attributes:
        name: its identifier.
        start: of its content, in bytes from the start of the file.
        end: of its content; None where the file does not say.
    """

    name: int
    start: int
    end: int | None


def _matroska_fault(file: BinaryIO, size: int) -> str:
    """Describe the first place where a file's elements do not follow each other; empty without one."""
    head = _element(file, 0)
    if head is None or head.name != _EBML or head.end is None:
        return "damaged at its start"
    segment = _element(file, head.end)
    if segment is None or segment.name != _SEGMENT:
        return "damaged at its start"
    if segment.end is not None and segment.end > size:
        return f"cut off: it states {segment.end} bytes, and has {size}"
    at, limit = segment.start, size if segment.end is None else segment.end
    cluster_end: int | None = 0  # None: it ends where the next one begins
    num_unknown, tracks = 0, set[int]()
    while at < limit:
        found = _element(file, at)
        if found is None:
            return _damaged(at, size)
        is_inside = cluster_end is None or at < cluster_end
        known = _IN_CLUSTER if cluster_end is not None and is_inside else _IN_SEGMENT
        known = known | _IN_CLUSTER if is_inside else known
        num_unknown = 0 if found.name in known else num_unknown + 1
        # Readers pass over a part of a segment that they do not know; the next one shows whether it was one.
        if num_unknown > (not is_inside):
            return _damaged(at, size)
        if found.name == _CLUSTER:
            at, cluster_end = found.start, found.end
            if cluster_end is not None and cluster_end > limit and segment.end is not None:
                return _damaged(at, size)
            continue
        parent_end = cluster_end if is_inside and cluster_end is not None else limit
        if found.end is None or found.end > parent_end:
            # A recording that was ended by force states no length, and has nothing after its last whole packet.
            return "" if segment.end is None and (found.end or size) >= size else _damaged(at, size)
        if found.name == _TRACKS:
            tracks = _track_numbers(file, found)
        if found.name in _BLOCKS and _track_of(file, found) not in tracks:
            return _damaged(at, size)
        at = found.end
    return ""


def _children(file: BinaryIO, parent: _Element, name: int) -> Iterator[_Element]:
    """Yield an element's children of one name, up to the first that is damaged."""
    at, end = parent.start, parent.end or parent.start
    while at < end and (child := _element(file, at)) is not None and child.end is not None and child.end <= end:
        if child.name == name:
            yield child
        at = child.end


def _track_numbers(file: BinaryIO, tracks: _Element) -> set[int]:
    found = set()
    for entry in list(_children(file, tracks, _TRACK_ENTRY)):
        for number in list(_children(file, entry, _TRACK_NUMBER)):
            file.seek(number.start)
            found.add(int.from_bytes(file.read((number.end or number.start) - number.start), "big"))
    return found


def _track_of(file: BinaryIO, block: _Element) -> int | None:
    """Read the number of a block's track; None for a group without a block."""
    inner = next(_children(file, block, _BLOCK), None) if block.name == _BLOCK_GROUP else block
    if inner is None:
        return None
    file.seek(inner.start)
    number = file.read(2)
    return int.from_bytes(number, "big") & 0x3FFF if number[:1] < b"\x80" else number[0] & 0x7F


def _damaged(at: int, size: int) -> str:
    return f"damaged at byte {at} of {size}, and pictures would be missing there"


def _element(file: BinaryIO, at: int) -> _Element | None:
    """Read an element's head; None where there is none."""
    file.seek(at)
    head = file.read(12)
    name_length = 9 - head[0].bit_length() if head else 9
    if name_length > 4 or len(head) <= name_length:
        return None
    size_length = 9 - head[name_length].bit_length()
    start = name_length + size_length
    if size_length > 8 or len(head) < start:
        return None
    bits = 7 * size_length
    size = int.from_bytes(head[name_length:start], "big") & ((1 << bits) - 1)
    is_unknown = size == (1 << bits) - 1
    return _Element(int.from_bytes(head[:name_length], "big"), at + start, None if is_unknown else at + start + size)


def _avi_fault(file: BinaryIO, size: int) -> str:
    head = file.read(8)
    stated = 8 + int.from_bytes(head[4:], "little")
    return f"cut off: it states {stated} bytes, and has {size}" if head[:4] == b"RIFF" and stated > size else ""


def _flv_fault(file: BinaryIO, size: int) -> str:
    """Describe the first place where a file's tags do not follow each other; each is followed by its length."""
    at = int.from_bytes(file.read(9)[5:], "big") + 4
    while at < size:
        file.seek(at)
        head = file.read(4)
        end = at + 11 + int.from_bytes(head[1:], "big")
        if head[0] & 0x1F not in _FLV_TAGS:
            return _damaged(at, size)
        if end > size:
            return f"cut off, or damaged at byte {at} of {size}"
        file.seek(end)
        if int.from_bytes(file.read(4), "big") not in (end - at, end - at - 11, 0):  # some writers know no better
            return _damaged(at, size)
        at = end + 4
    return ""


#: What finds the fault of a file, by FFmpeg's name of its container.
_FAULTS = {"matroska": _matroska_fault, "avi": _avi_fault, "flv": _flv_fault}
