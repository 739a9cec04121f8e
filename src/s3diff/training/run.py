"""Run ``s3diff train`` and ``train-estimator``: from a recipe's name, a data set and a folder to a trained model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from s3diff.atomic_write import write_atomically
from s3diff.checkpoints.config_json import to_json
from s3diff.checkpoints.model_folder import load_model
from s3diff.checkpoints.registry import model_folder
from s3diff.degradation.application import MIN_SIDE_PX
from s3diff.degradation.settings import PRESETS
from s3diff.errors import OptionError
from s3diff.evaluation.perceptual import SMALLEST_ALEXNET_PX
from s3diff.training.config import EstimatorTrainConfig, TrainConfig
from s3diff.training.data.crops import CropDataset, check_usable
from s3diff.training.data.sources import open_source
from s3diff.training.data.storage import is_remote, local_path
from s3diff.training.estimator_trainer import EstimatorTrainer
from s3diff.training.initial_model import (
    MODEL_FOLDER,
    InitialModel,
    export_model,
    prepare_initial_model,
    require_estimator,
)
from s3diff.training.loop import StepReport, make_accelerator
from s3diff.training.recipes import compact_estimator, find_estimator_recipe, find_recipe, with_change
from s3diff.training.run_checkpoints import checkpoint_paths, require_new_run, require_run
from s3diff.training.trainer import Trainer
from s3diff.training.validation import Validation, named_pictures

_LOGGER = logging.getLogger(__name__)

_CONFIG_FILE = "config.json"
#: Folder of the estimator's own run, where the recipe trains one first.
_ESTIMATOR_RUN = "estimator"

Report = Callable[[StepReport], None]


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Hold the user's arguments.

    Attributes:
        recipe: a recipe's name or ``my_file.py:my_recipe``.
        data: ground-truth pictures: a folder, tar shards, local or remote.
        output: folder of the run.
        source: ``--from``: a model, SD-Turbo's folder, ``random``, or None.
        estimator: where the estimator comes from; None for the source's own.
        validate: ground-truth pictures to validate on; None for the held-out ones of ``data``.
        resume: go on from the newest checkpoint in ``output``.
        accept_changes: go on with another configuration.
        changes: ``field=value`` each.
        cpu: keep to the CPU.
    """

    recipe: str
    data: str
    output: Path
    source: str | None = None
    estimator: Path | None = None
    validate: str | None = None
    resume: bool = False
    accept_changes: bool = False
    changes: tuple[str, ...] = ()
    cpu: bool = False


def resolve_config(request: TrainRequest) -> TrainConfig:
    """Apply the request's changes to its recipe.

    Raises:
        OptionError: unknown recipe or field, a value of another type, or one that does not fit the others.
    """
    config = find_recipe(request.recipe)
    for change in request.changes:
        config = with_change(config, change)
    _check_degradations(config.data.degradations)
    _check_degradations((config.validation.degradation,))
    return config


def train(request: TrainRequest, report: Report | None = None) -> Path:
    """Train a recipe from start to end, or resume a run.

    Returns:
        The model folder that was written, with averaged weights.

    Raises:
        OptionError: the recipe, a field or the combination is wrong.
        PictureError: no usable picture.
        MissingExtraError: weights of a perceptual loss, of the discriminator or a package are missing.
        ModelError: the start or the checkpoint is missing, damaged or does not fit.
        Stopped: a signal ended the run after a checkpoint.
        TrainingError: the run cannot go on.
    """
    trainer = prepare_trainer(request, report)
    trainer.run(report)
    folder = request.output / MODEL_FOLDER
    if trainer.accelerator.is_main_process:
        export_model(trainer.start, trainer.model, trainer.average, folder)
    trainer.accelerator.wait_for_everyone()
    return folder


