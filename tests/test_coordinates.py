"""Coordinates in metadata follow the picture: every field, eight orientations, several scales, read by exiftool.

What is expected comes from pixels: a mark is painted where the field points, Pillow turns it upright, it is enlarged,
and where it lies then is where the field has to point.
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from metadata_probes import enlarged, exiftool, fields_of, needs_exiftool
from s3diff.images.files.coordinate_fields import FIELDS, NAMESPACES
from s3diff.images.files.coordinates import Transform, edges, point
from s3diff.images.files.iptc import resources_of
from s3diff.images.files.metadata import follow_xmp
from s3diff.images.files.reading import decode_picture, read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.files.xmp_packet import XmpPacket
from s3diff.images.picture import Picture
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import Restorer
from tiff_builder import Entries, Tiff
from tiny_models import save_compact

WIDTH, HEIGHT = 64, 32
ORIENTATIONS, SCALES = range(1, 9), ((1, 1), (2, 2), (4, 4), (3, 2))
#: (left, top, right, bottom) of what the fields mark, in pixels as stored.
BOX = (4, 6, 20, 14)
CENTER = ((BOX[0] + BOX[2]) // 2, (BOX[1] + BOX[3]) // 2)
SIZE = (BOX[2] - BOX[0], BOX[3] - BOX[1])
SHARES = tuple(value / side for value, side in zip((*CENTER, *SIZE), (WIDTH, HEIGHT) * 2, strict=True))
CORNER = (BOX[0] / WIDTH, BOX[1] / HEIGHT, SIZE[0] / WIDTH, SIZE[1] / HEIGHT)
AREA = "{{X={},Y={},W={},H={},Unit=normalized}}".format(*SHARES)
SOURCE = [
    f"-EXIF:SubjectArea={CENTER[0]} {CENTER[1]} {SIZE[0]} {SIZE[1]}",
    f"-EXIF:SubjectLocation={CENTER[0]} {CENTER[1]}",
    "-EXIF:FocalLength=50",
    "-EXIF:FocalPlaneXResolution=640",
    "-EXIF:FocalPlaneYResolution=320",
    "-EXIF:FocalPlaneResolutionUnit=3",
    f"-EXIF:ExifImageWidth={WIDTH}",
    f"-EXIF:ExifImageHeight={HEIGHT}",
    f"-RelatedImageWidth={WIDTH}",
    f"-RelatedImageHeight={HEIGHT}",
    "-IFD0:XResolution=300",
    "-IFD0:YResolution=150",
    f"-XMP-tiff:ImageWidth={WIDTH}",
    f"-XMP-tiff:ImageHeight={HEIGHT}",
    f"-XMP-exif:ExifImageWidth={WIDTH}",
    f"-XMP-exif:ExifImageHeight={HEIGHT}",
    "-XMP-exif:FocalPlaneXResolution=640",
    "-XMP-exif:FocalPlaneYResolution=320",
    f"-XMP-exif:SubjectLocation={CENTER[0]} {CENTER[1]}",
    *(f"-XMP-exif:SubjectArea={value}" for value in (*CENTER, *SIZE)),
    f"-XMP-mwg-rs:RegionInfo={{AppliedToDimensions={{W={WIDTH},H={HEIGHT},Unit=pixel}},"
    f"RegionList=[{{Area={AREA},Name=Ann,Type=Face}}]}}",
    "-XMP-MP:RegionInfoMP={Regions=[{PersonDisplayName=Ann,Rectangle=" + "|, ".join(map(str, CORNER)) + "}]}",
    "-XMP-iptcExt:ImageRegion=["
    f"{{RegionBoundary={{RbShape=rectangle,RbUnit=pixel,RbX={BOX[0]},RbY={BOX[1]},RbW={SIZE[0]},RbH={SIZE[1]}}}}},"
    "{RegionBoundary={RbShape=rectangle,RbUnit=relative,"
    + "RbX={},RbY={},RbW={},RbH={}".format(*CORNER)
    + "}},{RegionBoundary={RbShape=polygon,RbUnit=relative,RbVertices=["
    + f"{{RbX={BOX[0] / WIDTH},RbY={BOX[1] / HEIGHT}}},{{RbX={BOX[2] / WIDTH},RbY={BOX[3] / HEIGHT}}}"
    + "]}},{RegionBoundary={RbShape=circle,RbUnit=pixel,"
    + f"RbX={CENTER[0]},RbY={CENTER[1]},RbRx=4"
    + "}}]",
    "-XMP-GPano:ProjectionType=equirectangular",
    f"-XMP-GPano:FullPanoWidthPixels={2 * WIDTH}",
    f"-XMP-GPano:FullPanoHeightPixels={2 * HEIGHT}",
    f"-XMP-GPano:CroppedAreaImageWidthPixels={WIDTH}",
    f"-XMP-GPano:CroppedAreaImageHeightPixels={HEIGHT}",
    "-XMP-GPano:CroppedAreaLeftPixels=10",
    "-XMP-GPano:CroppedAreaTopPixels=20",
    "-XMP-GPano:PoseHeadingDegrees=45",
    f"-XMP-crs:CropLeft={CORNER[0]}",
    f"-XMP-crs:CropTop={CORNER[1]}",
    f"-XMP-crs:CropRight={BOX[2] / WIDTH}",
    f"-XMP-crs:CropBottom={BOX[3] / HEIGHT}",
    "-XMP-crs:CropAngle=0",
    "-XMP-dc:Title=stays",
]


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    image = Image.fromarray(array)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def marked(box: tuple[int, int, int, int], size: tuple[int, int], orientation: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a painted box, turned by Pillow."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    rows, columns = np.nonzero(turned(mask, orientation))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("turned")
    plain = folder / "plain.jpg"
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 150)).save(plain)
    exiftool("-q", "-n", "-overwrite_original", *SOURCE, plain)
    paths = {orientation: folder / f"{orientation}.jpg" for orientation in ORIENTATIONS}
    commands: list[object] = []
    for orientation, path in paths.items():
        commands += ["-q", "-n", f"-IFD0:Orientation={orientation}", "-o", path, plain, "-execute"]
    exiftool(*commands[:-1])
    return paths


def numbers(value: object) -> list[float]:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return [float(part) for part in re.split(r"[\s,]+", text.strip())]


@needs_exiftool
def test_every_field_in_every_orientation_and_scale(sources: dict[int, Path], tmp_path: Path) -> None:
    cases = [(orientation, scale) for orientation in ORIENTATIONS for scale in SCALES]
    targets = []
    for orientation, (across, down) in cases:
        picture = read_picture(sources[orientation])
        targets.append(tmp_path / f"{orientation}-{across}x{down}.jpg")
        remarks = (*picture.notes, *write_picture(enlarged(picture, across, down), targets[-1]))
        lost = [note for note in remarks if "the panorama's angles" in note]
        assert list(remarks) == lost, remarks
        assert bool(lost) == (orientation != 1)
    for (orientation, scale), found in zip(cases, fields_of(targets), strict=True):
        check(found, orientation, *scale)


def check(found: dict[str, object], orientation: int, across: int, down: int) -> None:
    swaps = orientation in (5, 6, 7, 8)
    upright = (HEIGHT, WIDTH) if swaps else (WIDTH, HEIGHT)
    width, height = upright[0] * across, upright[1] * down
    left, top, right, bottom = (
        value * factor
        for value, factor in zip(marked(BOX, (WIDTH, HEIGHT), orientation), (across, down) * 2, strict=True)
    )
    center, size = ((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top)
    shares = [center[0] / width, center[1] / height, size[0] / width, size[1] / height]
    corner = [left / width, top / height, size[0] / width, size[1] / height]
    of_sensor = [320 * across, 640 * down] if swaps else [640 * across, 320 * down]

    def same(name: str, expected: list[float] | tuple[float, ...]) -> None:
        names = name.split(" ")
        values = [number for each in names for number in numbers(found[each])]
        assert values == pytest.approx(list(expected), abs=0.51 if max(expected) > 1 else 1e-6), (name, orientation)

    same("IFD0:Orientation", [1])
    same("ExifIFD:SubjectArea", [*center, *size])
    same("ExifIFD:SubjectLocation", center)
    same("ExifIFD:FocalPlaneXResolution ExifIFD:FocalPlaneYResolution", of_sensor)
    same("IFD0:XResolution IFD0:YResolution", [150, 300] if swaps else [300, 150])
    same("XMP-exif:FocalPlaneXResolution XMP-exif:FocalPlaneYResolution", of_sensor)
    for names in (
        "ExifIFD:ExifImageWidth ExifIFD:ExifImageHeight",
        "InteropIFD:RelatedImageWidth InteropIFD:RelatedImageHeight",
        "XMP-tiff:ImageWidth XMP-tiff:ImageHeight",
        "XMP-exif:ExifImageWidth XMP-exif:ExifImageHeight",
        "XMP-GPano:CroppedAreaImageWidthPixels XMP-GPano:CroppedAreaImageHeightPixels",
    ):
        same(names, [width, height])
    same("XMP-exif:SubjectLocation", center)
    same("XMP-exif:SubjectArea", [*center, *size])
    info = found["XMP-mwg-rs:RegionInfo"]
    assert info["AppliedToDimensions"] == {"W": width, "H": height, "Unit": "pixel"}  # type: ignore[index]
    mwg = info["RegionList"][0]["Area"]  # type: ignore[index]
    assert [float(mwg[name]) for name in "XYWH"] == pytest.approx(shares, abs=1e-6)
    people = found["XMP-MP:RegionInfoMP"]["Regions"]  # type: ignore[index]
    assert numbers(people[0]["Rectangle"]) == pytest.approx(corner, abs=1e-6)
    boundaries = [each["RegionBoundary"] for each in found["XMP-iptcExt:ImageRegion"]]  # type: ignore[attr-defined]
    assert [boundaries[0][f"Rb{name}"] for name in "XYWH"] == [left, top, *size]
    assert [float(boundaries[1][f"Rb{name}"]) for name in "XYWH"] == pytest.approx(corner, abs=1e-6)
    vertices = [(float(each["RbX"]) * width, float(each["RbY"]) * height) for each in boundaries[2]["RbVertices"]]
    for axis, ends in enumerate(((left, right), (top, bottom))):
        assert sorted(vertex[axis] for vertex in vertices) == pytest.approx(ends)
    assert (boundaries[3]["RbX"], boundaries[3]["RbY"]) == center
    assert boundaries[3]["RbRx"] == pytest.approx(4 * (across * down) ** 0.5, abs=0.51)
    around = marked((10, 20, 10 + WIDTH, 20 + HEIGHT), (2 * WIDTH, 2 * HEIGHT), orientation)
    same("XMP-GPano:CroppedAreaLeftPixels XMP-GPano:CroppedAreaTopPixels", [around[0] * across, around[1] * down])
    same("XMP-GPano:FullPanoWidthPixels XMP-GPano:FullPanoHeightPixels", [2 * width, 2 * height])
    assert ("XMP-GPano:PoseHeadingDegrees" in found) == (orientation == 1)
    same(
        "XMP-crs:CropLeft XMP-crs:CropTop XMP-crs:CropRight XMP-crs:CropBottom",
        [left / width, top / height, right / width, bottom / height],
    )
    assert found["XMP-dc:Title"] == "stays"


@needs_exiftool
def test_what_is_cut_off_is_left_out_with_a_remark(sources: dict[int, Path], tmp_path: Path) -> None:
    """The left half is kept, of an upright picture: the box stays where it was, but for its share of the width."""
    picture = read_picture(sources[1])
    kept = replace(picture, pixels=picture.pixels[:, :32], metadata_cut=(0, 0, 32, 32))
    gone = replace(picture, pixels=picture.pixels[:, 32:], metadata_cut=(32, 0, 32, 32))
    assert any("panorama" in note for note in write_picture(kept, tmp_path / "kept.jpg"))
    (note,) = write_picture(gone, tmp_path / "gone.jpg")
    for title in ("SubjectArea", "SubjectLocation", "a region of the picture", "an image region", "a crop"):
        assert title in note
    left, right = fields_of([tmp_path / "kept.jpg", tmp_path / "gone.jpg"])
    assert left["ExifIFD:SubjectArea"] == f"{CENTER[0]} {CENTER[1]} {SIZE[0]} {SIZE[1]}"
    area = left["XMP-mwg-rs:RegionInfo"]["RegionList"][0]["Area"]  # type: ignore[index]
    assert float(area["X"]) == pytest.approx(CENTER[0] / 32)
    assert not [name for name in right if "Subject" in name or "GPano:Full" in name or "crs:CropLeft" in name]
    assert "RegionList" not in right["XMP-mwg-rs:RegionInfo"], right  # type: ignore[operator]
    assert right["XMP-dc:Title"] == "stays"


def test_a_filled_size_cuts_the_metadata_as_well(tmp_path: Path) -> None:
    save_compact(tmp_path / "model")
    restorer = Restorer.from_pretrained(tmp_path / "model", device="cpu", precision="float32")
    exif = Image.Exif()
    exif[0x8769] = {0xA214: (32, 16)}
    source = tmp_path / "in.jpg"
    Image.new("RGB", (64, 32), (90, 120, 150)).save(source, exif=exif)
    restored = restorer.restore(source, RestoreOptions(size=(64, 64), size_mode="fill"))
    assert restored.picture.metadata_cut == (16, 0, 32, 32)
    assert restored.save(tmp_path / "out.jpg") == ()
    written = Image.open(tmp_path / "out.jpg").getexif().get_ifd(0x8769)
    assert written[0xA214] == (32, 32), "the middle is the middle"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_points_and_boxes_agree_with_pixels(orientation: int) -> None:
    transform = Transform((WIDTH, HEIGHT), orientation)
    assert edges(BOX, transform) == marked(BOX, (WIDTH, HEIGHT), orientation)
    x, y = point((BOX[0] + 0.5, BOX[1] + 0.5), transform) or (0, 0)
    left, top, _, _ = marked((BOX[0], BOX[1], BOX[0] + 1, BOX[1] + 1), (WIDTH, HEIGHT), orientation)
    assert (x, y) == (left + 0.5, top + 0.5)
    assert point((-1, 3), transform) is None


def test_every_row_names_a_known_place() -> None:
    for field in FIELDS:
        assert field.place in NAMESPACES or field.place in ("IFD0", "ExifIFD", "InteropIFD")
        assert all(isinstance(name, int) == field.is_exif for name in field.names)
    assert len({(field.place, field.names, field.condition) for field in FIELDS}) == len(FIELDS)


def test_forms_of_xmp_and_fields_that_cannot_be_read() -> None:
    """Attributes, elements, structures in every form; another prefix; numbers that are none."""
    template = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:a="http://ns.adobe.com/xmp/sType/Area#" xmlns:u="urn:u" '
        'xmlns:d="http://ns.adobe.com/xap/1.0/sType/Dimensions#"{}</rdf:Description></rdf:RDF></x:xmpmeta>'
    )
    attributes = '<u:area a:x="0.25" a:y="0.5" a:w="0.5" a:h="0.25" a:unit="normalized"/>'
    resource = '<u:area rdf:parseType="Resource"><a:x>0.25</a:x><a:y>0.5</a:y><a:w>0.5</a:w><a:h>0.25</a:h></u:area>'
    nested = '<u:area><rdf:Description a:x="0.25" a:y="0.5" a:w="0.5" a:h="0.25"/></u:area>'
    for form in (attributes, resource, nested):
        packet = XmpPacket(template.format(f">{form}").encode())
        assert follow_xmp(packet, Transform((40, 20), 6)) == []
        text = packet.to_bytes().decode()
        assert re.findall(r'a:([xywh])(?:="|>)([0-9.]+)', text) == [
            ("x", "0.5"),
            ("y", "0.25"),
            ("w", "0.25"),
            ("h", "0.5"),
        ]
    for broken in ('<u:area a:x="left" a:y="0.5" a:w="0.5" a:h="0.25"/>', '<u:area a:x="0.25" a:w="0.5"/>'):
        packet = XmpPacket(template.format(f">{broken}").encode())
        assert follow_xmp(packet, Transform((40, 20), 6)) == ["a region of the picture"]
        assert b"a:x" not in packet.to_bytes()
    inches = '<u:page d:w="8" d:h="11" d:unit="inch"/>'
    packet = XmpPacket(template.format(f">{inches}").encode())
    assert follow_xmp(packet, Transform((40, 20), 6)) == []
    assert inches.encode() in packet.to_bytes(), "a page is no picture"


def geotiff(matrix: bool = False, raster_type: int = 1) -> bytes:
    """North up, 10 m a pixel, its upper left corner at 500 km east and 4,600 km north."""
    keys = (4, [1, 1, 0, 2, 1024, 0, 1, 1, 1025, 0, 1, raster_type])
    place: Entries = {0x830E: (12, [10.0, 10.0, 0.0]), 0x8482: (12, [0.0, 0.0, 0.0, 500_000.0, 4_600_000.0, 0.0])}
    if matrix:
        rows = [10.0, 0.0, 0.0, 500_000.0, 0.0, -10.0, 0.0, 4_600_000.0, *[0.0] * 7, 1.0]
        place = {0x85D8: (12, rows)}
    tiff = Tiff()
    pixels = np.zeros((30, 40, 3), np.uint8)
    return tiff.begin_at(tiff.directory(pixels, {**place, 0x87AF: (3, keys[1]), 0x87B0: (12, [1.5])}))


def on_earth(path: Path, column: float, row: float) -> tuple[float, float]:
    """Where a place of the picture, counted from its upper left corner, lies; by Pillow's reading."""
    with Image.open(path) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        keys = tags[0x87AF]
        half = 0.5 if keys[keys.index(1025) + 3] == 2 else 0.0
        i, j = column - half, row - half
        if 0x85D8 in tags:
            m = tags[0x85D8]
            return m[0] * i + m[1] * j + m[3], m[4] * i + m[5] * j + m[7]
        size, tie = tags[0x830E], tags[0x8482]
        return tie[3] + (i - tie[0]) * size[0], tie[4] - (j - tie[1]) * size[1]


