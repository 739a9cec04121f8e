"""Kinds of TIFF pixels that Pillow has no mode for: what was stored is what is read, in every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s3diff.errors import PictureError
from s3diff.images.files.reading import decode_picture, picture_header
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture
from tiff_builder import Storage, stored

HEIGHT, WIDTH = 21, 37
LAYOUTS = {
    "strips": Storage(),
    "tiles": Storage(tile=16),
    "planes": Storage(planar=True),
    "planes of tiles": Storage(planar=True, tile=16),
    "deflate": Storage(compression=8),
    "LZW": Storage(compression=5, rows=21),
    "deflated tiles": Storage(compression=8, tile=16),
}
DIFFERENCES = {
    "differences": Storage(compression=8, predictor=2),
    "differences in planes": Storage(compression=8, predictor=2, planar=True),
    "differences in tiles": Storage(compression=5, predictor=2, tile=16),
}
ORDERS = pytest.mark.parametrize("order", ["<", ">"])


def levels(bits: int, samples: int) -> np.ndarray:
    """[H, W, S] of all kinds of values, the smallest and the largest among them."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH, samples), np.uint64, endpoint=False)
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    return values.astype(next(np.dtype(f"u{size}") for size in (1, 2, 4, 8) if size * 8 >= bits))


def in_depth(values: np.ndarray, bits: int) -> np.ndarray:
    """As 8 bits where these hold them, else as 16."""
    top = 255 if bits <= 8 else 65535
    return np.array([round(int(each) * top / (2**bits - 1)) for each in values.ravel()]).reshape(values.shape)


@ORDERS
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [2, 4, 10, 12, 14, 16, 24, 32])
def test_colors_of_any_number_of_bits(bits: int, layout: str, order: str) -> None:
    values = levels(bits, 3)
    data = stored(values, 2, {}, order, LAYOUTS[layout], bits if bits not in (16, 32) else 0)
    picture = decode_picture(data, "a.tif")
    assert picture.pixels.dtype == (np.uint8 if bits <= 8 else np.uint16)
    assert np.abs(picture.pixels.astype(int) - in_depth(values, bits)).max() <= (0 if bits < 24 else 1)
    assert picture.notes == ((f"{bits} bits per channel were rounded to 16",) if bits > 16 else ())


@ORDERS
@pytest.mark.parametrize("layout", DIFFERENCES)
@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_differences(bits: int, layout: str, order: str, samples: int) -> None:
    values = levels(bits, samples)
    extra = {338: (3, [2])} if samples in (2, 4) else {}
    picture = decode_picture(stored(values, 1 if samples < 3 else 2, extra, order, DIFFERENCES[layout]), "a.tif")
    found = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    assert np.abs(found.astype(int) - in_depth(values, bits)).max() <= (bits > 16)


@ORDERS
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "float differences", "float differences in tiles"])
def test_floats(kind: str, layout: str, order: str) -> None:
    how = LAYOUTS.get(layout) or Storage(compression=8, predictor=3, tile=16 * ("tiles" in layout))
    values = np.random.default_rng(3).random((HEIGHT, WIDTH, 3)).astype(kind)
    picture = decode_picture(stored(values, 2, {}, order, how), "a.tif")
    assert np.array_equal(picture.pixels, np.rint(values.astype(np.float64) * 65535))
    assert picture.notes == ("floating-point values were rounded to 16 bits",)
    values[3, 4] = -0.5, 0, 7
    picture = decode_picture(stored(values, 2, {}, order, how), "a.tif")
    assert picture.pixels[3, 4].tolist() == [0, 0, 65535]
    assert picture.notes[1:] == ("values from -0.5 to 7 were cut to the range from 0 to 1",)
    values[5, 5] = np.nan
    with pytest.raises(PictureError, match="no finite numbers"):
        decode_picture(stored(values, 2, {}, order, how), "a.tif")


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f4"])
@pytest.mark.parametrize("extra", ["opacity", "premultiplied", "opacity and mask", "mask", "nothing said"])
def test_further_channels(kind: str, extra: str) -> None:
    meanings = {"opacity": [2], "premultiplied": [1], "opacity and mask": [2, 0], "mask": [0], "nothing said": []}[
        extra
    ]
    top = 1 if kind == "f4" else np.iinfo(kind).max
    shares = np.random.default_rng(1).random((HEIGHT, WIDTH, 3 + max(1, len(meanings)))) * 0.5 + 0.25
    colors, alpha = shares[..., :3].copy(), shares[..., 3]
    if extra == "premultiplied":
        shares[..., :3] *= alpha[..., None]
    values = (shares * top if kind == "f4" else np.rint(shares * top)).astype(kind)
    picture = decode_picture(stored(values, 2, {338: (3, meanings)} if meanings else {}), "a.tif")
    largest = np.iinfo(picture.pixels.dtype).max
    assert np.abs(picture.pixels / largest - colors).max() <= (4 if extra == "premultiplied" else 1) / largest
    if extra == "mask":
        assert picture.alpha is None
    else:
        assert picture.alpha is not None
        assert np.abs(picture.alpha / largest - alpha).max() <= 1 / largest
    assert any("further channel" in note for note in picture.notes) == ("mask" in extra)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extra", ["opacity", "spot colour"])
