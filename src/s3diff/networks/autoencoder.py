"""Build the variational autoencoder (SD-Turbo's layout, every width configurable); LoRA only in the encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.errors import ModelError
from s3diff.networks.attention import ImageAttention
from s3diff.networks.blocks import Downsampler, Norm, ResnetBlock, Upsample, Upsampler, stream_activation, stream_norm
from s3diff.networks.modulated_lora import ModulatedConv2d, ModulatedNetwork
from s3diff.networks.shapes import check_shape, require_divisor


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Hold the shape of the autoencoder. The defaults are SD-Turbo's.

    Attributes:
        image_channels: always 3, RGB.
        block_out_channels: widths of the encoder's blocks, finest first.
        decoder_channels: widths of the decoder's blocks, finest first; None for those of the encoder.
        layers_per_block: ResNet blocks of an encoder block; a decoder block has one more.
        pixel_unshuffle: the encoder first moves f x f pixels into channels.
        pixel_shuffle: the decoder's last convolution makes f x f pixels at once; its upsamplers make up for the rest.
        norm: ``group``; ``branch`` (over the channels of a pixel, only in residual branches) or ``none`` for a network
            without statistics over the picture.
        attention: self-attention over the whole feature map in both mid blocks.
        upsample: filter of the decoder's upsamplers.
        residual: the decoder's picture is added to the enlarged input.
        scaling_factor: latent = sample * scaling_factor.
        lora_rank: rank of the encoder's modulated LoRA; 0 for none.

    Raises:
        ValueError: a value is not allowed. Agreement between several fields is checked by
            :class:`Autoencoder`.
    """

    image_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    decoder_channels: tuple[int, ...] | None = None
    layers_per_block: int = 2
    pixel_unshuffle: int = 1
    pixel_shuffle: int = 1
    norm: Norm = "group"
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    attention: bool = True
    upsample: Upsample = "nearest"
    residual: bool = False
    scaling_factor: float = 0.18215
    lora_rank: int = 16

    def __post_init__(self) -> None:
        if self.image_channels != 3:
            raise ValueError(f"image_channels is {self.image_channels}; allowed: 3")
        check_shape(self)

    @property
    def downscale(self) -> int:
        """Picture side over latent side."""
        return self.pixel_unshuffle * 2 ** (len(self.block_out_channels) - 1)


class MidBlock(nn.Module):
    """Two ResNet blocks with attention between them."""

    def __init__(self, channels: int, config: AutoencoderConfig, lora_rank: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([_resnet(channels, channels, config, lora_rank) for _ in range(2)])
        self.attentions = nn.ModuleList()
        if config.attention:
            self.attentions.append(
                ImageAttention(
                    channels,
                    norm_num_groups=config.norm_num_groups,
                    norm_eps=config.norm_eps,
                    lora_rank=lora_rank,
                )
            )

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        x = self.resnets[0](x, None, modulation)
        for attention in self.attentions:
            x = attention(x, None, modulation)
        return self.resnets[1](x, None, modulation)


class EncoderBlock(nn.Module):
    """ResNet blocks, then (except in the last block) a halving of the side."""

    def __init__(self, in_channels: int, out_channels: int, config: AutoencoderConfig, *, downsample: bool) -> None:
        super().__init__()
        rank = config.lora_rank
        self.resnets = nn.ModuleList(
            _resnet(in_channels if i == 0 else out_channels, out_channels, config, rank)
            for i in range(config.layers_per_block)
        )
        self.downsamplers = nn.ModuleList()
        if downsample:
            self.downsamplers.append(Downsampler(out_channels, asymmetric=True, lora_rank=rank))

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """[B, in, h, w] -> [B, out, h / 2, w / 2] (the last block keeps the side)."""
        for resnet in self.resnets:
            x = resnet(x, None, modulation)
        for downsampler in self.downsamplers:
            x = downsampler(x, modulation)
        return x


class DecoderBlock(nn.Module):
    """ResNet blocks, then (except in the last block) a doubling of the side."""

    def __init__(self, in_channels: int, out_channels: int, config: AutoencoderConfig, *, upsample: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            _resnet(in_channels if i == 0 else out_channels, out_channels, config, 0)
            for i in range(config.layers_per_block + 1)
        )
        self.upsamplers = nn.ModuleList()
        if upsample:
            self.upsamplers.append(Upsampler(out_channels, upsample=config.upsample))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, h, w] -> [B, out, 2 h, 2 w] (the last block keeps the side)."""
        for resnet in self.resnets:
            x = resnet(x)
        for upsampler in self.upsamplers:
            x = upsampler(x)
        return x


class Encoder(ModulatedNetwork):
    """Picture to the parameters of a Gaussian over latents.

    The block table has one row per down block, one for the mid block and one for ``conv_in`` and ``conv_out``.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, rank = config.block_out_channels, config.lora_rank
        self.pixel_unshuffle = config.pixel_unshuffle
        self.num_down_blocks = len(widths)
        self.num_modulation_rows = len(widths) + 2
        channels_in = config.image_channels * config.pixel_unshuffle**2
        self.conv_in = ModulatedConv2d(channels_in, widths[0], 3, padding=1, lora_rank=rank)
        self.down_blocks = nn.ModuleList(
            EncoderBlock(widths[max(i - 1, 0)], width, config, downsample=i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], config, rank)
        self.activation_out = stream_activation(config.norm)
        self.conv_norm_out = stream_norm(config.norm, config.norm_num_groups, widths[-1], config.norm_eps)
        self.conv_out = ModulatedConv2d(widths[-1], 2 * config.latent_channels, 3, padding=1, lora_rank=rank)

    def modulation_row(self, layer: str) -> int:
        """Number the rows of the block table: 0..n-1 the down blocks, n the mid block, n + 1 everything else."""
        parts = layer.split(".")
        if parts[0] == "down_blocks":
            return int(parts[1])
        return self.num_down_blocks if parts[0] == "mid_block" else self.num_down_blocks + 1

    def forward(self, image: Tensor, modulation: Tensor | None = None) -> Tensor:
        """``image``: [B, 3, H, W] in [-1, 1]; ``modulation``: [B, n + 2, r, r].

        Returns [B, 2 * latent_channels, H / downscale, W / downscale]: means, then log-variances (before
        ``quant_conv``).
        """
        rows: tuple[Tensor | None, ...] = (None,) * self.num_modulation_rows
        if modulation is not None:
            rows = modulation.to(image.dtype).unbind(1)
        x = F.pixel_unshuffle(image, self.pixel_unshuffle) if self.pixel_unshuffle > 1 else image
        x = self.conv_in(x, rows[-1])
        for block, row in zip(self.down_blocks, rows, strict=False):
            x = block(x, row)
        x = self.mid_block(x, rows[-2])
        return self.conv_out(self.activation_out(self.conv_norm_out(x)), rows[-1])


