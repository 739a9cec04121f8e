"""Discriminate by frozen features and small heads (vision-aided GAN, arXiv 2112.09130), or by pixels only.

Known from the library that the released training uses, and followed here:

- each of two patch maps (DINO: 768 x 14 x 14) goes through a blur with 2 zeros of padding, a 3 x 3 convolution to 128
  channels of stride 2 without padding, LeakyReLU 0.2, a blur with 1 zero of padding, and a 1 x 1 convolution of stride
  2 to one score per place (14 -> 15 -> 7 -> 6 -> 3); the class token through a linear layer, LeakyReLU and a linear
  layer to one score. The blur is the 4 x 4 binomial filter; spectral norm is on every convolution and linear layer;
- augmentation (color, translation, cutout) is applied to the images at their own size, before the resize;
- binary cross-entropy per score, averaged over places and images, summed over the three levels. What counts as real is
  labelled 0.8 for the discriminator **and** for the generator's own loss; fakes are labelled 0;
- the released training weighs the losses of both sides by 0.5 and steps once on real, once on generated images.

Ours: features of :class:`~s3diff.training.adversarial.backbones.Vgg16Backbone` at the images' own size; heads in
float32 also under autocast; spectral norm by torch's parametrization, whose 15 power iterations at the start the
library lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from s3diff.errors import OptionError, PictureError
from s3diff.training.adversarial.augmentation import AUGMENTATIONS, AugmentationDraw, augment, check_augmentations
from s3diff.training.adversarial.backbones import (
    Backbone,
    DinoBackbone,
    RandomBackbone,
    Vgg16Backbone,
    load_dino_weights,
)

BackboneName = Literal["dino", "vgg16", "random", "pixels", "none"]

#: The discriminator's target for real images (one-sided smoothing), also the generator's target for its results.
RELEASED_REAL_LABEL = 0.8

_LEAKY_SLOPE = 0.2
_BINOMIAL = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Describe a discriminator.

    Attributes:
        backbone: ``dino`` (S3Diff), ``vgg16`` (no hub needed), ``random`` (tests, dry runs); ``pixels``: no frozen
            features, a small network that learns along
            (:class:`~s3diff.training.adversarial.discriminator.PatchDiscriminator`); ``none``: the run has
            no adversarial phase.
        backbone_weights: safetensors file with the weights of ``dino``; None to look in the caches and on the hub.
        hidden_channels: channels between the two layers of each head; of ``pixels``, those of its first layer.
        real_label: label of real images, also in the generator's loss; ``pixels`` compares and has no labels.
        augmentation: some of ``color``, ``translation``, ``cutout``; not for ``pixels``.

    Raises:
        OptionError: a value that does not exist or is out of range.
    """

    backbone: BackboneName = "dino"
    backbone_weights: str | None = None
    hidden_channels: int = 128
    real_label: float = RELEASED_REAL_LABEL
    augmentation: tuple[str, ...] = AUGMENTATIONS

    def __post_init__(self) -> None:
        if self.backbone not in get_args(BackboneName):
            raise OptionError(f"backbone is {self.backbone!r}; give one of {', '.join(get_args(BackboneName))}")
        if self.backbone_weights is not None and self.backbone != "dino":
            raise OptionError(f"backbone_weights is for the backbone dino, not {self.backbone}; leave it out")
        if self.hidden_channels < 1:
            raise OptionError(f"hidden_channels is {self.hidden_channels}; give 1 or more")
        if not 0.5 < self.real_label <= 1:
            raise OptionError(f"real_label is {self.real_label}; give a value above 0.5, at most 1")
        check_augmentations(self.augmentation)


