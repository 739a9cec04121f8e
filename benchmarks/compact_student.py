"""Train ``compact`` on a teacher's shards: one stage, resumable; the stages are in ``benchmarks/train_compact.sh``.

    python benchmarks/compact_student.py --shards shards --run runs/sharp --start src/s3diff/models/compact --steps 3000

Every crop has two anchors: the teacher's picture with the truth's colours, and the truth where the teacher is far from
it. One image of a batch teaches the dial: its blur and noise are known, its degrees are set by hand, and its target
keeps what those degrees leave. Some images get the negative prompt and the enlarged input as their target (S3Diff,
section 3.3). Terms: L1; LPIPS (VGG16); a discriminator that compares each result with its target by the features that
LPIPS has computed; two terms against what repeats with the low-quality pixels; one against values that the target has
nowhere near; one for as much contrast as the target has there, band by band. LPIPS (AlexNet) and DISTS are no terms:
they judge.

All random numbers of a step follow from its number. ``RUN/state.pt`` is what a stopped run goes on from, ``RUN/model``
the averaged model.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gaussian import blurred
from safetensors import safe_open
from teacher import fast_format
from teacher_shards import DEGRADATIONS, MILD_DEGRADATIONS, OWN_SIZE, SCALE, compressed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from s3diff.checkpoints.model_folder import LoadedModel, load_model, save_model
from s3diff.evaluation.perceptual import LPIPS
from s3diff.images.resampling import enlarge, to_network_range
from s3diff.networks.one_step_generator import OneStepGenerator
from s3diff.training.adversarial.discriminator import pairing_loss
from s3diff.training.muon import Muon
from s3diff.training.recipes import compact_generator
from s3diff.training.trainable_model import TrainableModel

#: First number of the seed of a step, before the step's own.
_SEED = 7
NEGATIVE_SHARE = 0.05
#: Noise of so many levels counts as 1; blur of so many low-quality pixels as 1 - 1/e.
FULL_NOISE_LEVELS, BLUR_SCALE_PX = 25.0, 0.8
#: Crops that are turned grey: colours must not come from nowhere.
_GREY_SHARE = 0.12
#: Mild crops and those at their own size that get JPEG or noise of their own: the teacher saw them without.
_DAMAGED_SHARE = 0.2
#: A crop is the one with most detail of so many: from flat ones little is learned.
_CANDIDATES = 3
#: Colours are what a mean over so many pixels leaves.
_COLOUR_PX = 16
#: The teacher's weight falls to 1/e where it is, smoothed, so many levels from the truth.
_TRUST_LEVELS, _TRUST_SIGMA_PX = 26.0, 3.0
#: The teacher keeps to the truth's range within so many pixels, but for this share of it.
_TEACHER_RANGE_PX, _SPARE_RANGE = 4, 0.03
#: The result is held to its target's range within so many.
_RESULT_RANGE_PX = 2
#: Bands of the contrast term, from the finest, each at half the size of the one before; the squares in which contrast
#: is measured have this side in pixels of their band.
_CONTRAST_BANDS, _CONTRAST_PX = 3, 8
#: The pattern term averages over squares of so many periods.
_PATTERN_PERIODS = 12
#: The stairs term compares jumps within squares of this side.
_STAIRS_PX = 6 * SCALE
_CLIP_NORM = 1.0
_WARMUP_STEPS, _ADVERSARIAL_WARMUP_STEPS = 50, 200
#: Depths of VGG16 whose features the heads judge, with their channels; channels of a head.
_JUDGED_FEATURES = {1: 128, 2: 256, 3: 512}
_HEAD_CHANNELS = 48
_LOG_EVERY, _SAVE_EVERY = 25, 100


class Crop(NamedTuple):
    """One crop: low quality [3, h, w], teacher and truth [3, 4 h, 4 w], uint8.

    At a photograph's own size no truth is known; it is the teacher's picture.
    """

    low_quality: Tensor
    teacher: Tensor
    truth: Tensor
    is_mild: bool
    is_drawn: bool
    is_own_size: bool


class DrawnBatch(NamedTuple):
    """What is drawn for a step, on the CPU; the networks' part is :func:`batch_on`.

    Attributes:
        low_quality: [B, 3, h, w] in [0, 1].
        teacher: [B, 3, 4 h, 4 w] uint8.
        truth: the same.
        flags: [3, B] bool: mild, drawn, at its own size.
        dial_targets: [D, 3, 4 h, 4 w] in [-1, 1], of the last D images.
        dial_degrees: [D, 2].
        has_negative: whether the first image gets the negative prompt.
    """

    low_quality: Tensor
    teacher: Tensor
    truth: Tensor
    flags: Tensor
    dial_targets: Tensor
    dial_degrees: Tensor
    has_negative: bool


@dataclass(frozen=True)
class Batch:
    """One step's images.

    Attributes:
        low_quality: [B, 3, h, w] in [0, 1].
        degrees: [B, 2].
        teacher: [B, 3, 4 h, 4 w] in [-1, 1], with the truth's colours.
        truth: the same size.
        teacher_weight: [B, 1, 4 h, 4 w] in [0, 1]; the rest is the truth's.
        leading: [B, 3, 4 h, 4 w], the anchor that the perceptual terms compare with.
        negative: [B] bool, images with the negative prompt.
        num_dial: how many images at the end teach the dial.
    """

    low_quality: Tensor
    degrees: Tensor
    teacher: Tensor
    truth: Tensor
    teacher_weight: Tensor
    leading: Tensor
    negative: Tensor
    num_dial: int


class TeacherShards:
    """Crops of the shards of a folder; ``refresh`` takes up shards that were added meanwhile."""

    def __init__(self, folder: Path, crop_px: int) -> None:
        self.folder, self.crop_px = folder, crop_px
        self._shards: dict[Path, Any] = {}
        self.refresh()
        if not self._shards:
            raise SystemExit(f"{folder} holds no shards; make some with benchmarks/teacher_shards.py")

    def refresh(self) -> None:
        """Open the shards that are new."""
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            if path not in self._shards:
                self._shards[path] = safe_open(path, "pt")

    def draw(self, rng: np.random.Generator) -> Crop:
        """The most detailed of some random windows of a random shard, flipped and turned."""
        shards = list(self._shards.values())
        shard = shards[rng.integers(len(shards))]
        num_crops, _, _, width = shard.get_slice("low_quality").get_shape()
        side = self.crop_px
        candidates = [
            (int(rng.integers(num_crops)), *(int(value) for value in rng.integers(0, width - side + 1, 2)))
            for _ in range(_CANDIDATES)
        ]

        def cut(name: str, factor: int, candidate: tuple[int, int, int]) -> Tensor:
            index, top, left = candidate
            rows = slice(top * factor, (top + side) * factor)
            columns = slice(left * factor, (left + side) * factor)
            return shard.get_slice(name)[index][:, rows, columns]

        def detail(candidate: tuple[int, int, int]) -> float:
            green = cut("teacher", SCALE, candidate)[1].float()
            return float(green.diff(dim=0).abs().mean() + green.diff(dim=1).abs().mean())

        chosen = max(candidates, key=detail)
        flipped, turns = bool(rng.integers(2)), int(rng.integers(4))
        is_grey = bool(rng.random() < _GREY_SHARE)

        def window(name: str, factor: int) -> Tensor:
            pixels = cut(name, factor, chosen)
            if is_grey:
                pixels = pixels.float().mean(dim=0, keepdim=True).round().to(torch.uint8).expand(3, -1, -1)
            return torch.rot90(pixels.flip(2) if flipped else pixels, turns, (1, 2))

        index = chosen[0]
        kind = int(shard.get_slice("kind")[index])
        return Crop(
            window("low_quality", 1),
            window("teacher", SCALE),
            window("truth", SCALE),
            is_mild=kind < OWN_SIZE and list(DEGRADATIONS)[kind] in MILD_DEGRADATIONS,
            is_drawn=bool(shard.get_slice("drawn")[index]),
            is_own_size=kind == OWN_SIZE,
        )


def blur_degree(sigma_px: float) -> float:
    """The degree of a Gaussian blur of ``sigma_px`` low-quality pixels, in [0, 1)."""
    return 1 - math.exp(-sigma_px / BLUR_SCALE_PX)


#: Damage by JPEG, as a degree of noise, between these qualities.
_QUALITIES = (0, 5, 12, 30, 60, 75, 90, 97, 100)
_DAMAGE = (1.0, 0.9, 0.72, 0.45, 0.22, 0.13, 0.05, 0.01, 0.0)


def jpeg_damage(quality: int) -> float:
    """The degree of noise that JPEG of a quality counts as."""
    return float(np.interp(quality, _QUALITIES, _DAMAGE))


def blur_px_of(degree: float) -> float:
    """The inverse of :func:`blur_degree`; at most what counts as 0.99."""
    return -BLUR_SCALE_PX * math.log(1 - min(degree, 0.99))


def colours_of(images: Tensor) -> Tensor:
    """The lowest band of [B, C, H, W], enlarged smoothly."""
    reduced = F.avg_pool2d(images, _COLOUR_PX)
    return F.interpolate(reduced, size=images.shape[-2:], mode="bilinear", align_corners=False)


def enlarged(low_quality: Tensor) -> Tensor:
    """[B, 3, h, w] in [0, 1] -> [B, 3, 4 h, 4 w]."""
    height, width = low_quality.shape[2:]
    return enlarge(low_quality, SCALE * height, SCALE * width, mode="bicubic")


def dial_example(truth: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Degrade a truth by known blur, noise and JPEG, set the degrees, and keep in the target what they leave.

    Below its true degree the target keeps the part of the blur or noise that the degree does not ask to remove; a blur
    degree above it sharpens the truth, and a noise degree far above it smooths the truth.

    Args:
        truth: [3, H, W] uint8.
        rng: source of every choice.

    Returns:
        Low quality [3, h, w] in [0, 1], target [3, H, W] in [-1, 1], degrees of blur and noise.
    """
    target = truth[None].float() / 255
    clean = F.avg_pool2d(target, SCALE)
    blur_px = 0.0 if rng.random() < 0.3 else float(rng.uniform(0.4, 2.6))
    noise_levels = 0.0 if rng.random() < 0.3 else float(rng.uniform(1, 22))
    if blur_px and noise_levels and rng.random() < 0.5:
        noise_levels = min(noise_levels, 4.0)
    without_noise = blurred(clean, blur_px) if blur_px else clean
    noise = torch.from_numpy(rng.standard_normal((1, 3, *clean.shape[2:])).astype(np.float32)) * noise_levels / 255
    levels = ((without_noise + noise).clamp(0, 1) * 255).round().to(torch.uint8)
    damage = 0.0
    if rng.random() < 0.4:
        quality = int(rng.integers(8, 70))
        levels, damage = compressed(levels[0], quality)[None], jpeg_damage(quality)
    low_quality = levels.float() / 255
    true_blur = blur_degree(blur_px)
    true_noise = 1 - (1 - min(1.0, noise_levels / FULL_NOISE_LEVELS)) * (1 - damage)
    blur, noise_degree = _set_degree(true_blur, rng), _set_degree(true_noise, rng)
    if blur < true_blur:
        left_px = math.sqrt(max(0.0, blur_px**2 - blur_px_of(blur) ** 2))
        target = blurred(target, max(0.1, SCALE * left_px))
    elif blur > true_blur:
        target = target + (blur - true_blur) * (target - blurred(target, 1.5 + 2.5 * blur))
    if noise_degree < true_noise:
        kept = 1 - noise_degree / true_noise
        target = target + kept * (enlarged(low_quality) - enlarged(without_noise))
    excess = noise_degree - max(true_noise, 0.3)
    if excess > 0:
        target = target + excess * (blurred(target, 3.0) - target)
    return low_quality[0], target[0].clamp(0, 1) * 2 - 1, (blur, noise_degree)


