"""What of a file no result carries is named, whatever it is; what says only the usual goes without a remark."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from metadata_corpus import exif, iptc, jpeg, png, raw_profile, resource, saved
from metadata_probes import EMPTY_PACKET, exiftool, needs_exiftool, through
from s3diff.errors import PictureError
from s3diff.images.files.exif_block import EXIF_PREFIX, can_move
from s3diff.images.files.gif_blocks import with_extension, xmp
from s3diff.images.files.reading import decode_picture, read_picture
from s3diff.images.icc_profiles import profile_of_code_points, srgb_profile
from s3diff.images.picture import Text
from tiff_builder import Entries as TiffEntries
from tiff_builder import Tiff, stored

PHOTOSHOP = b"Photoshop 3.0\0"
PACKET = b"http://ns.adobe.com/xap/1.0/\0" + EMPTY_PACKET
DISPLAY_P3 = profile_of_code_points(12, 13) or b""
COMPRESSED_P3 = b"P3\0\0" + zlib.compress(DISPLAY_P3)
COLORS = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def exif_of(artist: str) -> bytes:
    block = Image.Exif()
    block[0x013B] = artist
    return block.tobytes().removeprefix(EXIF_PREFIX)


def tiff(*pages: TiffEntries, pixels: np.ndarray = COLORS) -> bytes:
    file, following = Tiff(), 0
    for tags in reversed(pages):
        following = file.directory(pixels, tags, following)
    return file.begin_at(following)


def with_child(tags: TiffEntries) -> bytes:
    file = Tiff()
    child = file.directory(COLORS, tags)
    return file.begin_at(file.directory(COLORS, {330: (4, [child])}))


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    whole = saved("WEBP", exif=exif(), xmp=EMPTY_PACKET)
    body = whole[8:] + b"".join(kind + struct.pack("<I", len(data)) + data for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(color_space: int) -> bytes:
    """Version 5 of the header, with a name of a profile behind the pixels."""
    pixels = bytes(8 * 4 * 3)
    header = struct.pack("<IiiHHIIiiII", 124, 8, 4, 1, 24, 0, len(pixels), 0, 0, 0, 0) + bytes(16)
    header += struct.pack("<I", color_space) + bytes(48) + struct.pack("<IIII", 4, 124 + len(pixels), 6, 0)
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels) + 6, 0, 0, 138) + header + pixels + b"p.icm\0"


#: Content and the remarks on reading it, whole.
CASES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "PNG, time and background": (
        png((b"tIME", bytes(7)), (b"bKGD", bytes(6))),
        ("left out: PNG chunks (tIME: time of the last change, bKGD: background colour)",),
    ),
    "PNG, mastering display": (png((b"cLLI", bytes(8))), ("left out: PNG chunks (cLLI: light level)",)),
    "PNG, damaged profile": (
        png((b"iCCP", b"P3\0\0" + b"no zlib")),
        ("the colour profile is damaged and was left out",),
    ),
    "PNG, gamma of nothing": (
        png((b"gAMA", struct.pack(">I", 1))),
        ("the stated colours (gAMA, cHRM) make no sense and were left out",),
    ),
    "PNG, chromaticities cut off": (png((b"cHRM", bytes(30))), ("the chunk cHRM is damaged and was left out",)),
    "PNG, two blocks of EXIF": (
        png((b"eXIf", exif_of("Anna")), raw_profile("exif", "exif", EXIF_PREFIX + exif_of("Bert"))),
        ("left out: a second block of EXIF in the PNG",),
    ),
    "PNG, one block of EXIF twice": (
        png((b"eXIf", exif_of("Anna")), raw_profile("exif", "exif", EXIF_PREFIX + exif_of("Anna"))),
        (),
    ),
    "PNG, a text that is no UTF-8": (
        png((b"iTXt", b"Title\0\0\0\0\0\xff\xfe")),
        ("left out: the text 'Title' of the PNG (damaged)",),
    ),
    "PNG, a text that is cut off": (
        png((b"zTXt", b"Title\0\0" + zlib.compress(b"a title")[:-5])),
        ("left out: the text 'Title' of the PNG (damaged)",),
    ),
    "JPEG, damaged profile": (
        jpeg((0xE2, b"ICC_PROFILE\0\1\2" + DISPLAY_P3)),  # the second part of two is missing
        ("the colour profile is damaged and was left out",),
    ),
    "JPEG, two blocks of EXIF": (
        jpeg((0xE1, EXIF_PREFIX + exif_of("Anna")), (0xE1, EXIF_PREFIX + exif_of("Bert"))),
        ("left out: a second block of EXIF",),
    ),
    "JPEG, two packets of XMP": (
        jpeg((0xE1, PACKET), (0xE1, PACKET + b" ")),
        ("left out: a second packet of XMP",),
    ),
    "WebP, two blocks of EXIF": (webp((b"EXIF", exif_of("B"))), ("left out: WebP chunks (a second EXIF)",)),
    "JPEG, Photoshop's guides and paths": (
        jpeg((0xED, PHOTOSHOP + resource(bytes(16), 0x0408) + resource(bytes(26), 0x07D0) + resource(b"x", 0x0FA0))),
        ("left out: paths of Photoshop, resources of Photoshop (GridAndGuides, 0x0FA0)",),
    ),
    "JPEG, Photoshop's thumbnail and resolution": (
        jpeg((0xED, PHOTOSHOP + resource(bytes(16), 0x03ED) + resource(bytes(30), 0x040C))),
        (),
    ),
    "JPEG, Photoshop's resources cut off": (
        jpeg((0xED, PHOTOSHOP + resource(iptc()) + resource(bytes(40), 0x040D)[:-9])),
        ("left out: damaged resources of Photoshop",),
    ),
    "JPEG, IPTC cut off": (
        jpeg((0xED, PHOTOSHOP + resource(iptc() + b"\x1c\2\x19\0\x50bird"))),
        ("left out: a damaged part of IPTC",),
    ),
    "TIFF, tags of printing": (
        tiff({0x0151: (1, [80, 0]), 0x0129: (3, [3, 9]), 0x0119: (3, [200] * 3)}),
        ("left out: TIFF tags (MaxSampleValue, PageNumber, TargetPrinter)",),
    ),
    "TIFF, tags that say the usual": (
        tiff({0x0129: (3, [0, 1]), 0x0118: (3, [0] * 3), 0x0119: (3, [255] * 3), 0x0214: (5, [0, 1, 255, 1] * 3)}),
        (),
    ),
    "TIFF, a transparency mask behind the picture": (
        tiff({}, {254: (4, [4]), 262: (3, [4])}),
        ("left out: a transparency mask",),
    ),
    "TIFF, a reduced copy behind the picture": (tiff({}, {254: (4, [1])}), ()),
    "TIFF, a picture of the same size in a sub-directory": (
        with_child({}),
        ("left out: a further picture in a sub-directory",),
    ),
    "TIFF, a reduced copy in a sub-directory": (with_child({254: (4, [1])}), ()),
    "JPEG, metadata of Canon in APP0": (jpeg((0xE0, b"II\x1a\0\0\0HEAPJPGM")), ("left out: JPEG segments (APP0 II)",)),
    "JPEG, a thumbnail of JFIF": (jpeg((0xE0, b"JFXX\0\x13" + bytes(5))), ()),
    "GIF, texts": (
        with_extension(saved("GIF"), b"!\x01\x0c" + bytes(12) + b"\5hello\0"),
        ("left out: texts that are drawn over the picture",),
    ),
    "GIF, two packets of XMP": (
        with_extension(with_extension(saved("GIF"), xmp(EMPTY_PACKET)), xmp(EMPTY_PACKET + b" ")),
        ("left out: a second packet of XMP",),
    ),
    "TIFF, narrow range": (
        tiff({0x0214: (5, [16, 1, 235, 1] * 3)}),
        ("left out: TIFF tags (ReferenceBlackWhite)",),
    ),
    "TIFF, white point without primaries": (
        tiff({0x013E: (5, [3127, 10000, 329, 1000])}),
        ("the stated colours (WhitePoint, PrimaryChromaticities) make no sense and were left out",),
    ),
    "TIFF, white point of grey": (
        tiff({0x013E: (5, [3127, 10000, 329, 1000])}, pixels=COLORS[..., :1]),
        ("left out: white point and primaries of a picture that is not RGB",),
    ),
    "TIFF, curve of grey": (
        tiff({0x0122: (3, [2]), 0x0119: (3, [4095])}, pixels=COLORS[..., :1].astype(np.uint16)),
        ("left out: TIFF tags (MaxSampleValue, GrayResponseUnit)",),
    ),
    "TIFF, deep and transparent, the usual": (
        stored(np.ones((6, 8, 4), np.uint16), 2, {0x0119: (3, [65535] * 4), 338: (3, [2])}),
        (),
    ),
    "TIFF, CMYK above 1": (
        stored(np.full((6, 8, 4), 1.5, np.float32), 5, {}),
        (
            "32 bits per channel were reduced to 8: CMYK pictures are read with 8",
            "values from 1.5 to 1.5 were cut to the range from 0 to 1",
            "CMYK was converted to RGB without a colour profile",
        ),
    ),
    "TIFF, Lab with transparency above 1": (
        stored(np.dstack([np.full((6, 8, 1), 50.0)] + [np.zeros((6, 8, 1))] * 2 + [np.full((6, 8, 1), 2.0)]), 8,
               {338: (3, [2])}),
        (
            "Lab was converted to sRGB",
            "floating-point values were rounded to 16 bits",
            "values of the transparency from 2 to 2 were cut to the range from 0 to 1",
        ),
    ),
    "BMP, profile elsewhere": (bmp(0x4C494E4B), ("left out: the link to a colour profile in another file",)),
    "BMP, profile that is cut off": (
        bmp(0x4D424544)[:-6],
        ("the colour profile is damaged and was left out",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_no_result_carries_is_named(name: str) -> None:
    content, notes = CASES[name]
    assert decode_picture(content, name).notes == notes


def test_pages_of_a_file_say_their_numbers_again(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff({0x0129: (3, [0, 2])}, {0x0129: (3, [1, 2])}))
    assert [read_picture(tmp_path / "a.tif", page=number).notes for number in (1, 2)] == [(), ()]
    (tmp_path / "a.tif").write_bytes(tiff({0x0129: (3, [0, 2])}, {0x0129: (3, [4, 9])}))
    assert read_picture(tmp_path / "a.tif", page=2).notes == ("left out: TIFF tags (PageNumber)",)


def test_texts_with_one_keyword_are_all_kept(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "one")
    info.add_text("Comment", "two", zip=True)
    info.add_itxt("Comment", "три", "ru")
    info.add_text("Author", "Zoë")
    (tmp_path / "a.png").write_bytes(saved("PNG", pnginfo=info))
    assert through(tmp_path / "a.png", tmp_path / "b.png") == ()
    found = read_picture(tmp_path / "b.png").texts
    comments = Text("Comment", "one"), Text("Comment", "two"), Text("Comment", "три", "ru")
    assert found == (*comments, Text("Author", "Zoë"))
    (note,) = through(tmp_path / "a.png", tmp_path / "b.jpg")
    assert "Author" in note
    assert [text.text for text in read_picture(tmp_path / "b.jpg").texts] == ["one\ntwo\nтри"]


def test_a_jpeg_without_resolution_gets_none(tmp_path: Path) -> None:
    """Pillow says 72 where there is EXIF."""
    (tmp_path / "a.jpg").write_bytes(saved("JPEG", exif=EXIF_PREFIX + exif_of("Anna")))
    assert read_picture(tmp_path / "a.jpg").dpi is None
    block = Image.Exif()
    block[0x011A], block[0x011B], block[0x0128] = 300.0, 300.0, 2
    (tmp_path / "a.jpg").write_bytes(saved("JPEG", exif=block))
    assert read_picture(tmp_path / "a.jpg").dpi == (300, 300)


@pytest.mark.parametrize(("of_exif", "of_format", "agreed"), [(300, 72, 300), (72, 300, 300), (240, 300, 240)])
@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
def test_both_resolutions_of_a_result_agree(
    tmp_path: Path, extension: str, of_exif: int, of_format: int, agreed: int
) -> None:
    """Pillow and browsers read the format's number, exiftool and Photoshop EXIF's. 72 is what writers put for none."""
    block = Image.Exif()
    block[0x011A], block[0x011B], block[0x0128], block[0x010F] = float(of_exif), float(of_exif), 2, "a scanner"
    (tmp_path / "a.jpg").write_bytes(saved("JPEG", exif=block, dpi=(of_format, of_format)))
    result = tmp_path / f"b.{extension}"
    through(tmp_path / "a.jpg", result)
    with Image.open(result) as image:
        assert tuple(round(float(value)) for value in image.info["dpi"]) == (agreed, agreed)
        assert [round(float(image.getexif()[tag])) for tag in (0x011A, 0x011B)] == [agreed, agreed]


@pytest.mark.parametrize(
    ("of_exif", "unit", "agreed"),
    [
        ((2834646, 100000), 3, 300),
        ((72009, 1000), 2, 300),
        ((1, 1), 2, 300),
        ((1, 1), 3, 300),
        ((1181102, 10000), 3, 300),
    ],
)
def test_an_unknown_resolution_of_exif_has_many_spellings(
    tmp_path: Path, of_exif: tuple[int, int], unit: int, agreed: int
) -> None:
    """72 pixels per inch in centimetres, or 1; the last one is the 300 of the format."""
    block = Image.Exif()
    block[0x011A] = block[0x011B] = TiffImagePlugin.IFDRational(*of_exif)
    block[0x0128] = unit
    (tmp_path / "a.jpg").write_bytes(saved("JPEG", exif=block, dpi=(300, 300)))
    through(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.info["dpi"] == (agreed, agreed)
        per_inch = 1 if unit == 2 else 2.54
        assert [round(float(image.getexif()[tag]) * per_inch) for tag in (0x011A, 0x011B)] == [agreed, agreed]


def test_the_chunk_of_exif_is_stronger_than_a_text() -> None:
    picture = decode_picture(CASES["PNG, two blocks of EXIF"][0], "a.png")
    assert b"Anna" in (picture.exif or b"")


@pytest.mark.parametrize("coded", [b"\x01\x0d\0\1", b"\x0c\x0d\0\1"])
def test_cicp_is_stronger_than_a_profile(coded: bytes) -> None:
    """Also where it says sRGB."""
    picture = decode_picture(png((b"cICP", coded), (b"iCCP", COMPRESSED_P3)), "a.png")
    assert picture.icc_profile == (srgb_profile() if coded[0] == 1 else DISPLAY_P3)


@pytest.mark.parametrize(("coded", "what"), [(b"\x01\x0d\0\0", "narrow range"), (b"\x09\x0d\x09\x01", "matrix 9")])
def test_values_that_are_no_full_range_rgb_are_refused(coded: bytes, what: str) -> None:
    with pytest.raises(PictureError, match=what):
        decode_picture(png((b"cICP", coded)), "a.png")


@needs_exiftool
def test_resources_of_photoshop_are_kept(tmp_path: Path) -> None:
    block = resource(struct.pack(">i", 30), 0x040D) + resource(b"\1", 0x0411) + resource(struct.pack(">i", 45), 0x0419)
    (tmp_path / "a.jpg").write_bytes(jpeg((0xED, PHOTOSHOP + block)))
    for extension in ("jpg", "tif", "png"):
        assert through(tmp_path / "a.jpg", tmp_path / f"b.{extension}") == ()
        found = exiftool("-s3", "-Photoshop:GlobalAngle", "-Photoshop:GlobalAltitude", tmp_path / f"b.{extension}")
        assert found.split() == ["30", "45"]
    assert through(tmp_path / "a.jpg", tmp_path / "b.webp") == (
        "WebP holds no IPTC; left out: resources of Photoshop (GlobalAngle, ICC_Untagged, GlobalAltitude)",
    )


@pytest.mark.parametrize("payload", [b"Adobe_Photoshop2.5:" + resource(b"\x1c\2\x19\0\4bird"), b"\x1c\2\x19\0\4bird"])
def test_iptc_of_older_programs_is_kept(payload: bytes) -> None:
    picture = decode_picture(jpeg((0xED, payload)), "a.jpg")
    assert (picture.iptc, picture.notes) == (resource(b"\x1c\2\x19\0\4bird"), ())


def test_a_profile_that_is_none_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(saved("JPEG", icc_profile=b"no profile " * 20))
    assert through(tmp_path / "a.jpg", tmp_path / "b.jpg") == ("the colour profile is damaged and was left out",)


def test_the_software_of_exif_goes_into_a_tiff(tmp_path: Path) -> None:
    block = Image.Exif()
    block[0x000B] = "a program"
    (tmp_path / "a.jpg").write_bytes(saved("JPEG", exif=block))
    assert through(tmp_path / "a.jpg", tmp_path / "b.tif") == ()
    assert Image.open(tmp_path / "b.tif").getexif()[0x000B] == "a program"


def with_maker_note(header: bytes, is_own_beginning: bool, order: str = "<") -> bytes:
    """An EXIF block whose maker note holds one text, at an offset from its own beginning or from that of the block."""
    text = b"the name of the owner\0"
    note_at = 8 + 2 + 12 + 4 + 2 + 12 + 4
    text_at = len(header) + 2 + 12 + 4 + (0 if is_own_beginning else note_at)
    note = header + struct.pack(f"{order}HHHIII", 1, 9, 2, len(text), text_at, 0) + text
    mark = b"II*\0" if order == "<" else b"MM\0*"
    group = struct.pack(f"{order}HHHIII", 1, 0x927C, 7, len(note), note_at, 0)
    return mark + struct.pack(f"{order}IHHHIII", 8, 1, 0x8769, 4, 1, 26, 0) + group + note


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("header", "is_own_beginning"), [(b"", False), (b"Panasonic\0\0\0", False), (b"FUJIFILM\x0c\0\0\0", True)]
)
def test_maker_notes_survive_in_place_and_are_named_where_they_cannot_move(
    tmp_path: Path, header: bytes, is_own_beginning: bool, order: str
) -> None:
    block = with_maker_note(header, is_own_beginning, order)
    (tmp_path / "a.jpg").write_bytes(jpeg((0xE1, EXIF_PREFIX + block)))
    assert through(tmp_path / "a.jpg", tmp_path / "b.png") == ()
    assert read_picture(tmp_path / "b.png").exif == EXIF_PREFIX + block
    note = Image.open(tmp_path / "a.jpg").getexif().get_ifd(0x8769)[0x927C]
    notes = through(tmp_path / "a.jpg", tmp_path / "b.tif")
    kept = Image.open(tmp_path / "b.tif").getexif().get_ifd(0x8769)
    if is_own_beginning:
        assert (notes, kept[0x927C]) == ((), note)
    else:
        assert "MakerNote" in notes[0]
        assert 0x927C not in kept


def test_maker_notes_of_any_content_are_judged() -> None:
    nikon = b"Nikon\0\2\x10\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIII", 1, 1, 2, 9, 26, 0) + b"something"
    assert can_move(nikon)
    assert not can_move(nikon[:-1])
    # Entries: a text inside, and one whose type or size is of nobody.
    text, number = (2, 9, 52), (3, 1, 0)
    for odd, can in (((0, 1, 0), True), ((99, 1, 0), True), ((7, 1 << 20, 8), False)):
        for place in range(3):
            entries = [text, number, number]
            entries.insert(place, odd)
            directory = struct.pack("<H", 4) + b"".join(
                struct.pack("<HHII", tag, *each) for tag, each in enumerate(entries)
            )
            assert can_move(directory + b"\0\0something") is can, (odd, place)
            assert not can_move(directory + b"\0\0some"), (odd, place)
    for note in (b"", b"\0", b"a text without a directory", bytes(100), b"\xff" * 100):
        assert can_move(note)
