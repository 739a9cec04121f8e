"""Raise the blur degrees that a model estimates, so that its results are crisper.

    python benchmarks/sharper_degrees.py runs/rims/model runs/start [--offset 0.7] [--estimator FILE]

The offset is added to the logit of the estimator's blur degree. An estimator that is trained on true degrees asks for
the likeliest sharpness, and eyes prefer a little more (docs/training.md). Version 12 got a raise of 0.4 after all
training, the networks of versions 13 and 14 were trained with it; version 15 has 0.7, with which the degree rises
evenly from the weakest blur on. ``--estimator`` puts in an estimator that was trained later.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from s3diff.checkpoints.model_folder import load_model
from s3diff.networks.degradation_estimator import DEGREE_NAMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("output", type=Path, help="model folder to write")
    parser.add_argument("--offset", type=float, default=0.7)
    parser.add_argument("--guidance", type=float, default=1.0, help="the model's own")
    parser.add_argument("--estimator", type=Path, help="estimator.safetensors from benchmarks/compact_estimator.py")
    given = parser.parse_args()
    model = load_model(given.model)
    estimator = model.generator.estimator
    if given.estimator:
        estimator.load_state_dict({name: value.float() for name, value in load_file(given.estimator).items()})
    last_layer = estimator.fc_degree[DEGREE_NAMES.index("blur")][2]
    with torch.no_grad():
        last_layer.bias += given.offset
    model = replace(model, description=replace(model.description, guidance=given.guidance))
    print(model.save(given.output, dtype=torch.float16).fingerprint)


if __name__ == "__main__":
    main()
