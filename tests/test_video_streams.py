"""Sound and subtitles of every kind that PyAV encodes here, in every container that is written."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s3diff.errors import OutputError
from s3diff.images.files.video import VIDEO_EXTENSIONS, frames_of, open_video
from s3diff.images.files.video_writing import Encoding, join_segments, require_streams, write_segment
from video_clips import TIMES, write_clip

av = pytest.importorskip("av", reason="the extra video is not installed")
#: Bits per second that encoders without a default need.
_BIT_RATES = {"wmav1": 128_000, "wmav2": 128_000, "g723_1": 6300, "libopencore_amrnb": 12_200}
LEAVING_OUT = "ffmpeg -i INPUT -map 0 -map -0:1 -c copy OUTPUT"
#: Kinds that some containers have one name for.
_KIN = {"eac3": "ac3", "mp2": "mp3"}
_SOURCES = ("matroska", "mov", "avi", "asf", "nut", "mpeg")


def sound_encoders() -> list[str]:
    """Name the encoders of sound that a container which is read takes."""
    taken: set[str] = set()
    for form in _SOURCES:
        with av.open(io.BytesIO(), "w", format=form) as container:
            taken |= container.supported_codecs
    return [name for name in sorted(taken) if _is_encoder(name) and av.Codec(name, "w").type == "audio"]


def _is_encoder(name: str) -> bool:
    try:
        return bool(av.Codec(name, "w").is_encoder)
    except ValueError:
        return False


def write_sound(path: Path, encoder: str, form: str) -> int:
    """Write a movie of three frames with a second of a tone; return the number of its packets of sound."""
    codec, num_packets = av.Codec(encoder, "w"), 0
    rates = sorted(codec.audio_rates or (), reverse=True) or (48000, 44100, 22050, 8000)
    kinds = [(rate, layout) for layout in ("stereo", "mono") for rate in rates if rate <= 48000]
    samples = (codec.audio_formats or [av.AudioFormat("s16")])[0].name

    def prepared(context: Any, rate: int, layout: str) -> None:
        context.sample_rate, context.layout, context.format = rate, layout, samples
        context.bit_rate, context.options = _BIT_RATES.get(encoder, 0), {"strict": "experimental"}

    for rate, layout in kinds:
        trial: Any = av.CodecContext.create(encoder, "w")
        prepared(trial, rate, layout)
        try:
            trial.open()
            break
        except (av.FFmpegError, ValueError):
            continue
    else:
        raise ValueError(f"{encoder} opens with no usual rate")
    with av.open(str(path), "w", format=form) as container:
        moving: Any = container.add_stream("mpeg2video" if form == "mpeg" else "mpeg4", rate=25)
        moving.width, moving.height, moving.pix_fmt = 32, 24, "yuv420p"
        sound: Any = container.add_stream(encoder, rate=rate)
        prepared(sound.codec_context, rate, layout)
        for _ in range(3):
            container.mux(moving.encode(av.VideoFrame(32, 24, "yuv420p")))
        container.mux(moving.encode(None))
        size = trial.frame_size or 1024
        tone = np.sin(np.arange(size) / 7) * 0.4
        for start in range(0, rate // 4, size):
            frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            resampled = av.AudioResampler(samples, layout, rate).resample(frame)
            packets = [packet for each in resampled for packet in sound.encode(each)]
            num_packets += len(packets)
            container.mux(packets)
        container.mux(sound.encode(None))
    return num_packets


def sound_of(path: Path, *, from_start: bool = False) -> tuple[str, list[bytes], np.ndarray | None]:
    """Name of its kind, its packets, and its samples in [-1, 1], channels in turn; None if they cannot be decoded."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        name = stream.codec_context.codec.canonical_name
        is_movie = container.format.name.startswith("mov")
        # A movie cuts off what is before its start; elsewhere that would delay everything.
        packets = [
            bytes(each) for each in container.demux(stream)
            if each.size and not (from_start and is_movie and (each.is_discard or each.pts < 0))
        ]  # fmt: skip
    with av.open(str(path)) as container, suppress(av.FFmpegError):
        usable = (each for each in container.demux(audio=0) if each.size or each.dts is None)
        frames = [frame for each in usable for frame in each.decode()]
        resampler = av.AudioResampler("dbl", "stereo" if frames[0].layout.nb_channels == 2 else "mono")
        made = [each.to_ndarray() for frame in [*frames, None] for each in resampler.resample(frame)]
        return name, packets, np.concatenate(made, axis=1)[0]
    return name, packets, None


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The moving picture's one segment, for each container."""
    folder = tmp_path_factory.mktemp("segments")
    video = open_video(write_clip(folder / "in.mkv"))
    made = {}
    for codec in ("h264", "vp9"):
        made[codec] = folder / f"{codec}.nut"
        write_segment(frames_of(video), made[codec], video, (32, 24), Encoding(codec, "yuv420p", 50))
    return {each: made["vp9" if each == ".webm" else "h264"] for each in VIDEO_EXTENSIONS}


