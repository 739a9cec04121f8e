"""Pictures restored part by part from and to the disk: the same result, resumed, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pyvips = pytest.importorskip("pyvips", reason="needs the extra large (see s3diff doctor)")

from command_runs import Command  # noqa: E402
from golden_models import tiny_model  # noqa: E402
from metadata_corpus import jpeg, png, tiff  # noqa: E402
from s3diff.errors import OptionError, OutputError, PictureError, S3DiffError  # noqa: E402
from s3diff.images.files.large_files import LargePicture  # noqa: E402
from s3diff.images.files.reading import read_picture  # noqa: E402
from s3diff.options import RestoreOptions  # noqa: E402
from s3diff.restoration.restorer import Restorer  # noqa: E402
from s3diff.restoration.scratch_files import PixelFile, Place, RecordedCanvas  # noqa: E402
from s3diff.tiling import HaloSpan, Span  # noqa: E402

#: Output 400 x 260 px in tiles of 384: three of them.
SIZE = (65, 100)
TILED = RestoreOptions(tile=384, upsampling="bicubic")


def drawn(height: int, width: int, channels: int, depth: type = np.uint8) -> np.ndarray:
    """Smooth colours with noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / (7 + each)) * np.cos(columns / (11 - each)) for each in range(channels)]
    noise = np.random.default_rng(3).normal(0, 0.03, (height, width, channels))
    values = (0.5 + 0.35 * np.stack(waves, axis=2) + noise).clip(0, 1)
    return np.rint(values * np.iinfo(depth).max).astype(depth)


def written(path: Path, pixels: np.ndarray, **saving: object) -> Path:
    pyvips.Image.new_from_array(pixels[..., 0] if pixels.shape[2] == 1 else pixels).write_to_file(str(path), **saving)
    return path


def opened(path: Path) -> np.ndarray:
    pixels = pyvips.Image.new_from_file(str(path), revalidate=True).numpy()
    return pixels[..., None] if pixels.ndim == 2 else pixels


@pytest.mark.parametrize(
    ("name", "channels", "color_match", "saving"),
    [
        ("a.png", 3, "wavelet", {}),
        ("a.tif", 3, "adain", {"tile": True, "tile_width": 32, "tile_height": 32}),
        ("a.png", 1, "wavelet", {}),
        ("a.jpg", 3, "none", {"Q": 95}),
    ],
)
def test_a_streamed_picture_is_the_restored_picture(
    restorer: Restorer, tmp_path: Path, name: str, channels: int, color_match: str, saving: dict[str, object]
) -> None:
    source = written(tmp_path / name, drawn(*SIZE, channels), **saving)
    options = RestoreOptions(tile=384, color_match=color_match, grey="keep")
    told: list[tuple[str, int, int]] = []
    streamed = restorer.restore_file(source, tmp_path / "out.tif", options, progress=lambda *each: told.append(each))
    expected = restorer.restore(source, options)
    found = opened(tmp_path / "out.tif")
    assert found.shape == expected.array.shape == (260, 400, channels)
    assert np.abs(found.astype(int) - expected.array.astype(int)).max() <= 1
    assert (streamed.width, streamed.height, streamed.num_tiles, streamed.num_resumed) == (400, 260, 3, 0)
    assert streamed.degrees == pytest.approx(expected.degrees, abs=1e-5)
    assert told == [("tiles", 1, 3), ("tiles", 2, 3), ("tiles", 3, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "out.tif"})  # nothing beside it


def test_three_equal_channels_stay_equal(compact: Restorer, tmp_path: Path) -> None:
    source = written(tmp_path / "a.png", drawn(*SIZE, 1).repeat(3, axis=2))
    compact.restore_file(source, tmp_path / "out.tif", TILED)
    found = opened(tmp_path / "out.tif")
    assert found.shape == (260, 400, 3)
    assert np.array_equal(found, found[..., :1].repeat(3, axis=2))
    assert np.abs(found.astype(int) - compact.restore(source, TILED).array.astype(int)).max() <= 1


