"""Restore one picture in one call: ``s3diff.restore("photo.jpg")``."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from s3diff.checkpoints.registry import DEFAULT_MODEL
from s3diff.option_changes import RestoreChanges
from s3diff.options import Precision, RestoreOptions
from s3diff.restoration.restorer import Restorer, Source
from s3diff.restoration.result import Result

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: The last call's restorer by its arguments: one entry or none.
_kept: dict[tuple[str, str, str], Restorer] = {}
_LOADING = threading.Lock()


def restore(
    source: Source,
    *,
    model: str | Path = DEFAULT_MODEL,
    device: str = "auto",
    precision: Precision = "auto",
    **options: Unpack[RestoreChanges],
) -> Result:
    """Restore one picture; keep the model loaded for the next call.

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


def _restorer(model: str | Path, device: str, precision: Precision) -> Restorer:
    asked = (repr(model), repr(device), repr(precision))
    with _LOADING:
        if asked not in _kept:
            # Drop the old model first: memory may not hold two.
            _kept.clear()
            _kept[asked] = Restorer.from_pretrained(model, device=device, precision=precision)
        return _kept[asked]
