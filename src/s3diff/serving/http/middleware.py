"""Check every request before it is answered: its address behind a proxy, a name and a log line, the host, the site, a
token, the body's size and its speed.

These are plain ASGI wrappers, so that they also cover the page and other mounted applications.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s3diff.service_errors import BODY_TOO_LARGE, NO_TOKEN, SERVICE_ERRORS, TOO_SLOW
from s3diff.serving.http.auth import SESSION_COOKIE, Auth
from s3diff.serving.http.job_responses import CLIENT_HAS_LEFT, error_answer
from s3diff.serving.limits import ServiceLimits
from s3diff.serving.logs import new_request_id, request_id

_LOG = logging.getLogger("s3diff.serving.access")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: Room for a form's other fields and the lines between its parts.
_FORM_BYTES = 2**20
#: Time to read on after a refusal: a client that is cut off while it sends never sees the answer.
_LINGER_SECONDS = 5.0
#: Called with method, route, status and seconds of every answered request.
Observer = Callable[[str, str, int, float], None]


def root_of(scope: Scope) -> str:
    """Return the proxy's path prefix, without a slash at its end; empty for none."""
    return str(scope.get("root_path", "")).rstrip("/")


def route_path(scope: Scope) -> str:
    """Return a request's path inside the service, without a proxy's prefix."""
    return str(scope["path"])[len(root_of(scope)) :]


class ProxyPrefix:
    """Accept requests with or without the proxy's prefix, and make redirects relative to the proxy's scheme and host.

    Args:
        root_path: the prefix, without a slash at its end; empty takes the server's.
    """

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self.root_path:
            scope["root_path"] = self.root_path
        root = root_of(scope)
        if not f"{scope['path']}/".startswith(f"{root}/"):
            scope["path"] = root + scope["path"]
            scope["raw_path"] = root.encode() + (scope.get("raw_path") or b"")
        host = Headers(scope=scope).get("host")

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                target = urlsplit(headers.get("location", ""))
                if target.netloc and target.netloc == host:
                    # Two slashes at the beginning would name another host.
                    path = "/" + target.path.lstrip("/")
                    headers["location"] = urlunsplit(("", "", path, target.query, target.fragment))
            await send(message)

        await self.app(scope, receive, sent)


