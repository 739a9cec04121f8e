"""Separate PNG texts from metadata of another kind that is written out in digits. No Pillow here."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from s3diff.images.files.exif_block import EXIF_PREFIX
from s3diff.images.files.iptc import resources_of
from s3diff.images.picture import Text

XMP_KEYWORD = "XML:com.adobe.xmp"
_PROFILE_KEYWORD = "Raw profile type "
#: Profiles in texts, as ImageMagick writes them: a name (exiftool: two words), the number of bytes, hexadecimal digits.
_PROFILE = re.compile(r"\s*(\S[^\n]{0,78}?)\s+([0-9]{1,10})\s+([0-9a-fA-F\s]*)\s*")
_LINE_DIGITS = 72
#: What Pillow allows of a text, and refuses a picture for; so many bytes of all texts of a file.
_LARGEST_TEXT_BYTES, _LARGEST_TEXTS_BYTES = 1 << 20, 1 << 26
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
#: Keywords about one file's size and thumbnail, as ImageMagick and file managers write them.
_OF_ONE_FILE = re.compile(
    r"Thumb::.*|exif:(?:thumbnail:.*|Orientation|(?:Exif)?Image(?:Width|Length)|Pixel[XY]Dimension)|png:.*"
)


class PngTexts(NamedTuple):
    """Hold the contents of PNG's texts.

    Attributes:
        exif: an EXIF block with its prefix.
        xmp: a packet.
        iptc: image resources of Photoshop.
        texts: the other texts.
        lost: titles of profiles that cannot be read.
    """

    exif: bytes | None
    xmp: bytes | None
    iptc: bytes | None
    texts: tuple[Text, ...]
    lost: tuple[str, ...]


def decoded_texts(chunks: Iterable[tuple[bytes, bytes]]) -> tuple[list[Text], list[str]]:
    """Decode chunks of texts: every one, also where several have one keyword.

    Args:
        chunks: kind and body of tEXt, zTXt and iTXt (PNG specification, section 11.3.3).

    Returns:
        The texts, and the titles of what cannot be decoded.
    """
    texts, lost, num_bytes = [], [], 0
    for kind, body in chunks:
        keyword, _, rest = body.partition(b"\0")
        name = keyword.decode("latin-1")
        try:
            text = _decoded(kind, name, rest)
        except (UnicodeError, ValueError, zlib.error):
            lost.append(f"the text {name!r} of the PNG (damaged)")
            continue
        num_bytes += len(text.text)
        if num_bytes > _LARGEST_TEXTS_BYTES:  # Pillow refuses the picture
            break
        texts.append(text)
    return texts, lost


def _decoded(kind: bytes, keyword: str, rest: bytes) -> Text:
    if kind == b"tEXt":
        return Text(keyword, rest.decode("latin-1"))
    if kind == b"zTXt":
        return Text(keyword, _decompressed(rest[:1], rest[1:]).decode("latin-1"))
    language, translated, data = rest[2:].split(b"\0", 2)
    data = _decompressed(rest[1:2], data) if rest[0] else data
    # A packet in another coding than UTF-8 stays as it is stored.
    text = data.decode("utf-8", "surrogateescape" if keyword == XMP_KEYWORD else "strict")
    return Text(keyword, text, language.decode("latin-1"), translated.decode())


def _decompressed(method: bytes, data: bytes) -> bytes:
    if method != b"\0":
        raise ValueError
    stream = zlib.decompressobj()
    found = stream.decompress(data, _LARGEST_TEXT_BYTES)
    if not stream.eof:
        raise ValueError
    return found


def sorted_texts(texts: Iterable[Text]) -> PngTexts:
    """Separate profiles from texts."""
    found: dict[str, bytes] = {}
    plain, lost = [], []

    def take(kind: str, data: bytes) -> None:
        if found.setdefault(kind, data) != data:
            lost.append(f"a second block of {kind.upper()} in a text of the PNG")

    for text in sorted(texts, key=lambda each: each.keyword != XMP_KEYWORD):  # the packet's own place is stronger
        if text.keyword == XMP_KEYWORD:
            take("xmp", text.text.encode("utf-8", "surrogateescape"))
        elif text.keyword.startswith(_PROFILE_KEYWORD):
            name = text.keyword[len(_PROFILE_KEYWORD) :].lower()
            data = _profile_bytes(text.text)
            if data is None:
                lost.append(f"the {name} profile in a text of the PNG (damaged)")
            elif data.startswith(EXIF_PREFIX) or (name == "exif" and data.startswith((b"II*\0", b"MM\0*"))):
                take("exif", EXIF_PREFIX + data.removeprefix(EXIF_PREFIX))
            elif data.startswith(_XMP_PREFIX) or name == "xmp":
                take("xmp", data.removeprefix(_XMP_PREFIX))
            elif name in ("iptc", "8bim"):
                resources = data if data.startswith(b"8BIM") else resources_of(data)
                take("iptc", resources or b"")
            elif name not in ("icc", "icm"):  # read elsewhere, with the colours
                lost.append(f"the {name} profile in a text of the PNG")
        elif not _OF_ONE_FILE.fullmatch(text.keyword):
            plain.append(text)
    return PngTexts(found.get("exif"), found.get("xmp"), found.get("iptc"), tuple(plain), tuple(lost))


def iptc_text(resources: bytes) -> Text:
    """Return image resources as the text that ImageMagick and exiftool read."""
    digits = resources.hex()
    lines = [digits[start : start + _LINE_DIGITS] for start in range(0, len(digits), _LINE_DIGITS)]
    return Text(f"{_PROFILE_KEYWORD}iptc", "\n".join(["", "iptc", f"{len(resources):8d}", *lines, ""]))


def _profile_bytes(text: str) -> bytes | None:
    match = _PROFILE.fullmatch(text)
    if match is None:
        return None
    digits = "".join(match[3].split())
    if len(digits) != 2 * int(match[2]):
        return None
    return bytes.fromhex(digits)
