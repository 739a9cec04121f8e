"""What eyes notice and PSNR does not: block edges, combs, colour fringes, softness; each of one picture."""

from __future__ import annotations

import itertools

import torch

from s3diff.evaluation.psnr_ssim import luma

SCALE = 4
#: Side of a JPEG block in the input.
JPEG_BLOCK_PX = 8
#: Differences on each side of a border between two input pixels that belong to the step across it.
_STEP_REACH = 2
#: Bands of the spectrum: half octaves from 1/32 to 1/2 cycles per pixel.
_BAND_EDGES = tuple(2.0 ** (-5 + step / 2) for step in range(9))
#: Variance of rounding to 8 bits, in units of the full range.
_ROUNDING_VARIANCE = 1.0 / 12.0 / 255.0**2
#: Less than this difference from bicubic, in mean squares, is rounding and has no pattern.
_LEAST_DIFFERENCE = 4 * _ROUNDING_VARIANCE


def gradient_energy(image: torch.Tensor) -> float:
    """Mean squared difference of neighbouring pixels' luma, down and across; image: [1, 3, H, W] in [0, 1]."""
    plane = luma(image)
    return float(plane.diff(dim=-1).square().mean() + plane.diff(dim=-2).square().mean())


def blockiness(result: torch.Tensor, scale: int = SCALE) -> float:
    """By how many levels of 255 the luma steps more across the input's JPEG block borders than across others.

    A step is the sum of the absolute differences around a border between two pixels of the input, so that an edge
    counts the same whether it is soft or sharp. A block of the input has a side of 8 times ``scale`` in the result.
    0 without blocks, up to chance; the mean of both directions.

    Args:
        result: [1, 3, H, W] float, RGB in [0, 1], whose input began at a block's corner.
        scale: of the result over its input.
    """
    plane = 255 * luma(result)[0, 0]
    excesses = []
    for lines in (plane, plane.T):
        differences = lines.diff(dim=1).abs().mean(dim=0)
        # Difference i lies between the pixels i and i + 1; the first border of input pixels is at scale - 1.
        borders = torch.arange(2 * scale - 1, differences.numel() - _STEP_REACH, scale)
        steps = sum(differences[borders + offset] for offset in range(-_STEP_REACH, _STEP_REACH + 1))
        of_blocks = (borders + 1) % (JPEG_BLOCK_PX * scale) == 0
        excesses.append(steps[of_blocks].mean() - steps[~of_blocks].mean())
    return float(sum(excesses)) / 2


def comb(result: torch.Tensor, bicubic: torch.Tensor, period_px: int = SCALE) -> float:
    """How far what was added to the bicubic enlargement repeats every ``period_px`` pixels: 1 for a comb, else about 0.

    The autocorrelation of the luma difference at the period, less its mean at one pixel more and one less: smooth
    additions correlate at all three. The larger of both directions.
    """
    added = (luma(result) - luma(bicubic))[0, 0]
    added = added - added.mean()
    power = float(added.square().mean())
    if power < _LEAST_DIFFERENCE:
        return 0.0
    found = []
    for lines in (added, added.T):
        before, at, after = (
            float((lines[:, lag:] * lines[:, :-lag]).mean()) / power
            for lag in (period_px - 1, period_px, period_px + 1)
        )
        found.append(at - (before + after) / 2)
    return max(found)


def chroma(image: torch.Tensor) -> tuple[float, float]:
    """Largest and mean distance between the highest and the lowest channel of a pixel, in levels; 0 for grey."""
    spread = 255 * (image.amax(dim=1) - image.amin(dim=1))
    return float(spread.max()), float(spread.mean())


def spectrum_slope(image: torch.Tensor) -> float:
    """Slope of the radial power spectrum of the luma from 1/32 cycles per pixel on, in decibels per octave.

    A line through the mean powers of half octaves, each of equal weight. Natural pictures have -6 to -9; softer ones
    less. Rounding's own power is added, so that flat pictures have a slope: 0.
    """
    plane = luma(image)[0, 0]
    window = torch.outer(*(torch.hann_window(side, periodic=False, dtype=plane.dtype) for side in plane.shape))
    power = torch.fft.fft2((plane - plane.mean()) * window).abs().square() / window.square().sum() + _ROUNDING_VARIANCE
    down, across = (torch.fft.fftfreq(side, dtype=plane.dtype) for side in plane.shape)
    radius = (down[:, None].square() + across.square()).sqrt()
    bands = itertools.pairwise(_BAND_EDGES)
    decibels = torch.stack([10 * power[(radius >= low) & (radius < high)].mean().log10() for low, high in bands])
    octaves = torch.arange(len(decibels), dtype=decibels.dtype) / 2
    octaves = octaves - octaves.mean()
    return float((octaves * decibels).sum() / octaves.square().sum())
