"""Fold cheaply: a second network, whose modulated weights are written anew for every picture.

:func:`s3diff.networks.modulated_lora.fold` is the readable twin: the same weights as new tensors, which
``functional_call`` swaps in. Here they lie in buffers that stay where they are. No memory is asked for and given back
(three quarters of the time of a fold on a CPU), nothing is swapped at every call, and a compiled network or a recorded
CUDA graph finds its weights where it left them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from s3diff.networks.modulated_lora import LoraWeights, ModulatedNetwork

Network = TypeVar("Network", bound=ModulatedNetwork)


class FoldedNetwork(Generic[Network]):
    """Run one picture at a time with folded weights. All other modules are shared with the original network, and
    so are the hooks of all layers, whenever they are registered.

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

        What is given by name serves all of them.
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
