"""Restore known pictures, degraded once, during training and compare them with the truth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from s3diff.checkpoints.model_folder import LoadedModel
from s3diff.degradation.application import MIN_SIDE_PX, apply
from s3diff.degradation.synthesis import draw
from s3diff.errors import MissingExtraError, PictureError
from s3diff.evaluation.perceptual import LPIPS
from s3diff.evaluation.psnr_ssim import psnr_y
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, from_array, to_tensor
from s3diff.images.resampling import enlarge
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import Restorer
from s3diff.training.config import ValidationConfig
from s3diff.training.data.sources import PictureSource, is_named
from s3diff.training.phases import degradation_settings

_LOGGER = logging.getLogger(__name__)

#: Folder of the picture grids inside a run's folder.
FOLDER = "validation"
_GAP_PX = 4


@dataclass(frozen=True)
class _Case:
    name: str
    low_quality: Picture
    truth: Tensor


class Validation:
    """Hold the cases of a run, and score a model on them.

    Args:
        config: how many, how large, how degraded.
        scale: ground-truth side over low-quality side.
        source: ground-truth pictures.
        numbers: which of them, in order.
        output: folder of the run; grids go into its ``validation`` folder.

    Raises:
        PictureError: no picture of the source is large enough.
    """

    def __init__(
        self, config: ValidationConfig, scale: int, source: PictureSource, numbers: Sequence[int], output: Path
    ) -> None:
        self.output = output / FOLDER
        self._cases = _make_cases(config, scale, source, numbers)
        self._scale = scale
        try:
            self._lpips: LPIPS | None = LPIPS("alex")
        except MissingExtraError as error:
            _LOGGER.warning("validation without LPIPS: %s", error)
            self._lpips = None

    @torch.no_grad()
    def score(self, model: LoadedModel, device: torch.device) -> tuple[dict[str, float], Tensor]:
        """Score a model: mean figures, and a picture [3, H, W] in [0, 1]: a row for each case, input, output, truth."""
        restorer = Restorer(model, device=device, precision="float32", exclusive=True)
        options = RestoreOptions(scale=self._scale)
        results = [to_tensor(restorer.restore(case.low_quality, options).picture) for case in self._cases]
        rows, figures = [], {"psnr_y": 0.0} | ({"lpips_alex": 0.0} if self._lpips else {})
        for case, result in zip(self._cases, results, strict=True):
            figures["psnr_y"] += float(psnr_y(result, case.truth))
            if self._lpips is not None:
                figures["lpips_alex"] += float(self._lpips(2 * result - 1, 2 * case.truth - 1))
            enlarged = enlarge(to_tensor(case.low_quality), case.truth.shape[2], case.truth.shape[3], mode="bicubic")
            rows.append(_side_by_side([enlarged[0], result[0], case.truth[0]], dim=2))
        means = {f"validation/{name}": value / len(results) for name, value in figures.items()}
        return means, _side_by_side(rows, dim=1)

    def write_grid(self, grid: Tensor, step: int) -> Path:
        """Write a picture of :meth:`score` as ``validation/step-NNNNNNNN.png``."""
        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / f"step-{step:08d}.png"
        levels = (grid * 255).round().clamp(0, 255).to(torch.uint8)
        write_picture(from_array(levels.permute(1, 2, 0).contiguous().numpy()), path)
        return path


def named_pictures(source: PictureSource, names: tuple[str, ...]) -> list[int]:
    """Find the numbers of the pictures with these file names or paths; of all pictures where no name is given."""
    return [index for index in range(len(source)) if not names or is_named(source.own_name(index), names)]


def _make_cases(config: ValidationConfig, scale: int, source: PictureSource, numbers: Sequence[int]) -> list[_Case]:
    settings = degradation_settings(config.degradation)
    truths: list[tuple[str, Tensor]] = []
    for index in numbers:
        if len(truths) == config.num_pictures:
            break
        try:
            pixels = torch.from_numpy(source.read(index))
        except PictureError as error:
            _LOGGER.warning("not validated: %s", error)
            continue
        if min(pixels.shape[:2]) < MIN_SIDE_PX * scale:
            _LOGGER.warning("not validated: %s is too small", source.name(index))
            continue
        truths.append((source.name(index), pixels))
    if not truths:
        raise PictureError(f"there is no picture of at least {MIN_SIDE_PX * scale} px to validate on; give others")
    # One size for all, so that the grid has straight columns.
    side = min(config.crop_px, *(size for _, pixels in truths for size in pixels.shape[:2])) // scale * scale
    cases = []
    for number, (name, pixels) in enumerate(truths):
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        square = pixels[top : top + side, left : left + side].permute(2, 0, 1)
        truth = square[None].float() / 255.0
        generator = torch.Generator().manual_seed(config.seed + number)
        low_quality = apply(truth, draw(settings, 1, side, side, scale, generator))[0]
        levels = (low_quality * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        cases.append(_Case(name, from_array(levels.numpy()), truth))
    return cases


def _side_by_side(images: Sequence[Tensor], dim: int) -> Tensor:
    shape = list(images[0].shape)
    shape[dim] = _GAP_PX
    gap = torch.ones(shape)
    return torch.cat([part for image in images for part in (image, gap)][:-1], dim=dim)
