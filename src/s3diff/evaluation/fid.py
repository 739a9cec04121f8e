"""Compute FID: the distance between the features of a set of results and those of a set of truths (Heusel et al. 2017).

The features are the 2048 pooled ones of Inception-v3 in its original form of 2015. Pictures are brought to 299 x 299 px
by a bicubic filter against aliasing, without rounding in between, as clean-fid does (Parmar et al. 2022), which is what
the published tables on real-world super-resolution report. Other ways of resizing give other figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from s3diff.errors import PictureError
from s3diff.evaluation.perceptual import load_frozen
from s3diff.evaluation.perceptual_weights import load_inception_weights

#: Length of a feature vector.
NUM_FEATURES = 2048
#: Side of the network's input, in pixels.
INPUT_PX = 299
#: Values from 0 to 255 are shifted and scaled by this before the network.
_INPUT_MIDDLE = 128.0
#: Inception's own, in every batch normalisation.
_NORM_EPSILON = 1e-3


def frechet_distance(results: torch.Tensor, truths: torch.Tensor) -> float:
    """Compute the squared Frechet distance between the Gaussians of two sets of features (equation 6).

    The trace of the root of C1 C2 is the sum of the roots of its eigenvalues, which are those of the symmetric
    C1^1/2 C2 C1^1/2. With fewer pictures than features the covariances are singular; this form needs no inverse.

    Args:
        results: [N, F] float, N at least 2.
        truths: [M, F] float, M at least 2.

    Raises:
        PictureError: a set is too small, or the two have different lengths of feature.
    """
    if min(len(results), len(truths)) < 2 or results.shape[1:] != truths.shape[1:]:
        raise PictureError(
            f"fid was given features of shape {tuple(results.shape)} and {tuple(truths.shape)}; "
            "give at least two pictures on each side, and features of one length"
        )
    results, truths = results.double(), truths.double()
    difference = results.mean(dim=0) - truths.mean(dim=0)
    covariance, other = results.T.cov(), truths.T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ other @ root).clamp_min(0).sqrt().sum()
    return float(difference @ difference + covariance.trace() + other.trace() - 2 * trace_of_root)


class InceptionFeatures(nn.Module):
    """Inception-v3 up to its pooled features, with the poolings of the original weights.

    Args:
        weights: parameters and statistics; None for ``load_inception_weights()``.

    Raises:
        MissingExtraError: the weights were not prepared yet.
        ModelError: the weights do not fit.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor] | None = None) -> None:
        super().__init__()
        weights = load_inception_weights() if weights is None else weights
        with torch.device("meta"):
            self._build()
        self.to_empty(device="cpu")
        load_frozen(self, weights, "Inception", "prepare them again")

    def _build(self) -> None:
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b = _MixedA(192, 32)
        self.Mixed_5c = _MixedA(256, 64)
        self.Mixed_5d = _MixedA(288, 64)
        self.Mixed_6a = _ReductionA(288)
        self.Mixed_6b = _MixedB(768, 128)
        self.Mixed_6c = _MixedB(768, 160)
        self.Mixed_6d = _MixedB(768, 160)
        self.Mixed_6e = _MixedB(768, 192)
        self.Mixed_7a = _ReductionB(768)
        self.Mixed_7b = _MixedC(1280, pool="mean")
        self.Mixed_7c = _MixedC(2048, pool="largest")

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features [B, 2048] float32 of [B, 3, H, W] float, RGB in [0, 1]."""
        size = [INPUT_PX, INPUT_PX]
        resized = F.interpolate(images.float() * 255.0, size=size, mode="bicubic", align_corners=False, antialias=True)
        hidden = (resized - _INPUT_MIDDLE) / _INPUT_MIDDLE
        hidden = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(hidden)))
        hidden = F.max_pool2d(hidden, 3, stride=2)
        hidden = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(hidden)), 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed_"):
                hidden = block(hidden)
        return hidden.mean(dim=(2, 3))


def features_of(batches: Iterable[torch.Tensor], network: InceptionFeatures) -> torch.Tensor:
    """Compute features [N, 2048] of every picture in batches [B, 3, H, W] float, RGB in [0, 1], on the CPU.

    Raises:
        PictureError: there is no batch.
    """
    found = [network(batch).cpu() for batch in batches]
    if not found:
        raise PictureError("fid was given no pictures; give at least two")
    return torch.cat(found)


def load_fid(device: torch.device) -> Callable[[Iterable[torch.Tensor], Iterable[torch.Tensor]], float]:
    """Load a function that compares results with truths, both batches [B, 3, H, W] float, RGB in [0, 1].

    Raises:
        MissingExtraError: the weights were not prepared yet.
        ModelError: the weights do not fit.
    """
    network = InceptionFeatures().to(device)
    return lambda results, truths: frechet_distance(features_of(results, network), features_of(truths, network))


class _Convolution(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        side: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, side, stride=stride, padding=padding, bias=False)
        self.bn = _Normalisation(channels_out)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(hidden)), inplace=True)


class _Normalisation(nn.Module):
    """Normalise a batch by stored statistics."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.register_buffer("running_mean", torch.empty(channels))
        self.register_buffer("running_var", torch.empty(channels))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(
            hidden, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=_NORM_EPSILON
        )


