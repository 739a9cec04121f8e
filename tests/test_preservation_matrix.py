"""Every kind of picture restored with the embedded model into every format: what the table of formats promises."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, features

from s3diff.errors import OutputError
from s3diff.formats import FORMATS, Format
from s3diff.images.files import gif_blocks
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import can_be_written, write_picture
from s3diff.images.picture import Picture
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.result import Restored

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
ORIENTATION, ARTIST = 0x0112, 0x013B
#: Before it is turned upright.
WIDTH, HEIGHT = 20, 14


def rgb() -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 12, y * 17, (x + y) * 6], axis=-1).astype(np.uint8)


def opacity() -> np.ndarray:
    return np.where(np.arange(WIDTH) < 8, 0, 255).astype(np.uint8)[None].repeat(HEIGHT, 0)


def palette(*, transparent: bool) -> Image.Image:
    image = Image.fromarray(rgb()).quantize(16)
    if transparent:
        image.info["transparency"] = int(np.asarray(image)[0, 0])
    return image


#: Kinds of pictures that Pillow writes: how they are made, and whether they are grey and transparent.
KINDS: dict[str, tuple[Callable[[], Image.Image], bool, bool]] = {
    "1 bit": (lambda: Image.fromarray(rgb()[..., 0] > 120), True, False),
    "grey": (lambda: Image.fromarray(rgb()[..., 0]), True, False),
    "grey and alpha": (lambda: Image.fromarray(np.dstack([rgb()[..., 0], opacity()])), True, True),
    "palette": (lambda: palette(transparent=False), False, False),
    "palette with a clear colour": (lambda: palette(transparent=True), False, True),
    "RGB": (lambda: Image.fromarray(rgb()), False, False),
    "RGBA": (lambda: Image.fromarray(np.dstack([rgb(), opacity()])), False, True),
    "CMYK": (lambda: Image.fromarray(rgb()).convert("CMYK"), False, False),
    "16-bit grey": (lambda: Image.fromarray(rgb()[..., 0].astype(np.uint16) * 257), True, False),
}
#: Kinds that only our own writer makes (against other libraries: test_images).
DEEP_KINDS = {"16-bit grey and alpha": (True, True), "16-bit RGB": (False, False), "16-bit RGBA": (False, True)}
#: What each format can store of them, as far as Pillow writes it.
SOURCES = {
    "PNG": [kind for kind in KINDS if kind != "CMYK"],
    "JPEG": ["grey", "RGB", "CMYK"],
    "WebP": ["RGB", "RGBA"],
    "TIFF": [kind for kind in KINDS if kind != "palette with a clear colour"],
    "AVIF": ["grey", "RGB", "RGBA"],
    "BMP": ["1 bit", "grey", "palette", "RGB"],
    "GIF": ["1 bit", "grey", "palette", "palette with a clear colour"],
}


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION], exif[ARTIST] = 6, "Anna"
    return exif.tobytes()


def source_of(row: Format, kind: str, path: Path) -> None:
    """A file with everything that the format's row says it keeps."""
    make, is_grey, _ = KINDS[kind]
    image = make()
    settings: dict[str, object] = {"dpi": (300, 300)} if row.dpi == "yes" else {}
    if row.has_exif:
        settings["exif"] = exif_block()
    if row.has_profile and not is_grey and kind != "CMYK":
        settings["icc_profile"] = SRGB
    if row.has_xmp:
        settings["xmp"] = XMP
        if row.title == "PNG":
            settings["pnginfo"] = PngImagePlugin.PngInfo()
            settings["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())  # type: ignore[attr-defined]
        if row.title == "TIFF":
            tags = Image.Exif()
            tags[ORIENTATION], tags[ARTIST], tags[0x02BC] = 6, "Anna", XMP
            settings["exif"] = tags
    if row.title == "WebP":
        settings |= {"lossless": True, "exact": True}
    image.save(path, row.name, **settings)
    if row.title == "GIF":  # which Pillow writes without
        path.write_bytes(gif_blocks.with_extension(path.read_bytes(), gif_blocks.xmp(XMP)))


def avif_knows_grey() -> bool:
    """It does with Pillow 13, with 11.3 it does not."""
    data = io.BytesIO()
    Image.new("L", (8, 8)).save(data, "AVIF")
    return Image.open(data).mode == "L"


def check_kept(row: Format, path: Path, restored: Restored, *, bits: int, turned: bool) -> Picture:
    """The written file against the row."""
    back, picture, form = read_picture(path), restored.picture, row
    size = (2 * HEIGHT, 2 * WIDTH) if turned else (2 * WIDTH, 2 * HEIGHT)
    assert (picture.width, picture.height) == (back.width, back.height) == size
    knows_grey = row.title not in ("WebP", "GIF") and (picture.alpha is None or row.title not in ("AVIF", "HEIC"))
    knows_grey &= row.title != "AVIF" or avif_knows_grey()
    assert back.is_grey == picture.is_grey or not knows_grey
    assert back.pixels.dtype == (np.uint16 if bits == 16 and max(form.bits) > 8 else np.uint8)
    assert back.is_transparent == picture.is_transparent
    assert back.icc_profile == (picture.icc_profile if form.has_profile else None)
    assert (back.xmp is not None) == (picture.xmp is not None and form.has_xmp)
    assert b'tiff:Orientation="6"' not in (back.xmp or b"")
    tags = Image.Exif()
    if picture.exif is not None and form.has_exif:
        tags.load(back.exif)
        assert tags[ARTIST] == "Anna"
    assert tags.get(ORIENTATION, 1) == 1
    if row.dpi == "yes" and picture.dpi is not None:
        assert back.dpi == pytest.approx(picture.dpi, abs=0.1)
    # The pixels are the result's, as near as the format comes.
    tolerance = {"JPEG": 6, "WebP": 6, "AVIF": 6, "GIF": 12, "HEIC": 6}.get(row.title, 0.51)
    scale = np.iinfo(back.pixels.dtype).max / 255
    wanted = picture.pixels / (np.iinfo(picture.pixels.dtype).max / 255)
    visible = np.ones(size[::-1], bool) if back.alpha is None else back.alpha > 0
    assert np.abs(back.pixels / scale - wanted)[visible].mean() < tolerance
    return back


@pytest.mark.parametrize(("row", "kind"), [(row, kind) for row in FORMATS for kind in SOURCES.get(row.title, [])])
def test_from_a_format_to_itself(tmp_path: Path, restorer: Restorer, row: Format, kind: str) -> None:
    if row.title == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    extension = row.extensions[-1]
    source, target = tmp_path / f"in{extension}", tmp_path / f"out{extension}"
    source_of(row, kind, source)
    _, is_grey, is_transparent = KINDS[kind]
    read = read_picture(source)
    assert read.is_transparent == is_transparent
    assert read.is_grey == is_grey or row.title in ("WebP", "GIF") or (row.title == "AVIF" and not avif_knows_grey())
    has_turn = row.has_exif or row.title == "GIF"  # whose XMP says it
    assert (read.exif is not None, read.xmp is not None) == (has_turn, row.has_xmp)
    assert ("CMYK" in " ".join(read.notes)) == (kind == "CMYK")
    restored = restorer.restore(read, RestoreOptions(scale=2, grey="keep"))
    notes = restored.save(target, quality=100)
    assert row.has_xmp != any("how the result was made" in note for note in notes)
    assert notes[not row.has_xmp :] == () or row.title == "GIF"
    bits = 16 if kind.startswith("16-bit") else 8
    turned = has_turn
    if row.title == "AVIF":  # its decoder turns the picture and leaves the tag behind, or not, by version
        turned = read.width == HEIGHT
    back = check_kept(row, target, restored, bits=bits, turned=turned)
    if kind == "1 bit":
        assert len(np.unique(back.pixels)) > 2, "it became grey"


@pytest.mark.parametrize("kind", [*KINDS, *DEEP_KINDS])
def test_every_kind_into_every_format(tmp_path: Path, restorer: Restorer, kind: str) -> None:
    if kind in KINDS:
        first = FORMATS[3] if kind == "CMYK" else FORMATS[0]
        source_of(first, kind, tmp_path / f"in{first.extensions[0]}")
        picture = read_picture(tmp_path / f"in{first.extensions[0]}")
    else:
        is_grey, is_transparent = DEEP_KINDS[kind]
        low = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint16)
        pixels = rgb().astype(np.uint16) * 256 + low
        alpha = opacity().astype(np.uint16) * 257 if is_transparent else None
        profile = None if is_grey else SRGB
        made = Picture(pixels[..., :1] if is_grey else pixels, alpha, profile, exif_block(), XMP, (300, 300))
        assert write_picture(made, tmp_path / "in.tif") == ()
        picture = read_picture(tmp_path / "in.tif")
        assert picture.pixels.dtype == np.uint16
    restored = restorer.restore(picture, RestoreOptions(scale=2, grey="keep"))
    bits = 16 if kind.startswith("16-bit") else 8
    if bits == 16:
        assert (restored.array % 257 != 0).mean() > 0.9, "more than 8 bits of it are used"
    for row in FORMATS:
        target = tmp_path / f"out{row.extensions[0]}"
        if not can_be_written(target.suffix) or (row.title == "AVIF" and not features.check("avif")):
            continue
        if restored.picture.is_transparent and not row.has_alpha:
            with pytest.raises(OutputError, match="transparency"):
                restored.save(target)
            assert not target.exists()
            continue
        notes = " ".join(restored.save(target, quality=100))
        assert ("16 bits" in notes) == (bits == 16 and 16 not in row.bits)
        assert ("EXIF" in notes) == (restored.picture.exif is not None and not row.has_exif)
        assert ("XMP; it was left out" in notes) == (restored.picture.xmp is not None and not row.has_xmp)
        assert ("profile" in notes) == (restored.picture.icc_profile is not None and not row.has_profile)
        check_kept(row, target, restored, bits=bits, turned=restored.picture.width == 2 * HEIGHT)


