"""Write settings as the equivalent command, made from the option dataclasses and quoted for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from pathlib import PurePath
from typing import Any

from s3diff.checkpoints.registry import DEFAULT_MODEL
from s3diff.option_texts import VIDEO_FIELDS, flag_of
from s3diff.options import LIMITS, OutputOptions, ReleasedTiles, RestoreOptions
from s3diff.restoration.result import result_extension, result_stem, video_extension
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
        video_options: how videos are made and encoded.
        model: name of the model.
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
    text = _number(value) if isinstance(value, float) else str(value)
    # A value that begins like a flag needs the form --flag=value.
    return [f"{flag}={shlex.quote(text)}"] if text.startswith("-") else [flag, shlex.quote(text)]


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _as_argument(name: str) -> str:
    return shlex.quote(f"./{name}" if name.startswith("-") else name)
