"""``s3diff degrade``: low-quality sets with what was drawn for them, and the same sets again from that."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from command_runs import Command, Outcome, environment, run_python
from s3diff.degradation.settings import PRESETS
from s3diff.options import Preset
from s3diff.version import __version__


@pytest.fixture
def degrade(command: Command) -> Command:
    """Run ``s3diff degrade`` in this process."""
    return functools.partial(command, "degrade")


def save(path: Path, height: int = 70, width: int = 93, mode: str = "RGB", seed: int = 0) -> Path:
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    levels = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, channels), dtype=np.uint8)
    coarse = Image.fromarray(levels[..., 0] if channels == 1 else levels)
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``photos``: colour, grey, and one in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    save(Path("photos/a.png"), seed=1)
    save(Path("photos/b.png"), 64, 64, "L", seed=2)
    save(Path("photos/deep/a.webp"), 80, 61, seed=3)
    return tmp_path


def contents(folder: str | Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def record(path: str | Path = "lq/degradations.json") -> dict[str, object]:
    return json.loads(Path(path).read_text("utf-8"))


# What is made


def test_a_folder(degrade: Command, place: Path) -> None:
    outcome = degrade("photos", "lq", "--truth", "hq", "--recursive", "--seed", 5, "--preset", "realesrgan")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.split() == [str(Path("lq", name)) for name in ("a.png", "b.png", "deep/a.png")]
    assert set(contents("lq")) == {"a.png", "b.png", "deep/a.png", "degradations.json"}
    assert set(contents("hq")) == {"a.png", "b.png", "deep/a.png"}
    sizes = {"a.png": (17, 23), "b.png": (16, 16), "deep/a.png": (20, 15)}
    for name, (height, width) in sizes.items():
        assert pixels(f"lq/{name}").shape == (height, width, 3)
        assert pixels(f"hq/{name}").shape == (4 * height, 4 * width, 3)
    np.testing.assert_array_equal(pixels("hq/a.png"), pixels("photos/a.png")[:68, :92])
    grey = np.asarray(Image.open("photos/b.png"))
    np.testing.assert_array_equal(pixels("hq/b.png"), np.stack([grey] * 3, axis=2))

    written = record()
    assert (written["format"], written["version"]) == ("s3diff-degradations", 1)
    assert (written["preset"], written["scale"], written["seed"]) == ("realesrgan", 4, 5)
    assert written["versions"] == {"s3diff": __version__, "torch": torch.__version__}
    first = written["pictures"][0]
    data = Path("photos/a.png").read_bytes()
    assert (first["name"], first["source"], first["source_bytes"]) == ("a.png", "a.png", len(data))
    assert first["source_sha256"] == hashlib.sha256(data).hexdigest()
    assert first["low_quality_sha256"] == hashlib.sha256(pixels("lq/a.png").tobytes()).hexdigest()
    assert first["crop_px"] == {"top": 0, "left": 0, "height": 68, "width": 92}
    assert first["degradation"]["low_quality_size_px"] == [17, 23]
    assert [entry["source"] for entry in written["pictures"]] == ["a.png", "b.png", "deep/a.webp"]


def test_one_picture(degrade: Command, place: Path) -> None:
    assert degrade("photos/a.png", "small.png", "--preset", "bicubic", "--scale", 2).code == 0
    assert set(contents(".")) - {f"photos/{name}" for name in contents("photos")} == {"small.png", "small.json"}
    truth = torch.from_numpy(pixels("photos/a.png")[:70, :92].copy()).permute(2, 0, 1)[None].float() / 255
    expected = torch.nn.functional.interpolate(truth, size=(35, 46), mode="bicubic", antialias=True)
    np.testing.assert_array_equal(pixels("small.png"), (expected[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0))
    assert record("small.json")["pictures"][0]["name"] == "small.png"


def test_the_same_again_and_another_seed(degrade: Command, place: Path) -> None:
    for output, seed in (("one", 3), ("two", 3), ("three", 4)):
        assert degrade("photos", output, "-r", "--seed", seed).code == 0
    assert contents("one") == contents("two")
    assert all(contents("one")[name] != contents("three")[name] for name in contents("one"))


def test_a_picture_does_not_depend_on_the_others(degrade: Command, place: Path) -> None:
    degrade("photos", "before")
    save(Path("photos/0.png"), seed=9)
    Path("photos/b.png").unlink()
    degrade("photos", "after")
    degrade("photos/a.png", "alone/")
    assert contents("before")["a.png"] == contents("after")["a.png"] == contents("alone")["a.png"]


def test_equal_pictures_of_other_names_are_degraded_otherwise(degrade: Command, place: Path) -> None:
    shutil.copy("photos/a.png", "photos/c.png")
    degrade("photos", "lq")
    assert contents("lq")["a.png"] != contents("lq")["c.png"]


def test_what_is_left_out_is_said(degrade: Command, place: Path) -> None:
    save(Path("clear.png"), mode="RGBA")
    outcome = degrade("clear.png", "lq.png")
    assert (outcome.code, outcome.err) == (0, "clear.png: transparency was left out\n")
    assert degrade("clear.png", "lq.png", "--quiet") == Outcome(0, "", "")


def test_16_bits_are_rounded_to_8(degrade: Command, place: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (48, 48), dtype=np.uint16)
    Image.fromarray(levels).save("deep.png")
    assert degrade("deep.png", "lq.png", "--truth", "hq").code == 0
    np.testing.assert_array_equal(pixels("hq/lq.png")[..., 1], np.rint(levels / 257).astype(np.uint8))


def test_outputs_are_replaced_and_not_taken_for_inputs(degrade: Command, place: Path) -> None:
    for seed in (1, 2):
        assert degrade("photos", "photos/lq", "-r", "--truth", "photos/hq", "--seed", seed).code == 0
        assert set(contents("photos/lq")) == {"a.png", "b.png", "deep/a.png", "degradations.json"}
    assert record("photos/lq/degradations.json")["seed"] == 2


# Rebuilding


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_set_is_rebuilt_byte_for_byte(degrade: Command, place: Path, preset: str) -> None:
    degrade("photos", "lq", "-r", "--preset", preset, "--seed", -7, "--truth", "hq")
    outcome = degrade("photos", "again", "--rebuild", "lq/degradations.json", "--truth", "hq_again")
    assert (outcome.code, outcome.err) == (0, "")
    made = contents("lq")
    made.pop("degradations.json")
    assert contents("again") == made
    assert contents("hq_again") == contents("hq")


def test_it_is_the_record_that_counts(degrade: Command, place: Path) -> None:
    """Not the seed: another strength in the record gives another picture, and that is said."""
    degrade("photos/a.png", "lq.png", "--preset", "bicubic")
    changed = record("lq.json")
    stage = changed["pictures"][0]["degradation"]["stages"][1]
    stage["noise_kind"], stage["noise_strength"] = "gaussian", 20.0
    Path("noisier.json").write_text(json.dumps(changed), "utf-8")
    outcome = degrade("photos/a.png", "again.png", "--rebuild", "noisier.json")
    assert outcome.error.startswith(
        f"s3diff: again.png is made, but has other pixels than when recorded (s3diff {__version__}"
    )
    assert pixels("again.png").std() > pixels("lq.png").std()


def test_missing_and_changed_sources_get_a_line_each(degrade: Command, place: Path) -> None:
    degrade("photos", "lq", "-r")
    Path("photos/a.png").unlink()
    save(Path("photos/b.png"), 64, 64, "L", seed=5)
    outcome = degrade("photos", "again", "--rebuild", "lq/degradations.json")
    assert outcome.code == 1
    assert outcome.out.split() == [str(Path("again/deep/a.png"))]
    missing, changed, summary = outcome.err.splitlines()
    assert missing.startswith(f"s3diff: {Path('photos/a.png')} is missing; ")
    assert changed.startswith(f"s3diff: {Path('photos/b.png')} has changed since the record was made; ")
    assert summary == "s3diff: 2 of 3 pictures failed, see above; the others are written"
    assert set(contents("again")) == {"deep/a.png"}


def damage(change: Callable[[dict], object]) -> None:
    written = record()
    change(written)
    Path("damaged.json").write_text(json.dumps(written), "utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format="other"), "is no record of degradations"),
        (lambda r: r.update(version=2), "is of version 2, known is 1"),
        (lambda r: r.update(pictures=[]), "names no pictures"),
        (lambda r: r.update(pictures=[3]), r"pictures\[0\]: an entry needs name, "),
        (lambda r: r["settings"].update(clean_probability=2), "settings: clean_probability is 2.0"),
        (lambda r: r["pictures"][1].update(name="../b.png"), r"pictures\[1\]: '../b.png' is no name inside the folder"),
        (lambda r: r["pictures"][0].update(source="/etc/a.png"), r"pictures\[0\]: '/etc/a.png' is no name inside"),
        (lambda r: r["pictures"][0].update(name="b.png"), "would both be written to"),
        (lambda r: r["pictures"][0].update(crop_px={}), r"crop_px is \{\} for a draw of 68 x 92 px"),
        (lambda r: r["pictures"][0]["degradation"].pop("stages"), r"pictures\[0\]: a record lacks stages"),
        (lambda r: r["pictures"][0]["degradation"].update(noise_seed=-1), "noise_seed is -1; give a whole number"),
    ],
)
def test_damaged_records(degrade: Command, place: Path, change: Callable[[dict], object], message: str) -> None:
    degrade("photos", "lq")
    damage(change)
    outcome = degrade("photos", "again", "--rebuild", "damaged.json")
    assert re.search(message, outcome.error)
    assert not Path("again").exists()


# Mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing lq", "nothing does not exist"),
        ("photos/deep lq --truth photos/deep/../../lq", "lq is where the low-quality pictures go"),
        ("photos photos", "would overwrite the input"),
        ("photos/a.png photos/a.png", "would overwrite the input"),
        ("photos/a.png lq/a.png --truth photos", "would overwrite the input"),
        ("photos lq.png", "lq.png is one file, but there are 2 pictures"),
        ("photos/a.png lq.jpg", "lq.jpg: low-quality pictures are written only as PNG"),
        ("photos/a.png lq", "lq is a file's name without extension"),
        ("photos lq --scale 0", "scale is 0; give a whole number from 1"),
        ("photos lq --seed 18446744073709551616", "seed is 18446744073709551616; give a whole number from -2^63"),
        ("photos lq --seed -9223372036854775809", "seed is -9223372036854775809"),
        ("photos/b.png lq.png --scale 6", "b.png is 64 x 64 px; scale 6 needs at least 66 px a side"),
        ("photos lq --rebuild x.json --seed 3", "leave out --preset, --scale and --seed"),
        ("photos lq --rebuild x.json", "x.json cannot be read"),
        ("photos lq --rebuild photos/a.png", "photos/a.png is no JSON"),
        ("photos lq --rebuild photos", "photos cannot be read"),
        ("empty lq", "empty holds no pictures"),
        ("same lq", "would both be written to lq/a.png; rename one of them"),
        ("photos taken", "degradations.json is in the way of the drawn parameters"),
    ],
)
def test_a_mistake_gets_one_line_and_nothing_is_written(degrade: Command, place: Path, line: str, message: str) -> None:
    Path("empty").mkdir()
    save(Path("same/a.png"))
    save(Path("same/a.webp"))
    Path("taken").mkdir()
    Path("taken/degradations.json").write_text('{"mine": 1}', "utf-8")
    before = contents(".")
    assert message in degrade(*line.split()).error
    assert contents(".") == before


def test_extreme_seeds_are_taken(degrade: Command, place: Path) -> None:
    for seed in (-(2**63), 2**64 - 1):
        assert degrade("photos/a.png", "lq.png", "--seed", seed).code == 0
        assert record("lq.json")["seed"] == seed


def test_a_bad_picture_costs_only_itself(degrade: Command, place: Path) -> None:
    save(Path("photos/0small.png"), 43, 80)
    Path("photos/9broken.png").write_bytes(b"no picture")
    outcome = degrade("photos", "lq")
    assert outcome.code == 1
    assert len(outcome.out.split()) == 2
    small, broken, summary = outcome.err.splitlines()
    assert small.startswith(f"s3diff: {Path('photos/0small.png')} is 80 x 43 px; scale 4 needs at least 44 px a side; ")
    assert broken.startswith(f"s3diff: {Path('photos/9broken.png')} is not a PNG")
    assert summary == "s3diff: 2 of 4 pictures failed, see above; the others are written"
    assert [entry["name"] for entry in record()["pictures"]] == ["a.png", "b.png"]


def test_presets_are_all_offered() -> None:
    assert set(get_args(Preset)) == set(PRESETS)


# Real processes


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.slow
def test_an_interrupted_run_keeps_the_record_of_what_is_made(place: Path) -> None:
    for number in range(400):
        shutil.copy("photos/a.png", f"photos/{number:03}.png")
    command = [sys.executable, "-m", "s3diff.apps.cli", "degrade", "photos", "lq"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 130
    assert said == "s3diff: stopped; nothing half written is left\n"
    made = set(contents("lq"))
    recorded = {entry["name"] for entry in record()["pictures"]}
    assert 0 < len(recorded) < 402
    # The signal may fall between a picture and its entry.
    assert recorded <= made - {"degradations.json"}
    assert len(made) <= len(recorded) + 2


@pytest.mark.slow
def test_another_process_makes_the_same_set(degrade: Command, place: Path) -> None:
    """Also with another number of threads."""
    degrade("photos", "lq", "-r", "--preset", "realesrgan", "--seed", 11)
    arguments = ("photos", "other", "-r", "--preset", "realesrgan", "--seed", "11")
    program = (
        "import sys, torch; torch.set_num_threads(2)\n"
        f"sys.argv = ['s3diff', 'degrade', *{arguments!r}]\n"
        "from s3diff.apps.cli import main; main()"
    )
    done = run_python("-c", program, cwd=place)
    assert done.returncode == 0, done.stderr
    assert contents("lq") == contents("other")
