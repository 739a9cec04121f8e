"""Report a restoration's stages to the caller: their beginnings, their shares, their tensors, their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from s3diff.errors import OptionError
from s3diff.networks.attention import ImageAttention, SpatialTransformer, TransformerBlock
from s3diff.networks.blocks import Downsampler, ResnetBlock, Upsampler
from s3diff.tiling import HaloSpan

#: Called with the stage (``tiles``, ``predict`` or ``frames``; of a video also ``look``, ``look_resumed`` and
#: ``resumed``), the finished number and the total. Its exception ends the work.
Progress = Callable[[str, int, int], None]
#: Called when a stage begins: its name, the part of the picture, counted from 0, and how many parts there are. The
#: stages are ``estimate`` and ``fold``, for every part ``prepare``, ``encode``, ``predict``, ``decode`` and ``color``,
#: at the end ``finish``.
OnBegin = Callable[[str, int, int], None]
#: Called within ``encode``, ``predict`` and ``decode`` of a part with the stage's finished share, in [0, 1]; on a CPU,
#: where the networks are not compiled.
OnShare = Callable[[float], None]
#: Called for every tile with a name of :data:`s3diff.networks.one_step_generator.STAGE_RESULTS` and that tensor; a
#: tensor of the same shape that it returns is used instead. Its exception ends the work.
OnStage = Callable[[str, Tensor], Tensor | None]


@dataclass
class StageClock:
    """Measure the stages of one walk.

    Attributes:
        device: synchronised at the end of each stage.
        num_parts: number of the picture's parts.
        seconds: time of every stage, all parts together.
        part: index of the current part.
    """

    device: torch.device
    num_parts: int
    on_begin: OnBegin | None
    seconds: dict[str, float] = field(default_factory=dict)
    part: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block."""
        if self.on_begin is not None:
            self.on_begin(name, self.part, self.num_parts)
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def shared_by(self, num_pictures: int) -> dict[str, float]:
        """Divide the seconds between the pictures of a batch, and add their ``total``."""
        shared = {name: seconds / num_pictures for name, seconds in self.seconds.items()}
        return {**shared, "total": sum(shared.values())}


class Passed(Protocol):
    """Call a stage hook with the tensor's rows and columns in the padded picture."""

    def __call__(self, name: str, tensor: Tensor, rows: HaloSpan, columns: HaloSpan) -> Tensor:
        """Return the tensor to use."""


def unchanged(name: str, tensor: Tensor, rows: HaloSpan, columns: HaloSpan) -> Tensor:
    return tensor


def passed_to(on_stage: OnStage | None) -> Passed:
    """Make the hook that :func:`walk` calls from a caller's function; check the tensors that it returns."""
    if on_stage is None:
        return unchanged

    def passed(name: str, tensor: Tensor, rows: HaloSpan, columns: HaloSpan) -> Tensor:
        changed = on_stage(name, tensor)
        if changed is None:
            return tensor
        if not isinstance(changed, Tensor) or changed.shape != tensor.shape:
            given = list(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise OptionError(f"on_stage returned {given} for {name}; give a tensor {list(tensor.shape)}, or nothing")
        return changed.to(tensor)

    return passed


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
    """Call ``report`` with the finished share of a pass after each block; the next pass begins at 0 again.

    Only where a block has ended when its call returns: on a CPU, in networks that are not compiled.
    """
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