@pytest.mark.parametrize("encoder", sound_encoders())
def test_every_kind_of_sound_in_every_container(encoder: str, segments: dict[str, Path], tmp_path: Path) -> None:
    """Streams come out the same, to the byte or, converted, to the sample; a refusal names what takes them."""
    sources = []
    for form in _SOURCES:
        with suppress(av.FFmpegError, ValueError):
            source = tmp_path / f"in.{form}"
            write_sound(source, encoder, form)
            sources.append(source)
    assert sources
    for source in sources:
        video = open_video(source)
        name, packets, samples = sound_of(source)
        taken, refusals = [], []
        for extension in VIDEO_EXTENSIONS:
            target = tmp_path / f"out{extension}"
            try:
                notes = require_streams(video, target)
            except OutputError as refusal:
                refusals.append(str(refusal))
                continue
            join_segments([segments[extension]], video, target, "")
            found, copied, decoded = sound_of(target)
            where = (source.name, extension)
            if notes:
                assert found in ("flac", "alac"), where
                assert "; stored as " in notes[0]
                assert decoded is not None
                assert samples is not None
                assert decoded.size == samples.size or source.suffix == ".mov", where  # it may start before 0
                assert np.abs(decoded - samples[-decoded.size :]).max() < 2**-22, where
            else:
                assert _KIN.get(found, found) == _KIN.get(name, name), where
                cut = extension in (".mkv", ".webm")
                assert copied == (sound_of(source, from_start=True)[1] if cut else packets), where
            taken.append(extension)
        way_out = f"write {' or '.join(taken)}" if taken else f"leave it out first: {LEAVING_OUT}"
        for line in refusals:
            assert re.search(r"does not take the source's sound \([A-Z0-9].+\); ", line), line
            assert line.endswith(f"); {way_out}"), (line, source.name)


@pytest.mark.parametrize("text", ["words", "Grüße", "two\nlines"])
def test_timed_text_becomes_subrip(segments: dict[str, Path], tmp_path: Path, text: str) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mkv"
    cues = [(100, 400, text), (400, 450, ""), (450, 600, "last")]
    with av.open(str(source), "w") as container:
        moving: Any = container.add_stream("libx264", rate=25)
        moving.width, moving.height, moving.pix_fmt = 32, 24, "yuv420p"
        subtitles = container.add_mux_stream("mov_text", time_base=Fraction(1, 1000))
        subtitles.metadata["language"] = "deu"
        for _ in range(16):
            container.mux(moving.encode(av.VideoFrame(32, 24, "yuv420p")))
        container.mux(moving.encode(None))
        for start, end, words in cues:
            coded = words.encode()
            styles = b"\0\0\0\x16styl\0\1\0\0\0\5\0\1\1\x12\xff\0\0\xff" if words == text else b""
            packet = av.Packet(len(coded).to_bytes(2, "big") + coded + styles)
            packet.pts = packet.dts = start
            packet.duration, packet.time_base, packet.stream = end - start, Fraction(1, 1000), subtitles
            container.mux_one(packet)
    video = open_video(source)
    assert require_streams(video, target) == (
        ".mkv does not take subtitles (3GPP Timed Text subtitle); stored as SubRip, without colours and typefaces",
    )
    assert require_streams(video, target.with_suffix(".mp4")) == ()
    join_segments([segments[".mkv"]], video, target, "")
    with av.open(str(target)) as container:
        stream = container.streams.subtitles[0]
        assert (stream.codec_context.name, stream.metadata["language"]) == ("srt", "deu")
        found = [
            (each.pts, each.pts + each.duration, bytes(each).decode()) for each in container.demux(stream) if each.size
        ]
    assert found == [cue for cue in cues if cue[2]]
    if shutil.which("ffmpeg") is not None:
        command = ["ffmpeg", "-v", "error", "-i", str(target), "-map", "0:s", "-f", "srt", "-"]
        shown = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        assert text in shown.replace("\r", "")


def test_a_kind_that_ffmpeg_does_not_know_is_named(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", TIMES[:3], with_sound=True)
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    with pytest.raises(OutputError) as refusal:
        require_streams(open_video(source), tmp_path / "out.mp4")
    line = str(refusal.value)
    assert line.endswith(
        ".mp4 does not take the source's sound (a kind that FFmpeg does not know); leave it out first: " + LEAVING_OUT
    )


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_the_way_out_of_a_refusal_is_one(tmp_path: Path) -> None:
    """The named command makes a file whose other streams are taken."""
    source = tmp_path / "in.nut"
    write_sound(source, "g726", "nut")  # no decoder opens it without what NUT leaves out
    with pytest.raises(OutputError) as refusal:
        require_streams(open_video(source), tmp_path / "out.mp4")
    words = (
        str(refusal.value).split("first: ")[1].replace("INPUT", str(source)).replace("OUTPUT", str(tmp_path / "o.mkv"))
    )
    subprocess.run([*words.split(), "-v", "error"], check=True)
    assert require_streams(open_video(tmp_path / "o.mkv"), tmp_path / "out.mp4") == ()
