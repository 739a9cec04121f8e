"""What an independent program reads in a picture and in its result, field by field: EXIF, GPS, XMP, profile, DPI.

exiftool writes the metadata of the inputs and reads both sides; the restoration is ``s3diff restore`` with ``compact``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageCms, features

from command_runs import Command
from s3diff.formats import PICTURE_EXTENSIONS
from s3diff.images.files.writing import can_be_written
from test_cli import noise

EXIFTOOL = shutil.which("exiftool")
pytestmark = pytest.mark.skipif(
    EXIFTOOL is None, reason="needs exiftool (Debian: apt-get install libimage-exiftool-perl), the independent reader"
)

#: Stored lying on its side, with an orientation that turns it; HEVC cuts what is smaller than 64 out of 64.
WIDTH, HEIGHT, SCALE = 48, 32, 2
EXIF = {
    "IFD0:Make": "A maker",
    "IFD0:Model": "Model 3",
    "IFD0:Artist": "Anna Å",
    "IFD0:Copyright": "nobody's",
    "IFD0:ImageDescription": "a description, longer than four bytes",
    "IFD0:Software": "a program",
    "IFD0:ModifyDate": "2024:05:06 07:08:09",
    "IFD0:Orientation": 6,
    "ExifIFD:DateTimeOriginal": "2024:01:02 03:04:05",
    "ExifIFD:ExposureTime": 0.005,
    "ExifIFD:FNumber": 2.8,
    "ExifIFD:ISO": 400,
    "ExifIFD:FocalLength": 35,
    "ExifIFD:LensModel": "a lens from Zürich",
    "ExifIFD:UserComment": "a comment",
    "ExifIFD:ExifImageWidth": WIDTH,
    "ExifIFD:ExifImageHeight": HEIGHT,
    "GPS:GPSLatitude": 48.25,
    "GPS:GPSLatitudeRef": "N",
    "GPS:GPSLongitude": 11.5,
    "GPS:GPSLongitudeRef": "E",
    "GPS:GPSAltitude": 519,
}
XMP = {
    "XMP-dc:Title": "a title",
    "XMP-dc:Creator": "Anna Å",
    "XMP-dc:Subject": "bird",
    "XMP-xmp:Rating": 4,
    "XMP-photoshop:City": "München",
    "XMP-tiff:Orientation": 6,
    "XMP-tiff:ImageWidth": WIDTH,
    "XMP-tiff:ImageHeight": HEIGHT,
    "XMP-exif:ExifImageWidth": WIDTH,
    "XMP-exif:ExifImageHeight": HEIGHT,
}
#: What a result must say of itself, whatever its input said.
CORRECTED = {
    "Orientation": 1,
    "ImageWidth": HEIGHT * SCALE,
    "ImageHeight": WIDTH * SCALE,
    "ExifImageWidth": HEIGHT * SCALE,
    "ExifImageHeight": WIDTH * SCALE,
}
#: How one file stores its pixels (TIFF keeps this among its EXIF), and the writer's own marks.
STORAGE = {
    "BitsPerSample", "Compression", "PhotometricInterpretation", "StripOffsets", "StripByteCounts", "RowsPerStrip",
    "SamplesPerPixel", "PlanarConfiguration", "SampleFormat", "ExtraSamples", "Predictor", "YCbCrPositioning",
    "XMPToolkit", "ExifVersion", "ComponentsConfiguration", "FlashpixVersion", "ColorSpace", "GPSVersionID",
    "SubfileType",
}  # fmt: skip
#: Formats without EXIF, XMP and profiles.
PLAIN = {".bmp", ".gif"}
DPI_FIELDS = {
    ".png": ("PNG-pHYs:PixelsPerUnitX", 11811),
    ".jpg": ("JFIF:XResolution", 300),
    ".tif": ("IFD0:XResolution", 300),
    ".bmp": ("File:PixelsPerMeterX", 11811),
}


def run_exiftool(*arguments: object) -> str:
    done = subprocess.run([str(EXIFTOOL), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fields_of(*paths: Path) -> list[dict[str, object]]:
    """Of each file, Group:Name to value, as numbers where there are numbers."""
    found = json.loads(run_exiftool("-j", "-n", "-G1", "-a", "-struct", *paths))
    assert [each["SourceFile"] for each in found] == [str(path) for path in paths]
    for each in found:
        assert "ExifTool:Error" not in each, each
        assert "ExifTool:Warning" not in each, each
    return found


def descriptive(fields: dict[str, object]) -> dict[str, object]:
    """Of EXIF, GPS, XMP and the profile, without what only says how this file stores its pixels."""
    groups = ("IFD0", "ExifIFD", "GPS", "XMP-", "ICC")
    return {
        name: value
        for name, value in fields.items()
        if name.startswith(groups) and name.split(":")[1] not in STORAGE and not name.startswith("XMP-x:")
    }


def source_in(folder: Path, extension: str) -> Path:
    """A picture in that format with everything that it can hold; a thumbnail as well."""
    pixels = Image.fromarray(noise(HEIGHT, WIDTH, 3))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    camera, path = folder / "camera.jpg", folder / f"in{extension}"
    pixels.save(camera, dpi=(300, 300), icc_profile=profile)
    pixels.resize((8, 5)).save(folder / "thumbnail.jpg")
    values = [f"-{name}={value}" for name, value in (EXIF | XMP).items()]
    if extension == ".avif":
        # Where its container turns a picture otherwise than the tag, Pillow writes the block anew, and ? beyond ASCII.
        values = [value for value in values if value.isascii()] + ["-IFD0:Artist=Anna", "-ExifIFD:LensModel=a lens"]
    run_exiftool("-overwrite_original", "-n", *values, f"-ThumbnailImage<={folder / 'thumbnail.jpg'}", camera)
    if extension in (".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".mpo"):
        return camera.rename(path)
    settings: dict[str, object] = {"dpi": (300, 300)}
    if extension not in PLAIN:
        settings["icc_profile"] = profile
    if extension in (".heic", ".heif"):
        pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
        heif = pillow_heif.from_pillow(pixels)
        heif[0].info["icc_profile"] = profile
        heif.save(path, quality=90)
    else:
        pixels.save(path, **settings)
    if extension not in PLAIN:
        run_exiftool("-overwrite_original", "-n", "-TagsFromFile", camera, "-all:all", "-unsafe", *values, path)
    return path


@pytest.mark.parametrize("extension", PICTURE_EXTENSIONS)
def test_a_result_says_what_its_picture_said(here: Path, command: Command, extension: str) -> None:
    if extension == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    if not can_be_written(extension):
        pytest.skip("needs the extra heif")
    # What a result says of itself is left out here; tests/test_provenance.py reads that.
    source, target = source_in(here, extension), here / f"out{extension}"
    outcome = command("restore", source, "-o", target, "--scale", SCALE, "--no-provenance")
    assert outcome.code == 0, outcome.err
    before, after = fields_of(source, target)
    turned = extension not in PLAIN
    if extension in (".avif", ".heic", ".heif"):  # which store the turn beside the EXIF, or not, by their writer
        turned = after["Composite:ImageSize"] == f"{HEIGHT * SCALE} {WIDTH * SCALE}"
    size = (HEIGHT * SCALE, WIDTH * SCALE) if turned else (WIDTH * SCALE, HEIGHT * SCALE)
    assert after["Composite:ImageSize"] == f"{size[0]} {size[1]}"
    assert not [name for name in after if "Thumbnail" in name or name.startswith("IFD1:")], "of the small picture"
    if extension in DPI_FIELDS:
        name, value = DPI_FIELDS[extension]
        assert before[name] == after[name] == value
    if extension in PLAIN:
        assert descriptive(after) == {}
        return
    corrected = CORRECTED
    if not turned:
        swap = {"Width": "Height", "Height": "Width"}
        corrected = {
            name: CORRECTED.get(name[: -len(end)] + swap[end], value)
            for name, value in CORRECTED.items()
            for end in swap
            if name.endswith(end)
        } | {"Orientation": 1}
    expected = {
        name: corrected.get(name.split(":")[1], value) if not name.startswith("ICC") else value
        for name, value in descriptive(before).items()
    }
    found = descriptive(after)
    for name in ("IFD0:Orientation", "XMP-tiff:Orientation"):
        found.setdefault(name, 1)  # what its absence says
    assert set(EXIF) <= set(expected), "the input holds all of it"
    assert {name for name, value in XMP.items() if extension != ".avif" or str(value).isascii()} <= set(expected)
    assert any(name.startswith("ICC") for name in expected)
    assert found == expected
