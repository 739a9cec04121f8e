"""Where test data lies, and what happens when it is not there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# A shell's background job ignores Ctrl-C, and so would every command that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDENS = Path(__file__).resolve().parent / "goldens"


def goldens_path(name: str) -> Path:
    """A golden file or folder inside the repository; its absence is a failure, never a skip."""
    path = GOLDENS / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing from the clone; goldens are committed files")
    return path


def shared_path(name: str) -> Path:
    """Data that lies beside the project (``../shared``); the test is skipped, with the reason, where it does not."""
    root = Path(os.environ.get("S3DIFF_SHARED", REPOSITORY.parent / "shared"))
    path = root / name
    if not path.exists():
        pytest.skip(f"needs {name} beside the project (../shared), which is not part of a clone")
    return path
