"""The model folder: what is saved is what is loaded, whole or not at all, and every fault is named."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from golden_models import official_files
from s3diff.checkpoints.config_json import canonical_json, from_json, to_json
from s3diff.checkpoints.model_folder import COMPONENTS, StoredPrompts, load_model, read_description, save_model
from s3diff.checkpoints.weights_file import fingerprint
from s3diff.errors import ModelError, OptionError, OutputError
from s3diff.networks.autoencoder import AutoencoderConfig
from s3diff.networks.degradation_conditioning import ConditioningConfig
from s3diff.networks.degradation_estimator import DegradationEstimatorConfig
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator
from s3diff.networks.unet import UNetConfig
from s3diff.training.initial_model import prepare_initial_model
from s3diff.training.recipes import debug, with_change
from tiny_models import COMPACT, compact_parts, edit_json, one_line, save_compact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_save_and_load(tmp_path: Path, dtype: torch.dtype) -> None:
    generator, prompts = compact_parts()
    options = {"upsampling": "bicubic", "licences": ("weights: ours, Apache-2.0",), "dtype": dtype}
    description = save_model(tmp_path / "m", generator, prompts, name="tiny-compact", **options)
    model = load_model(tmp_path / "m", verify=True)
    assert model.description == description
    assert model.description.generator == COMPACT
    assert model.description.licences == ("weights: ours, Apache-2.0",)
    assert model.upsampling == "bicubic"
    assert model.prompts.positive_text is None
    assert model.text_encoder is None
    assert torch.equal(model.prompts.negative, prompts.negative.to(dtype).float())
    state = model.generator.state_dict()
    for name, tensor in generator.state_dict().items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor.to(dtype).float()), name
    for file in (tmp_path / "m").iterdir():
        # What the user's own umask gives, whatever the libraries do.
        assert file.stat().st_mode == (tmp_path / "m" / "config.json").stat().st_mode
    assert model.generator(torch.zeros(1, 3, 16, 16), torch.ones(1, 2), *_contexts(model)).shape == (1, 3, 16, 16)


def test_the_guidance_counts_in_the_fingerprint_where_it_is_not_the_release_s(tmp_path: Path) -> None:
    for name, changes in {"plain": {}, "same": {"guidance": 1.07}, "other": {"guidance": 1.0}}.items():
        save_compact(tmp_path / name, **changes)
    plain, same, other = (load_model(tmp_path / name, verify=True) for name in ("plain", "same", "other"))
    assert plain.fingerprint == same.fingerprint != other.fingerprint
    assert (plain.guidance, other.guidance) == (1.07, 1)
    edit_json(tmp_path / "other" / "config.json", guidance=1.07)
    with pytest.raises(ModelError, match="fingerprint") as error:
        load_model(tmp_path / "other")
    one_line(error)


def _contexts(model: Any) -> tuple[Tensor, Tensor]:
    return model.prompts.positive[None], model.prompts.negative[None]


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    save_compact(tmp_path / "m")
    before = torch.get_rng_state()
    model = load_model(tmp_path / "m")
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.requires_grad for parameter in model.generator.parameters()), "it can be trained further"


def test_saving_replaces_a_model_and_nothing_else(tmp_path: Path) -> None:
    save_compact(tmp_path / "m", upsampling="bilinear")
    (tmp_path / "m" / "MODEL_CARD.md").write_text("of the older model")
    (tmp_path / "m" / "tokenizer").mkdir()
    save_compact(tmp_path / "m", upsampling="bicubic")
    assert load_model(tmp_path / "m").upsampling == "bicubic"
    assert not (tmp_path / "m" / "MODEL_CARD.md").exists()

    (tmp_path / "empty").mkdir()
    save_compact(tmp_path / "empty")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("photos", "file", "file/below"):
        with pytest.raises(OutputError) as error:
            save_compact(tmp_path / name)
        one_line(error)
    assert (tmp_path / "photos" / "a.jpg").read_text() == (tmp_path / "file").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "m", "photos"]


@pytest.mark.parametrize("other", ["photos/a.jpg", "notes.txt", ".hidden"])
def test_a_model_folder_with_somebodys_own_files_is_left_alone(tmp_path: Path, other: str) -> None:
    save_compact(tmp_path / "m")
    (tmp_path / "m" / other).parent.mkdir(exist_ok=True)
    (tmp_path / "m" / other).write_text("precious")
    before = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=f"holds {re.escape(other.split('/')[0])}, .*move it away") as error:
        save_compact(tmp_path / "m", upsampling="bicubic")
    one_line(error)
    assert {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("positive", "negative"), [((5, 7), (5, 7)), ((5, 6), (4, 6)), ((6,), (6,)), ((0, 6), (0, 6)), ((1, 5, 6), (5, 6))]
)
def test_prompts_that_the_unet_cannot_take_are_not_written(
    tmp_path: Path, positive: tuple[int, ...], negative: tuple[int, ...]
) -> None:
    generator, _ = compact_parts()
    prompts = StoredPrompts(torch.zeros(positive), torch.zeros(negative))
    with pytest.raises(ModelError, match=r"the UNet takes two of \[tokens, 6\]") as error:
        save_model(tmp_path / "m", generator, prompts, name="x")
    one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_changes_nothing(tmp_path: Path) -> None:
    save_compact(tmp_path / "m")
    before = load_model(tmp_path / "m").fingerprint
    generator, prompts = compact_parts()
    generator.conditioning.frequencies[0] = torch.nan
    with pytest.raises(ModelError, match=r"conditioning\.frequencies is not finite"):
        save_model(tmp_path / "m", generator, prompts, name="broken")
    generator.conditioning.frequencies[0] = 1e6
    with pytest.raises(ModelError, match=r"not finite in torch\.float16"):
        save_model(tmp_path / "m", generator, prompts, name="too large", dtype=torch.float16)
    with pytest.raises(ModelError, match="bfloat16"):
        save_model(tmp_path / "m", generator, prompts, name="x", dtype=torch.bfloat16)
    with pytest.raises(OutputError):
        save_model(tmp_path / "m", generator, prompts, name="x", tokenizer=tmp_path / "no-such-folder")
    assert load_model(tmp_path / "m").fingerprint == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: shutil.rmtree(f), "is no folder"),
        (lambda f: (f / "config.json").unlink(), "holds no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "no valid JSON"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "no valid JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "no valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "holds a list"),
        (lambda f: edit_json(f / "config.json", format="other"), "not of the format s3diff-model"),
        (lambda f: edit_json(f / "config.json", format_version=1), "holds a model of format 1, .*: convert it again"),
        (lambda f: edit_json(f / "config.json", format_version=3), "format_version 3; this s3diff reads 2: update"),
        (lambda f: edit_json(f / "config.json", format_version=True), "format_version True"),
        (lambda f: edit_json(f / "config.json", generator="(left out)"), "lacks generator"),
        (lambda f: edit_json(f / "config.json", colour="red"), "unknown field colour"),
        (lambda f: edit_json(f / "config.json", name=3), "name is 3; a text is needed"),
        (lambda f: edit_json(f / "config.json", upsampling="area"), "upsampling is 'area'; allowed are 'bilinear'"),
        (lambda f: edit_json(f / "config.json", generator={}), "does not fit"),
        (lambda f: (f / "unet.safetensors").unlink(), r"unet\.safetensors does not exist"),
        (lambda f: (f / "prompts.safetensors").unlink(), r"prompts\.safetensors does not exist"),
        (lambda f: (f / "unet.safetensors").write_bytes(b"nonsense"), r"unet\.safetensors is damaged"),
        (lambda f: (f / "unet.safetensors").write_bytes(b""), r"unet\.safetensors is damaged"),
        (lambda f: truncate(f / "estimator.safetensors"), r"estimator\.safetensors is damaged"),
    ],
)
def test_broken_model_folders(tmp_path: Path, change: Callable[[Path], Any], message: str) -> None:
    folder = tmp_path / "m"
    save_compact(folder)
    change(folder)
    with pytest.raises(ModelError, match=message) as error:
        load_model(folder, verify=False)
    assert str(folder) in one_line(error)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def edit_generator(folder: Path, part: str, **fields: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["generator"][part].update(fields)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("unet", "width", 3, r"generator\.unet has the unknown field width"),
        ("unet", "norm", "batch", "norm is 'batch'; allowed are 'group', 'branch', 'none'"),
        ("unet", "block_out_channels", 8, "a list is needed"),
        ("unet", "block_out_channels", [8, "12"], r"block_out_channels\[1\] is '12'"),
        ("unet", "block_out_channels", [], r"block_out_channels is \[\]; allowed: 1 to 16 widths"),
        ("unet", "block_out_channels", [8] * 17, "allowed: 1 to 16 widths"),
        ("unet", "block_out_channels", [8, -12], r"block_out_channels\[1\] is -12; allowed: 1 to 65536"),
        ("unet", "block_out_channels", [9, 12], r"block_out_channels\[0\] is 9; allowed: even widths"),
        ("unet", "num_heads", [2], "cannot be built .*num_heads 1, .*give one per block"),
        ("unet", "num_heads", [2, 0], r"num_heads\[1\] is 0; allowed: 1 to"),
        ("unet", "num_heads", [2, 7], r"cannot be built \(num_heads\[1\] is 7; allowed: divisors of the width 12\)"),
        ("unet", "num_heads", [3, 2], r"num_heads\[0\] is 3; allowed: divisors of the width 8"),
        ("unet", "norm", "group", "norm_num_groups is 32; allowed: divisors of the width 8"),
        ("unet", "norm_num_groups", 0, "norm_num_groups is 0; allowed: 1 to"),
        ("unet", "norm_eps", -1, r"norm_eps is -1\.0; allowed: 1e-12 to 1"),
        ("unet", "context_channels", 0, "context_channels is 0; allowed: 1 to"),
        ("unet", "latent_channels", 0, "latent_channels is 0; allowed: 1 to"),
        ("unet", "lora_rank", -1, "lora_rank is -1; allowed: 0 to 1024"),
        ("unet", "lora_rank", 10**9, "lora_rank is 1000000000; allowed: 0 to 1024"),
        ("unet", "upsample", "area", "upsample is 'area'; allowed are 'nearest', 'bilinear'"),
        ("autoencoder", "image_channels", 2, "image_channels is 2; allowed: 3"),
        ("autoencoder", "norm_eps", 0, r"norm_eps is 0\.0; allowed"),
        ("autoencoder", "norm", "group", "norm_num_groups is 32; allowed: divisors of the width 8"),
        ("autoencoder", "attention", True, "norm_num_groups is 32; allowed: divisors of the width 8"),
        ("autoencoder", "pixel_unshuffle", 0, "pixel_unshuffle is 0; allowed: 1 to 64"),
        ("autoencoder", "lora_rank", -2, "lora_rank is -2; allowed: 0 to 1024"),
        ("autoencoder", "decoder_channels", [8, 8, 0], r"decoder_channels\[2\] is 0; allowed"),
        ("autoencoder", "decoder_channels", [], "allowed: 1 to 16 widths"),
        ("estimator", "stage_channels", [4, 0], r"stage_channels\[1\] is 0; allowed"),
        ("estimator", "hidden_channels", -8, "hidden_channels is -8; allowed"),
        ("conditioning", "num_frequencies", 0, "num_frequencies is 0; allowed"),
        ("conditioning", "block_channels", -1, "block_channels is -1; allowed"),
        ("unet", "cross_attention", [1, 1], r"cross_attention\[0\] is 1; true or false is needed"),
        ("unet", "layers_per_block", 1.0, "a whole number is needed"),
        ("unet", "lora_rank", 3, "does not fit: misshapen"),
        ("unet", "layers_per_block", 10**30, "layers_per_block is 1000000000000000000000000000000; allowed: 1 to 64"),
        ("autoencoder", "layers_per_block", 5000, "layers_per_block is 5000; allowed: 1 to 64"),
        ("autoencoder", "scaling_factor", 0, r"scaling_factor is 0\.0; allowed"),
        ("autoencoder", "scaling_factor", 1e308, "scaling_factor is 1e\\+308; allowed"),
        ("schedule", "num_train_timesteps", 10**30, "num_train_timesteps is 1000000000000000000000000000000; allowed"),
        ("unet", "norm_eps", "small", "a finite number is needed"),
        ("unet", "norm_eps", 10**400, "a finite number is needed"),
        ("autoencoder", "latent_channels", 3, "cannot be built"),
        ("autoencoder", "decoder_channels", [8, 8], "cannot be built"),
        ("estimator", "stage_channels", [4, 6, 8], "a list of 2"),
        ("conditioning", "identity_start", None, "true or false is needed"),
        ("schedule", "prediction_type", "flow", "prediction_type is 'flow'"),
        ("schedule", "timestep", 1000, "timestep is 1000; allowed: 0 to 999"),
    ],
)
def test_broken_configurations(tmp_path: Path, part: str, field: str, value: Any, message: str) -> None:
    save_compact(tmp_path / "m")
    edit_generator(tmp_path / "m", part, **{field: value})
    with pytest.raises(ModelError, match=message) as error:
        load_model(tmp_path / "m", verify=False)
    one_line(error)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (UNetConfig, "norm", "batch"),
        (UNetConfig, "upsample", "area"),
        (UNetConfig, "num_heads", (5, 10, 20, 0)),
        (UNetConfig, "norm_eps", float("nan")),
        (AutoencoderConfig, "norm", "batch"),
        (AutoencoderConfig, "upsample", "area"),
        (AutoencoderConfig, "image_channels", 4),
        (DegradationEstimatorConfig, "stage_channels", (4, 5, 6)),
        (ConditioningConfig, "hidden_channels", 0),
    ],
)
def test_configurations_check_themselves(config: type, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field}.* is .*; allowed: ") as error:
        config(**{field: value})
    one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("generator.unet.num_heads=1,1,0", r"--set generator\.unet\.num_heads: num_heads\[2\] is 0; allowed"),
        ("generator.unet.norm_eps=-1", "norm_eps is -1"),
        ("generator.autoencoder.image_channels=2", "image_channels is 2; allowed: 3"),
        ("generator.estimator.hidden_channels=0", "hidden_channels is 0"),
        ("generator.conditioning.num_frequencies=0", "num_frequencies is 0"),
    ],
)
def test_training_refuses_the_same_values_in_one_line(change: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as error:
        with_change(debug(), change)
    one_line(error)


def test_training_refuses_fields_that_do_not_agree_in_one_line() -> None:
    """Two fields are set one after the other, so that what they must agree on is known when the networks are built."""
    wider = with_change(debug(), "generator.unet.block_out_channels=10,20")
    prepare_initial_model(with_change(wider, "generator.unet.num_heads=5,4"), None, None)
    for change in ("generator.unet.num_heads=5,7", "generator.unet.num_heads=5"):
        with pytest.raises(ModelError, match="num_heads") as error:
            prepare_initial_model(with_change(wider, change), None, None)
        one_line(error)


def test_model_tensors_are_strict(tmp_path: Path) -> None:
    save_compact(tmp_path / "m")
    path = tmp_path / "m" / "conditioning.safetensors"
    tensors = load_file(path)
    tensors["extra"] = tensors.pop("frequencies")
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"missing 1: conditioning\.frequencies; unexpected 1: conditioning\.extra"):
        load_model(tmp_path / "m", verify=False)


@pytest.mark.parametrize("shape", [(5, 7), (4, 6), (5,), (0, 6)])
def test_prompts_are_strict(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_compact(tmp_path / "m")
    path = tmp_path / "m" / "prompts.safetensors"
    save_file({**load_file(path), "negative": torch.zeros(shape)}, path)
    with pytest.raises(ModelError, match=r"prompts\.safetensors does not fit: misshapen"):
        load_model(tmp_path / "m", verify=False)


def test_fingerprint_guards_small_models(tmp_path: Path) -> None:
    save_compact(tmp_path / "m")
    path = tmp_path / "m" / "estimator.safetensors"
    tensors = load_file(path)
    tensors["conv_first.0.bias"][0] += 1e-3
    save_file(tensors, path)
    for verify in (None, True):
        with pytest.raises(ModelError, match="files were changed or mixed"):
            load_model(tmp_path / "m", verify=verify)
    load_model(tmp_path / "m", verify=False)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [("schedule", "timestep", 998), ("autoencoder", "scaling_factor", 0.5), ("unet", "num_heads", [4, 2])],
)
def test_fingerprint_guards_what_the_tensors_cannot_show(tmp_path: Path, part: str, field: str, value: Any) -> None:
    save_compact(tmp_path / "m")
    edit_generator(tmp_path / "m", part, **{field: value})
    with pytest.raises(ModelError, match="files were changed or mixed"):
        load_model(tmp_path / "m")
    save_compact(tmp_path / "m")
    edit_json(tmp_path / "m" / "config.json", upsampling="bicubic")
    with pytest.raises(ModelError, match="files were changed or mixed"):
        load_model(tmp_path / "m")


def test_fingerprint_is_the_same_for_equal_values(tmp_path: Path) -> None:
    """However they are written down, and in whatever order."""
    whole = replace(COMPACT, autoencoder=replace(COMPACT.autoencoder, scaling_factor=2.0))
    save_model(tmp_path / "m", OneStepGenerator(whole), compact_parts()[1], name="whole")
    path = tmp_path / "m" / "config.json"
    content = json.loads(path.read_text())
    content["generator"]["schedule"]["beta_end"] = content["generator"]["schedule"].pop("beta_end")
    content["generator"]["autoencoder"]["scaling_factor"] = 2
    del content["generator"]["unet"]["norm_eps"]  # at its default, as in files from before the field existed
    path.write_text(json.dumps(dict(reversed(content.items()))))
    load_model(tmp_path / "m", verify=True)


def test_canonical_json() -> None:
    assert canonical_json(GeneratorConfig()) == "{}"
    one = AutoencoderConfig(scaling_factor=2, block_out_channels=(8,))
    assert canonical_json(one) == '{"block_out_channels":[8],"scaling_factor":2.0}'
    assert canonical_json(GeneratorConfig(autoencoder=one)) == f'{{"autoencoder":{canonical_json(one)}}}'


def test_large_models_are_verified_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_compact(tmp_path / "m")
    edit_json(tmp_path / "m" / "config.json", fingerprint="sha256:0")
    monkeypatch.setattr("s3diff.checkpoints.model_folder.MAX_BYTES_VERIFIED", 1000)
    load_model(tmp_path / "m")
    with pytest.raises(ModelError, match="fingerprint"):
        load_model(tmp_path / "m", verify=True)


def test_fingerprint_covers_names_shapes_types_bytes_and_settings() -> None:
    one = {"a": {"x": torch.arange(6.0)}}
    others = [
        {"b": {"x": torch.arange(6.0)}},
        {"a": {"y": torch.arange(6.0)}},
        {"a": {"x": torch.arange(6.0).reshape(2, 3)}},
        {"a": {"x": torch.arange(6.0).view(torch.int32)}},
        {"a": {"x": torch.arange(6.0).flip(0)}},
    ]
    assert fingerprint(one, "{}") == fingerprint(copy.deepcopy(one), "{}")
    assert len({*(fingerprint(value, "{}") for value in (one, *others)), fingerprint(one, '{"a":1}')}) == 7
    strided = torch.arange(12.0).reshape(6, 2)[:, 0] / 2
    assert fingerprint({"a": {"x": strided}}, "") == fingerprint(one, "")
    two = {"x": torch.ones(1), "y": torch.zeros(1)}
    assert fingerprint({"a": two}, "") == fingerprint({"a": dict(reversed(two.items()))}, "")


def test_description_alone_reads_no_weights(tmp_path: Path) -> None:
    save_compact(tmp_path / "m")
    for component in COMPONENTS:
        (tmp_path / "m" / f"{component}.safetensors").unlink()
    assert read_description(tmp_path / "m").name == "tiny-compact"


def test_a_diffusers_folder_is_told_apart() -> None:
    with pytest.raises(ModelError, match="looks like a diffusers folder, s3diff convert makes a model of it"):
        load_model(official_files().base)


@pytest.mark.parametrize("config", [GeneratorConfig(), COMPACT], ids=["full size", "compact"])
def test_configurations_survive_json(config: GeneratorConfig) -> None:
    text = json.dumps(to_json(config))
    assert from_json(GeneratorConfig, json.loads(text), "config") == config


def test_left_out_fields_keep_their_defaults() -> None:
    assert from_json(UNetConfig, {"lora_rank": 4}, "unet") == UNetConfig(lora_rank=4)
