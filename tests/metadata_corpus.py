"""Small files with metadata in every place, built here; what a result must still say stands beside each of them."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image, PngImagePlugin

from s3diff.images.files.gif_blocks import with_extension, xmp
from s3diff.images.files.png_chunks import PNG_START, chunk

SIZE = (64, 48)
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4">'
    "<dc:subject><rdf:Bag><rdf:li>bird</rdf:li><rdf:li>Tübingen</rdf:li></rdf:Bag></dc:subject>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
XMP_FIELDS: dict[str, object] = {"XMP-xmp:Rating": 4, "XMP-dc:Subject": ["bird", "Tübingen"]}
EXIF_FIELDS: dict[str, object] = {
    "IFD0:Artist": "Anna",
    "IFD0:Copyright": "nobody's",
    "IFD0:HostComputer": "a computer",
    "IFD0:DocumentName": "a document",
    "IFD0:Rating": 3,
    "IFD0:XPTitle": "Titel",
    "IFD0:XPKeywords": "a;b",
    "ExifIFD:DateTimeOriginal": "2024:01:02 03:04:05",
    "ExifIFD:ISO": 400,
    "GPS:GPSLatitudeRef": "N",
}
IPTC_FIELDS: dict[str, object] = {"IPTC:Keywords": ["bird", "Zürich"], "IPTC:City": "Köln"}
#: What a remark says of metadata that a format cannot hold, by the beginning of the field's name.
WORDS = {
    "IFD0": "EXIF",
    "ExifIFD": "EXIF",
    "GPS": "EXIF",
    "XMP": "XMP",
    "IPTC": "IPTC",
    "PNG": "texts",
    "File": "texts",
}


class Case(NamedTuple):
    """A file, and the fields that exiftool must find in a result of the same format."""

    name: str
    extension: str
    content: bytes
    fields: dict[str, object]


def exif(order: str = "II") -> bytes:
    """A block, with its prefix, in that order of bytes."""
    block = Image.Exif()
    block.endian = "<" if order == "II" else ">"
    block[0x013B], block[0x8298], block[0x013C], block[0x010D] = "Anna", "nobody's", "a computer", "a document"
    block[0x4746] = 3
    block[0x9C9B], block[0x9C9E] = "Titel\0".encode("utf-16-le"), "a;b\0".encode("utf-16-le")
    block[0x8769] = {0x9003: "2024:01:02 03:04:05", 0x8827: 400}
    block[0x8825] = {1: "N"}
    return block.tobytes()


def iptc(charset: str = "utf-8") -> bytes:
    """Datasets; UTF-8 is said by 1:90, Latin-1 by its absence."""

    def dataset(record: int, number: int, value: bytes) -> bytes:
        return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value

    coded = dataset(1, 90, b"\x1b%G") if charset == "utf-8" else b""
    coded += dataset(2, 0, b"\0\4")
    for number, text in ((25, "bird"), (25, "Zürich"), (90, "Köln")):
        coded += dataset(2, number, text.encode(charset))
    # Of one file's pixels: 3:20 is its width; 2:202 a preview.
    return coded + dataset(2, 202, b"small picture") + dataset(3, 20, struct.pack(">H", SIZE[0]))


def resource(data: bytes, identifier: int = 0x0404) -> bytes:
    return (
        b"8BIM" + struct.pack(">H", identifier) + b"\0\0" + struct.pack(">I", len(data)) + data + bytes(len(data) % 2)
    )


def image() -> Image.Image:
    return Image.linear_gradient("L").resize(SIZE).convert("RGB")


def saved(format_name: str, **settings: object) -> bytes:
    data = io.BytesIO()
    image().save(data, format_name, **settings)  # type: ignore[arg-type]
    return data.getvalue()


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    plain = saved("JPEG", quality=95)
    parts = [struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload for marker, payload in segments]
    return plain[:2] + b"".join(parts) + plain[2:]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    plain = saved("PNG")
    end = len(PNG_START) + 25
    return plain[:end] + b"".join(chunk(kind, body) for kind, body in chunks) + plain[end:]


def raw_profile(keyword: str, name: str, data: bytes) -> tuple[bytes, bytes]:
    """As ImageMagick writes it: digits in lines of 72."""
    digits = data.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    return b"tEXt", f"Raw profile type {keyword}\0\n{name}\n{len(data):8d}\n{lines}\n".encode("latin-1")


def tiff(tags: dict[int, object], **settings: object) -> bytes:
    return saved("TIFF", tiffinfo=tags, **settings)


def long_tag(data: bytes) -> bytes:
    """A TIFF whose IPTC is called whole numbers of four bytes, as old programs do."""
    padded = data + bytes(-len(data) % 4)
    stored = tiff({0x83BB: padded})
    entry = struct.pack("<HHI", 0x83BB, 7, len(padded))
    assert stored.count(entry) == 1
    return stored.replace(entry, struct.pack("<HHI", 0x83BB, 4, len(padded) // 4))


def _of_exif() -> Iterator[Case]:
    formats = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".avif": "AVIF"}
    for order in ("II", "MM"):
        for extension, name in formats.items():
            yield Case(f"EXIF {order}", extension, saved(name, exif=exif(order)), EXIF_FIELDS)
        block = Image.Exif()
        block.load(exif(order))
        yield Case(f"EXIF {order}", ".tif", saved("TIFF", exif=block), EXIF_FIELDS)
    yield Case("EXIF in a raw profile", ".png", png(raw_profile("exif", "exif", exif())), EXIF_FIELDS)
    yield Case("EXIF in a raw profile APP1", ".png", png(raw_profile("APP1", "generic", exif())), EXIF_FIELDS)
    yield Case("EXIF behind the pixels", ".png", _behind_pixels((b"eXIf", exif()[6:])), EXIF_FIELDS)


def _behind_pixels(*chunks: tuple[bytes, bytes]) -> bytes:
    plain = saved("PNG")
    return plain[:-12] + b"".join(chunk(kind, body) for kind, body in chunks) + plain[-12:]


def _of_xmp() -> Iterator[Case]:
    packet = XMP.encode()
    prefix = b"http://ns.adobe.com/xap/1.0/\0"
    itxt = b"XML:com.adobe.xmp\0\0\0\0\0" + packet
    wrapped = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>' + packet + b'<?xpacket end="w"?>'
    yield Case("XMP", ".jpg", jpeg((0xE1, prefix + packet)), XMP_FIELDS)
    yield Case("XMP in a wrapper", ".jpg", jpeg((0xE1, prefix + wrapped)), XMP_FIELDS)
    yield Case("XMP with byte order mark", ".jpg", jpeg((0xE1, prefix + b"\xef\xbb\xbf" + packet)), XMP_FIELDS)
    yield Case("XMP", ".png", png((b"iTXt", itxt)), XMP_FIELDS)
    yield Case("XMP behind the pixels", ".png", _behind_pixels((b"iTXt", itxt)), XMP_FIELDS)
    yield Case("XMP in a raw profile", ".png", png(raw_profile("xmp", "xmp", packet)), XMP_FIELDS)
    yield Case("XMP in a raw profile APP1", ".png", png(raw_profile("APP1", "generic", prefix + packet)), XMP_FIELDS)
    for extension, name in {".webp": "WEBP", ".avif": "AVIF"}.items():
        yield Case("XMP", extension, saved(name, xmp=packet), XMP_FIELDS)
    yield Case("XMP", ".tif", tiff({0x02BC: packet}), XMP_FIELDS)
    yield Case("XMP", ".gif", with_extension(saved("GIF"), xmp(packet)), XMP_FIELDS)


def _of_iptc() -> Iterator[Case]:
    for charset in ("utf-8", "latin-1"):
        data = iptc(charset)
        start = b"Photoshop 3.0\0"
        yield Case(f"IPTC {charset}", ".jpg", jpeg((0xED, start + resource(data))), IPTC_FIELDS)
        yield Case(f"IPTC 0x83BB {charset}", ".tif", tiff({0x83BB: data}), IPTC_FIELDS)
        yield Case(f"IPTC 0x83BB as LONG {charset}", ".tif", long_tag(data), IPTC_FIELDS)
        yield Case(f"IPTC 0x8649 {charset}", ".tif", tiff({0x8649: resource(data)}), IPTC_FIELDS)
        yield Case(
            f"IPTC in a raw profile {charset}", ".png", png(raw_profile("iptc", "iptc", resource(data))), IPTC_FIELDS
        )
        by_exiftool = raw_profile("iptc", "IPTC profile", resource(data))
        yield Case(f"IPTC in a raw profile by exiftool {charset}", ".png", png(by_exiftool), IPTC_FIELDS)
        yield Case(f"IPTC in 8bim {charset}", ".png", png(raw_profile("8bim", "8bim", resource(data))), IPTC_FIELDS)
    whole = (
        resource(bytes(10), 0x03ED) + resource(iptc()) + resource(b"\1", 0x040A) + resource(b"http://a.example", 0x040B)
    )
    cut = len(whole) // 2
    more = IPTC_FIELDS | {"Photoshop:CopyrightFlag": 1, "Photoshop:URL": "http://a.example"}
    yield Case("IPTC among others", ".jpg", jpeg((0xED, start + whole)), more)
    yield Case("IPTC in two segments", ".jpg", jpeg((0xED, start + whole[:cut]), (0xED, start + whole[cut:])), more)


def _of_texts() -> Iterator[Case]:
    texts = {"Title": "a title", "Author": "Zoë", "parameters": "a cat, steps: 20\nNegative prompt: dog"}
    fields: dict[str, object] = {"PNG:Title": "a title", "PNG:Author": "Zoë", "PNG:Parameters": texts["parameters"]}
    for name, settings in {"tEXt": {}, "zTXt": {"zip": True}}.items():
        info = PngImagePlugin.PngInfo()
        for keyword, text in texts.items():
            info.add_text(keyword, text, **settings)
        yield Case(f"texts in {name}", ".png", saved("PNG", pnginfo=info), fields)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Title", "заголовок", "ru", "Название")
    yield Case("a text in a language", ".png", saved("PNG", pnginfo=info), {"PNG:Title-ru": "заголовок"})
    long_text = "word " * 3000
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", long_text)
    yield Case("a long text", ".png", saved("PNG", pnginfo=info), {"PNG:Prompt": long_text})
    for name, comment in {"a comment": "Grüße".encode(), "a comment in Latin-1": "Grüße".encode("latin-1")}.items():
        yield Case(name, ".jpg", jpeg((0xFE, comment)), {"File:Comment": "Grüße"})
    yield Case("two comments", ".jpg", jpeg((0xFE, b"one"), (0xFE, b"two")), {"File:Comment": "one\ntwo"})
    yield Case("a comment", ".gif", saved("GIF", comment=b"a comment " * 40), {"File:Comment": "a comment " * 40})


CORPUS = (*_of_exif(), *_of_xmp(), *_of_iptc(), *_of_texts())
