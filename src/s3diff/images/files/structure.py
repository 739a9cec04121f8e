"""What a file asks of a decoder, counted before it is opened: small files can keep one busy for hours.

A JPEG may repeat its scans over all pixels, a TIFF may chain as many directories as fit, a GIF as many frames; a
decoder in C cannot be stopped from Python. Pixels themselves are limited by the header (``max_pixels``), texts and
profiles by Pillow.
"""

from __future__ import annotations

import itertools
import struct
from typing import BinaryIO

from s3diff.errors import PictureError
from s3diff.images.files import gif_blocks
from s3diff.images.files.jpeg_segments import START_OF_SCAN, segments

#: A progressive JPEG has about 10 scans, and cannot use more than some hundred. 500 of 67 megapixels take 12 s.
MAX_JPEG_SCANS = 500
#: Pages or frames of one file. Finding the end of a chain of n takes Pillow n² steps.
MAX_FRAMES = 10_000


def check_structure(file: BinaryIO, head: bytes) -> None:
    """Refuse what no program writes and no decoder should be given. The file is left at its beginning.

    Args:
        file: opened at its beginning.
        head: its first 16 bytes or more.

    Raises:
        PictureError: it has too many scans, pages or frames.
    """
    if head.startswith(b"\xff\xd8\xff"):
        if _num_jpeg_scans(file.read()) > MAX_JPEG_SCANS:
            raise PictureError(
                f"the JPEG data has more than {MAX_JPEG_SCANS} scans, which no program writes; save the picture anew"
            )
    elif head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        _require_few("pages", _num_tiff_pages(file, head))
    elif head.startswith((b"GIF87a", b"GIF89a")):
        _require_few("frames", gif_blocks.num_frames(file, MAX_FRAMES))
    file.seek(0)


def _require_few(what: str, number: int) -> None:
    if number > MAX_FRAMES:
        raise PictureError(f"the file holds more than {MAX_FRAMES} {what}; take out those that are wanted")


def _num_jpeg_scans(data: bytes) -> int:
    """Up to the end of the first picture, or one more than allowed."""
    scans = (segment for segment in segments(data) if segment.marker == START_OF_SCAN)
    return sum(1 for _ in itertools.islice(scans, MAX_JPEG_SCANS + 1))


def _num_tiff_pages(file: BinaryIO, head: bytes) -> int:
    """Directories of the chain, or one more than allowed; a chain ends where it leads back or out of the file."""
    order = "<" if head.startswith(b"II") else ">"
    is_big = head[2:4] in (b"+\0", b"\0+")
    count_code, entry_bytes, link_code = ("Q", 20, "Q") if is_big else ("H", 12, "I")
    count, link = struct.Struct(order + count_code), struct.Struct(order + link_code)
    seen: set[int] = set()
    place = link.unpack_from(head, 8 if is_big else 4)[0] if len(head) >= 16 else 0
    while place and place not in seen and len(seen) <= MAX_FRAMES:
        seen.add(place)
        try:
            file.seek(place)
            (num_entries,) = count.unpack(file.read(count.size))
            file.seek(place + count.size + num_entries * entry_bytes)
            (place,) = link.unpack(file.read(link.size))
        except (struct.error, OSError, OverflowError, ValueError):
            break
    return len(seen)
