"""How near is a model to its teacher, by what degraded the input? A guide for stages; give shards that none has seen.

    python benchmarks/teacher_distance.py SHARD [SHARD ...] --model MODEL [--model MODEL]

For each kind of crop: the mean absolute difference to the teacher's picture, in levels of 255, of bicubic's enlargement
and of every model's result; the gradient of the result as a share of the teacher's; and LPIPS (AlexNet), which no stage
has as a term, between both.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from compact_student import colours_of, enlarged
from safetensors.torch import load_file
from teacher_shards import DEGRADATIONS
from torch import Tensor

from s3diff import Restorer
from s3diff.evaluation.perceptual import LPIPS

KINDS = (*DEGRADATIONS, "own size")


def gradient(image: Tensor) -> Tensor:
    """Mean absolute difference of horizontal neighbours of [3, H, W]."""
    return image.diff(dim=-1).abs().mean()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, nargs="+", help="files of benchmarks/teacher_shards.py")
    parser.add_argument("--model", action="append", required=True, help="a model's name or folder; may be given again")
    parser.add_argument("--step", type=int, default=2, help="every so many crops")
    given = parser.parse_args()
    restorers = [Restorer.from_pretrained(model, device="cpu") for model in given.model]
    lpips = LPIPS("alex")
    found: dict[str, list[list[float]]] = defaultdict(list)
    for path in given.shards:
        shard = load_file(path)
        for index in range(0, len(shard["kind"]), given.step):
            if shard["drawn"][index]:
                continue
            low_quality, teacher, truth = (
                shard[name][index][None].float() / 255 for name in ("low_quality", "teacher", "truth")
            )
            teacher = teacher - colours_of(teacher) + colours_of(truth)
            row = [float((enlarged(low_quality) - teacher).abs().mean() * 255)]
            for restorer in restorers:
                result = restorer.restore_tensor(low_quality).images
                row.append(float((result - teacher).abs().mean() * 255))
                row.append(float(gradient(result[0]) / gradient(teacher[0])))
                row.append(float(lpips(result * 2 - 1, teacher.clamp(0, 1) * 2 - 1)))
            found[KINDS[int(shard["kind"][index])]].append(row)
    print("kind: crops; levels from the teacher: bicubic; then of each model, share of the teacher's gradient, LPIPS")
    for kind, rows in found.items():
        bicubic, *models = np.mean(rows, axis=0)
        shown = [f"{models[at]:.2f} ({models[at + 1]:.0%}, {models[at + 2]:.3f})" for at in range(0, len(models), 3)]
        print(f"{kind}: {len(rows)}; {bicubic:.2f}; {', '.join(shown)}")


if __name__ == "__main__":
    main()
