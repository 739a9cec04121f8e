"""Separate PNG texts from metadata of another kind that is written out in digits. No Pillow here."""

from __future__ import annotations

import re
from typing import NamedTuple

from s3diff.images.files.exif_block import EXIF_PREFIX
from s3diff.images.files.iptc import resources_of
from s3diff.images.picture import Text

XMP_KEYWORD = "XML:com.adobe.xmp"
_PROFILE_KEYWORD = "Raw profile type "
#: Profiles in texts, as ImageMagick writes them: a name (exiftool: two words), the number of bytes, hexadecimal digits.
_PROFILE = re.compile(r"\s*(\S[^\n]{0,78}?)\s+([0-9]{1,10})\s+([0-9a-fA-F\s]*)\s*")
_LINE_DIGITS = 72
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


def sorted_texts(texts: list[Text]) -> PngTexts:
    """Separate profiles from texts."""
    found: dict[str, bytes] = {}
    plain, lost = [], []
    for text in texts:
        if text.keyword == XMP_KEYWORD:
            found["xmp"] = text.text.encode("utf-8", "surrogateescape")
        elif text.keyword.startswith(_PROFILE_KEYWORD):
            name = text.keyword[len(_PROFILE_KEYWORD) :].lower()
            data = _profile_bytes(text.text)
            if data is None:
                lost.append(f"the {name} profile in a text of the PNG, which is damaged,")
            elif data.startswith(EXIF_PREFIX) or (name == "exif" and data.startswith((b"II*\0", b"MM\0*"))):
                found.setdefault("exif", EXIF_PREFIX + data.removeprefix(EXIF_PREFIX))
            elif data.startswith(_XMP_PREFIX) or name == "xmp":
                found.setdefault("xmp", data.removeprefix(_XMP_PREFIX))
            elif name in ("iptc", "8bim"):
                resources = data if data.startswith(b"8BIM") else resources_of(data)
                found.setdefault("iptc", resources or b"")
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
