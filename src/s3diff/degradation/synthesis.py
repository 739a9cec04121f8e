"""Ground truth to low quality: the two-stage degradation of Real-ESRGAN (arXiv 2107.10833, section 3 and figure 2).

``draw`` makes every random choice of a batch, each one for each image; ``apply`` is a function of the ground truth
and that draw alone, image after image: after the first resize no two have the same size. The ranges of
``PRESETS["s3diff"]`` are those that S3Diff (arXiv 2409.17058) was released with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s3diff.degradation.jpeg import compress_jpeg
from s3diff.degradation.kernels import (
    KERNEL_FAMILIES,
    PADDED_SIDE_PX,
    PULSE,
    SINC,
    KernelParameters,
    filter_per_image,
    pulse_parameters,
    trim_kernel,
)
from s3diff.degradation.noise import MIN_PHOTONS, gaussian_noise, poisson_noise
from s3diff.degradation.resize import RESIZE_MODES, resize
from s3diff.degradation.settings import PRESETS, DegradationSettings, StageSettings
from s3diff.errors import OptionError

__all__ = ["PRESETS", "DegradationDraw", "DegradationSettings", "StageDraw", "StageSettings", "apply", "draw"]

#: Kinds of noise by the number that stands for them in a draw.
NOISE_KINDS = ("none", "gaussian", "poisson")
GAUSSIAN, POISSON = 1, 2

#: No picture between the steps gets smaller than this: the largest kernel mirrors 10 px beyond each edge.
MIN_SIDE_PX = PADDED_SIDE_PX // 2 + 1

_SHORTEST_KERNEL_SIDE_PX = 7
_NUM_KERNEL_SIDES = (PADDED_SIDE_PX - _SHORTEST_KERNEL_SIDE_PX) // 2 + 1
#: Cut-offs of the sinc kernels, in radians for each pixel, reach from the first value to pi; those of kernels below
#: 13 px and of the final filter from the second.
LOWEST_CUTOFF, LOWEST_CUTOFF_SHORT = math.pi / 5, math.pi / 3
_SHORT_SINC_SIDE_PX = 13


@dataclass(frozen=True)
class StageDraw:
    """One blur, resize, noise and JPEG for each image of a batch; all tensors on the CPU.

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


@dataclass(frozen=True)
class DegradationDraw:
    """Every random number of one batch.

    Attributes:
        settings: what the numbers were drawn from.
        ground_truth_size_px: height and width of the ground truth.
        low_quality_size_px: height and width of the result.
        stages: the first and the second stage. The second one's JPEG comes after or before the final sinc.
        final_mode: [B] int64, index into ``RESIZE_MODES``: the resize to the result's size.
        final_sinc: the last filter; family ``pulse`` where there is none.
        jpeg_is_last: [B] bool: resize and sinc then JPEG, or JPEG then resize and sinc.
        noise_seed: seed of the noise of every pixel; each image and stage gets its own generator from it.
    """

    settings: DegradationSettings
    ground_truth_size_px: tuple[int, int]
    low_quality_size_px: tuple[int, int]
    stages: tuple[StageDraw, StageDraw]
    final_mode: Tensor
    final_sinc: KernelParameters
    jpeg_is_last: Tensor
    noise_seed: int

    @property
    def batch_size(self) -> int:
        return len(self.jpeg_is_last)