def test_16_bits_profile_and_dpi_are_kept_in_a_tiled_bigtiff(compact: Restorer, tmp_path: Path) -> None:
    pixels = drawn(*SIZE, 3, np.uint16)
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="rgb16", xres=300 / 25.4, yres=300 / 25.4)
    profile = pyvips.Image.black(1, 1, bands=3).copy(interpretation="srgb").icc_transform("p3").get("icc-profile-data")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    image.write_to_file(str(tmp_path / "deep.tif"))
    streamed = compact.restore_file(tmp_path / "deep.tif", tmp_path / "out.tif", TILED)
    assert (tmp_path / "out.tif").read_bytes()[:4] == b"II+\0"  # BigTIFF
    out = pyvips.Image.new_from_file(str(tmp_path / "out.tif"))
    assert (out.format, out.interpretation, out.get("tile-width")) == ("ushort", "rgb16", 256)
    assert bytes(out.get("icc-profile-data")) == bytes(profile)
    assert out.xres * 25.4 == pytest.approx(300, rel=1e-4)
    expected = compact.restore((pixels.astype(float) / 65535), TILED).array * 65535
    assert np.abs(out.numpy() - expected).max() <= 257  # one level of 8 bits
    assert len(np.unique(out.numpy() % 257)) > 200  # 16 bits indeed
    assert any("not sRGB" in note for note in streamed.notes)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_dpi_turn_with_the_picture(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(drawn(24, 16, 3)).save(tmp_path / "a.jpg", exif=exif, dpi=(300, 150))
    picture = LargePicture(tmp_path / "a.jpg")
    assert (picture.width, picture.height) == ((24, 16) if orientation == 6 else (16, 24))
    assert picture.dpi == pytest.approx((150, 300) if orientation == 6 else (300, 150), rel=1e-3)


@pytest.mark.parametrize("color_match", ["wavelet", "adain"])
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(
    restorer: Restorer, tmp_path: Path, color_match: str
) -> None:
    source, options = written(tmp_path / "a.png", drawn(*SIZE, 3)), RestoreOptions(tile=384, color_match=color_match)
    restorer.restore_file(source, tmp_path / "at_once.tif", options)

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restorer.restore_file(source, tmp_path / "out.tif", options, progress=stop)
    assert not (tmp_path / "out.tif").exists()
    with open(tmp_path / ".out.tif.s3diff-tiles", "ab") as record:
        record.write(b'{"top": 0, "le')  # a line that a power cut cut off
    told: list[int] = []
    resumed = restorer.restore_file(source, tmp_path / "out.tif", options, progress=lambda *each: told.append(each[1]))
    assert (resumed.num_resumed, told) == (1, [2, 3])
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "at_once.tif").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="names are limited otherwise")
def test_names_up_to_the_file_systems_limit_are_streamed(restorer: Restorer, tmp_path: Path) -> None:
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))
    pixels.save(tmp_path / "a.png")
    target = tmp_path / f"{'n' * 251}.tif"
    restorer.restore_file(tmp_path / "a.png", target, RestoreOptions(scale=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", target.name]


def test_pixels_that_are_not_all_there_do_not_count(restorer: Restorer, tmp_path: Path) -> None:
    source = written(tmp_path / "a.png", drawn(*SIZE, 3))

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restorer.restore_file(source, tmp_path / "out.tif", TILED, progress=stop)
    with open(tmp_path / ".out.tif.s3diff-pixels", "r+b") as pixels:
        pixels.truncate(100)
    assert restorer.restore_file(source, tmp_path / "out.tif", TILED).num_resumed == 0


def test_a_result_that_appears_meanwhile_is_not_replaced(restorer: Restorer, tmp_path: Path) -> None:
    source = written(tmp_path / "a.png", drawn(*SIZE, 3))

    def appear(stage: str, done: int, total: int) -> None:
        (tmp_path / "out.tif").write_bytes(b"mine")

    with pytest.raises(OutputError, match="has appeared meanwhile"):
        restorer.restore_file(source, tmp_path / "out.tif", TILED, overwrite=False, progress=appear)
    assert (tmp_path / "out.tif").read_bytes() == b"mine"


def test_a_record_of_other_options_or_another_picture_does_not_count(compact: Restorer, tmp_path: Path) -> None:
    source = written(tmp_path / "a.png", drawn(*SIZE, 3))

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    for options, new_source, resumed in (
        (TILED, False, 1),
        (RestoreOptions(tile=384, upsampling="bicubic", noise=0.9), False, 0),
        (RestoreOptions(tile=400), False, 0),  # tiles of another size, asked for
        (RestoreOptions(), False, 1),  # auto goes on with those that are there
        (TILED, True, 0),
    ):
        with pytest.raises(KeyboardInterrupt):
            compact.restore_file(source, tmp_path / "out.tif", TILED, progress=stop)
        if new_source:
            written(source, 255 - drawn(*SIZE, 3))
        assert compact.restore_file(source, tmp_path / "out.tif", options).num_resumed == resumed


def test_parts_are_read_as_the_whole_picture_is(tmp_path: Path) -> None:
    pixels = drawn(90, 70, 3)
    for name, saving in (("a.tif", {"tile": True, "tile_width": 16, "tile_height": 16}), ("a.png", {})):
        picture = LargePicture(written(tmp_path / name, pixels, **saving))
        part = picture.read(Span(13, 61), Span(5, 70))
        assert (part[0].permute(1, 2, 0).numpy() * 255).round() == pytest.approx(pixels[13:61, 5:70])
    orientation = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=orientation)
    expected = read_picture(tmp_path / "turned.jpg")
    assert (LargePicture(tmp_path / "turned.jpg").width, expected.width) == (90, 90)


def refused(name: str, tmp_path: Path) -> Path:
    path = tmp_path / name
    if name == "alpha.png":
        written(path, drawn(8, 8, 4))
    elif name == "cmyk.tif":
        pyvips.Image.new_from_array(drawn(8, 8, 4)).copy(interpretation="cmyk").write_to_file(str(path))
    elif name == "text.tif":
        path.write_text("no picture")
    elif name == "float.tif":
        pyvips.Image.new_from_array(drawn(8, 8, 3).astype(np.float32)).write_to_file(str(path))
    elif name == "cut.png":
        written(path, drawn(64, 64, 3))
        path.write_bytes(path.read_bytes()[:3000])
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "alpha.png": "has transparency",
        "cmyk.tif": "is cmyk",
        "text.tif": "is not a PNG",
        "float.tif": "kind of pixels is not supported",
        "missing.tif": "does not exist",
        "cut.png": "it may be damaged",
    }.items(),
)
def test_pictures_that_cannot_be_streamed_are_one_line(
    restorer: Restorer, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(PictureError, match=words) as error:
        restorer.restore_file(refused(name, tmp_path), tmp_path / "out.tif")
    assert "\n" not in str(error.value)
    assert not [path for path in tmp_path.iterdir() if "out.tif" in path.name]


def test_models_options_and_targets_that_cannot_be_streamed_are_one_line(restorer: Restorer, tmp_path: Path) -> None:
    source = written(tmp_path / "a.png", drawn(16, 16, 3))
    tiny = Restorer(tiny_model(), device="cpu")
    cases: list[tuple[Restorer, str, RestoreOptions, type[S3DiffError], str]] = [
        (tiny, "o.tif", RestoreOptions(), OptionError, "looks at the whole picture at once"),
        (restorer, "o.png", RestoreOptions(), OutputError, r"end the name in \.tif"),
        (restorer, "o.tif", RestoreOptions(strength=0.5), OptionError, "strength is 0.5"),
        (restorer, "o.tif", RestoreOptions(latent="sample"), OptionError, "latent mean"),
        (restorer, "o.tif", RestoreOptions(tile="off"), OptionError, "tile off"),
        (restorer, "o.tif", RestoreOptions(scale=2, restore_at="model"), OptionError, "neither cut nor resampled"),
        (restorer, "o.tif", RestoreOptions(scale=1e9), PictureError, "px a side"),
        (restorer, "o.tif", RestoreOptions(scale=1e5), OutputError, "GB of disk"),
    ]
    for restorer, name, options, kind, words in cases:
        with pytest.raises(S3DiffError, match=words) as error:
            restorer.restore_file(source, tmp_path / name, options)
        assert "\n" not in str(error.value)
        assert isinstance(error.value, kind)
    (tmp_path / "there.tif").write_bytes(b"mine")
    with pytest.raises(OutputError, match="already there"):
        restorer.restore_file(source, tmp_path / "there.tif", overwrite=False)
    assert (tmp_path / "there.tif").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "there.tif"]


