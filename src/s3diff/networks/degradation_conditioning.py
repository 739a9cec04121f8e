"""Map degrees and block IDs to modulation matrices (S3Diff section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.networks.degradation_estimator import DEGREE_NAMES
from s3diff.networks.shapes import check_shape


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """Shape of the conditioning. The defaults are the release's, but for the start of M.

    Attributes:
        num_frequencies: Gaussian frequencies of the Fourier features.
        hidden_channels: width of the degree embedding.
        block_channels: width of a block ID.
        identity_start: start M at the identity plus a small part (ours); the release starts it at about 2.5e-10,
            where the gradients of A, the MLPs and the tables are exactly 0.
        modulated: let M follow the degrees; without it M depends only on the block and is the same for every
            picture, a plain LoRA of equal size, for comparison.

    Raises:
        ValueError: a width is too small or too large.
    """

    num_frequencies: int = 64
    hidden_channels: int = 256
    block_channels: int = 64
    identity_start: bool = True
    modulated: bool = True

    def __post_init__(self) -> None:
        check_shape(self)


class NetworkConditioning(nn.Module):
    """Compute M [r, r] for one network: a degree MLP, a table of block IDs and a layer that fuses both."""

    def __init__(self, config: ConditioningConfig, num_rows: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.modulated = config.modulated
        num_features = 2 * config.num_frequencies * len(DEGREE_NAMES)
        self.degree_mlp = nn.Linear(num_features, config.hidden_channels)
        self.block_ids = nn.Parameter(torch.randn(num_rows, config.block_channels))
        self.block_mlp = nn.Linear(config.block_channels, config.block_channels)
        self.fuse = nn.Linear(config.hidden_channels + config.block_channels, rank * rank)
        self._initialise(identity_start=config.identity_start)

    def _initialise(self, *, identity_start: bool) -> None:
        for layer in (self.degree_mlp, self.block_mlp, self.fuse):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in")
            nn.init.zeros_(layer.bias)
            if not identity_start:
                layer.weight.data.mul_(1e-5)
        if identity_start:
            # Small, not zero: the embeddings receive gradients from the first step on.
            self.fuse.weight.data.mul_(1e-2)
            self.fuse.bias.data.copy_(torch.eye(self.rank).flatten())

    def forward(self, degree_features: Tensor) -> Tensor:
        """``degree_features``: [B, 4 * num_frequencies]. Returns M for every block: [B, rows, r, r]."""
        degrees = F.relu(self.degree_mlp(degree_features))
        if not self.modulated:
            degrees = 0 * degrees  # with gradients of zero: every parameter has one in every process
        blocks = F.relu(self.block_mlp(self.block_ids))
        num_images, num_rows = degrees.shape[0], blocks.shape[0]
        pairs = torch.cat([degrees[:, None].expand(-1, num_rows, -1), blocks[None].expand(num_images, -1, -1)], dim=-1)
        return self.fuse(pairs).unflatten(-1, (self.rank, self.rank))


class DegradationConditioning(nn.Module):
    """Hold both networks' halves over the shared Fourier features of the degrees."""

    frequencies: Tensor

    def __init__(
        self, config: ConditioningConfig, *, encoder_rows: int, encoder_rank: int, unet_rows: int, unet_rank: int
    ) -> None:
        super().__init__()
        # Drawn once and never trained; a checkpoint stores them.
        self.register_buffer("frequencies", torch.randn(config.num_frequencies))
        self.encoder = NetworkConditioning(config, encoder_rows, encoder_rank)
        self.unet = NetworkConditioning(config, unet_rows, unet_rank)

    def degree_features(self, degrees: Tensor) -> Tensor:
        """Compute [B, 4 * num_frequencies] of [B, 2]: for each degree d, sines then cosines of 2 pi d w."""
        phases = 2 * math.pi * degrees[:, :, None] * self.frequencies
        return torch.cat([phases.sin(), phases.cos()], dim=-1).flatten(1)

    def forward(self, degrees: Tensor) -> tuple[Tensor, Tensor]:
        """``degrees``: [B, 2] in [0, 1], blur and noise.

        Returns:
            The matrices of the VAE encoder [B, encoder_rows, r, r] and of the UNet [B, unet_rows, r, r].
        """
        features = self.degree_features(degrees)
        return self.encoder(features), self.unet(features)
