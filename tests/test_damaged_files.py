"""Mutated files of every format through ``restore``: a whole result or one line, nothing half written, no hang.

``S3DIFF_TEST_EXAMPLES`` raises the number of files (200).
"""

from __future__ import annotations

import datetime
import io
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from command_runs import environment
from s3diff.errors import S3DiffError
from s3diff.folders.picture_runners import LocalRunner
from s3diff.folders.plan import RestoreJob
from s3diff.folders.run_jobs import run_jobs
from s3diff.images.files.exif_block import EXIF_PREFIX
from s3diff.images.files.png_chunks import with_pixels
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.restorer import Restorer
from test_cli import noise

NUM_EXAMPLES = int(os.environ.get("S3DIFF_TEST_EXAMPLES", "200"))
#: Longer than anything takes here; a decoder that hangs is found by it.
PATIENCE = datetime.timedelta(seconds=30)
WIDTH, HEIGHT = 20, 12
#: Small, so that a header that says otherwise costs no time.
OPTIONS = RestoreOptions(
    scale=1, restore_at="output", max_input_pixels=20_000, max_output_pixels=20_000, max_file_bytes=100_000
)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()[:300]


def overwriting(restorer: Restorer) -> LocalRunner:
    return LocalRunner(restorer, OPTIONS, OutputOptions(overwrite=True))


