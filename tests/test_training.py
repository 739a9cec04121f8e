"""Training the generator: losses, starts, three phases, averages, resuming to the bit, what a run delivers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import shared_path
from golden_models import official_files
from recipe_weights import recipe_weights
from s3diff.checkpoints.model_folder import load_model
from s3diff.checkpoints.official_pickle import write_official_pickle
from s3diff.checkpoints.registry import model_folder
from s3diff.errors import ModelError, OptionError, TrainingError
from s3diff.evaluation.perceptual import DISTS, LPIPS
from s3diff.images.files.reading import read_picture
from s3diff.images.picture import from_array
from s3diff.images.resampling import enlarge, to_network_range
from s3diff.networks.autoencoder import AutoencoderConfig
from s3diff.networks.degradation_conditioning import ConditioningConfig
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator
from s3diff.networks.unet import UNetConfig
from s3diff.restoration.restorer import Restorer
from s3diff.training import phases
from s3diff.training.adversarial.discriminator import DiscriminatorConfig
from s3diff.training.config import AdversarialConfig, DataConfig, LossConfig, OptimiserConfig, ReleasedFaults
from s3diff.training.data.sources import open_source
from s3diff.training.dry_run import dry_run
from s3diff.training.initial_model import delivered_model, export_model, prepare_initial_model
from s3diff.training.loop import StepReport, make_accelerator, step_generator
from s3diff.training.losses import ReconstructionLoss
from s3diff.training.recipes import compact, compact_estimator, compact_generator, debug, paper, with_change
from s3diff.training.run import TrainRequest, prepare_trainer, train, train_estimator
from s3diff.training.run_checkpoints import checkpoint_paths, save_checkpoint
from s3diff.training.trainable_model import TrainableModel, turned, wake_lora
from s3diff.training.validation import Validation
from training_runs import (
    adversarial_config,
    differing,
    everything,
    gradient_norms,
    make_start,
    make_trainer,
    run_steps,
    tiny_config,
    write_photos,
)

MAX_COMPACT_PARAMETERS = 8_000_000
MAX_COMPACT_FLOP = 120e9


# ----------------------------------------------------------------------------------------- losses and the start


def test_loss_is_the_weighted_sum_of_its_terms() -> None:
    result, target = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).unbind(0)
    terms = ReconstructionLoss(LossConfig(l2=2.0, l1=3.0, lpips_vgg=0.0))(result, target, torch.Generator())
    assert terms["l2"].item() == pytest.approx((result - target).square().mean().item(), rel=1e-6)
    assert terms["total"].item() == pytest.approx(2 * terms["l2"].item() + 3 * terms["l1"].item(), rel=1e-6)


def test_the_start_is_the_enlarged_input_and_only_what_is_trained_moves(photos: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config(), photos, tmp_path)
    image, low_quality = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 16, 16)
    start = trainer.model(low_quality, image, torch.tensor([False, True]), None)
    assert 0 < float((start - image).detach().abs().mean()) < 0.15, "nearly the enlarged input"
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    run_steps(trainer, 4)
    # B and the decoder's last layer start at zero, so the gradients of what lies behind them come a step later.
    for name, value in trainer.model.named_parameters():
        moved = not torch.equal(value, before[name])
        if not value.requires_grad:
            assert not moved, f"{name} is frozen"
        elif any(part in name for part in ("lora_A", "fuse", "degree_mlp", "conv_in", "positive")):
            assert moved, f"{name} is trained"


def test_the_released_start_is_dead_and_ours_is_not() -> None:
    """With M about 2.5e-10 and B = 0, A, MLPs and tables have no gradient at first; with M = identity + small soon."""

    def gradients(identity_start: bool) -> list[dict[str, float]]:
        """The norms of the first two steps by kind of parameter."""
        torch.manual_seed(0)
        config = replace(
            debug().generator, conditioning=ConditioningConfig(identity_start=identity_start), autoencoder=_pretrained()
        )
        networks = OneStepGenerator(config)
        if identity_start:  # as every start on a base model does
            wake_lora(networks)
        model = TrainableModel(networks, torch.randn(4, 64), torch.randn(4, 64), trained="modulation")
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
        random = torch.Generator().manual_seed(1)
        image = torch.rand(2, 3, 64, 64, generator=random) * 2 - 1
        low_quality = torch.rand(2, 3, 16, 16, generator=random)
        steps = []
        for _ in range(2):
            optimiser.zero_grad()
            result = model(low_quality, image, torch.tensor([False, False]), None)
            (result - image).square().mean().backward()
            steps.append({group: float(norm) for group, norm in gradient_norms(model).items()})
            optimiser.step()
        return steps

    (released, released_second), (first, second) = gradients(False), gradients(True)
    dead = [name for name in released if name.endswith(("lora_A", "fuse", "mlp", "block_ids"))]
    assert len(dead) == 10
    for name in dead:
        assert released[name] == 0, name
        assert first[name] > 0, f"{name} is alive from the first step on"
        assert second[name] > 100 * released_second[name], name
    for name in ("unet_lora_B", "encoder_lora_B"):
        assert released[name] < 1e-8 < 1e-5 < first[name]


def test_a_plain_lora_is_the_same_for_every_picture_and_as_large() -> None:
    torch.manual_seed(0)
    plain = OneStepGenerator(replace(debug().generator, conditioning=ConditioningConfig(modulated=False)))
    torch.manual_seed(0)
    modulated = OneStepGenerator(replace(debug().generator, conditioning=ConditioningConfig()))
    for conditioning, is_same in ((plain.conditioning, True), (modulated.conditioning, False)):
        for matrices in conditioning(torch.tensor([[0.1, 0.8], [0.9, 0.2]])):
            assert torch.equal(matrices[0], matrices[1]) == is_same
    sizes = [{name: value.shape for name, value in model.state_dict().items()} for model in (plain, modulated)]
    assert sizes[0] == sizes[1]
    sum(matrices.sum() for matrices in plain.conditioning(torch.rand(1, 2))).backward()
    assert all(value.grad is not None for value in plain.conditioning.parameters()), "alike in every process"


def test_waking_the_lora_changes_a_base_model_less_than_float16_does(photos: Path, tmp_path: Path) -> None:
    awake = prepare_trainer(paper_on_tiny(photos, tmp_path / "awake")).model
    assert all(value.any() for name, value in awake.named_parameters() if name.endswith("lora_B"))
    changes = (*paper_on_tiny(photos, tmp_path).changes, "generator.conditioning.identity_start=false")
    released = prepare_trainer(paper_on_tiny(photos, tmp_path / "released", changes=changes)).model
    assert not any(value.any() for name, value in released.named_parameters() if name.endswith("lora_B"))
    half = prepare_trainer(paper_on_tiny(photos, tmp_path / "half", changes=changes)).model
    for parameter in half.parameters():
        parameter.data = parameter.data.half().float()
    random = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 4, 8, 8, generator=random)
    degrees = torch.tensor([[0.3, 0.6]])
    results = []
    with torch.no_grad():
        for model in (awake, released, half):
            _, for_unet = model.generator.conditioning(degrees)
            results.append(model.generator.predict(latent, released.positive[None], for_unet))
    assert 0 < float((results[0] - results[1]).norm()) < float((results[2] - results[1]).norm())


def _pretrained() -> AutoencoderConfig:
    """A decoder whose last layer is not zero, as that of a base model."""
    return replace(debug().generator.autoencoder, residual=False)


def test_online_negatives_get_the_negative_prompt_and_the_enlarged_input(photos: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config(), photos, tmp_path)
    random = torch.Generator().manual_seed(3)
    drawn = replace(phases.draw_batch(trainer.config, 2, random), is_negative=torch.tensor([True, False]))
    crops = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=random)
    batch = phases.make_batch(crops, drawn, "bicubic")
    seen = []

    def loss(result: torch.Tensor, target: torch.Tensor, *_: object) -> dict[str, torch.Tensor]:
        seen.append(target)
        return {"total": result.square().mean()}

    phases.reconstruction(trainer.model, batch, loss, random)[0]["total"].backward()
    assert torch.equal(seen[0][0], batch.image[0])
    assert torch.equal(seen[0][1], batch.ground_truth[1])
    trainer.model.zero_grad()
    trainer.model(batch.low_quality, batch.image, drawn.is_negative, None)[0].square().sum().backward()
    positive, negative = trainer.model.positive.grad, trainer.model.negative.grad
    assert positive is None or not positive.any(), "the first image has the negative prompt alone"
    assert negative.any()


def test_a_dial_turned_down_keeps_blur_or_noise_in_the_target(photos: Path, tmp_path: Path) -> None:
    config = replace(tiny_config(), dial_probability=0.5)
    trainer = make_trainer(config, photos, tmp_path)
    random = torch.Generator().manual_seed(4)
    drawn = phases.draw_batch(config, 4, random)
    dial = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.0], [1.4, 1.0]])
    drawn = replace(drawn, is_negative=torch.zeros(4, dtype=torch.bool), dial=dial)
    batch = phases.make_batch(torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8, generator=random), drawn, "bicubic")
    seen = []

    def loss(result: torch.Tensor, target: torch.Tensor, *_: object) -> dict[str, torch.Tensor]:
        seen.append(target)
        return {"total": result.square().mean()}

    phases.reconstruction(trainer.model, batch, loss, random)
    truth, image = batch.ground_truth, batch.image
    noiseless = phases.apply(truth / 2 + 0.5, drawn.degradation.without_noise())
    blurred = to_network_range(enlarge(noiseless, 64, 64, mode="bicubic"))
    assert not torch.equal(blurred, image)
    wanted = [
        truth[0] + image[0] - blurred[0],
        blurred[1],
        (truth[2] + blurred[2]) / 2 + image[2] - blurred[2],
        truth[3],
    ]
    for found, right in zip(seen[0], wanted, strict=True):
        assert torch.allclose(found, right, atol=1e-5)


def test_a_dial_is_drawn_for_some_and_moves_the_degrees() -> None:
    dial = phases.draw_batch(replace(tiny_config(), dial_probability=0.4), 2000, torch.Generator().manual_seed(5)).dial
    assert dial is not None
    is_turned = dial != 1
    assert float(is_turned.any(dim=1).float().mean()) == pytest.approx(0.4 * 0.75, abs=0.04)
    for end in (0, 2):
        assert float((dial[is_turned] == end).float().mean()) == pytest.approx(1 / 6, abs=0.04)
    between = dial[(dial > 0) & (dial < 2) & is_turned]
    assert float((between < 1).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert len(between) / int(is_turned.sum()) == pytest.approx(2 / 3, abs=0.05)
    assert phases.draw_batch(paper(), 2, torch.Generator()).dial is None
    found = turned(torch.tensor([[0.4, 0.4], [0.4, 0.4]]), torch.tensor([[0.0, 0.5], [1.0, 1.5]]))
    assert torch.allclose(found, torch.tensor([[0.0, 0.2], [0.4, 0.7]]))


def test_the_truth_is_blurred_before_it_is_degraded() -> None:
    config = replace(tiny_config(), data=replace(tiny_config().data, truth_blur_px=(0.5, 1.5)))
    random = torch.Generator().manual_seed(4)
    drawn = phases.draw_batch(config, 400, random)
    assert drawn.truth_blur_px is not None
    assert 0.5 <= float(drawn.truth_blur_px.min()) < 0.6 < 1.4 < float(drawn.truth_blur_px.max()) <= 1.5
    assert phases.draw_batch(tiny_config(), 2, torch.Generator()).truth_blur_px is None

    side = tiny_config().data.crop_px
    drawn = replace(drawn.rows(7, 9), truth_blur_px=torch.tensor([0.0, 1.2], dtype=torch.float64))
    crops = torch.randint(256, (2, 3, side, side), dtype=torch.uint8, generator=random)
    batch = phases.make_batch(crops, drawn, "bicubic")
    sharp = crops / 255.0
    steps = torch.arange(-6.0, 7.0)
    line = torch.exp(-(steps**2) / (2 * 1.2**2))
    kernel = (torch.outer(line, line) / line.sum() ** 2).expand(3, 1, -1, -1)
    blurred = torch.nn.functional.conv2d(torch.nn.functional.pad(sharp[1:], (6,) * 4, mode="reflect"), kernel, groups=3)
    assert torch.allclose(batch.ground_truth / 2 + 0.5, torch.cat([sharp[:1], blurred]), atol=1e-5)
    softened = phases.softened(sharp, drawn.truth_blur_px)
    assert torch.equal(batch.low_quality, phases.apply(softened, drawn.degradation))


def test_perceptual_terms_begin_with_their_step(photos: Path, tmp_path: Path) -> None:
    config = tiny_config()
    trainer = make_trainer(replace(config, loss=replace(config.loss, perceptual_from_step=1)), photos, tmp_path)
    called = []
    real = trainer.loss.forward
    trainer.loss.forward = lambda *given: called.append(trainer.step) or real(*given)  # type: ignore[method-assign]
    run_steps(trainer, 3)
    assert called == [1, 2]


def test_gradients_that_are_not_finite_change_nothing_and_end_the_run(photos: Path, tmp_path: Path) -> None:
    config = tiny_config(optimiser=OptimiserConfig(max_steps=9, max_skipped=3))
    trainer = make_trainer(config, photos, tmp_path)
    real = trainer.loss.forward
    trainer.loss.forward = lambda *a: {name: value * float("nan") for name, value in real(*a).items()}
    before = everything(trainer)
    run_steps(trainer, 2)
    assert trainer.step == 2
    changed = [name for name in differing(before, everything(trainer)) if not name.startswith("average.")]
    assert not changed
    with pytest.raises(TrainingError, match=r"not finite 3 times in a row; start again with a lower rate"):
        run_steps(trainer, 1)


def test_no_checkpoint_is_written_while_updates_are_not_finite_and_the_advice_works(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(optimiser=OptimiserConfig(learning_rate=1e-3, max_steps=7, max_skipped=3))
    config = replace(config, run=replace(config.run, checkpoint_every=1))
    trainer = make_trainer(config, photos, tmp_path)
    real = trainer.loss.forward

    def breaks_in_step_3(*given: Any) -> dict[str, torch.Tensor]:
        return {name: value * (float("nan") if trainer.step >= 3 else 1) for name, value in real(*given).items()}

    trainer.loss.forward = breaks_in_step_3  # type: ignore[method-assign]
    with pytest.raises(TrainingError) as error:
        trainer.run()
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["step-00000002.pt", "step-00000003.pt"]
    assert caplog.text.count("no checkpoint, as the last updates were not finite; step-00000003.pt stays") == 2
    advised = "--resume --accept-changes --set optimiser.learning_rate=0.0005"
    assert f"go on from step-00000003.pt with {advised}, or, where that comes here again" in str(error.value)
    again = make_trainer(with_change(config, advised.rpartition(" ")[2]), photos, tmp_path)
    again.resume(accept_changes=True)
    assert again.step == 3
    again.run()
    assert again.step == 7


def test_a_loss_that_is_not_finite_counts_though_its_gradients_are(photos: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config(), photos, tmp_path)
    real = trainer.loss.forward
    trainer.loss.forward = lambda *a: {**real(*a), "total": real(*a)["total"] + float("nan")}
    before = everything(trainer)
    run_steps(trainer, 1)
    assert not [name for name in differing(before, everything(trainer)) if not name.startswith("average.")]
    trainer.run()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert all(json.loads(line, parse_constant=pytest.fail)["total"] is None for line in lines if "total" in line)


def test_a_discriminator_that_learns_does_not_hide_a_generator_that_cannot(photos: Path, tmp_path: Path) -> None:
    config = adversarial_config(optimiser=OptimiserConfig(max_steps=9, max_skipped=4))
    trainer = make_trainer(config, photos, tmp_path)
    real = trainer._update

    def broken(name: str, module: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
        return real(name, module, loss * float("nan") if name == "generator" else loss)

    trainer._update = broken
    with pytest.raises(TrainingError, match="of the generator are not finite 4 times in a row"):
        run_steps(trainer, 9)
    assert trainer.step == 1, "two updates of the generator in each step"


def test_the_vgg_terms_of_two_processes_are_those_of_one_with_both_batches() -> None:
    config = LossConfig(l2=0.0, l1=1.0, lpips_vgg=1.0, perceptual_crop_px=32, vgg_images=3)
    loss = ReconstructionLoss(config, LPIPS("vgg", recipe_weights("lpips_vgg")))
    random = torch.Generator().manual_seed(0)
    result, target = (torch.rand(8, 3, 48, 48, generator=random) * 2 - 1 for _ in range(2))
    chosen = phases.evenly_chosen(8, 3)
    assert int(chosen.sum()) == 3
    assert chosen[:4].any()
    assert chosen[4:].any()
    assert phases.evenly_chosen(8, 0).all()
    assert phases.evenly_chosen(8, 9).all()

    def total(rows: slice) -> torch.Tensor:
        look = torch.Generator().manual_seed(1)
        return loss(result[rows], target[rows], look, chosen[rows], 3 / 8)["total"]

    whole = total(slice(0, 8))
    halves = (total(slice(0, 4)) + total(slice(4, 8))) / 2
    assert float(halves) == pytest.approx(float(whole), rel=1e-5)
    look = torch.Generator().manual_seed(1)
    alone = loss(result[chosen], target[chosen], look)["lpips_vgg"]
    look = torch.Generator().manual_seed(1)
    assert float(loss(result, target, look, chosen, 3 / 8)["lpips_vgg"]) == pytest.approx(float(alone), rel=1e-5)


def test_vgg_terms_in_bfloat16_pull_as_those_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3diff.training.losses.DISTS", lambda: DISTS(recipe_weights("dists")))
    random = torch.Generator().manual_seed(0)
    # One small picture: processors without bfloat16 convolutions compute them at a hundredth of the speed.
    target = torch.rand(1, 3, 48, 48, generator=random) * 2 - 1
    start = (target + 0.3 * torch.randn(1, 3, 48, 48, generator=random)).clamp(-1, 1)

    def pull(term: str, precision: Literal["float32", "bfloat16"]) -> tuple[float, torch.Tensor]:
        weights = {"l2": 0.0, "lpips_vgg": 0.0, term: 1.0}
        config = LossConfig(**weights, vgg_precision=precision, perceptual_crop_px=0)
        loss = ReconstructionLoss(config, LPIPS("vgg", recipe_weights("lpips_vgg")) if term == "lpips_vgg" else None)
        result = start.clone().requires_grad_()
        value = loss(result, target, torch.Generator())["total"]
        assert value.dtype == torch.float32
        value.backward()
        assert result.grad is not None
        return float(value.detach()), result.grad.flatten()

    for term, alike in {"lpips_vgg": 0.95, "dists": 0.85}.items():
        (value, direction), (reference, wanted) = pull(term, "bfloat16"), pull(term, "float32")
        assert value == pytest.approx(reference, rel=0.02)
        assert value != reference, "the convolutions were not in bfloat16"
        assert torch.cosine_similarity(direction, wanted, dim=0) > alike


def test_what_accelerate_was_configured_for_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert make_accelerator(cpu=True).mixed_precision == "no"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(OptionError, match="ask for FSDP"):
        make_accelerator(cpu=True)


# -------------------------------------------------------------------------------------------------- three phases


def test_three_phases_move_both_networks(photos: Path, tmp_path: Path) -> None:
    trainer = make_trainer(adversarial_config(), photos, tmp_path)
    assert trainer.discriminator is not None
    heads = {name: value.clone() for name, value in trainer.discriminator.named_parameters()}
    values = run_steps(trainer, 2)[-1]
    assert {"total", "adversarial", "discriminator_real", "discriminator_fake", "gradient_norm"} <= values.keys()
    assert all(np.isfinite(value) for value in values.values())
    assert all(not torch.equal(value, heads[name]) for name, value in trainer.discriminator.named_parameters())


def test_the_adversarial_phase_leaves_no_gradient_in_the_discriminator(photos: Path, tmp_path: Path) -> None:
    """The released fault on request: the discriminator's next step uses what the adversarial phase left."""

    def after_one_step(faults: ReleasedFaults) -> tuple[bool, dict[str, torch.Tensor]]:
        trainer = make_trainer(adversarial_config(faults=faults), photos, tmp_path)
        assert trainer.discriminator is not None
        seen = []
        judged = phases.discriminate_real

        def noticing(discriminator: torch.nn.Module, *arguments: object) -> torch.Tensor:
            seen.append(any(p.grad is not None for p in discriminator.parameters()))
            return judged(discriminator, *arguments)

        phases.discriminate_real = noticing
        try:
            run_steps(trainer, 1)
        finally:
            phases.discriminate_real = judged
        return seen[0], {name: value.detach().clone() for name, value in trainer.discriminator.named_parameters()}

    clean, heads = after_one_step(ReleasedFaults())
    stale, other_heads = after_one_step(ReleasedFaults(discriminator_keeps_gradients=True))
    assert (clean, stale) == (False, True)
    assert differing(heads, other_heads)


