"""Run the service of ``s3diff serve`` in replicas on a Ray cluster (Ray Serve): the same application in each of them.

Ray starts replicas, passes requests on and starts a dead one again; jobs and results lie where all replicas see them
(:mod:`s3diff.serving.shared_jobs`), so that any replica answers for any job.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from s3diff.errors import OptionError, ServiceError
from s3diff.integrations.ray.cluster import import_ray, ray_errors
from s3diff.integrations.ray.proxy import IMPORT_PATH, VARIABLE
from s3diff.serving.assembly import ServiceSettings, make_app, make_service
from s3diff.serving.limits import ServiceLimits

#: The application's name in Ray Serve.
APPLICATION = "s3diff"
#: Requests at one replica at the same time; most of them wait for a job's end.
_MOST_REQUESTS = 1000
#: How often Ray asks a replica whether it works, and how long the answer may take on a machine that is busy.
_HEALTH_SECONDS, _HEALTH_PATIENCE_SECONDS = 5.0, 60.0
_PROXY_PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60"}
#: Beyond its grace a replica may take so long to end.
_END_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """The replicas of a service.

    Attributes:
        num: how many; ``auto`` for as many as the requests need, up to ``most``.
        most: of ``auto``.
        cpus: of each; also its threads.
        gpus: of each; a part of one is shared.
        grace_seconds: time of a stopped replica to finish running pictures; the others take over the rest.
    """

    num: int | Literal["auto"] = "auto"
    most: int = 8
    cpus: float = 1
    gpus: float = 0
    grace_seconds: float = 30.0


class Replica:
    """One service; Ray Serve calls it.

    Raises:
        S3DiffError: it cannot be started.
    """

    def __init__(self, settings: ServiceSettings, replicas: Replicas) -> None:
        from s3diff.restoration.process_limits import set_threads
        from s3diff.serving.logs import set_up_logs

        set_up_logs()
        set_threads(max(1, int(replicas.cpus)))
        self._settings, self._grace = settings, replicas.grace_seconds
        self._service = make_service(settings).start()

    def __serve_build_asgi_app__(self) -> Any:
        """Make the application, for Ray Serve."""
        return make_app(self._settings, self._service)

    def check_health(self) -> None:
        """Tell Ray Serve whether the replica works; one that does not is started again.

        Raises:
            ServiceError: it does not.
        """
        if not self._service.is_alive:
            raise ServiceError("the service's threads have ended")

    def __del__(self) -> None:
        """Finish running pictures and leave the rest to the other replicas, when Ray Serve stops this one."""
        service = self.__dict__.pop("_service", None)
        if service is not None:
            service.close(self._grace)


def application(settings: ServiceSettings, replicas: Replicas) -> Any:
    """Make the application for ``ray.serve.run``.

    Raises:
        OptionError: the replicas would share no jobs.
        MissingExtraError: Ray is not installed.
    """
    import_ray()
    from ray import serve

    if settings.job_store is None:
        raise OptionError("replicas need a place for jobs that all of them see; give --job-store FOLDER or an address")
    number: dict[str, Any] = {"num_replicas": replicas.num}
    if replicas.num == "auto":
        busy = {"target_ongoing_requests": settings.limits.batch_size}
        number = {"autoscaling_config": {"min_replicas": 1, "max_replicas": replicas.most, **busy}}
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=APPLICATION,
        **number,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        max_ongoing_requests=_MOST_REQUESTS,
        health_check_period_s=_HEALTH_SECONDS,
        health_check_timeout_s=_HEALTH_PATIENCE_SECONDS,
        graceful_shutdown_timeout_s=replicas.grace_seconds + _END_SECONDS,
    )
    return deployment.bind(settings, replicas)


def build(arguments: dict[str, Any]) -> Any:
    """Make the application of a Ray Serve configuration: ``import_path: s3diff.integrations.ray.serving:build``.

    Args:
        arguments: see :func:`read_arguments`.

    Raises:
        OptionError: see :func:`read_arguments`.
    """
    return application(*read_arguments(arguments))


def read_arguments(arguments: Mapping[str, Any]) -> tuple[ServiceSettings, Replicas]:
    """Read the ``args`` of a Ray Serve configuration.

    Args:
        arguments: fields of :class:`ServiceSettings`, :class:`ServiceLimits` and :class:`Replicas`. ``tokens``, by
            default those of ``S3DIFF_TOKEN``, stand for ``clients``; ``no_auth: true`` lets everybody in.

    Raises:
        OptionError: a name or value that is none of theirs, or there is no token.
    """
    given = {"tokens": os.environ.get("S3DIFF_TOKEN", "").split(), "allowed_hosts": None, **arguments}
    given["clients"] = tuple(given.pop("tokens"))
    if not given["clients"] and not given.pop("no_auth", False):
        raise OptionError("no token is given; set S3DIFF_TOKEN or tokens, or no_auth: true to let everybody in")
    if given["allowed_hosts"] is not None:
        given["allowed_hosts"] = frozenset(given["allowed_hosts"])
    taken: list[Any] = []
    for kind in (ServiceLimits, Replicas, ServiceSettings):
        names = {field.name for field in fields(kind)} & given.keys()
        taken.append(kind(**{name: given.pop(name) for name in names}))
    if given:
        raise OptionError(f"{', '.join(sorted(given))} is no argument of the service; see ServiceSettings")
    limits, replicas, settings = taken
    return replace(settings, limits=limits), replicas


def serve_until(
    settings: ServiceSettings,
    replicas: Replicas,
    *,
    port: int,
    is_over: threading.Event | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Serve on the connected cluster; every machine of it that has a replica listens.

    Args:
        is_over: ends it; None for an interruption.
        on_start: called when requests are answered.

    Raises:
        OptionError: see :func:`application`; or Ray Serve listens at another port already.
        ServiceError: no replica could be started.
    """
    app = application(settings, replicas)
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # the address is told once, by on_start
    try:
        with ray_errors():
            serve.start(proxy_location="EveryNode", http_options={"host": settings.host, "port": port})
            serve.run(app, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        with suppress(Exception):  # the reason is printed already
            serve.delete(APPLICATION)
        raise ServiceError(f"no replica could be started ({_reason(str(error).splitlines())})") from error
    try:
        on_start()
        (is_over or threading.Event()).wait()
    finally:
        serve.delete(APPLICATION)


def prepare() -> None:
    """Set up Ray Serve for a Ray that is started by this process: what its proxies do besides passing requests on, and
    how long it waits for them on a machine that is busy with pictures.
    """
    for name, value in {VARIABLE: IMPORT_PATH, **_PROXY_PATIENCE}.items():
        os.environ.setdefault(name, value)


def _reason(lines: Sequence[str]) -> str:
    told = [" ".join(line.split()) for line in lines if "Error" in line]
    return (told or [" ".join(line.split()) for line in lines] or ["no reason is told"])[-1][:300]
