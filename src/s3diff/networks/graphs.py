"""Wrap the generator's stages as modules of tensors only, for any size, for ``torch.export`` and other runtimes.

The LoRA is computed per sample, not folded: runtimes arrange constant weights once, when they load them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from s3diff.networks.modulated_lora import call_adapted
from s3diff.networks.one_step_generator import OneStepGenerator


class PredictGraph(nn.Module):
    """Run only the UNet, for a picture's one latent; see :meth:`OneStepGenerator.predict`.

    A graph holds every parameter of its module, used or not, and tracing and writing it take as long as these are many.

    Args:
        generator: its UNet is the one of :func:`with_fixed_timestep`.
    """

    def __init__(self, generator: OneStepGenerator) -> None:
        super().__init__()
        self.unet, self.timestep = generator.unet, generator.config.schedule.timestep

    def forward(self, latent: Tensor, modulation: Tensor, context: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Predict the noise.

        Args:
            latent: [1, C, h, w].
            modulation: [1, rows, r, r].
            context: [1, T, context_channels]; [2, ...] with guidance, the positive prompt first.
            guidance: one number, [1]; None for one prompt.
        """
        timestep = torch.tensor([self.timestep])
        return call_adapted(self.unet, modulation, latent, timestep, context, guidance=guidance).float()


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
