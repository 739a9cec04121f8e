"""``s3diff serve``. Everything heavy is imported inside the functions: ``--help`` does not import torch."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import signal
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s3diff.apps.terminal import DEVICE_HELP, SIGN_HELP, THREADS_HELP, load_torch, one_line_errors, remark, say_large
from s3diff.errors import MissingExtraError, OptionError, OutputError
from s3diff.messages import install_command
from s3diff.option_texts import whole_millions
from s3diff.options import Precision

if TYPE_CHECKING:
    from fastapi import FastAPI

    from s3diff.serving.http.auth import Auth
    from s3diff.serving.service import RestorationService

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_MIB = 2**20


def serve(
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Any other than this machine's own needs --token or --no-auth."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
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
    trust_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="A proxy or its network, such as 172.16.0.0/12, whose X-Forwarded-Proto is believed; may be repeated. "
            "[default: this machine's own]",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A model that clients may choose; the first one is their default; may be repeated. [default: compact]",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help=THREADS_HELP)] = None,
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
    keep_seconds: Annotated[float, typer.Option(help="How long results are kept, in seconds.")] = 3600,
    keep_mib: Annotated[int, typer.Option(help="Room for results, in MiB; the oldest are removed first.")] = 2048,
    batch: Annotated[int, typer.Option(help="Small pictures of one size that run together; 1 for never.")] = 8,
    grace: Annotated[float, typer.Option(help="Seconds to finish what is running when the service is ended.")] = 30,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where pictures and results lie until they are removed. [default: the system's temporary folder]"
        ),
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Only the HTTP service, without the web page.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve the web page and the HTTP service until Ctrl-C; the HTTP service's description is at /api/openapi.json.

    Needs the extra web. Ending takes nothing new, finishes what is running, and removes every picture. Logs go to
    stderr: plain lines on a terminal, JSON elsewhere.
    """
    with one_line_errors(), _signals_as_exceptions():
        _require_extra()
        from s3diff.serving.http.auth import Auth, read_clients
        from s3diff.serving.http.server import Server, addresses_of, listen
        from s3diff.serving.limits import ServiceLimits

        auth = Auth([*_tokens(token), *(read_clients(tokens) if tokens is not None else [])])
        _require_auth(host, auth, no_auth)
        for name, value in (("max-upload", max_upload), ("queue", queue), ("keep-mib", keep_mib), ("batch", batch)):
            _require_number(name, value, "whole number")
        for name, seconds in (("job-seconds", job_seconds), ("keep-seconds", keep_seconds)):
            _require_number(name, seconds, "number")
        _require_number("grace", grace, "number", low=0)
        limits = ServiceLimits(
            upload_bytes=max_upload * _MIB,
            input_pixels=whole_millions("max-input-megapixels", max_input_megapixels),
            output_pixels=whole_millions("max-megapixels", max_megapixels),
            queue_length=queue,
            job_seconds=job_seconds,
            result_seconds=keep_seconds,
            result_bytes=keep_mib * _MIB,
            batch_size=batch,
        )
        if open_page and no_page:
            raise OptionError("--open and --no-page exclude each other; leave out one of them")
        proxies = [_network(each) for each in trust_proxy or ["127.0.0.1", "::1"]]
        if root_path and not re.fullmatch(r"(/[\w.~-]+)+", root_path):
            raise OptionError(f"root-path is {root_path!r}; give a path such as /s3diff, without a slash at its end")
        if folder is not None and not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{folder} is no folder that can be written to; give another --folder")
        listener = listen(host, port)
        load_torch(threads)
        from s3diff.images.codecs import silence_libtiff
        from s3diff.images.files.credentials import ResultSigner
        from s3diff.serving.logs import set_up_logs
        from s3diff.serving.service import RestorationService

        set_up_logs(plain=sys.stderr.isatty())
        silence_libtiff()  # its lines would name files
        with (
            listener,
            RestorationService(
                models=model or ["compact"],
                device=device,
                precision=precision,
                fast=fast,
                signer=None if sign is None else ResultSigner(*sign),
                limits=limits,
                folder=folder,
            ) as service,
        ):
            app = _application(service, auth, _hosts(host, allow_host or []), root_path, with_page=not no_page)
            server = Server(
                app,
                service,
                grace_seconds=grace,
                on_start=lambda: _tell_address(addresses_of(listener), root_path, open_page),
                on_drain=_tell_end,
                trusted_proxies=proxies,
            )
            try:
                server.run(sockets=[listener])
            except KeyboardInterrupt:  # uvicorn raises the signal again when all is done
                return


