"""Images per second of the degradation synthesis and of its readable twin, alternating in one run.

    python benchmarks/degradation.py [--preset s3diff] [--rounds 7] [--device cpu] [--json FILE]

Of every case (images in a batch x side of the ground truth in pixels, scale 4) both see the same draws; the figures are
medians over the rounds. One thread, unless --threads says otherwise.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from s3diff.degradation.application import DegradationDraw, apply, apply_reference
from s3diff.degradation.settings import PRESETS
from s3diff.degradation.synthesis import draw

SCALE = 4
CASES = ((8, 256), (4, 512))
#: Each draw takes another time: several of them make one round.
DRAWS_PER_ROUND = 3


def seconds_of(way: Callable[[Tensor, DegradationDraw], Tensor], images: Tensor, draws: list[DegradationDraw]) -> float:
    started = time.perf_counter()
    for drawn in draws:
        way(images, drawn)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(preset: str, batch_size: int, side_px: int, rounds: int, device: str) -> dict[str, object]:
    """Images per second of both ways, and how many times as fast the batched one is."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(batch_size, 3, side_px, side_px, generator=random).to(device)
    seconds: dict[str, list[float]] = {"batched": [], "per_image": []}
    for number in range(rounds + 1):
        draws = [draw(PRESETS[preset], batch_size, side_px, side_px, SCALE, random) for _ in range(DRAWS_PER_ROUND)]
        ways = (("batched", apply), ("per_image", apply_reference))
        for name, way in ways if number % 2 else reversed(ways):
            seconds[name].append(seconds_of(way, images, draws))
    # The first round warms up.
    median = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    ratios = [slow / fast for slow, fast in zip(seconds["per_image"][1:], seconds["batched"][1:], strict=True)]
    per_round = batch_size * DRAWS_PER_ROUND
    return {
        "batch_size": batch_size,
        "side_px": side_px,
        "images_per_second": {name: round(per_round / median[name], 2) for name in median},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="s3diff")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    name = torch.cuda.get_device_name() if given.device.startswith("cuda") else platform.machine()
    machine = f"{name}, {given.threads} thread{'s' * (given.threads != 1)}, torch {torch.__version__}"
    cases = []
    for batch_size, side_px in CASES:
        cases.append(case := measure(given.preset, batch_size, side_px, given.rounds, given.device))
        speed = case["images_per_second"]
        print(f"{batch_size} x {side_px} px: {speed} images per second, ratio {case['ratio']} {case['ratio_range']}")
    print(f"preset {given.preset}, scale {SCALE}, {machine}")
    if given.json:
        report = {"machine": machine, "preset": given.preset, "scale": SCALE, "rounds": given.rounds, "cases": cases}
        given.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
