"""Random metadata: carried or named, never a crash, never a field that exiftool calls invalid in the result."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from metadata_corpus import jpeg, resource
from metadata_probes import EMPTY_PACKET, enlarged, exiftool, needs_exiftool
from s3diff.images.files.coordinate_fields import FIELDS, NAMESPACES
from s3diff.images.files.coordinates import COUNTS, Transform
from s3diff.images.files.dropped_contents import attachments, drop_claims
from s3diff.images.files.exif_block import EXIF_PREFIX
from s3diff.images.files.metadata import _CLAIM_NAMES, _NAMES, follow_exif, follow_xmp
from s3diff.images.files.reading import decode_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.files.xmp_packet import XmpPacket, is_plain_packet

TRANSFORMS = st.builds(
    Transform,
    st.tuples(st.integers(1, 70_000), st.integers(1, 70_000)).map(lambda size: (float(size[0]), float(size[1]))),
    st.integers(1, 8),
    size=st.none() | st.tuples(st.integers(1, 300_000), st.integers(1, 300_000)),
)
#: Types of entries: BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL; their bytes.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8}
TAGS = [name for field in FIELDS if field.is_exif for name in field.names] + [0x013B, 0x9286, 0x927C]
XMP_NAMES = [(field.place, str(name)) for field in FIELDS if not field.is_exif for name in field.names]
NUMBERS = st.one_of(
    st.integers(-9, 99_999).map(str),
    st.floats(-2, 2, allow_nan=False).map(lambda value: f"{value:.6f}"),
    st.sampled_from(["", "1/0", "300/1", "nan", "1e400", "left", "0.1, 0.2, 0.3, 0.4", "1 2", "0"]),
)


@st.composite
def directory(draw: st.DrawFn) -> list[tuple[int, int, int, bytes]]:
    """Entries (tag, type, count, content) of one directory, in order."""
    tags = sorted(draw(st.lists(st.sampled_from(TAGS), max_size=8, unique=True)))
    entries = []
    for tag in tags:
        kind, count = draw(st.sampled_from(sorted(SIZES))), draw(st.integers(1, 5))
        entries.append((tag, kind, count, draw(st.binary(min_size=count * SIZES[kind], max_size=count * SIZES[kind]))))
    return entries


@st.composite
def exif_blocks(draw: st.DrawFn) -> bytes:
    """Valid blocks of three directories in either order of bytes, with random entries and values."""
    order = draw(st.sampled_from("<>"))
    body = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8))

    def write(entries: list[tuple[int, int, int, bytes]], link: int) -> None:
        start = len(body)
        body.extend(
            struct.pack(order + "H", len(entries) + (1 if link else 0)) + bytes(12 * (len(entries) + bool(link)) + 4)
        )
        for index, (tag, kind, count, content) in enumerate(entries):
            if len(content) > 4:
                body.extend(bytes(len(body) % 2))
                place = struct.pack(order + "I", len(body))
                body.extend(content)
            else:
                place = content.ljust(4, b"\0")
            struct.pack_into(order + "HHI4s", body, start + 2 + 12 * index, tag, kind, count, place)
        if link:
            body.extend(bytes(len(body) % 2))
            at = start + 2 + 12 * len(entries)
            struct.pack_into(order + "HHII", body, at, link, 4, 1, len(body))

    write([entry for entry in draw(directory()) if entry[0] < 0x8769], 0x8769)
    write([entry for entry in draw(directory()) if 0x8769 < entry[0] < 0xA005 or entry[0] == 0x9286], 0xA005)
    write([entry for entry in draw(directory()) if entry[0] in (0x1001, 0x1002)], 0)
    return EXIF_PREFIX + bytes(body)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Packets of random fields, as attributes, elements or items of lists."""
    attributes, elements = {}, []
    for prefix, name in draw(st.lists(st.sampled_from(XMP_NAMES), max_size=12, unique=True)):
        text = draw(NUMBERS)
        form = draw(st.sampled_from(["attribute", "element", "list", "structure"]))
        if form == "attribute":
            attributes[f"{prefix}:{name}"] = text
        elif form == "element":
            elements.append(f"<{prefix}:{name}>{text}</{prefix}:{name}>")
        elif form == "list":
            items = "".join(f"<rdf:li>{each}</rdf:li>" for each in draw(st.lists(NUMBERS, max_size=4)))
            elements.append(f"<{prefix}:{name}><rdf:Seq>{items}</rdf:Seq></{prefix}:{name}>")
        else:
            inner = f"<{prefix}:{name}>{text}</{prefix}:{name}>"
            elements.append(
                f'<mwg-rs:R><rdf:Bag><rdf:li rdf:parseType="Resource">{inner}</rdf:li></rdf:Bag></mwg-rs:R>'
            )
    declared = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items() if prefix != "rdf")
    said = " ".join(f'{name}="{text}"' for name, text in attributes.items())
    start = EMPTY_PACKET.decode().replace('rdf:about=""/>', f'rdf:about="" {declared} {said}>')
    return start.replace("</rdf:RDF>", "".join(elements) + "</rdf:Description></rdf:RDF>").encode()


def iptc_blocks() -> st.SearchStrategy[bytes]:
    datasets = st.tuples(st.integers(0, 9), st.integers(0, 255), st.binary(max_size=20))
    return st.lists(datasets, max_size=6).map(
        lambda found: b"".join(struct.pack(">BBBH", 0x1C, *each[:2], len(each[2])) + each[2] for each in found)
    )


