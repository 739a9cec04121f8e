"""Build the blocks of the autoencoder and the UNet, with the parameter names of a diffusers checkpoint.

Every block takes ``modulation``: [B, r, r] for its modulated layers, or None for the base weights.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.networks.modulated_lora import ModulatedConv2d, repeated

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


def norm_layer(kind: Norm, num_groups: int, channels: int, eps: float) -> nn.Module:
    """Make the norm before a residual branch: GroupNorm (SD-Turbo), a norm of each pixel, or none.

    The last two use no statistics over the picture, so tiles are exact.
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


def sinusoidal_features(timestep: Tensor, num_features: int) -> Tensor:
    """Compute [B, num_features] of [B]: cosines, then sines, of the timestep at frequencies 10000^(-i / half)."""
    half = num_features // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    phases = timestep.to(torch.float32)[:, None] * 10000.0 ** (-exponents)
    return torch.cat([phases.cos(), phases.sin()], dim=-1)
