"""Compute the losses of a step's three phases (S3Diff sections 3.3 and 3.4), a function each.

1. *Reconstruction*: some images get the negative prompt and the enlarged low-quality image as their target.
2. *Adversarial*: positive prompts; the discriminator shall take the results for real.
3. *Discriminator*: real pictures, then the results of phase 2.

A discriminator that learns from pixels judges the results of phase 1 instead (:func:`paired`): one pass less.

A phase computes; the trainer calls backward and steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from s3diff.degradation.application import DegradationDraw, apply
from s3diff.degradation.kernels import cut_kernels, filter_per_image, gaussian_kernels, needed_radii
from s3diff.degradation.settings import PRESETS, DegradationSettings
from s3diff.degradation.synthesis import draw
from s3diff.images.resampling import enlarge, to_network_range
from s3diff.options import Upsampling
from s3diff.training.adversarial.augmentation import AugmentationDraw, draw_augmentation
from s3diff.training.adversarial.discriminator import adversarial_loss, pairing_loss
from s3diff.training.config import MAX_TRUTH_BLUR_PX, TrainConfig
from s3diff.training.losses import ReconstructionLoss

#: A Gaussian of this standard deviation in pixels changes nothing: its neighbours weigh e^-50.
_LEAST_SIGMA_PX = 0.1

#: Runs the generator: the trainable model, or the same wrapped for several processes.
Model = nn.Module


@dataclass(frozen=True)
class BatchDraw:
    """Hold every random number of a batch. Every process draws those of the whole batch and takes its rows.

    Attributes:
        degradation: how low quality is made.
        is_negative: [B] bool, which images get the negative prompt in phase 1.
        in_vgg: [B] bool, which images the VGG terms of the loss see.
        vgg_share: share of such images in the whole batch.
        latent_noise: [B, C, h, w] standard normal, of phase 1.
        adversarial_noise: the same for phase 2, which encodes anew.
        dial: [B, 2], how the degrees of blur and noise are turned in phase 1: 0 for none, 1 for the estimate, 2 for the
            most, see :func:`s3diff.training.trainable_model.turned`; None for 1 throughout.
        truth_blur_px: [B], blur of the ground truth itself, see :class:`~s3diff.training.config.DataConfig`; None
            for none.
        plain_share: share of ``is_plain`` in the whole batch; that of one image where there are none.
        augmentations: of the results in phase 2, and of real and generated pictures in phase 3.
    """

    degradation: DegradationDraw
    is_negative: Tensor
    in_vgg: Tensor
    vgg_share: float
    latent_noise: Tensor
    adversarial_noise: Tensor
    augmentations: tuple[AugmentationDraw, AugmentationDraw, AugmentationDraw]
    dial: Tensor | None = None
    truth_blur_px: Tensor | None = None
    plain_share: float = 1.0

    @property
    def is_plain(self) -> Tensor:
        """[B] bool: images with the positive prompt and their own degrees, whose target is a good picture."""
        return ~self.is_negative if self.dial is None else ~self.is_negative & (self.dial == 1).all(dim=1)

    def rows(self, start: int, stop: int) -> BatchDraw:
        """Take the draw of these images."""
        taken: dict[str, Any] = {
            name: value[start:stop] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        adversarial, real, fake = (one.rows(start, stop) for one in self.augmentations)
        degradation = self.degradation.rows(start, stop)
        return replace(self, **taken, degradation=degradation, augmentations=(adversarial, real, fake))


@dataclass(frozen=True)
class Batch:
    """Hold the inputs of the phases, on the device.

    Attributes:
        low_quality: [B, 3, h, w] in [0, 1].
        image: [B, 3, H, W] in [-1, 1], the enlarged low quality.
        ground_truth: [B, 3, H, W] in [-1, 1].
        kept: [B, 3, H, W], the blur and noise that the turned degrees leave in the target of phase 1; None for none.
        drawn: the batch's random numbers.
    """

    low_quality: Tensor
    image: Tensor
    ground_truth: Tensor
    drawn: BatchDraw
    kept: Tensor | None = None


@dataclass(frozen=True)
class Pair:
    """Hold the two sides of phase 1's comparison.

    Attributes:
        result: [B, 3, H, W] in [-1, 1].
        target: the same.
        is_plain: [B] bool, see :class:`BatchDraw`.
        num_plain: number of such images, in the mean over the processes; at least 1 of the whole batch.
    """

    result: Tensor
    target: Tensor
    is_plain: Tensor
    num_plain: float


def draw_batch(config: TrainConfig, batch_size: int, generator: torch.Generator) -> BatchDraw:
    """Draw all random numbers of a batch of ``batch_size`` images; ``generator``: on the CPU."""
    data, autoencoder = config.data, config.generator.autoencoder
    preset = data.degradations[int(torch.randint(len(data.degradations), (), generator=generator))]
    settings = degradation_settings(preset, like_release=config.faults.degradation_like_release)
    side = data.crop_px // autoencoder.downscale
    latent_shape = (batch_size, autoencoder.latent_channels, side, side)
    shape = (batch_size, data.crop_px, data.crop_px, generator, config.adversarial.discriminator.augmentation)
    in_vgg = evenly_chosen(batch_size, config.loss.vgg_images)
    drawn = BatchDraw(
        degradation=draw(settings, batch_size, data.crop_px, data.crop_px, data.scale, generator),
        is_negative=torch.rand(batch_size, generator=generator) < config.negative_probability,
        in_vgg=in_vgg,
        vgg_share=float(in_vgg.double().mean()),
        latent_noise=torch.randn(latent_shape, generator=generator),
        adversarial_noise=torch.randn(latent_shape, generator=generator),
        augmentations=(
            draw_augmentation(*shape),
            draw_augmentation(*shape),
            draw_augmentation(*shape),
        ),
        dial=_draw_dial(config.dial_probability, batch_size, generator),
        truth_blur_px=_draw_truth_blur(data.truth_blur_px, batch_size, generator),
    )
    return replace(drawn, plain_share=max(1, int(drawn.is_plain.sum())) / batch_size)


def _draw_dial(probability: float, batch_size: int, generator: torch.Generator) -> Tensor | None:
    """Draw [B, 2]: each degree of the chosen images is turned with a chance of a half, from 0 to 2.

    A sixth each of the turns goes to either end, where users set the dial; the rest is drawn evenly between.
    """
    if not probability:
        return None
    drawn = torch.rand(batch_size, 2, 3, generator=generator)
    is_chosen = (drawn[:, :1, 0] < probability) & (drawn[:, :, 1] < 0.5)
    return torch.where(is_chosen, (3 * drawn[:, :, 2] - 0.5).clamp(0, 2), 1.0)


def _draw_truth_blur(span_px: tuple[float, float], batch_size: int, generator: torch.Generator) -> Tensor | None:
    """Draw [B] evenly from the lowest to the highest; None if the highest is 0."""
    lowest, highest = span_px
    if not highest:
        return None
    return lowest + (highest - lowest) * torch.rand(batch_size, generator=generator, dtype=torch.float64)


def softened(truth: Tensor, sigma_px: Tensor) -> Tensor:
    """Blur each image of ``truth`` [B, C, H, W] by a Gaussian of its ``sigma_px`` [B]."""
    radius = math.ceil(3 * MAX_TRUTH_BLUR_PX)
    kernels = gaussian_kernels(2 * radius + 1, sigma_px.clamp(min=_LEAST_SIGMA_PX))
    return filter_per_image(truth, cut_kernels(kernels, max(needed_radii(kernels))))


def evenly_chosen(batch_size: int, count: int) -> Tensor:
    """Choose ``count`` of B images at equal distances, [B] bool, so that processes share the work; 0 for all.

    The images are random already: which of them are chosen does not matter.
    """
    if not 0 < count < batch_size:
        return torch.ones(batch_size, dtype=torch.bool)
    chosen = torch.zeros(batch_size, dtype=torch.bool)
    chosen[torch.arange(count) * batch_size // count] = True
    return chosen


def make_batch(ground_truth: Tensor, drawn: BatchDraw, upsampling: Upsampling) -> Batch:
    """Degrade and enlarge on the ground truth's device; ``ground_truth``: [B, 3, H, W] uint8."""
    truth = ground_truth.float() / 255.0
    if drawn.truth_blur_px is not None:
        truth = softened(truth, drawn.truth_blur_px)
    low_quality = apply(truth, drawn.degradation)
    height, width = truth.shape[2:]
    image = to_network_range(enlarge(low_quality, height, width, mode=upsampling))
    target = to_network_range(truth)
    if drawn.dial is None or not (drawn.dial < 1).any():
        return Batch(low_quality, image, target, drawn)
    share_kept = (1 - drawn.dial).clamp(min=0).to(image)[:, :, None, None, None]
    blurred = apply(truth, drawn.degradation.without_noise())
    blurred = to_network_range(enlarge(blurred, height, width, mode=upsampling))
    kept = share_kept[:, 0] * (blurred - target) + share_kept[:, 1] * (image - blurred)
    return Batch(low_quality, image, target, drawn, kept)


