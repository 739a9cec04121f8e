"""Recipes: functions that return a full configuration, one field of which ``--set field=value`` changes.

A user's own is ``my_file.py:my_recipe``.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from s3diff.checkpoints.config_json import value_from_json
from s3diff.errors import ModelError, OptionError
from s3diff.networks.autoencoder import AutoencoderConfig
from s3diff.networks.degradation_conditioning import ConditioningConfig
from s3diff.networks.degradation_estimator import DegradationEstimatorConfig
from s3diff.networks.one_step_generator import GeneratorConfig
from s3diff.networks.unet import UNetConfig
from s3diff.training.adversarial.discriminator import DiscriminatorConfig
from s3diff.training.config import (
    AdversarialConfig,
    DataConfig,
    EstimatorTrainConfig,
    LossConfig,
    OptimiserConfig,
    ReleasedFaults,
    RunConfig,
    TrainConfig,
    ValidationConfig,
)
from s3diff.user_code import is_function_of_file, load_function, told_in_one_line

#: Shown in the README and used by the tests: the embedded model has not seen them.
HELD_OUT_PHOTOS = ("budgie-budgie-branch.jpg", "budgie-kitten-on-lawn.jpg")


def paper() -> TrainConfig:
    """Train S3Diff on SD-Turbo (arXiv 2409.17058, section 4.1, and the released configuration): LoRA, three phases.

    The release's 64 crops per step came of four GPUs: fewer processes take more accumulation.
    """
    return TrainConfig(
        name="paper",
        generator=GeneratorConfig(autoencoder=AutoencoderConfig(lora_rank=16), unet=UNetConfig(lora_rank=32)),
        start="base",
        trained="modulation",
        data=DataConfig(crop_px=512, batch_size=4, accumulate=4, min_detail=0.0, num_workers=4),
        loss=LossConfig(l2=2.0, lpips_vgg=5.0, perceptual_crop_px=0),
        adversarial=AdversarialConfig(
            weight=0.5, discriminator_weight=0.5, discriminator=DiscriminatorConfig(backbone="dino")
        ),
        optimiser=OptimiserConfig(learning_rate=2e-5, max_steps=50_000),
        precision="bfloat16",
        frozen_precision="bfloat16",
    )


def as_released() -> TrainConfig:
    """``paper`` with the release's faults, for comparison; docs/training.md lists them.

    Not reproduced: gradient accumulation that mixes the phases, updates with values that are not finite, a
    ``max_train_steps`` that stops nothing, and checkpoints that cannot be resumed.
    """
    config = paper()
    return replace(
        config,
        name="as_released",
        generator=replace(config.generator, conditioning=ConditioningConfig(identity_start=False)),
        optimiser=replace(config.optimiser, ema_decay=0.0),
        faults=ReleasedFaults(
            degradation_like_release=True,
            discriminator_keeps_gradients=True,
            schedule_advances_twice=True,
            trained_weights_in_bfloat16=True,
        ),
    )


def compact_generator() -> GeneratorConfig:
    """Describe the embedded model's networks: the method's blocks at low-quality resolution.

    Norms over the channels of each pixel, only in residual branches, and no attention over the picture: nothing
    depends on the whole picture, so tiles with a halo are exact. The decoder makes a residual to the enlarged input; it
    also works at twice the input's size and ends in a pixel shuffle by 2, as one by 4 draws stairs along edges. Most
    blocks stand in the encoder and the decoder, which guidance does not double.
    """
    return GeneratorConfig(
        unet=UNetConfig(
            latent_channels=64,
            block_out_channels=(64, 64),
            num_heads=(2, 2),
            cross_attention=(False, True),
            self_attention=False,
            layers_per_block=1,
            context_channels=64,
            norm="branch",
            upsample="bilinear",
            lora_rank=8,
        ),
        autoencoder=AutoencoderConfig(
            latent_channels=64,
            block_out_channels=(64,),
            decoder_channels=(32, 64),
            layers_per_block=4,
            pixel_unshuffle=4,
            pixel_shuffle=2,
            norm="branch",
            attention=False,
            upsample="bilinear",
            residual=True,
            scaling_factor=1.0,
            lora_rank=4,
        ),
        estimator=DegradationEstimatorConfig(stage_channels=(24, 48), hidden_channels=64),
        conditioning=ConditioningConfig(num_frequencies=16, hidden_channels=64, block_channels=32),
    )


def compact() -> TrainConfig:
    """Train the embedded model's networks from scratch on a CPU, without a teacher.

    The stages behind the shipped weights are in ``benchmarks/train_compact.sh`` (docs/training.md). Half of the batches
    are degraded as real cameras do it, by blur more than by noise, and the ground truth is made as soft as theirs.
    """
    return TrainConfig(
        name="compact",
        generator=compact_generator(),
        guidance=1.0,  # more costs a third of the time and buys little (docs/compact.md)
        is_generative=False,
        data=DataConfig(
            crop_px=192,
            batch_size=2,
            degradations=("sharpened", "sharpened", "camera", "s3diff", "grainy", "mild"),
            min_detail=1.0,
            truth_blur_px=(0.4, 1.0),
            held_out=HELD_OUT_PHOTOS,
        ),
        loss=LossConfig(
            l2=0.0,
            l1=1.0,
            lpips_vgg=0.0,
            lpips_alex=0.5,
            dists=1.0,
            perceptual_from_step=7500,
            perceptual_crop_px=176,
        ),
        optimiser=OptimiserConfig(
            learning_rate=2e-4,
            betas=(0.9, 0.99),
            warmup_steps=100,
            decay_steps=2500,
            max_steps=12_000,
            weight_decay=0.0,
            ema_decay=0.998,
        ),
        validation=ValidationConfig(every=1500),
        run=RunConfig(checkpoint_every=250),
        estimator_steps=1200,
        dial_probability=0.25,
        precision="bfloat16",
    )


def tune() -> TrainConfig:
    """Train an existing model, such as the embedded one, on own photographs: all weights, a low rate, a short run."""
    config = compact()
    return replace(
        config,
        name="tuned",
        start="model",
        data=DataConfig(
            crop_px=128, batch_size=8, degradations=("camera", "camera", "s3diff", "mild"), held_out=HELD_OUT_PHOTOS
        ),
        loss=replace(
            config.loss,
            l1=5.0,
            lpips_alex=0.3,
            dists=1.5,
            perceptual_from_step=0,
            perceptual_crop_px=96,
            vgg_images=4,
        ),
        optimiser=OptimiserConfig(
            learning_rate=1e-4, warmup_steps=20, decay_steps=150, max_steps=300, weight_decay=0.0, ema_decay=0.98
        ),
        precision="float32",
    )


def tune_lora() -> TrainConfig:
    """Train released weights on own photographs: LoRA, conditioning and the UNet's ``conv_in``, nothing of the base.

    ``s3diff convert --to-official`` can write back everything it trains. No discriminator: it would have to be
    fetched and would start from nothing.
    """
    config = paper()
    return replace(
        config,
        name="tuned_lora",
        start="model",
        data=replace(config.data, batch_size=1, accumulate=4, num_workers=0, held_out=HELD_OUT_PHOTOS),
        adversarial=AdversarialConfig(),
        optimiser=OptimiserConfig(learning_rate=2e-5, warmup_steps=50, decay_steps=500, max_steps=2000, ema_decay=0.99),
        gradient_checkpointing=True,
    )


def debug() -> TrainConfig:
    """Run all three phases in seconds with nothing to fetch: a narrow ``compact``, random features to discriminate."""
    config = compact()
    networks = config.generator
    return replace(
        config,
        name="debug",
        generator=replace(
            networks,
            unet=replace(networks.unet, latent_channels=4, block_out_channels=(8, 16), num_heads=(1, 2), lora_rank=2),
            autoencoder=replace(
                networks.autoencoder,
                latent_channels=4,
                block_out_channels=(8,),
                decoder_channels=(8, 8),
                layers_per_block=1,
                lora_rank=2,
            ),
            estimator=DegradationEstimatorConfig(stage_channels=(4, 8), hidden_channels=8),
        ),
        data=DataConfig(crop_px=64, batch_size=2, held_out=HELD_OUT_PHOTOS),
        loss=LossConfig(l2=2.0, l1=1.0, lpips_vgg=0.0),
        adversarial=AdversarialConfig(
            weight=0.01, learning_rate=1e-3, discriminator=DiscriminatorConfig(backbone="random", hidden_channels=8)
        ),
        optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=2, max_steps=20, ema_decay=0.9),
        validation=ValidationConfig(every=10, num_pictures=2, crop_px=128),
        run=RunConfig(checkpoint_every=5, log_every=5),
        estimator_steps=5,
        precision="float32",
    )


def estimator() -> EstimatorTrainConfig:
    """Train the release's estimator after MM-RealSR: its shape, ranges, rate and length."""
    return EstimatorTrainConfig()


