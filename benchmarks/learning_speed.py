"""How fast networks of different build learn the same batches: PSNR gained over the enlarged input, by steps.

    python benchmarks/learning_speed.py ../shared/data/train/photos --steps 250 [--networks plain normed compact]

L1 alone, Adam or Muon, the same crops and degradations for all (the presets ``camera``, ``s3diff`` and ``mild`` by
turns). The gains are measured on crops of the held-out photographs: reduced by four and nothing else, with noise of 12
levels, with a blur of 2.5 px, and with the preset ``camera``. ``plain`` is a row of residual blocks at low-quality size
without norms, ``normed`` the same with a norm over channels at the entrance of each residual branch, ``compact`` the
embedded model's networks from scratch. A network that is worth hours of training shows it in minutes here.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from gaussian import blurred
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.degradation.application import apply
from s3diff.degradation.settings import PRESETS
from s3diff.degradation.synthesis import draw
from s3diff.evaluation.psnr_ssim import psnr_rgb
from s3diff.images.resampling import enlarge
from s3diff.networks.blocks import ChannelNorm
from s3diff.networks.one_step_generator import OneStepGenerator
from s3diff.training.data.crops import CropDataset
from s3diff.training.data.sources import open_source
from s3diff.training.muon import Muon
from s3diff.training.recipes import HELD_OUT_PHOTOS, compact_generator
from s3diff.training.trainable_model import initialise_from_scratch

SCALE, CROP_PX, BATCH_SIZE, VALIDATION_PX = 4, 128, 8, 192
TRAINED_PRESETS = ("camera", "s3diff", "mild")


class ResidualBlock(nn.Module):
    """(Norm,) 3x3, SiLU, 3x3, times a small learned factor, added to its input."""

    def __init__(self, channels: int, *, normed: bool) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 1e-5) if normed else nn.Identity()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.factor = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        return x + self.factor * self.second(F.silu(self.first(self.norm(x))))


class Plain(nn.Module):
    """Residual blocks at low-quality size between two convolutions; the result is added to the enlarged input."""

    def __init__(self, *, normed: bool, channels: int = 64, num_blocks: int = 14) -> None:
        super().__init__()
        self.first = nn.Conv2d(3 * SCALE**2, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels, normed=normed) for _ in range(num_blocks)))
        self.last = nn.Conv2d(channels, 3 * SCALE**2, 3, padding=1)
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias.zero_()  # type: ignore[union-attr]

    def forward(self, image: Tensor) -> Tensor:
        """The enlarged input [B, 3, H, W] in [-1, 1] -> the same, restored."""
        features = self.blocks(self.first(F.pixel_unshuffle(image, SCALE)))
        return image + F.pixel_shuffle(self.last(features), SCALE)


class Compact(nn.Module):
    """The embedded model's networks with one learned prompt and fixed degrees."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = OneStepGenerator(compact_generator())
        initialise_from_scratch(self.generator)
        self.prompt = nn.Parameter(0.1 * torch.randn(1, 4, self.generator.config.unet.context_channels))

    def forward(self, image: Tensor) -> Tensor:
        """As :meth:`Plain.forward`."""
        degrees = torch.full((len(image), 2), 0.5)
        prompt = self.prompt.expand(len(image), -1, -1)
        return self.generator(image, degrees, prompt, prompt, guidance=1.0)


OPTIMISERS = {"adam": torch.optim.Adam, "muon": Muon}
NETWORKS = {"plain": lambda: Plain(normed=False), "normed": lambda: Plain(normed=True), "compact": Compact}


def crops(folder: Path, names: tuple[str, ...] | None, px: int, seed: int) -> CropDataset:
    """Of the named photographs, or of all but the held-out ones."""
    left_out = HELD_OUT_PHOTOS
    if names is not None:
        left_out = tuple(path.name for path in folder.iterdir() if path.name not in names)
    return CropDataset(open_source(str(folder), left_out), px, seed, min_detail=2.0)


