"""Read the authors' ``s3diff.pkl`` and ``de_net.pth`` safely and strictly, and write them.

``s3diff.pkl`` holds what S3Diff trains on top of SD-Turbo: every LoRA factor, the UNet's ``conv_in``, the layers and
block IDs of the conditioning, and the fixed frequencies. ``de_net.pth`` holds the degradation estimator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s3diff.checkpoints.assembly import build_on_meta, generator_on_meta, shapes_of
from s3diff.checkpoints.weights_file import check_tensors, printable, read_torch_file, write_torch_file
from s3diff.errors import ModelError
from s3diff.networks.autoencoder import AutoencoderConfig
from s3diff.networks.degradation_conditioning import ConditioningConfig
from s3diff.networks.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
from s3diff.networks.modulated_lora import MAX_LORA_RANK
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator

#: Layers that the release adapts, as its LoRA library names them; stored in the pickle.
UNET_LORA_TARGET_MODULES = (
    *("to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_shortcut", "conv_out"),
    *("proj_in", "proj_out", "ff.net.2", "ff.net.0.proj"),
)
VAE_LORA_TARGET_MODULES = r"^encoder\..*(conv1|conv2|conv_in|conv_shortcut|conv|conv_out|to_k|to_q|to_v|to_out\.0)$"

#: The conditioning's layers: the pickle's group, its tensor, our name.
_CONDITIONING = (
    ("state_dict_vae_de_mlp", "0.weight", "conditioning.encoder.degree_mlp.weight"),
    ("state_dict_vae_de_mlp", "0.bias", "conditioning.encoder.degree_mlp.bias"),
    ("state_dict_unet_de_mlp", "0.weight", "conditioning.unet.degree_mlp.weight"),
    ("state_dict_unet_de_mlp", "0.bias", "conditioning.unet.degree_mlp.bias"),
    ("state_dict_vae_block_mlp", "0.weight", "conditioning.encoder.block_mlp.weight"),
    ("state_dict_vae_block_mlp", "0.bias", "conditioning.encoder.block_mlp.bias"),
    ("state_dict_unet_block_mlp", "0.weight", "conditioning.unet.block_mlp.weight"),
    ("state_dict_unet_block_mlp", "0.bias", "conditioning.unet.block_mlp.bias"),
    ("state_dict_vae_fuse_mlp", "weight", "conditioning.encoder.fuse.weight"),
    ("state_dict_vae_fuse_mlp", "bias", "conditioning.encoder.fuse.bias"),
    ("state_dict_unet_fuse_mlp", "weight", "conditioning.unet.fuse.weight"),
    ("state_dict_unet_fuse_mlp", "bias", "conditioning.unet.fuse.bias"),
)
_FREQUENCIES = "conditioning.frequencies"
_BLOCK_IDS = {
    "state_dict_vae_block": "conditioning.encoder.block_ids",
    "state_dict_unet_block": "conditioning.unet.block_ids",
}

#: The order of a network's parts in the release's file.
_PARTS_OF_RELEASE = ("conv_in", "down_blocks", "up_blocks", "mid_block", "conv_out")

#: The release's widths; the pickle does not state them.
_CONDITIONING_CONFIG = ConditioningConfig(identity_start=False)

#: Every entry of the pickle and its type.
_ENTRIES: dict[str, type] = {
    "unet_lora_target_modules": list,
    "vae_lora_target_modules": str,
    "rank_unet": int,
    "rank_vae": int,
    "state_dict_unet": dict,
    "state_dict_vae": dict,
    **{group: dict for group, _, _ in _CONDITIONING},
    "w": Tensor,
    "state_embeddings": dict,
}


@dataclass(frozen=True)
class OfficialWeights:
    """Hold what ``s3diff.pkl`` adds to a base model.

    Attributes:
        config: the base model's configuration with the pickle's ranks and the release's conditioning.
        state: float32 tensors by the names of :class:`OneStepGenerator`.
    """

    config: GeneratorConfig
    state: dict[str, Tensor]


def read_official_pickle(path: Path, base: GeneratorConfig) -> OfficialWeights:
    """Read ``s3diff.pkl`` for a base model.

    Args:
        path: the file; no code in it ever runs.
        base: shapes of the base model that the file was trained on (its LoRA ranks are ignored).

    Raises:
        ModelError: the file is missing, damaged or carries code; it states a rank that is none, or other layers than
            the release's; or it names every tensor that is missing, unexpected or misshapen for this base model and
            the rank that the file states.
    """
    content = _checked_entries(read_torch_file(path), path)
    config = dataclasses.replace(
        base,
        unet=dataclasses.replace(base.unet, lora_rank=content["rank_unet"]),
        autoencoder=dataclasses.replace(base.autoencoder, lora_rank=content["rank_vae"]),
        conditioning=_CONDITIONING_CONFIG,
    )
    generator = generator_on_meta(config, str(path))
    names = official_names(generator)
    shapes = shapes_of(generator)
    found = _flatten(content)
    check_tensors(
        found,
        {official: shapes[ours] for ours, official in names.items()},
        f"{path} (rank {config.unet.lora_rank} in the UNet, {config.autoencoder.lora_rank} in the VAE)",
    )
    state = {ours: found[official].detach().to(torch.float32) for ours, official in names.items()}
    _require_finite(state, path)
    return OfficialWeights(config, state)


def write_official_pickle(generator: OneStepGenerator, path: Path) -> None:
    """Write a model's trained part as ``s3diff.pkl``, in the release's layout and types; whole or not at all.

    Raises:
        ModelError: the model is not one that the release's layout describes.
        OutputError: the place cannot be written.
    """
    config, state, names = generator.config, generator.state_dict(), official_names(generator)
    require_official_architecture(config)
    # Clones: a view would take the whole memory behind it into the file.
    flat = {official: state[name].detach().to("cpu", torch.float32).clone() for name, official in names.items()}
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        group, _, key = name.partition("/")
        groups.setdefault(group, {})[key] = tensor
    embeddings = groups["state_embeddings"]
    write_torch_file(
        {
            "unet_lora_target_modules": list(UNET_LORA_TARGET_MODULES),
            "vae_lora_target_modules": VAE_LORA_TARGET_MODULES,
            "rank_unet": config.unet.lora_rank,
            "rank_vae": config.autoencoder.lora_rank,
            "state_dict_unet": groups["state_dict_unet"],
            "state_dict_vae": groups["state_dict_vae"],
            **{group: groups[group] for group, _, _ in _CONDITIONING},
            "w": nn.Parameter(groups["w"][""], requires_grad=False),
            # An embedding's own state dict: the ordered dict with metadata that the release stores.
            "state_embeddings": {
                group: nn.Embedding.from_pretrained(embeddings[f"{group}/weight"]).state_dict() for group in _BLOCK_IDS
            },
        },
        path,
    )


def read_official_estimator(path: Path, config: DegradationEstimatorConfig) -> dict[str, Tensor]:
    """Read ``de_net.pth``: float32 tensors by the names of :class:`DegradationEstimator`.

    Raises:
        ModelError: as :func:`read_official_pickle`.
    """
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}; a dict of tensors such as de_net.pth is needed")
    expected = shapes_of(build_on_meta(lambda: DegradationEstimator(config), str(path)))
    check_tensors(content, expected, str(path))
    state = {name: content[name].detach().to(torch.float32) for name in expected}
    _require_finite(state, path)
    return state


def write_official_estimator(estimator: DegradationEstimator, path: Path) -> None:
    """Write ``de_net.pth``, the estimator's state dict.

    Raises:
        OutputError: the place cannot be written.
    """
    state = estimator.state_dict()
    for name, tensor in state.items():
        state[name] = tensor.detach().to("cpu", torch.float32).clone()
    write_torch_file(state, path)


def official_names(generator: OneStepGenerator) -> dict[str, str]:
    """Map our names to the pickle's ``entry/tensor`` for everything that S3Diff trains on top of the base model.

    The order is that of the release's file.
    """
    names = {f"unet.conv_in.{kind}": f"state_dict_unet/conv_in.{kind}" for kind in ("weight", "bias")}
    for layer in sorted(generator.unet.modulated_layers(), key=_place_in_release):
        for factor in ("lora_A", "lora_B"):
            names[f"unet.{layer}.{factor}"] = f"state_dict_unet/{layer}.{factor}.default.weight"
    for layer in sorted(generator.autoencoder.encoder.modulated_layers(), key=_place_in_release):
        for factor in ("lora_A", "lora_B"):
            names[f"autoencoder.encoder.{layer}.{factor}"] = f"state_dict_vae/encoder.{layer}.{factor}.vae_skip.weight"
    names |= {ours: f"{group}/{key}" for group, key, ours in _CONDITIONING}
    names[_FREQUENCIES] = "w/"
    names |= {ours: f"state_embeddings/{group}/weight" for group, ours in _BLOCK_IDS.items()}
    return names


def _place_in_release(layer: str) -> tuple[int, int, bool]:
    """Return a key that sorts layers as diffusers registers them: mid block last, attentions before ResNets."""
    part, *rest = layer.split(".")
    return _PARTS_OF_RELEASE.index(part), int(rest[0]) if part.endswith("_blocks") else 0, "attentions" not in rest


def _checked_entries(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}; the dict of an s3diff.pkl is needed")
    faults = [f"missing {name}" for name in _ENTRIES if name not in content]
    faults += [f"unexpected {printable(name)}" for name in content if name not in _ENTRIES]
    faults += [
        f"{name} is a {type(content[name]).__name__} instead of a {kind.__name__}"
        for name, kind in _ENTRIES.items()
        if name in content and not isinstance(content[name], kind)
    ]
    if faults:
        raise ModelError(f"{path} is no s3diff.pkl: {', '.join(faults[:6])}; take the file from its authors")
    for name in ("rank_unet", "rank_vae"):
        if isinstance(content[name], bool) or not 1 <= content[name] <= MAX_LORA_RANK:
            raise ModelError(
                f"{path} states {name} {printable(content[name])}; allowed 1 to {MAX_LORA_RANK}: take the file from "
                "its authors"
            )
    _require_official_layers(content, path)
    return content


def _require_official_layers(content: Mapping[str, Any], path: Path) -> None:
    """Require that the file adapts the same layers as this package."""
    listed = [printable(name) for name in content["unet_lora_target_modules"]]
    faults = [f"without {name}" for name in UNET_LORA_TARGET_MODULES if name not in listed]
    faults += [f"with {name}" for name in listed if name not in UNET_LORA_TARGET_MODULES]
    if content["vae_lora_target_modules"] != VAE_LORA_TARGET_MODULES:
        faults.append(f"the VAE's are {printable(content['vae_lora_target_modules'])}")
    if faults:
        raise ModelError(
            f"{path} adapts other layers than the release ({', '.join(faults[:6])}); only the release's are known "
            "here: take the file from its authors"
        )


def _flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return every tensor entry as ``entry/tensor`` -> value."""
    flat: dict[str, Any] = {"w/": content["w"]}
    for group in ("state_dict_unet", "state_dict_vae", *dict.fromkeys(group for group, _, _ in _CONDITIONING)):
        flat |= {f"{group}/{name}": value for name, value in content[group].items()}
    for group, value in content["state_embeddings"].items():
        tensors = value if isinstance(value, dict) else {"": value}
        flat |= {f"state_embeddings/{group}/{name}": tensor for name, tensor in tensors.items()}
    return flat


