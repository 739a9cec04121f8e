"""Videos: read by ffprobe and PyAV, field by field; interrupted, killed, and gone on with."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_runs import Command
from conftest import REPOSITORY
from s3diff import OptionError, OutputError, PictureError, RestoreOptions, Restorer
from s3diff.apps.restore_display import PictureProgress
from s3diff.errors import MissingExtraError
from s3diff.folders.default_output import video_output
from s3diff.images.files import video as video_files
from s3diff.images.files.video import Video, VideoFrame
from s3diff.images.picture import Picture
from s3diff.restoration import video, video_analysis
from s3diff.restoration.result import Degrees
from s3diff.restoration.scratch_files import only_one
from s3diff.restoration.sizes import allowed_sizes
from s3diff.restoration.steps import Opened, restore
from s3diff.restoration.video import VideoOptions, restore_video
from s3diff.restoration.video_analysis import Course, Estimate, course_of
from video_clips import HEIGHT, TIMES, WIDTH, frames, picture, probed, write_clip

PAGE = REPOSITORY / "docs/builders.md"
av = pytest.importorskip("av", reason="the extra video is not installed")
#: The command, which keeps what it finds after every frame.
KEEPING = (
    "from s3diff.restoration import video_analysis; video_analysis.KEEP_SECONDS = 0.0; "
    "from s3diff.apps.cli import main; main()"
)


def copied(path: Path) -> list[Any]:
    """Of each stream next to the moving picture: its kind, language, and packets with times in seconds."""
    with av.open(str(path)) as container:
        beside = [each for each in container.streams if each.type in ("audio", "subtitle")]
        packets: dict[int, list[Any]] = {each.index: [] for each in beside}
        for each in container.demux(beside):
            if each.size and bytes(each) != b"\0\0":  # a movie's text of no words fills a gap
                packets[each.stream.index].append((round(float(each.pts * each.time_base), 3), bytes(each)))
        return [(each.codec_context.name, each.metadata["language"], packets[each.index]) for each in beside]


@pytest.mark.parametrize("extension", [".mkv", ".mp4"])
def test_every_field_by_ffprobe(restorer: Restorer, tmp_path: Path, extension: str) -> None:
    """One clip: variable frame rate, turned, 16:9 on 4:3 pixels, 10 bits, two sounds, subtitles, chapters, a file."""
    source, target = tmp_path / f"in{extension}", tmp_path / f"out{extension}"
    write_clip(
        source, pixel_format="yuv420p10le", rotation=90, aspect=Fraction(4, 3), colors=(9, 14, 9, 1),
        with_sound=True, with_text=True,
    )  # fmt: skip
    before, result, after = probed(source), restore_video(restorer, source, target), probed(target)
    assert (result.size, result.num_frames, result.notes) == ((4 * HEIGHT, 4 * WIDTH), len(TIMES), ())
    kinds = [each["codec_type"] for each in before["streams"]]
    # Movies hold the chapters' titles in a stream of their own.
    assert kinds == ["video", "audio", "audio", "subtitle", "attachment" if extension == ".mkv" else "data"]
    assert [each["codec_type"] for each in after["streams"]] == kinds
    moving, given = after["streams"][0], before["streams"][0]
    for name in ("codec_name", "pix_fmt", "color_range", "color_space", "color_transfer", "color_primaries"):
        assert moving[name] == given[name], name
    assert (moving["codec_name"], moving["pix_fmt"]) == ("hevc", "yuv420p10le")
    assert moving["codec_tag_string"] == ("hvc1" if extension == ".mp4" else "[0][0][0][0]")
    assert (given["sample_aspect_ratio"], given["display_aspect_ratio"]) == ("4:3", "16:9")
    assert (moving["width"], moving["height"]) == (96, 128)
    assert (moving["sample_aspect_ratio"], moving["display_aspect_ratio"]) == ("3:4", "9:16")
    assert not moving.get("side_data_list")  # it is turned, and no longer says so
    assert [each["tags"]["title"] for each in after["chapters"]] == ["One", "Two"]
    assert [each["start_time"] for each in after["chapters"]] == [each["start_time"] for each in before["chapters"]]
    assert after["format"]["tags"]["title"] == "A title"
    assert "model tiny-compact sha256:" in next(v for k, v in after["format"]["tags"].items() if k.lower() == "comment")
    times, (first, *_) = frames(target)
    assert times == frames(source)[0]
    assert np.diff(times).tolist() == np.diff(TIMES).tolist()
    assert [each[:2] for each in copied(target)] == [
        ("aac", "eng"), ("aac", "deu"), ("srt" if extension == ".mkv" else "mov_text", "fra")
    ]  # fmt: skip
    assert copied(target) == copied(source)
    if extension == ".mkv":
        with av.open(str(target)) as container:
            (attached,) = (each for each in container.streams if each.type == "attachment")
            assert (attached.name, attached.mimetype, bytes(attached.data)) == ("notes.txt", "text/plain", b"notes")
    small, upright = first.reshape(32, 4, 24, 4, 3).mean(axis=(1, 3)), np.rot90(picture(0), 1)
    assert np.abs(small - upright).mean() < np.abs(small - upright[::-1, ::-1]).mean() / 2
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_frames_are_what_the_restorer_makes(restorer: Restorer, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4")
    options = RestoreOptions(blur=0.3, noise=0.6)
    restore_video(restorer, source, tmp_path / "out.mkv", options, VideoOptions(codec="ffv1", pixel_format="yuv444p"))
    times, made = frames(tmp_path / "out.mkv")
    assert times == TIMES
    _, given = frames(source)
    for index in (0, 7):
        expected = restorer.restore(given[index], options).array
        # Colour is converted to YUV in 8 bits and back, and the source's half-size colour was enlarged otherwise.
        assert np.abs(made[index].astype(int) - expected).mean() < 4


@pytest.mark.parametrize("codec", ["h264", "h265", "vp9", "av1", "ffv1"])
@pytest.mark.parametrize("count", [1, 7, 9, 15])
def test_every_frame_of_a_short_segment_is_kept(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: Any, count: int
) -> None:
    """FFmpeg gives no time of decoding for an H.264 stream of exactly seven frames."""
    monkeypatch.setattr(video, "SEGMENT_FRAMES", 8)
    times = [40 * index for index in range(count)]
    source = write_clip(tmp_path / "in.mp4", times)
    target = tmp_path / ("out.mkv" if codec == "ffv1" else "out.mp4")
    restore_video(restorer, source, target, RestoreOptions(scale=1), VideoOptions(codec=codec, steady=0))
    assert frames(target)[0] == times


def test_sound_before_the_start_of_a_movie_delays_nothing(restorer: Restorer, tmp_path: Path) -> None:
    """An AAC encoder's first packet lies before 0, where a movie cuts it off; Matroska would move all streams."""
    source = write_clip(tmp_path / "in.mp4", with_sound=True)
    restore_video(restorer, source, tmp_path / "out.mkv", RestoreOptions(scale=1), VideoOptions(steady=0))
    assert frames(tmp_path / "out.mkv")[0] == frames(source)[0]
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [chapter["start"] * chapter["time_base"] for chapter in container.chapters()][1] == Fraction(3, 10)