# ---------------------------------------------------------------------------------------------- the command


def test_an_output_that_memory_does_not_take_is_streamed(compact: Restorer, command: Command, tmp_path: Path) -> None:
    source, target = written(tmp_path / "a.png", drawn(*SIZE, 3)), tmp_path / "new" / "out.tif"
    limits = ("--max-megapixels", 0.05, "--tile", 384, "--precision", "float32", "--device", "cpu")
    code, out, err = command("restore", source, "-o", target, *limits, "--report", tmp_path / "report.jsonl")
    assert code == 0
    assert out.startswith(f"{target}  400x260  blur ")
    assert "streamed" in err
    line = json.loads((tmp_path / "report.jsonl").read_text())
    assert (line["state"], line["width"], line["height"]) == ("done", 400, 260)
    expected = compact.restore(source, RestoreOptions(tile=384))
    assert np.abs(opened(target).astype(int) - expected.array.astype(int)).max() <= 1
    assert command("restore", source, "-o", target, *limits, "--skip-existing")[0] == 0
    code, out, err = command("restore", source, "-o", target, *limits)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "--overwrite" in err
    assert command("restore", source, "-o", target, *limits, "--overwrite", "-q")[1:] == ("", "")


def test_a_name_that_is_not_a_tiff_is_refused_before_the_model_is_loaded(
    command: Command, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("a.png"), drawn(16, 16, 3))
    code, out, err = command("restore", "a.png", "-m", small, "--stream", "-o", "o.png")
    assert (code, out) == (1, "")
    assert err == "s3diff: o.png is no TIFF name, and only TIFF is written part by part; end the name in .tif\n"


