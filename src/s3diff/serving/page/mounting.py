"""Add the page to an application that has the service's HTTP interface."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from pydantic import ValidationError

from s3diff.errors import JobNotFoundError, OptionError, PictureError, QueueFullError
from s3diff.foreign_formats import is_video
from s3diff.images.codecs import read_picture
from s3diff.images.files.video import first_picture
from s3diff.restoration.result import Result
from s3diff.service_errors import TOO_MANY, failure_of
from s3diff.serving.http.answers import error_answer
from s3diff.serving.http.auth import Auth
from s3diff.serving.intake import opened_video
from s3diff.serving.jobs import Job, safe_name
from s3diff.serving.page.layout import NOT_KEPT, PAGE_HEADERS, STATIC, STATIC_TYPES, page_document, static_version
from s3diff.serving.page.login import OPEN_PATHS, SIGN_IN_PATH, login_routes
from s3diff.serving.page.plan import Plan, Settings, TooLargeHereError, plan
from s3diff.serving.page.previews import PIECE_TYPE, PREVIEW_TYPE, piece, preview, zip_of
from s3diff.serving.service import RestorationService

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


def _owner(request: Request) -> str | None:
    """Return the request's owner, set by the token guard."""
    return getattr(request.state, "owner", None)


Owner = Annotated[str | None, Depends(_owner)]


def _document(service: RestorationService, *, has_login: bool) -> APIRouter:
    """Make the routes of the page and its files."""
    router = APIRouter(include_in_schema=False)
    examples = {path.name: path for path in sorted(EXAMPLES.iterdir())}
    scripts = {path.name: path for path in STATIC.iterdir() if path.suffix in STATIC_TYPES}

    @router.get("/")
    def page() -> HTMLResponse:
        text = page_document(service, list(examples), has_login=has_login)
        return HTMLResponse(text, headers={**PAGE_HEADERS, **NOT_KEPT})

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
    """Make the routes that the page's scripts need besides the service's interface."""
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
        return Response(made, media_type=kind, headers={**PAGE_HEADERS, **NOT_KEPT})

    @router.get("/jobs/{job_id}/preview")
    def job_preview(job_id: str, owner: Owner) -> Response:
        job = service.job(job_id, owner)
        with turn():
            result = _result(job)
            made = preview(read_picture(result.path, service.limits.output_pixels, result.size_bytes))
        return Response(made, media_type=PREVIEW_TYPE, headers={**PAGE_HEADERS, **NOT_KEPT})

    @router.get("/results.zip")
    def results(job: Annotated[list[str], Query(max_length=_MAX_ZIPPED)], owner: Owner) -> StreamingResponse:
        jobs = [service.job(job_id, owner) for job_id in dict.fromkeys(job)]
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
