"""Choose what makes a model faster on a device, with the reasons."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from s3diff.networks.attention import KeysAndValues

#: Lowest compute capability that torch's compiler for CUDA (Triton) supports.
_TRITON_CAPABILITY = (7, 0)


@dataclass(frozen=True, kw_only=True)
class Acceleration:
    """Hold the accelerations that are switched on for a model on a device.

    Attributes:
        channels_last: convolutions keep a pixel's channels side by side in memory.
        compiled: the networks are compiled by ``torch.compile`` when they first run.
        cuda_graphs: compiled networks are recorded and replayed, without a launch for every kernel.
        reasons: a sentence for each: on or off, and why.
    """

    channels_last: bool
    compiled: bool
    cuda_graphs: bool
    reasons: tuple[str, ...]


def choose_acceleration(device: torch.device, dtype: torch.dtype, *, fast: bool = False) -> Acceleration:
    """Choose the acceleration of networks of this number format on this device.

    Args:
        dtype: their number format.
        fast: compile the networks where that is possible; the first picture of a size waits for it.
    """
    channels_last, layout_reason = _channels_last(device, dtype)
    compiled, compile_reason = (True, "") if fast else (False, "compiling: off, --fast (fast=True) turns it on")
    if fast:
        obstacle = compiler_obstacle(device)
        compiled = obstacle is None
        state = "on; the first picture of every size waits for the compiler" if compiled else f"off, {obstacle}"
        compile_reason = f"compiling: {state}"
    cuda_graphs = compiled and device.type == "cuda"
    graphs_state = "on" if cuda_graphs else "off, they come with compiling" if device.type == "cuda" else "off, no CUDA"
    return Acceleration(
        channels_last=channels_last,
        compiled=compiled,
        cuda_graphs=cuda_graphs,
        reasons=(layout_reason, compile_reason, f"CUDA graphs: {graphs_state}"),
    )


def _channels_last(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    if device.type == "cpu":
        if torch.backends.mkldnn.is_available():
            return True, "channels last: on, oneDNN convolves so without reordering the picture"
        return False, "channels last: off, this torch has no oneDNN"
    if device.type == "cuda":
        if dtype != torch.float32:
            return True, "channels last: on, tensor cores take half precision so"
        return False, "channels last: off, cuDNN convolves float32 the other way round"
    return False, f"channels last: off, not measured on {device.type}"


def compiler_obstacle(device: torch.device) -> str | None:
    """Return why ``torch.compile`` cannot work for this device on this machine; None if it should."""
    if device.type == "mps":
        return "torch.compile is not ready for MPS"
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "it needs triton, which is not installed (on Windows: the package triton-windows)"
        if torch.cuda.get_device_capability(device) < _TRITON_CAPABILITY:
            return f"{torch.cuda.get_device_name(device)} is older than triton supports"
        return None
    compiler = "cl" if sys.platform == "win32" else "g++" if sys.platform != "darwin" else "clang++"
    if shutil.which(compiler) is None and shutil.which("clang++") is None:
        return f"it needs a C++ compiler, and there is no {compiler} on the path"
    return None


def compile_network(network: nn.Module, device: torch.device, give_up: Callable[[str], None]) -> None:
    """Let the network's ``forward`` be compiled on its first run; the module itself is changed.

    Args:
        device: the network's device; on CUDA runs are also recorded as graphs.
        give_up: called with the reason in one line if the compiler fails; the network then runs uncompiled.
    """
    network.forward = _Compiled(network.forward, device, give_up)


class _Compiled:
    """Call a compiled forward; return to the plain one if the compiler fails."""

    def __init__(self, forward: Callable[..., Tensor], device: torch.device, give_up: Callable[[str], None]) -> None:
        self._plain, self._give_up = forward, give_up
        self._on_cuda = device.type == "cuda"
        # "reduce-overhead" records CUDA graphs; elsewhere it means the same as the default.
        self._compiled: Callable[..., Tensor] | None = torch.compile(
            forward, mode="reduce-overhead" if self._on_cuda else None
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._compiled is None or not all(_is_plain(value) for value in (*args, *kwargs.values())):
            return self._plain(*args, **kwargs)
        try:
            if self._on_cuda:
                torch.compiler.cudagraph_mark_step_begin()
            result = self._compiled(*args, **kwargs)
            # A graph writes every result to the same place.
            return result.clone() if self._on_cuda else result
        except torch._dynamo.exc.TorchDynamoException as error:
            self._compiled = None
            self._give_up(f"compiling failed ({str(error).splitlines()[0][:120]}); running without it")
            return self._plain(*args, **kwargs)


def _is_plain(value: Any) -> bool:
    """Check whether a value holds only tensors; tiled features do not, and run uncompiled."""
    if isinstance(value, tuple) and not isinstance(value, KeysAndValues):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, Tensor | KeysAndValues)
