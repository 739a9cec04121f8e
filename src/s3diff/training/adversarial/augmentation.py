"""Augment a discriminator's images differentiably: colour, translation, cutout (DiffAugment, arXiv 2006.10738).

Real and generated images go through the same kinds of change, and the gradient flows through them to the generator, so
the discriminator cannot learn a small data set by heart and the generator does not learn the changes. Every random
number is drawn first, per image and on the CPU (:func:`draw_augmentation`), then applied on the images' device
(:func:`augment`): a draw for the batch of all processes can be cut into their rows, and a resumed run repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from s3diff.errors import OptionError

#: Available augmentations, in the order in which they are applied.
AUGMENTATIONS = ("color", "translation", "cutout")

#: Brightness is shifted by up to half of a range of 1, whatever the images' own range: the released training applies
#: the paper's numbers to images in [-1, 1].
BRIGHTNESS_RANGE = (-0.5, 0.5)
SATURATION_RANGE = (0.0, 2.0)
CONTRAST_RANGE = (0.5, 1.5)
#: Largest translation and side of the cut-out box, as parts of the image's side.
TRANSLATION_PART = 0.125
CUTOUT_PART = 0.5


@dataclass(frozen=True, kw_only=True)
class AugmentationDraw:
    """Hold the random numbers of one batch, one row per image, on the CPU.

    Attributes:
        brightness: [B] added to every value.
        saturation: [B] factor on the distance from the pixel's mean over its channels.
        contrast: [B] factor on the distance from the image's mean.
        shift_px: [B, 2] int64, pixels down and right by which the content moves; uncovered pixels are 0 (mid grey).
        cutout_px: [B, 4] int64, box set to 0: top, bottom, left, right, the ends excluded; may reach beyond the edges.
    """

    brightness: Tensor
    saturation: Tensor
    contrast: Tensor
    shift_px: Tensor
    cutout_px: Tensor

    def __len__(self) -> int:
        return len(self.brightness)

    def rows(self, start: int, stop: int) -> AugmentationDraw:
        """Take the images ``start`` to ``stop`` (excluded), for one process or one slice of the batch."""
        return AugmentationDraw(**{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})


def neutral_draw(batch_size: int) -> AugmentationDraw:
    """Make a draw that changes nothing: :func:`augment` returns the images' values bit for bit."""
    return AugmentationDraw(
        brightness=torch.zeros(batch_size),
        saturation=torch.ones(batch_size),
        contrast=torch.ones(batch_size),
        shift_px=torch.zeros(batch_size, 2, dtype=torch.int64),
        cutout_px=torch.zeros(batch_size, 4, dtype=torch.int64),
    )


def draw_augmentation(
    batch_size: int,
    height: int,
    width: int,
    generator: torch.Generator,
    names: Sequence[str] = AUGMENTATIONS,
) -> AugmentationDraw:
    """Draw the random numbers for a batch of images of ``height`` x ``width`` pixels.

    Args:
        height: of the images that will be augmented, in pixels.
        generator: on the CPU; its state afterwards depends on ``names``, ``batch_size``, ``height`` and ``width`` only.
        names: which kinds; the others stay neutral and draw nothing.

    Raises:
        OptionError: an unknown name.
    """
    check_augmentations(names)
    drawn = {field.name: getattr(neutral_draw(batch_size), field.name) for field in fields(AugmentationDraw)}
    if "color" in names:
        for name, (low, high) in (
            ("brightness", BRIGHTNESS_RANGE),
            ("saturation", SATURATION_RANGE),
            ("contrast", CONTRAST_RANGE),
        ):
            drawn[name] = torch.rand(batch_size, generator=generator) * (high - low) + low
    if "translation" in names:
        shifts = []
        for side_px in (height, width):
            most_px = _part(side_px, TRANSLATION_PART)
            shifts.append(torch.randint(-most_px, most_px + 1, (batch_size,), generator=generator))
        drawn["shift_px"] = torch.stack(shifts, dim=1)
    if "cutout" in names:
        edges = []
        for side_px in (height, width):
            box_px = _part(side_px, CUTOUT_PART)
            # The centre may lie on any pixel; an even box has its centre between pixels, hence one place more.
            centre = torch.randint(0, side_px + 1 - box_px % 2, (batch_size,), generator=generator)
            first = centre - box_px // 2
            edges += [first, first + box_px]
        drawn["cutout_px"] = torch.stack(edges, dim=1)
    return AugmentationDraw(**drawn)


def augment(images: Tensor, draw: AugmentationDraw) -> Tensor:
    """Change each image by its own row of the draw; differentiable in the images.

    Args:
        images: [B, 3, H, W] float in [-1, 1], on any device.
        draw: of B rows, drawn for this height and width.

    Returns:
        [B, 3, H, W], no longer bounded by [-1, 1], as in the paper.

    Raises:
        OptionError: the draw is for another number of images.
    """
    if len(draw) != len(images):
        raise OptionError(f"the augmentation was drawn for {len(draw)} images, the batch has {len(images)}; draw anew")
    images = _recoloured(images, draw)
    images = _translated(images, draw.shift_px)
    return _with_cutout(images, draw.cutout_px.to(images.device))


def check_augmentations(names: Sequence[str]) -> None:
    """Refuse a name that is no augmentation, by OptionError."""
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise OptionError(f"augmentation {unknown[0]!r} does not exist; give some of {', '.join(AUGMENTATIONS)}")


def _recoloured(images: Tensor, draw: AugmentationDraw) -> Tensor:
    brightness, saturation, contrast = (
        amounts.to(images)[:, None, None, None] for amounts in (draw.brightness, draw.saturation, draw.contrast)
    )
    images = images + brightness
    # Written as a weighted sum, a factor of 1 leaves every bit as it is.
    images = images * saturation + images.mean(dim=1, keepdim=True) * (1 - saturation)
    return images * contrast + images.mean(dim=(1, 2, 3), keepdim=True) * (1 - contrast)


def _translated(images: Tensor, shift_px: Tensor) -> Tensor:
    """Translate images: zeros come in on one side, as many pixels are cut off (negative padding) on the other.

    Image by image: a copy each, where gathering all at once takes 14 times as long (8 x 3 x 512 x 512, one CPU core).
    """
    pairs = zip(images, shift_px.tolist(), strict=True)
    return torch.stack([F.pad(image, (right, -right, down, -down)) for image, (down, right) in pairs])


def _with_cutout(images: Tensor, cutout_px: Tensor) -> Tensor:
    top, bottom, left, right = cutout_px.T[:, :, None]  # [B, 1] each
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    keep = ~(in_rows[:, :, None] & in_columns[:, None, :])
    return images * keep[:, None]


def _part(side_px: int, part: float) -> int:
    """Return a part of a side, rounded half up."""
    return int(side_px * part + 0.5)