@pytest.mark.parametrize("raster_type", [1, 2])
@pytest.mark.parametrize("matrix", [False, True])
def test_a_geotiff_stays_where_it_is(tmp_path: Path, matrix: bool, raster_type: int) -> None:
    (tmp_path / "a.tif").write_bytes(geotiff(matrix, raster_type))
    picture = read_picture(tmp_path / "a.tif")
    assert picture.notes == ()
    assert write_picture(enlarged(picture, 4, 3), tmp_path / "b.tif") == ()
    for column, row in ((0, 0), (40, 30), (7, 19)):
        assert on_earth(tmp_path / "b.tif", 4 * column, 3 * row) == pytest.approx(
            on_earth(tmp_path / "a.tif", column, row)
        )
    cut = replace(enlarged(picture, 2, 2), metadata_cut=(4.0, 5.0, 30.0, 20.0))
    pixels = np.zeros((40, 60, 3), np.uint8)
    assert write_picture(replace(cut, pixels=pixels), tmp_path / "c.tif") == ()
    assert on_earth(tmp_path / "c.tif", 6, 8) == pytest.approx(on_earth(tmp_path / "a.tif", 4 + 3, 5 + 4))
    (note,) = write_picture(picture, tmp_path / "d.png")
    assert note == "left out: the GeoTIFF position"


