"""Keep texture of a video from shimmering: blend each frame with the result before it.

The network draws the same texture a little differently in every frame: sampling, noise and compression of the input
differ. So the motion between two frames of the input is found, the result before is moved along it, and blended with
the new one where the moved input agrees with the new input. Where it does not (something new is seen, the motion was
not found), the new result stays as it is: nothing leaves a trail.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s3diff.images.resampling import crop_middle

#: Difference of the moved input and the new one, over a few pixels, at which a third of the share is left, in [0, 1];
#: and what is added to it for each unit of slope: where there is texture, a pixel's samples differ by a part of it.
_TOLERANCE, _TOLERANCE_OF_SLOPE = 0.03, 0.35
#: Levels of the pyramid, steps at each level, and the radius of the window of one motion, in pixels.
_LEVELS, _STEPS, _WINDOW_PX = 4, 6, 2
#: Smallest side of a level, in pixels, and most pixels that one step moves.
_SMALLEST_PX, _STEP_PX = 16, 1.0
#: Keeps the motion of a flat window at 0.
_FLAT = 1e-4


class Steady:
    """Blend each frame with the result before it.

    Args:
        share: of the result before where both inputs agree, in [0, 1).
        device: computes; the CPU in place of Apple's, for which many versions of torch have no bicubic sampling.
        uncut: (width, height) of a result of the whole input where results are only its middle part.
    """

    def __init__(self, share: float, device: torch.device, uncut: tuple[int, int] | None = None) -> None:
        self._share, self._uncut = share, uncut
        self._device = torch.device("cpu") if device.type == "mps" else device
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    def forget(self) -> None:
        """Begin a new scene."""
        self._before = None

    def go_on(self, given: np.ndarray, result: np.ndarray) -> None:
        """Take a frame, [h, w, 3], and its steadied result, [H, W, 3], as those before the next."""
        self._before = (given, result)

    @torch.inference_mode()
    def steadied(self, given: np.ndarray, result: np.ndarray) -> np.ndarray:
        """Merge a frame's result with the one before.

        Args:
            given: [h, w, 3] uint8 or uint16, the input's frame.
            result: [H, W, 3] of the same kind, restored.
        """
        if self._share and self._before is not None:
            new, old = (self._tensor(each) for each in (given, self._before[0]))
            motion = find_motion(new.mean(dim=1, keepdim=True), old.mean(dim=1, keepdim=True))
            share = self._share * agreement(new, old, motion)
            height, width = result.shape[:2]
            whole_width, whole_height = self._uncut or (width, height)
            motion = _enlarged(motion, whole_height, whole_width) * _ratio(motion, whole_height, whole_width)
            along = crop_middle(motion, height, width)
            share = crop_middle(_enlarged(share, whole_height, whole_width), height, width) * _is_inside(along)
            moved, fresh = move(self._tensor(self._before[1]), along), self._tensor(result)
            blended = torch.lerp(fresh, moved, share).clamp(0, 1)[0].permute(1, 2, 0)
            full = np.iinfo(result.dtype).max
            result = (blended * full).round().cpu().numpy().astype(result.dtype)
        self.go_on(given, result)
        return result

    def _tensor(self, pixels: np.ndarray) -> Tensor:
        colors = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
        return torch.from_numpy(colors).permute(2, 0, 1)[None].to(self._device)


def find_motion(new: Tensor, old: Tensor) -> Tensor:
    """Find where each pixel of a frame was in the frame before: Lucas and Kanade's method, from coarse to fine.

    Written here, as OpenCV's wheel, which has better ones, is twice as large as all that videos need else.

    Args:
        new: [1, 1, h, w] in [0, 1].
        old: the frame before.

    Returns:
        [1, 2, h, w], columns and rows, in pixels: ``move(old, motion)`` resembles ``new``.
    """
    levels = [(new, old)]
    while len(levels) < _LEVELS and min(levels[-1][0].shape[-2:]) >= 2 * _SMALLEST_PX:
        levels.append(tuple(F.avg_pool2d(each, 2, ceil_mode=True) for each in levels[-1]))  # type: ignore[arg-type]
    motion = torch.zeros_like(levels[-1][0]).expand(-1, 2, -1, -1)
    for new, old in reversed(levels):
        height, width = new.shape[-2:]
        motion = _enlarged(motion, height, width) * _ratio(motion, height, width)
        across, down = _slopes(new)
        xx, xy, yy = _mean(across**2) + _FLAT, _mean(across * down), _mean(down**2) + _FLAT
        determinant = xx * yy - xy**2
        for _ in range(_STEPS):
            difference = new - move(old, motion)
            x, y = _mean(across * difference), _mean(down * difference)
            step = torch.cat([yy * x - xy * y, xx * y - xy * x], dim=1) / determinant
            motion = _mean(motion + step.clamp(-_STEP_PX, _STEP_PX), 1)
    return motion


def agreement(new: Tensor, old: Tensor, motion: Tensor) -> Tensor:
    """Measure how well the moved old frame agrees with the new one, [1, 1, h, w] in [0, 1]; 0 for pixels from outside.

    Args:
        new: [1, 3, h, w] in [0, 1].
        old: the frame before.
        motion: from :func:`find_motion`.
    """
    difference = _mean((move(old, motion) - new).abs().mean(dim=1, keepdim=True), 1)
    across, down = _slopes(new.mean(dim=1, keepdim=True))
    tolerance = _TOLERANCE + _TOLERANCE_OF_SLOPE * _mean(across.abs() + down.abs(), 1)
    return torch.exp(-((difference / tolerance) ** 2)) * _is_inside(motion)


def move(image: Tensor, motion: Tensor) -> Tensor:
    """Move an image, [1, C, H, W], along a motion, [1, 2, H, W] in pixels."""
    height, width = image.shape[-2:]
    size = torch.tensor([width, height], device=image.device).view(1, 2, 1, 1)
    grid = ((_places(motion) + 0.5) * 2 / size - 1).permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _places(motion: Tensor) -> Tensor:
    rows, columns = (torch.arange(side, device=motion.device) for side in motion.shape[-2:])
    return motion + torch.stack(torch.meshgrid(columns, rows, indexing="xy"))[None]


def _is_inside(motion: Tensor) -> Tensor:
    """Check, [1, 1, H, W], whether a place is moved from within the image."""
    height, width = motion.shape[-2:]
    places, limits = _places(motion), torch.tensor([width - 1, height - 1], device=motion.device).view(1, 2, 1, 1)
    return ((places >= -0.5) & (places <= limits + 0.5)).all(dim=1, keepdim=True)


def _ratio(image: Tensor, height: int, width: int) -> Tensor:
    return torch.tensor([width / image.shape[-1], height / image.shape[-2]], device=image.device).view(1, 2, 1, 1)


def _enlarged(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)


def _slopes(image: Tensor) -> tuple[Tensor, Tensor]:
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    return across, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2


def _mean(image: Tensor, radius: int = _WINDOW_PX) -> Tensor:
    """Average a window around every pixel."""
    return F.avg_pool2d(F.pad(image, (radius,) * 4, mode="replicate"), 2 * radius + 1, stride=1)
