"""Sign in and out, for a service with tokens."""

from __future__ import annotations

import asyncio
import html
import json
import re
from functools import cache
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from s3diff.serving.http.auth import SESSION_COOKIE, Auth
from s3diff.serving.http.middleware import root_of
from s3diff.serving.page.layout import NOT_KEPT, PAGE_HEADERS, STATIC, STATIC_TYPES

#: Delay of the answer to a wrong token, which makes guessing slow.
_WRONG_TOKEN_SECONDS = 1.0
#: How long a browser keeps the cookie; a new token ends it earlier.
_SESSION_SECONDS = 7 * 24 * 3600
SIGN_IN_PATH, SIGN_OUT_PATH, _STYLE_PATH = "/login", "/logout", "/login.css"
#: Answered without a token.
OPEN_PATHS = frozenset({SIGN_IN_PATH, _STYLE_PATH, "/favicon.ico"})
_HEADERS = {**PAGE_HEADERS, **NOT_KEPT}


def login_routes(auth: Auth) -> APIRouter:
    """Make the routes for signing in, which needs no token, and out."""
    router = APIRouter(include_in_schema=False)

    @router.get(SIGN_IN_PATH)
    def form(request: Request) -> HTMLResponse:
        return _page(request)

    @router.get(_STYLE_PATH)
    def style() -> FileResponse:
        return FileResponse(STATIC / "login.css", media_type=STATIC_TYPES[".css"], headers=_HEADERS)

    @router.post(SIGN_IN_PATH)
    async def sign_in(request: Request, token: Annotated[str, Form()] = "") -> Response:
        session = auth.session_of_token(token.strip())
        if session is None:
            await asyncio.sleep(_WRONG_TOKEN_SECONDS)
            return _page(request, problem="login.wrong", status=403)
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
    """Return the page's path, with a proxy's prefix."""
    return f"{root_of(request.scope)}/"


def _page(request: Request, problem: str = "", status: int = 200) -> HTMLResponse:
    """Write the form in the browser's language, without scripts."""
    language = language_of(request.headers.get("accept-language", ""), list(_texts()))
    texts = _texts()[language]
    told = f'<p class="problem" role="alert">{html.escape(texts[problem])}</p>' if problem else ""
    text = (STATIC / "login.html").read_text(encoding="utf-8")
    text = text.replace("{{LANGUAGE}}", language).replace("{{PROBLEM}}", told)
    text = re.sub(r"\{\{([a-z.]+)\}\}", lambda match: html.escape(texts[match[1]]), text)
    return HTMLResponse(text, status_code=status, headers=_HEADERS)


def language_of(accepted: str, offered: list[str]) -> str:
    """Choose the first offered language of an ``Accept-Language`` header; otherwise the first offered one."""
    wanted = [part.split(";")[0].strip().lower().split("-")[0] for part in accepted[:200].split(",")]
    return next((each for each in wanted if each in offered), offered[0])


@cache
def _texts() -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = json.loads((STATIC / "texts.json").read_text(encoding="utf-8"))
    return texts