def taken(dataset: CropDataset, first: int, count: int) -> Tensor:
    """[count, 3, px, px] in [0, 1]."""
    return torch.stack([dataset[position].pixels for position in range(first, first + count)]).float() / 255


def low_quality_of(truth: Tensor, preset: str, generator: torch.Generator) -> Tensor:
    """Degraded by a preset and reduced by four."""
    return apply(truth, draw(PRESETS[preset], len(truth), *truth.shape[2:], SCALE, generator)).clamp(0, 1)


def validation_inputs(truth: Tensor) -> dict[str, Tensor]:
    """By name, each [B, 3, h, w] in [0, 1]."""
    random = torch.Generator().manual_seed(1)
    reduced = F.interpolate(truth, scale_factor=1 / SCALE, mode="bicubic", antialias=True).clamp(0, 1)
    return {
        "clean": reduced,
        "noise": (reduced + 12 / 255 * torch.randn(reduced.shape, generator=random)).clamp(0, 1),
        "blur": F.interpolate(blurred(truth, 2.5, 9), scale_factor=1 / SCALE, mode="bicubic", antialias=True).clamp(
            0, 1
        ),
        "camera": low_quality_of(truth, "camera", random),
    }


def enlarged(low_quality: Tensor) -> Tensor:
    """Four times as large, in [-1, 1]."""
    height, width = (SCALE * side for side in low_quality.shape[2:])
    return enlarge(low_quality, height, width, mode="bicubic").clamp(0, 1) * 2 - 1


@torch.no_grad()
def gains(network: nn.Module, inputs: dict[str, Tensor], truth: Tensor) -> dict[str, float]:
    """Mean PSNR over that of the enlarged input, in decibels."""
    found = {}
    for name, low_quality in inputs.items():
        image = enlarged(low_quality)
        with torch.autocast("cpu", torch.bfloat16):
            result = network(image).float()
        before, after = (psnr_rgb((each / 2 + 0.5).clamp(0, 1), truth).mean().item() for each in (image, result))
        found[name] = round(after - before, 3)
    return found


def learn(name: str, given: argparse.Namespace) -> dict[str, object]:
    """Train one network; prints and returns its gains."""
    torch.manual_seed(0)
    network = NETWORKS[name]().to(memory_format=torch.channels_last)
    trained = crops(given.photos, None, CROP_PX, seed=0)
    truth = taken(crops(given.photos, HELD_OUT_PHOTOS, VALIDATION_PX, seed=1), 0, BATCH_SIZE)
    inputs, random = validation_inputs(truth), torch.Generator().manual_seed(0)
    optimiser = OPTIMISERS[given.optimiser](network.parameters(), lr=given.rate, betas=(0.9, 0.99))
    history, started = [], time.perf_counter()
    for step in range(1, given.steps + 1):
        optimiser.param_groups[0]["lr"] = given.rate * min(1.0, step / 30)
        target = taken(trained, step * BATCH_SIZE, BATCH_SIZE)
        low_quality = low_quality_of(target, TRAINED_PRESETS[step % len(TRAINED_PRESETS)], random)
        with torch.autocast("cpu", torch.bfloat16):
            result = network(enlarged(low_quality))
        optimiser.zero_grad()
        (result.float() - (target * 2 - 1)).abs().mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        if step % given.every == 0 or step == given.steps:
            history.append({"step": step, "gain_db": gains(network, inputs, truth)})
            print(f"{name:8} {step:6} {history[-1]['gain_db']}  {time.perf_counter() - started:.0f} s", flush=True)
    return {"parameters": sum(each.numel() for each in network.parameters()), "history": history}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--every", type=int, default=50, help="steps between measurements")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--optimiser", choices=OPTIMISERS, default="adam")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = {name: learn(name, given) for name in given.networks}
    if given.json:
        settings = {name: getattr(given, name) for name in ("steps", "rate", "optimiser")}
        settings |= {"batch_size": BATCH_SIZE, "crop_px": CROP_PX}
        given.json.write_text(json.dumps({"settings": settings, "networks": figures}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
