"""Report a run's parameters, memory and steps without taking a step."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from s3diff.errors import OptionError
from s3diff.training.config import TrainConfig
from s3diff.training.initial_model import prepare_initial_model, require_estimator
from s3diff.training.run import TrainRequest, check_consistent, open_crops, require_output_outside, resolve_config
from s3diff.training.trainable_model import TrainableModel, checkpoint_gradients, freeze_in_bfloat16, parameter_group

_GIB = 2**30
#: float32 copies of every trained weight besides the weight itself: gradient, two moments of AdamW (Muon has one).
_COPIES_PER_TRAINED = 3


def dry_run(request: TrainRequest) -> list[str]:
    """Describe the run for people, one fact a line: parameters, memory for one process's batch, steps of an epoch.

    Raises:
        The errors that :func:`s3diff.training.run.train` would raise at its start.
    """
    config = resolve_config(request)
    require_output_outside(request)
    start = prepare_initial_model(config, request.source, request.estimator, request.changes)
    config, model = start.config, start.model
    check_consistent(config)
    require_estimator(start)
    source = open_crops(request.data, config).source
    if config.frozen_precision == "bfloat16":
        freeze_in_bfloat16(model)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups: Counter[str] = Counter()
    for name, parameter in trained.items():
        groups[parameter_group(name)] += parameter.numel()
    num_frozen = sum(parameter.numel() for parameter in model.parameters()) - groups.total()
    copies = _COPIES_PER_TRAINED + bool(config.optimiser.ema_decay)
    weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
    weight_bytes += copies * sum(parameter.nbytes for parameter in trained.values())
    kept_bytes = activation_bytes(model, config)
    batch_size = config.data.batch_size * config.data.accumulate
    return [
        f"recipe {config.name}: {config.optimiser.max_steps:,} steps of {batch_size} crops of "
        f"{config.data.crop_px} px in one process",
        f"trained {groups.total():,} parameters: {', '.join(f'{name} {groups[name]:,}' for name in sorted(groups))}",
        f"frozen {num_frozen:,} parameters",
        f"memory about {(weight_bytes + kept_bytes) / _GIB:.2f} GiB: weights, gradients and "
        f"optimiser {weight_bytes / _GIB:.2f}, activations {kept_bytes / _GIB:.2f}; "
        "perceptual networks and the discriminator come on top",
        f"data {len(source):,} pictures: {len(source) / batch_size:.1f} steps per epoch",
    ]


def activation_bytes(model: TrainableModel, config: TrainConfig) -> int:
    """Count the bytes that autograd keeps for the backward pass of one batch; nothing is computed.

    The model moves to the meta device for it and is of no use afterwards. What bfloat16 saves is taken for half.

    Raises:
        OptionError: the crops do not fit the networks.
    """
    on_meta = model.float().to("meta")
    on_meta.precision = "float32"
    if config.gradient_checkpointing:
        checkpoint_gradients(on_meta)
    weights = {_memory(parameter) for parameter in on_meta.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _memory(tensor) not in weights:
            kept[_memory(tensor)] = tensor  # held, so that no other tensor gets the same memory
        return tensor

    side, batch = config.data.crop_px, config.data.batch_size
    low = side // config.data.scale
    latent = side // config.generator.autoencoder.downscale
    inputs = (
        torch.empty(batch, 3, low, low, device="meta"),
        torch.empty(batch, 3, side, side, device="meta"),
        torch.empty(batch, dtype=torch.bool, device="meta"),
        torch.empty(batch, config.generator.autoencoder.latent_channels, latent, latent, device="meta"),
    )
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            on_meta(*inputs)
    except RuntimeError as error:
        raise OptionError(f"crops of {side} px do not fit the networks ({error}); change data.crop_px") from error
    num_bytes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return num_bytes // 2 if config.precision == "bfloat16" else num_bytes


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
