"""Index the pictures in tar shards (WebDataset layout).

The headers of a shard are read once into an index of (member name, offset, size); a picture is then one read of exactly
its bytes, in any order, from a local disk or an object store. Indices are kept in ``<cache folder>/shard-index/``,
one file per shard, named after the shard's address, size and fingerprint: a shard that was written again is indexed
again, one that was added costs only itself, and a scan that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from s3diff import git_lfs, user_folders
from s3diff.atomic_write import write_atomically
from s3diff.errors import OutputError, PictureError
from s3diff.formats import PICTURE_EXTENSIONS
from s3diff.messages import shown_path
from s3diff.training.data.storage import extension, is_remote, read_headers, size_and_fingerprint

_LOGGER = logging.getLogger(__name__)

#: Remote shards whose headers are read at the same time: each read waits for the network, not for the processor.
_SCANS_AT_ONCE = 16

_BLOCK_BYTES = 512
#: Zeros that writers put behind the end mark; more than that is data that no reader would find.
_LARGEST_PADDING_BYTES = 1 << 20
_INDEX_VERSION = 2

#: Place of a link whose file is not known.
_NOWHERE = (-1, -1)
#: Links that lead to links; a longer chain goes round.
_LONGEST_CHAIN = 40


class PackedNames(Sequence[str]):
    """Names as one block of bytes: far less memory than a list, and reading does not make workers copy it."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._data = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._data[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """List the pictures of one shard in the order of the file.

    Attributes:
        url: the shard.
        names: of the members, with their folders.
        offsets: int64, first byte of each picture.
        sizes: int64, bytes of each picture.
        damage: one sentence where the shard is cut off or damaged, or holds links that lead nowhere, else None.
    """

    url: str
    names: Sequence[str]
    offsets: np.ndarray
    sizes: np.ndarray
    damage: str | None = None


def index_shards(urls: Sequence[str], cache_folder: Path | None = None) -> list[ShardIndex]:
    """Index each shard, from the cache where it is there.

    A shard that is cut off is used as far as it can be read, and named in a warning at every start. A link is the
    member that it leads to, under its own name.

    Args:
        urls: addresses or local paths of uncompressed tar files.
        cache_folder: where ``shard-index/`` lies; None for s3diff's cache folder.

    Raises:
        PictureError: a shard is missing, no tar file, without a picture, or holds two members of one name.
        MissingExtraError: the protocol needs a package that is not installed.
        TrainingError: a store cannot be reached.
    """
    folder = (cache_folder or user_folders.cache_folder()) / "shard-index"
    remote = any(is_remote(url) for url in urls)
    with ThreadPoolExecutor(_SCANS_AT_ONCE if remote else 1) as pool:
        indices = list(pool.map(lambda url: _index(url, folder), urls))
    for index in indices:
        if index.damage:
            _LOGGER.warning("%s %s", shown_path(index.url), index.damage)
    return indices


def _index(url: str, folder: Path) -> ShardIndex:
    size_bytes, fingerprint = size_and_fingerprint(url)
    place = url if is_remote(url) else os.path.abspath(url)
    key = json.dumps([_INDEX_VERSION, place, size_bytes, fingerprint])
    path = folder / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:40]}.json"
    known = _load(path, url, size_bytes)
    if known is not None:
        return known
    _LOGGER.info("reading the headers of %s", shown_path(url))
    index = read_headers(url, lambda file: _scan(url, file, size_bytes))
    _save(path, index)
    return index


def _scan(url: str, file: BinaryIO, size_bytes: int) -> ShardIndex:
    shown = shown_path(url)
    found: dict[str, tuple[int, int]] = {}
    files: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    num_members, damaged = 0, False
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closed below; only opening has this error
    except tarfile.TarError as error:
        if not is_remote(url) and git_lfs.is_pointer(Path(url)):
            raise PictureError(git_lfs.fetch_advice(Path(url))) from error
        raise PictureError(f"{shown} is no uncompressed tar file ({error}); give .tar shards") from error
    with archive:
        for member in _whole_members(archive):
            num_members += 1
            is_link = member.islnk() or member.issym()
            is_whole = is_link or member.offset_data + member.size <= size_bytes
            damaged |= not is_whole
            if is_link:
                links[posixpath.normpath(member.name)] = _target(member)
            elif member.isreg() and not member.issparse() and is_whole:
                files[posixpath.normpath(member.name)] = member.offset_data, member.size
            if _is_picture(member) and is_whole:
                if member.name in found:
                    what = f"{shown} holds two members named {shown_path(member.name)}"
                    raise PictureError(f"{what}; write the shard again with one name per picture")
                found[member.name] = _NOWHERE if is_link else (member.offset_data, member.size)
        damaged |= not _has_end_mark(file, archive.offset, size_bytes)
    for name in [name for name, place in found.items() if place is _NOWHERE]:
        found[name] = _followed(posixpath.normpath(name), links, files)
    dangling = [name for name, place in found.items() if place is _NOWHERE]
    for name in dangling:
        del found[name]
    if not found:
        names = ", ".join(PICTURE_EXTENSIONS)
        raise PictureError(f"{shown} holds no picture among its {num_members} members; put {names} files into it")
    remarks = [f"is cut off or damaged; its first {len(found)} pictures are used, fetch it again"] if damaged else []
    if dangling:
        links_left_out = (
            f"holds {len(dangling)} links that lead to none of its files, such as {shown_path(dangling[0])}"
        )
        remarks.append(f"{links_left_out}; they are left out, write it again with tar --dereference")
    damage = "; it ".join(remarks) or None
    places = np.array(list(found.values()), dtype=np.int64)
    return ShardIndex(url, PackedNames(found), places[:, 0].copy(), places[:, 1].copy(), damage)


def _whole_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members up to the end or the first damage, which ``_has_end_mark`` then notices."""
    with suppress(tarfile.TarError):
        yield from archive


