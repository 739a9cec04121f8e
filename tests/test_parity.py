"""Every untiled golden case of the released code, stage by stage, within the manifest's tolerance.

The goldens are float32 results of the released code. ``fp32_noise_floor.json`` says how far each lies from the same
code in float64; allowed are 10 times its largest and 5 times its mean deviation. Every stage gets what our own earlier
stages made, so that errors add up as they do for a user.
"""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conftest import goldens_path
from golden_models import tiny_model
from s3diff.checkpoints.model_folder import LoadedModel
from s3diff.networks.modulated_lora import Adaptation, call_adapted, fold
from s3diff.networks.one_step_generator import DEFAULT_GUIDANCE, OneStepGenerator

CASES = ("case_small_mode", "case_small_noise", "case_main_mode", "case_main_noise")
#: The keys of the noise floor that a case's stages are compared by, in their order.
STAGES = ("latent_mean", "latent_logvar", "lq_latent", "pos_pred", "neg_pred", "model_pred", "x_denoised")

#: No noise floor was measured for these; the tolerance is absolute and chosen near float32's own rounding.
DEGREES_TOLERANCE = 1e-6
CONDITIONING_TOLERANCE = 1e-5  # relative to the largest value
PROMPT_TOLERANCE = 2e-5

PADDING = 64


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


@functools.cache
def case(name: str) -> dict[str, Tensor]:
    with np.load(goldens_path(f"{name}.npz")) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def noise_floor(name: str, key: str) -> tuple[float, float]:
    """(largest, mean) deviation of a golden from float64; ``case_batch2`` has none, ``case_main_mode`` stands in."""
    floors = json.loads(goldens_path("fp32_noise_floor.json").read_text())
    entry = floors.get(name, {}).get(key) or floors["case_main_mode"][key]
    return entry["max_abs"], entry["mean_abs"]


def assert_within_floor(found: Tensor, golden: Tensor, name: str, key: str) -> None:
    assert found.shape == golden.shape
    assert found.dtype == golden.dtype
    difference = (found - golden).abs()
    largest, mean = noise_floor(name, key)
    message = f"{name} {key}: max {difference.max():.1e} of {10 * largest:.1e}, mean {difference.mean():.1e}"
    print(message, f"of {5 * mean:.1e}")
    assert difference.max() <= 10 * largest, message
    assert difference.mean() <= 5 * mean, f"{message} of {5 * mean:.1e}"


def enlarge_and_pad(low_quality: Tensor) -> Tensor:
    """The release's network input, from METHOD section 4."""
    enlarged = F.interpolate(low_quality, scale_factor=4, mode="bilinear", align_corners=False)
    height, width = enlarged.shape[2:]
    image = (enlarged * 2 - 1).clamp(-1, 1)
    return F.pad(image, (0, -width % PADDING, 0, -height % PADDING), mode="reflect")


def adapt(generator: OneStepGenerator, degrees: Tensor, *, folded: bool) -> tuple[Adaptation, Adaptation]:
    for_encoder, for_unet = generator.conditioning(degrees)
    if not folded:
        return for_encoder, for_unet
    encoder = generator.autoencoder.encoder
    return fold(encoder.lora_weights(), for_encoder), fold(generator.unet.lora_weights(), for_unet)


@torch.inference_mode()
def run_stages(model: LoadedModel, golden: dict[str, Tensor], *, folded: bool) -> dict[str, Tensor]:
    """Every stage's result under the goldens' keys."""
    generator, prompts = model.generator, model.prompts
    low_quality = golden["lr_u8"].permute(2, 0, 1)[None].float() / 255
    image = enlarge_and_pad(low_quality)
    degrees = generator.estimator(low_quality)
    for_encoder, for_unet = adapt(generator, degrees, folded=folded)

    moments = call_adapted(generator.autoencoder.encoder, for_encoder, image)
    mean, log_variance = generator.autoencoder.latent_gaussian(moments)
    latent = generator.encode(image, for_encoder, golden.get("noise"))
    positive, negative = prompts.positive[None], prompts.negative[None]
    guided = generator.predict_guided(latent, positive, negative, DEFAULT_GUIDANCE, for_unet)
    clean = generator.config.schedule.clean_latent(latent, guided)
    return {
        "deg_score": degrees,
        "x_pad": image,
        "latent_mean": mean,
        "latent_logvar": log_variance,
        "lq_latent": latent,
        "pos_pred": generator.predict(latent, positive, for_unet),
        "neg_pred": generator.predict(latent, negative, for_unet),
        "model_pred": guided,
        "x_denoised": clean,
        "decoded_unclamped": generator.autoencoder.decode(clean),
        "output": generator.decode(clean, image),
    }


@pytest.mark.parametrize("folded", [False, True], ids=["per-sample", "folded"])
@pytest.mark.parametrize("name", CASES)
def test_every_stage_is_the_released_codes(model: LoadedModel, name: str, folded: bool) -> None:
    golden = case(name)
    found = run_stages(model, golden, folded=folded)
    torch.testing.assert_close(found["deg_score"], golden["deg_score"], rtol=0, atol=DEGREES_TOLERANCE)
    if "x_pad" in golden:
        torch.testing.assert_close(found["x_pad"], golden["x_pad"], rtol=0, atol=1e-6)
    keys = [key for key in (*STAGES, "decoded_unclamped", "output") if key in golden]
    assert {"pos_pred", "neg_pred", "model_pred", "lq_latent", "x_denoised", "latent_mean", "output"} <= set(keys)
    for key in keys:
        assert_within_floor(found[key], golden[key], name, key)


