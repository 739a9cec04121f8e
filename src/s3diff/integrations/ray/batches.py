"""Restore pictures in a Ray Data pipeline: ``dataset.map_batches(Restore, ...)``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from s3diff.errors import OutputError, PictureError, S3DiffError
from s3diff.folders.picture_runners import LocalRunner
from s3diff.folders.plan import RestoreJob
from s3diff.folders.store_worker import describe_unexpected
from s3diff.options import OutputOptions, Precision, RestoreOptions
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.result import result_extension


class Restore:
    """Restore the picture of each row, for ``map_batches``.

    A column of bytes holds picture files; results are files of the same format that keep their metadata. A column of
    arrays [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (uint8, uint16, or float in [0, 1]) gives arrays. A picture that
    cannot be restored has a reason in the column of errors instead of a result.

    ::

        dataset.map_batches(Restore, fn_constructor_kwargs={"column": "image"}, batch_size=16,
                            compute=ray.data.ActorPoolStrategy(size=4), num_gpus=1)

    Args:
        column: name of the pictures' column.
        to: name of the results' column.
        error: name of the reasons' column; a restored picture has None there.
        model: a name or a model folder; see :meth:`Restorer.from_pretrained`.
        options: for all pictures.
        writing: format and quality of files.
        device: see :class:`Restorer`.
        precision: see :class:`Restorer`.

    Raises:
        ModelError, OptionError: no picture can be restored.
    """

    def __init__(
        self,
        column: str = "bytes",
        *,
        to: str = "restored",
        error: str = "error",
        model: str = "compact",
        options: RestoreOptions | None = None,
        writing: OutputOptions | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        self._column, self._to, self._error = column, to, error
        self._options = RestoreOptions() if options is None else options
        self._writing = OutputOptions() if writing is None else writing
        self._restorer = Restorer.from_pretrained(model, device=device, precision=precision)
        self._restorer.check(self._options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Restore a batch in Ray Data's format ``numpy``: a dict of columns."""
        restored: list[Any] = []
        errors: list[str | None] = []
        for picture in batch[self._column]:
            made, reason = None, None
            try:
                made = self._file(picture) if isinstance(picture, bytes) else self._array(picture)
            except (PictureError, OutputError) as error:
                reason = " ".join(str(error).split())
            except S3DiffError:
                raise
            except Exception as error:  # noqa: BLE001 - one picture must not end a pipeline of millions
                reason = describe_unexpected(error)
            restored.append(made)
            errors.append(reason)
        return {**batch, self._to: _column(restored), self._error: _column(errors)}

    def _array(self, picture: Any) -> np.ndarray:
        return self._restorer.restore(np.asarray(picture), self._options).array

    def _file(self, data: bytes) -> bytes:
        """Restore one file through a scratch file, with the functions of a folder run."""
        from s3diff.images.files.reading import picture_header

        with tempfile.TemporaryDirectory(prefix="s3diff-") as scratch:
            source = Path(scratch, "picture")
            source.write_bytes(data)
            runner = LocalRunner(self._restorer, self._options, self._writing)
            try:
                extension = result_extension(picture_header(source).extension, self._writing)
                job = RestoreJob(source, Path(scratch, f"restored{extension}"))
                runner.restore(job, runner.open(job), None)()
            except (PictureError, OutputError) as error:
                raise PictureError(str(error).replace(f"{scratch}/", "").replace(f"{scratch}\\", "")) from error
            return job.target.read_bytes()


def _column(values: list[Any]) -> np.ndarray:
    """Make a column of one object per row, whatever their shapes."""
    column = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        column[index] = value
    return column
