"""The goldens' tiny models as files and as a loaded model, made once per test process."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from conftest import goldens_path
from s3diff.checkpoints.convert import convert
from s3diff.checkpoints.model_folder import LoadedModel, load_model
from seeded_weights import unpack


@dataclass(frozen=True)
class OfficialFiles:
    """What ``s3diff convert`` takes: a base model's folder, ``s3diff.pkl`` and ``de_net.pth``. Read only."""

    base: Path
    pickle: Path
    estimator: Path


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="s3diff-goldens-")


@functools.cache
def official_files() -> OfficialFiles:
    """The tiny models' files as the released code read them."""
    folder = Path(_scratch().name)
    base = folder / "sd_tiny"
    shutil.copytree(goldens_path("sd_tiny"), base)
    for component in ("unet", "vae"):
        tensors = unpack(goldens_path(f"sd_tiny_{component}.weights.xz"))
        save_file(tensors, base / component / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    torch.save(OrderedDict(unpack(goldens_path("de_net.weights.xz"))), folder / "de_net.pth")
    return OfficialFiles(base, goldens_path("s3diff_tiny.pkl"), folder / "de_net.pth")


@functools.cache
def tiny_model_folder() -> Path:
    """The tiny models converted to one model folder. Read only."""
    files = official_files()
    folder = Path(_scratch().name) / "tiny_model"
    convert(files.base, files.pickle, files.estimator, folder)
    return folder


@functools.cache
def tiny_model() -> LoadedModel:
    """The converted tiny model, loaded. Its tensors must not be changed."""
    return load_model(tiny_model_folder())
