"""Wrap the generator's stages as modules of tensors only, for any size, for ``torch.export`` and other runtimes.

The LoRA is computed per sample, not folded: runtimes arrange constant weights once, when they load them.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from s3diff.networks.modulated_lora import call_adapted
from s3diff.networks.one_step_generator import OneStepGenerator


class EncodeGraph(nn.Module):
    """See :meth:`OneStepGenerator.encode`."""

    def __init__(self, generator: OneStepGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor, modulation: Tensor, noise: Tensor | None = None) -> Tensor:
        """``image``: [1, 3, H, W] in [-1, 1]; ``modulation``: [1, rows, r, r]; ``noise``: None for the mean."""
        return self.generator.encode(image, modulation, noise)


class PredictGraph(nn.Module):
    """See :meth:`OneStepGenerator.predict_in_context`, at the fixed timestep.

    Args:
        generator: its UNet is the one of :func:`with_fixed_timestep`.
    """

    def __init__(self, generator: OneStepGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latent: Tensor, modulation: Tensor, context: Tensor, guidance: Tensor | None = None) -> Tensor:
        """``latent``: [1, C, h, w]; ``context``: [1 or 2, T, context_channels]; ``guidance``: for two, one number."""
        return self.generator.predict(latent, context, modulation, guidance).float()


class EncoderGraph(nn.Module):
    """Run only the encoder; :meth:`OneStepGenerator.latent_from` takes its result."""

    def __init__(self, generator: OneStepGenerator) -> None:
        super().__init__()
        self.encoder = generator.autoencoder.encoder

    def forward(self, image: Tensor, modulation: Tensor) -> Tensor:
        """``image``: [1, 3, H, W] in [-1, 1]; ``modulation``: [1, rows, r, r]."""
        return call_adapted(self.encoder, modulation, image)


class DecoderGraph(nn.Module):
    """Run only the decoder; :meth:`OneStepGenerator.picture_from` takes its result."""

    def __init__(self, generator: OneStepGenerator) -> None:
        super().__init__()
        self.autoencoder = generator.autoencoder

    def forward(self, latent: Tensor) -> Tensor:
        """``latent``: [1, C, h, w], clean and scaled."""
        return self.autoencoder.decode(latent)


def with_fixed_timestep(generator: OneStepGenerator) -> OneStepGenerator:
    """Copy a generator, its weights shared, whose UNet has no time embedding; see :meth:`UNet.fix_timestep`."""
    shared = {id(tensor): tensor for tensor in (*generator.parameters(), *generator.buffers())}
    fixed = copy.deepcopy(generator, shared)
    fixed.unet.fix_timestep(generator.config.schedule.timestep)
    return fixed.eval().requires_grad_(False)
