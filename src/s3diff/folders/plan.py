"""Turn the command's inputs and output into one source and one target per picture, all checked before any work."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TypeVar

from s3diff.errors import OptionError, OutputError, PictureError
from s3diff.folders.inputs import RESULTS, LeftOut, find_pictures
from s3diff.folders.journal import JOURNAL_NAME
from s3diff.formats import PICTURE_EXTENSIONS, format_of, format_of_extension
from s3diff.images.files.writing import check_writable
from s3diff.messages import reason_of
from s3diff.options import OutputOptions
from s3diff.restoration.result import result_extension, result_stem

#: A picture's or result's path below an input or output.
Place = TypeVar("Place", bound=PurePath)


@dataclass(frozen=True)
class RestoreJob:
    """Hold one picture's source and target."""

    source: Path
    target: Path


@dataclass(frozen=True)
class RestorePlan:
    """Hold all pictures of a run.

    Attributes:
        jobs: without repeated pictures and targets; of one shard, if one was requested.
        root: the output folder, which contains every result; None if the output is one file.
        is_many: whether the run keeps a journal and continues after a bad picture, unlike a single named picture.
        failed: inputs that could not be searched, each with the reason.
        left_out: entries that were passed over.
    """

    jobs: list[RestoreJob]
    root: Path | None
    is_many: bool
    failed: list[tuple[RestoreJob, str]] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


def plan_jobs(
    inputs: list[str],
    output: str,
    *,
    recursive: bool = False,
    listed: Iterable[str] | None = None,
    writing: OutputOptions | None = None,
    shard: tuple[int, int] | None = None,
    names: dict[str, str] | None = None,
    journal: Path | None = None,
) -> RestorePlan:
    """Pair every input picture with its own output.

    Args:
        inputs, recursive: see :func:`find_pictures`.
        output: a file for one input file, otherwise a folder. Inside it a picture keeps its relative path, unless
            ``writing`` says otherwise.
        listed: further files by name; their tree below their common folder is kept. A missing file is a job that
            fails.
        shard: (i, N): only the i-th of N parts, counted from 0. A picture's part depends only on its path in the
            output, so that parts stay disjoint and complete when pictures are added.
        names: template fields besides ``stem`` and ``extension``: ``model``, ``scale``.
        journal: the run's journal, if it lies outside the output folder.

    A folder that cannot be searched is one of the plan's failures. Results of earlier runs are no inputs: those that a
    journal names and, unless files may be overwritten, those that would be written again under the same name.

    Raises:
        PictureError: an input does not exist, or a folder holds no picture.
        OutputError: an output is one of the inputs, two inputs share an output, or it cannot be written.
        OptionError: the name's template cannot be used, or format or template contradict the output's own name.
        OSError: a name is too long, or lies in a folder that the user may not enter.
    """
    writing = OutputOptions() if writing is None else writing
    if not output:
        raise OutputError("the output's name is empty; give a file, or a folder such as restored/")
    target = Path(output)
    journals = [(path, target) for path in (*target.glob(f"{JOURNAL_NAME}*.jsonl"), *([journal] if journal else []))]
    found = find_pictures(inputs, recursive=recursive, listed=listed, output=target, journals=journals)
    sources, is_among_others = found.pictures, listed is not None or len(found.pictures) + len(found.failed) > 1
    is_many = is_among_others or os.path.isdir(inputs[0]) or not os.path.exists(inputs[0])
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
        results = name_results(sources, writing, names or {})
        jobs = [RestoreJob(source, target / result) for (source, _), result in zip(sources, results, strict=True)]
        root = target
        if not writing.overwrite:
            jobs = _without_results(jobs, found.left_out)
    elif not target.suffix:
        raise OutputError(f"{output} is a file's name without extension; add one such as .png, or / for a folder")
    else:
        _require_own_name(output, target, writing)
        jobs, root = [RestoreJob(sources[0][0], target)], None
    jobs = distinct_jobs(jobs)
    if shard is not None:
        index, count = shard
        jobs = [job for job in jobs if _part(job.target.relative_to(target) if root else job.target, count) == index]
    if is_many:  # a single picture's target is checked when the picture is read, before a model is loaded
        _check_places(jobs)
    failed = [(RestoreJob(source, target / place), reason) for source, place, reason in found.failed]
    return RestorePlan(jobs, root, is_many, failed, found.left_out)


