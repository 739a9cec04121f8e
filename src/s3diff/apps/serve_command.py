"""Run ``s3diff serve``. Everything heavy is imported inside the functions: ``--help`` does not import torch."""

from __future__ import annotations

import ipaddress
import signal
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from s3diff.apps.service_flags import require_number, takes_service_flags
from s3diff.apps.terminal import DEVICE_HELP, THREADS_HELP, load_torch, one_line_errors, remark, say_large
from s3diff.errors import OptionError
from s3diff.serving.assembly import ServiceSettings, make_app, make_service


@takes_service_flags
def serve(
    *,
    settings: ServiceSettings,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    trust_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="A proxy or its network, such as 172.16.0.0/12, whose X-Forwarded-Proto is believed; may be repeated. "
            "[default: this machine's own]",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help=THREADS_HELP)] = None,
    grace: Annotated[float, typer.Option(help="Seconds to finish running pictures when the service is ended.")] = 30,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve the web page and the HTTP service until Ctrl-C; the HTTP service's description is at /api/openapi.json.

    Needs the extra web. At its end the service takes no new pictures, finishes running ones, and removes every picture.
    Logs go to stderr: plain lines on a terminal, JSON elsewhere.
    """
    with one_line_errors(), signals_as_exceptions():
        from s3diff.serving.http.server import Server, addresses_of, listen

        require_number("grace", grace, "number", low=0)
        if open_page and not settings.with_page:
            raise OptionError("--open and --no-page exclude each other; leave out one of them")
        proxies = [_network(each) for each in trust_proxy or ["127.0.0.1", "::1"]]
        listener = listen(settings.host, port)
        if sys.stderr.isatty():
            names = " and ".join(settings.models)
            remark(f"s3diff: loading {names}; the address comes when pictures are taken")
        load_torch(threads)
        from s3diff.serving.logs import set_up_logs

        set_up_logs(plain=sys.stderr.isatty())
        with listener, make_service(settings) as service:
            server = Server(
                make_app(settings, service),
                service,
                grace_seconds=grace,
                on_start=lambda: tell_address(addresses_of(listener), settings.root_path, open_page),
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
def signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, end the command as Ctrl-C does, with everything tidied up.

    The running server handles SIGTERM itself. A signal that the parent process has set to be ignored, as nohup does,
    stays ignored.
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
        # A library that is interrupted by the signal may raise its own error instead.
        if received:
            raise SystemExit(128 + received[0]) from None
        raise
    finally:
        for number, handler in before.items():
            if handler is not None:  # None is a handler that was set from outside Python
                signal.signal(number, handler)


def tell_address(addresses: list[str], root_path: str, open_page: bool) -> None:
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


def _network(text: str) -> str:
    """Parse an address, a network, or * for all."""
    try:
        return (
            text if text == "*" else str(ipaddress.ip_network(text)) if "/" in text else str(ipaddress.ip_address(text))
        )
    except ValueError:
        raise OptionError(
            f"trust-proxy is {text!r}; give an address such as 10.0.0.2 or a network such as 172.16.0.0/12"
        ) from None
