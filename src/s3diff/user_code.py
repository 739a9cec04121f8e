"""Load Python files of a user's own: recipes, methods of a benchmark, plugins. They are run: only files you trust."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from s3diff.errors import OptionError, S3DiffError

_plugins: set[Path] = set()


def is_function_of_file(text: str) -> bool:
    """Check whether a text has the form ``FILE.py:FUNCTION``."""
    path, _, function = text.rpartition(":")
    return path.endswith(".py") and function.isidentifier()


def load_function(kind: str, text: str, description: str) -> Callable[..., Any]:
    """Load the function of ``FILE.py:FUNCTION``.

    Args:
        kind: the function's role, for messages, such as ``recipe``.
        text: file and function.
        description: what such a function does, such as ``that returns a TrainConfig``.

    Raises:
        OptionError: no such file or function, or a file that fails.
    """
    path, _, name = text.rpartition(":")
    if not Path(path).is_file():
        raise OptionError(f"{kind} is {text!r}: {path} does not exist; check the path")
    with told_in_one_line(kind, text):
        function = getattr(_run(Path(path)), name, None)
    if not callable(function):
        raise OptionError(f"{path} has no function {name!r}; a {kind} is a function {description}")
    return function


def load_plugin(path: Path) -> None:
    """Run a file that registers something, once in a process.

    Raises:
        OptionError: there is no such file, or it fails.
    """
    if not path.is_file() or path.suffix != ".py":
        raise OptionError(f"plugin is {str(path)!r}; give a Python file that is there, such as my_metric.py")
    if path.resolve() in _plugins:
        return
    with told_in_one_line("plugin", str(path)):
        _run(path)
    _plugins.add(path.resolve())


@contextmanager
def told_in_one_line(kind: str, text: str) -> Iterator[None]:
    """Turn any exception of a user's code into one line that names the code."""
    try:
        yield
    except S3DiffError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"{text} fails: {type(error).__name__}: {reason}; correct the {kind}") from error


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"s3diff_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module