def test_accumulated_batches_equal_one_large_batch(photos: Path, tmp_path: Path) -> None:
    """In all three phases; the random numbers of a batch are drawn for the batch, so they are given here."""
    whole = adversarial_config(data=DataConfig(crop_px=64, batch_size=4), loss=LossConfig(l2=2.0, lpips_vgg=0.0))
    parts = replace(whole, data=replace(whole.data, batch_size=2, accumulate=2))
    drawn = phases.draw_batch(whole, 4, torch.Generator().manual_seed(5))
    crops = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))

    def gradients(config, batches: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """The first moments after one step: AdamW's weights themselves follow the gradients' signs alone."""
        trainer = make_trainer(config, photos, tmp_path)
        trainer.discriminator.eval()  # in training every pass moves the spectral norm's estimate
        made = iter([phases.make_batch(crops[a:b], drawn.rows(a, b), config.upsampling) for a, b in batches])
        trainer._make_batch = lambda pixels, generator: next(made)
        trainer.train_step([crops[a:b] for a, b in batches])
        return {
            f"{part} {index}": values["exp_avg"].clone()
            for part, optimiser in trainer.state().optimisers.items()
            for index, values in optimiser["state"].items()
        }

    one, two = gradients(whole, [(0, 4)]), gradients(parts, [(0, 2), (2, 4)])
    assert one.keys() == two.keys()
    largest = {
        part: max(float(value.abs().max()) for name, value in one.items() if name.startswith(part))
        for part in ("generator", "discriminator")
    }
    for name, value in one.items():  # what is zero but for rounding has nothing of its own to be compared with
        allowed = 0.02 * float(value.abs().max()) + 1e-5 * largest[name.split()[0]]
        assert float((value - two[name]).abs().max()) <= allowed, name


def test_precision_bfloat16_trains_float32_weights(photos: Path, tmp_path: Path) -> None:
    config = tiny_config(precision="bfloat16", trained="modulation", frozen_precision="bfloat16")
    trainer = make_trainer(config, photos, tmp_path)
    values = run_steps(trainer, 2)[-1]
    assert np.isfinite(values["total"])
    kinds = {value.dtype for value in trainer.model.trained_state().values()}
    assert kinds == {torch.float32}
    frozen = {p.dtype for n, p in trainer.model.named_parameters() if not p.requires_grad and "decoder.conv_in" in n}
    assert frozen == {torch.bfloat16}
    assert all(v.dtype == torch.float32 for s in trainer.optimisers["generator"].state.values() for v in s.values())

    rounded = make_trainer(
        replace(config, faults=ReleasedFaults(trained_weights_in_bfloat16=True)), photos, tmp_path / "rounded"
    )
    run_steps(rounded, 1)
    assert all(torch.equal(v, v.bfloat16().float()) for v in rounded.model.trained_state().values())


def test_gradient_checkpointing_changes_no_bit(photos: Path, tmp_path: Path) -> None:
    plain = make_trainer(tiny_config(), photos, tmp_path)
    saving = make_trainer(tiny_config(gradient_checkpointing=True), photos, tmp_path)
    run_steps(plain, 2)
    run_steps(saving, 2)
    assert not differing(everything(plain), everything(saving))


def test_learning_rate_rises_stays_and_falls_and_the_released_schedule_runs_twice_as_fast(
    photos: Path, tmp_path: Path
) -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup_steps=4, decay_steps=5, max_steps=20)
    rates = [config.factor_at(step) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:15] == [1.0] * 11
    assert rates[15:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    seen = {}
    for twice in (False, True):
        faults = ReleasedFaults(schedule_advances_twice=twice)
        trainer = make_trainer(tiny_config(optimiser=config, faults=faults), photos, tmp_path)
        trainer.step = 1
        trainer._set_rates()
        seen[twice] = trainer.optimisers["generator"].param_groups[0]["lr"]
    assert (seen[False], seen[True]) == (0.5, 0.75)


def test_average_follows_the_weights(photos: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config(), photos, tmp_path)
    start = {name: value.clone() for name, value in trainer.average.items()}
    run_steps(trainer, 1)
    decay = min(0.9, 2 / 11)
    for name, value in trainer.model.trained_state().items():
        assert torch.allclose(trainer.average[name], start[name] * decay + value * (1 - decay), atol=1e-7), name


def test_a_steps_numbers_depend_on_the_seed_and_the_step_alone() -> None:
    draws = {
        (seed, step): int(torch.randint(2**31, (), generator=step_generator(seed, step)))
        for seed in range(3)
        for step in range(3)
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[1, 2] == int(torch.randint(2**31, (), generator=step_generator(1, 2)))


# ------------------------------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize(
    ("num_workers", "kind", "stop", "end"), [(0, "adamw", 5, 7), (2, "adamw", 3, 5), (0, "muon", 3, 5)]
)
def test_a_stopped_run_equals_the_uninterrupted_one_bit_by_bit(
    photos: Path, tmp_path: Path, num_workers: int, kind: Literal["adamw", "muon"], stop: int, end: int
) -> None:
    config = adversarial_config(
        data=DataConfig(crop_px=64, batch_size=2, num_workers=num_workers),
        optimiser=OptimiserConfig(kind=kind, learning_rate=1e-3, warmup_steps=3, decay_steps=5, max_steps=end),
    )
    whole = make_trainer(config, photos, tmp_path / "whole")
    run_steps(whole, end)

    first = make_trainer(config, photos, tmp_path / "parts")
    run_steps(first, stop)
    first.save()
    torch.manual_seed(99)  # another process starts with another global state
    second = make_trainer(config, photos, tmp_path / "parts")
    second.resume()
    assert second.step == stop
    run_steps(second, end - stop)
    assert not differing(everything(whole), everything(second))


def test_a_run_ends_its_call_where_it_is_told_and_goes_on_later(photos: Path, tmp_path: Path) -> None:
    config = adversarial_config(
        optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=2, decay_steps=2, max_steps=4),
    )
    whole = make_trainer(config, photos, tmp_path / "whole")
    whole.run()
    part = replace(config, run=replace(config.run, stop_step=3))
    make_trainer(part, photos, tmp_path / "parts").run()
    assert [path.name for path in checkpoint_paths(tmp_path / "parts")] == ["step-00000003.pt"]
    again = make_trainer(part, photos, tmp_path / "parts")
    again.resume()
    again.run()
    assert again.step == 3, "it is there already"
    rest = make_trainer(config, photos, tmp_path / "parts")
    rest.resume()
    rest.run()
    assert not differing(everything(whole), everything(rest))


