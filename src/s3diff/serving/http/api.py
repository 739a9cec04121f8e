"""Translate between HTTP and the service: forms into options, errors into statuses, jobs into JSON."""

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
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from s3diff.errors import OptionError, QueueFullError, S3DiffError
from s3diff.option_texts import form_options
from s3diff.service_errors import ENDED, NO_RESULT, TOO_MANY, code_of_status, failure_of
from s3diff.serving.http.auth import Auth
from s3diff.serving.http.forms import picture_and_options, read_form
from s3diff.serving.http.job_responses import CLIENT_HAS_LEFT, error_answer, has_ended, sent, wants_json
from s3diff.serving.http.metrics import Metrics
from s3diff.serving.http.middleware import (
    BodyLimits,
    HeadAsGet,
    ProxyPrefix,
    RequestLog,
    SiteGuard,
    TokenGuard,
    root_of,
)
from s3diff.serving.http.schemas import (
    DESCRIPTION,
    EstimateView,
    HealthView,
    InspectionView,
    JobView,
    ModelsView,
    ModelView,
    errors_for,
    form_body,
    job_view,
    picture_answer,
)
from s3diff.serving.jobs import Job
from s3diff.serving.limits import Client, Quota
from s3diff.serving.service import NO_QUOTA, RestorationService
from s3diff.version import __version__

_LOG = logging.getLogger("s3diff.serving")
#: Longest wait for a job's end in one request.
_LONGEST_WAIT_SECONDS = 30.0
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


def create_app(
    service: RestorationService,
    *,
    auth: Auth | None = None,
    allowed_hosts: Collection[str] | None = None,
    closes_service: bool = True,
    root_path: str = "",
) -> FastAPI:
    """Create the application, for any ASGI server.

    Args:
        service: the service; the caller starts it.
        auth: checks tokens; None admits everybody.
        allowed_hosts: names that the ``Host`` header may hold; None for any. Needed on the loopback, against DNS
            rebinding.
        closes_service: whether the service is closed at the application's end.
        root_path: the path under which a proxy shows the service, without a slash at its end.

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
    )
    app.state.service, app.state.auth = service, auth
    metrics = Metrics(service)
    _add_routes(app, service, metrics)
    _add_error_handlers(app)
    app.add_middleware(BodyLimits, limits=service.limits)
    app.add_middleware(TokenGuard, auth=auth)
    app.add_middleware(SiteGuard, allowed_hosts=allowed_hosts)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestLog, observe=metrics.observe)
    app.add_middleware(ProxyPrefix, root_path=root_path)
    return app


def _add_routes(app: FastAPI, service: RestorationService, metrics: Metrics) -> None:
    arriving = asyncio.Semaphore(service.limits.uploads_at_once)

    @asynccontextmanager
    async def form_of(request: Request, quota: Quota = NO_QUOTA) -> AsyncIterator[tuple[UploadFile, dict[str, str]]]:
        """Return the picture and the other fields of a form, while a place for uploads is held."""
        service.require_room(owner_of(request), quota)
        if arriving.locked():
            raise QueueFullError(TOO_MANY.format("pictures are arriving"))
        async with arriving:
            form = await read_form(request)
            try:
                yield picture_and_options(form)
            finally:
                await form.close()

    async def submitted(request: Request, *, is_shared: bool = True) -> Job:
        async with form_of(request, _quota(request)) as (picture, texts):
            model = texts.pop("model", None) or None
            options, writing, video_options = form_options(texts)
            return await run_in_threadpool(
                service.submit,
                picture.file,
                picture.filename or "picture",
                options,
                model=model,
                writing=writing,
                video_options=video_options,
                owner=owner_of(request),
                quota=_quota(request),
                is_shared=is_shared,
            )

    @app.post(
        "/api/v1/restore",
        tags=["restore"],
        summary="Restore a picture and get it back",
        response_class=Response,
        responses={
            **picture_answer(),
            202: {"model": JobView},
            **errors_for(400, 401, 403, 408, 413, 415, 422, 429, 500, 503),
        },
        openapi_extra=form_body(service),
    )
    async def restore(request: Request) -> Response:
        """Restore a picture and answer with it; with `Accept: application/json` answer with a job (202) to ask for.

        A client that goes away ends the work.
        """
        is_job = wants_json(request.headers.get("accept", "*/*"))
        job = await submitted(request, is_shared=is_job)
        if is_job:
            return await _accepted(request, service, job)
        if not await has_ended(request, job):
            service.cancel(job.id, job.owner)
            return Response(status_code=CLIENT_HAS_LEFT)
        status = job.status
        if status.state == "failed":
            service.store.remove(job)
            return error_answer(status.cause or "service", status.error or "", status.field)
        if status.result is None:
            return error_answer("ending", ENDED)
        return sent(status.result, then=BackgroundTask(service.store.remove, job))

    @app.post(
        "/api/v1/jobs",
        tags=["jobs"],
        status_code=202,
        summary="Hand in a picture",
        response_model=JobView,
        responses=errors_for(400, 401, 403, 408, 413, 415, 422, 429, 503),
        openapi_extra=form_body(service),
    )
    async def hand_in(request: Request) -> Response:
        """Queue a picture: its progress is at `/api/v1/jobs/{id}`, its result at `/api/v1/jobs/{id}/result`."""
        return await _accepted(request, service, await submitted(request))

    @app.get("/api/v1/jobs/{id}", tags=["jobs"], summary="Where a job stands", responses=errors_for(401, 404, 422))
    async def look(
        request: Request,
        id: str,
        wait: Annotated[
            float, Query(ge=0, le=_LONGEST_WAIT_SECONDS, description="Seconds to wait for the job's end.")
        ] = 0,
    ) -> JobView:
        """Answer at once or, with `wait`, when the job has ended or the time is over."""
        job = await run_in_threadpool(service.job, id, owner_of(request))
        if wait and not job.status.is_final:
            await has_ended(request, job, wait)
        return await run_in_threadpool(job_view, service, job)

    @app.get(
        "/api/v1/jobs/{id}/result",
        tags=["jobs"],
        summary="A job's result",
        response_class=Response,
        responses={**picture_answer(), **errors_for(401, 404, 409)},
    )
    async def result(request: Request, id: str) -> Response:
        """Send the result, as long as it is kept; 409 while, or because, there is none.

        A part of it is sent (206) where `Range` asks for one, as players do.
        """
        job = await run_in_threadpool(service.job_with_result, id, owner_of(request))
        made = job.status.result
        if made is None:
            return error_answer("no_result", NO_RESULT.format(job.status.state))
        job.is_fetched = job.is_fetched or not request.scope.get("is_head", False)
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
        await run_in_threadpool(service.remove, id, owner_of(request))

    @app.post(
        "/api/v1/estimate",
        tags=["restore"],
        summary="How blurred and noisy a picture is",
        responses=errors_for(400, 401, 403, 408, 413, 415, 422, 429, 503),
        openapi_extra=form_body(service, with_options=False),
    )
    async def estimate(request: Request) -> EstimateView:
        """Estimate how degraded the picture is, without waiting for the queue."""
        async with form_of(request) as (picture, texts):
            model = texts.pop("model", None) or None
            if texts:
                raise OptionError(f"{next(iter(texts))[:60]} is no field of an estimate; there are picture and model")
            name = picture.filename or "picture"
            found = await run_in_threadpool(service.estimate, picture.file, name, model=model)
            (width, height), (blur, noise) = found.size, (round(degree, 4) for degree in found.degrees)
            return EstimateView(width=width, height=height, blur=blur, noise=noise, frames=found.num_frames)

    @app.post(
        "/api/v1/inspect",
        tags=["restore"],
        summary="What a picture says of its making",
        responses=errors_for(400, 401, 403, 408, 413, 415, 422, 429, 503),
        openapi_extra=form_body(service, with_options=False, with_model=False),
    )
    async def inspect(request: Request) -> InspectionView:
        """Read the statement in a picture's XMP and check its Content Credentials, without waiting for the queue."""
        async with form_of(request) as (picture, texts):
            if texts:
                raise OptionError(f"{next(iter(texts))[:60]} is no field of an inspection; there is picture")
            found = await run_in_threadpool(service.inspect, picture.file, picture.filename or "picture")
            return InspectionView(**found.as_json(), is_intact=found.is_intact)

    @app.get("/api/v1/models", tags=["restore"], summary="The models", responses=errors_for(401))
    async def models() -> ModelsView:
        """List the models that `model` may name, the default first."""
        return ModelsView(models=[ModelView.model_validate(model) for model in service.models])

    @app.get("/healthz", tags=["operation"], summary="Whether the process lives", response_model=HealthView)
    async def healthz() -> HealthView:
        """Answer while the process runs. Needs no token."""
        return HealthView(status="ok")

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Whether pictures are taken",
        response_model=HealthView,
        responses={503: {"model": HealthView}},
    )
    async def readyz() -> Response:
        """Answer 503 while the service is starting or ending. Needs no token."""
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
        """Count requests, jobs, queue, room and the process's resources."""
        return Response(await run_in_threadpool(metrics.text), media_type=metrics.content_type)


