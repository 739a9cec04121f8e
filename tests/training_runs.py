"""Small runs for the training tests: pictures, a narrow recipe, the tiny model of the goldens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from s3diff.images.files.writing import write_picture
from s3diff.images.picture import from_array
from s3diff.training.config import TrainConfig, ValidationConfig
from s3diff.training.data.crops import CropDataset
from s3diff.training.data.sources import open_source
from s3diff.training.initial_model import InitialModel, prepare_initial_model
from s3diff.training.recipes import debug
from s3diff.training.trainable_model import TrainableModel, parameter_group
from s3diff.training.trainer import Trainer


def write_photos(folder: Path, count: int = 3) -> Path:
    """Pictures of 120 x 96 px with structure, one that is too small and one that is broken."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:96, 0:120]
    for index in range(count):
        waves = np.sin(rows / (3 + index)) + np.cos(columns / (2 + index)) + random.normal(0, 0.2, rows.shape)
        pixels = np.stack([waves, -waves, waves**2], axis=-1)
        write_picture(from_array(np.clip(pixels * 40 + 128, 0, 255).astype(np.uint8)), folder / f"photo{index}.png")
    write_picture(from_array(np.zeros((20, 20, 3), np.uint8)), folder / "small.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder


def tiny_config(**changes: object) -> TrainConfig:
    """The ``debug`` recipe without its discriminator, four steps."""
    config = debug()
    config = replace(
        config,
        name="tiny",
        data=replace(config.data, held_out=()),
        adversarial=replace(config.adversarial, weight=0.0),
        optimiser=replace(config.optimiser, max_steps=4),
        validation=ValidationConfig(every=0, num_pictures=1, crop_px=64),
        run=replace(config.run, checkpoint_every=100, log_every=1),
    )
    return replace(config, **changes)


def adversarial_config(**changes: object) -> TrainConfig:
    """The same with all three phases."""
    return tiny_config(adversarial=debug().adversarial, **changes)


def make_start(config: TrainConfig) -> InitialModel:
    """A start from scratch whose estimator is random but always the same."""
    return replace(prepare_initial_model(config, None, None), has_estimator=True)


def make_trainer(config: TrainConfig, photos: Path, output: Path, **arguments: object) -> Trainer:
    """A trainer on the CPU."""
    crops = CropDataset(open_source(str(photos)), config.data.crop_px, config.run.seed)
    return Trainer(make_start(config), crops, output, **arguments)


def run_steps(trainer: Trainer, count: int) -> list[dict[str, float]]:
    """The values of the next ``count`` steps."""
    batches = trainer._batches()
    try:
        return [{name: float(value) for name, value in trainer.train_step(next(batches)).items()} for _ in range(count)]
    finally:
        batches.close()


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Every tensor that a run changes: weights, average, optimisers' moments, heads."""
    state = trainer.state()
    found = {f"model.{name}": value for name, value in state.model.items()}
    found |= {f"average.{name}": value for name, value in state.average.items()}
    found |= {f"heads.{name}": value for name, value in state.heads.items()}
    for name, optimiser in state.optimisers.items():
        for index, moments in optimiser["state"].items():
            found |= {f"{name}.{index}.{kind}": torch.as_tensor(value) for kind, value in moments.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not equal bit for bit, or missing on one side."""
    return [
        name
        for name in sorted(first.keys() | second.keys())
        if name not in first or name not in second or not torch.equal(first[name], second[name])
    ]


Steps = Callable[[Trainer, int], list[dict[str, float]]]


def gradient_norms(model: TrainableModel) -> dict[str, torch.Tensor]:
    """The L2 norm of the gradients of each group of trained parameters."""
    squares: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            group = parameter_group(name)
            squares[group] = squares.get(group, 0) + parameter.grad.detach().double().square().sum()
    return {group: square.sqrt() for group, square in squares.items()}
