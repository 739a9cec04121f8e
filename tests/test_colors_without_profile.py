"""Colours that files state otherwise than by an ICC profile, and profiles that do not fit the channels."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from s3diff.errors import PictureError
from s3diff.formats import FORMATS
from s3diff.images.color_profiles import color_space
from s3diff.images.files.animations import open_animation
from s3diff.images.files.codec import codec_of
from s3diff.images.files.iso_boxes import bits_of_av1
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.icc_profiles import (
    ADOBE_RGB_PRIMARIES,
    SRGB_PRIMARIES,
    adobe_rgb_profile,
    fits_channels,
    gamma_curve,
    profile_of_code_points,
    rgb_profile,
    srgb_profile,
)
from s3diff.images.picture import Picture

Y, X = np.mgrid[0:12, 0:16]
COLORS = np.stack([40 + X * 9, 60 + Y * 12, 90 + X * 2], axis=-1).astype(np.uint8)
DISPLAY_P3 = profile_of_code_points(12, 13)


def png(pixels: np.ndarray, *stated: tuple[bytes, bytes], **settings: object) -> bytes:
    """With chunks before the pixels."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", **settings)
    whole = data.getvalue()
    place = whole.index(b"IDAT") - 4
    chunks = (struct.pack(">I", len(body)) + k + body + struct.pack(">I", zlib.crc32(k + body)) for k, body in stated)
    return whole[:place] + b"".join(chunks) + whole[place:]


def chromaticities(primaries: tuple[tuple[float, float], ...]) -> bytes:
    return struct.pack(">8I", *(round(value * 1e5) for pair in primaries for value in pair))


GAMMA_1, GAMMA_22 = struct.pack(">I", 100000), struct.pack(">I", 45455)
IN_PNG = {
    "linear": ([(b"gAMA", GAMMA_1)], rgb_profile("Stated by the picture", SRGB_PRIMARIES, gamma_curve(1.0))),
    "sRGB by numbers": ([(b"gAMA", GAMMA_22), (b"cHRM", chromaticities(SRGB_PRIMARIES))], None),
    "sRGB": ([(b"sRGB", b"\0"), (b"gAMA", GAMMA_1)], srgb_profile()),
    "Display P3": ([(b"cICP", bytes([12, 13, 0, 1])), (b"sRGB", b"\0")], DISPLAY_P3),
    "nothing that makes sense": ([(b"gAMA", bytes(4)), (b"cHRM", bytes(32))], None),
}


@pytest.mark.parametrize("name", IN_PNG)
def test_png_chunks_become_a_profile(tmp_path: Path, name: str) -> None:
    stated, profile = IN_PNG[name]
    (tmp_path / "a.png").write_bytes(png(COLORS, *stated))
    picture = read_picture(tmp_path / "a.png")
    assert picture.icc_profile == profile
    assert np.array_equal(picture.pixels, COLORS)
    write_picture(picture, tmp_path / "b.tif")
    assert read_picture(tmp_path / "b.tif").icc_profile == profile


def test_wide_primaries_of_a_png_reach_the_networks_and_another_reader(tmp_path: Path) -> None:
    stated = [(b"gAMA", GAMMA_22), (b"cHRM", chromaticities(ADOBE_RGB_PRIMARIES))]
    (tmp_path / "a.png").write_bytes(png(COLORS, *stated))
    profile = read_picture(tmp_path / "a.png").icc_profile
    assert profile is not None
    assert color_space(profile) is not None
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
    assert opened.green_primary is not None
    assert opened.media_white_point is not None
    green = ImageCms.ImageCmsProfile(io.BytesIO(adobe_rgb_profile())).profile.green_primary
    assert np.allclose(opened.green_primary[1], green[1], atol=1e-3)


def test_a_profile_is_stronger_than_gamma_and_weaker_than_code_points(tmp_path: Path) -> None:
    own = adobe_rgb_profile()
    (tmp_path / "a.png").write_bytes(png(COLORS, (b"gAMA", GAMMA_1), icc_profile=own))
    assert read_picture(tmp_path / "a.png").icc_profile == own
    (tmp_path / "b.png").write_bytes(png(COLORS, (b"cICP", bytes([12, 13, 0, 1])), icc_profile=own))
    assert read_picture(tmp_path / "b.png").icc_profile == DISPLAY_P3


@pytest.mark.parametrize("curve", [16, 18])
def test_hdr_is_refused_by_name(tmp_path: Path, curve: int) -> None:
    (tmp_path / "a.png").write_bytes(png(COLORS, (b"cICP", bytes([9, curve, 0, 1]))))
    with pytest.raises(PictureError, match="HDR"):
        read_picture(tmp_path / "a.png")
    if features.check("avif"):
        with_code_points(tmp_path / "a.avif", 9, curve)
        with pytest.raises(PictureError, match="HDR"):
            read_picture(tmp_path / "a.avif")


def with_code_points(path: Path, primaries: int, curve: int) -> None:
    data = io.BytesIO()
    Image.fromarray(COLORS).save(data, "AVIF", quality=90)
    changed = bytearray(data.getvalue())
    place = changed.index(b"nclx") + 4
    changed[place : place + 4] = struct.pack(">HH", primaries, curve)
    path.write_bytes(changed)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize(("primaries", "curve", "profile"), [(12, 13, DISPLAY_P3), (1, 13, None), (2, 2, None)])