def damaged(low_quality: Tensor, rng: np.random.Generator) -> Tensor:
    """Add noise, JPEG or both to [3, h, w] in [0, 1]."""
    choice = rng.random()
    if choice < 0.5:
        noise = rng.standard_normal(low_quality.shape).astype(np.float32) * float(rng.uniform(2, 20)) / 255
        low_quality = (low_quality + torch.from_numpy(noise)).clamp(0, 1)
    levels = (low_quality * 255).round().to(torch.uint8)
    if choice > 0.25:
        levels = compressed(levels, int(rng.integers(8, 60)))
    return levels.float() / 255


def _set_degree(true_degree: float, rng: np.random.Generator) -> float:
    """0 or 1 (a fifth each), anything between (two fifths), or the truth."""
    choice = rng.random()
    if choice < 0.4:
        return 0.0 if choice < 0.2 else 1.0
    return float(rng.random()) if choice < 0.8 else true_degree


def rng_of(step: int, *more: int) -> np.random.Generator:
    """The source of a step's choices."""
    return np.random.default_rng([_SEED, step, *more])


class DrawnBatches(Dataset[DrawnBatch]):
    """What is drawn for every step; in processes of its own where a GPU must not wait."""

    def __init__(self, shards: TeacherShards, num_images: int, num_dial: int) -> None:
        self._shards, self._num_images, self._num_dial = shards, num_images, num_dial

    def __getitem__(self, step: int) -> DrawnBatch:
        if step % _LOG_EVERY == 0:
            self._shards.refresh()
        rng = rng_of(step)
        crops = [self._shards.draw(rng) for _ in range(self._num_images)]
        low_quality = torch.stack([crop.low_quality for crop in crops]).float() / 255
        for row, crop in enumerate(crops):
            if (crop.is_mild or crop.is_own_size) and rng.random() < _DAMAGED_SHARE:
                low_quality[row] = damaged(low_quality[row], rng)
        examples = [dial_example(crop.truth, rng) for crop in crops[self._num_images - self._num_dial :]]
        targets = torch.zeros(0, *crops[0].truth.shape)
        for row, example in enumerate(examples, self._num_images - self._num_dial):
            low_quality[row] = example[0]
        if examples:
            targets = torch.stack([target for _, target, _ in examples])
        return DrawnBatch(
            low_quality,
            torch.stack([crop.teacher for crop in crops]),
            torch.stack([crop.truth for crop in crops]),
            torch.tensor([[crop.is_mild, crop.is_drawn, crop.is_own_size] for crop in crops]).T,
            targets,
            torch.tensor([degrees for _, _, degrees in examples]).view(-1, 2),
            bool(rng.random() < NEGATIVE_SHARE * self._num_images),
        )


