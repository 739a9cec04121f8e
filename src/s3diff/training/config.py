"""The full configuration of a run as frozen values: a recipe returns one, a checkpoint stores it."""

from __future__ import annotations

from dataclasses import dataclass, field

from s3diff.networks.one_step_generator import GeneratorConfig
from s3diff.options import Upsampling


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a batch is made of.

    Attributes:
        crop_px: side of the square ground-truth crops; a multiple of the generator's ``pad_multiple``.
        batch_size: crops per step.
        scale: ground-truth side over low-quality side.
        degradations: names of presets of :mod:`s3diff.degradation.synthesis`; each batch takes one of them by chance.
        min_detail: crops whose luma gradient has a mean absolute value below this (levels of 255) are drawn
            again, four draws at most: skies teach little.
        held_out: names of pictures in the folder that are never trained on.
    """

    crop_px: int = 160
    batch_size: int = 8
    scale: int = 4
    degradations: tuple[str, ...] = ("s3diff",)
    min_detail: float = 2.0
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the reconstruction loss; a term of weight 0 is not computed.

    Attributes:
        l2: mean squared error on [-1, 1] (S3Diff: 2.0).
        l1: mean absolute error on [-1, 1].
        lpips_vgg: LPIPS on VGG16 features (S3Diff: 5.0).
        lpips_alex: LPIPS on AlexNet features.
        dists: DISTS (arXiv 2004.07728).
        perceptual_crop_px: the VGG terms see a random square of this side.
        vgg_images: the VGG terms see only the first so many images of the batch, which are as random as the others; 0
            for all. On a CPU they cost more than the generator.
        max_shift_px: the perceptual terms see the crop shifted by a random offset up to this many pixels. Their
            strides (2 to 16 px) would otherwise meet the same phase of the low-quality grid in every step and print
            themselves into the result.
    """

    l2: float = 2.0
    l1: float = 0.0
    lpips_vgg: float = 5.0
    lpips_alex: float = 0.0
    dists: float = 0.0
    perceptual_crop_px: int = 112
    vgg_images: int = 0
    max_shift_px: int = 15


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW and its schedule, counted in steps.

    The rate rises over ``warmup_steps``, stays, and falls to zero over the last ``decay_steps`` of ``max_steps``.
    """

    learning_rate: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    eps: float = 1e-8
    clip_norm: float = 1.0
    warmup_steps: int = 0
    decay_steps: int = 0
    max_steps: int = 50_000
    ema_decay: float = 0.999

    def rate_at(self, step: int) -> float:
        """Learning rate of the step with this number, from 0."""
        rate = self.learning_rate
        if self.warmup_steps:
            rate *= min(1.0, (step + 1) / self.warmup_steps)
        if self.decay_steps:
            rate *= min(1.0, max(0, self.max_steps - step) / self.decay_steps)
        return rate


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run of the generator's reconstruction phase.

    Attributes:
        name: the recipe's name; the model folder carries it.
        generator: shapes of the networks.
        prompt_tokens: learned prompt embeddings of this many tokens (no text encoder).
        negative_probability: share of images that get the negative prompt and the enlarged low-quality image as
            their target (S3Diff section 3.3, online negative prompting).
        upsampling: filter that enlarges the low-quality image, also the model's default.
        exported_residual: factor on the decoder's residual in the exported model. Perceptual losses overshoot on real
            photographs; a factor below 1 takes fidelity back.
        seed: seed of everything that is drawn.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines of the log.
    """

    name: str
    generator: GeneratorConfig
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    prompt_tokens: int = 4
    negative_probability: float = 0.05
    upsampling: Upsampling = "bicubic"
    exported_residual: float = 1.0
    seed: int = 0
    checkpoint_every: int = 100
    log_every: int = 20


@dataclass(frozen=True, kw_only=True)
class EstimatorTrainConfig:
    """One run of the estimator's training (MM-RealSR: rankings and anchors).

    Attributes:
        margin: of the ranking losses.
        ranking_weight: weight of both rankings.
        anchor_weight: weight of both anchors. MM-RealSR trains the estimator jointly with a restoration network at
            0.01 and 1e-4; alone, both terms weigh 1.
        crop_px: side of the ground-truth crops.
    """

    crop_px: int = 128
    batch_size: int = 4
    scale: int = 4
    margin: float = 0.05
    ranking_weight: float = 1.0
    anchor_weight: float = 1.0
    learning_rate: float = 1e-3
    max_steps: int = 350
    min_detail: float = 2.0
    held_out: tuple[str, ...] = ()
    seed: int = 0
