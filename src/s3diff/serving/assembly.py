"""Put a service together: check the flags that serving commands share, make settings, the service and its app."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from s3diff.errors import OptionError, OutputError
from s3diff.messages import needing
from s3diff.option_texts import whole_millions
from s3diff.options import Precision
from s3diff.serving.http.auth import Auth, read_clients
from s3diff.serving.limits import LOOPBACK_NAMES, Client, ServiceLimits, ServiceSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from s3diff.serving.service import RestorationService


#: Packages of the extra web that the service and its page import.
WEB_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def clients_of(
    host: str, tokens: Sequence[str] | None, file: Path | None, *, is_open: bool = False
) -> tuple[str | Client, ...]:
    """List who may ask a service at an address; nobody for everybody.

    Args:
        host: the address that it listens on.
        tokens: None for those of the environment variable ``S3DIFF_TOKEN``.
        file: a file of further tokens; see :func:`read_clients`.
        is_open: whether everybody is let in.

    Raises:
        OptionError: others reach the address and there is no token, or there are tokens and everybody is let in.
    """
    given = os.environ.get("S3DIFF_TOKEN", "").split() if tokens is None else tokens
    clients: tuple[str | Client, ...] = (*given, *(read_clients(file) if file is not None else ()))
    has_tokens = Auth(clients).is_required
    if has_tokens and is_open:
        raise OptionError("--no-auth and a token exclude each other; give one of them (S3DIFF_TOKEN counts as one)")
    if not has_tokens and not is_open and not _is_loopback(host):
        raise OptionError(
            f"host {host} can be reached by others; give --token (or S3DIFF_TOKEN, or --tokens FILE), or --no-auth to "
            "let everybody in"
        )
    return clients


def allowed_hosts(host: str, allowed: Sequence[str]) -> frozenset[str] | None:
    """List the host names that requests may carry; None for any: on a public address, unless some are given."""
    return None if not allowed and not _is_loopback(host) else frozenset({*LOOPBACK_NAMES, host, *allowed})


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() in LOOPBACK_NAMES or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_network(text: str) -> str:
    """Parse the address of a trusted proxy, its network, or * for all.

    Raises:
        OptionError: it is none of these.
    """
    try:
        return (
            text if text == "*" else str(ipaddress.ip_network(text)) if "/" in text else str(ipaddress.ip_address(text))
        )
    except ValueError:
        raise OptionError(
            f"trust-proxy is {text!r}; give an address such as 10.0.0.2 or a network such as 172.16.0.0/12"
        ) from None


_MIB = 2**20


def service_settings(
    *,
    host: str = ServiceSettings.host,
    token: list[str] | None = None,
    tokens: Path | None = None,
    no_auth: bool = False,
    allow_host: list[str] | None = None,
    root_path: str = ServiceSettings.root_path,
    model: list[str] | None = None,
    device: str = ServiceSettings.device,
    precision: Precision = ServiceSettings.precision,
    fast: bool = False,
    sign: tuple[str, str] | None = None,
    max_upload: int = ServiceLimits.upload_bytes // _MIB,
    max_input_megapixels: float = ServiceLimits.input_pixels / 1e6,
    max_megapixels: float = ServiceLimits.output_pixels / 1e6,
    queue: int = ServiceLimits.queue_length,
    job_seconds: float = ServiceLimits.job_seconds,
    max_video_frames: int = ServiceLimits.video_frames,
    max_video_megapixels: float = ServiceLimits.video_pixels / 1e6,
    video_seconds: float = ServiceLimits.video_seconds,
    keep_seconds: float = ServiceLimits.result_seconds,
    keep_mib: int = ServiceLimits.result_bytes // _MIB,
    batch: int = ServiceLimits.batch_size,
    folder: Path | None = None,
    job_store: str | None = None,
    no_page: bool = False,
) -> ServiceSettings:
    """Check the flags and make the settings of them.

    Args:
        host: Address to listen on. Any other than this machine's own needs --token or --no-auth.
        token (TOKEN): Ask for this token, at least 16 characters; may be repeated. Better in the environment variable
            S3DIFF_TOKEN, several separated by spaces: a command line is seen by others.
        tokens (FILE): Ask for a token of this file: NAME TOKEN a line, then, if wanted, waiting=N (pictures at once)
            and hourly=N (pictures an hour).
        no_auth: Let everybody in who reaches the address.
        allow_host (NAME): A host name that requests may carry, such as a proxy's; may be repeated.
        root_path: Path under which a proxy shows the service, such as /s3diff, whether it keeps it or not.
        model (--model -m): A model that clients may choose; the first one is their default; may be repeated. [default:
            compact]
        fast: Compile the networks; the first pictures wait.
        max_upload: Largest file taken, in MiB.
        max_input_megapixels: Largest picture taken, in millions of pixels.
        max_megapixels: Largest result, in millions of pixels.
        queue: Pictures that may wait; further ones are refused for a while.
        job_seconds: Longest time that one picture may take, in seconds.
        max_video_frames: Longest video taken, in frames; needs the extra video.
        max_video_megapixels: Largest result of a video, in millions of pixels a frame.
        video_seconds: Longest time that one video may take, in seconds.
        keep_seconds: How long results are kept, in seconds.
        keep_mib: Room for results, in MiB; the oldest are removed first.
        batch: Small pictures of one size that run together; 1 for never.
        folder: Where pictures and results lie until they are removed. [default: the system's temporary folder]
        job_store (PLACE): A folder, or an address (s3://BUCKET/PREFIX), that several services share: each answers for
            the jobs of all and goes on with those of one that has died.
        no_page: Only the HTTP service, without the web page.

    Raises:
        OptionError: a value that is not allowed.
        OutputError: the folder cannot be written to.
        MissingExtraError: the extra web is not installed.
    """
    require_web()
    clients = clients_of(host, token, tokens, is_open=no_auth)
    counts = {"max-upload": max_upload, "queue": queue, "keep-mib": keep_mib, "batch": batch}
    for name, value in {**counts, "max-video-frames": max_video_frames}.items():
        require_number(name, value, "whole number")
    for name, seconds in {"job": job_seconds, "video": video_seconds, "keep": keep_seconds}.items():
        require_number(f"{name}-seconds", seconds, "number")
    limits = ServiceLimits(
        upload_bytes=max_upload * _MIB,
        input_pixels=whole_millions("max-input-megapixels", max_input_megapixels),
        output_pixels=whole_millions("max-megapixels", max_megapixels),
        queue_length=queue,
        job_seconds=job_seconds,
        video_frames=max_video_frames,
        video_pixels=whole_millions("max-video-megapixels", max_video_megapixels),
        video_seconds=video_seconds,
        result_seconds=keep_seconds,
        result_bytes=keep_mib * _MIB,
        batch_size=batch,
    )
    if root_path and not re.fullmatch(r"(/[\w.~-]+)+", root_path):
        raise OptionError(f"root-path is {root_path!r}; give a path such as /s3diff, without a slash at its end")
    if folder is not None and not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} is no folder that can be written to; give another --folder")
    return ServiceSettings(
        host=host,
        clients=clients,
        allowed_hosts=allowed_hosts(host, allow_host or []),
        root_path=root_path,
        with_page=not no_page,
        models=tuple(model or ServiceSettings.models),
        device=device,
        precision=precision,
        fast=fast,
        signing=sign,
        limits=limits,
        folder=None if folder is None else str(folder),
        job_store=job_store,
    )


def require_number(name: str, value: float, kind: str, *, low: float | None = None) -> None:
    """Make sure that a number is above 0, or not below ``low``, and never infinite.

    Raises:
        OptionError: it is not.
    """
    if not (value > 0 if low is None else value >= low) or value == math.inf:
        allowed = "above 0" if low is None else f"of at least {low:g}"
        raise OptionError(f"{name} is {value}; give a {kind} {allowed}")


def require_web() -> None:
    """Check that the packages of the HTTP service and its page are installed.

    Raises:
        MissingExtraError: one is not.
    """
    for package in WEB_PACKAGES:
        with needing("web", f"the service and its page need the extra web ({package} is missing)"):
            import_module(package)


def make_service(settings: ServiceSettings) -> RestorationService:
    """Make the service; it is not started.

    Raises:
        OptionError, MissingExtraError: a value cannot be used.
    """
    from s3diff.images.files.tiff import silence_libtiff
    from s3diff.serving.service import RestorationService

    silence_libtiff()  # its lines would name files
    return RestorationService(settings)


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
        from s3diff.serving.page.mounting import mount_page

        mount_page(app, service)
    return app