def test_a_geotiff_that_is_turned_loses_its_place(tmp_path: Path) -> None:
    tiff = Tiff()
    entries: Entries = {0x830E: (12, [1.0, 1.0, 0.0]), 0x87AF: (3, [1, 1, 0, 0]), 0x0112: (3, [6])}
    picture = decode_picture(tiff.begin_at(tiff.directory(np.zeros((3, 4, 3), np.uint8), entries)), "a.tif")
    assert any("the GeoTIFF position" in note for note in picture.notes)
    write_picture(picture, tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as image:
        assert 0x830E not in image.tag_v2  # type: ignore[attr-defined]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tif", "16 bits.tif", ".avif"])
def test_every_container_turns_coordinates_as_a_jpeg_does(tmp_path: Path, extension: str, orientation: int) -> None:
    """The decoders differ in who turns the pixels, and in which size they state before."""
    if extension == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    source, target = tmp_path / f"a{extension}", tmp_path / f"b{extension}"
    if extension.endswith(".tif"):
        tiff, depth = Tiff(), np.uint16 if "16" in extension else np.uint8
        group = tiff.entries({0x9214: (3, [*CENTER, *SIZE])})
        place = tiff.directory(np.zeros((HEIGHT, WIDTH, 3), depth), {274: (3, [orientation]), 0x8769: (4, [group])})
        source.write_bytes(tiff.begin_at(place))
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x8769] = {0x9214: (*CENTER, *SIZE)}
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 150)).save(source, exif=exif)
    left, top, right, bottom = marked(BOX, (WIDTH, HEIGHT), orientation)
    picture = read_picture(source)
    assert (*picture.notes, *write_picture(enlarged(picture, 2, 2), target)) == ()
    written = Image.open(target).getexif().get_ifd(0x8769)[0x9214]
    assert written == (left + right, top + bottom, 2 * (right - left), 2 * (bottom - top))


@pytest.mark.parametrize("extension", [".jpg", ".tif", ".png"])
def test_the_layout_of_iptc_follows(tmp_path: Path, extension: str) -> None:
    """2:131 says landscape, portrait or square."""

    def datasets(letter: bytes) -> bytes:
        return resources_of(b"\x1c\2\x19\0\4bird" + b"\x1c\2\x83\0\2A" + letter) or b""

    digest = b"8BIM\x04\x25\0\0" + struct.pack(">I", 16) + bytes(16)
    for size, letter in (((3, 2), b"L"), ((2, 3), b"P"), ((4, 4), b"S")):
        picture = Picture(np.zeros((size[1], size[0], 3), np.uint8), iptc=datasets(b"L") + digest)
        write_picture(picture, tmp_path / f"a{extension}")
        kept = digest if letter == b"L" else b""
        assert read_picture(tmp_path / f"a{extension}").iptc == datasets(letter) + kept
