"""Enlarge, pad and crop pictures as tensors, and convert their value ranges."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from s3diff.errors import OptionError
from s3diff.options import Upsampling
from s3diff.tiling import Span


def enlarge(low_quality: torch.Tensor, height: int, width: int, mode: Upsampling = "bilinear") -> torch.Tensor:
    """Resize to ``height`` x ``width`` pixels, pixel centres aligned as areas (``align_corners=False``).

    A side that grows is interpolated as the S3Diff release does it (bilinear when restoring, bicubic with a = -0.75
    in training). A side that shrinks is filtered against aliasing; where one side shrinks and the other grows, the
    shrinking comes first. Bicubic overshoots at edges, so its result is clamped to [0, 1].

    Args:
        low_quality: [B, C, h, w] float in [0, 1].
        height: output height in pixels, 1 or more.
        width: output width in pixels, 1 or more.
        mode: ``bilinear`` or ``bicubic``.

    Returns:
        [B, C, height, width] in [0, 1], of the input's type and device.

    Raises:
        OptionError: the mode is unknown, or the size is below 1 pixel.
    """
    if mode not in ("bilinear", "bicubic"):
        raise OptionError(f"upsampling is {mode!r}; give one of bilinear, bicubic")
    if height < 1 or width < 1:
        raise OptionError(f"the output would be {width} x {height} pixels; give at least 1 x 1")
    image = low_quality
    reduced = (min(height, image.shape[-2]), min(width, image.shape[-1]))
    if reduced != tuple(image.shape[-2:]):
        if image.shape[-1] == 1:  # torch (2.13 and before) takes a picture one pixel wide for one with channels last
            doubled = image.expand(-1, -1, -1, 2).contiguous()
            image = F.interpolate(doubled, size=(reduced[0], 2), mode=mode, align_corners=False, antialias=True)[
                ..., :1
            ]
        else:
            image = F.interpolate(image, size=reduced, mode=mode, align_corners=False, antialias=True)
    if (height, width) != reduced or image is low_quality:
        image = F.interpolate(image, size=(height, width), mode=mode, align_corners=False)
    return image.clamp(0, 1) if mode == "bicubic" else image


def enlarge_region(
    read: Callable[[Span, Span], torch.Tensor],
    low_quality_size: tuple[int, int],
    size: tuple[int, int],
    rows: Span,
    columns: Span,
    mode: Upsampling = "bilinear",
) -> torch.Tensor:
    """Compute a part of :func:`enlarge`'s result from the low-quality pixels that it depends on.

    Args:
        read: returns rows and columns of the low-quality picture, [B, C, h, w] float in [0, 1].
        low_quality_size: its (height, width).
        size: (height, width) of the whole enlarged picture.
        rows: of the enlarged picture.

    Returns:
        [B, C, rows.length, columns.length]: the same as a crop of the whole, up to rounding.
    """
    taps = [
        _taps(before, after, span, mode)
        for before, after, span in zip(low_quality_size, size, (rows, columns), strict=True)
    ]
    spans = [Span(int(index.min()), int(index.max()) + 1) for index, _ in taps]
    image = read(*spans)
    # A side that shrinks is filtered first, as in `enlarge`.
    for axis in sorted((0, 1), key=lambda axis: size[axis] >= low_quality_size[axis]):
        index, weight = taps[axis]
        image = _weighted(image, index - spans[axis].start, weight, dimension=axis - 2)
    return image.clamp(0, 1) if mode == "bicubic" else image


def _taps(before: int, after: int, span: Span, mode: Upsampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which of ``before`` positions make those of ``span`` out of ``after``, and their weights: [n, taps] each.

    As torch's ``interpolate`` has it, in its precision: coordinates in float32; cubic a = -0.75, and -0.5 where the
    filter is widened against aliasing.
    """
    places = torch.arange(span.start, span.stop, dtype=torch.float32)
    step = torch.tensor(before / after, dtype=torch.float32)
    centres = (places + 0.5) * step
    radius = 1.0 if mode == "bilinear" else 2.0
    if after < before:
        support = radius * step
        first = (centres - support + 0.5).to(torch.int64).clamp(min=0)
        last = (centres + support + 0.5).to(torch.int64).clamp(max=before)
        offsets = torch.arange(int((last - first).max()))
        index = first[:, None] + offsets
        weights = _filter((index + 0.5 - centres[:, None]) / step, mode, cubic=-0.5)
        weights = torch.where(index < last[:, None], weights, 0.0)
        return index.clamp(max=before - 1), weights / weights.sum(dim=1, keepdim=True)
    source = centres - 0.5
    if mode == "bilinear":
        source = source.clamp(min=0)
    below = source.floor().to(torch.int64)
    offsets = torch.arange(2) if mode == "bilinear" else torch.arange(-1, 3)
    index = below[:, None] + offsets
    weights = _filter(index - source[:, None], mode, cubic=-0.75)
    return index.clamp(0, before - 1), weights


