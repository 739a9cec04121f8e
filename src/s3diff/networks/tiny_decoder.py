"""Decode Stable Diffusion's latents with TAESD's decoder, for previews.

Architecture and weights: https://github.com/madebyollin/taesd (MIT), in the layout of diffusers' ``AutoencoderTiny``.
It needs 0.14 TFLOP for 512 x 512 px, SD-Turbo's own decoder 2.5, and loses fine detail.
"""

from __future__ import annotations

from torch import Tensor, nn

from s3diff.networks.autoencoder import AutoencoderConfig

_WIDTH = 64
#: Latents on each side that a picture's pixel depends on: 10 convolutions at the latent's size, 10 at twice, 10 at four
#: times and 5 at eight times that, each of which looks one position around.
RECEPTIVE_LATENTS = 19


class _Block(nn.Module):
    """Three convolutions with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(3):
            parts += [nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*parts[:-1])

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, 64, h, w] to the same shape."""
        return nn.functional.relu(self.conv(features) + features)


class TinyDecoder(nn.Module):
    """TAESD's decoder, with its own names of parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(4, _WIDTH, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            layers += [_Block(), _Block(), _Block(), nn.Upsample(scale_factor=2)]
            layers += [nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, _Block(), nn.Conv2d(_WIDTH, 3, 3, padding=1))

    def forward(self, latent: Tensor) -> Tensor:
        """Decode [B, 4, h, w], as Stable Diffusion's UNet takes it (scaled), to [B, 3, 8 h, 8 w], about [-1, 1]."""
        return self.layers(3 * (latent / 3).tanh()) * 2 - 1


def decodes_latents_of(config: AutoencoderConfig) -> bool:
    """Check whether an autoencoder of this shape makes Stable Diffusion's latents."""
    expected = AutoencoderConfig()
    names = ("latent_channels", "downscale", "scaling_factor", "residual")
    return all(getattr(config, name) == getattr(expected, name) for name in names)