@torch.no_grad()
def batch_on(device: torch.device, drawn: DrawnBatch, estimator: nn.Module) -> Batch:
    """Bring a step's images to a device, and make what is learned from them."""
    low_quality = drawn.low_quality.to(device)
    teacher, truth = (images.to(device).float() / 127.5 - 1 for images in (drawn.teacher, drawn.truth))
    is_mild, is_drawn, is_own_size = drawn.flags.to(device)[..., None, None, None]
    coloured = torch.where(is_own_size, to_network_range(enlarged(low_quality)), truth)
    teacher = teacher - colours_of(teacher) + colours_of(coloured)
    lower, upper = local_range(coloured, _TEACHER_RANGE_PX)
    spare = _SPARE_RANGE * (upper - lower)
    teacher = teacher.clamp(lower - spare, upper + spare)
    truth = torch.where(is_own_size, teacher, truth)
    apart = blurred((teacher - truth).abs().mean(dim=1, keepdim=True), _TRUST_SIGMA_PX) * 127.5
    trust = torch.exp(-(apart / _TRUST_LEVELS).square())
    weight = torch.where(is_mild, 0.8 * trust, 0.6 + 0.4 * trust)
    weight = torch.where(is_drawn, torch.zeros_like(trust), weight)
    leading = torch.where(weight.mean(dim=(1, 2, 3), keepdim=True) >= 0.5, teacher, truth)
    degrees = estimator(low_quality)
    num_images, num_dial = len(low_quality), len(drawn.dial_degrees)
    if num_dial:
        first = num_images - num_dial
        teacher[first:] = truth[first:] = leading[first:] = drawn.dial_targets.to(device)
        weight[first:], degrees[first:] = 0, drawn.dial_degrees.to(device)
    negative = torch.zeros(num_images, dtype=torch.bool, device=device)
    if drawn.has_negative:
        negative[0] = True
        teacher[0] = truth[0] = leading[0] = to_network_range(enlarged(low_quality[:1]))[0]
    return Batch(low_quality, degrees, teacher, truth, weight, leading, negative, num_dial)


