"""Read and write model folders: ``config.json``, a safetensors file per component, the prompts' embeddings.

::

    config.json                format, version, name, every shape, schedule, prompts' texts, defaults, licences,
                               fingerprint over tensors, shapes, schedule and the default filter
    unet.safetensors           autoencoder.safetensors    estimator.safetensors    conditioning.safetensors
    prompts.safetensors        positive [T, C], negative [T, C]
    tokenizer/  text_encoder/  only where other prompts can be encoded
    MODEL_CARD.md              where somebody has written one
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3diff.atomic_write import whole_folder
from s3diff.checkpoints.assembly import assemble
from s3diff.checkpoints.config_json import canonical_json, from_json, to_json
from s3diff.checkpoints.sd_turbo import component_files, component_index, read_json
from s3diff.checkpoints.weights_file import (
    check_tensors,
    fingerprint,
    printable,
    read_safetensors,
    write_safetensors,
)
from s3diff.errors import ModelError, OutputError
from s3diff.networks.one_step_generator import DEFAULT_GUIDANCE, GeneratorConfig, OneStepGenerator
from s3diff.options import Upsampling

FORMAT_NAME = "s3diff-model"
FORMAT_VERSION = 2
#: Formats of folders with filters behind the networks.
_OUTDATED_VERSIONS = (1,)
#: The safetensors files besides the prompts', named after the generator's parts.
COMPONENTS = ("unet", "autoencoder", "estimator", "conditioning")
#: Size up to which every load checks the fingerprint; hashing more takes seconds.
MAX_BYTES_VERIFIED = 64 * 1024**2

_CONFIG_FILE = "config.json"
_PROMPTS_FILE = "prompts.safetensors"
_FOLDERS = ("tokenizer", "text_encoder")
#: All entries of a model folder; other entries belong to the user and are never replaced.
_NAMES = (_CONFIG_FILE, _PROMPTS_FILE, *(f"{name}.safetensors" for name in COMPONENTS), *_FOLDERS, "MODEL_CARD.md")


@dataclass(frozen=True)
class StoredPrompts:
    """Hold the two prompts' embeddings.

    Attributes:
        positive: [T, C] float32, describes a good result.
        negative: [T, C] float32, describes an unwanted picture.
        positive_text: the text it was encoded from; None for an embedding that was learned.
        negative_text: the same for the negative prompt.
    """

    positive: Tensor
    negative: Tensor
    positive_text: str | None = None
    negative_text: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Hold the content of a model's ``config.json``.

    Attributes:
        generator: every network's shape and the schedule.
        positive_prompt: text of the stored positive prompt; None where the embedding was learned.
        negative_prompt: text of the stored negative prompt.
        upsampling: filter that enlarges the input unless the user asks for another.
        guidance: weight of the positive against the negative prompt unless the user asks for another.
        licences: one line per part: its name, its owner, its licence.
        is_generative: whether the model can invent lost detail; results state it as their source type. An unstated
            value counts as true.
        fingerprint: ``sha256:...`` over the tensors of the safetensors files, ``generator``, ``upsampling`` and
            ``guidance``. The files of tokenizer and text encoder are not covered, nor are names, prompts' texts and
            licences.
    """

    name: str
    generator: GeneratorConfig
    positive_prompt: str | None = None
    negative_prompt: str | None = None
    upsampling: Upsampling = "bilinear"
    guidance: float = DEFAULT_GUIDANCE
    licences: tuple[str, ...] = ()
    is_generative: bool = True
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """Hold a model ready to use. Its properties are those of its description; see :class:`ModelDescription`.

    Attributes:
        generator: the networks in eval mode, float32, on the CPU.
        tokenizer: folder that encodes other prompts; None where the model has only its stored ones.
        text_encoder: the same for the text encoder.
    """

    folder: Path
    description: ModelDescription
    generator: OneStepGenerator
    prompts: StoredPrompts
    tokenizer: Path | None
    text_encoder: Path | None

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def config(self) -> GeneratorConfig:
        return self.description.generator

    @property
    def fingerprint(self) -> str:
        return self.description.fingerprint

    @property
    def upsampling(self) -> Upsampling:
        return self.description.upsampling

    @property
    def guidance(self) -> float:
        return self.description.guidance

    def save(
        self, folder: Path, *, dtype: torch.dtype = torch.float32, float32_names: frozenset[str] = frozenset()
    ) -> ModelDescription:
        """Write the model as it is now into a folder; see :func:`save_model`."""
        return save_model(
            folder,
            self.generator,
            self.prompts,
            name=self.name,
            upsampling=self.upsampling,
            guidance=self.guidance,
            licences=self.description.licences,
            is_generative=self.description.is_generative,
            dtype=dtype,
            float32_names=float32_names,
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
        )


