"""Add the page to an application that has the service's HTTP interface: its document, routes and signing in."""

from __future__ import annotations

import asyncio
import hashlib
import html
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from pydantic import ValidationError

from s3diff.errors import JobNotFoundError, OptionError, PictureError, QueueFullError
from s3diff.formats import FORMATS, PICTURE_EXTENSIONS, VIDEO, is_video
from s3diff.images.files.reading import read_picture
from s3diff.images.files.video import first_picture, reads_videos
from s3diff.images.files.writing import can_be_written
from s3diff.option_texts import option_text
from s3diff.presets import RestorePreset, all_presets
from s3diff.restoration.result import Result
from s3diff.service_errors import TOO_MANY, failure_of
from s3diff.serving.http.api import owner_of
from s3diff.serving.http.auth import SESSION_COOKIE, Auth
from s3diff.serving.http.job_responses import error_answer
from s3diff.serving.http.middleware import root_of
from s3diff.serving.intake import opened_video
from s3diff.serving.jobs import Job, safe_name
from s3diff.serving.page.controls import SIZE_FIELDS, page_controls, told_values
from s3diff.serving.page.plan import Plan, Settings, TooLargeHereError, plan
from s3diff.serving.page.previews import PIECE_TYPE, PREVIEW_TYPE, piece, preview, zip_of
from s3diff.serving.service import RestorationService

#: Nothing is loaded from or sent to other hosts, no script or style is inline, no string becomes code, no other page
#: frames this one.
CONTENT_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
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
NOT_KEPT = {"Cache-Control": "no-store"}


STATIC = Path(__file__).with_name("static")
#: Files that the browser may request, and their media types.
STATIC_TYPES = {".js": "text/javascript", ".css": "text/css", ".json": "application/json"}


def page_document(service: RestorationService, examples: Sequence[str], *, has_login: bool) -> str:
    """Write the page.

    Args:
        examples: file names of the pictures that come with the page.
        has_login: whether to show the button for signing out.
    """
    told, videos = json.dumps(_told(service, examples, has_login=has_login)), _video_endings()
    parts = {
        "VERSION": static_version(),
        "ENDINGS": html.escape(",".join(["image/*", *(["video/*"] if videos else []), *PICTURE_EXTENSIONS, *videos])),
        # A "<" would end the element that holds it.
        "TOLD": told.replace("<", "\\u003c"),
    }
    text = (STATIC / "page.html").read_text(encoding="utf-8")
    for name, value in parts.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def _told(service: RestorationService, examples: Sequence[str], *, has_login: bool) -> dict[str, Any]:
    models = service.models
    default = next(each.name for each in models if each.is_default)
    return {
        "controls": [
            {**asdict(each), "allowed": each.allowed} for each in page_controls([each.name for each in models], default)
        ],
        "values": told_values(),
        "sizeFields": list(SIZE_FIELDS),
        "presets": [_preset(each) for each in all_presets().values()],
        "examples": list(examples),
        "hasLogin": has_login,
        "formats": [form.title for form in FORMATS if can_be_written(form.extensions[0])],
        "endings": [*PICTURE_EXTENSIONS, *_video_endings()],
        "videoEndings": _video_endings(),
        "shownTypes": [form.media_type for form in FORMATS if form.is_shown_by_browsers],
        "lossyFormats": [form.extensions[0][1:] for form in FORMATS if form.has_quality],
        "withoutPrompts": [each.name for each in models if each.takes_prompts is False],
        "withoutTinyDecoder": [each.name for each in models if each.takes_tiny_decoder is False],
        "uploadBytes": service.limits.upload_bytes,
        "videoFrames": service.limits.video_frames,
        "outputPixels": service.limits.output_pixels,
        "keepSeconds": service.limits.result_seconds,
    }


def _video_endings() -> list[str]:
    """List the endings of videos' names, where this service reads videos."""
    return list(VIDEO.extensions) if reads_videos() else []


def _preset(preset: RestorePreset) -> dict[str, Any]:
    options = {
        name: value if isinstance(value, str | bool | int | float) else option_text(name, value)
        for name, value in preset.values.items()
        if name != "name"  # results of the page have a name of their own
    }
    return {"name": preset.name, "title": preset.title, "summary": preset.summary, "options": options}


@cache
def static_version() -> str:
    """Name the scripts' version, so that a browser never uses old ones."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


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
        answer.set_cookie(value=session, max_age=_SESSION_SECONDS, **_cookie(request))
        return answer

    @router.post(SIGN_OUT_PATH)
    def sign_out(request: Request) -> Response:
        answer = RedirectResponse(_root(request) + SIGN_IN_PATH[1:], status_code=303, headers=_HEADERS)
        answer.delete_cookie(**_cookie(request))
        return answer

    return router


def _root(request: Request) -> str:
    """Return the page's path, with a proxy's prefix."""
    return f"{root_of(request.scope)}/"


def _cookie(request: Request) -> dict[str, Any]:
    """Describe the session's cookie; one is removed by the same name and marks that it was set with."""
    marks = {"httponly": True, "samesite": "strict", "secure": request.url.scheme == "https"}
    return {"key": SESSION_COOKIE, "path": _root(request), **marks}


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


