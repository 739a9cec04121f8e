"""Define the degradation-guided LoRA: a matrix per image and block mixes the LoRA channels (S3Diff section 3.2).

For a layer with weight ``W``, factors ``A`` (to r channels) and ``B`` (from r channels) and a modulation ``M`` [r, r]::

    y = W x + s * B (M^T (A x)),        s = LORA_ALPHA / r

Two ways to compute it, equal up to rounding:

- *per sample*: ``layer(x, modulation)`` with one ``M`` per image of the batch (training, mixed batches);
- *folded*: :func:`fold` makes ``W' = W + s * B M^T A`` for one image, and :func:`call_adapted` runs the network with
  these weights. The base weights are read, never changed, so folding again cannot drift.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: The LoRA library's default alpha, which the release uses: the scale is 8 / rank.
LORA_ALPHA = 8.0
#: The full size's widest layers have 1280 channels; a rank near them would be no small change any more.
MAX_LORA_RANK = 1024

#: What adapts a network to its images: modulations [B, rows, r, r] per sample, folded weights by name, a folded network
#: (:mod:`s3diff.networks.modulated_lora`) that runs in its place, or nothing.
Adaptation = Tensor | Mapping[str, Tensor] | Callable[..., Any] | None


class _ModulatedLora:
    """Share the code of the linear and the convolution layer: two factors, one scale and the mixing."""

    lora_rank: int
    lora_scale: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def _add_factors(self, rank: int, shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> None:
        self.lora_rank = rank
        if rank == 0:
            return
        self.lora_scale = LORA_ALPHA / rank
        # Gaussian of std 1/r and zeros: at the start the layer computes only W x.
        self.lora_A = nn.Parameter(torch.randn(shape_a) / rank)
        self.lora_B = nn.Parameter(torch.zeros(shape_b))


class ModulatedLinear(nn.Linear, _ModulatedLora):
    """Apply a linear layer with modulated LoRA; with ``lora_rank`` 0 a plain linear layer.

    Args:
        lora_rank: r; factors are ``lora_A`` [r, in] and ``lora_B`` [out, r].
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, lora_rank: int = 0) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._add_factors(lora_rank, (lora_rank, in_features), (out_features, lora_rank))

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """``x``: [B, ..., in]; ``modulation``: [B, r, r], or None for only the base weight. Returns [B, ..., out].

        Fewer matrices than B serve the batch in turn: see :func:`repeated`.
        """
        base = F.linear(x, self.weight, self.bias)
        if modulation is None or self.lora_rank == 0:
            return base
        code = F.linear(x, self.lora_A)
        mixed = torch.matmul(code.flatten(1, -2), repeated(modulation, len(x))).view_as(
            code
        )  # row vectors: code @ M is M^T code
        return base + self.lora_scale * F.linear(mixed, self.lora_B)


class ModulatedConv2d(nn.Conv2d, _ModulatedLora):
    """A convolution with modulated LoRA: A carries kernel, stride and padding, B is 1x1.

    Args:
        lora_rank: r; factors are ``lora_A`` [r, in, k, k] and ``lora_B`` [out, r, 1, 1].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        lora_rank: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        shape_a = (lora_rank, in_channels, kernel_size, kernel_size)
        self._add_factors(lora_rank, shape_a, (out_channels, lora_rank, 1, 1))

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """``x``: [B, in, h, w]; ``modulation``: [B, r, r], or None for only the base weight.

        Fewer matrices than B serve the batch in turn: see :func:`repeated`.
        """
        base = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        if modulation is None or self.lora_rank == 0:
            return base
        code = F.conv2d(x, self.lora_A, None, self.stride, self.padding)
        mixed = torch.bmm(repeated(modulation, len(x)).transpose(1, 2), code.flatten(2)).view_as(code)
        return base + self.lora_scale * F.conv2d(mixed, self.lora_B)


def repeated(tensor: Tensor, batch_size: int) -> Tensor:
    """Repeat a batch as a whole until it has ``batch_size`` rows, a multiple of its own."""
    times = batch_size // len(tensor)
    return tensor if times == 1 else torch.cat([tensor] * times)


ModulatedLayer = ModulatedLinear | ModulatedConv2d


def modulated_forward_reference(layer: ModulatedLayer, x: Tensor, modulation: Tensor) -> Tensor:
    """Compute the paper's formula as one einsum over rank and batch: the readable twin of both forwards."""
    base = layer(x)
    if isinstance(layer, ModulatedConv2d):
        code = F.conv2d(x, layer.lora_A, None, layer.stride, layer.padding)
        return base + layer.lora_scale * torch.einsum("or,bkr,bkhw->bohw", layer.lora_B.flatten(1), modulation, code)
    code = torch.einsum("b...i,ki->b...k", x, layer.lora_A)
    return base + layer.lora_scale * torch.einsum("or,bkr,b...k->b...o", layer.lora_B, modulation, code)


