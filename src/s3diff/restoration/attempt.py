"""Repeat work with smaller tiles when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from s3diff.errors import PictureError
from s3diff.restoration.memory import free_cached, is_out_of_memory
from s3diff.restoration.tile_plan import TilePlan

Outcome = TypeVar("Outcome")


def attempt(
    work: Callable[[TilePlan, tuple[str, ...]], Outcome], plan: TilePlan, device: torch.device, failure: str
) -> Outcome:
    """Run ``work`` under a plan, and under the next smaller plan whenever memory runs out.

    Args:
        work: called with the plan and the notes for its result.
        plan: the first one.
        device: its cached memory is freed before the next try.
        failure: message for the case that even the smallest tiles need more memory.

    Raises:
        PictureError: ``failure``.
    """
    notes: tuple[str, ...] = ()
    smaller: TilePlan | None = plan
    while smaller is not None:
        try:
            return work(smaller, notes)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler: the error holds the frames, and they hold the memory.
        free_cached(device)
        smaller = smaller.smaller()
        notes = () if smaller is None else (f"memory ran out; restored in tiles of {smaller.tile_px} px",)
    raise PictureError(failure)
