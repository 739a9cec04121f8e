"""Find the user's folders for cache, configuration and state."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Find the folder for files that can be made again: ``S3DIFF_CACHE``, else ``s3diff`` in the user's cache."""
    return _folder("S3DIFF_CACHE", "XDG_CACHE_HOME", ".cache")


def config_folder() -> Path:
    """Find the folder for the user's files: ``S3DIFF_CONFIG``, else ``s3diff`` in the user's configuration."""
    return _folder("S3DIFF_CONFIG", "XDG_CONFIG_HOME", ".config")


def state_folder() -> Path:
    """Find the folder for s3diff's notes for later runs: ``S3DIFF_STATE``, else ``s3diff`` in the user's state."""
    return _folder("S3DIFF_STATE", "XDG_STATE_HOME", ".local/state")


def _folder(own: str, standard: str, hidden: str) -> Path:
    if chosen := os.environ.get(own):
        return Path(chosen).expanduser()
    return Path(os.environ.get(standard) or Path.home() / hidden).expanduser() / "s3diff"
