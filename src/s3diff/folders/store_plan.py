"""Plan a run from folders and object stores into a store: find pictures, name results, leave out finished ones."""

from __future__ import annotations

import fnmatch
import glob
import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from s3diff.atomic_write import ABANDONED_SECONDS, remove_leftovers
from s3diff.errors import OutputError, PictureError
from s3diff.folders.inputs import HIDDEN, INSIDE, RESULTS, LeftOut, find_pictures
from s3diff.folders.manifest import Manifest
from s3diff.folders.plan import name_results
from s3diff.folders.stores import FolderStore, ObjectStore, Store, is_address, local_name, split_address, stamp_of_file
from s3diff.formats import PICTURE_EXTENSIONS
from s3diff.options import OutputOptions


class StoreJob(NamedTuple):
    """Hold one picture of a run over stores.

    Attributes:
        source: an address, or an absolute path, since workers have another working folder.
        target: the result's key in the output store.
        stamp: the source's stamp at planning; empty if it was not read.
        replace: whether the result replaces an existing object.
    """

    source: str
    target: str
    stamp: str
    replace: bool = False


@dataclass
class StorePlan:
    """Hold all pictures of a run over stores.

    Attributes:
        jobs: the pictures that were found, with distinct targets; :func:`leave_out_done` drops finished ones.
        failed: sources that could not be searched or named, each with the reason.
        skipped: number of skipped pictures, by reason.
        left_out: entries that were passed over.
    """

    jobs: list[StoreJob]
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)


def plan_store_jobs(
    inputs: Sequence[str],
    output: Store,
    *,
    recursive: bool = False,
    listed: Iterable[str] | None = None,
    writing: OutputOptions | None = None,
    names: dict[str, str] | None = None,
) -> StorePlan:
    """Pair every picture with a key of the output.

    Args:
        inputs: folders, files and patterns, and addresses of objects, prefixes and patterns such as
            ``s3://bucket/photos/**/*.jpg``.
        output: folder or address of the results; pictures keep their paths below their input.
        listed: further pictures by path or address; their tree below their common folder is kept.
        names: template fields besides ``stem`` and ``extension``.

    Raises:
        PictureError: an input does not exist or holds no pictures.
        OutputError: a result would replace a picture of the inputs, or two pictures have one target.
        OptionError, MissingExtraError, StoreError: see :mod:`s3diff.folders.stores`.
    """
    writing = OutputOptions() if writing is None else writing
    search = _Search(recursive, output)
    search.take_paths([local_name(name) for name in inputs if not is_address(name)])
    for name in inputs:
        if is_address(name):
            search.take_address(name)
    search.take_list([] if listed is None else list(listed))
    if not search.found and not search.plan.failed:
        raise PictureError("no picture is given; name pictures, folders, prefixes, patterns, or a file with --list")
    plan = search.plan
    targets = name_results([(source, place) for source, place, _ in search.found], writing, names or {})
    jobs = [
        StoreJob(source, str(target), stamp) for (source, _, stamp), target in zip(search.found, targets, strict=True)
    ]
    plan.jobs = _distinct(_without_results(jobs, output, plan, overwrite=writing.overwrite), output)
    return plan


def leave_out_done(
    plan: StorePlan, output: Store, manifest: Manifest, *, skip_existing: bool = False, overwrite: bool = False
) -> None:
    """Drop finished pictures from a plan, and check that no other object is replaced.

    Raises:
        OutputError: an object exists that this run did not make and may not replace.
        StoreError: the output's store cannot be reached.
    """
    existing = {entry.key for entry in output.entries()}
    pending: list[StoreJob] = []
    num_done = num_there = num_in_the_way = 0
    in_the_way, begun_in = "", set[Path]()
    for job in plan.jobs:
        if manifest.was_begun(job.target) and (path := output.local_path(job.target)) is not None:
            begun_in.add(path.parent)
        if job.target not in existing:
            pending.append(job)
        elif manifest.is_own(job.target, job.stamp):
            manifest.adopt(job.source, job.target, job.stamp)
            num_done += 1
        elif skip_existing:
            num_there += 1
        else:
            pending.append(job._replace(replace=True))
            in_the_way, num_in_the_way = in_the_way or job.target, num_in_the_way + 1
    for folder in begun_in:  # whose workers may be alive
        remove_leftovers(folder, older_than_seconds=ABANDONED_SECONDS)
    if in_the_way and not overwrite:
        more = f" and {num_in_the_way - 1} more outputs are" if num_in_the_way > 1 else " is"
        raise OutputError(
            f"{output.address(in_the_way)}{more} there already; give --overwrite to replace, --skip-existing to leave "
            "alone, or another output"
        )
    plan.jobs = pending
    reasons = {"done by an earlier run": num_done, "its output is there": num_there}
    plan.skipped = {reason: count for reason, count in reasons.items() if count}


