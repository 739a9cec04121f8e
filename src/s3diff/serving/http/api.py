"""The HTTP interface. It translates: forms into options, errors into statuses, jobs into JSON. It restores nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from s3diff.errors import (
    DownloadError,
    JobNotFoundError,
    ModelError,
    OptionError,
    OutputError,
    PictureError,
    PictureTooLargeError,
    QueueFullError,
    S3DiffError,
    ServiceClosedError,
)
from s3diff.option_texts import field_at_fault, options_from_texts
from s3diff.serving.http.answers import error_answer, has_ended, sent
from s3diff.serving.http.auth import Auth
from s3diff.serving.http.metrics import Metrics
from s3diff.serving.http.middleware import BodyLimits, RequestLog, SiteGuard, TokenGuard
from s3diff.serving.http.schemas import (
    DESCRIPTION,
    EstimateView,
    HealthView,
    JobView,
    ModelsView,
    errors_for,
    estimate_view,
    field_of_failure,
    form_body,
    job_view,
    model_view,
    picture_answer,
)
from s3diff.serving.jobs import Job
from s3diff.serving.models import CANNOT_LOAD
from s3diff.serving.service import RestorationService
from s3diff.version import __version__

_LOG = logging.getLogger("s3diff.serving")
#: Longest time that a question about a job waits for its end.
_LONGEST_WAIT_SECONDS = 30.0
#: A form has one picture and the options; more parts mean something else.
_MAX_FIELDS, _MAX_FIELD_BYTES = 40, 1 << 16
_HTTP_CODES = {
    400: "malformed",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "media_type",
}
#: Of jobs that failed, by their cause; any other is the service's own fault.
_FAILURE_CODES = {"picture": 422, "options": 422, "output": 422, "time": 408, "model": 503}
_MODEL_RETRY_SECONDS = 60


def create_app(
    service: RestorationService,
    *,
    auth: Auth | None = None,
    allowed_hosts: Collection[str] | None = None,
    closes_service: bool = True,
    root_path: str = "",
) -> FastAPI:
    """The application, for any ASGI server.

    Args:
        service: started by whoever made it.
        auth: who may ask; None for everybody.
        allowed_hosts: names that the ``Host`` header may hold; None for any. To be given where the service listens on
            the loopback, against DNS rebinding.
        closes_service: whether the application's end is the service's end.
        root_path: where a proxy puts the service.

    Returns:
        An application whose ``state`` holds ``service`` and ``auth``.
    """
    auth = Auth() if auth is None else auth

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        if closes_service:
            await run_in_threadpool(service.close, 0.0)

    app = FastAPI(
        title="s3diff",
        version=__version__,
        summary="Real photographs restored and enlarged in one diffusion step.",
        description=DESCRIPTION,
        lifespan=life,
        openapi_url="/api/openapi.json",
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
        root_path=root_path,
    )
    app.state.service, app.state.auth = service, auth
    metrics = Metrics(service)
    _add_routes(app, service, metrics)
    _add_error_handlers(app)
    app.add_middleware(BodyLimits, limits=service.limits)
    app.add_middleware(TokenGuard, auth=auth)
    app.add_middleware(SiteGuard, allowed_hosts=allowed_hosts)
    app.add_middleware(RequestLog, observe=metrics.observe)
    return app


def _add_routes(app: FastAPI, service: RestorationService, metrics: Metrics) -> None:
    arriving = asyncio.Semaphore(service.limits.uploads_at_once)

    @asynccontextmanager
    async def form_of(request: Request) -> AsyncIterator[tuple[UploadFile, dict[str, str]]]:
        """The picture and the other fields, while a place for uploads is held."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
            raise HTTPException(415, "send the picture as multipart/form-data, in a field named picture")
        service.require_room()
        if arriving.locked():
            raise QueueFullError("too many pictures are arriving; come back in a second")
        async with arriving:
            form = await _parsed(request)
            try:
                yield _fields(form)
            finally:
                await form.close()

    async def submitted(request: Request) -> Job:
        async with form_of(request) as (picture, texts):
            model = texts.pop("model", None) or None
            options, writing = options_from_texts(texts)
            return await run_in_threadpool(
                service.submit,
                picture.file,
                picture.filename or "picture",
                options,
                model=model,
                writing=writing,
                owner=_owner(request),
            )

    @app.post(
        "/api/v1/restore",
        tags=["restore"],
        summary="Restore a picture and get it back",
        response_class=Response,
        responses={
            **picture_answer(),
            202: {"model": JobView},
            **errors_for(400, 401, 403, 408, 413, 415, 422, 500, 503),
        },
        openapi_extra=form_body(service),
    )
    async def restore(request: Request) -> Response:
        """The result is the answer. With `Accept: application/json` the answer is a job (202), to be asked for later.

        A client that goes away ends the work.
        """
        job = await submitted(request)
        if _wants_json(request):
            return _accepted(service, job)
        if not await has_ended(request, job):
            service.cancel(job.id, job.owner)
            return Response(status_code=499)
        status = job.status
        if status.state == "failed":
            service.store.remove(job)
            code = _FAILURE_CODES.get(status.cause or "", 500)
            retry_after = _MODEL_RETRY_SECONDS if status.cause == "model" else None
            return error_answer(
                code, status.cause or "service", status.error or "", field_of_failure(status), retry_after
            )
        if status.result is None:
            return error_answer(
                503, "ending", "the service ended before the picture was restored; send it again", None, 5
            )
        return sent(status.result, then=BackgroundTask(service.store.remove, job))

    @app.post(
        "/api/v1/jobs",
        tags=["jobs"],
        status_code=202,
        summary="Hand in a picture",
        response_model=JobView,
        responses=errors_for(400, 401, 403, 408, 413, 415, 422, 503),
        openapi_extra=form_body(service),
    )
    async def hand_in(request: Request) -> Response:
        """The job's progress is at `/api/v1/jobs/{id}`, its result at `/api/v1/jobs/{id}/result`."""
        return _accepted(service, await submitted(request))

    @app.get("/api/v1/jobs/{id}", tags=["jobs"], summary="Where a job stands", responses=errors_for(401, 404, 422))
    async def look(
        request: Request,
        id: str,
        wait: Annotated[
            float, Query(ge=0, le=_LONGEST_WAIT_SECONDS, description="Seconds to wait for the job's end.")
        ] = 0,
    ) -> JobView:
        """Answers at once, or, with `wait`, when the job has ended or the time is over."""
        job = service.job(id, _owner(request))
        if wait and not job.status.is_final:
            await has_ended(request, job, wait)
        return job_view(service, job)

    @app.get(
        "/api/v1/jobs/{id}/result",
        tags=["jobs"],
        summary="A job's result",
        response_class=Response,
        responses={**picture_answer(), **errors_for(401, 404, 409)},
    )
    async def result(request: Request, id: str) -> Response:
        """The picture, as long as it is kept; 409 while, or because, there is none."""
        job = service.job(id, _owner(request))
        made = job.status.result
        if made is None:
            return error_answer(409, "no_result", f"the job is {job.status.state}, so there is no result", None)
        job.is_fetched = True
        return sent(made)

    @app.delete(
        "/api/v1/jobs/{id}",
        tags=["jobs"],
        status_code=204,
        summary="End a job and forget it",
        responses=errors_for(401, 403, 404),
    )
    async def end(request: Request, id: str) -> None:
        """Work that runs is stopped within a layer of the network; files are removed."""
        await run_in_threadpool(service.remove, id, _owner(request))

    @app.post(
        "/api/v1/estimate",
        tags=["restore"],
        summary="How blurred and noisy a picture is",
        responses=errors_for(400, 401, 403, 408, 413, 415, 422, 503),
        openapi_extra=form_body(service, with_options=False),
    )
    async def estimate(request: Request) -> EstimateView:
        """What restoring it would find; does not wait for the queue."""
        async with form_of(request) as (picture, texts):
            model = texts.pop("model", None) or None
            if texts:
                raise OptionError(f"{next(iter(texts))[:60]} is no field of an estimate; there are picture and model")
            name = picture.filename or "picture"
            return estimate_view(await run_in_threadpool(service.estimate, picture.file, name, model=model))

    @app.get("/api/v1/models", tags=["restore"], summary="The models", responses=errors_for(401))
    async def models() -> ModelsView:
        """Those that `model` may name, the default first."""
        return ModelsView(models=[model_view(model) for model in service.models])

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["operation"], summary="Whether the process lives", response_model=HealthView)
    async def healthz() -> HealthView:
        """Needs no token."""
        return HealthView(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Whether pictures are taken",
        response_model=HealthView,
        responses={503: {"model": HealthView}},
    )
    async def readyz() -> Response:
        """503 while the service is starting or ending. Needs no token."""
        status = "ok" if service.is_ready else "ending" if service.is_ending else "not ready"
        return JSONResponse({"status": status}, 200 if service.is_ready else 503)

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors_for(401)},
    )
    async def figures() -> Response:
        """Requests, jobs, queue, room, process."""
        return Response(await run_in_threadpool(metrics.text), media_type=metrics.content_type)


