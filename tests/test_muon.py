"""Muon: the orthogonal factor, what it shares with AdamW, and that it goes on from its state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from s3diff.training import muon
from s3diff.training.muon import Muon, is_matrix, orthogonalised


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 32)])
def test_the_orthogonal_factor_is_that_of_the_decomposition(shape: tuple[int, int]) -> None:
    matrix = draw(*shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalised(matrix[None])[0]
    # The iterations leave singular values between 0.7 and 1.2 (tiny ones less) and do not turn the singular vectors.
    turned = left.mT @ found @ right.mT
    values = turned.diagonal()
    assert float(values.min()) > 0.65
    assert float(values.max()) < 1.25
    assert float((turned - torch.diag(values)).abs().max()) < 1e-4
    assert torch.allclose(orthogonalised(1000 * matrix[None])[0], found, atol=1e-4)


def test_a_convolution_moves_along_the_orthogonal_factor_by_adamws_usual_size() -> None:
    weight = nn.Parameter(draw(16, 8, 3, 3))
    start, gradients = weight.detach().clone(), [draw(16, 8, 3, 3, seed=seed) for seed in (1, 2)]
    optimiser = Muon([weight], lr=0.1, momentum=0.9)
    expected, average = start.clone(), torch.zeros_like(start)
    for gradient in gradients:
        weight.grad = gradient.clone()
        before = weight.detach().clone()
        optimiser.step()
        average = 0.9 * average + 0.1 * gradient
        update = orthogonalised((0.1 * gradient + 0.9 * average).reshape(1, 16, 72)).reshape(16, 8, 3, 3)
        expected = expected - 0.1 * 0.2 * 72**0.5 * update
        assert float((weight.detach() - before).square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.2)
    assert torch.allclose(weight, expected, atol=1e-5)


@pytest.mark.parametrize("max_together", [muon._MAX_TOGETHER, 2 * 16 * 24, 1])
def test_matrices_of_one_shape_move_together_as_each_does_alone(
    max_together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "_MAX_TOGETHER", max_together)
    shapes = [(16, 24), (16, 6, 2, 2), (40, 16), (16, 24), (20,)]
    together = [nn.Parameter(draw(*shape, seed=index)) for index, shape in enumerate(shapes)]
    alone = copy.deepcopy(together)
    optimisers = [Muon(together, lr=0.1), *(Muon([parameter], lr=0.1) for parameter in alone)]
    for seed in (10, 20):
        for parameters in (together, alone):
            for index, parameter in enumerate(parameters):
                parameter.grad = draw(*parameter.shape, seed=seed + index)
        for optimiser in optimisers:
            optimiser.step()
    for ours, theirs in zip(together, alone, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("shape", [(40,), (), (8, 64), (64, 8), (3, 64, 3, 3)])
def test_vectors_and_thin_matrices_are_adamws(shape: tuple[int, ...]) -> None:
    assert not is_matrix(draw(*shape))
    settings = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    ours, theirs = nn.Parameter(draw(*shape)), nn.Parameter(draw(*shape))
    optimisers = Muon([ours], **settings), torch.optim.AdamW([theirs], **settings)
    for seed in range(1, 5):
        for parameter, optimiser in zip((ours, theirs), optimisers, strict=True):
            parameter.grad = draw(*shape, seed=seed)
            optimiser.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_weights_without_gradient_stay_and_decay_reaches_matrices() -> None:
    moved, still = nn.Parameter(draw(16, 16)), nn.Parameter(draw(16, 16, seed=1))
    start, expected = moved.detach().clone(), still.detach().clone()
    optimiser = Muon([moved, still], lr=0.1, weight_decay=0.5)
    moved.grad = torch.zeros(16, 16)
    optimiser.step()
    assert torch.equal(still, expected)
    assert torch.allclose(moved, 0.95 * start)


def test_it_goes_on_from_its_state_bit_by_bit() -> None:
    def step(parameters: list[nn.Parameter], optimiser: Muon, seed: int) -> None:
        for index, parameter in enumerate(parameters):
            parameter.grad = draw(*parameter.shape, seed=10 * seed + index)
        optimiser.step()

    one = [nn.Parameter(draw(16, 4, 3, 3)), nn.Parameter(draw(16))]
    first = Muon(one, lr=0.05)
    for seed in (1, 2):
        step(one, first, seed)
    two = [nn.Parameter(parameter.detach().clone()) for parameter in one]
    second = Muon(two, lr=0.05)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for parameters, optimiser in ((one, first), (two, second)):
        step(parameters, optimiser, 3)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
