"""A recipe's name, a folder of photographs and a folder for the run: estimator, generator, model folder."""

from __future__ import annotations

import ast
import logging
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

from s3diff.checkpoints.model_folder import StoredPrompts, load_model, save_model
from s3diff.errors import ModelError, OptionError
from s3diff.networks.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
from s3diff.training.config import EstimatorTrainConfig, TrainConfig
from s3diff.training.estimator_trainer import train_estimator
from s3diff.training.recipes import RECIPES
from s3diff.training.trainer import Trainer, averaged_model

#: Name of the model folder inside a run's folder.
MODEL_FOLDER = "model"


def train_recipe(
    recipe: str,
    data: Path,
    output: Path,
    estimator_from: Path | None = None,
    *,
    resume: bool = False,
    changes: tuple[str, ...] = (),
) -> Path:
    """Train a recipe from start to end, or go on with ``resume``.

    Args:
        recipe: a name of ``RECIPES``.
        data: folder of ground-truth pictures.
        output: folder of the run.
        estimator_from: a model folder whose estimator is used; None to train one first.
        resume: go on from ``output/checkpoint.pt``; its estimator is used.
        changes: ``field=value`` each, nested fields with dots, such as ``loss.dists=0.5``.

    Returns:
        The model folder that was written, with averaged weights.

    Raises:
        OptionError: unknown recipe or field, or a value of another type.
        PictureError: no usable picture in ``data``.
        MissingExtraError: a perceptual measure's weights are missing.
        ModelError: nothing to resume, or the checkpoint of another recipe.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if recipe not in RECIPES:
        raise OptionError(f"recipe is {recipe!r}; give one of {', '.join(RECIPES)}")
    config = RECIPES[recipe]()
    for change in changes:
        config = with_change(config, change)
    if resume or estimator_from is not None:
        shape = config.generator.estimator
        estimator = DegradationEstimator(shape) if resume else _estimator_of(estimator_from, shape)
    else:
        estimator = train_estimator(
            config.generator.estimator, data, EstimatorTrainConfig(seed=config.seed, held_out=config.data.held_out)
        )
    trainer = Trainer(config, data, output, estimator)
    if resume:
        trainer.resume(output / "checkpoint.pt")
    trainer.run()
    return export_model(trainer, output / MODEL_FOLDER)


def export_model(trainer: Trainer, folder: Path) -> Path:
    """Write the averaged weights as a model folder in float16: half the size, rounded far below a grey level."""
    model = averaged_model(trainer)
    if trainer.config.exported_residual != 1.0 and trainer.config.generator.autoencoder.residual:
        with torch.no_grad():
            for parameter in model.generator.autoencoder.decoder.conv_out.parameters():
                parameter.mul_(trainer.config.exported_residual)
    save_model(
        folder,
        model.generator,
        StoredPrompts(positive=model.positive.detach(), negative=model.negative.detach()),
        name=trainer.config.name,
        upsampling=trainer.config.upsampling,
        licences=("trained from scratch by s3diff train; see MODEL_CARD.md where it is shipped",),
        dtype=torch.float16,
    )
    return folder


def with_change(config: TrainConfig, change: str) -> TrainConfig:
    """The configuration with one field changed by a text such as ``optimiser.learning_rate=1e-4``.

    Raises:
        OptionError: no such field, or a value of another type.
    """
    path, separator, text = change.partition("=")
    if not separator:
        raise OptionError(f"--set {change!r} has no =; give FIELD=VALUE, such as loss.dists=0.5")
    return _changed(config, path.strip().split("."), text.strip(), path)


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
    try:
        return replace(config, **{names[0]: _typed(text, current, path)})
    except ValueError as error:  # a value that the field's own dataclass refuses
        raise error if isinstance(error, OptionError) else OptionError(f"--set {path}: {error}") from None


def _typed(text: str, current: Any, path: str) -> Any:
    if isinstance(current, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(current):
        raise OptionError(f"--set {path}: {text!r} is no {type(current).__name__}; it is now {current!r}")
    return value


def _estimator_of(folder: Path | None, shape: DegradationEstimatorConfig) -> DegradationEstimator:
    assert folder is not None
    model = load_model(folder)
    if model.config.estimator != shape:
        raise ModelError(f"{folder} has an estimator of another shape than the recipe's {shape}; leave --estimator out")
    return model.generator.estimator
