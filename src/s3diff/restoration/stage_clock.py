"""Report when the stages of a restoration begin, and measure their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

#: Called with the stage (``tiles``, ``predict`` or ``frames``), the finished number and the total. Its exception ends
#: the work.
Progress = Callable[[str, int, int], None]
#: Called when a stage begins: its name, the part of the picture, counted from 0, and how many parts there are. The
#: stages are ``estimate`` and ``fold``, for every part ``prepare``, ``encode``, ``predict``, ``decode`` and ``color``,
#: at the end ``finish``.
OnBegin = Callable[[str, int, int], None]


@dataclass
class StageClock:
    """Measure the stages of one walk.

    Attributes:
        device: synchronised at the end of each stage.
        num_parts: number of the picture's parts.
        on_begin: see :data:`OnBegin`.
        seconds: time of every stage, all parts together.
        part: index of the current part.
    """

    device: torch.device
    num_parts: int
    on_begin: OnBegin | None
    seconds: dict[str, float] = field(default_factory=dict)
    part: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block."""
        if self.on_begin is not None:
            self.on_begin(name, self.part, self.num_parts)
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def shared_by(self, num_pictures: int) -> dict[str, float]:
        """Divide the seconds between the pictures of a batch, and add their ``total``."""
        shared = {name: seconds / num_pictures for name, seconds in self.seconds.items()}
        return {**shared, "total": sum(shared.values())}
