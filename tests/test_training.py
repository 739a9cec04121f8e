"""The beginning of training: crops, losses, the reconstruction phase, resuming, the estimator, the recipe's command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s3diff.checkpoints.model_folder import load_model
from s3diff.errors import ModelError, OptionError, PictureError
from s3diff.images.codecs import from_array, write_picture
from s3diff.networks.autoencoder import AutoencoderConfig
from s3diff.networks.degradation_conditioning import ConditioningConfig
from s3diff.networks.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
from s3diff.networks.noise_schedule import NoiseSchedule
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator
from s3diff.networks.unet import UNetConfig
from s3diff.restoration.restorer import Restorer
from s3diff.training.config import DataConfig, EstimatorTrainConfig, LossConfig, OptimiserConfig, TrainConfig
from s3diff.training.data import CropSampler
from s3diff.training.estimator_trainer import ranking_and_anchor_losses
from s3diff.training.losses import ReconstructionLoss
from s3diff.training.recipes import compact, compact_generator
from s3diff.training.run import export_model, with_change
from s3diff.training.trainer import Trainer, averaged_model

MAX_COMPACT_PARAMETERS = 8_000_000
MAX_COMPACT_FLOP = 120e9


def tiny_generator() -> GeneratorConfig:
    """The shape of compact, narrow."""
    config = compact_generator()
    return replace(
        config,
        unet=replace(config.unet, latent_channels=4, block_out_channels=(8, 8, 16), num_heads=(1, 1, 2), lora_rank=2),
        autoencoder=replace(
            config.autoencoder,
            latent_channels=4,
            block_out_channels=(8,),
            decoder_channels=(4, 8, 8),
            lora_rank=2,
            base_sharpening=0.0,
        ),
        estimator=DegradationEstimatorConfig(stage_channels=(4, 8), hidden_channels=8),
    )


def tiny_config(**changes: object) -> TrainConfig:
    config = TrainConfig(
        name="tiny",
        generator=tiny_generator(),
        data=DataConfig(crop_px=64, batch_size=2),
        loss=LossConfig(l2=2.0, l1=1.0, lpips_vgg=0.0),
        optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=2, max_steps=4, ema_decay=0.9),
        checkpoint_every=100,
        log_every=1,
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures with structure, a broken file and one that is too small."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:96, 0:120]
    for index in range(3):
        waves = np.sin(rows / (3 + index)) + np.cos(columns / (2 + index)) + random.normal(0, 0.2, rows.shape)
        pixels = np.stack([waves, waves.T[:96, :120] if waves.T.shape == waves.shape else -waves, waves**2], axis=-1)
        scaled = np.clip(pixels * 40 + 128, 0, 255).astype(np.uint8)
        write_picture(from_array(scaled), folder / f"photo{index}.png")
    write_picture(from_array(np.zeros((20, 20, 3), np.uint8)), folder / "small.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder


def new_estimator(config: TrainConfig) -> DegradationEstimator:
    torch.manual_seed(7)
    return DegradationEstimator(config.generator.estimator).eval()


def test_crops_skip_what_cannot_be_used_and_repeat_with_the_seed(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        sampler = CropSampler(photos, 64, held_out=("photo2.png",))
    assert len(sampler.images) == 2
    assert "broken.png" in caplog.text
    assert "small.png" in caplog.text
    first, again, other = (sampler.draw(3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 3, 64, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= float(first.min()) < float(first.max()) <= 1


def test_no_usable_picture_is_one_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(PictureError, match="holds no picture to train on"):
        CropSampler(tmp_path, 64)


def test_loss_is_the_weighted_sum_of_its_terms() -> None:
    result, target = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).unbind(0)
    terms = ReconstructionLoss(LossConfig(l2=2.0, l1=3.0, lpips_vgg=0.0))(result, target, torch.Generator())
    assert terms["l2"].item() == pytest.approx((result - target).square().mean().item(), rel=1e-6)
    assert terms["total"].item() == pytest.approx(2 * terms["l2"].item() + 3 * terms["l1"].item(), rel=1e-6)


def test_the_start_is_the_enlarged_input_and_everything_trained_soon_receives_gradients(
    photos: Path, tmp_path: Path
) -> None:
    config = tiny_config()
    trainer = Trainer(config, photos, tmp_path, new_estimator(config))
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    low_quality = torch.rand(2, 3, 16, 16)
    prompts = torch.tensor([False, True])
    assert torch.allclose(trainer.model(low_quality, image, prompts, None), image)
    estimator = {name: value.clone() for name, value in trainer.model.generator.estimator.state_dict().items()}
    moved = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    for _ in range(4):
        trainer.train_step()
    # B and the decoder's last layer start at zero, so the gradients of what lies behind them come a step later.
    still = [
        name
        for name, value in trainer.model.named_parameters()
        if value.requires_grad and torch.equal(value, moved[name]) and "block_ids" not in name
    ]
    assert not [name for name in still if "lora_A" in name or "fuse" in name or "degree_mlp" in name], still
    for name, value in trainer.model.generator.estimator.state_dict().items():
        assert torch.equal(value, estimator[name]), name


def test_released_start_is_dead_and_ours_is_not() -> None:
    """With M about 2.5e-10 and B = 0, A, MLPs and tables have no gradient; with M = identity + small, B has one."""

    def gradients(identity_start: bool) -> tuple[float, float]:
        torch.manual_seed(0)
        config = replace(tiny_generator(), conditioning=ConditioningConfig(identity_start=identity_start))
        generator = OneStepGenerator(config)
        with torch.no_grad():  # a decoder whose last layer is not zero, as a trained one has
            latent = generator.encode(torch.zeros(1, 3, 64, 64), None)
        _, for_unet = generator.conditioning(torch.tensor([[0.3, 0.6]]))
        prediction = generator.predict(torch.randn_like(latent), torch.randn(1, 4, 64), for_unet)
        prediction.square().mean().backward()
        layers = generator.unet.modulated_layers().values()
        return (
            max(float(layer.lora_B.grad.abs().max()) for layer in layers if layer.lora_B.grad is not None),
            max(float(layer.lora_A.grad.abs().max()) for layer in layers if layer.lora_A.grad is not None),
        )

    dead_b, dead_a = gradients(False)
    ours_b, ours_a = gradients(True)
    assert dead_a == ours_a == 0  # B is zero at the start in both
    assert dead_b < 1e-8 < 1e-4 < ours_b


def test_online_negatives_get_the_negative_prompt_and_the_enlarged_input(photos: Path, tmp_path: Path) -> None:
    """With every image negative and the start at the enlarged input, the loss is zero: the target is the input."""
    config = tiny_config(negative_probability=1.0)
    trainer = Trainer(config, photos, tmp_path, new_estimator(config))
    assert trainer.train_step()["l2"] == pytest.approx(0.0, abs=1e-12)
    config = tiny_config(negative_probability=0.0)
    assert Trainer(config, photos, tmp_path, new_estimator(config)).train_step()["l2"] > 1e-4


def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(photos: Path, tmp_path: Path) -> None:
    config = tiny_config()
    whole = Trainer(config, photos, tmp_path / "whole", new_estimator(config))
    whole.run()
    first = replace(config, optimiser=replace(config.optimiser, max_steps=2))
    Trainer(first, photos, tmp_path / "parts", new_estimator(config)).run()
    torch.manual_seed(99)
    second = Trainer(config, photos, tmp_path / "parts", DegradationEstimator(config.generator.estimator))
    second.resume(tmp_path / "parts" / "checkpoint.pt")
    assert second.step == 2
    second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name


def test_resume_refuses_other_networks_and_nothing(photos: Path, tmp_path: Path) -> None:
    config = tiny_config()
    Trainer(config, photos, tmp_path, new_estimator(config)).save()
    other = replace(config, generator=replace(config.generator, schedule=NoiseSchedule(prediction_type="sample")))
    trainer = Trainer(other, photos, tmp_path, new_estimator(other))
    with pytest.raises(ModelError, match="other networks"):
        trainer.resume(tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match="does not exist"):
        trainer.resume(tmp_path / "nothing.pt")


def test_a_run_ends_in_a_model_folder_that_restore_takes(photos: Path, tmp_path: Path) -> None:
    config = tiny_config()
    trainer = Trainer(config, photos, tmp_path, new_estimator(config))
    trainer.run()
    folder = export_model(trainer, tmp_path / "model")
    expected = averaged_model(trainer).generator.state_dict()
    stored = load_model(folder).generator.state_dict()
    for name, value in expected.items():
        assert torch.allclose(value, stored[name], rtol=1e-3, atol=1e-4), name
    restored = Restorer.from_pretrained(folder, device="cpu").restore(np.full((9, 14, 3), 100, np.uint8))
    assert (restored.picture.width, restored.picture.height) == (56, 36)


def test_estimator_losses_rank_and_anchor(photos: Path) -> None:
    config = EstimatorTrainConfig(crop_px=64, batch_size=2)
    sampler = CropSampler(photos, 64)
    estimator = DegradationEstimator(DegradationEstimatorConfig(stage_channels=(4, 8), hidden_channels=8))
    generator = torch.Generator().manual_seed(0)
    losses = ranking_and_anchor_losses(estimator, sampler.draw(2, generator), config, generator)
    assert losses["total"].item() == pytest.approx(losses["ranking"].item() + losses["anchor"].item(), rel=1e-6)
    # An untrained estimator says about 1/2 everywhere: margin missed twice, each of four anchors off by a quarter.
    assert losses["ranking"].item() == pytest.approx(2 * config.margin, abs=0.05)
    assert losses["anchor"].item() == pytest.approx(1.0, abs=0.2)
    losses["total"].backward()
    assert all(parameter.grad is not None for parameter in estimator.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("loss.dists", "has no ="),
        ("loss.nothing=1", "no field 'nothing'"),
        ("loss=1", "name one of its fields"),
        ("loss.dists.deep=1", "no fields of its own"),
        ("optimiser.max_steps=1.5", "is no int"),
        ("loss.dists=much", "is no float"),
    ],
)
def test_changes_are_typed_and_checked(change: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        with_change(compact(), change)


def test_changes_reach_the_field() -> None:
    assert with_change(compact(), "loss.dists=1").loss.dists == 1.0
    assert with_change(compact(), "optimiser.max_steps=7").optimiser.max_steps == 7


def test_learning_rate_rises_stays_and_falls() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup_steps=4, decay_steps=5, max_steps=20)
    rates = [config.rate_at(step) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(rates[4:16]) == {1.0}
    assert rates[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2])


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
