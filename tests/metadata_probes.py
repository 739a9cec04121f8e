"""For tests of metadata: exiftool as the independent reader, and results without a network."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture

EXIFTOOL = shutil.which("exiftool")
needs_exiftool = pytest.mark.skipif(
    EXIFTOOL is None, reason="needs exiftool (Debian: apt-get install libimage-exiftool-perl), the independent reader"
)


#: A packet that says nothing.
EMPTY_PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about=""/></rdf:RDF></x:xmpmeta>'
)


def exiftool(*arguments: object) -> str:
    done = subprocess.run([str(EXIFTOOL), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fields_of(paths: Sequence[Path]) -> list[dict[str, object]]:
    """Group:Name to value for every file, in one call; none of them may have anything that exiftool complains about."""
    found = json.loads(exiftool("-j", "-n", "-G1", "-a", "-struct", *paths))
    assert [each["SourceFile"] for each in found] == [str(path) for path in paths]
    for each in found:
        assert not {"ExifTool:Error", "ExifTool:Warning"} & set(each), each
    return list(found)


def enlarged(picture: Picture, across: int, down: int) -> Picture:
    """A picture with every pixel repeated: what a result is to the metadata."""
    pixels = picture.pixels.repeat(down, 0).repeat(across, 1)
    alpha = None if picture.alpha is None else picture.alpha.repeat(down, 0).repeat(across, 1)
    return replace(picture, pixels=pixels, alpha=alpha)


def through(source: Path, target: Path, across: int = 2, down: int = 2) -> tuple[str, ...]:
    """Read a file, enlarge it and write it; return all remarks."""
    picture = read_picture(source)
    return (*picture.notes, *write_picture(enlarged(picture, across, down), target))
