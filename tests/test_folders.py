"""Folders as a library: what is taken, left out and named; results beside inputs; a journal that refused runs leave
alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s3diff.errors import OutputError, PictureError
from s3diff.folders import FolderResult, Outcome, restore_folder
from s3diff.folders.inputs import Found, find_pictures
from s3diff.folders.plan import plan_jobs, read_list
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.restorer import Restorer

links = pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
unlisted = pytest.mark.skipif(
    os.name == "nt" or getattr(os, "geteuid", lambda: 1)() == 0, reason="nothing is closed to root"
)

Restore = Callable[..., FolderResult]


@pytest.fixture
def restore(restorer: Restorer, here: Path) -> Restore:
    """``restore_folder`` with a tiny model, at scale 1."""

    def run(inputs: object, output: str, scale: float = 1.0, **given: object) -> FolderResult:
        return restore_folder(inputs, output, RestoreOptions(scale=scale), restorer=restorer, **given)  # type: ignore[arg-type]

    return run


def picture(*names: str) -> None:
    for seed, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)


def names_below(folder: str) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.name.startswith(".s3diff")
    )


def left_out(found: Found | FolderResult) -> list[str]:
    return [f"{count} {what}" for count, what in found.left_out.lines()]


def places(found: Found) -> list[str]:
    return [place.as_posix() for _, place in found.pictures]


# ---------------------------------------------------------------------------------------------- the library


def test_a_folder_is_restored_and_told_of(restore: Restore) -> None:
    picture("in/a.png", "in/sub/b.jpg", "in/sub/c.png")
    Path("in/bad.png").write_text("words")
    told: list[Outcome] = []
    result = restore("in", "out", scale=2, recursive=True, report="r.jsonl", on_outcome=told.append)
    assert names_below("out") == ["a.png", "sub/b.jpg", "sub/c.png"]
    assert (result.num_done, result.num_not_tried) == (3, 0)
    assert [outcome.job.source.name for outcome in result.failed] == ["bad.png"]
    assert [outcome.state for outcome in told] == ["done", "failed", "done", "done"]
    assert [json.loads(line)["state"] for line in Path("r.jsonl").read_text().splitlines()] == [
        outcome.state for outcome in told
    ]
    with Image.open("out/sub/c.png") as image:
        assert image.size == (14, 12)
    again = restore(["in"], Path("out"), scale=2, recursive=True)
    assert (again.num_done, again.skipped, len(again.failed)) == (0, {"done by an earlier run": 3}, 1)


def test_one_picture_goes_into_the_folder_too(restore: Restore) -> None:
    picture("a.png")
    assert restore("a.png", "out").num_done == 1
    assert names_below("out") == ["a.png"]


def test_nothing_is_written_down_unless_wanted(restore: Restore) -> None:
    picture("in/a.png", "in/b.png")
    restore("in", "out", keep_journal=False)
    assert sorted(os.listdir("out")) == ["a.png", "b.png"]
    restore("in", "other", journal="j.jsonl")
    assert sorted(os.listdir("other")) == ["a.png", "b.png"]
    assert restore("in", "other", journal="j.jsonl").skipped == {"done by an earlier run": 2}


# ---------------------------------------------------------------------------------------------- refused runs


def test_a_refused_run_leaves_no_trace(restore: Restore) -> None:
    picture("in/a.png", "in/b.png")
    restore("in", "out")
    os.remove("out/b.png")
    before = Path("out/.s3diff-journal.jsonl").read_bytes()
    with pytest.raises(OutputError, match="is there already"):
        restore("in", "out", scale=2)
    assert Path("out/.s3diff-journal.jsonl").read_bytes() == before
    result = restore("in", "out")
    assert (result.num_done, result.skipped) == (1, {"done by an earlier run": 1}), "it goes on"


def test_a_run_that_is_refused_first_leaves_nothing_at_all(restore: Restore) -> None:
    picture("in/a.png", "in/b.png", "out/a.png")
    with pytest.raises(OutputError, match="is there already"):
        restore("in", "out")
    with pytest.raises(OutputError, match="is there already"):
        restore("in", "out", journal="new/folder/j.jsonl")
    assert os.listdir("out") == ["a.png"]
    assert not Path("new").exists()


# ---------------------------------------------------------------------------------------------- results beside inputs


@pytest.mark.parametrize("given", [{}, {"skip_existing": True}, {"journal": "j.jsonl"}])
def test_results_beside_their_inputs_go_on(restore: Restore, given: dict[str, object]) -> None:
    picture("in/a.png", "in/b.png", "in/sub/c.png")
    writing = OutputOptions(name="{stem}_x{scale}")
    assert restore("in", "in", scale=2, writing=writing, recursive=True, **given).num_done == 3
    whole = names_below("in")
    os.remove("in/b_x2.png")
    result = restore("in", "in", scale=2, writing=writing, recursive=True, **given)
    assert (result.num_done, result.failed) == (1, [])
    assert names_below("in") == whole
    assert left_out(result) == ["2 results of earlier runs: a_x2.png, c_x2.png"]
    result = restore("in", "in", scale=3, writing=writing, recursive=True, **given)
    assert result.num_done == 3, "results of another scale are no inputs either"


def test_results_beside_their_inputs_go_on_without_a_journal(restore: Restore) -> None:
    picture("in/a.png", "in/b.png")
    writing = OutputOptions(name="{stem}_x2", format="webp")
    restore("in", "in", writing=writing, keep_journal=False)
    os.remove("in/a_x2.webp")
    with pytest.raises(OutputError, match=r"b_x2\.webp is there already"):
        restore("in", "in", writing=writing, keep_journal=False)
    assert restore("in", "in", writing=writing, keep_journal=False, skip_existing=True).num_done == 1
    assert names_below("in") == ["a.png", "a_x2.webp", "b.png", "b_x2.webp"]
    overwriting = OutputOptions(name="{stem}_x2", format="webp", overwrite=True)
    with pytest.raises(OutputError, match="would overwrite the input"):
        restore("in", "in", writing=overwriting, keep_journal=False)


def test_a_second_output_folder_in_the_tree_takes_no_results_for_inputs(restore: Restore) -> None:
    picture("tree/a.png", "tree/sub/b.png")
    assert restore("tree", "tree/first", recursive=True).num_done == 2
    result = restore("tree", "tree/second", recursive=True)
    assert names_below("tree/second") == ["a.png", "sub/b.png"]
    assert left_out(result)[-1] == "2 results of earlier runs: a.png, b.png"
    assert restore("tree/**/*.png", "tree/third").num_done == 2
    assert restore("tree/first", "again", recursive=True).num_done == 2, "results that are named may be restored"


# ---------------------------------------------------------------------------------------------- bad things in folders


@unlisted
@pytest.mark.parametrize("given", [["in"], ["in/**/*.png"]])
def test_a_closed_folder_fails_for_itself(restore: Restore, given: list[str]) -> None:
    picture("in/a.png", "in/closed/b.png")
    os.chmod("in/closed", 0)
    try:
        result = restore(given, "out", recursive=True)
    finally:
        os.chmod("in/closed", 0o700)
    assert names_below("out") == ["a.png"]
    assert ["in/closed cannot be listed" in outcome.reason for outcome in result.failed] == [True]


def test_a_folder_that_cannot_be_listed_fails_for_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for root, whom no folder is closed to."""
    picture("in/a.png", "in/closed/b.png")
    scandir = os.scandir

    def closed(folder: object) -> object:
        if Path(str(folder)).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", closed)
    for given in ("in", "in/**/*.png", "in/*/*.png"):
        plan = plan_jobs([given, "in/a.png"], "out/", recursive=True)
        assert [job.source for job in plan.jobs] == [Path("in/a.png")]
        assert [(job.source, reason.split(" (")[0]) for job, reason in plan.failed] == [
            (Path("in/closed"), "in/closed cannot be listed")
        ]
    with pytest.raises(PictureError, match="closed cannot be listed"):
        plan_jobs(["in/closed"], "out/")


