"""Every fast path beside its readable twin."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from s3diff.networks.autoencoder import AutoencoderConfig
from s3diff.networks.degradation_conditioning import ConditioningConfig
from s3diff.networks.degradation_estimator import DegradationEstimatorConfig
from s3diff.networks.modulated_lora import FoldedInTurn, FoldedNetwork, ModulatedNetwork, call_adapted, fold
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator
from s3diff.networks.unet import UNetConfig
from s3diff.restoration.device import choose_acceleration, compile_network, compiler_obstacle

SMALL = GeneratorConfig(
    unet=UNetConfig(
        block_out_channels=(8, 12),
        num_heads=(2, 3),
        cross_attention=(True, False),
        layers_per_block=1,
        context_channels=10,
        norm_num_groups=4,
        lora_rank=3,
    ),
    autoencoder=AutoencoderConfig(block_out_channels=(8, 12), norm_num_groups=4, lora_rank=2, layers_per_block=1),
    estimator=DegradationEstimatorConfig(stage_channels=(4, 6), hidden_channels=8),
    conditioning=ConditioningConfig(num_frequencies=4, hidden_channels=8, block_channels=4),
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def generator(request: pytest.FixtureRequest) -> OneStepGenerator:
    """In float64, with every weight away from its start value."""
    torch.manual_seed(0)
    made = OneStepGenerator(SMALL).double().eval().requires_grad_(False)
    for network in (made.autoencoder.encoder, made.unet):
        for layer in network.modulated_layers().values():
            layer.lora_B.normal_(std=0.3)
    return made.to(memory_format=request.param)


def modulations(network: ModulatedNetwork, rank: int, batch_size: int, seed: int) -> Tensor:
    return draw(batch_size, network.num_modulation_rows, rank, rank, seed=seed)


# ---------------------------------------------------------------------------------------------- folding


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_folded_into_their_buffers_are_folded_weights(generator: OneStepGenerator, dtype: torch.dtype) -> None:
    for network, rank in ((generator.autoencoder.encoder, 2), (generator.unet, 3)):
        kept = network.lora_weights()
        folded = FoldedNetwork(network.to(dtype), kept)
        layers = folded.network.modulated_layers()
        places = {name: layer.weight.data_ptr() for name, layer in layers.items()}
        for seed in (1, 2, 1):  # whatever was folded before
            modulation = modulations(network, rank, 1, seed)
            expected = fold(kept, modulation, dtype)
            folded.fold(modulation)
            assert expected
            for name, layer in layers.items():
                torch.testing.assert_close(layer.weight.data, expected[f"{name}.weight"], msg=name)
                assert layer.weight.data_ptr() == places[name], "weights stay where they are"


def test_a_folded_network_is_the_network_with_folded_weights(generator: OneStepGenerator) -> None:
    unet = generator.unet
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    calls: list[int] = []
    unet.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    folded = FoldedNetwork(unet, unet.lora_weights())
    latent, context, timestep = draw(2, 4, 6, 5), draw(2, 7, 10), torch.tensor([999, 999])
    modulation = modulations(unet, 3, 1, seed=1)
    expected = call_adapted(unet, fold(unet.lora_weights(), modulation), latent, timestep, context)
    found = call_adapted(unet, folded.fold(modulation), latent, timestep, context)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert calls == [2, 2], "hooks of the network see the folded one's calls"
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
    shared = {tensor.data_ptr() for tensor in unet.parameters()}
    own = [name for name, tensor in folded.network.named_parameters() if tensor.data_ptr() not in shared]
    assert set(own) == {f"{name}.weight" for name in unet.modulated_layers()}, "everything else is shared"
    with pytest.raises(ValueError, match="one image, this batch holds 2"):
        folded.fold(modulations(unet, 3, 2, seed=1))


def test_images_folded_in_turn_are_the_batch_per_sample(generator: OneStepGenerator) -> None:
    encoder, unet = generator.autoencoder.encoder, generator.unet
    image = draw(3, 3, 12, 8)
    modulation = modulations(encoder, 2, 3, seed=1)
    in_turn = FoldedInTurn(FoldedNetwork(encoder, encoder.lora_weights()), modulation)
    torch.testing.assert_close(
        call_adapted(encoder, in_turn, image), call_adapted(encoder, modulation, image), rtol=0, atol=1e-11
    )
    modulation = modulations(unet, 3, 3, seed=2)
    in_turn = FoldedInTurn(FoldedNetwork(unet, unet.lora_weights()), modulation)
    latent, positive, negative = draw(3, 4, 6, 4), draw(3, 7, 10, seed=1), draw(3, 7, 10, seed=2)
    found, expected = (
        generator.predict_guided(latent, positive, negative, 1.5, adaptation) for adaptation in (in_turn, modulation)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # both are combined in float32


# ---------------------------------------------------------------------------------------------- time and prompts


def test_a_fixed_timestep_is_the_timestep(generator: OneStepGenerator) -> None:
    unet = generator.unet
    latent, context, modulation = draw(2, 4, 6, 4), draw(2, 7, 10), modulations(unet, 3, 2, seed=1)
    expected, other = (unet(latent, torch.tensor([t, t]), context, modulation) for t in (999, 500))
    fixed = copy.deepcopy(unet)
    biases = {id(parameter) for parameter in fixed.parameters()}
    fixed.fix_timestep(999)
    fixed.fix_timestep(999)
    found = fixed(latent, torch.tensor([0, 0]), context, modulation)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert (other - expected).abs().max() > 1e-3, "the timestep must matter here"
    replaced = [name for name, parameter in fixed.named_parameters() if id(parameter) not in biases]
    assert replaced
    assert all(name.endswith("conv1.bias") for name in replaced), "replaced, so that shared biases stay"
    assert not any("time" in name for name in fixed.state_dict())


@pytest.mark.parametrize("guidance", [1.0, 1.07])
def test_prompts_prepared_once_serve_every_tile(generator: OneStepGenerator, guidance: float) -> None:
    unet = generator.unet
    folded = FoldedNetwork(unet, unet.lora_weights()).fold(modulations(unet, 3, 1, seed=1))
    positive, negative = draw(1, 7, 10, seed=1), draw(1, 7, 10, seed=2)
    context = generator.guidance_context(positive, negative, guidance, folded)
    assert not isinstance(context, Tensor)
    projections: list[nn.Module] = []
    for name, module in folded.network.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.register_forward_hook(lambda module, *_: projections.append(module))
    for num_tiles in (1, 3):
        tiles = draw(num_tiles, 4, 6, 4, seed=num_tiles)
        found = generator.predict_in_context(tiles, context, guidance, folded)
        assert not projections, "nothing of the prompts is computed again"
        weights = fold(unet.lora_weights(), modulations(unet, 3, 1, seed=1))
        prompts = (prompt.expand(num_tiles, -1, -1) for prompt in (positive, negative))
        expected = generator.predict_guided(tiles, *prompts, guidance, weights)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert projections, "the twin computes them, and hooks see it as well"
        projections.clear()


# ---------------------------------------------------------------------------------------------- acceleration


class Doubled(nn.Module):
    """The smallest network there is to compile."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_every_choice_has_its_reason() -> None:
    for device, dtype, fast in (
        ("cpu", torch.float32, False),
        ("cpu", torch.bfloat16, True),
        ("mps", torch.float32, True),
    ):
        chosen = choose_acceleration(torch.device(device), dtype, fast=fast)
        assert [reason.split(":")[0] for reason in chosen.reasons] == ["channels last", "compiling", "CUDA graphs"]
        states = (chosen.channels_last, chosen.compiled, chosen.cuda_graphs)
        for reason, on in zip(chosen.reasons, states, strict=True):
            assert reason.split(": ")[1].startswith("on" if on else "off"), reason
    assert not chosen.compiled, "nothing is compiled for MPS"


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    chosen = choose_acceleration(torch.device("cpu"), torch.float32, fast=True)
    assert not chosen.compiled
    assert "C++ compiler" in chosen.reasons[1]


def test_a_compiler_that_fails_is_one_remark_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nthe details")

    monkeypatch.setattr(torch, "compile", lambda forward, **_: fail)
    network, remarks = Doubled(), list[str]()
    compile_network(network, torch.device("cpu"), remarks.append)
    for _ in range(2):
        assert torch.equal(network(torch.ones(3)), torch.full((3,), 2.0))
    assert remarks == ["compiling failed (no compiler); running without it"]


def test_features_in_tiles_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda x: 3 * x)
    network = Doubled()
    compile_network(network, torch.device("cpu"), lambda _: None)
    assert float(network(torch.ones(()))) == 3
    assert network(2) == 4, "what is no tensor takes the plain way"


@pytest.mark.skipif(compiler_obstacle(torch.device("cpu")) is not None, reason="needs a C++ compiler")
def test_a_compiled_network_is_the_network_and_sees_new_weights() -> None:
    network, remarks = nn.Linear(3, 2).requires_grad_(False), list[str]()
    x = torch.randn(4, 3)
    first = network(x)
    compile_network(network, torch.device("cpu"), remarks.append)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), first)
        network.weight.mul_(2)  # as the next picture's fold does
        torch.testing.assert_close(network(x), x @ network.weight.T + network.bias)
    assert not remarks