class HeadAsGet:
    """Answer HEAD like GET, with the same headers and no body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        is_over = False

        async def sent(message: Message) -> None:
            nonlocal is_over
            if is_over:
                return
            if message["type"] == "http.response.body":
                is_over, message = True, {"type": "http.response.body", "body": b""}
            await send(message)

        scope["method"], scope["is_head"] = "GET", True
        try:
            await self.app(scope, receive, sent)
        finally:
            scope["method"] = "HEAD"  # as the server and the log know it


class RequestLog:
    """Give every request an id, which the answer carries, and log one line.

    Args:
        observe: called with every answered request.
    """

    def __init__(self, app: ASGIApp, observe: Observer) -> None:
        self.app, self.observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = new_request_id(Headers(scope=scope).get("x-request-id"))
        mark, started = request_id.set(name), time.monotonic()
        status, num_bytes = CLIENT_HAS_LEFT, 0

        async def sent(message: Message) -> None:
            nonlocal status, num_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = name
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
            elif message["type"] == "http.response.body":
                num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except BaseException:
            status = 500 if status == CLIENT_HAS_LEFT else status
            raise
        finally:
            # The route's pattern, never the path: ids open results.
            seconds, route = time.monotonic() - started, getattr(scope.get("route"), "path", None) or "other"
            self.observe(scope["method"], route, status, seconds)
            facts = {"method": scope["method"], "route": route, "status": status, "bytes": num_bytes}
            if (client := scope.get("state", {}).get("client")) is not None:
                facts["client"] = client.name
            _LOG.info("request", extra={**facts, "request": name, "seconds": round(seconds, 4)})
            request_id.reset(mark)


class SiteGuard:
    """Refuse other hosts' names and cross-site requests.

    Another site's page can make a browser send requests here. Those that change something are refused by the browser's
    headers about their origin. A foreign name that resolves to this machine is refused by the ``Host`` header.

    Args:
        allowed_hosts: names without ports that ``Host`` may hold; None for any.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str] | None) -> None:
        self.app = app
        self.allowed_hosts = None if allowed_hosts is None else {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            if self.allowed_hosts is not None and _name_of(host) not in self.allowed_hosts:
                message = (
                    f"the request asks for the host {_shown(host)}, which is no name of this service; "
                    "ask it by a name that it was started for, or start it with --allow-host NAME"
                )
                await error_answer("wrong_host", message)(scope, receive, send)
                return
            if scope["method"] not in _SAFE_METHODS and _is_cross_site(headers, host):
                message = (
                    f"the request comes from a page of {_shown(headers.get('origin') or 'another site')}, and this "
                    f"service is asked as {_shown(host)}; only its own page may send it (a proxy has to hand on Host "
                    "as the browser sent it, with its port)"
                )
                await error_answer("cross_site", message)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class TokenGuard:
    """Require a token except on open paths; store its holder in ``scope["state"]["client"]``."""

    def __init__(self, app: ASGIApp, auth: Auth) -> None:
        self.app, self.auth = app, auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            session = HTTPConnection(scope).cookies.get(SESSION_COOKIE)
            client = self.auth.client_of_request(headers.get("authorization"), session)
            scope.setdefault("state", {})["client"] = client
            if self.auth.is_required and client is None and route_path(scope) not in self.auth.open_paths:
                if scope["type"] == "http":
                    await self._refuse(scope, headers)(scope, receive, send)
                return  # a web socket that is not accepted is closed
        await self.app(scope, receive, send)

    def _refuse(self, scope: Scope, headers: Headers) -> JSONResponse | RedirectResponse:
        is_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        if is_page and self.auth.sign_in_path is not None:
            return RedirectResponse(root_of(scope) + self.auth.sign_in_path, 303)
        return error_answer("token_needed", NO_TOKEN, headers={"WWW-Authenticate": "Bearer"})


class BodyLimits:
    """End requests whose body is too large (413), too slow (408) or cut off (499), and answers that are not read.

    Args:
        limits: ``upload_bytes``, ``upload_seconds`` and ``idle_seconds`` count.
    """

    def __init__(self, app: ASGIApp, limits: ServiceLimits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, send, self.limits)
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self.limits.upload_bytes + _FORM_BYTES:
            await error_answer("too_large", _too_large(self.limits))(scope, body.receive, body.send)
            return
        await self.app(scope, body.receive, body.send)


class _Body:
    """Count and time one request's body, and write its answer."""

    def __init__(self, receive: Receive, send: Send, limits: ServiceLimits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        self._until = time.monotonic() + limits.upload_seconds
        self._count = 0
        self._is_whole = self._is_slow = self._is_refused = self._is_left = False

    async def receive(self) -> Message:
        """Receive the next piece.

        Raises:
            HTTPException: 413 or 408.
        """
        if self._is_whole:
            return await self._receive()  # waits for the client's end
        left = min(self._limits.idle_seconds, self._until - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except asyncio.TimeoutError:
            self._is_slow = True
            raise HTTPException(SERVICE_ERRORS["too_slow"].status, TOO_SLOW) from None
        self._is_left = message["type"] == "http.disconnect"
        self._is_whole = self._is_left or not message.get("more_body", False)
        self._count += len(message.get("body", b""))
        if self._count > self._limits.upload_bytes + _FORM_BYTES:
            raise HTTPException(SERVICE_ERRORS["too_large"].status, _too_large(self._limits))
        return message

    async def send(self, message: Message) -> None:
        """Send a piece of the answer.

        Raises:
            asyncio.TimeoutError: the client does not read.
        """
        if message["type"] == "http.response.start":
            if self._is_left:  # the client has left: nobody receives an answer
                message["status"] = CLIENT_HAS_LEFT
            self._is_refused = message["status"] >= 400
            if self._is_refused and not self._is_whole:
                # Otherwise the server would go on reading the rest of the upload.
                MutableHeaders(scope=message)["Connection"] = "close"
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and self._is_refused and not self._is_whole and not self._is_slow:
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await asyncio.wait_for(self._send(message), self._limits.idle_seconds)

    async def _linger(self) -> None:
        """Read and drop the rest of the upload."""
        until = time.monotonic() + _LINGER_SECONDS
        while not self._is_whole and (left := until - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(self._receive(), left)
            except asyncio.TimeoutError:
                return
            self._is_whole = message["type"] != "http.request" or not message.get("more_body", False)


def _name_of(host: str) -> str:
    """Remove the port: ``[::1]:8000`` becomes ``::1``."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_cross_site(headers: Headers, host: str) -> bool:
    """Check whether another site's page sent the request, by headers that browsers send and programs do not.

    ``Sec-Fetch-Site`` is trusted: no page can set it. Browsers omit it over plain HTTP except for the loopback; then
    the origin is compared with the host.
    """
    if (site := headers.get("sec-fetch-site")) is not None:
        return site not in ("same-origin", "none")
    if (origin := headers.get("origin")) is None:
        return False
    try:
        page, asked = urlsplit(origin), urlsplit(f"//{host}")
        default = _DEFAULT_PORTS.get(page.scheme)  # behind a proxy the scheme may differ: the browser's counts
        return (page.hostname, page.port or default) != (asked.hostname, asked.port or default)
    except ValueError:
        return True


def _shown(name: str) -> str:
    """Shorten a client's text to one line."""
    return "".join(sign for sign in name[:80] if sign.isprintable()) or "no name"


def _too_large(limits: ServiceLimits) -> str:
    return BODY_TOO_LARGE.format(limits.upload_bytes)
