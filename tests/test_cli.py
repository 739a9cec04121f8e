"""The command: real pictures through ``main``, and whatever users do wrong."""

from __future__ import annotations

import io
import os
import pickle
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from packaging.requirements import Requirement
from PIL import Image
from rich.console import Console

from command_runs import Command, Outcome, environment, files_up_to
from conftest import goldens_path
from golden_models import official_files, tiny_model_folder
from s3diff import diagnosis
from s3diff.apps import cli, cluster_commands, terminal
from s3diff.checkpoints.registry import NAMED_MODELS, NamedModel
from s3diff.images.files.reading import read_picture
from s3diff.integrations.ray.run import ClusterRun
from s3diff.options import LIMITS, ReleasedTiles, RestoreOptions
from s3diff.restoration.restorer import Restorer
from s3diff.version import __version__
from test_project import project_table

SCRIPT = project_table()["scripts"]["s3diff"].split(":")  # what the installed command calls: module and function
COMMANDS = ("restore", "convert", "models", "doctor", "degrade", "train", "train-estimator")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user with pictures of every kind, good and bad."""
    folder = tmp_path / "user"
    for inside in ("two", "no pictures", "bad model", "empty"):
        (folder / inside).mkdir(parents=True)
    monkeypatch.chdir(folder)
    save("a.png", noise(5, 6, 3))
    save("two/a.png", noise(4, 4, 3))
    save("two/b.png", noise(4, 4, 3, seed=1))
    save("clear.png", noise(5, 6, 4))
    save("large.jpg", noise(60, 60, 3))
    Path("cut.jpg").write_bytes(Path("large.jpg").read_bytes()[:2000])
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:-40])
    Path("text.png").write_text("these are words")
    Path("nothing.png").write_bytes(b"")
    Path("zero.png").write_bytes(png_header(0, 5))
    Path("huge.png").write_bytes(png_header(100_000, 100_000))
    Path("no pictures/readme.txt").write_text("words")
    Path("bad model/config.json").write_text('{"architectures": ["something else"]}')
    return folder


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: str | Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return Path(path)


def png_header(width: int, height: int) -> bytes:
    """A PNG file that states a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: name to content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def names_in(folder: str | Path) -> list[str]:
    """The visible files below a folder, without the run's journal."""
    found = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not path.name.startswith("."))


def levels(path: Path) -> np.ndarray:
    """The colour channels of a picture file, [H, W, C]."""
    return read_picture(path).pixels.astype(int)


# ---------------------------------------------------------------------------------------------- the whole flow


@pytest.mark.parametrize(
    ("how", "released", "allowed"), [("none", "nofix", 1), ("wavelet", "wavelet", 2), ("adain", "adain", 2)]
)
def test_the_released_pictures(
    command: Command, tiny: Path, tmp_path: Path, how: str, released: str, allowed: int
) -> None:
    outcome = command("restore", goldens_path("flow/lr"), "-o", tmp_path, "-m", tiny, "--color-match", how)
    assert outcome.code == 0
    names = names_in(tmp_path)
    assert names == ["img0.png", "img1.png", "img2.png", "img_gray.png", "img_rgba.png"]
    for name in names:
        expected, found = levels(goldens_path(f"flow/{released}/{name}")), levels(tmp_path / name)
        assert expected.shape == found.shape, name
        assert np.abs(expected - found).max() <= allowed, name


def test_grey_and_transparent_pictures(command: Command, tiny: Path, tmp_path: Path) -> None:
    grey, clear = goldens_path("flow/lr/img_gray.png"), goldens_path("flow/lr/img_rgba.png")
    released = levels(goldens_path("flow/nofix/img_gray.png"))
    for how in ("keep", "color"):
        arguments = ("restore", grey, "-o", tmp_path / f"{how}.png", "-m", tiny, "--color-match", "none", "--grey", how)
        assert command(*arguments).code == 0
    assert np.abs(levels(tmp_path / "color.png") - released).max() <= 1
    kept = levels(tmp_path / "keep.png")
    assert kept.shape == (96, 96, 1)
    # The released code cuts each channel to whole levels, this rounds their mean once.
    assert np.abs(kept - released.mean(axis=2, keepdims=True)).max() <= 1.5

    bicubic = ("-q", "--alpha", "bicubic")
    assert command("restore", clear, "-o", tmp_path / "clear.png", "-m", tiny, *bicubic) == Outcome(0, "", "")
    before, after = read_picture(clear).alpha, read_picture(tmp_path / "clear.png").alpha
    assert before is not None
    assert after is not None
    plane = torch.from_numpy(before.astype(np.float32))[None, None]
    enlarged = F.interpolate(plane, size=after.shape, mode="bicubic", align_corners=False).clamp(0, 255)[0, 0].numpy()
    assert np.abs(after - enlarged).max() <= 0.51


