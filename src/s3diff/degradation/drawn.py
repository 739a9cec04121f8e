"""Hold every random number of a batch of degradations, one entry for each image."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from s3diff.degradation.kernels import PADDED_SIDE_PX, KernelParameters
from s3diff.degradation.settings import DegradationSettings
from s3diff.errors import OptionError

#: Kinds of noise by the number that stands for them in a draw.
NOISE_KINDS = ("none", "gaussian", "poisson")
GAUSSIAN, POISSON = 1, 2

#: No picture between the steps gets smaller than this: the largest kernel mirrors 10 px beyond each edge.
MIN_SIDE_PX = PADDED_SIDE_PX // 2 + 1


@dataclass(frozen=True)
class StageDraw:
    """Hold one blur, resize, noise and JPEG for each image of a batch; all tensors on the CPU.

    Attributes:
        blur: the kernels; family ``pulse`` where there is no blur.
        size_px: [B, 2] int64, height and width after the resize.
        resize_mode: [B] int64, index into ``RESIZE_MODES``.
        noise_kind: [B] int64, index into ``NOISE_KINDS``.
        noise_strength: [B] float64: standard deviation of Gaussian noise on 0 to 255, or the factor on Poisson noise.
        noise_is_grey: [B] bool.
        jpeg_quality: [B] float64, 1 to 100; 0 for no JPEG.
    """

    blur: KernelParameters
    size_px: Tensor
    resize_mode: Tensor
    noise_kind: Tensor
    noise_strength: Tensor
    noise_is_grey: Tensor
    jpeg_quality: Tensor

    def rows(self, start: int, stop: int) -> StageDraw:
        """Return the draws of the images from ``start`` up to, not including, ``stop``."""
        tensors = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "blur"}
        sliced = {name: values[start:stop] for name, values in tensors.items()}
        return StageDraw(blur=self.blur.rows(start, stop), **sliced)


@dataclass(frozen=True)
class DegradationDraw:
    """Hold every random number of one batch.

    Attributes:
        settings: the ranges that the numbers were drawn from.
        ground_truth_size_px: height and width of the ground truth.
        low_quality_size_px: height and width of the result.
        stages: the first and the second stage. The second one's JPEG comes after or before the final sinc.
        final_mode: [B] int64, index into ``RESIZE_MODES``: the resize to the result's size.
        final_sinc: the last filter; family ``pulse`` where there is none.
        jpeg_is_last: [B] bool: resize and sinc then JPEG, or JPEG then resize and sinc.
        noise_seeds: [B] int64, at least 0: seed of the noise of every pixel; each stage adds its number, 0 or 1.
        shared_noise_seed: the same for grey Gaussian noise, which all images share with ``like_release``.
    """

    settings: DegradationSettings
    ground_truth_size_px: tuple[int, int]
    low_quality_size_px: tuple[int, int]
    stages: tuple[StageDraw, StageDraw]
    final_mode: Tensor
    final_sinc: KernelParameters
    jpeg_is_last: Tensor
    noise_seeds: Tensor
    shared_noise_seed: int

    @property
    def batch_size(self) -> int:
        return len(self.jpeg_is_last)

    def without_noise(self) -> DegradationDraw:
        """Return the draw without noise in either stage; blur, sizes and JPEG stay."""
        stages = [replace(stage, noise_kind=torch.zeros_like(stage.noise_kind)) for stage in self.stages]
        return replace(self, stages=(stages[0], stages[1]))

    def rows(self, start: int, stop: int) -> DegradationDraw:
        """Return the draw of the images from ``start`` up to, not including, ``stop``.

        ``apply(ground_truth[start:stop], drawn.rows(start, stop))`` equals ``apply(ground_truth, drawn)[start:stop]``
        to the bit: of several processes each draws for the whole batch and applies its own rows.

        Raises:
            OptionError: there are no such images.
        """
        if not 0 <= start < stop <= self.batch_size:
            raise OptionError(f"rows {start} to {stop} of a draw for {self.batch_size} images; give 0 <= start < stop")
        first, second = self.stages
        return replace(
            self,
            stages=(first.rows(start, stop), second.rows(start, stop)),
            final_mode=self.final_mode[start:stop],
            final_sinc=self.final_sinc.rows(start, stop),
            jpeg_is_last=self.jpeg_is_last[start:stop],
            noise_seeds=self.noise_seeds[start:stop],
        )
