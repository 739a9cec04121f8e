"""Exported graphs: numbers of the Restorer, for any size, without s3diff on the other side.

``test_builders.py`` has the shipped model's, by the page's own lines.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from command_runs import Command
from conftest import REPOSITORY
from s3diff import RestoreOptions, Restorer
from s3diff.checkpoints.model_folder import load_model
from s3diff.errors import MissingExtraError, OptionError, OutputError
from s3diff.export.writing import export_model
from s3diff.restoration import runtimes
from tiny_models import WHOLE_PICTURE, save_few_layers

#: Largest difference to the Restorer, in levels of 255: the LoRA is added per picture, not folded into the weights.
MAX_LEVELS = 0.05
PAGE = REPOSITORY / "docs/builders.md"
ESTIMATE = np.full((1, 2), -1, np.float32)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    enlarged = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return enlarged.clamp(0, 1).numpy()


def levels(restored: np.ndarray, restorer: Restorer, low_quality: np.ndarray, **changes: Any) -> float:
    expected = restorer.restore_tensor(torch.from_numpy(low_quality), **changes).images.numpy()
    assert restored.shape == expected.shape
    return float(np.abs(restored - expected).max() * 255)


def require(runtime: Any) -> None:
    if not runtimes.is_installed(runtime):
        pytest.skip(f"the extra {runtime} is not installed")


@pytest.mark.slow
def test_onnx_in_parts(few_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that one file cannot hold lie next to it; what is loaded is exported as well as a folder."""
    require("onnxruntime")
    import onnxruntime

    monkeypatch.setattr(runtimes, "_LARGEST_ONNX_BYTES", 10_000)
    restorer = Restorer.from_pretrained(few_layers, device="cpu", precision="float32")
    parts = export_model(load_model(few_layers), tmp_path / "few.onnx", size=(12, 9))
    assert [each.name for each in parts] == ["few.onnx.data", "few.onnx"]
    assert parts[0].stat().st_size > 300_000  # nearly all weights
    assert str(Path(runtimes.__file__).parent).encode() not in parts[1].read_bytes()  # no traces of this machine
    session = onnxruntime.InferenceSession(parts[1], providers=["CPUExecutionProvider"])
    low_quality = picture(9, 12)
    assert levels(session.run(None, {"low_quality": low_quality})[0], restorer, low_quality) < MAX_LEVELS