def rewritten(source: Path, target: Path, *, pulled: int) -> Path:
    """Copy the packets of a video; every second one becomes earlier."""
    with av.open(str(source)) as given, av.open(str(target), "w") as container:
        made = container.add_stream_from_template(given.streams.video[0], opaque=True)
        for index, packet in enumerate(given.demux(video=0)):
            if packet.dts is not None:
                packet.stream, packet.pts = made, packet.pts - pulled * (index % 2)
                packet.dts = packet.pts
                container.mux_one(packet)
    return target


@pytest.mark.parametrize(
    ("encoder", "extension"),
    [("libx264", ".avi"), ("mpeg4", ".avi"), ("libx264", ".mp4"), ("libx265", ".mp4"), ("mpeg2video", ".mpg")],
)
def test_frames_that_are_decoded_in_another_order(tmp_path: Path, encoder: str, extension: str) -> None:
    """AVI does not state when a frame is shown; times are those of a constant rate, pictures in their order."""
    source, given = tmp_path / f"in{extension}", [picture(index) for index in range(30)]
    with av.open(str(source), "w") as container:
        stream: Any = container.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.max_b_frames = WIDTH, HEIGHT, "yuv420p", 2
        stream.codec_context.bit_rate = 10**6
        every = f"bframes=2:b-adapt=0:{'log-level=error' if encoder == 'libx265' else 'scenecut=0'}"
        stream.options = {encoder.replace("lib", "") + "-params": every} if encoder.startswith("libx26") else {}
        frames_given = [av.VideoFrame.from_ndarray(each, "rgb24") for each in given]
        packets = [packet for each in [*frames_given, None] for packet in stream.encode(each)]
        assert [each.pts for each in packets] != sorted(each.pts for each in packets)
        container.mux(packets)
    opened = video_files.open_video(source)
    found = list(video_files.frames_of(opened))
    steps = [round(each.time * opened.time_base * 25, 3) for each in found]
    assert [step - steps[0] for step in steps] == list(range(30))
    assert steps[0] <= (encoder == "mpeg4") or extension == ".mpg"  # which begin a little later
    nearest = [int(np.argmin([np.abs(each.pixels.astype(int) - one).mean() for one in given])) for each in found]
    assert nearest == list(range(30))


