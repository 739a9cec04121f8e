"""Prompts: the released code's token numbers and embeddings, and every way in which a text encoder can be missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import goldens_path, shared_path
from golden_models import tiny_model
from s3diff.checkpoints.model_folder import load_model, save_model
from s3diff.errors import ModelError
from s3diff.networks.prompts import encode_prompts, tokenize
from tiny_models import compact_parts

#: No noise floor was measured for the embeddings; values reach 4, a wrong pad token moves them by more than 1.
EMBEDDING_TOLERANCE = 2e-5

TOKENIZER, TEXT_ENCODER = "sd_tiny/tokenizer", "sd_tiny/text_encoder"


def test_token_numbers() -> None:
    golden = json.loads(goldens_path("tokenizer_ids.json").read_text())
    found = tokenize(goldens_path(TOKENIZER), golden["prompts"])
    assert found.tolist() == golden["tiny_vocab_ids"]


def test_embeddings() -> None:
    cases = json.loads(goldens_path("cases.json").read_text())
    found = encode_prompts(
        goldens_path(TOKENIZER), goldens_path(TEXT_ENCODER), [cases["pos_prompt"], cases["neg_prompt"]]
    )
    assert found.shape == (2, 77, 32)
    assert found.dtype == torch.float32
    with np.load(goldens_path("case_small_mode.npz")) as golden:
        for index, name in enumerate(("pos_enc", "neg_enc")):
            expected = torch.from_numpy(golden[name][0])
            print(f"{name}: {(found[index] - expected).abs().max():.1e}")
            torch.testing.assert_close(found[index], expected, rtol=0, atol=EMBEDDING_TOLERANCE)
    model = tiny_model()
    torch.testing.assert_close(model.prompts.positive, found[0], rtol=0, atol=1e-6)
    assert not found.is_inference(), "training may use it"


def test_a_converted_model_encodes_other_prompts() -> None:
    model = tiny_model()
    found = encode_prompts(model.tokenizer, model.text_encoder, ["a photo of a cat's paw", "x" * 500])
    assert found.shape == (2, 77, 32)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_a_model_without_text_encoder_says_so() -> None:
    with pytest.raises(ModelError, match="only its stored prompts"):
        encode_prompts(None, None, ["anything"])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in (TOKENIZER, TEXT_ENCODER):
        shutil.copytree(goldens_path(name), tmp_path / Path(name).name)
    return tmp_path / "tokenizer", tmp_path / "text_encoder"


def refuse(folders: tuple[Path, Path], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        encode_prompts(*folders, ["a picture"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_incomplete_tokenizer(folders: tuple[Path, Path], name: str) -> None:
    (folders[0] / name).unlink()
    refuse(folders, f"{name} does not exist")


def test_a_tokenizer_as_transformers_writes_it_today(folders: tuple[Path, Path]) -> None:
    """One ``tokenizer.json`` in place of ``vocab.json`` and ``merges.txt``, and a configuration."""
    golden = json.loads(goldens_path("tokenizer_ids.json").read_text())
    transformers: Any = pytest.importorskip("transformers")
    kind = getattr(transformers, "CLIPTokenizerFast", None) or transformers.CLIPTokenizer
    kind.from_pretrained(str(folders[0]), local_files_only=True).save_pretrained(str(folders[0].parent / "today"))
    today = folders[0].parent / "today"
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (today / name).unlink(missing_ok=True)
    assert tokenize(today, golden["prompts"]).tolist() == golden["tiny_vocab_ids"]


@pytest.mark.shared
def test_a_tokenizer_of_one_file_that_others_wrote() -> None:
    golden = json.loads(goldens_path("tokenizer_ids.json").read_text())
    found = tokenize(shared_path("cases/service/tokenizer_json_only"), golden["prompts"])
    assert found.tolist() == golden["tiny_vocab_ids"]


def test_a_tokenizer_without_its_configuration(folders: tuple[Path, Path]) -> None:
    """It would fill prompts up with another token than the model was trained with."""
    (folders[0] / "tokenizer_config.json").unlink()
    refuse(folders, r"tokenizer_config\.json does not exist")


@pytest.mark.parametrize(("folder", "name"), [(0, "vocab.json"), (1, "model.safetensors")])
def test_pointers_of_git_lfs(folders: tuple[Path, Path], folder: int, name: str) -> None:
    (folders[folder] / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1\n")
    refuse(folders, f"{name} is a pointer of Git LFS".replace(".", r"\."))


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_a_text_encoder_in_shards(folders: tuple[Path, Path], tmp_path: Path, variant: str) -> None:
    """Read as the base model's, copied into a model folder, and read there."""
    expected = encode_prompts(*folders, ["a picture"])
    folder = folders[1]
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-{number:05d}-of-00002{variant}.safetensors" for number in (1, 2)]
    halves = [sorted(tensors)[::2], sorted(tensors)[1::2]]
    for name, half in zip(names, halves, strict=True):
        save_file({key: tensors[key] for key in half}, folder / name, metadata={"format": "pt"})
    weight_map = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    index = folder / f"model.safetensors.index{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    torch.testing.assert_close(encode_prompts(*folders, ["a picture"]), expected, rtol=0, atol=1e-6)
    generator, prompts = compact_parts()
    save_model(tmp_path / "m", generator, prompts, name="m", tokenizer=folders[0], text_encoder=folder)
    copied = load_model(tmp_path / "m")
    found = encode_prompts(copied.tokenizer, copied.text_encoder, ["a picture"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    (folder / names[1]).unlink()
    with pytest.raises(ModelError, match=f"names {names[1]}, which is not there"):
        save_model(tmp_path / "n", generator, prompts, name="n", tokenizer=folders[0], text_encoder=folder)
    assert not (tmp_path / "n").exists()


def test_damaged_tokenizer(folders: tuple[Path, Path]) -> None:
    (folders[0] / "vocab.json").write_text("{")
    refuse(folders, "no readable tokenizer")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_incomplete_text_encoder(folders: tuple[Path, Path], name: str) -> None:
    (folders[1] / name).unlink()
    refuse(folders, "lacks config.json or model.safetensors")


def test_damaged_text_encoder(folders: tuple[Path, Path]) -> None:
    (folders[1] / "model.safetensors").write_bytes(b"nonsense")
    refuse(folders, "no readable text encoder")


def test_gaps_in_the_text_encoder_are_errors(folders: tuple[Path, Path]) -> None:
    path = folders[1] / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if name.endswith("final_layer_norm.weight")))
    save_file(tensors, path, metadata={"format": "pt"})
    refuse(folders, "does not fit its config.json")


def test_folders_of_two_models(folders: tuple[Path, Path]) -> None:
    path = folders[1] / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("token_embedding.weight"))
    save_file({**tensors, name: tensors[name][:900].clone()}, path, metadata={"format": "pt"})
    config = json.loads((folders[1] / "config.json").read_text())
    (folders[1] / "config.json").write_text(json.dumps({**config, "vocab_size": 900}))
    refuse(folders, "tokens up to 1013, .* takes 77 below 900; use the two folders of one model")


def test_transformers_is_imported_for_other_prompts_only() -> None:
    code = (
        "import sys, s3diff.checkpoints.convert, s3diff.checkpoints.model_folder; print('transformers' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
