"""Report a run's parameters, memory and steps without taking a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from s3diff.errors import OptionError
from s3diff.training.config import TrainConfig
from s3diff.training.data.crops import check_usable
from s3diff.training.data.sources import open_source
from s3diff.training.initial_model import prepare_initial_model, require_estimator
from s3diff.training.run import TrainRequest, check_consistent, require_output_outside, resolve_config
from s3diff.training.trainable import TrainableModel, checkpoint_gradients, freeze_in_bfloat16, parameter_group

_GIB = 2**30
#: float32 copies of every trained weight besides the weight itself: gradient, two moments of AdamW (Muon has one).
_COPIES_PER_TRAINED = 3


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """Hold the figures of a dry run.

    Attributes:
        config: the run's configuration.
        trained: number of trained parameters by group.
        num_frozen: frozen parameters.
        weight_bytes: all weights, gradients, moments and the average.
        activation_bytes: memory that the generator keeps for one backward pass of one process's batch.
        num_pictures: of the data set.
        batch_size: crops per step of one process, accumulated ones included.
    """

    config: TrainConfig
    trained: dict[str, int]
    num_frozen: int
    weight_bytes: int
    activation_bytes: int
    num_pictures: int
    batch_size: int

    def lines(self) -> list[str]:
        """Write the plan for people, one fact a line."""
        num_trained = sum(self.trained.values())
        config = self.config
        groups = ", ".join(f"{name} {count:,}" for name, count in sorted(self.trained.items()))
        return [
            f"recipe {config.name}: {config.optimiser.max_steps:,} steps of {self.batch_size} crops of "
            f"{config.data.crop_px} px in one process",
            f"trained {num_trained:,} parameters: {groups}",
            f"frozen {self.num_frozen:,} parameters",
            f"memory about {(self.weight_bytes + self.activation_bytes) / _GIB:.2f} GiB: weights, gradients and "
            f"optimiser {self.weight_bytes / _GIB:.2f}, activations {self.activation_bytes / _GIB:.2f}; "
            "perceptual networks and the discriminator come on top",
            f"data {self.num_pictures:,} pictures: {self.num_pictures / self.batch_size:.1f} steps per epoch",
        ]


def dry_run(request: TrainRequest) -> DryRun:
    """Compute the plan; raise the errors that :func:`s3diff.training.run.train` would raise at its start."""
    config = resolve_config(request)
    require_output_outside(request)
    start = prepare_initial_model(config, request.source, request.estimator, request.changes)
    config = start.config
    check_consistent(config)
    require_estimator(start)
    source = open_source(request.data, held_out=config.data.held_out)
    check_usable(source, config.data.crop_px)
    model = start.model
    if config.frozen_precision == "bfloat16":
        freeze_in_bfloat16(model)
    trained: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = parameter_group(name)
            trained[group] = trained.get(group, 0) + parameter.numel()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    trained_bytes = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    copies = _COPIES_PER_TRAINED + bool(config.optimiser.ema_decay)
    return DryRun(
        config=config,
        trained=trained,
        num_frozen=sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad),
        weight_bytes=weights + copies * trained_bytes,
        activation_bytes=activation_bytes(model, config),
        num_pictures=len(source),
        batch_size=config.data.batch_size * config.data.accumulate,
    )


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
