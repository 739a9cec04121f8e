"""Build the blocks of the autoencoder and the UNet, with the parameter names of a diffusers checkpoint.

Every block takes ``modulation``: [B, r, r] for its modulated layers, or None for the base weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.errors import ModelError
from s3diff.networks.modulated_lora import ModulatedConv2d, ModulatedLinear, repeated
from s3diff.networks.tiled_features import TiledFeatures

#: More is no network of this kind; a damaged configuration would build them for minutes.
MAX_LAYERS_PER_BLOCK = 64
MAX_BLOCKS = 16
MAX_WIDTH = 2**16
#: Below it the square root of a float32 picture without contrast is no longer guarded; above it the norm is none.
EPS_RANGE = (1e-12, 1.0)

Norm = Literal["group", "branch", "none"]
Upsample = Literal["nearest", "bilinear"]


class ChannelNorm(nn.Module):
    """Divide each pixel's channels by their root mean square, times a weight (arXiv 1910.07467)."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        if torch.compiler.is_compiling():  # torch.compile and torch.export take what is written plainly
            return channel_norm_reference(x, self.weight, self.eps)
        return _ChannelNormFunction.apply(x, self.weight, self.eps)


def channel_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute :class:`ChannelNorm` as the formula reads; its fast twin is :class:`_ChannelNormFunction`."""
    scale = torch.rsqrt(x.square().mean(dim=1, keepdim=True) + eps)
    return x * scale * weight[:, None, None]


class _ChannelNormFunction(torch.autograd.Function):
    """Compute :func:`channel_norm_reference` and its gradients with fewer passes over memory.

    With ``n = x s``, ``s`` the reciprocal root mean square of a pixel, and the gradient ``g`` of ``n w``: the gradient
    of ``w`` is the sum of ``g n`` over all pixels, that of ``x`` is ``(g w - n mean(g w n)) s``, the mean over the
    channels. The result has the number format of ``x``, also under autocast; ``s`` is float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype).square_()
        scale = squares.div_(x.shape[1]).add_(eps).rsqrt_().to(x.dtype)
        weight = weight.to(x.dtype)
        normed = x * scale
        if not any(ctx.needs_input_grad):
            return normed.mul_(weight[:, None, None])
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight[:, None, None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        product = gradient * normed
        of_weight = product.sum(dim=(0, 2, 3))
        mean = torch.matmul(product.movedim(1, -1), weight / len(weight))[:, None]
        of_x = (gradient * weight[:, None, None]).addcmul_(normed, mean, value=-1).mul_(scale)
        return of_x, of_weight, None


def guided(both: Tensor, guidance: Tensor) -> Tensor:
    """Combine [2 B, ...], for the positive prompt and for the negative one, to negative + g (positive - negative).

    In float32 at least, then in the given number format; ``guidance``: g, [1].
    """
    positive, negative = both.to(torch.promote_types(both.dtype, torch.float32)).chunk(2)
    return (negative + guidance * (positive - negative)).to(both.dtype)


def require_within(name: str, value: float, lowest: float, highest: float) -> None:
    """Refuse a value of a configuration.

    Raises:
        ValueError: it lies outside the range.
    """
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value}; allowed: {lowest} to {highest}")


def require_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is none of a ``Literal``'s.

    Raises:
        ValueError: it is another one.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, get_args(choices)))}")


def require_widths(name: str, widths: Sequence[int]) -> None:
    """Refuse widths that no row of blocks has.

    Raises:
        ValueError: there are none or too many, or one is too small or too large.
    """
    if not 1 <= len(widths) <= MAX_BLOCKS:
        raise ValueError(f"{name} is {list(widths)}; allowed: 1 to {MAX_BLOCKS} widths")
    for index, width in enumerate(widths):
        require_within(f"{name}[{index}]", width, 1, MAX_WIDTH)


def require_divisor(name: str, divisor: int, width: int) -> None:
    """Refuse heads or groups that do not divide the width of their layer.

    Two fields at once are checked where the network is built, not where the configuration is made: ``--set`` changes
    one field after another.

    Raises:
        ModelError: a rest is left.
    """
    if width % divisor:
        raise ModelError(f"{name} is {divisor}; allowed: divisors of the width {width}")


def norm_layer(kind: Norm, num_groups: int, channels: int, eps: float) -> nn.Module:
    """Make the norm before a residual branch: GroupNorm (SD-Turbo), one for each pixel, or none: without statistics
    over the picture tiles are exact.
    """
    return ChannelNorm(channels, eps) if kind == "branch" else stream_norm(kind, num_groups, channels, eps)


def stream_norm(kind: Norm, num_groups: int, channels: int, eps: float) -> nn.Module:
    """Make the norm of the features between blocks: GroupNorm, or nothing.

    A norm over channels would divide every pixel's contrast away, and no later layer could give it back: networks with
    such norms at these places learned next to nothing (docs/training.md).
    """
    return nn.GroupNorm(num_groups, channels, eps=eps) if kind == "group" else nn.Identity()