def test_a_checkpoint_from_before_a_field_existed_is_gone_on_from(photos: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config(), photos, tmp_path)
    run_steps(trainer, 1)
    state = trainer.state()
    for fields in (state.config["generator"]["conditioning"], state.config["run"]):
        fields.pop("modulated", None)
        fields.pop("stop_step", None)
    save_checkpoint(state, tmp_path, 2)
    make_trainer(tiny_config(), photos, tmp_path).resume()
    generator = replace(tiny_config().generator, conditioning=ConditioningConfig(num_frequencies=16, modulated=False))
    with pytest.raises(OptionError, match="modulated True -> False"):
        make_trainer(tiny_config(generator=generator), photos, tmp_path).resume()
    state.config["gone"] = 1
    save_checkpoint(state, tmp_path, 2)
    with pytest.raises(OptionError, match="gone 1 -> None"):
        make_trainer(tiny_config(), photos, tmp_path).resume()


def test_checkpoints_are_kept_up_to_the_last_few(photos: Path, tmp_path: Path) -> None:
    config = tiny_config(run=replace(debug().run, checkpoint_every=1, keep_checkpoints=2, log_every=2))
    trainer = make_trainer(config, photos, tmp_path)
    reports = []
    trainer.run(reports.append)
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["step-00000003.pt", "step-00000004.pt"]
    assert [report.step for report in reports] == [2, 4]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[0]["images_per_second"] > 0
    assert (tmp_path / "tensorboard").is_dir()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"loss": LossConfig(l2=3.0, lpips_vgg=0.0)}, "loss.l2 2.0 -> 3.0"),
        ({"data": DataConfig(crop_px=64, batch_size=3)}, "data.batch_size 2 -> 3"),
        ({"negative_probability": 0.5}, "negative_probability 0.05 -> 0.5"),
    ],
)
def test_resume_names_what_differs(photos: Path, tmp_path: Path, change: dict, named: str) -> None:
    config = tiny_config()
    trainer = make_trainer(config, photos, tmp_path)
    run_steps(trainer, 1)
    trainer.save()
    other = make_trainer(replace(config, **change), photos, tmp_path)
    with pytest.raises(OptionError) as error:
        other.resume()
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    other.resume(accept_changes=True)
    assert other.step == 1


