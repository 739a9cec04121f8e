"""Run the method on tensors. :func:`one_step` holds the order: encode, predict for two prompts, step to x0, decode."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from s3diff.errors import ModelError
from s3diff.networks.attention import KeysAndValues
from s3diff.networks.autoencoder import Autoencoder, AutoencoderConfig, sample_gaussian
from s3diff.networks.degradation_conditioning import ConditioningConfig, DegradationConditioning
from s3diff.networks.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
from s3diff.networks.modulated_lora import Adaptation, FoldedNetwork, call_adapted
from s3diff.networks.unet import UNet, UNetConfig

MAX_TIMESTEPS = 100_000

PredictionType = Literal["epsilon", "sample", "v_prediction"]
BetaSchedule = Literal["linear", "scaled_linear"]


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """Fields of a diffusers ``scheduler_config.json`` that decide the step; the defaults are SD-Turbo's.

    Attributes:
        timestep: where the network is asked, 0 to num_train_timesteps - 1.
        prediction_type: the UNet's prediction: the noise, the clean latent or the velocity.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "scaled_linear"
    prediction_type: PredictionType = "epsilon"
    timestep: int = 999

    def __post_init__(self) -> None:
        for name, choices in (("prediction_type", PredictionType), ("beta_schedule", BetaSchedule)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(get_args(choices))}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"betas go from {self.beta_start} to {self.beta_end}; allowed: 0 < start <= end < 1")
        if not 1 <= self.num_train_timesteps <= MAX_TIMESTEPS:
            raise ValueError(f"num_train_timesteps is {self.num_train_timesteps}; allowed: 1 to {MAX_TIMESTEPS}")
        if not 0 <= self.timestep < self.num_train_timesteps:
            raise ValueError(f"timestep is {self.timestep}; allowed: 0 to {self.num_train_timesteps - 1}")
        # Computed here: torch.export can trace two numbers, and no sum over a thousand timesteps.
        if not self.factors[0] > 0:
            raise ValueError(f"nothing of the signal is left at timestep {self.timestep}; choose smaller betas")

    def alphas_cumprod(self) -> Tensor:
        """Compute the share of the signal's power that is left at each timestep, [num_train_timesteps] float32."""
        steps = self.num_train_timesteps
        if self.beta_schedule == "scaled_linear":
            betas = torch.linspace(math.sqrt(self.beta_start), math.sqrt(self.beta_end), steps, device="cpu") ** 2
        else:
            betas = torch.linspace(self.beta_start, self.beta_end, steps, device="cpu")
        return torch.cumprod(1.0 - betas, dim=0)

    @cached_property
    def factors(self) -> tuple[float, float]:
        """Compute what multiplies signal and noise at the timestep: sqrt(abar) and sqrt(1 - abar)."""
        alpha = float(self.alphas_cumprod()[self.timestep])
        return math.sqrt(alpha), math.sqrt(1.0 - alpha)

    def clean_latent(self, latent: Tensor, prediction: Tensor) -> Tensor:
        """Compute x0 from the latent z and the UNet's prediction, both [B, C, h, w], in float32.

        For noise it is (z - sqrt(1 - abar) eps) / sqrt(abar): an error in eps grows 14.6 times at t = 999.
        """
        signal, noise = self.factors
        z, predicted = latent.to(torch.float32), prediction.to(torch.float32)
        if self.prediction_type == "epsilon":
            return (z - noise * predicted) / signal
        return predicted if self.prediction_type == "sample" else signal * z - noise * predicted


#: Guidance of the release: eps = eps_negative + 1.07 (eps_positive - eps_negative).
DEFAULT_GUIDANCE = 1.07
#: What :func:`one_step` makes, in order: the encoded input, the UNet's prediction, x0 (all [B, latent_channels, h, w])
#: and the picture [B, 3, H, W] in [-1, 1].
STAGE_RESULTS = ("latent", "prediction", "clean", "decoded")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Shapes of all networks and the schedule. The defaults are the release's on SD-Turbo."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    estimator: DegradationEstimatorConfig = field(default_factory=DegradationEstimatorConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)

    @property
    def is_local(self) -> bool:
        """Whether a result's pixel depends only on nearby pixels: no norm or attention over the picture."""
        norms = (self.autoencoder.norm, self.unet.norm)
        return "group" not in norms and not self.autoencoder.attention and not self.unet.self_attention

    @property
    def pad_multiple(self) -> int:
        """Divisor, in pixels, of the enlarged input's padded sides (64 for SD-Turbo)."""
        return self.autoencoder.downscale * self.unet.downscale


