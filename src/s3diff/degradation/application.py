"""Apply a draw to its ground truths: a fast version and its readable twin.

After the first resize every image has a size of its own, so that little of the middle can be done for several at
once. What can be (the same step on images of one size) is one call where it pays: on a GPU always, on a processor for
only small pictures, such as the low-quality ones at the end; larger ones leave its caches. No step's result depends
on what else is in its call, so an image comes out the same to the bit in every batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from s3diff.degradation.jpeg import JpegConvention, compress_jpeg
from s3diff.degradation.kernels import (
    PADDED_SIDE_PX,
    PULSE,
    KernelParameters,
    cut_kernels,
    filter_per_image,
    needed_radii,
)
from s3diff.degradation.noise import MIN_PHOTONS, gaussian_noise, poisson_noise
from s3diff.degradation.resize import RESIZE_MODES, resize
from s3diff.degradation.settings import DegradationSettings
from s3diff.errors import OptionError

#: Kinds of noise by the number that stands for them in a draw.
NOISE_KINDS = ("none", "gaussian", "poisson")
GAUSSIAN, POISSON = 1, 2

#: No picture between the steps gets smaller than this: the largest kernel mirrors 10 px beyond each edge.
MIN_SIDE_PX = PADDED_SIDE_PX // 2 + 1


@dataclass(frozen=True)
class StageDraw:
    """Hold one blur, resize, noise and JPEG for each image of a batch; all tensors on the CPU.

    Attributes:
        blur: the kernels; family ``pulse`` where there is no blur.
        size_px: [B, 2] int64, height and width after the resize.
        resize_mode: [B] int64, index into ``RESIZE_MODES``.
        noise_kind: [B] int64, index into ``NOISE_KINDS``.
        noise_strength: [B] float64: standard deviation of Gaussian noise on 0 to 255, or the factor on Poisson noise.
        noise_is_grey: [B] bool.
        jpeg_quality: [B] float64, 1 to 100; 0 for no JPEG.
    """

    blur: KernelParameters
    size_px: Tensor
    resize_mode: Tensor
    noise_kind: Tensor
    noise_strength: Tensor
    noise_is_grey: Tensor
    jpeg_quality: Tensor

    def rows(self, start: int, stop: int) -> StageDraw:
        """Return the draws of the images from ``start`` up to, not including, ``stop``."""
        tensors = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "blur"}
        sliced = {name: values[start:stop] for name, values in tensors.items()}
        return StageDraw(blur=self.blur.rows(start, stop), **sliced)


@dataclass(frozen=True)
class DegradationDraw:
    """Hold every random number of one batch.

    Attributes:
        settings: the ranges that the numbers were drawn from.
        ground_truth_size_px: height and width of the ground truth.
        low_quality_size_px: height and width of the result.
        stages: the first and the second stage. The second one's JPEG comes after or before the final sinc.
        final_mode: [B] int64, index into ``RESIZE_MODES``: the resize to the result's size.
        final_sinc: the last filter; family ``pulse`` where there is none.
        jpeg_is_last: [B] bool: resize and sinc then JPEG, or JPEG then resize and sinc.
        noise_seeds: [B] int64, at least 0: seed of the noise of every pixel; each stage adds its number, 0 or 1.
        shared_noise_seed: the same for grey Gaussian noise, which all images share with ``like_release``.
    """

    settings: DegradationSettings
    ground_truth_size_px: tuple[int, int]
    low_quality_size_px: tuple[int, int]
    stages: tuple[StageDraw, StageDraw]
    final_mode: Tensor
    final_sinc: KernelParameters
    jpeg_is_last: Tensor
    noise_seeds: Tensor
    shared_noise_seed: int

    @property
    def batch_size(self) -> int:
        return len(self.jpeg_is_last)

    def without_noise(self) -> DegradationDraw:
        """Return the draw without noise in either stage; blur, sizes and JPEG stay."""
        stages = [replace(stage, noise_kind=torch.zeros_like(stage.noise_kind)) for stage in self.stages]
        return replace(self, stages=(stages[0], stages[1]))

    def rows(self, start: int, stop: int) -> DegradationDraw:
        """Return the draw of the images from ``start`` up to, not including, ``stop``.

        ``apply(ground_truth[start:stop], drawn.rows(start, stop))`` equals ``apply(ground_truth, drawn)[start:stop]``
        to the bit: of several processes each draws for the whole batch and applies its own rows.

        Raises:
            OptionError: there are no such images.
        """
        if not 0 <= start < stop <= self.batch_size:
            raise OptionError(f"rows {start} to {stop} of a draw for {self.batch_size} images; give 0 <= start < stop")
        first, second = self.stages
        return replace(
            self,
            stages=(first.rows(start, stop), second.rows(start, stop)),
            final_mode=self.final_mode[start:stop],
            final_sinc=self.final_sinc.rows(start, stop),
            jpeg_is_last=self.jpeg_is_last[start:stop],
            noise_seeds=self.noise_seeds[start:stop],
        )


#: On a processor, pictures of more pixels go through all their steps one after the other (benchmarks/degradation.py).
_CPU_GROUPED_UP_TO_PX = 128 * 128

#: Images [1, 3, h, w] by their row in the batch.
_Images = dict[int, Tensor]


def apply(ground_truth: Tensor, drawn: DegradationDraw) -> Tensor:
    """Degrade every image of a batch by its own row of the draw.

    Args:
        ground_truth: [B, 3, H, W] float, RGB in [0, 1], of the batch and size that were drawn for.

    Returns:
        [B, 3, H / scale, W / scale] float32, RGB in [0, 1], rounded to multiples of 1/255.

    Raises:
        OptionError: the batch or its pictures are of another size than the draw.
    """
    _check_size(ground_truth, drawn)
    blurs = [_Blur(parameters) for parameters in (*(stage.blur for stage in drawn.stages), drawn.final_sinc)]
    images = {row: ground_truth[row : row + 1].float() for row in range(drawn.batch_size)}
    with torch.no_grad():
        reduced: _Images = {}
        for part in _parts(images):
            reduced |= _reduce(part, drawn, blurs)
        finished: _Images = {}
        for part in _parts(reduced):
            finished |= _compress(blurs[2](part), drawn, 1, drawn.jpeg_is_last)
        return torch.cat([finished[row] for row in images]).clamp_(0, 1).mul_(255).round_().div_(255)


def apply_reference(ground_truth: Tensor, drawn: DegradationDraw) -> Tensor:
    """Apply a draw image after image, with whole kernels: the readable twin of ``apply``.

    Before JPEG and the last rounding both agree to 1e-5. Where a value lies that near to a half, the rounding may go
    the other way, which moves one pixel by a level or, in JPEG, one block by one step of its table.
    """
    _check_size(ground_truth, drawn)
    with torch.no_grad():
        images = [_degrade_one(ground_truth[row : row + 1].float(), drawn, row) for row in range(drawn.batch_size)]
    return torch.cat(images)


# The plain way


def _degrade_one(image: Tensor, drawn: DegradationDraw, row: int) -> Tensor:
    first, second = drawn.stages
    jpeg_is_last = bool(drawn.jpeg_is_last[row])

    image = _blur_one(image, first.blur, row)
    image = _resize_one(image, first, row)
    image = _add_noise_to_one(image, drawn, 0, row)
    image = _compress_one(image, drawn, 0, row)

    image = _blur_one(image, second.blur, row)
    image = _resize_one(image, second, row)
    image = _add_noise_to_one(image, drawn, 1, row)
    if not jpeg_is_last:
        image = _compress_one(image, drawn, 1, row)
    image = resize(image, drawn.low_quality_size_px, RESIZE_MODES[int(drawn.final_mode[row])])
    image = _blur_one(image, drawn.final_sinc, row)
    if jpeg_is_last:
        image = _compress_one(image, drawn, 1, row)
    return (image.clamp(0, 1) * 255).round() / 255


def _blur_one(image: Tensor, parameters: KernelParameters, row: int) -> Tensor:
    return filter_per_image(image, parameters.rows(row, row + 1).kernels())


def _resize_one(image: Tensor, stage: StageDraw, row: int) -> Tensor:
    height, width = stage.size_px[row].tolist()
    return resize(image, (height, width), RESIZE_MODES[int(stage.resize_mode[row])])


def _add_noise_to_one(image: Tensor, drawn: DegradationDraw, stage_index: int, row: int) -> Tensor:
    stage, like_release = drawn.stages[stage_index], drawn.settings.like_release
    kind, strength = int(stage.noise_kind[row]), stage.noise_strength[row : row + 1]
    is_grey = stage.noise_is_grey[row : row + 1]
    # One generator for each image and stage: an image's noise does not depend on the rest of the batch.
    is_shared = like_release and kind == GAUSSIAN and bool(is_grey)
    seed = drawn.shared_noise_seed if is_shared else int(drawn.noise_seeds[row])
    generator = torch.Generator(image.device).manual_seed(seed + stage_index)
    if kind == GAUSSIAN:
        return (image + gaussian_noise(image, strength, is_grey, generator)).clamp_(0, 1)
    if kind == POISSON:
        fewest = 1 if like_release else MIN_PHOTONS
        return (image + poisson_noise(image, strength, is_grey, generator, fewest)).clamp_(0, 1)
    return image


def _compress_one(image: Tensor, drawn: DegradationDraw, stage_index: int, row: int) -> Tensor:
    quality = float(drawn.stages[stage_index].jpeg_quality[row])
    return compress_jpeg(image, quality, _jpeg_convention(drawn)) if quality else image


# The fast way


def _reduce(images: _Images, drawn: DegradationDraw, blurs: list[_Blur]) -> _Images:
    """Apply everything except the final sinc and the JPEG behind it."""
    first, second = drawn.stages
    every = torch.ones_like(drawn.jpeg_is_last)
    images = _resize(blurs[0](images), first.size_px.tolist(), first.resize_mode)
    images = {row: _add_noise_to_one(image, drawn, 0, row) for row, image in images.items()}
    images = _compress(images, drawn, 0, every)

    images = _resize(blurs[1](images), second.size_px.tolist(), second.resize_mode)
    images = {row: _add_noise_to_one(image, drawn, 1, row) for row, image in images.items()}
    images = _compress(images, drawn, 1, ~drawn.jpeg_is_last)
    return _resize(images, [list(drawn.low_quality_size_px)] * drawn.batch_size, drawn.final_mode)


class _Blur:
    """Blur images with the batch's kernels, made once, each cut to the side that counts."""

    def __init__(self, parameters: KernelParameters) -> None:
        self.kernels = parameters.kernels()
        self.radii_px = needed_radii(self.kernels)
        self.is_pulse = (parameters.family == PULSE).tolist()

    def __call__(self, images: _Images) -> _Images:
        def blur(batch: Tensor, rows: list[int]) -> Tensor:
            return filter_per_image(batch, cut_kernels(self.kernels[rows], self.radii_px[rows[0]]))

        return _grouped(images, blur, lambda row: None if self.is_pulse[row] else self.radii_px[row])


