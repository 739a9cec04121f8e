"""Let a caller see and replace the tensors between the stages of a restoration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from s3diff.errors import OptionError
from s3diff.tiling import HaloSpan

#: Called for every tile with a name of :data:`s3diff.networks.one_step_generator.STAGE_RESULTS` and that tensor; a
#: tensor of the same shape that it returns is used instead. Its exception ends the work.
OnStage = Callable[[str, Tensor], Tensor | None]


class Passed(Protocol):
    """Call a stage hook with the tensor's rows and columns in the padded picture."""

    def __call__(self, name: str, tensor: Tensor, rows: HaloSpan, columns: HaloSpan) -> Tensor:
        """Return the tensor to use."""


def unchanged(name: str, tensor: Tensor, rows: HaloSpan, columns: HaloSpan) -> Tensor:
    """Return the tensor unchanged."""
    return tensor


def passed_to(on_stage: OnStage | None) -> Passed:
    """Make the hook that :func:`walk` calls from a caller's function; check the tensors that it returns."""
    if on_stage is None:
        return unchanged

    def passed(name: str, tensor: Tensor, rows: HaloSpan, columns: HaloSpan) -> Tensor:
        changed = on_stage(name, tensor)
        if changed is None:
            return tensor
        if not isinstance(changed, Tensor) or changed.shape != tensor.shape:
            given = list(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise OptionError(f"on_stage returned {given} for {name}; give a tensor {list(tensor.shape)}, or nothing")
        return changed.to(tensor)

    return passed
