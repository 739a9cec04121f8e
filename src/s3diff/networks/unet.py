"""Build the noise predictor: Stable Diffusion 2.1's UNet with modulated LoRA, every width configurable."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.errors import ModelError
from s3diff.networks.attention import Context, KeysAndValues, SpatialTransformer, TransformerBlock
from s3diff.networks.blocks import (
    Downsampler,
    Norm,
    ResnetBlock,
    Upsample,
    Upsampler,
    guided,
    sinusoidal_features,
    stream_activation,
    stream_norm,
)
from s3diff.networks.modulated_lora import ModulatedConv2d, ModulatedNetwork, repeated
from s3diff.networks.shapes import check_shape, require_divisor


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Hold the shape of the UNet. The defaults are SD-Turbo's.

    Attributes:
        block_out_channels: widths of the down blocks, finest first; the up blocks mirror them.
        num_heads: attention heads per down block (a diffusers ``config.json`` calls them ``attention_head_dim``).
        cross_attention: for each down block, whether it attends to the prompt; the mid block always does.
        self_attention: whether the transformer blocks attend to the whole feature map as well.
        context_channels: width of the prompt embeddings.
        norm: ``group``; ``branch`` (over the channels of a pixel, only in residual branches) or ``none`` for a network
            without statistics over the picture.
        lora_rank: rank of the modulated LoRA; 0 for none.

    Raises:
        ValueError: a value is not allowed. Agreement between several fields is checked by :class:`UNet`.
    """

    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    num_heads: tuple[int, ...] = (5, 10, 20, 20)
    cross_attention: tuple[bool, ...] = (True, True, True, False)
    self_attention: bool = True
    layers_per_block: int = 2
    context_channels: int = 1024
    norm: Norm = "group"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    upsample: Upsample = "nearest"
    lora_rank: int = 32

    def __post_init__(self) -> None:
        check_shape(self)
        if self.block_out_channels[0] % 2:
            # The timestep's features are pairs of a cosine and a sine.
            raise ValueError(f"block_out_channels[0] is {self.block_out_channels[0]}; allowed: even widths")

    @property
    def downscale(self) -> int:
        """Latent side over the side of the innermost feature map."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def time_channels(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_out_channels[0]


@dataclass
class _Contexts:
    """Give every transformer of a pass its context, and say how many rows it has.

    Attributes:
        each: in the order of the transformers.
        batch_size: rows behind the first transformer: one for each latent and prompt.
    """

    each: Iterator[Context]
    batch_size: int

    def __next__(self) -> Context:
        return next(self.each)


class _UNetBlock(nn.Module):
    """Share the code of the down, mid and up blocks: ResNet blocks, each followed by a transformer if there is one.

    ``time`` is None where the timestep is fixed; ``contexts`` gives every transformer its context, in order. Features
    are the same for all prompts until the first transformer: there they become ``contexts.batch_size`` rows.
    """

    resnets: nn.ModuleList
    attentions: nn.ModuleList | None

    def _layer(
        self, index: int, x: Tensor, time: Tensor | None, contexts: _Contexts, modulation: Tensor | None
    ) -> Tensor:
        x = self.resnets[index](x, time, modulation)
        if self.attentions is None:
            return x
        return self.attentions[index](repeated(x, contexts.batch_size), next(contexts), modulation)


class DownBlock(_UNetBlock):
    """ResNet blocks with cross-attention, then (except in the last block) a halving of the side."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels
        width, previous = widths[level], widths[max(level - 1, 0)]
        self.resnets = nn.ModuleList(
            _resnet(previous if i == 0 else width, width, config) for i in range(config.layers_per_block)
        )
        self.attentions = _transformers(config, level, config.layers_per_block)
        self.downsamplers = nn.ModuleList()
        if level < len(widths) - 1:
            self.downsamplers.append(Downsampler(width, asymmetric=False, lora_rank=config.lora_rank))

    def forward(
        self, x: Tensor, time: Tensor | None, contexts: _Contexts, modulation: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the block's output and everything that the up blocks will take from it, in order."""
        skips = []
        for index in range(len(self.resnets)):
            x = self._layer(index, x, time, contexts, modulation)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x, modulation)
            skips.append(x)
        return x, skips


