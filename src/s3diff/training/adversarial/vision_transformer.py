"""Extract features with a frozen vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929).

Parameter names are those of the widely used files of the timm library, so that ``vit_base_patch16_224`` files load as
they are. Nothing here depends on that library, which cannot be installed without torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Of every LayerNorm in the files.
_NORM_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class VisionTransformerConfig:
    """Shapes of the network; the defaults are ViT-B/16 at 224 px (85.8 million parameters).

    Attributes:
        image_px: side of the square images that the position embedding was trained for.
        patch_px: side of the square patches that become one token.
        channels: width of a token.
        num_blocks: depth.
        num_heads: attention heads; ``channels`` is a multiple of it.
        mlp_channels: width inside the two-layer perceptron.
    """

    image_px: int = 224
    patch_px: int = 16
    channels: int = 768
    num_blocks: int = 12
    num_heads: int = 12
    mlp_channels: int = 3072

    @property
    def grid_px(self) -> int:
        """Patches along one side of the image."""
        return self.image_px // self.patch_px


class VisionTransformer(nn.Module):
    """Patches and a class token through pre-norm transformer blocks; no classifier."""

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid_px**2, config.channels))
        self.patch_embed = _PatchEmbedding(config)
        self.blocks = nn.ModuleList([_Block(config) for _ in range(config.num_blocks)])
        self.norm = nn.LayerNorm(config.channels, eps=_NORM_EPSILON)

    def forward(self, images: Tensor, after_blocks: Sequence[int]) -> list[Tensor]:
        """Compute the tokens after some of the blocks, each through the network's one final norm.

        Args:
            images: [B, 3, image_px, image_px], normalised as in training.
            after_blocks: ascending numbers of blocks, counted from 1. Blocks after the last one are not computed.

        Returns:
            One tensor [B, 1 + grid_px ** 2, channels] per number: the class token, then the patches row by row.
        """
        tokens = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        taken = []
        for number, block in enumerate(self.blocks[: max(after_blocks)], start=1):
            tokens = block(tokens)
            if number in after_blocks:
                taken.append(self.norm(tokens))
        return taken


class _PatchEmbedding(nn.Module):
    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.channels, config.patch_px, stride=config.patch_px)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # [B, patches, channels]


class _Block(nn.Module):
    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.channels, eps=_NORM_EPSILON)
        self.attn = _Attention(config)
        self.norm2 = nn.LayerNorm(config.channels, eps=_NORM_EPSILON)
        self.mlp = _Mlp(config)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _Attention(nn.Module):
    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.channels, 3 * config.channels)
        self.proj = nn.Linear(config.channels, config.channels)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)  # [B, heads, tokens, channels of a head]
        return self.proj(attended.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.channels, config.mlp_channels)
        self.fc2 = nn.Linear(config.mlp_channels, config.channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))
