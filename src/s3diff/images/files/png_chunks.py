"""Read and write PNG as chunks, texts and rows, for pixels and data that Pillow does not support.

No Pillow here. Sections are those of the PNG specification, third edition.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from s3diff.images.files.exif_block import EXIF_PREFIX
from s3diff.images.files.iptc import resources_of
from s3diff.images.picture import Text

PNG_START = b"\x89PNG\r\n\x1a\n"
#: Texts in Latin-1, the same compressed, and in UTF-8.
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_EXIF = b"eXIf"
#: Lengths that chunks about colours and sizes have (sections 11.3.2, 11.3.4).
_LENGTHS = {b"cICP": 4, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
#: Colour type by number of channels (section 11.2.1).
COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
#: Chunks around the pixels are small; a larger one is left to Pillow, which has limits of its own.
_LARGEST_CHUNK_BYTES = 1 << 26
#: Bytes of a block of rows that is filtered at once; candidates of all filters are held together.
_BLOCK_BYTES = 1 << 20


def chunk(kind: bytes, body: bytes) -> bytes:
    """Make one chunk with its length and checksum (section 5.3)."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Read kind and body of every chunk of a whole, undamaged file."""
    start = len(PNG_START)
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        start += 12 + length


class ReadChunks(NamedTuple):
    """Hold chunks of an undamaged file.

    Attributes:
        leading: kind and body of those before the pixels, the first of each kind.
        texts: kind and body of every text, wherever it stands.
        exif: the body of every block of EXIF.
    """

    leading: dict[bytes, bytes]
    texts: tuple[tuple[bytes, bytes], ...]
    exif: tuple[bytes, ...]


def read_chunks(file: BinaryIO) -> ReadChunks:
    """Read the chunks before the pixels, and texts and EXIF wherever they stand; go back to the file's beginning."""
    leading: dict[bytes, bytes] = {}
    texts, exif, is_before_pixels = [], [], True
    for kind, start, length in _places(file):
        is_before_pixels = is_before_pixels and kind != b"IDAT"
        if not is_before_pixels and kind not in (*TEXT_CHUNKS, _EXIF):
            continue
        file.seek(start)
        body = file.read(min(length, _LARGEST_CHUNK_BYTES))
        if is_before_pixels:
            leading.setdefault(kind, body)
        if kind in TEXT_CHUNKS:
            texts.append((kind, body))
        elif kind == _EXIF:
            exif.append(body)
    file.seek(0)
    return ReadChunks(leading, tuple(texts), tuple(exif))


def without_damaged_chunks(file: BinaryIO) -> tuple[BinaryIO, tuple[str, ...]]:
    """Leave out ancillary chunks with a wrong checksum or length: a picture does not depend on them (section 5.4).

    The chunks of an animation count as pixels.

    Returns:
        The file at its beginning, or a copy in memory without these chunks; and the names of the chunks.
    """
    damaged = []
    for kind, start, length in _places(file):
        is_ancillary = kind[0] & 0x20 and kind not in (b"acTL", b"fcTL", b"fdAT")
        if is_ancillary and length <= _LARGEST_CHUNK_BYTES:
            file.seek(start)
            body, stored = file.read(length), file.read(4)
            is_right = zlib.crc32(kind + body) == int.from_bytes(stored, "big")
            if len(stored) == 4 and not (is_right and length == _LENGTHS.get(kind, length)):
                damaged.append((start - 8, start + length + 4, kind.decode("latin-1")))
    file.seek(0)
    if not damaged:
        return file, ()
    parts, place = [], 0
    for begin, end, _ in damaged:
        parts.append(file.read(begin - place))
        file.seek(end)
        place = end
    parts.append(file.read())
    file.seek(0)
    return io.BytesIO(b"".join(parts)), tuple(dict.fromkeys(name for *_, name in damaged))


def _places(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start of the body and length of every chunk, up to the end of the file's structure."""
    place = len(PNG_START)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or not head[4:].isalpha():
            return
        length = int.from_bytes(head[:4], "big")
        yield head[4:], place + 8, length
        place += 12 + length
        if head[4:] == b"IEND":
            return


def header(array: np.ndarray) -> bytes:
    """Make the body of IHDR for pixels [H, W, C] of uint8 or uint16, not interlaced."""
    height, width, channels = array.shape
    return struct.pack(">IIBBBBB", width, height, 8 * array.itemsize, COLOR_TYPES[channels], 0, 0, 0)


def with_pixels(template: bytes, array: np.ndarray) -> bytes:
    """Make a file with these pixels [H, W, C] and the other chunks of another file."""
    parts = [PNG_START]
    for kind, body in chunks(template):
        if kind == b"IHDR":
            parts.append(chunk(kind, header(array)))
        elif kind == b"IEND":
            parts += [chunk(b"IDAT", part) for part in compressed_rows(array)] + [chunk(kind, body)]
        elif kind != b"IDAT":
            parts.append(chunk(kind, body))
    return b"".join(parts)


def compressed_rows(array: np.ndarray) -> Iterable[bytes]:
    """Filter and compress pixels [H, W, C], uint8 or uint16: the bodies of IDAT, none of them empty."""
    height, width, channels = array.shape
    step = channels * array.itemsize
    rows = max(1, _BLOCK_BYTES // (width * step))
    above = np.zeros((1, width * step), np.uint8)
    compressor = zlib.compressobj()
    for start in range(0, height, rows):
        block = array[start : start + rows]
        block = np.ascontiguousarray(block.astype(block.dtype.newbyteorder(">"), copy=False))
        plain = block.view(np.uint8).reshape(len(block), -1)
        if packed := compressor.compress(_filtered(plain, np.concatenate([above, plain[:-1]]), step).tobytes()):
            yield packed
        above = plain[-1:]
    yield compressor.flush()


def _filtered(rows: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Return [R, 1 + N]: each row by the filter whose bytes, as signed numbers, sum to the least (section 12.7)."""
    left, corner = (np.pad(each, ((0, 0), (step, 0)))[:, : rows.shape[1]] for each in (rows, above))
    a, b, c = (each.astype(np.int16) for each in (left, above, corner))
    towards_a, towards_b, towards_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    is_a = (towards_a <= towards_b) & (towards_a <= towards_c)
    paeth = np.where(is_a, left, np.where(towards_b <= towards_c, above, corner))
    average = ((a + b) >> 1).astype(np.uint8)
    candidates = np.stack([rows, rows - left, rows - above, rows - average, rows - paeth])
    costs = np.abs(candidates.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    best = costs.argmin(axis=0)
    chosen = candidates[best, np.arange(len(rows))]
    return np.concatenate([best.astype(np.uint8)[:, None], chosen], axis=1)


XMP_KEYWORD = "XML:com.adobe.xmp"
_PROFILE_KEYWORD = "Raw profile type "
#: Profiles in texts, as ImageMagick writes them: a name (exiftool: two words), the number of bytes, hexadecimal digits.
_PROFILE = re.compile(r"\s*(\S[^\n]{0,78}?)\s+([0-9]{1,10})\s+([0-9a-fA-F\s]*)\s*")
_LINE_DIGITS = 72
#: Bytes of one text, and of all texts of a file; Pillow refuses a picture with more.
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
    """Decode kind and body of tEXt, zTXt and iTXt (section 11.3.3): every one, also of several with one keyword.

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
