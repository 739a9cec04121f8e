"""Compute the perceptual distances LPIPS and DISTS, as measures and as training losses.

Both compare features of a frozen image network. In training the target's features need no gradient and are computed
apart: ``distance(model.features(prediction), target_features)`` with the target's under ``torch.no_grad()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from s3diff.errors import ModelError, OptionError, PictureError
from s3diff.evaluation.perceptual_weights import load_perceptual_weights

#: (input channels, output channels, kernel side) of every convolution, in order.
ALEXNET_CONVOLUTIONS = ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3))
VGG16_CONVOLUTIONS = (
    *((3, 64, 3), (64, 64, 3), (64, 128, 3), (128, 128, 3), (128, 256, 3), (256, 256, 3), (256, 256, 3)),
    *((256, 512, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3)),
)
#: Smallest side that LPIPS on AlexNet takes: one pixel is left after the second pooling.
SMALLEST_ALEXNET_PX = 31
#: Channels of the features that LPIPS compares, one linear head each.
ALEXNET_FEATURE_CHANNELS = (64, 192, 384, 256, 256)
VGG16_FEATURE_CHANNELS = (64, 128, 256, 512, 512)
#: DISTS compares the picture itself as well.
DISTS_FEATURE_CHANNELS = (3, *VGG16_FEATURE_CHANNELS)

#: Per-channel mean and standard deviation of ImageNet: what the networks were trained on, for images in [0, 1] ...
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: ... and LPIPS 0.1's own rounding of the same for images in [-1, 1] (2 * mean - 1, 2 * std).
LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)

#: Added to the length of a feature vector before dividing by it (LPIPS 0.1).
_LPIPS_EPSILON = 1e-10
#: Order in memory: LPIPS is 10 to 25 % faster with the channels last (one AVX2 core, 2 x 128 x 128 px); DISTS is not.
_LPIPS_ORDER = torch.channels_last
#: c1 and c2 of DISTS, which keep its two quotients finite.
_DISTS_STABILITY = 1e-6
#: Under the root of the L2 pooling, so that its gradient stays finite where all is black.
_POOLING_EPSILON = 1e-12

#: Indices of the convolutions after whose ReLU the features are taken, and of those that a pooling follows.
_ALEXNET_STAGE_ENDS, _ALEXNET_POOLED = (0, 1, 2, 3, 4), (0, 1)
_VGG16_STAGE_ENDS, _VGG16_POOLED = (1, 3, 6, 9, 12), (1, 3, 6, 9)
_ADVICE = "use those of load_perceptual_weights"


def _check_images(images: torch.Tensor, measure: str, smallest_px: int) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < smallest_px:
        raise PictureError(
            f"{measure} was given a tensor of shape {tuple(images.shape)}; give [B, 3, H, W] of at least "
            f"{smallest_px} x {smallest_px} pixels"
        )


def _check_same_shapes(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> None:
    shapes = [tuple(one.shape) for one in first], [tuple(one.shape) for one in second]
    if shapes[0] != shapes[1]:
        raise PictureError(
            f"features of different picture sizes cannot be compared: {shapes[0][0]} against {shapes[1][0]}; "
            f"give two batches of one shape"
        )


def load_frozen(module: nn.Module, weights: Mapping[str, torch.Tensor], measure: str, advice: str) -> None:
    """Load weights of exactly the module's names and shapes, and freeze the module.

    Raises:
        ModelError: the weights do not fit; the message ends with ``advice``.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != given:
        odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise ModelError(
            f"weights do not fit {measure}: {odd[0]} (and {len(odd) - 1} more) is {given.get(odd[0])}, "
            f"not {wanted.get(odd[0])}; {advice}"
        )
    module.load_state_dict(dict(weights))
    module.requires_grad_(False)
    module.eval()


