"""Files made to harm: bombs, files of two kinds, decoders kept busy. Refused in one line, or read by a known rule."""

from __future__ import annotations

import io
import os
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from command_runs import Command
from s3diff.errors import OptionError, PictureError
from s3diff.images.files.animations import open_animation
from s3diff.images.files.codec import MAX_FRAMES
from s3diff.images.files.jpeg import MAX_JPEG_SCANS
from s3diff.images.files.reading import decode_picture, read_picture
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import Restorer
from test_cli import names_in, noise, png_header, save

#: Nothing here may take longer to be answered, on a busy machine either.
PATIENCE_SECONDS = 20


def encoded(form: str, pixels: np.ndarray | None = None, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(noise(24, 32, 3) if pixels is None else pixels).save(data, form, **options)
    return data.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_png_chunk(chunk: bytes) -> bytes:
    """A good picture with one more chunk behind its header."""
    whole = encoded("PNG")
    return whole[:33] + chunk + whole[33:]


def refusal(data: bytes) -> str:
    """The one line that the file gets, soon."""
    started = time.monotonic()
    with pytest.raises(PictureError) as error:
        decode_picture(data, "a.png")
    assert time.monotonic() - started < PATIENCE_SECONDS
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("a.png")
    assert ";" in text, f"does not say what to do: {text}"
    return text


# ---------------------------------------------------------------------------------------------- bombs


def huge_tiff() -> bytes:
    tags = [(0x100, 4, 60000), (0x101, 4, 60000), (0x102, 3, 8), (0x103, 3, 1), (0x106, 3, 1), (0x111, 4, 8)]
    tags += [(0x115, 3, 1), (0x116, 4, 60000), (0x117, 4, 8)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def huge_bmp() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def huge_jpeg() -> bytes:
    whole = encoded("JPEG")
    place = whole.index(b"\xff\xc0")
    return whole[: place + 5] + struct.pack(">HH", 60000, 60000) + whole[place + 9 :]


@pytest.mark.parametrize("make", [huge_tiff, huge_bmp, huge_jpeg, lambda: png_header(60000, 60000)])
def test_a_tiny_file_that_claims_billions_of_pixels(make: object) -> None:
    data = make()  # type: ignore[operator]
    assert len(data) < 5000
    assert "60000 x 60000 pixels, the limit is 67108864 pixels" in refusal(data)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_texts_and_profiles_do_not_fill_the_memory(kind: bytes) -> None:
    zeros = zlib.compress(bytes(300_000_000), 9)
    body = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\x01\0\0\0", b"iCCP": b"a\0\0"}[kind]
    assert "too large" in refusal(with_png_chunk(png_chunk(kind, body + zeros)))


def test_many_texts_that_are_small_each() -> None:
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000), 9))
    assert "MAX_TEXT_MEMORY" in refusal(with_png_chunk(text * 100))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("side", [8000, 60000])
def test_an_avif_whose_container_lies_about_the_size(side: int) -> None:
    """libavif stretches what is compressed to the size that the limit was judged by."""
    whole = encoded("AVIF", noise(32, 32, 3))
    place = whole.index(b"ispe") + 8
    data = whole[:place] + struct.pack(">II", side, side) + whole[place + 8 :]
    if side > 8192:
        refusal(data)
        return
    assert decode_picture(data, "a").width == side


def test_more_compressed_pixels_than_the_header_says(tmp_path: Path) -> None:
    """What does not belong to the picture is not unpacked."""
    whole = png_header(4, 4).replace(png_chunk(b"IDAT", zlib.compress(b"")), b"")
    bomb = png_chunk(b"IDAT", zlib.compress(bytes(300_000_000), 9))
    started = time.monotonic()
    assert read_picture(_file(tmp_path, whole[:33] + bomb + whole[33:])).pixels.max() == 0
    assert time.monotonic() - started < PATIENCE_SECONDS


def _file(folder: Path, data: bytes, name: str = "a.png") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def test_a_jpeg_of_thousands_of_scans() -> None:
    """63 bytes a scan; over 67 million pixels each would take a fiftieth of a second."""
    whole = encoded("JPEG", noise(16, 16), progressive=True)
    scans = whole[whole.rindex(b"\xff\xda") : -2]
    few, many = (whole[:-2] + scans * count + whole[-2:] for count in (MAX_JPEG_SCANS - 10, 100_000))
    assert decode_picture(few, "few").width == 16
    assert f"more than {MAX_JPEG_SCANS} scans" in refusal(many)


