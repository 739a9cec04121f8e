"""Write the parts of messages about files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from s3diff.errors import MissingExtraError


def shown_path(path: object) -> str:
    """Write a path on one line, whatever bytes it is made of."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(text))


def counted(number: int, noun: str) -> str:
    """Write a number of things: ``1 worker``, ``8 workers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def too_many_pixels(path: object, size: tuple[int, int], limit: int) -> str:
    """Write the refusal of a picture of this (width, height), above a limit in pixels."""
    return (
        f"{shown_path(path)} has {size[0]} x {size[1]} pixels, the limit is {limit} pixels; give a smaller picture, "
        "raise the limit (max_input_pixels, --max-input-megapixels), or stream it into a .tif (restore_file, --stream)"
    )


def in_megapixels(num_pixels: float) -> str:
    """Write a number of pixels in millions: ``0.25``, ``268``, ``8000``."""
    millions = num_pixels / 1e6
    return f"{millions:.3g}" if millions < 1000 else f"{millions:.0f}"


def too_many_bytes(shown: str, num_bytes: int, max_bytes: int) -> str:
    """Write the refusal of a file of so many bytes."""
    return (
        f"{shown} has {num_bytes} bytes, the limit is {max_bytes}; give a smaller file, or raise the limit "
        "(max_file_bytes, --max-file-megabytes)"
    )


def reason_of(error: BaseException) -> str:
    """Describe an error in one line."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def install_command(extra: str) -> str:
    """Return the command that installs an extra from the project's folder."""
    editable = "-e " if extra in ("test", "docs", "dev") else ""
    return f'pip install -c constraints.txt {editable}".[{extra}]"'


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Explain why an import fails: ``what`` needs an extra, as in "videos need PyAV".

    Raises:
        MissingExtraError: the block cannot import a package, or a library that it loads.
    """
    try:
        yield
    except (ImportError, OSError) as error:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "s3diff":
            raise  # a mistake of our own, not a package that is missing
        raise MissingExtraError(f"{what}: {install_command(extra)}") from error
