"""Send several results as one zip file, made while it is sent."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from s3diff.restoration.result import Result

_READ_BYTES = 1 << 20


class _Pipe:
    """Hold written bytes until they are taken; not seekable."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: no bytes are buffered."""

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def zip_of(results: Sequence[Result]) -> Iterator[bytes]:
    """Yield the bytes of an archive with every result, uncompressed (pictures are); number repeated names."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, result in zip(distinct_names([each.name for each in results]), results, strict=True):
            with result.path.open("rb") as file, archive.open(name, "w", force_zip64=True) as entry:
                while part := file.read(_READ_BYTES):
                    entry.write(part)
                    yield pipe.take()
            yield pipe.take()
    yield pipe.take()


def distinct_names(names: Sequence[str]) -> list[str]:
    """Make names distinct: ``photo.jpg``, ``photo (2).jpg``. Case is ignored, as on many disks."""
    taken: set[str] = set()
    chosen = []
    for name in names:
        path, number, candidate = PurePath(name), 1, name
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{path.stem} ({number}){path.suffix}"
        taken.add(candidate.casefold())
        chosen.append(candidate)
    return chosen