@pytest.mark.skipif(os.name == "nt", reason="names are limited otherwise")
def test_a_name_that_is_too_long_fails_for_itself(restore: Restore) -> None:
    stem = "q" * 250
    picture(f"in/{stem}.jpg", f"in/{stem}.png", "in/z.png")
    result = restore("in", "out", writing=OutputOptions(format="webp"))
    assert names_below("out") == ["z.webp"]
    assert len(result.failed) == 2
    assert all("name too long" in outcome.reason for outcome in result.failed)


@links
@pytest.mark.parametrize("given", [["in"], ["in/*.png"], ["in/a.png", "in/broken.png"]])
def test_a_broken_link_fails_for_itself(restore: Restore, given: list[str]) -> None:
    picture("in/a.png")
    os.symlink("nowhere", "in/broken.png")
    result = restore(given, "out")
    assert names_below("out") == ["a.png"]
    assert [outcome.job.source.name for outcome in result.failed] == ["broken.png"]


# ---------------------------------------------------------------------------------------------- links and patterns


@links
def test_pattern_and_recursion_agree_about_links(here: Path) -> None:
    picture("in/a.png", "in/sub/b.png", "other/c.png")
    os.symlink("..", "in/sub/up")
    os.symlink("../other", "in/other")
    os.symlink("a.png", "in/name.png")
    os.symlink("../other/c.png", "in/outside.png")
    by_walk, by_pattern = find_pictures(["in"], recursive=True), find_pictures(["in/**/*.png"])
    assert places(by_walk) == places(by_pattern) == ["a.png", "outside.png", "sub/b.png"]
    assert left_out(by_walk) == left_out(by_pattern)
    assert sorted(left_out(by_walk)) == [
        f"1 the same pictures by another way: {os.path.join('in', 'name.png')}",
        f"2 links to folders: other, {os.path.join('sub', 'up')}",
    ]
    # In a wildcard's place a linked folder is meant, as in a shell.
    assert places(find_pictures(["in/*/*.png"])) == ["other/c.png", "sub/b.png"], (
        "a linked folder in a wildcard's place"
    )
    assert places(find_pictures(["in", "in/sub"], recursive=True)) == ["a.png", "outside.png", "sub/b.png"]


