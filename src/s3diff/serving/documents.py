"""What the OpenAPI document says beyond the routes: the form, made of the option dataclasses, pictures and errors."""

from __future__ import annotations

from typing import Any

from s3diff.option_texts import option_schemas
from s3diff.serving.service import RestorationService
from s3diff.serving.views import ErrorView

DESCRIPTION = """\
Send a picture as `multipart/form-data` in the field `picture`; every other field is an option of `s3diff restore`, with
the same name and meaning. A picture keeps its format, bit depth, transparency, colour profile and metadata.

    curl -F picture=@photo.jpg -F scale=2 -o restored.jpg http://127.0.0.1:8000/api/v1/restore

Where the service needs a token, send `Authorization: Bearer TOKEN`."""

_EXAMPLES = {
    "plain": {"summary": "four times as large", "value": {"picture": "(the file)"}},
    "dial": {
        "summary": "twice as large, noise taken to be stronger than estimated",
        "value": {"picture": "(the file)", "scale": "2", "noise": "+0.2"},
    },
    "exact": {
        "summary": "an exact size, as PNG",
        "value": {"picture": "(the file)", "size": "3840x2160", "size_mode": "fill", "format": "png"},
    },
}
_ERRORS = {
    400: "The form cannot be read.",
    401: "A token is needed.",
    403: "The request comes from another site's page.",
    404: "There is no such job, or it is somebody else's.",
    408: "The body came too slowly, or the picture took longer than the service allows.",
    409: "The job has no result.",
    413: "The file, the picture or its result is larger than the service takes.",
    415: "The body is no multipart/form-data.",
    422: "The picture or an option cannot be used.",
    500: "The service failed; its log says why.",
    503: "Too many pictures wait, the service is ending, or the model cannot be loaded; `Retry-After` says when to "
    "come back.",
}


def form_body(service: RestorationService, *, with_options: bool = True) -> dict[str, Any]:
    """The form that a picture is sent in.

    Args:
        service: names the models.
        with_options: whether there are fields for options.
    """
    names = [model.name for model in service.models]
    properties: dict[str, Any] = {
        "picture": {
            "type": "string",
            "format": "binary",
            "contentMediaType": "application/octet-stream",
            "description": f"The file, at most {service.limits.upload_bytes} bytes.",
        },
        "model": {"type": "string", "enum": names, "default": names[0], "description": "The model."},
    }
    if with_options:
        properties |= option_schemas()
    schema = {"type": "object", "required": ["picture"], "properties": properties, "additionalProperties": False}
    content: dict[str, Any] = {"schema": schema}
    if with_options:
        content["examples"] = _EXAMPLES
    return {"requestBody": {"required": True, "content": {"multipart/form-data": content}}}


def picture_answer() -> dict[int | str, dict[str, Any]]:
    """200 with a picture."""
    return {
        200: {
            "description": "The restored picture.",
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            "headers": {
                "Content-Disposition": {"schema": {"type": "string"}, "description": "The result's name."},
                "S3Diff-Result": {
                    "schema": {"type": "string"},
                    "description": "JSON: width, height, blur, noise, estimated_blur, estimated_noise, seconds, notes.",
                },
            },
        }
    }


def errors_for(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors by status, all of one form."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        answers[status] = {"model": ErrorView, "description": _ERRORS[status]}
        if status == 503:
            answers[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return answers
