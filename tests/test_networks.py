"""The networks against their references: diffusers' classes, plain einsums, the published lists of names and shapes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from conftest import goldens_path, shared_path
from s3diff.checkpoints.assembly import generator_on_meta, shapes_of
from s3diff.checkpoints.official_pickle import official_names
from s3diff.checkpoints.sd_turbo import autoencoder_config, read_sd_turbo_config, unet_config
from s3diff.networks.autoencoder import Autoencoder, AutoencoderConfig, sample_gaussian
from s3diff.networks.blocks import ChannelNorm, Norm, channel_norm_reference
from s3diff.networks.degradation_estimator import DegradationEstimator, DegradationEstimatorConfig
from s3diff.networks.modulated_lora import (
    FoldedInTurn,
    FoldedNetwork,
    ModulatedConv2d,
    ModulatedLayer,
    ModulatedLinear,
    call_adapted,
    fold,
    modulated_forward_reference,
)
from s3diff.networks.one_step_generator import GeneratorConfig, NoiseSchedule, OneStepGenerator
from s3diff.networks.unet import UNet, UNetConfig

#: Ours and diffusers' outputs differ by at most this share of the largest output, in float32.
RELATIVE_TOLERANCE = 1e-5

#: Besides the goldens' ``sd_tiny``: three levels, other heads, one level without prompt, odd latents.
OTHER_UNET = {
    "sample_size": 16,
    "block_out_channels": [24, 40, 48],
    "attention_head_dim": [3, 5, 2],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "norm_eps": 1e-4,
    "cross_attention_dim": 20,
    "use_linear_projection": True,
}
OTHER_VAE = {
    "block_out_channels": [16, 24, 40],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 6,
    "scaling_factor": 0.3,
}

SMALL = GeneratorConfig(
    unet=UNetConfig(
        block_out_channels=(8, 12),
        num_heads=(2, 3),
        cross_attention=(True, True),
        layers_per_block=1,
        context_channels=10,
        norm_num_groups=4,
        lora_rank=3,
    ),
    autoencoder=AutoencoderConfig(block_out_channels=(8, 12), layers_per_block=1, norm_num_groups=4, lora_rank=2),
)


def fill_with_noise(module: nn.Module, seed: int, scale: float = 0.2) -> None:
    """Every parameter away from its start, norms and biases too; otherwise half of them would not be tested."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * scale)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small_generator(dtype: torch.dtype) -> OneStepGenerator:
    torch.manual_seed(0)  # start values only; fill_with_noise replaces what matters
    generator = OneStepGenerator(SMALL).to(dtype).eval()
    fill_with_noise(generator, 5)
    return generator


def assert_relatively_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    difference = float((found - expected).detach().abs().max() / expected.detach().abs().max())
    print(f"relative difference {difference:.1e}")
    assert difference <= RELATIVE_TOLERANCE


def content_of(name: str, component: str) -> dict[str, object]:
    if name == "sd_tiny":
        content: dict[str, object] = json.loads((goldens_path("sd_tiny") / component / "config.json").read_text())
        return content
    return OTHER_UNET if component == "unet" else OTHER_VAE


@pytest.mark.parametrize(
    ("name", "size"), [("sd_tiny", (16, 24)), ("sd_tiny", (13, 9)), ("other", (12, 8)), ("other", (7, 5))]
)
@torch.inference_mode()
def test_unet_is_the_diffusers_class(name: str, size: tuple[int, int]) -> None:
    content = content_of(name, "unet")
    torch.manual_seed(1)
    theirs = UNet2DConditionModel.from_config(content).eval()
    fill_with_noise(theirs, 2, 0.05)
    config = unet_config(content, name)
    ours = UNet(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)

    latent, context = draw(2, config.latent_channels, *size, seed=3), draw(2, 7, config.context_channels, seed=4)
    timestep = torch.tensor([999, 12])
    expected = theirs(latent, timestep, encoder_hidden_states=context).sample
    assert_relatively_close(ours(latent, timestep, context), expected)


