"""Restore pictures given as tensors: validate them, and return the caller's layout and number format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from s3diff.errors import OptionError
from s3diff.images.color_match import match_color
from s3diff.options import ColorMatch, RestoreOptions
from s3diff.picture_tensors import checked_degrees, checked_pictures
from s3diff.restoration import steps
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.finishing import finish_colors
from s3diff.restoration.memory import attempt
from s3diff.restoration.regions import LowQuality, PartCanvas, tensor_reader
from s3diff.restoration.sizes import Sizes, allowed_sizes
from s3diff.restoration.stage_events import OnStage, passed_to
from s3diff.restoration.tile_plan import TilePlan
from s3diff.tiling import HaloSpan, Span


@dataclass(frozen=True, kw_only=True, eq=False)
class RestoredTensors:
    """Hold restored pictures as tensors on the model's device.

    Attributes:
        images: [B, 3, H, W] or [B, H, W, 3] like the input: uint8, or floats of the input's type in [0, 1].
        degrees: [B, 2] float32 in [0, 1], the blur and noise that were used.
        latent: [B, latent_channels, H', W'] float32, scaled: x0 of the padded picture, before decoding.
        seconds: of one picture by stage, as in :class:`s3diff.Restored`.
    """

    images: Tensor
    degrees: Tensor
    latent: Tensor
    seconds: Mapping[str, float]


class TensorCanvas(PartCanvas):
    """Collect the parts of pictures that are tensors; gradients pass through.

    Args:
        size: (height, width) of the pictures, without padding.
        padded_size: with padding.
        downscale: picture side over latent side.
        color_match: how colours are taken from the enlarged input; ``adain`` when all parts are there.
    """

    def __init__(
        self, size: tuple[int, int], padded_size: tuple[int, int], downscale: int, color_match: ColorMatch
    ) -> None:
        self._size, self._padded_size, self._downscale, self._color_match = size, padded_size, downscale, color_match
        self._result: Tensor | None = None
        self._base: Tensor | None = None
        self._latent: Tensor | None = None

    def write(self, result: Tensor, base: Tensor, rows: HaloSpan, columns: HaloSpan) -> None:
        if self._color_match == "adain":
            self._base = _placed(self._base, base, self._size, rows, columns)
        else:
            result = match_color(result, base, self._color_match)
        self._result = _placed(self._result, result, self._size, rows, columns)

    def write_latent(self, latent: Tensor, rows: HaloSpan, columns: HaloSpan) -> None:
        """Keep the clean latent of one part, whose spans are those of the padded picture."""
        size = (self._padded_size[0] // self._downscale, self._padded_size[1] // self._downscale)
        in_latents = (_divided(span, self._downscale) for span in (rows, columns))
        self._latent = _placed(self._latent, latent, size, *in_latents)

    def matched(self) -> Tensor:
        """Return the pictures with the colours of the enlarged input, [B, 3, H, W]; values may leave [0, 1]."""
        assert self._result is not None  # a picture has a part
        return self._result if self._base is None else match_color(self._result, self._base, self._color_match)

    @property
    def latent(self) -> Tensor:
        """Return the clean latents, [B, latent_channels, h, w]."""
        assert self._latent is not None
        return self._latent


def restore_tensors(
    model: DeviceModel,
    images: Tensor,
    options: RestoreOptions,
    *,
    degrees: Tensor | None = None,
    differentiable: bool = False,
    clamp: bool = False,
    channels_last: bool | None = None,
    on_stage: OnStage | None = None,
    progress: steps.Progress | None = None,
) -> RestoredTensors:
    """Restore pictures; see :meth:`s3diff.Restorer.restore_tensor` for arguments and errors."""
    if differentiable and model.backend != "torch":
        raise OptionError(f"backend is {model.backend!r}, which passes no gradients; load the model with 'torch'")
    given = checked_pictures(images, clamp=clamp, channels_last=channels_last)
    colors = given.colors.to(model.device)
    count, _, height, width = colors.shape
    sizes = allowed_sizes((width, height), options, "the tensor")
    chosen = None if degrees is None else checked_degrees(degrees, count).to(model.device)
    run = partial(_restored, model, sizes=sizes, options=options, on_stage=on_stage, progress=progress)

    def restore_under(plan: TilePlan, _: tuple[str, ...]) -> RestoredTensors:
        # Blended tiles are of one picture.
        parts = [1] * count if count > 1 and not plan.is_whole else [count]
        each_degrees = [None] * len(parts) if chosen is None else chosen.split(parts)
        each_of = zip(colors.split(parts), each_degrees, strict=True)
        done = [run(part, degrees=own, plan=plan) for part, own in each_of]
        return RestoredTensors(
            images=given.like(torch.cat([each.images for each in done])),
            degrees=torch.cat([each.degrees for each in done]),
            latent=torch.cat([each.latent for each in done]),
            seconds=done[0].seconds,
        )

    with torch.inference_mode(False), torch.set_grad_enabled(differentiable):
        plan = model.plan_tiles(sizes, options, count)
        return attempt(restore_under, plan, model, f"not enough memory for {count} tensors of {width} x {height}")


def _restored(
    model: DeviceModel,
    colors: Tensor,
    *,
    degrees: Tensor | None,
    plan: TilePlan,
    sizes: Sizes,
    options: RestoreOptions,
    on_stage: OnStage | None,
    progress: steps.Progress | None,
) -> RestoredTensors:
    low_quality = LowQuality(tensor_reader(colors), sizes.input[::-1], len(colors))
    downscale = model.config.autoencoder.downscale
    canvas = TensorCanvas(sizes.working[::-1], (plan.height, plan.width), downscale, options.color_match)
    seen = passed_to(on_stage)

    def passed(name: str, tensor: Tensor, rows: HaloSpan, columns: HaloSpan) -> Tensor:
        tensor = seen(name, tensor, rows, columns)
        if name == "clean":
            canvas.write_latent(tensor, rows, columns)
        return tensor

    walked = steps.walk(
        model, low_quality, sizes, options, plan, canvas=canvas, progress=progress, degrees=degrees, passed=passed
    )
    matched = canvas.matched().clamp(0, 1)
    finished = finish_colors(matched, colors.to(matched.device), sizes, options).clamp(0, 1)
    return RestoredTensors(
        images=finished, degrees=walked.degrees, latent=canvas.latent, seconds=walked.results[0].seconds
    )


def _placed(whole: Tensor | None, part: Tensor, size: tuple[int, int], rows: HaloSpan, columns: HaloSpan) -> Tensor:
    """Put ``part`` without its halo at its place in the whole; a part that is the whole is returned as it is."""
    if tuple(part.shape[2:]) == size:
        return part
    if whole is None:
        whole = part.new_empty((*part.shape[:2], *size))
    whole[:, :, slice(*rows.kept), slice(*columns.kept)] = part[:, :, rows.kept_in_read, columns.kept_in_read]
    return whole


def _divided(span: HaloSpan, divisor: int) -> HaloSpan:
    return HaloSpan(*(Span(each.start // divisor, each.stop // divisor) for each in span))
