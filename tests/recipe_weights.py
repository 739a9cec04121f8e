"""Weights of the perceptual measures by a recipe: no download, and the same everywhere."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch

from s3diff.evaluation.perceptual import (
    ALEXNET_CONVOLUTIONS,
    ALEXNET_FEATURE_CHANNELS,
    DISTS_FEATURE_CHANNELS,
    VGG16_CONVOLUTIONS,
    VGG16_FEATURE_CHANNELS,
)


@functools.cache
def recipe_weights(name: str) -> Mapping[str, torch.Tensor]:
    """Draw seeded random weights of the right shapes, once per process; read only, the measures copy them.

    Convolution i: ``RandomState(1000 + i)``, He-normal, zero bias; head k: ``|RandomState(2000 + k)| * 0.1``. These are
    the weights with which the goldens of the released training code were made, hence numpy's old generator. DISTS:
    alpha and beta are ``RandomState(3000)`` and ``RandomState(3001)``, uniform in [0, 1).
    """
    layout = ALEXNET_CONVOLUTIONS if name == "lpips_alex" else VGG16_CONVOLUTIONS
    weights: dict[str, torch.Tensor] = {}
    for i, (channels_in, channels_out, side) in enumerate(layout):
        draw = np.random.RandomState(1000 + i).randn(channels_out, channels_in, side, side)
        kernel = draw * np.sqrt(2.0 / (side * side * channels_in))
        weights[f"convolutions.{i}.weight"] = torch.from_numpy(kernel.astype(np.float32))
        weights[f"convolutions.{i}.bias"] = torch.zeros(channels_out)
    if name == "dists":
        for seed, key in ((3000, "alpha"), (3001, "beta")):
            draw = np.random.RandomState(seed).rand(sum(DISTS_FEATURE_CHANNELS))
            weights[key] = torch.from_numpy(draw.astype(np.float32))
        return MappingProxyType(weights)
    for k, channels in enumerate(ALEXNET_FEATURE_CHANNELS if name == "lpips_alex" else VGG16_FEATURE_CHANNELS):
        head = np.abs(np.random.RandomState(2000 + k).randn(1, channels, 1, 1)) * 0.1
        weights[f"linear.{k}"] = torch.from_numpy(head.astype(np.float32)).flatten()
    return MappingProxyType(weights)
