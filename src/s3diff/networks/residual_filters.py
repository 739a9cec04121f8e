"""What the one-step generator does to a decoder's residual and to the picture that it makes; nothing here has weights.

``AutoencoderConfig`` says which of them a model has.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: Side of the square mean that :func:`unsharp_mask` takes for blurred: two low-quality pixels and a bit at scale 4.
UNSHARP_WINDOW_PX = 9


def unsharp_mask(image: Tensor, amount: float) -> Tensor:
    """``image`` [B, C, H, W] plus ``amount`` times what it differs from its mean nearby."""
    blurred = F.avg_pool2d(image, UNSHARP_WINDOW_PX, stride=1, padding=UNSHARP_WINDOW_PX // 2, count_include_pad=False)
    return image + amount * (image - blurred)


def smoothed(residual: Tensor, weight: float) -> Tensor:
    """``residual`` [B, C, H, W] through (weight, 1 - 2 weight, weight) along both axes; edges repeat themselves."""
    line = residual.new_tensor([weight, 1 - 2 * weight, weight])
    kernel = torch.outer(line, line).expand(residual.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(residual, (1, 1, 1, 1), mode="replicate"), kernel, groups=residual.shape[1])


#: Side, in periods, of the neighbourhood over which :func:`without_grid` takes its means.
GRID_WINDOW_PERIODS = 3


def without_grid(residual: Tensor, period_px: int) -> Tensor:
    """Take out of a residual what repeats with the period of the grid it was computed on.

    Upsampling and the strides of perceptual losses print patterns that are locked to the low-quality pixels. Their
    value at each of the period's phases is the mean over the pixels of that phase nearby; what it differs from the mean
    over all phases is the pattern. A notch, 1 / (window) wide, at the frequencies of the grid alone.

    Args:
        residual: [B, C, H, W], sides multiples of ``period_px``.
        period_px: period in pixels; its whole fractions are covered too.
    """
    cells = F.pixel_unshuffle(residual, period_px)
    means = F.avg_pool2d(
        cells, GRID_WINDOW_PERIODS, stride=1, padding=GRID_WINDOW_PERIODS // 2, count_include_pad=False
    )
    by_phase = means.unflatten(1, (residual.shape[1], period_px**2))
    pattern = by_phase - by_phase.mean(dim=2, keepdim=True)
    return residual - F.pixel_shuffle(pattern.flatten(1, 2), period_px)


#: Length, in periods, of the stretch of a row or column over which :func:`without_lines` takes its means.
LINE_WINDOW_PERIODS = 5


def without_lines(residual: Tensor, period_px: int, share: float) -> Tensor:
    """Take a share of what repeats with the period along each row, and then along each column, out of a residual.

    Beside edges the pattern of :func:`without_grid` changes from row to row, so that its means over a square see
    nothing. Here each row stands for itself, and so does each column.

    Args:
        residual: [B, C, H, W], sides multiples of ``period_px``.
        period_px: as in :func:`without_grid`.
        share: 0 to 1. A network that is trained behind it makes up for a share below 1.
    """
    for axis in (3, 2):
        lines = residual.movedim(axis, 3)
        phases = lines.unflatten(3, (-1, period_px)).transpose(3, 4).flatten(0, 2)  # [lines, period, cells]
        means = F.avg_pool1d(
            phases, LINE_WINDOW_PERIODS, stride=1, padding=LINE_WINDOW_PERIODS // 2, count_include_pad=False
        )
        pattern = (means - means.mean(dim=1, keepdim=True)).transpose(1, 2).reshape(lines.shape)
        residual = residual - share * pattern.movedim(3, axis)
    return residual


#: Half the side of the square whose range :func:`within_range_nearby` looks at: one and a half low-quality pixels at
#: scale 4, which models with this filter are trained for; at larger scales it looks less far.
RANGE_RADIUS_PX = 6


def within_range_nearby(picture: Tensor, image: Tensor, most: float) -> Tensor:
    """Draw back what leaves the range of ``image`` nearby, channel by channel: excess e becomes most * tanh(e / most).

    Sharpened edges overshoot, which is seen as a halo where the edge is strong. Small excesses, which textures and
    fine lines live by, hardly change.

    Args:
        picture: [B, C, H, W].
        image: of the same shape.
        most: the largest excess that is left, in the picture's unit.
    """
    highest, lowest = _highest_nearby(image, RANGE_RADIUS_PX), -_highest_nearby(-image, RANGE_RADIUS_PX)
    kept = picture.clamp(lowest, highest)
    return kept + most * torch.tanh((picture - kept) / most)


def _highest_nearby(image: Tensor, radius: int) -> Tensor:
    """The maximum over squares of ``2 * radius + 1`` pixels; much faster on a CPU than ``max_pool2d``.

    Maxima over 2, 4, 8, ... pixels, each of two of the one before, along each axis.
    """
    side = 2 * radius + 1
    highest = F.pad(image, (radius,) * 4, value=-math.inf)
    for axis in (2, 3):
        length = 1
        while length < side:
            step = min(length, side - length)
            kept = highest.shape[axis] - step
            highest = torch.maximum(highest.narrow(axis, 0, kept), highest.narrow(axis, step, kept))
            length += step
    return highest
