"""Find the contents of a file besides its picture, and XMP claims about them: a result has none of them, and says so.

Gain maps, videos of motion pictures, depth, further pictures, content credentials. No Pillow here.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from s3diff.images.files import gif_blocks, iso_boxes
from s3diff.images.files.exif_block import EXIF_PREFIX, ExifBlock
from s3diff.images.files.jpeg_segments import (
    END_OF_IMAGE,
    IPTC_STARTS,
    OLD_PHOTOSHOP_PREFIX,
    PHOTOSHOP_PREFIX,
    segments,
)
from s3diff.images.files.png_chunks import PNG_START
from s3diff.images.files.xmp_packet import XMP_NOTE, XmpPacket

GAIN_MAP = "the gain map (HDR)"
VIDEO = "the video of a motion or live picture"
DEPTH = "the depth map"
SOUND = "the sound"
CREDENTIALS = "the Content Credentials (C2PA; they hold for the file's own bytes)"
_FURTHER = "a further picture"
#: Claims about the file's own bytes that need no remark: thumbnails, merged parts.
_SILENT = ""


class _Claim(NamedTuple):
    """Describe XMP properties by the beginnings of their namespace and name, and their subject."""

    namespace: str
    name: str
    kind: str


_CONTAINER = "http://ns.google.com/photos/1.0/container/"
_ITEM = "http://ns.google.com/photos/1.0/container/item/"
_CLAIMS = (
    _Claim("http://ns.adobe.com/hdr-gain-map/1.0/", "", GAIN_MAP),
    _Claim("http://ns.apple.com/HDRGainMap/1.0/", "", GAIN_MAP),
    _Claim("http://ns.apple.com/depthData/1.0/", "", DEPTH),
    _Claim("http://ns.apple.com/portraitEffectsMatte/1.0/", "", DEPTH),
    _Claim("http://ns.apple.com/semanticSegmentationMatte/1.0/", "", DEPTH),
    _Claim("http://ns.google.com/photos/1.0/camera/", "MotionPhoto", VIDEO),
    _Claim("http://ns.google.com/photos/1.0/camera/", "MicroVideo", VIDEO),
    _Claim("http://ns.oplus.com/photos/1.0/camera/", "MotionPhoto", VIDEO),
    _Claim("http://ns.oplus.com/photos/1.0/camera/", "OLivePhoto", VIDEO),
    _Claim("http://ns.oplus.com/photos/1.0/camera/", "VideoLength", VIDEO),
    _Claim("http://ns.xiaomi.com/photos/1.0/camera/", "", "data of Xiaomi's camera"),
    _Claim("http://ns.google.com/photos/1.0/depthmap/", "", DEPTH),
    _Claim("http://ns.google.com/photos/dd/1.0/", "", DEPTH),
    _Claim("http://ns.google.com/photos/1.0/image/", "", _FURTHER),
    _Claim("http://ns.google.com/photos/1.0/audio/", "", SOUND),
    _Claim(_CONTAINER, "", _SILENT),  # its items are checked one by one
    _Claim("http://ns.apple.com/pixeldatainfo/1.0/", "", _SILENT),
    _Claim("http://purl.org/dc/terms/", "provenance", CREDENTIALS),
    _Claim("http://ns.adobe.com/xap/1.0/", "Thumbnails", _SILENT),
    _Claim("http://ns.adobe.com/tiff/1.0/", "NativeDigest", _SILENT),
    _Claim("http://ns.adobe.com/exif/1.0/", "NativeDigest", _SILENT),
    _Claim(XMP_NOTE, "HasExtendedXMP", _SILENT),
)
#: Google's container: the meaning of an item.
_SEMANTICS = {"GainMap": GAIN_MAP, "MotionPhoto": VIDEO, "Depth": DEPTH, "DepthMap": DEPTH, "Confidence": DEPTH}
#: Entries of Apple's maker note: the names of a live picture and of its video, what applies the gain map.
_APPLE_HEADER = b"Apple iOS\0\0\1"
_LIVE = "the link to a live picture's video"
_APPLE_TAGS = {0x0011: _LIVE, 0x0017: _LIVE, 0x0021: _SILENT, 0x0030: _SILENT}
_MAKER_NOTE = 0x927C
#: Words that reveal a kind in bytes that no decoder here understands.
_SIGNS = (
    (re.compile(rb"hdr-gain-map|HDRGainMap|hdrgainmap|urn:iso:std:iso:ts:21496"), GAIN_MAP),
    (re.compile(rb"ftyp(?:mp4|isom|qt  |M4V|iso[2-9]|3gp|avc1)|MotionPhoto_(?:Data|Video)"), VIDEO),
    (re.compile(rb"aux:(?:depth|disparity)|[Dd]epth_?[Mm]ap|portraiteffectsmatte|mpeg:hevc:2015:auxid:2|"
                rb"mpegB:cicp:systems:auxiliary:depth"), DEPTH),
    (re.compile(rb"SoundShot|Audio_Data"), SOUND),
)  # fmt: skip
#: JPEG segments that are read, or concern only this file's pixels, by the beginning of their content.
_KNOWN_SEGMENTS = (
    (0xE0, b"JFIF\0"), (0xE0, b"JFXX\0"), (0xE1, b"Exif\0"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    (0xE1, b"http://ns.adobe.com/xmp/extension/\0"), (0xE2, b"ICC_PROFILE\0"), (0xE2, b"MPF\0"),
    (0xE2, b"urn:iso:std:iso:ts:21496:-1"), (0xEC, b"Ducky"), (0xEE, b"Adobe"),
    *((0xED, start) for start in (PHOTOSHOP_PREFIX, OLD_PHOTOSHOP_PREFIX, *IPTC_STARTS)),
)  # fmt: skip
_APP2, _APP11 = 0xE2, 0xEB
_MP_ENTRIES, _MP_ENTRY_BYTES, _MP_PREVIEWS = 0xB002, 16, (0x010001, 0x010002)
#: Chunks of PNG that are read, or concern only how this file stores its pixels. All others are named.
_KNOWN_CHUNKS = {
    "IHDR", "PLTE", "IDAT", "IEND", "tRNS", "cHRM", "gAMA", "iCCP", "sRGB", "cICP", "pHYs", "eXIf", "tEXt", "zTXt",
    "iTXt", "acTL", "fcTL", "fdAT", "iDOT",
}  # fmt: skip
#: What other chunks mean, as they are registered; of ImageMagick the last three.
_CHUNK_TITLES = {
    "tIME": "time of the last change", "bKGD": "background colour", "sBIT": "significant bits",
    "hIST": "histogram of the palette", "sPLT": "suggested palette", "mDCV": "mastering display",
    "cLLI": "light level", "oFFs": "offset", "pCAL": "calibration of the values", "sCAL": "size of the subject",
    "sTER": "stereo layout", "gIFg": "control of a GIF", "gIFx": "data of a GIF", "fRAc": "fractal",
    "dSIG": "signature", "vpAg": "virtual page", "caNv": "canvas", "orNT": "orientation",
}  # fmt: skip
_CREDENTIALS_CHUNKS, _GAIN_MAP_CHUNKS = {"caBX", "C2PA"}, {"gmAP", "gdAT"}
_KNOWN_WEBP_CHUNKS = {"VP8 ", "VP8L", "VP8X", "ALPH", "ANIM", "ANMF", "ICCP", "EXIF", "XMP "}
#: Of these the first one is read.
_SINGLE_CHUNKS = {"ICCP", "EXIF", "XMP ", "iCCP"}
#: Brand and type of a picture that a gain map makes HDR (ISO 23008-12, amendment 1).
_TONE_MAPPED = b"tmap"
#: Extensions of GIF that are read, or concern only this file's frames.
_KNOWN_EXTENSIONS = {gif_blocks.XMP, gif_blocks.PROFILE, b"NETSCAPE2.0", b"ANIMEXTS1.0"}
_GIF_CREDENTIALS = b"C2PA_GIF"
#: Boxes of HEIC and AVIF that are read, or hold nothing; a box of ``uuid`` with the manifests of C2PA.
_KNOWN_BOXES = {b"ftyp", b"meta", b"mdat", b"free", b"skip", b"wide", b"pdin", b"idat", b"styp"}
_C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
#: Lengths of the headers of BMP: of OS/2, which states sizes otherwise, and of version 5; kinds of compression.
_OLD_BMP_HEADER_BYTES, _BMP_WITH_PROFILE_BYTES, _RUN_LENGTHS = 12, 124, (1, 2)
_BEYOND_ANY_FILE = 1 << 48
_ANIMATED_BRAND, _BRANDS_BYTES, _SEQUENCE = b"avis", 64, "the sequence of pictures"
#: Bytes that contain the properties of HEIC and AVIF, which precede the pictures' data.
_HEIF_HEAD_BYTES = 1 << 16


def left_out_note(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return a remark that names omissions; none if there are none."""
    titles = list(dict.fromkeys(kind for kind in kinds if kind))
    return (f"left out: {', '.join(titles)}",) if titles else ()