class _Search:
    """Search all inputs; collect (source, relative path, stamp) of each picture."""

    def __init__(self, recursive: bool, output: Store) -> None:
        self.plan = StorePlan([])
        self.found: list[tuple[str, PurePosixPath, str]] = []
        self._recursive, self._output = recursive, output

    def take_paths(self, names: list[str]) -> None:
        if not names:
            return
        root = self._output.root if isinstance(self._output, FolderStore) else None
        found = find_pictures(names, recursive=self._recursive, output=root)
        self.plan.left_out = found.left_out
        self.plan.failed += [(str(path), reason) for path, _, reason in found.failed]
        for path, place in found.pictures:
            self._add(os.path.abspath(path), PurePosixPath(place.as_posix()), stamp_of_file(path) or "")

    def take_address(self, name: str) -> None:
        bucket, key = split_address(name)
        parts = key.split("/") if key else []
        num_fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        fixed = "/".join(parts[:num_fixed])
        store = ObjectStore(f"{bucket}/{fixed}" if fixed else bucket)
        num_before, pattern = len(self.found), tuple(parts[num_fixed:])
        results = f"{self._output.name}/"
        results = results if results.startswith(f"{store.name}/") and results != f"{store.name}/" else ""
        for entry in store.entries():
            place, address = PurePosixPath(entry.key), store.address(entry.key)
            is_result = bool(results) and address.startswith(results)
            if not is_result and self._is_wanted(place, pattern):
                self._add(address, place, entry.stamp)
        if len(self.found) > num_before:
            return
        entry_of_name = ObjectStore(bucket).find(key) if key and not name.endswith("/") else None
        if entry_of_name is None:
            hint = "" if self._recursive or pattern else "; what lies deeper is read with --recursive"
            raise PictureError(f"{name} is no object and holds no pictures ({', '.join(PICTURE_EXTENSIONS)}){hint}")
        self._add(f"{bucket}/{key}", PurePosixPath(parts[-1]), entry_of_name.stamp)

    def take_list(self, names: list[str]) -> None:
        """Add listed pictures; missing ones are included, and fail when they are read."""
        if not names:
            return
        sources = [name if is_address(name) else os.path.abspath(local_name(name)) for name in names]
        places = [source.replace("\\", "/").split("/") if os.sep == "\\" else source.split("/") for source in sources]
        folders = [parts[:-1] for parts in places]
        levels = enumerate(zip(*folders, strict=False))
        common = next((index for index, names_there in levels if len(set(names_there)) > 1), min(map(len, folders)))
        for source, parts in zip(sources, places, strict=True):
            stamp = "" if is_address(source) else stamp_of_file(Path(source)) or ""
            self._add(source, PurePosixPath(*parts[common:]), stamp)

    def _add(self, source: str, place: PurePosixPath, stamp: str) -> None:
        if ".." in place.parts or place.is_absolute():
            self.plan.failed.append((source, f"{source} would lead out of the output by its name; rename it"))
        else:
            self.found.append((source, place, stamp))

    def _is_wanted(self, place: PurePosixPath, pattern: tuple[str, ...]) -> bool:
        """Check whether an object is a picture of this input; count it if not."""
        left_out, is_picture = self.plan.left_out, place.suffix.lower() in PICTURE_EXTENSIONS
        if any(part.startswith(".") for part in place.parts):
            if is_picture:
                left_out.add(HIDDEN, place.name)
            return False
        if pattern:
            return is_picture and _matches(place.parts, pattern)
        if len(place.parts) > 1 and not self._recursive:
            left_out.add(INSIDE, place.parts[0])
            return False
        if not is_picture:
            left_out.add_no_picture(place.name)
        return is_picture


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Check whether a key's parts match a pattern's, where ``**`` matches any number of parts."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        rest = pattern[1:] or ("*",)
        return _matches(parts, rest) or (len(parts) > 1 and _matches(parts[1:], pattern))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _without_results(jobs: list[StoreJob], output: Store, plan: StorePlan, *, overwrite: bool) -> list[StoreJob]:
    """Drop the jobs whose sources are other jobs' results, which lie in the same folder as their inputs."""
    if overwrite:
        return jobs
    sources = {job.source for job in jobs}
    written = {address for job in jobs if (address := output.address(job.target)) in sources and address != job.source}
    for job in jobs:
        if job.source in written:
            plan.left_out.add(RESULTS, posixpath.basename(job.source))
    return [job for job in jobs if job.source not in written]


def _distinct(jobs: list[StoreJob], output: Store) -> list[StoreJob]:
    """Drop repeated jobs; refuse a result that is an input or another's result."""
    sources = {job.source for job in jobs}
    firsts: dict[str, StoreJob] = {}
    for job in jobs:
        address = output.address(job.target)
        if address in sources:
            raise OutputError(f"{address} would overwrite the input of this name; choose another output")
        first = firsts.setdefault(job.target, job)
        if first.source != job.source:
            raise OutputError(
                f"{first.source} and {job.source} would both be written to {address}; restore them into different "
                "outputs"
            )
    return list(firsts.values())