def draw(
    settings: DegradationSettings,
    batch_size: int,
    height: int,
    width: int,
    scale: int,
    generator: torch.Generator,
) -> DegradationDraw:
    """Draw the degradation of a batch of ground truths of ``height`` x ``width`` pixels.

    Args:
        settings: ranges and probabilities, such as ``PRESETS["s3diff"]``.
        batch_size: number of images; every choice is made for each of them.
        height: height of the ground truth in pixels, a multiple of ``scale``.
        width: width of the ground truth in pixels, a multiple of ``scale``.
        scale: ground truth side over low-quality side.
        generator: source of the random numbers, on the CPU.

    Raises:
        OptionError: a side is no multiple of the scale or leaves less than ``MIN_SIDE_PX``.
    """
    low_quality_size = _low_quality_size(height, width, scale)
    is_clean = torch.rand(batch_size, generator=generator) < settings.clean_probability
    first = _draw_stage(settings.first, settings, batch_size, (height, width), generator)
    second = _draw_stage(settings.second, settings, batch_size, (height / scale, width / scale), generator)
    share = settings.like_release
    final_mode = _shared(_draw_index(settings.resize_modes, RESIZE_MODES, batch_size, generator), share)
    final_sinc = _draw_final_sinc(settings, batch_size, generator)
    jpeg_is_last = _shared(torch.rand(batch_size, generator=generator) < 0.5, share)
    clean_mode = _draw_index(settings.clean_modes, RESIZE_MODES, batch_size, generator)
    seed = int(torch.randint(2**62, (1,), generator=generator))

    drawn = DegradationDraw(
        settings=settings,
        ground_truth_size_px=(height, width),
        low_quality_size_px=low_quality_size,
        stages=(first, second),
        final_mode=final_mode,
        final_sinc=final_sinc,
        jpeg_is_last=jpeg_is_last,
        noise_seed=seed,
    )
    return _without_degradation(drawn, is_clean, clean_mode)


def apply(ground_truth: Tensor, drawn: DegradationDraw) -> Tensor:
    """Degrade every image of a batch by its own row of the draw.

    Args:
        ground_truth: [B, 3, H, W] float, RGB in [0, 1], of the batch and size that were drawn for.
        drawn: the result of ``draw``.

    Returns:
        [B, 3, H / scale, W / scale] float32, RGB in [0, 1], rounded to multiples of 1/255.

    Raises:
        OptionError: the batch or its pictures are of another size than the draw.
    """
    expected = (drawn.batch_size, 3, *drawn.ground_truth_size_px)
    if tuple(ground_truth.shape) != expected:
        raise OptionError(f"images have shape {tuple(ground_truth.shape)}, the draw is for {expected}; draw for these")
    kernels = [stage.blur.kernels().float() for stage in drawn.stages] + [drawn.final_sinc.kernels().float()]
    with torch.no_grad():
        results = [
            _degrade_one(ground_truth[row : row + 1].float(), drawn, [batch[row] for batch in kernels], row)
            for row in range(drawn.batch_size)
        ]
    return torch.cat(results)


def _degrade_one(image: Tensor, drawn: DegradationDraw, kernels: list[Tensor], row: int) -> Tensor:
    first, second = drawn.stages
    image = _blur(image, kernels[0], int(first.blur.family[row]))
    image = _resize_and_add_noise(image, drawn, 0, row)
    image = _compress(image, drawn, 0, row)

    image = _blur(image, kernels[1], int(second.blur.family[row]))
    image = _resize_and_add_noise(image, drawn, 1, row)
    jpeg_is_last = bool(drawn.jpeg_is_last[row])
    if not jpeg_is_last:
        image = _compress(image, drawn, 1, row)
    image = resize(image, drawn.low_quality_size_px, RESIZE_MODES[int(drawn.final_mode[row])])
    image = _blur(image, kernels[2], int(drawn.final_sinc.family[row]))
    if jpeg_is_last:
        image = _compress(image, drawn, 1, row)
    return (image.clamp(0, 1) * 255).round() / 255


def _blur(image: Tensor, kernel: Tensor, family: int) -> Tensor:
    return image if family == PULSE else filter_per_image(image, trim_kernel(kernel)[None])