def test_accepted_changes_reach_the_optimiser(photos: Path, tmp_path: Path) -> None:
    config = tiny_config()
    trainer = make_trainer(config, photos, tmp_path)
    run_steps(trainer, 1)
    trainer.save()
    changed = replace(config.optimiser, weight_decay=0.5, betas=(0.5, 0.6), eps=1e-4)
    other = make_trainer(replace(config, optimiser=changed), photos, tmp_path)
    other.resume(accept_changes=True)
    group = other.optimisers["generator"].param_groups[0]
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.5, (0.5, 0.6), 1e-4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt_tokens": 7}, "prompt_tokens 4 -> 7"),
        ({"trained": "modulation"}, "trained 'everything' -> 'modulation'"),
        (
            {"adversarial": replace(debug().adversarial, discriminator=DiscriminatorConfig(backbone="random"))},
            "adversarial.discriminator.hidden_channels 8 ->",
        ),
    ],
)
def test_what_decides_the_tensors_cannot_change(photos: Path, tmp_path: Path, change: dict, named: str) -> None:
    config = adversarial_config()
    trainer = make_trainer(config, photos, tmp_path)
    run_steps(trainer, 1)
    trainer.save()
    with pytest.raises(OptionError) as error:
        make_trainer(replace(config, **change), photos, tmp_path).resume(accept_changes=True)
    assert named in str(error.value)
    assert "these cannot change" in str(error.value)


