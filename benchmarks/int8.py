"""Exported `compact` in int8, in ONNX Runtime and OpenVINO: its time over float's, and what it costs the pictures.

    python benchmarks/int8.py FOLDER [--calibration PHOTOS] [--test PHOTOS] [--pictures 8] [--runs 3] [-o FILE]

FOLDER keeps the graphs, which later runs use again. Weights (each channel) and activations of all convolutions and
matrix products are in int8, by ONNX Runtime's static quantisation; OpenVINO reads the same file. Photographs are
degraded by the paper's synthesis, 480 px to 120. Times are of the processor, by turns in one process, the shortest of
the runs; differences are to the same runtime in float32, in levels of 255; PSNR and DISTS are to the truth.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from hardware import machine
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

from s3diff.degradation import Degrade
from s3diff.evaluation.perceptual import DISTS
from s3diff.export.writing import export_model

SHARED = Path(__file__).parents[2] / "shared/data"
TRUTH_PX = 480
NUM_CALIBRATED = 8
KINDS = ("Conv", "MatMul", "Gemm")

Compute = Callable[[np.ndarray], np.ndarray]


def pairs(folder: Path, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield low quality and truth, [1, 3, h, w] in [0, 1], of the middle of so many photographs."""
    degrade = Degrade("s3diff", scale=4)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg"))
    if not found:
        raise SystemExit(f"{folder} has no pictures; give --calibration and --test")
    large = (path for path in found if min(Image.open(path).size) >= TRUTH_PX)
    for seed, path in zip(range(count), large, strict=False):
        photo = Image.open(path).convert("RGB")
        left, top = ((side - TRUTH_PX) // 2 for side in photo.size)
        cut = np.asarray(photo.crop((left, top, left + TRUTH_PX, top + TRUTH_PX)))
        truth = torch.from_numpy(cut.transpose(2, 0, 1).astype(np.float32) / 255)
        yield degrade(truth, seed=seed)[None].numpy(), truth[None].numpy()


class Pictures(CalibrationDataReader):
    """Pictures that the ranges of activations are found with."""

    def __init__(self, folder: Path) -> None:
        self._inputs = ({"low_quality": low_quality} for low_quality, _ in pairs(folder, NUM_CALIBRATED))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)


def graphs(folder: Path, photos: Path) -> dict[str, Path]:
    """Write the graph in float32 and in int8, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    plain, prepared, quantised = (folder / f"{name}.onnx" for name in ("float32", "prepared", "int8"))
    if not plain.is_file():
        export_model("compact", plain)
    if not quantised.is_file():
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, quantised, Pictures(photos), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=list(KINDS), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    return {"float32": plain, "int8": quantised}


def in_onnxruntime(path: Path) -> Compute:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return lambda low_quality: session.run(None, {"low_quality": low_quality})[0]


def in_openvino(path: Path, precision: str = "f32") -> Compute:
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    estimate = np.full((1, 2), -1, np.float32)
    inputs = [port.any_name for port in compiled.inputs]

    def compute(low_quality: np.ndarray) -> np.ndarray:
        given = {"low_quality": low_quality, "degrees": estimate}
        return compiled({name: given[name] for name in inputs}, share_outputs=False)[0]

    return compute


def psnr(made: np.ndarray, truth: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((made - truth) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calibration", type=Path, default=SHARED / "train/photos")
    parser.add_argument("--test", type=Path, default=SHARED / "benchmarks/kodak24")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    files = graphs(given.folder, given.calibration)
    computes = {
        "onnxruntime float32": in_onnxruntime(files["float32"]),
        "onnxruntime int8": in_onnxruntime(files["int8"]),
        "openvino float32": in_openvino(files["float32"]),
        "openvino bfloat16": in_openvino(files["float32"], "bf16"),
        "openvino int8": in_openvino(files["int8"]),
    }
    dists = DISTS()
    shown: dict[str, list[dict[str, float]]] = {name: [] for name in computes}
    for low_quality, truth in pairs(given.test, given.pictures):
        made = {name: compute(low_quality) for name, compute in computes.items()}
        for name, result in made.items():
            levels = np.abs(result - made[f"{name.split()[0]} float32"]) * 255
            with torch.inference_mode():
                distance = float(dists(torch.from_numpy(result.copy()), torch.from_numpy(truth)))
            facts = {"psnr": psnr(result, truth), "dists": distance}
            shown[name].append(facts | {"mean_levels": levels.mean(), "largest_levels": levels.max()})
    taken: dict[str, list[float]] = {name: [] for name in computes}
    for _ in range(given.runs):
        for name, compute in computes.items():
            started = time.process_time()
            compute(low_quality)
            taken[name].append(time.process_time() - started)
    rows = {
        name: {
            "cpu_seconds": round(min(taken[name]), 3),
            "over_float32": round(min(taken[name]) / min(taken[f"{name.split()[0]} float32"]), 3),
            **{
                key: round(float((np.max if key == "largest_levels" else np.mean)([each[key] for each in facts])), 4)
                for key in facts[0]
            },
        }
        for name, facts in shown.items()
    }
    for name, row in rows.items():
        print(f"{name:20} {row}")
    report = {
        "command": f"python benchmarks/int8.py FOLDER --pictures {given.pictures} --runs {given.runs}",
        "machine": machine(torch.device("cpu")),
        "bytes": {name: path.stat().st_size for name, path in files.items()},
        "rows": rows,
    }
    if given.output is not None:
        given.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
