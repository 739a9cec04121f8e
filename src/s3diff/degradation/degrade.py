"""Degrade ground truths in one call, as training does: for a data set or a DataLoader of one's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from s3diff.degradation.application import apply
from s3diff.degradation.settings import PRESETS, DegradationSettings
from s3diff.degradation.synthesis import draw
from s3diff.errors import OptionError


@dataclass(frozen=True)
class Degrade:
    """Degrade images with given ranges; can be pickled for workers of a DataLoader.

    Attributes:
        preset: a name of ``s3diff degrade --preset``, or settings of one's own.
        scale: ground truth side over low-quality side.

    Raises:
        OptionError: there is no such preset, or the scale is no whole number of at least 1.
    """

    preset: str | DegradationSettings = "s3diff"
    scale: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.preset, DegradationSettings) and self.preset not in PRESETS:
            raise OptionError(f"preset is {self.preset!r}; give one of {', '.join(PRESETS)}, or DegradationSettings")
        if not isinstance(self.scale, int) or self.scale < 1:
            raise OptionError(f"scale is {self.scale!r}; give a whole number of at least 1")

    def __call__(self, ground_truth: Tensor, *, seed: int) -> Tensor:
        """Degrade one picture or a batch, each picture in its own way; the same seed gives the same result.

        Args:
            ground_truth: [3, H, W] or [B, 3, H, W] RGB, uint8 or float in [0, 1]; sides are multiples of the scale.
            seed: of every random number.

        Returns:
            [3, H / scale, W / scale] or [B, ...] float32 in [0, 1], rounded to multiples of 1/255.

        Raises:
            OptionError: another shape or type, or sides that do not fit the scale.
        """
        batch = ground_truth[None] if ground_truth.ndim == 3 else ground_truth
        is_known = batch.dtype == torch.uint8 or batch.is_floating_point()
        if batch.ndim != 4 or batch.shape[1] != 3 or not is_known:
            given = f"{list(ground_truth.shape)} {ground_truth.dtype}"
            raise OptionError(f"the ground truth is {given}; give [3, H, W] or [B, 3, H, W] of uint8 or floats")
        if batch.dtype == torch.uint8:
            batch = batch.to(torch.float32) / 255
        settings = self.preset if isinstance(self.preset, DegradationSettings) else PRESETS[self.preset]
        generator = torch.Generator().manual_seed(seed)
        height, width = batch.shape[2:]
        drawn = draw(settings, len(batch), height, width, self.scale, generator)
        low_quality = apply(batch, drawn)
        return low_quality[0] if ground_truth.ndim == 3 else low_quality