class Discriminator(nn.Module):
    """Frozen backbone, one trainable head per level.

    The backbone is no submodule: ``parameters()`` and ``state_dict()`` hold the heads only (an optimiser, a checkpoint
    and data-parallel wrappers never see it), ``train()`` does not reach it, and ``to()`` takes it along.

    In training mode every forward pass, under :func:`frozen` too, runs one power iteration of each spectral norm, which
    changes its buffers. They depend on the weights and the number of passes only: processes that start equal and run
    the same number of passes stay equal without communication, and a saved state goes on bit by bit.

    Args:
        config: of a backbone other than ``none``.
        backbone: instead of the one that ``config`` names.

    Raises:
        OptionError: the backbone is ``none``.
        MissingExtraError: the backbone's weights are not on this machine; the message says how to get them.
        ModelError: a file of weights is damaged or does not fit.
    """

    def __init__(self, config: DiscriminatorConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config = config
        backbone = _build_backbone(config) if backbone is None else backbone
        # Inside a list, where nn.Module does not look for submodules.
        self._unregistered = [backbone.requires_grad_(False).eval()]
        hidden = config.hidden_channels
        heads = [_map_head(channels, hidden) for channels in backbone.map_channels]
        self.heads = nn.ModuleList([*heads, _vector_head(backbone.vector_channels, hidden)])

    @property
    def backbone(self) -> Backbone:
        """The frozen network."""
        return self._unregistered[0]

    def forward(self, images: Tensor, augmentation: AugmentationDraw | None = None) -> list[Tensor]:
        """Judge how real the images look: positive logits for real.

        Args:
            images: [B, 3, H, W] in [-1, 1]. Gradients flow back to them.
            augmentation: drawn for B images of H x W pixels; None to judge the images as they are.

        Returns:
            One tensor of float32 logits per level: [B, 1, h, w] for each map, [B, 1] for the vector.

        Raises:
            PictureError: not such a tensor, or too small for the backbone.
        """
        smallest_px = self.backbone.smallest_px
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < smallest_px:
            raise PictureError(
                f"the discriminator was given a tensor of shape {tuple(images.shape)}; give [B, 3, H, W] of at least "
                f"{smallest_px} x {smallest_px} pixels for the backbone {self.config.backbone}"
            )
        images = images.float()
        if augmentation is not None:
            images = augment(images, augmentation)
        maps, vector = self.backbone(images)
        # Under autocast the power iteration would run in half precision (and has failed: pytorch issue 125544).
        with torch.autocast(images.device.type, enabled=False):
            return [head(level.float()) for head, level in zip(self.heads, [*maps, vector], strict=True)]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or cast the backbone too: every move and cast of a module calls this method."""
        if recurse:
            self.backbone._apply(fn)
        return super()._apply(fn, recurse)


def adversarial_loss(logits: Sequence[Tensor], label: float) -> Tensor:
    """Compare every logit with one label by cross-entropy: mean over a level's places and images, sum over levels.

    Args:
        logits: from :class:`Discriminator`.
        label: 0 for generated, ``real_label`` for real and for the generator's own loss, which is least where the
            discriminator says that probability, and pushes back beyond.
    """
    losses = [
        F.binary_cross_entropy_with_logits(level.float(), torch.full_like(level, label, dtype=torch.float32))
        for level in logits
    ]
    return torch.stack(losses).sum()


@contextmanager
def frozen(discriminator: nn.Module) -> Iterator[None]:
    """Record no gradients for the heads in forward passes inside: for the generator's adversarial phase.

    Only the forward pass needs to be inside. Under data-parallel training give the discriminator itself, not its
    wrapper, here and for the pass: the wrapper would wait for gradients that do not come.
    """
    trainable = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


class _Blur(nn.Module):
    """Blur every channel with the 4 x 4 binomial filter, zeros around (anti-aliasing before a stride, arXiv
    1904.11486).
    """

    kernel: Tensor

    def __init__(self, padding_px: int) -> None:
        super().__init__()
        self.padding_px = padding_px
        row = torch.tensor(_BINOMIAL) / sum(_BINOMIAL)
        self.register_buffer("kernel", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        channels = features.shape[1]
        kernel = self.kernel.expand(channels, -1, -1, -1)
        return F.conv2d(features, kernel, padding=self.padding_px, groups=channels)


def _map_head(channels: int, hidden_channels: int) -> nn.Sequential:
    """Build a head from [B, C, n, n] to [B, 1, n // 4, n // 4]: 3 x 3 scores for the 14 x 14 patches of DINO."""
    return nn.Sequential(
        _Blur(padding_px=2),
        spectral_norm(nn.Conv2d(channels, hidden_channels, kernel_size=3, stride=2)),
        nn.LeakyReLU(_LEAKY_SLOPE),
        _Blur(padding_px=1),
        spectral_norm(nn.Conv2d(hidden_channels, 1, kernel_size=1, stride=2)),
    )


def _vector_head(channels: int, hidden_channels: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Linear(channels, hidden_channels)),
        nn.LeakyReLU(_LEAKY_SLOPE),
        spectral_norm(nn.Linear(hidden_channels, 1)),
    )


def _build_backbone(config: DiscriminatorConfig) -> Backbone:
    if config.backbone == "dino":
        path = config.backbone_weights
        return DinoBackbone(load_dino_weights(Path(path).expanduser() if path is not None else None))
    if config.backbone == "vgg16":
        return Vgg16Backbone()
    if config.backbone == "random":
        return RandomBackbone()
    raise OptionError(f"backbone is {config.backbone}: such a run has no frozen features; give dino, vgg16 or random")


class PatchDiscriminator(nn.Module):
    """PatchGAN (arXiv 1611.07004): five convolutions, all but the last with spectral norm; two halve the size.

    Fast enough for a CPU. It compares every result with its own target, place by place: the target shall look more real
    than the result (relativistic pairing, arXiv 1807.00734, as ESRGAN uses it, arXiv 1809.00219). Its field of view of
    28 px at full resolution sees what perceptual losses overlook: the fine patterns that they print, and the texture
    that they leave out.

    The last one is left free, or its logits could hardly differ.

    Args:
        channels: of the first layer; the next ones have twice and four times as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _layer(3, channels, kernel_size=3, stride=1),
            _layer(channels, 2 * channels, kernel_size=4, stride=2),
            _layer(2 * channels, 4 * channels, kernel_size=4, stride=2),
            _layer(4 * channels, 4 * channels, kernel_size=3, stride=1),
            nn.Conv2d(4 * channels, 1, kernel_size=3, padding=1, bias=False),  # it would cancel in the pairs
        )

    def forward(self, images: Tensor) -> Tensor:
        """Judge how real every place of [B, 3, H, W] images in [-1, 1] looks: [B, 1, H / 4, W / 4] logits, float32."""
        # Under autocast the power iteration would run in half precision (and has failed: pytorch issue 125544).
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.layers(images.float())
            return logits


def pairing_loss(more_real: Tensor, less_real: Tensor, counted: Tensor, num_counted: float) -> Tensor:
    """Average the softplus of the logits of ``less_real`` minus those of ``more_real``, over all places.

    The discriminator gives the targets as ``more_real`` and the results as ``less_real``, the generator the other way
    round.

    Args:
        more_real: [B, 1, h, w] logits.
        less_real: the same.
        counted: [B] bool, the images that count.
        num_counted: how many of the B images count in the mean over all processes; the sum is divided by it.
    """
    by_image = F.softplus(less_real - more_real).mean(dim=(1, 2, 3))
    return torch.where(counted, by_image, 0.0).sum() / num_counted


def _layer(channels_in: int, channels_out: int, *, kernel_size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size, stride=stride, padding=1)
    return nn.Sequential(spectral_norm(convolution), nn.LeakyReLU(_LEAKY_SLOPE))
