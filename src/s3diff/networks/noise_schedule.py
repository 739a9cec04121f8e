"""Compute the method's one step of the diffusion schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

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