def steady_clip(path: Path, encoder: str, num_frames: int) -> Path:
    """Write a clip of 25 frames a second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_bare_stream_has_the_times_of_its_rate(tmp_path: Path) -> None:
    source = steady_clip(tmp_path / "in.h264", "libx264", 20)
    opened = video_files.open_video(source)
    assert [each.time * opened.time_base * 25 for each in video_files.frames_of(opened)] == list(range(20))


def test_times_that_go_back(tmp_path: Path) -> None:
    """A little, as rounding does: the frame follows at once. Far, as in joined recordings: refused with a way out."""
    source = steady_clip(tmp_path / "in.ts", "mpeg2video", 10)
    joined, anew = tmp_path / "joined.ts", tmp_path / "anew.mkv"
    joined.write_bytes(2 * source.read_bytes())
    with pytest.raises(
        PictureError, match="the time goes back at frame 11, as where recordings were joined"
    ) as refusal:
        list(video_files.frames_of(video_files.open_video(joined)))
    if shutil.which("ffmpeg") is not None:
        words = str(refusal.value).split("first: ")[1].replace("INPUT", str(joined)).replace("OUTPUT.mkv", str(anew))
        subprocess.run([*words.split(), "-v", "error"], check=True)
        assert len(list(video_files.frames_of(video_files.open_video(anew)))) == 20
    same = tmp_path / "same.mkv"
    rewritten(write_clip(tmp_path / "in.mkv", list(range(0, 400, 40)), pixel_format="yuv420p10le"), same, pulled=40)
    found = [each.time for each in video_files.frames_of(video_files.open_video(same))]
    assert found == [0, 1, 80, 81, 160, 161, 240, 241, 320, 321]


@pytest.mark.parametrize(("matrix", "color_range"), [(1, 1), (1, 2), (6, 1), (9, 1), (2, 1)])
def test_colors_come_back(restorer: Restorer, tmp_path: Path, matrix: int, color_range: int) -> None:
    """Whatever the matrix and the range, nothing but the restoration changes colours."""
    planes = np.stack([np.full((HEIGHT, WIDTH), value, np.uint8) for value in (100, 90, 170)])
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(source), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        frame = av.VideoFrame.from_ndarray(planes, "yuv444p")
        frame.colorspace, frame.color_range, frame.pts = matrix, color_range, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    untouched, writing = RestoreOptions(strength=0), VideoOptions(codec="ffv1")
    restore_video(restorer, source, target, untouched, writing)
    with av.open(str(target)) as container:
        made = next(container.decode(video=0))
        assert made.format.name == "yuv444p"
        assert int(made.color_range) == color_range
        assert int(made.colorspace) == (6 if matrix == 2 else matrix)
        found = made.to_ndarray().reshape(3, -1).astype(int)
    assert np.abs(found - [[100], [90], [170]]).max() <= 3  # rounding of swscale: 2 with FFmpeg 8, 3 with 7


def test_a_killed_run_goes_on(restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "SEGMENT_FRAMES", 3)
    source = write_clip(tmp_path / "in.mp4")
    whole = restore_video(restorer, source, tmp_path / "whole.mp4")

    class KilledError(Exception):
        pass

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "frames" and done == 8:
            raise KilledError

    target = tmp_path / "out.mp4"
    with pytest.raises(KilledError):
        restore_video(restorer, source, target, progress=kill)
    assert not target.exists()
    kept = sorted(path.name for path in (tmp_path / ".s3diff-out.mp4.video").iterdir())
    assert kept == ["000000.npy", "000000.nut", "000001.npy", "000001.nut", "course.json", "segments.json"]
    seen: list[tuple[str, int]] = []

    def tell(stage: str, done: int, total: int) -> None:
        assert total == 10
        seen.append((stage, done))

    result = restore_video(restorer, source, target, progress=tell)
    assert seen == [("resumed", 6), ("resumed", 6), ("frames", 7), ("frames", 8), ("frames", 9), ("frames", 10)]
    assert "6 of 10 frames were there from an earlier run" in result.notes
    times, made = frames(target)
    assert times == TIMES
    assert all(np.array_equal(*pair) for pair in zip(made, frames(tmp_path / "whole.mp4")[1], strict=True))
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert whole.degrees == result.degrees


def test_what_other_options_keep_of_a_killed_run(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another batch keeps all, other options the first pass, another source nothing; a remark says what is dropped."""
    monkeypatch.setattr(video, "SEGMENT_FRAMES", 3)
    said: list[str] = []
    monkeypatch.setattr(restorer, "remark", said.append)
    source, target = write_clip(tmp_path / "in.mkv"), tmp_path / "out.mkv"

    def seen(options: RestoreOptions | None, stop: int, **writing: Any) -> list[tuple[str, int]]:
        told: list[tuple[str, int]] = []

        def tell(stage: str, done: int, total: int) -> None:
            told.append((stage, done))
            if told[-1] == ("frames", stop):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            restore_video(restorer, source, target, options, VideoOptions(**writing), progress=tell)
        return told

    assert seen(None, 4)[:2] == [("look_resumed", 0), ("look", 1)]
    assert seen(None, 8, batch=2)[0] == ("resumed", 3)
    assert said == []
    other = RestoreOptions(strength=0.5)
    for options, writing in ((None, {"quality": 50}), (other, {"quality": 50}), (other, {"steady": 0.0})):
        assert seen(options, 5, **writing)[:3] == [("resumed", 0), ("resumed", 0), ("frames", 1)]
        assert said == ["the frames that an earlier run has restored are dropped: their options differ"]
        said.clear()
    os.utime(source, (0, 0))
    assert seen(other, 5, steady=0.0)[:2] == [("look_resumed", 0), ("look", 1)]
    assert said == [
        "the work that an earlier run kept for this result is dropped: it is of another video, model or version"
    ]
    os.utime(source, (1, 1))
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as where another program reads one of its files
    with pytest.raises(OutputError, match=r"\.s3diff-out\.mkv\.video is in use; close what reads it"):
        restore_video(restorer, source, target)


