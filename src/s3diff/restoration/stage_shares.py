"""Report how far a network's pass is, block by block, so that the time left is known within a long stage.

Only where a block has ended when its call returns: on a CPU, in networks that are not compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from s3diff.networks.attention import ImageAttention, SpatialTransformer, TransformerBlock
from s3diff.networks.blocks import Downsampler, ResnetBlock, Upsampler
from s3diff.restoration.stage_events import OnShare

_BLOCKS = (ResnetBlock, SpatialTransformer, ImageAttention, Downsampler, Upsampler)


def block_work(network: nn.Module, num_positions: float) -> list[tuple[nn.Module, float]]:
    """Count the multiplications of each block of an encoder, a decoder or a UNet.

    Modules are registered in the order of the forward pass, so that samplers before a block tell its feature size.

    Args:
        num_positions: height times width of what the network gets.
    """
    works: list[tuple[nn.Module, float]] = []
    positions = num_positions / getattr(network, "pixel_unshuffle", 1) ** 2
    for module in network.modules():
        if isinstance(module, Downsampler | Upsampler):
            positions *= 4 if isinstance(module, Upsampler) else 0.25
        if isinstance(module, _BLOCKS):
            layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
            weights = sum(layer.weight.numel() for layer in layers)
            works.append((module, positions * weights + 2 * positions**2 * _attending_channels(module)))
    return works


@contextmanager
def shares_reported(network: nn.Module, num_positions: float, report: OnShare) -> Iterator[None]:
    """Call ``report`` with the finished share of a pass after each block; the next pass begins at 0 again."""
    works = block_work(network, num_positions)
    whole, done = sum(work for _, work in works), 0.0

    def begin(*_: Any) -> None:
        nonlocal done
        done = 0.0

    def end(work: float, *_: Any) -> None:
        nonlocal done
        done += work
        report(min(1.0, done / whole))

    with ExitStack() as hooks:
        hooks.callback(network.register_forward_pre_hook(begin).remove)
        for module, work in works:
            # A folded network shares the hooks, with modules of its own.
            hooks.callback(module.register_forward_hook(partial(end, work)).remove)
        yield


def _attending_channels(module: nn.Module) -> int:
    """Return the width of a block's attention to its own positions; 0 without one."""
    if isinstance(module, ImageAttention):
        return module.to_q.out_features
    blocks = [block for block in module.modules() if isinstance(block, TransformerBlock) and block.self_attention]
    return sum(block.attn1.to_q.out_features for block in blocks)
