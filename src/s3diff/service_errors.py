"""List everything that a service refuses: code, HTTP status, error classes, seconds until a retry, texts.

The service answers by it, the OpenAPI document describes it, and a client raises by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from s3diff.errors import (
    DiskFullError,
    DownloadError,
    JobNotFoundError,
    JobTimeoutError,
    ModelError,
    OptionError,
    OutputError,
    PictureError,
    PictureTooLargeError,
    QueueFullError,
    QuotaError,
    S3DiffError,
    ServiceClosedError,
    ServiceError,
    StoreError,
)
from s3diff.option_texts import field_at_fault

#: Codes that a job fails with. A test compares them with the table.
Cause = Literal["picture", "too_large", "option", "output", "time", "model", "service"]

ENDING = "the service is ending; come back later"
ENDED = "the service ended before the picture was restored; send it again"
QUEUE_FULL = "{} pictures are waiting, which is the limit; come back later"
TOO_MANY = "too many {}; come back in a second"
NO_ROOM = "the service cannot store the picture ({}); come back later"
NO_VIDEOS = "{} is a video, and this service has not installed what reads videos; whoever runs it can: {}"
#: Paths and addresses of models are for the log.
CANNOT_LOAD = "this model cannot be loaded here; the service's log says why"
GIVEN_UP = "every service that restored this picture has died; restore it on its own, with more memory"
FAILED = "the service failed on this picture, which is not the picture's fault; its log says more"
NO_JOB = "there is no such job; results are kept for a while only, so restore the picture again"
NOT_KEPT = "the result is no longer kept; restore the picture again"
REPLICA_LOST = "the replica that worked on this request has died; ask again"
NO_STORE = "the place where jobs are kept cannot be reached; come back later"
NO_RESULT = "the job is {}, so there is no result"
TOO_SLOW = "the request's body came too slowly; send it in one go"
BODY_TOO_LARGE = "the request's body is too large; a picture's file may have at most {} bytes"
NO_TOKEN = "a token is needed; send it as Authorization: Bearer TOKEN"


@dataclass(frozen=True, kw_only=True)
class ServiceErrorKind:
    """Describe one kind of refusal or failure.

    Attributes:
        code: the word for programs, in every error's JSON.
        status: of HTTP.
        meaning: one sentence for the documentation.
        errors: classes that are answered so, with their subclasses that have no row of their own.
        client_error: the class that a client raises.
        retry_seconds: after which a client may try again, where the error itself does not say; None for never.
        field: the field of the form at fault, where it is always the same.
        text: sent instead of the error's own message.
        is_passing: whether a client asks again without its user.
    """

    code: str
    status: int
    meaning: str
    errors: tuple[type[S3DiffError], ...] = ()
    client_error: type[S3DiffError] = ServiceError
    retry_seconds: float | None = None
    field: str | None = None
    text: str | None = None
    is_passing: bool = False


def _rows() -> Iterator[ServiceErrorKind]:
    def row(code: str, status: int, meaning: str, *errors: type[S3DiffError], **facts: object) -> ServiceErrorKind:
        if len(errors) == 1:
            facts["client_error"] = errors[0]
        return ServiceErrorKind(code=code, status=status, meaning=meaning, errors=errors, **facts)  # type: ignore[arg-type]

    yield row("malformed", 400, "The form cannot be read.")
    yield row("token_needed", 401, "A token is needed.")
    yield row("cross_site", 403, "The request comes from another site's page.")
    yield row("not_found", 404, "There is nothing at this address.")
    yield row("no_such_job", 404, "There is no such job, or it is somebody else's.", JobNotFoundError)
    yield row("method_not_allowed", 405, "The address does not answer this method.")
    yield row("too_slow", 408, "The body came too slowly.")
    yield row("time", 408, "The picture took longer than the service allows.", JobTimeoutError)
    yield row("no_result", 409, "The job has no result.")
    yield row(
        "too_large", 413, "The file, the picture or its result is larger than the service takes.", PictureTooLargeError
    )
    yield row("media_type", 415, "The body is no multipart/form-data.")
    yield row("wrong_host", 421, "The service does not answer to the host's name in the request.")
    yield row("picture", 422, "The picture cannot be restored.", PictureError)
    yield row("option", 422, "A field or an option cannot be used; `field` names it.", OptionError)
    yield row("output", 422, "The format cannot hold the result.", OutputError, field="format")
    yield row("quota", 429, "This client has handed in as much as it may.", QuotaError, is_passing=True)
    yield row("service", 500, "The service failed; its log says why.", S3DiffError, DiskFullError)
    yield row("queue_full", 503, "Too many pictures wait.", QueueFullError, is_passing=True)
    yield row("ending", 503, "The service is ending.", ServiceClosedError, retry_seconds=5)
    yield row(
        "store", 503, "The place that replicas share cannot be reached.", StoreError,
        retry_seconds=10, text=NO_STORE, is_passing=True,
    )  # fmt: skip
    yield row("replica_lost", 503, "The replica that answered has died.", retry_seconds=1, is_passing=True)
    yield row(
        "model", 503, "The model cannot be loaded.", ModelError, DownloadError,
        retry_seconds=60, field="model", text=CANNOT_LOAD,
    )  # fmt: skip


#: Every kind by its code.
SERVICE_ERRORS = {kind.code: kind for kind in _rows()}
_BY_CLASS = {error: kind for kind in SERVICE_ERRORS.values() for error in kind.errors}


@dataclass(frozen=True, kw_only=True)
class ServiceFailure:
    """Hold the part of an error that a client receives.

    Attributes:
        message: one line.
        field: the field of the form at fault, where there is one.
        retry_seconds: after which a client may try again; None for never.
    """

    kind: ServiceErrorKind
    message: str
    field: str | None
    retry_seconds: float | None


def failure_of(error: S3DiffError, message: str | None = None) -> ServiceFailure:
    """Return the part of an error that a client receives.

    Args:
        message: its text for the client; None for the error's own, on one line.
    """
    kind = next(_BY_CLASS[each] for each in type(error).__mro__ if each in _BY_CLASS)
    own = " ".join(str(error).split()) if message is None else message
    return ServiceFailure(
        kind=kind,
        message=kind.text or own,
        field=field_at_fault(own) if kind.code == "option" else kind.field,
        retry_seconds=error.retry_after_seconds if isinstance(error, QueueFullError) else kind.retry_seconds,
    )


def code_of_status(status: int) -> str:
    """Return the code of a refusal by the web framework, which knows only its status."""
    codes = [kind.code for kind in SERVICE_ERRORS.values() if kind.status == status]
    return codes[0] if codes else "refused"
