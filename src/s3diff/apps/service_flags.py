"""Define the flags that ``s3diff serve`` and ``s3diff cluster serve`` share: those of the service, not of its place."""

from __future__ import annotations

import functools
import inspect
import ipaddress
import math
import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from s3diff.apps.terminal import DEVICE_HELP, SIGN_HELP, one_line_errors
from s3diff.errors import MissingExtraError, OptionError, OutputError
from s3diff.messages import install_command
from s3diff.option_texts import whole_millions
from s3diff.options import Precision
from s3diff.serving.assembly import LOOPBACK_NAMES, ServiceSettings
from s3diff.serving.http.auth import Auth, Client, read_clients
from s3diff.serving.limits import ServiceLimits

_MIB = 2**20


def service_settings(
    *,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Any other than this machine's own needs --token or --no-auth."),
    ] = "127.0.0.1",
    token: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN",
            help="Ask for this token, at least 16 characters; may be repeated. Better in the environment variable "
            "S3DIFF_TOKEN, several separated by spaces: a command line is seen by others.",
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ask for a token of this file: NAME TOKEN a line, then, if wanted, waiting=N (pictures at once) and "
            "hourly=N (pictures an hour).",
        ),
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let everybody in who reaches the address.")] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A host name that requests may carry, such as a proxy's; may be repeated."),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(help="Path under which a proxy shows the service, such as /s3diff, whether it keeps it or not."),
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A model that clients may choose; the first one is their default; may be repeated. [default: compact]",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="Number format that the networks compute in; auto is safe everywhere.")
    ] = "auto",
    fast: Annotated[bool, typer.Option("--fast", help="Compile the networks; the first pictures wait.")] = False,
    sign: Annotated[
        tuple[str, str] | None,
        typer.Option("--sign", metavar="CERT KEY", help=SIGN_HELP),
    ] = None,
    max_upload: Annotated[int, typer.Option(help="Largest file taken, in MiB.")] = 128,
    max_input_megapixels: Annotated[float, typer.Option(help="Largest picture taken, in millions of pixels.")] = 64,
    max_megapixels: Annotated[float, typer.Option(help="Largest result, in millions of pixels.")] = 200,
    queue: Annotated[int, typer.Option(help="Pictures that may wait; further ones are refused for a while.")] = 32,
    job_seconds: Annotated[float, typer.Option(help="Longest time that one picture may take, in seconds.")] = 600,
    max_video_frames: Annotated[
        int, typer.Option(help="Longest video taken, in frames; needs the extra video.")
    ] = 1500,
    max_video_megapixels: Annotated[
        float, typer.Option(help="Largest result of a video, in millions of pixels a frame.")
    ] = 9,
    video_seconds: Annotated[float, typer.Option(help="Longest time that one video may take, in seconds.")] = 21600,
    keep_seconds: Annotated[float, typer.Option(help="How long results are kept, in seconds.")] = 3600,
    keep_mib: Annotated[int, typer.Option(help="Room for results, in MiB; the oldest are removed first.")] = 2048,
    batch: Annotated[int, typer.Option(help="Small pictures of one size that run together; 1 for never.")] = 8,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where pictures and results lie until they are removed. [default: the system's temporary folder]"
        ),
    ] = None,
    job_store: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="A folder, or an address (s3://BUCKET/PREFIX), that several services share: each answers for the jobs "
            "of all and goes on with those of one that has died.",
        ),
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Only the HTTP service, without the web page.")] = False,
) -> ServiceSettings:
    """Check the flags and make the settings of them.

    Raises:
        OptionError: a value that is not allowed.
        OutputError: the folder cannot be written to.
        MissingExtraError: the extra web is not installed.
    """
    _require_extra()
    clients: tuple[str | Client, ...] = (*_tokens(token), *(read_clients(tokens) if tokens is not None else []))
    _require_auth(host, Auth(clients), no_auth)
    counts = {"max-upload": max_upload, "queue": queue, "keep-mib": keep_mib, "batch": batch}
    for name, value in {**counts, "max-video-frames": max_video_frames}.items():
        require_number(name, value, "whole number")
    times = {"job-seconds": job_seconds, "video-seconds": video_seconds, "keep-seconds": keep_seconds}
    for name, seconds in times.items():
        require_number(name, seconds, "number")
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
        allowed_hosts=_hosts(host, allow_host or []),
        root_path=root_path,
        with_page=not no_page,
        models=tuple(model or ["compact"]),
        device=device,
        precision=precision,
        fast=fast,
        signing=sign,
        limits=limits,
        folder=None if folder is None else str(folder),
        job_store=job_store,
    )


def takes_service_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Put the flags of :func:`service_settings` in the place of a command's parameter ``settings``."""
    shared = inspect.signature(service_settings, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters
    parameters: list[inspect.Parameter] = []
    for parameter in own.values():
        if parameter.annotation is ServiceSettings:
            parameters += shared.values()
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        bound = signature.bind(**given)
        bound.apply_defaults()
        with one_line_errors():
            settings = service_settings(**{name: bound.arguments[name] for name in shared})
        command(settings=settings, **{name: bound.arguments[name] for name in own if name in bound.arguments})

    run.__signature__ = signature = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def require_number(name: str, value: float, kind: str, *, low: float | None = None) -> None:
    """Make sure that a number is above 0, or not below ``low``, and never infinite.

    Raises:
        OptionError: it is not.
    """
    if not (value > 0 if low is None else value >= low) or value == math.inf:
        allowed = "above 0" if low is None else f"of at least {low:g}"
        raise OptionError(f"{name} is {value}; give a {kind} {allowed}")


def _tokens(given: list[str] | None) -> list[str]:
    return given if given is not None else os.environ.get("S3DIFF_TOKEN", "").split()


def _require_auth(host: str, auth: Auth, no_auth: bool) -> None:
    if auth.is_required and no_auth:
        raise OptionError("--no-auth and a token exclude each other; give one of them (S3DIFF_TOKEN counts as one)")
    if not auth.is_required and not no_auth and not _is_loopback(host):
        raise OptionError(
            f"host {host} can be reached by others; give --token (or S3DIFF_TOKEN, or --tokens FILE), or --no-auth to "
            "let everybody in"
        )


def _is_loopback(host: str) -> bool:
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hosts(host: str, allowed: list[str]) -> frozenset[str] | None:
    """List the host names that requests may carry; on a public address any, unless some are given."""
    if not allowed and not _is_loopback(host):
        return None
    return frozenset({*LOOPBACK_NAMES, host, *allowed})


def _require_extra() -> None:
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        try:
            import_module(package)
        except ModuleNotFoundError:
            raise MissingExtraError(
                f"the service and its page need the extra web ({package} is missing): {install_command('web')}"
            ) from None