def reconstruction(
    model: Model,
    batch: Batch,
    loss: ReconstructionLoss,
    generator: torch.Generator,
    *,
    pixels_alone: bool = False,
) -> tuple[dict[str, Tensor], Pair]:
    """Run phase 1 with online negative prompting; return the loss's terms, with ``total``, and the compared images.

    ``generator``: where the perceptual terms look, drawn alike in all processes. ``pixels_alone``: without those.
    """
    is_negative = batch.drawn.is_negative.to(batch.image.device)
    wanted = batch.ground_truth if batch.kept is None else batch.ground_truth + batch.kept
    target = torch.where(is_negative[:, None, None, None], batch.image, wanted)
    noise, dial = batch.drawn.latent_noise.to(batch.image.device), batch.drawn.dial
    if dial is not None:
        dial = dial.to(batch.image.device)
    result = model(batch.low_quality, batch.image, is_negative, noise, dial)
    pair = Pair(result, target, batch.drawn.is_plain.to(result.device), batch.drawn.plain_share * len(result))
    if pixels_alone:
        return loss.of_pixels(result, target), pair
    return loss(result, target, generator, batch.drawn.in_vgg.to(result.device), batch.drawn.vgg_share), pair


def paired(discriminator: nn.Module, pair: Pair) -> Tensor:
    """Compute the generator's loss by a discriminator of pixels: results shall look more real than their targets."""
    with torch.no_grad():
        target = discriminator(pair.target)
    return pairing_loss(discriminator(pair.result), target, pair.is_plain, pair.num_plain)


