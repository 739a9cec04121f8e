"""Recipes: functions that return a full configuration."""

from __future__ import annotations

from s3diff.networks.autoencoder import AutoencoderConfig
from s3diff.networks.degradation_conditioning import ConditioningConfig
from s3diff.networks.degradation_estimator import DegradationEstimatorConfig
from s3diff.networks.noise_schedule import NoiseSchedule
from s3diff.networks.one_step_generator import GeneratorConfig
from s3diff.networks.unet import UNetConfig
from s3diff.training.config import DataConfig, LossConfig, OptimiserConfig, TrainConfig

#: Shown in the README and used by the tests: the embedded model has not seen them.
HELD_OUT_PHOTOS = ("budgie-budgie-branch.jpg", "budgie-kitten-on-lawn.jpg")


def compact_generator() -> GeneratorConfig:
    """The embedded model's networks: the method's blocks at low-quality resolution.

    Neither spatial norms nor attention over the picture: nothing depends on the whole picture, so tiles with a halo
    are exact, and a CPU does not pay for norms. Bilinear upsamplers and a residual to the enlarged input keep the
    grid of a pixel-shuffle head away. The velocity is predicted, not the noise: with networks trained from scratch
    the factor 14.6 on the noise's error would only amplify the start.
    """
    return GeneratorConfig(
        unet=UNetConfig(
            latent_channels=16,
            block_out_channels=(64, 64, 96),
            num_heads=(2, 2, 3),
            cross_attention=(False, False, True),
            self_attention=False,
            layers_per_block=1,
            context_channels=64,
            norm="none",
            upsample="bilinear",
            lora_rank=8,
        ),
        autoencoder=AutoencoderConfig(
            latent_channels=16,
            block_out_channels=(48,),
            decoder_channels=(16, 24, 48),
            layers_per_block=1,
            pixel_unshuffle=4,
            norm="none",
            attention=False,
            upsample="bilinear",
            residual=True,
            grid_period_px=8,
            base_sharpening=0.7,
            scaling_factor=1.0,
            lora_rank=4,
        ),
        estimator=DegradationEstimatorConfig(stage_channels=(16, 32), hidden_channels=64),
        conditioning=ConditioningConfig(num_frequencies=16, hidden_channels=64, block_channels=32),
        schedule=NoiseSchedule(prediction_type="v_prediction"),
    )


def compact() -> TrainConfig:
    """The embedded model, first version: everything trained from scratch on a CPU.

    LPIPS on AlexNet alone draws double contours at edges and cannot see them itself; DISTS, on VGG features, and a
    strong pixel term take them away again. The model card tells how the shipped weights came about.
    """
    return TrainConfig(
        name="compact",
        generator=compact_generator(),
        data=DataConfig(crop_px=128, batch_size=8, degradations=("s3diff", "mild"), held_out=HELD_OUT_PHOTOS),
        loss=LossConfig(l2=0.0, l1=5.0, lpips_vgg=0.0, lpips_alex=0.3, dists=1.5, perceptual_crop_px=96, vgg_images=4),
        optimiser=OptimiserConfig(
            learning_rate=7e-4, warmup_steps=50, decay_steps=450, max_steps=1000, weight_decay=0.0, ema_decay=0.995
        ),
        exported_residual=0.5,
        checkpoint_every=50,
    )


RECIPES = {"compact": compact}