def test_every_option_reaches_the_restorer(command: Command, tiny: Path, place: Path) -> None:
    arguments = "--size 20x30 --guidance 1.5 --color-match adain --blur 0.25 --noise +0.3 --latent sample --seed 3"
    more = "--upsampling bicubic --grey keep --precision float32 --device cpu --max-megapixels 0.0006 --scale 9"
    more += " --max-input-megapixels 0.5 --max-file-megabytes 0.25"
    more += " --size-mode fill --restore-at output --strength 0.75 --alpha bicubic --tile 512 --released-tiles"
    more += " --lora-scale 0.5 --decoder tiny"
    prompts = ("--prompt", "a red flower", "--negative-prompt", "")
    outcome = command("restore", "a.png", "-o", "o.png", "-m", tiny, *arguments.split(), *more.split(), *prompts)
    assert outcome.code == 0
    options = RestoreOptions(
        scale=9,
        size=(20, 30),
        size_mode="fill",
        restore_at="output",
        strength=0.75,
        lora_scale=0.5,
        decoder="tiny",
        alpha="bicubic",
        guidance=1.5,
        positive_prompt="a red flower",
        negative_prompt="",
        color_match="adain",
        blur=0.25,
        noise="+0.3",
        latent="sample",
        seed=3,
        upsampling="bicubic",
        grey="keep",
        tile=512,
        released_tiles=ReleasedTiles(),
        max_output_pixels=600,
        max_input_pixels=500_000,
        max_file_bytes=250_000,
    )
    elsewhere = {"long_side", "megapixels", "pages"}
    for field in fields(options):
        assert field.name in elsewhere or getattr(options, field.name) != field.default, "none may be left out"
    expected = Restorer.from_pretrained(tiny, device="cpu").restore("a.png", options)
    assert np.array_equal(levels(place / "o.png"), expected.array)
    for option, value in (("--long-side", 17), ("--megapixels", 0.000255)):
        assert command("restore", "a.png", "-o", f"o{option}.png", "-m", tiny, option, value).code == 0
        assert levels(place / f"o{option}.png").shape == (14 if option == "--long-side" else 15, 17, 3)
    too_large = command("restore", "a.png", "-o", "p.png", "-m", tiny, *arguments.split(), "--max-megapixels", 0.000599)
    assert "20 x 30 px" in too_large.error