def test_patterns_mean_what_the_shell_means(here: Path) -> None:
    picture("in/a.png", "in/x/b.png", "in/x/y/c.png", "in/x/y/d.jpg", "in/.hidden/e.png", "in/x/.f.png", "in/[z]/g.png")
    for pattern, expected in {
        "in/*.png": ["a.png"],
        "in/**/*.png": ["[z]/g.png", "a.png", "x/b.png", "x/y/c.png"],
        "in/**": ["[z]/g.png", "a.png", "x/b.png", "x/y/c.png", "x/y/d.jpg"],
        "in/**/y/*": ["x/y/c.png", "x/y/d.jpg"],
        "in/*/*.png": ["[z]/g.png", "x/b.png"],
        "in/x/**/c.*": ["y/c.png"],
        "in/.h*/*.png": [".hidden/e.png"],
        "in/[[]z]/*.png": ["[z]/g.png"],
        "in/?/[a-b].png": ["x/b.png"],
    }.items():
        assert sorted(places(find_pictures([pattern]))) == expected, pattern
    assert places(find_pictures(["in/[z]"])) == ["g.png"], "a name that is there is no pattern"


def test_what_is_left_out_is_counted_and_named(here: Path) -> None:
    picture("in/a.png", "in/@eaDir/a.png", "in/#recycle/b.png", "in/.trash/c.png", "in/sub/@eaDir/d.png", "in/.e.png")
    for name in ("in/b.nef", "in/c.NEF", "in/notes"):
        Path(name).write_text("")
    assert sorted(left_out(find_pictures(["in"], recursive=True))) == [
        "1 hidden: .e.png",
        "1 no pictures by name: notes",
        "2 raw files of cameras: .nef (2)",
        "4 folders of the system: @eaDir (2), #recycle, .trash",
    ]
    assert "1 folders inside (--recursive reads them): sub" in left_out(find_pictures(["in"]))
    assert places(find_pictures(["in/@eaDir"])) == ["a.png"], "asked for by name"
    assert places(find_pictures(["in/@eaDir/*.png"])) == ["a.png"]