def discriminate_pair(discriminator: nn.Module, pair: Pair) -> Tensor:
    """Compute that discriminator's own loss: the targets shall look more real than the results."""
    logits = discriminator(torch.cat([pair.target, pair.result.detach()]))
    target, result = logits.chunk(2)
    return pairing_loss(target, result, pair.is_plain, pair.num_plain)


def adversarial(model: Model, discriminator: nn.Module, batch: Batch, real_label: float) -> tuple[Tensor, Tensor]:
    """Run phase 2: return the generator's loss, and its results without gradients for phase 3."""
    positive = torch.zeros(len(batch.image), dtype=torch.bool, device=batch.image.device)
    noise = batch.drawn.adversarial_noise.to(batch.image.device)
    result = model(batch.low_quality, batch.image, positive, noise)
    return adversarial_loss(discriminator(result, batch.drawn.augmentations[0]), real_label), result.detach()


def discriminate_real(discriminator: nn.Module, batch: Batch, real_label: float) -> Tensor:
    """Run the first half of phase 3: real pictures and their label (0.8 in S3Diff)."""
    return adversarial_loss(discriminator(batch.ground_truth, batch.drawn.augmentations[1]), real_label)


def discriminate_fake(discriminator: nn.Module, result: Tensor, batch: Batch) -> Tensor:
    """Run the second half of phase 3: the results of phase 2 and label 0."""
    return adversarial_loss(discriminator(result, batch.drawn.augmentations[2]), 0.0)


def degradation_settings(preset: str, *, like_release: bool = False) -> DegradationSettings:
    """Look the preset of that name up, with the release's faults where asked for."""
    return replace(PRESETS[preset], like_release=True) if like_release else PRESETS[preset]
