"""The base model's folder: every field honoured or refused by name, every tensor by name and shape."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from golden_models import official_files
from s3diff.checkpoints.sd_turbo import read_sd_turbo, read_sd_turbo_config
from s3diff.errors import ModelError
from s3diff.networks.autoencoder import AutoencoderConfig
from s3diff.networks.one_step_generator import GeneratorConfig
from s3diff.networks.unet import UNetConfig
from tiny_models import edit_json, one_line


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A copy of the tiny base model that a test may change."""
    folder = tmp_path / "base"
    shutil.copytree(official_files().base, folder)
    return folder


def test_base_config_is_honoured(base: Path) -> None:
    config = read_sd_turbo_config(base)
    assert config.unet == UNetConfig(
        block_out_channels=(16, 32, 32, 48),
        num_heads=(2, 4, 2, 6),
        context_channels=32,
        norm_num_groups=16,
        lora_rank=0,
    )
    assert config.autoencoder == AutoencoderConfig(block_out_channels=(32, 32, 64, 64), lora_rank=0)
    assert config.schedule == GeneratorConfig().schedule
    assert config.pad_multiple == 64

    scheduler = base / "scheduler" / "scheduler_config.json"
    edit_json(scheduler, num_train_timesteps=400, beta_start=0.001, beta_schedule="linear", prediction_type="sample")
    edit_json(base / "unet" / "config.json", norm_eps=1e-3, attention_head_dim=2, num_attention_heads=None)
    edit_json(base / "vae" / "config.json", scaling_factor=0.5)
    config = read_sd_turbo_config(base)
    assert (config.schedule.num_train_timesteps, config.schedule.timestep) == (400, 399)
    assert (config.schedule.beta_start, config.schedule.beta_schedule) == (0.001, "linear")
    assert config.schedule.prediction_type == "sample"
    assert config.unet.norm_eps == 1e-3
    assert config.unet.num_heads == (2, 2, 2, 2)
    assert config.autoencoder.scaling_factor == 0.5


UNET, VAE, SCHEDULER = "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        (UNET, "act_fn", "gelu"),
        (UNET, "use_linear_projection", False),
        (UNET, "use_linear_projection", "(left out)"),
        (UNET, "down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["AttnDownBlock2D"]),
        (UNET, "down_block_types", ["DownBlock2D"]),
        (UNET, "up_block_types", ["CrossAttnUpBlock2D"] * 4),
        (UNET, "mid_block_type", "UNetMidBlock2D"),
        (UNET, "downsample_padding", 0),
        (UNET, "transformer_layers_per_block", 2),
        (UNET, "layers_per_block", [2, 2, 2, 2]),
        (UNET, "class_embed_type", "timestep"),
        (UNET, "addition_embed_type", "text_time"),
        (UNET, "only_cross_attention", True),
        (UNET, "out_channels", 8),
        (UNET, "time_embedding_dim", 128),
        (UNET, "attention_head_dim", [2, 4, 2]),
        (UNET, "attention_head_dim", [3, 4, 2, 6]),
        (UNET, "norm_num_groups", 5),
        (UNET, "norm_num_groups", None),
        (UNET, "block_out_channels", []),
        (UNET, "block_out_channels", [16, 32, 32, -48]),
        (UNET, "flip_sin_to_cos", False),
        (UNET, "time_cond_proj_dim", 256),
        (UNET, "a_field_of_the_future", 3),
        (VAE, "act_fn", "relu"),
        (VAE, "in_channels", 4),
        (VAE, "layers_per_block", 65),
        (VAE, "down_block_types", ["AttnDownEncoderBlock2D"] * 4),
        (VAE, "up_block_types", ["UpDecoderBlock2D"] * 3),
        (VAE, "use_quant_conv", False),
        (VAE, "mid_block_add_attention", False),
        (VAE, "shift_factor", 0.1),
        (VAE, "latents_mean", [0.0]),
        (VAE, "scaling_factor", 0),
        (SCHEDULER, "prediction_type", "flow_prediction"),
        (SCHEDULER, "beta_schedule", "squaredcos_cap_v2"),
        (SCHEDULER, "trained_betas", [0.1]),
        (SCHEDULER, "clip_sample", True),
        (SCHEDULER, "rescale_betas_zero_snr", True),
        (SCHEDULER, "num_train_timesteps", 0),
        (SCHEDULER, "beta_end", 1.5),
    ],
)
def test_unsupported_fields_are_refused_by_name(base: Path, file: str, field: str, value: Any) -> None:
    edit_json(base / file, **{field: value})
    with pytest.raises(ModelError, match=f"{file}: {field}") as error:
        read_sd_turbo_config(base)
    assert re.search("(supported|allowed): ", one_line(error))


