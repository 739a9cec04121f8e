"""s3diff: real-world image super-resolution in one diffusion step (S3Diff, arXiv 2409.17058).

    import s3diff

    restored = s3diff.restore("photo.jpg")
    restored.save("restored.png")
    print(restored.degrees)

Importing the package is instant; torch is imported by the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from s3diff.errors import (
    DownloadError,
    MissingExtraError,
    ModelError,
    OptionError,
    OutputError,
    PictureError,
    S3DiffError,
)
from s3diff.options import RestoreOptions
from s3diff.version import __version__

if TYPE_CHECKING:
    from s3diff.restoration.restorer import Restorer
    from s3diff.restoration.result import Degrees, Restored
    from s3diff.restoration.shortcut import restore

_LAZY = {
    "Restorer": "s3diff.restoration.restorer",
    "Restored": "s3diff.restoration.result",
    "Degrees": "s3diff.restoration.result",
    "restore": "s3diff.restoration.shortcut",
}

__all__ = [
    "Degrees",
    "DownloadError",
    "MissingExtraError",
    "ModelError",
    "OptionError",
    "OutputError",
    "PictureError",
    "RestoreOptions",
    "Restored",
    "Restorer",
    "S3DiffError",
    "__version__",
    "restore",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 's3diff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
