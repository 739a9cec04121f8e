"""The discriminator that learns from pixels: its networks, its loss, its place in a step, its checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s3diff.errors import OptionError
from s3diff.training import phases
from s3diff.training.adversarial.discriminator import DiscriminatorConfig, PatchDiscriminator, pairing_loss
from s3diff.training.config import DataConfig, OptimiserConfig
from s3diff.training.recipes import debug
from training_runs import differing, everything, make_trainer, run_steps, tiny_config

FIELD_OF_VIEW_PX = 28


def paired_config(weight: float = 0.01, **changes: object):
    """Every image is plain, so that every step judges all of them."""
    judge = DiscriminatorConfig(backbone="pixels", hidden_channels=4)
    adversarial = replace(debug().adversarial, weight=weight, discriminator=judge)
    return tiny_config(adversarial=adversarial, dial_probability=0.0, negative_probability=0.0, **changes)


def test_every_logit_sees_its_place_alone() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(4).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    images.requires_grad_()
    logits = judge(images)
    assert logits.shape == (2, 1, 16, 16)
    (gradient,) = torch.autograd.grad(logits[1, 0, 8, 8], images)
    assert not gradient[0].any(), "the other image"
    rows = gradient[1].abs().sum(dim=(0, 2)).nonzero().flatten()
    columns = gradient[1].abs().sum(dim=(0, 1)).nonzero().flatten()
    for seen in (rows, columns):
        assert int(seen[-1] - seen[0]) + 1 == FIELD_OF_VIEW_PX
        assert int(seen[0]) <= 8 * 4 <= int(seen[-1])


def test_no_layer_but_the_last_magnifies() -> None:
    """Spectral norm, once its power iterations have settled."""
    torch.manual_seed(0)
    judge = PatchDiscriminator(4)
    with torch.no_grad():
        for _ in range(30):
            judge(torch.rand(1, 3, 16, 16))
        convolutions = [module for module in judge.modules() if isinstance(module, torch.nn.Conv2d)]
        assert len(convolutions) == 5
        for convolution in convolutions[:-1]:
            largest = torch.linalg.matrix_norm(convolution.weight.flatten(1), 2)
            assert float(largest) == pytest.approx(1, abs=0.02)


def test_the_pairs_loss_by_hand() -> None:
    real, fake = torch.tensor([[1.0, 3.0], [0.0, 5.0]]), torch.tensor([[2.0, 0.0], [9.0, 9.0]])
    real, fake = (logits[:, None, None] for logits in (real, fake))
    found = pairing_loss(real, fake, torch.tensor([True, False]), 1)
    assert float(found) == pytest.approx((math.log1p(math.exp(2 - 1)) + math.log1p(math.exp(0 - 3))) / 2)
    both = pairing_loss(real, fake, torch.tensor([True, True]), 2)
    assert float(both) > float(found), "the second image was taken for worse"
    assert float(pairing_loss(real, real, torch.tensor([True, True]), 2)) == pytest.approx(math.log(2))


def test_the_loss_of_two_processes_is_that_of_one_with_both_rows() -> None:
    drawn = phases.draw_batch(replace(tiny_config(), dial_probability=0.4), 4, torch.Generator().manual_seed(5))
    drawn = replace(drawn, is_negative=torch.tensor([True, False, False, False]), dial=None, plain_share=3 / 4)
    logits = torch.randn(2, 4, 1, 4, 4, generator=torch.Generator().manual_seed(6))

    def loss(start: int, stop: int) -> torch.Tensor:
        rows = drawn.rows(start, stop)
        real, fake = logits[:, start:stop]
        return pairing_loss(real, fake, rows.is_plain, rows.plain_share * (stop - start))

    assert float((loss(0, 2) + loss(2, 4)) / 2) == pytest.approx(float(loss(0, 4)))


def test_only_results_of_good_targets_are_judged() -> None:
    config = replace(tiny_config(), dial_probability=0.4)
    drawn = phases.draw_batch(config, 400, torch.Generator().manual_seed(5))
    turned = (drawn.dial != 1).any(dim=1)
    assert torch.equal(drawn.is_plain, ~drawn.is_negative & ~turned)
    assert drawn.plain_share == pytest.approx(float(drawn.is_plain.float().mean()))

    torch.manual_seed(0)
    judge = PatchDiscriminator(4)
    result = (torch.rand(2, 3, 16, 16) * 2 - 1).requires_grad_()
    pair = phases.Pair(result, torch.rand(2, 3, 16, 16) * 2 - 1, torch.tensor([False, True]), 1.0)
    phases.paired(judge, pair).backward()
    assert not result.grad[0].any()
    assert result.grad[1].any()


def test_both_sides_learn_and_each_from_its_own_loss(photos: Path, tmp_path: Path) -> None:
    def after(weight: float, discriminator_weight: float, name: str) -> tuple[dict, dict, dict]:
        config = paired_config(weight, optimiser=OptimiserConfig(learning_rate=1e-3, weight_decay=0.0, max_steps=4))
        config = replace(config, adversarial=replace(config.adversarial, discriminator_weight=discriminator_weight))
        trainer = make_trainer(config, photos, tmp_path / name)
        before = {n: p.detach().clone() for n, p in trainer.discriminator.named_parameters()}
        values = run_steps(trainer, 1)[0]
        moved = {n: not torch.equal(p, before[n]) for n, p in trainer.discriminator.named_parameters()}
        return values, moved, {n: v.clone() for n, v in trainer.model.trained_state().items()}

    values, moved, weights = after(0.01, 1.0, "both")
    assert all(moved.values())
    assert values["total"] == pytest.approx(2 * values["l2"] + values["l1"] + 0.01 * values["adversarial"], rel=1e-5), (
        "the generator's loss is one sum"
    )
    _, moved, same = after(0.01, 0.0, "generator alone")
    assert not any(moved.values()), "the generator's pass leaves no gradients in the discriminator"
    assert all(torch.equal(same[name], value) for name, value in weights.items())
    _, _, other = after(10.0, 1.0, "heavier")
    assert any(not torch.equal(other[name], value) for name, value in weights.items())


def test_the_discriminator_learns_to_tell_them_apart(photos: Path, tmp_path: Path) -> None:
    config = paired_config(1e-6, optimiser=OptimiserConfig(learning_rate=0.0, weight_decay=0.0, max_steps=10))
    config = replace(config, adversarial=replace(config.adversarial, learning_rate=1e-2))
    losses = [values["discriminator"] for values in run_steps(make_trainer(config, photos, tmp_path), 10)]
    assert losses[0] == pytest.approx(math.log(2), abs=0.05)
    assert sum(losses[-4:]) / 4 < 0.9 * math.log(2)


def test_it_begins_with_its_step(photos: Path, tmp_path: Path) -> None:
    config = paired_config()
    config = replace(config, adversarial=replace(config.adversarial, start_step=2))
    named = ["adversarial" in values for values in run_steps(make_trainer(config, photos, tmp_path), 4)]
    assert named == [False, False, True, True]


def test_a_stopped_run_equals_the_uninterrupted_one(photos: Path, tmp_path: Path) -> None:
    config = paired_config(
        data=DataConfig(crop_px=64, batch_size=2, accumulate=2),
        optimiser=OptimiserConfig(learning_rate=1e-3, max_steps=4),
    )
    whole = make_trainer(config, photos, tmp_path / "whole")
    run_steps(whole, 4)
    first = make_trainer(config, photos, tmp_path / "parts")
    run_steps(first, 2)
    first.save()
    second = make_trainer(config, photos, tmp_path / "parts")
    second.resume()
    run_steps(second, 2)
    assert not differing(everything(whole), everything(second))


def test_a_run_may_go_on_with_a_discriminator_but_not_without(photos: Path, tmp_path: Path) -> None:
    alone = make_trainer(tiny_config(), photos, tmp_path / "alone")
    run_steps(alone, 1)
    alone.save()
    with pytest.raises(OptionError, match=r"adversarial\.weight"):
        make_trainer(paired_config(), photos, tmp_path / "alone").resume()
    judged = make_trainer(paired_config(), photos, tmp_path / "alone")
    judged.resume(accept_changes=True)
    fresh = make_trainer(paired_config(), photos, tmp_path / "fresh")
    for name, value in judged.discriminator.state_dict().items():
        assert torch.equal(value, fresh.discriminator.state_dict()[name]), name
    run_steps(judged, 1)
    judged.save()
    with pytest.raises(OptionError, match=r"started with a discriminator and goes on without|cannot change"):
        make_trainer(tiny_config(), photos, tmp_path / "alone").resume(accept_changes=True)
