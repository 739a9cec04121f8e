"""Hold a run's full configuration as frozen values, weights of losses included: a recipe returns one, a checkpoint
stores it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from s3diff.errors import OptionError
from s3diff.networks.degradation_estimator import DegradationEstimatorConfig
from s3diff.networks.one_step_generator import DEFAULT_GUIDANCE, GeneratorConfig
from s3diff.options import Upsampling
from s3diff.training.adversarial.discriminator import DiscriminatorConfig

#: Highest standard deviation of ``data.truth_blur_px``; the kernel's radius is three of them.
MAX_TRUTH_BLUR_PX = 2.0
#: Highest factor of ``data.enlargement``.
MAX_ENLARGEMENT = 4.0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Describe the batches.

    Attributes:
        crop_px: side of the square ground-truth crops; a multiple of the generator's ``pad_multiple``.
        batch_size: crops that a process handles at once.
        accumulate: such batches per step; a step's batch is batch_size x accumulate x the number of processes.
        scale: ground-truth side over low-quality side.
        degradations: names of presets of :mod:`s3diff.degradation.synthesis`; each batch takes one of them by chance.
        min_detail: crops whose luma gradient has a mean absolute value below this (levels of 255) are drawn
            again, four draws at most: skies teach little. Measured before a crop is enlarged.
        truth_blur_px: lowest and highest standard deviation in pixels of a Gaussian blur of the ground truth itself,
            drawn for each crop; (0, 0) for none. Photographs that were reduced from larger ones have far more in
            the finest octave than what a camera gives at full size, and a model that learns them adds it everywhere.
        enlargement: lowest and highest factor by which a crop is enlarged from a smaller window of its picture, drawn
            for each crop; (1, 1) for none. Objects get larger, edges longer and surfaces calmer, as in pictures at a
            camera's full size.
        collage_probability: of a crop with shapes over it (stripes, bars, discs) that are filled from a picture drawn
            from the whole set, and read for that: the outlines, print and even surfaces that landscapes lack. None
            where that picture cannot be used.
        held_out: names of pictures in the folder that are never trained on; they validate the run.
        num_workers: processes that decode and crop; 0 decodes in the training process.
    """

    crop_px: int = 160
    batch_size: int = 8
    accumulate: int = 1
    scale: int = 4
    degradations: tuple[str, ...] = ("s3diff",)
    min_detail: float = 2.0
    truth_blur_px: tuple[float, float] = (0.0, 0.0)
    enlargement: tuple[float, float] = (1.0, 1.0)
    collage_probability: float = 0.0
    held_out: tuple[str, ...] = ()
    num_workers: int = 0

    def __post_init__(self) -> None:
        _require_at_least("data.", self, crop_px=8, batch_size=1, accumulate=1, scale=1, num_workers=0, min_detail=0)
        if not 0 <= self.truth_blur_px[0] <= self.truth_blur_px[1] <= MAX_TRUTH_BLUR_PX:
            raise OptionError(
                f"data.truth_blur_px is {self.truth_blur_px}; give a lowest and a highest value "
                f"from 0 to {MAX_TRUTH_BLUR_PX}"
            )
        _require_share("data.collage_probability", self.collage_probability)
        if not 1 <= self.enlargement[0] <= self.enlargement[1] <= MAX_ENLARGEMENT:
            raise OptionError(
                f"data.enlargement is {self.enlargement}; give a lowest and a highest factor "
                f"from 1 to {MAX_ENLARGEMENT}"
            )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the reconstruction loss; a term of weight 0 is not computed.

    Attributes:
        l2: mean squared error on [-1, 1] (S3Diff: 2.0).
        l1: mean absolute error on [-1, 1].
        lpips_vgg: LPIPS on VGG16 features (S3Diff: 5.0).
        lpips_alex: LPIPS on AlexNet features.
        dists: DISTS (arXiv 2004.07728).
        perceptual_from_step: with which step the terms other than ``l1`` and ``l2`` begin. Networks from scratch learn
            to remove noise and blur from the pixels first, in a fraction of the time.
        perceptual_crop_px: the VGG terms see a random square of this side; 0 for the whole crop.
        vgg_images: the VGG terms see only so many images of a batch over all processes; 0 for all. On a CPU they cost
            more than the generator.
        vgg_precision: number format of the VGG terms' convolutions; their features are compared in float32.
        max_shift_px: LPIPS on AlexNet sees the crop shifted by a random offset up to this many pixels, as the random
            square of the VGG terms is. Their strides (2 to 16 px) would otherwise meet the same phase of the
            low-quality grid in every step and print themselves into the result.
    """

    l2: float = 2.0
    l1: float = 0.0
    lpips_vgg: float = 5.0
    lpips_alex: float = 0.0
    dists: float = 0.0
    perceptual_from_step: int = 0
    perceptual_crop_px: int = 112
    vgg_images: int = 0
    vgg_precision: Literal["float32", "bfloat16"] = "float32"
    max_shift_px: int = 15

    def __post_init__(self) -> None:
        _require_at_least("loss.", self, **{each.name: 0 for each in fields(self) if each.name != "vgg_precision"})


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """Describe the GAN (S3Diff section 3.4); a weight of 0 leaves phases 2 and 3 out.

    Attributes:
        weight: of the generator's adversarial loss (S3Diff: 0.5).
        discriminator_weight: of the discriminator's own losses (S3Diff: 0.5); it matters where gradients are clipped.
        discriminator: frozen features, heads, augmentation and labels.
        learning_rate: of the heads, or of the whole discriminator of ``pixels``.
        start_step: phases 2 and 3 begin with this step. With a discriminator of ``pixels`` the adversarial loss is
            added to the loss of phase 1: one pass of the generator instead of two.
    """

    weight: float = 0.0
    discriminator_weight: float = 1.0
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    learning_rate: float = 2e-5
    start_step: int = 0

    def __post_init__(self) -> None:
        _require_at_least("adversarial.", self, weight=0, discriminator_weight=0, learning_rate=0, start_step=0)


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Describe the optimiser and its schedule, counted in steps.

    The rate rises over ``warmup_steps``, stays, and falls to zero over the last ``decay_steps`` of ``max_steps`` (over
    all of them where there are fewer).

    Attributes:
        kind: ``adamw``, or ``muon`` (:mod:`s3diff.training.muon`), whose learning rates are of the same order.
        momentum: Muon's.
        clip_norm: largest norm of all gradients together.
        ema_decay: of the average of the trained weights, which the run exports; 0 for none.
        max_skipped: an update whose loss or gradients are not finite is left out; after so many in a row of one
            network the run ends.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.95
    weight_decay: float = 1e-2
    eps: float = 1e-8
    clip_norm: float = 1.0
    warmup_steps: int = 0
    decay_steps: int = 0
    max_steps: int = 50_000
    ema_decay: float = 0.999
    max_skipped: int = 10

    def __post_init__(self) -> None:
        _require_at_least("optimiser.", self, max_steps=1, warmup_steps=0, decay_steps=0, max_skipped=1)
        _require_at_least("optimiser.", self, learning_rate=0, weight_decay=0)
        for name in ("eps", "clip_norm"):
            if not getattr(self, name) > 0:
                raise OptionError(f"optimiser.{name} is {getattr(self, name)}; give a number above 0")
        if not all(0 <= value < 1 for value in (self.ema_decay, self.momentum, *self.betas)):
            raise OptionError(
                f"optimiser.betas are {self.betas}, momentum {self.momentum} and ema_decay {self.ema_decay}; "
                "give numbers from 0 to below 1"
            )

    def factor_at(self, step: int) -> float:
        """Compute the share of the learning rate in the step with this number, from 0."""
        factor = 1.0
        if self.warmup_steps:
            factor *= min(1.0, (step + 1) / self.warmup_steps)
        if self.decay_steps:
            factor *= min(1.0, max(0, self.max_steps - step) / min(self.decay_steps, self.max_steps))
        return factor


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Describe the validation, which restores known pictures by :class:`~s3diff.restoration.restorer.Restorer`.

    Attributes:
        every: steps between validations; 0 for none but the first and the last.
        num_pictures: at most so many pictures, the first by name.
        crop_px: side of the centre crop that stands for the picture.
        degradation: name of the preset that makes the low-quality pictures.
        seed: of the degradation, the same in every validation.
    """

    every: int = 500
    num_pictures: int = 8
    crop_px: int = 512
    degradation: str = "s3diff"
    seed: int = 20240917

    def __post_init__(self) -> None:
        _require_at_least("validation.", self, every=0, num_pictures=1, crop_px=32)


