"""Restore a picture: the one place that holds the order of the steps: to the networks, walk, finish, write.

The caller reads the file: :class:`~s3diff.restoration.restorer.Restorer`, or a conveyor that reads ahead in another
thread. The order within the networks is that of :func:`s3diff.networks.one_step_generator.one_step`.

Colours are float from the first step to the last; :class:`~s3diff.restoration.regions.Canvas` keeps finished tiles in
the depth that it gets.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from s3diff.images.color_match import match_color
from s3diff.images.picture import Picture
from s3diff.images.provenance import Provenance
from s3diff.images.resampling import crop, from_network_range
from s3diff.networks.degradation_estimator import DEGREE_NAMES
from s3diff.networks.one_step_generator import one_step
from s3diff.options import Grey, OutputOptions, RestoreAt, RestoreOptions
from s3diff.restoration.device import repeatable
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.finishing import finish, is_finished_by_rounding, to_networks
from s3diff.restoration.memory import attempt
from s3diff.restoration.regions import (
    Canvas,
    LowQuality,
    PartCanvas,
    cut_at_edge,
    enlarged_part,
    estimate_in_tiles,
    tensor_reader,
)
from s3diff.restoration.result import Degrees, Result
from s3diff.restoration.sizes import Sizes, allowed_sizes
from s3diff.restoration.stage_events import (
    OnBegin,
    OnShare,
    OnStage,
    Passed,
    Progress,
    StageClock,
    passed_to,
    unchanged,
)
from s3diff.restoration.tile_plan import TilePlan
from s3diff.restoration.tiled_stages import TiledStages
from s3diff.tiling import HaloSpan, Span
from s3diff.version import __version__

if TYPE_CHECKING:
    from s3diff.images.files.content_credentials import ResultSigner


class Walked(NamedTuple):
    """Hold the result of :func:`walk`.

    Attributes:
        images: the pictures at the working size, [B, 3, H, W] in [0, 1]; None if a canvas holds them.
        results: a result for each, still without its picture.
        degrees: [B, 2] float32 in [0, 1], the degrees that were used.
    """

    images: Tensor | None
    results: list[Result]
    degrees: Tensor


class Opened(NamedTuple):
    picture: Picture
    sizes: Sizes


def opened_picture(picture: Picture, options: RestoreOptions, known: Sizes | None = None) -> Opened:
    """Add the sizes to a picture in memory.

    Raises:
        PictureError: its result would be too large.
    """
    size = (picture.width, picture.height)
    return Opened(picture, known if known and known.input == size else allowed_sizes(size, options, picture.path))


@torch.inference_mode()
def restore(
    model: DeviceModel,
    opened: Sequence[Opened],
    options: RestoreOptions,
    progress: Progress | None = None,
    *,
    in_turn: bool = False,
    degrees: Degrees | Sequence[Degrees] | None = None,
    grey: Grey | None = None,
    on_stage: OnStage | None = None,
    on_begin: OnBegin | None = None,
    on_share: OnShare | None = None,
) -> list[Result]:
    """Restore pictures of one size, together if memory allows it, otherwise one by one and in tiles.

    Args:
        options: with the filter that enlarges the input filled in.
        progress: called after every tile.
        degrees: for all or each of the pictures, instead of the estimate and of the options' degrees.
        grey: replaces the options' value.

    Raises:
        PictureError: memory does not suffice for the smallest tiles.
        ModelError: the options ask for a prompt that the model cannot encode.
    """
    sizes, pictures = opened[0].sizes, [each.picture for each in opened]
    if grey is not None:
        options = options.with_valid(grey=grey)

    def restore_under(plan: TilePlan, notes: tuple[str, ...]) -> list[Result]:
        if len(pictures) > 1 and not plan.is_whole:
            one = partial(restore, model, options=options, progress=progress)
            hooked = partial(one, on_stage=on_stage, on_begin=on_begin, on_share=on_share)
            own = [degrees] * len(opened) if degrees is None or isinstance(degrees, Degrees) else degrees
            return [hooked([each], degrees=its)[0] for each, its in zip(opened, own, strict=True)]
        colors = torch.cat([to_networks(picture) for picture in pictures])
        low_quality = LowQuality(tensor_reader(colors), sizes.input[::-1], len(pictures))
        is_final = [is_finished_by_rounding(picture, sizes, options) for picture in pictures]
        canvas = _canvas(pictures[0], sizes, options, is_final[0]) if plan.num_regions > 1 else None
        made = walk(
            model,
            low_quality,
            sizes,
            options,
            plan,
            canvas=canvas,
            progress=progress,
            in_turn=in_turn,
            degrees=as_tensor(degrees),
            passed=passed_to(on_stage),
            on_begin=on_begin,
            on_share=on_share,
        )
        if on_begin is not None:
            on_begin("finish", plan.num_regions, plan.num_regions)
        images = [canvas] if made.images is None else made.images.split(1)
        each_of = zip(made.results, images, pictures, is_final, strict=True)
        return [_finished(*each, sizes, options, notes) for each in each_of]

    width, height = sizes.working
    return attempt(
        restore_under,
        model.plan_tiles(sizes, options, len(pictures)),
        model,
        f"not enough memory for an output of {width} x {height} px; choose a smaller scale, size or tile, or a "
        "device with more memory",
    )


def walk(
    model: DeviceModel,
    low_quality: LowQuality,
    sizes: Sizes,
    options: RestoreOptions,
    plan: TilePlan,
    *,
    canvas: PartCanvas | None = None,
    progress: Progress | None = None,
    in_turn: bool = False,
    degrees: Tensor | None = None,
    passed: Passed = unchanged,
    on_begin: OnBegin | None = None,
    on_share: OnShare | None = None,
) -> Walked:
    """Run the method on opaque sRGB pictures of one size; gradients pass where they are enabled.

    Args:
        options: with the filter that enlarges the input filled in.
        plan: of the working size.
        canvas: collects the parts of one picture; parts that it holds are not computed again. None if the plan has one
            part.
        progress: called after every tile.
        degrees: [B, 2] or, for all pictures, [1, 2], instead of the estimate and the options' degrees.
    """
    # Folded weights occupy one place until the next picture's, and a plan depends on the device's free memory.
    with model.turn(), repeatable(exactly=not model.acceleration.compiled):
        generator, count, (width, height) = model.generator, low_quality.num_pictures, sizes.working
        positive, negative = model.prompts(options, count)
        assert options.guidance is not None, "for_model fills it in"
        clock, part = StageClock(model.device, plan.num_regions, on_begin), 1 if in_turn else count
        with clock.stage("estimate"):
            estimated = _estimated(model, low_quality, in_turn)
            used = _overridden(estimated, options) if degrees is None else degrees.to(estimated).expand(count, 2)
            matrices = zip(*(generator.conditioning(each) for each in used.split(part)), strict=True)
            for_encoder, for_unet = (_scaled(torch.cat(each), options) for each in matrices)
        with clock.stage("fold"):
            encoder_adaptation, unet_adaptation = model.adaptations(for_encoder, for_unet, in_turn)
        # On the CPU: not every device has the filter against aliasing, and all enlarge alike.
        enlarged = partial(enlarged_part, low_quality, (height, width), options.upsampling or model.upsampling)
        regions, result = plan.regions, None
        # A GPU computes a block after its call has returned: such a share would be too high.
        share = on_share if model.device.type == "cpu" and not model.acceleration.compiled else None
        for done, (rows, columns) in enumerate(regions):
            if canvas is not None and canvas.holds(rows, columns):
                continue
            clock.part = done
            in_tiles = partial(progress, "predict") if progress else None
            decoder = model.decoder_for(options)
            stages = model.runtime or TiledStages(generator, plan, in_tiles, decoder, share, in_turn=in_turn)
            with clock.stage("prepare"):
                base, image = enlarged(rows.read, columns.read, model.device)
                noise = _latent_noise(model, plan, rows, columns, options)
            predict = partial(
                stages.predict_guided,
                positive=positive,
                negative=negative,
                guidance=options.guidance,
                adaptation=unet_adaptation,
            )
            seen = partial(passed, rows=rows, columns=columns)
            decoded = one_step(stages, image, encoder_adaptation, predict, noise, clock.stage, seen)
            with clock.stage("color"):
                rows, columns = cut_at_edge(rows, height), cut_at_edge(columns, width)
                base = crop(base, rows.read.length, columns.read.length)
                decoded = crop(from_network_range(decoded), rows.read.length, columns.read.length)
                if canvas is None:
                    pairs = zip(decoded.split(part), base.split(part), strict=True)
                    result = torch.cat([match_color(*pair, options.color_match) for pair in pairs])
                else:
                    canvas.write(decoded, base, rows, columns)
            if progress is not None:
                progress("tiles", done + 1, len(regions))
        seconds = clock.shared_by(count)
        results = [
            Result(
                size=sizes.output, degrees=Degrees(*each), estimated=Degrees(*found), seconds=seconds, options=options,
                provenance=_statement(model, options, sizes, plan, Degrees(*each), Degrees(*found)),
            )
            for each, found in zip(used.tolist(), estimated.tolist(), strict=True)
        ]  # fmt: skip
    return Walked(result, results, used)


def as_tensor(degrees: Degrees | Sequence[Degrees] | None) -> Tensor | None:
    """Convert one picture's degrees to [1, 2], those of several to [B, 2]."""
    return None if degrees is None else torch.tensor(degrees, dtype=torch.float32).view(-1, 2)


