"""Wrap the model for training: generator and prompts, the trained parts, and the start from scratch."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from s3diff.networks.attention import SpatialTransformer
from s3diff.networks.blocks import ResnetBlock
from s3diff.networks.one_step_generator import OneStepGenerator

Trained = Literal["everything", "modulation"]

#: Log-variance that a fresh encoder starts from: a latent noise of std 0.05, which training may change.
_START_LOG_VARIANCE = -6.0
#: SiLU of a unit Gaussian has a mean square of 0.356.
_SILU_GAIN = 1.68
#: Of a fresh B on a base model: a layer's output moves by about 1e-4 of itself, the rounding of float16 is 5e-4.
_WAKING_STD = 3e-5
#: Fresh residual branches start at a tenth, so that the networks begin near the identity.
_START_BRANCH_SCALE = 0.1


class TrainableModel(nn.Module):
    """Hold the generator and its two prompts, with gradients where they are trained.

    Args:
        generator: the networks, whose weights are trained in place; the estimator stays frozen.
        positive: [T, C], the positive prompt's embedding.
        negative: [T, C], the negative prompt's.
        trained: see :class:`s3diff.training.config.TrainConfig`. ``modulation`` does not train the prompts.
        precision: number format of the computation; the weights keep theirs.
        keeps_prompts: do not train the prompts, whatever else is trained: a text encoder made them, and encodes others.
    """

    def __init__(
        self,
        generator: OneStepGenerator,
        positive: Tensor,
        negative: Tensor,
        *,
        trained: Trained,
        precision: Literal["float32", "bfloat16"] = "float32",
        keeps_prompts: bool = False,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.precision = precision
        self.positive = nn.Parameter(positive.detach().clone())
        self.negative = nn.Parameter(negative.detach().clone())
        for name, parameter in self.named_parameters():
            is_kept = keeps_prompts and name in ("positive", "negative")
            parameter.requires_grad_(_is_trained(name, trained) and not is_kept)

    def forward(
        self,
        low_quality: Tensor,
        image: Tensor,
        is_negative: Tensor,
        noise: Tensor | None,
        dial: Tensor | None = None,
    ) -> Tensor:
        """Restore images with one prompt each.

        Args:
            low_quality: [B, 3, h, w] in [0, 1].
            image: [B, 3, H, W] in [-1, 1], the enlarged low-quality image.
            is_negative: [B] bool, which images get the negative prompt.
            noise: standard normal of the latent's shape, or None for the mean.
            dial: [B, 2] in [0, 2], how far the estimated degrees are turned (:func:`turned`); None for not at all.

        Returns:
            [B, 3, H, W] float32 in [-1, 1].
        """
        generator = self.generator
        with torch.no_grad():
            degrees = generator.estimator(low_quality)
            if dial is not None:
                degrees = turned(degrees, dial)
        for_encoder, for_unet = generator.conditioning(degrees)
        # Both prompts take part in every batch, so that every parameter has a gradient in every process.
        context = torch.where(is_negative[:, None, None], self.negative, self.positive)
        is_plain = self.precision == "float32"
        with nullcontext() if is_plain else torch.autocast(image.device.type, torch.bfloat16):
            return generator.restore(image, for_encoder, for_unet, context, guidance=1.0, noise=noise)

    def trained_state(self) -> dict[str, Tensor]:
        """Collect the trained parameters by name: the model's own tensors."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def small_state(self) -> dict[str, Tensor]:
        """Collect the tensors that a checkpoint stores: all but the frozen weights of a pretrained base model."""
        base = {
            name
            for name, value in self.named_parameters()
            if not value.requires_grad and name.startswith(("generator.unet.", "generator.autoencoder."))
        }
        return {name: value for name, value in self.state_dict().items() if name not in base}

    def frozen_base(self) -> dict[str, Tensor]:
        """Collect the frozen weights that :meth:`small_state` leaves out."""
        small = self.small_state()
        return {name: value for name, value in self.state_dict().items() if name not in small}


def turned(degrees: Tensor, dial: Tensor) -> Tensor:
    """Turn degrees [B, 2] down in proportion for a dial below 1, up towards 1 above it."""
    return torch.where(dial <= 1, degrees * dial, degrees + (1 - degrees) * (dial - 1))


def fresh_prompts(num_tokens: int, channels: int) -> tuple[Tensor, Tensor]:
    """Draw two embeddings [T, C] to be learned from torch's global generator."""
    return torch.randn(num_tokens, channels), torch.randn(num_tokens, channels)