def save_model(
    folder: Path,
    generator: OneStepGenerator,
    prompts: StoredPrompts,
    *,
    name: str,
    upsampling: Upsampling = "bilinear",
    guidance: float = DEFAULT_GUIDANCE,
    licences: tuple[str, ...] = (),
    is_generative: bool = True,
    dtype: torch.dtype = torch.float32,
    float32_names: frozenset[str] = frozenset(),
    tokenizer: Path | None = None,
    text_encoder: Path | None = None,
) -> ModelDescription:
    """Write a model folder, whole or not at all.

    Args:
        folder: the target; an older model folder there is replaced, anything else is left unchanged, and so is a model
            folder with other files in it.
        licences: one line per part.
        is_generative: whether it can invent lost detail.
        dtype: ``torch.float32`` or ``torch.float16``, of the stored tensors.
        float32_names: tensors that stay float32 whatever ``dtype`` is, by the generator's names.
        tokenizer: a tokenizer folder to copy.
        text_encoder: a text encoder folder to copy.

    Returns:
        The content of ``config.json``.

    Raises:
        ModelError: the dtype is another one, a tensor does not fit into float16, or the prompts do not fit the UNet.
        OutputError: ``folder`` is something else than a model folder, holds other files, or cannot be written.
    """
    if dtype not in (torch.float32, torch.float16):
        raise ModelError(f"dtype is {dtype}; a model folder stores torch.float32 or torch.float16")
    check_output_folder(folder)
    _require_fitting_prompts(generator, prompts)
    components = _components(generator, prompts, dtype, float32_names)
    description = ModelDescription(
        name=name,
        generator=generator.config,
        positive_prompt=prompts.positive_text,
        negative_prompt=prompts.negative_text,
        upsampling=upsampling,
        guidance=guidance,
        licences=licences,
        is_generative=is_generative,
        fingerprint=fingerprint(components, _settings(generator.config, upsampling, guidance)),
    )
    with whole_folder(folder) as temporary:
        for component, tensors in components.items():
            write_safetensors(tensors, temporary / f"{component}.safetensors")
        if tokenizer is not None:
            _copy_files(
                tokenizer, temporary / "tokenizer", [path.name for path in tokenizer.iterdir() if path.is_file()]
            )
        if text_encoder is not None:
            _copy_text_encoder(text_encoder, temporary / "text_encoder")
        content = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, **to_json(description)}
        (temporary / _CONFIG_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return description


def load_model(folder: str | Path, *, verify: bool | None = None) -> LoadedModel:
    """Load a model folder.

    Args:
        verify: whether to compare tensors and settings with the stored fingerprint; None for models below 64 MB.

    Raises:
        ModelError: no such folder, no model folder, another format or version, a damaged or missing file, an unknown
            field, a missing, unexpected or misshapen tensor (named), or another fingerprint than stored.
    """
    folder = Path(folder)
    description = read_description(folder)
    components = {
        component: read_safetensors(folder / f"{component}.safetensors") for component in (*COMPONENTS, "prompts")
    }
    num_bytes = sum(tensor.nbytes for tensors in components.values() for tensor in tensors.values())
    if verify or (verify is None and num_bytes < MAX_BYTES_VERIFIED):
        found = fingerprint(components, _settings(description.generator, description.upsampling, description.guidance))
        if found != description.fingerprint:
            raise ModelError(
                f"{folder} has the fingerprint {found[:19]}..., its {_CONFIG_FILE} states "
                f"{description.fingerprint[:19]}...: files were changed or mixed; copy or convert the model again"
            )
    prompts = _checked_prompts(components.pop("prompts"), description, folder)
    state = {
        f"{component}.{name}": tensor for component in COMPONENTS for name, tensor in components[component].items()
    }
    return LoadedModel(
        folder=folder,
        description=description,
        generator=assemble(description.generator, state, str(folder)),
        prompts=prompts,
        tokenizer=_folder_or_none(folder / _FOLDERS[0]),
        text_encoder=_folder_or_none(folder / _FOLDERS[1]),
    )


def read_description(folder: str | Path) -> ModelDescription:
    """Read a model folder's ``config.json``, and no weights.

    Raises:
        ModelError: no such folder, no model folder, another format or version, or a damaged ``config.json``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; give a model folder, such as s3diff convert writes")
    path = folder / _CONFIG_FILE
    if not path.is_file():
        hint = ": it looks like a diffusers folder, s3diff convert makes a model of it" * (folder / "unet").is_dir()
        raise ModelError(f"{folder} holds no {_CONFIG_FILE} and is no model folder{hint or '; see s3diff convert'}")
    content = read_json(path)
    if content.pop("format", None) != FORMAT_NAME:
        raise ModelError(f"{path} is not of the format {FORMAT_NAME}; give a model folder, see s3diff convert")
    version = content.pop("format_version", None)
    if version in _OUTDATED_VERSIONS and not isinstance(version, bool):
        raise ModelError(
            f"{folder} holds a model of format {version}, whose results passed filters that s3diff no longer has: "
            "convert it again with s3diff convert, train it again (s3diff train tune --from compact), or restore with "
            "the s3diff that wrote it"
        )
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ModelError(f"{path} has format_version {version!r}; this s3diff reads {FORMAT_VERSION}: update s3diff")
    if missing := [name for name in ("name", "generator", "fingerprint") if name not in content]:
        raise ModelError(f"{path} lacks {', '.join(missing)}; copy or convert the model again")
    return from_json(ModelDescription, content, str(path))


def _settings(generator: GeneratorConfig, upsampling: Upsampling, guidance: float) -> str:
    """Return the settings that the fingerprint covers besides the tensors."""
    # Folders from before the guidance was a model's own state none, and keep their fingerprints.
    stated = "" if guidance == DEFAULT_GUIDANCE else f',"guidance":{guidance:g}'
    return f'{{"generator":{canonical_json(generator)},"upsampling":"{upsampling}"{stated}}}'


def _require_fitting_prompts(generator: OneStepGenerator, prompts: StoredPrompts) -> None:
    width = generator.config.unet.context_channels
    shapes = [list(tensor.shape) for tensor in (prompts.positive, prompts.negative)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] < 1 or shapes[0][1] != width:
        raise ModelError(
            f"the prompts' embeddings are {shapes[0]} and {shapes[1]}, the UNet takes two of [tokens, {width}]; "
            "use the text encoder of the same base model"
        )


def _components(
    generator: OneStepGenerator, prompts: StoredPrompts, dtype: torch.dtype, float32_names: frozenset[str]
) -> dict[str, dict[str, Tensor]]:

    def stored(name: str, tensor: Tensor) -> Tensor:
        value = tensor.detach().to("cpu", torch.float32 if name in float32_names else dtype)
        if not torch.isfinite(value).all():
            raise ModelError(f"{name} is not finite in {value.dtype}; store the model as torch.float32, or train again")
        return value.contiguous()

    components: dict[str, dict[str, Tensor]] = {component: {} for component in COMPONENTS}
    for name, tensor in generator.state_dict().items():
        component, _, rest = name.partition(".")
        components[component][rest] = stored(name, tensor)
    components["prompts"] = {
        "positive": stored("positive", prompts.positive),
        "negative": stored("negative", prompts.negative),
    }
    return components


def _checked_prompts(tensors: Mapping[str, Tensor], description: ModelDescription, folder: Path) -> StoredPrompts:
    width = description.generator.unet.context_channels
    lengths = {tensor.shape[0] for tensor in tensors.values() if tensor.dim() == 2}
    length = lengths.pop() if len(lengths) == 1 else 0
    check_tensors(tensors, {"positive": (length, width), "negative": (length, width)}, str(folder / _PROMPTS_FILE))
    return StoredPrompts(
        tensors["positive"].to(torch.float32),
        tensors["negative"].to(torch.float32),
        description.positive_prompt,
        description.negative_prompt,
    )


def _folder_or_none(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _copy_files(source: Path, target: Path, names: list[str]) -> None:
    """Copy contents without permissions: a read-only folder could not be replaced later."""
    target.mkdir()
    for name in names:
        shutil.copyfile(source / name, target / name)


def _copy_text_encoder(source: Path, target: Path) -> None:
    _copy_files(source, target, ["config.json"])
    files = component_files(source, "model")
    if len(files) > 1 and (index := component_index(source, "model")) is not None:
        # The shards keep the names by which their index calls them.
        for file, name in ((index, "model.safetensors.index.json"), *((file, file.name) for file in files)):
            shutil.copyfile(file, target / name)
        return
    # Under the plain name, whatever variant it was: the loader looks for that name.
    shutil.copyfile(files[0], target / "model.safetensors")


def is_model_folder(folder: Path) -> bool:
    """Check whether ``config.json`` calls this a model folder, whatever its other faults."""
    try:
        content: Any = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT_NAME


def is_outdated(folder: Path) -> bool:
    """Check whether this is a model folder of an older format, which has to be converted again."""
    return is_model_folder(folder) and read_json(folder / _CONFIG_FILE).get("format_version") in _OUTDATED_VERSIONS


def check_output_folder(folder: Path) -> None:
    """Check that only a model would be replaced.

    Raises:
        OutputError: the path is something else, or the model folder holds other files.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not is_model_folder(folder):
        raise OutputError(f"{folder} exists and is no model folder; choose a new name, nothing was changed")
    others = sorted(path.name for path in folder.iterdir() if path.name not in _NAMES)
    if others:
        raise OutputError(
            f"{folder} holds {printable(others[0])}, which is no part of a model and would be lost; move it away, or "
            "choose a new name"
        )
