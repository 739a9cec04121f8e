"""Describe settings before anything is sent: the command, the results' sizes, the time."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, Field

from s3diff.errors import OptionError, PictureError
from s3diff.option_texts import form_options
from s3diff.options import RestoreOptions
from s3diff.restoration.sizes import allowed_sizes
from s3diff.serving.command_line import command_line
from s3diff.serving.jobs import safe_name
from s3diff.serving.page.controls import SIZE_FIELDS
from s3diff.serving.service import RestorationService

_Side = Annotated[int, Field(gt=0)]


class PlannedPicture(BaseModel):
    """Describe a picture by name and, once known, width and height; a video by its number of frames as well."""

    name: str
    size: tuple[_Side, _Side] | None = None
    frames: Annotated[int, Field(ge=0)] | None = None


class Settings(BaseModel):
    """Hold a person's settings as texts, and the pictures that they apply to."""

    options: dict[str, str]
    model: str | None = None
    pictures: list[PlannedPicture] = []


class PlannedResult(BaseModel):
    """Hold a result's size and estimated seconds; None before this model has restored a picture here."""

    width: int
    height: int
    seconds: float | None


class TooLargeHereError(OptionError):
    """An option would make a result larger than the service's.

    Attributes:
        largest: the option's largest value that works here; of an exact size its megapixels.
    """

    def __init__(self, field: str, largest: float, name: str) -> None:
        unit = " megapixels" if field == "size" else ""
        super().__init__(
            f"{field} would make the result of {name} too large for this service; the largest here is "
            f"{largest:.15g}{unit}"
        )
        self.largest = largest


class Plan(BaseModel):
    """Hold the settings as a command, and a result for each picture of known size."""

    command: str
    results: list[PlannedResult | None]


def plan(service: RestorationService, settings: Settings) -> Plan:
    """Validate settings and describe their effect.

    Raises:
        OptionError: a value is not allowed.
        TooLargeHereError: it makes a result larger than the service's.
    """
    options, writing, video_options = form_options(settings.options)
    model = settings.model or service.models[0].name
    offered = [each.name for each in service.models]
    if model not in offered:
        raise OptionError(f"model is {model[:60]!r}; this service offers {', '.join(offered)}")
    names = [safe_name(picture.name) for picture in settings.pictures]
    results = [
        None if picture.size is None else _result(service, model, options, picture.size, picture.frames, name)
        for picture, name in zip(settings.pictures, names, strict=True)
    ]
    videos = [name for name, picture in zip(names, settings.pictures, strict=True) if picture.frames is not None]
    command = command_line(options, writing, video_options, model=model, names=names, videos=videos)
    return Plan(command=command, results=results)


def _result(
    service: RestorationService,
    model: str,
    options: RestoreOptions,
    size: tuple[int, int],
    num_frames: int | None,
    name: str,
) -> PlannedResult:
    limits = service.limits
    most = limits.output_pixels if num_frames is None else min(limits.video_pixels, limits.output_pixels)
    options = options.with_valid(max_output_pixels=most)
    try:
        sizes = allowed_sizes(size, options, name)
    except PictureError:
        field = next((each for each in SIZE_FIELDS[1:] if getattr(options, each) is not None), "scale")
        raise TooLargeHereError(field, _largest(field, options, size), name) from None
    seconds = service.times.expected(model, sizes.num_working_pixels)
    if num_frames is not None:
        seconds = seconds * num_frames if seconds is not None and num_frames else None
    width, height = sizes.output
    return PlannedResult(width=width, height=height, seconds=None if seconds is None else round(seconds, 1))


def _largest(field: str, options: RestoreOptions, size: tuple[int, int]) -> float:
    """Find the largest value of an option that works; of an exact size its megapixels."""
    allowed = options.max_output_pixels
    factor = math.sqrt(allowed / (size[0] * size[1]))
    if field == "scale":
        return math.floor(factor * 100) / 100
    return math.floor(max(size) * factor) if field == "long_side" else allowed / 1e6