@pytest.fixture(scope="module")
def openvino_graph(few_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a graph for OpenVINO, weights in half, name in capitals, by the command; the tests share it."""
    require("openvino")
    path = tmp_path_factory.mktemp("graph") / "few.XML"
    line = [sys.executable, "-m", "s3diff", "export", str(few_layers), str(path), "--half"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.slow
def test_openvino_for_all_sizes(few_layers: Path, openvino_graph: Path) -> None:
    import openvino

    restorer = Restorer.from_pretrained(few_layers, device="cpu", precision="float32")
    assert sorted(each.name for each in openvino_graph.parent.iterdir()) == ["few.XML", "few.bin"]
    weights = sum(tensor.numel() for tensor in restorer.model.generator.state_dict().values())
    assert openvino_graph.with_suffix(".bin").stat().st_size < 3 * weights, "two bytes each"
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(openvino_graph, "CPU", settings)
    for height, width in ((13, 10), (5, 31)):
        low_quality = picture(height, width)
        found = model({"low_quality": low_quality, "degrees": ESTIMATE})
        assert levels(found["restored"], restorer, low_quality) < 1


@pytest.mark.slow
@pytest.mark.skipif(not PAGE.is_file(), reason="needs the documents of the repository")
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="needs g++, on Linux")
def test_the_program_in_cpp_by_the_documents(few_layers: Path, openvino_graph: Path, tmp_path: Path) -> None:
    """The section's lines, but for the export, which is made already: of a smaller model."""
    section = PAGE.read_text("utf-8").split("## A graph in C++")[1]
    lines = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[0]
    assert "s3diff export compact compact.xml\n" in lines
    lines = lines.replace("s3diff export compact compact.xml\n", "")
    for path in (openvino_graph, openvino_graph.with_suffix(".bin")):
        shutil.copy(path, tmp_path / f"compact{path.suffix.lower()}")
    low_quality = picture(13, 10)
    pixels = (low_quality[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=100)
    (tmp_path / "integrations").symlink_to(REPOSITORY / "integrations")
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(["bash", "-ec", lines], cwd=tmp_path, env={**os.environ, "PATH": search}, check=True)
    restorer = Restorer.from_pretrained(few_layers, device="cpu", precision="float32")
    expected = restorer.restore(tmp_path / "photo.jpg").array.astype(int)
    assert np.abs(np.asarray(Image.open(tmp_path / "restored.ppm")) - expected).max() <= 1


@pytest.mark.slow
def test_onnx_in_half_of_the_bytes_with_degrees_that_must_be_given(few_layers: Path, tmp_path: Path) -> None:
    require("onnxruntime")
    import onnx
    import onnxruntime

    restorer = Restorer.from_pretrained(few_layers, device="cpu", precision="float32")
    (path,) = export_model(few_layers, tmp_path / "few.onnx", size=(10, 13), half=True, need_degrees=True)
    kinds = {weight.data_type for weight in onnx.load(path).graph.initializer if len(weight.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    low_quality = picture(13, 10)
    restored, _ = session.run(None, {"low_quality": low_quality, "degrees": ESTIMATE})
    assert levels(restored, restorer, low_quality) < 1
    with pytest.raises(ValueError, match="degrees"):
        session.run(None, {"low_quality": low_quality})
    with pytest.raises(OptionError, match=r"half \(--half\) is for .onnx and .xml"):
        export_model(few_layers, tmp_path / "few.pt2", half=True)


@pytest.mark.slow
def test_torch_of_a_model_with_attention_and_options(tmp_path: Path) -> None:
    """The released kind, for pictures that the networks get with padding and without it, in either direction."""
    save_few_layers(tmp_path / "model", WHOLE_PICTURE)
    options = RestoreOptions(guidance=1, color_match="adain")
    (path,) = export_model(tmp_path / "model", tmp_path / "deep" / "tiny.pt2", options=options)
    extra = {"s3diff.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["s3diff.json"])["guidance"] == "1.0"
    restorer = Restorer.from_pretrained(tmp_path / "model", device="cpu", precision="float32")
    assert restorer.config.pad_multiple == 8
    for height, width in ((33, 19), (24, 15), (13, 40), (16, 32)):
        low_quality = picture(height, width)
        restored = program(torch.from_numpy(low_quality), torch.from_numpy(ESTIMATE))[0].detach().numpy()
        assert levels(restored, restorer, low_quality, guidance=1, color_match="adain") < MAX_LEVELS


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "compact"])
def test_a_fixed_size_of_a_whole_model(model: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The goldens' SD-Turbo and the shipped model, of no few layers; a text names the file, in capitals too."""
    source = model if model == "compact" else request.getfixturevalue(model)
    (path,) = export_model(source, str(tmp_path / "FIXED.PT2"), size=(8, 6))
    assert path.name == "FIXED.PT2"
    low_quality = picture(6, 8)
    with path.open("rb") as file:
        program = torch.export.load(file).module()
    restored = program(torch.from_numpy(low_quality), torch.from_numpy(ESTIMATE))[0].detach().numpy()
    restorer = Restorer.from_pretrained(source, device="cpu", precision="float32")
    assert levels(restored, restorer, low_quality) < MAX_LEVELS


def test_what_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    (tmp_path / "there.pt2").write_bytes(b"x")
    plain: dict[str, Any] = {}
    cases: list[tuple[str, dict[str, Any], type[Exception], str]] = [
        ("a.bin", plain, OptionError, "ends in .onnx, .pt2, .xml"),
        ("a.onnx", {"form": "torch"}, OptionError, "ends in .pt2"),
        ("a.pt2", {"form": "tflite"}, OptionError, "format is 'tflite'"),
        ("there.pt2", plain, OutputError, "exists"),
        ("a.pt2", {"half": True}, OptionError, r"half \(--half\) is for .onnx and .xml; leave it out for .pt2"),
        ("a.pt2", {"need_degrees": True}, OptionError, r"need_degrees \(--need-degrees\) is for .onnx; in .pt2"),
        ("a.xml", {"need_degrees": True}, OptionError, r"need_degrees \(--need-degrees\) is for .onnx; in .xml"),
        ("a.pt2", {"size": (0, 16)}, OptionError, r"size is \(0, 16\); give whole pixels above 0"),
        ("a.pt2", {"size": (-4, 3)}, OptionError, r"size is \(-4, 3\)"),
        ("a.pt2", {"size": (4,)}, OptionError, r"size is \(4,\)"),
        ("a.pt2", {"size": "4x4"}, OptionError, "size is '4x4'"),
        (
            "a.pt2",
            {"size": (100000, 100000)},
            OptionError,
            r"100000x100000; give a size \(--size\) of at most 16777216",
        ),
        ("a.pt2", {"options": RestoreOptions(scale=2)}, OptionError, "scale is 2.0; an exported graph has"),
    ]
    for name, arguments, kind, words in cases:
        with pytest.raises(kind, match=words) as error:
            export_model("compact", tmp_path / name, **arguments)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(runtimes, "find_spec", lambda package: None if package == "onnx_ir" else "there")
    with pytest.raises(MissingExtraError, match="onnx_ir"):
        export_model("compact", tmp_path / "a.onnx")
    monkeypatch.setattr(runtimes, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r'pip install .* "\.\[onnxruntime\]"'):
        export_model("compact", tmp_path / "a.onnx")
    with pytest.raises(MissingExtraError, match=r'pip install .* "\.\[openvino\]"'):
        export_model("compact", tmp_path / "a.xml")
    assert command("export", "compact", tmp_path / "a.txt").code == 2
    for size in ("0x10", "100000x100000"):
        run = command("export", "compact", tmp_path / "a.pt2", "--size", size)
        assert (run.code, len(run.err.splitlines())) == (2, 1)
    assert [each.name for each in tmp_path.iterdir()] == ["there.pt2"]