@dataclass(frozen=True, kw_only=True)
class ReleasedFaults:
    """Faults of the released training code, reproduced for comparison. All are off but in ``as_released``.

    Its nearly dead start is ``generator.conditioning.identity_start = False``.

    Attributes:
        degradation_like_release: resize, kind of noise, second blur and order of the last steps drawn once per batch,
            the same grey noise in all its images, exploding Poisson noise and a transposed JPEG table.
        discriminator_keeps_gradients: the adversarial phase leaves gradients in the discriminator, and the
            discriminator's next step uses them.
        schedule_advances_twice: the learning rate's schedule moves on by two steps in each.
        trained_weights_in_bfloat16: with ``precision`` bfloat16 the trained weights are rounded to it in each update.
    """

    degradation_like_release: bool = False
    discriminator_keeps_gradients: bool = False
    schedule_advances_twice: bool = False
    trained_weights_in_bfloat16: bool = False


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Describe how a run is driven; of these values only ``seed`` changes its numbers.

    Attributes:
        seed: every random number of a step is a function of this seed and the step's number.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: the last so many stay.
        log_every: steps between lines of the log.
        stop_step: end this call after the step with this number, with a checkpoint and a model, and let a later one go
            on; 0 for the run's own end.
    """

    seed: int = 0
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 20
    stop_step: int = 0

    def __post_init__(self) -> None:
        _require_at_least("run.", self, checkpoint_every=1, keep_checkpoints=1, log_every=1, stop_step=0)
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"run.seed is {self.seed}; give a whole number from 0 to {2**63 - 1}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Hold the configuration of one run.

    Attributes:
        name: the recipe's name; the model folder carries it.
        generator: shapes of the networks; a run that starts from a model takes that model's.
        start: ``scratch``: fresh networks; ``base``: fresh LoRA and conditioning on a pretrained base model, given with
            ``--from``; ``model``: a whole model, given with ``--from``.
        trained: ``everything`` except the estimator, or only the ``modulation`` as in S3Diff: LoRA factors, the UNet's
            ``conv_in``, the conditioning's layers and block IDs.
        estimator_steps: a start from scratch without a given estimator first trains one for so many steps.
        prompt_tokens: tokens of the learned prompt embeddings of a start from scratch.
        negative_probability: share of images that get the negative prompt and the enlarged low-quality image as
            their target (S3Diff section 3.3, online negative prompting).
        dial_probability: share of images that teach the dial: their degrees are turned, and their target keeps as much
            blur and noise as a turn down asks for. Without it a network may look only at the picture and ignore the
            degrees, as the paper's training leaves it free to do.
        precision: number format of the generator's computation; trained weights and optimiser state are always float32.
        frozen_precision: number format of the stored frozen weights of linear layers and convolutions.
        gradient_checkpointing: compute the blocks' activations anew in the backward pass: less memory, a third more
            time.
        upsampling: filter that enlarges the low-quality image, also the model's default.
        guidance: of the prompts when the model restores, its default; training uses one prompt for each image. A run
            that starts from a model takes that model's.
        export_precision: number format of the exported tensors.
        is_generative: whether the model can invent lost detail, which its results state; a run that starts
            from a model takes that model's.
    """

    name: str
    generator: GeneratorConfig
    start: Literal["scratch", "base", "model"] = "scratch"
    trained: Literal["everything", "modulation"] = "everything"
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    faults: ReleasedFaults = field(default_factory=ReleasedFaults)
    run: RunConfig = field(default_factory=RunConfig)
    prompt_tokens: int = 4
    estimator_steps: int = 350
    negative_probability: float = 0.05
    dial_probability: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    frozen_precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    upsampling: Upsampling = "bicubic"
    guidance: float = DEFAULT_GUIDANCE
    export_precision: Literal["float32", "float16"] = "float16"
    is_generative: bool = True

    def __post_init__(self) -> None:
        _require_share("negative_probability", self.negative_probability)
        _require_share("dial_probability", self.dial_probability)
        _require_at_least("", self, prompt_tokens=1, estimator_steps=1)


