"""Find the pictures of a run: in files, folders, patterns and lists.

One walk serves folders and patterns, so that both agree: links to folders are not followed, hidden entries and
system folders are left out, a folder that cannot be listed is one failure. :class:`LeftOut` counts everything that
a walk passes over.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from s3diff.errors import PictureError
from s3diff.folders.journal import JOURNAL_NAME, results_written_down
from s3diff.formats import PICTURE_EXTENSIONS, foreign_kind
from s3diff.messages import reason_of

#: Folders that a system or a storage device makes for itself: thumbnails, snapshots, deleted files.
SYSTEM_FOLDERS = frozenset(
    ("@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information", ".trash", ".trashes")
)
#: Most names in one line about entries that were left out.
_NAMES_SHOWN = 5

_SYSTEM, HIDDEN = "folders of the system", "hidden"
_OTHER, _LINKS, INSIDE = "no pictures by name", "links to folders", "folders inside (--recursive reads them)"
RESULTS, _REPEATED = "results of earlier runs", "the same pictures by another way"


class LeftOut:
    """Count the entries that a search passed over, by kind and name."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, kind: str, name: str) -> None:
        self._counts.setdefault(kind, Counter())[name] += 1

    def add_no_picture(self, name: str) -> None:
        """Count a file whose extension is not a picture's."""
        foreign = foreign_kind(name)
        self.add(_OTHER if foreign is None else foreign.plural, os.path.splitext(name)[1].lower() or name)

    def lines(self) -> list[tuple[int, str]]:
        """List the count and the names for each kind: ``(3, "no pictures by name: .txt (2), .nef")``."""
        return [(counts.total(), f"{kind}: {_named(counts)}") for kind, counts in self._counts.items()]


def _named(counts: Counter[str]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_NAMES_SHOWN]
    names = [f"{name} ({count})" if count > 1 else name for name, count in ordered]
    return ", ".join([*names, *(["..."] if len(counts) > _NAMES_SHOWN else [])])


@dataclass
class Found:
    """Hold the result of a search.

    Attributes:
        pictures: each with its path below the input, which its result keeps below the output folder.
        failed: folders that could not be searched, each with its relative path and the reason.
        left_out: entries that were passed over.
    """

    pictures: list[tuple[Path, Path]] = field(default_factory=list)
    failed: list[tuple[Path, Path, str]] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


def find_pictures(
    inputs: list[str],
    *,
    recursive: bool = False,
    listed: Iterable[str] | None = None,
    output: Path | None = None,
    journals: Iterable[tuple[Path, Path]] = (),
) -> Found:
    """Find the pictures that the inputs name.

    Args:
        inputs: files, folders, and patterns such as ``photos/**/*.jpg``.
        listed: further files by name; missing files are included, and fail when they are read.
        output: the results' folder; it is not searched if it lies inside an input folder.
        journals: (file, root) of further runs whose results are no inputs; journals in searched folders always count.

    Raises:
        PictureError: an input does not exist, cannot be listed, or holds no picture.
    """
    search = _Search(recursive, output, sum(1 for _ in inputs) > 1 or listed is not None)
    for entry in inputs:
        search.take(entry)
    if listed is not None:
        search.found.pictures += _of_list(listed)
    if not inputs and listed is None:
        raise PictureError("no picture is given; name pictures, folders, patterns, or a file with --list")
    for path, root in journals:
        search.results.update(_places(results_written_down(path), root))
    search.leave_results_out()
    search.leave_repetitions_out()
    if not search.found.pictures:
        _, _, reason = search.found.failed[0]
        raise PictureError(reason)
    return search.found


