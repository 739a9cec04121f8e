"""Change one field of a configuration, typed and checked: ``--set field=value``."""

from __future__ import annotations

import ast
import types
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from s3diff.checkpoints.config_json import value_from_json
from s3diff.errors import ModelError, OptionError

Config = TypeVar("Config")


def with_change(config: Config, change: str) -> Config:
    """Change one field of a configuration by a text such as ``optimiser.learning_rate=1e-4``.

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
        value = value_from_json(hint, _as_json(text, hint), f"--set {path}")
        return replace(config, **{names[0]: value})
    except (ModelError, ValueError, TypeError) as error:  # also a value that the field's own dataclass refuses
        if isinstance(error, OptionError):
            raise
        raise OptionError(str(error) if isinstance(error, ModelError) else f"--set {path}: {error}") from None


def _as_json(text: str, hint: Any) -> Any:
    """Read a text as JSON for a field of this type; return a text that does not fit unchanged."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next(kind for kind in arguments if kind is not type(None))
        return None if text.lower() == "none" else _as_json(text, inner)
    if hint is str or origin is Literal:
        return text
    value = _evaluated(text)
    if origin is not tuple:
        return value
    if isinstance(value, str):
        value = tuple(part.strip() for part in text.split(",") if part.strip())
    items = value if isinstance(value, tuple | list) else (value,)
    return [_as_json(str(item), arguments[0]) for item in items]


def _evaluated(text: str) -> Any:
    """Evaluate a Python literal, ``true`` and ``false`` too; return any other text as it is."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
