"""Check the shapes of networks that configurations ask for; a damaged one would build them for minutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s3diff.errors import ModelError
from s3diff.networks.modulated_lora import MAX_LORA_RANK
from s3diff.options import choices_of

#: More is no network of this kind.
MAX_BLOCKS = 16
MAX_WIDTH = 2**16
#: Lowest and highest values of the numbers that are no widths.
_LIMITS: Mapping[str, tuple[float, float]] = {
    "layers_per_block": (1, 64),
    "pixel_unshuffle": (1, 64),
    "pixel_shuffle": (1, 64),
    # Below it the square root of a float32 picture without contrast is no longer guarded; above it the norm is none.
    "norm_eps": (1e-12, 1.0),
    "scaling_factor": (1e-4, 1e4),
    "lora_rank": (0, MAX_LORA_RANK),
}


def check_shape(config: Any) -> None:
    """Check the fields of a network's configuration: texts by their ``Literal``, widths, and other numbers.

    Raises:
        ValueError: a value is not allowed.
    """
    choices = choices_of(config.__class__)
    for name in config.__dataclass_fields__:
        value = getattr(config, name)
        if name in choices:
            if value not in choices[name]:
                raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, choices[name]))}")
        elif isinstance(value, tuple):
            if not 1 <= len(value) <= MAX_BLOCKS:
                raise ValueError(f"{name} is {list(value)}; allowed: 1 to {MAX_BLOCKS} widths")
            for index, width in enumerate(value):
                _require_within(f"{name}[{index}]", width, 1, MAX_WIDTH)
        elif value is not None:
            _require_within(name, value, *_LIMITS.get(name, (1, MAX_WIDTH)))


def _require_within(name: str, value: float, lowest: float, highest: float) -> None:
    if not isinstance(value, bool) and not lowest <= value <= highest:
        raise ValueError(f"{name} is {value}; allowed: {lowest} to {highest}")


def require_divisor(name: str, divisor: int, width: int) -> None:
    """Refuse heads or groups that do not divide the width of their layer.

    Two fields at once are checked where the network is built, not where the configuration is made: ``--set`` changes
    one field after another.

    Raises:
        ModelError: a rest is left.
    """
    if width % divisor:
        raise ModelError(f"{name} is {divisor}; allowed: divisors of the width {width}")