def _require_own_name(output: str, target: Path, writing: OutputOptions) -> None:
    """Refuse a format or a name template that contradicts the output's own name.

    Raises:
        OptionError: one of them does.
    """
    asked = None if writing.format is None else format_of_extension(f".{writing.format}")
    if asked is not None and asked != format_of(target):
        raise OptionError(f"format is {writing.format}, but {output} ends otherwise; leave one out, or give a folder")
    if writing.name != OutputOptions.name:
        raise OptionError(f"name is {writing.name!r}, but {output} is a file's name; leave one out, or give a folder")


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Read ``2/8`` as (2, 8).

    Raises:
        OptionError: the text has another form, or the part does not exist.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise OptionError(f"shard is {text!r}; give PART/PARTS, the part counted from 0, such as 0/8 to 7/8")
    return int(match[1]), int(match[2])


def require_inside(path: Path, root: Path | None) -> None:
    """Check that a path stays in a folder, links followed; without a folder any path is allowed.

    Raises:
        OutputError: a symbolic link leads it out.
    """
    if root is None:
        return
    inside, place = os.path.realpath(root), os.path.realpath(path)
    if os.path.commonpath([inside, place]) != inside:
        raise OutputError(f"{path} would be written outside {root}, to {place}; remove the symbolic link")


def _part(relative: Path, count: int) -> int:
    digest = hashlib.sha256(os.fsencode(relative.as_posix())).digest()
    return int.from_bytes(digest[:8], "big") % count


def _check_places(jobs: list[RestoreJob]) -> None:
    """Check that a folder of the output can be written; one of several that cannot fails on its own later."""
    probes = {job.target.parent: job.target.with_name(f"0{job.target.suffix}") for job in jobs}
    refusals = []
    for probe in probes.values():
        try:
            check_writable(probe)
        except OutputError as error:
            refusals.append(error)
    if refusals and len(refusals) == len(probes):
        raise refusals[0]


def is_earlier_result(path: Path, entry: Path, output: Path) -> bool:
    """Check whether a picture lies in an output folder inside the input folder: a second run must not restore it."""
    root, results, place = (Path(os.path.realpath(each)) for each in (entry, output, path))
    return root in results.parents and results in place.parents


def name_results(
    sources: Sequence[tuple[str | Path, Place]], writing: OutputOptions, names: Mapping[str, str]
) -> list[Place]:
    """Name the result of each picture by its path below the output.

    If a change of format would give two pictures one name, both keep their old extension in it.

    Args:
        sources: pictures, each with its path below the input.
        names: fields of a name's template other than ``stem`` and ``extension``.
    """
    named: list[tuple[str | Path, Place, Place]] = []
    for source, relative in sources:
        extension = result_extension(relative.suffix, writing)
        stem = result_stem(writing, {"stem": relative.stem, "extension": relative.suffix[1:], **names})
        plain = relative.with_name(stem + extension)
        stem = result_stem(writing, {"stem": relative.name, "extension": relative.suffix[1:], **names})
        named.append((source, plain, relative.with_name(stem + extension)))
    num_wanting = Counter(
        plain for _, plain in {(os.path.normcase(source), os.path.normcase(plain)) for source, plain, _ in named}
    )
    return [
        plain if num_wanting[os.path.normcase(plain)] == 1 or plain.suffix == relative.suffix else with_old_extension
        for (_, plain, with_old_extension), (_, relative) in zip(named, sources, strict=True)
    ]


def _without_results(jobs: list[RestoreJob], left_out: LeftOut) -> list[RestoreJob]:
    """Drop the jobs whose sources are other jobs' results, which lie in the same folder as their inputs."""
    sources = {place_of(job.source) for job in jobs}
    written = {place for job in jobs if (place := place_of(job.target)) in sources and place != place_of(job.source)}
    kept = []
    for job in jobs:
        place = place_of(job.source)
        if place in written and place != place_of(job.target):
            left_out.add(RESULTS, job.source.name)
        else:
            kept.append(job)
    return kept


