"""Extend Ray Serve's HTTP proxies; they find this module by the name in :data:`IMPORT_PATH`."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s3diff.service_errors import REPLICA_LOST
from s3diff.serving.http.job_responses import error_answer

#: The variable of Ray's processes that names :func:`middlewares`, and the name.
VARIABLE, IMPORT_PATH = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "s3diff.integrations.ray.proxy:middlewares"


def middlewares() -> list[Middleware]:
    """List what Ray Serve puts around its proxy."""
    return [Middleware(AskAgain)]


class AskAgain:
    """Tell a client whose replica has died to ask again (503 with ``Retry-After``), where Ray would answer with 500.

    Args:
        app: Ray's proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_started = is_replaced = False

        async def sent(message: Message) -> None:
            nonlocal is_started, is_replaced
            if message["type"] == "http.response.start":
                is_started = True
                is_replaced = message["status"] == 503 and _is_rays(message)
                if is_replaced:
                    await error_answer("replica_lost", REPLICA_LOST)(scope, receive, send)
            if not is_replaced:
                await send(message)

        await self.app(scope, receive, sent)
        if not is_started:  # Ray says nothing where the replica has died; its server would answer with 500
            await error_answer("replica_lost", REPLICA_LOST)(scope, receive, send)


def _is_rays(start: Message) -> bool:
    """Check whether Ray answers itself: every error of the application is JSON."""
    kinds = [value for name, value in start.get("headers", []) if bytes(name).lower() == b"content-type"]
    return not any(bytes(kind).startswith(b"application/json") for kind in kinds)