def test_a_run_killed_in_the_first_pass_goes_on(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_analysis, "KEEP_SECONDS", 0.0)
    times = list(range(0, 2000, 100))
    source = write_clip(tmp_path / "in.mp4", times, cut=9)
    whole = restore_video(restorer, source, tmp_path / "whole.mp4")

    class KilledError(Exception):
        pass

    def kill(stage: str, done: int, total: int) -> None:
        if done == 12:
            raise KilledError

    target, seen = tmp_path / "out.mp4", []
    with pytest.raises(KilledError):
        restore_video(restorer, source, target, progress=kill)
    result = restore_video(restorer, source, target, progress=lambda *told: seen.append(told))
    looks = [("look", done, 20) for done in range(13, 21)]
    assert seen[:9] == [("look_resumed", 12, 20), *looks]
    assert seen[9:12] == [("resumed", 0, 20), ("resumed", 0, 20), ("frames", 1, 20)]
    assert result.estimated == whole.estimated
    (_, made), (_, expected) = frames(target), frames(tmp_path / "whole.mp4")
    assert all(np.array_equal(*pair) for pair in zip(made, expected, strict=True))


def test_a_source_that_changes_meanwhile(restorer: Restorer, tmp_path: Path) -> None:
    source, target = write_clip(tmp_path / "in.mkv", TIMES[:3]), tmp_path / "out.mkv"

    def change(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("frames", 2):
            write_clip(source, TIMES[:3], cut=0)

    with pytest.raises(PictureError, match=r"in\.mkv changed while it was read; try again"):
        restore_video(restorer, source, target, progress=change)
    assert not target.exists()


def stop_after(event: threading.Event) -> None:
    assert event.wait(60)
    raise KeyboardInterrupt


def test_an_interruption_ends_the_way_to_the_first_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while finished frames are passed over does not wait until all are."""
    clip, num_decoded, is_begun = video_files.open_video(write_clip(tmp_path / "in.mkv")), 0, threading.Event()
    decoded = video_files._decoded

    def slowly(*arguments: Any) -> Iterator[Any]:
        nonlocal num_decoded
        for frame in decoded(*arguments):
            num_decoded += 1
            is_begun.set()
            time.sleep(0.2)
            yield frame

    monkeypatch.setattr(video_files, "_decoded", slowly)
    with pytest.raises(KeyboardInterrupt), video._read_ahead(clip, 9, 1, 1):
        stop_after(is_begun)
    assert num_decoded < 5


def test_what_a_run_killed_at_its_end_leaves(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hidden folder goes with the next run if its result is in its place, and stays if another file is there."""
    source, target = write_clip(tmp_path / "in.mkv", TIMES[:3]), tmp_path / "in_restored.mkv"
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        restore_video(restorer, source, target)
    work, made = tmp_path / ".s3diff-in_restored.mkv.video", tmp_path / "made.mkv"
    assert (work / "000000.nut").is_file()
    target.rename(made)
    target.write_bytes(b"another")
    with pytest.raises(OutputError, match="already there"):
        restore_video(restorer, source, target, None, VideoOptions(overwrite=False))
    assert (work / "000000.nut").is_file()
    made.replace(target)
    shutil.copytree(work, tmp_path / "kept")
    with pytest.raises(OutputError, match="already there"):
        restore_video(restorer, source, target, None, VideoOptions(overwrite=False))
    assert not work.exists()
    (tmp_path / "kept").rename(work)
    assert video_output(source, None).name == "in_restored_2.mkv"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "in_restored.mkv"]