def test_fast_says_what_is_on_and_why(
    command: Command, small: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no compiler
    outcome = command("restore", "a.png", "-o", "o.png", "-m", small, "--fast", "--device", "cpu")
    assert outcome.code == 0
    lines = outcome.err.splitlines()
    assert lines[0].startswith("model tiny-compact")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["channels last", "compiling", "CUDA graphs"]
    assert "off, it needs a C++ compiler" in lines[2]


def test_what_is_printed(command: Command, small: Path, place: Path) -> None:
    outcome = command("restore", "a.png", "-o", "o.png", "-m", small, "--blur", 0.5, "--device", "cpu")
    expected = r"o\.png  24x20  blur 0\.500 \(estimated 0\.\d{3}\)  noise 0\.\d{3}  \d+\.\d\d s\n"
    assert re.fullmatch(expected, outcome.out)
    assert outcome.err == "model tiny-compact  device cpu  precision float32\n"
    assert command("restore", "a.png", "-o", "q.png", "-m", small, "--quiet") == Outcome(0, "", "")


def test_a_note_is_printed_for_what_was_lost(command: Command, small: Path, place: Path) -> None:
    image = Image.fromarray(noise(5, 6, 3))
    image.save("pages.tif", save_all=True, append_images=[image])
    outcome = command("restore", "pages.tif", "-o", "o.png", "-m", small)
    assert outcome.code == 0
    assert "pages.tif: the file holds 2 pages; the first one is used" in outcome.err


def test_the_embedded_model_is_the_default(command: Command, place: Path) -> None:
    outcome = command("restore", "a.png", "-o", "o.png")
    assert outcome.code == 0
    assert outcome.err.startswith("model compact ")
    assert levels(place / "o.png").shape == (20, 24, 3)


# ---------------------------------------------------------------------------------------------- inputs and outputs


def test_one_file_into_new_folders(command: Command, small: Path, place: Path) -> None:
    for output in ("new/deep folder/o.webp", "new/as folder/", "new"):
        assert command("restore", "a.png", "-o", output, "-m", small).code == 0
    written = sorted(str(path.relative_to("new")) for path in Path("new").rglob("*.*"))
    assert written == ["a.png", "as folder/a.png", "deep folder/o.webp"]


def test_folders_keep_names_formats_and_places(command: Command, small: Path, place: Path) -> None:
    (place / "in/sub").mkdir(parents=True)
    for name in ("in/b.jpg", "in/c.webp", "in/sub/d.TIFF", "in/.hidden.png"):
        save(name, noise(4, 4, 3))
    assert command("restore", "in", "-o", "flat", "-m", small, "--scale", 1).code == 0
    assert command("restore", "in", "a.png", "-o", "tree", "-m", small, "--scale", 1, "-r").code == 0
    assert names_in("flat") == ["b.jpg", "c.webp"]
    assert names_in("tree") == ["a.png", "b.jpg", "c.webp", "sub/d.TIFF"]
    for name in ("flat/b.jpg", "flat/c.webp", "tree/sub/d.TIFF"):
        with Image.open(name) as image:
            assert image.format == {"jpg": "JPEG", "webp": "WEBP", "TIFF": "TIFF"}[name.rsplit(".", 1)[1]]


def test_a_second_run_leaves_the_first_ones_results_alone(command: Command, small: Path, place: Path) -> None:
    """The output folder lies inside the input folder: its pictures are no inputs."""
    arguments = ("restore", "two", "-r", "-o", "two/restored", "-m", small)
    assert command(*arguments).code == 0
    first = tree(place / "two")
    assert re.fullmatch(r"done +0  in .* s\nskipped +2  done by an earlier run\n", command(*arguments).err)
    assert tree(place / "two") == first
    (place / "two/restored/b.png").unlink()
    assert command(*arguments).out.startswith("two/restored/b.png ")
    assert {name: content for name, content in tree(place / "two").items() if "journal" not in name} == {
        name: content for name, content in first.items() if "journal" not in name
    }


def test_a_picture_named_twice_is_restored_once(command: Command, small: Path, place: Path) -> None:
    outcome = command("restore", "two/a.png", "./two/a.png", "two", "-o", "o", "-m", small)
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["o/a.png", "o/b.png"]


def test_an_old_output_is_replaced_only_on_request(command: Command, small: Path, place: Path) -> None:
    Path("o.png").write_text("old")
    assert command("restore", "a.png", "-o", "o.png", "-m", small, "--skip-existing").code == 0
    assert "o.png is there already; give --overwrite" in command("restore", "a.png", "-o", "o.png", "-m", small).error
    assert Path("o.png").read_text() == "old"
    assert command("restore", "a.png", "-o", "o.png", "-m", small, "--overwrite").code == 0
    assert levels(place / "o.png").shape == (20, 24, 3)


@pytest.mark.parametrize(
    "name", ["ein Bild ü 写真 😀.png", "-dash.png", ":dog: [red]x[bold].png", "a'\"$b.png", "two  blanks.png"]
)
def test_names_are_shown_as_they_are(command: Command, small: Path, place: Path, name: str) -> None:
    save(name, noise(4, 4, 3))
    outcome = command("restore", f"./{name}", "-o", f"o/{name}", "-m", small)
    assert outcome.code == 0
    assert outcome.out.startswith(f"o/{name}  16x16  ")
    assert (place / "o" / name).is_file()
    assert f"absent {name} does not exist" in command("restore", f"absent {name}", "-o", "p.png", "-m", small).error


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", [b"line\nend.png", b"colour \x1b[31m.png", b"not utf-8 \xff.png"])
def test_names_that_cannot_be_shown_are_written_out(command: Command, small: Path, place: Path, name: bytes) -> None:
    path = os.fsdecode(name)
    save(path, noise(4, 4, 3))
    outcome = command("restore", path, "-o", f"o/{path}", "-m", small)
    assert outcome.code == 0
    assert outcome.out.count("\n") == 1
    assert outcome.out.rstrip().isprintable()
    assert Path(f"o/{path}").is_file()
    assert command("restore", f"{path}.absent", "-o", "p.png", "-m", small).error.isprintable()


# ---------------------------------------------------------------------------------------------- what users do wrong

TO_FILE = "-o o.png"

BAD_PICTURES = {
    "absent.png -o o.png": "absent.png does not exist",
    "'' -o o.png": "an input's name is empty",
    "'no pictures' -o o": "no pictures holds no pictures .*--recursive",
    "'no pictures' -r -o o": "no pictures holds no pictures",
    "cut.jpg -o o.png": "cut.jpg: the file is cut off",
    "cut.png -o o.png": "cut.png cannot be read",
    "text.png -o o.png": "text.png is not a PNG, JPEG, WebP, TIFF, AVIF, BMP, GIF or HEIC picture",
    "nothing.png -o o.png": "nothing.png is empty",
    "zero.png -o o.png": "zero.png: the picture has 0 pixels .0 x 5.; give a picture of at least 1 x 1",
    "huge.png -o o.png": "100000 x 100000 pixels, the limit is",
    "a.png absent.png -o o": "absent.png does not exist",
}
BAD_OUTPUTS = {
    "a.png -o text.png/o.png": "text.png/o.png cannot be written",
    "a.png -o ''": "the output's name is empty",
    "a.png -o o.xyz": "o.xyz has no picture extension",
    "a.png -o o.xcf": "o.xcf has no picture extension",
    "a.png -o results": "results is a file's name without extension; .* or / for a folder",
    "a.png -o a.png": "would overwrite the input",
    "a.png -o ./two/../a.png": "would overwrite the input",
    "a.png -o .": "would overwrite the input",
    "two -o two": "would overwrite the input",
    "a.png two/b.png -o two": "two/b.png would overwrite the input",
    "a.png two/a.png -o o": "a.png and two/a.png would both be written to o/a.png",
    "a.png clear.png -o o.png": "o.png is one file, but there are 2 pictures",
    "two -o o.png": "o.png is one file, but",
    "two -o text.png": "text.png is one file",
    "clear.png -o o.jpg": "JPEG cannot hold the picture's transparency",
    "a.png -o o.jpg --size 65501x1": "65501 x 1 pixels, a JPEG side has at most 65500",
}
BAD_OPTIONS = {
    "--scale 0": "scale is 0.0; give a number above 0",
    "--scale -2": "scale is -2.0; give",
    "--scale nan": "scale is nan; give",
    "--scale inf": "scale is inf; give",
    "--scale 1e308": "scale is 1e+308; give",
    "--scale 1e5": "megapixels; at most 268 are allowed",
    "--size 0x5": "size is (0, 5)",
    "--size 5": "size is '5'; give width and height",
    "--size big": "size is 'big'",
    "--size 5x5x5": "size is '5x5x5'",
    "--size 5.5x4": "size is '5.5x4'",
    "--size -5x4": "size is '-5x4'",
    "--size ²x3": "size is '²x3'",
    "--size 99999999999x1": "size is '99999999999x1'",
    "--size 50000x50000": "50000 x 50000 px, 2500 megapixels; at most 268 are allowed",
    "--max-megapixels 0.0001": "24 x 20 px, 0.00048 megapixels; at most 0.0001",
    "--max-megapixels 0": "max-megapixels is 0.0",
    "--max-megapixels nan": "max-megapixels is nan",
    "--max-input-megapixels 0": "max-input-megapixels is 0.0; give a number above 0",
    "--max-file-megabytes -1": "max-file-megabytes is -1.0; give a number above 0",
    "--quality 0": "quality is 0; give a whole number from 1 to 100",
    "--quality 101": "quality is 101",
    "--guidance nan": "guidance is nan",
    "--blur 2": "blur is 2.0; give a degree from 0 to 1",
    "--noise -1.1": "noise is '-1.1'; give a degree from 0 to 1",
    "--noise much": "noise is 'much'; give a degree from 0 to 1",
    "--strength 2": "strength is 2.0; give a number from 0",
    "--size 5x5 --long-side 5": "size, long_side and megapixels each set the output's size; give one",
    "--megapixels 0": "megapixels is 0.0; give a number above 0",
    "--shard 3/3": "shard is '3/3'; give PART/PARTS, the part counted from 0",
    "--shard 1": "shard is '1'; give",
    "--name x": "name is 'x'; give a name with {stem}",
    "--name {stem}_{scale} --long-side 50": "leave out {scale}",
    "--name {stem}/x": "name is '{stem}/x'; give the name of a file without folders",
    "--name {stem.x}": "name is '{stem.x}'; give a name with {stem}",
    "--skip-existing --overwrite": "exclude each other",
    "--server http://127.0.0.1:1 --max-megapixels 9": "--server and --max-megapixels exclude each other",
    "--server http://127.0.0.1:1 --max-input-megapixels 9": "--server and --max-input-megapixels exclude each other",
    "--stream --journal j.jsonl": "--stream and --journal exclude each other",
    "--stream --shard 0/2": "--stream and --shard exclude each other",
    "--seed -1": "seed is -1",
    "--device abacus": "device is 'abacus'; give auto",
    "--device cuda:99": "device 'cuda:99' is not on this machine",
    "--device cpu:1": "device 'cpu:1' is not on this machine",
    "--model absent": "'absent' is neither a model's name (compact, s3diff) nor a folder",
    "--model empty": "empty holds no config.json",
    "--model 'bad model'": "bad model/config.json is not of the format s3diff-model",
    "--model a.png": "'a.png' is neither",
    "--model ''": "'' is neither a model's name",
}
BAD_LINES = {
    **BAD_PICTURES,
    **BAD_OUTPUTS,
    **{f"a.png {TO_FILE} {option}": re.escape(message) for option, message in BAD_OPTIONS.items()},
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_mistake_gets_one_line_and_nothing_is_written(command: Command, small: Path, place: Path, line: str) -> None:
    before = tree(place)
    arguments = [part.strip("'") for part in re.findall(r"'[^']*'|\S+", line)]
    outcome = command("restore", *arguments, *([] if "--model" in line else ["-m", small]))
    assert re.search(BAD_LINES[line], outcome.error), outcome.error
    wrong_use = "a.png -o o.png --" in line and not re.search("--model|--max-megapixels 0.0001|1e5|0000x", line)
    assert outcome.code == (2 if wrong_use else 1)
    assert tree(place) == before


def test_a_name_does_not_guess_the_model_of_a_service(command: Command, place: Path) -> None:
    server = ("--server", "http://127.0.0.1:1")
    outcome = command("restore", "a.png", "--name", "{stem}-{model}", *server)
    assert outcome.code == 2
    assert "give --model, or leave out {model}" in outcome.error
    assert "cannot be reached" in command("restore", "a.png", "--name", "{stem}-{model}", *server, "-m", "b").error


@pytest.mark.parametrize("position", [1, 3, 5])
def test_names_too_long_for_the_system(command: Command, small: Path, place: Path, position: int) -> None:
    arguments = ["restore", "a.png", "-o", "o.png", "-m", str(small)]
    arguments[position] = f"{'n' * 5000}.png"
    assert "name too long" in command(*arguments).error


@pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
def test_links_do_not_hide_the_input(command: Command, small: Path, place: Path) -> None:
    os.symlink("a.png", "link.png")
    os.symlink("two", "link")
    os.link("a.png", "other name.png")
    os.symlink("loop.png", "loop.png")
    before = (place / "a.png").read_bytes()
    for inputs, output in (
        ("a.png", "link.png"),
        ("link.png", "a.png"),
        ("a.png", "other name.png"),
        ("two/a.png", "link/a.png"),
        ("two", "link"),
    ):
        assert "would overwrite the input" in command("restore", inputs, "-o", output, "-m", small).error
    in_circle = command("restore", "loop.png", "-o", "o.png", "-m", small).error
    assert "loop.png is a symbolic link that leads nowhere, or back to itself" in in_circle
    assert "loop.png cannot be written" in command("restore", "a.png", "-o", "loop.png", "-m", small).error
    os.mkfifo("pipe.png")
    assert "not a regular file" in command("restore", "pipe.png", "-o", "o.png", "-m", small).error
    assert "no regular file" in command("restore", "a.png", "-o", "pipe.png", "-m", small).error
    assert (place / "a.png").read_bytes() == before
    assert not (place / "o.png").exists()


def test_one_bad_picture_of_a_folder_costs_only_itself(command: Command, small: Path, place: Path) -> None:
    (place / "two/aa.png").write_text("words")
    outcome = command("restore", "two", "-o", "o", "-m", small)
    assert outcome.code == 1
    assert names_in("o") == ["a.png", "b.png"]
    assert outcome.out.count("\n") == 2
    lines = outcome.err.splitlines()
    assert lines[1].startswith("s3diff: two/aa.png is not a PNG")
    assert re.fullmatch(r"done +2  in .* s failed +1  see above", " ".join(lines[2:]))
    again = command("restore", "two", "-o", "o", "-m", small)
    assert again.code == 1, "the same answer where the good ones are there already"
    assert "two/aa.png" in again.err


def test_a_folder_of_bad_pictures(command: Command, small: Path, place: Path) -> None:
    for name in ("a.png", "b.png"):
        (place / "two" / name).write_text("words")
    outcome = command("restore", "two", "-o", "o", "-m", small)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-3] == "failed   2  namely"
    assert names_in("o") == []


def test_what_no_picture_can_get_stops_the_run_at_once(command: Command, tiny: Path, place: Path) -> None:
    """A prompt without text encoder is said once, not for every picture."""
    own = shutil.copytree(tiny, place / "own model")
    shutil.rmtree(own / "text_encoder")
    for model, inputs, output in ((own, "two", "o"), (own, "a.png", "o.png"), ("compact", "a.png", "o.png")):
        outcome = command("restore", inputs, "-o", output, "-m", model, "--prompt", "something")
        assert "only its stored prompts" in outcome.error
    assert names_in("o") == []


def test_too_little_memory(command: Command, small: Path, place: Path) -> None:
    """Said at once: a list of the millions of tiles that the picture would have takes memory and minutes itself."""
    size = ("--size", "4000000x4000000", "--max-megapixels", 9e8)
    outcome = command("restore", "a.png", "-o", "o.png", "-m", small, "-q", *size)
    assert "not enough memory for an output of 4000000 x 4000000 px" in outcome.error


def test_a_write_that_fails_midway_leaves_the_old_file(command: Command, small: Path, place: Path) -> None:
    """A real failure: no file may grow beyond 500 bytes."""
    before = tree(place)
    with files_up_to(500):
        outcome = command("restore", "a.png", "-o", "o.png", "-m", small, "-q", "--no-journal")
    assert "o.png cannot be written (file too large)" in outcome.error
    assert tree(place) == before


@pytest.mark.parametrize("option", ["--scael 3", "--scale four", "--color-match no", "--quality 1.5"])
def test_usage_errors_are_one_line(command: Command, place: Path, option: str) -> None:
    outcome = command("restore", "a.png", "-o", "o.png", *option.split())
    assert outcome.code == 2
    assert option.split()[0].strip("-") in outcome.error


def test_missing_arguments(command: Command, place: Path) -> None:
    assert command("restore").code == 2
    outcome = command("restore", "-o", "o.png")
    assert outcome.code == 2
    assert "no picture is given" in outcome.error
    assert command("convert").error.endswith("; see s3diff convert --help")
    assert "nonsense" in command("nonsense").error
    nothing = command()
    assert nothing.code == 2
    assert "Usage: s3diff" in nothing.err + nothing.out
    for command_name in COMMANDS:
        assert command_name in nothing.err + nothing.out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--guidance", "1e30"), "guidance is 1e+30; give at most 1e+09"),
        (("--guidance", "-1e30"), "guidance is -1e+30; give at least -1e+09"),
        (("--scale", "1e30"), "scale is 1e+30; give at most 1e+09"),
        (("--scale", "-1e30"), "scale is -1e+30; give a number above 0"),
        (("--guidance", "inf"), "guidance is inf; give a finite number"),
    ],
)
def test_what_is_told_is_what_is_wrong(command: Command, place: Path, option: tuple[str, str], message: str) -> None:
    assert message in command("restore", "a.png", "-o", "out.png", *option).error


