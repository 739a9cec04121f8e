"""Load the frozen networks whose features a discriminator judges, and fetch DINO's weights.

Each returns a few patch maps and one vector per image. ``dino`` is what S3Diff trains with; ``vgg16`` needs no hub;
``random`` reads nothing at all.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.checkpoints.hub import Progress, fetch_single_file
from s3diff.checkpoints.release import NeededFile, Repository
from s3diff.checkpoints.weights_file import check_tensors, read_safetensors
from s3diff.errors import DownloadError, MissingExtraError
from s3diff.evaluation.perceptual import IMAGENET_MEAN, IMAGENET_STD, LPIPS, VGG16_FEATURE_CHANNELS
from s3diff.evaluation.perceptual_weights import Weights, perceptual_folder

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
    """Patches and a class token through pre-norm transformer blocks; no classifier (arXiv 2010.11929).

    Parameter names are those of the timm library's files, so that ``vit_base_patch16_224`` files load as they are; the
    library itself cannot be installed without torchvision.
    """

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
        widen, narrow = nn.Linear(config.channels, config.mlp_channels), nn.Linear(config.mlp_channels, config.channels)
        self.mlp = nn.Sequential(OrderedDict(fc1=widen, gelu=nn.GELU(), fc2=narrow))

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


# The commit was read from public copies of the hub's pages (the file itself is unchanged since May 2023, SHA-256
# 93181583427d6de3e18ab0e6ee4df35736cfc51a3c1bf9ae0e9b53b1316598dc); this project's machines cannot reach the hub.
DINO_REPOSITORY = Repository(
    name="timm/vit_base_patch16_224.dino",
    revision="3ca4284a1d2db6ac0fc1a7e24e71ee0643260ec2",
    revision_variable="S3DIFF_DINO_REVISION",
    licence="Apache-2.0",
    licence_file=None,
    files=(NeededFile(path="model.safetensors"),),
)
#: Name of a copy in s3diff's own folder of perceptual weights, for machines without the hub.
DINO_FILE_NAME = "dino_vit_b16.safetensors"
#: Where a recipe holds a DiscriminatorConfig, for messages.
_SETTING = "adversarial.discriminator"
#: Blocks of twelve whose tokens are judged: patch maps after the first two, the class token after the last.
DINO_BLOCKS = (5, 9, 12)

#: Stages of VGG16 (from 0) whose features are judged: maps at 1/4 and 1/8 of the side, the mean of those at 1/16.
_VGG16_MAP_STAGES = (2, 3)
_VGG16_VECTOR_STAGE = 4

_RANDOM_SEED = 20_240_925
_RANDOM_CHANNELS = (8, 16, 32, 64)


class Features(NamedTuple):
    """``maps``: [B, C, h, w] each, from shallow to deep; ``vector``: [B, C], of the deepest level."""

    maps: list[Tensor]
    vector: Tensor


class Backbone(nn.Module):
    """Define the interface of a discriminator's frozen network.

    Attributes:
        map_channels: channels of each of ``Features.maps``.
        vector_channels: of ``Features.vector``.
        smallest_px: the smallest side of an image that leaves every map at least 4 x 4, which the heads need.
    """

    map_channels: tuple[int, ...]
    vector_channels: int
    smallest_px: int

    def forward(self, images: Tensor) -> Features:
        """Compute features of [B, 3, H, W] float32 images in [-1, 1], differentiable in the images."""
        raise NotImplementedError


class DinoBackbone(Backbone):
    """ViT-B/16 trained without labels (DINO, arXiv 2104.14294), as vision-aided GAN uses it (arXiv 2112.09130).

    Images of any shape are resized to 224 x 224 by averaging areas and normalised by ImageNet's mean and standard
    deviation. (The released training subtracts CLIP's mean, which is 0.004 of the range away, and divides by
    ImageNet's deviation: a slip, not reproduced.) All three outputs pass the transformer's final norm, as in DINO's own
    ``get_intermediate_layers``.

    Args:
        weights: from :func:`load_dino_weights`; they are taken over, not copied.
        config: another shape than ViT-B/16, for tests.
        blocks: numbers of the blocks whose tokens are taken, from 1.

    Raises:
        ModelError: the weights do not fit; names and shapes are listed.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: VisionTransformerConfig | None = None,
        blocks: tuple[int, ...] = DINO_BLOCKS,
    ) -> None:
        super().__init__()
        self.config = config or VisionTransformerConfig()
        self.blocks = blocks
        self.map_channels = (self.config.channels,) * (len(blocks) - 1)
        self.vector_channels = self.config.channels
        self.smallest_px = 1
        # Without memory and without drawing start values: a run's random numbers do not depend on the backbone.
        with torch.device("meta"):
            self.network = VisionTransformer(self.config)
        check_tensors(weights, _shapes(self.network), "the weights of the DINO backbone")
        self.network.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Features:
        side_px, grid_px = self.config.image_px, self.config.grid_px
        images = F.interpolate(images.float(), size=(side_px, side_px), mode="area") * 0.5 + 0.5
        taken = self.network((images - self.mean) / self.std, self.blocks)
        maps = [tokens[:, 1:].transpose(1, 2).unflatten(2, (grid_px, grid_px)) for tokens in taken[:-1]]
        return Features(maps, taken[-1][:, 0])


