"""Find models by name: the embedded one, the authors' release, or a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch

from s3diff.checkpoints import hub
from s3diff.checkpoints.model_folder import is_model_folder, is_outdated, load_model, read_description
from s3diff.checkpoints.release import RELEASE, known_commit
from s3diff.errors import DownloadError, ModelError, OptionError
from s3diff.user_folders import cache_folder

DEFAULT_MODEL = "compact"


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """Describe a model that ``from_pretrained`` knows by name.

    Attributes:
        kind: ``embedded`` in the package, or ``release``: downloaded and converted on first use.
    """

    name: str
    summary: str
    kind: Literal["embedded", "release"]

    def folder(self) -> Path:
        """Return the model's folder, or its future folder before the first use.

        The release's folder has both commits in its name. A branch or tag that was never fetched has no commit yet: its
        name stands there, and nothing is written to such a folder.
        """
        if self.kind == "embedded":
            return Path(str(files("s3diff") / "models" / self.name))
        cache = cache_folder()
        method, base = (
            known_commit(cache, repository) or repository.asked_revision()
            for repository in (RELEASE.method, RELEASE.base)
        )
        return _release_folder(self.name, method, base)

    @property
    def is_present(self) -> bool:
        """Whether the model can be used without a download."""
        return (self.folder() / "config.json").is_file() and not is_outdated(self.folder())

    @property
    def fingerprint(self) -> str:
        """The fingerprint that the folder of a present model states."""
        return read_description(self.folder()).fingerprint

    def state(self, *, verify: bool = False) -> str:
        """Describe whether the model can be used: ``ready``, ``verified``, ``missing`` or ``not fetched yet``.

        Args:
            verify: load the model and compare it with its fingerprint.

        Raises:
            ModelError: the model is damaged.
        """
        if not self.is_present:
            return "missing" if self.kind == "embedded" else "not fetched yet"
        if verify:
            load_model(self.folder(), verify=True)
        return "verified" if verify else "ready"


NAMED_MODELS = {
    model.name: model
    for model in (
        NamedModel(
            name="compact",
            summary="small, shipped in the package: sharper than bicubic on a CPU, no generative prior",
            kind="embedded",
        ),
        NamedModel(
            name="s3diff",
            summary="the authors' release on SD-Turbo, fetched on first use (zhangap/S3Diff, stabilityai/sd-turbo)",
            kind="release",
        ),
    )
}


def model_folder(
    model: str | Path,
    *,
    announce: Callable[[hub.DownloadPlan], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Find a model's folder by name or path; fetch and convert the release if it is missing.

    Args:
        model: a name of ``NAMED_MODELS``, or a model folder.
        announce: called with the plan before anything is downloaded.
        progress: called with (bytes done, bytes in all) while downloading.

    Raises:
        OptionError: neither a text nor a path.
        ModelError: neither a known name nor a folder.
        DownloadError: the release could not be fetched.
    """
    if not isinstance(model, str | os.PathLike):
        raise OptionError(f"model is {model!r}; give a name ({', '.join(NAMED_MODELS)}) or a model folder")
    named = NAMED_MODELS.get(model) if isinstance(model, str) else None
    if named is None:
        folder = Path(model)
        if not os.fspath(model) or not folder.is_dir():
            raise ModelError(
                f"{os.fspath(model)!r} is neither a model's name ({', '.join(NAMED_MODELS)}) nor a folder; "
                "give one of them, or make a model folder with s3diff convert"
            )
        return folder
    if named.is_present:
        return named.folder()
    if named.kind == "embedded":
        raise ModelError(f"the embedded model {named.name} is missing from {named.folder()}; install s3diff again")
    return _fetched_and_converted(named.name, announce, progress)


def _fetched_and_converted(
    name: str,
    announce: Callable[[hub.DownloadPlan], None] | None,
    progress: Callable[[int, int], None] | None,
) -> Path:
    """Fetch the release, unless the cache holds it, and convert it to a model folder."""
    from s3diff.checkpoints.convert import convert  # with transformers' door, which no model on disk needs

    # Somebody with a model folder of that name may have meant it; the name still means the release.
    note = f"there is also the model folder ./{name}: give ./{name} to use it" if is_model_folder(Path(name)) else ""

    def announce_with_note(plan: hub.DownloadPlan) -> None:
        if announce is not None:
            announce(replace(plan, note=note))

    try:
        paths = hub.fetch_release(announce=announce_with_note, progress=progress)
    except DownloadError as error:
        if not note:
            raise
        raise DownloadError(f"{error}; {note}") from error
    # The files lie in folders named after their commits, which a branch or tag is known by only now.
    folder = _release_folder(name, paths.s3diff_pickle.parent.name, paths.base_folder.name)
    if not (folder / "config.json").is_file() or is_outdated(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The base model is fetched in float16: storing more would only double the folder.
        convert(paths.base_folder, paths.s3diff_pickle, paths.estimator_file, folder, dtype=torch.float16)
    return folder


def _release_folder(name: str, method_commit: str, base_commit: str) -> Path:
    short = (re.sub("[^0-9A-Za-z]", "-", commit)[:12] for commit in (method_commit, base_commit))
    return cache_folder() / "models" / "-".join([name, *short])


__all__ = ["DEFAULT_MODEL", "NAMED_MODELS", "NamedModel", "load_model", "model_folder", "read_description"]