def parameter_group(name: str) -> str:
    """Find the group of trained parameters that a parameter belongs to.

    The groups of the method: ``unet_lora_A``, ``unet_lora_B``, ``unet_conv_in``, ``encoder_lora_A``,
    ``encoder_lora_B``, and for each network ``..._degree_mlp``, ``..._block_mlp``, ``..._fuse`` and ``..._block_ids``;
    everything else by its network.
    """
    parts = name.removeprefix("generator.").split(".")
    if parts[0] == "conditioning":
        return f"{parts[1]}_{parts[2]}"
    network = "encoder" if parts[:2] == ["autoencoder", "encoder"] else parts[0]
    if parts[-1] in ("lora_A", "lora_B"):
        return f"{network}_{parts[-1]}"
    return "unet_conv_in" if parts[:2] == ["unet", "conv_in"] else network


def freeze_in_bfloat16(model: TrainableModel) -> None:
    """Store the frozen weights of the base model's linear layers and convolutions in bfloat16; norms stay float32."""
    for network in (model.generator.unet, model.generator.autoencoder):
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                for parameter in (module.weight, module.bias):
                    if parameter is not None and not parameter.requires_grad:
                        parameter.data = parameter.data.to(torch.bfloat16)


def checkpoint_gradients(model: TrainableModel) -> None:
    """Compute the activations inside ResNet blocks and transformers anew in the backward pass."""
    for module in model.modules():
        if isinstance(module, ResnetBlock | SpatialTransformer):
            module.forward = partial(_checkpointed, module.forward)  # type: ignore[method-assign]


def _checkpointed(forward: Callable[..., Tensor], *args: Tensor | None) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*args)
    result: Tensor = checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False)
    return result


def _is_trained(name: str, trained: Trained) -> bool:
    if name.startswith("generator.estimator."):
        return False
    if trained == "everything":
        return True
    is_conditioning = name.startswith("generator.conditioning.")
    return is_conditioning or name.endswith((".lora_A", ".lora_B")) or name.startswith("generator.unet.conv_in.")


def wake_lora(generator: OneStepGenerator) -> None:
    """Start every B at a Gaussian so small that it changes less than float16 rounds, instead of at zero.

    Behind a B of zeros the first gradients of A, of M and of all that makes M are exactly zero.
    """
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith(".lora_B"):
                parameter.normal_(std=_WAKING_STD)


def initialise_from_scratch(generator: OneStepGenerator) -> None:
    """Set start values for networks from scratch: nearly the enlarged input, and a way for the signal through all.

    The linear layers between encoder, UNet and decoder start as identities, and the UNet's prediction small: what the
    encoder sees reaches the decoder at once, where it would otherwise have to find its way through five random layers
    and all levels of the UNet first.
    """
    autoencoder, unet, schedule = generator.autoencoder, generator.unet, generator.config.schedule
    num_latents = generator.config.autoencoder.latent_channels
    for network in (autoencoder, unet):
        if network.config.norm != "branch":
            _keep_signal_size(network)
    with torch.no_grad():
        for layer in (autoencoder.encoder.conv_out, autoencoder.quant_conv):
            _start_as_identity(layer, num_latents)
            layer.weight[num_latents:] *= _START_BRANCH_SCALE
        autoencoder.quant_conv.bias[num_latents:] = _START_LOG_VARIANCE  # type: ignore[index]
        for layer in (autoencoder.post_quant_conv, autoencoder.decoder.conv_in):
            _start_as_identity(layer, layer.out_channels)
        unet.conv_out.weight *= _START_BRANCH_SCALE
        if schedule.prediction_type == "epsilon":
            # The clean latent is (z - noise) / signal.
            autoencoder.post_quant_conv.weight *= math.sqrt(schedule.alphas_cumprod()[schedule.timestep])
        if generator.config.autoencoder.residual:
            # Not zero: behind a layer of zeros the gradients are so small that Adam blows their rounding up to full
            # steps, and the features drift to a constant that learns nothing.
            autoencoder.decoder.conv_out.weight *= _START_BRANCH_SCALE
            autoencoder.decoder.conv_out.bias.zero_()  # type: ignore[union-attr]


def _start_as_identity(layer: nn.Conv2d, num_outputs: int) -> None:
    """Make the first outputs copies of the inputs, repeated if there are fewer of these; no bias."""
    for output in range(num_outputs):
        layer.weight[output] = 0
        layer.weight[output, output % layer.in_channels, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _keep_signal_size(network: nn.Module) -> None:
    """Keep the signal's size. Torch's start shrinks it by about 0.3 at every SiLU and convolution; where no norm in a
    branch undoes it, the last of a dozen in a row sees nothing and learns nothing.
    """
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        gain = _SILU_GAIN if name.endswith(("conv1", "conv2", "conv_out")) else 1.0
        if name.endswith((".conv2", ".proj_out", ".time_emb_proj")):
            gain *= _START_BRANCH_SCALE
        nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
