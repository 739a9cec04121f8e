"""Train the estimator of ``compact`` on known blur, noise and JPEG, so that texture is not taken for noise.

    python benchmarks/compact_estimator.py ../shared/data/train/photos ../shared/data/train/more --run runs/estimator

The degrees are defined, not ranked: blur is 1 - exp(-sigma / 0.8 px) of the Gaussian's sigma in low-quality pixels, so
that the weak blur of most pictures has room; noise is 1 - (1 - sigma / 25 levels) (1 - damage by JPEG). The network is
the method's (MM-RealSR, arXiv 2205.05065).
The result is ``RUN/estimator.safetensors``; a run that was stopped goes on from ``RUN/state.pt``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from compact_student import FULL_NOISE_LEVELS, blur_degree, compressed, jpeg_damage
from drawn_crops import drawn_crop
from gaussian import blurred
from PIL import Image
from safetensors.torch import load_file, save_file
from teacher import fast_format
from teacher_shards import find_photographs, pixels_of
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from s3diff.networks.degradation_estimator import DEGREE_NAMES, DegradationEstimator
from s3diff.training.recipes import compact_generator

CROP_PX = 64
#: Cut after JPEG, so that its blocks begin anywhere.
_MARGIN_PX = 8
_DRAWN_SHARE, _GREY_SHARE, _SHARPENED_SHARE = 0.15, 0.06, 0.12
#: Pictures without noise and JPEG, beyond those that chance gives: fine texture is told from noise by them.
_CLEAN_SHARE = 0.35
#: Their noise counts so many times: calling texture noise costs a picture more than leaving some grain.
_CLEAN_WEIGHT = 4.0
#: Photographs have noise, JPEG and blur of their own until they are reduced.
_FACTORS = (2, 3, 4, 4)
_FINE_BLUR_PX = 1.2
_FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)


def crop_of(rng: np.random.Generator, paths: Sequence[Path], fonts: Sequence[Path], blur_px: float) -> np.ndarray:
    """Cut a window, blur it and reduce it: [72, 72, 3] uint8.

    Blur below ``_FINE_BLUR_PX`` comes before the reduction, as in a camera; more of it costs less after it.
    """
    side_px = CROP_PX + _MARGIN_PX
    is_drawn = rng.random() < _DRAWN_SHARE
    factor = int(rng.choice(_FACTORS))
    if is_drawn:
        window = drawn_crop(rng, factor * side_px, fonts)
    else:
        pixels = pixels_of(paths[rng.integers(len(paths))])
        height, width = pixels.shape[:2]
        window_px = min(side_px * factor, height, width)
        best: tuple[float, np.ndarray] | None = None
        for _ in range(5 if rng.random() < 0.8 else 1):
            top, left = rng.integers(0, height - window_px + 1), rng.integers(0, width - window_px + 1)
            cut = pixels[top : top + window_px, left : left + window_px]
            detail = float(np.abs(np.diff(cut[::2, ::2, 1].astype(np.int16))).mean())
            if best is None or detail > best[0]:
                best = detail, cut
        assert best is not None
        window = best[1]
    if 0 < blur_px < _FINE_BLUR_PX:
        image = torch.from_numpy(window.copy()).permute(2, 0, 1)[None].float()
        window = blurred(image, factor * blur_px)[0].round().to(torch.uint8).permute(1, 2, 0).numpy()
    crop = Image.fromarray(window).resize((side_px, side_px), _FILTERS[rng.integers(len(_FILTERS))])
    return np.asarray(crop.convert("L").convert("RGB") if rng.random() < _GREY_SHARE else crop)


def example(
    rng: np.random.Generator, paths: Sequence[Path], fonts: Sequence[Path]
) -> tuple[Tensor, tuple[float, float]]:
    """Degrade a crop: [3, 64, 64] in [0, 1], and its degrees of blur and noise."""
    choice = rng.random()
    blur_px = 0.0 if choice < 0.25 else float(rng.uniform(*((0.05, 1.0) if choice < 0.75 else (1.0, 3.6))))
    image = torch.from_numpy(crop_of(rng, paths, fonts, blur_px).copy()).permute(2, 0, 1)[None].float() / 255
    noise_levels, is_clean = 0.0, rng.random() < _CLEAN_SHARE
    if not is_clean and rng.random() < 0.5:
        noise_levels = float(25 * rng.random() ** 1.5 + 0.5) if rng.random() < 0.9 else float(rng.uniform(25, 40))
    quality = 100
    if not is_clean and rng.random() >= 0.4:
        quality = int(rng.integers(6, 60)) if rng.random() < 0.5 else int(rng.integers(40, 99))
        if quality < 60 and rng.random() < 0.6:
            noise_levels = min(noise_levels, float(rng.uniform(0, 4)))
    if blur_px >= _FINE_BLUR_PX:
        image = blurred(image, blur_px)
    if rng.random() < _SHARPENED_SHARE:
        image = image + float(rng.uniform(0.2, 0.8)) * (image - blurred(image, float(rng.uniform(0.6, 1.5))))
    if noise_levels:
        image = image + _noise(image, rng) * noise_levels / 255
    levels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8)
    if quality < 100:
        levels = compressed(levels, quality, subsampling=int(rng.choice([0, 2])))
    top, left = rng.integers(0, _MARGIN_PX, 2)
    crop = levels[:, top : top + CROP_PX, left : left + CROP_PX].float() / 255
    noise = 1 - (1 - min(1.0, noise_levels / FULL_NOISE_LEVELS)) * (1 - jpeg_damage(quality))
    return crop, (blur_degree(blur_px), noise)


def _noise(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Noise of unit strength: grey or coloured, of single pixels or in blotches, some of it stronger in the light."""
    height, width = image.shape[2:]
    channels = 1 if rng.random() < 0.35 else 3
    noise = torch.from_numpy(rng.standard_normal((1, channels, height, width)).astype(np.float32))
    noise = noise.expand(1, 3, height, width).contiguous()
    if rng.random() < 0.3:
        noise = blurred(noise, float(rng.uniform(0.4, 0.9)))
        noise = noise / noise.std()
    if rng.random() < 0.3:
        noise = noise * (0.35 + 1.3 * image.mean(dim=1, keepdim=True).clamp(0, 1)).sqrt()
    return noise


