"""Measure how visible a regular grid is in a set of pictures.

Networks that enlarge by strided or shuffled convolutions, and decoders cut into tiles, like to leave patterns that
repeat every 2, 4 or 8 pixels. Such a pattern is a line in the spectrum. The measure is how far it stands out:

1. Luma differences of neighbouring pixels along one direction. They flatten the steep spectrum of photographs.
2. A Hann window over each row, zero-padded to the next multiple of 8, so that periods of 8, 4 and 2 px are exactly the
   bins N/8, N/4 and N/2 whatever the size of the picture. (Rounding to a bin could lose 1.4 dB of a line.)
3. The power spectrum, averaged over the rows of the picture.
4. *Contrast*: power at the period over the median power of the bins 3 to 8 away on both sides (below only, at N/2).
   Nearer bins hold the skirt of the line itself, farther ones see the slope of the spectrum; the median ignores
   single odd bins.
5. Over pictures: the geometric mean of their contrasts. A few pictures with fences, windows or fabric of just that
   period hardly move it, and pictures of every contrast and size count the same.
6. The largest over periods and directions is the measure. 1 means no grid.

On the 97 pairs of ``data/realsr_pairs``: truth 1.05, OSEDiff's 17 results 1.13, bicubic x4 of the inputs 1.13 with
Pillow's filter and 0.91 with torch's; truth with every eighth column one grey level brighter 10.5.

What it does not see: interpolation from exactly 4 times fewer pixels *empties* the bins of periods 4 and 2, so blocks
from repeating pixels count as less than no grid (0.83). Lines are found, blocks are not.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from s3diff.errors import PictureError
from s3diff.evaluation.psnr_ssim import luma
from s3diff.evaluation.statistics import Aggregate

#: Order of the second axis of :func:`grid_contrasts`: the direction along which the pattern repeats.
DIRECTIONS = ("horizontal", "vertical")
#: Order of its third axis, in pixels: an autoencoder of this kind works in steps of 8, halved up to three times.
PERIODS_PX = (2, 4, 8)
#: Smallest side: with fewer pixels the neighbours of one period reach another period or the mean.
SMALLEST_SIDE_PX = 72

#: Distances, in bins, of the neighbours that a period is compared with.
_NEIGHBOUR_BINS = range(3, 9)
#: Variance of rounding to 8 bits, and the part of it that is added to every bin: a flat picture then has contrast 1
#: (not 0 / 0), and lines far below what 8 bits can show do not count.
_ROUNDING_VARIANCE = 1.0 / 12.0 / 255.0**2
_FLOOR_PART = 0.1

#: Steps 5 and 6 above, of [N, 6] contrasts.
GRID_OF_SET = Aggregate(np.log, lambda means: np.exp(means.max(axis=-1)))


def grid_contrasts(images: torch.Tensor) -> torch.Tensor:
    """Measure the contrast of every period and direction in each picture (steps 1 to 4 above).

    Args:
        images: [B, 3, H, W] float, RGB in [0, 1], at least 72 x 72 pixels.

    Returns:
        [B, 2, 3] float64: ``DIRECTIONS`` x ``PERIODS_PX``.

    Raises:
        PictureError: not such a tensor.
    """
    planes = luma(images)[:, 0]
    if min(planes.shape[1:]) < SMALLEST_SIDE_PX:
        size = f"{planes.shape[2]} x {planes.shape[1]}"
        raise PictureError(f"the grid measure was given {size} pixels; give at least {SMALLEST_SIDE_PX} on each side")
    return torch.stack([_contrasts_along_rows(planes), _contrasts_along_rows(planes.transpose(1, 2))], dim=1)


def grid_parts(images: torch.Tensor) -> torch.Tensor:
    """Return :func:`grid_contrasts` as [B, 6]."""
    return grid_contrasts(images).flatten(1)


def _contrasts_along_rows(planes: torch.Tensor) -> torch.Tensor:
    """Measure contrasts [B, 3] of luma [B, H, W]."""
    differences = planes.diff(dim=2)
    num_values = differences.shape[2]
    num_padded = -(-num_values // 8) * 8
    window = torch.hann_window(num_values, periodic=False, dtype=planes.dtype, device=planes.device)
    spectrum = torch.fft.rfft(F.pad(differences * window, (0, num_padded - num_values)))
    power = spectrum.abs().square().mean(dim=1)
    # Rounding noise of two pixels goes into each difference.
    power = power + _FLOOR_PART * 2.0 * _ROUNDING_VARIANCE * window.square().sum()
    contrasts = []
    for period_px in PERIODS_PX:
        line = num_padded // period_px
        around = [line - distance for distance in _NEIGHBOUR_BINS]
        if period_px != 2:  # N/2 is the last bin: nothing lies above
            around += [line + distance for distance in _NEIGHBOUR_BINS]
        # quantile, not median: of an even number of bins it takes the middle between the two central ones
        contrasts.append(power[:, line] / power[:, around].quantile(0.5, dim=1))
    return torch.stack(contrasts, dim=1)
