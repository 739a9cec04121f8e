"""Build the answers that take more than a line: wait for a job, send a file, report an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.background import BackgroundTask

from s3diff.errors import JobNotFoundError
from s3diff.restoration.result import Result
from s3diff.service_errors import NOT_KEPT, SERVICE_ERRORS
from s3diff.serving.jobs import Job, JobStatus

#: How often a waiting request looks whether its client is still there.
_LOOK_SECONDS = 0.5
#: The status, which nobody receives, of a request whose client has left; nginx made it known.
CLIENT_HAS_LEFT = 499


async def has_ended(request: Request, job: Job, seconds: float | None = None) -> bool:
    """Wait for a job's end; return False when the time is over or the client has left."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def look(status: JobStatus) -> None:
        if status.is_final:
            loop.call_soon_threadsafe(ended.set)

    unsubscribe = job.subscribe(look)
    until = None if seconds is None else loop.time() + seconds
    try:
        while not job.status.is_final:
            left = _LOOK_SECONDS if until is None else min(_LOOK_SECONDS, until - loop.time())
            if left <= 0 or await request.is_disconnected():
                return False
            try:
                await asyncio.wait_for(ended.wait(), left)
            except asyncio.TimeoutError:
                continue
        return True
    finally:
        unsubscribe()


def sent(result: Result, then: BackgroundTask | None = None) -> Response:
    """Send a result's file, or the part of it that the request's ``Range`` asks for."""
    try:
        status = result.path.stat()
    except OSError:
        raise JobNotFoundError(NOT_KEPT) from None
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(result.name, safe='')}",
        "Cache-Control": "private, no-store",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "S3Diff-Result": json.dumps({**result.facts, "notes": list(result.notes)}),
    }
    return FileResponse(result.path, headers=headers, media_type=result.media_type, background=then, stat_result=status)


def error_answer(
    code: str,
    message: str,
    field: str | None = None,
    retry_seconds: float | None = None,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    **facts: float,
) -> JSONResponse:
    """Answer with an error; all errors have one form.

    Args:
        code: of :data:`s3diff.service_errors.SERVICE_ERRORS`.
        message: one line for people.
        retry_seconds: wait before the next try; None takes the table's.
        status: HTTP status, for a code that is not in the table.
        facts: more members of the error, where a program can use them.
    """
    kind = SERVICE_ERRORS.get(code)
    status = kind.status if kind and status is None else status or 500
    later = kind.retry_seconds if kind and retry_seconds is None else retry_seconds
    again = {} if later is None else {"Retry-After": str(max(1, round(later)))}
    content = {"error": {"code": code, "message": message, "field": field, **facts}}
    return JSONResponse(content, status, {**again, **(headers or {})})


def wants_json(accept: str) -> bool:
    """Check whether a client prefers a job as JSON to the picture.

    Args:
        accept: the ``Accept`` header. One that ranks anything as high as JSON gets the picture: programs send it by
            default (axios: ``application/json, text/plain, */*``).
    """
    taken: dict[str, float] = {}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weights = [piece[2:] for piece in parameters if piece.startswith("q=")]
        try:
            taken[kind] = float(weights[0]) if weights else 1.0
        except ValueError:
            taken[kind] = 0.0
    anything = taken.get("*/*", 0.0)
    picture = max([weight for kind, weight in taken.items() if kind.startswith("image/")], default=anything)
    return taken.get("application/json", taken.get("application/*", anything)) > picture
