"""Peak memory of the full-size decoder, the hungriest stage, by picture size and way of cutting.

    python benchmarks/autoencoder_memory.py [--sizes 512,1024,1536] [--tile 512] [--ways bands,tiles] [--json FILE]

Random weights, float32, CPU; every measurement in a process of its own. Prints the peak of the whole process and what
of it came on top of the loaded network.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from s3diff.networks.autoencoder import Autoencoder, AutoencoderConfig
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator
from s3diff.restoration.tile_plan import TilePlan
from s3diff.restoration.tiled_stages import TiledStages


class _Decoding(OneStepGenerator):
    """The generator's decoder without its UNet, whose weights would only be carried along."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.config = GeneratorConfig()
        self.autoencoder = Autoencoder(AutoencoderConfig()).eval().requires_grad_(False)


def peak_bytes() -> int:
    """Of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@torch.inference_mode()
def measure(side: int, way: str, tile: int) -> dict[str, float]:
    """Decode a random latent of a picture of ``side`` px, in this process."""
    torch.manual_seed(0)
    generator = _Decoding()
    before, started = peak_bytes(), time.perf_counter()
    plan = TilePlan(
        height=side,
        width=side,
        multiple=64,
        is_local=False,
        tile_px=tile if way == "tiles" else None,
        autoencoder=way,  # type: ignore[arg-type]
    )
    latent = torch.randn(1, 4, side // 8, side // 8)
    TiledStages(generator, plan).decode(latent, torch.zeros(1, 3, side, side))
    return {"seconds": time.perf_counter() - started, "peak_gib": peak_bytes() / 2**30, "loaded_gib": before / 2**30}


def main() -> None:
    """The command, or (with ``--one``) a single measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="512,1024,1536")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--ways", default="whole,bands,tiles")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(int(given.one[0]), given.one[1], given.tile)))
        return
    rows = []
    for way in given.ways.split(","):
        for side in map(int, given.sizes.split(",")):
            arguments = [sys.executable, os.path.abspath(__file__), "--tile", str(given.tile), "--one", str(side), way]
            found = json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
            rows.append({"side": side, "way": way, "tile": given.tile if way == "tiles" else None, **found})
            on_top = found["peak_gib"] - found["loaded_gib"]
            print(f"{side:5} px  {way:6}", end="")
            print(f"{found['peak_gib']:.2f} GiB, {on_top:.2f} on top of the loaded network  {found['seconds']:.0f} s")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
