"""Check every request before it is answered: a name and a log line, the host, the site, a token, the body's size and
its speed.

They are plain ASGI wrappers, so that the page and whatever else is mounted stands behind them as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s3diff.serving.http.auth import Auth
from s3diff.serving.limits import ServiceLimits
from s3diff.serving.logs import new_request_id, request_id

_LOG = logging.getLogger("s3diff.serving.access")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Room for a form's other fields and the lines between its parts.
_FORM_BYTES = 2**20
#: A refused client is listened to for so long: one that is cut off while it sends never sees the answer.
_LINGER_SECONDS = 5.0
#: Told of every answered request: method, route, status, seconds.
Observer = Callable[[str, str, int, float], None]


def refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The form in which every error is answered."""
    return JSONResponse({"error": {"code": code, "message": message, "field": None}}, status, headers)


class RequestLog:
    """Gives every request an id, which the answer carries, and writes one line about it.

    Args:
        app: what answers.
        observe: is told what was answered.
    """

    def __init__(self, app: ASGIApp, observe: Observer) -> None:
        self.app, self.observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = new_request_id(Headers(scope=scope).get("x-request-id"))
        mark, started = request_id.set(name), time.monotonic()
        status, num_bytes = 499, 0  # nothing was sent: the client went away

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
            status = 500 if status == 499 else status
            raise
        finally:
            seconds, route = time.monotonic() - started, _route(scope)
            self.observe(scope["method"], route, status, seconds)
            facts = {"method": scope["method"], "route": route, "status": status, "bytes": num_bytes}
            _LOG.info("request", extra={**facts, "request": name, "seconds": round(seconds, 4)})
            request_id.reset(mark)


class SiteGuard:
    """Refuses other hosts' names and other sites' pages.

    A page elsewhere can make a browser send requests here. Those that change something are refused by what the browser
    says about their origin. A name that somebody else's DNS points at this machine is refused by the ``Host`` header.

    Args:
        app: what answers.
        allowed_hosts: names without ports that ``Host`` may hold; None for any.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str] | None) -> None:
        self.app = app
        self.allowed_hosts = None if allowed_hosts is None else {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            if self.allowed_hosts is not None and _name_of(host) not in self.allowed_hosts:
                message = "this host name is not this service's; ask it by a name it was started for (--allow-host)"
                await refusal(421, "wrong_host", message)(scope, receive, send)
                return
            if scope["method"] not in _SAFE_METHODS and _is_cross_site(headers, host):
                message = "the request comes from another site's page; only this service's own page may send it"
                await refusal(403, "cross_site", message)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class TokenGuard:
    """Asks for a token on every path but the open ones; keeps the owner in ``scope["state"]["owner"]``.

    Args:
        app: what answers.
        auth: the tokens.
    """

    def __init__(self, app: ASGIApp, auth: Auth) -> None:
        self.app, self.auth = app, auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            owner = self.auth.owner_of_request(headers.get("authorization"), headers.get("cookie"))
            scope.setdefault("state", {})["owner"] = owner
            if self.auth.is_required and owner is None and scope["path"] not in self.auth.open_paths:
                if scope["type"] == "http":
                    await self._refuse(scope, headers)(scope, receive, send)
                return  # a web socket that is not accepted is closed
        await self.app(scope, receive, send)

    def _refuse(self, scope: Scope, headers: Headers) -> JSONResponse | RedirectResponse:
        is_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        if is_page and self.auth.sign_in_path is not None:
            return RedirectResponse(scope.get("root_path", "") + self.auth.sign_in_path, 303)
        message = "a token is needed; send it as Authorization: Bearer TOKEN"
        return refusal(401, "token_needed", message, {"WWW-Authenticate": "Bearer"})


class BodyLimits:
    """Ends requests whose body is too large (413) or too slow (408), and answers whose client does not read them.

    Args:
        app: what answers.
        limits: ``upload_bytes``, ``upload_seconds`` and ``idle_seconds`` hold here.
    """

    def __init__(self, app: ASGIApp, limits: ServiceLimits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, send, self.limits)
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self.limits.upload_bytes + _FORM_BYTES:
            await refusal(413, "too_large", _too_large(self.limits))(scope, body.receive, body.send)
            return
        await self.app(scope, body.receive, body.send)


class _Body:
    """One request's way in and out."""

    def __init__(self, receive: Receive, send: Send, limits: ServiceLimits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        self._until = time.monotonic() + limits.upload_seconds
        self._count = 0
        self._is_whole = self._is_slow = self._is_refused = False

    async def receive(self) -> Message:
        """The next piece.

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
            text = "the request's body came too slowly; send it in one go"
            raise HTTPException(408, text) from None
        self._is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        self._count += len(message.get("body", b""))
        if self._count > self._limits.upload_bytes + _FORM_BYTES:
            raise HTTPException(413, _too_large(self._limits))
        return message

    async def send(self, message: Message) -> None:
        """A piece of the answer.

        Raises:
            asyncio.TimeoutError: the client does not read.
        """
        if message["type"] == "http.response.start":
            self._is_refused = message["status"] >= 400
            if self._is_refused and not self._is_whole:
                # Otherwise the server would go on taking what a client that was answered still sends.
                MutableHeaders(scope=message)["Connection"] = "close"
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and self._is_refused and not self._is_whole and not self._is_slow:
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await asyncio.wait_for(self._send(message), self._limits.idle_seconds)

    async def _linger(self) -> None:
        """Take what still comes, and forget it."""
        until = time.monotonic() + _LINGER_SECONDS
        while not self._is_whole and (left := until - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(self._receive(), left)
            except asyncio.TimeoutError:
                return
            self._is_whole = message["type"] != "http.request" or not message.get("more_body", False)


def _name_of(host: str) -> str:
    """Without port: ``[::1]:8000`` is ``::1``."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_cross_site(headers: Headers, host: str) -> bool:
    """Every browser of today sends one of both; programs send neither."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        return True
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != host.lower()  # behind a proxy the scheme may differ
    except ValueError:
        return True


def _route(scope: Scope) -> str:
    """The route's pattern, never the path: ids open results."""
    return getattr(scope.get("route"), "path", None) or "other"


def _too_large(limits: ServiceLimits) -> str:
    return f"the request's body is too large; a picture's file may have at most {limits.upload_bytes} bytes"
