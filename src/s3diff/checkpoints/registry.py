"""Models by name: the embedded one, the authors' release, or a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch

from s3diff.checkpoints import hub
from s3diff.checkpoints.convert import convert
from s3diff.checkpoints.model_folder import load_model, read_description
from s3diff.errors import ModelError

DEFAULT_MODEL = "compact"


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model that ``from_pretrained`` knows by name.

    Attributes:
        name: what the user types.
        summary: one line on what it is.
        kind: ``embedded`` in the package, or ``release``: downloaded and converted on first use.
    """

    name: str
    summary: str
    kind: Literal["embedded", "release"]

    def folder(self) -> Path:
        """Where the model lies, or will lie after the first use."""
        if self.kind == "embedded":
            return Path(str(files("s3diff") / "models" / self.name))
        return hub.default_cache_folder() / "models" / self.name

    @property
    def is_present(self) -> bool:
        """Whether it can be used without a download."""
        return (self.folder() / "config.json").is_file()


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
    """The folder of a model given by name or as a folder; the release is fetched and converted where it is missing.

    Args:
        model: a name of ``NAMED_MODELS``, or a model folder.
        announce: called with the plan before anything is downloaded.
        progress: called with (bytes done, bytes in all) while downloading.

    Raises:
        ModelError: neither a known name nor a folder.
        DownloadError: the release could not be fetched.
    """
    named = NAMED_MODELS.get(model) if isinstance(model, str) else None
    if named is None:
        folder = Path(model)
        if not folder.is_dir():
            raise ModelError(
                f"{str(model)!r} is neither a model's name ({', '.join(NAMED_MODELS)}) nor a folder; "
                "give one of them, or make a model folder with s3diff convert"
            )
        return folder
    folder = named.folder()
    if not named.is_present:
        if named.kind == "embedded":
            raise ModelError(f"the embedded model {named.name} is missing from {folder}; install s3diff again")
        paths = hub.fetch_release(announce=announce, progress=progress)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The base model is fetched in float16: storing more would only double the folder.
        convert(paths.base_folder, paths.s3diff_pickle, paths.estimator_file, folder, dtype=torch.float16)
    return folder


__all__ = ["DEFAULT_MODEL", "NAMED_MODELS", "NamedModel", "load_model", "model_folder", "read_description"]