def test_a_folder_is_no_journal(command: Command, place: Path) -> None:
    before = tree(place.parent)
    outcome = command("restore", ".", "-o", "../out", "--journal", ".", "--quiet")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].endswith(" is a folder; give --journal a file")
    assert tree(place.parent) == before


# ---------------------------------------------------------------------------------------------- convert


class Code:
    """Unpickled by a careless reader, it writes a file."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (Path("it ran"),)  # type: ignore[return-value]


def convert_arguments(**changes: object) -> list[object]:
    files = official_files()
    given = {"base": files.base, "s3diff": files.pickle, "estimator": files.estimator, **changes}
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def test_convert_and_back(command: Command, place: Path, tiny: Path) -> None:
    outcome = command("convert", *convert_arguments(), "new/model", "--name", "mine")
    assert (outcome.code, outcome.err) == (0, "")
    assert re.fullmatch(r"new/model  sha256:[0-9a-f]{64}\n", outcome.out)
    assert command("restore", "a.png", "-o", "o.png", "-m", "new/model").err.startswith("model mine ")
    assert command("restore", "a.png", "-o", "p.png", "-m", tiny).code == 0
    assert np.array_equal(levels(place / "o.png"), levels(place / "p.png"))
    back_to = ("back.pkl", "--estimator", "back.pth", "--base", official_files().base)
    back = command("convert", "--to-official", "new/model", *back_to)
    assert back == Outcome(0, "back.pkl\n", "")
    written_back = convert_arguments(s3diff="back.pkl", estimator="back.pth")
    assert command("convert", *written_back, "again", "--name", "mine").code == 0
    for path in Path("new/model").glob("*.*"):
        assert path.read_bytes() == Path("again", path.name).read_bytes(), path.name


def test_convert_replaces_nothing(command: Command, place: Path, tiny: Path) -> None:
    """Not even a model, and it says so before the other files are looked at; an empty folder is nobody's loss."""
    shutil.copytree(tiny, "model")
    os.symlink("nowhere", "link")
    before = tree(place)
    for output in ("model", "link", "a.png"):
        arguments = convert_arguments(base="absent", s3diff="absent", estimator="absent")
        assert command("convert", *arguments, output).error == (
            f"s3diff: {output} exists; remove it, or choose a new name"
        )
    assert tree(place) == before
    assert command("convert", *convert_arguments(), "empty").code == 0
    assert Path("empty/config.json").is_file()