class Decoder(nn.Module):
    """Latent to picture."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = tuple(reversed(config.decoder_channels or config.block_out_channels))
        self.pixel_shuffle = config.pixel_shuffle
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], config, 0)
        self.up_blocks = nn.ModuleList(
            DecoderBlock(widths[max(i - 1, 0)], width, config, upsample=i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.activation_out = stream_activation(config.norm)
        self.conv_norm_out = stream_norm(config.norm, config.norm_num_groups, widths[-1], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[-1], config.image_channels * config.pixel_shuffle**2, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """[B, latent_channels, h, w] -> [B, 3, downscale * h, downscale * w], unclamped."""
        x = self.mid_block(self.conv_in(latent))
        for block in self.up_blocks:
            x = block(x)
        x = self.conv_out(self.activation_out(self.conv_norm_out(x)))
        return F.pixel_shuffle(x, self.pixel_shuffle) if self.pixel_shuffle > 1 else x


class Autoencoder(nn.Module):
    """Encoder and decoder with the 1x1 layers between them and the latent.

    Raises:
        ModelError: fields of the configuration do not agree.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        decoder_widths = config.decoder_channels or config.block_out_channels
        enlargement = config.pixel_shuffle * 2 ** (len(decoder_widths) - 1)
        if enlargement != config.downscale:
            raise ModelError(
                f"the decoder enlarges {enlargement} times, the encoder reduces {config.downscale} times; "
                "both must agree"
            )
        for widths in (config.block_out_channels, decoder_widths):
            # The attention of the mid block has group norm, whatever the blocks have.
            grouped = widths if config.norm == "group" else widths[-1:] if config.attention else ()
            for width in grouped:
                require_divisor("norm_num_groups", config.norm_num_groups, width)
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def latent_gaussian(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Split the encoder's output into the latent's mean and log-variance (clamped to [-30, 20]), before scaling."""
        mean, log_variance = self.quant_conv(moments).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode a scaled latent [B, latent_channels, h, w] to [B, 3, H, W], unclamped."""
        return self.decoder(self.before_decoder(latent))

    def before_decoder(self, latent: Tensor) -> Tensor:
        """Make the decoder's input, [B, latent_channels, h, w], in the decoder's number format."""
        features = self.post_quant_conv(latent / self.config.scaling_factor)
        return features.to(self.decoder.conv_in.weight.dtype)


def sample_gaussian(mean: Tensor, log_variance: Tensor, noise: Tensor | None) -> Tensor:
    """Sample mean + std * noise; ``noise``: standard normal of the mean's shape, or None for the mean."""
    return mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise


def _resnet(in_channels: int, out_channels: int, config: AutoencoderConfig, lora_rank: int) -> ResnetBlock:
    return ResnetBlock(
        in_channels,
        out_channels,
        norm=config.norm,
        norm_num_groups=config.norm_num_groups,
        norm_eps=config.norm_eps,
        lora_rank=lora_rank,
    )
