"""Seconds of every stage, its TFLOP and its share of what the hardware reaches; ours beside the released flow.

    python benchmarks/restore_latency.py [--model full] [--sizes 512 1024] [--device cuda] [--precision bfloat16]
        [--batch 8] [--runs 5] [--flows released ours] [--fast] [--json FILE]

A size is the side of the square output, four times that of the input. The share of the peak is that of the larger of a
large matrix product and a large convolution, measured in the same run and number format. TFLOP are counted by torch on
the meta device, LoRA not included: what the method itself needs. The released flow is ``released_flow.py``; it takes
one picture after another, whatever the batch.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import forget_peak_memory, machine, peak_memory_gib, peak_tflops
from latency_models import NUM_TOKENS, RANDOM, latency_model, random_text_encoder
from released_flow import ReleasedFlow
from torch.utils.flop_counter import FlopCounterMode

from s3diff import RestoreOptions, Restorer
from s3diff.checkpoints.assembly import generator_on_meta
from s3diff.errors import S3DiffError
from s3diff.images.files.reading import read_picture
from s3diff.images.picture import Picture, from_tensor, to_tensor
from s3diff.images.resampling import enlarge
from s3diff.networks.one_step_generator import DEFAULT_GUIDANCE, GeneratorConfig
from s3diff.restoration.device import choose_device, choose_dtype

SCALE = 4
PHOTO = Path(__file__).resolve().parent.parent / "assets" / "photos" / "kitten.jpg"
#: The order in which stages are printed; text is the released flow's, fold ours.
STAGES = ("text", "prepare", "estimate", "fold", "encode", "predict", "decode", "color", "total")


def square(side: int, shift: int) -> Picture:
    """A photograph of that side in pixels; ``shift`` turns its columns, so that no two of a batch are equal."""
    photo = read_picture(PHOTO)
    image = enlarge(to_tensor(photo), side, side, mode="bicubic").clamp(0, 1).roll(shift, dims=3)
    return replace(photo, pixels=from_tensor(image, photo))


def tflop_by_stage(config: GeneratorConfig, side: int, guided: bool) -> dict[str, float]:
    """What one picture of that output side needs without tiles, counted without computing it."""
    generator = generator_on_meta(config, "the benchmark's model").eval()
    multiple = config.pad_multiple
    padded = math.ceil(side / multiple) * multiple
    latent_side = padded // config.autoencoder.downscale

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta")

    image = empty(1, 3, padded, padded)
    passes = 2 if guided else 1
    latent = empty(passes, config.unet.latent_channels, latent_side, latent_side)
    context = empty(passes, NUM_TOKENS, config.unet.context_channels)
    stages: dict[str, Callable[[], Any]] = {
        "estimate": lambda: generator.estimator(empty(1, 3, side // SCALE, side // SCALE)),
        "encode": lambda: generator.encode(image, None),
        "predict": lambda: generator.predict(latent, context, None),
        "decode": lambda: generator.decode(latent[:1], image),
    }
    found = {}
    with torch.inference_mode():
        for name, compute in stages.items():
            with FlopCounterMode(display=False) as counter:
                compute()
            found[name] = counter.get_total_flops() / 1e12
    return {**found, "total": sum(found.values())}


def measured(
    restore: Callable[[], tuple[list[Picture], dict[str, float]]], runs: int, warmup: int, device: torch.device
) -> dict[str, Any]:
    """Median seconds by stage of one picture, wall and CPU time of the whole, peak memory and the last pictures.

    CPU time is what tells flows apart on a machine that does something else as well.
    """
    for _ in range(warmup):
        restore()
    forget_peak_memory(device)
    seconds: list[dict[str, float]] = []
    for _ in range(runs):
        started, started_cpu = time.perf_counter(), time.process_time()
        pictures, by_stage = restore()
        wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
        seconds.append({**by_stage, "wall": wall / len(pictures), "cpu": cpu / len(pictures)})
    return {
        "seconds": {name: statistics.median(run[name] for run in seconds) for name in seconds[0]},
        "wall_range": [min(run["wall"] for run in seconds), max(run["wall"] for run in seconds)],
        "peak_memory_gib": peak_memory_gib(device),
        "pictures": pictures,
    }


def psnr(one: list[Picture], other: list[Picture]) -> float | None:
    """Of 8-bit results, in dB; None for equal ones, as JSON has no infinity."""
    error = np.mean([np.mean((a.pixels.astype(float) - b.pixels) ** 2) for a, b in zip(one, other, strict=True)])
    return float(10 * np.log10(255**2 / error)) if error else None


def table(case: dict[str, Any]) -> str:
    """One case as lines."""
    flows, tflop = case["flows"], case["tflop"]
    peak = max(case["peak_tflops"].values())
    header = f"{case['model']}  {case['side']} px  batch {case['batch']}  {case['precision']}"
    lines = [f"{header}  peak {peak:.3f} TFLOP/s", f"{'':10}{'TFLOP':>9}"]
    for name in flows:
        lines[1] += f"{name + ' s':>18}{'TFLOP/s':>10}{'of peak':>9}"
    for stage in STAGES:
        if not any(stage in flow.get("seconds", {}) for flow in flows.values()):
            continue
        line = f"{stage:10}{tflop[stage]:9.4f}" if stage in tflop else f"{stage:10}{'':9}"
        for flow in flows.values():
            spent = flow.get("seconds", {}).get(stage)
            rate = tflop[stage] / spent if spent and stage in tflop else None
            line += f"{spent:18.4f}" if spent is not None else f"{'':18}"
            line += f"{rate:10.3f}{rate / peak:9.1%}" if rate else f"{'':19}"
        lines.append(line)
    for name, flow in flows.items():
        if "failed" in flow:
            lines.append(f"{name}: {flow['failed']}")
        else:
            memory = flow["peak_memory_gib"]
            known = "" if memory is None else f", {memory:.2f} GiB at most"
            lines.append(f"{name}: {flow['seconds']['wall']:.4f} s, {flow['seconds']['cpu']:.4f} s of CPU time{known}")
    for name in ("times_as_fast", "times_less_cpu", "psnr_to_released", "psnr_to_float32"):
        if name in case:
            lines.append(f"{name}: equal" if case[name] is None else f"{name}: {case[name]:.2f}")
    return "\n".join(lines)


def run_case(given: argparse.Namespace, side: int, device: torch.device) -> dict[str, Any]:
    """One size: the flows one after the other, each with the model to itself."""
    pictures = [square(side // SCALE, shift) for shift in range(given.batch)]
    options = RestoreOptions(scale=SCALE, max_output_pixels=side * side)
    dtype = choose_dtype(given.precision)
    flows: dict[str, dict[str, Any]] = {}

    def ours(precision: str) -> Callable[[], tuple[list[Picture], dict[str, float]]]:
        model = latency_model(given.model)
        restorer = Restorer(model, device=device, precision=precision, exclusive=True, fast=given.fast)  # type: ignore[arg-type]
        print("; ".join(restorer.acceleration.reasons))

        def restore() -> tuple[list[Picture], dict[str, float]]:
            results = (
                restorer.restore_batch(pictures, options)
                if len(pictures) > 1
                else [restorer.restore(pictures[0], options)]
            )
            return [result.picture for result in results], _mean([result.seconds for result in results])

        return restore

    def released() -> Callable[[], tuple[list[Picture], dict[str, float]]]:
        text_encoder = random_text_encoder() if given.model == "full" else None
        flow = ReleasedFlow(latency_model(given.model), device, dtype, text_encoder)

        def restore() -> tuple[list[Picture], dict[str, float]]:
            results = [flow.restore(picture, options) for picture in pictures]
            return [picture for picture, _ in results], _mean([seconds for _, seconds in results])

        return restore

    makers = {"released": released, "ours": lambda: ours(given.precision), "ours in float32": lambda: ours("float32")}
    names = [*given.flows, *(["ours in float32"] if given.compare_float32 and given.precision != "float32" else [])]
    for name in names:
        try:
            flows[name] = measured(makers[name](), given.runs, given.warmup, device)
        except (S3DiffError, torch.OutOfMemoryError) as error:
            flows[name] = {"failed": str(error).splitlines()[0]}
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    guidance = DEFAULT_GUIDANCE
    if given.model in RANDOM:
        config = RANDOM[given.model]
    else:
        model = latency_model(given.model)
        config, guidance = model.config, model.guidance
    case: dict[str, Any] = {
        "model": given.model,
        "side": side,
        "batch": given.batch,
        "precision": str(dtype).removeprefix("torch."),
        "peak_tflops": peak_tflops(device, dtype),
        "tflop": tflop_by_stage(config, side, guidance != 1),
        "flows": flows,
    }
    results = {name: flow.pop("pictures") for name, flow in flows.items() if "pictures" in flow}
    if "ours" in results and "released" in results:
        case["times_as_fast"] = flows["released"]["seconds"]["wall"] / flows["ours"]["seconds"]["wall"]
        case["times_less_cpu"] = flows["released"]["seconds"]["cpu"] / flows["ours"]["seconds"]["cpu"]
        case["psnr_to_released"] = psnr(results["ours"], results["released"])
    if "ours" in results and "ours in float32" in results:
        case["psnr_to_float32"] = psnr(results["ours"], results["ours in float32"])
    return case


def _mean(seconds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(each[name] for each in seconds) for name in seconds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="full", help="tiny, compact, full or a model folder")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096], help="output sides in px")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--flows", nargs="+", default=["released", "ours"], choices=["released", "ours"])
    parser.add_argument("--fast", action="store_true", help="ours compiled, on CUDA with recorded graphs")
    parser.add_argument("--compare-float32", action="store_true", help="also ours in float32, and the PSNR to it")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    device = choose_device(given.device)
    report: dict[str, Any] = {"machine": machine(device), "scale": SCALE, "runs": given.runs, "cases": []}
    print(json.dumps(report["machine"]))
    for side in given.sizes:
        report["cases"].append(run_case(given, side, device))
        print(f"\n{table(report['cases'][-1])}", flush=True)
        if given.json:
            given.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