def test_the_lower_byte_of_16_bits_reaches_the_result(compact: Restorer) -> None:
    """A slope of one 8-bit level over the whole width: 8 bits would see two flat halves."""
    slope = np.linspace(30000, 30257, 64).astype(np.uint16)[None, :, None].repeat(64, 0).repeat(3, 2)
    deep = compact.restore(Picture(slope), RestoreOptions(scale=2)).array.mean(axis=(0, 2))
    eight = compact.restore(Picture((slope // 256).astype(np.uint8)), RestoreOptions(scale=2)).array.mean(axis=(0, 2))
    middle = slice(32, 96)
    assert abs(np.polyfit(np.arange(64), deep[middle], 1)[0] - 257 / 127) < 0.5
    assert len(np.unique(eight.round())) <= 3


@pytest.mark.parametrize("extension", [".bmp", ".gif"])
def test_wide_colours_become_srgb_where_no_profile_is_held(tmp_path: Path, extension: str) -> None:
    from test_preservation import profile_of

    picture = Picture(np.full((8, 8, 3), (60, 180, 60), np.uint8), icc_profile=profile_of("Display P3"))
    (note,) = write_picture(picture, tmp_path / f"a{extension}")
    assert "converted to sRGB" in note
    # By hand: the curve's exponent is 2.2 in this profile; its primaries over sRGB's are (1.2249, -0.2247, 0; -0.0420,
    # 1.0419, 0; -0.0197, -0.0786, 1.0979), and red would be negative.
    shown = read_picture(tmp_path / f"a{extension}").pixels[0, 0].astype(int)
    assert abs(shown - (0, 184, 22)).max() <= 2
