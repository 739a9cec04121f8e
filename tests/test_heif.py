"""HEIC through pillow-heif (the extra ``heif``): depths, transparency, metadata, and what is said without it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from metadata_probes import EMPTY_PACKET
from s3diff.errors import OutputError, PictureError
from s3diff.formats import format_of
from s3diff.images.files import heif
from s3diff.images.files.codec import codec_of
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import can_be_written, check_writable, write_picture
from s3diff.images.icc_profiles import srgb_profile
from s3diff.images.picture import Picture

pillow_heif = pytest.importorskip("pillow_heif")
HEIF = format_of("a.heic")
assert HEIF is not None
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION = 0x0112


def gradient(channels: int, kind: type = np.uint8) -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    planes = np.stack([x * 4, y * 5, (x + y) * 2, 255 - x], axis=-1)[..., :channels]
    return planes.astype(kind) * kind(257 if kind is np.uint16 else 1)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "with_alpha"), [(1, False), (3, False), (3, True)])
def test_round_trip(tmp_path: Path, kind: type, channels: int, with_alpha: bool) -> None:
    alpha = gradient(4, kind)[..., 3] if with_alpha else None
    if alpha is not None:
        alpha = np.ascontiguousarray(alpha)
        alpha[:, :8] = np.iinfo(kind).max
    profile = srgb_profile(is_grey=True) if channels == 1 else SRGB
    picture = Picture(gradient(channels, kind), alpha, profile, xmp=EMPTY_PACKET)
    notes = write_picture(picture, tmp_path / "a.heic", quality=100)
    assert [("10" in note) for note in notes] == ([True] if kind is np.uint16 else [])
    back = read_picture(tmp_path / "a.heic")
    level = np.iinfo(kind).max / (255 if kind is np.uint8 else 1023)
    assert (back.format, back.pixels.dtype, back.pixels.shape) == ("HEIF", kind, picture.pixels.shape)
    assert abs(back.pixels.astype(int) - picture.pixels).mean() < 2 * level
    assert (back.icc_profile, back.xmp, back.notes) == (profile, EMPTY_PACKET, ())
    assert (back.alpha is None) == (alpha is None)
    if alpha is not None and back.alpha is not None:
        assert abs(back.alpha.astype(int) - alpha).mean() < 2 * level
        assert (back.alpha[:, 2] == np.iinfo(kind).max).all(), "opaque is opaque, also of 10 bits"


def test_orientation_was_applied_by_the_decoder(tmp_path: Path) -> None:
    """The file says how it was turned twice: as a property, and in EXIF, which readers must not apply again."""
    pixels = gradient(3)
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x013B] = 6, "Anna"
    heif = pillow_heif.from_bytes("RGB", (64, 48), pixels.tobytes())
    heif.save(tmp_path / "a.heic", quality=100, exif=exif.tobytes())
    back = read_picture(tmp_path / "a.heic")
    tags = Image.Exif()
    tags.load(back.exif)
    assert tags.get(ORIENTATION, 1) == 1
    assert tags[0x013B] == "Anna"
    assert (back.width, back.height) in ((64, 48), (48, 64))
    write_picture(back, tmp_path / "b.heic")
    again = read_picture(tmp_path / "b.heic")
    assert (again.width, again.height) == (back.width, back.height), "turned once, not again"


def test_limit_and_damage(tmp_path: Path) -> None:
    write_picture(Picture(gradient(3)), tmp_path / "a.heic")
    with pytest.raises(PictureError, match="limit is 100 pixels"):
        read_picture(tmp_path / "a.heic", max_pixels=100)
    data = (tmp_path / "a.heic").read_bytes()
    for length in range(0, len(data), 97):
        (tmp_path / "cut.heic").write_bytes(data[:length])
        with pytest.raises(PictureError) as error:
            read_picture(tmp_path / "cut.heic")
        assert "\n" not in str(error.value)


def test_without_the_extra_one_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(Picture(gradient(3)), tmp_path / "a.heic")
    monkeypatch.setattr(heif, "_library", lambda: None)
    monkeypatch.setattr(heif, "find_spec", lambda name: None)
    with pytest.raises(PictureError, match=r"a\.heic: .*pip install -c constraints\.txt \"\.\[heif\]\"") as error:
        read_picture(tmp_path / "a.heic")
    assert "\n" not in str(error.value)
    for check in (check_writable, lambda path: write_picture(Picture(gradient(3)), path)):
        with pytest.raises(OutputError, match=r"\.\[heif\]"):
            check(tmp_path / "b.heic")
    assert not can_be_written(".heic")
    assert can_be_written(".PNG")


def test_pi_heif_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pi_heif = pytest.importorskip("pi_heif")
    write_picture(Picture(gradient(3, np.uint16)), tmp_path / "a.heic")
    first = read_picture(tmp_path / "a.heic")
    monkeypatch.setattr(heif, "_library", lambda: pi_heif)
    assert np.array_equal(read_picture(tmp_path / "a.heic").pixels, first.pixels)


def test_brands() -> None:
    data = io.BytesIO()
    pillow_heif.from_bytes("L", (64, 48), gradient(1).tobytes()).save(data)
    assert codec_of(HEIF).recognises(data.getvalue()[:64])
    assert codec_of(HEIF).recognises(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40))
    assert not codec_of(HEIF).recognises(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifheic" + bytes(40))
    assert not codec_of(HEIF).recognises(b"\0\0\0\x18ftypisom\0\0\0\0mp41isom" + bytes(40))
