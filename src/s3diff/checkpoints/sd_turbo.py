"""Read the base model: a folder in diffusers' layout (SD-Turbo's), strictly and without diffusers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s3diff import git_lfs
from s3diff.checkpoints.assembly import build_on_meta, shapes_of
from s3diff.checkpoints.sd_turbo_config import autoencoder_config, noise_schedule, unet_config
from s3diff.checkpoints.weights_file import check_tensors, read_safetensors
from s3diff.errors import ModelError
from s3diff.networks.autoencoder import Autoencoder
from s3diff.networks.one_step_generator import GeneratorConfig
from s3diff.networks.unet import UNet

#: Names of the attention layers in VAE checkpoints from before 2023.
_OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class BaseModel:
    """Hold a pretrained base model without LoRA.

    Attributes:
        config: its shapes and schedule; both LoRA ranks are 0.
        state: tensors ``unet...`` and ``autoencoder...`` by the names of ``OneStepGenerator``, as stored (float16 or
            float32).
        tokenizer: its tokenizer's folder.
        text_encoder: its text encoder's folder.
    """

    config: GeneratorConfig
    state: dict[str, Tensor]
    tokenizer: Path
    text_encoder: Path


def read_sd_turbo(folder: Path) -> BaseModel:
    """Read ``unet``, ``vae`` and ``scheduler`` of a diffusers folder, and find ``tokenizer`` and ``text_encoder``.

    Raises:
        ModelError: a folder or file is missing or damaged; a configuration asks for something that is not supported
            (the field is named); a tensor is missing, unexpected or misshapen (named).
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; give the folder of SD-Turbo (unet, vae, text_encoder, ...)")
    config = read_sd_turbo_config(folder)
    unet = build_on_meta(lambda: UNet(config.unet), str(folder / "unet"))
    autoencoder = build_on_meta(lambda: Autoencoder(config.autoencoder), str(folder / "vae"))
    state = {
        **{f"unet.{name}": tensor for name, tensor in _read_network(folder / "unet", unet).items()},
        **{f"autoencoder.{name}": tensor for name, tensor in _read_network(folder / "vae", autoencoder).items()},
    }
    return BaseModel(config, state, folder / "tokenizer", folder / "text_encoder")


def read_sd_turbo_config(folder: Path) -> GeneratorConfig:
    """Read the shapes and the schedule of a diffusers folder.

    Raises:
        ModelError: a configuration is missing, damaged or asks for something that is not supported.
    """
    unet, vae = folder / "unet" / "config.json", folder / "vae" / "config.json"
    scheduler = folder / "scheduler" / "scheduler_config.json"
    return GeneratorConfig(
        unet=unet_config(read_json(unet), str(unet)),
        autoencoder=autoencoder_config(read_json(vae), str(vae)),
        schedule=noise_schedule(read_json(scheduler), str(scheduler)),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file is missing or holds no JSON object.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist; the folder is incomplete or not a model's")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise git_lfs.unreadable(path, f"{path} is no valid JSON ({error}); copy the file again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}; an object with named fields is needed")
    return value


def component_files(folder: Path, stem: str) -> list[Path]:
    """Find the safetensors files of one component: one file, its float16 variant, or the shards that an index names.

    Raises:
        ModelError: there is none, or only files that could carry code.
    """
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
    if (index := component_index(folder, stem)) is not None:
        return _shards(index)
    if any((folder / name).exists() for name in (f"{stem}.bin", f"{stem}.fp16.bin", "pytorch_model.bin")):
        raise ModelError(
            f"{folder} holds its weights as .bin, a format that can carry code; fetch the .safetensors files instead"
        )
    raise ModelError(f"{folder / stem}.safetensors does not exist; the folder is incomplete or not a model's")


def component_index(folder: Path, stem: str) -> Path | None:
    """Find the index of a component's shards; None if there is none."""
    names = f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json"
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_component(folder: Path, stem: str) -> dict[str, Tensor]:
    """Read every tensor of one component by name.

    Raises:
        ModelError: as :func:`component_files`; or a file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    for path in component_files(folder, stem):
        tensors |= read_safetensors(path)
    return tensors


def _read_network(folder: Path, network: nn.Module) -> dict[str, Tensor]:
    """Read one network's tensors, with old names and shapes updated, and check them."""
    expected = shapes_of(network)
    stored = read_component(folder, "diffusion_pytorch_model")
    renamed = {_modern_attention_name(name): tensor for name, tensor in stored.items()}
    tensors = {name: _as_linear(tensor, expected.get(name)) for name, tensor in renamed.items()}
    check_tensors(tensors, expected, str(folder))
    return {name: tensors[name] for name in expected}


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise ModelError(f"{index} names no files in weight_map; copy the file again")
    names = sorted({str(name) for name in weight_map.values()})
    if outside := [name for name in names if Path(name).name != name]:
        raise ModelError(f"{index} names {outside[0]}, outside its own folder; take the file from its authors")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise ModelError(f"{index} names {missing[0]}, which is not there; the folder is incomplete, copy it again")
    return [index.parent / name for name in names]


def _modern_attention_name(name: str) -> str:
    parts = name.split(".")
    if len(parts) >= 2 and "attentions" in parts:
        parts[-2] = _OLD_ATTENTION_NAMES.get(parts[-2], parts[-2])
    return ".".join(parts)


def _as_linear(tensor: Tensor, expected: tuple[int, ...] | None) -> Tensor:
    """Convert a 1x1 convolution's weight [out, in, 1, 1] to a linear layer's [out, in]."""
    is_pointwise = tensor.dim() == 4 and tuple(tensor.shape[2:]) == (1, 1)
    if expected is not None and len(expected) == 2 and is_pointwise:
        return torch.flatten(tensor, 1)
    return tensor
