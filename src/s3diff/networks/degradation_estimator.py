"""Estimate how blurred and how noisy a picture is: MM-RealSR's estimator (arXiv 2205.05065), as S3Diff uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.networks.shapes import check_shape

#: Order of the degrees in every [B, 2] tensor.
DEGREE_NAMES = ("blur", "noise")


@dataclass(frozen=True, kw_only=True)
class DegradationEstimatorConfig:
    """Shape of the estimator. The defaults are the published one's (2,351,362 parameters).

    Raises:
        ValueError: a width is too small or too large, or there are not two stages.
    """

    stage_channels: tuple[int, int] = (64, 128)
    hidden_channels: int = 512

    def __post_init__(self) -> None:
        if len(self.stage_channels) != 2:
            raise ValueError(f"stage_channels is {list(self.stage_channels)}; allowed: 2 widths")
        check_shape(self)


class _ResidualBlock(nn.Module):
    """conv, ReLU, conv, plus the input; no normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


#: How far a place of the features sees, in pixels: 13 convolutions before the halving, it, and four of twice the step.
REACH_PX = 13 + 1 + 4 * 2


class DegradationEstimator(nn.Module):
    """Estimate in one branch per degradation: a convolution, residual blocks with one halving, a mean, two linear
    layers.

    Parameter names are those of the published ``de_net.pth``, which loads as it is.
    """

    def __init__(self, config: DegradationEstimatorConfig) -> None:
        super().__init__()
        fine, coarse = config.stage_channels
        self.conv_first = nn.ModuleList(nn.Conv2d(3, fine, 3, padding=1) for _ in DEGREE_NAMES)
        self.body = nn.ModuleList(
            nn.Sequential(
                *(_ResidualBlock(fine) for _ in range(6)),
                nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
                *(_ResidualBlock(coarse) for _ in range(2)),
            )
            for _ in DEGREE_NAMES
        )
        self.fc_degree = nn.ModuleList(
            nn.Sequential(
                nn.Linear(coarse, config.hidden_channels), nn.ReLU(), nn.Linear(config.hidden_channels, 1), nn.Sigmoid()
            )
            for _ in DEGREE_NAMES
        )

    def forward(self, low_quality: Tensor) -> Tensor:
        """Estimate the degrees of a picture that was not enlarged.

        Args:
            low_quality: [B, 3, h, w], RGB in [0, 1].

        Returns:
            [B, 2] in (0, 1): blur, noise.
        """
        return self.degrees_from([features.mean(dim=(2, 3)) for features in self.features(low_quality)])

    def features(self, low_quality: Tensor) -> list[Tensor]:
        """Compute each branch's map [B, C, ceil(h / 2), ceil(w / 2)]; a place sees :data:`REACH_PX` pixels around."""
        return [body(first(low_quality)) for first, body in zip(self.conv_first, self.body, strict=True)]

    def degrees_from(self, means: Sequence[Tensor]) -> Tensor:
        """Compute [B, 2] in (0, 1) of ``means``: each branch's map, averaged over the picture, [B, C]."""
        return torch.cat([head(mean) for head, mean in zip(self.fc_degree, means, strict=True)], dim=1)