def prepare_trainer(request: TrainRequest, report: Report | None = None) -> Trainer:
    """Prepare everything before the first step; raise the errors of :func:`train` before anything is written.

    A resumed run goes on from its newest checkpoint; from its estimator's if it stopped while that was trained.
    """
    config = resolve_config(request)
    estimator_run = request.output / _ESTIMATOR_RUN
    _require_consistent(request)
    require_output_outside(request)
    if not request.resume:
        require_new_run(request.output)
        require_new_run(estimator_run)
    elif not checkpoint_paths(estimator_run):
        require_run(request.output)
    start = prepare_initial_model(config, request.source, request.estimator, request.changes)
    config = start.config
    check_consistent(config)
    accelerator = make_accelerator(cpu=request.cpu)
    with accelerator.main_process_first():  # which may have to index shards
        crops = open_crops(request.data, config)
    validation = _validation(request, config) if accelerator.is_main_process else None
    require_estimator(start)
    trainer = Trainer(
        start, crops, request.output, source=request.source, accelerator=accelerator, validation=validation
    )
    has_checkpoint = bool(checkpoint_paths(request.output))  # only a resumed run gets here with one
    if has_checkpoint:
        trainer.resume(accept_changes=request.accept_changes)
    _write_config(request, trainer)
    if not has_checkpoint and not start.has_estimator:
        _train_own_estimator(start, request, accelerator, report)
    return trainer


def _require_consistent(request: TrainRequest) -> None:
    if request.accept_changes and not request.resume:
        raise OptionError("--accept-changes belongs to --resume; leave it out to start a new run")


def require_output_outside(request: TrainRequest) -> None:
    """Refuse an output among the pictures: a resumed run would train on its own output.

    Raises:
        OptionError: the folder of the run lies inside that of the pictures, or is it.
    """
    output = request.output.resolve()
    for option, place in (("--data", request.data), ("--validate", request.validate)):
        if place is None or is_remote(place):
            continue
        folder = Path(local_path(place)).resolve()
        if folder.is_dir() and (output == folder or folder in output.parents):
            raise OptionError(
                f"--output {request.output} lies inside {option} {place}, whose pictures it would join; give a folder "
                "outside of it"
            )


def check_consistent(config: TrainConfig) -> None:
    """Refuse fields that do not fit each other, before anything is written.

    Raises:
        OptionError: the fields are named.
    """
    data, loss, multiple = config.data, config.loss, config.generator.pad_multiple
    least = MIN_SIDE_PX * data.scale
    if data.crop_px % multiple or data.crop_px % data.scale or data.crop_px < least:
        raise OptionError(
            f"data.crop_px is {data.crop_px}; give a multiple of {multiple} and of the scale {data.scale}, "
            f"{least} or more"
        )
    if config.validation.crop_px < least:
        raise OptionError(
            f"validation.crop_px is {config.validation.crop_px}; at scale {data.scale} give {least} or more"
        )
    if not any((loss.l1, loss.l2, loss.lpips_vgg, loss.lpips_alex, loss.dists)):
        raise OptionError("every weight of loss is 0, so there is nothing to learn; give one, such as loss.l2=2")
    if loss.lpips_alex and data.crop_px - loss.max_shift_px < SMALLEST_ALEXNET_PX:
        raise OptionError(
            f"loss.max_shift_px is {loss.max_shift_px} of crops of {data.crop_px} px; LPIPS needs "
            f"{SMALLEST_ALEXNET_PX} px, so give {max(0, data.crop_px - SMALLEST_ALEXNET_PX)} or less"
        )
    if (loss.lpips_vgg or loss.dists) and 0 < loss.perceptual_crop_px < SMALLEST_ALEXNET_PX:
        raise OptionError(
            f"loss.perceptual_crop_px is {loss.perceptual_crop_px}; give {SMALLEST_ALEXNET_PX} or more, or 0 for the "
            "whole crop"
        )
    if config.frozen_precision == "bfloat16" and config.precision != "bfloat16":
        raise OptionError(
            f"frozen_precision is bfloat16 and precision {config.precision}: weights in bfloat16 need a network that "
            "computes in it; change one of them"
        )