@dataclass(frozen=True)
class LoraWeights:
    """Hold one layer's weights for folding: base [out, in, ...], factors and the row of the block table."""

    weight: Tensor
    lora_A: Tensor
    lora_B: Tensor
    scale: float
    row: int

    def folded(self, modulations: Tensor) -> Tensor:
        """Compute ``W + s * B M^T A`` for one image in the dtype of the factors; ``modulations``: [rows, r, r]."""
        mixed = self.lora_B.flatten(1) @ modulations[self.row].to(self.lora_B.dtype).T
        update = (mixed @ self.lora_A.flatten(1)).view_as(self.weight)
        return torch.add(self.weight, update, alpha=self.scale)

    def moved(self, device: torch.device, layout: torch.memory_format) -> LoraWeights:
        """Bring the tensors to a device; those of convolutions in this layout."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, memory_format=layout) if tensor.dim() == 4 else tensor.to(device)

        return replace(self, weight=moved(self.weight), lora_A=moved(self.lora_A), lora_B=moved(self.lora_B))


class ModulatedNetwork(nn.Module):
    """Define a network with modulated layers, each by the row of a block table that its place decides."""

    #: Number of rows of the block table.
    num_modulation_rows: int

    def modulation_row(self, layer: str) -> int:
        """Find the row of the block table that modulates the layer of that name."""
        raise NotImplementedError

    def modulated_layers(self) -> dict[str, ModulatedLayer]:
        """Collect every layer that carries LoRA factors, by name."""
        return {
            name: module
            for name, module in self.named_modules()
            if isinstance(module, ModulatedLinear | ModulatedConv2d) and module.lora_rank > 0
        }

    def lora_weights(self) -> dict[str, LoraWeights]:
        """Collect the weights that folding starts from, by layer name: the network's own tensors.

        A cast of the network afterwards gives it new ones, so these keep their dtype.
        """
        return {
            name: LoraWeights(
                layer.weight.detach(),
                layer.lora_A.detach(),
                layer.lora_B.detach(),
                layer.lora_scale,
                self.modulation_row(name),
            )
            for name, layer in self.modulated_layers().items()
        }


def fold(weights: Mapping[str, LoraWeights], modulation: Tensor, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Fold the weights of one image for :func:`call_adapted`.

    Args:
        weights: from :meth:`ModulatedNetwork.lora_weights`.
        modulation: [1, rows, r, r], the matrices of one image.
        dtype: number format of the folded weights, cast after the sum; None keeps the dtype of the base weights.

    Raises:
        ValueError: the batch holds more than one image; mixed batches run per sample.
    """
    if modulation.shape[0] != 1:
        raise ValueError(
            f"folding serves one image, this batch holds {modulation.shape[0]}; pass the modulation instead"
        )
    return {
        f"{name}.weight": layer.folded(modulation[0]).to(dtype or layer.weight.dtype) for name, layer in weights.items()
    }


def call_adapted(network: nn.Module, adaptation: Adaptation, *args: Any, **more: Any) -> Any:
    """Run the network with folded weights (a mapping, or a folded network), per-sample modulation (a tensor) or
    its base weights.
    """
    if isinstance(adaptation, Mapping):
        return torch.func.functional_call(network, dict(adaptation), args, more)
    if adaptation is None or isinstance(adaptation, Tensor):
        return network(*args, modulation=adaptation, **more)
    return adaptation(*args, **more)


