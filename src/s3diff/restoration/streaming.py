"""Restore pictures larger than memory, tile by tile, into a tiled BigTIFF; an interrupted run resumes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from s3diff.atomic_write import whole_path
from s3diff.errors import MissingExtraError, OptionError, OutputError, PictureError
from s3diff.images.color_profiles import color_space
from s3diff.images.files.large_files import LargePicture, write_tiled_tiff
from s3diff.images.files.provenance_xmp import with_restoration
from s3diff.images.provenance import Provenance
from s3diff.messages import reason_of
from s3diff.options import ALL_PAGES, LIMITS, RestoreOptions
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.finishing import becomes_color, colored_notes, in_color_profile
from s3diff.restoration.memory import attempt
from s3diff.restoration.regions import LowQuality, kept_depth
from s3diff.restoration.result import Degrees, Result
from s3diff.restoration.scratch_files import (
    PixelFile,
    Place,
    RecordedCanvas,
    disk_errors,
    only_one,
    remove_links,
    remove_scratch,
    scratch_path,
    whole_lines,
)
from s3diff.restoration.sizes import Sizes, sizes_of
from s3diff.restoration.steps import Progress, as_tensor, walk
from s3diff.restoration.tile_plan import LOCAL_TILE_PX, TilePlan
from s3diff.version import __version__

#: Extensions of results.
STREAMED_EXTENSIONS = (".tif", ".tiff")
#: Incremented when scratch files of earlier versions cannot be continued.
_RECORD_VERSION = 2


def restore_file(
    model: DeviceModel,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: RestoreOptions | None = None,
    *,
    overwrite: bool = True,
    provenance: bool = True,
    degrees: Degrees | None = None,
    progress: Progress | None = None,
) -> Result:
    """Restore a TIFF, PNG or JPEG into a tiled BigTIFF with memory that does not grow with the picture.

    The result equals that of ``Restorer.restore`` within one grey level; colour pictures keep 16 bits. During the work
    the disk holds the result twice, once of it uncompressed (with ``adain``, and for grey pictures, three times). After
    an interruption the same call resumes.

    Args:
        model: a local model on its device (``config.is_local``), such as ``compact``.
        source: RGB or grey, 8 or 16 bits, without transparency.
        target: the result's path, with the extension .tif or .tiff.
        options: ``max_output_pixels`` is ignored. ``restore_at`` "auto" means "output" here.
        provenance: whether the file states in XMP how it was made.
        degrees: instead of the estimate and of the options' degrees.
        progress: called with (``tiles``, done, in all) after every tile.

    Raises:
        MissingExtraError: the extra ``large`` is not installed.
        OptionError: an option or the model does not allow work in parts.
        PictureError: the picture cannot be read, or has another number of bits or channels.
        OutputError: the result cannot be written there, or another process is writing it.
    """
    place = Path(target).resolve()
    options = model.resolved(options)
    check_streaming(model, place, options)
    picture = LargePicture(source)
    sizes = _streamed_sizes(picture, options)
    if not overwrite and os.path.lexists(place):
        raise OutputError(f"{target} is already there; choose another name or allow overwriting")
    if os.path.realpath(source) == str(place):
        raise OutputError(f"{target} would overwrite the input; choose another output")
    with disk_errors(Place(place)):
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_links(place)
    with only_one(place):
        result = _restored_into(
            model, picture, place, sizes, options,
            overwrite=overwrite, provenance=provenance, degrees=degrees, progress=progress,
        )  # fmt: skip
    notes = (*picture.notes, *result.notes)
    if color_space(picture.icc_profile) is not None and not picture.is_grey:
        notes += ("its colours are not sRGB and went through the networks as they are stored; the profile is kept",)
    return replace(result, in_file=Path(target), notes=notes)


def exceeds_memory(source: Path, options: RestoreOptions) -> bool:
    """Check whether a picture exceeds the limits of memory before or after it is restored.

    Pictures that cannot be read in parts are restored in memory, with its error messages.
    """
    try:
        picture = LargePicture(source)
        width, height = options.output_size(picture.width, picture.height)
    except (MissingExtraError, PictureError, OverflowError):
        return False
    if picture.num_pages > 1:  # of which a streamed result would hold one
        return False
    is_large = picture.width * picture.height > options.max_input_pixels or picture.num_bytes > options.max_file_bytes
    return is_large or width * height > options.max_output_pixels


def check_streaming(model: DeviceModel, target: Path, options: RestoreOptions | None = None) -> None:
    """Check that model, target and options allow work in parts, before anything is read.

    Raises:
        OptionError, OutputError: one of them does not; the message says why.
    """
    options = RestoreOptions() if options is None else options
    require_tiff(target)
    if not model.config.is_local:
        raise OptionError(
            f"model {model.model.name} looks at the whole picture at once (attention, group norm), so it cannot "
            "restore one part by part; use compact, or a result that fits in memory"
        )
    if options.strength != 1:
        raise OptionError(f"strength is {options.strength:g}; only 1 can be streamed part by part")
    if options.latent == "sample":
        raise OptionError("latent sample draws noise for the whole picture at once; stream with latent mean")
    if options.pages != ALL_PAGES:
        raise OptionError(f"pages is {options.pages}; only the first page is streamed part by part")
    if options.tile == "off" or options.released_tiles is not None:
        raise OptionError("tile off and released tiles hold the whole picture; stream with tile auto or a side")


def require_tiff(target: Path) -> None:
    """Check a result's extension.

    Raises:
        OutputError: it is not a TIFF's.
    """
    if target.suffix.lower() not in STREAMED_EXTENSIONS:
        raise OutputError(f"{target} is no TIFF name, and only TIFF is written part by part; end the name in .tif")


def _streamed_sizes(picture: LargePicture, options: RestoreOptions) -> Sizes:
    """Compute the sizes; the networks work at the output's size."""
    try:
        sizes = sizes_of((picture.width, picture.height), options)
        works_elsewhere = options.restore_at != "auto" and sizes.working != sizes.output
        if sizes.uncut != sizes.output or works_elsewhere:
            raise OptionError(
                "a streamed picture is neither cut nor resampled afterwards; leave out size_mode fill and restore_at "
                "model (--size-mode, --restore-at)"
            )
        if max(sizes.output) >= 2**31:
            raise OverflowError
    except OverflowError:
        raise PictureError(
            f"{picture.path} would become larger than a TIFF can be, 2147483647 px a side; choose a smaller scale"
        ) from None
    return replace(sizes, working=sizes.output)


