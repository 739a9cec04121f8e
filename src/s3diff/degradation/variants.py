"""Draw variants that train the degradation estimator without labels (MM-RealSR, arXiv 2205.05065, section 3).

From one draw come pictures known to be blurrier or noisier than its own, and the two ends of the scale. Generators of
random numbers are on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from s3diff.degradation.application import GAUSSIAN, MIN_SIDE_PX, DegradationDraw, StageDraw
from s3diff.degradation.kernels import ISOTROPIC, PADDED_SIDE_PX, PULSE, SINC, KernelParameters
from s3diff.degradation.settings import DegradationSettings, StageSettings
from s3diff.degradation.synthesis import LOWEST_CUTOFF, LOWEST_CUTOFF_SHORT, draw

#: A stronger degradation goes at least this part of the way from the drawn value to the strongest of the settings.
_LEAST_STEP = 0.5


def with_stronger_blur(drawn: DegradationDraw, generator: torch.Generator) -> DegradationDraw:
    """Return a blurrier draw: wider kernels and stronger reductions in both stages, all else equal.

    Each image goes a part of the way, drawn from 1/2 to 1, to the largest sigma, the lowest cut-off and the smallest
    size of the settings. An image without a first blur gets one; an absent second blur stays absent.
    """
    return _blurrier(drawn, _draw_step(drawn, generator), switch_on=(True, False))


def with_stronger_noise(drawn: DegradationDraw, generator: torch.Generator) -> DegradationDraw:
    """Return a noisier draw: stronger noise and lower JPEG quality in both stages, all else equal.

    Each image goes a part of the way, drawn from 1/2 to 1, to the strongest noise and the lowest quality of the
    settings; the noise of every pixel has the same seed. An image without noise in the first stage gets Gaussian
    noise there, one without JPEG in the second gets it there.
    """
    return _noisier(drawn, _draw_step(drawn, generator), noise_on=(True, False), jpeg_on=(False, True))


def extreme(
    settings: DegradationSettings,
    batch_size: int,
    height: int,
    width: int,
    scale: int,
    generator: torch.Generator,
) -> DegradationDraw:
    """Return a draw with every strength at its most: widest isotropic blurs, smallest sizes, strongest noise, lowest
    quality.

    Arguments and errors are those of ``draw``. What has no strength is drawn: resize modes, the kind of noise and
    whether it is grey, the order of the last steps.
    """
    drawn = draw(replace(settings, clean_probability=0.0), batch_size, height, width, scale, generator)
    step = torch.ones(batch_size, dtype=torch.float64)
    drawn = _noisier(_blurrier(drawn, step, (True, True)), step, noise_on=(True, True), jpeg_on=(True, True))
    first, second = (replace(stage, blur=_isotropic(stage.blur)) for stage in drawn.stages)
    sinc = replace(
        drawn.final_sinc,
        family=torch.full((batch_size,), SINC),
        side_px=torch.full((batch_size,), PADDED_SIDE_PX),
        cutoff=torch.full((batch_size,), LOWEST_CUTOFF_SHORT, dtype=torch.float64),
    )
    return replace(drawn, stages=(first, second), final_sinc=sinc)


def _draw_step(drawn: DegradationDraw, generator: torch.Generator) -> Tensor:
    return _LEAST_STEP + (1 - _LEAST_STEP) * torch.rand(drawn.batch_size, generator=generator, dtype=torch.float64)


def _blurrier(drawn: DegradationDraw, step: Tensor, switch_on: tuple[bool, bool]) -> DegradationDraw:
    (first, second), settings = drawn.stages, drawn.settings
    return replace(
        drawn,
        stages=(
            _blurrier_stage(first, settings.first, drawn.ground_truth_size_px, step, switch_on[0]),
            _blurrier_stage(second, settings.second, drawn.low_quality_size_px, step, switch_on[1]),
        ),
    )


def _blurrier_stage(
    stage: StageDraw, settings: StageSettings, base_size_px: tuple[int, int], step: Tensor, switch_on: bool
) -> StageDraw:
    smallest = torch.tensor(
        [max(MIN_SIDE_PX, math.floor(side * settings.resize_factor[0])) for side in base_size_px], dtype=torch.float64
    )
    size = stage.size_px + step[:, None] * (smallest - stage.size_px).clamp(max=0)
    return replace(stage, blur=_wider(stage.blur, settings, step, switch_on), size_px=size.ceil().long())


def _wider(blur: KernelParameters, settings: StageSettings, step: Tensor, switch_on: bool) -> KernelParameters:
    widest = settings.blur_sigma_px[1]
    family = torch.where(blur.family == PULSE, ISOTROPIC, blur.family) if switch_on else blur.family
    return replace(
        blur,
        family=family,
        # A short kernel would cut a wide blur off; a sinc's strength is only its cut-off.
        side_px=torch.where(family == SINC, blur.side_px, PADDED_SIDE_PX),
        sigma_x_px=blur.sigma_x_px + step * (widest - blur.sigma_x_px),
        sigma_y_px=blur.sigma_y_px + step * (widest - blur.sigma_y_px),
        cutoff=blur.cutoff + step * (LOWEST_CUTOFF - blur.cutoff),
    )


def _isotropic(blur: KernelParameters) -> KernelParameters:
    return replace(
        blur,
        family=torch.full_like(blur.family, ISOTROPIC),
        side_px=torch.full_like(blur.side_px, PADDED_SIDE_PX),
    )


def _noisier(
    drawn: DegradationDraw, step: Tensor, noise_on: tuple[bool, bool], jpeg_on: tuple[bool, bool]
) -> DegradationDraw:
    (first, second), settings = drawn.stages, drawn.settings
    return replace(
        drawn,
        stages=(
            _noisier_stage(first, settings.first, step, noise_on[0], jpeg_on[0]),
            _noisier_stage(second, settings.second, step, noise_on[1], jpeg_on[1]),
        ),
    )


def _noisier_stage(stage: StageDraw, settings: StageSettings, step: Tensor, noise_on: bool, jpeg_on: bool) -> StageDraw:
    kind = torch.where(stage.noise_kind == 0, GAUSSIAN, stage.noise_kind) if noise_on else stage.noise_kind
    strongest = torch.where(kind == GAUSSIAN, settings.gaussian_sigma[1], settings.poisson_scale[1]).double()
    strength = stage.noise_strength + step * (strongest - stage.noise_strength)
    has_jpeg = stage.jpeg_quality > 0
    quality = torch.where(has_jpeg, stage.jpeg_quality, 100.0)
    quality = quality + step * (settings.jpeg_quality[0] - quality)
    return replace(
        stage,
        noise_kind=kind,
        noise_strength=strength * (kind > 0),
        jpeg_quality=torch.where(has_jpeg | jpeg_on, quality, 0.0),
    )
