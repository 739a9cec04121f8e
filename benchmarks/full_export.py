"""Export a model of the paper's size once: its files, time and peak memory; then run it without s3diff.

    python benchmarks/full_export.py FOLDER [--model full] [--format onnx] [--size 32x24] [--half] [-o FILE]

Weights are random (``latency_models.py``), so the result shows nothing; its difference to ``Restorer`` does, in levels
of 255. Every step is a process of its own, so that its peak memory is its own: export, run in ONNX Runtime or OpenVINO,
run in torch. FOLDER, which keeps the graph, needs 5 GB; the export stops when less than ``--keep-free`` GiB of the
machine's memory are left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from autoencoder_memory import peak_bytes
from hardware import machine
from latency_models import latency_model

from s3diff import Restorer

EXTENSIONS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
#: (width, height) of the picture that is restored; above 16 px a side, as models that pad to 64 px need.
PICTURE = (32, 24)


def picture() -> np.ndarray:
    width, height = PICTURE
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).numpy()


def stop_before_memory_ends(keep_gib: float) -> None:
    """End this process, not another one of the machine, when its memory runs out; Linux only."""

    def look() -> None:
        while True:
            lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
            free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
            if free < keep_gib * 2**20:
                print(f"stopped: {free / 2**20:.1f} GiB of memory are left", file=sys.stderr, flush=True)
                os._exit(3)
            time.sleep(0.1)

    if Path("/proc/meminfo").is_file():
        threading.Thread(target=look, daemon=True).start()


def export(target: Path, given: argparse.Namespace) -> dict[str, Any]:
    from s3diff.export.writing import export_model

    model = latency_model(given.model)
    loaded, started = peak_bytes(), time.perf_counter()
    width, _, height = given.size.partition("x")
    size = (int(width), int(height)) if height else None
    files = export_model(model, target, size=size, half=given.half)
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "loaded_gib": round(loaded / 2**30, 2),
        "parameters": sum(each.numel() for each in model.generator.parameters()),
        "files": {each.name: each.stat().st_size for each in files},
    }


def run(target: Path) -> dict[str, Any]:
    """Load and run the graph; its result is kept next to it."""
    inputs = [picture(), np.full((1, 2), -1, np.float32)]
    started = time.perf_counter()
    if target.suffix == ".onnx":
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(target, settings, providers=["CPUExecutionProvider"])
        compute: Any = lambda: session.run(None, dict(zip(("low_quality", "degrees"), inputs, strict=True)))[0]  # noqa: E731
    elif target.suffix == ".xml":
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = openvino.Core().compile_model(target, "CPU", settings)
        compute = lambda: compiled(inputs)[0]  # noqa: E731
    else:
        module = torch.export.load(target).module()
        compute = lambda: module(*map(torch.from_numpy, inputs))[0].detach().numpy()  # noqa: E731
    opened = time.perf_counter()
    restored = compute()
    done = time.perf_counter()
    np.save(target.with_suffix(".npy"), restored)
    return {"load_seconds": round(opened - started, 1), "run_seconds": round(done - opened, 1), "size": restored.shape}


def compare(target: Path, name: str) -> dict[str, Any]:
    restorer = Restorer(latency_model(name), device="cpu", precision="float32")
    started = time.perf_counter()
    expected = restorer.restore_tensor(torch.from_numpy(picture())).images.numpy()
    levels = np.abs(np.load(target.with_suffix(".npy")) - expected) * 255
    return {
        "run_seconds": round(time.perf_counter() - started, 1),
        "largest_levels": round(float(levels.max()), 4),
        "mean_levels": round(float(levels.mean()), 5),
        "spread_of_the_result": round(float(expected.std() * 255), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="full", help="as for restore_latency.py: full, tiny or a model's name")
    parser.add_argument("--format", default="onnx", choices=EXTENSIONS)
    parser.add_argument("--size", default="any", help="WIDTHxHEIGHT of all pictures, or any")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--keep-free", type=float, default=2.0, metavar="GIB")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--step", choices=["export", "run", "compare"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    target = given.folder / f"graph{EXTENSIONS[given.format]}"
    if given.step is not None:
        stop_before_memory_ends(given.keep_free)
        steps: Any = {
            "export": lambda: export(target, given),
            "run": lambda: run(target),
            "compare": lambda: compare(target, given.model),
        }
        facts = steps[given.step]() | {"cpu_seconds": round(time.process_time(), 1)}
        print(json.dumps({**facts, "peak_gib": round(peak_bytes() / 2**30, 2)}))
        return
    words = [__file__, *sys.argv[1:]]
    report: dict[str, Any] = {}
    if given.output is not None and given.output.is_file():
        report = json.loads(given.output.read_text("utf-8"))
    name = f"{given.model}, {given.format}, size {given.size}{', half' if given.half else ''}"
    row: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/full_export.py", "FOLDER", *sys.argv[2:]]),
        "machine": machine(torch.device("cpu")),
    }
    for step in ("export", "run", "compare"):
        done = subprocess.run([sys.executable, *words, "--step", step], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{step} ended with {done.returncode}")
        row[step] = json.loads(done.stdout.splitlines()[-1])
        print(step, row[step], flush=True)
        report[name] = row
        if given.output is not None:  # also where a later step fails
            given.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
