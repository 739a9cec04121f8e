"""Make a run's first model: fresh networks, fresh LoRA on a base model, or a whole model; deliver its last one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from s3diff.checkpoints.assembly import assemble
from s3diff.checkpoints.convert import NEGATIVE_PROMPT, POSITIVE_PROMPT, RELEASE_LICENCES
from s3diff.checkpoints.model_folder import LoadedModel, ModelDescription, StoredPrompts, load_model
from s3diff.checkpoints.official_pickle import read_official_estimator
from s3diff.checkpoints.registry import model_folder
from s3diff.checkpoints.sd_turbo import read_sd_turbo
from s3diff.checkpoints.weights_file import check_tensors, read_safetensors
from s3diff.errors import ModelError, OptionError
from s3diff.networks.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator
from s3diff.networks.prompts import NUM_TOKENS, encode_prompts
from s3diff.training.config import TrainConfig
from s3diff.training.recipes import with_change
from s3diff.training.trainable_model import TrainableModel, fresh_prompts, initialise_from_scratch, wake_lora

_LOGGER = logging.getLogger(__name__)

#: Value of ``--from`` for fresh weights in place of a pretrained base, to measure speed.
RANDOM_BASE = "random"
#: File that ``train-estimator`` writes into its output folder.
ESTIMATOR_FILE = "estimator.safetensors"
_SCRATCH_LICENCES = ("trained from scratch by s3diff train; see MODEL_CARD.md where it is shipped",)
#: Values of each frozen tensor that its fingerprint looks at: gigabytes would take seconds.
_SAMPLES_PER_TENSOR = 64


@dataclass(frozen=True, kw_only=True)
class InitialModel:
    """Hold a run's first state.

    Attributes:
        config: the run's configuration; ``generator`` describes the networks as they are.
        model: on the CPU, float32.
        prompts: texts of the two prompts; embeddings of a learned pair change with training.
        tokenizer: folder that encodes other prompts, None where there is none.
        text_encoder: the same for the text encoder.
        licences: one line per part of the model.
        has_estimator: False where the estimator still has to be trained or given.
    """

    config: TrainConfig
    model: TrainableModel
    prompts: StoredPrompts
    tokenizer: Path | None = None
    text_encoder: Path | None = None
    licences: tuple[str, ...] = _SCRATCH_LICENCES
    has_estimator: bool = False


def prepare_initial_model(
    config: TrainConfig, source: str | None, estimator: Path | None, changes: Sequence[str] = ()
) -> InitialModel:
    """Build the model that a run starts from; deterministic for the configuration's seed.

    Args:
        source: the value of ``--from``: a model's name or folder, SD-Turbo's folder, ``random``, or None.
        estimator: a model folder, a folder of ``train-estimator`` or a ``de_net.pth``; None for the start's own.
        changes: the values of ``--set``, already applied to ``config``; networks of the source accept none.

    Raises:
        OptionError: the recipe needs a source, or takes none; a change asks for other networks than the source's.
        ModelError: the source or the estimator is missing, damaged or does not fit.
    """
    needs = {"base": "SD-Turbo's folder or a model", "model": "a model's name or folder"}
    if source is None and config.start != "scratch":
        raise OptionError(f"the recipe {config.name} does not start from scratch; give --from: {needs[config.start]}")
    if source is not None and config.start == "scratch":
        raise OptionError(f"the recipe {config.name} starts from scratch; leave --from out, or take another recipe")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        if source is None or source == RANDOM_BASE:
            start = _from_scratch(config)
        elif (Path(source) / "unet").is_dir():
            start = _from_base(config, Path(source), changes)
        else:
            start = _from_model(config, load_model(model_folder(source)), changes)
    if estimator is None:
        return start
    start.model.generator.estimator.load_state_dict(load_estimator(estimator, start.config.generator.estimator))
    return replace(start, has_estimator=True)


def load_estimator(source: Path, shape: DegradationEstimatorConfig) -> Mapping[str, Tensor]:
    """Load the tensors of a trained estimator.

    Args:
        source: a model folder, the folder of an estimator's training, or a ``de_net.pth``.
        shape: the shape that the run needs.

    Raises:
        ModelError: there is none, it is damaged, or of another shape.
    """
    if not source.is_dir():
        return read_official_estimator(source, shape)
    tensors = read_safetensors(source / ESTIMATOR_FILE)
    expected = {name: tuple(tensor.shape) for name, tensor in DegradationEstimator(shape).state_dict().items()}
    check_tensors(tensors, expected, f"the estimator in {source}, for a recipe of {shape},")
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}


def sampled_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hash every tensor's name, shape and a few values as ``sampled:...``; tells base models apart quickly."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].detach().flatten()
        step = max(1, flat.numel() // _SAMPLES_PER_TENSOR)
        digest.update(f"{name}\0{tuple(tensors[name].shape)}\0".encode())
        digest.update(flat[::step].float().cpu().contiguous().view(torch.uint8).numpy().data)
    return f"sampled:{digest.hexdigest()}"


def _from_scratch(config: TrainConfig) -> InitialModel:
    generator = OneStepGenerator(config.generator)
    if config.start == "scratch":
        initialise_from_scratch(generator)
    elif config.generator.conditioning.identity_start:
        wake_lora(generator)
    num_tokens = config.prompt_tokens if config.start == "scratch" else NUM_TOKENS
    positive, negative = fresh_prompts(num_tokens, config.generator.unet.context_channels)
    model = TrainableModel(generator, positive, negative, trained=config.trained, precision=config.precision)
    is_complete = config.start != "scratch"
    return InitialModel(
        config=config, model=model, prompts=StoredPrompts(positive, negative), has_estimator=is_complete
    )


def _from_base(config: TrainConfig, folder: Path, changes: Sequence[str]) -> InitialModel:
    """Put the configuration's ranks and conditioning on the base model's networks."""
    base = read_sd_turbo(folder)
    shapes = replace(
        config.generator,
        unet=replace(base.config.unet, lora_rank=config.generator.unet.lora_rank),
        autoencoder=replace(base.config.autoencoder, lora_rank=config.generator.autoencoder.lora_rank),
        schedule=base.config.schedule,
    )
    _require_no_change(shapes, changes)
    generator = OneStepGenerator(shapes)
    ours = generator.state_dict()
    with torch.no_grad():
        for name, tensor in base.state.items():
            ours[name].copy_(tensor)
    if config.generator.conditioning.identity_start:
        wake_lora(generator)
    texts = (POSITIVE_PROMPT, NEGATIVE_PROMPT)
    positive, negative = encode_prompts(base.tokenizer, base.text_encoder, texts).unbind(0)
    return InitialModel(
        config=_with_networks(config, shapes),
        model=TrainableModel(generator, positive, negative, trained=config.trained, precision=config.precision),
        prompts=StoredPrompts(positive, negative, *texts),
        tokenizer=base.tokenizer,
        text_encoder=base.text_encoder,
        licences=RELEASE_LICENCES,
    )


def _from_model(config: TrainConfig, loaded: LoadedModel, changes: Sequence[str]) -> InitialModel:
    prompts = loaded.prompts
    embeddings = prompts.positive, prompts.negative
    _require_no_change(loaded.config, changes)
    config = _with_networks(config, loaded.config)
    changed = {change.partition("=")[0].strip() for change in changes}
    if "upsampling" not in changed:
        config = replace(config, upsampling=loaded.upsampling)
    if "guidance" not in changed:
        config = replace(config, guidance=loaded.guidance)
    has_texts = loaded.text_encoder is not None
    model = TrainableModel(
        loaded.generator,
        *embeddings,
        trained=config.trained,
        precision=config.precision,
        keeps_prompts=has_texts,
    )
    if has_texts:
        _LOGGER.info(_what_is_trained(config, model))
    return InitialModel(
        config=replace(config, is_generative=loaded.description.is_generative),
        model=model,
        prompts=prompts,
        tokenizer=loaded.tokenizer,
        text_encoder=loaded.text_encoder,
        licences=loaded.description.licences,
        has_estimator=True,
    )


def _what_is_trained(config: TrainConfig, model: TrainableModel) -> str:
    millions = sum(tensor.numel() for tensor in model.trained_state().values()) / 1e6
    if config.trained == "modulation":
        return f"trained: LoRA, conditioning and the UNet's conv_in ({millions:.4g} M); the base and the prompts stay"
    return (
        f"trained: all weights of the base model too, but the estimator and the prompts ({millions:.4g} M); the recipe "
        "tune_lora trains what --to-official can write back"
    )


def _require_no_change(networks: GeneratorConfig, changes: Sequence[str]) -> None:
    """Refuse a ``--set`` that asks for other networks than the source has."""
    for change in changes:
        name, field = change.partition("=")[0].strip(), change.strip().removeprefix("generator.")
        if name.startswith("generator.") and with_change(networks, field) != networks:
            raise OptionError(f"--set {name}: the networks are those of --from; leave it out, or start from scratch")


def _with_networks(config: TrainConfig, shapes: GeneratorConfig) -> TrainConfig:
    if shapes != config.generator:
        _LOGGER.info("the networks are those of --from, not the recipe's")
    return replace(config, generator=shapes)


def require_estimator(start: InitialModel) -> None:
    """Refuse a start whose estimator is random, unless it is from scratch: such a run trains one first.

    Raises:
        ModelError: it was neither given nor part of the source.
    """
    if not start.has_estimator and start.config.start != "scratch":
        raise ModelError(
            f"the recipe {start.config.name} needs a trained degradation estimator; give --estimator: de_net.pth, "
            "a model folder or the output of s3diff train-estimator"
        )


#: Name of the model folder inside a run's folder.
MODEL_FOLDER = "model"


def delivered_model(start: InitialModel, model: TrainableModel, average: Mapping[str, Tensor]) -> LoadedModel:
    """Assemble the model with averaged weights, in memory; frozen float32 tensors are shared with ``model``.

    Args:
        average: averaged tensors by the model's names; may be empty.
    """
    prefix = "generator."
    merged = {**model.state_dict(), **average}
    state = {name.removeprefix(prefix): value for name, value in merged.items() if name.startswith(prefix)}
    return LoadedModel(
        folder=Path(),
        description=ModelDescription(
            name=start.config.name,
            generator=start.config.generator,
            upsampling=start.config.upsampling,
            guidance=start.config.guidance,
            licences=start.licences,
            is_generative=start.config.is_generative,
        ),
        generator=assemble(start.config.generator, state, "the trained model"),
        prompts=_delivered_prompts(start, model, average),
        tokenizer=start.tokenizer,
        text_encoder=start.text_encoder,
    )


def export_model(start: InitialModel, model: TrainableModel, average: Mapping[str, Tensor], folder: Path) -> Path:
    """Write the model with averaged weights as a model folder; see :func:`delivered_model`.

    Raises:
        OutputError: ``folder`` is something else than a model folder, or cannot be written.
    """
    is_half = start.config.export_precision == "float16"
    # Modulation on a base model keeps its precision: it is small, and the official layout gives it back.
    kept = model.trained_state() if start.config.trained == "modulation" else ()
    delivered_model(start, model, average).save(
        folder,
        dtype=torch.float16 if is_half else torch.float32,
        float32_names=frozenset(name.removeprefix("generator.") for name in kept),
    )
    return folder


def _delivered_prompts(start: InitialModel, model: TrainableModel, average: Mapping[str, Tensor]) -> StoredPrompts:
    if not model.positive.requires_grad:
        return start.prompts
    learned = {name: average.get(name, getattr(model, name)).detach() for name in ("positive", "negative")}
    # Their texts no longer say what they are.
    return replace(start.prompts, **learned, positive_text=None, negative_text=None)