class Vgg16Backbone(Backbone):
    """VGG16 with the weights of LPIPS, at the images' own size; obtainable without the hub.

    The features are those of LPIPS, each pixel's vector over its channels of length 1, times the root of the number of
    channels: a mean square of 1 like behind a norm, whatever the stage.

    Raises:
        MissingExtraError: the weights of ``lpips_vgg`` are not on this machine; the message names the command.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = LPIPS("vgg")
        self.map_channels = tuple(VGG16_FEATURE_CHANNELS[stage] for stage in _VGG16_MAP_STAGES)
        self.vector_channels = VGG16_FEATURE_CHANNELS[_VGG16_VECTOR_STAGE]
        self.smallest_px = 32

    def forward(self, images: Tensor) -> Features:
        stages = [stage * math.sqrt(stage.shape[1]) for stage in self.network.features(images)]
        return Features([stages[i] for i in _VGG16_MAP_STAGES], stages[_VGG16_VECTOR_STAGE].mean(dim=(2, 3)))


class RandomBackbone(Backbone):
    """Four seeded random convolutions with poolings between: for tests and dry runs. Nothing is read."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(_RANDOM_SEED)
        self.kernels = nn.ParameterList()
        for channels_in, channels_out in pairwise((3, *_RANDOM_CHANNELS)):
            kernel = torch.randn(channels_out, channels_in, 3, 3, generator=generator)
            self.kernels.append(nn.Parameter(kernel * math.sqrt(2 / (9 * channels_in))))  # keeps the signal's size
        self.map_channels = _RANDOM_CHANNELS[1:3]
        self.vector_channels = _RANDOM_CHANNELS[3]
        self.smallest_px = 16

    def forward(self, images: Tensor) -> Features:
        stages = []
        for i, kernel in enumerate(self.kernels):
            images = F.relu(F.conv2d(F.max_pool2d(images, 2) if i else images, kernel, padding=1))
            stages.append(images)
        return Features(stages[1:3], stages[3].mean(dim=(2, 3)))


def load_dino_weights(path: Path | None = None, progress: Progress | None = None) -> Weights:
    """Load the weights of DINO's ViT-B/16, float32, under timm's parameter names.

    Args:
        path: a safetensors file; None for ``dino_vit_b16.safetensors`` in the folder of the perceptual weights, else
            the hub's cache, else the hub (343 MB).
        progress: called with (bytes done, bytes in all) while the hub sends the file.

    Raises:
        ModelError: the file at ``path`` or in the cache is missing, damaged or holds other tensors.
        MissingExtraError: no path was given, no copy is on this machine and the hub did not send one.
    """
    copy = perceptual_folder() / DINO_FILE_NAME
    if path is None:
        path = copy if copy.is_file() else _from_hub(copy, progress)
    weights = read_safetensors(path)
    with torch.device("meta"):
        expected = _shapes(VisionTransformer(VisionTransformerConfig()))
    check_tensors(weights, expected, str(path))
    return {name: value.float() for name, value in weights.items()}


def _from_hub(copy: Path, progress: Progress | None) -> Path:
    try:
        return fetch_single_file(DINO_REPOSITORY, progress)
    except DownloadError as error:
        file = DINO_REPOSITORY.files[0].path
        raise MissingExtraError(
            f"the weights of the dino backbone are not on this machine ({error}); put {file} (343 MB) of the hub's "
            f"repository {DINO_REPOSITORY.name} at {copy}, or name it: --set {_SETTING}.backbone_weights=FILE, or "
            f"train with another backbone: --set {_SETTING}.backbone=vgg16"
        ) from error


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}
