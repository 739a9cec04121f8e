"""Requests made of the OpenAPI document, right ones and wrong ones: never a server error, and what is documented."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from s3diff.serving.http.api import create_app
from s3diff.serving.limits import ServiceLimits, ServiceSettings
from s3diff.serving.service import RestorationService
from serving_pictures import photo

#: More of them: S3DIFF_OPENAPI_EXAMPLES=500 pytest tests/test_serving_openapi.py
EXAMPLES = int(os.environ.get("S3DIFF_OPENAPI_EXAMPLES", "20"))
OPERATIONS = [
    ("POST", "/api/v1/restore"),
    ("POST", "/api/v1/jobs"),
    ("GET", "/api/v1/jobs/{id}"),
    ("GET", "/api/v1/jobs/{id}/result"),
    ("DELETE", "/api/v1/jobs/{id}"),
    ("POST", "/api/v1/estimate"),
    ("POST", "/api/v1/inspect"),
    ("GET", "/api/v1/models"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def document(small: Path) -> Iterator[Any]:
    limits = ServiceLimits(output_pixels=256 * 256, queue_length=100_000, result_seconds=5)
    with RestorationService(
        ServiceSettings(models=[small], device="cpu", precision="float32", limits=limits)
    ) as service:
        yield schemathesis.openapi.from_asgi("/api/openapi.json", create_app(service, closes_service=False))
        assert service.is_ready


def test_the_operations_are_all_of_the_document(document: Any) -> None:
    found = {(method.upper(), path) for path, item in document.raw_schema["paths"].items() for method in item}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.slow
def test_no_request_breaks_the_service(document: Any, method: str, path: str, mode: GenerationMode) -> None:
    operation = document[path][method]
    if mode.is_negative and not (operation.body or operation.query):
        return  # nothing in it can be wrong

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="S3DIFF_OPENAPI_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def asked(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and "picture" in case.body and len(str(case.body)) % 2:
            # Bytes of chance are no picture; half of the requests get one, so that their options are looked at as well.
            case.body = {**case.body, "picture": photo(8, 8)}
        if isinstance(case.query, dict) and isinstance(case.query.get("wait"), int | float):
            case.query["wait"] = min(case.query["wait"], 0.01)
        response = case.call()
        checks = [not_a_server_error, content_type_conformance, status_code_conformance, response_schema_conformance]
        case.validate_response(response, checks=checks)

    asked()
