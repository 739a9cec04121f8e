"""Collect the facts that ``s3diff doctor`` prints."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from s3diff.git_lfs import is_pointer
from s3diff.messages import install_command
from s3diff.version import __version__

if TYPE_CHECKING:
    from s3diff.checkpoints.registry import NamedModel

_CORE = ("torch", "numpy", "pillow", "safetensors", "huggingface_hub", "transformers", "typer", "rich")
#: Every extra of ``pyproject.toml``, and what it enables.
_EXTRAS = {
    "train": "s3diff train and s3diff train-estimator",
    "large": "s3diff restore --stream: pictures larger than memory (libvips: LGPL)",
    "video": "s3diff restore of videos (its wheels bundle FFmpeg with x264 and x265: GPL)",
    "heif": "HEIC pictures (its wheels bundle x265: GPL)",
    "provenance": "s3diff restore --sign, and the check of signatures by s3diff inspect",
    "onnxruntime": "s3diff export to ONNX, and --backend onnxruntime",
    "openvino": "s3diff export to OpenVINO, and --backend openvino",
    "diffusers": "s3diff.integrations.diffusers: a pipeline of diffusers",
    "iqa": "MUSIQ, MANIQA and CLIPIQA (pyiqa's licence: only non-commercial use)",
    "client": "s3diff restore --server and s3diff.client",
    "web": "s3diff serve: the HTTP service and the web page",
    "cluster": "s3diff cluster: Ray, and object stores (s3://, gs://, az://)",
    "demo": "python -m s3diff.apps.gradio_demo: a small page to share",
    "test": "the tests, some of which compare with diffusers and scipy",
    "docs": "the documentation site, from Python 3.11 on: zensical serve",
    "dev": "the checks that every change has to pass",
}
#: The modules of packages whose module has another name.
_MODULES = {
    "c2pa-python": "c2pa",
    "import-linter": "importlinter",
    "mkdocstrings-python": "mkdocstrings_handlers",
    "pytest-xdist": "xdist",
    "pyvips-binary": "_libvips",
}
#: A requirement of an extra in a package's metadata.
_OF_EXTRA = re.compile(r"""(?P<package>[\w.-]+).*;.*\bextra *== *['"](?P<extra>\w+)['"]""")
#: What makes the core or the embedded model useless.
_MISSING = "missing; install s3diff again"
_POINTERS = "there only as pointers of Git LFS; run git lfs pull, then install s3diff again"


def diagnose() -> Iterator[str]:
    """Write whether all is well, and lines on versions, devices, models, extras and perceptual weights."""
    yield f"s3diff {__version__}  Python {platform.python_version()}  {platform.platform()}"
    wrong = [f"{package} is {_MISSING}" for package in _CORE if _version(package) is None]
    if not wrong:  # without torch no model can be looked at
        wrong = [f"the model {name} is {state}" for name, state in _models().items() if state in (_MISSING, _POINTERS)]
    yield (
        f"Something is wrong: {'; '.join(wrong)}."
        if wrong
        else "All is well: pictures can be restored. What may be absent below without harm: "
        '"not installed" is an extra without any of its packages, "not whole" an extra with only some of them, '
        '"not fetched" a model or weights that were not downloaded yet.'
    )
    for package in _CORE:
        yield f"  {package:16} {_version(package) or _MISSING}"
    yield from _devices()
    yield "models"
    yield from (f"  {name:16} {state}" for name, state in _models().items())
    yield from _extras()
    yield from _perceptual_weights()


def _models() -> dict[str, str]:
    """Say of each named model whether it can be used."""
    from s3diff.checkpoints.registry import NAMED_MODELS

    return {named.name: _state_of(named) for named in NAMED_MODELS.values()}


def _state_of(named: NamedModel) -> str:
    """Say whether a model can be used, or what to do."""
    from s3diff.checkpoints.model_folder import COMPONENTS

    weights = [named.folder() / f"{name}.safetensors" for name in (*COMPONENTS, "prompts")]
    is_embedded = named.kind == "embedded"
    if not named.is_present or (is_embedded and not all(path.is_file() for path in weights)):
        return _MISSING if is_embedded else "not fetched yet; fetched on first use"
    return _POINTERS if any(map(is_pointer, weights)) else "ready"


def _devices() -> Iterator[str]:
    import torch

    from s3diff.restoration.device import available_devices
    from s3diff.restoration.process_limits import granted_cpus

    yield "devices"
    for name in available_devices():
        if name == "cuda":
            for index in range(torch.cuda.device_count()):
                properties = torch.cuda.get_device_properties(index)
                yield f"  {f'cuda:{index}':16} {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
            continue
        threads = f"{torch.get_num_threads()} threads; {granted_cpus()} of {os.cpu_count()} CPUs are granted"
        yield f"  {name:16} {threads if name == 'cpu' else 'Apple GPU'}"


def _extras() -> Iterator[str]:
    yield "extras"
    packages_by_extra = {extra: packages_of(extra) for extra in _EXTRAS}
    if not any(packages_by_extra.values()):
        yield "  not known: s3diff runs from its source code, without having been installed"
        return
    for extra, purpose in _EXTRAS.items():
        own = packages_by_extra[extra]
        contained = {each for other in packages_by_extra.values() if set(other) < set(own) for each in other}
        packages = [package for package in own if package not in contained]
        versions = {package: _version(package) or "installed" for package in packages if _is_there(package)}
        if len(versions) == len(packages):
            yield f"  {extra:16} ready: {purpose}"
            yield from (f"    {package:14} {version}" for package, version in versions.items())
            continue
        absent = [package for package in packages if package not in versions]
        state = "not installed" if not versions else f"not whole ({', '.join(absent)} missing)"
        yield f"  {extra:16} {state}: {purpose}"
        yield f"    to have it     {install_command(extra)}"


def packages_of(extra: str) -> list[str]:
    """List the packages of an extra, also those of extras that it contains, as the installed package states them."""
    try:
        requirements = metadata.requires("s3diff") or ()
    except metadata.PackageNotFoundError:
        return []
    found = map(_OF_EXTRA.match, requirements)
    return [each["package"] for each in found if each and each["extra"] == extra and each["package"] != "s3diff"]


def _is_there(package: str) -> bool:
    return find_spec(_MODULES.get(package, package.replace("-", "_"))) is not None


def _perceptual_weights() -> Iterator[str]:
    from s3diff.evaluation.perceptual_weights import perceptual_folder

    yield "weights of measures, for training and evaluation"
    folder = perceptual_folder()
    names = ("lpips_alex", "lpips_vgg", "dists", "niqe")
    present = [name for name in names if (folder / f"{name}.safetensors").is_file()]
    yield from (f"  {name:16} {'ready' if name in present else 'not fetched'}" for name in names)
    if len(present) < len(names):
        yield f"    to have them   {os.path.basename(sys.executable)} -m s3diff.evaluation.perceptual_weights"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