def _is_picture(member: tarfile.TarInfo) -> bool:
    """Leave out hidden files (macOS packs ``._name.jpg`` with ``name.jpg``), and sparse ones, stored in pieces."""
    hidden = any(part.startswith(".") and part != "." for part in member.name.split("/"))
    is_file = member.isreg() and not member.issparse()
    return (is_file or member.islnk() or member.issym()) and not hidden and extension(member.name) in PICTURE_EXTENSIONS


def _target(link: tarfile.TarInfo) -> str:
    """Name the member that a link leads to: a hard link from the archive's root, a symbolic one from its folder."""
    folder = posixpath.dirname(link.name) if link.issym() else ""
    return posixpath.normpath(posixpath.join(folder, link.linkname))


def _followed(name: str, links: dict[str, str], files: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Find the bytes behind a chain of links; ``_NOWHERE`` where it leaves the archive or goes round."""
    for _ in range(_LONGEST_CHAIN):
        if name not in links:
            break
        name = links[name]
    return files.get(name, _NOWHERE)


def _has_end_mark(file: BinaryIO, offset: int, size_bytes: int) -> bool:
    """Check whether reading stopped at the archive's end: tarfile takes any unreadable header for the end."""
    file.seek(offset)
    block = file.read(_BLOCK_BYTES)
    return len(block) == _BLOCK_BYTES and not any(block) and size_bytes - offset <= _LARGEST_PADDING_BYTES


def _save(path: Path, index: ShardIndex) -> None:
    content = {
        "version": _INDEX_VERSION,
        "url": index.url,
        "damage": index.damage,
        "names": list(index.names),
        "offsets": index.offsets.tolist(),
        "sizes": index.sizes.tolist(),
    }
    try:
        write_atomically(json.dumps(content), path)
    except OutputError as error:
        _LOGGER.warning("the index of %s was not saved (%s); it is read again next time", shown_path(index.url), error)


def _load(path: Path, url: str, size_bytes: int) -> ShardIndex | None:
    """Load a saved index; None if it is missing or incomplete."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names, damage = content["names"], content["damage"]
        offsets, sizes = (np.array(content[name], dtype=np.int64) for name in ("offsets", "sizes"))
        whole = len(names) == len(offsets) == len(sizes) > 0 and all(isinstance(name, str) for name in names)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    if not whole or offsets.min() < 0 or sizes.min() < 0 or (offsets + sizes).max() > size_bytes:
        return None
    return ShardIndex(url, PackedNames(names), offsets, sizes, damage)