def test_scans_are_not_looked_for_in_metadata_and_behind_the_end() -> None:
    marks = b"\xff\xda\x00\x02" * 4000
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + marks
    for data in (encoded("JPEG", exif=exif), encoded("JPEG") + marks * 4):
        assert decode_picture(data, "a").width == 32


def tiff_of_pages(count: int, *, big: bool, link: str = "on") -> bytes:
    """A TIFF whose directories hold nothing but a width, chained; the last one leads nowhere, or to the first."""
    data = bytearray(b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" if big else b"II*\0\x08\0\0\0")
    number, code = (20, "Q") if big else (12, "I")
    size = (8 if big else 2) + number + (8 if big else 4)
    for index in range(count):
        following = len(data) + size if index + 1 < count else (len(data) if link == "back" else 0)
        entry = struct.pack("<HHQQ" if big else "<HHII", 0x100, 4, 1, 8)
        data += struct.pack("<Q" if big else "<H", 1) + entry + struct.pack(f"<{code}", following)
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_hundreds_of_thousands_of_pages(big: bool) -> None:
    """Counted by Pillow this takes hours: n² steps."""
    assert f"more than {MAX_FRAMES} pages" in refusal(tiff_of_pages(300_000, big=big))
    assert "pages" not in refusal(tiff_of_pages(5, big=big)), "refused for its missing pixels"
    assert "pages" not in refusal(tiff_of_pages(5, big=big, link="back")), "a chain that leads back ends"


#: Of one pixel.
GIF_FRAME = b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"


def test_a_gif_of_hundreds_of_thousands_of_frames() -> None:
    whole = encoded("GIF", noise(2, 2))
    assert f"more than {MAX_FRAMES} frames" in refusal(whole[:-1] + GIF_FRAME * 300_000 + b";")


def test_small_frames_that_stand_for_large_pictures(here: Path, small: Path, command: Command) -> None:
    """400 KB: 9,000 frames of 8000 x 8000 pixels, each of which a viewer shows as a whole."""
    whole = encoded("GIF", noise(2, 2))
    data = whole[:6] + struct.pack("<HH", 8000, 8000) + whole[10:-1] + GIF_FRAME * 9000 + b";"
    path = _file(here, data, "a.gif")
    started = time.monotonic()
    with pytest.raises(PictureError, match="has 9001 frames of 8000 x 8000 pixels, the limit is 1073741824 pixels in"):
        open_animation(path)
    assert "--max-input-megapixels" in command("restore", path, "-o", "o.gif", "-m", small, "--scale", 0.01).error
    assert time.monotonic() - started < PATIENCE_SECONDS


# ---------------------------------------------------------------------------------------------- files of two kinds


def archive() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("run.sh", "echo harm")
    return data.getvalue()


def test_what_hangs_behind_a_picture_is_ignored_and_not_handed_on(here: Path, small: Path) -> None:
    restorer = Restorer.from_pretrained(small, device="cpu")
    for extension, form in {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP"}.items():
        data = encoded(form)
        path = _file(here, data + archive(), f"a.{extension}")
        assert zipfile.is_zipfile(path)
        assert np.array_equal(read_picture(path).pixels, decode_picture(data, "plain").pixels)
        result = here / f"o.{extension}"
        assert restorer.restore(path).save(result, provenance=False) == ()
        assert b"PK\x03\x04" not in result.read_bytes()
        assert b"run.sh" not in result.read_bytes()


def test_the_content_decides_and_the_name_does_not(here: Path, small: Path, command: Command) -> None:
    """A picture under another format's name is read; the result has the format of its own name."""
    Path("in").mkdir()
    _file(here / "in", encoded("JPEG"), "photo.png")
    _file(here / "in", encoded("PNG"), "photo.jpg")
    _file(here / "in", b"<!DOCTYPE html><html><script>alert(1)</script></html>", "page.jpg")
    _file(here / "in", b"MZ" + bytes(200), "program.png")
    outcome = command("restore", "in", "-o", "out", "-m", small)
    assert outcome.code == 1
    assert names_in("out") == ["photo.jpg", "photo.png"]
    for name, form in (("photo.png", "PNG"), ("photo.jpg", "JPEG")):
        with Image.open(f"out/{name}") as image:
            assert image.format == form
    refused = [line for line in outcome.err.splitlines() if line.startswith("s3diff: ")]
    assert len(refused) == 2
    assert "page.jpg is a web page" in refused[0]
    assert "program.png is not a PNG, JPEG," in refused[1]


def test_a_gif_that_is_a_script() -> None:
    """Known from the web: the size begins a comment. It is a picture and nothing else."""
    script = b"GIF89a/*" + encoded("GIF", noise(4, 4))[8:] + b"*/=1;alert(1)"
    script = script[:-9] + b"\x3b" + script[-9:]
    assert decode_picture(script, "a.gif").width == 0x2A2F


# ---------------------------------------------------------------------------------------------- limits


def test_the_limits_can_be_raised(here: Path, small: Path, command: Command) -> None:
    save("a.png", noise(20, 30, 3))
    size = os.path.getsize("a.png")
    run = ("restore", "a.png", "-m", small, "--max-input-megapixels", 0.000599)
    refused = command(*run, "-o", "o.png").error
    assert "a.png has 30 x 20 pixels, the limit is 599 pixels" in refused
    assert "--max-input-megapixels" in refused
    assert command("restore", "a.png", "-m", small, "--max-input-megapixels", 0.0006, "-o", "o.png").code == 0
    run = ("restore", "a.png", "-m", small, "--max-file-megabytes")
    refused = command(*run, (size - 1) / 1e6, "-o", "p.png").error
    assert f"a.png has {size} bytes, the limit is {size - 1}" in refused
    assert "--max-file-megabytes" in refused
    assert command(*run, size / 1e6, "-o", "p.png").code == 0
    for option in ("--max-input-megapixels", "--max-file-megabytes"):
        assert f"{option[2:]} is 0.0; give a number above 0" in command(*run[:-1], option, 0, "-o", "q.png").error


def test_a_tiff_that_holds_less_than_it_says_is_not_streamed(here: Path, small: Path, command: Command) -> None:
    """A header that claims more than the file has, and a file that was cut off: neither becomes black."""
    pytest.importorskip("pyvips", reason="needs the extra large")
    whole = encoded("TIFF", noise(100, 150, 3))
    wide = bytearray(whole)
    wide[wide.index(struct.pack("<HHI", 0x100, 4 if struct.pack("<HHI", 0x100, 4, 1) in whole else 3, 1)) + 8 + 2] = 2
    for name, data in (("wide.tif", bytes(wide)), ("cut.tif", whole[: len(whole) // 2]), ("short.tif", whole[:-200])):
        _file(here, data, name)
        refused = command("restore", name, "-o", "o.tif", "-q", "--stream", "--scale", 1, "-m", small).error
        assert "cannot be read as a picture" in refused
    _file(here, whole, "whole.tif")
    assert command("restore", "whole.tif", "-o", "o.tif", "-q", "--stream", "--scale", 1, "-m", small).code == 0
    assert sorted(path.name for path in here.glob("*o.tif*")) == ["o.tif"]


def test_limits_above_pillows_own_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process has not touched Pillow's limit, only ours counts."""
    data = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(data, "PNG")
    assert "the limit is 67108864" in refusal(data.getvalue())
    assert decode_picture(data.getvalue(), "a", max_pixels=90_000_000).width == 10_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80_000_000)
    with pytest.raises(PictureError, match="the limit is 80000000"):
        decode_picture(data.getvalue(), "a", max_pixels=90_000_000)


def test_limits_of_the_library(here: Path, small: Path) -> None:
    save("a.png", noise(20, 30, 3))
    restorer = Restorer.from_pretrained(small, device="cpu")
    for options in (RestoreOptions(max_input_pixels=599), RestoreOptions(max_file_bytes=100)):
        with pytest.raises(PictureError, match="the limit is"):
            restorer.restore("a.png", options)
        with pytest.raises(PictureError, match="the limit is"):
            restorer.restore_batch(["a.png"], options)
    with pytest.raises(OptionError, match="max_file_bytes is 0"):
        RestoreOptions(max_file_bytes=0)
