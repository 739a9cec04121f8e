"""Resize as the degradation does, with and without the filter against aliasing."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from s3diff.errors import OptionError

#: Names by the number that stands for them in a draw. The first three are the method's: they reduce without a filter
#: against aliasing (``area`` is a mean). The last one is the clean bicubic reduction of the benchmarks.
RESIZE_MODES = ("area", "bilinear", "bicubic", "bicubic_antialiased")


def resize(images: Tensor, size_px: tuple[int, int], mode: str) -> Tensor:
    """Resize to exactly ``size_px``, the picture's corners staying where they are; the same size changes nothing.

    The release passes the drawn factor on instead of the size; where the size is not the exact product, its picture
    then slides by up to a pixel against the ground truth.

    Args:
        images: [B, C, H, W] float.
        size_px: height and width in pixels.
        mode: one of ``RESIZE_MODES``.

    Returns:
        [B, C, *size_px]; both bicubic modes may leave the range of the input.

    Raises:
        OptionError: the mode is unknown.
    """
    if mode not in RESIZE_MODES:
        raise OptionError(f"resize mode is {mode!r}; give one of {', '.join(RESIZE_MODES)}")
    if tuple(images.shape[2:]) == tuple(size_px):
        return images
    if mode == "area":
        return functional.interpolate(images, size=size_px, mode="area")
    if mode == "bilinear":
        return functional.interpolate(images, size=size_px, mode="bilinear", align_corners=False)
    antialias = mode == "bicubic_antialiased"
    return functional.interpolate(images, size=size_px, mode="bicubic", align_corners=False, antialias=antialias)
