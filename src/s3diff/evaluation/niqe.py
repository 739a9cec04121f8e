"""Measure how natural a picture looks, without a truth to compare it with: NIQE (Mittal et al. 2013).

Statistics of locally normalised luma in blocks of 96 x 96 px, at full and half size, are summed up by a Gaussian and
compared with the Gaussian of pristine photographs. Lower is better.

Two lumas are in use, and the figures of one cannot be compared with those of the other (7.76 against 7.47 on one
picture): that of YIQ in full range (pyiqa; the published tables on real-world super-resolution, among them the
OSEDiff authors' log, which is met within 0.004) and that of BT.601 in studio range (BasicSR, whose code is met within
0.002). Both compute in float32, which moves a figure by as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from s3diff.errors import ModelError, OptionError, PictureError
from s3diff.evaluation.perceptual_weights import load_perceptual_weights
from s3diff.evaluation.psnr_ssim import check_images, luma

#: Side of a block, in pixels of the whole picture; half as much in the halved one.
BLOCK_PX = 96
#: Values that describe a block: 18 at each of the two sizes.
NUM_FEATURES = 36

Luma = Literal["yiq", "bt601"]
#: Luma of YIQ in full range, of RGB in [0, 1].
_YIQ_WEIGHTS = (0.299, 0.587, 0.114)
#: Gaussian window of the local mean and deviation: 7 x 7, 7/6 px.
_WINDOW_PX = 7
_WINDOW_SIGMA_PX = 7.0 / 6.0
#: Added to the local deviation, in 255ths.
_DEVIATION_FLOOR = 1.0
#: Neighbours whose products are described: (down, right).
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
#: Shapes of the generalised Gaussian that are tried: 0.2 to 10 in steps of 0.001.
_SHAPE_START, _SHAPE_STEP, _NUM_SHAPES = 0.2, 0.001, 9801
#: Mirrored pixels that the halving filter sees beyond each edge: a cubic stretched twice reaches 4; even, to be halved.
_HALVING_MARGIN_PX = 8


class NIQE(nn.Module):
    """Compute the distance from pristine photographs; lower is more natural.

    Args:
        luma: ``yiq`` or ``bt601``, see above.
        weights: ``mean`` [36] and ``covariance`` [36, 36] of pristine blocks; None for
            ``load_perceptual_weights("niqe")``.

    Raises:
        OptionError: there is no such luma.
        MissingExtraError: the weights were not fetched yet.
        ModelError: the weights do not fit.
    """

    mean: torch.Tensor
    covariance: torch.Tensor

    def __init__(self, luma: Luma = "yiq", weights: Mapping[str, torch.Tensor] | None = None) -> None:
        super().__init__()
        if luma not in get_args(Luma):
            raise OptionError(f"luma is {luma!r}; give one of {', '.join(get_args(Luma))}")
        self.luma: Luma = luma
        weights = load_perceptual_weights("niqe") if weights is None else weights
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if shapes != {"mean": (NUM_FEATURES,), "covariance": (NUM_FEATURES, NUM_FEATURES)}:
            raise ModelError(f"weights do not fit NIQE: they hold {shapes}; use those of load_perceptual_weights")
        self.register_buffer("mean", weights["mean"].double())
        self.register_buffer("covariance", weights["covariance"].double())

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the distance of each picture.

        Args:
            images: [B, 3, H, W] float, RGB in [0, 1], at least 192 x 96 or 96 x 192 pixels; the part beyond whole
                blocks, right and below, is left out.

        Returns:
            [B] float64.

        Raises:
            PictureError: not such a tensor.
        """
        check_images(images, "NIQE")
        rows, columns = (side // BLOCK_PX for side in images.shape[2:])
        if rows * columns < 2:
            raise PictureError(
                f"NIQE was given {images.shape[3]} x {images.shape[2]} pixels; give at least two whole blocks of "
                f"{BLOCK_PX} x {BLOCK_PX}"
            )
        whole = _rounded_luma(images[:, :, : rows * BLOCK_PX, : columns * BLOCK_PX], self.luma)
        features = torch.cat([_features(whole, BLOCK_PX), _features(_halved(whole), BLOCK_PX // 2)], dim=2)
        return torch.stack([self._distance(blocks) for blocks in features])

    def _distance(self, blocks: torch.Tensor) -> torch.Tensor:
        """Compute the distance from [N, 36] features of one picture's blocks; equation 10."""
        mean = blocks.nanmean(dim=0)  # a flat block has no shape: not a number
        described = blocks[blocks.isfinite().all(dim=1)]
        if len(described) < 2:
            raise PictureError("NIQE was given a picture that is flat nearly everywhere; leave it out")
        between = (self.mean - mean)[None]
        inverse = torch.linalg.pinv((self.covariance + described.T.cov()) / 2, rtol=1e-15)
        return (between @ inverse @ between.T).squeeze().sqrt()


def _rounded_luma(images: torch.Tensor, kind: Luma) -> torch.Tensor:
    """Convert [B, 3, H, W] in [0, 1] to [B, 1, H, W] float64 in whole 255ths."""
    if kind == "bt601":
        return (luma(images) * 255.0).round()
    weights = torch.tensor(_YIQ_WEIGHTS, dtype=torch.float64, device=images.device)
    return (torch.einsum("c,bchw->bhw", weights, images.double())[:, None] * 255.0).round()


def _halved(planes: torch.Tensor) -> torch.Tensor:
    """Halve planes by a cubic (a = -0.5) stretched against aliasing, mirrored at the edges with the edge repeated."""
    margin = _HALVING_MARGIN_PX
    for dim in (2, 3):
        head = planes.narrow(dim, 0, margin).flip(dim)
        tail = planes.narrow(dim, planes.shape[dim] - margin, margin).flip(dim)
        planes = torch.cat([head, planes, tail], dim=dim)
    size = [planes.shape[2] // 2, planes.shape[3] // 2]
    halved = F.interpolate(planes, size=size, mode="bicubic", align_corners=False, antialias=True)
    return halved[..., margin // 2 : -margin // 2, margin // 2 : -margin // 2]


def _normalised(planes: torch.Tensor) -> torch.Tensor:
    """Subtract the local mean from each pixel and divide by the local deviation; equations 1 to 3."""
    offsets = torch.arange(_WINDOW_PX, dtype=planes.dtype, device=planes.device) - _WINDOW_PX // 2
    line = torch.exp(-offsets.square() / (2 * _WINDOW_SIGMA_PX**2))
    line = (line / line.sum())[None, None]

    def local_mean(values: torch.Tensor) -> torch.Tensor:
        padded = F.pad(values, (_WINDOW_PX // 2,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(padded, line[..., None]), line[:, :, None])

    mean = local_mean(planes)
    deviation = (local_mean(planes.square()) - mean.square()).abs().sqrt()
    return (planes - mean) / (deviation + _DEVIATION_FLOOR)


def _features(planes: torch.Tensor, block_px: int) -> torch.Tensor:
    """Compute [B, N, 18] from luma [B, 1, H, W]: two values of each block's pixels, four of each of four neighbours'
    products.
    """
    pixels = _normalised(planes)[:, 0]
    blocks = pixels.unfold(1, block_px, block_px).unfold(2, block_px, block_px)  # row by row
    blocks = blocks.transpose(1, 2).flatten(1, 2)  # column by column, as the pristine ones were
    shape, left, right = _generalised_gaussian(blocks)
    values = [shape, (left + right) / 2]
    for shift in _NEIGHBOURS:
        shape, left, right = _generalised_gaussian(blocks * blocks.roll(shift, dims=(2, 3)))
        # Equation 8: the mean of the asymmetric one.
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        values += [shape, mean, left, right]
    return torch.stack(values, dim=2)


def _generalised_gaussian(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fit shape and both scales, each [B, N], of an asymmetric generalised Gaussian to [B, N, h, w] by its moments."""
    values = blocks.flatten(2)
    squares, is_left, is_right = values.square(), values < 0, values > 0
    left = ((squares * is_left).sum(2) / is_left.sum(2)).sqrt()
    right = ((squares * is_right).sum(2) / is_right.sum(2)).sqrt()
    ratio = left / right
    moments = values.abs().mean(2).square() / squares.mean(2)
    wanted = moments * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square()
    tried = _SHAPE_START + _SHAPE_STEP * torch.arange(_NUM_SHAPES, dtype=torch.float64, device=blocks.device)
    lgamma = torch.lgamma
    moments_of_tried = (2 * lgamma(2 / tried) - lgamma(1 / tried) - lgamma(3 / tried)).exp()  # rises with the shape
    above = torch.searchsorted(moments_of_tried, wanted.nan_to_num()).clamp(1, _NUM_SHAPES - 1)
    is_nearer_below = wanted - moments_of_tried[above - 1] <= moments_of_tried[above] - wanted
    shape = tried[above - is_nearer_below.long()].where(wanted.isfinite(), torch.nan)
    scale = ((lgamma(1 / shape) - lgamma(3 / shape)) / 2).exp()
    return shape, left * scale, right * scale
