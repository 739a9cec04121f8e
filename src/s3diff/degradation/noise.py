"""Add the noise of the Real-ESRGAN degradation (arXiv 2107.10833, section 3.1): Gaussian or Poisson, colour or grey."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from s3diff.errors import OptionError

#: Weights of the grey value that grey Poisson noise is computed from (BT.601 luma).
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)

#: Photons that stand for white are at least this many in Poisson noise. The method estimates them as the number of
#: different 8-bit values in the picture, rounded up to a power of two: 128 or 256 for 99 % of 512 px crops of
#: photographs, but 1 for a flat one, whose noise then has a standard deviation of 0.7 of full scale and more. With
#: this floor the noise of a flat picture is at most sqrt(2) times that of the same picture with every value in it.
MIN_PHOTONS = 128

#: Log2 of the photons of a picture that holds every 8-bit value.
_MOST_PHOTONS_LOG2 = 8
#: Cells of an alias table: a power of two, so that one float32 uniform number gives cell and place within it, and
#: more than the 216 counts within 6.5 standard deviations of the largest mean, 256.
_ALIAS_CELLS = 256
_PLACES_IN_A_CELL = 2**24 // _ALIAS_CELLS


def gaussian_noise(images: Tensor, sigma: Tensor, grey: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a field of Gaussian noise for every image.

    Args:
        images: [B, C, H, W] float; only their shape, type and device are used.
        sigma: [B] standard deviation on the scale of 0 to 255.
        grey: [B] bool; True for the same noise in all channels of that image (and another one in the next image).
        generator: source of the random numbers, on the images' device.

    Returns:
        [B, C, H, W], to be added to images in [0, 1].
    """
    shape = (1, 1, *images.shape[2:]) if len(images) == 1 and bool(grey) else images.shape
    normal = torch.randn(shape, generator=generator, dtype=images.dtype, device=images.device)
    if len(images) > 1:
        normal = torch.where(_per_image(grey, normal), normal[:, :1], normal)
    return normal.mul_(_per_image(sigma, normal) / 255).expand_as(images)


def poisson_noise(
    images: Tensor,
    scale: Tensor,
    grey: Tensor,
    generator: torch.Generator,
    min_photons: int = MIN_PHOTONS,
) -> Tensor:
    """Draw a field of Poisson (photon) noise for every image: ``scale * (Poisson(n * image) / n - image)``.

    Args:
        images: [B, 3, H, W] float, RGB in [0, 1]; rounded to 8 bits before photons are counted.
        scale: [B] factor on the noise.
        grey: [B] bool; True for the noise of the image's grey value in all channels.
        generator: source of the random numbers, on the images' device.
        min_photons: lower bound of n, a power of two, see ``MIN_PHOTONS``; 1 for the release's behaviour.

    Returns:
        [B, 3, H, W], to be added to the images.

    Raises:
        OptionError: ``min_photons`` is no power of two from 1 to 256.
    """
    source, any_grey = images, bool(grey.any())
    if any_grey:
        red, green, blue = (images[:, i : i + 1] * weight for i, weight in enumerate(_GREY_WEIGHTS))
        source = red.add_(green).add_(blue)
        if len(images) > 1:  # a single image has one field for its channels: a third of the numbers
            source = torch.where(_per_image(grey, images), source, images)
    whole = source.clamp(0, 1).mul_(255).round_()
    levels = whole.to(torch.int32)
    fewest = _power_of_two(min_photons)
    powers = _photon_powers(levels).clamp(min=fewest)
    uniform = torch.rand(levels.shape, generator=generator, device=images.device)
    # In a grey image of a batch all channels use the first one's numbers, and so get the same noise.
    if any_grey and levels.shape[1] > 1:
        uniform = torch.where(_per_image(grey, uniform), uniform[:, :1], uniform)
    counts = sample_poisson(levels + 256 * (powers - fewest).view(-1, 1, 1, 1).int(), uniform, fewest)
    noise = counts.div_(_per_image(2.0**powers, counts)).sub_(whole.div_(255))
    return noise.mul_(_per_image(scale, noise)).to(images.dtype).expand_as(images)


def sample_poisson(rows: Tensor, uniform: Tensor, fewest: int = 0) -> Tensor:
    """Draw Poisson counts by Walker's alias method: one uniform number and three look-ups for each count.

    A sampler by rejection takes more or fewer numbers as the mean goes, so that one pixel that rounds to another level
    changes the noise of all after it; here a pixel's noise is its own, and it takes a third of the time.

    Args:
        rows: int32 tensor of rows of the tables: 8-bit level + 256 * (log2(photons) - ``fewest``); the mean count is
            level * photons / 255.
        uniform: float32 numbers in [0, 1) of the same shape.
        fewest: log2 of the least number of photons of the tables, 0 to 8.

    Returns:
        Counts as float32.
    """
    table = _poisson_tables(fewest, rows.device)
    rows_flat, position = rows.flatten(), uniform.flatten() * _ALIAS_CELLS
    cell = position.floor()
    index = (rows_flat * _ALIAS_CELLS).add_(cell.to(torch.int32))
    is_own = position.sub_(cell) < table.share.index_select(0, index)
    chosen = torch.where(is_own, cell, table.other.index_select(0, index))
    return chosen.add_(table.first.index_select(0, rows_flat)).view(rows.shape)


