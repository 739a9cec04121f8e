"""Files that Git left as pointers: a few lines of text that stand where the large file should be."""

from __future__ import annotations

from pathlib import Path

_BEGINNING = b"version https://git-lfs"


def is_pointer(path: Path) -> bool:
    """Say whether a file is a pointer of Git LFS; a file that cannot be read is none."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_BEGINNING)) == _BEGINNING
    except OSError:
        return False


def fetch_advice(path: Path) -> str:
    """Say in one line what a pointer is and how to get its file."""
    return f"{path} is a pointer of Git LFS and not the file itself; fetch it with git lfs pull, or download it again"
