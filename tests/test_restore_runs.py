"""Folders: what is picked, how it is named, interrupted and resumed, shared out, and refused."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_runs import Command, environment
from s3diff.atomic_write import whole_path
from s3diff.errors import OutputError
from s3diff.folders.journal import Journal, stamp_of
from s3diff.folders.plan import plan_jobs
from s3diff.options import OutputOptions
from test_cli import names_in, noise, save


def folder_of(count: int, name: str = "in") -> Path:
    Path(name).mkdir()
    for index in range(count):
        save(f"{name}/{index:02}.png", noise(8, 9, 3, seed=index))
    return Path(name)


def lines_of(path: str | Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(here: Path, small: Path) -> None:
    """Every output is there, whole and as an uninterrupted run makes it; what was written is not restored again."""
    folder_of(60)
    arguments = [sys.executable, "-m", "s3diff.apps.cli", "restore", "in", "-m", str(small), "--device", "cpu", "-o"]
    subprocess.run([*arguments, "whole"], env=environment(), check=True, capture_output=True, timeout=300)
    num_kills = int(os.environ.get("S3DIFF_TEST_KILLS", "3"))
    drawn = random.Random(7)
    for _ in range(num_kills):
        process = subprocess.Popen(
            [*arguments, "out"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        for _ in range(drawn.randint(0, max(1, 40 // num_kills))):
            if not process.stdout.readline():
                break
        time.sleep(drawn.random() * 0.05)
        process.kill()
        process.wait(timeout=60)
        process.stdout.close()
        for name in names_in("out"):
            assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
    last = subprocess.run([*arguments, "out"], env=environment(), capture_output=True, text=True, timeout=300)
    assert last.returncode == 0, last.stderr
    assert names_in("out") == names_in("in")
    assert not list(Path("out").glob("*.part"))
    for name in names_in("in"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
    ended = [line["ended"] for line in lines_of("out/.s3diff-journal.jsonl") if "ended" in line]
    assert len(ended) == len(set(ended)), "none whose end was written down was restored again"


def test_a_result_with_two_names_loses_the_unfinished_one(here: Path, small: Path, command: Command) -> None:
    """For a moment a new file has two names, its own and the unfinished one; a kill then leaves both."""
    folder_of(3)
    run = ("restore", "in", "-o", "out", "-m", small, "--journal", "j.jsonl")
    assert command(*run).code == 0
    journal, result = Path("j.jsonl"), Path("out/02.png")
    kept = [line for line in journal.read_text().splitlines(True) if '"ended": "02.png"' not in line]
    assert len(kept) == len(journal.read_text().splitlines()) - 1
    journal.write_text("".join(kept))
    with whole_path(result.with_name("02.png"), overwrite=True) as unfinished:
        name = unfinished.name
        unfinished.touch()
    os.link(result, result.with_name(name))
    outcome = command(*run)
    assert (outcome.code, os.listdir("out").count(name)) == (0, 0)
    assert names_in("out") == names_in("in")


def test_a_line_that_was_cut_off_costs_one_picture(here: Path) -> None:
    path = Path("in.png")
    save(path, noise(4, 4, 3))
    stamp = stamp_of(path)
    with Journal(Path("j.jsonl"), {"model": "a"}) as journal:
        journal.finish("a.png", stamp, {"state": "done"})
        journal.finish("b.png", stamp, {"state": "failed"})
        journal.finish("c.png", stamp, {"state": "done"})
    content = Path("j.jsonl").read_bytes()
    Path("j.jsonl").write_bytes(content[:-9] + b"\0\0\0")
    with Journal(Path("j.jsonl"), {"model": "a"}) as journal:
        assert journal.is_own("a.png", stamp)
        assert not journal.is_own("a.png", (1, 2)), "another picture under the same name"
        assert not journal.is_own("b.png", stamp)
        assert not journal.is_own("c.png", stamp)
        journal.begin([("c.png", stamp)])
        assert Path("j.jsonl").read_bytes().startswith(content[:-9])
    with Journal(Path("j.jsonl"), {"model": "a"}) as journal:
        assert journal.is_own("c.png", stamp)
        with pytest.raises(OutputError, match="in use by another process"):
            Journal(Path("j.jsonl"), {"model": "a"})
    with Journal(Path("j.jsonl"), {"model": "b"}) as journal:
        assert not journal.is_own("a.png", stamp), "made by another model"
    Path("text").write_text("words\n")
    with pytest.raises(OutputError, match="is no journal"):
        Journal(Path("text"), {})
    assert Path("text").read_text() == "words\n"


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_shards_are_disjoint_and_complete(here: Path, count: int) -> None:
    folder_of(20)
    parts = [{job.source for job in plan_jobs(["in"], "out", shard=(index, count)).jobs} for index in range(count)]
    assert sum(len(part) for part in parts) == 20
    assert set.union(*parts) == set(Path("in").iterdir())
    (Path("in") / "00.png").unlink()
    assert {job.source for job in plan_jobs(["in"], "out", shard=(0, count)).jobs} == parts[0] - {Path("in/00.png")}


def test_names_formats_and_collisions(here: Path) -> None:
    folder_of(1)
    for name in ("in/a.png", "in/a.jpg", "in/b.jpg", "in/c.tiff"):
        save(name, noise(4, 4, 3))

    def targets(**writing: str) -> list[str]:
        return sorted(job.target.name for job in plan_jobs(["in"], "o", writing=OutputOptions(**writing)).jobs)  # type: ignore[arg-type]

    assert targets() == ["00.png", "a.jpg", "a.png", "b.jpg", "c.tiff"]
    assert targets(format="png") == ["00.png", "a.jpg.png", "a.png", "b.png", "c.png"]
    assert targets(format="tif", name="{stem}_{extension}") == [
        "00_png.tif",
        "a_jpg.tif",
        "a_png.tif",
        "b_jpg.tif",
        "c_tiff.tiff",
    ]


def test_lists_and_patterns_keep_the_tree(
    here: Path,
    small: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("p/x", "p/y", "p/z"):
        Path(name).mkdir(parents=True)
        save(f"{name}/1.png", noise(8, 8, 3))
    outcome = command("restore", "p/[xy]/*.png", "-o", "o", "-m", small)
    assert (outcome.code, names_in("o")) == (0, ["x/1.png", "y/1.png"])
    assert "as a pattern it matches no pictures" in command("restore", "p/*.webp", "-o", "o2", "-m", small).error
    listed = f"p/x/1.png\r\n\n{here}/p/z/../z/1.png\np/absent.png\n"

    class Stdin:
        buffer = io.BytesIO(listed.encode())

    monkeypatch.setattr(sys, "stdin", Stdin)
    outcome = command("restore", "--list", "-", "-o", "l", "-m", small, "--report", "r.jsonl")
    assert (outcome.code, names_in("l")) == (1, ["x/1.png", "z/1.png"])
    assert {str(line["state"]): line.get("reason", "") for line in lines_of("r.jsonl")} == {
        "done": "",
        "failed": "p/absent.png: no such file; check the path",
    }


def test_a_report_replaces_nothing_but_goes_on_with_itself(here: Path, small: Path, command: Command) -> None:
    save("a.png", noise(8, 8, 3))
    before = Path("a.png").read_bytes()
    for name in ("a.png", "."):
        refused = command("restore", "a.png", "-o", "o.png", "-m", small, "--report", name)
        assert refused.code == 1
        assert refused.error.count("\n") <= 1
    assert Path("a.png").read_bytes() == before
    assert not Path("o.png").exists()
    for name in ("o.png", "p.png"):
        assert command("restore", "a.png", "-o", name, "-m", small, "--report", "r.jsonl").code == 0
    assert [str(line["target"]) for line in lines_of("r.jsonl")] == ["o.png", "p.png"]


@pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
def test_nothing_is_written_outside_the_output_folder(here: Path, small: Path, command: Command) -> None:
    folder_of(2)
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    os.symlink("../elsewhere/00.png", "out/00.png")
    outcome = command("restore", "in", "-o", "out", "-m", small)
    assert outcome.code == 1
    assert "would be written outside out" in outcome.err
    assert os.listdir("elsewhere") == []
    assert Path("out/01.png").is_file()


def test_other_options_do_not_pass_for_done(here: Path, small: Path, command: Command) -> None:
    folder_of(2)
    run = ("restore", "in", "-o", "out", "-m", small)
    assert command(*run).code == 0
    assert command(*run).out == ""
    before = {name: Path("out", name).read_bytes() for name in names_in("out")}
    refused = command(*run, "--noise", 1).error
    assert "and 1 more outputs are there already; give --overwrite" in refused
    assert {name: Path("out", name).read_bytes() for name in names_in("out")} == before
    assert command(*run, "--noise", 1, "--overwrite").out.count("\n") == 2
    save("in/00.png", noise(9, 9, 3, seed=5))
    assert "is there already" in command(*run, "--noise", 1).error, "a changed source is another picture"


def test_exact_sizes_of_real_results(here: Path, small: Path, command: Command) -> None:
    save("a.png", noise(20, 30, 3))
    for index, (option, size) in enumerate(
        [
            (["--scale", 2.5], (75, 50)),
            (["--size", "64x64"], (64, 64)),
            (["--size", "64x64", "--size-mode", "fit"], (64, 43)),
            (["--size", "64x64", "--size-mode", "fill"], (64, 64)),
            (["--long-side", 41], (41, 27)),
            (["--megapixels", 0.0024], (60, 40)),
            (["--scale", 2, "--restore-at", "output"], (60, 40)),
        ]
    ):
        outcome = command("restore", "a.png", "-o", f"o{index}.png", "-m", small, *option)
        assert outcome.code == 0
        assert ("stretched from 30 x 20" in outcome.err) == (option == ["--size", "64x64"])
        with Image.open(f"o{index}.png") as image:
            assert image.size == size
    assert np.asarray(Image.open("o3.png")).std() > 0
