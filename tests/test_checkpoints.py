"""The authors' files: read safely and strictly, converted, and written back bit for bit."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import random
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conftest import goldens_path
from golden_models import official_files, tiny_model, tiny_model_folder
from s3diff.checkpoints.convert import NEGATIVE_PROMPT, POSITIVE_PROMPT, convert, to_official
from s3diff.checkpoints.model_folder import StoredPrompts, load_model, save_model
from s3diff.checkpoints.official_pickle import read_official_estimator, read_official_pickle, write_official_pickle
from s3diff.checkpoints.sd_turbo import read_json, read_sd_turbo, read_sd_turbo_config
from s3diff.checkpoints.weights_file import read_safetensors, read_torch_file
from s3diff.errors import ModelError, OutputError, S3DiffError
from s3diff.networks.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator
from tiny_models import one_line, save_compact

LORA_NAME = "down_blocks.0.attentions.0.proj_in.lora_A.default.weight"


def base_config() -> GeneratorConfig:
    return read_sd_turbo_config(goldens_path("sd_tiny"))


def read_pickle(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def assert_same_content(found: Any, expected: Any, where: str = "") -> None:
    """The same types, names in their order, values and bits."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for name in expected:
            assert_same_content(found[name], expected[name], f"{where}/{name}")
        if isinstance(expected, OrderedDict):
            assert found._metadata == expected._metadata, where  # type: ignore[attr-defined]
    elif isinstance(expected, Tensor):
        assert found.dtype == expected.dtype, where
        assert found.requires_grad == expected.requires_grad, where
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32)), where
    else:
        assert found == expected, where


