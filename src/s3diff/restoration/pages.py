"""Restore a TIFF of several pages, such as a scan, page by page.

Each page has its own size, depth, and degrees of blur and noise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from s3diff.errors import OutputError, PictureError
from s3diff.formats import PAGED_ENDINGS
from s3diff.images.codecs import (
    MAX_FRAMES_OF_LARGEST,
    Pages,
    Picture,
    check_writable,
    holds_pages,
    open_pages,
    write_pages,
)
from s3diff.messages import in_megapixels
from s3diff.options import ALL_PAGES, RestoreOptions
from s3diff.restoration.conveyor import read_ahead
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.result import Degrees, Result, add_seconds
from s3diff.restoration.sizes import Sizes, allowed_sizes
from s3diff.restoration.steps import Progress, opened_picture, restore

if TYPE_CHECKING:
    from s3diff.images.files.credentials import ResultSigner
    from s3diff.images.provenance import Provenance


class OpenedPages(NamedTuple):
    """Hold pages that are read on demand, and their sizes."""

    pages: Pages
    sizes: tuple[Sizes, ...]

    @property
    def num_working_pixels(self) -> int:
        """Number of pixels that the networks produce for all pages."""
        return sum(each.num_working_pixels for each in self.sizes)


def checked_pages(source: Path, target: Path, options: RestoreOptions) -> OpenedPages | int | None:
    """Find the pages that the options select.

    Returns:
        All selected pages, or the number of a single one; None if the options select none, so that the file is read as
        any other picture.

    Raises:
        PictureError: the file cannot be read, has no such page, or the results would be too large.
        OutputError: several pages are wanted, and the target holds one picture.
    """
    if options.pages == ALL_PAGES and not holds_pages(target):
        return None
    pages = open_pages(source, options.pages, options.max_input_pixels, options.max_file_bytes)
    if len(pages.numbers) == 1:
        return None if pages.num_in_file == 1 else pages.numbers[0]
    if not holds_pages(target):
        count = len(pages.numbers)
        raise OutputError(f"{target} holds one picture, and {count} pages are wanted; write {PAGED_ENDINGS}")
    named = zip(pages.numbers, pages.sizes, strict=True)
    sizes = tuple(allowed_sizes(size, options, f"page {number} of {source}") for number, size in named)
    wanted = sum(each.output[0] * each.output[1] for each in sizes)
    allowed = MAX_FRAMES_OF_LARGEST * options.max_output_pixels
    if wanted > allowed:
        raise PictureError(
            f"{source} would become {len(sizes)} pages of {in_megapixels(wanted)} megapixels in all; at most "
            f"{in_megapixels(allowed)} are allowed: give some pages (pages, --pages), a smaller scale or size, or "
            "raise the limit (max_output_pixels, --max-megapixels)"
        )
    check_writable(target)
    return OpenedPages(pages, sizes)


def restore_pages(
    model: DeviceModel,
    source: str | os.PathLike[str] | OpenedPages,
    target: str | os.PathLike[str],
    options: RestoreOptions | None = None,
    *,
    quality: int = 95,
    overwrite: bool = True,
    provenance: bool = True,
    signer: ResultSigner | None = None,
    progress: Progress | None = None,
) -> Result:
    """Restore the pages of a TIFF into another one; each keeps its own depth, colours and metadata.

    Args:
        model: the networks on a device.
        source: the file, or a result of :func:`checked_pages`.
        target: the result's path, a .tif.
        options: for all pages; ``options.pages`` selects them.
        quality: ignored for TIFF.
        provenance: whether each page states in XMP how it was made.
        signer: signs the file as Content Credentials (C2PA).
        progress: called with ("pages", done, total) after every page; its exception ends the work without a file.

    Returns:
        The size of the first page; degrees are the medians of all pages, seconds their sums.

    Raises:
        PictureError: the source cannot be read, has no such pages, or the results would be too large.
        OutputError: the target cannot be written.
        OptionError, ModelError: as :meth:`Restorer.restore`.
    """
    options = model.resolved(options)
    if not isinstance(source, OpenedPages):
        opened = checked_pages(Path(source), Path(target), options)
        if not isinstance(opened, OpenedPages):
            raise PictureError(f"{source} has one page for {target}; restore it as a picture")
        source = opened
    check_writable(target, overwrite=overwrite)
    model.prompts(options)
    used: list[Degrees] = []
    stated: list[Provenance | None] = []
    estimated: list[Degrees] = []
    notes: dict[str, None] = {}  # each once, in their order
    seconds: dict[str, float] = {}

    def restored() -> Iterator[Picture]:
        for picture in read_ahead(source.pages.pictures(), len(source.pages.numbers)):
            result = restore(model, [opened_picture(picture, options)], options)[0]
            add_seconds(seconds, result.seconds)
            number = source.pages.numbers[len(used)]
            notes.update(dict.fromkeys(f"page {number}: {note}" for note in result.notes))
            used.append(result.degrees)
            estimated.append(result.estimated)
            stated.append(result.provenance if provenance else None)
            yield replace(result.picture, provenance=stated[-1])
            if progress is not None:
                progress("pages", len(used), len(source.sizes))

    lost = write_pages(restored(), target, quality=quality, overwrite=overwrite, signer=signer)
    return Result(
        size=source.sizes[0].output,
        degrees=Degrees.median(used),
        estimated=Degrees.median(estimated),
        seconds=seconds,
        options=options,
        notes=(*notes, *lost),
        num_frames=len(used),
        in_file=Path(target),
        provenance=stated[0],
    )
