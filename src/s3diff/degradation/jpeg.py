"""Compress a batch as JPEG and decompress it, without a file: colour transform, 4:2:0, DCT, rounding, and back.

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
    """Compress the images as JPEG with 4:2:0 chroma at the given quality, and return them.

    Args:
        images: [B, 3, H, W] float, RGB in [0, 1]; values outside are clamped.
        quality: quality of 1 to 100, one number for all or a tensor [B]. ``encoder`` rounds it to a whole number, as
            every encoder needs; ``release`` does not.

    Returns:
        [B, 3, H, W] in the images' type, RGB in [0, 1]; with ``encoder`` at multiples of 1/255.

    Raises:
        OptionError: a quality is outside 1 to 100, of another batch, or the images are not RGB.
    """
    batch_size, channels, height, width = images.shape
    if channels != 3:
        raise OptionError(f"images have {channels} channels; give RGB images [B, 3, H, W]")
    tables = _quantisation_tables(_as_qualities(quality, batch_size), convention).to(images.device, non_blocking=True)
    like_encoder = convention == "encoder"
    levels = images.float().clamp(0, 1).mul_(255)
    if like_encoder:
        levels.round_()
    pad = (0, -width % _UNIT_SIDE_PX, 0, -height % _UNIT_SIDE_PX)
    if any(pad):
        levels = functional.pad(levels, pad, mode="replicate" if like_encoder else "constant")

    luma, chroma = _split_luma_chroma(levels, like_encoder)
    luma = _quantise_blocks(luma, tables[0], like_encoder)
    chroma = _quantise_blocks(chroma, tables[1], like_encoder)
    if like_encoder:
        luma, chroma = luma.round_().clamp_(-128, 127), chroma.round_().clamp_(-128, 127)

    decoded = _join_luma_chroma(luma, chroma, like_encoder)[..., :height, :width].clamp(0, 255)
    return (decoded.round_() if like_encoder else decoded).div_(255).to(images.dtype)


def _as_qualities(quality: Tensor | float, batch_size: int) -> Tensor:
    """Return [B] on the CPU, where reading values does not wait for a GPU."""
    qualities = torch.as_tensor(quality, dtype=torch.float32, device="cpu").flatten()
    if len(qualities) not in (1, batch_size):
        raise OptionError(f"{len(qualities)} JPEG qualities for {batch_size} images; give one, or one for each image")
    if not bool(((qualities >= 1) & (qualities <= 100)).all()):
        raise OptionError(f"JPEG quality is {qualities.tolist()}; give values from 1 to 100")
    return qualities.expand(batch_size)


def _quantisation_tables(qualities: Tensor, convention: JpegConvention) -> Tensor:
    """Return the luma and chroma tables, [2, B, 1, 64]: the standard's examples scaled by the quality."""
    examples = torch.tensor([_LUMA_TABLE, _CHROMA_TABLE], dtype=torch.float32)
    if convention == "encoder":
        # Whole-number arithmetic of the encoders, with their division that drops the fraction.
        whole = qualities.round()
        percent = torch.where(whole < 50, torch.floor(5000 / whole), 200 - 2 * whole).view(-1, 1, 1)
        return torch.floor((examples.view(2, 1, 1, 64) * percent + 50) / 100).clamp(1, 255)
    percent = torch.where(qualities < 50, 5000 / qualities, 200 - 2 * qualities).view(-1, 1, 1)
    return examples.transpose(1, 2).reshape(2, 1, 1, 64) * percent / 100


def _split_luma_chroma(levels: Tensor, like_encoder: bool) -> tuple[Tensor, Tensor]:
    """Compute luma [B, 1, H, W] and halved chroma [B, 2, H/2, W/2], from -128 to 127, as the DCT takes them."""
    planes = torch.matmul(_matrix(_RGB_TO_YCBCR, levels.device), levels.flatten(2)).view(levels.shape)
    if like_encoder:
        planes.round_()
    luma, chroma = planes[:, :1] - 128, functional.avg_pool2d(planes[:, 1:], 2)
    return luma, chroma.round_() if like_encoder else chroma


def _join_luma_chroma(luma: Tensor, chroma: Tensor, like_encoder: bool) -> Tensor:
    size = luma.shape[2:]
    if like_encoder:
        # Chroma samples lie between the pixels: bilinear interpolation is the decoders' 3:1 "triangle" filter.
        enlarged = functional.interpolate(chroma, size=size, mode="bilinear", align_corners=False)
    else:
        enlarged = functional.interpolate(chroma, size=size, mode="nearest")
    colours = torch.matmul(_matrix(_YCBCR_TO_RGB, luma.device)[:, 1:], enlarged.flatten(2)).view(-1, 3, *size)
    return colours.add_(luma.add_(128))


def _quantise_blocks(planes: Tensor, table: Tensor, like_encoder: bool) -> Tensor:
    """Round the DCT coefficients of every 8 x 8 block of planes [B, C, H, W] to multiples of the table [B, 1, 64]."""
    batch_size, channels, height, width = planes.shape
    rows, columns = height // _BLOCK_SIDE_PX, width // _BLOCK_SIDE_PX
    blocks = planes.view(batch_size, channels, rows, _BLOCK_SIDE_PX, columns, _BLOCK_SIDE_PX).transpose(3, 4)
    blocks = blocks.reshape(batch_size, channels * rows * columns, 64)

    # One product for each image, of a size that the batch has no part in: the same result to the bit in any batch.
    transform = _dct_matrix(planes.device).expand(batch_size, 64, 64)
    coefficients = torch.bmm(blocks, transform.mT)
    if like_encoder:
        quantised = _round_half_away(coefficients.div_(table)).mul_(table)
    else:
        # A table entry of 0 (quality 100 in the release) would divide by zero; it stands for no quantisation there.
        quantised = torch.where(table > 0, (coefficients / table).round_().mul_(table), coefficients)
    blocks = torch.bmm(quantised, transform)

    blocks = blocks.view(batch_size, channels, rows, columns, _BLOCK_SIDE_PX, _BLOCK_SIDE_PX).transpose(3, 4)
    return blocks.reshape(batch_size, channels, height, width)


def _round_half_away(values: Tensor) -> Tensor:
    """Round in place. The mean of 64 whole numbers over a whole number is often an exact half; encoders round that from
    zero. The small surplus keeps the halves halves after single precision.
    """
    half = torch.full((), 0.5 + 1e-5, device=values.device)
    return values.add_(torch.copysign(half, values)).trunc_()


@lru_cache(maxsize=16)
def _matrix(rows: tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    """Copy the matrix to a device once, so that later calls do not wait for it."""
    return torch.tensor(rows, device=device)


@lru_cache(maxsize=16)
def _dct_matrix(device: torch.device) -> Tensor:
    """Return the orthonormal two-dimensional DCT-II of an 8 x 8 block as a matrix [64, 64] on its row-major values."""
    frequency = torch.arange(_BLOCK_SIDE_PX, dtype=torch.float64).view(-1, 1)
    position = torch.arange(_BLOCK_SIDE_PX, dtype=torch.float64)
    matrix = torch.cos((2 * position + 1) * frequency * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return torch.kron(matrix, matrix).float().to(device)
