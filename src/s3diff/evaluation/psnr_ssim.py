"""Compute PSNR and SSIM, on luma as the published tables on real-world super-resolution do, and on RGB.

Two habits of those tables are kept, because the figures could not be compared otherwise: PSNR ends at 80 dB, and SSIM
is taken on luma rounded to whole 255ths, with its structure term clipped at 0 (``as_published``). With them the
per-picture log of the OSEDiff authors is met to 0.00001; the textbook SSIM differs from it by up to 0.015.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from s3diff.errors import PictureError

#: Studio-range luma of ITU-R BT.601 for RGB in [0, 1], in 255ths: black is 16, white 235.
_LUMA_WEIGHTS = (65.481, 128.553, 24.966)
_LUMA_OFFSET = 16.0

#: Added to the mean squared error: equal pictures have 80 dB instead of infinitely many, so means stay finite.
_SMALLEST_SQUARED_ERROR = 1e-8

#: SSIM's window (Wang et al. 2004): Gaussian, 11 x 11, standard deviation 1.5 px.
SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
#: (K1 L)^2 and (K2 L)^2 for values from 0 to L = 1.
_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2


def luma(images: torch.Tensor) -> torch.Tensor:
    """Compute BT.601 luma in studio range.

    Args:
        images: [B, 3, H, W] float, RGB in [0, 1].

    Returns:
        [B, 1, H, W] float64 from 16/255 to 235/255; the variances of SSIM are differences of near-equal numbers.

    Raises:
        PictureError: not such a tensor.
    """
    check_images(images, "luma")
    red, green, blue = images.double().split(1, dim=1)
    weighted = _LUMA_WEIGHTS[0] * red + _LUMA_WEIGHTS[1] * green + _LUMA_WEIGHTS[2] * blue
    return (weighted + _LUMA_OFFSET) / 255.0


def psnr_y(result: torch.Tensor, truth: torch.Tensor, *, border_px: int = 0) -> torch.Tensor:
    """Compute the peak signal-to-noise ratio of luma in dB; 80 for equal pictures.

    The peak is 1 although studio-range luma spans only 219/255, as is customary.

    Args:
        result: [B, 3, H, W] float, RGB in [0, 1].
        truth: the same shape.
        border_px: pixels left out along each edge.

    Returns:
        [B] float64.

    Raises:
        PictureError: not such tensors, different shapes, or nothing left inside the border.
    """
    result, truth = _inside_border(result, truth, border_px, "psnr_y")
    return _psnr(luma(result), luma(truth))


def psnr_rgb(result: torch.Tensor, truth: torch.Tensor, *, border_px: int = 0) -> torch.Tensor:
    """Compute the peak signal-to-noise ratio over all channels in dB; arguments, result and errors of ``psnr_y``."""
    result, truth = _inside_border(result, truth, border_px, "psnr_rgb")
    return _psnr(result.double(), truth.double())


def _psnr(result: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    squared_error = (result - truth).square().mean(dim=(1, 2, 3))
    return -10.0 * (squared_error + _SMALLEST_SQUARED_ERROR).log10()


def ssim_y(result: torch.Tensor, truth: torch.Tensor, *, as_published: bool = True) -> torch.Tensor:
    """Compute the structural similarity of luma (Wang et al. 2004, equation 13), the mean of all windows.

    No border is cropped beyond the 5 px that whole 11 x 11 windows leave out. 1 for equal pictures.

    Args:
        result: [B, 3, H, W] float, RGB in [0, 1], at least 11 x 11 pixels.
        truth: the same shape.
        as_published: round luma to whole 255ths and clip the structure term at 0, as the published figures do. False
            for the textbook value, the only differentiable one.

    Returns:
        [B] float64.

    Raises:
        PictureError: not such tensors, or different shapes.
    """
    _check_pair(result, truth, "ssim_y")
    _check_window(result, "ssim_y")
    first, second = luma(result), luma(truth)
    if as_published:
        first, second = (first * 255.0).round() / 255.0, (second * 255.0).round() / 255.0
    return _ssim(first, second, clip_structure=as_published)


def ssim_rgb(result: torch.Tensor, truth: torch.Tensor, *, border_px: int = 0) -> torch.Tensor:
    """Average the three channels' textbook structural similarity; arguments, result and errors of ``ssim_y``.

    Args:
        result: [B, 3, H, W] float, RGB in [0, 1], at least 11 x 11 pixels inside the border.
        truth: the same shape.
        border_px: pixels left out along each edge.
    """
    result, truth = _inside_border(result, truth, border_px, "ssim_rgb")
    _check_window(result, "ssim_rgb")
    planes = [image.double().flatten(0, 1)[:, None] for image in (result, truth)]
    return _ssim(*planes, clip_structure=False).view(-1, 3).mean(dim=1)


def _ssim(first: torch.Tensor, second: torch.Tensor, *, clip_structure: bool) -> torch.Tensor:
    """Compute [B] from two [B, 1, H, W] float64."""
    moments = torch.cat([first, second, first * first + second * second, first * second], dim=1)
    mean_a, mean_b, squares, product = _windowed_means(moments).split(1, dim=1)
    mean_product, mean_squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    luminance = (2 * mean_product + _SSIM_C1) / (mean_squares + _SSIM_C1)
    structure = (2 * (product - mean_product) + _SSIM_C2) / (squares - mean_squares + _SSIM_C2)
    if clip_structure:
        structure = structure.clamp_min(0.0)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _windowed_means(planes: torch.Tensor) -> torch.Tensor:
    """Compute Gaussian means over every whole window, [B, C, H - 10, W - 10]: one pass down, one across.

    The batch goes in as channels: torch convolves groups of one picture four times as fast as groups of three.
    """
    offsets = torch.arange(SSIM_WINDOW_PX, dtype=planes.dtype, device=planes.device) - SSIM_WINDOW_PX // 2
    window = torch.exp(-offsets.square() / (2 * SSIM_SIGMA_PX**2))
    stacked = planes.flatten(0, 1)[None]
    num_planes = stacked.shape[1]
    window = (window / window.sum()).expand(num_planes, 1, SSIM_WINDOW_PX)
    down = F.conv2d(stacked, window.unsqueeze(3), groups=num_planes)
    return F.conv2d(down, window.unsqueeze(2), groups=num_planes)[0].unflatten(0, planes.shape[:2])


def check_images(images: torch.Tensor, measure: str) -> None:
    """Make sure that a measure was given [B, 3, H, W].

    Raises:
        PictureError: it was not.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise PictureError(f"{measure} was given a tensor of shape {tuple(images.shape)}; give [B, 3, H, W]")


def _check_pair(result: torch.Tensor, truth: torch.Tensor, measure: str) -> None:
    if result.shape != truth.shape:
        raise PictureError(
            f"{measure} was given shapes {tuple(result.shape)} and {tuple(truth.shape)}; give two batches of one shape"
        )


def _check_window(images: torch.Tensor, measure: str) -> None:
    if min(images.shape[2:]) < SSIM_WINDOW_PX:
        size = f"{images.shape[3]} x {images.shape[2]}"
        raise PictureError(
            f"{measure} was given pictures of {size} pixels; give at least {SSIM_WINDOW_PX} on each side"
        )


def _inside_border(
    result: torch.Tensor, truth: torch.Tensor, border_px: int, measure: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check both pictures and cut ``border_px`` pixels from each edge."""
    _check_pair(result, truth, measure)
    if result.ndim != 4 or result.shape[1] != 3 or min(result.shape[2:]) <= 2 * border_px:
        raise PictureError(
            f"{measure} was given a tensor of shape {tuple(result.shape)}; give [B, 3, H, W] of more than "
            f"{2 * border_px} pixels on each side"
        )
    inside = slice(border_px, -border_px or None)
    return result[..., inside, inside], truth[..., inside, inside]