@given(block=exif_blocks() | st.binary(max_size=200).map(EXIF_PREFIX.__add__), transform=TRANSFORMS)
@settings(max_examples=200, deadline=None)
def test_any_exif_block_follows_or_loses_a_named_field(block: bytes, transform: Transform) -> None:
    moved, lost = follow_exif(block, transform)
    assert moved.startswith(EXIF_PREFIX)
    assert all(isinstance(title, str) for title in lost)
    again, more = follow_exif(moved, Transform(transform.result))
    assert again[: len(moved)] == moved[: len(again)] or more, "done once, nothing is left to do"


@given(data=packets(), transform=TRANSFORMS)
@settings(max_examples=200, deadline=None)
def test_any_packet_follows_or_loses_a_named_field(data: bytes, transform: Transform) -> None:
    packet = XmpPacket(data)
    lost = follow_xmp(packet, transform)
    written = packet.to_bytes()
    back = XmpPacket(written)
    before = sum(len(XmpPacket(data).names(element)) for element in XmpPacket(data).elements())
    after = sum(len(back.names(element)) for element in back.elements())
    assert (after < before) == bool(lost), "what is gone is named, and only that"


@given(data=packets(), prefix=st.sampled_from(["", "<?xpacket begin=''?>", "\ufeff"]))
@settings(max_examples=200, deadline=None)
@example(data=EMPTY_PACKET, prefix="")
def test_packets_without_a_tree_are_those_that_stay(data: bytes, prefix: str) -> None:
    """The fast way beside the readable one."""
    stored = prefix.encode() + data
    if is_plain_packet(stored, _CLAIM_NAMES):
        packet = XmpPacket(stored)
        assert drop_claims(packet) == []
        assert packet.to_bytes() == stored
    if is_plain_packet(stored, _NAMES):
        packet = XmpPacket(stored)
        assert drop_claims(packet) == []
        assert follow_xmp(packet, Transform((20, 10), 6, size=(30, 40))) == []
        assert packet.to_bytes() == stored
    else:
        assert data != EMPTY_PACKET
        assert not is_plain_packet(data, _NAMES)


@given(field=st.sampled_from(FIELDS), values=st.lists(st.floats(-1e6, 1e6), max_size=7), transform=TRANSFORMS)
@settings(max_examples=300, deadline=None)
def test_functions_keep_the_count_of_numbers(field: object, values: list[float], transform: Transform) -> None:
    moved = field.moved(tuple(values), transform)  # type: ignore[attr-defined]
    counts = COUNTS.get(field.follow)  # type: ignore[attr-defined]
    if moved is not None:
        assert len(moved) == len(values)
        assert counts is None or len(values) in counts


@given(
    data=st.binary(max_size=300),
    start=st.sampled_from([b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"RIFF....WEBP"]),
)
@settings(max_examples=200, deadline=None)
@example(data=b"\0\x20MPF\0MM\0*\0\0\0\x08", start=b"\xff\xd8\xff\xe2")
def test_any_bytes_are_looked_at(data: bytes, start: bytes) -> None:
    assert all(attachments(io.BytesIO(start + data)))


#: Groups of exiftool whose fields a result has, or a remark names; fields about the bytes of one file.
CARRIED = ("IFD0:", "ExifIFD:", "InteropIFD:", "XMP-", "IPTC:")
OF_ONE_FILE = {"IFD0:ExifOffset", "ExifIFD:InteropOffset"}
WORDS_OF_LOSS = {
    "IFD0": ("EXIF", "cannot follow", "TIFF tags"), "ExifIFD": ("EXIF", "cannot follow"),
    "InteropIFD": ("EXIF", "cannot follow"), "XMP": ("XMP", "cannot follow"), "IPTC": ("IPTC",),
}  # fmt: skip
CASES = st.tuples(
    exif_blocks(), packets(), iptc_blocks(), st.integers(1, 3), st.sampled_from(["jpg", "png", "tif", "webp"])
)


@needs_exiftool
def test_random_files_give_valid_results(tmp_path: Path) -> None:
    """60 files of random metadata: exiftool finds no new fault, and each field of the picture, or a remark."""
    made: list[tuple[Path, Path, tuple[str, ...]]] = []

    @given(case=CASES)
    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    def make(case: tuple[bytes, bytes, bytes, int, str]) -> None:
        exif, xmp, iptc, scale, extension = case
        index = len(made)
        content = jpeg(
            (0xE1, exif),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp),
            (0xED, b"Photoshop 3.0\0" + resource(iptc)),
        )
        source, target = tmp_path / f"{index}-in.jpg", tmp_path / f"{index}-out.{extension}"
        source.write_bytes(content)
        picture = decode_picture(content, "a")
        notes = write_picture(enlarged(picture, scale, scale), target)
        assert Image.open(target).size[0] > 0
        made.append((source, target, (*picture.notes, *notes)))

    make()
    found = {each["SourceFile"]: each for each in json.loads(exiftool("-j", "-n", "-G1", "-a", "-validate", tmp_path))}
    for source, target, notes in made:
        complaints = [
            {str(value) for name, value in found[str(path)].items() if name in ("ExifTool:Warning", "ExifTool:Error")}
            for path in (source, target)
        ]
        assert complaints[1] <= complaints[0], (source.name, complaints)
        names = [{name for name in found[str(path)] if name.startswith(CARRIED)} for path in (source, target)]
        for group in {name.split(":")[0] for name in names[0] - names[1] if name not in OF_ONE_FILE}:
            words = WORDS_OF_LOSS[group.split("-")[0]]
            assert any(word in note for word in words for note in notes), (source.name, names[0] - names[1], notes)