@pytest.fixture(scope="module")
def float16_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models converted in float16. Read only."""
    files = official_files()
    folder = tmp_path_factory.mktemp("float16") / "model"
    convert(files.base, files.pickle, files.estimator, folder, dtype=torch.float16)
    assert list(folder.parent.iterdir()) == [folder], "no temporary files are left"
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_round_trip_is_bit_equal(tmp_path: Path, float16_folder: Path, dtype: torch.dtype) -> None:
    files = official_files()
    folder = float16_folder if dtype == torch.float16 else tiny_model_folder()
    to_official(folder, tmp_path / "s3diff.pkl", tmp_path / "de_net.pth", base_folder=files.base)
    assert_same_content(read_pickle(tmp_path / "s3diff.pkl"), read_pickle(files.pickle))
    found, expected = read_pickle(tmp_path / "de_net.pth"), read_pickle(files.estimator)
    assert_same_content(dict(found), dict(expected))
    assert type(found) is OrderedDict
    assert not list(tmp_path.glob(".*")), "no temporary files are left"
    assert not list(folder.parent.glob(".*")), "no temporary files are left"


def test_float16_halves_the_base_and_keeps_what_was_trained(float16_folder: Path) -> None:
    unet = load_file(float16_folder / "unet.safetensors")
    trained = {name for name, tensor in unet.items() if tensor.dtype == torch.float32}
    assert trained == {name for name in unet if "lora_" in name or name.startswith("conv_in.")}
    full = tiny_model().generator.state_dict()
    for name, tensor in load_model(float16_folder).generator.state_dict().items():
        torch.testing.assert_close(tensor, full[name], rtol=1e-3, atol=1e-7)


class _RunsACommand:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


def read_estimator(path: Path) -> dict[str, Tensor]:
    return read_official_estimator(path, DegradationEstimatorConfig())


@pytest.mark.parametrize("writer", ["torch", "torch legacy", "pickle", "nested"])
@pytest.mark.parametrize("kind", ["s3diff.pkl", "de_net.pth"])
def test_a_pickle_that_carries_code_never_runs_it(tmp_path: Path, writer: str, kind: str) -> None:
    marker, path = tmp_path / "it-ran", tmp_path / kind
    evil: Any = _RunsACommand(f"touch {marker}")
    if writer == "nested":
        evil = {**read_pickle(official_files().pickle), "w": evil}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=writer != "torch legacy")
    with pytest.raises(ModelError) as error:
        _ = read_official_pickle(path, base_config()) if kind == "s3diff.pkl" else read_estimator(path)
    assert "carries code" in one_line(error)
    assert str(path) in one_line(error)
    assert not marker.exists()

    pickle.loads(pickle.dumps(_RunsACommand(f"touch {marker}")))
    assert marker.exists(), "the trap itself works"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_pickle_protocol_that_cannot_be_looked_into_is_named(tmp_path: Path, protocol: int, zipped: bool) -> None:
    path = tmp_path / "de_net.pth"
    state = DegradationEstimator(DegradationEstimatorConfig()).state_dict()
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    if protocol == 3:
        assert read_estimator(path).keys() == state.keys()
        return
    with pytest.raises(ModelError, match=f"is written with pickle protocol {protocol}; above 3 .* nothing was run"):
        read_estimator(path)


def test_a_pointer_of_git_lfs_is_called_so(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 138000000\n"
    names = ("s3diff.pkl", "unet.safetensors", "config.json")
    for name, read in zip(names, (read_torch_file, read_safetensors, read_json), strict=True):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(
            ModelError, match=rf"{name} is a pointer of Git LFS .*; fetch it with git lfs pull"
        ) as error:
            read(tmp_path / name)
        one_line(error)


@pytest.mark.parametrize("content", [b"", b"not a pickle at all\n", b"PK\x03\x04", pickle.dumps([1, 2])])
def test_files_that_are_no_torch_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s3diff.pkl"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"no torch file|damaged|pickle protocol [45]") as error:
        read_official_pickle(path, base_config())
    one_line(error)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_official_pickle(tmp_path / "none.pkl", base_config())
    with pytest.raises(ModelError, match="is a folder"):
        read_official_pickle(tmp_path, base_config())


@pytest.mark.parametrize("zipped", [True, False], ids=["torch", "torch legacy"])
def test_a_file_that_is_cut_off(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "s3diff.pkl"
    torch.save(read_pickle(official_files().pickle), path, _use_new_zipfile_serialization=zipped)
    for part in (0.01, 0.5, 0.999):
        content = path.read_bytes()
        (tmp_path / "cut.pkl").write_bytes(content[: int(part * len(content))])
        with pytest.raises(
            ModelError, match=r"cut\.pkl .*is cut off.*take|cut\.pkl is cut off.*fetch it again"
        ) as error:
            read_official_pickle(tmp_path / "cut.pkl", base_config())
        one_line(error)


def test_damaged_files_give_one_line(tmp_path: Path) -> None:
    """Cut and changed bytes: the file is read as what it now says, or refused; nothing else may be raised."""
    content, path, draw = goldens_path("s3diff_tiny.pkl").read_bytes(), tmp_path / "s3diff.pkl", random.Random(7)
    config, refused = base_config(), 0
    for attempt in range(60):
        damaged = bytearray(content)
        if attempt % 2:
            damaged = damaged[: draw.randrange(len(content))]
        else:
            for _ in range(draw.choice((1, 4, 30))):
                damaged[draw.randrange(90_000)] = draw.randrange(256)
        path.write_bytes(damaged)
        message = message_of(path, config)
        assert "\n" not in message
        assert "PytorchStreamReader" not in message, "torch's own words, which end in the middle of a sentence"
        if attempt % 2:
            assert "cut off" in message
        refused += bool(message)
    assert refused >= 30


def message_of(path: Path, config: GeneratorConfig) -> str:
    try:
        read_official_pickle(path, config)
    except ModelError as error:
        return str(error)
    return ""


def changed(change: Callable[[dict[str, Any]], Any], path: Path) -> Path:
    content = read_pickle(official_files().pickle)
    change(content)
    torch.save(content, path)
    return path


def _set(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["state_dict_unet"].pop(LORA_NAME), rf"missing 1: state_dict_unet/{LORA_NAME}"),
        (_set("state_dict_unet", "extra.weight", value=torch.ones(1)), "unexpected 1: state_dict_unet/extra.weight"),
        (_set("state_dict_unet", LORA_NAME, value=torch.ones(6, 17)), r"proj_in.*\[6, 17\] instead of \[6, 16\]"),
        (_set("state_dict_unet", LORA_NAME, value=[1.0]), "list instead of a tensor"),
        (_set("state_dict_unet", LORA_NAME, value=torch.ones(6, 16, dtype=torch.int32)), "int32"),
        (_set("state_dict_unet", LORA_NAME, value=torch.ones(6, 16).to_sparse()), "sparse"),
        (_set("state_dict_unet", LORA_NAME, value=torch.full((6, 16), torch.nan)), "not finite"),
        (_set("state_dict_unet", "a\nb", value=torch.ones(1)), r"unexpected 1: state_dict_unet/a\?b"),
        (_set("rank_unet", value=8), r"rank 8 in the UNet.*misshapen.*\[6, 16\] instead of \[8, 16\]"),
        (_set("rank_vae", value=2), r"2 in the VAE.*misshapen"),
        (_set("rank_unet", value=0), "rank_unet 0; allowed 1 to 1024"),
        (_set("rank_unet", value=-3), "rank_unet -3"),
        (_set("rank_unet", value=True), "rank_unet True"),
        (_set("rank_unet", value="6"), "rank_unet is a str instead of a int"),
        (_set("rank_unet", value=10**9), r"s3diff\.pkl states rank_unet 1000000000; allowed 1 to 1024"),
        (_set("rank_vae", value=10**12), r"s3diff\.pkl states rank_vae 1000000000000; allowed 1 to 1024"),
        (lambda c: c["unet_lora_target_modules"].remove("to_k"), r"adapts other layers .*\(without to_k\)"),
        (lambda c: c["unet_lora_target_modules"].append("to_x"), r"adapts other layers .*\(with to_x\)"),
        (_set("unet_lora_target_modules", value=[3, "a\nb"]), r"without to_k, .*; only"),
        (_set("vae_lora_target_modules", value="^decoder"), r"the VAE's are \^decoder\)"),
        (lambda c: c.pop("rank_vae"), "missing rank_vae"),
        (lambda c: c.pop("w"), "missing w"),
        (_set("w", value=torch.ones(63)), r"\[63\] instead of \[64\]"),
        (_set("unknown", value=1), "unexpected unknown"),
        (_set("state_dict_vae", value=[1]), "state_dict_vae is a list"),
        (lambda c: c["state_embeddings"].pop("state_dict_vae_block"), "missing 1.*state_dict_vae_block"),
        (_set("state_embeddings", "state_dict_vae_block", value=3), "state_dict_vae_block"),
    ],
)
def test_official_pickle_is_strict(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    path = changed(change, tmp_path / "s3diff.pkl")
    with pytest.raises(ModelError, match=message) as error:
        read_official_pickle(path, base_config())
    one_line(error)


def test_pickle_of_another_base_model(tmp_path: Path) -> None:
    wider = dataclasses.replace(base_config(), unet=dataclasses.replace(base_config().unet, context_channels=48))
    with pytest.raises(ModelError, match=r"misshapen 32: .*attn2\.to_k\.lora_A.*\[6, 32\] instead of \[6, 48\].* more"):
        read_official_pickle(official_files().pickle, wider)


def test_bfloat16_checkpoints_are_read(tmp_path: Path) -> None:
    exact = read_pickle(official_files().pickle)["state_dict_unet"][LORA_NAME]
    path = changed(_set("state_dict_unet", LORA_NAME, value=exact.bfloat16()), tmp_path / "s3diff.pkl")
    found = read_official_pickle(path, base_config()).state["unet.down_blocks.0.attentions.0.proj_in.lora_A"]
    assert torch.equal(found, exact.bfloat16().float())


def test_estimator_is_strict(tmp_path: Path) -> None:
    content = dict(read_pickle(official_files().estimator))
    content["conv_first.0.extra"] = content.pop("conv_first.0.bias")
    torch.save(content, tmp_path / "de_net.pth")
    with pytest.raises(ModelError, match=r"missing 1: conv_first\.0\.bias; unexpected 1: conv_first\.0\.extra"):
        read_estimator(tmp_path / "de_net.pth")
    torch.save([1, 2], tmp_path / "de_net.pth")
    with pytest.raises(ModelError, match="holds a list"):
        read_estimator(tmp_path / "de_net.pth")


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as error:
        to_official(tiny_model_folder(), tmp_path / "file" / "s3diff.pkl", base_folder=official_files().base)
    one_line(error)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError):
        to_official(tiny_model_folder(), tmp_path / "folder", base_folder=official_files().base)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_what_the_pickle_cannot_hold_is_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    """Written, it would be lost: a trained weight of the base, and a learned prompt."""
    model, base = tiny_model(), official_files().base
    trained, stored = copy.deepcopy(model.generator), model.prompts
    trained.unet.conv_in.weight.data *= 1.5  # this one it holds
    texts = (stored.positive_text, stored.negative_text)
    for change, prompts, named in (
        ("unet.mid_block.resnets.0.conv1.weight", stored, r"unet\.mid_block\.resnets\.0\.conv1\.weight;"),
        ("autoencoder.decoder.conv_out.bias", stored, r"decoder\.conv_out\.bias;"),
        (None, StoredPrompts(stored.positive, stored.negative, None, texts[1]), "the positive prompt;"),
        (None, StoredPrompts(stored.positive, stored.negative, texts[0], "blur"), "the negative prompt;"),
        (None, stored, None),
    ):
        changed = copy.deepcopy(trained)
        if change is not None:
            dict(changed.named_parameters())[change].data.flatten()[0] += 0.25
        save_model(tmp_path / "model", changed, prompts, name="mine", dtype=dtype, float32_names=frozenset())
        if named is None:
            to_official(tmp_path / "model", tmp_path / "s3diff.pkl", base_folder=base)
            continue
        with pytest.raises(ModelError, match=f"cannot hold: .*{named} keep the model folder") as error:
            to_official(tmp_path / "model", tmp_path / "s3diff.pkl", base_folder=base)
        one_line(error)
        assert not (tmp_path / "s3diff.pkl").exists()


def test_convert_describes_the_model() -> None:
    model = tiny_model()
    assert model.name == "s3diff"
    assert model.upsampling == "bilinear"
    assert (model.prompts.positive_text, model.prompts.negative_text) == (POSITIVE_PROMPT, NEGATIVE_PROMPT)
    assert model.prompts.positive.shape == (77, 32)
    assert model.config.unet.lora_rank == 6
    assert model.config.autoencoder.lora_rank == 4
    assert any("Stability" in line for line in model.description.licences)
    assert model.tokenizer is not None
    assert model.text_encoder is not None
    assert not model.generator.training
    assert {tensor.dtype for tensor in model.generator.state_dict().values()} == {torch.float32}


def test_convert_takes_conv_in_from_the_pickle() -> None:
    found = tiny_model().generator.unet.conv_in.weight
    assert torch.equal(found, read_pickle(official_files().pickle)["state_dict_unet"]["conv_in.weight"])
    assert not torch.equal(found, read_sd_turbo(official_files().base).state["unet.conv_in.weight"])


def test_convert_without_the_text_encoder(tmp_path: Path) -> None:
    files = official_files()
    convert(files.base, files.pickle, files.estimator, tmp_path / "m", with_text_encoder=False, name="mine")
    model = load_model(tmp_path / "m")
    assert (model.name, model.tokenizer, model.text_encoder) == ("mine", None, None)
    assert torch.equal(model.prompts.positive, tiny_model().prompts.positive)
    assert model.fingerprint == tiny_model().fingerprint


def test_only_changes_of_sd_turbo_can_be_written_officially(tmp_path: Path) -> None:
    save_compact(tmp_path / "m")
    with pytest.raises(ModelError, match="its UNet has no self-attention"):
        to_official(tmp_path / "m", tmp_path / "s3diff.pkl", base_folder=official_files().base)
    assert not (tmp_path / "s3diff.pkl").exists()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("autoencoder", {"residual": True}, "its decoder adds the input"),
        ("autoencoder", {"norm_eps": 1e-5}, "another norm_eps"),
        ("estimator", {"stage_channels": (4, 8)}, "its estimator has another shape"),
        ("conditioning", {"block_channels": 32}, "its conditioning has other widths"),
        ("schedule", {"timestep": 500}, "another timestep"),
    ],
)
def test_what_the_official_layout_cannot_say_is_refused(
    tmp_path: Path, part: str, change: dict[str, Any], message: str
) -> None:
    config = tiny_model().config
    changed_part = dataclasses.replace(getattr(config, part), **change)
    with torch.device("meta"):
        generator = OneStepGenerator(dataclasses.replace(config, **{part: changed_part}))
    with pytest.raises(ModelError, match=message) as error:
        write_official_pickle(generator, tmp_path / "s3diff.pkl")
    one_line(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["base", "pickle", "estimator"])
def test_convert_names_the_broken_file(tmp_path: Path, broken: str) -> None:
    paths = dataclasses.asdict(official_files())
    paths[broken] = tmp_path / "nowhere"
    with pytest.raises(S3DiffError, match="nowhere"):
        convert(paths["base"], paths["pickle"], paths["estimator"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_convert_checks_the_output_first(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("precious")
    with pytest.raises(OutputError, match="no model folder"):
        convert(tmp_path / "nowhere", tmp_path / "nowhere", tmp_path / "nowhere", tmp_path / "photos")
