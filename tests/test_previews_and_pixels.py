"""The picture and not its preview; kinds of pixels that are rare, and what is said of those that are not read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from s3diff.errors import PictureError
from s3diff.images.files.reading import decode_picture, picture_header, read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture
from tiff_builder import Tiff

FULL = np.arange(30 * 40 * 3, dtype=np.uint32).reshape(30, 40, 3).astype(np.uint8)
SMALL = np.full((6, 8, 3), 200, np.uint8)


RAW = np.zeros((30, 40, 1), np.uint16)
REDUCED = {254: (4, [1])}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("maker", ["DNG", "NEF or ARW", "PEF"])
def test_raw_files_are_refused_by_name(order: str, maker: str) -> None:
    tiff = Tiff(order)
    sensor = tiff.directory(RAW, {254: (4, [0]), 262: (3, [32803])})
    if maker == "PEF":
        data = tiff.begin_at(sensor)
    else:
        version = {50706: (1, [1, 4, 0, 0])} if maker == "DNG" else {}
        data = tiff.begin_at(tiff.directory(SMALL, {**REDUCED, 330: (4, [sensor]), **version}))
    with pytest.raises(PictureError, match=r"raw file.*develop it first"):
        decode_picture(data, "a.dng")


@pytest.mark.parametrize("mark", [b"CR\x02\0" + bytes(4), b"IIIITwaR", b"MMMMRawT"])
def test_raw_files_with_a_mark_behind_the_header_are_refused(tmp_path: Path, mark: bytes) -> None:
    """Canon's CR2 and Phase One's IIQ; grey pixels may stand there, too."""
    for data, is_raw in ((mark, True), (b"IIIIIIII", False)):
        tiff = Tiff()
        tiff.data += data
        (tmp_path / "a.tif").write_bytes(tiff.begin_at(tiff.directory(SMALL, {})))
        if is_raw:
            with pytest.raises(PictureError, match="raw file"):
                read_picture(tmp_path / "a.tif")
        else:
            assert read_picture(tmp_path / "a.tif").notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("where", ["next page", "sub-directory", "larger sub-directory, unmarked", "old mark"])
def test_the_full_picture_is_read(tmp_path: Path, order: str, where: str) -> None:
    tiff = Tiff(order)
    full = tiff.directory(FULL, {254: (4, [0])})
    marked = {255: (3, [2])} if where == "old mark" else {} if "unmarked" in where else REDUCED
    children = {330: (4, [full])} if "sub-directory" in where else {}
    first = tiff.directory(SMALL, {**marked, **children}, following=0 if children else full)
    (tmp_path / "a.tif").write_bytes(tiff.begin_at(first))
    picture = read_picture(tmp_path / "a.tif")
    assert np.array_equal(picture.pixels, FULL)
    assert picture.notes == ()
    assert picture_header(tmp_path / "a.tif")[:2] == (40, 30)


def test_a_pyramid_is_one_picture_and_pages_are_counted() -> None:
    tiff = Tiff()
    second = tiff.directory(FULL, {})
    small = tiff.directory(SMALL, REDUCED, following=second)
    data = tiff.begin_at(tiff.directory(FULL, {}, following=small))
    picture = decode_picture(data, "a.tif")
    assert np.array_equal(picture.pixels, FULL)
    assert ["2 pages" in note for note in picture.notes] == [True]


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("clear", ["white", "black", "with unused bits"])
def test_a_clear_grey_of_few_bits(bits: int, clear: str) -> None:
    largest = (1 << bits) - 1
    value = {"white": largest, "black": 0, "with unused bits": largest | 0x100}[clear]
    row = int("".join(format(0 if i < 8 else largest, f"0{bits}b") for i in range(16)), 2).to_bytes(2 * bits, "big")
    data = with_chunks(
        (b"IHDR", struct.pack(">IIBBBBB", 16, 8, bits, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", value)),
        (b"IDAT", zlib.compress((b"\0" + row) * 8)),
        (b"IEND", b""),
    )
    picture = decode_picture(data, "a.png")
    assert picture.alpha is not None
    left, right = (0, 255) if clear == "black" else (255, 0)
    assert picture.alpha[0].tolist() == [left] * 8 + [right] * 8
    assert picture.pixels[0, :, 0].tolist() == [0] * 8 + [255] * 8


def with_chunks(*chunks: tuple[bytes, bytes], damaged: bytes = b"") -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        total = zlib.crc32(kind + body) ^ (kind == damaged)
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", total))
    return b"".join(parts)


def test_a_damaged_chunk_around_the_pixels_costs_a_remark_only() -> None:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 2, 8, 0, 0, 0, 0)),
        (b"tEXt", b"Title\0x"),
        (b"IDAT", zlib.compress(b"\0\1\2\3\4" * 2)),
        (b"tIME", struct.pack(">HBBBBB", 2020, 1, 1, 1, 1, 1)),
        (b"IEND", b""),
    ]
    time = "left out: PNG chunks (tIME: time of the last change)"
    for kind in (b"tEXt", b"tIME"):
        picture = decode_picture(with_chunks(*chunks, damaged=kind), "a.png")
        assert picture.pixels[1, :, 0].tolist() == [1, 2, 3, 4]
        unread = () if kind == b"tIME" else (time,)
        assert picture.notes == (f"the chunk {kind.decode()} is damaged and was left out", *unread)
    assert decode_picture(with_chunks(*chunks), "a.png").notes == (time,)
    with pytest.raises(PictureError, match="damaged"):
        decode_picture(with_chunks(*chunks, damaged=b"IHDR"), "a.png")


def test_tiff_of_32_bits_and_floats() -> None:
    values = np.array([0, 65537, 2**31, 2**32 - 1], np.uint32).reshape(1, 4, 1)
    tiff = Tiff()
    picture = decode_picture(tiff.begin_at(tiff.directory(values, {})), "a.tif")
    assert picture.pixels.ravel().tolist() == [0, 1, 32768, 65535]
    assert ["32 bits" in note for note in picture.notes] == [True]
    for order in "<>":
        tiff = Tiff(order)
        numbers = np.array([-0.5, 0, 0.5, 2], np.float32).reshape(1, 4, 1)
        picture = decode_picture(tiff.begin_at(tiff.directory(numbers, {339: (3, [3])})), "a.tif")
        assert picture.pixels.ravel().tolist() == [0, 0, 32768, 65535]
        assert ["cut to the range" in note for note in picture.notes] == [False, True]


def test_tiff_of_12_bits() -> None:
    tiff = Tiff()
    packed = np.array([0x00, 0x0F, 0xFF], np.uint8).reshape(1, 3, 1)  # two values: 0 and 4095
    place = tiff.directory(packed, {256: (4, [2]), 258: (3, [12])})
    picture = decode_picture(tiff.begin_at(place), "a.tif")
    assert picture.pixels.ravel().tolist() == [0, 65535]


def test_lab_becomes_srgb(tmp_path: Path) -> None:
    lab = np.array([[[255, 0, 0], [128, 0, 0], [0, 0, 0]]], np.uint8)  # a and b are signed
    tiff = Tiff()
    (tmp_path / "a.tif").write_bytes(tiff.begin_at(tiff.directory(lab, {262: (3, [8])})))
    picture = read_picture(tmp_path / "a.tif")
    assert np.abs(picture.pixels[0].astype(int) - [[255] * 3, [119] * 3, [0] * 3]).max() <= 1
    assert picture.notes == ("Lab was converted to sRGB",)


@pytest.mark.parametrize("kind", ["colours of a palette of 16 bits", "signed", "ITU Lab", "YCbCr"])
def test_kinds_that_are_not_read_are_not_called_damaged(kind: str) -> None:
    tiff = Tiff()
    place = {
        "colours of a palette of 16 bits": lambda: tiff.directory(np.zeros((2, 2, 1), np.uint16), {262: (3, [3])}),
        "signed": lambda: tiff.directory(np.zeros((2, 2, 1), np.int8), {339: (3, [2])}),
        "ITU Lab": lambda: tiff.directory(np.zeros((2, 2, 3), np.uint8), {262: (3, [10])}),
        "YCbCr": lambda: tiff.directory(np.zeros((2, 2, 3), np.uint8), {262: (3, [6]), 530: (3, [1, 1])}),
    }[kind]()
    with pytest.raises(PictureError) as error:
        decode_picture(tiff.begin_at(place), "a.tif")
    assert "damaged" not in str(error.value)
    assert "save it as" in str(error.value)


def test_bmp_of_16_bits_per_pixel(tmp_path: Path) -> None:
    values = np.array([0xF800, 0x07E0, 0x001F, 0xFFFF], "<u2")
    header = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 16, 3, 8, 0, 0, 0, 0) + struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    data = b"BM" + struct.pack("<IHHI", 66 + 8, 0, 0, 66) + header + values.tobytes()
    (tmp_path / "a.bmp").write_bytes(data)
    assert read_picture(tmp_path / "a.bmp").pixels[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3]


@pytest.mark.parametrize("extension", [".jfif", ".jpe", ".jif", ".mpo"])
def test_other_names_of_jpeg(tmp_path: Path, extension: str) -> None:
    write_picture(Picture(FULL), tmp_path / f"a{extension}")
    with Image.open(tmp_path / f"a{extension}") as image:
        assert image.format == "JPEG"
    assert read_picture(tmp_path / f"a{extension}").format == "JPEG"


@pytest.mark.parametrize(
    "head",
    [
        b"FUJIFILMCCD-RAW 0201FF129502",
        b"IIRO\x08\0\0\0",
        b"IIU\0\x18\0\0\0",
        b"FOVb\0\0\2\0",
        b"\0MRM\0\0\0\0",
        b"\0\0\0\x18ftypcrx \0\0\0\1",
        b"II\x1a\0\0\0HEAPCCDR",
    ],
)
def test_raw_files_that_are_no_tiff_are_refused_by_name(head: bytes) -> None:
    with pytest.raises(PictureError, match=r"a.xyz is a raw file of a camera; develop it first"):
        decode_picture(head + bytes(200), "a.xyz")


def test_compressions_that_are_not_read_are_not_called_damaged() -> None:
    for number, name in ((34712, "JPEG 2000"), (50002, "JPEG XL"), (60000, "number 60000")):
        tiff = Tiff()
        data = tiff.begin_at(tiff.directory(FULL, {259: (3, [number])}))
        with pytest.raises(PictureError, match=f"compressed as {name}, which is not supported"):
            decode_picture(data, "a.tif")


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "TIFF", "GIF"])
def test_pixels_that_are_not_square(format_name: str) -> None:
    def file(across: int, down: int) -> bytes:
        if format_name == "TIFF":
            tiff = Tiff()
            return tiff.begin_at(tiff.directory(FULL, {282: (5, [across, 1]), 283: (5, [down, 1]), 296: (3, [1])}))
        data = io.BytesIO()
        Image.fromarray(FULL).save(data, format_name)
        content = data.getvalue()
        if format_name == "GIF":  # the shape of a pixel in 64ths: half as wide as high
            return content[:12] + bytes([64 * down // across - 15]) + content[13:]
        if format_name == "JPEG":
            at = content.index(b"JFIF\0") + 7
            return content[:at] + struct.pack(">BHH", 0, across, down) + content[at + 5 :]
        body = struct.pack(">IIB", across, down, 0)
        chunk = struct.pack(">I", 9) + b"pHYs" + body + struct.pack(">I", zlib.crc32(b"pHYs" + body))
        return content[:33] + chunk + content[33:]

    assert decode_picture(file(1, 1), "a").notes == ()
    (note,) = decode_picture(file(2, 1), "a").notes
    shape = "64 to 32" if format_name == "GIF" else "2 to 1"
    assert note == f"the pixels are not square ({shape} in a length), which is left out"


@pytest.mark.parametrize("extension", [".avif", ".heic"])
def test_properties_that_decoders_leave_out_are_named(extension: str) -> None:
    """Another property of the same length is renamed: pixels' depth to their shape, a profile to a cut."""
    data = io.BytesIO()
    if extension == ".heic":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(Image.fromarray(FULL)).save(data)
    elif not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    else:
        Image.fromarray(FULL).save(data, "AVIF", icc_profile=bytes(28))
    content = data.getvalue()
    at = content.index(b"pixi")
    content = content[:at] + b"pasp" + struct.pack(">II", 4, 3) + content[at + 12 :]
    expected = ["the pixels are not square (3 to 4 in a length), which is left out"]
    if extension == ".avif":
        at = content.index(b"colrprof")
        content = content[:at] + b"clap" + struct.pack(">8I", 4, 1, 4, 1, 0, 1, 0, 1) + content[at + 36 :]
        at = content.index(b"ipma") + 15  # one byte for each property; a cut has to be essential
        count = content[at - 1]
        content = content[:at] + bytes(each | 0x80 for each in content[at : at + count]) + content[at + count :]
        expected.insert(
            0, "the AVIF states a cut (clean aperture), which its decoder leaves out; the whole picture is used"
        )
    assert [note for note in decode_picture(content, f"a{extension}").notes if "profile" not in note] == expected