def test_progress_of_a_look_without_a_stated_length(restorer: Restorer, tmp_path: Path) -> None:
    """A stream of a pipe states none; another file states fewer frames than there are."""
    seen: list[Any] = []
    opened = video_files.open_video(write_clip(tmp_path / "in.mkv", states_length=False))
    assert opened.num_frames == 0

    def told(video: Video) -> list[Any]:
        seen.clear()
        course_of(restorer, video, tmp_path / "work", {"frames": video.num_frames}, lambda *each: seen.append(each))
        return seen

    assert told(opened) == [("look_resumed", 0, 0), *(("look", done, 0) for done in range(1, 11))]
    short = told(replace(opened, num_frames=9))
    assert short == [("look_resumed", 0, 9), *(("look", done, 9) for done in range(1, 10)), ("look", 10, 0)]


@pytest.mark.slow
def test_the_command_killed_in_the_first_pass(small: Path, here: Path) -> None:
    """kill -9 while the command looks through the video: what it found is used by the same command."""
    write_clip(Path("film.mkv"), list(range(0, 40 * 1500, 40)))
    words = [sys.executable, "-c", KEEPING, "restore", "film.mkv", "-m", str(small), "--codec", "ffv1"]
    record = Path(".s3diff-film_restored.mkv.video/course.json")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not record.is_file() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    kept = json.loads(record.read_text("utf-8"))["look"]
    assert 0 < kept["num_frames"] < 1500
    assert not kept["is_whole"]
    model, seen = Restorer.from_pretrained(small, device="cpu"), []

    def stop(*told: Any) -> None:
        seen.append(told)
        if told[0] == "frames":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_video(model, "film.mkv", "film_restored.mkv", None, VideoOptions(codec="ffv1"), progress=stop)
    assert seen[0] == ("look_resumed", kept["num_frames"], 1500)
    assert ("look", 1500, 1500) in seen


