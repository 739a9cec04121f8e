"""Export a run's averaged weights as a model, in memory for validation or as a folder for ``restore``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from s3diff.checkpoints.assembly import assemble
from s3diff.checkpoints.model_folder import LoadedModel, ModelDescription, StoredPrompts, save_model
from s3diff.networks.one_step_generator import OneStepGenerator
from s3diff.training.config import TrainConfig
from s3diff.training.initial_model import InitialModel
from s3diff.training.trainable import TrainableModel

#: Name of the model folder inside a run's folder.
MODEL_FOLDER = "model"


def delivered_model(start: InitialModel, model: TrainableModel, average: Mapping[str, Tensor]) -> LoadedModel:
    """Assemble the model with averaged weights, in memory; frozen float32 tensors are shared with ``model``.

    Args:
        average: averaged tensors by the model's names; may be empty.
    """
    return LoadedModel(
        folder=Path(),
        description=ModelDescription(
            name=start.config.name,
            generator=start.config.generator,
            upsampling=start.config.upsampling,
            guidance=start.config.guidance,
            is_generative=start.config.is_generative,
        ),
        generator=_delivered_generator(start.config, model, average),
        prompts=_delivered_prompts(start, model, average),
        tokenizer=start.tokenizer,
        text_encoder=start.text_encoder,
    )


def export_model(start: InitialModel, model: TrainableModel, average: Mapping[str, Tensor], folder: Path) -> Path:
    """Write the model with averaged weights as a model folder; see :func:`delivered_model`.

    Raises:
        OutputError: ``folder`` is something else than a model folder, or cannot be written.
    """
    config = start.config
    generator = _delivered_generator(config, model, average)
    is_half = config.export_precision == "float16"
    # Modulation on a base model keeps its precision: it is small, and the official layout gives it back.
    kept = model.trained_state() if config.trained == "modulation" else ()
    save_model(
        folder,
        generator,
        _delivered_prompts(start, model, average),
        name=config.name,
        upsampling=config.upsampling,
        guidance=config.guidance,
        licences=start.licences,
        is_generative=config.is_generative,
        dtype=torch.float16 if is_half else torch.float32,
        float32_names=frozenset(name.removeprefix("generator.") for name in kept),
        tokenizer=start.tokenizer,
        text_encoder=start.text_encoder,
    )
    return folder


def _delivered_generator(config: TrainConfig, model: TrainableModel, average: Mapping[str, Tensor]) -> OneStepGenerator:
    prefix = "generator."
    merged = {**model.state_dict(), **average}
    state = {name.removeprefix(prefix): value for name, value in merged.items() if name.startswith(prefix)}
    return assemble(config.generator, state, "the trained model")


def _delivered_prompts(start: InitialModel, model: TrainableModel, average: Mapping[str, Tensor]) -> StoredPrompts:
    if not model.positive.requires_grad:
        return start.prompts
    learned = {name: average.get(name, getattr(model, name)).detach() for name in ("positive", "negative")}
    # Their texts no longer say what they are.
    return replace(start.prompts, **learned, positive_text=None, negative_text=None)
