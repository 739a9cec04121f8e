"""Read a pickle of numpy arrays without running anything of it."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from s3diff.errors import ModelError


class _RecordedDtype:
    """Replace ``numpy.dtype`` while a pickle is read: keep the arguments, do nothing."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code
        self.byte_order: object = None

    def __setstate__(self, state: Any) -> None:
        self.byte_order = state[1]


class _RecordedArray:
    """Replace ``numpy.ndarray`` while a pickle is read."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)

    def to_numpy(self) -> np.ndarray:
        """Make the array; only little-endian float32 in C order is accepted."""
        _, shape, dtype, is_fortran, content = self.state
        if (dtype.code, dtype.byte_order, is_fortran) != ("f4", "<", False):
            raise ModelError(f"an array is {dtype.byte_order}{dtype.code}; only little-endian float32 is accepted")
        return np.frombuffer(content, dtype="<f4").reshape(shape)


def _record_array(*_: object) -> _RecordedArray:
    return _RecordedArray()


#: The only names a pickle may use, and what they mean here. numpy itself never sees the pickle's content.
_ALLOWED_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): _record_array,
    ("numpy._core.multiarray", "_reconstruct"): _record_array,
    ("numpy", "ndarray"): _RecordedArray,
    ("numpy", "dtype"): _RecordedDtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED_GLOBALS[module, name]
        except KeyError:
            raise ModelError(
                f"the pickle asks for {module}.{name}; only plain numpy arrays are read, nothing was run"
            ) from None


def read_array_pickle(content: bytes) -> dict[str, np.ndarray]:
    """Read a pickle of nested dicts of float32 arrays as ``{"outer/inner/name": array}``; run nothing from it.

    Raises:
        ModelError: the pickle asks for anything but numpy arrays, or is damaged.
    """
    try:
        tree = _ArrayUnpickler(io.BytesIO(content)).load()
        return dict(_flattened(tree, ""))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the pickle holds something else than nested dicts of arrays ({error})") from error


def _flattened(tree: object, prefix: str) -> list[tuple[str, np.ndarray]]:
    if isinstance(tree, _RecordedArray):
        return [(prefix, tree.to_numpy())]
    if not isinstance(tree, dict):
        raise ModelError(f"the pickle holds a {type(tree).__name__} at {prefix!r}; only dicts of arrays are read")
    return [
        item for key, value in tree.items() for item in _flattened(value, f"{prefix}/{key}" if prefix else str(key))
    ]