def test_convert_with_another_text_encoder(command: Command, place: Path) -> None:
    """Its embeddings are of a width that the UNet does not take: nothing is written that could not be loaded."""
    from transformers import CLIPTextConfig, CLIPTextModel

    base = shutil.copytree(official_files().base, place / "base")
    config = CLIPTextConfig.from_pretrained(base / "text_encoder", hidden_size=48, num_attention_heads=2)
    CLIPTextModel(config).save_pretrained(base / "text_encoder")
    outcome = command("convert", *convert_arguments(base=base), "OUT")
    assert "the prompts' embeddings are [77, 48] and [77, 48], the UNet takes two of [tokens, 32]" in outcome.error
    assert not Path("OUT").exists()


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (torch.save, "evil.pkl carries code"),
        (lambda content, file: pickle.dump(content, file, protocol=2), "evil.pkl carries code"),
        (pickle.dump, "evil.pkl is written with pickle protocol"),
    ],
    ids=["torch", "pickle", "pickle of today"],
)
def test_convert_runs_no_code(command: Command, place: Path, write: Callable[..., None], said: str) -> None:
    for part in ("s3diff", "estimator"):
        with open("evil.pkl", "wb") as file:
            write({"state_dict_unet": Code()}, file)
        outcome = command("convert", *convert_arguments(**{part: "evil.pkl"}), "OUT")
        assert said in outcome.error
    assert not (place / "OUT").exists()
    assert not (place / "it ran").exists()
    with open("evil.pkl", "rb") as file:  # the file is what it is said to be
        torch.load(file, weights_only=False) if write is torch.save else pickle.load(file)
    assert (place / "it ran").exists()