def mentions_of_claims() -> set[str]:
    """Return the name of every claim, or its beginning; the namespace if it has no other names."""
    return {claim.name or claim.namespace for claim in _CLAIMS}


def drop_claims(packet: XmpPacket) -> list[str]:
    """Remove properties about contents that a result does not have; return their subjects."""
    found = [(element, *name) for element in packet.elements() for name in packet.names(element)]
    kinds = [
        _SEMANTICS.get(text, _SILENT)
        for element, namespace, name in found
        if (namespace, name) == (_ITEM, "Semantic")
        for text in packet.get(element, namespace, name) or []
    ]
    for element, namespace, name in found:
        for claim in _CLAIMS:
            if namespace.startswith(claim.namespace) and name.startswith(claim.name):
                kinds.append(claim.kind)
                packet.remove(element, namespace, name)
                break
    packet.undeclare(tuple(claim.namespace for claim in _CLAIMS if not claim.name))
    return kinds


def drop_exif_claims(exif: bytes) -> tuple[bytes, list[str]]:
    """Remove entries about further files from Apple's maker note; return the block and their subjects."""
    block = ExifBlock(exif)
    found = block.bytes_of("ExifIFD", _MAKER_NOTE)
    if found is None or not exif.startswith(_APPLE_HEADER, found[0]):
        return exif, []
    note = ExifBlock(block.data, start=found[0], first=len(_APPLE_HEADER) + 2, order=">")
    kinds = [kind for tag, kind in _APPLE_TAGS.items() if note.remove("IFD0", tag)]
    return bytes(block.data), kinds


