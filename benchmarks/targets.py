"""Figures against their limits: one sentence each, and whether all are reached; and how sure a share is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

#: Of the normal distribution, for 95 %.
_QUANTILE = 1.959964


class Target(NamedTuple):
    """A figure, what it is of, and whether it is within its limit."""

    text: str
    figure: float
    reached: bool


def at_least(text: str, figure: float, limit: float) -> Target:
    return Target(f"{text}: at least {limit:g}", figure, figure >= limit)


def at_most(text: str, figure: float, limit: float) -> Target:
    return Target(f"{text}: at most {limit:g}", figure, figure <= limit)


def all_reached(targets: Iterable[Target]) -> bool:
    """Print a line for each target, and tell whether all are reached."""
    found = list(targets)
    for target in found:
        print(f"{'reached' if target.reached else 'missed '}  {target.text}; found {target.figure:.3g}")
    return all(target.reached for target in found)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson 1927); it is wide for few trials and stays inside 0 and 1."""
    if trials == 0:
        return 0.0, 1.0
    share, spread = successes / trials, _QUANTILE**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)
