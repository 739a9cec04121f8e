"""Fetch the named model ``s3diff`` from the hub. The only file that imports huggingface_hub (inside functions).

That rule is also why :func:`fetch_single_file`, for weights outside the release, is here.

A revision is resolved once: the first complete download records commits, sizes and digests in s3diff's cache, and they
hold, without asking the hub, until another revision is fetched or the record is deleted. The pinned commits come from
public copies of the hub's pages, not from a download of ours.

Files land in the ordinary cache of huggingface_hub, in its documented layout: copies that other programs fetched are
used, and ours serve them. The bytes are moved here because huggingface_hub throws a partial file away when a download
stops (since 1.18; measured with 2.4.0), which for a network of 1.7 GB means starting over.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s3diff import user_folders
from s3diff.checkpoints.release import (
    COMMIT_PATTERN,
    DIGEST_PATTERN,
    RELEASE,
    BaseWeights,
    DownloadPlan,
    ListedFile,
    Listing,
    PlannedFile,
    PlannedRepository,
    Release,
    ReleasePaths,
    Repository,
    failure,
    read_record,
    select_files,
    write_record,
)
from s3diff.checkpoints.transfers import CHUNK_BYTES, fault_of, has_size, link, require_space, transfer
from s3diff.errors import DISK_FULL, DiskFullError, DownloadError, OutputError

Progress = Callable[[int, int], None]

METADATA_TIMEOUT_SECONDS = 6.0  # per address tried: someone who is offline learns it within seconds
TRANSFER_TIMEOUT_SECONDS = 20.0  # of silence in the middle of a file
RECONNECTIONS = 3  # after cuts within one call, with waits of 1, 2 and 4 seconds; a later call goes on as well


def plan_download(
    cache_folder: Path,
    *,
    release: Release = RELEASE,
    weights: BaseWeights = "float16",
    revision: str | None = None,
    base_revision: str | None = None,
    endpoint: str | None = None,
    hub_cache: Path | None = None,
) -> DownloadPlan:
    """List the files that the release needs, with sizes and licences; transfer none.

    The hub is asked only for a repository whose revision is not in the record of ``cache_folder``. When it cannot be
    asked, needed files that all lie in the hub's cache are taken as they are.

    Args:
        cache_folder: where :func:`fetch_release` keeps its record, and where the converted model will lie.
        weights: number format of the base model's files. ``float16`` halves the download (about 2.6 instead of
            5.2 GB); ``float32`` are the files that the released code loads.
        revision: commit, tag or branch of the authors' repository; None for the variable or the pinned commit.
        base_revision: the same for the base model.
        endpoint: address of the hub; None for ``HF_ENDPOINT`` or the public hub.
        hub_cache: cache folder of huggingface_hub; None for its own setting.

    Raises:
        DownloadError: the hub cannot be reached, refuses, or holds other files than the release's.
    """
    endpoint, hub_cache = _places(endpoint, hub_cache)
    if not endpoint.startswith(("http://", "https://")):
        raise failure(release, _not_an_address(endpoint))

    def planned(repository: Repository, asked: str | None) -> PlannedRepository:
        asked = repository.asked_revision(asked)
        commit, listing = read_record(cache_folder, repository, asked) or _resolve(
            release, repository, asked, endpoint, hub_cache
        )
        folder = hub_cache / f"models--{repository.name.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        files = tuple(
            PlannedFile(path=path, is_cached=has_size(snapshot / path, file.size_bytes), **file._asdict())
            for path, file in select_files(release, repository, listing, weights).items()
        )
        return PlannedRepository(
            repository=repository, asked_revision=asked, commit=commit, listing=listing, files=files, folder=folder
        )

    return DownloadPlan(
        release=release,
        method=planned(release.method, revision),
        base=planned(release.base, base_revision),
        endpoint=endpoint,
        hub_cache=hub_cache,
        cache_folder=cache_folder,
    )


def fetch(plan: DownloadPlan, progress: Progress | None = None, *, reconnections: int = RECONNECTIONS) -> ReleasePaths:
    """Transfer the plan's missing files into the hub's cache; continue a file that was cut off.

    Args:
        progress: called with (bytes done, bytes in all), both counted over the plan's missing files, some hundred
            KiB apart.
        reconnections: how often a connection cut in mid-file is opened again before giving up.

    Raises:
        DownloadError: the network or the disk failed, or a file is not the one that the hub lists. What arrived of
            a file that was cut off stays in the cache.
    """
    total_bytes = plan.missing_bytes
    finished_bytes = 0

    def report(file_bytes: int) -> None:
        if progress is not None:
            progress(finished_bytes + file_bytes, total_bytes)

    require_space(plan)
    for part in (plan.method, plan.base):
        for file in part.files:
            if not file.is_cached:
                with _one_line(plan.release, plan.endpoint, f"{file.path} of {part.repository.name}"):
                    _fetch_file(plan.endpoint, plan.hub_cache, part, file, report, reconnections)
                finished_bytes += file.size_bytes
                report(0)
    s3diff_pickle, estimator_file = (plan.method.snapshot / file.path for file in plan.release.method.files)
    return ReleasePaths(plan.base.snapshot, s3diff_pickle, estimator_file)


def fetch_release(
    cache_folder: Path | None = None,
    *,
    announce: Callable[[DownloadPlan], None] | None = None,
    progress: Progress | None = None,
    **choices: Any,
) -> ReleasePaths:
    """Plan, announce, fetch, and record the commits: everything that the conversion to a model folder needs.

    Args:
        cache_folder: where the record is kept; None for s3diff's.
        announce: called with the plan before anything is transferred, and only when something will be: the place
            to show ``plan.summary()`` (sizes, licences), or to stop by raising.
        choices: keyword arguments of :func:`plan_download`.

    Raises:
        DownloadError: see :func:`plan_download` and :func:`fetch`.
    """
    cache_folder = cache_folder or user_folders.cache_folder()
    plan = plan_download(cache_folder, **choices)
    if announce is not None and plan.missing_bytes:
        announce(plan)
    paths = fetch(plan, progress)
    with _one_line(plan.release, plan.endpoint, "the record"):
        write_record(cache_folder, plan)
    return paths


def fetch_single_file(
    repository: Repository,
    progress: Progress | None = None,
) -> Path:
    """Fetch one file of a repository outside the release, unless the hub's cache has it.

    Args:
        repository: with exactly one entry in ``files``; its variable, where set, replaces its revision.
        progress: called with (bytes done, bytes in all).

    Raises:
        DownloadError: the file is not in the cache and the hub did not send it. What arrived stays in the cache.
    """
    from huggingface_hub import try_to_load_from_cache

    (needed,) = repository.files
    asked = repository.asked_revision()
    endpoint, hub_cache = _places(None, None)
    cached = try_to_load_from_cache(repository.name, needed.path, cache_dir=hub_cache, revision=asked)
    if isinstance(cached, str):
        return Path(cached)
    subject = f"{needed.path} of {repository.name}"
    if not endpoint.startswith(("http://", "https://")):
        raise DownloadError(f"{subject}: {_not_an_address(endpoint)}")
    try:
        commit, listing = _ask_hub(repository, asked, endpoint)
        if needed.path not in listing:
            raise DownloadError(f"{repository.name} holds no {needed.path} at revision {asked}")
        listed = listing[needed.path]
        part = PlannedRepository(
            repository=repository,
            asked_revision=asked,
            commit=commit,
            listing=listing,
            files=(PlannedFile(path=needed.path, is_cached=False, **listed._asdict()),),
            folder=hub_cache / f"models--{repository.name.replace('/', '--')}",
        )

        def report(file_bytes: int) -> None:
            if progress is not None:
                progress(file_bytes, listed.size_bytes)

        _fetch_file(endpoint, hub_cache, part, part.files[0], report, RECONNECTIONS)
        return part.snapshot / needed.path
    except DownloadError:
        raise
    except _DamagedFileError as error:
        raise DownloadError(str(error)) from error
    except _network_errors() as error:
        raise DownloadError(f"{subject}: {_reason(error, endpoint, subject, repository)}") from error


def _places(endpoint: str | None, hub_cache: Path | None) -> tuple[str, Path]:
    """Return the hub's address and its cache folder: as given, or from the environment."""
    from huggingface_hub import constants

    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    return endpoint, Path(hub_cache or constants.HF_HUB_CACHE).expanduser()