def test_cmyk_with_a_fifth_channel(bits: int, extra: str) -> None:
    top = 2**bits - 1
    values = np.zeros((HEIGHT, WIDTH, 5), f"u{bits // 8}")
    values[:10, :, 1:3] = top  # red
    values[10:, :, 4] = top
    picture = decode_picture(stored(values, 5, {338: (3, [2 if extra == "opacity" else 0])}), "a.tif")
    assert picture.pixels[0, 0].tolist() == [255, 0, 0]
    assert picture.pixels[-1, 0].tolist() == [255, 255, 255]
    assert "CMYK was converted to RGB without a colour profile" in picture.notes
    assert any("16 bits" in note for note in picture.notes) == (bits == 16)
    if extra == "opacity":
        assert picture.alpha is not None
        assert (picture.alpha[:10].max(), picture.alpha[10:].min()) == (0, 255)
    assert any("further channel" in note for note in picture.notes) == (extra != "opacity")


#: L, a, b under D50 and sRGB, by Bruce Lindbloom's calculator.
LAB = [((100, 0, 0), (1, 1, 1)), ((53.585, 0, 0), (0.5, 0.5, 0.5)), ((54.29, 80.81, 69.89), (1, 0, 0))]


@ORDERS
@pytest.mark.parametrize("kind", ["CIELab 8", "CIELab 16", "ICCLab 8", "ICCLab 16", "float"])
def test_lab(kind: str, order: str) -> None:
    lab = np.array([[each for each, _ in LAB]])
    if kind == "float":
        values, photometric = lab.astype(np.float32), 8
    elif kind.startswith("CIELab"):
        bits, photometric = int(kind[7:]), 8
        numbers = np.rint(lab * (1 if bits == 8 else 256)).astype(np.int64)
        numbers[..., 0] = np.rint(lab[..., 0] / 100 * (2**bits - 1))
        values = (numbers & (2**bits - 1)).astype(f"u{bits // 8}")
    else:
        bits, photometric = int(kind[7:]), 9
        numbers = np.rint((lab + 128) * (1 if bits == 8 else 256))
        numbers[..., 0] = np.rint(lab[..., 0] / 100 * (255 if bits == 8 else 65280))
        values = numbers.astype(f"u{bits // 8}")
    picture = decode_picture(stored(values, photometric, {}, order), "a.tif")
    tolerance = 0.012 if kind.endswith(" 8") else 0.002
    found = picture.pixels[0] / np.iinfo(picture.pixels.dtype).max
    assert np.abs(found - [each for _, each in LAB]).max() <= tolerance
    assert ["Lab was converted to sRGB" in note for note in picture.notes] == [True]
    assert picture.icc_profile is None


def test_colors_outside_srgb_are_named() -> None:
    values = np.array([[[60, -100, 60]]], np.float32)
    assert "outside it were cut off" in decode_picture(stored(values, 8, {}), "a.tif").notes[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_orientations(tmp_path: Path, kind: str, orientation: int) -> None:
    values = (np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3) / 4000).astype(np.float32)
    values = values if kind == "f4" else np.rint(values * 65535).astype("u2")
    path = tmp_path / "a.tif"
    path.write_bytes(stored(values, 2, {274: (3, [orientation]), 282: (5, [300, 1]), 283: (5, [150, 1])}))
    picture, plain = decode_picture(path.read_bytes(), "a.tif"), decode_picture(stored(values, 2, {}), "a.tif").pixels
    turned = plain.swapaxes(0, 1) if orientation > 4 else plain
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    assert np.array_equal(picture.pixels, turned)
    assert picture_header(path)[:2] == (WIDTH, HEIGHT)
    assert picture.dpi == ((150, 300) if orientation > 4 else (300, 150))


REFUSED = {
    "signed or complex numbers": stored(np.zeros((2, 2, 3), np.int16), 2, {}),
    "channels of 8 and 16 bits": stored(np.zeros((2, 2, 3), np.uint16), 2, {258: (3, [16, 8, 16])}),
    "inks other than CMYK": stored(np.zeros((2, 2, 5), np.uint8), 5, {332: (3, [2])}),
    "predictor 2 for 12 bits": stored(
        np.zeros((2, 2, 3), np.uint16), 2, {317: (3, [2])}, how=Storage(compression=8), bits=12
    ),
    "tiles of": stored(np.zeros((2, 2, 3), np.uint16), 2, {}, how=Storage(tile=1024)),
    "floating-point numbers of 24 bits": stored(np.zeros((2, 2, 3), np.uint32), 2, {339: (3, [3] * 3)}, bits=24),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_not_read_is_called_what_it_is(words: str) -> None:
    with pytest.raises(PictureError, match=words) as error:
        decode_picture(REFUSED[words], "a.tif", max_pixels=100)
    assert "damaged" not in str(error.value)
    assert "save it" in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_is_cut_off(layout: str) -> None:
    values = levels(16, 3)
    data = stored(values, 2, {}, "<", LAYOUTS[layout])
    with pytest.raises(PictureError):
        decode_picture(data.replace(data[8:1500], b"", 1), "a.tif")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = levels(16, 4)
    written = Picture(np.ascontiguousarray(values[..., :3]), np.ascontiguousarray(values[..., 3]))
    write_picture(written, tmp_path / "a.tif")
    read = decode_picture((tmp_path / "a.tif").read_bytes(), "a.tif")
    assert np.array_equal(read.pixels, written.pixels)
    assert read.alpha is not None
    assert np.array_equal(read.alpha, values[..., 3])
