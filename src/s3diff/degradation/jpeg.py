"""JPEG compression and decompression of a batch, without a file: colour transform, 4:2:0, DCT, rounding, and back.

The formulas are those of ISO/IEC 10918-1 (annex A and the example tables of annex K) and JFIF. Entropy coding is
lossless and therefore left out. No gradient passes the rounding.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from s3diff.errors import OptionError

#: ``encoder`` does what the common encoder library does: whole-number tables, edges repeated, samples rounded, smooth
#: chroma enlargement. ``release`` does what the released training code does: transposed luma table, fractional table
#: entries, black padding, no rounding of samples, chroma enlarged by repetition.
JpegConvention = Literal["encoder", "release"]

_BLOCK_SIDE_PX = 8
#: With chroma halved in both directions, sides are padded to whole pairs of 8 x 8 blocks.
_UNIT_SIDE_PX = 16

_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
#: RGB to luma and the two chroma differences (JFIF), rows Y, Cb, Cr; the chroma offset of 128 is added apart.
_RGB_TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
_YCBCR_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def compress_jpeg(images: Tensor, quality: Tensor | float, convention: JpegConvention = "encoder") -> Tensor:
    """What is left of the images after JPEG with 4:2:0 chroma at the given quality.

    Args:
        images: [B, 3, H, W] float, RGB in [0, 1]; values outside are clamped.
        quality: quality of 1 to 100, one number for all or a tensor [B]. ``encoder`` rounds it to a whole number, as
            every encoder needs; ``release`` does not.
        convention: see ``JpegConvention``.

    Returns:
        [B, 3, H, W] in the images' type, RGB in [0, 1]; with ``encoder`` at multiples of 1/255.

    Raises:
        OptionError: a quality is outside 1 to 100, of another batch, or the images are not RGB.
    """
    batch_size, channels, height, width = images.shape
    if channels != 3:
        raise OptionError(f"images have {channels} channels; give RGB images [B, 3, H, W]")
    qualities = _as_qualities(quality, batch_size, images.device)
    like_encoder = convention == "encoder"
    levels = images.float().clamp(0, 1) * 255
    pad = (0, -width % _UNIT_SIDE_PX, 0, -height % _UNIT_SIDE_PX)
    padded = functional.pad(
        levels.round() if like_encoder else levels, pad, mode="replicate" if like_encoder else "constant"
    )

    luma, chroma = _split_luma_chroma(padded, like_encoder)
    luma_table, chroma_table = _quantisation_tables(qualities, convention)
    luma = _quantise_blocks(luma, luma_table, like_encoder)
    chroma = _quantise_blocks(chroma, chroma_table, like_encoder)
    if like_encoder:
        luma, chroma = luma.round().clamp(0, 255), chroma.round().clamp(0, 255)

    decoded = _join_luma_chroma(luma, chroma, like_encoder)[..., :height, :width].clamp(0, 255)
    return ((decoded.round() if like_encoder else decoded) / 255).to(images.dtype)


def _as_qualities(quality: Tensor | float, batch_size: int, device: torch.device) -> Tensor:
    qualities = torch.as_tensor(quality, dtype=torch.float32, device=device).flatten()
    if len(qualities) not in (1, batch_size):
        raise OptionError(f"{len(qualities)} JPEG qualities for {batch_size} images; give one, or one for each image")
    if not bool(((qualities >= 1) & (qualities <= 100)).all()):
        raise OptionError(f"JPEG quality is {qualities.tolist()}; give values from 1 to 100")
    return qualities.expand(batch_size)


def _quantisation_tables(qualities: Tensor, convention: JpegConvention) -> tuple[Tensor, Tensor]:
    """The luma and chroma tables, [B, 1, 64] each: the standard's examples scaled as encoders do by the quality."""
    luma = torch.tensor(_LUMA_TABLE, dtype=torch.float32, device=qualities.device)
    chroma = torch.tensor(_CHROMA_TABLE, dtype=torch.float32, device=qualities.device)
    if convention == "encoder":
        # Whole-number arithmetic of the encoders, with their division that drops the fraction.
        whole = qualities.round()
        percent = torch.where(whole < 50, torch.floor(5000 / whole), 200 - 2 * whole).view(-1, 1, 1)
        scaled = [torch.floor((table * percent + 50) / 100).clamp(1, 255) for table in (luma, chroma)]
    else:
        percent = torch.where(qualities < 50, 5000 / qualities, 200 - 2 * qualities).view(-1, 1, 1)
        scaled = [table * percent / 100 for table in (luma.T, chroma.T)]
    return scaled[0].reshape(-1, 1, 64), scaled[1].reshape(-1, 1, 64)


