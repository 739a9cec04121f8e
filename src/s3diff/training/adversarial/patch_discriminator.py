"""Discriminate by pixels only (PatchGAN, arXiv 1611.07004): fast enough for a CPU.

It compares every result with its own target, place by place: the target shall look more real than the result
(relativistic pairing, arXiv 1807.00734, as ESRGAN uses it, arXiv 1809.00219). Its field of view of 28 px at full
resolution sees what perceptual losses overlook: the fine patterns that they print, and the texture that they leave out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

_LEAKY_SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Five convolutions, all but the last with spectral norm; two of them halve the size.

    The last one is left free, or its logits could hardly differ.

    Args:
        channels: of the first layer; the next ones have twice and four times as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _layer(3, channels, kernel_size=3, stride=1),
            _layer(channels, 2 * channels, kernel_size=4, stride=2),
            _layer(2 * channels, 4 * channels, kernel_size=4, stride=2),
            _layer(4 * channels, 4 * channels, kernel_size=3, stride=1),
            nn.Conv2d(4 * channels, 1, kernel_size=3, padding=1, bias=False),  # it would cancel in the pairs
        )

    def forward(self, images: Tensor) -> Tensor:
        """Judge how real every place of [B, 3, H, W] images in [-1, 1] looks: [B, 1, H / 4, W / 4] logits, float32."""
        # Under autocast the power iteration would run in half precision (and has failed: pytorch issue 125544).
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.layers(images.float())
            return logits


def pairing_loss(more_real: Tensor, less_real: Tensor, counted: Tensor, num_counted: float) -> Tensor:
    """Average the softplus of the logits of ``less_real`` minus those of ``more_real``, over all places.

    The discriminator gives the targets as ``more_real`` and the results as ``less_real``, the generator the other way
    round.

    Args:
        more_real: [B, 1, h, w] logits.
        less_real: the same.
        counted: [B] bool, the images that count.
        num_counted: how many of the B images count in the mean over all processes; the sum is divided by it.
    """
    by_image = F.softplus(less_real - more_real).mean(dim=(1, 2, 3))
    return torch.where(counted, by_image, 0.0).sum() / num_counted


def _layer(channels_in: int, channels_out: int, *, kernel_size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size, stride=stride, padding=1)
    return nn.Sequential(spectral_norm(convolution), nn.LeakyReLU(_LEAKY_SLOPE))
