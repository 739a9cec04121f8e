"""The one-liner: ``s3diff.restore("photo.jpg")``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from s3diff.checkpoints.registry import DEFAULT_MODEL
from s3diff.options import Precision, RestoreOptions
from s3diff.restoration.restored import Restored
from s3diff.restoration.restorer import Restorer, Source


def restore(
    source: Source,
    *,
    model: str | Path = DEFAULT_MODEL,
    device: str = "auto",
    precision: Precision = "auto",
    **options: Any,
) -> Restored:
    """Restore one picture; the model stays loaded for the next call.

    Args:
        source: a path, a Pillow image or an array; see :meth:`Restorer.restore`.
        model: ``compact``, ``s3diff`` or a model folder.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        precision: see :class:`Restorer`.
        options: fields of :class:`s3diff.RestoreOptions`, such as ``scale=2``.

    Raises:
        S3DiffError: see :meth:`Restorer.restore` and :meth:`Restorer.from_pretrained`.
        TypeError: an option that does not exist.
    """
    checked = RestoreOptions(**options)
    return _restorer(model, device, precision).restore(source, checked)


@lru_cache(maxsize=1)
def _restorer(model: str | Path, device: str, precision: Precision) -> Restorer:
    return Restorer.from_pretrained(model, device=device, precision=precision)
