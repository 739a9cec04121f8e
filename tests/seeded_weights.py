"""The goldens' three large weight files, rebuilt bit for bit from their seeds and a small record of rounding.

The golden weights are Gaussian draws of a seeded generator, which no compressor shrinks: 19 MB. But the draws can be
computed again: the Mersenne Twister's numbers are the same everywhere, the logarithms and cosines that turn them into
Gaussian numbers differ in the last bits. Those bits are what ``goldens/*.weights.xz`` records, 3 MB in all, with a
SHA-256 over the tensors. Written by ``python tests/seeded_weights.py ../shared/goldens``.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

#: Gaussian numbers are made in blocks: 8 radii, then 8 angles.
_BLOCK = 16


class GaussianStream:
    """The draws of ``torch.randn(shape, generator=torch.Generator().manual_seed(seed))``, in float64."""

    def __init__(self, seed: int) -> None:
        self.twister = np.random.RandomState(seed)
        self.left_over: float | None = None

    def draw(self, count: int) -> np.ndarray:
        if count < _BLOCK:
            return np.array([self._draw_one() for _ in range(count)])
        values = self._blocks(self._uniform(count)[: count // _BLOCK * _BLOCK])
        if count % _BLOCK:
            # The last block is drawn anew and covers the end of the one before.
            values = np.concatenate([values, np.zeros(count % _BLOCK)])
            values[-_BLOCK:] = self._blocks(self._uniform(_BLOCK))
        return values

    def _words(self, count: int) -> np.ndarray:
        return self.twister.randint(0, 2**32, count, dtype=np.uint32)

    def _uniform(self, count: int) -> np.ndarray:
        return (self._words(count) & 0xFFFFFF).astype(np.float64) / 2**24

    def _uniform_double(self) -> float:
        high, low = (int(word) for word in self._words(2))
        return ((high << 32 | low) & (2**53 - 1)) / 2**53

    def _draw_one(self) -> float:
        """Few numbers at a time are drawn in pairs of double precision; the second waits for the next draw."""
        if self.left_over is not None:
            value, self.left_over = self.left_over, None
            return value
        angle, radius = 2 * math.pi * self._uniform_double(), math.sqrt(-2 * math.log1p(-self._uniform_double()))
        self.left_over = radius * math.sin(angle)
        return radius * math.cos(angle)

    @staticmethod
    def _blocks(uniform: np.ndarray) -> np.ndarray:
        halves = uniform.reshape(-1, 2, _BLOCK // 2)
        radius, angle = np.sqrt(-2 * np.log(1 - halves[:, 0])), 2 * math.pi * halves[:, 1]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


def pack(tensors: dict[str, Tensor], seed: int) -> bytes:
    """``tensors``: float32, in the order of their draws, each ``mean + std * draw``."""
    stream = GaussianStream(seed)
    header: dict[str, Any] = {"seed": seed, "sha256": _digest(tensors), "tensors": [], "exact": {}}
    corrections = []
    for name, tensor in tensors.items():
        exact, draws = tensor.flatten().double().numpy(), stream.draw(tensor.numel())
        mean = 1.0 if name.endswith("weight") and tensor.dim() == 1 else 0.0
        std = float(np.float32(np.median((exact - mean) / draws)))
        predicted = _predict(draws, mean, std)
        corrections.append(tensor.flatten().numpy().view(np.int32) - predicted.view(np.int32))
        header["tensors"].append([name, list(tensor.shape), mean, std])
        bits = tensor.flatten().numpy().view(np.int32)
        header["exact"][name] = {int(index): int(bits[index]) for index in _near_ties(draws)}
    planes = np.concatenate(corrections).astype("<i4").view(np.uint8).reshape(-1, 4).T
    text = json.dumps(header).encode()
    return lzma.compress(len(text).to_bytes(8, "little") + text + planes.tobytes(), preset=9 | lzma.PRESET_EXTREME)


def unpack(path: Path) -> dict[str, Tensor]:
    """The tensors by name, in the order of their draws; bit for bit the original ones, or an error."""
    content = lzma.decompress(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    planes = np.frombuffer(content[end:], dtype=np.uint8).reshape(4, -1)
    corrections = np.ascontiguousarray(planes.T).view("<i4")[:, 0].astype(np.int32)
    stream, tensors, start = GaussianStream(header["seed"]), {}, 0
    for name, shape, mean, std in header["tensors"]:
        count = math.prod(shape)
        predicted = _predict(stream.draw(count), mean, std)
        bits = predicted.view(np.int32) + corrections[start : start + count]
        for index, exact in header["exact"][name].items():
            bits[int(index)] = exact
        tensors[name] = torch.from_numpy(bits.view(np.float32).copy()).reshape(shape)
        start += count
    if _digest(tensors) != header["sha256"]:
        raise ValueError(f"{path} could not be rebuilt bit for bit on this machine; use the files in ../shared/goldens")
    return tensors


def _predict(draws: np.ndarray, mean: float, std: float) -> np.ndarray:
    return (draws.astype(np.float32) * np.float32(std) + np.float32(mean)).astype(np.float32)


def _near_ties(draws: np.ndarray) -> np.ndarray:
    """Where another mathematics library's last bit could round a draw to another float32: stored as they are."""
    rounded = draws.astype(np.float32)
    in_steps = np.abs(draws - rounded) / np.spacing(np.abs(rounded)).astype(np.float64)
    return np.flatnonzero(np.abs(in_steps - 0.5) < 2.0**-18)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _pack_goldens(source: Path, target: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(source / "sd_tiny" / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(source / "sd_tiny" / "vae"))
    estimator = torch.load(source / "de_net.pth", weights_only=True)
    (target / "de_net.weights.xz").write_bytes(pack(dict(estimator), 20240924))
    for folder, network, seed in (("unet", unet, 20240920), ("vae", vae, 20240919)):
        stored = load_file(source / "sd_tiny" / folder / "diffusion_pytorch_model.safetensors")
        in_order = {name: stored[name] for name in network.state_dict()}
        (target / f"sd_tiny_{folder}.weights.xz").write_bytes(pack(in_order, seed))


if __name__ == "__main__":
    _pack_goldens(Path(sys.argv[1]), Path(__file__).resolve().parent / "goldens")
