"""Describe requests and answers, as the OpenAPI document shows them: answers as models, the form made of the option
dataclasses, pictures and errors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from s3diff.option_texts import option_schemas
from s3diff.service_errors import SERVICE_ERRORS, Cause
from s3diff.serving.jobs import Job, Part, Stage, State
from s3diff.serving.service import RestorationService

DESCRIPTION = """\
Send a picture as `multipart/form-data` in the field `picture`; every other field is an option of `s3diff restore`, with
the same name and meaning. A picture keeps its format, bit depth, transparency, colour profile and metadata. Where the
extra `video` is installed a video is taken too; it keeps its container, sound, subtitles and chapters. It takes hours:
hand it in as a job.

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

#: A degree, or a share.
Degree = Annotated[float, Field(ge=0, le=1)]


class ErrorFacts(BaseModel):
    """The fault."""

    code: str = Field(description="A word for programs.", examples=["option", "queue_full"])
    message: str = Field(examples=["scale is -1.0; give a number above 0, such as 4 or 2.5"])
    field: str | None = Field(None, description="The option at fault, where it is one.", examples=["scale"])


class ErrorView(BaseModel):
    """Every error has this form."""

    error: ErrorFacts


class ResultView(BaseModel):
    """A result that can be fetched from the job's `/result`."""

    name: str = Field(examples=["photo.jpg"])
    media_type: str = Field(examples=["image/jpeg"])
    size_bytes: int
    width: int
    height: int
    blur: Degree = Field(description="The degree that was used.")
    noise: Degree = Field(description="The degree that was used.")
    estimated_blur: Degree = Field(description="The estimate of the blur.")
    estimated_noise: Degree = Field(description="The estimate of the noise.")
    seconds: float = Field(description="Time of the networks, with preparation and finishing.")
    frames: int | None = Field(None, description="Of an animation or a video; pages of a TIFF.")
    notes: list[str] = Field(description="Remarks on losses and on anything unusual, one sentence each.")


class JobView(BaseModel):
    """A picture or a video on its way."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "3kTq0c2cQkqJ0m1rVYwB1u5n2fSgq0xE",
                "name": "photo.jpg",
                "model": "compact",
                "state": "running",
                "stage": "restoring",
                "position": None,
                "tile": 3,
                "num_tiles": 12,
                "part": "tile",
                "fraction": 0.25,
                "seconds_left": 8.4,
                "error": None,
                "cause": None,
                "field": None,
                "result": None,
            }
        }
    )

    id: str = Field(description="Whoever knows it and has the same token may ask for the job.")
    name: str
    model: str
    state: State = Field(description="`done`, `failed` and `cancelled` are final.")
    stage: Stage
    position: int | None = Field(description="Pictures before it in the queue; null when it is not in the queue.")
    tile: int = Field(
        description="Tiles that are done; of an animation or a video its frames, which a video's first pass "
        "(`estimating`) only looks at."
    )
    num_tiles: int = Field(description="Tiles in all; 0 while unknown.")
    part: Part = Field(description="What these two count: `frame` of an animation or a video, `page` of a TIFF.")
    fraction: Degree = Field(description="Of the work that is done; an estimate.")
    seconds_left: float | None = Field(description="Of the work on this picture; null while unknown.")
    error: str | None = Field(description="Why it failed, in one sentence.")
    cause: Cause | None = Field(description="The cause of a failure, by the code of the error.")
    field: str | None = Field(description="The option at fault, where it is one.")
    result: ResultView | None


class ModelView(BaseModel, from_attributes=True):
    """A model that `model` may name."""

    name: str = Field(examples=["compact"])
    summary: str
    is_default: bool
    is_loaded: bool = Field(description="Whether it is in memory; another one is loaded by the first picture.")


class ModelsView(BaseModel):
    """All models of this service."""

    models: list[ModelView]


class EstimateView(BaseModel):
    """Facts of a picture, or of a video and its first frame, before it is restored."""

    width: int
    height: int
    blur: Degree
    noise: Degree
    frames: int | None = Field(description="Of a video, as its file says, 0 if it does not; null for a picture.")


class InspectionView(BaseModel):
    """A picture's statement of its making."""

    digital_source_type: str | None = Field(description="A term of IPTC's vocabulary.", examples=["digitalCapture"])
    creator_tool: str | None
    restorations: list[dict[str, Any]] = Field(description="Statements of restorations by s3diff, in their order.")
    credentials: dict[str, Any] | None = Field(description="Content Credentials: whether they hold, and what they say.")
    unchecked: str | None = Field(description="Why Content Credentials that are there were not checked.")
    further_pages: list[dict[str, Any]] = Field(description="Of a TIFF's other pages the first three of these fields.")
    is_intact: bool = Field(description="False where a signature does not hold.")


class HealthView(BaseModel):
    """The state of the process."""

    status: Literal["ok", "ending", "not ready"]


def job_view(service: RestorationService, job: Job) -> JobView:
    """Describe a job's present state. Where jobs are shared, this reads the place that they are shared at."""
    status = service.store.told(job)
    result = None
    if status.result is not None:
        made = status.result
        result = ResultView(
            name=made.name, media_type=made.media_type, size_bytes=made.size_bytes, notes=list(made.notes), **made.facts
        )
    facts = vars(status) | {"fraction": round(status.fraction, 4), "result": result}
    return JobView(id=job.id, name=job.name, model=job.model, position=service.position(job), **facts)


def form_body(service: RestorationService, *, with_options: bool = True, with_model: bool = True) -> dict[str, Any]:
    """Describe the form that carries a picture."""
    names = [model.name for model in service.models]
    properties: dict[str, Any] = {
        "picture": {
            "type": "string",
            "format": "binary",
            "contentMediaType": "application/octet-stream",
            "description": f"The file, at most {service.limits.upload_bytes} bytes.",
        },
    }
    if with_model:
        properties["model"] = {"type": "string", "enum": names, "default": names[0], "description": "The model."}
    if with_options:
        properties |= option_schemas()
    schema = {"type": "object", "required": ["picture"], "properties": properties, "additionalProperties": False}
    content: dict[str, Any] = {"schema": schema}
    if with_options:
        content["examples"] = _EXAMPLES
    return {"requestBody": {"required": True, "content": {"multipart/form-data": content}}}


def picture_answer() -> dict[int | str, dict[str, Any]]:
    """Describe the answer 200 with a result."""
    return {
        200: {
            "description": "The restored picture or video.",
            "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/*", "video/*")},
            "headers": {
                "Content-Disposition": {"schema": {"type": "string"}, "description": "The result's name."},
                "S3Diff-Result": {
                    "schema": {"type": "string"},
                    "description": "JSON: width, height, blur, noise, estimated_blur, estimated_noise, seconds, notes; "
                    "frames, where there are several.",
                },
            },
        }
    }


def errors_for(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe errors by status, all of one form."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = [kind for kind in SERVICE_ERRORS.values() if kind.status == status]
        described = " ".join(f"`{kind.code}`: {kind.meaning}" for kind in kinds)
        answers[status] = {"model": ErrorView, "description": described}
        if status in (429, 503):
            answers[status]["headers"] = {
                "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds until it may be tried again."}
            }
    return answers
