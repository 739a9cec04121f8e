"""Let a caller see and replace what the stages of a restoration hand on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from s3diff.errors import OptionError
from s3diff.tiling import HaloSpan

#: Called for every tile with a name of :data:`s3diff.networks.one_step_generator.STAGE_RESULTS` and that tensor; a
#: tensor of its shape that it returns is used instead. What it raises ends the work.
OnStage = Callable[[str, Tensor], Tensor | None]


class Passed(Protocol):
    """The same, inside: called with the rows and columns of the padded picture that the tensor is of too."""

    def __call__(self, name: str, tensor: Tensor, rows: HaloSpan, columns: HaloSpan) -> Tensor:
        """Return what is used."""


def unchanged(name: str, tensor: Tensor, rows: HaloSpan, columns: HaloSpan) -> Tensor:
    """Hand on what was made."""
    return tensor


def passed_to(on_stage: OnStage | None) -> Passed:
    """Make what :func:`walk` calls of a caller's function; what that one returns must fit."""
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