def _convolutions(
    layout: Sequence[tuple[int, int, int]],
    *,
    strides: Mapping[int, int] | None = None,
    paddings: Mapping[int, int] | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> nn.ModuleList:
    """Build a trunk's convolutions, uninitialised (weights follow at once); stride and padding are 1 unless given."""
    trunk = nn.ModuleList()
    for i, (channels_in, channels_out, side) in enumerate(layout):
        stride, padding = (strides or {}).get(i, 1), (paddings or {}).get(i, 1)
        convolution = nn.Conv2d(channels_in, channels_out, side, stride=stride, padding=padding, device="meta")
        convolution = convolution.to_empty(device="cpu")
        convolution.weight.data = convolution.weight.data.contiguous(memory_format=memory_format)
        trunk.append(convolution)
    return trunk


def _stages(
    convolutions: nn.ModuleList,
    hidden: torch.Tensor,
    ends: Sequence[int],
    pooled: Sequence[int],
    pool: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[torch.Tensor]:
    """Run a trunk; yield the features after the convolutions ``ends``, and pool those after ``pooled`` for the next."""
    for i, convolution in enumerate(convolutions):
        hidden = F.relu(convolution(hidden), inplace=True)
        if i in ends:
            yield hidden
        if i in pooled:
            hidden = pool(hidden)


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, version 0.1 (Zhang et al. 2018, equation 1); 0 for equal images.

    Args:
        net: ``alex`` (the measure papers report) or ``vgg`` (the usual training loss).
        weights: ``convolutions.I.weight``, ``.bias`` and ``linear.K`` ([C]); None for
            ``load_perceptual_weights("lpips_" + net)``.

    Raises:
        OptionError: no such net.
        MissingExtraError: the weights were not fetched yet.
        ModelError: the weights do not fit.
    """

    shift: torch.Tensor
    scale: torch.Tensor
    _trunk: tuple[Sequence[int], Sequence[int], Callable[[torch.Tensor], torch.Tensor]]

    def __init__(self, net: Literal["alex", "vgg"] = "alex", weights: Mapping[str, torch.Tensor] | None = None) -> None:
        super().__init__()
        if net == "alex":
            channels = ALEXNET_FEATURE_CHANNELS
            self.convolutions = _convolutions(
                ALEXNET_CONVOLUTIONS, strides={0: 4}, paddings={0: 2, 1: 2}, memory_format=_LPIPS_ORDER
            )
            self.smallest_px = SMALLEST_ALEXNET_PX
            self._trunk = _ALEXNET_STAGE_ENDS, _ALEXNET_POOLED, partial(F.max_pool2d, kernel_size=3, stride=2)
        elif net == "vgg":
            channels = VGG16_FEATURE_CHANNELS
            self.convolutions = _convolutions(VGG16_CONVOLUTIONS, memory_format=_LPIPS_ORDER)
            self.smallest_px = 16
            self._trunk = _VGG16_STAGE_ENDS, _VGG16_POOLED, partial(F.max_pool2d, kernel_size=2)
        else:
            raise OptionError(f"net is {net!r}; give alex or vgg")
        self.net = net
        self.linear = nn.ParameterList([nn.Parameter(torch.empty(count)) for count in channels])
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE).view(1, 3, 1, 1), persistent=False)
        if weights is None:
            weights = load_perceptual_weights("lpips_alex" if net == "alex" else "lpips_vgg")
        load_frozen(self, weights, f"LPIPS({net})", _ADVICE)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute unit-length features of five depths.

        Args:
            images: [B, 3, H, W] float, RGB in [-1, 1], at least 31 (alex) or 16 (vgg) pixels wide and high.

        Returns:
            five tensors [B, C, h, w], each pixel's vector over C of length 1 (or 0 where nothing fires).

        Raises:
            PictureError: not such a tensor.
        """
        _check_images(images, f"LPIPS({self.net})", self.smallest_px)
        hidden = ((images - self.shift) / self.scale).contiguous(memory_format=_LPIPS_ORDER)
        hidden = hidden.to(next(self.convolutions.parameters()).dtype)
        stages = [stage.to(images.dtype) for stage in _stages(self.convolutions, hidden, *self._trunk)]
        # vector_norm, unlike a written-out root, has gradient 0 (not NaN) where no channel fires.
        return [stage / (torch.linalg.vector_norm(stage, dim=1, keepdim=True) + _LPIPS_EPSILON) for stage in stages]

    def distance(self, first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute the distance [B] between two results of :meth:`features`.

        The squared difference is averaged over the picture before the channels are weighted, which is the same sum as
        in the paper with one pass less over the features.

        Raises:
            PictureError: the two come from pictures of different sizes.
        """
        _check_same_shapes(first, second)
        total = first[0].new_zeros(first[0].shape[0])
        for one, other, weight in zip(first, second, self.linear, strict=True):
            total = total + (one - other).square().mean(dim=(2, 3)) @ weight
        return total

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Compute the distance [B] between two batches [B, 3, H, W] in [-1, 1]; symmetric; differentiable in both."""
        return self.distance(self.features(first), self.features(second))


class FeatureStatistics(NamedTuple):
    """Hold one depth of features: ``centred`` [B, C, h, w] (mean removed), ``mean`` and ``variance`` [B, C]."""

    centred: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor


class DISTS(nn.Module):
    """Deep image structure and texture similarity (Ding et al. 2020, section 3); 0 for equal images.

    VGG16 whose poolings are L2 poolings with a 3 x 3 Hann window. For each channel of the picture and of five depths
    the texture (means) and the structure (covariance) are compared and weighted by the learned alpha and beta.
    Images are taken at their own size; some programs reduce them to 256 px first, which gives other figures.

    Args:
        weights: ``convolutions.I.weight``, ``.bias``, ``alpha`` and ``beta`` ([1475]); None for
            ``load_perceptual_weights("dists")``.

    Raises:
        MissingExtraError: the weights were not fetched yet.
        ModelError: the weights do not fit.
    """

    shift: torch.Tensor
    scale: torch.Tensor
    window: torch.Tensor

    def __init__(self, weights: Mapping[str, torch.Tensor] | None = None) -> None:
        super().__init__()
        self.convolutions = _convolutions(VGG16_CONVOLUTIONS)
        self.alpha = nn.Parameter(torch.empty(sum(DISTS_FEATURE_CHANNELS)))
        self.beta = nn.Parameter(torch.empty(sum(DISTS_FEATURE_CHANNELS)))
        self.register_buffer("shift", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        hann = torch.tensor([0.25, 0.5, 0.25])  # Hann window of five without its zero ends, sum 1
        self.register_buffer("window", torch.outer(hann, hann).view(1, 1, 3, 3), persistent=False)
        load_frozen(self, weights if weights is not None else load_perceptual_weights("dists"), "DISTS", _ADVICE)

    def features(self, images: torch.Tensor) -> list[FeatureStatistics]:
        """Compute statistics of the picture itself and of five depths.

        Args:
            images: [B, 3, H, W] float, RGB in [0, 1].

        Raises:
            PictureError: not such a tensor.
        """
        _check_images(images, "DISTS", 1)
        statistics = [_statistics(images)]  # first: the order decides in which order gradients are added up
        hidden = ((images - self.shift) / self.scale).to(next(self.convolutions.parameters()).dtype)
        stages = _stages(self.convolutions, hidden, _VGG16_STAGE_ENDS, _VGG16_POOLED, self._pooled)
        return [*statistics, *(_statistics(stage.to(images.dtype)) for stage in stages)]

    def distance(self, first: Sequence[FeatureStatistics], second: Sequence[FeatureStatistics]) -> torch.Tensor:
        """Compute the distance [B] between two results of :meth:`features`.

        Raises:
            PictureError: the two come from pictures of different sizes.
        """
        _check_same_shapes([one.centred for one in first], [other.centred for other in second])
        mean_a = torch.cat([one.mean for one in first], dim=1)
        mean_b = torch.cat([other.mean for other in second], dim=1)
        variance_a = torch.cat([one.variance for one in first], dim=1)
        variance_b = torch.cat([other.variance for other in second], dim=1)
        covariance = torch.cat(
            [_mean_product(one.centred, other.centred) for one, other in zip(first, second, strict=True)], dim=1
        )
        texture = (2 * mean_a * mean_b + _DISTS_STABILITY) / (mean_a.square() + mean_b.square() + _DISTS_STABILITY)
        structure = (2 * covariance + _DISTS_STABILITY) / (variance_a + variance_b + _DISTS_STABILITY)
        # 1 - weighted similarities, with the weights made to sum to 1.
        total = self.alpha.sum() + self.beta.sum()
        return 1 - (texture @ self.alpha + structure @ self.beta) / total

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Compute the distance [B] between two batches [B, 3, H, W] in [0, 1]; symmetric; differentiable in both."""
        return self.distance(self.features(first), self.features(second))

    def _pooled(self, hidden: torch.Tensor) -> torch.Tensor:
        """Pool by L2: the root of the windowed mean of squares, at every second pixel."""
        channels = hidden.shape[1]
        window = self.window.to(hidden.dtype).expand(channels, 1, 3, 3)
        return (F.conv2d(hidden.square(), window, stride=2, padding=1, groups=channels) + _POOLING_EPSILON).sqrt()


def _statistics(features: torch.Tensor) -> FeatureStatistics:
    mean = features.mean(dim=(2, 3), keepdim=True)
    centred = features - mean
    return FeatureStatistics(centred, mean.flatten(1), _mean_product(centred, centred))


def _mean_product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compute the product's mean over the picture, [B, C], as dot products without a product image."""
    rows, columns = first.flatten(2).unsqueeze(2), second.flatten(2).unsqueeze(3)
    return (rows @ columns)[:, :, 0, 0] / columns.shape[2]