def test_fields_without_effect_are_accepted(base: Path) -> None:
    expected = read_sd_turbo_config(base)
    edit_json(base / UNET, sample_size=96, upcast_attention=True, dropout=0.1, a_field_of_the_future=None)
    edit_json(base / VAE, sample_size=1, force_upcast=False, latents_std=None, _private=[1])
    edit_json(base / SCHEDULER, timestep_spacing="leading", use_karras_sigmas=True, steps_offset=0)
    assert read_sd_turbo_config(base) == expected


def test_old_attention_names_and_shapes(base: Path) -> None:
    expected = read_sd_turbo(base).state
    path = base / "vae" / "diffusion_pytorch_model.safetensors"
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old: dict[str, Tensor] = {}
    for name, tensor in load_file(path).items():
        for new_name, old_name in old_names.items():
            name = name.replace(f"attentions.0.{new_name}.", f"attentions.0.{old_name}.")
        is_projection = ".attentions.0." in name and tensor.dim() == 2
        old[name] = tensor[:, :, None, None] if is_projection else tensor
    assert sum("proj_attn" in name for name in old) == 4
    save_file(old, path)
    found = read_sd_turbo(base).state
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_float16_variant_and_shards(base: Path) -> None:
    expected = read_sd_turbo(base).state
    unet, vae = (base / name / "diffusion_pytorch_model.safetensors" for name in ("unet", "vae"))
    halves = {name: tensor.half() for name, tensor in load_file(unet).items()}
    save_file(halves, unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    unet.unlink()
    tensors, weight_map = load_file(vae), {}
    for number, part in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
        shard = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, vae.with_name(shard))
        weight_map |= dict.fromkeys(part, shard)
    vae.unlink()
    index = vae.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    found = read_sd_turbo(base).state
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.half() if name.startswith("unet.") else tensor)

    index.write_text(json.dumps({"weight_map": {"a": "../../unet/stolen.safetensors"}}))
    with pytest.raises(ModelError, match="outside its own folder"):
        read_sd_turbo(base)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "gone.safetensors")}))
    with pytest.raises(ModelError, match=r"names gone\.safetensors, which is not there"):
        read_sd_turbo(base)


def test_bin_files_are_refused_with_a_hint(base: Path) -> None:
    path = base / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"\.bin.*fetch the \.safetensors files"):
        read_sd_turbo(base)


@pytest.mark.parametrize("name", [UNET, VAE, SCHEDULER, "unet/diffusion_pytorch_model.safetensors"])
def test_incomplete_base(base: Path, name: str) -> None:
    (base / name).unlink()
    with pytest.raises(ModelError, match="does not exist") as error:
        read_sd_turbo(base)
    assert Path(name).name in one_line(error)


def test_base_tensors_are_strict(base: Path) -> None:
    path = base / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.extra"] = tensors.pop("decoder.conv_in.bias")
    tensors["quant_conv.bias"] = tensors["quant_conv.bias"][:-1].clone()
    save_file(tensors, path)
    with pytest.raises(
        ModelError,
        match=r"missing 1: decoder\.conv_in\.bias; unexpected 1: decoder\.extra; misshapen 1: quant_conv\.bias "
        r"\(\[7\] instead of \[8\]\)",
    ):
        read_sd_turbo(base)
    with pytest.raises(ModelError, match="is no folder"):
        read_sd_turbo(path)
