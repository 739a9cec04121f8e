"""A result claims nothing that stayed behind, and says what it left; what was in several parts is whole again."""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from metadata_probes import enlarged, exiftool, fields_of, needs_exiftool, through
from s3diff.images.files.dropped_contents import attachments
from s3diff.images.files.exif_block import EXIF_PREFIX
from s3diff.images.files.gif_blocks import with_extension
from s3diff.images.files.jpeg_segments import joined_exif, joined_xmp
from s3diff.images.files.reading import decode_picture, read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.files.xmp_packet import XmpError, XmpPacket
from s3diff.images.icc_profiles import profile_of_code_points
from s3diff.images.picture import Picture

DISPLAY_P3 = profile_of_code_points(12, 13)
PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" {}>{}</rdf:Description>'
    "</rdf:RDF></x:xmpmeta>"
)
TITLE = '<dc:title><rdf:Alt><rdf:li xml:lang="x-default">stays</rdf:li></rdf:Alt></dc:title>'
VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500)
HDRGM = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" hdrgm:GainMapMax="2.5"'
CONTAINER = (
    'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
    'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" '
)
DIRECTORY = (
    '<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource">'
    '<Container:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/></rdf:li><rdf:li rdf:parseType="Resource">'
    '<Container:Item Item:Semantic="{}" Item:Length="9"/></rdf:li></rdf:Seq></Container:Directory>'
)
GCAMERA = 'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:{}'


def saved(format_name: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (48, 32), (90, 120, 150)).save(data, format_name)
    return data.getvalue()


def jpeg() -> bytes:
    return saved("JPEG")


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def packet(attributes: str, elements: str = "") -> bytes:
    return PACKET.format(attributes, TITLE + elements).encode()


def xmp_segment(attributes: str, elements: str = "") -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet(attributes, elements))


def with_segments(*segments: bytes, behind: bytes = b"") -> bytes:
    plain = jpeg()
    return plain[:2] + b"".join(segments) + plain[2:] + behind


def multi_picture(types: list[int]) -> bytes:
    """An MPF index (CIPA DC-007) of pictures of these types."""
    entries = b"".join(struct.pack(">IIIHH", kind, 9, 9, 0, 0) for kind in [0x030000, *types])
    body = struct.pack(">HHII", 0xB001, 4, 1, len(types) + 1)
    body += struct.pack(">HHII", 0xB002, 7, len(entries), 8 + 2 + 24 + 4)
    return segment(0xE2, b"MPF\0MM\0*" + struct.pack(">IH", 8, 2) + body + bytes(4) + entries)


def png(*chunks: bytes) -> bytes:
    from s3diff.images.files.png_chunks import chunk

    data = io.BytesIO()
    Image.new("RGB", (48, 32), (90, 120, 150)).save(data, "PNG")
    whole = data.getvalue()
    return whole[:33] + b"".join(chunk(kind, b"x" * 20) for kind in chunks) + whole[33:]


def webp(kind: bytes) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (48, 32), (90, 120, 150)).save(data, "WEBP", xmp=packet(""))
    body = data.getvalue()[8:] + kind + struct.pack("<I", 4) + b"abcd"
    return b"RIFF" + struct.pack("<I", len(body)) + body