def _resize_and_add_noise(image: Tensor, drawn: DegradationDraw, stage_index: int, row: int) -> Tensor:
    stage = drawn.stages[stage_index]
    height, width = stage.size_px[row].tolist()
    image = resize(image, (height, width), RESIZE_MODES[int(stage.resize_mode[row])])
    kind, strength = int(stage.noise_kind[row]), stage.noise_strength[row : row + 1]
    is_grey = stage.noise_is_grey[row : row + 1]
    like_release = drawn.settings.like_release
    # One generator for each image and stage: an image's noise does not depend on the rest of the batch.
    generator = torch.Generator(image.device).manual_seed(drawn.noise_seed + 2 * row + stage_index)
    if kind == GAUSSIAN:
        if like_release and bool(is_grey):
            generator.manual_seed(drawn.noise_seed + 2 * drawn.batch_size + stage_index)
        image = (image + gaussian_noise(image, strength, is_grey, generator)).clamp(0, 1)
    elif kind == POISSON:
        floor = 1 if like_release else MIN_PHOTONS
        image = (image + poisson_noise(image, strength, is_grey, generator, floor)).clamp(0, 1)
    return image


def _compress(image: Tensor, drawn: DegradationDraw, stage_index: int, row: int) -> Tensor:
    quality = float(drawn.stages[stage_index].jpeg_quality[row])
    if quality == 0:
        return image
    return compress_jpeg(image, quality, "release" if drawn.settings.like_release else "encoder")


def _low_quality_size(height: int, width: int, scale: int) -> tuple[int, int]:
    if scale < 1 or height % scale or width % scale or min(height, width) // scale < MIN_SIDE_PX:
        raise OptionError(
            f"a ground truth of {height} x {width} px cannot be reduced {scale} times; "
            f"give sides that are multiples of the scale and at least {MIN_SIDE_PX} times it"
        )
    return height // scale, width // scale


def _draw_stage(
    stage: StageSettings,
    settings: DegradationSettings,
    batch_size: int,
    base_size_px: tuple[float, float],
    generator: torch.Generator,
) -> StageDraw:
    share = settings.like_release
    factor = _shared(_draw_resize_factor(stage, batch_size, generator), share)
    sizes = [(base * factor).floor().long().clamp(min=MIN_SIDE_PX) for base in base_size_px]
    is_gaussian = _shared(torch.rand(batch_size, generator=generator) < stage.gaussian_probability, share)
    is_noisy = torch.rand(batch_size, generator=generator) < stage.noise_probability
    gaussian_sigma = _draw_even(stage.gaussian_sigma, batch_size, generator)
    poisson_scale = _draw_even(stage.poisson_scale, batch_size, generator)
    has_jpeg = torch.rand(batch_size, generator=generator) < stage.jpeg_probability
    quality = _draw_even(stage.jpeg_quality, batch_size, generator)
    return StageDraw(
        blur=_draw_blur(stage, settings, batch_size, generator),
        size_px=torch.stack(sizes, dim=1),
        resize_mode=_shared(_draw_index(settings.resize_modes, RESIZE_MODES, batch_size, generator), share),
        noise_kind=torch.where(is_gaussian, GAUSSIAN, POISSON) * is_noisy,
        noise_strength=torch.where(is_gaussian, gaussian_sigma, poisson_scale) * is_noisy,
        noise_is_grey=torch.rand(batch_size, generator=generator) < stage.grey_probability,
        jpeg_quality=quality * has_jpeg,
    )


def _draw_blur(
    stage: StageSettings, settings: DegradationSettings, batch_size: int, generator: torch.Generator
) -> KernelParameters:
    weights = torch.tensor(settings.kernel_probabilities, dtype=torch.float64)
    family = torch.multinomial(weights, batch_size, replacement=True, generator=generator)
    is_sinc = torch.rand(batch_size, generator=generator) < stage.sinc_probability
    is_blurred = _shared(torch.rand(batch_size, generator=generator) < stage.blur_probability, settings.like_release)
    generalised_beta = _draw_around_one(settings.generalised_beta, batch_size, generator)
    plateau_beta = _draw_around_one(settings.plateau_beta, batch_size, generator)
    is_plateau = family >= KERNEL_FAMILIES.index("plateau_isotropic")
    side = _draw_kernel_side(batch_size, generator)
    lowest_cutoff = torch.where(side < _SHORT_SINC_SIDE_PX, LOWEST_CUTOFF_SHORT, LOWEST_CUTOFF).double()
    family = torch.where(is_sinc, SINC, family)
    return KernelParameters(
        family=torch.where(is_blurred, family, PULSE),
        side_px=side,
        sigma_x_px=_draw_even(stage.blur_sigma_px, batch_size, generator),
        sigma_y_px=_draw_even(stage.blur_sigma_px, batch_size, generator),
        rotation=_draw_even((-math.pi, math.pi), batch_size, generator),
        beta=torch.where(is_plateau, plateau_beta, generalised_beta),
        cutoff=lowest_cutoff + (math.pi - lowest_cutoff) * _draw_even((0, 1), batch_size, generator),
    )


