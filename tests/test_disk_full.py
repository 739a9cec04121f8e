"""Disks that run full while a result is written: really full (a small tmpfs, as root), or with a limit for files.

Nothing half written stays, the message says how much was missing, and the same command goes on where there is room.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_runs import Command, files_up_to
from s3diff.errors import DiskFullError, OutputError, PictureError
from s3diff.folders.journal import Journal
from s3diff.folders.manifest import run_id
from s3diff.folders.plan import RestoreJob
from s3diff.folders.run_jobs import Outcome as PictureOutcome
from s3diff.folders.run_jobs import reporting
from s3diff.folders.store_plan import plan_store_jobs
from s3diff.folders.store_worker import StoreWorker, WorkerOptions
from s3diff.folders.stores import open_store
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import Restorer
from test_cli import names_in, noise, save, tree
from test_restore_runs import lines_of


class SmallDisk:
    """A file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def leave(self, num_bytes: int) -> None:
        """Fill it up to so many free bytes."""
        self.make_room()
        with open(self.path / "filler", "wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(self.path).free - num_bytes)))

    def make_room(self) -> None:
        (self.path / "filler").unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = None
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount"):
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "s3diff-test", str(place)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("needs the right to mount a small tmpfs (root)")
    try:
        yield SmallDisk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _until_it_fails(act: Callable[[], None]) -> None:
    for _ in range(1000):
        act()


def missing_bytes(text: str) -> int:
    found = re.search(r"the disk is full, (?:up to )?(\d+)(?: of \d+)? bytes were missing; make room", text)
    assert found, text
    return int(found[1])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp", "new/folder/a.png"])
def test_one_picture_and_a_full_disk(disk: SmallDisk, name: str) -> None:
    picture = Picture(noise(300, 300, 3))
    target = disk.path / name
    if target.parent == disk.path:
        write_picture(Picture(noise(4, 4, 3)), target)
    disk.leave(20_000)
    before = tree(disk.path)
    with pytest.raises(DiskFullError) as error:
        write_picture(picture, target)
    assert tree(disk.path) == before, "the old file is whole, and nothing else is there"
    disk.make_room()
    write_picture(picture, target)
    size = target.stat().st_size
    assert size - 25_000 < missing_bytes(str(error.value)) < size
    assert read_picture(target).width == 300


def test_a_folder_goes_on_after_a_full_disk(here: Path, small: Path, command: Command, disk: SmallDisk) -> None:
    Path("in").mkdir()
    for index in range(8):
        save(f"in/{index}.png", noise(40, 60, 3, seed=index))
    run = ("restore", "in", "-m", small, "--scale", 1, "--restore-at", "output")
    assert command(*run, "-o", "whole").code == 0
    sizes = [path.stat().st_size for path in sorted(Path("whole").glob("*.png"))]
    disk.leave(sum(sizes[:3]) + sizes[3] // 2 + 3 * 4096)
    out = disk.path / "out"
    outcome = command(*run, "-o", out)
    assert outcome.code == 1
    failed = next(line for line in outcome.err.splitlines() if line.startswith("s3diff: "))
    assert 0 < missing_bytes(failed) <= max(sizes)
    num_done = outcome.out.count("\n")
    assert 0 < num_done < 8
    assert f"stopped, {7 - num_done} pictures were not tried; make room and run it again" in outcome.err
    assert len(names_in(out)) == num_done
    for name in names_in(out):
        assert (out / name).read_bytes() == Path("whole", name).read_bytes()
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == [
        ".s3diff-journal.jsonl",
    ]
    ended = [line for line in lines_of(out / ".s3diff-journal.jsonl") if line.get("state") == "done"]
    assert len(ended) == num_done
    disk.make_room()
    again = command(*run, "-o", out)
    assert (again.code, again.out.count("\n")) == (0, 8 - num_done), "what was written is not restored again"
    assert names_in(out) == names_in("in")
    for name in names_in(out):
        assert (out / name).read_bytes() == Path("whole", name).read_bytes()


def test_a_full_disk_takes_no_part_of_a_journals_line(disk: SmallDisk) -> None:
    path = disk.path / "journal.jsonl"
    with Journal(path, {"run": 1}) as journal:
        journal.begin([])
        disk.leave(0)
        with pytest.raises(OutputError, match=r"the disk is full\); make room"):
            _until_it_fails(lambda: journal.finish("a.png", (1, 2), {"state": "done"}))
        num_lines = len(lines_of(path))
        assert num_lines > 1, "some had room in the file's last page"
        assert path.read_bytes().endswith(b"}\n")
        disk.make_room()
        journal.finish("last.png", (1, 2), {"state": "done"})
        assert [line["ended"] for line in lines_of(path)[num_lines:]] == ["last.png"]
    with Journal(path, {"run": 1}) as journal:
        assert journal.is_own("last.png", (1, 2))


def test_a_reports_full_disk_is_one_line(disk: SmallDisk) -> None:
    outcome = PictureOutcome(RestoreJob(Path("a.png"), Path("b.png")), "failed", "x" * 3000)
    disk.leave(0)
    with (
        reporting(str(disk.path / "report.jsonl")) as report,
        pytest.raises(OutputError, match=r"report\.jsonl cannot be written \(the disk is full"),
    ):
        _until_it_fails(lambda: report(outcome))


def test_a_folder_whose_files_may_not_grow(here: Path, small: Path, command: Command) -> None:
    """Of another kind: only large results do not fit, so the others are written and the run goes on."""
    Path("in").mkdir()
    for index, side in enumerate((8, 200, 8)):
        save(f"in/{index}.png", noise(side, side, 3, seed=index))
    run = ("restore", "in", "-o", "out", "-m", small, "--scale", 1, "--restore-at", "output")
    with files_up_to(20_000):
        outcome = command(*run)
    assert outcome.code == 1
    assert "1.png cannot be written (file too large)" in outcome.err
    assert names_in("out") == ["0.png", "2.png"]
    assert not list(Path("out").glob("*.part"))
    assert [line["ended"] for line in lines_of("out/.s3diff-journal.jsonl") if line.get("state") == "done"] == [
        "0.png",
        "2.png",
    ]
    assert command(*run).out.startswith("out/1.png ")


# ---------------------------------------------------------------------------------------------- larger than memory

#: Output 400 x 260 px in three tiles.
TILED = RestoreOptions(tile=384, upsampling="bicubic")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pytest.importorskip("pyvips", reason="needs the extra large")
    return save(tmp_path / "source.png", noise(65, 100, 3))


Progress = Callable[[str, int, int], None]


def when(tiles_done: int, act: Callable[[], None]) -> Progress:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "tiles" and done == tiles_done:
            act()

    return progress


@pytest.mark.parametrize("tiles_done", [1, 3])
@pytest.mark.parametrize("color_match", ["wavelet", "adain"])
def test_streaming_and_a_full_disk(
    restorer: Restorer, source: Path, disk: SmallDisk, tmp_path: Path, tiles_done: int, color_match: str
) -> None:
    """It runs full after the first tile, and after the last one, where the TIFF is written."""
    options = RestoreOptions(tile=384, upsampling="bicubic", color_match=color_match)  # type: ignore[arg-type]
    restorer.restore_file(source, tmp_path / "whole.tif", options)
    target = disk.path / "out.tif"
    with pytest.raises(DiskFullError) as error:
        restorer.restore_file(source, target, options, progress=when(tiles_done, lambda: disk.leave(0)))
    assert 0 < missing_bytes(str(error.value)) < 3 * 400 * 260 * 3 * 2
    assert "the same command goes on" in str(error.value)
    assert sorted(path.name for path in disk.path.iterdir() if "finished" not in path.name) == [
        ".out.tif.s3diff-pixels",
        ".out.tif.s3diff-tiles",
        "filler",
    ]
    with pytest.raises(DiskFullError, match=r"GB of disk while it is made|bytes were missing"):
        restorer.restore_file(source, target, options)
    disk.make_room()
    restored = restorer.restore_file(source, target, options)
    assert restored.num_resumed == tiles_done
    assert target.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert [path.name for path in disk.path.iterdir()] == ["out.tif"]


def test_streaming_where_files_may_not_grow(restorer: Restorer, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.tif"
    with files_up_to(100_000), pytest.raises(OutputError, match=r"out\.tif cannot be written \(file too large\)"):
        restorer.restore_file(source, target, TILED)
    assert not target.exists()
    restorer.restore_file(source, target, TILED)
    assert read_picture(target).width == 400


def test_the_streaming_command_and_a_full_disk(
    here: Path, source: Path, disk: SmallDisk, command: Command, compact: Restorer
) -> None:
    run = ("restore", source, "-o", disk.path / "out.tif", "--stream", "--scale", 2)
    disk.leave(30_000)
    refused = command(*run, "-q")
    assert re.search("needs .* GB of disk|bytes were missing", refused.error)
    disk.make_room()
    assert command(*run, "-q").code == 0
    assert [path.name for path in disk.path.iterdir()] == ["out.tif"]


def test_what_is_not_the_targets_fault_is_not_said_of_it(restorer: Restorer, source: Path, tmp_path: Path) -> None:
    """An error of the caller's own function, and a source that vanishes."""
    with pytest.raises(BrokenPipeError):
        restorer.restore_file(source, tmp_path / "out.tif", TILED, progress=when(1, _break))

    def remove(stage: str, done: int, total: int) -> None:
        source.unlink()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restorer.restore_file(source, tmp_path / "out.tif", TILED, progress=remove)
    with pytest.raises(PictureError, match=r"source\.png does not exist"):
        restorer.restore_file(source, tmp_path / "out.tif", TILED)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux what is open")
def test_scratch_files_that_are_gone_take_no_room(restorer: Restorer, source: Path, tmp_path: Path) -> None:
    restorer.restore_file(source, tmp_path / "out.tif", TILED)
    held = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    assert not [name for name in held if str(tmp_path) in name and "deleted" in name]


def _break() -> None:
    raise BrokenPipeError(32, "Broken pipe")


def test_a_full_disk_for_temporary_files_is_named(disk: SmallDisk, restorer: Restorer, tmp_path: Path) -> None:
    """libvips unpacks a large PNG there."""
    Image.fromarray(np.zeros((6000, 6000, 3), np.uint8)).save(tmp_path / "large.png")
    script = (
        "import sys; from s3diff.images.files.large_files import LargePicture; from s3diff.tiling import Span\n"
        "from s3diff.errors import PictureError\n"
        "try:\n    LargePicture(sys.argv[1]).read(Span(5000, 5010), Span(0, 10))\n"
        "except PictureError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "TMPDIR": str(disk.path), "VIPS_DISC_THRESHOLD": "1m"}
    shown = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "large.png")],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert f"the disk for temporary files, {disk.path}, is full; make room there" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("full", ["source", "result"])
def test_a_workers_scratch_disk_ends_the_task_in_one_line(
    full: str, tmp_path: Path, disk: SmallDisk, restorer: Restorer, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is no failure of picture after picture; with room the same command restores all."""
    (tmp_path / "in").mkdir()
    for index in range(4):
        save(tmp_path / f"in/{index}.png", noise(90, 90, 3, seed=index))
    inputs, output = str(tmp_path / "in"), open_store(str(tmp_path / "out"))
    if full == "source":
        inputs = f"{request.getfixturevalue('s3')}/{tmp_path.name}"
        for path in (tmp_path / "in").iterdir():
            open_store(inputs).write(path.name, path, replace=False)
    jobs = plan_store_jobs([inputs], output).jobs
    monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
    options = WorkerOptions(output=output.name, run={"model": "tiny", "options": {}}, run_id=run_id())
    disk.leave(12_000 if full == "source" else 30_000)
    done = StoreWorker(options, restorer).restore(jobs)
    assert done.rows == []
    assert done.error == (
        f"{disk.path}: a worker's scratch disk is full; make room there, or set TMPDIR to another folder, and run the "
        "same command again"
    )
    disk.make_room()
    done = StoreWorker(options, restorer).restore(jobs)
    assert (done.error, [row["state"] for row in done.rows]) == (None, ["done"] * 4)
    assert list(disk.path.iterdir()) == []