def saved(form: str, image: Image.Image, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, "Anna"
    exif[0x8769] = {0x9003: "2024:01:02 03:04:05", 0xA002: WIDTH}
    return exif.tobytes()


def seeds() -> dict[str, bytes]:
    """Whole files, by name; the extension is the format's."""
    color = Image.fromarray(noise(HEIGHT, WIDTH, 3))
    clear = Image.fromarray(noise(HEIGHT, WIDTH, 4))
    grey, palette = color.convert("L"), color.quantize(16)
    frames = [Image.fromarray(noise(HEIGHT, WIDTH, 3, seed=index)).quantize(8) for index in range(3)]
    several = {"save_all": True, "append_images": frames[1:], "duration": 50}
    metadata = {"exif": exif_block(), "icc_profile": PROFILE, "dpi": (300, 300)}
    found = {
        "color.png": saved("PNG", color, **metadata),
        "palette.png": saved("PNG", palette, transparency=3),
        "deep.png": with_pixels(saved("PNG", clear), noise(HEIGHT, WIDTH, 4, seed=2).astype(np.uint16) * 257),
        "frames.png": saved("PNG", frames[0], **several),
        "baseline.jpg": saved("JPEG", color, **metadata),
        "progressive.jpg": saved("JPEG", color, progressive=True),
        "cmyk.jpg": saved("JPEG", color.convert("CMYK")),
        "grey.jpg": saved("JPEG", grey),
        "lossy.webp": saved("WEBP", clear, **metadata),
        "lossless.webp": saved("WEBP", clear, lossless=True),
        "frames.webp": saved("WEBP", frames[0].convert("RGB"), **several),
        "plain.tif": saved("TIFF", color, dpi=(300, 300), tiffinfo={0x0112: 6, 0x013B: "Anna"}),
        "deep.tif": deep_tiff(),
        "pages.tif": saved("TIFF", grey, save_all=True, append_images=[grey, grey]),
        "color.bmp": saved("BMP", color),
        "palette.bmp": saved("BMP", palette),
        "still.gif": saved("GIF", palette),
        "frames.gif": saved("GIF", frames[0], disposal=2, loop=0, **several),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        found[f"{compression}.tif"] = saved(
            "TIFF", grey.convert("1") if compression == "group4" else color, compression=compression
        )
    if features.check("avif"):
        found["color.avif"] = saved("AVIF", clear, speed=10, **metadata)
        found["frames.avif"] = saved("AVIF", frames[0].convert("RGB"), speed=10, **several)
    try:
        import pillow_heif

        data = io.BytesIO()
        pillow_heif.from_pillow(color).save(data, exif=exif_block()[len(EXIF_PREFIX) :])
        found["color.heic"] = data.getvalue()
    except ImportError:
        pass
    return found


def deep_tiff() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_picture(Picture(noise(HEIGHT, WIDTH, 3).astype(np.uint16) * 200), Path(folder, "a.tif"))
        return Path(folder, "a.tif").read_bytes()


SEEDS = seeds()

#: Mostly those that leave the file's length and structure as they are: the others are seldom seen by a decoder.
KINDS = ["set"] * 4 + ["flip"] * 4 + ["most"] * 2 + ["zeros"] * 2 + ["cut", "insert", "remove", "again"]
Change = tuple[str, int, int, int]
#: A number that changes are drawn by: hypothesis itself prefers simple ones, which hit a file's first bytes.
seed = st.integers(0, 2**63)


def drawn_changes(drawn: random.Random, at_most: int = 4) -> list[Change]:
    return [
        (drawn.choice(KINDS), drawn.randrange(10_000), drawn.choice([1, 1, 3]), drawn.randrange(256))
        for _ in range(drawn.randint(1, at_most))
    ]


def mutated(data: bytes, changes: Iterable[Change]) -> bytes:
    """Kind, place in ten thousandths of the length, power that it is taken to (3: mostly the header), and a value."""
    result = bytearray(data)
    for kind, where, power, value in changes:
        at, few, several = int((where / 9999) ** power * max(0, len(result) - 1)), 1 + value % 4, 1 + value % 64
        if not result:
            break
        if kind == "set":
            result[at] = value
        elif kind == "flip":
            result[at] ^= 1 << value % 8
        elif kind == "most":  # a number becomes the largest of its size
            result[at : at + few] = b"\xff" * len(result[at : at + few])
        elif kind == "zeros":
            result[at : at + few] = bytes(len(result[at : at + few]))
        elif kind == "cut":
            del result[at:]
        elif kind == "insert":
            result[at:at] = bytes(several)
        elif kind == "remove":
            del result[at : at + several]
        else:
            result[at:at] = result[at : at + several]
    return bytes(result)


@pytest.fixture(scope="module")
def place_for_files() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@given(st.sampled_from(sorted(SEEDS)), seed, st.sampled_from(["", "", ".png", ".gif"]))
@settings(
    max_examples=NUM_EXAMPLES,
    deadline=PATIENCE,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_whole_result_or_one_line(
    restorer: Restorer, place_for_files: Path, name: str, seed: int, extension: str
) -> None:
    source = place_for_files / name
    target = place_for_files / f"result{extension or source.suffix}"
    source.write_bytes(mutated(SEEDS[name], drawn_changes(random.Random(seed))))
    try:
        (outcome,) = run_jobs([RestoreJob(source, target)], overwriting(restorer))
        left = sorted(path.name for path in place_for_files.iterdir())
        event(outcome.state)
        if outcome.state == "done":
            assert left == sorted([name, target.name])
            assert read_picture(target).pixels.size
        else:
            assert left == [name]
            assert outcome.reason.isprintable()
            assert ";" in outcome.reason or ":" in outcome.reason, f"does not say what to do: {outcome.reason}"
            assert str(source) in outcome.reason or str(target) in outcome.reason
        for note in outcome.result.notes if outcome.result else ():
            assert "\n" not in note
    finally:
        source.unlink()
        target.unlink(missing_ok=True)


STREAMED_SEEDS = sorted(name for name in SEEDS if name.endswith((".tif", ".png", ".jpg")))


@given(st.sampled_from(STREAMED_SEEDS), seed)
@settings(max_examples=NUM_EXAMPLES // 4, deadline=PATIENCE, suppress_health_check=[HealthCheck.too_slow])
def test_a_whole_streamed_result_or_one_line(restorer: Restorer, place_for_files: Path, name: str, seed: int) -> None:
    pytest.importorskip("pyvips", reason="needs the extra large")
    source, target = place_for_files / name, place_for_files / "result.tif"
    source.write_bytes(mutated(SEEDS[name], drawn_changes(random.Random(seed))))
    try:
        restorer.restore_file(source, target, RestoreOptions(scale=1))
    except S3DiffError as error:
        message = str(error)
        left = [path.name for path in place_for_files.iterdir()]
    else:
        message, left = "", [path.name for path in place_for_files.iterdir() if path != target]
        assert read_picture(target).pixels.size
    finally:
        source.unlink()
        for path in place_for_files.iterdir():
            path.unlink()
    event("failed" if message else "done")
    assert left == [name]
    assert message.isprintable()
    assert not message or ";" in message, f"does not say what to do: {message}"


@pytest.mark.filterwarnings("ignore")
def test_the_seeds_are_good_and_most_mutations_are_not(restorer: Restorer, place_for_files: Path) -> None:
    """The test above would mean little if all files were refused, or none."""
    drawn, num_done, num_all = random.Random(1), 0, 0
    for name, data in SEEDS.items():
        source, target = place_for_files / name, place_for_files / f"result{Path(name).suffix}"
        for changes in ([], [("set", drawn.randrange(10_000), 1, drawn.randrange(256)), ("cut", 9900, 1, 0)]):
            source.write_bytes(mutated(data, changes))
            (outcome,) = run_jobs([RestoreJob(source, target)], overwriting(restorer))
            assert changes or outcome.state == "done", (name, outcome.reason)
            num_all += bool(changes)
            num_done += bool(changes) and outcome.state == "done"
            source.unlink()
            target.unlink(missing_ok=True)
    assert num_done < 0.8 * num_all


@pytest.mark.skipif(os.name == "nt", reason="libtiff's own messages can be silenced on Linux and macOS only")
@pytest.mark.slow
def test_the_command_says_one_line_for_each(small: Path, tmp_path: Path) -> None:
    """As a process: libraries in C that write to stderr themselves would be seen."""
    folder, drawn = tmp_path / "in", random.Random(5)
    folder.mkdir()
    for index in range(6):
        for name, data in SEEDS.items():
            changes = drawn_changes(drawn)
            (folder / f"{index}-{name}").write_bytes(mutated(data, changes))
    arguments = f"restore in -o out -m {small} --scale 1 --restore-at output --device cpu --max-megapixels 0.02"
    done = subprocess.run(
        [sys.executable, "-m", "s3diff", *arguments.split(), "--max-input-megapixels", "0.02"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    written, lines = done.stdout.splitlines(), done.stderr.splitlines()
    failed = [line for line in lines if line.startswith("s3diff: ")]
    assert len(written) + len(failed) == 6 * len(SEEDS)
    assert min(len(written), len(failed)) > len(SEEDS) / 2
    results = [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]
    assert len(results) == len(written)
    assert not list((tmp_path / "out").glob("*.part"))
    table_start = next(index for index, line in enumerate(lines) if line.startswith("done "))
    # How far the run is, which a slow machine says every 30 seconds, is no remark.
    progress = re.compile(r"\d+ of \d+, .+: \d+%(, about .+ left)?")
    remarks = [line for line in lines[1:table_start] if line not in failed and not progress.fullmatch(line)]
    assert all(re.match(r"in/\d-[a-z_0-9]+\.[a-z]+: ", line) for line in remarks), remarks