def _draw_final_sinc(settings: DegradationSettings, batch_size: int, generator: torch.Generator) -> KernelParameters:
    is_filtered = torch.rand(batch_size, generator=generator) < settings.final_sinc_probability
    return replace(
        pulse_parameters(batch_size),
        family=torch.where(is_filtered, SINC, PULSE),
        side_px=_draw_kernel_side(batch_size, generator),
        cutoff=_draw_even((LOWEST_CUTOFF_SHORT, math.pi), batch_size, generator),
    )


def _draw_resize_factor(stage: StageSettings, batch_size: int, generator: torch.Generator) -> Tensor:
    lowest, highest = stage.resize_factor
    enlarge, reduce, _ = stage.resize_probabilities
    choice = torch.rand(batch_size, generator=generator, dtype=torch.float64)
    up = _draw_even((1, highest), batch_size, generator)
    down = _draw_even((lowest, 1), batch_size, generator)
    return torch.where(choice < enlarge, up, torch.where(choice < enlarge + reduce, down, 1.0))


def _shared(values: Tensor, share: bool) -> Tensor:
    return values[:1].expand_as(values) if share else values


def _draw_kernel_side(batch_size: int, generator: torch.Generator) -> Tensor:
    return _SHORTEST_KERNEL_SIDE_PX + 2 * torch.randint(_NUM_KERNEL_SIDES, (batch_size,), generator=generator)


def _draw_even(ends: tuple[float, float], batch_size: int, generator: torch.Generator) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * torch.rand(batch_size, generator=generator, dtype=torch.float64)


def _draw_around_one(ends: tuple[float, float], batch_size: int, generator: torch.Generator) -> Tensor:
    """Below 1 as often as above, however the range lies around 1."""
    is_below = torch.rand(batch_size, generator=generator) < 0.5
    below, above = _draw_even((ends[0], 1), batch_size, generator), _draw_even((1, ends[1]), batch_size, generator)
    return torch.where(is_below, below, above)


def _draw_index(chosen: tuple[str, ...], names: tuple[str, ...], batch_size: int, generator: torch.Generator) -> Tensor:
    indices = torch.tensor([names.index(name) for name in chosen])
    return indices[torch.randint(len(chosen), (batch_size,), generator=generator)]


def _without_degradation(drawn: DegradationDraw, rows: Tensor, mode: Tensor) -> DegradationDraw:
    """The same draw, where in ``rows`` the second stage's resize by ``mode`` is all that is left."""
    first, second = drawn.stages
    return replace(
        drawn,
        stages=(
            _stage_without_degradation(first, rows, torch.tensor(drawn.ground_truth_size_px), mode),
            _stage_without_degradation(second, rows, torch.tensor(drawn.low_quality_size_px), mode),
        ),
        final_sinc=replace(drawn.final_sinc, family=torch.where(rows, PULSE, drawn.final_sinc.family)),
    )


def _stage_without_degradation(stage: StageDraw, rows: Tensor, size_px: Tensor, mode: Tensor) -> StageDraw:
    return replace(
        stage,
        blur=replace(stage.blur, family=torch.where(rows, PULSE, stage.blur.family)),
        size_px=torch.where(rows[:, None], size_px, stage.size_px),
        resize_mode=torch.where(rows, mode, stage.resize_mode),
        noise_kind=torch.where(rows, 0, stage.noise_kind),
        noise_strength=torch.where(rows, 0.0, stage.noise_strength),
        jpeg_quality=torch.where(rows, 0.0, stage.jpeg_quality),
    )
