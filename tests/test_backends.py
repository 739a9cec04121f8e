"""Backends: OpenVINO and ONNX Runtime give torch's numbers, with every option of the method, or refuse in words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from command_runs import Command
from conftest import REPOSITORY
from s3diff import OptionError, Restorer
from s3diff.checkpoints.model_folder import save_model
from s3diff.errors import MissingExtraError
from s3diff.networks.one_step_generator import OneStepGenerator
from s3diff.options import ReleasedTiles
from s3diff.restoration import backends, process_limits, runtimes
from s3diff.restoration.process_limits import Processor, processor
from tiny_models import COMPACT, compact_parts

pytestmark = pytest.mark.slow
PAGE = REPOSITORY / "docs/builders.md"
#: Half a level rounds to the next one; the LoRA is added per picture, not folded into the weights.
MAX_LEVELS = 0.05


Loaded = Callable[[str], tuple[Restorer, list[str]]]


@pytest.fixture(scope="module")
def loaded(few_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A model on another runtime, with its graphs in a cache of its own, and what it said; made once."""

    @cache
    def load(backend: Any) -> tuple[Restorer, list[str]]:
        if not runtimes.is_installed(backend):
            pytest.skip(f"the extra {backend} is not installed")
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("S3DIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
            return Restorer.from_pretrained(few_layers, precision="float32", backend=backend, remark=said.append), said

    return load


@pytest.fixture
def on_openvino(loaded: Loaded) -> Restorer:
    return loaded("openvino")[0]


@pytest.fixture(scope="module")
def on_torch(few_layers: Path) -> Restorer:
    return Restorer.from_pretrained(few_layers, device="cpu", precision="float32")


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_numbers_of_torch(backend: str, loaded: Loaded, on_torch: Restorer) -> None:
    restorer, said = loaded(backend)
    assert not said  # nothing is made before a picture needs it
    cases: list[tuple[int, int, int, dict[str, Any]]] = [
        (1, 13, 10, {}),
        (2, 24, 17, {"latent": "sample", "seed": 5, "guidance": 1.6}),
        (1, 130, 9, {"tile": 384, "blur": 0.9, "lora_scale": 0.5, "strength": 0.7}),
    ]
    if backend == "openvino":  # converts a fourth graph faster
        cases.append((1, 16, 12, {"guidance": 1}))
    for count, height, width, changes in cases:
        given = pictures(count, height, width)
        made, expected = (each.restore_tensor(given, **changes) for each in (restorer, on_torch))
        assert float((made.images - expected.images).abs().max()) * 255 < MAX_LEVELS, changes
    plain = on_torch.restore_tensor(given, lora_scale=0).images
    assert float((plain - expected.images).abs().max()) * 255 > 1  # the LoRA counts: its matrices reach the graphs
    names = ["decoder", "encoder", "unet_guided", "unet_positive"][: len(cases)]
    assert sorted(line.split()[3] for line in said) == names
    assert restorer.runtime is not None
    assert sorted(each.name for each in restorer.runtime.folder.iterdir() if each.is_dir()) == names


def test_what_is_said_of_a_result(on_openvino: Restorer) -> None:
    result = on_openvino.restore(np.full((9, 8, 3), 90, np.uint8))
    assert result.provenance is not None
    assert result.provenance.device == "cpu with openvino"


def test_hooks_see_the_stages_and_a_look_ends_the_work(on_openvino: Restorer) -> None:
    seen: list[str] = []
    on_openvino.restore_tensor(pictures(1, 8, 8), on_stage=lambda name, _: seen.append(name))
    assert seen == ["latent", "prediction", "clean", "decoded"]

    def look() -> None:
        raise KeyboardInterrupt

    with on_openvino.watched(look), pytest.raises(KeyboardInterrupt):
        on_openvino.restore_tensor(pictures(1, 8, 8))
    on_openvino.restore_tensor(pictures(1, 8, 8))


def test_graphs_are_kept_and_a_damaged_one_made_anew(
    on_openvino: Restorer, few_layers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = pictures(1, 8, 8)
    expected = on_openvino.restore_tensor(given).images
    assert on_openvino.runtime is not None
    folder = on_openvino.runtime.folder
    monkeypatch.setenv("S3DIFF_CACHE", str(folder.parents[1]))
    graph = folder / "decoder/graph.xml"
    graph.write_bytes(graph.read_bytes()[:200])
    said: list[str] = []
    again = Restorer.from_pretrained(few_layers, precision="float32", backend="openvino", remark=said.append)
    assert torch.equal(again.restore_tensor(given).images, expected)
    assert [line.split()[3] for line in said] == ["decoder"]


def test_without_a_cache(few_layers: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not runtimes.is_installed("openvino"):
        pytest.skip("the extra openvino is not installed")
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("S3DIFF_CACHE", str(blocked))
    made = Restorer.from_pretrained(few_layers, precision="float32", backend="openvino", remark=print)
    assert made.runtime is not None
    latent = torch.zeros(1, made.config.autoencoder.latent_channels, 4, 3)
    downscale = made.config.autoencoder.downscale
    image = torch.zeros(1, 3, 4 * downscale, 3 * downscale)
    assert made.runtime.decode(latent, image).shape == image.shape
    assert blocked.read_text() == "no folder"


def test_what_a_backend_cannot(on_openvino: Restorer) -> None:
    with pytest.raises(OptionError, match="passes no gradients; load the model with 'torch'"):
        on_openvino.restore_tensor(pictures(1, 8, 8), differentiable=True)
    with pytest.raises(OptionError, match="has not the tiles of the authors' code"):
        on_openvino.restore_tensor(pictures(1, 8, 8), released_tiles=ReleasedTiles())
    assert on_openvino.to("cpu") is on_openvino


def test_refused_when_a_model_is_loaded(few_layers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Restorer.from_pretrained
    with pytest.raises(OptionError, match="backend is 'tensorrt'; give torch, openvino, onnxruntime, auto"):
        load(few_layers, backend="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="compiles torch's networks"):
        load(few_layers, backend="openvino", fast=True)
    if runtimes.is_installed("onnxruntime"):
        with pytest.raises(OptionError, match="precision is 'bfloat16'; onnxruntime computes in float32"):
            load(few_layers, backend="onnxruntime", precision="bfloat16")
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"the backend openvino needs openvino: pip install .*\[openvino\]"):
        load(few_layers, backend="openvino")
    assert load(few_layers, backend="auto").backend == "torch"


def test_models_that_look_at_the_whole_picture_are_refused(tmp_path: Path) -> None:
    if not runtimes.is_installed("openvino"):
        pytest.skip("the extra openvino is not installed")
    unet = replace(COMPACT.unet, self_attention=True)
    _, prompts = compact_parts()
    save_model(tmp_path, OneStepGenerator(replace(COMPACT, unet=unet)), prompts, name="whole")
    with pytest.raises(OptionError, match="looks at the whole picture: give 'torch'"):
        Restorer.from_pretrained(tmp_path, backend="openvino", precision="float32")
    assert Restorer.from_pretrained(tmp_path, backend="auto").backend == "torch"


@pytest.mark.parametrize("faster", ["torch", "openvino"])
def test_auto_takes_what_was_measured(
    faster: str, few_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not runtimes.is_installed("openvino"):
        pytest.skip("the extra openvino is not installed")
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path))
    measured: list[str] = []

    def measure(*_: object) -> dict[str, float]:
        measured.append(faster)
        return {"torch": 2.0, "openvino": 2.0} | {faster: 1.0}

    monkeypatch.setattr(backends, "_measured", measure)  # what takes time; the choice and its record are real
    for _ in range(2):
        assert Restorer.from_pretrained(few_layers, precision="float32", backend="auto", remark=print).backend == faster
    assert measured == [faster]
    (record,) = tmp_path.rglob("faster.json")
    (here,) = json.loads(record.read_text())
    assert processor().name in here
    # In a folder that machines share, what one has measured says nothing about another.
    name, instructions = processor()
    for other in (Processor("another", instructions), Processor(name, (*instructions, "amx_bf16_new"))):
        monkeypatch.setattr(process_limits, "processor", lambda other=other: other)
        measured.clear()
        for _ in range(2):
            Restorer.from_pretrained(few_layers, precision="float32", backend="auto", remark=print)
        assert measured == [faster]
    assert len(json.loads(record.read_text())) == 3


def test_the_command(
    command: Command, on_openvino: Restorer, few_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert on_openvino.runtime is not None
    monkeypatch.setenv("S3DIFF_CACHE", str(on_openvino.runtime.folder.parents[1]))
    Image.fromarray(np.full((8, 9, 3), 120, np.uint8)).save(tmp_path / "a.png")
    given = ("restore", tmp_path / "a.png", "-m", few_layers, "--backend", "openvino")
    outcome = command(*given, "--precision", "float32")
    assert outcome.code == 0, outcome.err
    assert "device cpu with openvino" in outcome.err
    assert (tmp_path / "a_restored.png").is_file()
    assert "--server and --backend exclude each other" in command(*given, "--server", "http://127.0.0.1:1").error


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the documents of the repository")
def test_the_door_in_the_documents(
    few_layers: Path, on_openvino: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert on_openvino.runtime is not None
    monkeypatch.setenv("S3DIFF_CACHE", str(on_openvino.runtime.folder.parents[1]))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((8, 9, 3), 120, np.uint8)).save("photo.jpg")
    section = PAGE.read_text("utf-8").split("## Backends")[1]
    (text,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[:1]
    exec(compile(text.replace('"compact"', repr(str(few_layers))), "docs/builders.md", "exec"), {})