Network = TypeVar("Network", bound=ModulatedNetwork)


class FoldedNetwork(Generic[Network]):
    """Run one picture at a time with folded weights. All other modules are shared with the original network, and
    so are the hooks of all layers, whenever they are registered.

    :func:`fold` is the readable twin: the same weights as new tensors, which ``functional_call`` swaps in. Here they
    lie in buffers that stay where they are. No memory is asked for and given back (three quarters of the time of a fold
    on a CPU), nothing is swapped at every call, and a compiled network or a recorded CUDA graph finds its weights where
    it left them.

    Args:
        network: its modulated layers' dtype and memory format are those of the folded weights.
        weights: what folding starts from, by layer name; from :meth:`ModulatedNetwork.lora_weights`.

    Attributes:
        network: the modules; they may be changed, the original is not.
    """

    def __init__(self, network: Network, weights: Mapping[str, LoraWeights]) -> None:
        memo: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        for module in network.modules():
            memo.update({id(value): value for name, value in vars(module).items() if "hooks" in name})
        buffers = {}
        for name, layer in network.modulated_layers().items():
            buffers[name] = nn.Parameter(torch.empty_like(layer.weight), requires_grad=False)
            memo[id(layer.weight)] = buffers[name]
        self.network: Network = copy.deepcopy(network, memo)
        self._layers = [(buffers[name], layer) for name, layer in weights.items()]

    @torch.no_grad()
    def fold(self, modulation: Tensor) -> FoldedNetwork[Network]:
        """Write the weights of one image: ``modulation`` [1, rows, r, r]. The weights of the image before are gone.

        Raises:
            ValueError: the batch holds more than one image.
        """
        if modulation.shape[0] != 1:
            raise ValueError(f"folding serves one image, this batch holds {modulation.shape[0]}; fold in turn")
        for buffer, layer in self._layers:
            _fold_into(buffer, layer, modulation[0])
        return self

    def __call__(self, *args: Any, **more: Any) -> Any:
        """Run the network with these weights."""
        return self.network(*args, **more)


class FoldedInTurn:
    """Run a batch with one modulation per image, image by image with folded weights.

    It pays where one image keeps the device busy: a fold costs less than the LoRA layers it saves.

    Args:
        folded: runs the images.
        modulations: [B, rows, r, r].
    """

    def __init__(self, folded: FoldedNetwork[Any], modulations: Tensor) -> None:
        self.folded, self.modulations = folded, modulations

    def __call__(self, *args: Tensor, **more: Any) -> Tensor:
        """Run picture after picture; every argument has B rows, or several times B in the same order (by prompts).

        Arguments by name serve all of them.
        """
        count = len(self.modulations)
        parts = []
        for index in range(count):
            # Copied, as one image's own tensors lie: another alignment may mean another kernel, which rounds otherwise.
            folded = self.folded.fold(self.modulations[index : index + 1].clone())
            parts.append(folded(*(argument[index::count].clone() for argument in args), **more))
        return torch.stack(parts, dim=1).flatten(0, 1)


def _fold_into(buffer: Tensor, layer: LoraWeights, modulations: Tensor) -> None:
    """Compute ``W + s * B M^T A`` in one pass over the weight; cast to a smaller dtype after the sum."""
    mixed = layer.lora_B.flatten(1) @ modulations[layer.row].to(layer.lora_B.dtype).T
    row_major = layer.weight.is_contiguous()
    weight, factor, out = (_as_rows(tensor, row_major) for tensor in (layer.weight, layer.lora_A, buffer))
    if out.dtype == weight.dtype:
        torch.addmm(weight, mixed, factor, alpha=layer.scale, out=out)
    else:
        out.copy_(torch.addmm(weight, mixed, factor, alpha=layer.scale))


def _as_rows(tensor: Tensor, row_major: bool) -> Tensor:
    """View a weight as one row per output channel, [out, in * k * k], or [out, k * k * in] with channels last."""
    return (tensor if row_major else tensor.permute(0, 2, 3, 1)).view(tensor.shape[0], -1)
