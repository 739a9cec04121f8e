"""Hold a service's settings; limit its work and each client's pictures."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from s3diff.errors import OptionError, PictureTooLargeError, QuotaError
from s3diff.options import Precision

#: Names of this machine that requests to its own address may carry.
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Limit one client's pictures. Values are validated when the object is made.

    Attributes:
        waiting: pictures that wait or run at the same time; None for no limit but the service's.
        hourly: pictures accepted in any 60 minutes; None for no limit.

    Raises:
        OptionError: a value is no whole number above 0.
    """

    waiting: int | None = None
    hourly: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise OptionError(f"{each.name} is {value!r}; give a whole number above 0")


@dataclass(frozen=True)
class Client:
    """Describe the holder of a token.

    Attributes:
        name: the client's name in logs; None for no name.
        quota: limits on the client's pictures.
    """

    token: str
    name: str | None = None
    quota: Quota = Quota()

    @property
    def owner(self) -> str:
        """Return the owner's name for the client's jobs; the name reveals nothing of the token."""
        return hashlib.sha256(b"s3diff owner " + self.token.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class ServiceLimits:
    """Limit one service's work. Values are validated when the object is made.

    Attributes:
        upload_bytes: largest picture file accepted.
        upload_seconds: how long a request's body may take to arrive.
        idle_seconds: how long a body may pause, so that slow clients do not hold a place.
        uploads_at_once: pictures that may arrive at the same time.
        input_pixels: largest picture accepted, judged by its header before it is decoded.
        output_pixels: largest result.
        queue_length: jobs that may wait; beyond it a request is refused and may come back later.
        job_seconds: how long the work on one picture may take, without its waiting.
        video_frames: longest video accepted, in frames.
        video_pixels: largest result of a video, in pixels of a frame.
        video_seconds: how long the work on one video may take, without its waiting and the pictures in between.
        result_seconds: how long a job and its result are kept after its end.
        result_bytes: room for results; when it is full the oldest ones are removed. No video has a larger one.
        job_records: ended jobs remembered at most.
        batch_size: small pictures of one size that are restored together; 1 restores each of them singly.
        batch_pixels: largest output in pixels that counts as small.
        batch_wait_seconds: how long a small picture waits for others of its size.
        estimates_at_once: pictures whose degrees are estimated at the same time, in addition to the jobs.

    Raises:
        OptionError: a value is not above 0 (``batch_wait_seconds`` may be 0).
    """

    upload_bytes: int = 128 * 2**20
    upload_seconds: float = 120.0
    idle_seconds: float = 20.0
    uploads_at_once: int = 64
    input_pixels: int = 64_000_000
    output_pixels: int = 200_000_000
    queue_length: int = 32
    job_seconds: float = 600.0
    video_frames: int = 1500
    video_pixels: int = 9_000_000
    video_seconds: float = 6 * 3600.0
    result_seconds: float = 3600.0
    result_bytes: int = 2 * 2**30
    job_records: int = 1000
    batch_size: int = 8
    batch_pixels: int = 512 * 512
    batch_wait_seconds: float = 0.01
    estimates_at_once: int = 2

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            low = 0 if each.name == "batch_wait_seconds" else math.ulp(0)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not low <= value < math.inf or (each.type == "int" and value != int(value)):
                kind = "whole number" if each.type == "int" else "number"
                raise OptionError(f"{each.name} is {value!r}; give a {kind} above 0")


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """Hold the settings of a service: plain values, for a process of its own or for a replica of a cluster.

    Attributes:
        host: the address that it listens on.
        clients: who may ask; nobody for everybody.
        allowed_hosts: names that requests may carry; None for any.
        root_path: the path under which a proxy shows the service, without a slash at its end.
        with_page: whether there is the web page.
        models: names (``compact``, ``s3diff``) or model folders; the first is the default and is loaded at the start,
            the others when they are first asked for.
        device: see :class:`s3diff.Restorer`, as are ``precision`` and ``fast``.
        signing: files of the certificate and the key that sign results as Content Credentials, if their format holds
            them and the client wants a statement.
        folder: parent of the private folder for pictures and results; None for the system's temporary folder.
        job_store: a folder or address that several services share: each answers for the jobs of all, and goes on with
            those of one that has died. None keeps jobs in this process.
    """

    host: str = "127.0.0.1"
    clients: Sequence[str | Client] = ()
    allowed_hosts: frozenset[str] | None = LOOPBACK_NAMES
    root_path: str = ""
    with_page: bool = True
    models: Sequence[str | Path] = ("compact",)
    device: str = "auto"
    precision: Precision = "auto"
    fast: bool = False
    signing: tuple[str | Path, str | Path] | None = None
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    folder: str | Path | None = None
    job_store: str | None = None


def require_length(name: str, num_frames: int, limits: ServiceLimits) -> None:
    """Make sure that a video is not too long, as far as its length is known.

    Raises:
        PictureTooLargeError: it has more frames than the limit.
    """
    if num_frames > limits.video_frames:
        raise PictureTooLargeError(
            f"{name} has at least {num_frames} frames, at most {limits.video_frames} are allowed; cut it shorter"
        )


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
