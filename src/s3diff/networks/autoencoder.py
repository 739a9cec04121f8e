"""The variational autoencoder (SD-Turbo's layout, every width configurable); LoRA in the encoder alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.errors import ModelError
from s3diff.networks.blocks import (
    EPS_RANGE,
    MAX_LAYERS_PER_BLOCK,
    MAX_WIDTH,
    Downsampler,
    ImageAttention,
    Norm,
    ResnetBlock,
    Upsample,
    Upsampler,
    require_choice,
    require_divisor,
    require_widths,
    require_within,
    stream_activation,
    stream_norm,
)
from s3diff.networks.modulated_lora import MAX_LORA_RANK, ModulatedConv2d, ModulatedNetwork


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shape of the autoencoder. The defaults are SD-Turbo's.

    Attributes:
        image_channels: always 3, RGB.
        block_out_channels: widths of the encoder's blocks, finest first.
        decoder_channels: widths of the decoder's blocks, finest first; None for those of the encoder.
        layers_per_block: ResNet blocks of an encoder block; a decoder block has one more.
        pixel_unshuffle: the encoder first moves f x f pixels into channels.
        pixel_shuffle: the decoder's last convolution makes f x f pixels at once; its upsamplers make up for the rest.
        norm: ``group``; ``branch`` (over the channels of a pixel, in residual branches alone) or ``none`` for a network
            without statistics over the picture.
        attention: self-attention over the whole feature map in both mid blocks.
        upsample: filter of the decoder's upsamplers.
        residual: the decoder's picture is added to the enlarged input.
        grid_period_px: what the residual repeats with this period (and its whole fractions) is taken out of it; 0 for
            nothing. See :func:`without_grid`.
        line_damping: the share of what repeats so along a single row or column that is taken out too, 0 to 1. See
            :func:`without_lines`. Without effect where ``grid_period_px`` is 0.
        residual_smoothing: weight w of each neighbour in the filter (w, 1 - 2 w, w) that the residual goes through,
            down and across; 0 for none. At 1/4 a pattern of two pixels' period is gone and one of four is halved.
        overshoot_levels: how far, in levels of 255, the picture may leave the range of the enlarged input nearby, 0.1
            or more; 0 for any distance. See :func:`within_range_nearby`.
        base_sharpening: amount of unsharp masking of the enlarged input that the residual is added to.
        scaling_factor: latent = sample * scaling_factor.
        lora_rank: rank of the encoder's modulated LoRA; 0 for none.

    Raises:
        ValueError: a value is outside what it allows. What several fields must agree on is checked by
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
    grid_period_px: int = 0
    line_damping: float = 0.0
    residual_smoothing: float = 0.0
    overshoot_levels: float = 0.0
    base_sharpening: float = 0.0
    scaling_factor: float = 0.18215
    lora_rank: int = 16

    def __post_init__(self) -> None:
        if self.image_channels != 3:
            raise ValueError(f"image_channels is {self.image_channels}; allowed: 3")
        require_within("latent_channels", self.latent_channels, 1, MAX_WIDTH)
        require_widths("block_out_channels", self.block_out_channels)
        if self.decoder_channels is not None:
            require_widths("decoder_channels", self.decoder_channels)
        require_within("layers_per_block", self.layers_per_block, 1, MAX_LAYERS_PER_BLOCK)
        require_within("pixel_unshuffle", self.pixel_unshuffle, 1, 64)
        require_within("pixel_shuffle", self.pixel_shuffle, 1, 64)
        require_choice("norm", self.norm, Norm)
        require_within("norm_num_groups", self.norm_num_groups, 1, MAX_WIDTH)
        require_within("norm_eps", self.norm_eps, *EPS_RANGE)
        require_choice("upsample", self.upsample, Upsample)
        require_within("grid_period_px", self.grid_period_px, 0, 64)
        require_within("line_damping", self.line_damping, 0, 1)
        require_within("residual_smoothing", self.residual_smoothing, 0, 0.25)
        if self.overshoot_levels != 0:
            require_within("overshoot_levels", self.overshoot_levels, 0.1, 255)
        require_within("base_sharpening", self.base_sharpening, 0, 10)
        require_within("scaling_factor", self.scaling_factor, 1e-4, 1e4)
        require_within("lora_rank", self.lora_rank, 0, MAX_LORA_RANK)

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
        """Rows 0..n-1 the down blocks, n the mid block, n + 1 everything else."""
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
        """The encoder's output -> mean and log-variance (clamped to [-30, 20]) of the latent, before scaling."""
        mean, log_variance = self.quant_conv(moments).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode(self, latent: Tensor) -> Tensor:
        """``latent``: [B, latent_channels, h, w], scaled. Returns [B, 3, H, W], unclamped."""
        return self.decoder(self.before_decoder(latent))

    def before_decoder(self, latent: Tensor) -> Tensor:
        """The decoder's input, [B, latent_channels, h, w], in the decoder's number format."""
        features = self.post_quant_conv(latent / self.config.scaling_factor)
        return features.to(self.decoder.conv_in.weight.dtype)


#: Side of the square mean that :func:`unsharp_mask` takes for blurred: two low-quality pixels and a bit at scale 4.
UNSHARP_WINDOW_PX = 9


