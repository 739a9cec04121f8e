"""What ``s3diff doctor`` prints."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

from s3diff.version import __version__

_CORE = ("torch", "numpy", "pillow", "safetensors", "huggingface_hub", "transformers", "typer", "rich")
#: Optional modules, the command that installs each, and what it enables.
_OPTIONAL = (
    ("diffusers", 'pip install -e ".[test]"', "tests that prove the networks equal to diffusers'"),
    ("pytest", 'pip install -e ".[test]"', "running the tests"),
)


def diagnose() -> Iterator[str]:
    """Lines on versions, devices, models, optional packages and perceptual weights."""
    yield f"s3diff {__version__}  Python {platform.python_version()}  {platform.platform()}"
    for package in _CORE:
        yield f"  {package:16} {_version(package) or 'missing: install s3diff again'}"
    yield from _devices()
    from s3diff.checkpoints.registry import NAMED_MODELS

    yield "models"
    for named in NAMED_MODELS.values():
        embedded = named.kind == "embedded"
        absent = "missing: install s3diff again" if embedded else "not fetched yet; fetched on first use"
        yield f"  {named.name:16} {'ready' if named.is_present else absent}"
    yield "optional"
    for module, command, purpose in _OPTIONAL:
        state = (_version(module) or "installed") if find_spec(module) else f"not installed ({command})"
        yield f"  {module:16} {state}: {purpose}"
    yield from _perceptual_weights()


def _devices() -> Iterator[str]:
    import torch

    from s3diff.restoration.device import available_devices

    yield "devices"
    for name in available_devices():
        detail = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
        if name == "cuda":
            properties = torch.cuda.get_device_properties(0)
            detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        elif name == "mps":
            detail = "Apple GPU"
        yield f"  {name:16} {detail}"


def _perceptual_weights() -> Iterator[str]:
    from s3diff.evaluation.perceptual_weights import perceptual_folder

    folder = perceptual_folder()
    command = f"{os.path.basename(sys.executable)} -m s3diff.evaluation.perceptual_weights"
    for name in ("lpips_alex", "lpips_vgg", "dists"):
        state = "ready" if (folder / f"{name}.safetensors").is_file() else f"missing ({command})"
        yield f"  {name:16} {state}: training and evaluation with this measure"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
