"""What is seen while pictures are restored: lines without a terminal, the bar's words, what is kept for later runs."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from command_runs import Command
from s3diff.apps import restore_display
from s3diff.apps.restore_display import PictureProgress
from s3diff.folders.plan import RestoreJob
from s3diff.folders.progress import RunWork, pixels_by_header
from s3diff.folders.run_jobs import Outcome
from s3diff.options import RestoreOptions
from s3diff.restoration import time_left
from s3diff.restoration.frames_and_pages import open_source
from s3diff.restoration.sizes import Sizes
from s3diff.restoration.time_left import EACH_PIXELS, Speeds


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of measured speeds, empty."""
    monkeypatch.setenv("S3DIFF_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "speed.json"


def job(name: str) -> RestoreJob:
    return RestoreJob(Path("in", name), Path("out", name))


def opened(side: int = 1000) -> Any:
    size = (side, side)
    sizes = Sizes(size, (4 * side, 4 * side), (4 * side, 4 * side), (4 * side, 4 * side))
    return SimpleNamespace(picture=None, sizes=sizes)


def test_one_picture_names_its_stages_and_tiles(state: Path) -> None:
    shown = PictureProgress(1, quiet=False)
    shown.begin(job("a.jpg"), None)
    assert shown.line == "waiting, time not known yet"
    shown.stage("encode", 1, 9)
    assert shown.line.startswith("tile 2 of 9, encoding, ")
    shown.stage("predict", 0, 1)
    shown.parts("predict", 3, 4)
    assert shown.line.startswith("predicting, tile 3 of 4, ")
    shown.parts("tiles", 4, 9)
    assert re.fullmatch(r"4 of 9 tiles, \d+%, about \d+ s left", shown.line)
    shown.share(0.5, 130.0)
    assert shown.line.endswith("50%, about 130 s left")
    assert shown.fraction == 0.5
    shown.close()


def test_a_video_is_looked_through_first(state: Path) -> None:
    clock = SimpleNamespace(seconds=0.0)
    shown = PictureProgress(1, quiet=False, now=lambda: clock.seconds)

    def after(seconds: float, kind: str, done: int, total: int) -> str:
        clock.seconds += seconds
        shown.parts(kind, done, total)
        return shown.line

    shown.begin(job("a.mp4"), None)
    assert after(0, "look_resumed", 0, 40) == "beginning, time not known yet"
    looks = [after(1, "look", done, 40) for done in range(1, 41)]
    assert looks[29] == "looking through the video first, 30 of 40 frames, 75%, about 10 s left"
    assert looks[-1].startswith("looking through the video first, 40 of 40 frames, 100%")
    assert shown.fraction == pytest.approx(1, abs=0.03)
    assert after(5, "resumed", 0, 40) == "beginning, time not known yet"
    assert shown.fraction == 0, "the second pass has a bar of its own"
    restored = [after(20, "frames", done, 40) for done in range(1, 11)]
    assert restored[-1] == "10 of 40 frames, 25%, about 10 min left"
    assert shown.fraction == pytest.approx(0.25, abs=0.02)
    shown.close()
    shown = PictureProgress(1, quiet=False, now=lambda: clock.seconds)
    shown.begin(job("a.mp4"), None)
    assert after(0, "resumed", 20, 40) == "going on after 20 of 40 frames, time not known yet"
    assert after(20, "frames", 21, 40).startswith("21 of 40 frames, ")
    shown.close()


def test_pictures_that_begin_within_one_tick_of_the_clock(state: Path) -> None:
    """No time has passed yet, which says nothing about the speed of this run."""
    speeds = Speeds()
    speeds.add("here", 16_000_000, {"fold": 0.0, "encode": 60.0})
    speeds.save()
    shown = PictureProgress(2, True, lambda: "here", now=lambda: 0.0)
    shown.begin(job("a.jpg"), opened())
    shown.begin(job("b.jpg"), opened())
    shown.stage("fold", 0, 1)
    assert shown.line == "2 of 2, b.jpg: 0%, about 60 s left"
    shown.close()


def test_a_video_whose_length_is_not_known(state: Path) -> None:
    """Also one that has more frames than it states: neither a share nor a time is told."""
    shown = PictureProgress(1, quiet=False)
    shown.begin(job("a.mkv"), None)
    shown.parts("look_resumed", 7, 0)
    assert shown.line == "going on after 7 frames, time not known yet"
    shown.parts("look", 8, 0)
    assert shown.line == "looking through the video first, 8 frames, time not known yet"
    shown.parts("look", 9, 9)
    assert shown.fraction > 0.9
    shown.parts("look", 10, 0)
    assert shown.line == "looking through the video first, 10 frames, time not known yet"
    assert shown.fraction == 0
    shown.close()


def test_an_animation_counts_all_its_frames(tmp_path: Path, state: Path) -> None:
    """The header tells the size of one frame or page; the opened file tells their number."""
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue", "white")]
    jobs = [RestoreJob(tmp_path / name, tmp_path / "out" / name) for name in ("a.png", "b.gif", "c.tif")]
    frames[0].save(jobs[0].source)
    for each in jobs[1:]:
        frames[0].save(each.source, save_all=True, append_images=frames[1:])
    by_header = partial(pixels_by_header, options=RestoreOptions())
    work = RunWork(3)
    shown = PictureProgress(3, True, lambda: "here", work)
    still, *series = (open_source(each.source, each.target, RestoreOptions()) for each in jobs)
    shown.begin(jobs[0], still)
    for each, opened_series in zip(jobs[1:], series, strict=True):
        shown.begin(each, opened_series)
        work.learn(each, by_header(each), is_by_header=True)  # the thread that reads headers is late
        assert work.of(each) - EACH_PIXELS == 4 * (work.of(jobs[0]) - EACH_PIXELS)
    shown.parts("pages", 2, 4)
    for each in jobs:
        seconds = {"encode": 1.0, "total": 1.0}
        shown.ended(Outcome(each, "done", result=cast(Any, SimpleNamespace(num_resumed=0, seconds=seconds))))
    shown.close()
    assert json.loads(state.read_text())["here"]["pictures"] == 1, "only the still picture's speed is kept"


def test_sums_of_work(tmp_path: Path) -> None:
    """They are kept up to date: those of the pictures one by one are the same, whatever is learned when."""
    rng, jobs = random.Random(0), [job(f"{index}.png") for index in range(60)]
    work, begun, failed = RunWork(60), [], []
    for _ in range(400):
        each = rng.choice(jobs)
        if rng.random() < 0.5:
            work.learn(each, rng.choice([0, 1_000, 5_000_000]))
        elif each not in work.begun.jobs and each not in failed:
            (kept, counted) = rng.choice([(begun, work.begun), (failed, work.failed)])
            kept.append(each)
            work.count(each, counted)
        assert work.sum_of(work.begun) == pytest.approx(sum(map(work.of, begun)))
        assert work.sum_of(work.failed) == pytest.approx(sum(map(work.of, failed)))
        assert work.total == pytest.approx(sum(map(work.of, jobs)))
    assert (len(work.begun.jobs), len(work.failed.jobs)) == (len(begun), len(failed))
    assert begun
    assert failed


def test_a_picture_costs_the_same_in_a_run_of_any_length(state: Path) -> None:
    """Function calls for one picture, and for one look at the bar."""
    jobs, num_calls = [job(f"{index}.png") for index in range(600)], []
    shown = PictureProgress(len(jobs), True, lambda: "here", now=lambda: 0.0)
    for index, each in enumerate(jobs):
        before, calls = sys.getprofile(), 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        if index % 3:
            shown.begin(each, opened(64))
        assert shown.fraction <= 1
        assert shown.line
        result = cast(Any, SimpleNamespace(num_resumed=0, seconds={"encode": 1.0}))
        shown.ended(Outcome(each, "done", result=result) if index % 3 else Outcome(each, "failed", "why"))
        sys.setprofile(before)
        num_calls.append(calls)
    shown.close()
    assert max(num_calls[-30:]) <= 1.1 * max(num_calls[10:40])


def test_a_folder_names_the_picture_at_work(state: Path) -> None:
    """The results of pictures before it may still be written, and some cannot be read at all."""
    shown = PictureProgress(4, quiet=False)
    shown.begin(job("a.jpg"), None)
    assert shown.line == "1 of 4, a.jpg: 0%"
    shown.begin(job("b.jpg"), None)
    assert shown.line == "2 of 4, b.jpg: 0%"
    shown.ended(Outcome(job("a.jpg"), "failed", "why"))
    shown.ended(Outcome(job("broken.jpg"), "failed", "why"))
    shown.begin(job("d.jpg"), None)
    assert shown.line == "4 of 4, d.jpg: 0%"
    shown.share(0.5, 30.0)
    assert shown.line == "4 of 4, d.jpg: 50%, about 30 s left"
    assert shown.fraction == pytest.approx(3.5 / 4)
    shown.close()


def test_what_is_said_before_a_long_run(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(num_pictures: int, side: int = 1000, *, quiet: bool = False, key: str = "here") -> str:
        with closing(PictureProgress(num_pictures, quiet, lambda: key)) as shown:
            shown.begin(job("a.jpg"), opened(side))
        return capsys.readouterr().err

    assert said(1) == (
        "a.jpg: 1000 x 1000 px become 4000 x 4000 px; how long that takes on this machine is not known yet\n"
    )
    speeds = Speeds()
    speeds.add("here", 16_000_000, {"encode": 60.0, "predict": 70.0})
    speeds.save()
    assert said(1) == "a.jpg: 1000 x 1000 px become 4000 x 4000 px; about 130 s on this machine\n"
    assert said(30) == (
        "30 pictures, the first of 1000 x 1000 px; about 1 h 5 min on this machine, if all are like it\n"
    )
    assert said(1, 100, quiet=True) == said(1, 100, key="elsewhere") == "", "a short run needs no word"


#: Sides in pixels of three albums: the largest picture last, first, and anywhere.
ALBUMS = [
    [(96, 72), (64, 64), (90, 60), (150, 100), (96, 96), (240, 180)],
    [(240, 180), *[(64, 64)] * 8],
    [(72, 96), (200, 150), (64, 64), (240, 180), (90, 60), (180, 180)],
]
#: Shares of a picture's time.
STAGES = {"encode": 0.2, "predict": 0.3, "decode": 0.5}


def seconds_of_album(shown: PictureProgress, clock: Any, jobs: list[RestoreJob], album: Any) -> Iterator[float]:
    """Restore an album, by a clock that is turned; yield the second of each moment."""
    for at, (width, height) in zip(jobs, album, strict=True):
        sizes = Sizes((width, height), *[(4 * width, 4 * height)] * 3)
        # 1.9 s a picture and 20 s for a million of the networks' pixels.
        seconds = {name: share * (1.9 + 20 * 16 * width * height / 1e6) for name, share in STAGES.items()}
        shown.begin(at, SimpleNamespace(picture=None, sizes=sizes))
        for name in STAGES:
            shown.stage(name, 0, 1)
            for _ in range(10):
                clock.seconds += seconds[name] / 10
                yield clock.seconds
        shown.ended(Outcome(at, "done", result=cast(Any, SimpleNamespace(num_resumed=0, seconds=seconds))))


def seconds_in(line: str) -> int | None:
    found = re.search(r"about (?:(\d+) s|(\d+) min) left", line)
    return found and (int(found[1] or 0) or 60 * int(found[2]))


@pytest.mark.parametrize("album", ALBUMS)
@pytest.mark.parametrize("measured", [None, 0.75, 1.25])
def test_the_time_left_of_an_album(tmp_path: Path, state: Path, album: Any, measured: float | None) -> None:
    """Within a factor of 1.5 from the first fifth on, with pictures of any sizes."""
    jobs = [RestoreJob(tmp_path / f"{index}.jpg", Path("out", f"{index}.jpg")) for index in range(len(album))]
    for at, size in zip(jobs, album, strict=True):
        Image.new("RGB", size).save(at.source)
    if measured is not None:
        speeds = Speeds()
        speeds.add("here", 300_000, {name: 7.9 * share * measured for name, share in STAGES.items()})
        speeds.save()
    clock = SimpleNamespace(seconds=0.0)
    work = RunWork(len(jobs), jobs, partial(pixels_by_header, options=RestoreOptions()))
    work.look()
    shown = PictureProgress(len(jobs), True, lambda: "here", work, now=lambda: clock.seconds)
    told = [(at, seconds_in(shown.line), shown.fraction) for at in seconds_of_album(shown, clock, jobs, album)]
    shown.close()
    assert [each[2] for each in told] == sorted(each[2] for each in told), "the bar never goes back"
    for at_second, seconds, _ in told:
        if 0.2 * clock.seconds <= at_second <= 0.8 * clock.seconds:
            assert seconds, "a time is told"
            assert 1 / 1.5 < seconds / (clock.seconds - at_second) < 1.5


def test_what_counts_as_work(tmp_path: Path) -> None:
    """A file that is no picture takes no time; one that is not looked at yet counts as the mean."""
    (tmp_path / "a.jpg").write_text("no picture")
    Image.new("RGB", (50, 50)).save(tmp_path / "b.jpg")
    jobs = [RestoreJob(tmp_path / name, Path("out", name)) for name in ("a.jpg", "b.jpg", "missing.jpg")]
    assert [pixels_by_header(each, RestoreOptions()) for each in jobs] == [0, 200 * 200, 0]
    work = RunWork(3)
    work.learn(jobs[0], 0)
    work.learn(jobs[1], 40_000)
    assert not work.is_known
    assert work.of(jobs[0]) == 0
    assert work.total == work.of(jobs[1]) + work.of(jobs[2])


def test_lines_without_a_terminal(command: Command, small: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_display, "_LINE_SECONDS", 0.001)
    Image.new("RGB", (64, 48), "gray").save("a.png")
    said = command("a.png", "-m", small)
    assert said.code == 0
    assert re.search(r"^(waiting|looking at|preparing|enlarging|encoding|predicting|decoding|matching)", said.err, re.M)
    assert command("a.png", "-m", small, "-q").err == ""


def test_a_picture_teaches_the_next_one(command: Command, small: Path, here: Path, state: Path) -> None:
    Image.new("RGB", (16, 12), "gray").save("a.png")
    assert command("a.png", "-m", small).code == 0
    (key,) = json.loads(state.read_text())
    assert re.fullmatch(r"sha256:\w{16}, .* threads, float32, two prompts", key)
    assert command("a.png", "-m", small, "--guidance", "1").code == 0
    entries = json.loads(state.read_text())
    assert [name for name in entries if name.endswith("one prompt")]
    assert entries[key]["megapixels"] == pytest.approx(64 * 48 / 1e6)
    assert {"encode", "predict", "decode"} <= set(entries[key]["seconds"])


def test_a_folder_that_goes_on_says_so(command: Command, small: Path, here: Path) -> None:
    Path("in").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 6), "gray").save(f"in/{name}.png")
    assert "going on" not in command("in", "-m", small).err
    assert sorted(path.name for path in Path("in_restored").iterdir()) == [
        ".s3diff-journal.jsonl", "a.png", "b.png",
    ], "no lock stays"  # fmt: skip
    assert "going on" not in command("in", "-m", small).err, "nothing is left to do"
    Image.new("RGB", (8, 6), "gray").save("in/c.png")
    again = command("in", "-m", small)
    assert again.err.startswith("going on: 2 of 3 pictures are done\n")
    assert again.out.startswith(f"{Path('in_restored/c.png')}  32x24")


def test_ctrl_c_says_how_to_go_on(command: Command, small: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in").mkdir()
    for index in range(4):
        Image.new("RGB", (8, 6), "gray").save(f"in/{index}.png")
    begin = PictureProgress.begin

    def interrupted(self: PictureProgress, at: RestoreJob, read: Any) -> None:
        begin(self, at, read)
        if at.source.name == "2.png":
            raise KeyboardInterrupt

    monkeypatch.setattr(PictureProgress, "begin", interrupted)
    ended = command("in", "-m", small)
    assert ended.code == 130
    assert ended.err.endswith(
        "stopped; nothing half written is left. 2 of 4 pictures are done; to go on, give the same command again\n"
    )


def test_the_key_tells_machines_apart(restorer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3diff.options import RestoreOptions
    from s3diff.restoration import process_limits

    plain, one = (time_left.speed_key(restorer, RestoreOptions(guidance=value)) for value in (1.07, 1.0))
    assert plain != one
    assert "threads" in plain
    other = process_limits.Processor("another", ())
    monkeypatch.setattr(process_limits, "processor", lambda: other)
    assert time_left.speed_key(restorer, RestoreOptions(guidance=1.07)) != plain
