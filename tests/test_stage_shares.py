"""Shares of a stage, block by block: they grow to the whole, in tiles as well, and change no pixel."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golden_models import tiny_model
from s3diff.options import MIN_TILE_PX
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.stage_events import block_work


def told(model: Path | Restorer, picture: np.ndarray, **changes: Any) -> tuple[np.ndarray, dict[str, list[float]]]:
    """The result, and the shares of each stage in order."""
    restorer = model if isinstance(model, Restorer) else Restorer.from_pretrained(model, device="cpu")
    shares: dict[str, list[float]] = {}

    def begin(stage: str, part: int, num_parts: int) -> None:
        shares.setdefault(stage, [])

    def share(value: float) -> None:
        shares[list(shares)[-1]].append(value)

    result = restorer.restore(picture, on_begin=begin, on_share=share, **changes)
    return np.asarray(result.picture.pixels), shares


@pytest.mark.parametrize(
    ("kind", "width", "tile"), [("compact", 24, "auto"), ("SD", 16, "auto"), ("SD", 100, MIN_TILE_PX)]
)
def test_shares_grow_to_the_whole(small: Path, tiny: Path, kind: str, width: int, tile: Any) -> None:
    """At once, and in tiles within a stage."""
    picture = np.random.default_rng(1).integers(0, 256, (16, width, 3), dtype=np.uint8)
    model = Restorer.from_pretrained(tiny if kind == "SD" else small, device="cpu")
    pixels, shares = told(model, picture, tile=tile)
    assert [stage for stage, values in shares.items() if values] == ["encode", "predict", "decode"]
    for stage in ("encode", "predict", "decode"):
        values = shares[stage]
        assert len(values) >= 3
        assert all(0 <= first <= second <= 1 for first, second in pairwise(values)), stage
        assert values[-1] == pytest.approx(1, abs=0.01)
    assert np.array_equal(pixels, np.asarray(model.restore(picture, tile=tile).picture.pixels))


def test_no_hook_stays(small: Path) -> None:
    model = Restorer.from_pretrained(small, device="cpu")
    told(model, np.zeros((16, 16, 3), np.uint8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.generator.modules())


def test_work_is_what_torch_counts() -> None:
    """Its shares, as far as linear layers, convolutions and attention go."""
    from torch.utils.flop_counter import FlopCounterMode

    generator = tiny_model().generator
    for network, size in ((generator.autoencoder.encoder, (3, 64, 64)), (generator.autoencoder.decoder, (4, 16, 16))):
        works = block_work(network, size[1] * size[2])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, *size))
        counts = counter.get_flop_counts()
        names = {module: name for name, module in network.named_modules()}
        kind = type(network).__name__
        counted = [float(sum(counts[f"{kind}.{names[module]}"].values())) for module, _ in works]
        found = [work for _, work in works]
        assert np.allclose(np.array(found) / sum(found), np.array(counted) / sum(counted), atol=0.02), kind
