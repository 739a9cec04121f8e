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


#: Standard deviation, in pixels, of the Gaussian neighbourhood whose gradients tell :func:`along_edges` a direction.
EDGE_NEIGHBOURHOOD_PX = 3.0
#: Gradient per pixel, one level of 255, at which the coherence counts half; much fainter ones count for nothing.
_FAINT_GRADIENT = 1 / 127.5


def along_edges(residual: Tensor, image: Tensor, share: float) -> Tensor:
    """Smooth a residual along the edges of the picture that it is added to, and hardly across them.

    A head that makes each low-quality pixel's square by itself frays edges that lie askew to the grid, and draws combs
    along strongly blurred ones. The enlarged input is smooth there and knows the edge's direction (the structure
    tensor; coherence-enhancing filtering after Weickert, IJCV 1999). Two passes of (1/4, 1/2, 1/4), at a distance of
    one pixel and of two: at full weight, along a row or column, a period of four pixels is gone and one of eight keeps
    0.43. Where no direction prevails the residual stays.

    For delivered models alone: in flat areas the gradient with respect to ``image`` is not finite.

    Args:
        residual: [B, C, H, W], float32.
        image: [B, 3, H, W], float32, in [-1, 1]. A part of a larger picture begins at an even row and column of it,
            or its directions are those of other cells of 2 x 2 pixels.
        share: weight of each pass where a single direction prevails, 0 to 1; elsewhere less, by the square of the
            coherence, (l1 - l2) / (l1 + l2 + faint) of the structure tensor's eigenvalues.
    """
    xx, xy, yy = _structure_tensor(image).split(1, dim=1)
    anisotropy = torch.sqrt((xx - yy).square() + 4 * xy.square())
    weight = share * (anisotropy / (xx + yy + _FAINT_GRADIENT**2)).square()
    # The gradient's angle t has cos 2t = (xx - yy) / anisotropy and the sign of xy; the edge lies across it.
    cosine = (xx - yy) / anisotropy.clamp_min(torch.finfo(anisotropy.dtype).tiny)
    right = -torch.sqrt((0.5 - 0.5 * cosine).clamp_min(0)) * torch.where(xy < 0, -1.0, 1.0)
    down = torch.sqrt((0.5 + 0.5 * cosine).clamp_min(0))
    for distance_px in (1, 2):
        beside = _shifted(residual, right, down, distance_px) + _shifted(residual, right, down, -distance_px)
        residual = residual + weight * (beside / 4 - residual / 2)
    return residual


def _structure_tensor(image: Tensor) -> Tensor:
    """Means of gx gx, gx gy and gy gy of the grey picture near each pixel: [B, 3, H, W].

    Computed at half the size: the neighbourhood is larger than that, and the time a quarter.
    """
    height, width = image.shape[2:]
    halved = F.avg_pool2d(image.mean(dim=1, keepdim=True), 2, ceil_mode=True)
    grey = F.pad(halved, (1, 1, 1, 1), mode="replicate")
    right = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]) / 4
    down = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]) / 4
    products = torch.cat([right * right, right * down, down * down], dim=1)
    sigma = EDGE_NEIGHBOURHOOD_PX / 2
    radius = math.ceil(3 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device) / sigma).square())
    kernel = (line / line.sum()).to(image.dtype).expand(3, 1, 1, -1)
    products = F.conv2d(F.pad(products, (radius, radius, 0, 0), mode="replicate"), kernel, groups=3)
    products = F.conv2d(F.pad(products, (0, 0, radius, radius), mode="replicate"), kernel.mT, groups=3)
    return F.interpolate(products, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]


def _shifted(residual: Tensor, right: Tensor, down: Tensor, distance_px: float) -> Tensor:
    """``residual`` at ``distance_px`` along each pixel's own direction [B, 1, H, W]; the edge's value beyond the edge.

    Coordinates are clamped by hand: MPS has no ``padding_mode="border"`` in the older versions of torch.
    """
    height, width = residual.shape[2:]
    columns = torch.arange(width, device=residual.device, dtype=residual.dtype)
    rows = torch.arange(height, device=residual.device, dtype=residual.dtype)[:, None]
    x = (columns + distance_px * right[:, 0]).clamp(0, width - 1) * (2 / max(width - 1, 1)) - 1
    y = (rows + distance_px * down[:, 0]).clamp(0, height - 1) * (2 / max(height - 1, 1)) - 1
    return F.grid_sample(residual, torch.stack([x, y], dim=-1), mode="bilinear", align_corners=True)