def test_what_the_command_cannot_stream_is_one_line(command: Command, tmp_path: Path) -> None:
    source = written(tmp_path / "a.png", drawn(16, 16, 3))
    (tmp_path / "many").mkdir()
    for name in ("b.png", "c.png"):
        written(tmp_path / "many" / name, drawn(16, 16, 3))
    alpha = refused("alpha.png", tmp_path)
    cases = [
        ((source, "-o", tmp_path / "o.png", "--stream"), 1, "end the name in .tif"),
        ((tmp_path / "many", "-o", tmp_path / "o", "--stream"), 2, "takes one picture"),
        ((alpha, "-o", tmp_path / "o.tif", "--stream"), 1, "has transparency"),
        ((source, "-o", tmp_path / "o.tif", "--stream", "--strength", "0.5"), 2, "strength is 0.5"),
        ((source, "-o", tmp_path / "o.png", "--max-megapixels", "0.001"), 1, "stream it into a .tif"),
    ]
    for arguments, expected, words in cases:
        code, out, err = command("restore", *arguments, "-q")
        assert (code, out, err.count("\n")) == (expected, "", 1), err
        assert words in err
    assert not list(tmp_path.glob("o*"))


def test_the_pixels_of_a_streamed_result_are_not_in_memory(tmp_path: Path) -> None:
    """Written in parts and finished (adain needs all of them): a tenth of what an array would take."""
    size, tile = (6000, 4000), 500
    pixels = PixelFile(tmp_path / "pixels", (*size, 3), np.dtype(np.uint16))
    finished = PixelFile(tmp_path / "finished", (*size, 3), np.dtype(np.uint8))
    canvas = RecordedCanvas(
        size,
        np.dtype(np.uint8),
        RestoreOptions(color_match="adain"),
        in_grey=False,
        pixels=pixels,
        record=tmp_path / "tiles",
        header={},
        place=Place(tmp_path / "a.tif"),
    )
    part = torch.full((1, 3, tile, tile), 0.25)
    part[..., ::2] = 0.75
    tracemalloc.start()
    try:
        for top in range(0, size[0], tile):
            for left in range(0, size[1], tile):
                rows, columns = (HaloSpan(Span(at, at + tile), Span(at, at + tile)) for at in (top, left))
                canvas.write(part, part / 2, rows, columns)
        canvas.finished(in_grey=False, pixels=finished)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    canvas.close()
    values = np.fromfile(tmp_path / "finished", np.uint8)
    finished.close()
    assert np.array_equal(np.unique(values), [32, 96])  # an eighth and three eighths: the base's mean and deviation
    assert peak < size[0] * size[1] * 3 * 2 / 4


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory of a child is asked through os.wait4")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_picture(small: Path, tmp_path: Path) -> None:
    """The whole process; both pictures are estimated in tiles of one size. ``restore`` takes some 90 MiB more for the
    larger one.
    """
    script = (
        "import sys, torch; from s3diff import Restorer, RestoreOptions\n"
        "torch.set_num_threads(1)\n"
        f"Restorer.from_pretrained({str(small)!r}, device='cpu').restore_file(*sys.argv[1:3],"
        " RestoreOptions(scale=0.05, tile=384, grey='keep'))"
    )
    peaks = []
    for height in (3000, 36000):
        pixels = np.tile(drawn(100, 128, 1), (height // 100, 1, 1))
        source = written(tmp_path / f"{height}.tif", pixels, tile=True, tile_width=256, tile_height=256)
        process = subprocess.Popen([sys.executable, "-c", script, str(source), str(tmp_path / f"{height}-out.tif")])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    assert peaks[1] - peaks[0] < 40e6, peaks


def test_streaming_takes_no_preview_and_no_other_colours(tmp_path: Path) -> None:
    from test_previews_and_pixels import FULL, REDUCED, SMALL, Tiff

    tiff = Tiff()
    first = tiff.directory(SMALL, REDUCED, following=tiff.directory(FULL, {}))
    (tmp_path / "a.tif").write_bytes(tiff.begin_at(first))
    with pytest.raises(PictureError, match="reduced copy"):
        LargePicture(tmp_path / "a.tif")
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 2}
    Image.fromarray(FULL).save(tmp_path / "a.jpg", exif=exif)
    assert LargePicture(tmp_path / "a.jpg").icc_profile == read_picture(tmp_path / "a.jpg").icc_profile is not None


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("dpi.tif", tiff({282: 72.0, 283: 72.0, 296: 2}), ""),
        ("artist.tif", tiff({0x013B: "Anna"}), "EXIF, XMP, IPTC and texts"),
        ("page.tif", tiff({0x0129: (3, 9)}), "PageNumber"),
        ("time.png", png((b"tIME", bytes(7))), "tIME"),
        ("text.png", png((b"tEXt", b"Title\0a title")), "EXIF, XMP, IPTC and texts"),
        ("video.jpg", jpeg() + b"\0\0\0\x18ftypmp42", "video"),
        ("comment.jpg", jpeg((0xFE, b"hello")), "EXIF, XMP, IPTC and texts"),
    ],
)
def test_what_a_streamed_result_lacks_is_named(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    (tmp_path / name).write_bytes(content)
    notes = LargePicture(tmp_path / name).notes
    assert [word in note for note in notes] == [True] * bool(word)