EXAMPLES = Path(__file__).with_name("examples")
#: Cached without limit: the address changes with the content.
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
#: Most results in one archive: their ids fit into one address.
_MAX_ZIPPED = 500
#: Form of a piece's box: left, top, right and bottom edge in pixels.
_BOX = r"^(\d{1,6}(,\d{1,6}){3})?$"
_MAX_SETTINGS_BYTES = 1 << 20
#: Previews made at once: each holds a decoded picture in memory.
_PREVIEWS_AT_ONCE = 2
#: No thread of the server's waits longer for its turn.
_PREVIEW_WAIT_SECONDS = 10.0


def mount_page(app: FastAPI, service: RestorationService) -> FastAPI:
    """Add the page at ``/`` to an application.

    Args:
        app: of :func:`s3diff.serving.http.api.create_app`; its middleware stands before the page.
    """
    auth: Auth = app.state.auth
    if auth.is_required:
        app.include_router(login_routes(auth))
        auth.sign_in_path = SIGN_IN_PATH
        auth.open_paths |= OPEN_PATHS
    app.include_router(_document(service, has_login=auth.is_required))
    app.include_router(_routes(service))
    return app


Owner = Annotated[str | None, Depends(owner_of)]


def _document(service: RestorationService, *, has_login: bool) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    examples = {path.name: path for path in sorted(EXAMPLES.iterdir())}
    scripts = {path.name: path for path in STATIC.iterdir() if path.suffix in STATIC_TYPES}

    @router.get("/")
    def page() -> HTMLResponse:
        text = page_document(service, list(examples), has_login=has_login)
        return HTMLResponse(text, headers=_HEADERS)

    @router.get("/favicon.ico")
    def icon() -> FileResponse:
        headers = {**PAGE_HEADERS, "Cache-Control": "max-age=86400"}
        return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml", headers=headers)

    @router.get("/page/examples/{name}")
    def example(name: str) -> FileResponse:
        if name not in examples:
            raise JobNotFoundError(f"there is no example {name[:60]!r}; there are {', '.join(examples)}")
        return FileResponse(examples[name], headers=PAGE_HEADERS)

    @router.get("/page/static/{version}/{name}")
    def static(version: str, name: str) -> FileResponse:
        if name not in scripts:
            raise JobNotFoundError("there is no such script")
        headers = {**PAGE_HEADERS, **(_KEPT if version == static_version() else NOT_KEPT)}
        return FileResponse(scripts[name], media_type=STATIC_TYPES[scripts[name].suffix], headers=headers)

    return router


def _routes(service: RestorationService) -> APIRouter:
    router = APIRouter(prefix="/page", include_in_schema=False)
    at_once = threading.BoundedSemaphore(_PREVIEWS_AT_ONCE)

    @contextmanager
    def turn() -> Iterator[None]:
        if not at_once.acquire(timeout=_PREVIEW_WAIT_SECONDS):
            raise QueueFullError(TOO_MANY.format("previews are being made"))
        try:
            yield
        finally:
            at_once.release()

    @router.post("/plan", response_model=Plan)
    async def planned(request: Request) -> Plan | Response:
        try:
            settings = Settings.model_validate_json(await _small_body(request))
        except ValidationError as error:
            raise OptionError("these are no settings; give options (name: text), model and pictures as JSON") from error
        try:
            return plan(service, settings)
        except TooLargeHereError as error:
            failure = failure_of(error)
            return error_answer(failure.kind.code, failure.message, failure.field, largest=error.largest)

    @router.post("/preview")
    def input_preview(picture: UploadFile, box: Annotated[str, Form(pattern=_BOX)] = "") -> Response:
        name, limits = safe_name(picture.filename or ""), service.limits
        with turn(), tempfile.TemporaryDirectory(prefix="s3diff-preview-") as folder:
            place = Path(folder) / name
            with place.open("wb") as file:
                shutil.copyfileobj(picture.file, file)
            try:
                if is_video(place):
                    seen = first_picture(opened_video(place, limits))
                else:
                    seen = read_picture(place, limits.input_pixels, limits.upload_bytes)
                if box:
                    made, kind = piece(seen, [int(edge) for edge in box.split(",")]), PIECE_TYPE
                else:
                    made, kind = preview(seen), PREVIEW_TYPE
            except PictureError as error:
                raise PictureError(str(error).replace(str(place), name)) from error
        return Response(made, media_type=kind, headers=_HEADERS)

    @router.get("/jobs/{job_id}/preview")
    def job_preview(job_id: str, owner: Owner) -> Response:
        job = service.job_with_result(job_id, owner)
        with turn():
            result = _result(job)
            made = preview(read_picture(result.path, service.limits.output_pixels, result.size_bytes))
        return Response(made, media_type=PREVIEW_TYPE, headers=_HEADERS)

    @router.get("/results.zip")
    def results(job: Annotated[list[str], Query(max_length=_MAX_ZIPPED)], owner: Owner) -> StreamingResponse:
        jobs = [service.job_with_result(job_id, owner) for job_id in dict.fromkeys(job)]
        found = [_result(each) for each in jobs]
        for each in jobs:
            each.is_fetched = True
        headers = {**NOT_KEPT, "Content-Disposition": 'attachment; filename="restored.zip"'}
        return StreamingResponse(zip_of(found), media_type="application/zip", headers=headers)

    return router


async def _small_body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_SETTINGS_BYTES:
            raise HTTPException(413, "these settings are too long")
    return body


def _result(job: Job) -> Result:
    result = job.status.result
    if result is None or not result.path.exists():
        raise JobNotFoundError("this picture has no result; restore it again")
    return result