def pattern_loss(difference: Tensor) -> Tensor:
    """How strongly [B, C, H, W] repeats with the low-quality pixels: the spread of the mean period's values."""
    span = SCALE * _PATTERN_PERIODS
    side = difference.shape[-1] // span * span
    folded = difference[..., :side, :side].unflatten(-2, (-1, _PATTERN_PERIODS, SCALE))
    folded = folded.unflatten(-1, (-1, _PATTERN_PERIODS, SCALE))  # B C square period row square period column
    return folded.mean(dim=(3, 6)).var(dim=(3, 5), unbiased=False).add(1e-8).sqrt().mean()


def local_range(images: Tensor, radius_px: int) -> tuple[Tensor, Tensor]:
    """Find the least and the greatest value of [B, C, H, W] near every pixel."""

    side = 2 * radius_px + 1

    def greatest(values: Tensor) -> Tensor:
        # Maxima of shifted views: on a CPU 40 times as fast as max_pool2d.
        for dim, padding in ((-1, (radius_px, radius_px)), (-2, (0, 0, radius_px, radius_px))):
            values, reached = F.pad(values, padding, value=-math.inf), 1
            while reached < side:
                step = min(reached, side - reached)
                length = values.shape[dim] - step
                values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
                reached += step
        return values

    return -greatest(-images), greatest(images)


