"""The page on an application that has the service's HTTP interface already."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated

import gradio
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.routing import Mount

from s3diff.errors import JobNotFoundError, OptionError, PictureError, QueueFullError
from s3diff.option_texts import options_from_texts
from s3diff.restoration.result import Result
from s3diff.service_errors import TOO_MANY
from s3diff.serving.command_line import command_line
from s3diff.serving.http.auth import Auth
from s3diff.serving.jobs import Job, safe_name
from s3diff.serving.page.archive import zip_of
from s3diff.serving.page.guard import PAGE_HEADERS, GradioGuard
from s3diff.serving.page.layout import STATIC, build_page, theme
from s3diff.serving.page.login import SIGN_IN_PATH, login_routes
from s3diff.serving.page.previews import PREVIEW_TYPE, preview
from s3diff.serving.service import RestorationService

EXAMPLES = Path(__file__).with_name("examples")
#: The pictures that come with the page, by file name.
EXAMPLE_LABELS = {"budgerigar.jpg": "Budgerigar", "kitten.jpg": "Kitten on a lawn"}
#: Kept by the browser for as long as it likes: their address changes with their content.
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
_NOT_KEPT = {"Cache-Control": "no-store"}
_SCRIPT_TYPES = {".js": "text/javascript", ".css": "text/css"}
#: So many results fit into one address.
_MAX_ZIPPED = 500
_MAX_SETTINGS_BYTES = 1 << 20
#: Each holds a decoded picture in memory.
_PREVIEWS_AT_ONCE = 2
#: No thread of the server's waits longer for its turn.
_PREVIEW_WAIT_SECONDS = 10.0


class Settings(BaseModel):
    """What is to be told as a command."""

    options: dict[str, str]
    model: str | None = None
    names: list[str] = []


def mount_page(app: FastAPI, service: RestorationService) -> FastAPI:
    """Put the page at ``/`` of an application that asks for tokens already.

    Args:
        app: of :func:`s3diff.serving.http.api.create_app`; its own routes come first, and its middleware stands before
            the page.
        service: what restores.
    """
    auth: Auth = app.state.auth
    # Read by Gradio whenever it would tell its makers something.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

    app.include_router(_routes(service))
    app.add_api_route("/favicon.ico", _icon, include_in_schema=False)
    if auth.is_required:
        app.include_router(login_routes(auth))
        auth.sign_in_path = SIGN_IN_PATH
        auth.open_paths.add(SIGN_IN_PATH)
    models = service.models
    blocks = build_page(
        models=[each.name for each in models],
        model=next(each.name for each in models if each.is_default),
        examples=[{"name": name, "label": label} for name, label in EXAMPLE_LABELS.items()],
        has_login=auth.is_required,
        facts={
            "uploadBytes": service.limits.upload_bytes,
            "outputPixels": service.limits.output_pixels,
            "keepSeconds": service.limits.result_seconds,
        },
        version=_version(),
    )
    gradio.mount_gradio_app(
        app,
        blocks,
        "/",
        theme=theme(),
        css_paths=[STATIC / "page.css"],
        footer_links=[],
        run_history=False,
        pwa=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        allowed_paths=[],
        max_file_size=1,  # nothing is uploaded to Gradio
    )
    mounted = app.router.routes[-1]
    if not isinstance(mounted, Mount):
        raise TypeError(
            f"Gradio mounted {type(mounted).__name__}, not an application; use the tested version of gradio"
        )
    mounted.app = GradioGuard(mounted.app, before=app.router.routes[:-1])
    return app


def _icon() -> FileResponse:
    return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


def _owner(request: Request) -> str | None:
    """Whose request it is, as the application's guard has found."""
    return getattr(request.state, "owner", None)


Owner = Annotated[str | None, Depends(_owner)]


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

    @router.post("/command")
    async def command(request: Request) -> dict[str, str]:
        try:
            settings = Settings.model_validate_json(await _small_body(request))
        except ValidationError as error:
            raise OptionError("these are no settings; give options (name: text), model and names as JSON") from error
        options, writing = options_from_texts(settings.options)
        model = settings.model or service.models[0].name
        if model not in {each.name for each in service.models}:
            raise OptionError(f"model is {model[:60]!r}; this service offers {_listed(service)}")
        names = [safe_name(name) for name in settings.names]
        return {"command": command_line(options, writing, model=model, names=names)}

    @router.post("/preview")
    def input_preview(picture: UploadFile) -> Response:
        name = safe_name(picture.filename or "")
        with turn(), tempfile.TemporaryDirectory(prefix="s3diff-preview-") as folder:
            place = Path(folder) / name
            with place.open("wb") as file:
                shutil.copyfileobj(picture.file, file)
            try:
                made = preview(place, service.limits.input_pixels, service.limits.upload_bytes)
            except PictureError as error:
                raise PictureError(str(error).replace(str(place), name)) from error
        return Response(made, media_type=PREVIEW_TYPE, headers={**PAGE_HEADERS, **_NOT_KEPT})

    @router.get("/jobs/{job_id}/preview")
    def job_preview(job_id: str, owner: Owner) -> Response:
        job = service.job(job_id, owner)
        with turn():
            result = _result(job)
            made = preview(result.path, service.limits.output_pixels, result.size_bytes)
        return Response(made, media_type=PREVIEW_TYPE, headers={**PAGE_HEADERS, **_NOT_KEPT})

    @router.get("/results.zip")
    def results(job: Annotated[list[str], Query(max_length=_MAX_ZIPPED)], owner: Owner) -> StreamingResponse:
        jobs = [service.job(job_id, owner) for job_id in dict.fromkeys(job)]
        found = [_result(each) for each in jobs]
        for each in jobs:
            each.is_fetched = True
        headers = {**_NOT_KEPT, "Content-Disposition": 'attachment; filename="restored.zip"'}
        return StreamingResponse(zip_of(found), media_type="application/zip", headers=headers)

    @router.get("/examples/{name}")
    def example(name: str) -> FileResponse:
        if name not in EXAMPLE_LABELS:
            raise JobNotFoundError(f"there is no example {name[:60]!r}; there are {', '.join(EXAMPLE_LABELS)}")
        return FileResponse(EXAMPLES / name, headers=PAGE_HEADERS)

    @router.get("/static/{version}/{name}")
    def static(version: str, name: str) -> FileResponse:
        scripts = {path.name: path for path in STATIC.iterdir() if path.suffix in _SCRIPT_TYPES}
        if name not in scripts:
            raise JobNotFoundError("there is no such script")
        headers = {**PAGE_HEADERS, **(_KEPT if version == _version() else _NOT_KEPT)}
        return FileResponse(scripts[name], media_type=_SCRIPT_TYPES[scripts[name].suffix], headers=headers)

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


def _listed(service: RestorationService) -> str:
    return ", ".join(each.name for each in service.models)


@cache
def _version() -> str:
    """A name for the scripts as they are, so that a browser never uses old ones."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