def compact_estimator() -> EstimatorTrainConfig:
    """Train the small estimator of ``compact``, on a CPU."""
    return EstimatorTrainConfig(
        name="compact_estimator",
        estimator=compact_generator().estimator,
        data=DataConfig(crop_px=128, batch_size=8, degradations=("realesrgan",), held_out=HELD_OUT_PHOTOS),
        optimiser=OptimiserConfig(
            learning_rate=1e-3, weight_decay=0.0, decay_steps=900, max_steps=1200, clip_norm=10.0, ema_decay=0.0
        ),
        run=RunConfig(checkpoint_every=50),
    )


#: Recipes of ``s3diff train`` and of ``s3diff train-estimator``.
RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "paper": paper,
    "as_released": as_released,
    "compact": compact,
    "tune": tune,
    "tune_lora": tune_lora,
    "debug": debug,
}
ESTIMATOR_RECIPES: dict[str, Callable[[], EstimatorTrainConfig]] = {
    "estimator": estimator,
    "compact_estimator": compact_estimator,
}


def find_recipe(name: str) -> TrainConfig:
    """Find the configuration of a recipe of ``s3diff train``: a name, or a user's ``my_file.py:my_recipe``.

    A user's file is run: give only files that you trust.

    Raises:
        OptionError: no such recipe, no such file or function, or one that returns something else.
    """
    return _find(name, RECIPES, TrainConfig, "s3diff train returns a TrainConfig")