class _Search:
    """Run one search over all inputs."""

    def __init__(self, recursive: bool, output: Path | None, is_among_others: bool) -> None:
        self.found = Found()
        #: Places of results that journals name.
        self.results: set[str] = set()
        self._recursive, self._is_among_others = recursive, is_among_others
        self._output = None if output is None else os.path.realpath(output)
        self._real_folder = cache(os.path.realpath)  # links in the folders of paths are resolved once per folder

    def take(self, name: str) -> None:
        if not name:
            raise PictureError("an input's name is empty; give a picture or a folder of pictures")
        entry = Path(name)
        if entry.is_dir():
            self._take_folder(entry)
        elif entry.is_symlink() and not entry.exists():
            reason = (
                f"{entry} is a symbolic link that leads nowhere, or back to itself; give the picture or folder it means"
            )
            if not self._is_among_others:
                raise PictureError(reason)
            self.found.failed.append((entry, Path(entry.name), reason))
        elif entry.exists():
            self.found.pictures.append((entry, Path(entry.name)))
        elif glob.has_magic(name):
            self._take_pattern(name)
        else:
            raise PictureError(f"{entry} does not exist; give a picture, a folder of pictures or a video")

    def _take_folder(self, folder: Path) -> None:
        num_failed = len(self.found.failed)
        found = sorted(self._files(folder, folder, descend=self._recursive))
        pictures = [path for path in found if self._is_picture(path.name)]
        if not pictures:
            hint = "" if self._recursive else "; folders inside it are read with --recursive"
            others = {kind.plural: kind for path in found if (kind := foreign_kind(path)) is not None}
            hint += "".join(f"; of its {kind.plural}: {kind.advice}" for kind in others.values())
            reason = f"{folder} holds no pictures ({', '.join(PICTURE_EXTENSIONS)}){hint}"
            self._require_failure(num_failed, reason)
        self.found.pictures += [(path, path.relative_to(folder)) for path in pictures]

    def _take_pattern(self, pattern: str) -> None:
        """Add the pictures of a pattern, with paths relative to its part without wildcards."""
        parts = Path(pattern).parts
        num_fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        fixed, num_failed = Path(*parts[:num_fixed]), len(self.found.failed)
        matching = [path for path in self._matches(fixed, parts[num_fixed:]) if self._is_picture(path.name)]
        places = [Path(os.path.normpath(path.relative_to(fixed))) for path in matching]
        if any(".." in place.parts for place in places):
            raise PictureError(
                f"{pattern} leads out of {fixed} by .. behind a wildcard, so that results would lie outside the output "
                "folder; write it without .. there"
            )
        if not matching:
            reason = f"{pattern} does not exist, and as a pattern it matches no pictures; check the name"
            self._require_failure(num_failed, reason)
        self.found.pictures += sorted(zip(matching, places, strict=True))

    def _require_failure(self, num_before: int, reason: str) -> None:
        """Require that an input without pictures has a failed folder, and that other inputs exist.

        Raises:
            PictureError: one of these does not hold.
        """
        if len(self.found.failed) == num_before:
            raise PictureError(reason)
        if not self._is_among_others:
            raise PictureError(self.found.failed[-1][2])

    def _matches(self, base: Path, parts: tuple[str, ...]) -> Iterator[Path]:
        """Yield the files below a folder that match a pattern's parts."""
        folders = [base]
        if parts[-1] == "**":
            parts = (*parts, "*")
        for part in parts[:-1]:
            if part == "**":
                folders = [inner for folder in folders for inner in self._folders(folder, base)]
            elif glob.has_magic(part):
                folders = [
                    Path(entry.path)
                    for folder in folders
                    for entry in self._entries(folder, base)
                    if fnmatch.fnmatch(entry.name, part) and _is_folder(entry) and not self._is_shunned(entry, part)
                ]
            else:
                folders = [folder / part for folder in folders if os.path.isdir(folder / part)]
            folders = list({os.path.realpath(folder): folder for folder in reversed(folders)}.values())[::-1]
        for folder in folders:
            if not glob.has_magic(parts[-1]):
                path = folder / parts[-1]
                yield from [path] if os.path.lexists(path) and not path.is_dir() else []
                continue
            for entry in self._entries(folder, base):
                if fnmatch.fnmatch(entry.name, parts[-1]) and not _is_folder(entry) and not self._is_hidden(entry):
                    yield Path(entry.path)

    def _files(self, folder: Path, base: Path, descend: bool) -> Iterator[Path]:
        """Yield the files in a folder and its subfolders, except hidden ones."""
        for here in self._folders(folder, base) if descend else [folder]:
            for entry in self._entries(here, base):
                if not _is_folder(entry):
                    yield from [] if self._is_hidden(entry) else [Path(entry.path)]
                elif not descend and not self._is_shunned(entry, "*") and not self._is_output(entry.path):
                    self.found.left_out.add(INSIDE, entry.name)

    def _folders(self, folder: Path, base: Path) -> Iterator[Path]:
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            yield here
            for entry in self._entries(here, base):
                if not _is_folder(entry) or self._is_output(entry.path):
                    continue
                if entry.is_symlink():
                    self.found.left_out.add(_LINKS, str(Path(entry.path).relative_to(base)))
                elif not self._is_shunned(entry, "**"):
                    waiting.append(Path(entry.path))

    def _entries(self, folder: Path, base: Path) -> list[os.DirEntry[str]]:
        """List a folder's entries by name. A folder that cannot be listed is recorded as a failure.

        Raises:
            PictureError: the folder is the base of the search.
        """
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"{folder} cannot be listed ({reason_of(error)}); give a readable folder"
            if folder == base and not self._is_among_others:
                raise PictureError(reason) from error
            failure = (folder, folder.relative_to(base), reason)
            self.found.failed += [] if failure in self.found.failed else [failure]
            return []
        for entry in entries:
            if entry.name.startswith(JOURNAL_NAME) and entry.name.endswith(".jsonl"):
                self.results.update(_places(results_written_down(Path(entry.path)), folder))
        return entries

    def _is_shunned(self, entry: os.DirEntry[str], part: str) -> bool:
        """Check whether a folder is entered only if it is named: wildcards match no hidden and no system folders."""
        is_system = entry.name.lower() in SYSTEM_FOLDERS
        if part[0] == entry.name[0] or not (is_system or entry.name.startswith(".")):
            return False
        self.found.left_out.add(_SYSTEM if is_system else HIDDEN, entry.name)
        return True

    def _is_hidden(self, entry: os.DirEntry[str]) -> bool:
        """Check whether a file is hidden; count it if its name is a picture's."""
        if not entry.name.startswith("."):
            return False
        if Path(entry.name).suffix.lower() in PICTURE_EXTENSIONS:
            self.found.left_out.add(HIDDEN, entry.name)
        return True

    def _is_output(self, folder: str) -> bool:
        return os.path.realpath(folder) == self._output

    def _is_picture(self, name: str) -> bool:
        extension = Path(name).suffix.lower()
        if extension not in PICTURE_EXTENSIONS:
            self.found.left_out.add_no_picture(name)
        return extension in PICTURE_EXTENSIONS

    def _place_of(self, path: Path) -> str:
        folder, name = os.path.split(path)
        return os.path.normcase(os.path.join(self._real_folder(folder), name))

    def leave_results_out(self) -> None:
        """Leave out results of earlier runs, unless there is nothing else: then they are meant."""
        kept = [pair for pair in self.found.pictures if self._place_of(pair[0]) not in self.results]
        if not kept:
            return
        for path, _ in self.found.pictures:
            if self._place_of(path) in self.results:
                self.found.left_out.add(RESULTS, path.name)
        self.found.pictures = kept

    def leave_repetitions_out(self) -> None:
        """Keep each picture once, under its own name rather than a link's."""
        own = {self._place_of(path) for path, _ in self.found.pictures if not path.is_symlink()}
        kept: list[tuple[Path, Path]] = []
        places: dict[str, Path] = {}
        for path, relative in self.found.pictures:
            place = self._place_of(path)
            first = places.setdefault(place, relative)
            is_link_to_own = path.is_symlink() and os.path.normcase(os.path.realpath(path)) in own
            if is_link_to_own or first != relative:
                self.found.left_out.add(_REPEATED, str(path))
            else:
                kept.append((path, relative))
        self.found.pictures = kept


def _places(names: Iterable[str], root: Path) -> Iterator[str]:
    real = os.path.realpath(root)
    return (os.path.normcase(os.path.join(real, *name.split("/"))) for name in names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return stat.S_ISDIR(os.stat(entry.path).st_mode)
    return False


def _of_list(names: Iterable[str]) -> list[tuple[Path, Path]]:
    """Return listed files with their paths relative to their common folder."""
    places = [(Path(name), os.path.abspath(name)) for name in names]
    try:
        common = os.path.commonpath([os.path.dirname(place) for _, place in places])
    except ValueError as error:  # Windows: two drives
        raise PictureError("the list names files on several drives; give one list for each") from error
    relative = [(path, Path(os.path.relpath(place, common))) for path, place in places]
    # The root has no name; like every folder it is refused when it is read.
    return [(path, each if each.name else Path("root")) for path, each in relative]
