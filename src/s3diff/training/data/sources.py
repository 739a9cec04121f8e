"""Read training pictures from a folder tree or tar shards, on a disk or in an object store.

All give pictures by number as uint8 RGB; :func:`open_source` finds out which it is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from s3diff.errors import PictureError
from s3diff.formats import PICTURE_EXTENSIONS
from s3diff.images.files.reading import decode_picture, list_pictures, read_picture
from s3diff.images.picture import rgb_8_bits
from s3diff.messages import shown_path
from s3diff.training.data.shards import PackedNames, ShardIndex, index_shards
from s3diff.training.data.storage import (
    RangeReader,
    expand,
    extension,
    is_remote,
    kind_of,
    list_remote_files,
)

_LOGGER = logging.getLogger(__name__)


class PictureSource(Protocol):
    """Offer numbered pictures. Can be pickled; a copy in another process opens its own files.

    Attributes:
        location: as the user gave it, for messages.
        is_remote: whether reading goes over the network.
        group_sizes: numbers of pictures that lie together (one group per shard; a folder is one group); their sum is
            the number of pictures.
    """

    location: str
    is_remote: bool
    group_sizes: Sequence[int]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name a picture for messages: path inside the folder, or shard and member; always one line."""
        ...

    def own_name(self, index: int) -> str:
        """Name a picture independently of the set's place: without the path of the folder or the shards."""
        ...

    def read(self, index: int) -> np.ndarray:
        """Read a picture as [H, W, 3] uint8 RGB, upright; 16 bits rounded to 8, grey repeated, transparency left out.

        Raises:
            PictureError: this one picture cannot be read.
            TrainingError: the store cannot be reached, so nothing can be said about the picture.
        """
        ...


def open_source(path: str, held_out: tuple[str, ...] = (), cache_folder: Path | None = None) -> PictureSource:
    """Open a training set.

    Args:
        path: a folder of pictures, in any depth of folders; a folder that holds only ``.tar`` files; one ``.tar``; a
            pattern of them (``train-{000000..000012}.tar``, ``shards/*.tar``). Each also remote, through fsspec:
            ``s3://bucket/folder``, ``https://host/train-{000..012}.tar``.
        held_out: pictures that are left out: file names, or paths inside the folder or shard.
        cache_folder: where the index of shards is kept; None for s3diff's cache folder.

    Raises:
        PictureError: nothing is there, or nothing that can be trained on.
        MissingExtraError: the protocol needs a package that is not installed.
        TrainingError: a store cannot be reached.
    """
    files = expand(path)
    if all(extension(file) == ".tar" and (is_remote(file) or kind_of(file) == "file") for file in files):
        return ShardSource(path, index_shards(files, cache_folder), held_out)
    if len(files) > 1:
        wrong = next(file for file in files if extension(file) != ".tar" or kind_of(file) != "file")
        what = "does not exist" if kind_of(wrong) == "nothing" else "is no .tar file"
        raise PictureError(f"{path}: {shown_path(wrong)} {what}; give a folder of pictures or .tar shards")
    place = files[0]
    kind = kind_of(place)
    if kind == "nothing":
        raise PictureError(f"{shown_path(path)} does not exist; give a folder of pictures or .tar shards")
    if kind == "file":
        raise PictureError(f"{shown_path(path)} is one file; give a folder of pictures or uncompressed .tar shards")
    names, shards = _list_folder(place)
    if shards and names:
        _LOGGER.warning(
            "%s holds %d pictures and %d .tar files; the .tar files are not read", path, len(names), len(shards)
        )
    if shards and not names:
        return ShardSource(path, index_shards(shards, cache_folder), held_out)
    if not names:
        kinds = ", ".join(PICTURE_EXTENSIONS)
        raise PictureError(f"{shown_path(path)} holds no picture ({kinds}) and no .tar; give a folder of pictures")
    return FolderSource(path, place, names, held_out)


def _list_folder(place: str) -> tuple[list[str], list[str]]:
    """List the pictures' relative names and the addresses of the tar files that lie directly in the folder."""
    if is_remote(place):
        found = list_remote_files(place)
        start = place.rstrip("/")
        shards = [f"{start}/{name}" for name in found if extension(name) == ".tar" and "/" not in name]
        return [name for name in found if extension(name) in PICTURE_EXTENSIONS], shards
    names = [path.relative_to(place).as_posix() for path in list_pictures(place, recursive=True)]
    entries = sorted(Path(place).iterdir())
    return names, [str(entry) for entry in entries if entry.suffix.lower() == ".tar" and not entry.name.startswith(".")]