def test_frames_in_batches_are_the_same(restorer: Restorer, tmp_path: Path) -> None:
    """Within one level, of the planes that are encoded; each frame has its own degrees."""
    source, planes = write_clip(tmp_path / "in.mkv", list(range(0, 4000, 400)), cut=6), []
    for batch in (1, 3):
        told: list[int] = []
        options = VideoOptions(codec="ffv1", pixel_format="yuv444p", batch=batch, steady=0)
        target = tmp_path / f"{batch}.mkv"
        restore_video(
            restorer, source, target, None, options,
            progress=lambda stage, done, _, told=told: told.append(done) if stage == "frames" else None,
        )  # fmt: skip
        assert told == ([3, 6, 9, 10] if batch == 3 else list(range(1, 11)))
        with av.open(str(target)) as container:
            planes.append([each.to_ndarray() for each in container.decode(video=0)])
    assert [len(each) for each in planes] == [10, 10]
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(*planes, strict=True)) <= 1
    both = [restorer.restore_batch([picture(0), picture(9, 1)], blur=blur, noise=0.2) for blur in (0.1, 0.8)]
    opened = [Opened(Picture(each), allowed_sizes((WIDTH, HEIGHT), both[0][0].options)) for each in (picture(0),) * 2]
    each_own = restore(restorer, opened, both[0][0].options, degrees=[Degrees(0.1, 0.2), Degrees(0.8, 0.2)])
    for made, expected in zip(each_own, (both[0][0], both[1][0]), strict=True):
        assert np.abs(made.array.astype(int) - expected.array).max() <= 1


def test_degrees_are_smooth_and_change_at_a_cut(restorer: Restorer, tmp_path: Path) -> None:
    times = list(range(0, 4000, 200))
    source = write_clip(tmp_path / "in.mp4", times, cut=9)
    course = course_of(restorer, video_files.open_video(source), tmp_path / "work", {})
    assert course.num_frames == len(times)
    base = video_files.open_video(source).time_base
    assert [round(float(cut * base) * 1000) for cut in course.cuts] == [1800]
    assert {each.scene for each in course.estimates} == {0, 1}
    rough = [
        Estimate(second / 2, int(second >= 5), Degrees(0.2 + 0.2 * (second % 2), 0.9 * (second >= 5)))
        for second in range(10)
    ]
    made = Course(cuts=[2500], estimates=rough, num_frames=50)
    values = [made.at(time, time / 1000) for time in range(0, 5000, 100)]
    assert {round(each.noise, 6) for each in values[:25]} == {0}
    assert {round(each.noise, 6) for each in values[25:]} == {0.9}
    steps = np.abs(np.diff([each.blur for each in values]))
    assert np.delete(steps, 24).max() < 0.02  # the estimates jump by 0.2
    assert made.at(10**6, 1000.0).noise == pytest.approx(0.9)


