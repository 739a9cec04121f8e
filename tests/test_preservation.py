"""What a restored picture keeps of its file: metadata, colour spaces, transparency; read by an independent program."""

from __future__ import annotations

import json
import runpy
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin, features

from conftest import REPOSITORY
from s3diff.formats import FORMATS, in_words
from s3diff.images.color_profiles import color_space
from s3diff.images.files.metadata import Metadata, for_result
from s3diff.images.files.reading import read_picture
from s3diff.images.opacity import enlarge_alpha_guided, without_hidden_colors
from s3diff.images.picture import Picture, from_array
from s3diff.options import RestoreOptions
from s3diff.restoration.finishing import finish, is_finished_by_rounding
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.sizes import sizes_of

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
    b'xmlns:xmp="http://ns.adobe.com/xap/1.0/" tiff:Orientation="6" xmp:Rating="4">'
    b"<exif:PixelXDimension>20</exif:PixelXDimension></rdf:Description></rdf:RDF></x:xmpmeta>"
)
#: xy of red, green, blue, and the exponent of the curve. Display P3 has sRGB's curve; 2.2 is near enough for a test.
SPACES = {
    "Display P3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), 2.2),
    "Adobe RGB": (((0.640, 0.330), (0.210, 0.710), (0.150, 0.060)), 563 / 256),
}
D65, D50 = np.array([0.95047, 1.0, 1.08883]), np.array([0.96422, 1.0, 0.82521])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def rgb_to_xyz_d50(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    matrix = columns * np.linalg.solve(columns, D65)
    adapted = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ D65)) @ BRADFORD
    return adapted @ matrix


