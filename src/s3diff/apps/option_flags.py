"""Make a command's flags from the option dataclasses: names, types, choices, defaults and help.

A new field of ``RestoreOptions`` or ``OutputOptions`` becomes a flag without a change here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_args, get_type_hints

import typer

from s3diff.apps.terminal import one_line_errors
from s3diff.formats import FORMATS, in_words
from s3diff.option_texts import describe_option, flag_of, parse_own, whole_millions
from s3diff.options import LIMITS, OutputOptions, ReleasedTiles, RestoreOptions
from s3diff.presets import PRESETS, RestorePreset, find_preset

#: Fields given as texts, and the help's names for the texts.
_METAVARS = {"scale": "FACTOR", "size": "WxH", "blur": "DEGREE", "noise": "DEGREE", "tile": "auto|off|N"}
_METAVARS |= {"format": "|".join(form.extensions[0][1:] for form in FORMATS)}


#: The flag of the preset, before those of the options that it sets.
_PRESET = inspect.Parameter(
    "preset",
    inspect.Parameter.KEYWORD_ONLY,
    default=next(iter(PRESETS)),
    annotation=Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Options for a kind of picture: {in_words(tuple(PRESETS))}, or a preset of your own (s3diff presets "
            "explains them). An option given with it wins.",
        ),
    ],
)


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameters ``options`` and ``writing`` by the flags of all options.

    An option comes from the command line, else from the preset, else it has its default. A value that is not allowed
    ends the command with one line.
    """
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters: list[inspect.Parameter] = [context]
    own = inspect.signature(command, eval_str=True).parameters
    for parameter in own.values():
        if parameter.annotation is RestoreOptions:
            parameters.append(_PRESET)
        if parameter.annotation in (RestoreOptions, OutputOptions):
            parameters += [_parameter(parameter.annotation, field.name) for field in fields(parameter.annotation)]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(context: typer.Context, preset: str, **given: Any) -> None:
        with one_line_errors():
            chosen = find_preset(preset)
            options = _options(RestoreOptions, chosen, context, given)
            writing = _options(OutputOptions, chosen, context, given)
        command(options=options, writing=writing, **{name: given[name] for name in own if name in given})

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(options: type, name: str) -> inspect.Parameter:
    """Make one flag."""
    hint = get_type_hints(options)[name]
    default = getattr(options, name)
    metavar = _METAVARS.get(name)
    if name in LIMITS:
        hint, default = float, default / 1e6
    elif hint == ReleasedTiles | None:
        hint, default = bool, False
    elif metavar is not None:
        hint = str | None if type(None) in get_args(hint) else str
        default = f"{default:g}" if isinstance(default, float) else default
    text, flag = describe_option(name).replace("`", ""), flag_of(name)
    text = text.replace("in pixels (the command takes millions)", "in megapixels")
    text = text.replace("in bytes (the command takes millions)", "in megabytes")
    if default is True:
        flag = f"{flag}/--no-{flag[2:]}"
    option = typer.Option(flag, help=text, metavar=metavar)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, option])


def _options(options: type, preset: RestorePreset, context: typer.Context, values: dict[str, Any]) -> Any:
    """Build the dataclass from the command line's flags and the preset."""
    sources = {field.name: context.get_parameter_source(field.name) for field in fields(options)}
    names = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    return options(**preset.merged(options, {name: _value(name, values[name]) for name in names}))


def _value(name: str, value: Any) -> Any:
    if name == "released_tiles":
        return ReleasedTiles() if value else None
    if name in LIMITS:
        return whole_millions(flag_of(name)[2:], value)
    return parse_own(name, value)
