"""Run uvicorn around the application, with a shutdown that loses nothing and a limit for slow clients."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from s3diff.errors import OptionError
from s3diff.messages import reason_of
from s3diff.serving.service import RestorationService

#: A connection that sends no whole request in one to two of these is closed.
_HEADER_SECONDS = 15.0
_KEEP_ALIVE_SECONDS = 15
#: Connections at most; fewer where the system allows fewer open files.
_MAX_CONNECTIONS = 1000
_BACKLOG = 512
#: A proxy on the same machine.
LOOPBACK = ("127.0.0.1", "::1")


class PatientProtocol(H11Protocol):
    """Speak HTTP/1.1 with a limit on the time until a request's headers are whole, which uvicorn lacks."""

    max_connections = _MAX_CONNECTIONS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > self.max_connections:
            self.transport.abort()
            return
        self._look_later(None)

    def _look_later(self, answered: Any) -> None:
        self.loop.call_later(_HEADER_SECONDS, self._look, answered)

    def _look(self, known: Any) -> None:
        """Close the connection if only a part of a request's headers has come since the last look."""
        if self.transport.is_closing():
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is known:
            self.transport.close()
            return
        # Identifies the connection's state: a request that begins makes another cycle.
        self._look_later(self.cycle if is_idle else object())


class Server(uvicorn.Server):
    """End in two steps: at the first signal refuse new pictures and finish the others, then stop.

    Args:
        grace_seconds: how long the end may take.
        on_start: called when requests are answered.
        on_drain: called at the first signal with the number of pictures to finish.
        trusted_proxies: addresses and networks whose ``X-Forwarded-Proto`` and ``X-Forwarded-For`` are believed.
    """

    def __init__(
        self,
        app: FastAPI,
        service: RestorationService,
        *,
        grace_seconds: float,
        on_start: Callable[[], None] = lambda: None,
        on_drain: Callable[[int], None] = lambda _: None,
        trusted_proxies: Sequence[str] = LOOPBACK,
    ) -> None:
        PatientProtocol.max_connections = _connections_allowed()
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=True,
            forwarded_allow_ips=list(trusted_proxies),
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=5,
            backlog=_BACKLOG,
        )
        super().__init__(config)
        self._service, self._grace = service, grace_seconds
        self._on_start, self._on_drain = on_start, on_drain
        self._drain_until: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end at the first signal; end at once at the second."""
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
            return
        self._drain_until = time.monotonic() + self._grace
        self._service.drain()
        self._on_drain(len(self._service.store.live()))

    async def on_tick(self, counter: int) -> bool:
        if await super().on_tick(counter):
            return True
        if self._drain_until is None:
            return False
        return time.monotonic() >= self._drain_until or not self._service.owes


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes any that is free.

    Raises:
        OptionError: the port is taken or not allowed, or the host is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise OptionError(f"port {port} cannot be used; give a number from 1 to 65535, or 0 for any that is free")
    hint = "give another --port" if port else "give another --host"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise OptionError(f"{host} port {port} cannot be used ({reason_of(error)}); give another --host") from None
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where SO_REUSEADDR would share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise OptionError(f"{host} port {port} cannot be used ({reason_of(error)}); {hint}") from None
    listener.set_inheritable(False)
    return listener


def addresses_of(listener: socket.socket) -> list[str]:
    """Return the addresses for browsers on this machine, such as ``http://127.0.0.1:8000``, and on its network."""
    host, port = listener.getsockname()[:2]
    if host not in ("0.0.0.0", "::"):
        return [address_at(host, port)]
    own = "127.0.0.1" if listener.family == socket.AF_INET else "::1"
    return [address_at(each, port) for each in dict.fromkeys([own, *_network_address(listener.family)])]


def address_at(host: str, port: int) -> str:
    """Write the address of a host, an IPv6 address in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _network_address(family: socket.AddressFamily) -> list[str]:
    """Return this machine's network address; connecting a datagram socket sends nothing."""
    outside = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"  # documentation's own, nobody's
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((outside, 9))
        return [probe.getsockname()[0]]
    return []


def _connections_allowed() -> int:
    """Return half of the files that the process may have open, up to a limit."""
    allowed = _MAX_CONNECTIONS
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            allowed = min(allowed, max(16, soft // 2))
    return allowed