def _not_an_address(endpoint: str) -> str:
    return f"the hub's address {endpoint!r} (HF_ENDPOINT) must start with http:// or https://"


class _DamagedFileError(Exception):
    """Report a transferred file that is not the one listed by the hub."""


def _resolve(
    release: Release, repository: Repository, asked: str, endpoint: str, hub_cache: Path
) -> tuple[str, Listing]:
    """Return commit and files of a revision: from the hub, or from its cache if the hub cannot be reached."""
    try:
        with _one_line(release, endpoint, f"{repository.name} at revision {asked}"):
            return _ask_hub(repository, asked, endpoint)
    except DownloadError:
        in_cache = _ask_cache(repository, asked, hub_cache)
        if in_cache is None:
            raise
        return in_cache


def _ask_hub(repository: Repository, asked: str, endpoint: str) -> tuple[str, Listing]:
    from huggingface_hub import HfApi

    try:
        answer = HfApi(endpoint=endpoint).model_info(
            repository.name, revision=asked, files_metadata=True, timeout=METADATA_TIMEOUT_SECONDS
        )
        listing = {
            file.rfilename: ListedFile(int(file.size), str(file.lfs.sha256 if file.lfs else file.blob_id))
            for file in answer.siblings
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConnectionError(f"not a hub's answer, perhaps a network's login page; {error}") from error
    # They become names of files and folders in the cache: nothing but hexadecimal digits may pass.
    for pattern, text in [(COMMIT_PATTERN, answer.sha), *((DIGEST_PATTERN, file.digest) for file in listing.values())]:
        if not pattern.fullmatch(str(text)):
            raise ConnectionError(f"not a hub's answer: {text!r} for a commit or digest")
    return str(answer.sha), listing


def _ask_cache(repository: Repository, asked: str, hub_cache: Path) -> tuple[str, Listing] | None:
    """Return commit and files of a revision in the hub's cache; None if the cache lacks some."""
    from huggingface_hub import try_to_load_from_cache

    listing: Listing = {}
    commit = ""
    for path in (path for needed in repository.files for path in needed.paths()):
        found = try_to_load_from_cache(repository.name, path, cache_dir=hub_cache, revision=asked)
        if isinstance(found, str):
            listing[path] = ListedFile(Path(found).stat().st_size, None)
            commit = Path(found).relative_to(hub_cache).parts[2]  # models--owner--name/snapshots/COMMIT/path
    is_complete = all(needed.optional or any(path in listing for path in needed.paths()) for needed in repository.files)
    return (commit, listing) if is_complete else None


def _fetch_file(
    endpoint: str,
    hub_cache: Path,
    part: PlannedRepository,
    file: PlannedFile,
    report: Callable[[int], None],
    reconnections: int,
) -> None:
    """Fetch one file into the cache: content under ``blobs/DIGEST``, a link under ``snapshots/COMMIT/PATH``."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import WeakFileLock

    digest = str(file.digest)  # files without one came from the cache and are there already
    blob = part.folder / "blobs" / digest
    partial = blob.with_name(f"{digest}.incomplete")  # the name and the lock of huggingface_hub up to 1.17
    lock = hub_cache / ".locks" / part.folder.name / f"{digest}.lock"
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(str(lock)):
        if not has_size(blob, file.size_bytes):
            url = hf_hub_url(part.repository.name, file.path, revision=part.commit, endpoint=endpoint)
            transfer(
                functools.partial(_connected, url), partial, file.size_bytes, report, reconnections, _network_errors()
            )
            fault = fault_of(partial, file)
            if fault is not None:
                partial.unlink()
                raise _DamagedFileError(f"{file.path} of {part.repository.name} {fault}; run again to fetch it anew")
            os.replace(partial, blob)
        link(blob, part.snapshot / file.path)


@contextmanager
def _connected(url: str, held_bytes: int) -> Iterator[tuple[bool, Iterator[bytes]]]:
    """Request a file from a byte on through huggingface_hub's session, with the user's proxies and certificates."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if held_bytes:
        headers["Range"] = f"bytes={held_bytes}-"
    session: Any = get_session()
    has_httpx = callable(getattr(session, "stream", None))  # huggingface_hub from 1.0 on; requests before
    asked = (
        session.stream("GET", url, headers=headers, timeout=TRANSFER_TIMEOUT_SECONDS)
        if has_httpx
        else session.get(url, headers=headers, timeout=TRANSFER_TIMEOUT_SECONDS, stream=True)
    )
    with asked as response:
        hf_raise_for_status(response)
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {held_bytes}-")
        yield goes_on, response.iter_bytes() if has_httpx else response.iter_content(CHUNK_BYTES)


def _network_errors() -> tuple[type[BaseException], ...]:
    """List the errors of the disk, and of huggingface_hub's HTTP library: requests, httpx or httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *HfHubHTTPError.__bases__)


@contextmanager
def _one_line(release: Release, endpoint: str, subject: str) -> Iterator[None]:
    """Turn an error that stops a download into one line that says what to do; programming errors pass through."""
    try:
        yield
    except DownloadError:
        raise
    except _DamagedFileError as error:
        raise failure(release, str(error)) from error
    except _network_errors() as error:
        raise failure(release, _reason(error, endpoint, subject, release.method, release.base)) from error


def _reason(error: BaseException, endpoint: str, subject: str, *repositories: Repository) -> str:
    """Describe an error in a few words; ``repositories`` are those whose variables name another revision."""
    variables = " and ".join(repository.revision_variable for repository in repositories)
    status = getattr(getattr(error, "response", None), "status_code", None)
    number = getattr(error, "errno", None)
    detail = " ".join(str(error).split())[:160]
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set and not all files are in the cache"
    if status is not None:
        hints = {
            401: ": an expired HF_TOKEN, or a repository made private",
            403: ": access to it is restricted",
            404: f": not there; {variables} name{'s' if len(repositories) == 1 else ''} other commits",
        }
        return f"{endpoint} answers {subject} with status {status}{hints.get(status, '')}"
    if number in DISK_FULL or isinstance(error, DiskFullError):
        return "the disk is full (what arrived is kept; HF_HOME names another place)"
    if getattr(error, "filename", None) is not None or isinstance(error, OutputError):
        return f"the cache cannot be written ({detail})"
    return f"{endpoint} cannot be reached ({type(error).__name__}: {detail})"