@pytest.mark.parametrize("name", ["sd_tiny", "other"])
@torch.inference_mode()
def test_autoencoder_is_the_diffusers_class(name: str) -> None:
    content = content_of(name, "vae")
    torch.manual_seed(1)
    theirs = AutoencoderKL.from_config(content).eval()
    fill_with_noise(theirs, 2, 0.05)
    config = autoencoder_config(content, name)
    ours = Autoencoder(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)

    image = draw(2, 3, 8 * 7, 8 * 5, seed=3)
    expected = theirs.encode(image).latent_dist
    mean, log_variance = ours.latent_gaussian(ours.encoder(image))
    assert_relatively_close(mean, expected.mean)
    assert_relatively_close(log_variance, expected.logvar)
    noise = draw(*mean.shape, seed=4)
    assert_relatively_close(sample_gaussian(mean, log_variance, noise), expected.mean + expected.std * noise)
    latent = draw(2, config.latent_channels, 7, 5, seed=5)
    assert_relatively_close(ours.decode(latent * config.scaling_factor), theirs.decode(latent).sample)


def lora_rows(generator: OneStepGenerator) -> dict[str, dict[str, int]]:
    encoder, unet = generator.autoencoder.encoder, generator.unet
    return {
        "vae": {f"encoder.{name}": encoder.modulation_row(name) for name in encoder.modulated_layers()},
        "unet": {name: unet.modulation_row(name) for name in unet.modulated_layers()},
    }


def test_lora_layers_and_rows_of_the_tiny_model() -> None:
    config = read_sd_turbo_config(goldens_path("sd_tiny"))
    config = dataclasses.replace(
        config,
        unet=dataclasses.replace(config.unet, lora_rank=6),
        autoencoder=dataclasses.replace(config.autoencoder, lora_rank=4),
    )
    expected = json.loads(goldens_path("lora_layers.json").read_text())
    assert lora_rows(generator_on_meta(config, "sd_tiny")) == expected


def read_table(name: str) -> list[list[str]]:
    lines = shared_path(f"reference/{name}").read_text().splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


@pytest.mark.shared
def test_full_size_lora_layers() -> None:
    generator = generator_on_meta(GeneratorConfig(), "full size")
    encoder, unet = generator.autoencoder.encoder, generator.unet
    found = []
    for component, prefix, network in (("unet", "", unet), ("vae", "encoder.", encoder)):
        for name, layer in network.modulated_layers().items():
            kind = "conv" if isinstance(layer, ModulatedConv2d) else "linear"
            shapes = str(list(layer.lora_A.shape)), str(list(layer.lora_B.shape))
            found.append([component, prefix + name, kind, *shapes, str(network.modulation_row(name))])
    assert sorted(found) == sorted(read_table("lora_layers_full.tsv"))


@pytest.mark.shared
def test_full_size_base_names_and_shapes() -> None:
    with torch.device("meta"):
        networks = {"unet": UNet(UNetConfig(lora_rank=0)), "vae": Autoencoder(AutoencoderConfig(lora_rank=0))}
    found = {
        (component, name): str(list(shape))
        for component, network in networks.items()
        for name, shape in shapes_of(network).items()
    }
    rows = [row for row in read_table("sd_turbo_keys.txt") if row[0] != "text_encoder"]
    assert found == {(component, name): shape for component, name, _, shape in rows}
    assert len(found) == 686 + 248


@pytest.mark.shared
def test_full_size_pickle_names_and_shapes() -> None:
    generator = generator_on_meta(GeneratorConfig(), "full size")
    shapes = shapes_of(generator)
    found = {
        official.rstrip("/").replace("/", " / "): str(list(shapes[ours]))
        for ours, official in official_names(generator).items()
    }
    rows = [row for row in read_table("s3diff_pkl_keys.txt") if row[1] in ("Tensor", "Parameter")]
    assert found == {name: shape for name, _, _, shape in rows}