def _restored_into(
    model: DeviceModel,
    picture: LargePicture,
    target: Path,
    sizes: Sizes,
    options: RestoreOptions,
    *,
    overwrite: bool,
    provenance: bool,
    degrees: Degrees | None,
    progress: Progress | None,
) -> Result:
    """Walk, finish and write; use smaller tiles when memory runs out."""
    width, height = sizes.output
    record, held = scratch_path(target, "tiles"), scratch_path(target, "pixels")
    header = _header(model, picture, options, degrees)
    kept = kept_depth(picture.depth, options.color_match, in_grey=picture.is_neutral)
    result_bytes = height * width * picture.num_channels * picture.depth.itemsize
    # A second pass writes its pixels to a file of its own.
    has_second_pass = options.color_match == "adain" or picture.is_neutral
    pixels_bytes = height * width * 3 * kept.itemsize
    place = Place(target, pixels_bytes + result_bytes * (2 if has_second_pass else 1))
    with disk_errors(place):
        first = _plan(model, sizes, options, record, header)
        place.require_room()
        if not held.exists() or held.stat().st_size != pixels_bytes:
            record.unlink(missing_ok=True)  # before the pixels change, which makes its entries false

    def restore_under(plan: TilePlan, notes: tuple[str, ...]) -> Result:
        with disk_errors(place):
            pixels = PixelFile(held, (height, width, 3), kept)
            try:
                canvas = RecordedCanvas(
                    (height, width), picture.depth, options, in_grey=picture.is_neutral, pixels=pixels, record=record,
                    header={**header, "tile": plan.tile_px}, place=place,
                )  # fmt: skip
            except OSError:
                pixels.close()
                raise
        try:
            source = LowQuality(picture.read, (picture.height, picture.width))
            given = as_tensor(degrees)
            with torch.inference_mode():
                walked = walk(model, source, sizes, options, plan, canvas=canvas, progress=progress, degrees=given)
            result = walked.results[0]
            result = replace(result, provenance=_streamed_statement(result) if provenance else None)
            xmp, more = with_restoration(None, result.provenance, picture.xmp) if result.provenance else (None, ())
            with disk_errors(place):
                notes += (*more, *_written(canvas, pixels, picture, place, options, overwrite, xmp))
        except PictureError:
            canvas.close()
            if not canvas.num_held:  # otherwise the next run resumes with them, if it can read the source
                remove_scratch(target)
            raise
        finally:
            canvas.close()
        return replace(result, notes=notes, num_tiles=plan.num_regions, num_resumed=canvas.num_resumed)

    failure = f"not enough memory for a tile of {picture.path}; use a device with more memory"
    result = attempt(restore_under, first, model, failure)
    with disk_errors(place):
        remove_scratch(target)
    return result


