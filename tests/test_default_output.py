"""Where results go without ``-o``, the short form of the command, and what is told of files that are no pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from command_runs import Command
from s3diff.folders.default_output import default_output
from s3diff.formats import FOREIGN, FORMATS, PICTURE_EXTENSIONS, foreign_kind
from s3diff.options import OutputOptions


def picture(name: str, size: tuple[int, int] = (6, 5)) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path)
    return path


def test_places(here: Path) -> None:
    picture("in/photo.jpg")
    plain = OutputOptions()
    assert Path(default_output(["in/photo.jpg"], plain, {})) == Path("in/photo_restored.jpg")
    picture("in/photo_restored.jpg")
    picture("in/photo_restored_2.jpg")
    assert Path(default_output(["in/photo.jpg"], plain, {})) == Path("in/photo_restored_3.jpg")
    assert Path(default_output(["in/photo.jpg"], plain, {}, keeps_name=True)) == Path("in/photo_restored.jpg")
    assert Path(default_output(["in/photo.jpg"], OutputOptions(format="png"), {})) == Path("in/photo_restored.png")
    named = OutputOptions(name="{stem}-{scale}x")
    assert Path(default_output(["in/photo.jpg"], named, {"scale": "2"})) == Path("in/photo-2x.jpg")
    for folder in ("in", "in/", "./in", "../" + here.name + "/in"):
        assert Path(default_output([folder], plain, {})).resolve() == here / "in_restored"
        assert default_output([folder], plain, {}).endswith(os.sep)
    assert Path(default_output(["."], plain, {})) == here.parent / f"{here.name}_restored"
    for several in (["in/photo.jpg", "b.png"], ["in/*.jpg"], []):
        assert Path(default_output(several, plain, {}, is_listed=not several)) == Path("restored")


def test_the_short_form_writes_beside_and_never_over(command: Command, small: Path, here: Path) -> None:
    source = picture("photo.jpg")
    before = source.read_bytes()
    assert command("photo.jpg", "-m", small).out.startswith("photo_restored.jpg  24x20")
    first = Path("photo_restored.jpg").read_bytes()
    assert command("restore", "photo.jpg", "-m", small, "--scale", "2x").out.startswith("photo_restored_2.jpg  12x10")
    assert command("--size", "9×8", "photo.jpg", "-m", small).out.startswith("photo_restored_3.jpg  9x8")
    named = command("photo.jpg", "-m", small, "--name", "{stem}-{scale}", "--format", "png", "--scale", "1")
    assert named.out.startswith("photo-1.png  6x5")
    assert (source.read_bytes(), Path("photo_restored.jpg").read_bytes()) == (before, first)
    assert command("photo.jpg", "-m", small, "--skip-existing").out == ""
    assert command("photo.jpg", "-m", small, "--overwrite", "--scale", "1").out.startswith("photo_restored.jpg  6x5")
    assert Path("photo_restored.jpg").read_bytes() != first


def test_a_folder_and_several(command: Command, small: Path, here: Path) -> None:
    picture("in/a.png")
    picture("in/b.png")
    assert command("in", "-m", small).code == 0
    assert sorted(path.name for path in Path("in_restored").glob("*.png")) == ["a.png", "b.png"]
    assert command("in/a.png", "in/b.png", "-m", small).code == 0
    assert sorted(path.name for path in Path("restored").glob("*.png")) == ["a.png", "b.png"]


def test_a_word_that_is_no_file_is_no_picture(command: Command, here: Path) -> None:
    wrong = command("restroe", "photo.jpg").error
    assert wrong == "s3diff: No such command, file or folder: 'restroe'. Did you mean 'restore'? See s3diff --help"
    assert command("zzzz").error == "s3diff: No such command, file or folder: 'zzzz'; see s3diff --help"
    assert "No such command 'zzzz'" in command("cluster", "zzzz").error
    assert (
        command("photo.jpg").error
        == "s3diff: photo.jpg does not exist; give a picture, a folder of pictures or a video"
    )
    assert command("--version").code == 0


@pytest.mark.parametrize("text", ["x", "2xx3", "4xx", ""])
def test_factors_that_are_none(command: Command, here: Path, text: str) -> None:
    picture("a.jpg")
    assert command("a.jpg", "--scale", text).error.startswith(f"s3diff: scale is {text!r}; give a number above 0")


# ---------------------------------------------------------------------------------------------- files that are foreign


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("shot.cr3", b"\0\0\0\x18ftypcrx \0\0\0\x01", "shot.cr3 is a raw file of a camera; develop it first"),
        ("shot.raf", b"FUJIFILMCCD-RAW 0201", "shot.raf is a raw file of a camera; "),
        ("letter.pdf", b"%PDF-1.7\n", "letter.pdf is a document; make pictures of its pages"),
        ("letter.docx", b"PK\x03\x04\x14\0", "letter.docx is a document; "),
        ("photos.zip", b"PK\x03\x04\x14\0", "photos.zip is an archive; unpack it"),
        ("layers.psd", b"8BPS\0\x01", "layers.psd is a file of an image editor; export it"),
        ("logo.svg", b'<?xml version="1.0"?>\n<svg', "logo.svg is a vector drawing; "),
        ("photo.jpg", b"<!DOCTYPE html>\n<html>", "photo.jpg is a web page; download the picture itself"),
        ("photo.png", b"version https://git-lfs.github.com/spec/v1\n", "photo.png is a pointer of Git LFS; fetch"),
        ("photo.jxl", b"\xff\x0a\0\0", "photo.jxl is a picture in JPEG XL"),
        ("notes.txt", b"words", "notes.txt is not a PNG, JPEG,"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(
    command: Command, here: Path, name: str, content: bytes, said: str
) -> None:
    Path(name).write_bytes(content)
    assert command(name).error.startswith(f"s3diff: {said}")


def test_several_videos_are_called_what_they_are(command: Command, here: Path) -> None:
    Path("a.mov").write_bytes(b"\0\0\0\x14ftypqt  \0\0\0\0")
    Path("b.jpg").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
    said = command("a.mov", "b.jpg").err
    assert "a.mov is a video; take its pictures out (ffmpeg -i VIDEO" in said


def test_a_folder_of_raw_files_says_what_to_do(command: Command, here: Path) -> None:
    Path("in").mkdir()
    Path("in/a.nef").write_bytes(b"")
    assert "; of its raw files of cameras: develop it first" in command("in").error


def test_no_kind_is_a_format_that_is_read() -> None:
    endings = [ending for kind in FOREIGN for ending in kind.extensions]
    assert len(set(endings)) == len(endings)
    assert not set(endings) & set(PICTURE_EXTENSIONS)
    assert all(foreign_kind(f"a{form.extensions[0]}") is None for form in FORMATS)
