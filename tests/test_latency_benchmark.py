"""The benchmark of the restoration's speed: its twin of the released flow, and what it counts and prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import REPOSITORY, goldens_path
from golden_models import tiny_model_folder
from s3diff import RestoreOptions
from s3diff.checkpoints.model_folder import load_model
from s3diff.images.files.reading import read_picture
from s3diff.networks.one_step_generator import GeneratorConfig


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks are scripts that import their neighbours."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")


def test_the_twin_of_the_released_flow_is_the_released_flow() -> None:
    from released_flow import ReleasedFlow

    flow = ReleasedFlow(load_model(tiny_model_folder()), torch.device("cpu"), torch.float32)
    restored, seconds = flow.restore(read_picture(goldens_path("flow/lr/img0.png")), RestoreOptions())
    released = read_picture(goldens_path("flow/wavelet/img0.png")).pixels.astype(int)
    assert np.abs(restored.pixels - released).max() <= 2
    assert set(seconds) == {"prepare", "estimate", "encode", "predict", "decode", "color", "total"}


def test_the_work_of_the_full_size_is_the_known_one() -> None:
    """METHOD section 9: encoder 1.12, UNet 0.80 per pass, decoder 2.51 TFLOP at 512 px."""
    from restore_latency import tflop_by_stage

    found = tflop_by_stage(GeneratorConfig(), 512, guided=True)
    assert found["encode"] == pytest.approx(1.12, abs=0.01)
    assert found["predict"] == pytest.approx(2 * 0.80, abs=0.02)
    assert found["decode"] == pytest.approx(2.51, abs=0.01)
    assert found["total"] == pytest.approx(sum(found[name] for name in ("estimate", "encode", "predict", "decode")))


def test_a_report_compares_both_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hardware
    import restore_latency

    monkeypatch.setitem(hardware.MATRIX_SIDE, "cpu", 64)
    monkeypatch.setitem(hardware.CONVOLUTION_SIDE, "cpu", 4)
    target = tmp_path / "report.json"
    arguments = ["--model", str(tiny_model_folder()), "--sizes", "64", "--device", "cpu", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", ["restore_latency.py", *arguments, "--runs", "1", "--json", str(target)])
    restore_latency.main()
    report = json.loads(target.read_text("utf-8"))
    (case,) = report["cases"]
    assert report["machine"]["torch"] == torch.__version__
    assert set(case["flows"]) == {"released", "ours"}
    assert case["psnr_to_released"] > 45, "equal but for the release's truncation to 8 bits"
    for flow in case["flows"].values():
        stages = {name: spent for name, spent in flow["seconds"].items() if name in restore_latency.STAGES}
        assert stages.pop("total") == pytest.approx(sum(stages.values()))
        assert 0 < stages["decode"] <= flow["seconds"]["wall"]
    printed = capsys.readouterr().out
    assert "of peak" in printed
    assert "times_as_fast" in printed