def rims_loss(result: Tensor, target: Tensor) -> Tensor:
    """By how much [B, C, H, W] leaves the range that the target has nearby: pale and dark rims, cracks."""
    lower, upper = local_range(target, _RESULT_RANGE_PX)
    return (F.relu(result - upper) + F.relu(lower - result)).mean()


def contrast_loss(result: Tensor, target: Tensor) -> Tensor:
    """By how much the contrast of [B, C, H, W] differs from the target's, band by band, wherever its details lie.

    Contrast is the root mean square of a band in a small square: softness lowers it, blobs in place of a smooth area
    raise it.
    """
    images = torch.cat([result, target]).mean(dim=1, keepdim=True)
    total = images.new_zeros(())
    for _ in range(_CONTRAST_BANDS):
        band = images - F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        energy = F.avg_pool2d(band.square(), _CONTRAST_PX, stride=_CONTRAST_PX // 2)
        made, wanted = energy.add(1e-6).sqrt().chunk(2)
        total = total + (made - wanted).abs().mean()
        images = F.avg_pool2d(images, 2)
    return total / _CONTRAST_BANDS


def tint_loss(result: Tensor, given: Tensor) -> Tensor:
    """Mean square of the differences between the channels of [B, 3, H, W] where the enlarged input has none, x 100."""
    tint = (result - result.mean(dim=1, keepdim=True)).square().mean(dim=1)
    is_grey = (given.amax(dim=1) - given.amin(dim=1)) < 0.5 / 127.5
    return 100 * (tint * is_grey).mean()


def stairs_loss(difference: Tensor) -> Tensor:
    """By how much [B, C, H, W] jumps higher between low-quality pixels than inside them, nearby: steps of any sign."""
    total = difference.new_zeros(())
    for images in (difference, difference.transpose(2, 3)):
        jumps = F.pad(images.diff(dim=-1).abs().mean(dim=1, keepdim=True), (0, 1))
        between = (torch.arange(jumps.shape[-1]) % SCALE == SCALE - 1).to(jumps)
        means = (F.avg_pool2d(jumps * mask, _STAIRS_PX) / mask.mean() for mask in (between, 1 - between))
        outer, inner = means
        total = total + F.relu(outer - inner).mean()
    return total


class FeatureDiscriminator(nn.ModuleList):
    """Heads that tell results from targets by the features of VGG16 that LPIPS compares, place by place.

    By frozen features they are told apart after some dozens of steps (projected GANs, arXiv 2111.01007), by pixels
    after hundreds.
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(
                nn.Conv2d(depth, _HEAD_CHANNELS, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(_HEAD_CHANNELS, _HEAD_CHANNELS, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(_HEAD_CHANNELS, 1, 1, bias=False),
            )
            for depth in _JUDGED_FEATURES.values()
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Judge five depths of unit length, from ``LPIPS.features``: [B, 1, h, w] logits for each that counts."""
        pairs = zip(self, _JUDGED_FEATURES.items(), strict=True)
        return [head(features[index] * depth**0.5) for head, (index, depth) in pairs]


class Features(NamedTuple):
    """What LPIPS has computed of the targets and of the results, five depths each."""

    wanted: list[Tensor]
    made: list[Tensor]


class Stage:
    """One stage of the training.

    Args:
        given: what ``main`` parsed.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.step = given, 0
        self.run: Path = given.run
        self.run.mkdir(parents=True, exist_ok=True)
        self.batches = DrawnBatches(TeacherShards(given.shards, given.crop), given.batch, given.dial)
        self.start: LoadedModel = load_model(given.start)
        generator, prompts = self._generator(), self.start.prompts
        self.model = TrainableModel(generator, prompts.positive.float(), prompts.negative.float(), trained="everything")
        self.model.to(given.device).to(memory_format=torch.channels_last)
        self.trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.average = {name: value.detach().clone() for name, value in self.trained.items()}
        self.optimiser = Muon(self.trained.values(), given.learning_rate, betas=(0.9, 0.99))
        self.lpips = LPIPS("vgg").requires_grad_(False).to(given.device)
        self.lpips.convolutions.to(fast_format(given.device)).to(memory_format=torch.channels_last)
        self.discriminator = FeatureDiscriminator().to(given.device) if given.adversarial else None
        if self.discriminator is not None:
            self.discriminator_optimiser = torch.optim.AdamW(
                self.discriminator.parameters(), given.discriminator_rate, betas=(0.9, 0.99), weight_decay=0
            )
            if given.discriminator:
                known = torch.load(given.discriminator, weights_only=True, map_location=given.device)
                self.discriminator.load_state_dict(known["discriminator"])
        self.state_path = self.run / "state.pt"
        if self.state_path.exists():
            self._load(torch.load(self.state_path, weights_only=True, map_location=given.device))

    def _generator(self) -> OneStepGenerator:
        """Build the networks in float32 from what fits of the start's; a new last layer adds nothing at first."""
        start = {name: value.float() for name, value in self.start.generator.state_dict().items()}
        generator = OneStepGenerator(compact_generator())
        state = generator.state_dict()
        fitting = {name: value for name, value in start.items() if name in state and state[name].shape == value.shape}
        for name in sorted(state.keys() - fitting.keys()):
            print(f"not in {self.given.start}: {name}", flush=True)
        if "autoencoder.decoder.conv_out.weight" not in fitting:
            nn.init.zeros_(generator.autoencoder.decoder.conv_out.weight)
            nn.init.zeros_(generator.autoencoder.decoder.conv_out.bias)
        generator.load_state_dict(fitting, strict=False)
        return generator

    def train(self) -> None:
        """Steps to the end; a line of the log for every 25, a save for every 100."""
        sums: dict[str, float] = {}
        started = time.monotonic()
        drawn_batches: DataLoader[DrawnBatch] = DataLoader(
            self.batches, batch_size=None, sampler=range(self.step, self.given.steps), num_workers=self.given.workers
        )
        with open(self.run / "log.jsonl", "a", encoding="utf-8") as log:
            for drawn in drawn_batches:
                for name, value in self.train_step(drawn).items():
                    sums[name] = sums.get(name, 0.0) + float(value) / _LOG_EVERY
                if self.step % _LOG_EVERY == 0:
                    seconds = (time.monotonic() - started) / _LOG_EVERY
                    values = {name: round(value, 5) for name, value in sums.items()}
                    log.write(json.dumps({"step": self.step, **values, "seconds": round(seconds, 3)}) + "\n")
                    log.flush()
                    sums, started = {}, time.monotonic()
                if self.step % _SAVE_EVERY == 0 or self.step == self.given.steps:
                    self.save()

    def train_step(self, drawn: DrawnBatch) -> dict[str, Tensor]:
        """One update of the model and of the discriminator; returns the terms before weighting."""
        given, generator = self.given, self.model.generator
        batch = batch_on(given.device, drawn, generator.estimator)
        image = to_network_range(enlarged(batch.low_quality))
        for group in self.optimiser.param_groups:
            group["lr"] = given.learning_rate * self._rate_factor()
        for_encoder, for_unet = generator.conditioning(batch.degrees)
        context = torch.where(batch.negative[:, None, None], self.model.negative, self.model.positive)
        with torch.autocast(given.device.type, torch.bfloat16, fast_format(given.device) == torch.bfloat16):
            latent = generator.encode(image.contiguous(memory_format=torch.channels_last), for_encoder)
            prediction = generator.predict(latent, context, for_unet)
            result = generator.decode(generator.config.schedule.clean_latent(latent, prediction), image)
        plain = range(int(drawn.has_negative), given.batch - batch.num_dial)
        terms, loss, features = self._terms(result, batch, plain)
        terms["tint"] = tint_loss(result, image)
        loss = loss + given.tint * terms["tint"]
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
            warm = min(1.0, (self.step + 1) / _ADVERSARIAL_WARMUP_STEPS)
            terms["adversarial"] = self._compared(*features[::-1])
            loss = loss + warm * given.adversarial * terms["adversarial"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        terms["gradient_norm"] = nn.utils.clip_grad_norm_(self.trained.values(), _CLIP_NORM)
        if torch.isfinite(terms["gradient_norm"]):
            self.optimiser.step()
        if self.discriminator is not None:
            self.discriminator.requires_grad_(True)
            terms["discriminator"] = self._compared(features.wanted, [feature.detach() for feature in features.made])
            self.discriminator_optimiser.zero_grad()
            terms["discriminator"].backward()
            self.discriminator_optimiser.step()
        self._move_average()
        self.step += 1
        return {name: value.detach() for name, value in terms.items()}

    def _terms(self, result: Tensor, batch: Batch, plain: Sequence[int]) -> tuple[dict[str, Tensor], Tensor, Features]:
        given, weight = self.given, batch.teacher_weight
        terms = {"l1": (weight * (result - batch.teacher).abs() + (1 - weight) * (result - batch.truth).abs()).mean()}
        if given.pattern:
            terms["pattern"] = pattern_loss(result - batch.leading)
        if given.stairs:
            terms["stairs"] = stairs_loss(result - batch.leading)
        if given.contrast:
            terms["contrast"] = contrast_loss(result, batch.leading)
        if given.rims:
            terms["rims"] = rims_loss(result, batch.leading)
        features = Features([], [])
        if given.lpips_vgg or self.discriminator is not None:
            # The windows meet every phase of the low-quality grid.
            side = given.perceptual_px
            top, left = (int(value) for value in rng_of(self.step, 1).integers(0, result.shape[-1] - side + 1, 2))
            turns = np.arange(given.perceptual_images) + self.step * given.perceptual_images
            rows = [plain[turn] for turn in turns % len(plain)]
            wanted, made = (
                images[rows][..., top : top + side, left : left + side].contiguous(memory_format=torch.channels_last)
                for images in (batch.leading, result)
            )
            with torch.no_grad():
                wanted_features = self.lpips.features(wanted)
            features = Features(wanted_features, self.lpips.features(made))
            terms["lpips_vgg"] = self.lpips.distance(features.made, features.wanted).mean()
        loss = sum((getattr(given, name) * term for name, term in terms.items()), result.new_zeros(()))
        return terms, loss, features

    def _compared(self, more_real: Sequence[Tensor], less_real: Sequence[Tensor]) -> Tensor:
        """The loss of a discriminator that takes the features ``more_real`` for the targets': mean over the depths."""
        assert self.discriminator is not None
        pairs = zip(self.discriminator(more_real), self.discriminator(less_real), strict=True)
        everyone = more_real[0].new_ones(len(more_real[0]), dtype=torch.bool)
        return torch.stack([pairing_loss(more, less, everyone, len(everyone)) for more, less in pairs]).mean()

    def _rate_factor(self) -> float:
        factor = min(1.0, (self.step + 1) / _WARMUP_STEPS)
        if self.given.decay:
            factor *= min(1.0, max(0, self.given.steps - self.step) / self.given.decay)
        return factor

    @torch.no_grad()
    def _move_average(self) -> None:
        decay = min(self.given.average, (1 + self.step) / (10 + self.step))
        for name, value in self.trained.items():
            self.average[name].lerp_(value, 1 - decay)

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average, self.step = state["average"], state["step"]
        if self.discriminator is not None and "discriminator" in state:
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])

    def save(self) -> None:
        """Write the state to go on from, then the averaged model."""
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        if self.discriminator is not None:
            state["discriminator"] = self.discriminator.state_dict()
            state["discriminator_optimiser"] = self.discriminator_optimiser.state_dict()
        torch.save(state, self.state_path.with_suffix(".tmp"))
        self.state_path.with_suffix(".tmp").replace(self.state_path)
        averaged = copy.deepcopy(self.model).cpu()
        averaged.load_state_dict({**averaged.state_dict(), **self.average})
        positive, negative = averaged.positive.detach(), averaged.negative.detach()
        save_model(
            self.run / "model",
            averaged.generator,
            replace(self.start.prompts, positive=positive, negative=negative),
            name="compact",
            upsampling="bicubic",
            guidance=self.start.description.guidance,
            licences=self.start.description.licences,
            is_generative=self.start.description.is_generative,
            dtype=torch.float16,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shards", type=Path, required=True, help="folder from benchmarks/teacher_shards.py")
    add("--run", type=Path, required=True, help="folder of the stage; one that exists goes on")
    add("--start", type=Path, required=True, help="model folder to start from")
    add("--steps", type=int, required=True)
    add("--decay", type=int, default=0, help="steps over which the rate falls to zero at the end")
    add("--learning-rate", type=float, default=5e-4)
    add("--batch", type=int, default=6)
    add("--dial", type=int, default=1, help="images of a batch that teach the dial")
    add("--crop", type=int, default=48, help="side in low-quality pixels")
    add("--l1", type=float, default=1.0)
    add("--lpips-vgg", type=float, default=0.0)
    add("--pattern", type=float, default=0.3)
    add("--tint", type=float, default=1.0)
    add("--stairs", type=float, default=1.5)
    add("--contrast", type=float, default=0.0)
    add("--rims", type=float, default=0.0)
    add("--adversarial", type=float, default=0.0)
    add("--discriminator-rate", type=float, default=4e-4, help="its learning rate")
    add("--discriminator", type=Path, help="state.pt of an earlier stage, whose discriminator goes on")
    add("--perceptual-images", type=int, default=3)
    add("--perceptual-px", type=int, default=128)
    add("--average", type=float, default=0.997, help="decay of the weights' average")
    add("--threads", type=int, default=2)
    add("--device", type=torch.device, default="cpu")
    add("--workers", type=int, default=0, help="processes that draw the steps' images")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    Stage(given).train()


if __name__ == "__main__":
    main()
