"""Read files of a training set from the local disk or an object store. The only file that imports fsspec.

An address with ``://`` (``s3://``, ``gs://``, ``https://``, ``memory://``) goes through fsspec; anything else, and
``file://``, is a local path. Other modules see names and bytes, and one-line errors that carry the address.
"""

from __future__ import annotations

import glob
import itertools
import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from s3diff.errors import MissingExtraError, PictureError, S3DiffError, TrainingError
from s3diff.messages import reason_of, shown_path

_LOGGER = logging.getLogger(__name__)
_Result = TypeVar("_Result")

#: Packages for protocols that fsspec knows but does not implement.
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp requests",
    "https": "aiohttp requests",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "oss": "ossfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
}

#: Waits between attempts to read from a store. A shard that is away for a moment must not change which crops are seen.
RETRY_WAITS_SECONDS = (1.0, 4.0, 15.0)

#: Local files kept open per process: a window of shards (see ``shards.WINDOW_SHARDS``) and its successor.
MAX_OPEN_FILES = 16

#: How much one request fetches while the headers of a remote tar file are read: the header and small neighbours
#: (captions, classes), but not the pictures.
HEADER_BLOCK_BYTES = 64 * 1024

#: More files than this are taken for a mistake in a pattern.
_MAX_EXPANDED = 1_000_000


def is_remote(path: str) -> bool:
    """Say whether fsspec reads it."""
    return "://" in path and not path.startswith("file://")


def local_path(path: str) -> str:
    """Take ``file://`` off a local path and replace ``~``."""
    if not path.startswith("file://"):
        return os.path.expanduser(path)
    name = unquote(urlsplit(path).path)
    return name.lstrip("/") if re.match(r"/[A-Za-z]:", name) else name  # file:///C:/pictures


def extension(path: str) -> str:
    """Take the last extension, small letters, with its dot; of an address without its query."""
    name = urlsplit(path).path if is_remote(path) else path
    return os.path.splitext(name)[1].lower()


def expand(pattern: str) -> list[str]:
    """List the files that a pattern names.

    ``{000..012}`` counts (with leading zeros where the bounds have them), ``{a,b}`` lists, ``*``, ``?``, ``[..]`` and
    ``**`` match names that exist, sorted. A local path that exists is taken literally; in ``http(s)`` addresses only
    the braces mean something.

    Raises:
        PictureError: a pattern matches nothing, or far too much.
        MissingExtraError, TrainingError: see :func:`kind_of`.
    """
    if not is_remote(pattern) and os.path.lexists(local_path(pattern)):
        return [local_path(pattern)]
    found: list[str] = []
    for one in _expand_braces(pattern):
        if is_remote(one) and (one.startswith(("http://", "https://")) or not glob.has_magic(one)):
            found.append(one)
        elif is_remote(one):
            with _one_line_errors(one):
                files, path = _file_system(one)
                found += sorted(files.unstrip_protocol(name) for name in files.glob(path))
        else:
            path = local_path(one)
            found += sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else [path]
    if not found:
        raise PictureError(f"{pattern} matches no file; check the pattern")
    return list(dict.fromkeys(found))


def _expand_braces(pattern: str) -> Iterator[str]:
    choices: list[list[str]] = []
    for place, part in enumerate(re.split(r"\{([^{}]*)\}", pattern)):
        if place % 2 == 0:
            choices.append([part])
        elif counted := re.fullmatch(r"(\d+)\.\.(\d+)", part):
            first, last = (int(bound) for bound in counted.groups())
            if abs(last - first) > _MAX_EXPANDED:
                raise PictureError(f"{pattern} names more than {_MAX_EXPANDED} files; check the bounds in braces")
            width = max(len(bound) for bound in counted.groups() if bound.startswith("0") or bound == counted[1])
            step = 1 if last >= first else -1
            choices.append([f"{number:0{width}d}" for number in range(first, last + step, step)])
        else:
            choices.append(part.split(",") if "," in part else [f"{{{part}}}"])
    for parts in itertools.product(*choices):
        yield "".join(parts)


def kind_of(path: str) -> Literal["file", "folder", "nothing"]:
    """Check whether a path is a file, a folder, or missing.

    Raises:
        MissingExtraError: the protocol needs a package that is not installed.
        TrainingError: the store cannot be reached or refuses.
    """
    if not is_remote(path):
        return "folder" if os.path.isdir(path) else "file" if os.path.lexists(path) else "nothing"
    with _one_line_errors(path):
        files, name = _file_system(path)
        if _with_retries(path, lambda: files.isdir(name)):
            return "folder"
        return "file" if _with_retries(path, lambda: files.exists(name)) else "nothing"


