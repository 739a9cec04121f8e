"""Choose a default output path: next to the input, never over an existing file."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Mapping
from pathlib import Path

from s3diff.options import OutputOptions
from s3diff.restoration.result_names import result_extension, result_stem

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
        inputs: as the user gave them.
        writing: format and name template of the result.
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
    for number in itertools.count(1):
        candidate = source.with_name(f"{stem}{'' if number == 1 else f'_{number}'}{extension}")
        if keeps_name or not os.path.lexists(candidate):
            break
    return str(candidate)
