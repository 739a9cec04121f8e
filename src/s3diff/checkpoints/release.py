"""Define the authors' release: repositories, commits, files, licences, and the record of a download.

Only values; :mod:`s3diff.checkpoints.hub` transfers the files.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from s3diff.atomic_write import write_atomically
from s3diff.errors import DownloadError

BaseWeights = Literal["float16", "float32"]

RECORD_NAME = "s3diff-release.json"
RECORD_FORMAT_VERSION = 1
COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")
DIGEST_PATTERN = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


class ListedFile(NamedTuple):
    """Describe a file as the hub lists it.

    Attributes:
        digest: 64 hexadecimal digits, SHA-256 of the content (files in large-file storage), or 40, the git blob
            hash (the others); None when it is not known. It also names the file in the hub's cache.
    """

    size_bytes: int
    digest: str | None


Listing = dict[str, ListedFile]  #: by the path inside the repository


@dataclass(frozen=True, kw_only=True)
class NeededFile:
    """Describe a needed file of a repository; ``{variant}`` in its path stands for ``.fp16`` or nothing.

    Attributes:
        path: path inside the repository.
        size_bytes: the only size accepted; None accepts the size that the hub lists.
        optional: may be absent.
    """

    path: str
    size_bytes: int | None = None
    optional: bool = False

    def paths(self, weights: BaseWeights = "float16") -> tuple[str, ...]:
        """List the paths that may hold this file, the one in the wanted number format first."""
        variants = (".fp16", "") if weights == "float16" else ("", ".fp16")
        return tuple(dict.fromkeys(self.path.replace("{variant}", variant) for variant in variants))


@dataclass(frozen=True, kw_only=True)
class Repository:
    """Describe one repository of the hub: commit, files, licence.

    Attributes:
        name: owner and repository.
        revision: commit, tag or branch used when neither the argument nor the variable names one.
        revision_variable: environment variable that replaces ``revision``.
        licence: name of the licence, shown before anything is downloaded.
        licence_file: path of its text inside the repository; None when the repository only names it.
    """

    name: str
    revision: str
    revision_variable: str
    licence: str
    licence_file: str | None
    files: tuple[NeededFile, ...]

    def asked_revision(self, given: str | None = None) -> str:
        """Return the wanted commit, tag or branch: the argument, the variable, or the pinned commit."""
        return given or os.environ.get(self.revision_variable) or self.revision


@dataclass(frozen=True, kw_only=True)
class Release:
    """Describe the authors' trained weights and their base model."""

    method: Repository
    base: Repository


