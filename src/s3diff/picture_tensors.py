"""Check pictures and degrees that callers give as tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from s3diff.errors import OptionError, PictureError

_FIRST, _LAST = "[B, 3, H, W]", "[B, H, W, 3]"


class GivenPictures(NamedTuple):
    """Hold the input as [B, 3, H, W] float32 in [0, 1], and the caller's layout and type."""

    colors: Tensor
    dtype: torch.dtype
    is_channels_last: bool

    def like(self, images: Tensor) -> Tensor:
        """Convert [B, 3, H, W] in [0, 1] to the caller's layout and type."""
        images = images.permute(0, 2, 3, 1).contiguous() if self.is_channels_last else images
        return (images * 255).round().to(torch.uint8) if self.dtype == torch.uint8 else images.to(self.dtype)


def checked_pictures(images: Any, *, clamp: bool = False, channels_last: bool | None = None) -> GivenPictures:
    """Check pictures.

    Args:
        images: [B, 3, H, W] or [B, H, W, 3], uint8 or float in [0, 1].
        clamp: clamp values outside [0, 1] instead of refusing them.
        channels_last: whether ``images`` is [B, H, W, 3]; None decides by the shape.

    Raises:
        PictureError: another kind, shape or type, values outside [0, 1] or not finite.
    """
    layout = f"{_FIRST} or {_LAST}" if channels_last is None else _LAST if channels_last else _FIRST
    allowed = f"give {layout} of uint8, or of floats in [0, 1]"
    if not isinstance(images, Tensor):
        raise PictureError(f"the pictures are a {type(images).__name__} and no tensor; {allowed}")
    if images.is_meta or images.layout != torch.strided:
        raise PictureError(f"the tensor is {'meta' if images.is_meta else images.layout}; {allowed}, all values there")
    shape = tuple(images.shape)
    if channels_last is None:
        channels_last = len(shape) == 4 and shape[1] != 3
    if len(shape) != 4 or shape[3 if channels_last else 1] != 3 or 0 in shape:
        raise PictureError(f"the tensor has shape {shape}; {allowed}")
    colors = images.permute(0, 3, 1, 2).contiguous() if channels_last else images
    if images.dtype == torch.uint8:
        return GivenPictures(colors.to(torch.float32).div(255.0), images.dtype, channels_last)
    if not images.is_floating_point():
        raise PictureError(f"the tensor is of type {images.dtype}; {allowed}")
    colors = colors.to(torch.float32)
    low, high = (float(value) for value in torch.aminmax(colors.detach()))
    is_finite = low - low == 0 and high - high == 0
    if not is_finite or (not clamp and not (low >= 0 and high <= 1)):
        hint = "; clamp=True takes values just outside" if is_finite else ""
        raise PictureError(f"the tensor holds values from {low:g} to {high:g}; {allowed}{hint}")
    return GivenPictures(colors.clamp(0, 1) if clamp else colors, images.dtype, channels_last)


def checked_degrees(degrees: Any, count: int) -> Tensor:
    """Convert the degrees of ``count`` pictures to [count, 2] float32.

    Args:
        degrees: [2] or [count, 2] in [0, 1], blur and noise.

    Raises:
        OptionError: another kind or shape, or values outside [0, 1].
    """
    allowed = f"give [2] or [{count}, 2], blur and noise from 0 to 1"
    try:
        found = torch.as_tensor(degrees, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"degrees are {' '.join(repr(degrees).split())[:60]}; {allowed}") from error
    found = found.expand(count, 2) if found.shape == (2,) else found
    if tuple(found.shape) != (count, 2):
        raise OptionError(f"degrees are a tensor of shape {list(found.shape)}; {allowed}")
    if not bool(((found >= 0) & (found <= 1)).all()):
        raise OptionError(f"degrees are from {float(found.min()):g} to {float(found.max()):g}; {allowed}")
    return found