def train_estimator(request: TrainRequest, report: Report | None = None) -> Path:
    """Train a degradation estimator; ``source`` names a model folder that the result is put into, as a copy.

    Returns:
        ``estimator.safetensors``, or the model folder with the new estimator.

    Raises:
        As :func:`train`.
    """
    config = find_estimator_recipe(request.recipe)
    for change in request.changes:
        config = with_change(config, change)
    _require_consistent(request)
    require_output_outside(request)
    _check_degradations(config.data.degradations)
    if config.data.crop_px % config.data.scale:
        raise OptionError(f"data.crop_px is {config.data.crop_px}; give a multiple of the scale {config.data.scale}")
    if not request.resume:
        require_new_run(request.output)
    model = load_model(model_folder(request.source)) if request.source is not None else None
    if model is not None and model.config.estimator != config.estimator:
        raise OptionError(
            f"the model {request.source} needs an estimator of {model.config.estimator}, the recipe {config.name} "
            f"trains {config.estimator}; change the recipe's estimator to the model's"
        )
    accelerator = make_accelerator(cpu=request.cpu)
    trainer = EstimatorTrainer(config, open_crops(request.data, config), request.output, accelerator)
    if request.resume:
        trainer.resume(accept_changes=request.accept_changes)
    _write_config(request, trainer)
    trainer.run(report)
    result = request.output / MODEL_FOLDER if model is not None else request.output
    if accelerator.is_main_process:
        path = trainer.export()
        if model is None:
            result = path
        else:
            model.generator.estimator.load_state_dict(trainer.estimator.state_dict())
            model.save(result)
    accelerator.wait_for_everyone()
    return result


def _train_own_estimator(
    start: InitialModel, request: TrainRequest, accelerator: Accelerator, report: Report | None
) -> None:
    """Train a small estimator for a start from scratch, in a run of its own inside the run's folder."""
    config = start.config
    recipe = compact_estimator()
    recipe = replace(
        recipe,
        estimator=config.generator.estimator,
        data=replace(
            recipe.data,
            crop_px=min(recipe.data.crop_px, config.data.crop_px),
            held_out=config.data.held_out,
            scale=config.data.scale,
        ),
        optimiser=replace(
            recipe.optimiser, max_steps=config.estimator_steps, decay_steps=config.estimator_steps * 3 // 4
        ),
        run=replace(recipe.run, seed=config.run.seed),
    )
    folder = request.output / _ESTIMATOR_RUN
    trainer = EstimatorTrainer(recipe, open_crops(request.data, recipe), folder, accelerator)
    if request.resume:
        trainer.resume(accept_changes=request.accept_changes)
    _LOGGER.info("first the degradation estimator, %d steps", recipe.optimiser.max_steps)
    trainer.run(report)
    start.model.generator.estimator.load_state_dict(trainer.estimator.state_dict())


def open_crops(data: str, config: TrainConfig | EstimatorTrainConfig) -> CropDataset:
    """Open a run's pictures, check that one of them can be used, and take crops of them."""
    source = open_source(data, held_out=config.data.held_out)
    check_usable(source, config.data.crop_px)
    return CropDataset(
        source,
        config.data.crop_px,
        config.run.seed,
        min_detail=config.data.min_detail,
        enlargement=config.data.enlargement,
        collage_probability=config.data.collage_probability,
    )


def _validation(request: TrainRequest, config: TrainConfig) -> Validation | None:
    if request.validate is not None:
        source = open_source(request.validate)
    elif config.data.held_out:
        source = open_source(request.data)
    else:
        _LOGGER.warning("no validation: the recipe holds no pictures out; --validate names some")
        return None
    only = () if request.validate is not None else config.data.held_out
    numbers = named_pictures(source, only)
    if not numbers and request.validate is None:
        _LOGGER.warning("no validation: --data holds none of the recipe's held-out pictures; --validate names others")
        return None
    return Validation(config.validation, config.data.scale, source, numbers, request.output)


def _check_degradations(names: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in PRESETS]
    if unknown or not names:
        raise OptionError(f"degradations is {', '.join(names) or 'empty'}; give some of {', '.join(PRESETS)}")


def _write_config(request: TrainRequest, trainer: Trainer | EstimatorTrainer) -> None:
    """Write a run's description next to its results: the request, its pictures, the full configuration."""
    if not trainer.accelerator.is_main_process:
        return
    request.output.mkdir(parents=True, exist_ok=True)
    content = {
        "recipe": request.recipe,
        "data": request.data,
        "pictures": len(trainer.crops.source),
        "picture_names_sha256": trainer.pictures,
        "from": request.source,
        "config": to_json(trainer.config),
    }
    write_atomically(json.dumps(content, indent=2) + "\n", request.output / _CONFIG_FILE)
