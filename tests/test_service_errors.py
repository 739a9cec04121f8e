"""The table of a service's errors: what is answered, described and raised by it."""

from __future__ import annotations

from typing import get_args

import pytest

from conftest import REPOSITORY
from s3diff import errors
from s3diff.errors import (
    DiskFullError,
    DownloadError,
    ModelError,
    OptionError,
    OutputError,
    PictureTooLargeError,
    QueueFullError,
    QuotaError,
    S3DiffError,
    ServiceClosedError,
    ServiceError,
)
from s3diff.service_errors import CANNOT_LOAD, SERVICE_ERRORS, Cause, code_of_status, failure_of

CLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, S3DiffError)]


def test_every_cause_of_a_job_is_a_row() -> None:
    assert set(get_args(Cause)) <= set(SERVICE_ERRORS)


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_has_one_answer(error: type[S3DiffError]) -> None:
    assert failure_of(error("it went wrong")).kind.code in SERVICE_ERRORS


@pytest.mark.parametrize(
    ("error", "code", "status", "field", "retry_seconds"),
    [
        (OptionError("scale is -1; give a number above 0"), "option", 422, "scale", None),
        (OptionError("size and scale exclude each other"), "option", 422, "size", None),
        (OutputError("a.jpg cannot hold transparency"), "output", 422, "format", None),
        (DiskFullError("the disk is full"), "service", 500, None, None),
        (PictureTooLargeError("a.png is too large"), "too_large", 413, None, None),
        (QuotaError("two of yours wait", 40), "quota", 429, None, 40),
        (QueueFullError("thirty wait", 7), "queue_full", 503, None, 7),
        (ServiceClosedError("ending"), "ending", 503, None, 5),
        (ServiceError("anything"), "service", 500, None, None),
    ],
)
def test_answers(error: S3DiffError, code: str, status: int, field: str | None, retry_seconds: float | None) -> None:
    failure = failure_of(error)
    assert (failure.kind.code, failure.kind.status) == (code, status)
    assert (failure.field, failure.retry_seconds, failure.message) == (field, retry_seconds, str(error))


@pytest.mark.parametrize("error", [ModelError, DownloadError])
def test_a_client_gets_no_path_of_a_model(error: type[S3DiffError]) -> None:
    failure = failure_of(error("/secret/folder is no model"))
    assert (failure.message, failure.field, failure.retry_seconds) == (CANNOT_LOAD, "model", 60)


@pytest.mark.parametrize(
    ("code", "error"),
    [("option", OptionError), ("quota", QuotaError), ("model", ServiceError), ("service", ServiceError)],
)
def test_what_a_client_raises(code: str, error: type[S3DiffError]) -> None:
    assert SERVICE_ERRORS[code].client_error is error


def test_refusals_of_the_framework() -> None:
    assert [code_of_status(status) for status in (404, 408, 413, 418)] == [
        "not_found",
        "too_slow",
        "too_large",
        "refused",
    ]


def test_the_document_has_the_table() -> None:
    rows = [f"| `{kind.code}` | {kind.status} | {kind.meaning} |" for kind in SERVICE_ERRORS.values()]
    table = "\n".join(["| code | status | when |", "|---|---|---|", *rows, ""])
    assert table in (REPOSITORY / "docs/serving.md").read_text(encoding="utf-8")
