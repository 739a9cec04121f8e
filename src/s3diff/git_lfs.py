"""Recognise files that Git left as pointers: a few lines of text in place of the large file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s3diff.errors import ModelError

_BEGINNING = b"version https://git-lfs"


def is_pointer(path: Path) -> bool:
    """Check whether a file is a pointer of Git LFS; False for a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_BEGINNING)) == _BEGINNING
    except OSError:
        return False


def fetch_advice(path: Path) -> str:
    """Write one line that names the pointer and says how to get its file."""
    return f"{path} is a pointer of Git LFS and not the file itself; fetch it with git lfs pull, or download it again"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Explain a failure to read a model's file that is a pointer; other files are not looked at twice.

    Raises:
        ModelError: the block's own, or for a pointer one that says how to get its file.
    """
    try:
        yield
    except ModelError as error:
        if is_pointer(path):
            raise ModelError(fetch_advice(path)) from error
        raise