@pytest.mark.parametrize("name", CASES)
def test_the_whole_generator_is_its_stages(model: LoadedModel, name: str) -> None:
    golden = case(name)
    low_quality = golden["lr_u8"].permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        output = model.generator(
            enlarge_and_pad(low_quality),
            golden["deg_score"],
            model.prompts.positive[None],
            model.prompts.negative[None],
            noise=golden.get("noise"),
        )
    assert_within_floor(output, golden["output"], name, "output")


@pytest.mark.parametrize(("mistake", "allowed"), [("none", True), ("swapped degrees", False), ("transposed", False)])
def test_the_tolerance_tells_mistakes(model: LoadedModel, mistake: str, allowed: bool) -> None:
    golden, generator = case("case_small_mode"), model.generator
    degrees = golden["deg_score"].flip(1) if mistake == "swapped degrees" else golden["deg_score"]
    with torch.inference_mode():
        for_encoder, for_unet = generator.conditioning(degrees)
        if mistake == "transposed":
            for_encoder, for_unet = for_encoder.mT, for_unet.mT
        latent = generator.encode(golden["x_pad"], for_encoder)
        positive, negative = model.prompts.positive[None], model.prompts.negative[None]
        prediction = generator.predict_guided(latent, positive, negative, DEFAULT_GUIDANCE, for_unet)
    largest, _ = noise_floor("case_small_mode", "model_pred")
    difference = float((prediction - golden["model_pred"]).abs().max())
    assert (difference <= 10 * largest) == allowed
    assert allowed or difference > 1000 * largest


@torch.inference_mode()
def test_conditioning(model: LoadedModel) -> None:
    golden, conditioning = case("case_small_mode"), model.generator.conditioning

    def check(found: Tensor, key: str) -> None:
        assert found.shape == golden[key].shape, key
        largest = float((found - golden[key]).abs().max() / golden[key].abs().max())
        print(f"{key}: {largest:.1e} of {CONDITIONING_TOLERANCE:.1e}")
        assert largest <= CONDITIONING_TOLERANCE, key

    features = conditioning.degree_features(golden["deg_score"])
    check(features, "deg_fourier")
    for network, prefix, found in (
        (conditioning.encoder, "vae", conditioning(golden["deg_score"])[0]),
        (conditioning.unet, "unet", conditioning(golden["deg_score"])[1]),
    ):
        check(F.relu(network.degree_mlp(features)), f"{prefix}_de_embed")
        check(F.relu(network.block_mlp(network.block_ids)), f"{prefix}_block_embed")
        check(found.flatten(2), f"{prefix}_mod")


@pytest.mark.parametrize("index", range(4))
def test_degrees(model: LoadedModel, index: int) -> None:
    golden = case("de_net_cases")
    with torch.inference_mode():
        degrees = model.generator.estimator(golden[f"in_{index}"])
    print(f"degrees {index}: {(degrees - golden[f'score_{index}']).abs().max():.1e}")
    torch.testing.assert_close(degrees, golden[f"score_{index}"], rtol=0, atol=DEGREES_TOLERANCE)


@torch.inference_mode()
def run_batch(model: LoadedModel, golden: dict[str, Tensor], *, folded: bool) -> Tensor:
    """Two pictures, the first with the positive and the second with the negative prompt, without guidance."""
    generator = model.generator
    context = torch.stack([model.prompts.positive, model.prompts.negative])

    def run(rows: slice) -> Tensor:
        for_encoder, for_unet = adapt(generator, golden["deg_score"][rows], folded=folded)
        latent = generator.encode(golden["x"][rows], for_encoder, golden["noise"][rows])
        prediction = generator.predict(latent, context[rows], for_unet)
        return generator.decode(generator.config.schedule.clean_latent(latent, prediction), golden["x"][rows])

    return torch.cat([run(slice(0, 1)), run(slice(1, 2))]) if folded else run(slice(0, 2))


@pytest.mark.parametrize("folded", [False, True], ids=["per-sample", "folded"])
def test_mixed_batch(model: LoadedModel, folded: bool) -> None:
    golden = case("case_batch2")
    assert_within_floor(run_batch(model, golden, folded=folded), golden["output"], "case_batch2", "output")


def test_guidance_of_one_runs_one_pass(model: LoadedModel) -> None:
    generator, golden = model.generator, case("case_small_mode")
    passes: list[tuple[int, ...]] = []
    hook = generator.unet.register_forward_hook(lambda network, inputs, output: passes.append(tuple(output.shape)))
    try:
        with torch.inference_mode():
            _, for_unet = generator.conditioning(golden["deg_score"])
            positive, negative = model.prompts.positive[None], model.prompts.negative[None]
            alone = generator.predict_guided(golden["lq_latent"], positive, negative, 1.0, for_unet)
            expected = generator.predict(golden["lq_latent"], positive, for_unet)
    finally:
        hook.remove()
    assert passes == [(1, 4, 8, 8), (1, 4, 8, 8)], "one call of one picture each"
    assert torch.equal(alone, expected)


def test_schedule() -> None:
    golden, schedule = case("scheduler"), tiny_model().config.schedule
    # The same formula in another version of torch: the products' last bit may differ.
    torch.testing.assert_close(schedule.alphas_cumprod(), golden["alphas_cumprod"], rtol=2e-6, atol=0)
    assert float(golden["alphas_cumprod_999"]) == pytest.approx(0.00466009508818388, rel=1e-7)
    clean = schedule.clean_latent(golden["z"], golden["eps"])
    # The release adds noise of size 1e-10 and goes through a previous timestep; relative to values of size 50.
    torch.testing.assert_close(clean, golden["prev_sample"], rtol=1e-5, atol=1e-5)
