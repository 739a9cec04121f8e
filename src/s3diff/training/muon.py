"""Optimise matrices and convolutions by orthogonal momentum (Muon), the rest by AdamW.

Source: K. Jordan et al., *Muon: An optimizer for hidden layers in neural networks* (2024), and *Muon is scalable for
LLM training* (arXiv 2502.16982), section 2.2, for the factor with which AdamW's learning rates fit. Own code because
torch's (2.9 and newer) takes only matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

#: Coefficients and number of the Newton-Schulz iterations: singular values from 0.01 to 1 end between 0.7 and 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
#: Root mean square of an update by AdamW, measured in training (arXiv 2502.16982, section 2.2).
_ADAM_UPDATE = 0.2
#: Matrices of one shape are updated together while they hold at most so many values: copies of large ones cost memory.
_MAX_TOGETHER = 2**22
#: Thinner matrices (LoRA of small rank, a head's few outputs) and vectors go to AdamW.
_MIN_SIDE = 16


class Muon(Optimizer):
    """Optimise all parameters of a network.

    A weight of shape [rows, ...] counts as a matrix [rows, columns]; where both are at least 16, its update is the
    orthogonal factor of the gradient's Nesterov momentum, scaled to AdamW's usual size. All else is AdamW's.

    Args:
        lr: learning rate, of the order of AdamW's.
        betas: of AdamW's moments, for the rest.
        eps: of AdamW, for the rest.
        weight_decay: decoupled, for all.
        momentum: of the matrices' gradients.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, settings)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the weights once from the gradients; ``closure`` is called first where given."""
        loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                matrices: dict[tuple[int, int], list[Tensor]] = {}
                for weight in group["params"]:
                    if weight.grad is None:
                        continue
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    if is_matrix(weight):
                        matrices.setdefault((weight.shape[0], weight[0].numel()), []).append(weight)
                    else:
                        self._adam_update(weight, group)
                for weights in matrices.values():
                    most = max(1, _MAX_TOGETHER // weights[0].numel())
                    for first in range(0, len(weights), most):
                        self._orthogonal_update(weights[first : first + most], group)
        return loss

    def _orthogonal_update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape together: less than half of the time of one by one."""
        updates = orthogonalised(torch.stack([self._momentum(weight, group) for weight in weights]))
        # An orthogonal factor's values have a root mean square of 1 / sqrt(longer side).
        step = -group["lr"] * _ADAM_UPDATE * max(updates.shape[1:]) ** 0.5
        for weight, update in zip(weights, updates, strict=True):
            weight.add_(update.view_as(weight), alpha=step)

    def _momentum(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        """Move the gradient's average on, and return Nesterov's momentum as a matrix."""
        gradient, state = cast(Tensor, weight.grad), self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(average, group["momentum"]).flatten(1)

    def _adam_update(self, weight: Tensor, group: dict[str, Any]) -> None:
        gradient, state = cast(Tensor, weight.grad), self.state[weight]
        if not state:
            state["step"], state["mean"], state["square"] = 0, torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        (first, second), step = group["betas"], state["step"]
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].lerp_(gradient.square(), 1 - second)
        scale = (square / (1 - second**step)).sqrt_().add_(group["eps"])
        weight.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**step))


def is_matrix(weight: Tensor) -> bool:
    """Say whether Muon, and not AdamW, updates a weight of this shape."""
    return weight.ndim >= 2 and min(weight.shape[0], weight[0].numel()) >= _MIN_SIDE


def orthogonalised(matrices: Tensor) -> Tensor:
    """Map each of [N, rows, columns] to about U V^T of its decomposition U S V^T, by products of matrices only."""
    x = matrices.float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT.contiguous()
    a, b, c = _COEFFICIENTS
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