def profile_of(name: str) -> bytes:
    """A matrix profile written by hand: header, tag table, primaries, one curve."""
    primaries, gamma = SPACES[name]
    matrix = rgb_to_xyz_d50(primaries)

    def fixed(values: np.ndarray) -> bytes:
        return struct.pack(">3i", *(round(value * 65536) for value in values))

    tags = {code: b"XYZ \0\0\0\0" + fixed(matrix[:, i]) for i, code in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"wtpt": b"XYZ \0\0\0\0" + fixed(D50)}
    tags |= {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79)}
    tags |= {b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    table, body = struct.pack(">I", len(tags)), b""
    for code, content in tags.items():
        content += bytes(-len(content) % 4)
        table += code + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp")
    return (header + bytes(28) + fixed(D50)).ljust(128, b"\0") + table + body


def exif_with_thumbnail() -> bytes:
    """Little-endian: artist, orientation 6, group with dimensions, and a second directory with a thumbnail."""
    thumbnail = b"\xff\xd8small picture\xff\xd9"
    group_at, second_at, artist_at, thumbnail_at = 50, 80, 110, 120
    first = struct.pack("<HHHII", 3, 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x013B, 2, 5, artist_at)
    first += struct.pack("<HHIII", 0x8769, 4, 1, group_at, second_at)
    group = struct.pack("<HHHII", 2, 0xA002, 3, 1, 20) + struct.pack("<HHIII", 0xA003, 3, 1, 30, 0)
    second = struct.pack("<HHHII", 2, 0x0201, 4, 1, thumbnail_at)
    second += struct.pack("<HHIII", 0x0202, 4, 1, len(thumbnail), 0)
    body = (b"II*\0\x08\0\0\0" + first).ljust(group_at, b"\0") + group
    body = (body.ljust(second_at, b"\0") + second).ljust(artist_at, b"\0") + b"Anna\0"
    return b"Exif\0\0" + body.ljust(thumbnail_at, b"\0") + thumbnail


def of_size(exif: bytes, xmp: bytes | None, width: int, height: int) -> Metadata:
    metadata, notes = for_result(Picture(np.zeros((height, width, 1), np.uint8), exif=exif, xmp=xmp))
    assert notes == ()
    return metadata


def test_exif_gets_the_size_and_loses_the_thumbnail() -> None:
    patched = of_size(exif_with_thumbnail(), None, 70000, 2).exif
    tags = Image.Exif()
    tags.load(patched)
    assert tags[0x013B] == "Anna"
    assert (tags.get_ifd(0x8769)[0xA002], tags.get_ifd(0x8769)[0xA003]) == (70000, 2)
    assert patched is not None
    assert b"small picture" not in patched
    assert of_size(b"Exif\0\0II*\0", None, 1, 1).exif == b"Exif\0\0II*\0", "nothing to patch, nothing lost"
    result = of_size(exif_with_thumbnail(), XMP, 80, 120).xmp
    assert result is not None
    assert b'tiff:Orientation="1"' in result
    assert b"<exif:PixelXDimension>80<" in result
    assert b'Rating="4"' in result


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif", "avif"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_every_format_keeps_its_metadata(tmp_path: Path, restorer: Restorer, extension: str, mode: str) -> None:
    exiftool = shutil.which("exiftool")
    if exiftool is None:
        pytest.skip("needs exiftool (Debian: libimage-exiftool-perl), the independent reader")
    if extension == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    if mode == "RGBA" and extension == "jpg":
        pytest.skip("JPEG has no transparency")
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, len(mode)), dtype=np.uint8)
    image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels)
    settings: dict[str, object] = {"exif": exif_with_thumbnail(), "dpi": (300, 300), "xmp": XMP}
    if extension == "png":
        settings["pnginfo"] = PngImagePlugin.PngInfo()
        settings["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())  # type: ignore[attr-defined]
    if extension == "tif":
        settings |= {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}
        settings["tiffinfo"] = {0x02BC: XMP, 0x013B: "Anna", 0x0112: 6}
    if mode != "L":
        settings["icc_profile"] = SRGB
    source, target = tmp_path / f"in.{extension}", tmp_path / f"out.{extension}"
    image.save(source, **settings)
    restored = restorer.restore(source)
    assert restored.save(target) == ()
    shown = subprocess.run(
        [exiftool, "-j", "-n", "-G1", str(target)], capture_output=True, check=True, text=True
    ).stdout
    found = json.loads(shown)[0]
    if extension == "avif":  # its decoder turns the picture and leaves the tag behind, or not, by version
        assert sorted((restored.picture.width, restored.picture.height)) == [40, 64]
    else:
        assert (restored.picture.width, restored.picture.height) == (40, 64)
    assert found.get("IFD0:Orientation", 1) == 1
    assert found["XMP-xmp:Rating"] == 4
    assert found.get("XMP-tiff:Orientation", 1) == 1  # Pillow takes it out of a TIFF that it turns
    assert "IFD1:ThumbnailLength" not in found
    if extension != "tif":
        assert found["IFD0:Artist"] == "Anna"
        assert {found["ExifIFD:ExifImageWidth"], found["ExifIFD:ExifImageHeight"]} == {40, 64}
    if mode != "L":
        assert found["ICC-header:ColorSpaceData"].strip() == "RGB"
    if extension in ("png", "jpg", "tif"):
        dots = found.get("PNG-pHYs:PixelsPerUnitX", found.get("JFIF:XResolution", found.get("IFD0:XResolution")))
        assert dots == pytest.approx(11811 if extension == "png" else 300, abs=1)
    again = read_picture(target)
    assert again.is_grey == (mode == "L" and restored.picture.is_grey)
    assert (again.alpha is not None) == (mode == "RGBA")


@pytest.mark.parametrize("name", SPACES)
def test_wide_colours_neither_shift_nor_clip(compact: Restorer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delta E (CIE 1976) below 0.5 between the low frequencies of the result and of the enlarged input.

    With networks that add nothing, as the embedded model's own move colours, too.
    """
    last_layer = compact.generator.autoencoder.decoder.conv_out
    monkeypatch.setattr(last_layer, "forward", lambda x: 0 * type(last_layer).forward(last_layer, x))
    profile = profile_of(name)
    y, x = np.mgrid[0:24, 0:24] / 23
    encoded = np.stack([1 - 0.9 * y, 0.02 + 0.96 * x, 0.05 + 0.9 * y * (1 - x)], axis=-1)
    picture = Picture((encoded * 255).round().astype(np.uint8), icc_profile=profile)
    space = color_space(profile)
    assert space is not None
    as_srgb = space.to_srgb(picture.pixels / 255)
    assert as_srgb.min() < -0.05, "the test reaches beyond sRGB"
    assert np.abs(space.from_srgb(as_srgb) - picture.pixels / 255).max() < 1e-3
    restored = compact.restore(picture).picture
    assert restored.icc_profile == profile
    base = torch.nn.functional.interpolate(
        torch.from_numpy(picture.pixels / 255.0).permute(2, 0, 1)[None], size=(96, 96), mode="bilinear"
    )
    result = torch.from_numpy(restored.pixels / 255.0).permute(2, 0, 1)[None]
    low = [torch.nn.functional.avg_pool2d(each, 32)[0].permute(1, 2, 0).numpy() for each in (base, result)]
    first, second = (lab(each, name) for each in low)
    assert np.sqrt(((first - second) ** 2).sum(axis=-1)).max() < 0.5


def lab(encoded: np.ndarray, name: str) -> np.ndarray:
    primaries, gamma = SPACES[name]
    relative = (encoded**gamma) @ rgb_to_xyz_d50(primaries).T / D50
    f = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def test_the_page_has_the_tables_and_names_of_the_code() -> None:
    page = (REPOSITORY / "docs/pictures.md").read_text(encoding="utf-8")
    tables = runpy.run_path(str(REPOSITORY / "docs/picture_tables.py"))
    assert tables["with_tables"](page) == page
    text = " ".join(page.split())
    with_xmp, without_xmp = (", ".join(each.title for each in FORMATS if each.has_xmp == has) for has in (True, False))
    animated = in_words(tuple(each.title for each in FORMATS if each.has_frames))
    for names in (f"holds it: {with_xmp}.", f"does not ({without_xmp})", f"{animated} (APNG is a PNG)"):
        assert names in text


def test_srgb_and_damaged_profiles_are_left_alone() -> None:
    assert color_space(SRGB) is None
    assert color_space(None) is None
    whole = profile_of("Adobe RGB")
    for cut in (0, 10, 127, 140, 300, len(whole) - 1):
        color_space(whole[:cut])  # raises nothing
    assert color_space(whole[:200]) is None


def test_hidden_colours_do_not_reach_the_visible(restorer: Restorer) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    alpha = np.zeros((16, 16), np.uint8)
    pixels[:, 8:], alpha[:, 8:] = (200, 100, 50), 255
    other = pixels.copy()
    other[:, :8] = (0, 255, 255)
    results = [restorer.restore(Picture(each, alpha)).picture.pixels for each in (pixels, other)]
    assert np.array_equal(*results), "what is hidden decides nothing"
    filled = without_hidden_colors(torch.rand(1, 3, 9, 7), torch.zeros(1, 1, 9, 7))
    assert filled.shape == (1, 3, 9, 7)


def test_guided_alpha_is_nearer_to_the_truth_than_bicubic() -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    truth = ((x - 31) ** 2 + (y - 33) ** 2 < 400).float()[None, None]
    colors = (0.2 + 0.6 * truth).expand(1, 3, 64, 64)
    small = torch.nn.functional.avg_pool2d(truth, 4)
    smooth = torch.nn.functional.interpolate(small, size=(64, 64), mode="bicubic").clamp(0, 1)
    guided = enlarge_alpha_guided(small, colors)
    assert (guided - truth).square().mean() < 0.5 * (smooth - truth).square().mean()


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("space", [None, "Adobe RGB"])
def test_colours_that_nobody_sees_reach_no_visible_pixel(strength: float, space: str | None) -> None:
    """Grey beside transparent green becomes what grey beside transparent grey does, at any strength, in any space."""
    options = RestoreOptions(scale=4, strength=strength, upsampling="bicubic")
    finished: list[Picture] = []
    for hidden in ((0, 255, 0), (128, 128, 128)):
        pixels = np.full((32, 32, 4), (128, 128, 128, 255), np.uint8)
        pixels[:, 16:] = (*hidden, 0)
        picture = replace(from_array(pixels), icc_profile=profile_of(space) if space else None)
        sizes = sizes_of((32, 32), options)
        is_final = is_finished_by_rounding(picture, sizes, options)
        result = torch.full((1, 3, 128, 128), 128 / 255)
        finished.append(finish(result, picture, sizes, options, is_final=is_final))
    tainted, clean = finished
    assert clean.alpha is not None
    assert np.array_equal(tainted.alpha, clean.alpha)
    visible = clean.alpha.reshape(128, 128) > 0
    assert np.array_equal(tainted.pixels[visible], clean.pixels[visible])


def test_strength_blends_with_the_enlarged_input(restorer: Restorer) -> None:
    picture = Picture(np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    none, half, whole = (
        restorer.restore(picture, RestoreOptions(strength=strength)).array.astype(int) for strength in (0, 0.5, 1)
    )
    assert np.abs(2 * half - none - whole).max() <= 2
    assert np.abs(none - whole).max() > 2


def test_a_tiff_without_a_resolution_gets_none(tmp_path: Path) -> None:
    """Pillow says 1 to the inch of such a file."""
    Image.new("RGB", (8, 8)).save(tmp_path / "in.tif")
    assert read_picture(tmp_path / "in.tif").dpi is None
