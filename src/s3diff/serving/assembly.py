"""Put a service together by its settings, plain values: for a process of its own, or for a replica of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from s3diff.messages import needing
from s3diff.options import Precision
from s3diff.serving.http.auth import Auth, Client
from s3diff.serving.limits import ServiceLimits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from s3diff.serving.service import RestorationService

#: Names of this machine that requests to its own address may carry.
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """Hold the settings of a service.

    Attributes:
        host: the address that it listens on.
        clients: who may ask; nobody for everybody.
        allowed_hosts: names that requests may carry; None for any.
        root_path: the path under which a proxy shows the service, without a slash at its end.
        with_page: whether there is the web page.
        models: see :class:`RestorationService`.
        device: see :class:`RestorationService`.
        precision: see :class:`RestorationService`.
        fast: see :class:`RestorationService`.
        signing: files of the certificate and the key that results are signed with.
        limits: see :class:`RestorationService`.
        folder: see :class:`RestorationService`.
        job_store: see :class:`RestorationService`.
    """

    host: str = "127.0.0.1"
    clients: Sequence[str | Client] = ()
    allowed_hosts: frozenset[str] | None = LOOPBACK_NAMES
    root_path: str = ""
    with_page: bool = True
    models: Sequence[str] = ("compact",)
    device: str = "auto"
    precision: Precision = "auto"
    fast: bool = False
    signing: tuple[str, str] | None = None
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    folder: str | None = None
    job_store: str | None = None


def require_web() -> None:
    """Check that the packages of the HTTP service and its page are installed.

    Raises:
        MissingExtraError: one is not.
    """
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        with needing("web", f"the service and its page need the extra web ({package} is missing)"):
            import_module(package)


def make_service(settings: ServiceSettings) -> RestorationService:
    """Make the service; it is not started.

    Raises:
        OptionError, MissingExtraError: a value cannot be used.
    """
    from pathlib import Path

    from s3diff.images.codecs import silence_libtiff
    from s3diff.images.files.credentials import ResultSigner
    from s3diff.serving.service import RestorationService

    silence_libtiff()  # its lines would name files
    return RestorationService(
        models=settings.models,
        device=settings.device,
        precision=settings.precision,
        fast=settings.fast,
        signer=None if settings.signing is None else ResultSigner(*settings.signing),
        limits=settings.limits,
        folder=None if settings.folder is None else Path(settings.folder),
        job_store=settings.job_store,
    )


def make_app(settings: ServiceSettings, service: RestorationService) -> FastAPI:
    """Make the application of a service, which whoever started it closes."""
    from s3diff.serving.http.api import create_app

    app = create_app(
        service,
        auth=Auth(settings.clients),
        allowed_hosts=settings.allowed_hosts,
        closes_service=False,
        root_path=settings.root_path,
    )
    if settings.with_page:
        from s3diff.serving.page import mount_page

        mount_page(app, service)
    return app