class Examples(Dataset[tuple[Tensor, Tensor]]):
    """A step's pictures [B, 3, 64, 64] and degrees [B, 2], by the step's number."""

    def __init__(self, paths: Sequence[Path], fonts: Sequence[Path], batch_size: int) -> None:
        self._paths, self._fonts, self._batch_size = paths, fonts, batch_size

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([5, step])
        images, degrees = zip(*(example(rng, self._paths, self._fonts) for _ in range(self._batch_size)), strict=True)
        return torch.stack(images), torch.tensor(degrees)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("photographs", type=Path, nargs="+", help="folders of JPEG and PNG files")
    add("--run", type=Path, required=True)
    add("--start", type=Path, help="weights to start from (safetensors)")
    add("--fonts", type=Path, default=Path("/usr/share/fonts"), help="folder of TrueType files")
    add("--steps", type=int, default=6000)
    add("--learning-rate", type=float, default=1.2e-3)
    add("--threads", type=int, default=2)
    add("--batch", type=int, default=12)
    add("--device", type=torch.device, default="cpu")
    add("--workers", type=int, default=0, help="processes that make the pictures")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    paths, fonts = find_photographs(given.photographs), sorted(given.fonts.rglob("*.ttf"))
    if not paths or not fonts:
        raise SystemExit(f"{len(paths)} photographs and {len(fonts)} fonts found; give folders that hold some")
    given.run.mkdir(parents=True, exist_ok=True)
    network = DegradationEstimator(compact_generator().estimator).to(given.device).to(memory_format=torch.channels_last)
    if given.start:
        network.load_state_dict({name: value.float() for name, value in load_file(given.start).items()})
    optimiser = torch.optim.AdamW(network.parameters(), given.learning_rate, weight_decay=1e-4)
    state_path, step = given.run / "state.pt", 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True, map_location=given.device)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    is_noise = torch.tensor([name == "noise" for name in DEGREE_NAMES], device=given.device)
    started, errors = time.monotonic(), torch.zeros(2, device=given.device)
    examples = Examples(paths, fonts, given.batch)
    for images, labels in DataLoader(
        examples, batch_size=None, sampler=range(step, given.steps), num_workers=given.workers
    ):
        wanted = labels.to(given.device)
        with torch.autocast(given.device.type, torch.bfloat16, fast_format(given.device) == torch.bfloat16):
            degrees = network(images.to(given.device).contiguous(memory_format=torch.channels_last))
        degrees = degrees.float().clamp(1e-4, 1 - 1e-4)
        loss = F.binary_cross_entropy(degrees, wanted, reduction="none") + 2 * (degrees - wanted).square()
        weight = 1 + (_CLEAN_WEIGHT - 1) * ((wanted == 0) & is_noise)
        loss = (weight * loss).mean()
        for group in optimiser.param_groups:  # a short rise, then a cosine to zero
            rise, turn = min(1.0, (step + 1) / 100), math.pi * step / given.steps
            group["lr"] = given.learning_rate * rise * 0.5 * (1 + math.cos(turn))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        step += 1
        errors += (degrees.detach() - wanted).abs().mean(dim=0) / 100
        if step % 100 == 0 or step == given.steps:
            print(
                f"step {step}  error: blur {errors[0]:.3f}, noise {errors[1]:.3f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
            errors.zero_()
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            torch.save(state, state_path.with_suffix(".tmp"))
            state_path.with_suffix(".tmp").replace(state_path)
    save_file(
        {name: value.cpu().contiguous() for name, value in network.state_dict().items()},
        given.run / "estimator.safetensors",
    )


if __name__ == "__main__":
    main()
