"""List, read and write objects of local folders and object stores; objects appear whole or not at all.

A name with ``://`` (``s3://``, ``gs://``, ``az://``) is an address in an object store and goes through obstore, which
only this file imports; anything else, and ``file://``, is a local folder. Credentials and endpoints come from the
environment, as the stores' own tools read them (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``,
``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_NAME``).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from s3diff.atomic_write import write_atomically
from s3diff.errors import OptionError, OutputError, PictureError, S3DiffError, StoreError
from s3diff.messages import needing, reason_of, shown_path, too_many_bytes

#: Retries end after this time: a store may be unreachable for a minute.
_RETRY_SECONDS = 180
_MAX_RETRIES = 10_000  # the time decides
_LONGEST_WAIT_SECONDS = 10
#: One request of any size must end within this time.
_REQUEST_SECONDS = 600
#: Objects that one request lists, by the stores' own limit.
_LISTED_AT_ONCE = 1000
#: obstore's client; the package need not be installed.
_REFUSALS = ("PermissionDeniedError", "UnauthenticatedError")
#: Its errors of lists have no type of their own.
_REFUSED, _MISSING = re.compile("status code: 40[13] "), re.compile("status code: 404 ")
_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


@dataclass(frozen=True)
class Entry:
    """Describe an object of a store.

    Attributes:
        key: path in the store, with ``/`` between folders.
        stamp: a text that changes with the content: size, and the time of change or the store's tag.
    """

    key: str
    stamp: str


class StoreRefusedError(StoreError):
    """Report that a store answers but refuses an object, for its name or the user's rights."""


class AlreadyThereError(OutputError):
    """Report that an object of this key exists and may not be replaced."""


class Store(Protocol):
    """Access objects by key below one folder or address.

    Raises:
        StoreError: by every method: the store cannot be reached, or refuses.
    """

    name: str

    def entries(self, folder: str = "") -> Iterator[Entry]:
        """List every object, hidden ones included, or those below one folder of the store."""

    def find(self, key: str) -> Entry | None:
        """Look up one object; None if there is none."""

    def read(self, key: str) -> bytes | None:
        """Read one object; None if there is none."""

    def write(self, key: str, data: bytes | Path, *, replace: bool) -> None:
        """Write one object, whole or not at all.

        Raises:
            AlreadyThereError: the object exists, and ``replace`` is False.
            OutputError: the store takes no object of this name.
        """

    def remove(self, key: str) -> None:
        """Remove one object; a missing one is no error."""

    def local_path(self, key: str) -> Path | None:
        """Return the object's path on this machine; None if it has to be fetched or uploaded."""

    def address(self, key: str) -> str:
        """Name one object for people."""


def is_address(name: str) -> bool:
    """Check whether a name is an address of an object store."""
    return "://" in name and not name.startswith("file://")


def local_name(name: str) -> str:
    """Remove ``file://`` from the name of a local file."""
    return url2pathname(urlsplit(name).path) if name.startswith("file://") else name


def open_store(name: str) -> Store:
    """Open a local folder, or an address in an object store.

    Raises:
        OptionError: the scheme is unknown.
        MissingExtraError: object stores need the extra cluster.
    """
    if is_address(name):
        return ObjectStore(name)
    return FolderStore(Path(os.path.abspath(local_name(name))))


class FolderStore:
    """Access a local folder, created on the first write; a :class:`Store`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def entries(self, folder: str = "") -> Iterator[Entry]:
        """See :class:`Store`. Links to folders are not entered."""
        waiting = [self.local_path(folder)]
        while waiting:
            with _store_errors(self.name), suppress(FileNotFoundError), os.scandir(waiting.pop()) as listing:
                for entry in listing:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif (stamp := stamp_of_file(Path(entry.path))) is not None:
                        yield Entry(Path(entry.path).relative_to(self.root).as_posix(), stamp)

    def find(self, key: str) -> Entry | None:
        stamp = stamp_of_file(self.local_path(key))
        return None if stamp is None else Entry(key, stamp)

    def read(self, key: str) -> bytes | None:
        with _store_errors(self.name), suppress(FileNotFoundError):
            return self.local_path(key).read_bytes()
        return None

    def write(self, key: str, data: bytes | Path, *, replace: bool) -> None:
        path = self.local_path(key)
        try:
            write_atomically(data if isinstance(data, bytes) else data.read_bytes(), path, overwrite=replace)
        except OutputError as error:
            if not replace and os.path.lexists(path):
                raise AlreadyThereError(f"{shown_path(path)} is there already") from error
            raise

    def remove(self, key: str) -> None:
        with _store_errors(self.name):
            self.local_path(key).unlink(missing_ok=True)

    def local_path(self, key: str) -> Path:
        return self.root.joinpath(*PurePosixPath(key).parts)

    def address(self, key: str) -> str:
        return str(self.local_path(key))


class ObjectStore:
    """Access a bucket or container, or a prefix in it; a :class:`Store`.

    Args:
        name: an address such as ``s3://bucket/photos``.

    Raises:
        OptionError, MissingExtraError: see :func:`open_store`.
    """

    def __init__(self, name: str) -> None:
        bucket, prefix = split_address(name)
        self.name = f"{bucket}/{prefix}" if prefix else bucket
        self._bucket, self._prefix = bucket, prefix
        self._client = _client(bucket)

    def entries(self, folder: str = "") -> Iterator[Entry]:
        below = self._full(folder) if folder else self._prefix
        with _store_errors(self.name):
            for chunk in self._client.list(below or None, chunk_size=_LISTED_AT_ONCE):
                for found in chunk:
                    key = found["path"][len(self._prefix) :].lstrip("/")
                    if key:
                        yield Entry(key, _stamp(found))

    def find(self, key: str) -> Entry | None:
        with _store_errors(self.address(key)), suppress(FileNotFoundError):
            return Entry(key, _stamp(self._client.head(self._full(key))))
        return None

    def read(self, key: str, max_bytes: int | None = None) -> bytes | None:
        """See :class:`Store`; refuse a larger object before its bytes come.

        Raises:
            PictureError: the object is larger than ``max_bytes``.
        """
        with _store_errors(self.address(key)), suppress(FileNotFoundError):
            found = self._client.get(self._full(key))
            if max_bytes is not None and found.meta["size"] > max_bytes:
                raise PictureError(too_many_bytes(self.address(key), found.meta["size"], max_bytes))
            return bytes(found.bytes())
        return None

    def write(self, key: str, data: bytes | Path, *, replace: bool) -> None:
        """See :class:`Store`. A new object is one conditional request; a replaceable one is uploaded in parts."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        address, mode = self.address(key), "overwrite" if replace else "create"
        with _store_errors(address):
            try:
                self._client.put(self._full(key), data, mode=mode)
            except FileNotFoundError as error:
                raise _no_bucket(self._bucket) from error
            except (AlreadyExistsError, PreconditionError) as error:
                raise AlreadyThereError(f"{address} is there already") from error
            except ValueError as error:
                raise OutputError(f"{address} cannot be a key of the store; rename the picture") from error

    def remove(self, key: str) -> None:
        with _store_errors(self.address(key)), suppress(FileNotFoundError):
            self._client.delete(self._full(key))

    def local_path(self, key: str) -> None:
        """See :class:`Store`: no object lies on this machine."""

    def address(self, key: str) -> str:
        return f"{self.name}/{key}"

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key


