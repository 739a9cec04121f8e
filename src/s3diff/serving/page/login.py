"""Signing in and out, where the service needs a token."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from s3diff.serving.http.auth import SESSION_COOKIE, Auth
from s3diff.serving.http.middleware import root_of
from s3diff.serving.page.guard import PAGE_HEADERS
from s3diff.serving.page.layout import STATIC

#: A wrong token is answered so late, which makes guessing slow.
_WRONG_TOKEN_SECONDS = 1.0
#: How long a browser keeps the cookie; a new token ends it earlier.
_SESSION_SECONDS = 7 * 24 * 3600
SIGN_IN_PATH, SIGN_OUT_PATH = "/login", "/logout"
_HEADERS = {**PAGE_HEADERS, "Cache-Control": "no-store"}


def login_routes(auth: Auth) -> APIRouter:
    """Where one signs in, which needs no token, and out."""
    router = APIRouter(include_in_schema=False)

    @router.get(SIGN_IN_PATH)
    def form() -> HTMLResponse:
        return _page("")

    @router.post(SIGN_IN_PATH)
    async def sign_in(request: Request, token: Annotated[str, Form()] = "") -> Response:
        session = auth.session_of_token(token.strip())
        if session is None:
            await asyncio.sleep(_WRONG_TOKEN_SECONDS)
            return _page("This is not the token. Look for a missing or doubled sign, and try again.", status=403)
        answer = RedirectResponse(_root(request), status_code=303, headers=_HEADERS)
        answer.set_cookie(
            SESSION_COOKIE,
            session,
            max_age=_SESSION_SECONDS,
            path=_root(request),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @router.post(SIGN_OUT_PATH)
    def sign_out(request: Request) -> Response:
        answer = RedirectResponse(_root(request) + SIGN_IN_PATH[1:], status_code=303, headers=_HEADERS)
        answer.delete_cookie(
            SESSION_COOKIE,
            path=_root(request),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    return router


def _root(request: Request) -> str:
    """The page's path, below which a proxy may have put it."""
    return f"{root_of(request.scope)}/"


def _page(problem: str, status: int = 200) -> HTMLResponse:
    text = (STATIC / "login.html").read_text(encoding="utf-8")
    told = f'<p class="problem" role="alert">{problem}</p>' if problem else ""
    return HTMLResponse(text.replace("PROBLEM", told), status_code=status, headers=_HEADERS)
