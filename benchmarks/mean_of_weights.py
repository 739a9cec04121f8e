"""Make a model whose weights are the mean of two models of one shape.

    python benchmarks/mean_of_weights.py FIRST SECOND OUTPUT [--share 0.65]

Networks that were trained from one start lie near each other; their mean has fewer of the faults that only one of them
has (docs/training.md, version 15). Everything but the weights is the first model's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from s3diff.checkpoints.model_folder import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("first", "second", "output"):
        parser.add_argument(name, type=Path, help="model folder")
    parser.add_argument("--share", type=float, default=0.65, help="of the first one")
    given = parser.parse_args()
    model, other = load_model(given.first), load_model(given.second)
    if model.config != other.config:
        parser.error("the models differ in shape; give two of one shape")
    weights = dict(other.generator.named_parameters())
    with torch.no_grad():
        for name, weight in model.generator.named_parameters():
            weight.copy_(given.share * weight + (1 - given.share) * weights[name])
    print(model.save(given.output, dtype=torch.float16).fingerprint)


if __name__ == "__main__":
    main()