def test_convert_of_wrong_files(command: Command, place: Path) -> None:
    files = official_files()
    content = torch.load(files.pickle, weights_only=True)
    torch.save({**content, "rank_unet": content["rank_unet"] + 2}, "rank.pkl")
    torch.save({name: value for name, value in content.items() if name != "w"}, "part.pkl")
    before = tree(place)
    for changes, message in (
        ({"s3diff": "rank.pkl"}, r"rank 8 in the UNet.*misshapen.*\[6, 16\] instead of \[8, 16\]"),
        ({"s3diff": "part.pkl"}, "part.pkl is no s3diff.pkl: missing w"),
        ({"s3diff": "absent.pkl"}, "absent.pkl does not exist"),
        ({"s3diff": "two"}, "two is a folder"),
        ({"s3diff": "a.png"}, "a.png (carries code, )?is cut off,? .*no torch file"),
        ({"s3diff": files.estimator}, "de_net.pth is no s3diff.pkl: missing unet_lora_target_modules"),
        ({"estimator": files.pickle}, "s3diff_tiny.pkl does not fit: missing 80"),
        ({"base": "absent"}, "absent is no folder"),
        ({"base": "empty"}, "empty/unet/config.json does not exist"),
    ):
        assert re.search(message, command("convert", *convert_arguments(**changes), "OUT").error), message
    for output, message in (
        ("a.png", "a.png exists; remove it, or choose a new name"),
        ("two", "two exists; remove it, or choose a new name"),
        ("a.png/OUT", "a.png/OUT cannot be written"),
    ):
        assert message in command("convert", *convert_arguments(), output).error
    assert "convert needs three inputs" in command("convert", "OUT", "--base", files.base).error
    assert tree(place) == before


def test_writing_back_of_wrong_places(command: Command, place: Path, small: Path) -> None:
    before, model_before = tree(place), tree(small)
    for arguments, message in (
        (["absent", "back.pkl"], "absent is no folder"),
        (["empty", "back.pkl"], "empty holds no config.json"),
        ([small, "no/back.pkl"], "no is no folder; make it first"),
        ([small, "back.pkl", "--estimator", "no/back.pth"], "no is no folder; make it first"),
        ([small, "back.pkl", "--estimator", "two/../back.pkl"], "cannot take both files"),
        ([small, small / "unet.safetensors"], "would change the model folder"),
        ([small, small], "would change the model folder"),
        ([small, "back.pkl", "--half"], "leave out --s3diff, --half and --name"),
        ([small, "a.png"], "a.png exists and would be replaced"),
        ([small, "two"], "two exists and would be replaced"),
        ([small, "back.pkl", "--estimator", "a.png"], "a.png exists and would be replaced"),
    ):
        assert message in command("convert", "--to-official", *arguments, "--base", official_files().base).error
    assert "--to-official needs --base" in command("convert", "--to-official", small, "back.pkl").error
    assert tree(place) == before
    assert tree(small) == model_before


# ---------------------------------------------------------------------------------------------- the other commands


def test_version(command: Command) -> None:
    assert command("--version") == Outcome(0, f"s3diff {__version__}\n", "")


def test_help_names_every_option(command: Command) -> None:
    main_help = command("--help")
    assert main_help.code == 0
    for name in COMMANDS:
        assert re.search(rf"^\W*{name} ", main_help.out, re.MULTILINE), name
        assert command(name, "--help").code == 0
    text = command("restore", "--help").out
    options = {field.name for field in fields(RestoreOptions)} - {"positive_prompt", *LIMITS}
    limits = "max_megapixels max_input_megapixels max_file_megabytes"
    more = f"prompt {limits} output model device precision quality list format name overwrite shard journal report"
    for option in {*options, *more.split()}:
        assert f"--{option.replace('_', '-')}" in text


def test_help_and_version_import_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from s3diff.apps.cli import main\n"
        "for line in sys.argv[1:]:\n"
        "    sys.argv = ['s3diff', *line.split()]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as ending:\n"
        "        assert not ending.code, line\n"
        "    loaded = {'torch', 'numpy', 'PIL', 'safetensors', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "    assert not loaded, (line, loaded)\n"
    )
    lines = ["--help", "--version", *(f"{name} --help" for name in COMMANDS)]
    subprocess.run([sys.executable, "-c", program, *lines], env=environment(), check=True, stdout=subprocess.DEVNULL)


def test_a_wrong_name_is_said_before_torch_is_loaded() -> None:
    program = (
        "import sys\n"
        "from s3diff.apps.cli import main\n"
        "sys.argv = ['s3diff', 'restore', 'nothing.jpg']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules\n"
    )
    process = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    said = "s3diff: nothing.jpg does not exist; give a picture, a folder of pictures or a video\n"
    assert (process.returncode, process.stderr) == (1, said)


def test_models(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path / "cache"))
    outcome = command("models")
    assert (outcome.code, outcome.err) == (0, "")
    compact, where, release = outcome.out.splitlines()
    assert re.match(r"compact +ready ", compact)
    assert re.search(r"models/compact  sha256:[0-9a-f]{16}$", where.replace(os.sep, "/"))
    assert re.match(r"s3diff +not fetched yet +the authors' release on SD-Turbo", release)
    shutil.copytree(tiny_model_folder(), NAMED_MODELS["s3diff"].folder())
    present = command("models").out
    assert re.search(r"^s3diff +ready ", present, re.MULTILINE)
    assert str(tmp_path / "cache" / "models" / "s3diff-41b5e9b62588-b261bac6fd2c") in present