def write(result: Result, target: Path, writing: OutputOptions, signer: ResultSigner | None = None) -> Result:
    """Write a picture; return the result with its path and all notes.

    Raises:
        OutputError: the file cannot be written; nothing is left half written.
    """
    lost = result.save(
        target, quality=writing.quality, overwrite=writing.overwrite, provenance=writing.provenance, signer=signer
    )
    notes = (*result.picture.notes, *result.notes, *lost)
    return replace(result, in_memory=None, in_file=target, notes=notes)


def estimate(model: DeviceModel, picture: Picture) -> Degrees:
    """Estimate how degraded a picture is, as :func:`walk` would, without waiting for a running restoration."""
    with model.placed, torch.inference_mode(), repeatable(exactly=not model.acceleration.compiled):
        colors = to_networks(picture)
        found = estimate_in_tiles(
            model.generator.estimator, tensor_reader(colors), (picture.height, picture.width), model.device
        )
        return Degrees(*found[0].tolist())


def _finished(
    result: Result,
    image: Tensor | Canvas | None,
    picture: Picture,
    is_final: bool,
    sizes: Sizes,
    options: RestoreOptions,
    notes: tuple[str, ...],
) -> Result:
    """Put the finished picture into its result; measure the time unless only rounding is needed (``is_final``)."""
    assert image is not None  # the walk gave it, or took the canvas
    started = time.perf_counter()
    finished = finish(image, picture, sizes, options, is_final=is_final)
    seconds = dict(result.seconds)
    if not is_final:
        seconds["finish"] = time.perf_counter() - started
        seconds["total"] = sum(value for stage, value in seconds.items() if stage != "total")
    stated = None if result.provenance is None else replace(result.provenance, input_digest=picture.digest())
    finished = replace(finished, provenance=stated)
    return replace(result, in_memory=finished, seconds=seconds, notes=notes, provenance=stated)


