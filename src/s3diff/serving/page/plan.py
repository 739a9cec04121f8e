"""Describe settings before anything is sent: the command, the results' sizes, the time."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import BaseModel, Field

from s3diff.checkpoints.registry import DEFAULT_MODEL
from s3diff.errors import OptionError, PictureError
from s3diff.option_texts import VIDEO_FIELDS, flag_of, form_options
from s3diff.options import LIMITS, OutputOptions, ReleasedTiles, RestoreOptions
from s3diff.restoration.result import result_extension, result_stem, video_extension
from s3diff.restoration.sizes import allowed_sizes
from s3diff.serving.jobs import safe_name
from s3diff.serving.page.controls import SIZE_FIELDS
from s3diff.serving.service import RestorationService
from s3diff.video_options import VideoOptions

#: Output folder for several results, as a placeholder.
_FOLDER = "restored/"
#: Placeholder for a picture.
_NO_PICTURE = "PICTURE.jpg"


def command_line(
    options: RestoreOptions,
    writing: OutputOptions,
    video_options: VideoOptions | None = None,
    *,
    model: str = DEFAULT_MODEL,
    names: Sequence[str] = (),
    videos: Collection[str] = (),
) -> str:
    """Write the ``s3diff restore`` command that makes the same result from the same files; one a line for each video.

    Args:
        options: values other than the defaults become flags.
        writing: name and format: for one picture the output's name, for several flags.
        names: the pictures' names; none gives a placeholder.
        videos: those of them that are videos, which a command takes one at a time.
    """
    pictures = [name for name in names if name not in videos]
    commands = [_command(options, writing, None, model, pictures)] if pictures or not names else []
    for name in (each for each in names if each in videos):
        commands.append(_command(options, replace(writing, format=None), video_options, model, [name]))
    return "\n".join(commands)


def _command(
    options: RestoreOptions,
    writing: OutputOptions,
    video_options: VideoOptions | None,
    model: str,
    names: Sequence[str],
) -> str:
    parts = ["s3diff", "restore", *(_as_argument(name) for name in names or [_NO_PICTURE])]
    if len(names) > 1:
        parts += ["-o", _FOLDER]
    else:
        output = _output(names[0] if names else _NO_PICTURE, options, writing, model, video_options is not None)
        parts += ["-o", _as_argument(output)]
    if model != DEFAULT_MODEL:
        parts.append(f"--model={model}" if model.startswith("-") else f"--model {shlex.quote(model)}")
    given: list[tuple[str, Any]] = []
    for value in (options, writing):
        given += [(each.name, getattr(value, each.name)) for each in fields(value) if _is_told(value, each, len(names))]
    for name in VIDEO_FIELDS if video_options is not None else ():
        if (value := getattr(video_options, name)) != getattr(VideoOptions, name):
            given.append((name, value))
    for name, setting in given:
        parts += _flag(name, setting)
    return " ".join(parts)


def _is_told(value: RestoreOptions | OutputOptions, field: Any, num_pictures: int) -> bool:
    if isinstance(value, OutputOptions) and num_pictures <= 1 and field.name in ("format", "name"):
        return False  # they are in the output's name
    return getattr(value, field.name) != field.default


def _output(name: str, options: RestoreOptions, writing: OutputOptions, model: str, is_video: bool) -> str:
    path = PurePath(name)
    values = {"stem": path.stem, "extension": path.suffix[1:], "model": model, "scale": f"{options.scale:g}"}
    made = result_stem(writing, values)
    made += video_extension(path.suffix) if is_video else result_extension(path.suffix, writing)
    return made if made != name else f"{path.stem}-restored{path.suffix}"  # a picture is not written over itself


def _flag(name: str, value: Any) -> list[str]:
    flag = flag_of(name)
    if value is False:
        return [f"--no-{flag[2:]}"]
    if isinstance(value, bool | ReleasedTiles):
        return [flag]
    if name in LIMITS:  # flags count in millions
        value = value / 1e6
    if name == "size":
        value = "x".join(str(side) for side in value)
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
    # A value that begins like a flag needs the form --flag=value.
    return [f"{flag}={shlex.quote(text)}"] if text.startswith("-") else [flag, shlex.quote(text)]


def _as_argument(name: str) -> str:
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


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