def _split_luma_chroma(levels: Tensor, like_encoder: bool) -> tuple[Tensor, Tensor]:
    """Luma [B, 1, H, W] and halved chroma [B, 2, H/2, W/2], all in 0 to 255."""
    matrix = torch.tensor(_RGB_TO_YCBCR, device=levels.device)
    planes = torch.einsum("pc,bchw->bphw", matrix, levels)
    luma, chroma = planes[:, :1], planes[:, 1:] + 128
    if like_encoder:
        luma, chroma = luma.round(), chroma.round()
    chroma = functional.avg_pool2d(chroma, 2)
    return luma, chroma.round() if like_encoder else chroma


def _join_luma_chroma(luma: Tensor, chroma: Tensor, like_encoder: bool) -> Tensor:
    size = luma.shape[2:]
    if like_encoder:
        # Chroma samples lie between the pixels: bilinear interpolation is the decoders' 3:1 "triangle" filter.
        enlarged = functional.interpolate(chroma, size=size, mode="bilinear", align_corners=False)
    else:
        enlarged = functional.interpolate(chroma, size=size, mode="nearest")
    matrix = torch.tensor(_YCBCR_TO_RGB, device=luma.device)
    return torch.einsum("cp,bphw->bchw", matrix, torch.cat([luma, enlarged - 128], dim=1))


def _quantise_blocks(planes: Tensor, table: Tensor, like_encoder: bool) -> Tensor:
    """Round the DCT coefficients of every 8 x 8 block of planes [B, C, H, W] to multiples of the table [B, 1, 64]."""
    batch_size, channels, height, width = planes.shape
    rows, columns = height // _BLOCK_SIDE_PX, width // _BLOCK_SIDE_PX
    blocks = planes.view(batch_size, channels, rows, _BLOCK_SIDE_PX, columns, _BLOCK_SIDE_PX).transpose(3, 4)
    blocks = blocks.reshape(batch_size, channels * rows * columns, 64)

    transform = _dct_matrix().to(planes)
    # A table entry of 0 (quality 100 in the release) would divide by zero; it stands for no quantisation there.
    coefficients = (blocks - 128) @ transform.T
    multiples = coefficients / table
    multiples = _round_half_away(multiples) if like_encoder else multiples.round()
    coefficients = torch.where(table > 0, multiples * table, coefficients)
    blocks = coefficients @ transform + 128

    blocks = blocks.view(batch_size, channels, rows, columns, _BLOCK_SIDE_PX, _BLOCK_SIDE_PX).transpose(3, 4)
    return blocks.reshape(batch_size, channels, height, width)


def _round_half_away(values: Tensor) -> Tensor:
    # The mean of 64 whole numbers over a whole number is often an exact half: encoders round it away from zero. The
    # small surplus keeps the halves halves after single precision.
    return torch.sign(values) * torch.floor(values.abs() + (0.5 + 1e-5))


@lru_cache(maxsize=1)
def _dct_matrix() -> Tensor:
    """The two-dimensional DCT-II of an 8 x 8 block, orthonormal, as one matrix [64, 64] on its row-major values."""
    frequency = torch.arange(_BLOCK_SIDE_PX, dtype=torch.float64).view(-1, 1)
    position = torch.arange(_BLOCK_SIDE_PX, dtype=torch.float64)
    matrix = torch.cos((2 * position + 1) * frequency * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return torch.kron(matrix, matrix)