@pytest.mark.shared
def test_full_size_estimator_names_and_shapes() -> None:
    with torch.device("meta"):
        estimator = DegradationEstimator(DegradationEstimatorConfig())
    found = {name: str(list(shape)) for name, shape in shapes_of(estimator).items()}
    assert found == {name: shape for name, _, shape in read_table("de_net_keys.txt")}
    assert sum(parameter.numel() for parameter in estimator.parameters()) == 2_351_362


def modulated_layers() -> list[tuple[str, ModulatedLayer, tuple[int, ...]]]:
    return [
        ("linear on tokens", ModulatedLinear(6, 10, lora_rank=4), (3, 5, 6)),
        ("linear on deeper tokens", ModulatedLinear(6, 10, bias=False, lora_rank=4), (3, 2, 5, 6)),
        ("1x1", ModulatedConv2d(6, 10, 1, lora_rank=4), (3, 6, 5, 7)),
        ("3x3", ModulatedConv2d(6, 10, 3, padding=1, lora_rank=4), (3, 6, 5, 7)),
        ("3x3 of stride 2", ModulatedConv2d(6, 10, 3, stride=2, padding=1, lora_rank=4), (3, 6, 5, 7)),
    ]


@pytest.mark.parametrize(("name", "layer", "shape"), modulated_layers(), ids=lambda value: str(value)[:24])
def test_per_sample_values_and_gradients(name: str, layer: ModulatedLayer, shape: tuple[int, ...]) -> None:
    layer = layer.double()
    fill_with_noise(layer, 1)
    x = draw(*shape, seed=2, dtype=torch.float64).requires_grad_()
    modulation = draw(shape[0], 4, 4, seed=3, dtype=torch.float64).requires_grad_()
    inputs = {"A": layer.lora_A, "B": layer.lora_B, "W": layer.weight, "M": modulation, "x": x}
    outputs, gradients = [], []
    for output in (layer(x, modulation), modulated_forward_reference(layer, x, modulation)):
        outputs.append(output.detach())
        weight = draw(*output.shape, seed=4, dtype=torch.float64)
        gradients.append(torch.autograd.grad((output * weight).sum(), list(inputs.values())))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-12, atol=1e-12)
    for kind, found, expected in zip(inputs, *gradients, strict=True):
        assert expected.abs().max() > 0, kind
        torch.testing.assert_close(
            found, expected, rtol=1e-11, atol=1e-12, msg=lambda text, kind=kind: f"{kind}: {text}"
        )


def test_formula_by_hand() -> None:
    """y = W x + s B (M^T (A x)), one number at a time: channel j of the mixed code is sum_k (A x)_k M[k, j]."""
    layer = ModulatedLinear(2, 2, bias=False, lora_rank=2).double()
    fill_with_noise(layer, 1)
    x, m = draw(1, 1, 2, seed=2, dtype=torch.float64), draw(1, 2, 2, seed=3, dtype=torch.float64)
    code = [sum(layer.lora_A[k, i] * x[0, 0, i] for i in range(2)) for k in range(2)]
    mixed = [sum(code[k] * m[0, k, j] for k in range(2)) for j in range(2)]
    for o in range(2):
        expected = sum(layer.weight[o, i] * x[0, 0, i] for i in range(2))
        expected += 8 / 2 * sum(layer.lora_B[o, j] * mixed[j] for j in range(2))
        assert float(layer(x, m)[0, 0, o].detach()) == pytest.approx(float(expected.detach()), rel=1e-12)