def _resize(images: _Images, sizes_px: list[list[int]], modes: Tensor) -> _Images:
    names = [RESIZE_MODES[index] for index in modes.tolist()]

    def change(batch: Tensor, rows: list[int]) -> Tensor:
        height, width = sizes_px[rows[0]]
        return resize(batch, (height, width), names[rows[0]])

    return _grouped(images, change, lambda row: (*sizes_px[row], names[row]))


def _compress(images: _Images, drawn: DegradationDraw, stage_index: int, wanted: Tensor) -> _Images:
    qualities = drawn.stages[stage_index].jpeg_quality * wanted
    has_jpeg = (qualities > 0).tolist()

    def compress(batch: Tensor, rows: list[int]) -> Tensor:
        return compress_jpeg(batch, qualities[rows], _jpeg_convention(drawn))

    return _grouped(images, compress, lambda row: "jpeg" if has_jpeg[row] else None)


def _grouped(
    images: _Images, change: Callable[[Tensor, list[int]], Tensor], key: Callable[[int], Hashable | None]
) -> _Images:
    """Change the images of equal size and key in one call; those with the key None stay as they are."""
    changed, groups = dict(images), defaultdict(list)
    for row, image in images.items():
        if (value := key(row)) is not None:
            groups[image.shape, value].append(row)
    for rows in groups.values():
        batch = images[rows[0]] if len(rows) == 1 else torch.cat([images[row] for row in rows])
        changed |= zip(rows, change(batch, rows).split(1), strict=True)
    return changed


def _parts(images: _Images) -> list[_Images]:
    """Return the images that go through the steps together; all have one size."""
    image = next(iter(images.values()))
    if image.is_cuda or image.shape[-2] * image.shape[-1] <= _CPU_GROUPED_UP_TO_PX:
        return [images]
    return [{row: image} for row, image in images.items()]


def _jpeg_convention(drawn: DegradationDraw) -> JpegConvention:
    return "release" if drawn.settings.like_release else "encoder"


def _check_size(ground_truth: Tensor, drawn: DegradationDraw) -> None:
    expected = (drawn.batch_size, 3, *drawn.ground_truth_size_px)
    if tuple(ground_truth.shape) != expected:
        raise OptionError(f"images have shape {tuple(ground_truth.shape)}, the draw is for {expected}; draw for these")