# Both commits were read from public copies of the hub's pages and (SD-Turbo) from several public projects that pin
# the same one; this project's own machines cannot reach the hub. The two sizes are the release's own.
RELEASE = Release(
    method=Repository(
        name="zhangap/S3Diff",
        revision="41b5e9b6258829d379de50322fb843a97cacba27",
        revision_variable="S3DIFF_REVISION",
        licence="Apache-2.0",
        licence_file=None,
        files=(
            NeededFile(path="s3diff.pkl", size_bytes=138_101_243),
            NeededFile(path="de_net.pth", size_bytes=9_427_410),
        ),
    ),
    base=Repository(
        name="stabilityai/sd-turbo",
        revision="b261bac6fd2cf515557d5d0707481eafa0485ec2",
        revision_variable="S3DIFF_BASE_REVISION",
        licence="Stability AI Community License, which sets conditions on use",
        licence_file="LICENSE.md",
        files=(
            NeededFile(path="LICENSE.md", optional=True),
            NeededFile(path="model_index.json", optional=True),
            NeededFile(path="scheduler/scheduler_config.json"),
            NeededFile(path="text_encoder/config.json"),
            NeededFile(path="text_encoder/model{variant}.safetensors"),
            NeededFile(path="tokenizer/merges.txt"),
            NeededFile(path="tokenizer/special_tokens_map.json", optional=True),
            NeededFile(path="tokenizer/tokenizer_config.json"),
            NeededFile(path="tokenizer/vocab.json"),
            NeededFile(path="unet/config.json"),
            NeededFile(path="unet/diffusion_pytorch_model{variant}.safetensors"),
            NeededFile(path="vae/config.json"),
            NeededFile(path="vae/diffusion_pytorch_model{variant}.safetensors"),
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """Describe one file of a download: path, size, digest, and whether the hub's cache holds it whole."""

    path: str
    size_bytes: int
    digest: str | None
    is_cached: bool


@dataclass(frozen=True, kw_only=True)
class PlannedRepository:
    """Hold a repository at one commit, with the needed files.

    Attributes:
        asked_revision: the commit, tag or branch that led to ``commit``.
        commit: 40 hexadecimal digits.
        listing: everything the repository holds at that commit, as far as it is known.
        files: the needed files of the repository.
        folder: the repository's folder in the hub's cache (``blobs/`` and ``snapshots/`` lie there).
    """

    repository: Repository
    asked_revision: str
    commit: str
    listing: Listing
    files: tuple[PlannedFile, ...]
    folder: Path

    @property
    def snapshot(self) -> Path:
        """Folder that holds the files under their own paths once they are fetched."""
        return self.folder / "snapshots" / self.commit


@dataclass(frozen=True, kw_only=True)
class DownloadPlan:
    """Describe a download before it starts.

    Attributes:
        release: the weights to fetch.
        method: the authors' repository, resolved.
        base: the base model's repository, resolved.
        endpoint: address of the hub or of a mirror.
        hub_cache: cache folder of huggingface_hub.
        cache_folder: s3diff's own cache, which gets the converted model.
        note: a further remark for the user; one line, or empty.
    """

    release: Release
    method: PlannedRepository
    base: PlannedRepository
    endpoint: str
    hub_cache: Path
    cache_folder: Path
    note: str = ""

    @property
    def files(self) -> tuple[PlannedFile, ...]:
        """The files of both repositories."""
        return self.method.files + self.base.files

    @property
    def total_bytes(self) -> int:
        """Size of all files, including those in the cache; the model made of them is at most as large."""
        return sum(file.size_bytes for file in self.files)

    @property
    def missing_bytes(self) -> int:
        """Size of the files that are not complete in the cache."""
        return sum(file.size_bytes for file in self.files if not file.is_cached)

    @property
    def licences(self) -> tuple[str, ...]:
        """Write one line per repository: name, licence, and the licence text's address."""
        lines = []
        for part in (self.method, self.base):
            address = f"{self.endpoint}/{part.repository.name}"
            if part.repository.licence_file is not None:
                address += f"/blob/{part.commit}/{part.repository.licence_file}"
            lines.append(f"{part.repository.name}: {part.repository.licence} ({address})")
        return tuple(lines)

    def summary(self) -> str:
        """Write the lines shown before a download: licences, commits, sizes and folders."""
        lines = []
        for part, licence in zip((self.method, self.base), self.licences, strict=True):
            size = megabytes(sum(file.size_bytes for file in part.files))
            lines += [licence, f"  commit {part.commit[:12]}, {len(part.files)} files, {size}"]
        lines += [
            f"to download: {megabytes(self.missing_bytes)} into {self.hub_cache}",
            f"the model made of it: up to {megabytes(self.total_bytes)} more in {self.cache_folder}",
        ]
        return "\n".join([*lines, self.note] if self.note else lines)


class ReleasePaths(NamedTuple):
    """Hold the inputs of ``checkpoints.convert``: the base model's folder and the authors' two files."""

    base_folder: Path
    s3diff_pickle: Path
    estimator_file: Path


def failure(release: Release, reason: str) -> DownloadError:
    """Write the last line of every failed download: both repositories, the reason, and the way without the hub."""
    return DownloadError(
        f"cannot download the model s3diff from {release.method.name} and {release.base.name}: "
        f"{' '.join(reason.split())}; with the files already on disk run `s3diff convert --base SD_TURBO_FOLDER "
        "--s3diff s3diff.pkl --estimator de_net.pth OUT`, then `s3diff restore --model OUT`"
    )


def select_files(release: Release, repository: Repository, listing: Listing, weights: BaseWeights) -> Listing:
    """Select the needed files from a repository's listing; of the other number format where only that is listed.

    Raises:
        DownloadError: a needed file is not listed or has another size than the release's.
    """
    selected: Listing = {}
    for needed in repository.files:
        paths = needed.paths(weights)
        path = next((path for path in paths if path in listing), None)
        if path is None:
            if needed.optional:
                continue
            raise failure(release, f"{repository.name} holds no {' or '.join(paths)} ({_other_revision(repository)})")
        if needed.size_bytes not in (None, listing[path].size_bytes):
            raise failure(
                release,
                f"{path} of {repository.name} has {listing[path].size_bytes:,} bytes, the release's has "
                f"{needed.size_bytes:,} ({_other_revision(repository)})",
            )
        selected[path] = listing[path]
    return selected


def _other_revision(repository: Repository) -> str:
    return f"{repository.revision_variable} names the commit to take"


def read_record(cache_folder: Path, repository: Repository, asked_revision: str) -> tuple[str, Listing] | None:
    """Read the commit and files that an earlier download of this revision resolved to; None if there is none.

    A damaged record counts as none: the next complete download writes it anew.
    """
    try:
        record = json.loads((cache_folder / RECORD_NAME).read_text(encoding="utf-8"))
        if record["format_version"] != RECORD_FORMAT_VERSION:
            return None
        entry = record["repositories"][repository.name]
        listing = {
            path: ListedFile(int(size_bytes), str(digest)) for path, (size_bytes, digest) in entry["files"].items()
        }
        is_sound = COMMIT_PATTERN.fullmatch(entry["commit"]) and all(
            DIGEST_PATTERN.fullmatch(str(file.digest)) for file in listing.values()
        )
        return (entry["commit"], listing) if is_sound and entry["revision"] == asked_revision else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def known_commit(cache_folder: Path, repository: Repository) -> str | None:
    """Return the commit of the wanted revision, as far as it is known without the hub."""
    asked = repository.asked_revision()
    if COMMIT_PATTERN.fullmatch(asked):
        return asked
    recorded = read_record(cache_folder, repository, asked)
    return recorded[0] if recorded else None


def write_record(cache_folder: Path, plan: DownloadPlan) -> None:
    """Record the commits and files of a complete download, whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    parts = (plan.method, plan.base)
    if any(file.digest is None for part in parts for file in part.listing.values()):
        return  # taken from the cache while the hub could not be asked: nothing to hold later downloads against
    record = {
        "format_version": RECORD_FORMAT_VERSION,
        "repositories": {
            part.repository.name: {
                "revision": part.asked_revision,
                "commit": part.commit,
                "files": {path: list(file) for path, file in part.listing.items()},
            }
            for part in parts
        },
    }
    text = json.dumps(record, indent=1) + "\n"
    target = cache_folder / RECORD_NAME
    if target.is_file() and target.read_text(encoding="utf-8", errors="replace") == text:
        return
    write_atomically(text, target, hint="S3DIFF_CACHE names another place")


def megabytes(size_bytes: int) -> str:
    """Write a size for people, in decimal units as the hub shows them."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
