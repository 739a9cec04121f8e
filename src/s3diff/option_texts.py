"""Convert the texts of a command's flags and a form's fields to the option dataclasses and back; make their
JSON schemas. Everything is made from the dataclasses, so that command, service, client and page cannot differ.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from s3diff.errors import OptionError
from s3diff.formats import OUTPUT_FORMATS
from s3diff.options import (
    LIMITS,
    MIN_TILE_PX,
    RANGES,
    OutputOptions,
    ReleasedTiles,
    RestoreOptions,
    choices_of,
)
from s3diff.video_options import VideoOptions

#: Options that a service does not offer: it has its own limits, and never replaces a user's file.
_NOT_OFFERED = frozenset({*LIMITS, "overwrite"})
#: Options that only videos have, of those that a service offers; how many frames go together is its own matter.
VIDEO_FIELDS = ("codec", "pixel_format", "steady")
_MAY_BE_EMPTY = frozenset({"positive_prompt", "negative_prompt"})
#: Options that are on or off.
_SWITCHES = frozenset(
    field.name for options in (RestoreOptions, OutputOptions) for field in fields(options) if field.type == "bool"
)
_YES, _NO = ("true", "1", "on", "yes"), ("false", "0", "off", "no")
#: Signs between width and height: the letter, and the multiplication sign that phones and word processors insert.
_TIMES = "[xX×]"
_SIZE = rf"[0-9]{{1,9}}\s*{_TIMES}\s*[0-9]{{1,9}}"
_RELATIVE = r"[+-](0(\.[0-9]{1,9})?|1(\.0{1,9})?)"
#: Options whose flag is not their own name with hyphens. Limits are given in millions.
_FLAGS = {
    "positive_prompt": "--prompt",
    "max_output_pixels": "--max-megapixels",
    "max_input_pixels": "--max-input-megapixels",
    "max_file_bytes": "--max-file-megabytes",
}
_DEGREE_SCHEMA = {
    "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": f"^{_RELATIVE}$"}]
}
_OWN_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "size": {"type": "string", "pattern": r"^[1-9][0-9]{0,8}x[1-9][0-9]{0,8}$", "example": "3840x2160"},
    "blur": {**_DEGREE_SCHEMA, "example": 0.3},
    "noise": {**_DEGREE_SCHEMA, "example": "+0.2"},
    "tile": {
        "anyOf": [
            {"type": "string", "enum": ["auto", "off"]},
            {"type": "integer", "minimum": MIN_TILE_PX, "maximum": 10**9},
        ]
    },
    "released_tiles": {"type": "boolean"},
    "format": {"type": "string", "enum": [*OUTPUT_FORMATS]},
    "name": {"type": "string", "example": "{stem}-restored"},
    "pages": {"type": "string", "example": "1,3-5"},
}


def option_fields() -> dict[str, Field[Any]]:
    """List the options of pictures that a service offers, by name; videos have :data:`VIDEO_FIELDS` too."""
    found = {field.name: field for options in (RestoreOptions, OutputOptions) for field in fields(options)}
    return {name: field for name, field in found.items() if name not in _NOT_OFFERED}


def options_from_texts(texts: Mapping[str, str]) -> tuple[RestoreOptions, OutputOptions]:
    """Make options from a form's fields; an empty text means a missing field, except for the prompts.

    Raises:
        OptionError: a field that does not exist, or a value that is not allowed.
    """
    offered = option_fields()
    for name in texts:
        if name not in offered:
            raise OptionError(f"{name[:60]} is no option; there are {', '.join(offered)}")
    return _made(RestoreOptions, texts), _made(OutputOptions, texts)


def form_options(texts: Mapping[str, str]) -> tuple[RestoreOptions, OutputOptions, VideoOptions]:
    """Make options from a form's fields as :func:`options_from_texts`, those of a video as well.

    Raises:
        OptionError: a field that does not exist, or a value that is not allowed.
    """
    options, writing = options_from_texts({name: text for name, text in texts.items() if name not in VIDEO_FIELDS})
    return options, writing, _made(VideoOptions, {name: texts[name] for name in VIDEO_FIELDS if name in texts})


def texts_of_options(
    options: RestoreOptions, writing: OutputOptions | None = None, video: VideoOptions | None = None
) -> dict[str, str]:
    """Write the fields that differ from their defaults, as :func:`form_options` reads them.

    Raises:
        OptionError: a value that has no text: tiles like the release's, but of other sizes.
    """
    texts = {}
    for value in (options, writing):
        for field in fields(value) if value is not None else ():
            given = getattr(value, field.name)
            if given != field.default and field.name not in _NOT_OFFERED:
                texts[field.name] = option_text(field.name, given)
    for name in VIDEO_FIELDS if video is not None else ():
        if (given := getattr(video, name)) != getattr(VideoOptions, name):
            texts[name] = option_text(name, given)
    return texts


def option_text(name: str, value: Any) -> str:
    """Write one option's value as in a form's field or a flag.

    Raises:
        OptionError: a value that has no text: tiles like the release's, but of other sizes.
    """
    if isinstance(value, ReleasedTiles):
        if value != ReleasedTiles():
            raise OptionError("released_tiles of other sizes than the release's cannot be sent to a service")
        return "true"
    if isinstance(value, bool):
        return str(value).lower()
    if name == "size":
        return "x".join(map(str, value))
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def flag_of(name: str) -> str:
    """Name the command's flag of an option."""
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def describe_option(name: str) -> str:
    """Describe an option in a sentence or two, by the docstring of its class.

    Raises:
        KeyError: there is no such option.
    """
    options = next(each for each in (RestoreOptions, OutputOptions, VideoOptions) if name in each.__dataclass_fields__)
    return _descriptions(options).get(name, "") if options.__doc__ else ""


