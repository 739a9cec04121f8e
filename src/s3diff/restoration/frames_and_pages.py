"""Restore the frames of an animation or the pages of a TIFF one by one; memory holds one picture.

Differences between frames show as flicker. So all frames are restored for the same degrees of blur and noise (the
median of the estimates for some frames), with the same seed, and either all in grey or all in colour. Each page has its
own size, depth, and degrees of blur and noise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from s3diff.errors import OutputError, PictureError
from s3diff.formats import PAGED_ENDINGS, holds_frames, holds_pages
from s3diff.images.files.animations import (
    MAX_FRAMES_OF_LARGEST,
    Animation,
    Frame,
    is_animated,
    open_animation,
    write_animation,
)
from s3diff.images.files.pages import Pages, open_pages, write_pages
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import check_writable
from s3diff.images.picture import Picture
from s3diff.images.provenance import Provenance
from s3diff.messages import in_megapixels
from s3diff.options import ALL_PAGES, Grey, OutputOptions, RestoreOptions
from s3diff.restoration.conveyor import read_ahead
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.result import Degrees, Result, add_seconds
from s3diff.restoration.sizes import Sizes, allowed_sizes, sizes_of
from s3diff.restoration.steps import Opened, Progress, estimate, opened_picture, restore

if TYPE_CHECKING:
    from s3diff.images.files.content_credentials import ResultSigner

#: Frames whose blur and noise are estimated, spread evenly: the first frame may be black or a title.
_ESTIMATED_FRAMES = 5


class OpenedAnimation(NamedTuple):
    """Hold an animation whose frames are read on demand, and their sizes."""

    animation: Animation
    sizes: Sizes

    @property
    def num_working_pixels(self) -> int:
        """Number of pixels that the networks produce for all frames."""
        return self.sizes.num_working_pixels * self.animation.num_frames


def checked_animation(source: str | os.PathLike[str], options: RestoreOptions) -> OpenedAnimation:
    """Open an animation, if the options allow the pixels of all restored frames.

    Raises:
        PictureError: the file cannot be read, or the result would be too large, which stops reading early.
    """
    largest, allowed = options.max_output_pixels, MAX_FRAMES_OF_LARGEST * options.max_output_pixels
    found: list[Sizes] = []

    def check(frame_width: int, frame_height: int, num_frames: int) -> None:
        try:
            if not found:
                found.append(sizes_of((frame_width, frame_height), options))
        except OverflowError:
            raise PictureError(
                f"{source} would become larger than any picture; choose a smaller scale or size"
            ) from None
        width, height = found[0].output
        if width * height > largest or width * height * num_frames > allowed:
            raise PictureError(
                f"{source} would become {num_frames} or more frames of {width} x {height} px; at most "
                f"{in_megapixels(largest)} megapixels a frame and {in_megapixels(allowed)} in all are allowed: choose "
                "a smaller scale or size, or raise the limit (max_output_pixels, --max-megapixels)"
            )

    return OpenedAnimation(open_animation(source, options.max_input_pixels, options.max_file_bytes, check), found[0])


def restore_animation(
    model: DeviceModel,
    source: str | os.PathLike[str] | OpenedAnimation,
    target: str | os.PathLike[str],
    options: RestoreOptions | None = None,
    *,
    quality: int = 95,
    overwrite: bool = True,
    provenance: bool = True,
    degrees: Degrees | None = None,
    signer: ResultSigner | None = None,
    progress: Progress | None = None,
) -> Result:
    """Restore every frame of an animated picture into another one; keep durations and loops.

    Args:
        target: the result's path; its extension's format has to hold frames.
        quality: 1 to 100, of formats that lose something.
        provenance: whether the file states in XMP how it was made.
        degrees: for all frames, instead of the estimate and the options' degrees.
        signer: signs the file as Content Credentials (C2PA).
        progress: called with ("frames", done, total) after every frame; its exception ends the work without a file.

    Raises:
        PictureError: the source cannot be read, is not animated, or its result would be too large.
        OutputError: the target cannot be written.
        OptionError, ModelError: as :meth:`Restorer.restore`.
    """
    options = model.resolved(options)
    animation, sizes = source if isinstance(source, OpenedAnimation) else checked_animation(source, options)
    check_writable(target, size=sizes.output, transparent=animation.is_transparent, overwrite=overwrite)
    model.prompts(options)
    estimated = _estimated(model, animation)
    if degrees is None:
        degrees = estimated.under(options)
    seconds: dict[str, float] = {}
    notes: dict[str, None] = dict.fromkeys(animation.notes)  # each once, in their order
    stated: Provenance | None = None

    def restored_frames() -> Iterator[Frame]:
        nonlocal stated
        grey: Grey | None = None
        for index, frame in enumerate(read_ahead(animation.frames(), animation.num_frames)):
            opened = Opened(frame.picture, sizes)
            restored = restore(model, [opened], options, degrees=degrees, grey=grey)[0]
            if index == 0 and animation.is_grey:
                grey = "keep" if restored.picture.is_grey else "color"
            add_seconds(seconds, restored.seconds)
            notes.update(dict.fromkeys((*restored.picture.notes, *restored.notes)))
            if index == 0 and provenance and restored.provenance is not None:
                stated = replace(restored.provenance, estimated_blur=estimated.blur, estimated_noise=estimated.noise)
            yield Frame(replace(restored.picture, provenance=stated), frame.milliseconds)
            if progress is not None:
                progress("frames", index + 1, animation.num_frames)

    lost = write_animation(restored_frames(), animation, target, quality=quality, overwrite=overwrite, signer=signer)
    return Result(
        size=sizes.output,
        degrees=degrees,
        estimated=estimated,
        seconds=seconds,
        options=options,
        notes=(*notes, *lost),
        num_frames=animation.num_frames,
        in_file=Path(target),
        provenance=stated,
    )


def _estimated(model: DeviceModel, animation: Animation) -> Degrees:
    count = min(_ESTIMATED_FRAMES, animation.num_frames)
    wanted = {round((index + 0.5) * animation.num_frames / count - 0.5) for index in range(count)}
    frames = enumerate(animation.frames())
    return Degrees.median(estimate(model, frame.picture) for index, frame in frames if index in wanted)


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


#: A file of several pictures, restored one by one into another file.
OpenedSeries = OpenedAnimation | OpenedPages


def open_source(
    source: Path, target: Path, options: RestoreOptions, known: Sizes | None = None
) -> Opened | OpenedSeries:
    """Read a picture, or open an animation or pages if the target's format holds them.

    Args:
        options: with the limits.
        known: the sizes by the file's header; ignored if the picture has another size.

    Raises:
        PictureError: the file cannot be read, has no such page, or its result would be too large.
        OutputError: the target's format cannot hold the result, or its place cannot be written.
    """
    if holds_frames(target) and is_animated(source, options.max_input_pixels, options.max_file_bytes):
        opened = checked_animation(source, options)
        check_writable(target, size=opened.sizes.output, transparent=opened.animation.is_transparent)
        return opened
    pages = checked_pages(source, target, options)
    if isinstance(pages, OpenedPages):
        return pages
    picture = read_picture(source, options.max_input_pixels, options.max_file_bytes, page=pages)
    still = opened_picture(picture, options, known)
    check_writable(target, size=still.sizes.output, transparent=picture.is_transparent)
    return still


def restore_series(
    model: DeviceModel,
    opened: OpenedSeries,
    target: Path,
    options: RestoreOptions,
    writing: OutputOptions,
    progress: Progress | None = None,
    degrees: Degrees | None = None,
    signer: ResultSigner | None = None,
) -> Result:
    """Restore an animation or pages; write each frame or page once it is restored.

    Args and errors are those of ``restore_animation`` and ``restore_pages``.
    """
    if isinstance(opened, OpenedPages):  # each page has its own degrees, which are estimated again
        return restore_pages(
            model, opened, target, options,
            quality=writing.quality, overwrite=writing.overwrite, provenance=writing.provenance, signer=signer,
            progress=progress,
        )  # fmt: skip
    return restore_animation(
        model, opened, target, options,
        quality=writing.quality, overwrite=writing.overwrite, provenance=writing.provenance, degrees=degrees,
        signer=signer, progress=progress,
    )  # fmt: skip
