"""Noise of the Real-ESRGAN degradation (arXiv 2107.10833, section 3.1): Gaussian and Poisson, in colour or grey."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Weights of the grey value that grey Poisson noise is computed from (BT.601 luma).
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)

#: Photons that stand for white are at least this many in Poisson noise. The method estimates them as the number of
#: different 8-bit values in the picture, rounded up to a power of two: 128 or 256 for 99 % of 512 px crops of
#: photographs, but 1 for a flat one, whose noise then has a standard deviation of 0.7 of full scale and more. With
#: this floor the noise of a flat picture is at most sqrt(2) times that of the same picture with every value in it.
MIN_PHOTONS = 128


def gaussian_noise(images: Tensor, sigma: Tensor, grey: Tensor, generator: torch.Generator) -> Tensor:
    """A field of Gaussian noise for every image.

    Args:
        images: [B, C, H, W] float; their shape, type and device are used alone.
        sigma: [B] standard deviation on the scale of 0 to 255.
        grey: [B] bool; True for the same noise in all channels of that image (and another one in the next image).
        generator: source of the random numbers, on the images' device.

    Returns:
        [B, C, H, W], to be added to images in [0, 1].
    """
    normal = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
    normal = torch.where(_per_image(grey, normal), normal[:, :1], normal)
    return normal * (_per_image(sigma, normal).to(images) / 255)


def poisson_noise(
    images: Tensor,
    scale: Tensor,
    grey: Tensor,
    generator: torch.Generator,
    min_photons: int = MIN_PHOTONS,
) -> Tensor:
    """A field of Poisson (photon) noise for every image: ``scale * (Poisson(n * image) / n - image)``.

    Args:
        images: [B, 3, H, W] float, RGB in [0, 1]; rounded to 8 bits before photons are counted.
        scale: [B] factor on the noise.
        grey: [B] bool; True for the noise of the image's grey value in all channels.
        generator: source of the random numbers, on the images' device.
        min_photons: lower bound of n, see ``MIN_PHOTONS``; 1 for what the release does.

    Returns:
        [B, 3, H, W], to be added to the images.
    """
    fields = []
    for image, is_grey in zip(images, grey.tolist(), strict=True):
        clean = image
        if is_grey:
            clean = torch.einsum("c,chw->hw", torch.tensor(_GREY_WEIGHTS).to(image), image)[None]
        clean = (clean.clamp(0, 1) * 255).round() / 255
        photons = max(estimate_photons(clean), min_photons)
        fields.append((torch.poisson(clean * photons, generator=generator) / photons - clean).expand_as(image))
    noise = torch.stack(fields)
    return noise * _per_image(scale, noise).to(images)


def estimate_photons(image: Tensor) -> int:
    """The number of different 8-bit values in an image in [0, 1], rounded up to a power of two: 1 to 256."""
    levels = (image.clamp(0, 1) * 255).round().long().flatten()
    num_values = int(torch.count_nonzero(torch.bincount(levels, minlength=256)))
    return 2 ** math.ceil(math.log2(num_values))


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device).view(-1, *(1,) * (images.dim() - 1))