def option_schemas() -> dict[str, dict[str, Any]]:
    """Describe every field of :func:`form_options` by a JSON schema (OpenAPI 3.1), with default and description."""
    schemas = {}
    for options in (RestoreOptions, OutputOptions, VideoOptions):
        described = _descriptions(options)
        for field in fields(options):
            if field.name in _NOT_OFFERED or (options is VideoOptions and field.name not in VIDEO_FIELDS):
                continue
            schema = dict(_OWN_SCHEMAS.get(field.name) or _schema(field.name, choices_of(options).get(field.name)))
            if field.default is not None and field.default is not MISSING:
                schema["default"] = field.default
            if field.name in described:
                schema["description"] = described[field.name]
            schemas[field.name] = schema
    return schemas


def field_at_fault(message: object) -> str | None:
    """Return the option that a message is about; None for none or several."""
    first = str(message).split(" ", 1)[0]
    return first if first in {*option_fields(), *VIDEO_FIELDS, "model"} else None


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read ``3840x2160`` as (3840, 2160).

    Raises:
        OptionError: the text has another form.
    """
    if text is None:
        return None
    if re.fullmatch(rf"\s*{_SIZE}\s*", text):
        width, height = re.split(_TIMES, text)
        return int(width), int(height)
    raise OptionError(f"size is {text[:60]!r}; give width and height in pixels, such as 1920x1080")


def parse_scale(text: str) -> float:
    """Read ``2.5``, ``4x``, ``x4`` or ``4×`` as a number.

    Raises:
        OptionError: it is none of these.
    """
    match = re.fullmatch(rf"\s*{_TIMES}?\s*(.+?)\s*{_TIMES}?\s*", text)
    try:
        return float(match[1] if match else text)
    except ValueError:
        raise OptionError(f"scale is {text[:60]!r}; give a number above 0, such as 4, 2.5 or 4x") from None


def parse_degree(name: str, text: str | None) -> float | str | None:
    """Read a degree: a number, or a text with a sign, which stays a text.

    Raises:
        OptionError: it is neither.
    """
    if text is None or text.strip().startswith(("+", "-")):
        return text
    try:
        return float(text)
    except ValueError:
        raise OptionError(
            f"{name} is {text[:60]!r}; give a degree from 0 to 1, or +0.2 or -0.1 to add to the estimate"
        ) from None


def whole_millions(name: str, number: float) -> int:
    """Convert megapixels to pixels or megabytes to bytes, at least 1; ``name``: the option, for messages.

    Raises:
        OptionError: the number is not above 0, or is none that anything could have.
    """
    if 0 < number < 1e9:
        return max(1, round(number * 1e6))
    raise OptionError(f"{name} is {number}; give a number above 0, such as 16")


def parse_own(name: str, text: Any) -> Any:
    """Read the text of an option with a form of its own; return any other value unchanged.

    Raises:
        OptionError: the text is not of this form.
    """
    if name == "size":
        return parse_size(text)
    if name == "scale":
        return parse_scale(text)
    if name in ("blur", "noise"):
        return parse_degree(name, text)
    return int(text) if name == "tile" and re.fullmatch("[0-9]{1,10}", text) else text


def _made(options: type, texts: Mapping[str, str]) -> Any:
    names = (field.name for field in fields(options) if field.name in texts)
    return options(**{name: _value(name, texts[name]) for name in names if texts[name] or name in _MAY_BE_EMPTY})


def _value(name: str, text: str) -> Any:
    if name == "released_tiles":
        return ReleasedTiles() if _truth(name, text) else None
    if name in _SWITCHES:
        return _truth(name, text)
    if name not in RANGES or name in ("blur", "noise"):
        return parse_own(name, text)
    if not RANGES[name].words:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else text
    try:
        return float(text)
    except ValueError:
        return text  # the dataclass names the allowed values


def _truth(name: str, text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise OptionError(f"{name} is {text[:60]!r}; give true or false")
    return text.lower() in _YES


def _schema(name: str, choices: tuple[str, ...] | None) -> dict[str, Any]:
    if choices is not None:
        return {"type": "string", "enum": list(choices)}
    if name not in RANGES:
        return {"type": "boolean" if name in _SWITCHES else "string"}
    low, high, words, is_open = RANGES[name]
    kind = "number" if words else "integer"
    return {"type": kind, "exclusiveMinimum" if is_open else "minimum": low, "maximum": high}


@functools.cache
def _descriptions(options: type) -> dict[str, str]:
    """Return the docstring's description of each attribute."""
    text = inspect.cleandoc(options.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = {name: entry.replace("``", "`") for name, (_, entry) in docstring_entries(text).items()}
    return {name: entry[0].upper() + entry[1:] for name, entry in entries.items()}


def docstring_entries(text: str) -> dict[str, tuple[Sequence[str], str]]:
    """Read a section of a docstring: by name the words in an entry's parentheses, and its text on one line."""
    parts = re.split(r"^    (\w+)(?: \(([^)]*)\))?: ", text, flags=re.MULTILINE)[1:]
    entries = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return {name: ((words or "").split(), " ".join(entry.split())) for name, words, entry in entries}
