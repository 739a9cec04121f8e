"""Read the base model: a folder in diffusers' layout (SD-Turbo's), strictly and without diffusers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from s3diff import git_lfs
from s3diff.checkpoints.assembly import build_on_meta, shapes_of
from s3diff.checkpoints.weights_file import check_tensors, read_safetensors
from s3diff.errors import ModelError
from s3diff.networks.autoencoder import Autoencoder, AutoencoderConfig
from s3diff.networks.one_step_generator import GeneratorConfig, NoiseSchedule
from s3diff.networks.unet import UNet, UNetConfig

Config = TypeVar("Config")

#: Fields without effect on the networks in float32.
_UNET_WITHOUT_EFFECT = ("sample_size", "upcast_attention", "dropout", "addition_embed_type_num_heads")
_VAE_WITHOUT_EFFECT = ("sample_size", "force_upcast")
#: One step to the clean latent uses neither a spacing of timesteps nor a previous one, and draws no noise.
_SCHEDULER_WITHOUT_EFFECT = (
    *("set_alpha_to_one", "skip_prk_steps", "steps_offset", "timestep_spacing", "interpolation_type", "timestep_type"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "sigma_min", "sigma_max", "final_sigmas_type"),
    *("variance_type", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"),
)

#: Fields with one supported value, which is also the default of a missing field, except for the marked ones.
_UNET_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "mid_block_only_cross_attention": (None, False),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
    "transformer_layers_per_block": (1,),
}
_VAE_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "mid_block_add_attention": (True,),
    "shift_factor": (None, 0),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
_SCHEDULER_FIXED: dict[str, tuple[Any, ...]] = {
    "clip_sample": (False,),
    "rescale_betas_zero_snr": (False,),
    "thresholding": (False,),
    "trained_betas": (None,),
}


class _Fields:
    """Read a configuration's fields one by one; the remaining ones must be without effect."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.rest = {name: value for name, value in content.items() if not name.startswith("_")}
        self.where = where

    def take(self, name: str, default: Any) -> Any:
        return self.rest.pop(name, default)

    def refuse(self, name: str, value: Any, allowed: str) -> ModelError:
        return ModelError(f"{self.where}: {name} is {value!r}; supported: {allowed}")

    def whole_number(self, name: str, default: int) -> int:
        value = self.take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refuse(name, value, "a whole number from 1")
        return value

    def positive(self, name: str, default: float) -> float:
        value = self.take(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise self.refuse(name, value, "a number above 0")
        return float(value)

    def choice(self, name: str, default: Any, choices: tuple[Any, ...]) -> Any:
        value = self.take(name, default)
        # 1 == True in Python, not in a configuration; 1 and 1.0 are the same there.
        if not any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices):
            raise self.refuse(name, value, " or ".join(map(repr, choices)))
        return value

    def widths(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self.take(name, list(default))
        numbers = isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
        if not numbers or not value or min(value) < 1:
            raise self.refuse(name, value, "a list of whole numbers from 1")
        return tuple(value)

    def made(self, kind: type[Config], **values: Any) -> Config:
        """Build the configuration from these values; name this file in errors."""
        try:
            return kind(**values)
        except ValueError as error:
            raise ModelError(f"{self.where}: {error}; take the files of SD-Turbo") from error

    def finish(self, fixed: Mapping[str, tuple[Any, ...]], without_effect: tuple[str, ...]) -> None:
        for name, choices in fixed.items():
            self.choice(name, choices[0], choices)
        for name in without_effect:
            self.take(name, None)
        for name, value in self.rest.items():
            # A field of a newer or other diffusers that is switched off cannot change the result.
            if value is not None and value is not False:
                raise self.refuse(name, value, "nothing; this field is unknown here")


def unet_config(content: Mapping[str, Any], where: str) -> UNetConfig:
    """Read ``unet/config.json`` as our configuration, without LoRA; missing fields have diffusers' defaults.

    Raises:
        ModelError: names the first field that asks for something unsupported.
    """
    fields = _Fields(content, where)
    widths = fields.widths("block_out_channels", (320, 640, 1280, 1280))
    fields.choice("use_linear_projection", False, (True,))
    cross_attention = _cross_attention(fields, len(widths))
    num_heads = _per_block(fields, len(widths))
    latent_channels = fields.whole_number("in_channels", 4)
    fields.choice("out_channels", 4, (latent_channels,))
    fields.choice("time_embedding_dim", None, (None, 4 * widths[0]))
    config = fields.made(
        UNetConfig,
        latent_channels=latent_channels,
        block_out_channels=widths,
        num_heads=num_heads,
        cross_attention=cross_attention,
        layers_per_block=fields.whole_number("layers_per_block", 2),
        context_channels=fields.whole_number("cross_attention_dim", 1280),
        norm_num_groups=fields.whole_number("norm_num_groups", 32),
        norm_eps=fields.positive("norm_eps", 1e-5),
        lora_rank=0,
    )
    fields.finish(_UNET_FIXED, _UNET_WITHOUT_EFFECT)
    _require_divisible(fields, widths, config.norm_num_groups, "norm_num_groups")
    for width, heads in zip(widths, num_heads, strict=True):
        _require_divisible(fields, (width,), heads, "attention_head_dim (the number of heads)")
    return config


def autoencoder_config(content: Mapping[str, Any], where: str) -> AutoencoderConfig:
    """Read ``vae/config.json`` as our configuration, without LoRA.

    Raises:
        ModelError: names the first field that asks for something unsupported.
    """
    fields = _Fields(content, where)
    widths = fields.widths("block_out_channels", (64,))
    for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        fields.choice(name, [kind], ([kind] * len(widths),))
    for name in ("in_channels", "out_channels"):
        fields.choice(name, 3, (3,))
    config = fields.made(
        AutoencoderConfig,
        latent_channels=fields.whole_number("latent_channels", 4),
        block_out_channels=widths,
        layers_per_block=fields.whole_number("layers_per_block", 1),
        norm_num_groups=fields.whole_number("norm_num_groups", 32),
        scaling_factor=fields.positive("scaling_factor", 0.18215),
        lora_rank=0,
    )
    fields.finish(_VAE_FIXED, _VAE_WITHOUT_EFFECT)
    _require_divisible(fields, widths, config.norm_num_groups, "norm_num_groups")
    return config


def noise_schedule(content: Mapping[str, Any], where: str) -> NoiseSchedule:
    """Read ``scheduler_config.json`` as the one step from the last timestep.

    Raises:
        ModelError: names the first field that asks for something unsupported.
    """
    fields = _Fields(content, where)
    num_train_timesteps = fields.whole_number("num_train_timesteps", 1000)
    beta_start, beta_end = fields.positive("beta_start", 0.0001), fields.positive("beta_end", 0.02)
    if not beta_start <= beta_end < 1:
        raise fields.refuse("beta_end", beta_end, "a number from beta_start to below 1")
    schedule = fields.made(
        NoiseSchedule,
        num_train_timesteps=num_train_timesteps,
        beta_start=beta_start,
        beta_end=beta_end,
        beta_schedule=fields.choice("beta_schedule", "linear", ("linear", "scaled_linear")),
        prediction_type=fields.choice("prediction_type", "epsilon", ("epsilon", "sample", "v_prediction")),
        timestep=num_train_timesteps - 1,
    )
    fields.finish(_SCHEDULER_FIXED, _SCHEDULER_WITHOUT_EFFECT)
    return schedule


def _cross_attention(fields: _Fields, num_blocks: int) -> tuple[bool, ...]:
    """Return which down blocks attend to the prompt; the up blocks must mirror them."""
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    default = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    down = fields.take("down_block_types", default)
    if not isinstance(down, list) or len(down) != num_blocks or not all(isinstance(kind, str) for kind in down):
        raise fields.refuse("down_block_types", down, f"a list of {num_blocks}, one per width")
    for kind in down:
        if kind not in kinds:
            raise fields.refuse("down_block_types", kind, " or ".join(kinds))
    mirrored = [kind.replace("Down", "Up") for kind in reversed(down)]
    fields.choice("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, (mirrored,))
    return tuple(kinds[kind] for kind in down)


def _per_block(fields: _Fields, num_blocks: int) -> tuple[int, ...]:
    """Return the heads per down block: ``num_attention_heads``, or ``attention_head_dim``, its synonym in diffusers."""
    named = fields.take("num_attention_heads", None)
    by_width = fields.take("attention_head_dim", 8)
    name, value = ("attention_head_dim", by_width) if named is None else ("num_attention_heads", named)
    heads = [value] * num_blocks if isinstance(value, int) else value
    ok = isinstance(heads, list) and len(heads) == num_blocks
    if not ok or not all(isinstance(head, int) and not isinstance(head, bool) and head > 0 for head in heads):
        raise fields.refuse(name, value, f"one whole number, or a list of {num_blocks}, one per width")
    return tuple(heads)


def _require_divisible(fields: _Fields, widths: tuple[int, ...], divisor: int, name: str) -> None:
    for width in widths:
        if width % divisor:
            raise fields.refuse(name, divisor, f"a divisor of the width {width}")


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


def _read_network(folder: Path, network: nn.Module) -> dict[str, Tensor]:
    """Read one network's tensors, with old names and shapes updated, and check them."""
    expected = shapes_of(network)
    files = component_files(folder, "diffusion_pytorch_model")
    stored = [item for path in files for item in read_safetensors(path).items()]
    renamed = {_modern_attention_name(name): tensor for name, tensor in stored}
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