@torch.inference_mode()
def test_folded_networks_are_the_per_sample_ones() -> None:
    generator = small_generator(torch.float64)
    degrees = torch.tensor([[0.2, 0.7], [0.9, 0.1]], dtype=torch.float64)
    for_encoder, for_unet = generator.conditioning(degrees)
    encoder, unet = generator.autoencoder.encoder, generator.unet
    image, latent = draw(2, 3, 12, 8, dtype=torch.float64), draw(2, 4, 6, 5, dtype=torch.float64)
    context, timestep = draw(2, 7, 10, dtype=torch.float64), torch.tensor([999, 999])
    encoded, predicted = encoder(image, for_encoder), unet(latent, timestep, context, for_unet)
    assert (encoded - encoder(image)).abs().max() > 0.1, "the LoRA must matter here"
    assert (predicted - unet(latent, timestep, context)).abs().max() > 0.1
    for i in range(2):
        one = slice(i, i + 1)
        folded = fold(encoder.lora_weights(), for_encoder[one])
        torch.testing.assert_close(call_adapted(encoder, folded, image[one]), encoded[one], rtol=0, atol=1e-11)
        folded = fold(unet.lora_weights(), for_unet[one])
        found = call_adapted(unet, folded, latent[one], timestep[one], context[one])
        # Predictions of size 1 through a dozen layers; a wrong row or scale moves them by more than 0.1.
        torch.testing.assert_close(found, predicted[one], rtol=0, atol=1e-10)


@torch.inference_mode()
def test_folding_again_does_not_drift() -> None:
    unet = small_generator(torch.float32).unet
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    kept = unet.lora_weights()
    first, other = draw(1, unet.num_modulation_rows, 3, 3, seed=1), draw(1, unet.num_modulation_rows, 3, 3, seed=2)
    folded = fold(kept, first)
    for _ in range(3):
        assert any(not torch.equal(tensor, folded[name]) for name, tensor in fold(kept, other).items())
    again = fold(kept, first)
    assert folded.keys() == again.keys()
    assert all(torch.equal(folded[name], again[name]) for name in folded)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


@torch.inference_mode()
def test_folding_in_float32_then_casting() -> None:
    unet = small_generator(torch.float32).unet
    modulation = draw(1, unet.num_modulation_rows, 3, 3, seed=1)
    kept = unet.lora_weights()
    in_float32 = fold(kept, modulation)
    unet.to(torch.bfloat16)
    after_cast = fold(kept, modulation, torch.bfloat16)
    in_bfloat16 = fold(unet.lora_weights(), modulation)
    assert all(tensor.dtype == torch.bfloat16 for tensor in after_cast.values())
    assert all(torch.equal(after_cast[name], tensor.to(torch.bfloat16)) for name, tensor in in_float32.items())
    assert any(not torch.equal(after_cast[name], tensor) for name, tensor in in_bfloat16.items())
    context, timestep = draw(1, 7, 10).bfloat16(), torch.tensor([999])
    prediction = call_adapted(unet, after_cast, draw(1, 4, 6, 4).bfloat16(), timestep, context)
    assert prediction.dtype == torch.bfloat16
    assert torch.isfinite(prediction).all()


def test_folding_refuses_a_mixed_batch() -> None:
    unet = small_generator(torch.float32).unet
    with pytest.raises(ValueError, match="one image, this batch holds 2"):
        fold(unet.lora_weights(), draw(2, unet.num_modulation_rows, 3, 3))


