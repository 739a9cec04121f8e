"""Bodies of requests: counted and timed while they arrive, so that large and slow ones are refused early."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s3diff.serving.guards import refusal
from s3diff.serving.limits import ServiceLimits

#: Room for a form's other fields and the lines between its parts.
_FORM_BYTES = 2**20
#: A refused client is listened to for so long: one that is cut off while it sends never sees the answer.
_LINGER_SECONDS = 5.0


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
            raise HTTPException(408, text, {"Connection": "close"}) from None
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


def _too_large(limits: ServiceLimits) -> str:
    return f"the request's body is too large; a picture's file may have at most {limits.upload_bytes} bytes"
