"""Connect to a Ray cluster or start one on this machine, and choose its workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from s3diff.errors import OptionError, ServiceError
from s3diff.messages import counted, needing

#: Memory of a Ray started here: names and outcomes of pictures pass through it, never pixels.
_OBJECT_STORE_BYTES = 128 * 2**20
#: How often a Ray is started here: it gives up after 30 s, which a busy machine may need for more than that.
_STARTS = 4


@dataclass(frozen=True)
class Workers:
    """Describe the workers of a run.

    Attributes:
        num: largest number of workers.
        cpus: CPUs and threads of each worker.
        gpus: GPUs of each worker; workers share a GPU by fractions.
    """

    num: int
    cpus: int
    gpus: float

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{counted(self.num, 'worker')} of {self.cpus} CPU{gpus}"


def import_ray() -> Any:
    """Import Ray with its usage reports switched off.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Errors are raised; Ray's log files have the rest.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")  # a page on stdout for each worker that dies
    with needing("cluster", "clusters need the extra cluster; install it"):
        import ray
    return ray


@contextmanager
def connected(address: str | None = None, *, cpus: int | None = None, dashboard: bool = False) -> Iterator[None]:
    """Hold a connection to a cluster.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port``; None for ``RAY_ADDRESS`` or, without it, a Ray on this
            machine that ends with the connection.
        cpus: CPUs of a Ray that is started here; None for all.
        dashboard: whether a Ray that is started here has its dashboard.

    Raises:
        MissingExtraError: Ray is not installed.
        ServiceError: no cluster answers there.
    """
    ray = import_ray()
    if ray.is_initialized():  # the caller's own
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        settings |= {"num_cpus": cpus, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": dashboard}
    initialise(settings)
    try:
        yield
    finally:
        ray.shutdown()


def initialise(settings: Mapping[str, Any]) -> None:
    """Connect to a cluster, or start a Ray of this machine, again if it was too slow.

    Args:
        settings: of ``ray.init``; ``address`` is among them.

    Raises:
        MissingExtraError: Ray is not installed.
        ServiceError: no cluster answers there.
    """
    ray, address = import_ray(), settings["address"]
    for num_failed in range(1, _STARTS + 1):
        before = _children()
        try:
            with _without_stderr():
                ray.init(**settings)
            return
        except Exception as error:  # Ray raises plain ones, too
            ray.shutdown()
            _kill(_children() - before)  # Ray itself would end them with this process; until then they are busy
            reason = " ".join(str(error).split())[:300]
            if address == "local" and "timed out" in reason and num_failed < _STARTS:
                continue
            advice = "try again" if address == "local" else "start one, or leave out --address"
            raise ServiceError(f"no Ray cluster answers at {address} ({reason}); {advice}") from error


def _children() -> set[Any]:
    """List this process's own child processes."""
    import psutil  # comes with Ray

    return set(psutil.Process().children())


def _kill(processes: set[Any]) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what Ray's libraries say as they start: how they log; failures are raised."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def choose_workers(num: int | None, cpus: int | None, gpus: float | None) -> Workers:
    """Choose the number and size of workers on the connected cluster, where they are not given.

    Args:
        num: number of workers.
        cpus: CPUs of each; by default one, or with a GPU an equal share of the node's CPUs.
        gpus: GPUs of each; by default one if the cluster has any.

    Raises:
        OptionError: the cluster has no room for one such worker.
    """
    ray = import_ray()
    has = ray.cluster_resources()
    num_cpus, num_gpus = int(has.get("CPU", 0)), has.get("GPU", 0.0)
    gpus = (1.0 if num_gpus else 0.0) if gpus is None else gpus
    if cpus is None:
        cpus = max(1, min(4, int(num_cpus / (num_gpus / gpus)))) if gpus and num_gpus else 1
    fitting = min(num_cpus // cpus, int(num_gpus / gpus) if gpus else num_cpus)
    if num is None and fitting < 1:
        raise OptionError(
            f"a worker of {cpus} CPUs and {gpus:g} GPUs fits nowhere: the cluster has {num_cpus} CPUs and "
            f"{num_gpus:g} GPUs; give smaller --cpus-per-worker or --gpus-per-worker, or --workers for one that grows"
        )
    return Workers(fitting if num is None else num, cpus, gpus)


@contextmanager
def ray_errors() -> Iterator[None]:
    """Turn Ray's exceptions into one line.

    Raises:
        ServiceError: the cluster failed.
    """
    ray = import_ray()
    try:
        yield
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[-1].split())[:300] if lines else type(error).__name__
        raise ServiceError(f"the Ray cluster failed ({reason}); run the same command to go on") from error
