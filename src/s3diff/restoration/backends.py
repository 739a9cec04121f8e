"""Choose the backend: the package that runs the networks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from s3diff.atomic_write import write_atomically
from s3diff.errors import ModelError, OptionError, OutputError
from s3diff.messages import shown_path
from s3diff.options import Backend
from s3diff.restoration.device import choose_device
from s3diff.restoration.process_limits import processor_and_threads
from s3diff.restoration.runtime_stages import RuntimeStages, dtypes_of
from s3diff.restoration.runtimes import is_installed, require_installed

if TYPE_CHECKING:
    from s3diff.checkpoints.model_folder import LoadedModel

#: Side of the low-quality picture that backends are compared with, and how often each restores it.
_TRIAL_SIDE, _NUM_TRIALS = 64, 3
_RECORD = "faster.json"


def device_for(backend: Backend, device: str | torch.device, *, fast: bool = False) -> torch.device:
    """Choose the device for a backend; one without a device of its own runs on the CPU.

    Args:
        backend: ``auto``, ``torch``, ``openvino`` or ``onnxruntime``.
        device: ``auto`` or a torch device.
        fast: whether torch is to compile the networks.

    Raises:
        OptionError: no such backend, or it does not run there.
        MissingExtraError: it is not installed.
    """
    if backend not in get_args(Backend):
        raise OptionError(f"backend is {backend!r}; give {', '.join(get_args(Backend))}")
    if backend == "torch" or backend == "auto":  # so that mypy knows what is left
        return choose_device(device)
    if fast:
        raise OptionError(f"backend is {backend!r}, and fast (--fast) compiles torch's networks; give one of them")
    require_installed(backend, f"the backend {backend}")
    chosen = choose_device("cpu" if device == "auto" else device)
    if chosen.type != "cpu":
        raise OptionError(f"backend is {backend!r}, which runs on the CPU here; give the device cpu, not {chosen}")
    return chosen


def fastest_backend(
    kind: type[Any],
    model: LoadedModel,
    device: torch.device,
    dtype: torch.dtype,
    *,
    fast: bool,
    remark: Callable[[str], None],
) -> Literal["torch", "openvino"]:
    """Choose OpenVINO where it can run the model and was measured to be faster on this machine; measure it once.

    Args:
        kind: class whose restorations are timed, a :class:`~s3diff.restoration.restorer.Restorer`.
        model: in float32, on the CPU.
        device: where torch would run it.
        dtype: the number format of the computation.
        fast: whether torch is to compile the networks, which is not compared.
        remark: called with one line before the measurement.
    """
    is_possible = device.type == "cpu" and not fast and is_installed("openvino") and model.config.is_local
    if not is_possible or dtype not in dtypes_of("openvino"):
        return "torch"
    record = RuntimeStages(model, model.generator, "openvino", dtype, remark).folder / _RECORD
    precision = str(dtype).removeprefix("torch.")
    here = f"{processor_and_threads()} {precision}"
    measured = _read(record)
    seconds = measured.get(here)
    if not isinstance(seconds, dict) or set(seconds) != {"torch", "openvino"}:
        remark(f"measuring once whether OpenVINO is faster than torch; the result is kept in {shown_path(record)}")
        try:
            seconds = _measured(kind, model, precision, remark)
        except ModelError:  # OpenVINO cannot take these networks
            seconds = {"torch": 0.0, "openvino": 1.0}
        with suppress(OSError, OutputError):
            write_atomically(json.dumps(measured | {here: seconds}, indent=1), record)
    return "openvino" if seconds["openvino"] < seconds["torch"] else "torch"


def _measured(kind: type[Any], model: LoadedModel, precision: str, remark: Callable[[str], None]) -> dict[str, float]:
    """Measure the shortest of a few restorations with each backend, by turns, in seconds."""
    backends: tuple[Backend, ...] = ("torch", "openvino")
    models = {
        backend: kind(model, device="cpu", precision=precision, backend=backend, remark=remark) for backend in backends
    }
    picture = torch.rand(1, 3, _TRIAL_SIDE, _TRIAL_SIDE, generator=torch.Generator().manual_seed(0))
    shortest: dict[str, float] = {}
    for trial in range(_NUM_TRIALS + 1):
        for backend, each in models.items():
            started = time.perf_counter()
            each.restore_tensor(picture)
            if trial:  # the first one makes and loads the graphs
                taken = time.perf_counter() - started
                shortest[backend] = min(taken, shortest.get(backend, taken))
    return shortest


def _read(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
