"""Read and write the pages of one file, each with its own size, depth, colours and metadata.

One page is in memory at a time, in reading and in writing. Sections are those of TIFF 6.0.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from s3diff.atomic_write import whole_file
from s3diff.errors import OutputError, PictureError
from s3diff.formats import PAGED_ENDINGS, PicturePath
from s3diff.images.files.codec import codec_of
from s3diff.images.files.exif_block import VALUE_BYTES
from s3diff.images.files.provenance_xmp import with_origin_of_credentials
from s3diff.images.files.reading import opened_file
from s3diff.images.files.writing import checked_target, copy_signed, encoded
from s3diff.images.picture import Picture
from s3diff.messages import reason_of, shown_path
from s3diff.options import ALL_PAGES, MAX_FILE_BYTES, MAX_PICTURE_PIXELS

if TYPE_CHECKING:
    from s3diff.images.files.content_credentials import ResultSigner


@dataclass(frozen=True)
class Pages:
    """Describe some pages of a file.

    Attributes:
        numbers: numbers of the wanted pages, from 1, in their order.
        num_in_file: number of pages in the file.
        sizes: (width, height) in pixels of each wanted page, upright.
        max_pixels: largest page accepted by :meth:`pictures`.
        max_bytes: largest file accepted by :meth:`pictures`.
    """

    path: Path
    numbers: tuple[int, ...]
    num_in_file: int
    sizes: tuple[tuple[int, int], ...]
    max_pixels: int = MAX_PICTURE_PIXELS
    max_bytes: int = MAX_FILE_BYTES

    def pictures(self) -> Iterator[Picture]:
        """Read every wanted page in order.

        Raises:
            PictureError: the file is damaged, or changed since it was opened; the message names the page.
        """
        with opened_file(self.path, self.max_pixels, self.max_bytes) as (file, codec, limit):
            if len(codec.page_sizes(file)) != self.num_in_file:
                raise PictureError(f"{shown_path(self.path)} changed while it was read; try again")
            for picture in codec.read_pages(file, self.path, limit, self.numbers):
                yield with_origin_of_credentials(picture, file)


def open_pages(
    path: PicturePath,
    wanted: str = ALL_PAGES,
    max_pixels: int = MAX_PICTURE_PIXELS,
    max_bytes: int = MAX_FILE_BYTES,
) -> Pages:
    """Find the wanted pages of a file without decoding. Formats other than TIFF have one page.

    Args:
        wanted: ``all``, or numbers and ranges from 1 such as ``1,3-5``; see ``RestoreOptions.pages``.
        max_pixels: largest page accepted.
        max_bytes: largest file accepted.

    Raises:
        PictureError: the file cannot be read, or has no page of that number.
    """
    with opened_file(path, max_pixels, max_bytes) as (file, codec, _):
        if not codec.form.has_pages and wanted == ALL_PAGES:
            return Pages(Path(path), (1,), 1, (), max_pixels, max_bytes)
        sizes = codec.page_sizes(file)
    numbers = page_numbers(wanted, len(sizes))
    missing = [number for number in numbers if number > len(sizes)]
    if missing:
        has = "one page" if len(sizes) == 1 else f"{len(sizes)} pages"
        raise PictureError(f"{shown_path(path)} has {has}, and no page {missing[0]}; give others (pages, --pages)")
    chosen = tuple(sizes[number - 1] for number in numbers)
    return Pages(Path(path), numbers, len(sizes), chosen, max_pixels, max_bytes)


def page_numbers(wanted: str, num_pages: int) -> tuple[int, ...]:
    """Return the numbers that ``RestoreOptions.pages`` selects, in its order; an open range goes to the last page."""
    if wanted == ALL_PAGES:
        return tuple(range(1, num_pages + 1))
    numbers: list[int] = []
    for part in wanted.split(","):
        first, dash, last = re.fullmatch(r"([0-9]+)(-?)([0-9]*)", part).groups()  # type: ignore[union-attr]
        # One number beyond the last page is enough for the error message.
        end = min(int(last), num_pages + 1) if last else num_pages if dash else int(first)
        numbers += range(int(first), max(end, int(first)) + 1)
    return tuple(numbers)


def write_pages(
    pictures: Iterable[Picture],
    path: PicturePath,
    *,
    quality: int = 95,
    overwrite: bool = True,
    signer: ResultSigner | None = None,
) -> tuple[str, ...]:
    """Write pictures as the pages of one TIFF, losslessly compressed, whole or not at all.

    Beyond 4 GB it becomes a BigTIFF. Each page keeps its own depth, transparency, profile, DPI and metadata.

    Args:
        pictures: taken one by one; their exception ends the writing.
        quality: ignored for TIFF; see :func:`write_picture`.
        signer: signs the file, with the first page's statement; None leaves it unsigned.

    Returns:
        Notes on losses that the format causes, one sentence each.

    Raises:
        OutputError: the extension, the place or the disk does not allow it.
    """
    target, form = checked_target(path, (1, 1), False, overwrite)
    if not form.has_pages:
        raise OutputError(f"{shown_path(path)}: {form.title} holds one picture; write {PAGED_ENDINGS}")
    codec_of(form).require_encoder()
    notes: dict[str, None] = {}
    first: Picture | None = None
    with whole_file(target, overwrite) as file, nullcontext(file) if signer is None else TemporaryFile() as place:
        pages = TiffPages(place)
        for picture in pictures:
            if first is None:  # only its statement is needed at the end
                first = replace(picture, pixels=picture.pixels[:1, :1].copy(), alpha=None)
            try:
                data, lost = encoded(picture, form, quality)
            except Exception as error:  # as in write_picture
                raise OutputError(
                    f"{shown_path(path)} cannot be encoded as {form.title} ({reason_of(error)})"
                ) from error
            notes.update(dict.fromkeys(lost))
            pages.add(data)
            del picture, data
        pages.finish()
        if signer is not None and first is not None:
            copy_signed(place, file, first, form, target.name, signer)
    return tuple(notes)


_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _STRIPS, _ROWS = 0x0100, 0x0101, 0x0102, 0x0103, 0x0111, 0x0116
_STRIP_BYTES, _SAMPLES, _PREDICTOR, _SUBFILE, _PAGE_NUMBER = 0x0117, 0x0115, 0x013D, 0x00FE, 0x0129
_SHORT, _LONG, _LONG8 = 3, 4, 16
_DEFLATE, _DIFFERENCES, _PAGE_OF_SEVERAL = 8, 2, 2
#: Entries that lead to directories of their own.
_LINKS = (0x8769, 0x8825, 0xA005)
#: Room for the header of a BigTIFF; a TIFF leaves the second half empty.
_HEADER_BYTES = 16
_LARGEST_OFFSET = 2**32 - 1
#: Bytes of a strip before compression.
_STRIP_TARGET = 1 << 20
#: Level of zlib: beyond it files hardly become smaller.
_LEVEL = 6


class _Entry(NamedTuple):
    kind: int
    num_values: int
    content: bytes


#: Entries by tag; a link holds its directory.
_Directory = dict[int, "_Entry | _Directory"]


class TiffPages:
    """Write pages one after the other, and their directories behind them.

    A file whose offsets need more than 32 bits becomes a BigTIFF.

    Args:
        file: to write to, at its beginning.
        largest_offset: largest offset of a TIFF that is no BigTIFF.
    """

    def __init__(self, file: BinaryIO, largest_offset: int = _LARGEST_OFFSET) -> None:
        self._file, self._largest, self._place = file, largest_offset, _HEADER_BYTES
        self._pages: list[tuple[_Directory, list[int]]] = []
        file.write(bytes(_HEADER_BYTES))

    def add(self, data: bytes) -> None:
        """Add the page of a little-endian TIFF of one page, whose pixels are uncompressed in strips."""
        page = _directory(data, struct.unpack_from("<I", data, 4)[0])
        starts, lengths = _numbers(page[_STRIPS]), _numbers(page[_STRIP_BYTES])
        pixels = b"".join(data[start : start + length] for start, length in zip(starts, lengths, strict=True))
        (height,), bits = _numbers(page[_HEIGHT]), _numbers(page[_BITS])
        samples = _numbers(page[_SAMPLES])[0] if _SAMPLES in page else 1
        rows = np.frombuffer(pixels, f"<u{bits[0] // 8}").reshape(height, -1, samples)
        rows_per_strip = max(1, _STRIP_TARGET // max(1, len(pixels) // height))
        places, sizes = [], []
        for start in range(0, height, rows_per_strip):
            some = rows[start : start + rows_per_strip]
            strip = zlib.compress(np.concatenate([some[:, :1], some[:, 1:] - some[:, :-1]], axis=1).tobytes(), _LEVEL)
            places.append(self._place)
            sizes.append(len(strip))
            self._write(strip)
        changed = {_COMPRESSION: [_DEFLATE], _ROWS: [rows_per_strip], _PREDICTOR: [_DIFFERENCES]}
        page |= {tag: _longs(value) for tag, value in {**changed, _STRIP_BYTES: sizes}.items()}
        self._pages.append((page, places))

    def finish(self) -> None:
        """Write the directories and the header."""
        total = len(self._pages)
        for number, (page, _) in enumerate(self._pages if total > 1 else ()):
            page[_SUBFILE] = _longs([_PAGE_OF_SEVERAL])
            page[_PAGE_NUMBER] = _Entry(_SHORT, 2, struct.pack("<2H", min(number, 0xFFFF), min(total, 0xFFFF)))
        room = sum(_room(page) + 8 * len(places) for page, places in self._pages)
        is_big = self._place + room > self._largest
        first, link_at = 0, 0
        for page, places in self._pages:
            page[_STRIPS] = _Entry(_LONG8, len(places), struct.pack(f"<{len(places)}Q", *places))
            if not is_big:
                page[_STRIPS] = _longs(places)
            self._write(bytes(self._place % 2))
            body, link = _packed(page, self._place, is_big)
            if link_at:
                self._file.seek(link_at)
                self._file.write(struct.pack("<Q" if is_big else "<I", self._place))
                self._file.seek(self._place)
            first, link_at = first or self._place, self._place + link
            self._write(body)
        self._file.seek(0)
        big_header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, first)
        header = struct.pack("<2sHI", b"II", 42, first & _LARGEST_OFFSET)
        self._file.write(big_header if is_big else header)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._place += len(data)


def _directory(data: bytes, place: int) -> _Directory:
    found: _Directory = {}
    (count,) = struct.unpack_from("<H", data, place)
    for index in range(count):
        entry = place + 2 + 12 * index
        tag, kind, number = struct.unpack_from("<HHI", data, entry)
        size = number * VALUE_BYTES[kind]
        start = entry + 8 if size <= 4 else struct.unpack_from("<I", data, entry + 8)[0]
        if tag in _LINKS:
            found[tag] = _directory(data, struct.unpack_from("<I", data, start)[0])
        else:
            found[tag] = _Entry(kind, number, data[start : start + size])
    return found


def _numbers(entry: _Entry | _Directory) -> tuple[int, ...]:
    assert isinstance(entry, _Entry)
    return struct.unpack(f"<{entry.num_values}{'H' if entry.kind == _SHORT else 'I'}", entry.content)


def _longs(values: list[int]) -> _Entry:
    return _Entry(_LONG, len(values), struct.pack(f"<{len(values)}I", *values))


def _room(page: _Directory) -> int:
    """Return an upper bound of a directory's bytes."""
    inner = (_room(entry) if isinstance(entry, dict) else len(entry.content) + 1 for entry in page.values())
    return 32 + 20 * len(page) + sum(inner)