class PoissonTables(NamedTuple):
    """Hold alias tables of all means at which photons are counted, each a row of ``_ALIAS_CELLS`` cells.

    Attributes:
        share: [rows * cells] float32, the part of a cell that belongs to its own count.
        other: [rows * cells] float32, the cell whose count the rest belongs to.
        first: [rows] float32, the count of a row's first cell.
    """

    share: Tensor
    other: Tensor
    first: Tensor


@lru_cache(maxsize=16)
def _poisson_tables(fewest: int, device: torch.device) -> PoissonTables:
    tables = [_alias_table(2**power) for power in range(fewest, _MOST_PHOTONS_LOG2 + 1)]
    return PoissonTables(*(torch.cat(parts).to(device) for parts in zip(*tables, strict=True)))


@lru_cache(maxsize=16)
def _alias_table(photons: int) -> PoissonTables:
    """Make the 256 rows for one number of photons, by Vose's method, all rows at once."""
    chance, first = _poisson_chances(photons)
    share, other = chance * _ALIAS_CELLS, np.tile(np.arange(_ALIAS_CELLS), (256, 1))
    # numpy: for a thousand steps this small, starting torch's threads takes longer than the work.
    is_low, is_high, every = share.copy(), share.copy(), np.arange(256)
    for _ in range(_ALIAS_CELLS - 1):
        # The emptiest open cell is filled up from the fullest one, and is done.
        low, high = is_low.argmin(axis=1), is_high.argmax(axis=1)
        other[every, low] = high
        share[every, low] = is_low[every, low]
        rest = is_low[every, high] - (1 - share[every, low])
        is_low[every, high], is_high[every, high] = rest, rest
        is_low[every, low], is_high[every, low] = math.inf, -math.inf
    share[is_low < math.inf] = 1.0  # the rest, except for rounding
    # A uniform number of 24 bits has 16 left within a cell, and is exactly 0 there once in 2^16: a share that is only
    # just above 0 would let counts through that never occur.
    share = np.rint(share * _PLACES_IN_A_CELL) / _PLACES_IN_A_CELL
    return PoissonTables(*(torch.from_numpy(part.astype(np.float32).ravel()) for part in (share, other, first)))


def _poisson_chances(photons: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute chances [256, cells] float64 of counts from ``first`` [256, 1] on, for the means of the 256 levels."""
    mean = torch.arange(256, dtype=torch.float64).view(-1, 1) * photons / 255
    # 6.5 standard deviations on either side: what is left out is rarer than the uniform numbers can tell.
    first = (mean - 6.5 * mean.sqrt() - 4).floor().clamp(min=0)
    counts = first + torch.arange(_ALIAS_CELLS)
    chance = torch.exp(torch.xlogy(counts, mean) - mean - torch.lgamma(counts + 1))
    return (chance / chance.sum(dim=1, keepdim=True)).numpy(), first.numpy()


def _photon_powers(levels: Tensor) -> Tensor:
    """Return log2 of the photons of every image of 8-bit levels [B, C, H, W]: [B] int64, without waiting for a GPU."""
    if levels.is_cuda:
        present = torch.zeros(len(levels), 256, dtype=torch.bool, device=levels.device)
        present.scatter_(1, levels.flatten(1).long(), True)
    else:  # several times faster, but on a GPU it would wait for the result
        present = torch.stack([torch.bincount(image.flatten(), minlength=256) > 0 for image in levels])
    steps = 2 ** torch.arange(_MOST_PHOTONS_LOG2, device=levels.device)
    return (present.sum(dim=1, keepdim=True) > steps).sum(dim=1)


def _power_of_two(value: int) -> int:
    power = max(value, 1).bit_length() - 1
    if value != 2**power or power > _MOST_PHOTONS_LOG2:
        raise OptionError(f"min_photons is {value}; give a power of two from 1 to {2**_MOST_PHOTONS_LOG2}")
    return power


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """Reshape values [B] for images [B, C, H, W], on their device and, if they are numbers, in their type."""
    dtype = images.dtype if values.is_floating_point() else values.dtype
    return values.to(images.device, dtype, non_blocking=True).view(-1, *(1,) * (images.dim() - 1))
