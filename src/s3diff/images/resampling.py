"""Enlarging, value ranges, padding and cropping of pictures as tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from s3diff.errors import OptionError
from s3diff.options import Upsampling


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
        image = F.interpolate(image, size=reduced, mode=mode, align_corners=False, antialias=True)
    if (height, width) != reduced or image is low_quality:
        image = F.interpolate(image, size=(height, width), mode=mode, align_corners=False)
    return image.clamp(0, 1) if mode == "bicubic" else image


def to_network_range(image: torch.Tensor) -> torch.Tensor:
    """[0, 1] to the networks' [-1, 1]; values outside are clamped. Any shape."""
    return (image * 2 - 1).clamp(-1, 1)


def from_network_range(image: torch.Tensor) -> torch.Tensor:
    """The networks' [-1, 1] to [0, 1]; values outside are clamped. Any shape."""
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
    """The top left ``height`` x ``width`` pixels of [..., H, W], as a view: takes off what ``pad_to_multiple`` added.

    Raises:
        OptionError: the picture is smaller than that.
    """
    if height > image.shape[-2] or width > image.shape[-1]:
        given = f"{image.shape[-1]} x {image.shape[-2]}"
        raise OptionError(f"cannot crop {width} x {height} pixels out of {given}; give a size that fits inside")
    return image[..., :height, :width]


def _mirrored_index(side: int, length: int, device: torch.device) -> torch.Tensor:
    """Where each of ``length`` positions reads from: 0, 1, .., side-1, side-2, .., 1, 0, 1, .."""
    period = max(1, 2 * (side - 1))
    position = torch.arange(length, device=device) % period
    return torch.minimum(position, period - position) if side > 1 else position
