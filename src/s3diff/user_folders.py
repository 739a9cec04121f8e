"""Find the user's folders for cache, configuration and state."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Find the folder for files that can be made again: ``S3DIFF_CACHE``, else ``s3diff`` in the user's cache."""
    return _chosen("S3DIFF_CACHE") or _standard("XDG_CACHE_HOME", ".cache")


def config_folder() -> Path:
    """Find the folder for the user's files: ``S3DIFF_CONFIG``, else ``s3diff`` in the user's configuration."""
    return _chosen("S3DIFF_CONFIG") or _standard("XDG_CONFIG_HOME", ".config")


def state_folder() -> Path:
    """Find the folder for s3diff's notes for later runs: ``S3DIFF_STATE``, else ``s3diff`` in the user's state."""
    return _chosen("S3DIFF_STATE") or _standard("XDG_STATE_HOME", ".local/state")


def _chosen(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None


def _standard(variable: str, hidden: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / hidden).expanduser() / "s3diff"
