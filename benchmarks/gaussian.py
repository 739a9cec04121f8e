"""The Gaussian of the benchmarks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def blurred(images: Tensor, sigma_px: float, radius_px: int | None = None) -> Tensor:
    """Blur by a Gaussian, along the rows, then along the columns; edges are mirrored, of very small pictures repeated.

    Args:
        images: [B, C, H, W] float.
        sigma_px: the Gaussian's standard deviation.
        radius_px: where its kernel ends; None for three standard deviations.
    """
    radius = max(1, math.ceil(3 * sigma_px)) if radius_px is None else radius_px
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma_px) ** 2)
    channels = images.shape[1]
    kernel = (weights / weights.sum()).to(images).expand(channels, 1, 1, -1)
    edges = "reflect" if radius < min(images.shape[-2:]) else "replicate"
    padded = functional.pad(images, (radius,) * 4, mode=edges)
    rows = functional.conv2d(padded, kernel, groups=channels)
    return functional.conv2d(rows, kernel.transpose(2, 3), groups=channels)