# ---------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    "content",
    [
        "ä b.png\nc.png\n".encode(),
        b"\xef\xbb\xbf" + "ä b.png\r\nc.png".encode(),
        "\ufeffä b.png\r\nc.png\r\n".encode("utf-16-le"),
        "\ufeffä b.png\nc.png\n".encode("utf-16-be"),
        "c.png\r\nä b.png\r\n".encode("utf-16-le"),
        "c.png\nä b.png\n".encode("utf-16-be"),
        "\"ä b.png\"\n'c.png'\n".encode(),
    ],
)
def test_lists_of_every_writer(here: Path, content: bytes) -> None:
    Path("list").write_bytes(content)
    assert sorted(read_list("list")) == ["c.png", "ä b.png"]


def test_quotes_that_belong_to_a_name_stay(here: Path) -> None:
    if os.name != "nt":
        Path("'a.png'").write_text("")
        Path("list").write_text("'a.png'\n")
        assert read_list("list") == ["'a.png'"]


def test_lists_with_nulls(here: Path) -> None:
    Path("list").write_bytes(b"line\nend.png\0b.png\0")
    assert read_list("list", null_separated=True) == ["line\nend.png", "b.png"]
    with pytest.raises(PictureError, match="--list0"):
        read_list("list")
    Path("list").write_bytes(b"\xff\xfea\0b")
    with pytest.raises(PictureError, match="no whole UTF-16"):
        read_list("list")
    Path("list").write_bytes("\ufeffä.png\0b.png\0".encode("utf-16-le"))
    assert read_list("list", null_separated=True) == ["ä.png", "b.png"]
    Path("list").write_bytes("\ufeffä.png\0b.png".encode())
    assert read_list("list", null_separated=True) == ["ä.png", "b.png"]
    Path("list").write_bytes("a.png\0b.png\0".encode("utf-16-le"))
    with pytest.raises(PictureError, match="looks like UTF-16"):
        read_list("list", null_separated=True)
    Path("list").write_bytes(b"a\0b\0")
    with pytest.raises(PictureError, match="looks like UTF-16"):
        read_list("list", null_separated=True)
    Path("a").write_text("")
    assert read_list("list", null_separated=True) == ["a", "b"], "files of one letter"


def test_lists_of_the_command(restore: Restore, restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--list`` and ``--list0`` add up."""
    from typer.testing import CliRunner

    from s3diff.apps import restore_display
    from s3diff.apps.cli import app

    picture("in/a.png", "in/b.png")
    Path("list").write_text("in/a.png\n")
    Path("list0").write_bytes(b"in/b.png\0")
    monkeypatch.setattr(restore_display, "load_model", lambda *given, **named: restorer)
    ended = CliRunner().invoke(
        app, ["restore", "--list", "list", "--list0", "list0", "-o", "out", "--scale", "1", "--no-journal"]
    )
    assert ended.exit_code == 0, ended.output
    assert names_below("out") == ["a.png", "b.png"]


def test_the_root_in_a_list_fails_alone(here: Path) -> None:
    """It has no name of its own, from which a result's could be made."""
    picture("in/a.png")
    jobs = plan_jobs([], "out", listed=["in/a.png", "/"]).jobs
    assert [Path(job.source) for job in jobs] == [Path("in/a.png"), Path("/")]
    assert len({job.target for job in jobs}) == 2