class UNetMidBlock(_UNetBlock):
    """ResNet block, transformer, ResNet block at the innermost feature map."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.block_out_channels[-1]
        self.resnets = nn.ModuleList(_resnet(width, width, config) for _ in range(2))
        self.attentions = nn.ModuleList([_transformer(config, len(config.block_out_channels) - 1)])

    def forward(self, x: Tensor, time: Tensor | None, contexts: _Contexts, modulation: Tensor | None = None) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        return self.resnets[1](self._layer(0, x, time, contexts, modulation), time, modulation)


class UpBlock(_UNetBlock):
    """ResNet blocks that each take one skip, with cross-attention, then (except in the last) a doubling of the side."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels
        width, inner, outer = widths[level], widths[min(level + 1, len(widths) - 1)], widths[max(level - 1, 0)]
        num_layers = config.layers_per_block + 1
        self.resnets = nn.ModuleList()
        for i in range(num_layers):
            skip_width = outer if i == num_layers - 1 else width
            self.resnets.append(_resnet((inner if i == 0 else width) + skip_width, width, config))
        self.attentions = _transformers(config, level, num_layers)
        self.upsamplers = nn.ModuleList()
        if level > 0:
            self.upsamplers.append(Upsampler(width, upsample=config.upsample, lora_rank=config.lora_rank))

    def forward(
        self,
        x: Tensor,
        skips: list[Tensor],
        size_after: tuple[int, int],
        time: Tensor | None,
        contexts: _Contexts,
        modulation: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            x: [B, in, h, w].
            skips: one per ResNet block, in the order of use.
            size_after: the next block's feature size.
            guidance: for the last ResNet block, which combines two prompts; see there.
        """
        for index, skip in enumerate(skips):
            x = torch.cat([x, repeated(skip, len(x))], dim=1)
            if guidance is not None and index == len(skips) - 1:
                x = self.resnets[index](x, time, modulation, guidance)
            else:
                x = self._layer(index, x, time, contexts, modulation)
        for upsampler in self.upsamplers:
            x = upsampler(x, size_after, modulation)
        return x


class TimeEmbedding(nn.Module):
    """Two linear layers over the sinusoidal features of the timestep."""

    def __init__(self, num_features: int, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(num_features, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """[B, num_features] -> [B, channels]."""
        return self.linear_2(F.silu(self.linear_1(features)))


class UNet(ModulatedNetwork):
    """Noise prediction from a latent, a timestep and a prompt.

    The block table has one row per down block, one for the mid block, one per up block and one for ``conv_out``.
    ``conv_in`` carries no LoRA: training changes it as a whole.

    Raises:
        ModelError: fields of the configuration do not agree.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        _require_agreement(config)
        self.config = config
        self.num_modulation_rows = 2 * len(widths) + 2
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.time_embedding: TimeEmbedding | None = TimeEmbedding(widths[0], config.time_channels)
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in range(len(widths)))
        self.mid_block = UNetMidBlock(config)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(range(len(widths))))
        self.conv_norm_out = stream_norm(config.norm, config.norm_num_groups, widths[0], config.norm_eps)
        self.activation_out = stream_activation(config.norm)
        self.conv_out = ModulatedConv2d(widths[0], config.latent_channels, 3, padding=1, lora_rank=config.lora_rank)

    def modulation_row(self, layer: str) -> int:
        """Number the table: 0..n-1 the down blocks, n the mid block, n+1..2n the up blocks, 2n + 1 everything else."""
        num_blocks = len(self.down_blocks)
        parts = layer.split(".")
        if parts[0] == "down_blocks":
            return int(parts[1])
        if parts[0] == "mid_block":
            return num_blocks
        return num_blocks + 1 + int(parts[1]) if parts[0] == "up_blocks" else 2 * num_blocks + 1

    @torch.no_grad()
    def fix_timestep(self, timestep: int) -> None:
        """Compute the timestep's effect once and store it in the biases of the ResNet blocks.

        Afterwards the timestep that :meth:`forward` gets is not looked at, and the time embedding is gone. Biases are
        replaced, never changed: a network that shares them stays as it is.
        """
        if self.time_embedding is None:
            return
        weight = self.time_embedding.linear_1.weight
        steps = torch.tensor([timestep], device=weight.device)
        time = self.time_embedding(sinusoidal_features(steps, self.config.block_out_channels[0]).to(weight.dtype))
        for module in self.modules():
            if isinstance(module, ResnetBlock):
                module.fix_time(time)
        self.time_embedding = None

    def keys_and_values(self, context: Tensor) -> tuple[KeysAndValues, ...]:
        """Compute keys and values of prompts [P, T, context_channels] with the weights as they are.

        :meth:`forward` takes it for the prompts themselves, which saves computing it in every call.
        """
        return tuple(
            block.attn2.keys_and_values(context) for block in self.modules() if isinstance(block, TransformerBlock)
        )

    def forward(
        self,
        latent: Tensor,
        timestep: Tensor,
        context: Tensor | tuple[KeysAndValues, ...],
        modulation: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise in a latent.

        With guidance everything before the first transformer is computed once for both prompts, and so is, with norm
        "branch", everything after the last activation, which is linear.

        Args:
            latent: [B, latent_channels, h, w].
            timestep: [B], whole numbers.
            context: [B, T, context_channels], the prompt's embedding; or its keys and values of P prompts, for B = n P
                latents, n for each prompt. With guidance: of 2 B rows, the positive ones first.
            modulation: [B, 2n + 2, r, r], or None for the base weights.
            guidance: [1], combines the predictions for the two prompts, see :func:`guided`; None for one prompt.

        Returns:
            [B, latent_channels, h, w]; float32 with guidance.
        """
        num_blocks = len(self.down_blocks)
        rows: tuple[Tensor | None, ...] = (None,) * self.num_modulation_rows
        if modulation is not None:
            rows = modulation.to(latent.dtype).unbind(1)
        time = None
        if self.time_embedding is not None:
            features = sinusoidal_features(timestep, self.config.block_out_channels[0]).to(latent.dtype)
            time = self.time_embedding(features)
        each: Iterator[Context] = itertools.repeat(context) if isinstance(context, Tensor) else iter(context)
        contexts = _Contexts(each, len(latent) if guidance is None else 2 * len(latent))
        combines_early = guidance is not None and self._ends_linearly

        x = self.conv_in(latent)
        skips = [x]
        for index, block in enumerate(self.down_blocks):
            x, block_skips = block(x, time, contexts, rows[index])
            skips += block_skips
        x = self.mid_block(x, time, contexts, rows[num_blocks])
        for index, block in enumerate(self.up_blocks):
            taken = [skips.pop() for _ in range(self.config.layers_per_block + 1)]
            # Odd sides: the enlargement must meet the next skip's size, which is not always twice as large.
            size_after = tuple(skips[-1].shape[2:]) if skips else tuple(x.shape[2:])
            early = guidance if combines_early and index == num_blocks - 1 else None
            x = block(x, taken, size_after, time, contexts, rows[num_blocks + 1 + index], early)
        prediction: Tensor = self.conv_out(self.activation_out(self.conv_norm_out(x)), rows[-1])
        if guidance is None:
            return prediction
        prediction = prediction.to(torch.float32)
        return prediction if combines_early else guided(prediction, guidance)

    @property
    def _ends_linearly(self) -> bool:
        """Whether nothing but the last block's activation is not linear after that block's last norm."""
        return self.config.norm == "branch" and not self.config.cross_attention[0]


def _require_agreement(config: UNetConfig) -> None:
    widths = config.block_out_channels
    if not len(widths) == len(config.num_heads) == len(config.cross_attention):
        raise ModelError(
            f"block_out_channels has {len(widths)} entries, num_heads {len(config.num_heads)}, cross_attention "
            f"{len(config.cross_attention)}; give one per block"
        )
    for level, (width, num_heads) in enumerate(zip(widths, config.num_heads, strict=True)):
        # The mid block attends at the innermost width, whatever the blocks do.
        if config.cross_attention[level] or level == len(widths) - 1:
            require_divisor(f"num_heads[{level}]", num_heads, width)
        if config.norm == "group":
            require_divisor("norm_num_groups", config.norm_num_groups, width)


def _resnet(in_channels: int, out_channels: int, config: UNetConfig) -> ResnetBlock:
    return ResnetBlock(
        in_channels,
        out_channels,
        norm=config.norm,
        norm_num_groups=config.norm_num_groups,
        norm_eps=config.norm_eps,
        time_channels=config.time_channels,
        lora_rank=config.lora_rank,
    )


def _transformer(config: UNetConfig, level: int) -> SpatialTransformer:
    return SpatialTransformer(
        config.block_out_channels[level],
        config.num_heads[level],
        context_channels=config.context_channels,
        self_attention=config.self_attention,
        norm=config.norm,
        norm_num_groups=config.norm_num_groups,
        lora_rank=config.lora_rank,
    )


def _transformers(config: UNetConfig, level: int, num_layers: int) -> nn.ModuleList | None:
    if not config.cross_attention[level]:
        return None
    return nn.ModuleList(_transformer(config, level) for _ in range(num_layers))
