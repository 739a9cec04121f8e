"""Speed and memory of training: images per second and peak memory of a few steps of a recipe.

    python benchmarks/training.py --recipe paper --steps 20 --json benchmarks/results/training-h200.json
    python benchmarks/training.py --recipe paper --tiny --steps 5 --cpu

Weights are random (``--from random``, a random DINO), pictures too: nothing is fetched. ``--tiny`` shrinks the networks
and the crops, for a machine without a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from recipe_weights import recipe_weights
from s3diff.checkpoints.weights_file import write_safetensors
from s3diff.evaluation.perceptual import LPIPS
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import from_array
from s3diff.training import losses
from s3diff.training.adversarial.backbones import VisionTransformer, VisionTransformerConfig
from s3diff.training.run import TrainRequest, prepare_trainer
from s3diff.training.trainer import Trainer

#: SD-Turbo's layout at a size that a CPU trains.
TINY = (
    "generator.unet.block_out_channels=32,32,64,64",
    "generator.unet.num_heads=1,1,2,2",
    "generator.unet.context_channels=32",
    "generator.autoencoder.block_out_channels=32,32,64,64",
    "data.crop_px=128",
    "adversarial.discriminator.backbone=random",
)


def write_pictures(folder: Path, count: int, side_px: int) -> None:
    """Random pictures with some structure, as JPEG."""
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = random.integers(0, 256, (side_px // 16, side_px // 16, 3), dtype=np.uint8)
        fine = random.integers(-20, 20, (side_px, side_px, 3))
        pixels = np.clip(coarse.repeat(16, 0).repeat(16, 1) + fine, 0, 255).astype(np.uint8)
        write_picture(from_array(pixels), folder / f"{index}.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--steps", type=int, default=20, help="measured steps, after two that warm up")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    # LPIPS with seeded weights costs what the published ones cost.
    losses.LPIPS = lambda net: LPIPS(net, recipe_weights(f"lpips_{net}"))  # type: ignore[misc,assignment]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures", 16, 1024)
        changes = [*(TINY if given.tiny else ()), *given.changes]
        if not given.tiny:
            torch.manual_seed(0)
            weights = VisionTransformer(VisionTransformerConfig()).state_dict()
            write_safetensors(weights, folder / "dino.safetensors")
            changes.append(f"adversarial.discriminator.backbone_weights={folder / 'dino.safetensors'}")
        trainer = prepare_trainer(
            TrainRequest(
                recipe=given.recipe,
                data=str(folder / "pictures"),
                output=folder / "run",
                source="random",
                changes=tuple(changes),
                cpu=given.cpu,
            )
        )
        report = measure(trainer, given.steps)
    print("  ".join(f"{name} {value}" for name, value in report.items()))
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def measure(trainer: Trainer, steps: int) -> dict[str, object]:
    """Median seconds of a step, and the memory at its peak."""
    on_gpu, seconds = trainer.device.type == "cuda", []
    batches = trainer._batches()
    for step in range(2 + steps):
        started = time.perf_counter()
        values = trainer.train_step(next(batches))
        if on_gpu:
            torch.cuda.synchronize()
        if step >= 2:
            seconds.append(time.perf_counter() - started)
    batches.close()
    config = trainer.config
    return {
        "recipe": config.name,
        "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "crop_px": config.data.crop_px,
        "crops_per_step": trainer.batch_size,
        "steps": steps,
        "seconds_per_step": round(statistics.median(seconds), 4),
        "images_per_second": round(trainer.batch_size / statistics.median(seconds), 3),
        "peak_gib": round((torch.cuda.max_memory_allocated() if on_gpu else peak_bytes()) / 2**30, 3),
        "loss": round(float(values["total"]), 4),
    }


def peak_bytes() -> int:
    """Largest resident memory of this process (Linux: kilobytes, macOS: bytes)."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


if __name__ == "__main__":
    main()