def _packed(page: _Directory, place: int, is_big: bool) -> tuple[bytes, int]:
    """Pack a directory, with everything it links to, for that place in the file; return also the place of its link."""
    count_code, value_bytes, entry_code = ("Q", 8, "HHQ") if is_big else ("H", 4, "HHI")
    pointer, kind_of_pointer = ("<Q", _LONG8) if is_big else ("<I", _LONG)
    entry_bytes = struct.calcsize(f"<{entry_code}") + value_bytes
    head = struct.pack(f"<{count_code}", len(page))
    link = len(head) + entry_bytes * len(page)
    behind = place + link + value_bytes
    extra = b""
    for tag, entry in sorted(page.items()):
        extra += bytes((behind + len(extra)) % 2)
        if isinstance(entry, dict):
            kind, count, value = kind_of_pointer, 1, struct.pack(pointer, behind + len(extra))
            extra += _packed(entry, behind + len(extra), is_big)[0]
        elif len(entry.content) <= value_bytes:
            kind, count, value = entry.kind, entry.num_values, entry.content
        else:
            kind, count, value = entry.kind, entry.num_values, struct.pack(pointer, behind + len(extra))
            extra += entry.content
        head += struct.pack(f"<{entry_code}", tag, kind, count) + value.ljust(value_bytes, b"\0")
    return head + bytes(value_bytes) + extra, link
