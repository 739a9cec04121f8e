"""Run ``s3diff serve``. Everything heavy is imported inside the functions: ``--help`` does not import torch."""

from __future__ import annotations

import sys
import threading
import webbrowser

from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from s3diff.apps.option_flags import takes_flags
from s3diff.apps.terminal import load_torch, remark, remarks
from s3diff.errors import OptionError
from s3diff.serving.assembly import make_app, make_service, proxy_network, require_number, service_settings
from s3diff.serving.limits import ServiceSettings
from s3diff.serving.signals import signals_as_exceptions


@takes_flags(settings=service_settings)
def serve(
    *,
    settings: ServiceSettings,
    port: int = 8000,
    trust_proxy: list[str] | None = None,
    threads: int | None = None,
    grace: float = 30,
    open_page: bool = False,
) -> None:
    """Serve the web page and the HTTP service until Ctrl-C; the HTTP service's description is at /api/openapi.json.

    Needs the extra web. At its end the service takes no new pictures, finishes running ones, and removes every picture.
    Logs go to stderr: plain lines on a terminal, JSON elsewhere.

    Args:
        port: Port to listen on; 0 takes a free one.
        trust_proxy (ADDRESS): A proxy or its network, such as 172.16.0.0/12, whose X-Forwarded-Proto is believed; may
            be repeated. [default: this machine's own]
        grace: Seconds to finish running pictures when the service is ended.
        open_page (--open): Open the page in the browser.
    """
    with signals_as_exceptions():
        from s3diff.serving.http.server import Server, addresses_of, listen

        require_number("grace", grace, "number", low=0)
        if open_page and not settings.with_page:
            raise OptionError("--open and --no-page exclude each other; leave out one of them")
        proxies = [proxy_network(each) for each in trust_proxy or ["127.0.0.1", "::1"]]
        listener = listen(settings.host, port)
        if sys.stderr.isatty():
            names = " and ".join(map(str, settings.models))
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


@takes_flags()
def app(*, model: list[str] | None = None, device: str = "auto", port: int = 0) -> None:
    """Open the web page in the browser, for this machine only, until Ctrl-C: `s3diff serve --open` at a free port.

    Needs the extra web.

    Args:
        model (--model -m): A model that is offered, the first by default; may be repeated.
        port: Port to listen on; 0 takes a free one.
    """
    serve(model=model, device=device, port=port, token=[], open_page=True)


def tell_address(addresses: list[str], root_path: str, open_page: bool) -> None:
    pages = [f"{address}{root_path}/" if root_path else address for address in addresses]
    print(f"s3diff serves at {pages[0]}", flush=True)
    if sys.stderr.isatty():
        below = [*(f"in your network: {each}" for each in pages[1:]), "Ctrl-C ends it."]
        lines = [Text(f"\n{pages[0]}\n", style="bold"), *(Text(line, style="dim") for line in below)]
        remarks.print(Panel(Group(*lines), expand=False, padding=(0, 4)))
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