def test_other_pictures_and_another_length_of_a_falling_rate_are_named(photos: Path, tmp_path: Path) -> None:
    falling = replace(tiny_config().optimiser, decay_steps=2)
    config = tiny_config(optimiser=falling)
    trainer = make_trainer(config, photos, tmp_path)
    run_steps(trainer, 1)
    trainer.save()
    more = write_photos(tmp_path / "more", count=4)
    with pytest.raises(OptionError, match="the pictures of --data"):
        make_trainer(config, more, tmp_path).resume()
    with pytest.raises(OptionError, match=r"optimiser\.max_steps 4 -> 8"):
        make_trainer(replace(config, optimiser=replace(falling, max_steps=8)), photos, tmp_path).resume()
    short = OptimiserConfig(learning_rate=1.0, decay_steps=100, max_steps=4)
    assert [short.factor_at(step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_a_damaged_checkpoint_is_passed_over(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(tiny_config(), photos, tmp_path)
    for _ in range(2):
        run_steps(trainer, 1)
        trainer.save()
    newest = checkpoint_paths(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    other = make_trainer(tiny_config(), photos, tmp_path)
    other.resume()
    assert other.step == 1
    assert f"{newest} is damaged" in caplog.text
    checkpoint_paths(tmp_path)[0].write_bytes(b"x")
    with pytest.raises(ModelError, match="no checkpoint can be read"):
        make_trainer(tiny_config(), photos, tmp_path).resume()


def test_the_log_of_a_killed_run_is_cut_where_it_goes_on(photos: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config(optimiser=replace(tiny_config().optimiser, max_steps=2)), photos, tmp_path)
    trainer.run()
    with open(tmp_path / "log.jsonl", "a", encoding="utf-8") as log:
        log.write('{"step": 3, "total": 1.0}\n{"step": 4, "tot')
    other = make_trainer(tiny_config(), photos, tmp_path)
    other.resume()
    other.run()
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_a_run_stopped_in_its_estimators_training_goes_on_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = compact_estimator()
    few = replace(
        shipped,
        data=replace(shipped.data, batch_size=2),
        run=replace(shipped.run, checkpoint_every=3, log_every=1),
    )
    monkeypatch.setattr("s3diff.training.run.compact_estimator", lambda: few)

    def request(name: str, resume: bool = False) -> TrainRequest:
        changes = ("estimator_steps=5", "optimiser.max_steps=1", "data.held_out=()", "validation.every=0")
        return TrainRequest(
            recipe="debug", data=str(photos), output=tmp_path / name, changes=changes, cpu=True, resume=resume
        )

    class Power(Exception):
        pass

    def cut(report: StepReport) -> None:
        if report.step == 5:
            raise Power

    steps: list[int] = []
    whole = prepare_trainer(request("whole"))
    with pytest.raises(Power):
        prepare_trainer(request("parts"), cut)
    with pytest.raises(OptionError, match="already holds a run"):
        prepare_trainer(request("parts"))
    parts = prepare_trainer(request("parts", resume=True), lambda report: steps.append(report.step))
    assert steps == [4, 5], "from its last checkpoint on"
    first, second = (dict(one.model.generator.estimator.state_dict()) for one in (whole, parts))
    assert not differing(first, second)
    parts.run()
    assert checkpoint_paths(tmp_path / "parts")


def test_resume_accepts_what_changes_no_number_and_refuses_other_networks(photos: Path, tmp_path: Path) -> None:
    config = tiny_config()
    trainer = make_trainer(config, photos, tmp_path)
    run_steps(trainer, 1)
    trainer.save()
    longer = replace(config, optimiser=replace(config.optimiser, max_steps=9), run=replace(config.run, log_every=7))
    make_trainer(longer, photos, tmp_path).resume()
    wider = replace(config, generator=replace(config.generator, unet=replace(config.generator.unet, lora_rank=3)))
    with pytest.raises(OptionError, match=r"generator\.unet\.lora_rank 2 -> 3; these cannot change"):
        make_trainer(wider, photos, tmp_path).resume(accept_changes=True)
    other_moments = replace(config, optimiser=replace(config.optimiser, kind="muon"))
    with pytest.raises(OptionError, match=r"optimiser\.kind 'adamw' -> 'muon'; these cannot change"):
        make_trainer(other_moments, photos, tmp_path).resume(accept_changes=True)
    with pytest.raises(ModelError, match="no checkpoint to go on from"):
        make_trainer(config, photos, tmp_path / "elsewhere").resume()


# ---------------------------------------------------------------------------------------------- what it delivers


def test_a_run_ends_in_a_model_folder_that_restore_takes(photos: Path, tmp_path: Path) -> None:
    request = TrainRequest(
        recipe="debug",
        data=str(photos),
        output=tmp_path / "run",
        validate=str(photos),
        changes=("optimiser.max_steps=2", "validation.crop_px=64", "data.held_out=photo2.png"),
        cpu=True,
    )
    folder = train(request)
    loaded = load_model(folder)
    assert loaded.name == "debug"
    restored = Restorer(loaded).restore(from_array(np.full((20, 30, 3), 128, np.uint8)))
    assert restored.array.shape == (80, 120, 3)
    grids = sorted(path.name for path in (tmp_path / "run" / "validation").iterdir())
    assert grids == ["step-00000000.png", "step-00000002.png"]
    # two rows of input, output and truth with gaps of 4
    assert read_picture(tmp_path / "run" / "validation" / grids[0]).pixels.shape == (132, 200, 3)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum("validation/psnr_y" in line for line in lines) == 2
    with pytest.raises(OptionError, match="already holds a run"):
        train(request)


def test_an_output_among_the_pictures_is_refused(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its validation pictures and exported ones would be trained on when the run goes on."""
    monkeypatch.chdir(photos)
    for output, data, validate in (
        (photos / "run", str(photos), None),
        (Path("deep/run"), photos.as_uri(), None),
        (photos, ".", None),
        (photos / "run", str(tmp_path), str(photos.parent)),
    ):
        request = TrainRequest(recipe="debug", data=data, output=output, validate=validate, cpu=True)
        option = "--data" if validate is None else "--validate"
        with pytest.raises(OptionError, match=rf"--output \S+ lies inside {option} .*; give a folder outside of it"):
            prepare_trainer(request)
        with pytest.raises(OptionError, match="lies inside"):
            dry_run(request)
        with pytest.raises(OptionError, match="lies inside"):
            train_estimator(replace(request, recipe="compact_estimator"))
    assert not (photos / "run").exists()


def test_validation_scores_the_delivered_model(photos: Path, tmp_path: Path) -> None:
    """The validation's figures are those of the exported folder on the same pictures."""
    config = tiny_config(export_precision="float32")
    trainer = make_trainer(config, photos, tmp_path)
    run_steps(trainer, 3)
    source = open_source(str(photos))
    validation = Validation(config.validation, 4, source, range(len(source)), tmp_path)
    device = torch.device("cpu")
    inside, grid = validation.score(delivered_model(trainer.start, trainer.model, trainer.average), device)
    folder = export_model(trainer.start, trainer.model, trainer.average, tmp_path / "model")
    outside, again = validation.score(load_model(folder), device)
    assert inside == outside
    assert torch.equal(grid, again)


def tuning(photos: Path, output: Path, *changes: str) -> TrainRequest:
    """The recipe ``tune`` from the embedded model, without what has to be fetched."""
    changes = ("data.crop_px=64", "loss.lpips_alex=0", "loss.dists=0", *changes)
    return TrainRequest(recipe="tune", data=str(photos), output=output, source="compact", changes=changes, cpu=True)


def test_tuning_starts_from_a_model_and_its_own_estimator(photos: Path, tmp_path: Path) -> None:
    request = tuning(photos, tmp_path, "optimiser.learning_rate=0.0", "optimiser.max_steps=1")
    trainer = prepare_trainer(request)
    trainer.run()
    folder = export_model(trainer.start, trainer.model, trainer.average, tmp_path / "model")
    picture = from_array(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    tuned, shipped = (Restorer.from_pretrained(model, device="cpu").restore(picture) for model in (folder, "compact"))
    assert np.array_equal(tuned.array, shipped.array), "a rate of 0 gives the model back"
    sizes = [(place / "unet.safetensors").stat().st_size for place in (folder, model_folder("compact"))]
    assert sizes[0] == sizes[1], "and as small, in float16"


def test_set_does_not_change_the_networks_of_the_model_that_a_run_starts_from(photos: Path, tmp_path: Path) -> None:
    """Asking for others is refused, and not passed over."""
    request = tuning(photos, tmp_path)
    for change in ("generator.unet.lora_rank=3", "generator.autoencoder.decoder_channels=8"):
        with pytest.raises(OptionError, match=r"--set generator\.\S+: the networks are those of --from; leave it out"):
            prepare_trainer(replace(request, output=tmp_path / "other", changes=(*request.changes, change)))


def paper_on_tiny(photos: Path, output: Path, **arguments: object) -> TrainRequest:
    """The paper's recipe on the goldens' base model, without what has to be fetched."""
    changes = (
        "data.crop_px=64",
        "data.batch_size=1",
        "data.accumulate=2",
        "data.num_workers=0",
        "loss.lpips_vgg=0",
        "adversarial.discriminator.backbone=random",
        "optimiser.max_steps=2",
        "precision=float32",
        "frozen_precision=float32",
        "generator.unet.lora_rank=6",
        "generator.autoencoder.lora_rank=4",
    )
    files = official_files()
    values = {"recipe": "paper", "source": str(files.base), "estimator": files.estimator, "changes": changes}
    return TrainRequest(**{**values, "data": str(photos), "output": output, "cpu": True, **arguments})


def test_set_changes_the_ranks_on_a_base_model_and_nothing_else(photos: Path, tmp_path: Path) -> None:
    request = paper_on_tiny(photos, tmp_path / "run")
    assert prepare_trainer(request).config.generator.autoencoder.lora_rank == 4
    wider = replace(request, changes=(*request.changes, "generator.autoencoder.block_out_channels=8,8,8,16"))
    with pytest.raises(OptionError, match=r"block_out_channels: the networks are those of --from"):
        prepare_trainer(wider)


def test_the_papers_recipe_on_a_base_model_ends_in_the_official_layout(photos: Path, tmp_path: Path) -> None:
    trainer = prepare_trainer(paper_on_tiny(photos, tmp_path / "run"))
    base = {name: value.clone() for name, value in trainer.model.frozen_base().items()}
    trainer.run()
    assert not differing(base, trainer.model.frozen_base())
    folder = export_model(trainer.start, trainer.model, trainer.average, tmp_path / "model")
    loaded = load_model(folder)
    assert loaded.prompts.positive_text.startswith("A high-resolution")
    write_official_pickle(loaded.generator, tmp_path / "s3diff.pkl")
    assert (tmp_path / "s3diff.pkl").stat().st_size > 100_000
    size = checkpoint_paths(tmp_path / "run")[-1].stat().st_size
    whole = sum(value.nbytes for value in trainer.model.state_dict().values())
    assert size < whole, "the base model is not stored again"


def test_a_run_on_another_base_model_is_not_resumed(photos: Path, tmp_path: Path) -> None:
    """One of the same shapes, of which one tensor differs."""
    request = paper_on_tiny(photos, tmp_path / "run")
    trainer = prepare_trainer(request)
    trainer.save()
    assert prepare_trainer(replace(request, resume=True)).base_fingerprint == trainer.base_fingerprint
    other = tmp_path / "other"
    shutil.copytree(official_files().base, other)
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["mid_block.resnets.0.conv1.weight"] *= 1.5
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(OptionError, match="another base model"):
        prepare_trainer(replace(request, source=str(other), resume=True))


def test_what_a_start_needs() -> None:
    with pytest.raises(OptionError, match="paper does not start from scratch; give --from"):
        prepare_initial_model(paper(), None, None)
    with pytest.raises(OptionError, match="compact starts from scratch; leave --from out"):
        prepare_initial_model(compact(), "compact", None)
    with pytest.raises(ModelError, match="neither a model's name"):
        prepare_initial_model(replace(debug(), start="model"), "nowhere", None)


def test_an_estimator_of_another_shape_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"de_net\.pth does not fit: misshapen"):
        prepare_initial_model(tiny_config(), None, official_files().estimator)
    start = prepare_initial_model(
        replace(tiny_config(), generator=compact_generator()), None, _model_folder_of_compact()
    )
    assert start.has_estimator


def _model_folder_of_compact() -> Path:
    from s3diff.checkpoints.registry import model_folder

    return model_folder("compact")


def test_compact_stays_within_its_budget() -> None:
    """At most 8 M parameters, and 120 GFLOP for 128 -> 512 with guidance, counted from the graph."""
    from torch.utils.flop_counter import FlopCounterMode

    generator = OneStepGenerator(compact_generator())
    assert sum(parameter.numel() for parameter in generator.parameters()) <= MAX_COMPACT_PARAMETERS
    image, prompt = torch.zeros(1, 3, 512, 512), torch.zeros(1, 4, 64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        degrees = generator.estimator(torch.zeros(1, 3, 128, 128))
        generator(image, degrees, prompt, prompt)
    assert 1e9 < counter.get_total_flops() <= MAX_COMPACT_FLOP


def test_autoencoder_refuses_a_decoder_of_another_scale() -> None:
    with pytest.raises(ValueError, match="both must agree"):
        OneStepGenerator(
            GeneratorConfig(
                unet=UNetConfig(latent_channels=4),
                autoencoder=AutoencoderConfig(block_out_channels=(8,), decoder_channels=(8, 8), pixel_unshuffle=4),
            )
        )


@pytest.mark.shared
def test_real_photographs_are_read_and_cropped(tmp_path: Path) -> None:
    data = shared_path("data/train/photos")
    trainer = make_trainer(adversarial_config(), data, tmp_path)
    values = run_steps(trainer, 2)[-1]
    assert 0 < values["l1"] < 1


def test_adversarial_defaults_are_the_papers() -> None:
    config = paper()
    assert (config.adversarial.weight, config.loss.l2, config.loss.lpips_vgg) == (0.5, 2.0, 5.0)
    assert config.optimiser.learning_rate == 2e-5
    assert config.adversarial.discriminator == DiscriminatorConfig(backbone="dino", hidden_channels=128, real_label=0.8)
    assert config.generator.unet.lora_rank, config.generator.autoencoder.lora_rank == (32, 16)
    assert AdversarialConfig().weight == 0
    assert make_start(tiny_config()).has_estimator