APPLE_GAIN_MAP = with_segments(xmp_segment('xmlns:H="http://ns.apple.com/HDRGainMap/1.0/" H:HDRGainMapVersion="1"'))
#: Ending, content and the word of the remark; an empty word means that nothing is said.
CASES: dict[str, tuple[str, bytes, str]] = {
    "motion picture, by offset": (
        ".jpg",
        with_segments(xmp_segment(GCAMERA.format('MicroVideo="1" GCamera:MicroVideoOffset="524"')), behind=VIDEO),
        "video",
    ),
    "motion picture, by container": (
        ".jpg",
        with_segments(
            xmp_segment(CONTAINER + GCAMERA.format('MotionPhoto="1"'), DIRECTORY.format("MotionPhoto")), behind=VIDEO
        ),
        "video",
    ),
    "video without a claim": (".jpg", with_segments(behind=VIDEO), "video"),
    "claim without a video": (".jpg", with_segments(xmp_segment(GCAMERA.format('MotionPhoto="1"'))), "video"),
    "Ultra HDR": (
        ".jpg",
        with_segments(
            xmp_segment(CONTAINER + HDRGM, DIRECTORY.format("GainMap")), behind=with_segments(xmp_segment(HDRGM))
        ),
        "gain map",
    ),
    "ISO 21496-1": (
        ".jpg",
        with_segments(behind=with_segments(segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(20)))),
        "gain map",
    ),
    "Apple's gain map": (".jpg", with_segments(multi_picture([0]), behind=APPLE_GAIN_MAP), "gain map"),
    "depth in XMP": (
        ".jpg",
        with_segments(
            xmp_segment('xmlns:D="http://ns.google.com/photos/1.0/depthmap/" D:Near="1" D:Format="RangeLinear"')
        ),
        "depth",
    ),
    "sound in XMP": (
        ".jpg",
        with_segments(xmp_segment('xmlns:S="http://ns.google.com/photos/1.0/audio/" S:Mime="audio/mp4" S:Data="AA"')),
        "sound",
    ),
    "two further pictures": (
        ".jpg",
        with_segments(multi_picture([0x020002, 0x020002]), behind=jpeg()),
        "further pictures",
    ),
    "a larger thumbnail": (".jpg", with_segments(multi_picture([0x010001]), behind=jpeg()), ""),
    "Samsung's depth": (".jpg", with_segments(behind=b"DualShot_DepthMap_1" + bytes(40) + b"SEFT"), "depth"),
    "bytes behind the end": (".jpg", with_segments(behind=b"something else"), "data behind the picture (14 bytes)"),
    "a picture behind the end": (".jpg", with_segments(behind=jpeg()), "a further picture"),
    "zeros behind the end": (".jpg", with_segments(behind=bytes(100)), ""),
    "Apple's depth in XMP": (
        ".jpg",
        with_segments(xmp_segment('xmlns:D="http://ns.apple.com/depthData/1.0/" D:Accuracy="absolute"')),
        "depth",
    ),
    **{
        f"a video behind the end, {extension}": (extension, saved(name) + VIDEO, "the video of a motion")
        for name, extension in (("PNG", ".png"), ("WEBP", ".webp"), ("GIF", ".gif"), ("BMP", ".bmp"))
    },
    **{
        f"bytes behind the end, {extension}": (extension, saved(name) + b"something", "behind the picture (9 bytes)")
        for name, extension in (("PNG", ".png"), ("WEBP", ".webp"), ("GIF", ".gif"), ("BMP", ".bmp"))
    },
    **{
        f"zeros behind the end, {extension}": (extension, saved(name) + bytes(9), "")
        for name, extension in (("PNG", ".png"), ("WEBP", ".webp"), ("GIF", ".gif"), ("BMP", ".bmp"))
    },
    "heat of a thermal camera": (".jpg", with_segments(segment(0xE1, b"FLIR\0\1\0\0")), "APP1 FLIR"),
    "content credentials, JPEG": (".jpg", with_segments(segment(0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumbc2pa")), "C2PA"),
    "content credentials, PNG": (".png", png(b"caBX"), "C2PA"),
    "content credentials, WebP": (".webp", webp(b"C2PA"), "C2PA"),
    "an unknown chunk, PNG": (".png", png(b"vxYz"), "vxYz"),
    "an unknown chunk, WebP": (".webp", webp(b"XYZ "), "XYZ"),
    "registered chunks, PNG": (".png", png(b"tIME", b"bKGD", b"mDCV"), "mDCV: mastering display"),
    "a chunk of how the file is stored, PNG": (".png", png(b"iDOT"), ""),
}


@needs_exiftool
def test_results_claim_nothing_that_stayed_behind(tmp_path: Path) -> None:
    targets = []
    for name, (extension, content, word) in CASES.items():
        source = tmp_path / f"{name.replace(' ', '-')}{extension}"
        source.write_bytes(content)
        targets.append(source.with_name(f"result-{source.name}"))
        notes = through(source, targets[-1])
        if not word:
            assert notes == (), name
        else:
            (note,) = notes
            assert word in note, name
            assert "left out" in note, name
        written = targets[-1].read_bytes()
        for claim in (
            b"hdr-gain-map",
            b"HDRGainMap",
            b"MotionPhoto",
            b"MicroVideo",
            b"container/",
            b"depthmap",
            b"audio",
        ):
            assert claim not in written, name
    for (name, (_, content, _)), found in zip(CASES.items(), fields_of(targets), strict=True):
        if b"stays" in content[: content.find(b"</x:xmpmeta>")] and "gain map" not in name and "21496" not in name:
            assert found["XMP-dc:Title"] == "stays", name


def extended(content: bytes, *, room: int = 700, backwards: bool = False, damage: bool = False) -> list[bytes]:
    digest = hashlib.md5(content).hexdigest().upper().encode()
    starts = list(range(0, len(content), room))
    parts = [
        digest + struct.pack(">II", len(content), start) + content[start : start + room]
        for start in (reversed(starts) if backwards else starts)
    ]
    if damage:
        parts = parts[:-1]
    main = packet(f'xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="{digest.decode()}"')
    payloads = [b"http://ns.adobe.com/xap/1.0/\0" + main]
    return payloads + [b"http://ns.adobe.com/xmp/extension/\0" + part for part in parts]


KEYWORDS = PACKET.format(
    f'xmlns:q="urn:q" q:d="{"A" * 5000}"', "<dc:subject><rdf:Bag><rdf:li>bird</rdf:li></rdf:Bag></dc:subject>"
).encode()


@pytest.mark.parametrize("backwards", [False, True])
def test_extended_xmp_is_merged(tmp_path: Path, backwards: bool) -> None:
    whole, is_damaged = joined_xmp(extended(KEYWORDS, backwards=backwards))
    assert whole is not None
    assert not is_damaged
    assert b"HasExtendedXMP" not in whole
    assert b"stays" in whole
    assert b"<rdf:li>bird</rdf:li>" in whole
    assert b"A" * 5000 in whole
    (tmp_path / "in.jpg").write_bytes(with_segments(*(segment(0xE1, each) for each in extended(KEYWORDS))))
    for extension in (".jpg", ".png", ".webp", ".tif"):
        assert through(tmp_path / "in.jpg", tmp_path / f"out{extension}") == ()
        assert b"bird" in (tmp_path / f"out{extension}").read_bytes()


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    payloads = extended(KEYWORDS, damage=True)
    (tmp_path / "in.jpg").write_bytes(with_segments(*(segment(0xE1, each) for each in payloads)))
    (note,) = through(tmp_path / "in.jpg", tmp_path / "out.jpg")
    assert "XMP" in note
    assert b"HasExtendedXMP" not in (tmp_path / "out.jpg").read_bytes()
    assert b"stays" in (tmp_path / "out.jpg").read_bytes()


@needs_exiftool
def test_long_xmp_is_split_and_merged_again(tmp_path: Path) -> None:
    content = f'xmlns:q="urn:q" q:long="{"B" * 90_000}" q:short="1"'
    picture = Picture(np.zeros((8, 8, 3), np.uint8), xmp=packet(content))
    assert write_picture(picture, tmp_path / "long.jpg") == ()
    (found,) = fields_of([tmp_path / "long.jpg"])
    assert found["XMP-dc:Title"] == "stays"
    assert {"XMP-q:Long", "XMP-q:Short"} <= set(found)
    back = read_picture(tmp_path / "long.jpg")
    assert back.notes == ()
    assert back.xmp is not None
    assert b"B" * 90_000 in back.xmp


@needs_exiftool
def test_exif_of_several_segments_is_joined_and_written(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x013B] = "Anna"
    exif[0x8769] = {0x927C: bytes(range(256)) * 400, 0x9286: b"ASCII\0\0\0" + b"c" * 30_000}
    body = exif.tobytes().removeprefix(EXIF_PREFIX)
    assert len(body) > 100_000
    room = 65_527
    parts = [EXIF_PREFIX + body[start : start + room] for start in range(0, len(body), room)]
    assert joined_exif(parts) == (EXIF_PREFIX + body, False)
    (tmp_path / "in.jpg").write_bytes(with_segments(*(segment(0xE1, part) for part in parts)))
    assert through(tmp_path / "in.jpg", tmp_path / "out.jpg") == ()
    assert len(exiftool("-b", "-UserComment", tmp_path / "out.jpg")) == 30_000
    assert exiftool("-s3", "-Artist", tmp_path / "out.jpg").strip() == "Anna"
    assert joined_exif([parts[0], EXIF_PREFIX + b"II*\0another"]) == (parts[0], True), "no continuation"
    assert joined_exif([parts[0], parts[0]]) == (parts[0], False), "the same once more says nothing new"


def test_apples_maker_note_forgets_the_live_picture(tmp_path: Path) -> None:
    entries = [(0x0001, 9, struct.pack(">i", 14)), (0x0011, 2, b"ID\0\0"), (0x0021, 9, struct.pack(">i", 3))]
    note = b"Apple iOS\0\0\1MM" + struct.pack(">H", len(entries))
    note += b"".join(struct.pack(">HHI", tag, kind, 1 if kind == 9 else 3) + value for tag, kind, value in entries)
    exif = Image.Exif()
    exif[0x010F], exif[0x8769] = "Apple", {0x927C: note + bytes(4)}
    Image.new("RGB", (16, 16)).save(tmp_path / "in.jpg", exif=exif)
    notes = through(tmp_path / "in.jpg", tmp_path / "out.jpg")
    assert notes == ("left out: the link to a live picture's video",)
    kept = Image.open(tmp_path / "out.jpg").getexif().get_ifd(0x8769)[0x927C]
    assert kept[14:16] == b"\0\1"
    assert kept[16:28] == struct.pack(">HHIi", 1, 9, 1, 14)
    assert b"ID\0" not in kept[: 16 + 12]


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + packet(""),
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>",
        b"\xff\xff",
        b"",
        packet("", "<dc:a>" * 200 + "</dc:a>" * 200),
        packet("", "<dc:a/>" * 200_000),
        b"<a/>",
    ],
    ids=["entities", "cut off", "no text", "empty", "deep", "many", "no description"],
)
def test_what_is_no_packet_is_named_and_never_expanded(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(XmpError):
        XmpPacket(data)
    if 0 < len(data) < 60_000:
        Image.new("RGB", (16, 16)).save(tmp_path / "in.jpg", xmp=data)
        (note,) = through(tmp_path / "in.jpg", tmp_path / "out.jpg")
        assert "XMP" in note
        assert read_picture(tmp_path / "out.jpg").xmp is None


def test_a_packet_says_the_format_that_it_is_in(tmp_path: Path) -> None:
    picture = Picture(np.zeros((8, 8, 3), np.uint8), xmp=packet('dc:format="image/tiff"'))
    for extension, media_type in ((".png", b"image/png"), (".jpg", b"image/jpeg"), (".tif", b"image/tiff")):
        assert write_picture(picture, tmp_path / f"a{extension}") == ()
        assert b'dc:format="' + media_type in (tmp_path / f"a{extension}").read_bytes()


def gif_with(*extensions: bytes) -> bytes:
    plain = io.BytesIO()
    Image.new("L", (8, 8)).save(plain, "GIF")
    return with_extension(plain.getvalue(), b"".join(extensions))


def in_sub_blocks(name: bytes, content: bytes) -> bytes:
    parts = [content[start : start + 255] for start in range(0, len(content), 255)]
    return b"!\xff\x0b" + name + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def test_the_extensions_of_a_gif() -> None:
    stored = packet('xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="3"') + b" " * 300
    raw = b"!\xff\x0bXMP DataXMP" + stored + b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    for extension in (raw, in_sub_blocks(b"XMP DataXMP", stored)):
        picture = decode_picture(gif_with(extension), "a.gif")
        assert (picture.xmp, picture.notes) == (stored, ())
    assert decode_picture(gif_with(in_sub_blocks(b"ICCRGBG1012", DISPLAY_P3 or b"")), "a.gif").icc_profile == DISPLAY_P3
    (note,) = decode_picture(gif_with(in_sub_blocks(b"MAKERS 1234", b"x")), "a.gif").notes
    assert note == "left out: GIF extensions (MAKERS 1234)"
    (note,) = decode_picture(gif_with(in_sub_blocks(b"C2PA_GIF\1\0\0", b"x")), "a.gif").notes
    assert "C2PA" in note


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize(
    ("further", "words"),
    [
        (box(b"mpvd", bytes(99)), "the video of a motion"),
        (box(b"free", bytes(99)), ""),
        (box(b"uuid", bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + bytes(9)), "C2PA"),
        (box(b"sefd", b"....MotionPhoto_Data"), "the video of a motion"),
        (box(b"abcd", b"x" * 9), "data behind the picture (9 bytes)"),
        (b"no box at all", "data behind the picture (13 bytes)"),
        (struct.pack(">I4sQ", 1, b"mpvd", 116) + bytes(100), "the video of a motion"),
        (struct.pack(">I4s", 0, b"mpvd") + bytes(100), "the video of a motion"),
    ],
)
def test_boxes_beside_an_avif(further: bytes, words: str) -> None:
    data = io.BytesIO()
    Image.new("RGB", (16, 16)).save(data, "AVIF")
    notes = decode_picture(data.getvalue() + further, "a.avif").notes
    assert (words in notes[0]) if words else notes == ()
    assert all("left out" in note for note in notes)


def test_a_packet_that_needs_no_change_stays_to_the_byte() -> None:
    stored = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n' + packet('dc:format="x"')
    stored += b'\n   <?xpacket end="w"?>\0\0'
    picture = Picture(np.zeros((8, 8, 3), np.uint8), xmp=stored)
    assert XmpPacket(stored).to_bytes() == stored
    assert enlarged(picture, 2, 2).xmp == stored
    for encoding in ("utf-16", "utf-32"):
        assert XmpPacket(packet("").decode().encode(encoding)).descriptions()


@pytest.mark.parametrize(("behind", "named"), [(b"", []), (b"more", ["data behind the picture (4 bytes)"])])
def test_the_end_of_a_bmp_of_os2_is_that_of_its_pixels(behind: bytes, named: list[str]) -> None:
    """Its header has 12 bytes and states sizes as 16 bits; some programs leave the file's size at 0."""
    rows = bytes(range(1, 13)) * 2  # 2 rows of 3 pixels of 24 bits, each filled up to 12 bytes
    data = struct.pack("<2sIIIIHHHH", b"BM", 0, 0, 26, 12, 3, 2, 1, 24) + rows + behind
    assert decode_picture(data, "a.bmp").pixels.shape == (2, 3, 3)
    assert attachments(io.BytesIO(data)) == named


@pytest.mark.parametrize("header", [b"\xff" * 80, b"\x0c" + bytes(79), bytes(8), b"\x7f" * 80])
def test_sizes_of_a_bmp_that_make_no_sense_find_nothing(header: bytes) -> None:
    assert attachments(io.BytesIO(b"BM" + struct.pack("<III", 90, 0, 26) + header)) == []
