"""Train the degradation estimator without labels, by rankings and anchors (MM-RealSR, arXiv 2205.05065)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.checkpoints.weights_file import write_safetensors
from s3diff.degradation import variants
from s3diff.degradation.application import DegradationDraw, apply
from s3diff.degradation.settings import PRESETS
from s3diff.degradation.synthesis import draw
from s3diff.networks.degradation_estimator import DegradationEstimator
from s3diff.training.config import EstimatorTrainConfig
from s3diff.training.data.crops import CropDataset
from s3diff.training.initial_model import ESTIMATOR_FILE
from s3diff.training.loop import Loop, add_means, step_generator
from s3diff.training.run_checkpoints import RunState

_BLUR, _NOISE = 0, 1

#: Blur and noise of the reduced crop, the worst one, and the reduced one with only blur or only noise.
_ANCHORS = ((0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0))


class EstimatorTrainer(Loop):
    kind = "estimator"
    config: EstimatorTrainConfig

    def __init__(
        self, config: EstimatorTrainConfig, crops: CropDataset, output: Path, accelerator: Accelerator | None = None
    ) -> None:
        super().__init__(config, crops, output, accelerator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            self.estimator = DegradationEstimator(config.estimator)
        self.estimator.to(self.device)
        self._wrapped: nn.Module = self._spread(self.estimator)
        self._add_optimiser("estimator", self.estimator, config.optimiser.learning_rate)

    def train_step(self, ground_truth: list[Tensor]) -> dict[str, Tensor]:
        """Learn rankings and anchors on this process's crops; see :meth:`Loop.train_step`."""
        generator, settings = step_generator(self.config.run.seed, self.step), self.config.optimiser
        for group in self.optimisers["estimator"].param_groups:
            group["lr"] = settings.learning_rate * settings.factor_at(self.step)
        values: dict[str, Tensor] = {}
        for index, crops in enumerate(ground_truth):
            pictures = crops.to(self.device, non_blocking=True).float() / 255.0
            batch_size = len(crops) * self.accelerator.num_processes
            draws = [
                drawn.rows(*self._own_rows(batch_size))
                for drawn in draw_versions(self.config, batch_size, pictures.shape[2], generator)
            ]
            with self._gathering(self._wrapped, index):
                losses = ranking_and_anchor_losses(self._wrapped, pictures, draws, self.config)
                self._backward(losses["total"])
            add_means(values, losses, len(ground_truth))
        values["gradient_norm"] = self._update("estimator", self.estimator, values["total"])
        self.step += 1
        return values

    def own_state(self) -> dict[str, Any]:
        return {"model": self.estimator.state_dict()}

    def load(self, state: RunState) -> None:
        self.estimator.load_state_dict(state.model)

    def export(self) -> Path:
        """Write ``estimator.safetensors`` into the output folder; the names are those of ``de_net.pth``."""
        path = self.output / ESTIMATOR_FILE
        write_safetensors(self.estimator.state_dict(), path)
        return path


def draw_versions(
    config: EstimatorTrainConfig, batch_size: int, side_px: int, generator: torch.Generator
) -> list[DegradationDraw]:
    """Draw the low-quality versions of every crop.

    ``a``; ``b`` = a with larger blur; ``c`` = a with stronger noise; the merely reduced one (anchor 0 for both);
    the one with every parameter at its maximum (anchor 1). Two more anchors are ours and keep the degrees apart: the
    reduced one with only blur (1, 0) and with only noise (0, 1). Without them a small estimator reports blur for
    noise.
    """
    settings = PRESETS[config.data.degradations[0]]
    size = (batch_size, side_px, side_px, config.data.scale, generator)
    drawn = draw(settings, *size)
    reduced = draw(replace(settings, clean_probability=1.0), *size)
    return [
        drawn,
        variants.with_stronger_blur(drawn, generator),
        variants.with_stronger_noise(drawn, generator),
        reduced,
        variants.extreme(settings, *size),
        variants.with_stronger_blur(reduced, generator),
        variants.with_stronger_noise(reduced, generator),
    ]


def ranking_and_anchor_losses(
    estimator: nn.Module, ground_truth: Tensor, draws: list[DegradationDraw], config: EstimatorTrainConfig
) -> dict[str, Tensor]:
    """Compute the losses of one batch, and how often each ranking holds.

    Args:
        estimator: [N, 3, h, w] in [0, 1] to degrees [N, 2].
        ground_truth: [B, 3, H, W] in [0, 1].
        draws: from :func:`draw_versions`.
    """
    low_quality = torch.cat([apply(ground_truth, one) for one in draws])
    a, blurrier, noisier, *anchored = estimator(low_quality).chunk(len(draws))
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