def find_estimator_recipe(name: str) -> EstimatorTrainConfig:
    """Find the configuration of a recipe of ``s3diff train-estimator``."""
    wanted = "s3diff train-estimator returns an EstimatorTrainConfig"
    return _find(name, ESTIMATOR_RECIPES, EstimatorTrainConfig, wanted)


Config = TypeVar("Config")


def _find(name: str, known: Mapping[str, Callable[[], Config]], kind: type[Config], wanted: str) -> Config:
    if name in known:
        return known[name]()
    if not is_function_of_file(name):
        raise OptionError(f"recipe is {name!r}; give one of {', '.join(known)}, or your own as my_file.py:my_recipe")
    recipe = load_function("recipe", name, "that returns a TrainConfig")
    with told_in_one_line("recipe", name):
        config = recipe()
    if not isinstance(config, kind):
        raise OptionError(f"{name} returns a {type(config).__name__}; a recipe of {wanted}")
    return config


def with_change(config: Config, change: str) -> Config:
    """Change one field of a configuration by a text such as ``optimiser.learning_rate=1e-4``.

    Nested fields are named with dots; lists are written ``a,b`` or ``("a", "b")``.

    Raises:
        OptionError: no such field, or a value of another type.
    """
    path, separator, text = change.partition("=")
    if not separator:
        raise OptionError(f"--set {change!r} has no =; give FIELD=VALUE, such as loss.dists=0.5")
    changed: Config = _changed(config, path.strip().split("."), text.strip(), path.strip())
    return changed


def _changed(config: Any, names: list[str], text: str, path: str) -> Any:
    known = [field.name for field in fields(config)]
    if names[0] not in known:
        raise OptionError(f"--set {path}: there is no field {names[0]!r}; there are {', '.join(known)}")
    current = getattr(config, names[0])
    if len(names) > 1:
        if not is_dataclass(current):
            raise OptionError(f"--set {path}: {names[0]} has no fields of its own")
        return replace(config, **{names[0]: _changed(current, names[1:], text, path)})
    if is_dataclass(current):
        raise OptionError(f"--set {path}: name one of its fields: {', '.join(f.name for f in fields(current))}")
    hint = get_type_hints(type(config))[names[0]]
    try:
        value = value_from_json(hint, _as_json(text, hint), f"--set {path}")
        return replace(config, **{names[0]: value})
    except (ModelError, ValueError, TypeError) as error:  # also a value that the field's own dataclass refuses
        if isinstance(error, OptionError):
            raise
        raise OptionError(str(error) if isinstance(error, ModelError) else f"--set {path}: {error}") from None


def _as_json(text: str, hint: Any) -> Any:
    """Read a text as JSON for a field of this type; return a text that does not fit unchanged."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next(kind for kind in arguments if kind is not type(None))
        return None if text.lower() == "none" else _as_json(text, inner)
    if hint is str or origin is Literal:
        return text
    value = _evaluated(text)
    if origin is not tuple:
        return value
    if isinstance(value, str):
        value = tuple(part.strip() for part in text.split(",") if part.strip())
    items = value if isinstance(value, tuple | list) else (value,)
    return [_as_json(str(item), arguments[0]) for item in items]


def _evaluated(text: str) -> Any:
    """Evaluate a Python literal, ``true`` and ``false`` too; return any other text as it is."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