def distinct_jobs(jobs: list[RestoreJob]) -> list[RestoreJob]:
    """Drop repeated jobs; refuse an output that is an input or another's output."""
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
    """Return one identity for one file, whatever links lead to it and whatever case its name is written in."""
    with suppress(OSError):
        status = os.stat(path)
        if status.st_ino:  # 0 on file systems that do not number their files
            return status.st_dev, status.st_ino
    return os.path.normcase(os.path.realpath(path))


def read_list(name: str, *, null_separated: bool = False) -> list[str]:
    """Read the names of a list: a file, or standard input (``-``).

    Args:
        name: the list, in UTF-8 or, as PowerShell writes it, UTF-16; other bytes are names as they are. Quotes around
            a name are removed unless a file's name has them.
        null_separated: whether names end with a null character, as ``find -print0`` writes them, not with a line.

    Raises:
        PictureError: the list cannot be read, or holds no names.
    """
    try:
        if name == "-":
            content = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:
                content = file.read()
    except (OSError, ValueError) as error:
        raise PictureError(
            f"the list {name} cannot be read ({reason_of(error)}); give a file with one name a line"
        ) from error
    if null_separated:
        names = [os.fsdecode(each) for each in _null_separated_bytes(name, content).split(b"\0") if each]
    else:
        lines = _as_utf_8(name, content).replace(b"\r\n", b"\n").split(b"\n")
        names = [_without_quotes(os.fsdecode(line)) for line in lines if line.strip()]
    if not names:
        raise PictureError(f"the list {name} is empty; give one name a line")
    if any("\0" in each for each in names):
        raise PictureError(
            f"the list {name} holds null characters; give a text file with one name a line, or --list0 for names that "
            "end with a null character"
        )
    return names


def _null_separated_bytes(name: str, content: bytes) -> bytes:
    """Return the list as bytes of names; a text with a byte order mark becomes UTF-8.

    Raises:
        PictureError: it looks like UTF-16 without a mark, where every letter would be a name.
    """
    has_mark = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8))
    letters = [each for each in content.split(b"\0") if each]
    is_spread = len(letters) > 1 and all(len(each) == 1 for each in letters)
    is_no_file = not any(os.path.lexists(each) for each in letters if each not in (b".", b"/", b"\\"))
    if not has_mark and is_spread and is_no_file:
        raise PictureError(f"the list {name} looks like UTF-16; write it again, as UTF-8")
    return _as_utf_8(name, content) if has_mark else content


def read_lists(lines: str | None, null_separated: str | None) -> list[str] | None:
    """Read the names of two lists, one name a line and with null characters; None where neither is given."""
    if lines is None and null_separated is None:
        return None
    names = [] if lines is None else read_list(lines)
    return names + ([] if null_separated is None else read_list(null_separated, null_separated=True))


def _as_utf_8(name: str, content: bytes) -> bytes:
    """Remove the byte order mark. UTF-16 without a mark is recognised by a null in its first character: no file name
    has one.
    """
    encoding = None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif len(content) % 2 == 0 and content[1:2] == b"\0" and content[:1] != b"\0":
        encoding = "utf-16-le"
    elif len(content) % 2 == 0 and content[:1] == b"\0" and content[1:2] not in (b"", b"\0"):
        encoding = "utf-16-be"
    if encoding is None:
        return content.removeprefix(codecs.BOM_UTF8)
    try:
        return os.fsencode(content.decode(encoding, "surrogatepass"))
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise PictureError(f"the list {name} is no whole UTF-16 text; write it again, best as UTF-8") from error


def _without_quotes(name: str) -> str:
    plain = name.strip()
    is_quoted = len(plain) > 2 and plain[0] == plain[-1] and plain[0] in "\"'"
    return plain[1:-1] if is_quoted and not os.path.lexists(name) else name
