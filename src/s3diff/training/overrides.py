"""``--set field=value``: a configuration with one field changed, typed and checked."""

from __future__ import annotations

import ast
import math
import types
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from s3diff.errors import OptionError

Config = TypeVar("Config")

_KINDS: dict[Any, str] = {int: "a whole number", float: "a finite number", bool: "true or false"}


def with_change(config: Config, change: str) -> Config:
    """The configuration with one field changed by a text such as ``optimiser.learning_rate=1e-4``.

    Nested fields are named with dots; lists are written ``a,b`` or ``("a", "b")``.

    Raises:
        OptionError: no such field, or a value of another type.
    """
    path, separator, text = change.partition("=")
    if not separator:
        raise OptionError(f"--set {change!r} has no =; give FIELD=VALUE, such as loss.dists=0.5")
    changed: Config = _changed(config, path.strip().split("."), text.strip(), path.strip())
    return changed


def _changed(config: Any, names: list[str], text: str, path: str) -> Any:
    known = [field.name for field in fields(config)]
    if names[0] not in known:
        raise OptionError(f"--set {path}: there is no field {names[0]!r}; there are {', '.join(known)}")
    current = getattr(config, names[0])
    if len(names) > 1:
        if not is_dataclass(current):
            raise OptionError(f"--set {path}: {names[0]} has no fields of its own")
        return replace(config, **{names[0]: _changed(current, names[1:], text, path)})
    if is_dataclass(current):
        raise OptionError(f"--set {path}: name one of its fields: {', '.join(f.name for f in fields(current))}")
    hint = get_type_hints(type(config))[names[0]]
    try:
        return replace(config, **{names[0]: _typed(text, hint, path)})
    except (ValueError, TypeError) as error:  # a value that the field's own dataclass refuses
        raise error if isinstance(error, OptionError) else OptionError(f"--set {path}: {error}") from None


def _typed(text: str, hint: Any, path: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() == "none":
            return None
        return _typed(text, next(kind for kind in arguments if kind is not type(None)), path)
    if origin is Literal:
        if text not in arguments:
            raise OptionError(f"--set {path}: {text!r} is not allowed; give one of {', '.join(map(str, arguments))}")
        return text
    if hint is str:
        return text
    value = _evaluated(text)
    if origin is tuple:
        return _tuple(value, arguments, text, path)
    if hint is float and type(value) is int and abs(value) < 1e300:
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise OptionError(f"--set {path} is {text!r}; give {_KINDS.get(hint, hint.__name__)}")
    return value


def _tuple(value: Any, arguments: tuple[Any, ...], text: str, path: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = tuple(part.strip() for part in text.split(",") if part.strip())
    items = tuple(value) if isinstance(value, tuple | list) else (value,)
    is_open = len(arguments) == 2 and arguments[1] is Ellipsis
    hints = arguments[:1] * len(items) if is_open else arguments
    if len(hints) != len(items):
        raise OptionError(f"--set {path}: {text!r} holds {len(items)} values; give {len(hints)}")
    return tuple(_typed(str(item), hint, path) for item, hint in zip(items, hints, strict=True))


def _evaluated(text: str) -> Any:
    """A Python literal, ``true`` and ``false`` too; any other text is itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