def attachments(file: BinaryIO) -> list[str]:
    """Return the kinds of an opened file's contents besides the picture and the metadata that is read, for a remark."""
    file.seek(0)
    head = file.read(_HEIF_HEAD_BYTES)
    if head.startswith(b"\xff\xd8\xff"):
        return _beside_jpeg(head + file.read())
    if head.startswith(PNG_START):
        return _beside_chunks("PNG", _png_chunks(file), _KNOWN_CHUNKS) + _behind(file)
    if head.startswith(b"RIFF"):
        return _beside_chunks("WebP", _webp_chunks(file), _KNOWN_WEBP_CHUNKS) + _behind(file)
    if head[4:8] == b"ftyp":
        return _signs_in(head) + ([GAIN_MAP] if _TONE_MAPPED in head else []) + _beside_boxes(file, head)
    if head.startswith(b"GIF8"):
        return _beside_gif(gif_blocks.applications(file)) + gif_blocks.unread(file) + _behind(file)
    if head.startswith(b"BM"):
        file.seek(_end_of_bmp(head))
        return _behind(file)
    return []


def _behind(file: BinaryIO) -> list[str]:
    """Find contents behind the end of a file's structure, at which the opened file stands."""
    data, place = file.read(_HEIF_HEAD_BYTES), file.tell()
    num_bytes = len(data) + file.seek(0, os.SEEK_END) - place
    return _named_data(data, num_bytes)


def _named_data(data: bytes, num_bytes: int) -> list[str]:
    """Name data behind a picture by its beginning; none for padding."""
    if not data.strip(b"\0\xff \t\r\n"):
        return []
    return _signs_in(data) or [f"data behind the picture ({num_bytes} bytes)"]


def _end_of_bmp(head: bytes) -> int:
    """Return the end of a BMP: the largest of the header's statement, the end of the pixels and that of the profile."""
    ends = [0]
    with suppress(struct.error):
        ends.append(struct.unpack_from("<I", head, 2)[0])
        pixels, header_bytes = struct.unpack_from("<II", head, 10)
        if header_bytes == _OLD_BMP_HEADER_BYTES:
            width, height, _, bits = struct.unpack_from("<HHHH", head, 18)
            compression, num_bytes = 0, 0
        else:
            width, height, _, bits, compression, num_bytes = struct.unpack_from("<iiHHII", head, 18)
        of_rows = (width * bits + 31) // 32 * 4 * abs(height)
        ends.append(pixels + (num_bytes if compression in _RUN_LENGTHS else of_rows))
        if header_bytes >= _BMP_WITH_PROFILE_BYTES:
            ends.append(14 + sum(struct.unpack_from("<II", head, 14 + 112)))
    return min(max(ends), _BEYOND_ANY_FILE)


def _beside_boxes(file: BinaryIO, head: bytes) -> list[str]:
    """Find contents outside the box of the pictures in HEIC and AVIF: a video (Motion Photo 1.0), credentials, data."""
    found = []
    for kind, body, num_bytes in iso_boxes.top_boxes(file):
        if kind == b"mpvd":
            found.append(VIDEO)
        elif kind == b"uuid" and body.startswith(_C2PA_BOX):
            found.append(CREDENTIALS)
        elif kind == b"moov":  # of AVIF its frames, which are read
            found += [] if _ANIMATED_BRAND in head[:_BRANDS_BYTES] else [_SEQUENCE]
        elif kind not in _KNOWN_BOXES:
            found += _named_data(body, num_bytes)
    return found


