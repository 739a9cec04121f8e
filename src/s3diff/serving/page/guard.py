"""Close all of Gradio but the page itself and its own scripts.

The page's controls work in the browser and speak to the service's HTTP interface, so Gradio's routes for files, calls,
queues, uploads and proxying serve nobody here. They are closed, whatever a later version adds: what is not named below
is not found.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s3diff.serving.http.answers import error_answer
from s3diff.serving.http.middleware import route_path

#: Paths of Gradio's app that the page needs, by their beginning and whole.
_OPEN_FOLDERS = ("/assets/", "/static/")
_OPEN_PATHS = frozenset({"", "/", "/theme.css"})
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

#: Nothing from elsewhere is loaded or asked, no other page shows this one in a frame, and forms go nowhere else.
#: Gradio's page holds scripts of its own in the text and makes functions of strings, which is what `unsafe-` allows.
CONTENT_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' blob: data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" a browser names no origin for the forms of signing in and out, which are then refused.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class GradioGuard:
    """Let the page and its scripts through to Gradio's app, adds the headers, and answers 404 to all else.

    Args:
        app: Gradio's, mounted where everything ends that no route before it took.
        before: those routes. A path that one of them has for another method comes here too, and is answered with 405.
    """

    def __init__(self, app: ASGIApp, before: Sequence[BaseRoute] = ()) -> None:
        self.app, self.before = app, before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: closed before it is opened
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["method"] not in ("GET", "HEAD") or not _is_open(scope):
            if methods := self._methods(scope):
                text = f"this path takes {methods}, not {str(scope['method'])[:20]}"
                await error_answer("method_not_allowed", text, headers={"Allow": methods})(scope, receive, send)
                return
            text = "there is nothing at this path; the HTTP service is described at /api/openapi.json"
            await error_answer("not_found", text)(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in PAGE_HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, with_headers)

    def _methods(self, scope: Scope) -> str:
        """The methods of a path of the service's own that was asked for by another."""
        taken = {
            method
            for method in _METHODS
            if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in self.before)
        }
        return ", ".join(sorted(taken | {"HEAD"} if "GET" in taken else taken))


def _is_open(scope: Scope) -> bool:
    path = route_path(scope)
    return ".." not in path and (path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS))
