"""Ground-truth crops from a folder of pictures."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from s3diff.errors import PictureError
from s3diff.images.codecs import list_pictures, read_picture

_LOGGER = logging.getLogger(__name__)

#: How often a crop is drawn until it has enough detail.
_MAX_DRAWS = 4


class CropSampler:
    """Random crops and horizontal flips from pictures that are held decoded in memory.

    Args:
        folder: pictures of any format that ``restore`` reads, in any depth of folders.
        crop_px: side of the square crops. Smaller pictures are skipped and named in the log.
        min_detail: see :class:`s3diff.training.config.DataConfig`.
        held_out: names of pictures that are left out.

    Raises:
        PictureError: no picture of the folder can be used.
    """

    def __init__(self, folder: Path, crop_px: int, min_detail: float = 0.0, held_out: tuple[str, ...] = ()) -> None:
        self.crop_px = crop_px
        self.min_detail = min_detail
        self.images: list[Tensor] = []
        skipped = 0
        for path in list_pictures(folder, recursive=True):
            if path.name in held_out:
                continue
            try:
                picture = read_picture(path)
            except PictureError as error:
                _LOGGER.warning("skipped: %s", error)
                skipped += 1
                continue
            height, width = picture.pixels.shape[:2]
            if min(height, width) < crop_px or picture.pixels.dtype != "uint8":
                _LOGGER.warning("skipped %s: %d x %d px, needs 8 bits and sides of %d", path, width, height, crop_px)
                skipped += 1
                continue
            self.images.append(torch.from_numpy(picture.pixels).permute(2, 0, 1).expand(3, -1, -1).contiguous())
        if not self.images:
            raise PictureError(
                f"{folder} holds no picture to train on ({skipped} skipped); give a folder of pictures with sides of "
                f"at least {crop_px} px"
            )
        _LOGGER.info("%d pictures to train on, %d skipped", len(self.images), skipped)

    def draw(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """[batch_size, 3, crop_px, crop_px] float32, RGB in [0, 1]; pictures are chosen with even chances."""
        return torch.stack([self._draw_one(generator) for _ in range(batch_size)]).float() / 255.0

    def _draw_one(self, generator: torch.Generator) -> Tensor:
        for _ in range(_MAX_DRAWS):
            crop = self._crop(generator)
            if _mean_gradient(crop) >= self.min_detail:
                break
        return crop.flip(-1) if _draw_index(2, generator) else crop

    def _crop(self, generator: torch.Generator) -> Tensor:
        image = self.images[_draw_index(len(self.images), generator)]
        top = _draw_index(image.shape[1] - self.crop_px + 1, generator)
        left = _draw_index(image.shape[2] - self.crop_px + 1, generator)
        return image[:, top : top + self.crop_px, left : left + self.crop_px]


def _draw_index(num: int, generator: torch.Generator) -> int:
    return int(torch.randint(num, (), generator=generator))


def _mean_gradient(crop: Tensor) -> float:
    luma = crop.float().mean(0)
    return float((luma.diff(dim=0).abs().mean() + luma.diff(dim=1).abs().mean()) / 2)
