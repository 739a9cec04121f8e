"""Count each client's pictures, and refuse those beyond its quota."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from s3diff.errors import QuotaError
from s3diff.serving.limits import Quota

_HOUR_SECONDS = 3600.0
#: Proposed wait after a refusal because of waiting pictures: about the time of one picture.
_RETRY_SECONDS = 5.0


class QuotaCounter:
    """Count the pictures of each client.

    Args:
        num_live: counts the pictures of an owner that have not ended.
        clock: seconds that only grow.
    """

    def __init__(self, num_live: Callable[[str | None], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._num_live, self._clock = num_live, clock
        self._arriving: dict[str | None, int] = {}
        self._taken: dict[str | None, deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, owner: str | None, quota: Quota) -> None:
        """Check, before the upload, that one more picture would be accepted.

        Raises:
            QuotaError: the quota is used up; the message names the limit, ``retry_after_seconds`` the wait.
        """
        with self._lock:
            self._check(owner, quota)

    @contextmanager
    def taking(self, owner: str | None, quota: Quota) -> Iterator[None]:
        """Count a picture that the block accepts; one that fails there is not counted.

        Raises:
            QuotaError: see :meth:`check`.
        """
        with self._lock:
            self._check(owner, quota)
            self._arriving[owner] = self._arriving.get(owner, 0) + 1
        is_taken = False
        try:
            yield
            is_taken = True
        finally:
            with self._lock:
                self._arriving[owner] -= 1
                if is_taken and quota.hourly is not None:
                    self._taken.setdefault(owner, deque()).append(self._clock())

    def _check(self, owner: str | None, quota: Quota) -> None:
        arriving = self._arriving.get(owner, 0)
        if quota.waiting is not None and self._num_live(owner) + arriving >= quota.waiting:
            raise QuotaError(
                f"{quota.waiting} of your pictures are waiting, which is your limit; come back later", _RETRY_SECONDS
            )
        if quota.hourly is None:
            return
        taken, now = self._taken.setdefault(owner, deque()), self._clock()
        while taken and now - taken[0] >= _HOUR_SECONDS:
            taken.popleft()
        if len(taken) + arriving >= quota.hourly:
            later = _HOUR_SECONDS - (now - taken[0]) if taken else _RETRY_SECONDS
            raise QuotaError(f"{quota.hourly} pictures in an hour are your limit; come back later", later)
