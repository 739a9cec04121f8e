"""Build the attention of the autoencoder and the transformers of the UNet, named as in a diffusers checkpoint.

Every block takes ``modulation`` as those of :mod:`s3diff.networks.blocks`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.networks.blocks import Norm, norm_layer
from s3diff.networks.modulated_lora import ModulatedLinear
from s3diff.networks.tiled_features import TiledFeatures


class KeysAndValues(NamedTuple):
    """Hold an attention layer's keys and values of a context, both [P, heads, T, C / heads], for many calls.

    With a batch of B = n P queries each of them serves n neighbours in it.
    """

    keys: Tensor
    values: Tensor


#: A prompt's embedding [B, T, context_channels], or one attention layer's keys and values of it.
Context = Tensor | KeysAndValues


class Attention(nn.Module):
    """Multi-head attention over [B, N, C] tokens; ``to_out.0`` is the output layer, as in a diffusers checkpoint."""

    def __init__(
        self, channels: int, num_heads: int, *, context_channels: int | None = None, bias: bool, lora_rank: int = 0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        context_channels = context_channels or channels
        self.to_q = ModulatedLinear(channels, channels, bias, lora_rank=lora_rank)
        self.to_k = ModulatedLinear(context_channels, channels, bias, lora_rank=lora_rank)
        self.to_v = ModulatedLinear(context_channels, channels, bias, lora_rank=lora_rank)
        self.to_out = nn.ModuleList([ModulatedLinear(channels, channels, lora_rank=lora_rank)])

    def forward(self, x: Tensor, context: Context | None = None, modulation: Tensor | None = None) -> Tensor:
        """``x``: [B, N, C]; ``context``: [B, T, context_channels], or None to attend to ``x`` itself."""
        if not isinstance(context, KeysAndValues):
            context = self.keys_and_values(x if context is None else context, modulation)
        query = self._in_heads(self.to_q(x, modulation))
        key, value = (_for_batch(tensor, len(query)) for tensor in context)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.to_out[0](attended.transpose(1, 2).flatten(2), modulation)

    def keys_and_values(self, context: Tensor, modulation: Tensor | None = None) -> KeysAndValues:
        """Compute of ``context`` [B, T, context_channels] what does not depend on the queries."""
        keys, values = (self._in_heads(layer(context, modulation)) for layer in (self.to_k, self.to_v))
        return KeysAndValues(keys, values)

    def _in_heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _for_batch(tensor: Tensor, batch_size: int) -> Tensor:
    return tensor if len(tensor) == batch_size else tensor.repeat_interleave(batch_size // len(tensor), dim=0)


class ImageAttention(Attention):
    """Self-attention over every pixel of a feature map with one head, added to its input (the VAE's mid block)."""

    def __init__(self, channels: int, *, norm_num_groups: int, norm_eps: float, lora_rank: int = 0) -> None:
        super().__init__(channels, 1, bias=True, lora_rank=lora_rank)
        self.group_norm = nn.GroupNorm(norm_num_groups, channels, eps=norm_eps)

    def forward(self, x: Tensor, context: Context | None = None, modulation: Tensor | None = None) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]; or the same in tiles."""
        normed = self.group_norm(x)
        if isinstance(normed, TiledFeatures):
            attend = super().forward
            attended_tiles = normed.attended(
                lambda tokens: self.keys_and_values(tokens, modulation),
                lambda queries, prepared: attend(queries, prepared, modulation),
            )
            return attended_tiles + x  # type: ignore[operator]
        tokens = normed.flatten(2).transpose(1, 2)
        attended = super().forward(tokens, context, modulation)
        return x + attended.transpose(1, 2).unflatten(2, x.shape[2:])


class GatedLinear(nn.Module):
    """GEGLU: one linear layer makes value and gate; the value is multiplied by GELU(gate)."""

    def __init__(self, channels: int, hidden_channels: int, *, lora_rank: int = 0) -> None:
        super().__init__()
        self.proj = ModulatedLinear(channels, 2 * hidden_channels, lora_rank=lora_rank)

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """[B, N, C] -> [B, N, hidden]."""
        value, gate = self.proj(x, modulation).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back. ``net.1`` is the place of a dropout that inference never had."""

    def __init__(self, channels: int, *, lora_rank: int = 0) -> None:
        super().__init__()
        hidden_channels = 4 * channels
        self.net = nn.ModuleList(
            [
                GatedLinear(channels, hidden_channels, lora_rank=lora_rank),
                nn.Identity(),
                ModulatedLinear(hidden_channels, channels, lora_rank=lora_rank),
            ]
        )

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return self.net[2](self.net[0](x, modulation), modulation)


class TransformerBlock(nn.Module):
    """Self-attention (optional), cross-attention to the prompt, feed-forward; each after a LayerNorm, each added."""

    def __init__(
        self, channels: int, num_heads: int, *, context_channels: int, self_attention: bool, lora_rank: int = 0
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        if self_attention:
            self.norm1 = nn.LayerNorm(channels)
            self.attn1 = Attention(channels, num_heads, bias=False, lora_rank=lora_rank)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, num_heads, context_channels=context_channels, bias=False, lora_rank=lora_rank)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, lora_rank=lora_rank)

    def forward(self, x: Tensor, context: Context, modulation: Tensor | None = None) -> Tensor:
        """``x``: [B, N, C]; ``context``: [B, T, context_channels], or what ``attn2`` makes of it."""
        if self.self_attention:
            x = x + self.attn1(self.norm1(x), None, modulation)
        x = x + self.attn2(self.norm2(x), context, modulation)
        return x + self.ff(self.norm3(x), modulation)


class SpatialTransformer(nn.Module):
    """Apply a transformer block to the pixels of a feature map, between two linear layers, added to its input."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        context_channels: int,
        self_attention: bool,
        norm: Norm,
        norm_num_groups: int,
        lora_rank: int = 0,
    ) -> None:
        super().__init__()
        # 1e-6 here, whatever the ResNet blocks use: the published checkpoints were made so.
        self.norm = norm_layer(norm, norm_num_groups, channels, eps=1e-6)
        self.proj_in = ModulatedLinear(channels, channels, lora_rank=lora_rank)
        self.transformer_blocks = nn.ModuleList(
            [
                TransformerBlock(
                    channels,
                    num_heads,
                    context_channels=context_channels,
                    self_attention=self_attention,
                    lora_rank=lora_rank,
                )
            ]
        )
        self.proj_out = ModulatedLinear(channels, channels, lora_rank=lora_rank)

    def forward(self, x: Tensor, context: Context, modulation: Tensor | None = None) -> Tensor:
        """``x``: [B, C, h, w]; ``context``: as in :class:`TransformerBlock`. Returns [B, C, h, w]."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        tokens = self.proj_in(tokens, modulation)
        for block in self.transformer_blocks:
            tokens = block(tokens, context, modulation)
        tokens = self.proj_out(tokens, modulation)
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])