@pytest.mark.parametrize("guidance", [1.0, 1.07, 3.0])
@pytest.mark.parametrize("kind", ["group", "branch", "none"])
@torch.inference_mode()
def test_guidance(kind: Norm, guidance: float) -> None:
    """What is computed once for both prompts changes nothing: two passes, combined, are the readable twin."""
    double = torch.float64
    torch.manual_seed(0)
    unet = dataclasses.replace(SMALL.unet, norm=kind, cross_attention=(kind == "group", True), lora_rank=3)
    generator = OneStepGenerator(dataclasses.replace(SMALL, unet=unet)).to(double).eval()
    fill_with_noise(generator, 5)
    _, for_unet = generator.conditioning(torch.tensor([[0.3, 0.4], [0.8, 0.1]], dtype=double))
    latent = draw(2, 4, 6, 4, dtype=double)
    positive, negative = draw(2, 7, 10, seed=1, dtype=double), draw(2, 7, 10, seed=2, dtype=double)
    p, n = generator.predict(latent, positive, for_unet), generator.predict(latent, negative, for_unet)
    expected = p if guidance == 1.0 else n + guidance * (p - n)
    weights = generator.unet.lora_weights()
    folded = FoldedNetwork(generator.unet, weights)
    given = (
        (slice(0, 2), for_unet),
        (slice(0, 2), FoldedInTurn(folded, for_unet)),
        (slice(0, 1), folded.fold(for_unet[:1])),
        (slice(1, 2), fold(weights, for_unet[1:])),
    )
    for rows, adaptation in given:
        if isinstance(adaptation, FoldedNetwork):
            folded.fold(for_unet[:1])
        found = generator.predict_guided(latent[rows], positive[rows], negative[rows], guidance, adaptation)
        assert found.dtype == torch.float32
        assert_relatively_close(found, expected[rows].float())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_clean_latent_inverts_the_forward_process(kind: str) -> None:
    schedule = NoiseSchedule(prediction_type=kind, timestep=400)
    alpha = float(schedule.alphas_cumprod()[400])
    clean, noise = draw(1, 4, 3, 3, seed=1), draw(1, 4, 3, 3, seed=2)
    noisy = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
    velocity = alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean
    prediction = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[kind]
    torch.testing.assert_close(schedule.clean_latent(noisy, prediction), clean, rtol=1e-5, atol=1e-5)


def test_shapes_on_meta_are_the_real_ones() -> None:
    """Building without start values must not change a single name, shape or dtype."""
    real, meta = OneStepGenerator(SMALL).state_dict(), generator_on_meta(SMALL, "small").state_dict()
    assert {n: (t.shape, t.dtype) for n, t in real.items()} == {n: (t.shape, t.dtype) for n, t in meta.items()}
    assert all(tensor.device.type == "meta" for tensor in meta.values())


def channel_norm(channels: int, dtype: torch.dtype) -> ChannelNorm:
    norm = ChannelNorm(channels, 1e-5).to(dtype)
    fill_with_noise(norm, 3)
    return norm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channel_norm_is_its_readable_twin(layout: torch.memory_format) -> None:
    norm, upstream = channel_norm(6, torch.float32), draw(2, 6, 5, 4, seed=2).to(memory_format=layout)
    x = draw(2, 6, 5, 4).to(memory_format=layout)
    x[0, :, 1, 2] = 0  # no contrast: eps decides
    x.requires_grad_()
    made, expected = norm(x), channel_norm_reference(x, norm.weight, norm.eps)
    assert_relatively_close(made, expected)
    found, wanted = (torch.autograd.grad(each, (x, norm.weight), upstream) for each in (made, expected))
    for mine, theirs in zip(found, wanted, strict=True):
        assert_relatively_close(mine, theirs)
    assert found[0].is_contiguous(memory_format=layout)
    assert made.is_contiguous(memory_format=layout)
    with torch.inference_mode():
        assert torch.equal(norm(x), made)


def test_channel_norm_has_the_gradients_of_its_differences() -> None:
    norm = channel_norm(5, torch.float64)
    assert torch.autograd.gradcheck(norm, (draw(2, 5, 3, 2, dtype=torch.float64).requires_grad_(),))


@torch.inference_mode()
def test_channel_norm_in_half_precision() -> None:
    norm, x = channel_norm(64, torch.float32), draw(1, 64, 8, 8)
    expected = channel_norm_reference(x, norm.weight, norm.eps)
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert float((found.float() - expected).abs().max() / expected.abs().max()) < 0.01
    large = norm.half()(x.half() * 1000)  # squares beyond float16
    assert float((large.float() - expected).abs().max() / expected.abs().max()) < 0.01
