"""One training step of the released code: losses, gradients of every group and parameter, one update."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import goldens_path
from golden_models import tiny_model_folder
from recipe_weights import recipe_weights
from s3diff.checkpoints.model_folder import LoadedModel, load_model
from s3diff.checkpoints.official_pickle import official_names
from s3diff.evaluation.perceptual import LPIPS
from s3diff.training import phases
from s3diff.training.adversarial.augmentation import neutral_draw
from s3diff.training.config import LossConfig
from s3diff.training.losses import ReconstructionLoss
from s3diff.training.trainable_model import TrainableModel, parameter_group
from training_runs import gradient_norms

#: Relative; the sums over the batch are taken in another order than in the released code.
NORM_TOLERANCE = 2e-4
#: Through the random VGG's poolings a rounding may choose another pixel.
LPIPS_NORM_TOLERANCE = 1e-3
VALUE_TOLERANCE = 1e-5

#: The released names of our groups.
GROUPS = {
    "encoder_block_ids": "vae_block_embeddings",
    "unet_block_ids": "unet_block_embeddings",
    "encoder_degree_mlp": "vae_de_mlp",
    "unet_degree_mlp": "unet_de_mlp",
    "encoder_block_mlp": "vae_block_mlp",
    "unet_block_mlp": "unet_block_mlp",
    "encoder_fuse": "vae_fuse_mlp",
    "unet_fuse": "unet_fuse_mlp",
    "unet_lora_A": "unet_lora_A",
    "unet_lora_B": "unet_lora_B",
    "unet_conv_in": "unet_conv_in",
    "encoder_lora_A": "vae_lora_A",
    "encoder_lora_B": "vae_lora_B",
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(goldens_path("train_case.npz")) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def figures() -> dict:
    return json.loads(goldens_path("train_losses.json").read_text())


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """The tiny model on its own, since training changes it."""
    return load_model(tiny_model_folder())


@pytest.fixture
def model(loaded: LoadedModel) -> TrainableModel:
    prompts = loaded.prompts
    return TrainableModel(copy.deepcopy(loaded.generator), prompts.positive, prompts.negative, trained="modulation")


def batch_of(golden: dict[str, Tensor], figures: dict) -> phases.Batch:
    neutral = neutral_draw(len(golden["gt"]))
    drawn = phases.BatchDraw(
        degradation=None,  # type: ignore[arg-type] - the batch is already low quality
        is_negative=golden["neg_probs"] < figures["neg_prob"],
        in_vgg=phases.evenly_chosen(len(golden["gt"]), 0),
        vgg_share=1.0,
        latent_noise=golden["noise"],
        adversarial_noise=golden["noise"],
        augmentations=(neutral, neutral, neutral),
    )
    return phases.Batch(golden["ori_lq"], golden["x_src"], golden["x_tgt"], drawn)


def reconstruct(
    model: TrainableModel, golden: dict[str, Tensor], figures: dict, *, with_lpips: bool
) -> dict[str, Tensor]:
    config = LossConfig(l2=figures["lambda_l2"], lpips_vgg=figures["lambda_lpips"] * with_lpips, perceptual_crop_px=0)
    lpips = LPIPS("vgg", recipe_weights("lpips_vgg")) if with_lpips else None
    losses, _ = phases.reconstruction(
        model, batch_of(golden, figures), ReconstructionLoss(config, lpips), torch.Generator()
    )
    losses["total"].backward()
    return losses


def check_norms(model: TrainableModel, expected: dict, tolerance: float = NORM_TOLERANCE) -> float:
    found = {GROUPS[group]: float(norm) for group, norm in gradient_norms(model).items()}
    assert found.keys() == expected["groups"].keys()
    worst = max(abs(found[group] / norm - 1) for group, norm in expected["groups"].items())
    print(f"largest relative error of a group's norm: {worst:.1e} of {tolerance:.1e}")
    assert worst < tolerance
    return sum(norm**2 for norm in found.values()) ** 0.5


def test_results_and_targets_with_mixed_prompts(
    model: TrainableModel, golden: dict[str, Tensor], figures: dict
) -> None:
    batch = batch_of(golden, figures)
    result = model(batch.low_quality, batch.image, batch.drawn.is_negative, golden["noise"])
    assert float((result.detach() - golden["x_tgt_pred"]).abs().max()) < 5.4e-4
    target = torch.where(batch.drawn.is_negative[:, None, None, None], batch.image, batch.ground_truth)
    assert torch.equal(target, golden["mixed_tgt"])


def test_l2_and_every_gradient(model: TrainableModel, golden: dict[str, Tensor], figures: dict) -> None:
    losses = reconstruct(model, golden, figures, with_lpips=False)
    assert float(losses["total"]) == pytest.approx(figures["loss_l2"], rel=VALUE_TOLERANCE)
    total = check_norms(model, figures["l2_only"])
    assert total == pytest.approx(figures["l2_only"]["total_grad_norm"], rel=NORM_TOLERANCE)

    gradients = {name.removeprefix("generator."): p.grad for name, p in model.named_parameters() if p.grad is not None}
    full = {key.removeprefix("grad:"): value for key, value in golden.items() if key.startswith("grad:")}
    expected_norms = figures["l2_only"]["per_param"]
    assert len(gradients) == len(expected_norms), "exactly the released parameters are trained"
    released = {ours: _released_name(ours, official) for ours, official in official_names(model.generator).items()}
    checked = set()
    for ours, gradient in gradients.items():
        name = released[ours]
        norm = float(gradient.double().norm())
        assert norm == pytest.approx(expected_norms[name], rel=1e-3, abs=1e-7), name
        if name in full:
            checked.add(name)
            scale = float(full[name].abs().max())
            assert float((gradient.view_as(full[name]) - full[name]).abs().max()) < 1e-4 * scale, name
    assert checked == full.keys()


def test_l2_with_lpips_clipping_and_one_update(model: TrainableModel, golden: dict[str, Tensor], figures: dict) -> None:
    losses = reconstruct(model, golden, figures, with_lpips=True)
    assert 5 * float(losses["lpips_vgg"]) == pytest.approx(figures["loss_lpips_recipe"], rel=1e-4)
    check_norms(model, figures["l2_plus_lpips"], LPIPS_NORM_TOLERANCE)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trained, figures["max_grad_norm"])
    assert float(norm) == pytest.approx(figures["clip_returned_norm"], rel=LPIPS_NORM_TOLERANCE)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.optim.AdamW(
        trained,
        lr=figures["lr"],
        betas=tuple(figures["betas"]),
        weight_decay=figures["weight_decay"],
        eps=figures["eps"],
    ).step()
    squares: dict[str, float] = {}
    trained_names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, value in model.state_dict().items():
        moved = float((value - before[name]).double().square().sum())
        assert moved == 0 or name in trained_names, f"{name} moved"
        if name in trained_names:
            group = GROUPS[parameter_group(name)]
            squares[group] = squares.get(group, 0.0) + moved
    for group, expected in figures["after_one_adamw_step_delta_norm"].items():
        # Adam divides by the gradient's own size: elements near zero amplify the rounding.
        assert squares[group] ** 0.5 == pytest.approx(expected, rel=5e-3), group
    batch = batch_of(golden, figures)
    after = model(batch.low_quality, batch.image, batch.drawn.is_negative, golden["noise"])
    l2 = figures["lambda_l2"] * (after - golden["mixed_tgt"]).square().mean()
    assert float(l2) == pytest.approx(figures["loss_l2_after_step"], rel=1e-4)


def _released_name(ours: str, official: str) -> str:
    """The name that the released module tree gives to a tensor of the pickle."""
    group, _, key = official.partition("/")
    if group == "state_embeddings":
        kind = "vae" if "vae" in key else "unet"
        return f"{kind}_block_embeddings.weight"
    return f"{group.removeprefix('state_dict_')}.{key}"
