"""What a user writes, for ``mypy --strict``; never run. An ignored error that mypy does not find is an error itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

import s3diff


def one(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> tuple[float, float]:
    options = s3diff.RestoreOptions(scale=2, noise="+0.1")
    restored: s3diff.Restored = s3diff.restore(path, model="compact", scale=2, tile=512)
    restorer = s3diff.Restorer.from_pretrained("compact", device="cpu", precision="float32").to("cpu")
    again = restorer.restore(pixels, options, guidance=1.0, on_stage=lambda name, tensor: tensor)
    notes: tuple[str, ...] = again.save(path.with_suffix(".png"))
    degrees: s3diff.Degrees = restorer.estimate(path)
    print(restored.array.shape, notes, degrees.blur)
    return again.degrees


def tensors(images: torch.Tensor) -> torch.Tensor:
    restorer = s3diff.Restorer.from_pretrained()
    made: s3diff.RestoredTensors = restorer.restore_tensor(images, differentiable=True, lora_scale=0.5)
    return made.images


def batch(paths: Iterable[Path]) -> list[str]:
    restorer = s3diff.Restorer.from_pretrained()
    raised: list[s3diff.Restored] = restorer.restore_batch(paths, scale=2)
    returned = restorer.restore_batch(paths, on_error="return")
    return [str(each) if isinstance(each, s3diff.S3DiffError) else str(each.size) for each in [*raised, *returned]]


def misspelt(path: Path) -> None:
    s3diff.restore(path, scal=2)  # type: ignore[call-arg]
    s3diff.restore(path, color_match="wavelets")  # type: ignore[arg-type]
    s3diff.Restorer.from_pretrained().restore(path, strenght=1.0)  # type: ignore[call-arg]
    s3diff.Restorer.from_pretrained().restore(5)  # type: ignore[arg-type]
