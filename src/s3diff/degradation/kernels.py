"""Blur kernels of the Real-ESRGAN degradation (arXiv 2107.10833, sections 3.1 and 3.3), and filtering with them.

Every kernel is a function sampled at the points of a square grid of odd side and divided by its sum. The kernels of
one batch may have different sides: the smaller ones are zero-padded around their centre, which changes no result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional

from s3diff.errors import OptionError

#: Side of the padded kernels: the largest of the method's sides 7, 9, ..., 21.
PADDED_SIDE_PX = 21

#: Families by the number that stands for them in ``KernelParameters.family``; the first six in the order of the
#: method's table of probabilities. ``pulse`` changes nothing. ``sharpening``, ours, is the unsharp mask of cameras: the
#: picture and ``beta`` times its difference from an isotropic Gaussian blur.
KERNEL_FAMILIES = (
    "isotropic",
    "anisotropic",
    "generalised_isotropic",
    "generalised_anisotropic",
    "plateau_isotropic",
    "plateau_anisotropic",
    "sinc",
    "pulse",
    "sharpening",
)
ISOTROPIC = KERNEL_FAMILIES.index("isotropic")
SINC = KERNEL_FAMILIES.index("sinc")
PULSE = KERNEL_FAMILIES.index("pulse")
SHARPENING = KERNEL_FAMILIES.index("sharpening")
#: Weights that sum to less than this are left out of a filter: single precision resolves 1.2e-7 at 1.
_NEGLIGIBLE_WEIGHT = 1e-7
#: The convolutions of a processor take so many groups at a time, for the price of one.
_CPU_LANES = 8
_ROUND = tuple(
    i for i, name in enumerate(KERNEL_FAMILIES) if name.split("_")[-1] == "isotropic" or name == "sharpening"
)
_WITHOUT_SIGMA = (SINC, PULSE)


@dataclass(frozen=True)
class KernelParameters:
    """Hold the parameters of a batch's kernels, one entry for each image.

    Attributes:
        family: [B] int64, index into ``KERNEL_FAMILIES``.
        side_px: [B] int64, odd side of the kernel's support in pixels, 1 to 21.
        sigma_x_px: [B] float64, standard deviation along the first principal axis in pixels, above 0.
        sigma_y_px: [B] float64, the same along the second axis; isotropic families ignore it.
        rotation: [B] float64, angle in radians from the horizontal to the first axis; isotropic families ignore it.
        beta: [B] float64, shape of the generalised and plateau families and amount of the sharpening, above 0; the
            others ignore it.
        cutoff: [B] float64, cut-off of the sinc in radians for each pixel, in (0, pi]; the others ignore it.
    """

    family: Tensor
    side_px: Tensor
    sigma_x_px: Tensor
    sigma_y_px: Tensor
    rotation: Tensor
    beta: Tensor
    cutoff: Tensor

    def rows(self, start: int, stop: int) -> KernelParameters:
        """Return the parameters of the images from ``start`` up to, not including, ``stop``."""
        return replace(self, **{item.name: getattr(self, item.name)[start:stop] for item in fields(self)})

    def kernels(self, padded_side_px: int = PADDED_SIDE_PX) -> Tensor:
        """Compute the kernels [B, k, k] float64, k = ``padded_side_px``, each of sum 1; zero outside its own side."""
        squared = _squared_distance(self, padded_side_px)
        values = torch.zeros_like(squared)
        for index, name in enumerate(KERNEL_FAMILIES):
            rows = self.family == index
            if rows.any():
                values[rows] = _sample(name, squared[rows], self.beta[rows], self.cutoff[rows])
        values = values * _support(self.side_px, padded_side_px)
        return values / values.sum(dim=(1, 2), keepdim=True)


def gaussian_kernels(side_px: int, sigma_px: Tensor) -> Tensor:
    """Compute isotropic Gaussian kernels [B, side, side] float64; ``side_px`` is odd, ``sigma_px``: [B], in pixels."""
    parameters = pulse_parameters(len(sigma_px), side_px)
    family = torch.full_like(parameters.family, ISOTROPIC)
    return replace(parameters, family=family, sigma_x_px=sigma_px.double()).kernels(side_px)


def pulse_parameters(batch_size: int, side_px: int = PADDED_SIDE_PX) -> KernelParameters:
    """Return the parameters of kernels that change nothing; unused ones hold harmless values."""
    ones = torch.ones(batch_size, dtype=torch.float64)
    return KernelParameters(
        family=torch.full((batch_size,), PULSE),
        side_px=torch.full((batch_size,), side_px),
        sigma_x_px=ones,
        sigma_y_px=ones,
        rotation=torch.zeros_like(ones),
        beta=ones,
        cutoff=ones * math.pi,
    )


def needed_radii(kernels: Tensor) -> list[int]:
    """Return for each of the kernels [B, k, k] the radius in pixels outside which its weights sum to at most 1e-7.

    Cut to that radius, a kernel filters pictures in [0, 1] alike within half the resolution of single precision at 1,
    for a fraction of the arithmetic: a Gaussian of 1 px needs a side of 11 px and not its 21.
    """
    middle = kernels.shape[-1] // 2
    weights = kernels.abs()
    inside = [weights[:, middle - r : middle + r + 1, middle - r : middle + r + 1] for r in range(middle + 1)]
    outside = torch.stack([weights.sum(dim=(1, 2)) - part.sum(dim=(1, 2)) for part in inside], dim=1)
    return (outside > _NEGLIGIBLE_WEIGHT).sum(dim=1).tolist()


def cut_kernels(kernels: Tensor, radius_px: int) -> Tensor:
    """Return the middle [B, 2 r + 1, 2 r + 1] of kernels [B, k, k]."""
    ring = kernels.shape[-1] // 2 - radius_px
    return kernels[:, ring : kernels.shape[-2] - ring, ring : kernels.shape[-1] - ring]


def filter_per_image(images: Tensor, kernels: Tensor) -> Tensor:
    """Correlate every image with its own kernel, all channels alike; the edges are mirrored (not repeated).

    Args:
        images: [B, C, H, W] float, both sides longer than half the kernel's.
        kernels: [B, k, k], k odd, or [1, k, k] for one kernel for all.

    Returns:
        [B, C, H, W] in the images' type.

    Raises:
        OptionError: the kernels are of even side or of another batch, or the images too small to be mirrored.
    """
    batch_size, channels, height, width = images.shape
    side = kernels.shape[-1]
    if side % 2 == 0 or kernels.shape[0] not in (1, batch_size):
        raise OptionError(
            f"kernels have shape {tuple(kernels.shape)} for {batch_size} images; "
            f"give [{batch_size}, k, k] or [1, k, k] with an odd k"
        )
    radius = side // 2
    if min(height, width) <= radius:
        raise OptionError(
            f"images of {height} x {width} px cannot be filtered with a kernel of side {side}; "
            f"give images of at least {radius + 1} px a side"
        )
    weights = (
        kernels.to(images.device, images.dtype, non_blocking=True)
        .expand(batch_size, side, side)
        .repeat_interleave(channels, dim=0)
    )
    padded = functional.pad(images, (radius,) * 4, mode="reflect").flatten(0, 1)
    num_strips = 1 if images.is_cuda or batch_size * channels % _CPU_LANES == 0 else _CPU_LANES
    if num_strips == 1:
        return _filter_planes(padded, weights).reshape(images.shape)
    # The strips of one picture fill the lanes that its three channels leave empty; the last one is filled up.
    rows = math.ceil(height / num_strips)
    padded = functional.pad(padded, (0, 0, 0, rows * num_strips - height))
    strips = padded.unfold(1, rows + side - 1, rows).transpose(2, 3).flatten(0, 1)
    filtered = _filter_planes(strips, weights.repeat_interleave(num_strips, dim=0))
    return filtered.reshape(batch_size, channels, num_strips * rows, width)[:, :, :height]


def _filter_planes(planes: Tensor, weights: Tensor) -> Tensor:
    """Filter each of the planes [N, h, w] with its own of the kernels [N, k, k], without padding.

    One group for each plane: a convolution in the library's sense, so the kernel is not flipped.
    """
    return functional.conv2d(planes[None], weights.unsqueeze(1), groups=len(planes))[0]


def _grid(side_px: int) -> tuple[Tensor, Tensor]:
    axis = torch.arange(side_px, dtype=torch.float64) - (side_px // 2)
    vertical, horizontal = torch.meshgrid(axis, axis, indexing="ij")
    return horizontal, vertical


def _support(side_px: Tensor, padded_side_px: int) -> Tensor:
    horizontal, vertical = _grid(padded_side_px)
    distance = torch.maximum(horizontal.abs(), vertical.abs())
    return (distance <= (side_px // 2).view(-1, 1, 1)).double()


def _squared_distance(parameters: KernelParameters, padded_side_px: int) -> Tensor:
    """Compute squared Mahalanobis distances from the centre, [B, k, k]; for sinc and pulse squared radii in pixels."""
    horizontal, vertical = _grid(padded_side_px)
    isotropic = torch.isin(parameters.family, torch.tensor(_ROUND))
    without_sigma = torch.isin(parameters.family, torch.tensor(_WITHOUT_SIGMA))
    round_ones = isotropic | without_sigma
    rotation = torch.where(round_ones, 0.0, parameters.rotation).view(-1, 1, 1)
    sigma_x = torch.where(without_sigma, 1.0, parameters.sigma_x_px).view(-1, 1, 1)
    sigma_y = torch.where(round_ones, sigma_x.flatten(), parameters.sigma_y_px).view(-1, 1, 1)
    along = (torch.cos(rotation) * horizontal + torch.sin(rotation) * vertical) / sigma_x
    across = (torch.cos(rotation) * vertical - torch.sin(rotation) * horizontal) / sigma_y
    return along.square() + across.square()


def _sample(name: str, squared: Tensor, beta: Tensor, cutoff: Tensor) -> Tensor:
    beta = beta.view(-1, 1, 1)
    if name == "pulse":
        return (squared == 0).double()
    if name == "sinc":
        return _sample_sinc(squared.sqrt(), cutoff.view(-1, 1, 1))
    if name == "sharpening":
        blur = torch.exp(-0.5 * squared)
        return (1 + beta) * (squared == 0) - beta * blur / blur.sum(dim=(1, 2), keepdim=True)
    if name.startswith("plateau"):
        return 1.0 / (1.0 + squared.pow(beta))
    if name.startswith("generalised"):
        return torch.exp(-0.5 * squared.pow(beta))
    return torch.exp(-0.5 * squared)


def _sample_sinc(radius: Tensor, cutoff: Tensor) -> Tensor:
    # J1(x) tends to x / 2, so the value at the centre is cutoff^2 / (4 pi).
    outside = radius.clamp(min=1.0)
    ring = cutoff * torch.special.bessel_j1(cutoff * outside) / (2 * math.pi * outside)
    return torch.where(radius > 0, ring, cutoff.square() / (4 * math.pi))
