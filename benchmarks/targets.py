"""Figures against their limits: one sentence each, and whether all are reached."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


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
