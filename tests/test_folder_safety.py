"""Folders and journals in the hands of others: links and ``..`` in names, second processes, what a power cut leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from command_runs import Command, environment
from s3diff.errors import OptionError, OutputError
from s3diff.folders.journal import Journal
from s3diff.folders.plan import plan_jobs
from s3diff.images.picture import Picture
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration import frames_and_pages, steps
from s3diff.restoration.sizes import Size, Sizes
from test_cli import names_in, noise, save, tree
from test_restore_runs import folder_of

links = pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
RUN = {"model": "a", "options": {"scale": 4}}
HEADER = json.dumps({"journal": "s3diff restore", "version": 1, "run": RUN}).encode() + b"\n"


# ---------------------------------------------------------------------------------------------- out of the folder


@links
def test_a_linked_folder_inside_the_output_leads_nothing_out(here: Path, small: Path, command: Command) -> None:
    Path("in/sub/deep").mkdir(parents=True)
    for name in ("in/a.png", "in/sub/b.png", "in/sub/deep/c.png"):
        save(name, noise(8, 8, 3))
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    os.symlink("../elsewhere", "out/sub")
    outcome = command("restore", "in", "-r", "-o", "out", "-m", small)
    assert outcome.code == 1
    assert outcome.err.count("would be written outside out") >= 2
    assert os.listdir("elsewhere") == []
    assert Path("out/a.png").is_file()


@links
def test_a_link_that_comes_while_the_picture_is_restored(
    here: Path, small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(1)
    Path("elsewhere").mkdir()
    check = steps.allowed_sizes

    def check_and_link(size: Size, options: RestoreOptions, name: object) -> Sizes:
        os.symlink("../elsewhere/00.png", "out/00.png")
        return check(size, options, name)

    monkeypatch.setattr(steps, "allowed_sizes", check_and_link)
    outcome = command("restore", "in", "-o", "out", "-m", small)
    assert outcome.code == 1
    assert "would be written outside out" in outcome.err
    assert os.listdir("elsewhere") == []


@links
def test_a_linked_journal_is_not_followed_out(here: Path, small: Path, command: Command) -> None:
    folder_of(1)
    Path("out").mkdir()
    os.symlink("../mine.jsonl", "out/.s3diff-journal.jsonl")
    assert "would be written outside out" in command("restore", "in", "-o", "out", "-m", small).error
    assert not Path("mine.jsonl").exists()
    assert command("restore", "in", "-o", "out", "-m", small, "--journal", "named.jsonl").code == 0, "asked for by name"


@pytest.mark.parametrize("pattern", ["p/*/../../secret/*.png", "p/**/../../secret/1.png"])
def test_dots_behind_a_wildcard_lead_nothing_out(here: Path, small: Path, command: Command, pattern: str) -> None:
    for name in ("p/x", "secret"):
        Path(name).mkdir(parents=True)
        save(f"{name}/1.png", noise(8, 8, 3))
    before = tree(here)
    refused = command("restore", pattern, "-o", "deep/out", "-m", small).error
    assert "leads out of p by .. behind a wildcard" in refused
    assert tree(here) == before


def test_dots_that_stay_inside_are_only_another_spelling(here: Path) -> None:
    for name in ("p/x", "p/y"):
        Path(name).mkdir(parents=True)
        save(f"{name}/1.png", noise(8, 8, 3))
    assert [job.target.as_posix() for job in plan_jobs(["p/x/../*/1.png"], "o/").jobs] == ["o/x/1.png", "o/y/1.png"]
    assert [job.target.as_posix() for job in plan_jobs(["p/*/../y/1.png"], "o/").jobs] == ["o/y/1.png"]


@pytest.mark.parametrize(
    ("writing", "words"),
    [
        (OutputOptions(format="webp"), "format is webp, but o.png ends otherwise"),
        (OutputOptions(name="{stem}_x4"), "name is '{stem}_x4', but o.png is a file's name"),
        (OutputOptions(format="png"), ""),
    ],
)
def test_formats_and_names_beside_one_file(here: Path, writing: OutputOptions, words: str) -> None:
    save("a.png", noise(8, 8, 3))
    if words:
        with pytest.raises(OptionError, match=re.escape(words)):
            plan_jobs(["a.png"], "o.png", writing=writing)
    else:
        assert [job.target for job in plan_jobs(["a.png"], "o.png", writing=writing).jobs] == [Path("o.png")]


def test_names_with_dots_in_lists_and_templates_stay_inside(here: Path) -> None:
    for name in ("a/b", "c"):
        Path(name).mkdir(parents=True)
        save(f"{name}/1.png", noise(8, 8, 3))
    for listed in (["a/b/../../c/1.png", "a/b/1.png"], [f"{here}/a/../c/1.png", "./a/./b/1.png"], ["c/../c/1.png"]):
        root = (here / "out").resolve()
        for job in plan_jobs([], "out", listed=listed).jobs:
            assert root in job.target.resolve().parents
            assert ".." not in job.target.parts
    for model in ("..", "/", "../..", "."):
        writing, names = OutputOptions(name="{model}{stem}"), {"model": Path(model).name, "scale": "4"}
        (job,) = plan_jobs(["c/1.png"], "out/", writing=writing, names=names).jobs
        assert job.target.parent == Path("out")


@links
def test_scratch_files_of_a_streamed_result_that_are_links_are_not_followed(
    here: Path, small: Path, command: Command
) -> None:
    pytest.importorskip("pyvips", reason="needs the extra large")
    save("a.png", noise(40, 40, 3))
    for name in ("pixels", "tiles", "part", "finished", "lock"):
        Path(f"mine {name}").write_text("mine")
        os.symlink(f"mine {name}", f".o.tif.s3diff-{name}")
    for color_match in ("wavelet", "adain"):
        run = ("restore", "a.png", "-o", "o.tif", "--stream", "--overwrite", "-m", small, "--color-match", color_match)
        assert command(*run).code == 0
    assert {path.read_text() for path in here.glob("mine *")} == {"mine"}
    assert sorted(path.name for path in here.glob(".o.tif*")) == []


# ---------------------------------------------------------------------------------------------- read once


def test_a_picture_on_its_own_is_decoded_once(
    here: Path, small: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("a.png", noise(8, 8, 3))
    num_reads, read = 0, frames_and_pages.read_picture

    def counted(path: Path, *limits: int, page: int | None = None) -> Picture:
        nonlocal num_reads
        num_reads += 1
        return read(path, *limits, page=page)

    monkeypatch.setattr(frames_and_pages, "read_picture", counted)
    assert command("restore", "a.png", "-o", "o.png", "-m", small).code == 0
    assert num_reads == 1
    assert "absent.png" in command("restore", "a.png", "absent.png", "-o", "o", "-m", small).error
    Path("b.png").write_text("words")
    refused = command("restore", "b.png", "-o", "p.png", "-m", "a model that is not there").error
    assert "b.png is not a PNG" in refused, "looked at before the model"


# ---------------------------------------------------------------------------------------------- a second process


def holding(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that says ``held`` and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.slow
def test_a_second_process_on_the_same_folder_is_refused(here: Path, small: Path, command: Command) -> None:
    folder_of(2)
    holder = holding(
        "import sys; from pathlib import Path; from s3diff.folders.journal import Journal\n"
        "with Journal(Path('out/.s3diff-journal.jsonl'), {}):\n    print('held', flush=True); sys.stdin.read()\n"
    )
    try:
        before = tree(Path("out"))
        refused = command("restore", "in", "-o", "out", "-m", small).error
        assert "is in use by another process that restores into this folder; wait for it" in refused
        assert tree(Path("out")) == before
        assert command("restore", "in", "-o", "out", "-m", small, "--shard", "0/1").code == 0, "a journal of its own"
    finally:
        holder.communicate()
    folder_of(1, "more")
    assert command("restore", "more", "-o", "out2", "-m", small).code == 0


@pytest.mark.slow
def test_a_lock_whose_process_was_killed_holds_nobody_up(here: Path, small: Path, command: Command) -> None:
    folder_of(1)
    holder = holding(
        "import sys; from pathlib import Path; from s3diff.folders.journal import Journal\n"
        "with Journal(Path('out/.s3diff-journal.jsonl'), {}):\n    print('held', flush=True); sys.stdin.read()\n"
    )
    holder.kill()
    holder.communicate()
    assert command("restore", "in", "-o", "out", "-m", small).code == 0


@pytest.mark.slow
def test_a_second_process_on_the_same_streamed_result_is_refused(here: Path, small: Path, command: Command) -> None:
    pytest.importorskip("pyvips", reason="needs the extra large")
    save("a.png", noise(20, 20, 3))
    holder = holding(
        "import sys; from pathlib import Path; from s3diff.restoration.scratch_files import only_one\n"
        "with only_one(Path('o.tif').resolve()):\n    print('held', flush=True); sys.stdin.read()\n"
    )
    run = ("restore", "a.png", "-o", "o.tif", "--stream", "-q", "-m", small)
    try:
        assert "o.tif is being written by another process; wait for it" in command(*run).error
    finally:
        holder.communicate()
    assert command(*run).code == 0


# ---------------------------------------------------------------------------------------------- after a power cut


def journal_after(content: bytes) -> Journal:
    """Opened as the next run opens it."""
    Path("j.jsonl").write_bytes(content)
    return Journal(Path("j.jsonl"), RUN)


def line_of(name: str, stamp: object = (1, 2)) -> bytes:
    return json.dumps({"ended": name, "stamp": stamp, "state": "done"}).encode() + b"\n"


@pytest.mark.parametrize(
    "left",
    [
        b"",
        b"\0",
        bytes(4096),
        HEADER[:1],
        HEADER[:17],
        HEADER[:-1] + bytes(100),
        HEADER[: len(HEADER) // 2] + bytes(512),
        HEADER[:30] + b"\0\n",
    ],
    ids=[
        "empty",
        "a zero",
        "zeros",
        "one byte",
        "half a name",
        "no line end",
        "half and zeros",
        "zeros and a line end",
    ],
)
def test_a_header_that_a_power_cut_took_counts_as_nothing_written(here: Path, left: bytes) -> None:
    with journal_after(left) as journal:
        assert (journal.done, journal.begun) == ({}, {})
        journal.finish("a.png", (1, 2), {"state": "done"})
    with Journal(Path("j.jsonl"), RUN) as journal:
        assert journal.is_own("a.png", (1, 2))


def test_lines_torn_in_the_middle_cost_only_their_own_pictures(here: Path) -> None:
    torn = [
        line_of("b.png")[:20] + bytes(300) + b"\n",
        bytes(512) + b"\n",
        b"\xff\xfe\x00garbage\n",
        b"[" * 5000 + b"\n",
    ]
    for each in torn:
        with journal_after(HEADER + line_of("a.png") + each + line_of("c.png")) as journal:
            assert set(journal.done) == {"a.png", "c.png"}
    with journal_after(HEADER + line_of("a.png") + line_of("b.png")[:-5]) as journal:
        assert set(journal.done) == {"a.png"}
        journal.finish("c.png", (1, 2), {"state": "done"})
    with Journal(Path("j.jsonl"), RUN) as journal:
        assert set(journal.done) == {"a.png", "c.png"}


@pytest.mark.parametrize(
    "line", [{"ended": ["a"], "state": "done"}, {"begun": {}}, {"ended": 5, "state": "done"}, {"begun": None}, {"x": 1}]
)
def test_lines_of_a_wrong_kind_are_no_entries(here: Path, line: dict[str, object]) -> None:
    with journal_after(HEADER + json.dumps(line).encode() + b"\n" + line_of("a.png")) as journal:
        assert (set(journal.done), journal.begun) == ({"a.png"}, {})
    for stamp in (None, "x", [1], [1, 2, 3], {}):
        with journal_after(HEADER + line_of("a.png", stamp)) as journal:
            assert not journal.is_own("a.png", (1, 2))


def test_the_journal_of_another_version_is_left_alone(here: Path) -> None:
    content = HEADER.replace(b'"version": 1', b'"version": 2') + line_of("a.png")
    with pytest.raises(OutputError, match=r"is the journal of another version of s3diff; .* choose another --journal"):
        journal_after(content)
    assert Path("j.jsonl").read_bytes() == content
    with pytest.raises(OutputError, match="another version"):
        Journal(Path("j.jsonl"), RUN)  # the first try holds no lock any longer


@pytest.mark.parametrize("content", [b"words\n", b'{"a": 1}\n', b"[]\n", b"\x89PNG\r\n\x1a\n", b"{}"])
def test_what_is_no_journal_is_left_alone(here: Path, content: bytes) -> None:
    with pytest.raises(OutputError, match="is no journal of s3diff restore; choose another --journal"):
        journal_after(content)
    assert Path("j.jsonl").read_bytes() == content


def test_entries_do_not_pass_to_another_run_whose_header_was_lost(here: Path) -> None:
    """Lines without a header before them count for nobody."""
    with journal_after(bytes(len(HEADER)) + b"\n" + line_of("a.png")) as journal:
        assert journal.done == {}


def test_an_interrupted_folder_goes_on_after_every_kind_of_damage(here: Path, small: Path, command: Command) -> None:
    folder_of(4)
    run = ("restore", "in", "-m", small, "--scale", 1, "--restore-at", "output", "-o")
    assert command(*run, "out").code == 0
    whole = {name: Path("out", name).read_bytes() for name in names_in("out")}
    content = Path("out/.s3diff-journal.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    assert [next(iter(json.loads(line))) for line in lines] == ["journal", *["begun"] * 4, *["ended"] * 4]
    zeroed = bytes(len(lines[-2])) + b"\n"
    for damaged in (content[:-7], b"".join([*lines[:-2], zeroed, lines[-1]]), b"".join(lines[:5]), content + bytes(99)):
        Path("out/.s3diff-journal.jsonl").write_bytes(damaged)
        Path("out/03.png").unlink()
        outcome = command(*run, "out")
        assert outcome.code == 0, outcome.err
        assert {name: Path("out", name).read_bytes() for name in names_in("out")} == whole