class FolderSource:
    """Loose picture files under one folder, local or remote."""

    def __init__(self, location: str, folder: str, names: Sequence[str], held_out: tuple[str, ...] = ()) -> None:
        kept = _kept(names, held_out)
        _require_some(location, len(names), len(kept))
        self.location = location
        self.is_remote = is_remote(folder)
        self._folder = folder.rstrip("/") or folder
        self._names = PackedNames(names[index] for index in kept)
        self.group_sizes: Sequence[int] = (len(self._names),)
        self._reader = RangeReader()

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Name the picture by its path inside the folder."""
        return shown_path(self._names[index])

    own_name = name

    def read(self, index: int) -> np.ndarray:
        path = f"{self._folder}/{self._names[index]}"
        if self.is_remote:
            return rgb_8_bits(decode_picture(self._reader.read(path), shown_path(path)))
        return rgb_8_bits(read_picture(path))


class ShardSource:
    """Pictures inside tar files; numbered shard by shard, in the order of each file."""

    def __init__(self, location: str, indices: Sequence[ShardIndex], held_out: tuple[str, ...] = ()) -> None:
        kept = [_kept(index.names, held_out) for index in indices]
        self.location = location
        self._urls = [index.url for index in indices]
        self.is_remote = any(is_remote(url) for url in self._urls)
        self.group_sizes: Sequence[int] = [len(numbers) for numbers in kept]
        _require_some(location, sum(len(index.names) for index in indices), sum(self.group_sizes))
        self._ends = np.cumsum(self.group_sizes, dtype=np.int64)
        pairs = list(zip(indices, kept, strict=True))
        self._names = PackedNames(index.names[number] for index, numbers in pairs for number in numbers)
        self._offsets = np.concatenate([index.offsets[numbers] for index, numbers in pairs])
        self._sizes = np.concatenate([index.sizes[numbers] for index, numbers in pairs])
        self._reader = RangeReader()

    def __len__(self) -> int:
        return len(self._names)

    def _url(self, index: int) -> str:
        return self._urls[int(np.searchsorted(self._ends, index, side="right"))]

    def name(self, index: int) -> str:
        """Name the picture by the shard's address and the member."""
        return shown_path(f"{self._url(index)}/{self._names[index]}")

    def own_name(self, index: int) -> str:
        """Name the picture by the shard's file name and the member."""
        url = self._url(index)
        place = urlsplit(url).path if is_remote(url) else url.replace(os.sep, "/")  # a query signs anew each time
        shard = place.rsplit("/", 1)[-1]
        return shown_path(f"{shard}/{self._names[index].removeprefix('./')}")

    def read(self, index: int) -> np.ndarray:
        data = self._reader.read(self._url(index), int(self._offsets[index]), int(self._sizes[index]))
        return rgb_8_bits(decode_picture(data, self.name(index)))


def _kept(names: Sequence[str], held_out: tuple[str, ...]) -> np.ndarray:
    """List the numbers of the names that are trained on."""
    if not held_out:
        return np.arange(len(names))
    kept = [index for index, name in enumerate(names) if not is_named(name, held_out)]
    return np.array(kept, dtype=np.int64)


def is_named(path: str, names: Sequence[str]) -> bool:
    """Say whether a picture's path inside its set, or its file name, is one of some names, in any form of Unicode."""
    wanted = {unicodedata.normalize("NFC", name) for name in names}
    composed = unicodedata.normalize("NFC", path)
    return composed in wanted or composed.rsplit("/", 1)[-1] in wanted


def _require_some(location: str, num_found: int, num_kept: int) -> None:
    if not num_kept:
        raise PictureError(f"all {num_found} pictures of {shown_path(location)} are held out; leave some to train on")


def names_digest(source: PictureSource) -> str:
    """Hash the names of all pictures in their order: tells whether two runs drew from the same set.

    However the set's path is written, and wherever the set was moved to, its digest is the same.
    """
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(source.own_name(index).encode() + b"\0")
    return digest.hexdigest()