def _require_finite(state: Mapping[str, Tensor], path: Path) -> None:
    if broken := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise ModelError(f"{path} holds numbers that are not finite in {', '.join(broken[:3])}; fetch it again")


def require_official_architecture(config: GeneratorConfig) -> None:
    """Refuse a model that the release's layout cannot describe.

    Raises:
        ModelError: the layout cannot describe the model; the reasons are given.
    """
    unet, autoencoder = config.unet, config.autoencoder
    has_official_widths = dataclasses.replace(config.conditioning, identity_start=False) == _CONDITIONING_CONFIG
    faults = [
        reason
        for wrong, reason in (
            (unet.lora_rank == 0 or autoencoder.lora_rank == 0, "it has no LoRA in one of its networks"),
            (not unet.self_attention, "its UNet has no self-attention"),
            (unet.norm != "group" or autoencoder.norm != "group", "it has no group norm"),
            (unet.upsample != "nearest" or autoencoder.upsample != "nearest", "it enlarges with another filter"),
            (not autoencoder.attention, "its autoencoder has no attention"),
            (autoencoder.pixel_unshuffle != 1, "its autoencoder moves pixels into channels"),
            (autoencoder.pixel_shuffle != 1, "its decoder moves channels into pixels"),
            (autoencoder.decoder_channels is not None, "its decoder has widths of its own"),
            (autoencoder.residual, "its decoder adds the input"),
            (autoencoder.norm_eps != AutoencoderConfig.norm_eps, "its autoencoder's norms have another norm_eps"),
            (config.estimator != DegradationEstimatorConfig(), "its estimator has another shape than the release's"),
            (config.schedule.timestep != config.schedule.num_train_timesteps - 1, "it starts from another timestep"),
            (not has_official_widths, "its conditioning has other widths"),
        )
        if wrong
    ]
    if faults:
        raise ModelError(
            f"the official layout describes a change to an SD-Turbo model and this is none: {', '.join(faults)}; "
            "only models converted from the release, or trained on SD-Turbo, can be written so"
        )