@dataclass(frozen=True, kw_only=True)
class EstimatorTrainConfig:
    """Hold the configuration of one training of the estimator (MM-RealSR: rankings and anchors).

    Attributes:
        name: the recipe's name.
        estimator: shape of the network; the default is the release's.
        data: the batches; ``degradations`` names one preset. MM-RealSR's ranges are wider than those that
            the generator trains on, so that the degrees have room at both ends.
        margin: of the ranking losses.
        ranking_weight: weight of both rankings.
        anchor_weight: weight of both anchors. MM-RealSR trains the estimator jointly with a restoration network at
            0.01 and 1e-4; without that network both terms weigh 1.
        optimiser: Adam (no weight decay) and its schedule.
        run: seed, checkpoints and logs.
    """

    name: str = "estimator"
    estimator: DegradationEstimatorConfig = field(default_factory=DegradationEstimatorConfig)
    data: DataConfig = field(
        default_factory=lambda: DataConfig(crop_px=192, batch_size=8, degradations=("realesrgan",))
    )
    margin: float = 0.05
    ranking_weight: float = 1.0
    anchor_weight: float = 1.0
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(
            learning_rate=2e-4, weight_decay=0.0, clip_norm=10.0, max_steps=70_000, ema_decay=0.0
        )
    )
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if len(self.data.degradations) != 1:
            raise OptionError(f"data.degradations is {', '.join(self.data.degradations)}; the estimator takes one")
        if self.optimiser.ema_decay:
            raise OptionError(
                f"optimiser.ema_decay is {self.optimiser.ema_decay}; the estimator's weights are not averaged, give 0"
            )


def _require_at_least(place: str, config: object, **least: int) -> None:
    """Refuse a value that is too small; ``place``: what stands before its name in the whole configuration."""
    for name, lowest in least.items():
        if getattr(config, name) < lowest:
            raise OptionError(f"{place}{name} is {getattr(config, name)}; give {lowest} or more")


def _require_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise OptionError(f"{name} is {value}; give a number from 0 to 1")
