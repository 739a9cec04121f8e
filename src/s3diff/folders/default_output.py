"""Choose a default output path: next to the input, never over an existing file."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from s3diff.errors import OutputError
from s3diff.options import OutputOptions
from s3diff.restoration.result import result_extension, result_stem, video_extension

#: Suffix of a picture's or a folder's name.
_ADDED = "_restored"
#: The folder for the results of several inputs.
_FOLDER = "restored"


def default_output(
    inputs: list[str],
    writing: OutputOptions,
    names: Mapping[str, str],
    *,
    is_listed: bool = False,
    keeps_name: bool = False,
) -> str:
    """Choose the output: ``photo_restored.jpg`` next to ``photo.jpg``, with a number if that file exists.

    A folder's results go into ``photos_restored/`` next to ``photos``, those of several inputs into ``restored/``.

    Args:
        names: template fields besides ``stem`` and ``extension``.
        is_listed: whether a list names further pictures.
        keeps_name: whether an existing file is replaced or skipped, so that the name gets no number.
    """
    if is_listed or len(inputs) != 1 or (glob.has_magic(inputs[0]) and not os.path.lexists(inputs[0])):
        return os.path.join(_FOLDER, "")
    source = Path(inputs[0])
    if source.is_dir():
        place = Path(os.path.abspath(source))
        return os.path.join(
            source.parent if source.name not in ("", "..") else place.parent, f"{place.name}{_ADDED}", ""
        )
    values = {"stem": source.stem, "extension": source.suffix[1:], **names}
    stem = result_stem(writing, values)
    stem = f"{stem}{_ADDED}" if stem == source.stem else stem
    extension = result_extension(source.suffix, writing)
    return str(next(path for path in _numbered(source, stem, extension) if keeps_name or not os.path.lexists(path)))


def video_output(source: Path, output: str | None, *, overwrite: bool = False, is_here: bool = True) -> Path:
    """Choose the file of a restored video, by default ``clip_restored.mp4`` next to ``clip.mp4``.

    Args:
        output: a file or a folder, as the user gave it; None for the default, with a number if that file exists.
        is_here: whether the video is restored on this machine, where work of a finished run may remain.

    Raises:
        OutputError: it is the input.
    """
    extension = video_extension(source.suffix)
    if output is None:
        for path in _numbered(source, f"{source.stem}{_ADDED}", extension):
            if is_here and not overwrite:
                from s3diff.restoration.video_plan import remove_work_of_whole  # and with it numpy

                remove_work_of_whole(path)
            if overwrite or not os.path.lexists(path):
                return path
    target = Path(output or "")
    if target.is_dir() or str(output).endswith(("/", os.sep)):
        target /= f"{source.stem}{extension}"
    if os.path.realpath(target) == os.path.realpath(source):
        raise OutputError(f"{target} would overwrite the input; choose another output")
    return target


def _numbered(source: Path, stem: str, extension: str) -> Iterator[Path]:
    """Name files next to the source: the plain name, then with ``_2``, ``_3`` and so on."""
    yield source.with_name(f"{stem}{extension}")
    yield from (source.with_name(f"{stem}_{number}{extension}") for number in itertools.count(2))
