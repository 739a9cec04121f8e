"""Choose a model's device, number format and accelerations; share a device and the process's flags between calls."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from s3diff.errors import OptionError
from s3diff.networks.attention import KeysAndValues
from s3diff.networks.one_step_generator import NoiseSchedule
from s3diff.options import Precision

_DTYPES = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def available_devices() -> tuple[str, ...]:
    """List this machine's devices, best first: ``cuda``, ``mps``, ``cpu``."""
    devices = []
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return (*devices, "cpu")


def choose_device(device: str | torch.device) -> torch.device:
    """Choose the device; ``auto`` is the first of :func:`available_devices`.

    Raises:
        OptionError: this machine has no such device.
    """
    found = available_devices()
    if device == "auto":
        return torch.device(found[0])
    num_gpus = torch.cuda.device_count() if "cuda" in found else 0
    named = [name for each in found for name in ([f"cuda:{n}" for n in range(num_gpus)] if each == "cuda" else [each])]
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise OptionError(f"device is {str(device)!r}; give auto, {', '.join(named)}") from None
    if chosen.type not in found or (chosen.index or 0) >= (num_gpus if chosen.type == "cuda" else 1):
        raise OptionError(f"device {str(device)!r} is not on this machine; give auto, {', '.join(named)}")
    return chosen


def choose_dtype(
    precision: Precision, device: torch.device | None = None, schedule: NoiseSchedule | None = None
) -> torch.dtype:
    """Choose the number format of the UNet.

    ``auto`` is bfloat16 on a CPU that computes in it, for a model whose step to x0 does not multiply errors: half the
    time, and 58 dB and more to float32 with ``compact`` 2 (docs/performance.md). Elsewhere it is float32: a step from
    predicted noise multiplies errors by 14.6, and half precisions are not measured on a GPU yet.

    Args:
        device: the model's device; None checks only ``precision``.

    Raises:
        OptionError: an unknown precision.
    """
    if not isinstance(precision, str) or precision not in _DTYPES:
        raise OptionError(f"precision is {precision!r}; give {', '.join(_DTYPES)}")
    if precision == "auto" and device is not None and schedule is not None:
        is_exact_enough = schedule.prediction_type != "epsilon"
        if device.type == "cpu" and is_exact_enough and cpu_computes_in_bfloat16():
            return torch.bfloat16
    return _DTYPES[precision]


def autoencoder_dtypes(dtype: torch.dtype, schedule: NoiseSchedule) -> tuple[torch.dtype, torch.dtype]:
    """Choose the number formats of encoder and decoder for a UNet's number format.

    An error in the latent is multiplied as one in the prediction is, so where a model predicts noise the encoder stays
    in float32: rounding it to bfloat16 leaves 26 dB to the exact picture, to float16 43. Nothing multiplies the
    decoder's errors: bfloat16 leaves 48 dB and cannot overflow, which float16 might on SD-Turbo's weights.
    """
    if dtype == torch.float32:
        return dtype, dtype
    is_exact_enough = dtype == torch.bfloat16 and schedule.prediction_type != "epsilon"
    return (torch.bfloat16 if is_exact_enough else torch.float32), torch.bfloat16


def cpu_computes_in_bfloat16() -> bool:
    """Check whether the CPU multiplies in bfloat16 (AVX512-BF16); elsewhere bfloat16 is slower than float32."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.backends.mkldnn.is_available() and probe is not None and bool(probe())


_turns: dict[torch.device, threading.Lock] = {}


def turn_of(device: torch.device) -> threading.Lock:
    """Return the lock that serialises restorations on a device; other devices work at the same time.

    Args:
        device: from :func:`choose_device`; without an index, the first of its type.
    """
    # setdefault is one step for all threads.
    return _turns.setdefault(torch.device(device.type, device.index or 0), threading.Lock())


class _SharedFlags:
    """Set the process's flags for exact float32 and repeatable sums while at least one call needs them.

    The first call sets the flags and the last one restores the earlier values. A call that needs repeatable bytes sets
    the strict flags for all calls that run at the same time: these lose speed, never exactness.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before = ExitStack()
        self._num_calls, self._is_exact = 0, False

    @contextmanager
    def held(self, *, exactly: bool) -> Iterator[None]:
        with self._lock:
            if not self._num_calls or (exactly and not self._is_exact):
                self._before.enter_context(_flags(exactly=exactly))
                self._is_exact = exactly
            self._num_calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_calls -= 1
                if not self._num_calls:
                    self._before.close()


@contextmanager
def _flags(*, exactly: bool) -> Iterator[None]:
    matmul_precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=not exactly, deterministic=exactly, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul_precision)


#: Compute float32 without shortcuts; with repeatable (``exactly``) or with the fastest algorithms of cuDNN.
repeatable = _SharedFlags().held


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
        fast: compile the networks where that is possible; the first picture of a size waits for it.
    """
    channels_last, layout_reason = _channels_last(device, dtype)
    obstacle = compiler_obstacle(device) if fast else "--fast (fast=True) turns it on"
    compiled = obstacle is None
    state = "on; the first picture of every size waits for the compiler" if compiled else f"off, {obstacle}"
    cuda_graphs = compiled and device.type == "cuda"
    graphs_state = "on" if cuda_graphs else "off, they come with compiling" if device.type == "cuda" else "off, no CUDA"
    return Acceleration(
        channels_last=channels_last,
        compiled=compiled,
        cuda_graphs=cuda_graphs,
        reasons=(layout_reason, f"compiling: {state}", f"CUDA graphs: {graphs_state}"),
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