def _mean_pooled(hidden: torch.Tensor) -> torch.Tensor:
    """Average 3 x 3 fields in which the padding does not count, as in the original network."""
    return F.avg_pool2d(hidden, 3, stride=1, padding=1, count_include_pad=False)


class _MixedA(nn.Module):
    def __init__(self, channels: int, pool_channels: int) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(channels, 64, 1)
        self.branch5x5_1 = _Convolution(channels, 48, 1)
        self.branch5x5_2 = _Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, padding=1)
        self.branch_pool = _Convolution(channels, pool_channels, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        five = self.branch5x5_2(self.branch5x5_1(hidden))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(hidden)))
        return torch.cat([self.branch1x1(hidden), five, three, self.branch_pool(_mean_pooled(hidden))], dim=1)


class _ReductionA(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = _Convolution(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, stride=2)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(hidden)))
        return torch.cat([self.branch3x3(hidden), three, F.max_pool2d(hidden, 3, stride=2)], dim=1)


class _MixedB(nn.Module):
    """7 x 7 convolutions as pairs of a row and a column."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        across = partial(_Convolution, side=(1, 7), padding=(0, 3))
        down = partial(_Convolution, side=(7, 1), padding=(3, 0))
        self.branch1x1 = _Convolution(channels, 192, 1)
        self.branch7x7_1 = _Convolution(channels, inner, 1)
        self.branch7x7_2 = across(inner, inner)
        self.branch7x7_3 = down(inner, 192)
        self.branch7x7dbl_1 = _Convolution(channels, inner, 1)
        self.branch7x7dbl_2 = down(inner, inner)
        self.branch7x7dbl_3 = across(inner, inner)
        self.branch7x7dbl_4 = down(inner, inner)
        self.branch7x7dbl_5 = across(inner, 192)
        self.branch_pool = _Convolution(channels, 192, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(hidden)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(hidden)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(hidden), once, twice, self.branch_pool(_mean_pooled(hidden))], dim=1)


class _ReductionB(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Convolution(channels, 192, 1)
        self.branch3x3_2 = _Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Convolution(channels, 192, 1)
        self.branch7x7x3_2 = _Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Convolution(192, 192, 3, stride=2)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(hidden)))
        three = self.branch3x3_2(self.branch3x3_1(hidden))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(hidden, 3, stride=2)], dim=1)


class _MixedC(nn.Module):
    def __init__(self, channels: int, pool: str) -> None:
        super().__init__()
        self.pool = pool  # the last block takes the largest value instead of the mean, as the original weights need
        self.branch1x1 = _Convolution(channels, 320, 1)
        self.branch3x3_1 = _Convolution(channels, 384, 1)
        self.branch3x3_2a = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Convolution(channels, 448, 1)
        self.branch3x3dbl_2 = _Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Convolution(channels, 192, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        once = self.branch3x3_1(hidden)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(hidden))
        pooled = _mean_pooled(hidden) if self.pool == "mean" else F.max_pool2d(hidden, 3, stride=1, padding=1)
        return torch.cat(
            [
                self.branch1x1(hidden),
                self.branch3x3_2a(once),
                self.branch3x3_2b(once),
                self.branch3x3dbl_3a(twice),
                self.branch3x3dbl_3b(twice),
                self.branch_pool(pooled),
            ],
            dim=1,
        )