def test_models_verified(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path / "cache"))
    outcome = command("models", "--verify")
    assert (outcome.code, outcome.err) == (0, "")
    assert re.search(r"^compact +verified ", outcome.out, re.MULTILINE)
    assert re.search(r"^s3diff +not fetched yet ", outcome.out, re.MULTILINE)
    folder = shutil.copytree(tiny_model_folder(), NAMED_MODELS["s3diff"].folder())
    assert re.search(r"^s3diff +verified ", command("models", "--verify").out, re.MULTILINE)
    weights = bytearray((folder / "estimator.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "estimator.safetensors").write_bytes(weights)
    outcome = command("models", "--verify")
    assert outcome.code == 1
    assert re.fullmatch(
        rf"s3diff: {re.escape(str(folder))} has the fingerprint .* files were changed .*\n", outcome.err
    )
    assert re.search(r"^compact +verified ", outcome.out, re.MULTILINE), "one damaged model hides no other"
    assert re.search(r"^s3diff +damaged ", outcome.out, re.MULTILINE)


def test_a_named_model_that_lies_in_the_cache(
    command: Command, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model_folder(), NAMED_MODELS["s3diff"].folder())
    assert command("restore", "a.png", "-o", "o.png", "-m", "s3diff", "-q") == Outcome(0, "", "")
    assert levels(place / "o.png").shape == (20, 24, 3)


def test_doctor(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path))
    outcome = command("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"s3diff {__version__}  Python ")
    for package in ("torch", "numpy", "pillow", "safetensors", "huggingface_hub", "transformers", "typer", "rich"):
        assert any(re.match(rf"  {package} +\d", line) for line in lines), package
    assert any(re.match(r"  cpu +\d+ threads; \d+ of \d+ CPUs are granted$", line) for line in lines)
    assert "  compact          ready" in lines
    assert any(re.match(r"  s3diff +not fetched yet", line) for line in lines)
    assert any(re.match(r"    pytest +\d", line) for line in lines)


def test_doctor_without_optional_packages(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is no fault: what it would bring is said, and how to have it."""
    for module in ("diffusers", "fastapi"):
        monkeypatch.setitem(sys.modules, module, None)  # Python's own way to say that there is none
    outcome = command("doctor")
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].startswith("All is well: pictures can be restored.")
    found = re.search(r"^  diffusers +not installed: s3diff.integrations.diffusers.*\n(.*)$", outcome.out, re.MULTILINE)
    assert found
    assert re.fullmatch(r'    to have it +pip install .*"\.\[diffusers\]"', found[1])
    assert re.search(r"^  web +not whole \(fastapi missing\): s3diff serve", outcome.out, re.MULTILINE)


def test_the_help_lists_every_command_in_a_whole_line(command: Command) -> None:
    shown = command("--help").out
    listed = re.findall(r"^  ([a-z-]+) +(.+)$", shown[shown.index("Commands:") :], re.MULTILINE)
    assert [name for name, _ in listed] == list(cli._COMMANDS)
    assert {name for name, _ in listed} == set(cli.typer.main.get_command(cli.app).commands)
    assert [summary for _, summary in listed] == [summary for _, summary in cli._COMMANDS.values()], "none is cut"
    assert listed[0] == ("restore", "Make pictures larger and clearer.")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot tell a reader that has gone from another broken pipe")
@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ConnectionResetError(104, "Connection reset")])
def test_a_connection_that_breaks_is_said(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: ConnectionError
) -> None:
    """Only a reader that has gone, as in ``s3diff models | head -1``, ends the command without a word."""

    def broken() -> list[str]:
        raise error

    monkeypatch.setattr(diagnosis, "diagnose", broken)
    said = command("doctor").error
    assert f"to another process or to a service broke ({error.strerror})" in said


def test_doctor_without_a_package_of_the_core(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    version = diagnosis._version
    monkeypatch.setattr(diagnosis, "_version", lambda package: None if package == "typer" else version(package))
    lines = command("doctor").out.splitlines()
    assert lines[1] == "Something is wrong: typer is missing; install s3diff again."
    assert "  typer            missing; install s3diff again" in lines


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (None, "missing; install s3diff again"),
        ("version https://git-lfs.github.com/spec/v1\n", "there only as pointers of Git LFS; run git lfs pull"),
    ],
)
def test_doctor_without_the_embedded_model(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, state: str
) -> None:
    folder = Path(shutil.copytree(NAMED_MODELS["compact"].folder(), tmp_path / "compact"))
    (folder / "unet.safetensors").unlink()
    if content is not None:
        (folder / "unet.safetensors").write_text(content)
    monkeypatch.setattr(NamedModel, "folder", lambda named: folder if named.kind == "embedded" else tmp_path / "none")
    lines = command("doctor").out.splitlines()
    assert lines[1].startswith(f"Something is wrong: the model compact is {state}")
    assert any(line.startswith(f"  compact          {state}") for line in lines)


def test_doctor_lists_every_extra_of_the_project(command: Command) -> None:
    """pyproject.toml decides what there is; an extra that includes another one does not repeat its packages."""
    extras = project_table()["optional-dependencies"]
    lines = command("doctor").out.splitlines()
    listed = lines[lines.index("extras") + 1 : next(at for at, line in enumerate(lines) if line.startswith("weights"))]
    assert [line.split()[0] for line in listed if not line.startswith("    ")] == list(extras)
    for extra, requirements in extras.items():
        packages = {requirement.name for requirement in map(Requirement, requirements)} - {"s3diff"}
        assert packages <= set(diagnosis.packages_of(extra))
        start = next(at for at, line in enumerate(listed) if line.split()[0] == extra and line[2] != " ")
        if not listed[start].startswith(f"  {extra:16} ready: "):
            assert f'".[{extra}]"' in listed[start + 1]


# ---------------------------------------------------------------------------------------------- as a process of its own


def on_a_terminal(
    arguments: list[str], *, stop_at: bytes | None = None, stdout: int | None = None, **changes: str
) -> tuple[int, str]:
    """Exit code and screen of a process on a terminal; it gets Ctrl-C once it has shown ``stop_at``."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "s3diff.apps.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        env=environment(TERM="xterm", COLUMNS="100", **changes),
    )
    os.close(theirs)
    screen, started = b"", time.monotonic()
    try:
        while time.monotonic() - started < 300:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    part = os.read(ours, 65536)
                except OSError:  # Linux: the other side is closed
                    break
                if not part:
                    break
                screen += part
            if stop_at is not None and stop_at in screen:
                process.send_signal(signal.SIGINT)
                stop_at = None
        return process.wait(timeout=60), screen.decode()
    finally:
        process.kill()
        os.close(ours)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and terminals")
@pytest.mark.slow
def test_ctrl_c_leaves_whole_files_and_one_line(small: Path, place: Path) -> None:
    (place / "many").mkdir()
    for index in range(40):
        save(f"many/{index:02} [red].png", noise(24, 24, 3, seed=index))
    code, screen = on_a_terminal(["restore", "many", "-o", "o", "-m", str(small)], stop_at=b"o/01 [red].png  96x96")
    assert code in (130, -signal.SIGINT)
    assert re.search(r"stopped; nothing half written is left. \d+ of 40 pictures are done; to go on, give", screen)
    assert "Traceback" not in screen
    written = names_in("o")
    assert written == [f"{index:02} [red].png" for index in range(len(written))], "and nothing else"
    assert 2 <= len(written) < 40
    for name in written:
        assert levels(place / "o" / name).shape == (96, 96, 3)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r", "\n")
    assert re.search(r"^o/00 \[red\]\.png  96x96  blur .* s$", plain, re.MULTILINE), "a line of its own, not in the bar"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_while_the_command_is_being_imported_is_one_line(tmp_path: Path) -> None:
    """A typer that gets Ctrl-C on its import stands before the real one on the path."""
    (tmp_path / "typer.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(9)"
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    for start in (["-m", "s3diff.apps"], ["-c", f"import {SCRIPT[0]} as module; module.{SCRIPT[1]}()"]):
        process = subprocess.run(
            [sys.executable, *start], env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=60
        )
        assert process.returncode == 130
        assert process.stderr == "s3diff: stopped; nothing half written is left\n"


def test_both_ways_in_are_the_same_command() -> None:
    for module in ("s3diff.apps", "s3diff.apps.cli"):
        process = subprocess.run(
            [sys.executable, "-m", module, "--version"], env=environment(), capture_output=True, text=True, check=True
        )
        assert process.stdout == f"s3diff {__version__}\n"


def test_a_waiting_line_is_shown_on_a_terminal_and_erased_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = {}
    for is_terminal, quiet in ((True, False), (True, True), (False, False)):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, highlight=False, legacy_windows=False)
        monkeypatch.setattr(terminal, "remarks", console)
        with terminal.waiting_line("loading ...", quiet) as erase:
            erase()
        shown[is_terminal, quiet] = console.file.getvalue()
    assert shown == {(True, False): "loading ...\r\x1b[2K", (True, True): "", (False, False): ""}


def test_a_cluster_run_has_a_bar_before_its_first_picture(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, highlight=False, legacy_windows=False, width=100)
    for module in (terminal, cluster_commands):
        monkeypatch.setattr(module, "remarks", console)
    shown = []

    def rows() -> Iterator[dict[str, str]]:
        shown.append(console.file.getvalue())
        yield {"state": "done"}

    cluster_commands._follow(rows(), ClusterRun(["two"], "out", RestoreOptions()), quiet=False)
    assert "0/2" in shown[0]


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX terminal")
@pytest.mark.slow
def test_a_real_process_with_its_results_in_a_file(command: Command, small: Path, place: Path) -> None:
    """The bar and the remarks on a terminal, a list of results that can hold ASCII only, a picture named otherwise, and
    one whose EXIF block Pillow warns about, which is not the user's business."""
    save("two/ü.png", noise(5, 6, 3))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x0f\x01\x02\0\xff\xff\0\0\xff\xff\0\0"
    Image.fromarray(noise(5, 6, 3)).save("two/warned.tif.jpg", exif=exif)
    with open("list.txt", "wb") as file:
        arguments = ["restore", "two", "-o", "a new folder", "-m", str(small), "--device", "cpu"]
        code, screen = on_a_terminal(arguments, stdout=file.fileno(), PYTHONIOENCODING="ascii")
    assert code == 0
    lines = Path("list.txt").read_text("ascii").splitlines()
    names = ["a.png  16x16", "b.png  16x16", "warned.tif.jpg  24x20", "\\xfc.png  24x20"]
    assert [line.partition("  blur ")[0] for line in lines] == [f"a new folder/{name}" for name in names]
    waiting = f"getting ready ...\r\x1b[2Kloading the model {small.name} ...\r\x1b[2K"
    assert screen.startswith(f"{waiting}model tiny-compact  device cpu  precision float32\r\n"), "a line above the bar"
    assert "4 of 4" in screen
    assert "arn" not in screen.replace("warned.tif.jpg", ""), "no warning"
    assert "blur" not in screen, "what belongs into the file goes only there"
    assert command("restore", "two/ü.png", "-o", "o.png", "-m", small).code == 0
    assert np.abs(levels(place / "o.png") - levels(place / "a new folder/ü.png")).max() <= 1


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_traceback(small: Path, place: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    process = subprocess.run(
        [sys.executable, "-m", "s3diff.apps.cli", "restore", "two", "-o", "o", "-m", str(small), "--device", "cpu"],
        env=environment(),
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    assert process.returncode != 0
    assert process.stderr.splitlines() == ["model tiny-compact  device cpu  precision float32"]
