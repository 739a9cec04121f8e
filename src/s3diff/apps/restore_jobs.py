"""From the command's inputs and output to one source and one target per picture, checked before any work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from s3diff.errors import OptionError, OutputError, PictureError
from s3diff.images.codecs import check_writable, list_pictures

#: Extensions that make an output a file's name rather than a folder's.
_FILE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class RestoreJob:
    """One picture: where it is read from and where its result goes."""

    source: Path
    target: Path


def plan_jobs(
    inputs: list[str], output: str, *, recursive: bool, skip_existing: bool, quality: int
) -> tuple[list[RestoreJob], int]:
    """Pair every input picture with its own output.

    Args:
        inputs: files and folders.
        output: a file for one input file, otherwise a folder. Inside it a picture keeps its name and format, and with
            ``recursive`` its place in the folder tree.
        recursive: descend into folders.
        skip_existing: leave out pictures whose output is there.
        quality: of JPEG and WebP, checked here.

    Returns:
        The jobs, and how many were skipped.

    Raises:
        PictureError: an input does not exist, or a folder holds no picture.
        OutputError: an output is one of the inputs, two inputs share an output, or it cannot be written.
        OptionError: the quality is out of range.
    """
    if not 1 <= quality <= 100:
        raise OptionError(f"quality is {quality}; give a whole number from 1 to 100")
    sources = [pair for entry in inputs for pair in _pictures(Path(entry), recursive)]
    target = Path(output)
    is_folder = target.is_dir() or output.endswith(("/", os.sep)) or len(sources) > 1 or Path(inputs[0]).is_dir()
    if is_folder:
        if target.is_file() or (len(sources) > 1 and target.suffix.lower() in _FILE_EXTENSIONS and not target.is_dir()):
            raise OutputError(f"{output} is one file, but there are {len(sources)} pictures; give a folder for them")
        jobs = [RestoreJob(source, target / relative) for source, relative in sources]
    else:
        jobs = [RestoreJob(sources[0][0], target)]
    _require_distinct(jobs)
    remaining = [job for job in jobs if not (skip_existing and job.target.exists())]
    for job in remaining:
        check_writable(job.target)
    return remaining, len(jobs) - len(remaining)


def _pictures(entry: Path, recursive: bool) -> list[tuple[Path, Path]]:
    """Pictures of one input with their names relative to it."""
    if entry.is_dir():
        found = list_pictures(entry, recursive)
        if not found:
            hint = "" if recursive else "; folders inside it are read with --recursive"
            raise PictureError(f"{entry} holds no pictures (.png, .jpg, .jpeg, .webp, .tif, .tiff){hint}")
        return [(path, path.relative_to(entry)) for path in found]
    if not entry.exists():
        raise PictureError(f"{entry} does not exist; give a picture or a folder of pictures")
    return [(entry, Path(entry.name))]


def _require_distinct(jobs: list[RestoreJob]) -> None:
    sources = {_place(job.source): job.source for job in jobs}
    targets: dict[str, RestoreJob] = {}
    for job in jobs:
        place = _place(job.target)
        if place in sources:
            raise OutputError(f"{job.target} would overwrite the input {sources[place]}; choose another output")
        if place in targets and _place(targets[place].source) != _place(job.source):
            raise OutputError(
                f"{targets[place].source} and {job.source} would both be written to {job.target}; "
                "restore them into different folders"
            )
        targets[place] = job


def _place(path: Path) -> str:
    """One name for one file, through links and on systems that ignore case."""
    return os.path.normcase(os.path.realpath(path))
