"""From the command's inputs and output to one source and one target per picture, checked before any work."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from s3diff.errors import OptionError, OutputError, PictureError
from s3diff.images.codecs import (
    PICTURE_EXTENSIONS,
    check_writable,
    list_pictures,
)
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.restoration.picture_files import Opened, read_source, result_extension, result_stem


@dataclass(frozen=True)
class RestoreJob:
    """One picture: where it is read from and where its result goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class RestorePlan:
    """Every picture of a run.

    Attributes:
        jobs: no picture twice, no two with one target; of one shard only, if one was asked for.
        root: the output folder, which no result may leave; None where the output is one file.
        is_many: whether this is a folder's run (a journal is kept, a bad picture costs only itself) rather than one
            picture named by the user.
    """

    jobs: list[RestoreJob]
    root: Path | None
    is_many: bool


def plan_jobs(
    inputs: list[str],
    output: str,
    *,
    recursive: bool = False,
    listed: Iterable[str] | None = None,
    writing: OutputOptions | None = None,
    shard: tuple[int, int] | None = None,
    names: dict[str, str] | None = None,
) -> RestorePlan:
    """Pair every input picture with its own output.

    Args:
        inputs: files, folders, and patterns such as ``photos/**/*.jpg``.
        output: a file for one input file, otherwise a folder. Inside it a picture keeps its place in the folder tree
            and its name, unless ``writing`` says otherwise.
        recursive: descend into folders, the output's excepted.
        listed: further files by name; their tree below their common folder is kept. Those that do not exist are jobs
            that fail, not a reason to refuse the list.
        writing: format and names of the outputs.
        shard: (i, N): only the i-th of N parts, counted from 0. Which part a picture belongs to depends on nothing but
            its place in the output, so that parts are disjoint and complete even where pictures are added meanwhile.
        names: what a name's template may use besides ``stem`` and ``extension``: ``model``, ``scale``.

    Raises:
        PictureError: an input does not exist, or a folder holds no picture.
        OutputError: an output is one of the inputs, two inputs share an output, or it cannot be written.
        OptionError: the name's template cannot be used.
        OSError: a name is too long, or lies in a folder that the user may not enter.
    """
    writing = OutputOptions() if writing is None else writing
    if not output:
        raise OutputError("the output's name is empty; give a file, or a folder such as restored/")
    target = Path(output)
    sources = [pair for entry in inputs for pair in _pictures(entry, recursive, target)]
    if listed is not None:
        sources += _of_list(listed)
    if not sources:
        raise PictureError("no picture is given; name pictures, folders, patterns, or a file with --list")
    is_many = len(sources) > 1 or listed is not None or os.path.isdir(inputs[0]) or not os.path.exists(inputs[0])
    named_as_folder = output.endswith(("/", os.sep))
    if target.is_dir() or named_as_folder or is_many:
        is_file_name = target.suffix.lower() in PICTURE_EXTENSIONS and not target.is_dir()
        if target.is_file() or (is_file_name and not named_as_folder):
            several = (inputs or ["the list"])[0]
            given = f"{several} is a folder" if os.path.isdir(several) else f"{several} stands for many pictures"
            if len(sources) > 1:
                given = f"there are {len(sources)} pictures"
            if named_as_folder:
                given = "its name ends like a folder's"
            raise OutputError(f"{output} is one file, but {given}; give a folder, such as restored/")
        jobs, root = _named(sources, target, writing, names or {}), target
    elif not target.suffix:
        raise OutputError(f"{output} is a file's name without extension; add one such as .png, or / for a folder")
    else:
        jobs, root = [RestoreJob(sources[0][0], target)], None
    jobs = distinct_jobs(jobs)
    if shard is not None:
        index, count = shard
        jobs = [job for job in jobs if _part(job.target.relative_to(target) if root else job.target, count) == index]
    for folder in {job.target.parent: job for job in jobs}.values():
        check_writable(folder.target)
    return RestorePlan(jobs, root, is_many)


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """``2/8`` as (2, 8).

    Raises:
        OptionError: it is not of this form, or the part does not exist.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise OptionError(f"shard is {text!r}; give PART/PARTS, the part counted from 0, such as 0/8 to 7/8")
    return int(match[1]), int(match[2])


def read_list(name: str) -> list[str]:
    """The non-empty lines of a file, or of standard input (``-``).

    Raises:
        PictureError: it cannot be read.
    """
    try:
        if name == "-":
            content = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:
                content = file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise PictureError(f"the list {name} cannot be read ({reason}); give a file with one name a line") from error
    lines = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if not names:
        raise PictureError(f"the list {name} is empty; give one name a line")
    if any("\0" in each for each in names):
        raise PictureError(f"the list {name} holds null characters; give a text file with one name a line")
    return names


def open_picture(job: RestoreJob, options: RestoreOptions, root: Path | None = None) -> Opened:
    """Read a job's picture, and make sure that its result will be accepted where it goes.

    A file of several frames is an animation if its result can hold them all.

    Raises:
        PictureError: it cannot be read, or its result would be too large.
        OutputError: the output's format cannot hold the result, its place cannot be written, or a symbolic link leads
            it out of ``root``.
    """
    check_inside(job, root)
    return read_source(job.source, job.target, options)


def check_inside(job: RestoreJob, root: Path | None) -> None:
    """Whether the result stays in the output folder.

    Raises:
        OutputError: a symbolic link leads it out of ``root``.
    """
    if root is not None:
        require_inside(job.target, root)


def require_inside(path: Path, root: Path) -> None:
    """Whether a path stays in a folder, links followed.

    Raises:
        OutputError: a symbolic link leads it out.
    """
    inside, place = os.path.realpath(root), os.path.realpath(path)
    if os.path.commonpath([inside, place]) != inside:
        raise OutputError(f"{path} would be written outside {root}, to {place}; remove the symbolic link")


def _part(relative: Path, count: int) -> int:
    digest = hashlib.sha256(os.fsencode(relative.as_posix())).digest()
    return int.from_bytes(digest[:8], "big") % count


def _pictures(name: str, recursive: bool, output: Path) -> list[tuple[Path, Path]]:
    """Pictures of one input with their names relative to it."""
    if not name:
        raise PictureError("an input's name is empty; give a picture or a folder of pictures")
    entry = Path(name)
    if entry.is_dir():
        found = list_pictures(entry, recursive)
        if os.path.realpath(entry) in (str(folder) for folder in Path(os.path.realpath(output)).parents):
            found = [path for path in found if not is_earlier_result(path, entry, output)]
        if not found:
            hint = "" if recursive else "; folders inside it are read with --recursive"
            raise PictureError(f"{entry} holds no pictures ({', '.join(PICTURE_EXTENSIONS)}){hint}")
        return [(path, path.relative_to(entry)) for path in found]
    if entry.is_symlink() and not entry.exists():
        raise PictureError(
            f"{entry} is a symbolic link that leads nowhere, or back to itself; give the picture or folder it means"
        )
    if entry.exists():
        return [(entry, Path(entry.name))]
    if glob.has_magic(name):
        return _matching(name, output)
    raise PictureError(f"{entry} does not exist; give a picture or a folder of pictures")


def _matching(pattern: str, output: Path) -> list[tuple[Path, Path]]:
    """The pictures that a pattern finds, with their names relative to the part of it that has no wildcards."""
    parts = Path(pattern).parts
    fixed = Path(*parts[: next(index for index, part in enumerate(parts) if glob.has_magic(part))])
    found = sorted(Path(each) for each in glob.iglob(pattern, recursive=True))
    found = [each for each in found if each.suffix.lower() in PICTURE_EXTENSIONS and each.is_file()]
    found = [each for each in found if not is_earlier_result(each, fixed, output)]
    if not found:
        raise PictureError(f"{pattern} does not exist, and as a pattern it matches no pictures; check the name")
    places = [Path(os.path.normpath(each.relative_to(fixed))) for each in found]
    if any(".." in place.parts for place in places):
        raise PictureError(
            f"{pattern} leads out of {fixed} by .. behind a wildcard, so that results would lie outside the output "
            "folder; write it without .. there"
        )
    return list(zip(found, places, strict=True))


def _of_list(names: Iterable[str]) -> list[tuple[Path, Path]]:
    """Listed files with their names relative to the folder that all of them are in."""
    places = [(Path(name), os.path.abspath(name)) for name in names]
    try:
        common = os.path.commonpath([os.path.dirname(place) for _, place in places])
    except ValueError as error:  # Windows: two drives
        raise PictureError("the list names files on several drives; give one list for each") from error
    return [(path, Path(os.path.relpath(place, common))) for path, place in places]


def is_earlier_result(path: Path, entry: Path, output: Path) -> bool:
    """Whether a picture lies in an output folder that is inside the input folder: a second run must not take it."""
    root, results, place = (Path(os.path.realpath(each)) for each in (entry, output, path))
    return root in results.parents and results in place.parents


def _named(
    sources: list[tuple[Path, Path]], folder: Path, writing: OutputOptions, names: dict[str, str]
) -> list[RestoreJob]:
    """A target for each. Where a change of format would give two the same name, they keep their old one inside it."""
    jobs: list[tuple[Path, Path, Path]] = []
    for source, relative in sources:
        extension = result_extension(relative.suffix, writing)
        stem = result_stem(writing, {"stem": relative.stem, "extension": relative.suffix[1:], **names})
        plain = folder / relative.with_name(stem + extension)
        stem = result_stem(writing, {"stem": relative.name, "extension": relative.suffix[1:], **names})
        jobs.append((source, plain, folder / relative.with_name(stem + extension)))
    num_wanting: dict[str, int] = {}
    for place in {(os.path.normcase(source), os.path.normcase(plain)) for source, plain, _ in jobs}:
        num_wanting[place[1]] = num_wanting.get(place[1], 0) + 1
    return [
        RestoreJob(
            source,
            plain if num_wanting[os.path.normcase(plain)] == 1 or plain.suffix == source.suffix else with_old_extension,
        )
        for source, plain, with_old_extension in jobs
    ]


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
