"""Which device and number format a model runs with."""

from __future__ import annotations

import torch

from s3diff.errors import OptionError
from s3diff.options import Precision

_DTYPES = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def available_devices() -> tuple[str, ...]:
    """Devices of this machine, best first: ``cuda``, ``mps``, ``cpu``."""
    devices = []
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return (*devices, "cpu")


def choose_device(device: str | torch.device) -> torch.device:
    """``auto`` is the first of :func:`available_devices`.

    Raises:
        OptionError: no such device on this machine.
    """
    found = available_devices()
    if device == "auto":
        return torch.device(found[0])
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise OptionError(f"device is {str(device)!r}; give auto, {', '.join(found)}") from None
    num_devices = torch.cuda.device_count() if chosen.type == "cuda" else 1
    if chosen.type not in found or (chosen.index or 0) >= num_devices:
        raise OptionError(f"device {str(device)!r} is not on this machine; give auto, {', '.join(found)}")
    return chosen


def choose_dtype(precision: Precision) -> torch.dtype:
    """``auto`` is float32: half precisions are not measured on a GPU yet, and x0 multiplies their errors by 14.6.

    Raises:
        OptionError: an unknown precision.
    """
    if not isinstance(precision, str) or precision not in _DTYPES:
        raise OptionError(f"precision is {precision!r}; give {', '.join(_DTYPES)}")
    return _DTYPES[precision]
