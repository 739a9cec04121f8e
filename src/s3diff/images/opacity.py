"""Restore transparent pictures: colours under hidden pixels, and the enlarged opacity."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from s3diff.images.resampling import enlarge

#: Side of the guided filter's window, in low-quality pixels.
_WINDOW_PX = 5
#: Added to the guide's variance: differences of brightness well below 0.02 show no edge.
_GUIDE_FLOOR = 0.02**2


def without_hidden_colors(colors: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Replace colours under fully transparent pixels by those of the visible ones around them.

    Hidden colours (often black) would otherwise bleed into the visible edge. Visible pixels stay as they are.

    Args:
        colors: [1, C, H, W] float in [0, 1].
        alpha: [1, 1, H, W] float in [0, 1].

    Returns:
        [1, C, H, W]; the input itself if nothing, or everything, is hidden.
    """
    visible = (alpha > 0).to(colors)
    if bool(visible.all()) or not bool(visible.any()):
        return colors
    return _filled(colors * visible, visible)


def _filled(colors: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Fill hidden pixels by pull and push: each takes the mean of the visible ones in the next coarser picture."""
    if bool(visible.all()) or max(colors.shape[-2:]) == 1:
        return colors
    padding = (0, colors.shape[-1] % 2, 0, colors.shape[-2] % 2)
    weight = F.avg_pool2d(F.pad(visible, padding), 2)
    coarse = F.avg_pool2d(F.pad(colors, padding), 2) / weight.clamp(min=1e-6)
    filled = _filled(coarse, (weight > 0).to(weight))
    height, width = colors.shape[-2:]
    finer = F.interpolate(filled, scale_factor=2.0, mode="bilinear", align_corners=False)[..., :height, :width]
    return torch.where(visible > 0, colors, finer)


def enlarge_alpha_guided(alpha: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    """Enlarge the opacity to the size of the restored colours, with edges where the colours have them.

    Bicubic interpolation, plus the fine detail of the restored brightness as far as opacity followed brightness in the
    input (the slope of a guided filter, He et al. 2013). No value leaves the range of the 3 x 3 input pixels around it,
    so that opaque and clear areas stay so.

    Args:
        alpha: [1, 1, h, w] float in [0, 1].
        colors: [1, 3 or 1, H, W] float in [0, 1], restored.

    Returns:
        [1, 1, H, W] in [0, 1].
    """
    height, width = colors.shape[-2:]
    smooth = enlarge(alpha, height, width, mode="bicubic")
    guide = colors.mean(dim=1, keepdim=True)
    small_guide = enlarge(guide, alpha.shape[-2], alpha.shape[-1])
    mean_guide, mean_alpha = _box(small_guide), _box(alpha)
    covariance = _box(small_guide * alpha) - mean_guide * mean_alpha
    slope = covariance / (_box(small_guide * small_guide) - mean_guide.square() + _GUIDE_FLOOR)
    detail = guide - enlarge(small_guide, height, width, mode="bicubic")
    refined = smooth + enlarge(slope, height, width) * detail
    low, high = (F.interpolate(each, (height, width)) for each in (-_largest(-alpha), _largest(alpha)))
    return refined.maximum(low).minimum(high).clamp(0, 1)


def _box(image: torch.Tensor) -> torch.Tensor:
    half = _WINDOW_PX // 2
    return F.avg_pool2d(F.pad(image, (half,) * 4, mode="replicate"), _WINDOW_PX, stride=1)


def _largest(image: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(image, 3, stride=1, padding=1)