def _signs_in(data: bytes) -> list[str]:
    return [kind for sign, kind in _SIGNS if sign.search(data)]


def _beside_jpeg(data: bytes) -> list[str]:
    kinds: list[str] = []
    unknown: list[str] = []
    num_further, has_index, end = 0, False, len(data)
    for segment in segments(data):
        payload = data[segment.begin : segment.end]
        if segment.marker == END_OF_IMAGE:
            end = segment.end
        elif segment.marker == _APP11 and b"c2pa" in payload:
            kinds.append(CREDENTIALS)
        elif segment.marker == _APP2 and payload.startswith(b"MPF\0"):
            num_further, has_index = _num_further(payload[4:]), True
        elif 0xE0 <= segment.marker <= 0xEF and not any(
            segment.marker == known and payload.startswith(start) for known, start in _KNOWN_SEGMENTS
        ):
            unknown.append(f"APP{segment.marker - 0xE0} {_signature(payload)}".strip())
    behind = data[end:]
    if behind.strip(b"\0\xff \t\r\n"):
        found = _signs_in(behind)
        is_jpeg = behind.startswith(b"\xff\xd8\xff")
        if not found and (num_further or (is_jpeg and not has_index)):
            found = [_FURTHER if num_further <= 1 else f"further pictures ({num_further})"]
        if not found and not is_jpeg:  # previews of the index need no remark
            found = [f"data behind the picture ({len(behind)} bytes)"]
        kinds += found
    if unknown:
        kinds.append(f"JPEG segments ({', '.join(dict.fromkeys(unknown))})")
    return kinds


def _num_further(index: bytes) -> int:
    """Count the pictures of a multi-picture file (CIPA DC-007) other than the first one and its previews."""
    block = ExifBlock(EXIF_PREFIX + index)
    found = block.bytes_of("IFD0", _MP_ENTRIES)
    if found is None:
        return 0
    order = "<" if index.startswith(b"II") else ">"
    starts = range(found[0] + _MP_ENTRY_BYTES, found[0] + found[1] - _MP_ENTRY_BYTES + 1, _MP_ENTRY_BYTES)
    types = [struct.unpack_from(f"{order}I", block.data, start)[0] & 0xFFFFFF for start in starts]
    return sum(each not in _MP_PREVIEWS for each in types)


def _signature(payload: bytes) -> str:
    """Return the name at a segment's beginning, as far as it is printable."""
    text = payload[:16].split(b"\0")[0].decode("ascii", "ignore")
    return "".join(sign for sign in text if sign.isprintable())


def _beside_gif(names: Iterable[bytes]) -> list[str]:
    unknown = [name for name in names if name not in _KNOWN_EXTENSIONS]
    found = [CREDENTIALS for name in unknown if name.startswith(_GIF_CREDENTIALS)]
    others = [_signature(name) for name in unknown if not name.startswith(_GIF_CREDENTIALS)]
    return found + ([f"GIF extensions ({', '.join(dict.fromkeys(others))})"] if others else [])


def _beside_chunks(format_name: str, kinds: Iterable[str], known: set[str]) -> list[str]:
    found, unknown = [], []
    seen: set[str] = set()
    for kind in kinds:
        if kind in seen & _SINGLE_CHUNKS:
            unknown.append(f"a second {kind.strip()}")
        seen.add(kind)
        if kind in _CREDENTIALS_CHUNKS:
            found.append(CREDENTIALS)
        elif kind in _GAIN_MAP_CHUNKS:
            found.append(GAIN_MAP)
        elif kind not in known:
            title = _CHUNK_TITLES.get(kind)
            unknown.append(f"{kind}: {title}" if title else kind)
    if unknown:
        found.append(f"{format_name} chunks ({', '.join(dict.fromkeys(unknown))})")
    return found


def _png_chunks(file: BinaryIO) -> Iterator[str]:
    file.seek(len(PNG_START))
    while len(header := file.read(8)) == 8:
        yield header[4:].decode("latin-1")
        file.seek(int.from_bytes(header[:4], "big") + 4, os.SEEK_CUR)
        if header[4:] == b"IEND":
            return


def _webp_chunks(file: BinaryIO) -> Iterator[str]:
    file.seek(4)
    end = 8 + int.from_bytes(file.read(4), "little")
    file.seek(12)
    while file.tell() < end and len(header := file.read(8)) == 8:
        yield header[:4].decode("latin-1")
        size = int.from_bytes(header[4:], "little")
        file.seek(size + size % 2, os.SEEK_CUR)