def _filter(distance: torch.Tensor, mode: Upsampling, cubic: float) -> torch.Tensor:
    """Return the weight at a distance in positions: a triangle, or Keys' cubic."""
    x = distance.abs()
    if mode == "bilinear":
        return (1 - x).clamp(min=0)
    near = ((cubic + 2) * x - (cubic + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * cubic - 4 * cubic
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _weighted(image: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, dimension: int) -> torch.Tensor:
    """Sum over the taps, one at a time, without a copy of the picture for each."""
    shape = (-1, 1) if dimension == -2 else (-1,)
    index, weight = index.to(image.device), weight.to(image)
    total = torch.zeros((), dtype=image.dtype, device=image.device)
    for tap in range(index.shape[1]):
        total = total + image.index_select(dimension, index[:, tap]) * weight[:, tap].view(shape)
    return total


def mirrored_span(side: int, span: Span) -> tuple[Span, torch.Tensor]:
    """Find the positions that a part of an axis padded by :func:`pad_to_multiple` reads.

    Args:
        side: length of the axis before padding.
        span: part of the padded axis.

    Returns:
        The positions needed, and for each place of ``span`` its index among them.
    """
    index = _mirrored_index(side, span.stop, torch.device("cpu"))[span.start :]
    first, last = int(index.min()), int(index.max())
    return Span(first, last + 1), index - first


def to_network_range(image: torch.Tensor) -> torch.Tensor:
    """Map [0, 1] to the networks' [-1, 1]; values outside are clamped. Any shape."""
    return (image * 2 - 1).clamp(-1, 1)


def from_network_range(image: torch.Tensor) -> torch.Tensor:
    """Map the networks' [-1, 1] to [0, 1]; values outside are clamped. Any shape."""
    return image.clamp(-1, 1) * 0.5 + 0.5


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Mirror the picture beyond its right and bottom edge until both sides are multiples of ``multiple``.

    The edge pixel itself is not repeated (``reflect``). Where the pad reaches further than one reflection can, the
    picture is mirrored again and again, so that any picture can be padded, one of 1 x 1 pixel included.

    Args:
        image: [B, C, H, W], any type, at least 1 x 1 pixel.
        multiple: 1 or more, in pixels.

    Returns:
        [B, C, H', W'] with the smallest multiples H' >= H and W' >= W; the input itself where nothing is missing.

    Raises:
        OptionError: ``multiple`` is not a whole number of at least 1.
    """
    if not isinstance(multiple, int) or multiple < 1:
        raise OptionError(f"sides cannot be padded to multiples of {multiple!r}; give a whole number of at least 1")
    for dimension in (-2, -1):
        side = image.shape[dimension]
        missing = -side % multiple
        if missing:
            image = image.index_select(dimension, _mirrored_index(side, side + missing, image.device))
    return image


def crop(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut out the top left ``height x width`` pixels of [..., H, W], as a view, without what ``pad_to_multiple`` added.

    Raises:
        OptionError: the picture is smaller than that.
    """
    if height > image.shape[-2] or width > image.shape[-1]:
        given = f"{image.shape[-1]} x {image.shape[-2]}"
        raise OptionError(f"cannot crop {width} x {height} pixels out of {given}; give a size that fits inside")
    return image[..., :height, :width]


def crop_middle(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut out the middle ``height x width`` pixels of [..., H, W], as a view."""
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def _mirrored_index(side: int, length: int, device: torch.device) -> torch.Tensor:
    """Return the source of each of ``length`` positions: 0, 1, .., side-1, side-2, .., 1, 0, 1, .."""
    period = max(1, 2 * (side - 1))
    position = torch.arange(length, device=device) % period
    return torch.minimum(position, period - position) if side > 1 else position


#: Kernels of :func:`resample` with how far they reach, in pixels of the coarser picture.
BASELINE_KERNELS = {"bicubic": 2, "lanczos": 3}


def resample(image: torch.Tensor, height: int, width: int, kernel: str) -> torch.Tensor:
    """Resize as Pillow and MATLAB do for published baselines, with a filter where a side shrinks.

    The method itself enlarges with another filter: torch's bicubic (:func:`enlarge`) has a = -0.75.

    Args:
        image: [B, C, h, w] float in [0, 1].
        height: output height in pixels, 1 or more.
        width: output width in pixels, 1 or more.
        kernel: ``bicubic`` (a = -0.5) or ``lanczos`` (three lobes).

    Returns:
        [B, C, height, width] in [0, 1]: overshoots are clamped.

    Raises:
        OptionError: the kernel is unknown, or the size is below 1 pixel.
    """
    if kernel not in BASELINE_KERNELS:
        raise OptionError(f"kernel is {kernel!r}; give one of {', '.join(BASELINE_KERNELS)}")
    if height < 1 or width < 1:
        raise OptionError(f"the output would be {width} x {height} pixels; give at least 1 x 1")
    down = _resampling_matrix(image.shape[-2], height, kernel).to(image)
    across = _resampling_matrix(image.shape[-1], width, kernel).to(image)
    return (down @ image @ across.T).clamp(0, 1)


def _resampling_matrix(side: int, new_side: int, kernel: str) -> torch.Tensor:
    """Return [new_side, side] float64 with rows of sum 1: weights are normalised to positions inside the picture."""
    stretch = max(side / new_side, 1.0)
    centres = (torch.arange(new_side, dtype=torch.float64) + 0.5) * side / new_side - 0.5
    distance = ((torch.arange(side, dtype=torch.float64)[None] - centres[:, None]) / stretch).abs()
    if kernel == "bicubic":
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        weights = near.where(distance <= 1, far)
    else:
        weights = torch.special.sinc(distance) * torch.special.sinc(distance / BASELINE_KERNELS[kernel])
    weights = weights.where(distance < BASELINE_KERNELS[kernel], 0.0)
    return weights / weights.sum(dim=1, keepdim=True)
