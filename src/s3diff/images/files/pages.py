"""Read and write the pages of one file, each with its own size, depth, colours and metadata.

One page is in memory at a time, in reading and in writing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from s3diff.atomic_write import whole_file
from s3diff.errors import OutputError, PictureError
from s3diff.formats import PAGED_ENDINGS, PicturePath
from s3diff.images.files.codec import codec_of
from s3diff.images.files.origin import with_origin_of_credentials
from s3diff.images.files.reading import opened_file, recognised
from s3diff.images.files.tiff_writing import TiffPages
from s3diff.images.files.writing import checked_target, copy_signed, encoded
from s3diff.images.picture import Picture
from s3diff.messages import reason_of, shown_path
from s3diff.options import ALL_PAGES, MAX_FILE_BYTES, MAX_PICTURE_PIXELS

if TYPE_CHECKING:
    from s3diff.images.files.credentials import ResultSigner


@dataclass(frozen=True)
class Pages:
    """Describe some pages of a file.

    Attributes:
        path: the file.
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
        with opened_file(self.path, self.max_pixels, self.max_bytes) as (file, limit):
            codec = recognised(file, shown_path(self.path))
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
    with opened_file(path, max_pixels, max_bytes) as (file, _):
        codec = recognised(file, shown_path(path))
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