def _statement(
    model: DeviceModel, options: RestoreOptions, sizes: Sizes, plan: TilePlan, degrees: Degrees, estimated: Degrees
) -> Provenance:
    """State how a result was made; this machine's choices replace ``auto``, so that another machine can repeat them."""
    restore_at: RestoreAt = "output" if sizes.working == sizes.uncut else "model"
    # A side given by hand means tiles for every stage; where only the UNet runs in tiles, the choice stays ``auto``.
    is_in_tiles = plan.is_local or plan.autoencoder == "tiles"
    tile: Any = "off" if plan.is_whole else plan.tile_px if is_in_tiles and plan.tile_px else options.tile
    is_stated = plan.released is not None or tile != "auto"
    return Provenance(
        model=model.model.name,
        fingerprint=model.model.fingerprint,
        version=__version__,
        is_generative=model.model.description.is_generative,
        precision=model.precision,
        device=model.runs_on,
        is_compiled=model.acceleration.compiled,
        options=options.with_valid(restore_at=restore_at, tile=tile),
        tiles="" if is_stated else f"UNet {plan.tile_px or 'whole'}, autoencoder {plan.autoencoder}",
        blur=degrees.blur,
        noise=degrees.noise,
        estimated_blur=estimated.blur,
        estimated_noise=estimated.noise,
    )


def _canvas(picture: Picture, sizes: Sizes, options: RestoreOptions, is_final: bool) -> Canvas:
    is_kept = is_final or picture.pixels.dtype.kind == "f"
    depth = picture.pixels.dtype if is_kept else np.dtype(np.uint16)
    return Canvas(sizes.working[::-1], depth, options.color_match, in_grey=picture.is_neutral)


def _estimated(model: DeviceModel, low_quality: LowQuality, in_turn: bool) -> Tensor:
    """Estimate [B, 2]; one by one with ``in_turn``, since a batch rounds sums differently."""
    estimator, (read_part, size, count) = model.generator.estimator, low_quality
    if not in_turn:
        return estimate_in_tiles(estimator, read_part, size, model.device)

    def read_one(rows: Span, columns: Span, index: int) -> Tensor:
        return read_part(rows, columns)[index : index + 1].clone()  # aligned as a picture of its own

    readers = [partial(read_one, index=index) for index in range(count)]
    return torch.cat([estimate_in_tiles(estimator, reader, size, model.device) for reader in readers])


def _overridden(estimated: Tensor, options: RestoreOptions) -> Tensor:
    """Replace or shift [B, 2] by the degrees that the options give."""
    degrees = estimated.clone()
    for column, name in enumerate(DEGREE_NAMES):
        value = getattr(options, name)
        if isinstance(value, str):  # in float64, as one number would be moved
            degrees[:, column] = (estimated[:, column].double() + float(value)).clamp(0, 1)
        elif value is not None:
            degrees[:, column] = value
    return degrees


def _scaled(matrices: Tensor, options: RestoreOptions) -> Tensor:
    """Scale the LoRA's matrices: W + s B M^T A is linear in M."""
    return matrices if options.lora_scale == 1 else matrices * options.lora_scale


def _latent_noise(
    model: DeviceModel, plan: TilePlan, rows: HaloSpan, columns: HaloSpan, options: RestoreOptions
) -> Tensor | None:
    """Draw for each picture the noise that a batch of one would get; on the CPU, equal for every device.

    Noise is drawn for the whole picture, whatever the tiles.
    """
    if options.latent == "mean":
        return None
    config = model.config.autoencoder
    shape = (1, config.latent_channels, plan.height // config.downscale, plan.width // config.downscale)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed))
    down, across = (slice(*(side // config.downscale for side in span.read)) for span in (rows, columns))
    return noise[:, :, down, across].to(model.device)