async def _parsed(request: Request) -> FormData:
    try:
        return await request.form(max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
    except (HTTPException, MultiPartException):
        raise
    except (ValueError, LookupError) as error:  # of charsets that do not exist, and of what a parser did not foresee
        raise HTTPException(400, f"the form cannot be read ({type(error).__name__})") from error


def _fields(form: FormData) -> tuple[UploadFile, dict[str, str]]:
    texts: dict[str, str] = {}
    picture = None
    for name, value in form.multi_items():
        if name in texts or (name == "picture" and picture is not None):
            raise OptionError(f"{name[:60]} is given twice; give it once")
        if name == "picture" and isinstance(value, UploadFile):
            picture = value
        elif isinstance(value, str) and name != "picture":
            texts[name] = value
        else:
            raise OptionError(
                f"{name[:60]} has the wrong kind; picture is a file with a name, every other field a text"
            )
    if picture is None:
        raise OptionError("picture is missing; send the file in a field named picture")
    return picture, texts


def _owner(request: Request) -> str | None:
    owner: str | None = request.scope.get("state", {}).get("owner")
    return owner


def _wants_json(request: Request) -> bool:
    accept = request.headers.get("accept", "").lower()
    return "application/json" in accept and "image/" not in accept


def _accepted(service: RestorationService, job: Job) -> JSONResponse:
    view = job_view(service, job).model_dump(mode="json")
    return JSONResponse(view, 202, {"Location": f"/api/v1/jobs/{job.id}"})


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(S3DiffError)
    async def told(_: Request, error: Exception) -> Response:
        text = " ".join(str(error).split())
        if isinstance(error, QueueFullError):
            return error_answer(503, "queue_full", text, None, error.retry_after_seconds)
        if isinstance(error, ServiceClosedError):
            return error_answer(503, "ending", text, None, 5)
        if isinstance(error, ModelError | DownloadError):
            _LOG.error("model cannot be loaded: %s", text)
            return error_answer(503, "model", CANNOT_LOAD, "model", _MODEL_RETRY_SECONDS)
        for kind, status, code in (
            (JobNotFoundError, 404, "no_such_job"),
            (PictureTooLargeError, 413, "too_large"),
            (PictureError, 422, "picture"),
            (OptionError, 422, "option"),
            (OutputError, 422, "output"),
        ):
            if isinstance(error, kind):
                return error_answer(status, code, text, field_at_fault(error) if kind is OptionError else None)
        return error_answer(500, "service", text, None)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _HTTP_CODES.get(error.status_code, "refused")
        answer = error_answer(error.status_code, code, str(error.detail), None)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return error_answer(422, "option", f"{name} cannot be used: {first['msg'].lower()}", name)