def unsharp_mask(image: Tensor, amount: float) -> Tensor:
    """``image`` [B, C, H, W] plus ``amount`` times what it differs from its mean nearby."""
    blurred = F.avg_pool2d(image, UNSHARP_WINDOW_PX, stride=1, padding=UNSHARP_WINDOW_PX // 2, count_include_pad=False)
    return image + amount * (image - blurred)


def smoothed(residual: Tensor, weight: float) -> Tensor:
    """``residual`` [B, C, H, W] through (weight, 1 - 2 weight, weight) along both axes; edges repeat themselves."""
    line = residual.new_tensor([weight, 1 - 2 * weight, weight])
    kernel = torch.outer(line, line).expand(residual.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(residual, (1, 1, 1, 1), mode="replicate"), kernel, groups=residual.shape[1])


#: Side, in periods, of the neighbourhood over which :func:`without_grid` takes its means.
GRID_WINDOW_PERIODS = 3


def without_grid(residual: Tensor, period_px: int) -> Tensor:
    """Take out of a residual what repeats with the period of the grid it was computed on.

    Upsampling and the strides of perceptual losses print patterns that are locked to the low-quality pixels. Their
    value at each of the period's phases is the mean over the pixels of that phase nearby; what it differs from the mean
    over all phases is the pattern. A notch, 1 / (window) wide, at the frequencies of the grid alone.

    Args:
        residual: [B, C, H, W], sides multiples of ``period_px``.
        period_px: period in pixels; its whole fractions are covered too.
    """
    cells = F.pixel_unshuffle(residual, period_px)
    means = F.avg_pool2d(
        cells, GRID_WINDOW_PERIODS, stride=1, padding=GRID_WINDOW_PERIODS // 2, count_include_pad=False
    )
    by_phase = means.unflatten(1, (residual.shape[1], period_px**2))
    pattern = by_phase - by_phase.mean(dim=2, keepdim=True)
    return residual - F.pixel_shuffle(pattern.flatten(1, 2), period_px)


#: Length, in periods, of the stretch of a row or column over which :func:`without_lines` takes its means.
LINE_WINDOW_PERIODS = 5


def without_lines(residual: Tensor, period_px: int, share: float) -> Tensor:
    """Take a share of what repeats with the period along each row, and then along each column, out of a residual.

    Beside edges the pattern of :func:`without_grid` changes from row to row, so that its means over a square see
    nothing. Here each row stands for itself, and so does each column.

    Args:
        residual: [B, C, H, W], sides multiples of ``period_px``.
        period_px: as in :func:`without_grid`.
        share: 0 to 1. A network that is trained behind it makes up for a share below 1.
    """
    for axis in (3, 2):
        lines = residual.movedim(axis, 3)
        phases = lines.unflatten(3, (-1, period_px)).transpose(3, 4).flatten(0, 2)  # [lines, period, cells]
        means = F.avg_pool1d(
            phases, LINE_WINDOW_PERIODS, stride=1, padding=LINE_WINDOW_PERIODS // 2, count_include_pad=False
        )
        pattern = (means - means.mean(dim=1, keepdim=True)).transpose(1, 2).reshape(lines.shape)
        residual = residual - share * pattern.movedim(3, axis)
    return residual


#: Half the side of the square whose range :func:`within_range_nearby` looks at: one and a half low-quality pixels at
#: scale 4, which :class:`AutoencoderConfig` with this filter is trained for; at larger scales it looks less far.
RANGE_RADIUS_PX = 6


def within_range_nearby(picture: Tensor, image: Tensor, most: float) -> Tensor:
    """Draw back what leaves the range of ``image`` nearby, channel by channel: excess e becomes most * tanh(e / most).

    Sharpened edges overshoot, which is seen as a halo where the edge is strong. Small excesses, which textures and
    fine lines live by, hardly change.

    Args:
        picture: [B, C, H, W].
        image: of the same shape.
        most: the largest excess that is left, in the picture's unit.
    """
    highest, lowest = _highest_nearby(image, RANGE_RADIUS_PX), -_highest_nearby(-image, RANGE_RADIUS_PX)
    kept = picture.clamp(lowest, highest)
    return kept + most * torch.tanh((picture - kept) / most)


def _highest_nearby(image: Tensor, radius: int) -> Tensor:
    """The maximum over squares of ``2 * radius + 1`` pixels; much faster on a CPU than ``max_pool2d``.

    Maxima over 2, 4, 8, ... pixels, each of two of the one before, along each axis.
    """
    side = 2 * radius + 1
    highest = F.pad(image, (radius,) * 4, value=-math.inf)
    for axis in (2, 3):
        length = 1
        while length < side:
            step = min(length, side - length)
            kept = highest.shape[axis] - step
            highest = torch.maximum(highest.narrow(axis, 0, kept), highest.narrow(axis, step, kept))
            length += step
    return highest


def sample_gaussian(mean: Tensor, log_variance: Tensor, noise: Tensor | None) -> Tensor:
    """mean + std * noise; ``noise``: standard normal of the mean's shape, or None for the mean."""
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
