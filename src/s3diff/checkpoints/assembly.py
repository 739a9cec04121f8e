"""Assemble a generator from a configuration and named tensors: no random start, no tensor missing or left over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from s3diff.checkpoints.weights_file import check_tensors, first_line
from s3diff.errors import ModelError
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator
from s3diff.networks.tiny_decoder import TinyDecoder

Network = TypeVar("Network", bound=torch.nn.Module)

#: Functions that compute start values and keep their first argument's shape.
_CHANGES_VALUES_ONLY = frozenset(
    ("kaiming_uniform_", "kaiming_normal_", "uniform_", "normal_", "zero_", "fill_", "copy_", "mul_", "div")
)


class _ShapesOnly(TorchFunctionMode):
    """Skip the computation of start values, which the meta device does not need.

    torch would compute them there with its Python references, whose first use imports 800 modules (2 s of CPU time).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.randn, torch.zeros, torch.ones):
            return torch.empty(*args, **(kwargs or {}))
        if func is torch.eye:
            return torch.empty(args[0], args[0])
        if getattr(func, "__name__", "") in _CHANGES_VALUES_ONLY and args and isinstance(args[0], Tensor):
            return args[0]
        return func(*args, **(kwargs or {}))


def generator_on_meta(config: GeneratorConfig, where: str) -> OneStepGenerator:
    """Build the networks without memory: only names and shapes.

    Raises:
        ModelError: the configuration describes networks that cannot be built.
    """
    return build_on_meta(lambda: OneStepGenerator(config), where)


def build_on_meta(build: Callable[[], Network], where: str) -> Network:
    """Build a network without memory.

    Raises:
        ModelError: the configuration behind it describes a network that cannot be built.
    """
    try:
        with torch.device("meta"), _ShapesOnly():
            return build()
    except (ValueError, RuntimeError, TypeError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise ModelError(
            f"{where} describes networks that cannot be built ({first_line(error)}); correct the configuration"
        ) from error


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """List the shape of every tensor that the module stores, by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def assemble(config: GeneratorConfig, state: Mapping[str, Tensor], where: str) -> OneStepGenerator:
    """Assemble a generator in eval mode from tensors by its own names, as float32 (float32 ones are not copied).

    Raises:
        ModelError: the configuration cannot be built, or a tensor is missing, unexpected or misshapen.
    """
    generator = generator_on_meta(config, where)
    check_tensors(state, shapes_of(generator), where)
    generator.load_state_dict(
        {name: tensor.detach().to(torch.float32) for name, tensor in state.items()}, strict=True, assign=True
    )
    return generator.eval()


def load_tiny_decoder() -> TinyDecoder:
    """Load the decoder in float32, on the CPU, not to be trained. The packaged weights are 8-bit floats."""
    weights = load_file(Path(str(files("s3diff") / "models" / "taesd" / "decoder.safetensors")))
    decoder = TinyDecoder()
    decoder.load_state_dict({name: value.float() for name, value in weights.items()})
    return decoder.eval().requires_grad_(False)