def list_remote_files(folder: str) -> list[str]:
    """List all files under a remote folder, relative to it, sorted; hidden files and folders are left out.

    Raises:
        MissingExtraError, TrainingError: see :func:`kind_of`.
    """
    with _one_line_errors(folder):
        files, path = _file_system(folder)
        found = _with_retries(folder, lambda: files.find(path))
    start = path.rstrip("/") + "/"
    names = [name.removeprefix(start) for name in found]
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def size_and_fingerprint(path: str) -> tuple[int, str]:
    """Find a file's bytes, and a text that changes when the file does (time of change, or the store's own tag).

    Raises:
        PictureError: there is no such file, or its size is unknown.
        MissingExtraError, TrainingError: see :func:`kind_of`.
    """
    with _one_line_errors(path):
        if not is_remote(path):
            status = os.stat(path)
            return status.st_size, str(status.st_mtime_ns)
        files, name = _file_system(path)
        size = _with_retries(path, lambda: files.info(name)).get("size")
        if size is None:
            raise PictureError(f"{path}: the server tells no size; give shards from a server that does")
        return int(size), str(files.ukey(name))


def read_headers(path: str, body: Callable[[BinaryIO], _Result]) -> _Result:
    """Let ``body`` read small parts of a seekable file; for a remote file it may be called again.

    Raises:
        PictureError, MissingExtraError, TrainingError: as :func:`size_and_fingerprint`; or what ``body`` raises.
    """

    def attempt() -> _Result:
        if is_remote(path):
            files, name = _file_system(path)
            opened = files.open(name, "rb", block_size=HEADER_BLOCK_BYTES, cache_type="readahead")
        else:
            opened = open(path, "rb")  # noqa: SIM115 - closed two lines below
        with opened as file:
            return body(file)

    with _one_line_errors(path):
        return _with_retries(path, attempt) if is_remote(path) else attempt()


class RangeReader:
    """Read pieces of files; local files stay open, the least recently used is closed first.

    A remote piece is one request for exactly its bytes: pictures are drawn at random, so a block cache would fetch
    several times what it serves. Copies that reach another process, by fork or by pickle, open files of their own:
    a shared handle would share its reading position.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()
        self._process = os.getpid()

    def read(self, path: str, start: int | None = None, size: int | None = None) -> bytes:
        """Read ``size`` bytes from ``start``, or the whole file.

        Raises:
            PictureError: there is no such file, it may not be read, or it ends earlier.
            MissingExtraError, TrainingError: see :func:`kind_of`; a store is asked several times before.
        """
        end = None if start is None or size is None else start + size
        with _one_line_errors(path):
            if is_remote(path):
                files, name = _file_system(path)
                data = bytes(_with_retries(path, lambda: files.cat_file(name, start=start, end=end)))
            else:
                file = self._file(path)
                file.seek(start or 0)
                data = file.read(-1 if size is None else size)
        if size is not None and len(data) > size:
            raise TrainingError(f"{path}: asked for {size} bytes, the server sent {len(data)}; it must serve ranges")
        if size is not None and len(data) < size:
            raise PictureError(f"{path} ends early; the file has changed since the start, fetch it again")
        return data

    def _file(self, path: str) -> BinaryIO:
        if self._process != os.getpid():
            self._open, self._process = OrderedDict(), os.getpid()
        file = self._open.pop(path, None) or open(path, "rb")  # noqa: SIM115 - closed when it is the oldest
        self._open[path] = file
        while len(self._open) > MAX_OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file

    def __reduce__(self) -> tuple[type[RangeReader], tuple[()]]:
        return RangeReader, ()


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    files, path = url_to_fs(url)
    return files, str(path)


def _with_retries(url: str, action: Callable[[], _Result]) -> _Result:
    for wait_seconds in RETRY_WAITS_SECONDS:
        try:
            return action()
        except (S3DiffError, FileNotFoundError, PermissionError, ImportError):
            raise
        except Exception as error:  # noqa: BLE001 - each store has its own; the last attempt raises
            _LOGGER.warning("%s: %s; trying again in %g s", url, reason_of(error)[:300], wait_seconds)
            time.sleep(wait_seconds)
    return action()


@contextmanager
def _one_line_errors(path: str) -> Iterator[None]:
    shown = shown_path(path)
    try:
        yield
    except S3DiffError:
        raise
    except ImportError as error:
        protocol = path.split("://")[0]
        package = _PACKAGES.get(protocol, f"'fsspec[{protocol}]'")
        message = f"{shown}: reading {protocol}:// needs a package that is not installed; run pip install {package}"
        raise MissingExtraError(message) from error
    except FileNotFoundError as error:
        raise PictureError(f"{shown}: no such file; check the path") from error
    except PermissionError as error:
        raise PictureError(f"{shown}: permission denied; check the rights or the credentials") from error
    except Exception as error:  # what a store's client raises is open-ended
        if not is_remote(path):
            raise PictureError(f"{shown} cannot be read ({reason_of(error)[:300]}); check the path") from error
        if "Protocol not known" in str(error):
            raise PictureError(f"{shown}: unknown protocol; give s3://, gs://, https:// or a local path") from error
        raise TrainingError(
            f"{shown} cannot be read ({reason_of(error)[:300]}); check the network and the address"
        ) from error
