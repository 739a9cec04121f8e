"""How long pictures take here, learned from those that were restored."""

from __future__ import annotations

import math
import threading

#: Share of the newest picture in the running mean.
_NEWEST = 0.3
#: Longest time that a client is told to wait before it asks again.
_LONGEST_WAIT_SECONDS = 300


class Pace:
    """Running means: seconds per output pixel of each model, and seconds per picture."""

    def __init__(self) -> None:
        self._per_pixel: dict[str, float] = {}
        self._per_picture: float | None = None
        self._lock = threading.Lock()

    def add(self, model: str, pixels: int, seconds: float) -> None:
        """Learn from one picture, or from a batch as one."""
        with self._lock:
            self._per_pixel[model] = _mean(self._per_pixel.get(model), seconds / max(1, pixels))
            self._per_picture = _mean(self._per_picture, seconds)

    def expected(self, model: str, pixels: int) -> float | None:
        """Seconds that a picture will probably take; None before the first one."""
        per_pixel = self._per_pixel.get(model)
        return None if per_pixel is None else per_pixel * pixels

    def seconds_of_queue(self, num_waiting: int) -> int:
        """Whole seconds after which one that was refused should come back: when half of the queue is done."""
        return max(1, min(_LONGEST_WAIT_SECONDS, math.ceil((self._per_picture or 1.0) * num_waiting / 2)))


def _mean(before: float | None, new: float) -> float:
    return new if before is None else before + _NEWEST * (new - before)