class OneStepGenerator(nn.Module):
    """S3Diff: estimator, conditioning, autoencoder and UNet.

    Raises:
        ModelError: parts of the configuration do not agree.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        if config.unet.latent_channels != config.autoencoder.latent_channels:
            raise ModelError(
                f"the UNet takes {config.unet.latent_channels} latent channels, "
                f"the autoencoder makes {config.autoencoder.latent_channels}"
            )
        self.config = config
        self.estimator = DegradationEstimator(config.estimator)
        self.autoencoder = Autoencoder(config.autoencoder)
        self.unet = UNet(config.unet)
        self.conditioning = DegradationConditioning(
            config.conditioning,
            encoder_rows=self.autoencoder.encoder.num_modulation_rows,
            encoder_rank=config.autoencoder.lora_rank,
            unet_rows=self.unet.num_modulation_rows,
            unet_rank=config.unet.lora_rank,
        )

    def encode(self, image: Tensor, adaptation: Adaptation, noise: Tensor | None = None) -> Tensor:
        """Encode the enlarged, padded input.

        Args:
            image: [B, 3, H, W] in [-1, 1], sides multiples of ``config.pad_multiple``.
            adaptation: the encoder's modulations [B, rows, r, r], or its folded weights.
            noise: standard normal [B, latent_channels, h, w] to draw a sample; None for the mean.

        Returns:
            [B, latent_channels, h, w], scaled.
        """
        moments = call_adapted(self.autoencoder.encoder, adaptation, image.to(dtype_of(self.autoencoder)))
        return self.latent_from(moments, noise)

    def latent_from(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Run the second half of :meth:`encode`; ``moments``: the encoder's output."""
        mean, log_variance = self.autoencoder.latent_gaussian(moments)
        return sample_gaussian(mean, log_variance, noise) * self.config.autoencoder.scaling_factor

    def predict(
        self,
        latent: Tensor,
        context: Tensor | tuple[KeysAndValues, ...],
        adaptation: Adaptation,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise at the schedule's timestep.

        Args:
            latent: [B, latent_channels, h, w].
            context: [B, T, context_channels], or its keys and values; of two prompts with guidance, see :class:`UNet`.
            adaptation: of the UNet.
            guidance: [1], or None for one prompt.
        """
        timestep = torch.full((latent.shape[0],), self.config.schedule.timestep, device=latent.device)
        dtype = dtype_of(self.unet)
        prepared = context.to(dtype) if isinstance(context, Tensor) else context
        return call_adapted(self.unet, adaptation, latent.to(dtype), timestep, prepared, guidance=guidance)

    def predict_guided(
        self, latent: Tensor, positive: Tensor, negative: Tensor, guidance: float, adaptation: Adaptation
    ) -> Tensor:
        """Predict for both prompts in one batch, combined in float32; at guidance 1 for the positive one only.

        ``positive`` and ``negative``: [B, T, context_channels].
        """
        context = self.guidance_context(positive, negative, guidance, adaptation)
        return self.predict_in_context(latent, context, guidance, adaptation)

    def guidance_context(
        self, positive: Tensor, negative: Tensor, guidance: float, adaptation: Adaptation
    ) -> Tensor | tuple[KeysAndValues, ...]:
        """Compute what :meth:`predict_in_context` needs of the prompts: once, for every tile of a picture.

        Args:
            positive: [B, T, context_channels]; or [1, ...], for all latents.
            negative: the same; not looked at when guidance is 1.
            guidance: of the predictions to come.
            adaptation: of the predictions to come; a folded network's keys and values are computed here, and are void
                once it is folded again.
        """
        context = positive if guidance == 1.0 else torch.cat([positive, negative])
        if not isinstance(adaptation, FoldedNetwork):
            return context
        return adaptation.network.keys_and_values(context.to(dtype_of(self.unet)))

    def predict_in_context(
        self, latent: Tensor, context: Tensor | tuple[KeysAndValues, ...], guidance: float, adaptation: Adaptation
    ) -> Tensor:
        """Predict as :meth:`predict_guided`, with what :meth:`guidance_context` made. Returns float32."""
        num_prompts = 1 if guidance == 1.0 else 2
        if isinstance(context, Tensor) and len(context) != num_prompts * len(latent):
            context = context.repeat_interleave(num_prompts * len(latent) // len(context), dim=0)
        weight = None if num_prompts == 1 else torch.tensor([float(guidance)], device=latent.device)
        return self.predict(latent, context, adaptation, weight).to(torch.float32)

    def decode(self, latent: Tensor, image: Tensor) -> Tensor:
        """Decode a clean, scaled ``latent`` to [B, 3, H, W] in [-1, 1], float32; ``image``: the enlarged input."""
        return self.picture_from(self.autoencoder.decode(latent.to(dtype_of(self.autoencoder))), image)

    def picture_from(self, decoded: Tensor, image: Tensor) -> Tensor:
        """Run the second half of :meth:`decode`; ``decoded``: the decoder's output."""
        decoded = decoded.to(torch.float32)
        if self.config.autoencoder.residual:
            decoded = decoded + image.to(torch.float32)
        return decoded.clamp(-1.0, 1.0)

    def forward(
        self,
        image: Tensor,
        degrees: Tensor,
        positive: Tensor,
        negative: Tensor,
        *,
        guidance: float = DEFAULT_GUIDANCE,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Restore with per-sample modulation; shapes as in the stages. Returns [B, 3, H, W] in [-1, 1]."""
        for_encoder, for_unet = self.conditioning(degrees)
        context = self.guidance_context(positive, negative, guidance, for_unet)
        return self.restore(image, for_encoder, for_unet, context, guidance=guidance, noise=noise)

    def restore(
        self,
        image: Tensor,
        for_encoder: Adaptation,
        for_unet: Adaptation,
        context: Tensor | tuple[KeysAndValues, ...],
        *,
        guidance: float,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Run the stages in their order, given the modulations and the prompts' context.

        Args:
            image: [B, 3, H, W] in [-1, 1], the enlarged, padded input.
            for_encoder: the encoder's modulations or folded weights.
            for_unet: the UNet's.
            context: from :meth:`guidance_context`; for guidance 1, one prompt [B, T, context_channels] per image.
            guidance: the weight of the positive prompt's prediction; 1 for only that prediction.
            noise: standard normal of the latent's shape to draw a sample; None for the mean.

        Returns:
            [B, 3, H, W] float32 in [-1, 1].
        """
        predict = partial(self.predict_in_context, context=context, guidance=guidance, adaptation=for_unet)
        return one_step(self, image, for_encoder, predict, noise)


class Stages(Protocol):
    """Define the interface of a generator's encoder and decoder, also in tiles."""

    @property
    def config(self) -> GeneratorConfig: ...

    def encode(self, image: Tensor, adaptation: Adaptation, noise: Tensor | None = None) -> Tensor:
        """See :meth:`OneStepGenerator.encode`."""

    def decode(self, latent: Tensor, image: Tensor) -> Tensor:
        """See :meth:`OneStepGenerator.decode`."""


def one_step(
    stages: Stages,
    image: Tensor,
    adaptation: Adaptation,
    predict: Callable[[Tensor], Tensor],
    noise: Tensor | None = None,
    timed: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    passed: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor,
) -> Tensor:
    """Encode, predict, take the one step to the clean latent, decode: the order for restoring and for training.

    Args:
        stages: encode and decode.
        image: [B, 3, H, W] in [-1, 1], the enlarged, padded input.
        adaptation: of the encoder.
        predict: gives the UNet's prediction for the latent, for one prompt or guided by two.
        timed: called with each stage's name, ``encode``, ``predict`` and ``decode``; the stage runs inside.
        passed: called with a name of :data:`STAGE_RESULTS` and that tensor; its result is used instead.

    Returns:
        [B, 3, H, W] in [-1, 1].
    """
    with timed("encode"):
        latent = passed("latent", stages.encode(image, adaptation, noise))
    with timed("predict"):
        prediction = passed("prediction", predict(latent))
    with timed("decode"):
        clean = passed("clean", stages.config.schedule.clean_latent(latent, prediction))
        return passed("decoded", stages.decode(clean, image))


def dtype_of(network: nn.Module) -> torch.dtype:
    """Find the number format of a network's weights."""
    return next(network.parameters()).dtype