def app(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A model that is offered, the first by default; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
) -> None:
    """Open the web page in the browser, for this machine only, until Ctrl-C: `s3diff serve --open` at a free port.

    Needs the extra web.
    """
    serve(model=model, device=device, port=port, token=[], open_page=True)


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, end the command as Ctrl-C does, with everything tidied up.

    Once the server runs it takes SIGTERM itself. A signal that whoever started the command has set to be ignored, as
    nohup does, stays ignored.
    """

    received: list[int] = []

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # one is enough
        received.append(number)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    except Exception:
        # A library that was at work when the signal came may raise an error of its own in its place.
        if received:
            raise SystemExit(128 + received[0]) from None
        raise
    finally:
        for number, handler in before.items():
            if handler is not None:  # None is a handler that was set from outside Python
                signal.signal(number, handler)


def _tell_address(addresses: list[str], root_path: str, open_page: bool) -> None:
    pages = [f"{address}{root_path}/" if root_path else address for address in addresses]
    print(f"s3diff serves at {pages[0]}", flush=True)
    if sys.stderr.isatty():
        others = [f"in your network: {each}" for each in pages[1:]]
        say_large(pages[0], [*others, "Ctrl-C ends it."])
    if open_page:
        threading.Thread(target=_open, args=(pages[0],), daemon=True).start()


def _open(address: str) -> None:
    if not webbrowser.open(address):
        remark(f"s3diff: no browser was found here; open {address} yourself")


def _tell_end(num_pictures: int) -> None:
    if num_pictures == 0:
        remark("s3diff: ending")
        return
    pictures = "1 picture is" if num_pictures == 1 else f"{num_pictures} pictures are"
    remark(f"s3diff: ending; {pictures} finished first, Ctrl-C again ends now")


def _application(
    service: RestorationService, auth: Auth, hosts: set[str] | None, root_path: str, *, with_page: bool
) -> FastAPI:
    from s3diff.serving.http.api import create_app

    app = create_app(service, auth=auth, allowed_hosts=hosts, closes_service=False, root_path=root_path)
    if with_page:
        from s3diff.serving.page import mount_page

        mount_page(app, service)
    return app


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
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hosts(host: str, allowed: list[str]) -> set[str] | None:
    """Names that requests may carry; on a public address any, unless some are named."""
    if not allowed and not _is_loopback(host):
        return None
    return {*_LOOPBACK_NAMES, host, *allowed}


def _network(text: str) -> str:
    """An address, a network, or * for all."""
    try:
        return (
            text if text == "*" else str(ipaddress.ip_network(text)) if "/" in text else str(ipaddress.ip_address(text))
        )
    except ValueError:
        raise OptionError(
            f"trust-proxy is {text!r}; give an address such as 10.0.0.2 or a network such as 172.16.0.0/12"
        ) from None


def _require_number(name: str, value: float, kind: str, *, low: float | None = None) -> None:
    """Above 0, or not below ``low``; never infinite."""
    if not (value > 0 if low is None else value >= low) or value == math.inf:
        allowed = "above 0" if low is None else f"of at least {low:g}"
        raise OptionError(f"{name} is {value}; give a {kind} {allowed}")


def _require_extra() -> None:
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        try:
            import_module(package)
        except ModuleNotFoundError:
            raise MissingExtraError(
                f"s3diff serve needs the extra web ({package} is missing): {install_command('web')}"
            ) from None