def _plan(model: DeviceModel, sizes: Sizes, options: RestoreOptions, record: Path, header: dict[str, Any]) -> TilePlan:
    """Choose tiles by the free memory; keep an earlier run's tiles when resuming; a requested side has priority."""
    plan = model.plan_tiles(sizes, options)
    if plan.tile_px is None and max(plan.height, plan.width) > LOCAL_TILE_PX:
        plan = replace(plan, tile_px=LOCAL_TILE_PX, autoencoder="tiles")
    earlier = next(whole_lines(record), None)
    is_same = earlier is not None and {key: value for key, value in earlier.items() if key != "tile"} == header
    if earlier is not None and is_same and options.tile == "auto":
        plan = replace(plan, tile_px=earlier["tile"])
    return plan


def _written(
    canvas: RecordedCanvas,
    pixels: PixelFile,
    picture: LargePicture,
    place: Place,
    options: RestoreOptions,
    overwrite: bool,
    xmp: bytes | None,
) -> tuple[str, ...]:
    """Finish the colours, write the BigTIFF next to its place and move it there; return notes."""
    target = place.target
    in_grey, finished = picture.is_neutral and not becomes_color(canvas, options), pixels
    in_color = picture.is_grey and not in_grey
    shape = (*pixels.shape[:2], 1 if picture.is_grey and in_grey else 3)
    if not canvas.is_finished(in_grey=in_grey):
        finished = PixelFile(scratch_path(target, "finished"), shape, picture.depth)
        try:
            canvas.finished(in_grey=in_grey, pixels=finished)
            finished.sync()
        finally:
            finished.close()
    profile = in_color_profile(picture.icc_profile) if in_color else picture.icc_profile
    with whole_path(target, overwrite, temporary=scratch_path(target, "part")) as part:
        try:
            write_tiled_tiff(finished.path, part, shape, picture.depth, icc_profile=profile, dpi=picture.dpi, xmp=xmp)
        except OutputError as error:
            if place.is_full():
                raise place.full() from error
            raise
        if not overwrite and os.path.lexists(target):
            raise OutputError(f"{target} has appeared meanwhile; move it away, and the same command goes on")
    return colored_notes(options) if in_color else ()


def _streamed_statement(result: Result) -> Provenance | None:
    if result.provenance is None:
        return None
    options = result.provenance.options
    if options.tile == "off":  # which cannot be asked for here
        options = options.with_valid(tile=LOCAL_TILE_PX)
    return replace(result.provenance, options=options, is_streamed=True)


def _header(
    model: DeviceModel, picture: LargePicture, options: RestoreOptions, degrees: Degrees | None
) -> dict[str, Any]:
    """Describe everything that decides the pixels, except the tiles."""
    try:
        status = os.stat(picture.path)
    except OSError as error:
        raise PictureError(f"{picture.path} cannot be read any more ({reason_of(error)}); check the path") from error
    chosen = {name: value for name, value in asdict(options).items() if name not in (*LIMITS, "tile")}
    chosen["restore_at"] = "output"
    header = {
        "record": "s3diff tiles",
        "version": _RECORD_VERSION,
        "software": __version__,
        "source": [os.path.realpath(picture.path), status.st_size, status.st_mtime_ns],
        "model": [model.model.name, model.model.fingerprint],
        "precision": f"{model.precision} {model.backend}",
        "options": chosen,
        "degrees": degrees,
    }
    return json.loads(json.dumps(header))  # as it will be read again