def test_quick_motion_is_no_cut(restorer: Restorer) -> None:
    """A strong pan is one scene, whatever came before; a cut is found from the second change of a scene on."""
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 32), 8)
    panned = [np.broadcast_to(np.roll(stripes, 8 * step)[None, :, None], (18, 512, 3)) for step in range(8)]
    changes = [np.abs(a.astype(int) - b).mean() / 255 for a, b in itertools.pairwise(panned)]
    assert min(changes) > 2 * video_analysis._CUT_CHANGE
    still = [np.full((18, 512, 3), level, np.uint8) for level in (0, 0, 200, 200, 60, 60)]
    look = video_analysis.Course()
    for index, pixels in enumerate(panned):
        look.see(restorer, VideoFrame(pixels, index, 1), index / 25)
    assert look.cuts == []
    look = video_analysis.Course()
    for index, pixels in enumerate([*still, *panned]):
        look.see(restorer, VideoFrame(pixels, index, 1), index / 25)
    assert look.cuts == [2, 4, 6]


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(restorer: Restorer, tmp_path: Path, transfer: int, name: str) -> None:
    source = write_clip(tmp_path / "in.mkv", TIMES[:2], pixel_format="yuv420p10le", colors=(9, transfer, 9, 1))
    with pytest.raises(PictureError, match=rf"in\.mkv is HDR \({name}\), whose brightness"):
        restore_video(restorer, source, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


def test_what_does_not_go_together(restorer: Restorer, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", TIMES[:2])
    for target, options, changes, error, said in (
        ("out.avi", {}, {}, OutputError, "a video is written as .mp4, .mov"),
        ("out.webm", {"codec": "h264"}, {}, OptionError, ".webm takes vp9 and av1"),
        ("out.mp4", {"codec": "ffv1"}, {}, OptionError, "write .mkv"),
        ("out.mp4", {"codec": "divx"}, {}, OptionError, "give one of auto, h264"),
        ("out.mp4", {"steady": 1.0}, {}, OptionError, "steady is 1.0; give a share from 0 to 0.9"),
        ("out.mp4", {"batch": 0}, {}, OptionError, "batch is 0; give a whole number from 1 to 48"),
        ("out.mp4", {"pixel_format": "rgb0"}, {}, OptionError, "h264 takes"),
        ("out.mp4", {"pixel_format": "yuv420p"}, {"size": (33, 25)}, OptionError, "needs even sides"),
        ("out.mp4", {}, {"max_output_pixels": 100}, PictureError, "would become 128 x 96 px"),
        (
            "out.mp4",
            {},
            {"max_input_pixels": 100},
            PictureError,
            "has frames of 32 x 24 pixels, at most 100 are",
        ),
        ("in.mp4", {"overwrite": False}, {}, OutputError, "is already there"),
    ):
        with pytest.raises(error, match=said):
            restore_video(
                restorer,
                source,
                tmp_path / target,
                RestoreOptions(**changes),
                VideoOptions(**options),  # type: ignore[arg-type]
            )
    (tmp_path / "bad.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(200))
    with pytest.raises(PictureError, match=r"bad\.mp4 cannot be read as a video"):
        restore_video(restorer, tmp_path / "bad.mp4", tmp_path / "out.mp4")
    with_sound = write_clip(tmp_path / "sound.mp4", with_sound=True)
    with pytest.raises(OutputError, match=r"sound \(AAC .+\); write \.mp4 or \.mov or \.m4v or \.mkv$"):
        restore_video(restorer, with_sound, tmp_path / "out.webm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mp4", "in.mp4", "sound.mp4"]


def test_without_the_extra(restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_clip(tmp_path / "in.mp4", TIMES[:2])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"videos need PyAV: pip install .*\[video\]"):
        restore_video(restorer, source, tmp_path / "out.mp4")


def test_the_command(command: Command, small: Path, here: Path) -> None:
    write_clip(Path("film.mp4"), TIMES[:3])
    outcome = command("film.mp4", "-m", small)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("film_restored.mp4  128x96, 3 frames")
    assert command("restore", "film.mp4", "-m", small, "-o", "made/", "--codec", "h265", "-q").code == 0
    with av.open("made/film.mp4") as container:
        assert container.streams.video[0].codec_context.name == "hevc"
        assert "s3diff" in container.metadata["comment"]
    writing = ("--overwrite", "--no-provenance", "--quality", "5")
    large = Path("made/film.mp4").stat().st_size
    assert command("restore", "film.mp4", "-m", small, "-o", "made/", "--codec", "h265", "-q", *writing).code == 0
    with av.open("made/film.mp4") as container:
        assert "comment" not in container.metadata
    assert Path("made/film.mp4").stat().st_size < large
    refusal = command("restore", "film.mp4", "-m", small, "-o", "film_restored.mp4")
    assert (refusal.code, refusal.error) == (
        1, "s3diff: film_restored.mp4 is already there; choose another name or allow overwriting",
    )  # fmt: skip
    assert (
        "--server and --batch exclude each other" in command("film.mp4", "--server", "http://a", "--batch", "2").error
    )
    assert "--codec is only for one video as the input" in command("film.png", "--codec", "h264").error
    assert "--batch is only for one video as the input" in command("film.png", "--batch", "2").error
    assert "is a video, and --pages is for pictures" in command("film.mp4", "--pages", "1").error
    assert "would overwrite the input" in command("restore", "film.mp4", "-o", "film.mp4", "--overwrite").error


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("in.mxf", "mpeg2video"), ("in.ts", "libx264"), ("in.m2v", "mpeg2video"), ("in.nut", "ffv1"),
        ("in.ivf", "libvpx"), ("in.y4m", "wrapped_avframe"), ("in.h264", "libx264"), ("in.hevc", "libx265"),
        ("in.ogv", "libtheora"),
    ],
)  # fmt: skip
def test_the_command_takes_every_container_and_bare_streams(
    command: Command, small: Path, here: Path, name: str, encoder: str
) -> None:
    num_frames = 12 if name == "in.ts" else 3  # FFmpeg recognises no shorter one
    if encoder in ("libtheora", "wrapped_avframe"):  # not in PyAV's FFmpeg
        if shutil.which("ffmpeg") is None:
            pytest.skip("ffmpeg is not installed")
        subprocess.run(["ffmpeg", "-v", "fatal", "-i", write_clip(Path("a.mkv"), [0, 40, 80]), name], check=True)
    else:
        steady_clip(Path(name), encoder, num_frames)
    outcome = command("restore", name, "-m", small)
    assert (outcome.code, outcome.out.startswith(f"in_restored.mp4  128x96, {num_frames} frames")) == (0, True), outcome
    os.rename(name, "unnamed")
    if not name.endswith(("ts", "m2v", "h264", "hevc", "ogv")):  # these begin with nothing of their own
        assert command("restore", "unnamed", "-m", small, "--overwrite").out.startswith("unnamed_restored.mp4  128x96")


def test_what_is_no_video_is_said_before_the_model_is_loaded(command: Command, here: Path) -> None:
    write_clip(Path("film.mp4"), TIMES[:2], with_sound=True)
    Path("sound.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt " + bytes(40))
    for arguments, said in (
        (("film.mp4", "-o", "film.avi"), "film.avi: a video is written as .mp4, .mov, .m4v, .mkv, .webm; choose one"),
        (("film.mp4", "-o", "x.webm", "--codec", "h264"), "codec is 'h264', which does not go into .webm; .webm takes"),
        (("film.mp4", "--pixel-format", "rgb0"), "pixel_format is 'rgb0'; h264 takes yuv420p"),
        (("film.mp4", "-o", "x.webm"), "x.webm: .webm does not take the source's sound (AAC"),
        (("gone.mp4",), "gone.mp4 does not exist; give a picture, a folder of pictures or a video"),
        (("sound.wav",), "sound.wav is a sound file; give a picture or a video"),
    ):
        model = () if arguments[0] == "sound.wav" else ("-m", "no_such_model")
        assert said in command("restore", *arguments, *model).error


@pytest.mark.parametrize(
    ("stage", "done", "where"),
    [
        ("look_resumed", 0, " in the first pass"),
        ("look", 2, " in the first pass"),
        ("resumed", 0, " after 0 of 3 frames"),
        ("frames", 2, " after 2 of 3 frames"),
    ],
)
def test_an_interruption_says_where_it_was(
    command: Command, small: Path, here: Path, monkeypatch: pytest.MonkeyPatch, stage: str, done: int, where: str
) -> None:
    write_clip(Path("film.mp4"), TIMES[:3])

    def interrupt(_: PictureProgress, kind: str, num_done: int, total: int) -> None:
        if (kind, num_done) == (stage, done):
            raise KeyboardInterrupt

    monkeypatch.setattr(PictureProgress, "parts", interrupt)
    outcome = command("film.mp4", "-m", small)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == f"s3diff: stopped{where}; the same command goes on"


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the documents of the repository")
@pytest.mark.parametrize("measured", ["flicker", "video-memory"])
def test_the_figures_are_those_of_the_last_run(measured: str) -> None:
    report = json.loads((REPOSITORY / f"benchmarks/results/{measured}.json").read_text("utf-8"))
    assert report["in_words"] in " ".join((REPOSITORY / "docs/video.md").read_text("utf-8").split())


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the documents of the repository")
def test_the_door_in_the_documents(small: Path, here: Path) -> None:
    write_clip(Path("film.mp4"), TIMES[:2])
    section = PAGE.read_text("utf-8").split("## Videos")[1]
    text = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    exec(compile(text.replace('"compact"', repr(str(small))), "docs/builders.md", "exec"), {})
    with av.open("film_restored.mkv") as container:
        assert container.streams.video[0].codec_context.name == "hevc"


def test_one_run_at_a_time_and_never_over_its_source(restorer: Restorer, tmp_path: Path) -> None:
    source, target = write_clip(tmp_path / "in.mkv", TIMES[:2]), tmp_path / "out.mp4"
    before = source.read_bytes()
    with pytest.raises(OutputError, match="would overwrite the input"):
        restore_video(restorer, source, source)
    with only_one(target), pytest.raises(OutputError, match="being written by another process"):
        restore_video(restorer, source, target)
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
