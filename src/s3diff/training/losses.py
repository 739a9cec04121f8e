"""Compute the reconstruction loss from pixel and perceptual terms; :class:`.config.LossConfig` holds their weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.evaluation.perceptual import DISTS, LPIPS
from s3diff.training.config import LossConfig


class ReconstructionLoss(nn.Module):
    """Compute the weighted sum of the configuration's terms.

    Args:
        lpips_vgg: with other weights than the published ones.

    Raises:
        MissingExtraError: weights of a perceptual term are not on this machine; the message says how to get them.
    """

    def __init__(self, config: LossConfig, lpips_vgg: LPIPS | None = None) -> None:
        super().__init__()
        self.config = config
        self.lpips_alex = LPIPS("alex") if config.lpips_alex else None
        self.lpips_vgg = (lpips_vgg or LPIPS("vgg")) if config.lpips_vgg else None
        self.dists = DISTS() if config.dists else None
        for metric in (self.lpips_vgg, self.dists):
            if metric is not None and config.vgg_precision == "bfloat16":
                metric.convolutions.to(torch.bfloat16)

    def forward(
        self,
        result: Tensor,
        target: Tensor,
        generator: torch.Generator,
        in_vgg: Tensor | None = None,
        vgg_share: float = 1.0,
    ) -> dict[str, Tensor]:
        """Compute the loss of a process's rows; its mean over the processes is the loss of the whole batch.

        Args:
            result: [B, 3, H, W] in [-1, 1].
            target: the same.
            generator: where the perceptual terms look.
            in_vgg: [B] bool, images that the VGG terms see; None for all.
            vgg_share: share of such images in the batch over all processes.

        Returns:
            Each term before weighting, a scalar by name, and their weighted sum as ``total``.
        """
        config = self.config
        terms = self._pixel_terms(result, target)
        if self.lpips_alex is not None:
            # A random margin of up to this many pixels is cut from the top and the left.
            top, left = (int(torch.randint(config.max_shift_px + 1, (), generator=generator)) for _ in range(2))
            views = result[..., top:, left:], target[..., top:, left:]
            terms["lpips_alex"] = _distance(self.lpips_alex, *views)
        # A process may hold more or fewer of these images than the next one: a sum over the expected number of them.
        expected = vgg_share * len(result)
        if in_vgg is not None:
            result, target = result[in_vgg], target[in_vgg]
        if self.lpips_vgg is not None:
            views = _random_square(result, target, config.perceptual_crop_px, generator)
            terms["lpips_vgg"] = _distance(self.lpips_vgg, *views, expected)
        if self.dists is not None:
            first, second = _random_square(result, target, config.perceptual_crop_px, generator)
            terms["dists"] = _distance(self.dists, first * 0.5 + 0.5, second * 0.5 + 0.5, expected)
        return self._with_total(terms)

    def of_pixels(self, result: Tensor, target: Tensor) -> dict[str, Tensor]:
        return self._with_total(self._pixel_terms(result, target))

    def _pixel_terms(self, result: Tensor, target: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.config.l1:
            terms["l1"] = F.l1_loss(result, target)
        if self.config.l2:
            terms["l2"] = F.mse_loss(result, target)
        return terms

    def _with_total(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        weighted = [getattr(self.config, name) * value for name, value in terms.items()]
        return {**terms, "total": torch.stack(weighted).sum()}


def _distance(metric: Any, result: Tensor, target: Tensor, count: float | None = None) -> Tensor:
    """Sum of the distances by LPIPS or DISTS over ``count``, or their mean; the target's features have no gradients."""
    if len(result) == 0:
        return result.sum()
    with torch.no_grad():
        wanted = metric.features(target)
    return metric.distance(metric.features(result), wanted).sum() / (count or len(result))


def _random_square(result: Tensor, target: Tensor, side_px: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut the same random square from both images; a side of 0 keeps them whole."""
    if side_px == 0:
        return result, target
    height, width = result.shape[-2:]
    side_px = min(side_px, height, width)
    top = int(torch.randint(height - side_px + 1, (), generator=generator))
    left = int(torch.randint(width - side_px + 1, (), generator=generator))
    window = (..., slice(top, top + side_px), slice(left, left + side_px))
    return result[window], target[window]
