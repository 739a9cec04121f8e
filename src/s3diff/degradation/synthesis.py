"""Degrade ground truth in the two stages of Real-ESRGAN (arXiv 2107.10833, section 3 and figure 2).

``draw`` makes every random choice of a batch, each one for each image; ``apply`` is a function of the ground truth
and only on that draw. The ranges of ``PRESETS["s3diff"]`` are those that S3Diff (arXiv 2409.17058) was released with.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s3diff.degradation.application import (
    GAUSSIAN,
    MIN_SIDE_PX,
    POISSON,
    DegradationDraw,
    StageDraw,
    apply,
)
from s3diff.degradation.kernels import (
    KERNEL_FAMILIES,
    PADDED_SIDE_PX,
    PULSE,
    SHARPENING,
    SINC,
    KernelParameters,
    pulse_parameters,
)
from s3diff.degradation.resize import RESIZE_MODES
from s3diff.degradation.settings import PRESETS, DegradationSettings, StageSettings, checked_seed
from s3diff.errors import OptionError
from s3diff.options import as_whole
from s3diff.picture_tensors import checked_pictures

#: Seeds of noise are drawn from 0 up to this; a stage's number is added to them.
_NUM_SEEDS = 2**62
_SHORTEST_KERNEL_SIDE_PX = 7
_NUM_KERNEL_SIDES = (PADDED_SIDE_PX - _SHORTEST_KERNEL_SIDE_PX) // 2 + 1
#: Cut-offs of the sinc kernels, in radians for each pixel, reach from the first value to pi; those of kernels below
#: 13 px and of the final filter from the second.
LOWEST_CUTOFF, LOWEST_CUTOFF_SHORT = math.pi / 5, math.pi / 3
_SHORT_SINC_SIDE_PX = 13


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
    noise_seeds = torch.randint(_NUM_SEEDS, (batch_size,), generator=generator)
    shared_noise_seed = int(torch.randint(_NUM_SEEDS, (1,), generator=generator))

    drawn = DegradationDraw(
        settings=settings,
        ground_truth_size_px=(height, width),
        low_quality_size_px=low_quality_size,
        stages=(first, second),
        final_mode=final_mode,
        final_sinc=final_sinc,
        jpeg_is_last=jpeg_is_last,
        noise_seeds=noise_seeds,
        shared_noise_seed=shared_noise_seed,
    )
    return _without_degradation(drawn, is_clean, clean_mode)


def draw_by_name(
    settings: DegradationSettings, height: int, width: int, scale: int, seed: int, name: str
) -> DegradationDraw:
    """Draw for one named picture of a set, by the seed and the name, not by the other pictures.

    Args:
        settings: see :func:`draw`, as are ``height``, ``width`` and ``scale``.
        name: the picture's, relative to the set's folder, with "/".

    Raises:
        OptionError: see :func:`draw`.
    """
    digest = hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    return draw(settings, 1, height, width, scale, generator)


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
    drawn = replace(
        pulse_parameters(batch_size),
        family=torch.where(is_filtered, SINC, PULSE),
        side_px=_draw_kernel_side(batch_size, generator),
        cutoff=_draw_even((LOWEST_CUTOFF_SHORT, math.pi), batch_size, generator),
    )
    if not settings.sharpening_probability:
        return drawn
    is_sharpened = torch.rand(batch_size, generator=generator) < settings.sharpening_probability
    return replace(
        drawn,
        family=torch.where(is_sharpened, SHARPENING, drawn.family),
        beta=_draw_even(settings.sharpening_amount, batch_size, generator),
        sigma_x_px=_draw_even(settings.sharpening_sigma_px, batch_size, generator),
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
    """Draw below 1 as often as above, whatever the range around 1."""
    is_below = torch.rand(batch_size, generator=generator) < 0.5
    below, above = _draw_even((ends[0], 1), batch_size, generator), _draw_even((1, ends[1]), batch_size, generator)
    return torch.where(is_below, below, above)


def _draw_index(chosen: tuple[str, ...], names: tuple[str, ...], batch_size: int, generator: torch.Generator) -> Tensor:
    indices = torch.tensor([names.index(name) for name in chosen])
    return indices[torch.randint(len(chosen), (batch_size,), generator=generator)]


def _without_degradation(drawn: DegradationDraw, rows: Tensor, mode: Tensor) -> DegradationDraw:
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


@dataclass(frozen=True)
class Degrade:
    """Degrade images with given ranges; can be pickled for workers of a DataLoader.

    Attributes:
        preset: a name of ``s3diff degrade --preset``, or settings of one's own.
        scale: ground truth side over low-quality side.

    Raises:
        OptionError: there is no such preset, or the scale is no whole number of at least 1.
    """

    preset: str | DegradationSettings = "s3diff"
    scale: int = 4

    def __post_init__(self) -> None:
        is_name = isinstance(self.preset, str) and self.preset in PRESETS
        if not is_name and not isinstance(self.preset, DegradationSettings):
            raise OptionError(f"preset is {self.preset!r}; give one of {', '.join(PRESETS)}, or DegradationSettings")
        scale = as_whole(self.scale)
        if scale is None or scale < 1:
            raise OptionError(f"scale is {self.scale!r}; give a whole number of at least 1")

    def __call__(self, ground_truth: Tensor, *, seed: int, clamp: bool = False) -> Tensor:
        """Degrade one picture or a batch, each picture in its own way; the same seed gives the same result.

        Args:
            ground_truth: [3, H, W] or [B, 3, H, W] RGB, uint8 or float in [0, 1]; sides are multiples of the scale.
            seed: of every random number, a whole number from -2^63 to 2^64 - 1.
            clamp: clamp values outside [0, 1] instead of refusing them.

        Returns:
            [3, H / scale, W / scale] or [B, ...] float32 in [0, 1], rounded to multiples of 1/255.

        Raises:
            PictureError: another kind, shape or type, values outside [0, 1] or not finite.
            OptionError: another seed, or sides that do not fit the scale.
        """
        is_one = isinstance(ground_truth, Tensor) and ground_truth.ndim == 3
        batch = checked_pictures(
            ground_truth[None] if is_one else ground_truth, clamp=clamp, channels_last=False
        ).colors
        settings = self.preset if isinstance(self.preset, DegradationSettings) else PRESETS[self.preset]
        generator = torch.Generator().manual_seed(checked_seed(seed))
        height, width = batch.shape[2:]
        drawn = draw(settings, len(batch), height, width, self.scale, generator)
        low_quality = apply(batch, drawn)
        return low_quality[0] if is_one else low_quality