def owner_of(request: Request) -> str | None:
    """Return the owner of the jobs that the request hands in; None where everybody is admitted."""
    client = _client(request)
    return None if client is None else client.owner


def _quota(request: Request) -> Quota:
    client = _client(request)
    return NO_QUOTA if client is None else client.quota


def _client(request: Request) -> Client | None:
    """Return who sends the request, as the token guard has found out."""
    client: Client | None = request.scope.get("state", {}).get("client")
    return client


async def _accepted(request: Request, service: RestorationService, job: Job) -> JSONResponse:
    view = await run_in_threadpool(job_view, service, job)
    return JSONResponse(
        view.model_dump(mode="json"), 202, {"Location": f"{root_of(request.scope)}/api/v1/jobs/{job.id}"}
    )


def _methods(app: FastAPI, request: Request) -> str:
    """List the methods of all routes with this path."""
    taken = {
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in app.router.routes)
    }
    return ", ".join(sorted(taken | {"HEAD"} if "GET" in taken else taken))


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(S3DiffError)
    async def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, S3DiffError)
        failure = failure_of(error)
        if failure.kind.text is not None:  # the log has the paths, the client does not
            _LOG.error("%s: %s", failure.kind.code, error)
        return error_answer(failure.kind.code, failure.message, failure.field, failure.retry_seconds)

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_HAS_LEFT)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text, headers = str(error.detail), dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = methods = _methods(app, request)
            text = f"this path takes {methods}, not {request.method[:20]}"
        if error.status_code == 404:
            text = "there is nothing at this path; the HTTP service is described at /api/openapi.json"
        return error_answer(code_of_status(error.status_code), text, status=error.status_code, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return error_answer("option", f"{name} cannot be used: {first['msg'].lower()}", name)
