"""Convert frozen dataclasses to JSON values and back, with every value checked against its field's type.

Model folders, scores of evaluations and ``--set`` of trainings all use this walker over typed fields.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from s3diff.errors import ModelError

Config = TypeVar("Config")

_NEEDED = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}


def to_json(config: Any) -> dict[str, Any]:
    """Write a dataclass as nested dicts, lists, numbers, texts, booleans and nulls."""
    return {field.name: _value_to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_json(kind: type[Config], value: Any, where: str) -> Config:
    """Read a dataclass from the output of :func:`to_json`.

    A field that the JSON leaves out keeps its default, so that files written before the field existed stay readable.

    Raises:
        ModelError: names a field that is unknown, or whose value is not of its type or not allowed.
    """
    if not isinstance(value, Mapping):
        raise ModelError(f"{where} is {value!r}; an object with named fields is needed")
    hints = get_type_hints(kind)
    if unknown := [name for name in value if name not in hints]:
        raise ModelError(
            f"{where} has the unknown field {', '.join(sorted(unknown))}; known are {', '.join(hints)}: "
            "a newer version of s3diff may be needed"
        )
    fields = {name: value_from_json(hints[name], value[name], f"{where}.{name}") for name in value}
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where}: {error}") from error


def canonical_json(config: Any) -> str:
    """Write equal values as one text: names sorted, no blanks, whole numbers of a ``float`` field as floats.

    Fields at their default, which every field has, are left out, nested ones too: a field that a later version adds
    changes no text.
    """
    return json.dumps(_changed_fields(config), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _changed_fields(config: Any) -> dict[str, Any]:
    hints, defaults = get_type_hints(type(config)), type(config)()
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            if inner := _changed_fields(value):
                changed[field.name] = inner
        elif value != getattr(defaults, field.name):
            changed[field.name] = float(value) if hints[field.name] is float else _value_to_json(value)
    return changed


def _value_to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    return [_value_to_json(item) for item in value] if isinstance(value, tuple) else value


def value_from_json(hint: Any, value: Any, where: str) -> Any:
    """Check one JSON value against a field's type; lists become tuples, objects dataclasses.

    Args:
        hint: the type: a dataclass, number, text, truth, ``Literal``, a tuple, a mapping, or one of these or None.

    Raises:
        ModelError: it is not of this type.
    """
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_json(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return value_from_json(inner, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ModelError(f"{where} is {value!r}; allowed are {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _tuple_from_json(arguments, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ModelError(f"{where} is {value!r}; an object is needed")
        return {str(name): value_from_json(arguments[1], inner, f"{where}.{name}") for name, inner in value.items()}
    return _plain_from_json(hint, value, where)


def _tuple_from_json(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    open_ended = len(arguments) == 2 and arguments[1] is Ellipsis
    if not isinstance(value, list) or not (open_ended or len(value) == len(arguments)):
        length = "a list" if open_ended else f"a list of {len(arguments)}"
        raise ModelError(f"{where} is {value!r}; {length} is needed")
    hints = (arguments[0],) * len(value) if open_ended else arguments
    return tuple(
        value_from_json(hint, item, f"{where}[{index}]")
        for index, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _plain_from_json(hint: Any, value: Any, where: str) -> Any:
    # bool is a kind of int in Python, never here.
    if hint is float and type(value) in (int, float):
        with contextlib.suppress(OverflowError):  # whole numbers have no largest one
            if math.isfinite(value):
                return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ModelError(f"{where} is {value!r}; {_NEEDED[hint]} is needed")
