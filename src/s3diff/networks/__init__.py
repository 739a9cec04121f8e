"""Define the method's networks as plain modules and tensor functions; nothing here downloads anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3diff.lazy_names import lazy_names

if TYPE_CHECKING:
    from s3diff.networks.autoencoder import Autoencoder, AutoencoderConfig
    from s3diff.networks.degradation_conditioning import ConditioningConfig, DegradationConditioning
    from s3diff.networks.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
    from s3diff.networks.one_step_generator import GeneratorConfig, NoiseSchedule, OneStepGenerator
    from s3diff.networks.unet import UNet, UNetConfig

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "ConditioningConfig",
    "DegradationConditioning",
    "DegradationEstimator",
    "DegradationEstimatorConfig",
    "GeneratorConfig",
    "NoiseSchedule",
    "OneStepGenerator",
    "UNet",
    "UNetConfig",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "s3diff.networks.autoencoder": ("Autoencoder", "AutoencoderConfig"),
        "s3diff.networks.degradation_conditioning": ("ConditioningConfig", "DegradationConditioning"),
        "s3diff.networks.degradation_estimator": ("DegradationEstimator", "DegradationEstimatorConfig"),
        "s3diff.networks.one_step_generator": ("GeneratorConfig", "NoiseSchedule", "OneStepGenerator"),
        "s3diff.networks.unet": ("UNet", "UNetConfig"),
    },
)
