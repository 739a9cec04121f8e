"""Offer real-world image super-resolution in one diffusion step (S3Diff, arXiv 2409.17058).

    import s3diff

    restored = s3diff.restore("photo.jpg")
    restored.save("restored.png")
    print(restored.degrees)

Importing the package is instant; torch is imported by the first name that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3diff.errors import (
    DownloadError,
    MissingExtraError,
    ModelError,
    OptionError,
    OutputError,
    PictureError,
    S3DiffError,
)
from s3diff.lazy_names import lazy_names
from s3diff.options import RestoreOptions
from s3diff.version import __version__

if TYPE_CHECKING:
    from s3diff.restoration.restorer import Restorer, restore
    from s3diff.restoration.result import Degrees, Restored
    from s3diff.restoration.tensors import RestoredTensors

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
    "RestoredTensors",
    "Restorer",
    "S3DiffError",
    "__version__",
    "restore",
]


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "s3diff.restoration.restorer": ("Restorer", "restore"),
        "s3diff.restoration.result": ("Degrees", "Restored"),
        "s3diff.restoration.tensors": ("RestoredTensors",),
    },
)
