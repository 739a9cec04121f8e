"""From the command's inputs and output to one source and one target per picture, checked before any work."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from s3diff.errors import OptionError, OutputError, PictureError
from s3diff.images.codecs import Picture, check_writable, list_pictures, read_picture
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import check_output_size

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
        recursive: descend into folders, the output's excepted.
        skip_existing: leave out pictures whose output is there.
        quality: of JPEG and WebP, checked here.

    Returns:
        The jobs, no picture twice, and how many were skipped.

    Raises:
        PictureError: an input does not exist, or a folder holds no picture.
        OutputError: an output is one of the inputs, two inputs share an output, or it cannot be written.
        OptionError: the quality is out of range.
        OSError: a name is too long, or lies in a folder that the user may not enter.
    """
    if not 1 <= quality <= 100:
        raise OptionError(f"quality is {quality}; give a whole number from 1 to 100")
    if not output:
        raise OutputError("the output's name is empty; give a file, or a folder such as restored/")
    target = Path(output)
    sources = [pair for entry in inputs for pair in _pictures(entry, recursive, target)]
    is_file_name = target.suffix.lower() in _FILE_EXTENSIONS and not target.is_dir()
    if target.is_dir() or output.endswith(("/", os.sep)) or len(sources) > 1 or Path(inputs[0]).is_dir():
        if target.is_file() or (is_file_name and not output.endswith(("/", os.sep))):
            given = f"there are {len(sources)} pictures" if len(sources) > 1 else f"{inputs[0]} is a folder"
            if output.endswith(("/", os.sep)):
                given = "its name ends like a folder's"
            raise OutputError(f"{output} is one file, but {given}; give a folder, such as restored/")
        jobs = [RestoreJob(source, target / relative) for source, relative in sources]
    elif not target.suffix:
        raise OutputError(f"{output} is a file's name without extension; add one such as .png, or / for a folder")
    else:
        jobs = [RestoreJob(sources[0][0], target)]
    jobs = distinct_jobs(jobs)
    remaining = [job for job in jobs if not (skip_existing and job.target.exists())]
    for job in remaining:
        check_writable(job.target)
    return remaining, len(jobs) - len(remaining)


def open_picture(job: RestoreJob, options: RestoreOptions) -> Picture:
    """Read a job's picture, and make sure that its result will be accepted where it goes.

    Raises:
        PictureError: it cannot be read, or its result would be too large.
        OutputError: the output's format cannot hold the result, or its place cannot be written.
    """
    picture = read_picture(job.source)
    size = check_output_size(picture, options)
    check_writable(job.target, size=size, transparent=picture.is_transparent)
    return picture


def _pictures(name: str, recursive: bool, output: Path) -> list[tuple[Path, Path]]:
    """Pictures of one input with their names relative to it."""
    if not name:
        raise PictureError("an input's name is empty; give a picture or a folder of pictures")
    entry = Path(name)
    if entry.is_dir():
        found = [path for path in list_pictures(entry, recursive) if not is_earlier_result(path, entry, output)]
        if not found:
            hint = "" if recursive else "; folders inside it are read with --recursive"
            raise PictureError(f"{entry} holds no pictures (.png, .jpg, .jpeg, .webp, .tif, .tiff){hint}")
        return [(path, path.relative_to(entry)) for path in found]
    if entry.is_symlink() and not entry.exists():
        raise PictureError(
            f"{entry} is a symbolic link that leads nowhere, or back to itself; give the picture or folder it means"
        )
    if not entry.exists():
        raise PictureError(f"{entry} does not exist; give a picture or a folder of pictures")
    return [(entry, Path(entry.name))]


def is_earlier_result(path: Path, entry: Path, output: Path) -> bool:
    """Whether a picture lies in an output folder that is inside the input folder: a second run must not take it."""
    root, results, place = (Path(os.path.realpath(each)) for each in (entry, output, path))
    return root in results.parents and results in place.parents


def distinct_jobs(jobs: list[RestoreJob]) -> list[RestoreJob]:
    """The jobs without repetitions; no output is an input or another's output."""
    sources = {place_of(job.source): job.source for job in jobs}
    targets: dict[tuple[int, int] | str, RestoreJob] = {}
    for job in jobs:
        place = place_of(job.target)
        if place in sources:
            raise OutputError(f"{job.target} would overwrite the input {sources[place]}; choose another output")
        first = targets.setdefault(place, job)
        if place_of(first.source) != place_of(job.source):
            raise OutputError(
                f"{first.source} and {job.source} would both be written to {job.target}; "
                "restore them into different folders"
            )
    return list(targets.values())


def place_of(path: Path) -> tuple[int, int] | str:
    """One value for one file, whatever links lead to it and however its name's case is written."""
    with suppress(OSError):
        status = os.stat(path)
        if status.st_ino:  # 0 on file systems that do not number their files
            return status.st_dev, status.st_ino
    return os.path.normcase(os.path.realpath(path))
