"""What is seen while pictures are restored: lines without a terminal, the bar's words, what is kept for later runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from command_runs import Command
from s3diff.apps import picture_progress
from s3diff.apps.picture_progress import PictureProgress
from s3diff.folders.jobs import RestoreJob
from s3diff.folders.run import Outcome
from s3diff.folders.run_work import RunWork, pixels_by_header
from s3diff.options import RestoreOptions
from s3diff.restoration import speed
from s3diff.restoration.sizes import Sizes
from s3diff.restoration.speed import Speeds


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
    shown = PictureProgress(1, quiet=False)
    shown.begin(job("a.mp4"), None)
    shown.parts("resumed", 0, 40)
    assert shown.line == "waiting, time not known yet"
    shown.parts("look", 30, 40)
    assert shown.line.startswith("looking through the video first, 30 of 40 frames, ")
    shown.parts("resumed", 20, 40)
    assert shown.line == "going on after 20 of 40 frames, time not known yet"
    shown.parts("frames", 21, 40)
    assert re.fullmatch(r"21 of 40 frames, \d+%, about \d+ s left", shown.line)
    shown.close()


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
    monkeypatch.setattr(picture_progress, "_LINE_SECONDS", 0.001)
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


def test_the_key_tells_machines_apart(restorer: Any) -> None:
    from s3diff.options import RestoreOptions

    plain, one = (speed.speed_key(restorer, RestoreOptions(guidance=value)) for value in (1.07, 1.0))
    assert plain != one
    assert "threads" in plain
