"""Read and write files of named tensors: no code runs, names and shapes are checked, files are written whole."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from s3diff import git_lfs
from s3diff.atomic_write import whole_path
from s3diff.errors import ModelError, OutputError

#: Errors of torch's restricted reader on damaged or foreign files; each becomes one line that names the file.
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    AssertionError,
    OverflowError,
    struct.error,
)

#: Highest pickle protocol that torch reads without running code.
_READABLE_PROTOCOL = 3
#: Most names in one message; the rest is counted.
_MAX_NAMES = 6


def read_torch_file(path: Path) -> Any:
    """Read a ``torch.save`` file: only tensors and plain values; no code in the file runs.

    Raises:
        ModelError: the file does not exist, is damaged, is no torch file, or carries code.
    """
    _require_file(path)
    try:
        return _loaded(path)
    except ModelError as error:
        raise git_lfs.unreadable(path, str(error)) from error


def _loaded(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # Remarks on the file's pickle protocol; whether it could be read is what counts.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked_for = re.search(r"GLOBAL (\S+)", str(error))
        if asked_for is None and (protocol := _pickle_protocol(path)) > _READABLE_PROTOCOL:
            raise ModelError(
                f"{path} is written with pickle protocol {protocol}; above {_READABLE_PROTOCOL} (torch.save writes 2) "
                "nobody can see beforehand whether a file carries code, and nothing was run: have its authors save it "
                "again with torch.save's own protocol"
            ) from error
        if asked_for is None:
            raise ModelError(
                f"{path} carries code, is cut off or is no torch file; allowed are tensors and plain values, and "
                "nothing was run: take the file from its authors"
            ) from error
        raise ModelError(
            f"{path} carries code (it asks for {printable(asked_for.group(1))}); allowed are tensors and plain values, "
            "and nothing was run: take the file from its authors"
        ) from error
    except PermissionError as error:
        raise ModelError(f"{path} cannot be opened: permission denied; make the file readable") from error
    except _UNREADABLE as error:  # torch's message is for programmers, and cut off in the middle of a sentence
        raise ModelError(f"{path} is cut off, damaged or no torch file; fetch it again from its authors") from error


def _pickle_protocol(path: Path) -> int:
    """Find the protocol that a torch file's or a plain pickle's first bytes state; 0 where they state none."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(name) as file:
                    start = file.read(2)
        else:
            with open(path, "rb") as file:
                start = file.read(2)
    except (OSError, StopIteration, zipfile.BadZipFile):
        return 0
    return start[1] if len(start) == 2 and start[:1] == pickle.PROTO else 0


def write_torch_file(value: Any, path: Path) -> None:
    """Write with ``torch.save``, whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    with _writing(path) as temporary:
        torch.save(value, temporary)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file by name.

    Raises:
        ModelError: there is no such file or it is damaged.
    """
    _require_file(path)
    try:
        return load_file(path)
    except (SafetensorError, *_UNREADABLE) as error:
        message = f"{path} is damaged or no safetensors file ({first_line(error)}); copy or convert it again"
        raise git_lfs.unreadable(path, message) from error


def write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name; shared or strided memory is written out for each.

    Raises:
        OutputError: the place cannot be written.
    """
    with _writing(path) as temporary:
        temporary.touch()
        ordinary_mode = temporary.stat().st_mode
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        # Newer safetensors writes files that only their owner can read.
        temporary.chmod(ordinary_mode)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Wrap :func:`s3diff.atomic_write.whole_path`, with the errors of torch and safetensors on unwritable paths."""
    try:
        with whole_path(path) as temporary:
            yield temporary
    except (SafetensorError, RuntimeError) as error:
        raise OutputError(f"{path} cannot be written ({first_line(error)}); choose another place") from error


def check_tensors(found: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Require exactly the expected names, each a dense tensor of real numbers of the expected shape.

    Raises:
        ModelError: names every missing, unexpected and misshapen tensor (the first few of each kind).
    """
    faults = []
    if missing := [name for name in expected if name not in found]:
        faults.append(f"missing {_list_names(missing)}")
    if unexpected := [str(name) for name in found if name not in expected]:
        faults.append(f"unexpected {_list_names(unexpected)}")
    misshapen = []
    for name, shape in expected.items():
        if name in found and (fault := _fault(found[name], shape)):
            misshapen.append(f"{name} ({fault})")
    if misshapen:
        faults.append(f"misshapen {_list_names(misshapen)}")
    if faults:
        raise ModelError(f"{where} does not fit: {'; '.join(faults)}; use the files that belong together")


def fingerprint(components: Mapping[str, Mapping[str, Tensor]], settings: str) -> str:
    """Hash every tensor's component, name, dtype, shape and bytes as ``sha256:...``, in the order of the names.

    The settings that the tensors depend on, as one canonical text, are hashed first.
    """
    digest = hashlib.sha256(settings.encode() + b"\0")
    for component in sorted(components):
        for name, tensor in sorted(components[component].items()):
            kind = f"{component}\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0"
            digest.update(kind.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def first_line(error: BaseException) -> str:
    """Return an error's first line, at most 160 characters, for a one-line message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0])


def printable(text: object) -> str:
    """Write a file's text for a one-line message: no control characters, at most 160 characters."""
    return "".join(character if character.isprintable() else "?" for character in str(text)[:160])


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the file itself")
    if not path.is_file():
        raise ModelError(f"{path} does not exist; check the path")


def _fault(value: Any, shape: tuple[int, ...]) -> str:
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} instead of a tensor"
    if value.layout != torch.strided or not value.is_floating_point() or value.device.type == "meta":
        return f"{value.dtype} {value.layout} instead of dense floating point"
    return "" if tuple(value.shape) == shape else f"{list(value.shape)} instead of {list(shape)}"


def _list_names(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_MAX_NAMES])
    rest = len(names) - _MAX_NAMES
    return f"{len(names)}: {shown}" + (f" and {rest} more" if rest > 0 else "")


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