def fetch(name: str, scratch: Path, max_bytes: int) -> Path:
    """Return the local path of a picture; download one of an object store to a file of the same name.

    Args:
        name: a path, or an address.
        scratch: an empty folder.
        max_bytes: largest object that is downloaded; a local file is not looked at.

    Raises:
        PictureError: the object does not exist or is too large.
        StoreError: the store cannot be reached, or refuses.
    """
    if not is_address(name):
        return Path(local_name(name))
    bucket, key = split_address(name)
    try:
        data = ObjectStore(bucket).read(key, max_bytes)
    except StoreRefusedError as error:
        raise PictureError(str(error)) from error
    if data is None:
        raise PictureError(f"{shown_path(name)}: no such object; check the address")
    path = scratch / PurePosixPath(key).name
    path.write_bytes(data)
    return path


def stamp_of_file(path: Path) -> str | None:
    """Return the stamp of a local file; None if there is none."""
    with suppress(OSError, ValueError):
        status = os.stat(path)
        return f"{status.st_size}-{status.st_mtime_ns}"
    return None


def split_address(name: str) -> tuple[str, str]:
    """Split ``s3://bucket/a/b`` into (``s3://bucket``, ``a/b``).

    Raises:
        OptionError: the scheme is unknown, or the bucket is missing.
    """
    scheme, _, rest = name.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme not in _SCHEMES or not bucket:
        raise OptionError(
            f"{shown_path(name)} is no address of a store; give s3://BUCKET/..., gs://BUCKET/..., az://CONTAINER/... "
            "or a local path"
        )
    return f"{scheme}://{bucket}", key.strip("/")


@functools.lru_cache(maxsize=64)
def _client(bucket: str) -> Any:
    """Create one client, with its connections, for each bucket of a process."""
    with needing("cluster", f"{bucket}: object stores need the extra cluster; install it"):
        from obstore.store import from_url
    retries = {
        "max_retries": _MAX_RETRIES,
        "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(milliseconds=200),
            "max_backoff": timedelta(seconds=_LONGEST_WAIT_SECONDS),
            "base": 2,
        },
    }
    # Plain HTTP is allowed only for an endpoint that the user gave with http://.
    connection = {"timeout": timedelta(seconds=_REQUEST_SECONDS), "allow_http": True}
    with _store_errors(bucket):
        return from_url(bucket, client_options=connection, retry_config=retries)


def _stamp(found: Any) -> str:
    changed = found["e_tag"] or found["last_modified"].isoformat()
    return f"{found['size']}-{changed.strip(chr(34))}"


@contextmanager
def _store_errors(name: str) -> Iterator[None]:
    """Turn any error of a store's client into one line; a missing object stays FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, S3DiffError):
        raise
    except Exception as error:  # the exceptions of a store's client are open-ended
        if _MISSING.search(str(error)):
            raise _no_bucket(name) from error
        reason = reason_of(error).split(" Debug source:")[0][:300]
        if type(error).__name__ == "InvalidPathError":
            raise StoreRefusedError(
                f"{shown_path(name)}: names with an empty part, . or .. are not read ({reason}); rename the object, or "
                "give the folders next to it"
            ) from error
        is_refused = isinstance(error, PermissionError | ValueError) or type(error).__name__ in _REFUSALS
        if is_refused or _REFUSED.search(str(error)):
            raise StoreRefusedError(
                f"{shown_path(name)}: permission denied, or no name that the store takes ({reason}); check the "
                "credentials and the address"
            ) from error
        raise StoreError(
            f"{shown_path(name)} cannot be reached ({reason}); check the address, the credentials and the network, and "
            "run the same command again"
        ) from error


def _no_bucket(name: str) -> StoreRefusedError:
    return StoreRefusedError(f"{shown_path(name)}: no such bucket or container; check the address, or create it")
