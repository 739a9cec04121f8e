"""Training of the degradation estimator without labels: rankings and anchors (MM-RealSR, arXiv 2205.05065)."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from s3diff.degradation import synthesis, variants
from s3diff.networks.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
from s3diff.training.config import EstimatorTrainConfig
from s3diff.training.data import CropSampler

_LOGGER = logging.getLogger(__name__)
_BLUR, _NOISE = 0, 1

#: Blur and noise of the reduced crop, the worst one, and the reduced one with blur or noise alone.
_ANCHORS = ((0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0))

#: Wider than what the generator trains on (MM-RealSR's ranges), so that the degrees have room at both ends.
_SETTINGS = synthesis.PRESETS["realesrgan"]


def ranking_and_anchor_losses(
    estimator: DegradationEstimator, ground_truth: Tensor, config: EstimatorTrainConfig, generator: torch.Generator
) -> dict[str, Tensor]:
    """Losses of one batch, and how often each ranking holds.

    Low-quality versions of every crop: ``a``; ``b`` = a with larger blur; ``c`` = a with stronger noise; the merely
    reduced one (anchor 0 for both degrees); the one with every parameter at its maximum (anchor 1). Ours are two
    more anchors that hold the degrees apart: the reduced one with blur alone (1, 0) and with noise alone (0, 1).
    Without them a small estimator calls blur what is noise.
    """
    size = (ground_truth.shape[0], ground_truth.shape[2], ground_truth.shape[3], config.scale, generator)
    drawn = synthesis.draw(_SETTINGS, *size)
    reduced = variants.reduced_only(_SETTINGS, *size)
    draws = [
        drawn,
        variants.with_stronger_blur(drawn, generator),
        variants.with_stronger_noise(drawn, generator),
        reduced,
        variants.extreme(_SETTINGS, *size),
        variants.with_stronger_blur(reduced, generator),
        variants.with_stronger_noise(reduced, generator),
    ]
    degrees = estimator(torch.cat([synthesis.apply(ground_truth, one) for one in draws]))
    a, blurrier, noisier, *anchored = degrees.chunk(len(draws))
    blur_gap = blurrier[:, _BLUR] - a[:, _BLUR]
    noise_gap = noisier[:, _NOISE] - a[:, _NOISE]
    ranking = F.relu(config.margin - blur_gap).mean() + F.relu(config.margin - noise_gap).mean()
    anchor = torch.stack(
        [(found - found.new_tensor(wanted)).square().mean() for found, wanted in zip(anchored, _ANCHORS, strict=True)]
    ).sum()
    return {
        "ranking": ranking,
        "anchor": anchor,
        "total": config.ranking_weight * ranking + config.anchor_weight * anchor,
        "blur_ranked": (blur_gap > 0).float().mean(),
        "noise_ranked": (noise_gap > 0).float().mean(),
    }


def train_estimator(
    shape: DegradationEstimatorConfig, data: Path, config: EstimatorTrainConfig
) -> DegradationEstimator:
    """Train an estimator on the pictures of a folder; deterministic for a seed and a machine.

    Raises:
        PictureError: no usable picture in ``data``.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    sampler = CropSampler(data, config.crop_px, config.min_detail, config.held_out)
    estimator = DegradationEstimator(shape)
    optimiser = torch.optim.Adam(estimator.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.max_steps)
    recent: list[dict[str, float]] = []
    for step in range(1, config.max_steps + 1):
        losses = ranking_and_anchor_losses(estimator, sampler.draw(config.batch_size, generator), config, generator)
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
        schedule.step()
        recent.append({name: float(value.detach()) for name, value in losses.items()})
        if step % 50 == 0:
            means = {name: sum(entry[name] for entry in recent) / len(recent) for name in recent[0]}
            _LOGGER.info("step %d  %s", step, "  ".join(f"{name} {value:.4f}" for name, value in means.items()))
            recent.clear()
    return estimator.eval().requires_grad_(False)
