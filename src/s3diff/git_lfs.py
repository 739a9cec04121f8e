"""Recognise files that Git left as pointers: a few lines of text in place of the large file."""

from __future__ import annotations

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


def unreadable(path: Path, message: str) -> ModelError:
    """Make the error of a model's file that cannot be read: the message, or for a pointer how to get its file."""
    return ModelError(fetch_advice(path) if is_pointer(path) else message)