def stream_activation(kind: Norm) -> nn.Module:
    """Make the activation after :func:`stream_norm`: SiLU; nothing with norms only in branches, which stay linear."""
    return nn.Identity() if kind == "branch" else nn.SiLU()


class ResnetBlock(nn.Module):
    """norm, SiLU, 3x3, + time, norm, SiLU, 3x3, + input (through a 1x1 where the width changes).

    With ``norm`` "branch": norm, 3x3, + time, SiLU, 3x3, times a learned factor that starts at a tenth, + input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Norm,
        norm_num_groups: int,
        norm_eps: float,
        time_channels: int = 0,
        lora_rank: int = 0,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm, norm_num_groups, in_channels, norm_eps)
        self.activation1 = stream_activation(norm)
        self.conv1 = ModulatedConv2d(in_channels, out_channels, 3, padding=1, lora_rank=lora_rank)
        self.time_emb_proj = nn.Linear(time_channels, out_channels) if time_channels else None
        self.norm2 = stream_norm(norm, norm_num_groups, out_channels, norm_eps)
        self.conv2 = ModulatedConv2d(out_channels, out_channels, 3, padding=1, lora_rank=lora_rank)
        self.conv_shortcut = (
            ModulatedConv2d(in_channels, out_channels, 1, lora_rank=lora_rank) if in_channels != out_channels else None
        )
        self.branch_factor = nn.Parameter(torch.tensor(0.1)) if norm == "branch" else None

    def forward(
        self,
        x: Tensor,
        time: Tensor | None = None,
        modulation: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            x: [B, in, h, w].
            time: [1, time_channels], or one for each of B; or None.
            modulation: [B or fewer, r, r]; see :class:`ModulatedConv2d`.
            guidance: combine the two halves of the batch by :func:`guided`; only with norm "branch", after whose
                activation everything is linear, so that it is computed for the combination only.

        Returns:
            [B, out, h, w]; [B / 2, out, h, w] with guidance.
        """
        hidden = self.conv1(self.activation1(self.norm1(x)), modulation)
        if self.time_emb_proj is not None and time is not None:
            hidden = hidden + repeated(self.time_emb_proj(F.silu(time)), len(x))[:, :, None, None]
        # What no gradient needs is overwritten: asking for new memory takes a CPU as long as the computation.
        is_kept = torch.is_grad_enabled() or torch.compiler.is_compiling()
        hidden = F.silu(self.norm2(hidden), inplace=not is_kept)
        if guidance is not None:
            hidden, x = guided(hidden, guidance), guided(x, guidance)
        hidden = self.conv2(hidden, modulation)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x, modulation)
        if self.branch_factor is None:
            return hidden + shortcut
        if is_kept:
            return self.branch_factor * hidden + shortcut
        return hidden.mul_(self.branch_factor).add_(shortcut)

    def fix_time(self, time: Tensor) -> None:
        """Add the effect of a time embedding [1, time_channels] to the bias of ``conv1`` for good, as a new tensor."""
        if self.time_emb_proj is not None and self.conv1.bias is not None:
            added = self.time_emb_proj(F.silu(time))[0]
            self.conv1.bias = nn.Parameter(self.conv1.bias + added, requires_grad=False)
            self.time_emb_proj = None


class Downsampler(nn.Module):
    """3x3 convolution of stride 2. The VAE pads right and bottom only, the UNet on every side."""

    def __init__(self, channels: int, *, asymmetric: bool, lora_rank: int = 0) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = ModulatedConv2d(
            channels, channels, 3, stride=2, padding=0 if asymmetric else 1, lora_rank=lora_rank
        )

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """[B, C, h, w] -> [B, C, ceil(h / 2), ceil(w / 2)] (floor for the asymmetric padding)."""
        if self.asymmetric:
            x = F.pad(x, (0, 1, 0, 1))
        return self.conv(x, modulation)


class Upsampler(nn.Module):
    """Enlargement to a given size, then a 3x3 convolution. Both filters map a constant to a constant: no grid."""

    def __init__(self, channels: int, *, upsample: Upsample, lora_rank: int = 0) -> None:
        super().__init__()
        self.upsample = upsample
        self.conv = ModulatedConv2d(channels, channels, 3, padding=1, lora_rank=lora_rank)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None, modulation: Tensor | None = None) -> Tensor:
        """[B, C, h, w] -> [B, C, *size]; None for twice the sides."""
        target = {"scale_factor": 2.0} if size is None else {"size": size}
        align_corners = False if self.upsample == "bilinear" else None
        enlarged = F.interpolate(x, mode=self.upsample, align_corners=align_corners, **target)
        return self.conv(enlarged, modulation)


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


def sinusoidal_features(timestep: Tensor, num_features: int) -> Tensor:
    """Compute [B, num_features] of [B]: cosines, then sines, of the timestep at frequencies 10000^(-i / half)."""
    half = num_features // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    phases = timestep.to(torch.float32)[:, None] * 10000.0 ** (-exponents)
    return torch.cat([phases.cos(), phases.sin()], dim=-1)
