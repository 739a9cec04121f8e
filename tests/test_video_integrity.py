"""Videos that are cut off or damaged are refused or remarked on, and whole ones are not accused."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_runs import Command, environment
from s3diff import PictureError, RestoreOptions, Restorer
from s3diff.images.files.video import REPAIR, frames_of, open_video
from s3diff.images.files.video_integrity import require_whole
from s3diff.images.files.video_writing import _SMALL_PX
from s3diff.restoration.video import restore_video
from video_clips import TIMES, frames, picture, write_clip

av = pytest.importorskip("av", reason="the extra video is not installed")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
EVEN = [40 * index for index in range(40)]


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "fatal", "-y", *map(str, arguments)], check=True)


def write_even(path: Path, *, encoder: str = "libx264", sound_seconds: float = 0, **options: str) -> Path:
    """Write 40 frames in 1.6 s, with sound before and after each of them, where its length is given."""
    # Matroska's identifiers would be random numbers.
    with av.open(str(path), "w", options={"fflags": "+bitexact", **options}) as container:
        stream = container.add_stream(encoder, rate=25)
        context: Any = stream.codec_context
        context.width, context.height, context.pix_fmt, context.max_b_frames = 32, 24, "yuv420p", 0
        context.options = {"g": "10"}
        sound: Any = container.add_stream("mp3", rate=44100) if sound_seconds else None
        num_samples = int(44100 * sound_seconds) if sound else 0
        for index in range(len(EVEN)):
            frame = av.VideoFrame.from_ndarray(picture(index), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for start in range(0, num_samples, 1152):
            wave = 0.3 * np.sin(np.arange(start, start + 1152) / 9)
            tone = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
            tone.sample_rate, tone.pts = 44100, start
            container.mux(sound.encode(tone))
        if sound:
            container.mux(sound.encode(None))
    return path


def seen(path: Path) -> int:
    """Count the frames as a restoration does; 0 for a refusal, or where a remark would say that some are missing."""
    try:
        video = open_video(path)
        num_stored = require_whole(video)
        found = len(list(frames_of(video)))
    except PictureError:
        return 0
    return 0 if num_stored is not None and num_stored > found else found


@pytest.mark.parametrize(
    ("extension", "options"),
    [
        (".mkv", {}),
        (".webm", {"encoder": "libvpx-vp9"}),
        (".mp4", {"movflags": "faststart"}),
        (".avi", {}),
        (".flv", {"sound_seconds": 0}),
        (".mxf", {"encoder": "mpeg2video"}),
        (".ivf", {"encoder": "libvpx"}),
    ],
)
def test_no_cut_is_passed_over(tmp_path: Path, extension: str, options: dict[str, Any]) -> None:
    whole = write_even(tmp_path / f"whole{extension}", **options)
    assert seen(whole) == len(EVEN)
    content, cut = whole.read_bytes(), tmp_path / f"cut{extension}"
    counts = []
    for share in np.linspace(0.1, 0.9, 17):
        cut.write_bytes(content[: int(len(content) * share)])
        counts.append(seen(cut))
    # What follows the pictures, such as an index, may be missing.
    assert set(counts) <= {0, len(EVEN)}
    assert counts.count(0) > 8


@pytest.mark.parametrize("extension", [".mkv", ".mp4", ".flv"])
def test_no_damage_hides_frames(tmp_path: Path, extension: str) -> None:
    options = {"movflags": "faststart"} if extension == ".mp4" else {}
    data = write_even(tmp_path / f"whole{extension}", **options).read_bytes()
    damaged = tmp_path / f"damaged{extension}"
    noise = np.random.default_rng(0)
    counts = []
    for at in range(300, len(data) - 100, max(1, len(data) // 60)):
        damaged.write_bytes(data[:at] + noise.bytes(80) + data[at + 80 :])
        counts.append(seen(damaged))
    assert set(counts) <= {0, len(EVEN)}
    assert counts.count(0) > 5


def test_a_cut_at_the_border_of_two_samples_is_seen(tmp_path: Path) -> None:
    """No packet is damaged there, and FFmpeg takes it for the end."""
    whole = write_even(tmp_path / "whole.mp4", movflags="faststart")
    with av.open(str(whole)) as container:
        places = [each.pos for each in container.demux(video=0) if each.size]
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: places[25]])
    with pytest.raises(PictureError, match=r"cut\.mp4 is cut off or damaged: it states 1\.60 s, and 1\.00 s are there"):
        require_whole(open_video(cut))


def test_the_command_refuses_a_cut_video_before_it_loads_the_model(command: Command, small: Path, here: Path) -> None:
    content = write_even(Path("whole.mkv")).read_bytes()
    Path("cut.mkv").write_bytes(content[: len(content) // 2])
    refusal = command("restore", "cut.mkv", "-m", small)
    stated, found = len(content), len(content) // 2
    assert refusal.error.startswith(f"s3diff: cut.mkv is cut off: it states {stated} bytes, and has {found} (0.")
    assert refusal.error.endswith(f" of 1.60 s); {REPAIR}")
    assert not Path("cut_restored.mkv").exists()


@pytest.mark.parametrize("extension", [".mkv", ".mp4", ".mov", ".avi", ".flv"])
@pytest.mark.parametrize("seconds", [0.8, 4.0])
def test_longer_and_shorter_sound_is_no_loss(tmp_path: Path, extension: str, seconds: float) -> None:
    assert seen(write_even(tmp_path / f"in{extension}", sound_seconds=seconds)) == len(EVEN)


@pytest.mark.parametrize("extension", [".mkv", ".mp4", ".mov"])
@pytest.mark.parametrize("times", [TIMES, [0, 40, 80, 4000], [0, 3000, 3040], [7]])
def test_a_variable_frame_rate_is_no_loss(tmp_path: Path, extension: str, times: list[int]) -> None:
    assert seen(write_clip(tmp_path / f"in{extension}", times, with_sound=True)) == len(times)


def test_a_recording_that_states_no_length_is_whole(tmp_path: Path) -> None:
    live = write_clip(tmp_path / "in.mkv", EVEN, states_length=False)
    assert seen(live) == len(EVEN)
    content, cut = live.read_bytes(), tmp_path / "cut.mkv"
    cut.write_bytes(content[: len(content) * 2 // 3])
    assert 0 < seen(cut) < len(EVEN)  # what was recorded until then


@needs_ffmpeg
@pytest.mark.parametrize("extension", [".mp4", ".mov", ".mkv"])
def test_a_part_that_was_cut_out_without_encoding_is_whole(tmp_path: Path, extension: str) -> None:
    """A movie then holds frames that its edit list hides."""
    source, part = write_even(tmp_path / "in.mp4", sound_seconds=1.6), tmp_path / f"part{extension}"
    ffmpeg("-ss", "0.5", "-i", source, "-t", "0.7", "-c", "copy", part)
    assert 10 < seen(part) < len(EVEN)


@needs_ffmpeg
@pytest.mark.parametrize("times", [EVEN, TIMES])
@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".wmv", ".avi", ".flv"])
def test_what_ffmpeg_writes_is_whole(tmp_path: Path, times: list[int], extension: str) -> None:
    source, made = write_clip(tmp_path / "in.mkv", times, with_sound=True), tmp_path / f"made{extension}"
    frames_between = ("-bf", "2") if extension in (".mp4", ".mkv", ".avi") else ()
    ffmpeg("-i", source, "-map", "0:v", "-map", "0:a:0", *frames_between, "-ar", "44100", made)
    assert seen(made) >= len(times)


@needs_ffmpeg
@pytest.mark.parametrize("extension", [".mkv", ".avi", ".mp4"])
def test_the_way_out_leads_out(tmp_path: Path, extension: str) -> None:
    options = {"movflags": "faststart"} if extension == ".mp4" else {}
    content = write_even(tmp_path / f"in{extension}", sound_seconds=1.6, **options).read_bytes()
    cut, mended = tmp_path / f"cut{extension}", tmp_path / "mended.mkv"
    cut.write_bytes(content[: len(content) // 2])
    assert seen(cut) == 0
    _, _, line = REPAIR.partition("ffmpeg ")
    ffmpeg(*({"INPUT": cut, "OUTPUT.mkv": mended}.get(word, word) for word in line.split()))
    assert 5 < seen(mended) < len(EVEN)


def test_frames_that_the_decoder_filled_in_are_counted(restorer: Restorer, tmp_path: Path) -> None:
    data = write_even(tmp_path / "in.mp4", movflags="faststart").read_bytes()
    noise, damaged = np.random.default_rng(0), tmp_path / "damaged.mp4"
    for at in range(1500, len(data) - 100, 20):
        damaged.write_bytes(data[:at] + noise.bytes(80) + data[at + 80 :])
        if seen(damaged) == len(EVEN) and (num := sum(each.is_damaged for each in frames_of(open_video(damaged)))):
            break
    else:
        pytest.fail("no damage was filled in by the decoder")
    result = restore_video(restorer, damaged, tmp_path / "out.mp4", RestoreOptions(scale=1))
    said = f"{num} of {len(EVEN)} frames are damaged; the decoder filled in what was missing"
    assert (result.num_frames, result.notes) == (len(EVEN), (said,))


def test_packets_that_give_no_frame_are_counted(restorer: Restorer, tmp_path: Path) -> None:
    """A recording begins in the middle of a group of pictures; the container is whole."""
    with av.open(str(write_even(tmp_path / "in.mp4"))) as source, av.open(str(tmp_path / "late.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.size and index > 0:
                packet.stream = stream
                target.mux_one(packet)
    result = restore_video(restorer, tmp_path / "late.mkv", tmp_path / "out.mp4", RestoreOptions(scale=1))
    said = "9 of 39 frames are missing: they are damaged, or depend on others that are"
    assert (result.num_frames, result.notes) == (30, (said,))


def test_sound_and_a_cover_are_no_video(command: Command, small: Path, here: Path) -> None:
    write_clip(Path("film.mkv"), TIMES[:3])
    with av.open("music.mp4", "w") as container:
        sound: Any = container.add_stream("aac", rate=48000)
        sound.layout = "mono"
        cover: Any = container.add_stream("mjpeg", rate=1)
        context = cover.codec_context
        context.width, context.height, context.pix_fmt, context.color_range = 32, 24, "yuvj420p", 2
        cover.disposition = av.stream.Disposition.attached_pic
        container.start_encoding()
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0), "rgb24").reformat(format="yuvj420p")))
        container.mux(cover.encode(None))
        for start in range(0, 48000, 1024):
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            tone.sample_rate, tone.pts = 48000, start
            container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
    refusal = command("restore", "music.mp4", "-m", small)
    assert refusal.error == "s3diff: music.mp4 holds no moving picture, only a cover; give a video"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc checks the memory")
@pytest.mark.parametrize("size", [(16, 16), (36, 48), (40, 320), (_SMALL_PX, 34), (_SMALL_PX, _SMALL_PX)])
def test_h265_keeps_within_its_memory(tmp_path: Path, size: tuple[int, int]) -> None:
    """x265 wrote past its memory in narrow frames, and the process was aborted."""
    checker = "libc_malloc_debug.so.0"
    try:
        ctypes.CDLL(checker)
    except OSError:
        pytest.skip("glibc's debugging allocator is not installed")
    source = write_clip(tmp_path / "in.mp4", TIMES[:2])
    program = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from s3diff.images.files.video import open_video, VideoFrame\n"
        "from s3diff.images.files.video_writing import Encoding, write_segment\n"
        "width, height = map(int, sys.argv[2:4]); noise = np.random.default_rng(0)\n"
        "made = [VideoFrame(noise.integers(0, 256, (height, width, 3), np.uint8), 40 * at, 40) for at in range(12)]\n"
        "video = open_video(Path(sys.argv[1]))\n"
        "write_segment(made, Path(sys.argv[4]), video, (width, height), Encoding('h265', 'yuv420p', 95))\n"
    )
    target = tmp_path / "made.nut"
    done = subprocess.run(
        [sys.executable, "-c", program, str(source), *map(str, size), str(target)],
        env=environment(LD_PRELOAD=checker, MALLOC_CHECK_="3"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(frames(target)[0]) == 12