def test_code_points_of_avif(tmp_path: Path, primaries: int, curve: int, profile: bytes | None) -> None:
    with_code_points(tmp_path / "a.avif", primaries, curve)
    assert read_picture(tmp_path / "a.avif").icc_profile == profile


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_the_bits_of_an_avif() -> None:
    data = io.BytesIO()
    Image.fromarray(COLORS).save(data, "AVIF")
    place = data.getvalue().index(b"av1C") + 6
    for flags, bits in ((0, 8), (0x40, 10), (0x60, 12)):
        changed = bytearray(data.getvalue())
        changed[place] = changed[place] & 0x9F | flags
        assert bits_of_av1(io.BytesIO(changed)) == bits
        (note,) = codec_of(FORMATS[4]).header_notes(io.BytesIO(changed)) or ("",)
        assert note.startswith(f"{bits} bits" if bits > 8 else "")


def test_code_points_of_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    for curve, profile in ((13, DISPLAY_P3), (16, None)):
        heif = pillow_heif.from_bytes("RGB", (16, 12), COLORS.tobytes())
        heif.save(tmp_path / "a.heic", color_primaries=12, transfer_characteristics=curve)
        if profile is None:
            with pytest.raises(PictureError, match="HDR"):
                read_picture(tmp_path / "a.heic")
        else:
            assert read_picture(tmp_path / "a.heic").icc_profile == profile


@pytest.mark.parametrize("kind", ["calibrated", "embedded", "sRGB"])
def test_headers_of_bmp(tmp_path: Path, kind: str) -> None:
    own = adobe_rgb_profile()
    space = {"calibrated": 0, "embedded": 0x4D424544, "sRGB": 0x73524742}[kind]
    ends = (0.5767, 0.2974, 0.0270, 0.1856, 0.6274, 0.0707, 0.1882, 0.0753, 0.9911)  # XYZ of Adobe RGB under D65
    rows = np.ascontiguousarray(COLORS[::-1, :, ::-1]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, 16, 12, 1, 24, 0, len(rows), 0, 0, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0) + struct.pack("<I", space)
    header += struct.pack("<9i", *(round(value * 2**30) for value in ends))
    header += struct.pack("<3I", *[round(2.2 * 65536)] * 3)
    header += struct.pack("<4I", 4, 124 + len(rows), len(own), 0)
    assert len(header) == 124
    data = b"BM" + struct.pack("<IHHI", 138 + len(rows), 0, 0, 138) + header + rows + own
    (tmp_path / "a.bmp").write_bytes(data)
    picture = read_picture(tmp_path / "a.bmp")
    assert np.array_equal(picture.pixels, COLORS)
    if kind == "sRGB":
        assert picture.icc_profile is None
    elif kind == "embedded":
        assert picture.icc_profile == own
    else:
        assert picture.icc_profile is not None
        found, wanted = color_space(picture.icc_profile), color_space(own)
        assert found is not None
        assert wanted is not None
        assert np.abs(found.to_linear_srgb - wanted.to_linear_srgb).max() < 0.01


@pytest.mark.parametrize(("extension", "stated"), [("jpg", "R03"), ("webp", "R03"), ("jpg", 2), ("tif", 2)])
def test_adobe_rgb_in_exif(tmp_path: Path, extension: str, stated: object) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 2} if stated == 2 else {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    Image.fromarray(COLORS).save(tmp_path / f"a.{extension}", exif=exif.tobytes())
    picture = read_picture(tmp_path / f"a.{extension}")
    assert picture.icc_profile == adobe_rgb_profile()
    Image.fromarray(COLORS[..., 0]).save(tmp_path / f"b.{extension}", exif=exif.tobytes())
    if extension != "webp":  # which knows no grey
        assert read_picture(tmp_path / f"b.{extension}").icc_profile is None


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp"])
def test_profiles_fit_the_channels_that_are_written(tmp_path: Path, extension: str) -> None:
    for profile in (adobe_rgb_profile(), srgb_profile(is_grey=True)):
        picture = Picture(COLORS[..., :1], icc_profile=profile)
        notes = write_picture(picture, tmp_path / f"a.{extension}")
        with Image.open(tmp_path / f"a.{extension}") as image:
            written = image.info["icc_profile"]
            num_channels = 1 if image.mode == "L" else 3
        assert fits_channels(written, num_channels)
        assert bool(notes) == (not fits_channels(profile, num_channels))
        assert all("replaced" in note for note in notes)
    unusable = Picture(COLORS, icc_profile=adobe_rgb_profile()[:16] + b"CMYK" + adobe_rgb_profile()[20:])
    (note,) = write_picture(unusable, tmp_path / f"b.{extension}")
    assert "left out" in note
    assert read_picture(tmp_path / f"b.{extension}").icc_profile is None


def test_frames_have_the_profile(tmp_path: Path) -> None:
    frames = [Image.fromarray(COLORS), Image.fromarray(255 - COLORS)]
    data = io.BytesIO()
    frames[0].save(data, "PNG", save_all=True, append_images=frames[1:], duration=50)
    whole = data.getvalue()
    body = b"cICP" + bytes([12, 13, 0, 1])
    chunk = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk + whole[33:])
    animation = open_animation(tmp_path / "a.png")
    assert [frame.picture.icc_profile for frame in animation.frames()] == [DISPLAY_P3, DISPLAY_P3]
