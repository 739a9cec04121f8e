"""The discriminator: its augmentation, its frozen backbones, its heads, its losses."""

from __future__ import annotations

import copy
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.checkpoints.weights_file import write_safetensors
from s3diff.errors import MissingExtraError, ModelError, OptionError, PictureError
from s3diff.evaluation.perceptual import LPIPS
from s3diff.evaluation.perceptual_weights import perceptual_folder
from s3diff.training.adversarial import backbones
from s3diff.training.adversarial.augmentation import AugmentationDraw, augment, draw_augmentation, neutral_draw
from s3diff.training.adversarial.backbones import (
    DinoBackbone,
    RandomBackbone,
    Vgg16Backbone,
    VisionTransformer,
    VisionTransformerConfig,
    load_dino_weights,
)
from s3diff.training.adversarial.discriminator import (
    RELEASED_REAL_LABEL,
    Discriminator,
    DiscriminatorConfig,
    adversarial_loss,
    frozen,
)
from test_hub import HubServer
from test_hub import server as hub_server  # noqa: F401  (a fixture)

TINY = VisionTransformerConfig(image_px=64, patch_px=8, channels=32, num_blocks=4, num_heads=4, mlp_channels=48)
RANDOM = DiscriminatorConfig(backbone="random", hidden_channels=16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discriminator_loss(real: list[Tensor], fake: list[Tensor], real_label: float = RELEASED_REAL_LABEL) -> Tensor:
    """The sum of both phases of the discriminator."""
    return adversarial_loss(real, real_label) + adversarial_loss(fake, 0.0)


def images(batch_size: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(batch_size, 3, height, width, generator=seeded(seed)) * 2 - 1


def tiny_weights(config: VisionTransformerConfig = TINY) -> dict[str, Tensor]:
    with torch.device("meta"):
        wanted = VisionTransformer(config).state_dict()
    generator = seeded(1)
    return {
        name: torch.randn(value.shape, generator=generator) * 0.2 + (0.8 if "norm" in name else 0.0)
        for name, value in wanted.items()
    }


def tiny_transformer() -> VisionTransformer:
    network = VisionTransformer(TINY)
    network.load_state_dict(tiny_weights())
    return network.eval()


def tiny_dino() -> DinoBackbone:
    return DinoBackbone(tiny_weights(), TINY, blocks=(1, 2, 4))


def random_discriminator(seed: int = 0) -> Discriminator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Discriminator(RANDOM)


def is_bitwise_equal(first: Any, second: Any) -> bool:
    """Of two series of tensors, or two mappings in any order."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        first, second = first.values(), [second[name] for name in first]
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


# --- augmentation -----------------------------------------------------------------------------------------------------


def augment_one(image: Tensor, draw: AugmentationDraw) -> Tensor:
    """The readable twin: one image [3, H, W] and a draw of one row, step by step as in the paper's text."""
    image = image + draw.brightness.item()
    grey = image.mean(dim=0)
    image = (image - grey) * draw.saturation.item() + grey
    mean = image.mean()
    image = (image - mean) * draw.contrast.item() + mean
    down, right = draw.shift_px[0].tolist()
    height, width = image.shape[1:]
    moved = torch.zeros_like(image)
    for row in range(max(down, 0), min(height + down, height)):
        for column in range(max(right, 0), min(width + right, width)):
            moved[:, row, column] = image[:, row - down, column - right]
    image = moved
    top, bottom, left, right = draw.cutout_px[0].tolist()
    image[:, max(top, 0) : bottom, max(left, 0) : right] = 0
    return image


@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 40)])
def test_augmentation_equals_its_readable_twin_in_values_and_gradients(height: int, width: int) -> None:
    given = images(6, height, width).requires_grad_()
    draw = draw_augmentation(6, height, width, seeded(5))
    batched = augment(given, draw)
    one_by_one = torch.stack([augment_one(image, draw.rows(i, i + 1)) for i, image in enumerate(given)])
    torch.testing.assert_close(batched, one_by_one, rtol=0, atol=1e-6)
    weights = torch.randn(batched.shape, generator=seeded(6))
    gradients = [torch.autograd.grad((result * weights).sum(), given)[0] for result in (batched, one_by_one)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


def test_neutral_augmentation_changes_no_bit_and_no_gradient() -> None:
    given = images().requires_grad_()
    assert torch.equal(augment(given, neutral_draw(3)), given)
    assert torch.equal(augment(given, draw_augmentation(3, 32, 32, seeded(), names=())), given)
    (gradient,) = torch.autograd.grad(augment(given, neutral_draw(3)).sum(), given)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))


def test_augmentation_draws_lie_in_the_papers_ranges_and_reach_them() -> None:
    draw = draw_augmentation(4000, 64, 40, seeded())
    for values, low, high in ((draw.brightness, -0.5, 0.5), (draw.saturation, 0, 2), (draw.contrast, 0.5, 1.5)):
        span = high - low
        assert low <= values.min() < low + 0.01 * span
        assert high - 0.01 * span < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * span)
    assert draw.shift_px.amin(0).tolist() == [-8, -5]
    assert draw.shift_px.amax(0).tolist() == [8, 5]
    top, bottom, left, right = draw.cutout_px.T
    assert set((bottom - top).tolist()) == {32}
    assert set((right - left).tolist()) == {20}
    # Centres from edge to edge: between half of the box and all of it lies inside.
    assert (top.min().item(), bottom.max().item()) == (-16, 64 + 16)
    assert (left.min().item(), right.max().item()) == (-10, 40 + 10)


def test_rows_of_a_draw_augment_like_the_whole() -> None:
    given, draw = images(5), draw_augmentation(5, 32, 32, seeded(2))
    assert len(draw) == 5
    assert len(draw.rows(1, 4)) == 3
    parts = [augment(given[a:b], draw.rows(a, b)) for a, b in ((0, 2), (2, 5))]
    assert torch.equal(torch.cat(parts), augment(given, draw))


def test_names_choose_what_is_drawn() -> None:
    neutral = neutral_draw(4)
    changed = {
        name: {
            field.name
            for field in fields(AugmentationDraw)
            if not torch.equal(
                getattr(draw_augmentation(4, 32, 32, seeded(), names=(name,)), field.name), getattr(neutral, field.name)
            )
        }
        for name in ("color", "translation", "cutout")
    }
    assert changed == {
        "color": {"brightness", "saturation", "contrast"},
        "translation": {"shift_px"},
        "cutout": {"cutout_px"},
    }


def test_refused_augmentations() -> None:
    with pytest.raises(OptionError, match="augmentation 'colour' does not exist; give some of color"):
        draw_augmentation(1, 8, 8, seeded(), names=("colour",))
    with pytest.raises(OptionError, match="drawn for 2 images, the batch has 3"):
        augment(images(), neutral_draw(2))


# --- the vision transformer -------------------------------------------------------------------------------------------


def reference_transformer(weights: dict[str, Tensor]) -> Any:
    """transformers' ViT of the same shape with the same weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=TINY.channels,
        num_hidden_layers=TINY.num_blocks,
        num_attention_heads=TINY.num_heads,
        intermediate_size=TINY.mlp_channels,
        image_size=TINY.image_px,
        patch_size=TINY.patch_px,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        qkv_bias=True,
        attn_implementation="eager",
    )
    reference = transformers.ViTModel(config, add_pooling_layer=False)
    # Its parameters come in the same order as ours, whatever their names are in this version of the library; only
    # query, key and value are three where we have one.
    ours = {
        "cls_token": "cls_token",
        "pos_embed": "position_embeddings",
        "patch_embed.proj.weight": "projection.weight",
        "patch_embed.proj.bias": "projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    theirs = dict(reference.named_parameters())
    filled = set()

    def fill(name: str, value: Tensor) -> None:
        assert theirs[name].shape == value.shape, name
        theirs[name].data.copy_(value)
        filled.add(name)

    for name, value in weights.items():
        if name in ours:
            (found,) = (other for other in theirs if other.endswith(ours[name]) and ".layer." not in f".{other}")
            fill(found, value)
            continue
        _, number, part = name.split(".", 2)
        block = [other for other in theirs if f".layer.{number}." in f".{other}" or f".layers.{number}." in f".{other}"]
        assert block, f"no block {number} in {list(theirs)[:20]}"
        kind = part.rsplit(".", 1)[1]
        targets = {
            "norm1": ["layernorm_before"],
            "norm2": ["layernorm_after"],
            "attn.qkv": ["query q_proj", "key k_proj", "value v_proj"],
            "attn.proj": ["attention.output.dense o_proj"],
            "mlp.fc1": ["intermediate.dense fc1"],
            "mlp.fc2": [f"{number}.output.dense fc2"],
        }[part.rsplit(".", 1)[0]]
        for target, piece in zip(targets, value.chunk(len(targets)), strict=True):
            endings = tuple(f"{ending}.{kind}" for ending in target.split())
            (found,) = (other for other in block if other.endswith(endings))
            fill(found, piece)
    assert filled == set(theirs)
    return reference.eval()


def test_transformer_equals_transformers_library() -> None:
    given = torch.randn(2, 3, TINY.image_px, TINY.image_px, generator=seeded(3))
    reference = reference_transformer(tiny_weights())
    with torch.no_grad():
        states = reference(given, output_hidden_states=True).hidden_states
        ours = tiny_transformer()(given, (1, 2, 4))
        for number, tokens in zip((1, 2, 4), ours, strict=True):
            # Newer versions of the library may put the last state through the norm themselves.
            expected = reference.layernorm(states[number])
            if number == TINY.num_blocks:
                expected = reference(given).last_hidden_state
            error = ((tokens - expected).norm() / expected.norm()).item()
            assert error < 1e-5, (number, error)
    norms = [module for module in tiny_transformer().modules() if isinstance(module, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}


def test_fused_attention_equals_its_readable_twin() -> None:
    attention: Any = tiny_transformer().blocks[0].attn
    tokens = torch.randn(2, 7, TINY.channels, generator=seeded(4)).requires_grad_()

    def readable() -> Tensor:
        width = TINY.channels // TINY.num_heads
        query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
        heads = []
        for i in range(TINY.num_heads):
            part = slice(i * width, (i + 1) * width)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(width)
            heads.append(scores.softmax(dim=-1) @ value[..., part])
        return attention.proj(torch.cat(heads, dim=-1))

    results = attention(tokens), readable()
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(result.square().sum(), tokens)[0] for result in results]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_blocks_after_the_last_one_taken_are_not_computed() -> None:
    given = torch.randn(1, 3, TINY.image_px, TINY.image_px, generator=seeded(3))
    network = tiny_transformer()
    (second,) = network(given, (2,))
    network.blocks[2:].requires_grad_(False).apply(lambda module: [p.data.fill_(math.nan) for p in module.parameters()])
    assert torch.equal(network(given, (2,))[0], second)


# --- backbones --------------------------------------------------------------------------------------------------------


def test_dino_backbone_resizes_normalises_and_splits_the_tokens() -> None:
    backbone = tiny_dino()
    given = images(2, 128, 128)
    maps, vector = backbone(given)
    halved = given.unflatten(2, (64, 2)).unflatten(4, (64, 2)).mean(dim=(3, 5)) * 0.5 + 0.5
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (halved - mean[:, None, None]) / std[:, None, None]
    first, second, last = tiny_transformer()(normalised, (1, 2, 4))
    for features, tokens in zip(maps, (first, second), strict=True):
        assert features.shape == (2, 32, 8, 8)
        for row, column in ((0, 0), (0, 1), (3, 5)):
            torch.testing.assert_close(features[:, :, row, column], tokens[:, 1 + row * 8 + column])
    torch.testing.assert_close(vector, last[:, 0])


def test_shapes_of_the_full_size_network_are_vit_b_16() -> None:
    with torch.device("meta"):
        network = VisionTransformer(VisionTransformerConfig())
    assert sum(parameter.numel() for parameter in network.parameters()) == 85_798_656
    assert len(network.state_dict()) == 150
    assert network.pos_embed.shape == (1, 197, 768)


@pytest.fixture
def small_as_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without weights whose ViT-B/16 is tiny and whose hub is a closed port; its perceptual folder."""
    monkeypatch.setattr(backbones, "VisionTransformerConfig", lambda: TINY)
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path / "s3diff"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("S3DIFF_DINO_REVISION", raising=False)
    constants: Any = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return perceptual_folder()


def test_dino_weights_come_from_a_file_or_from_the_folder(small_as_full: Path, tmp_path: Path) -> None:
    weights = tiny_weights()
    write_safetensors(weights, tmp_path / "copy.safetensors")
    assert is_bitwise_equal(load_dino_weights(tmp_path / "copy.safetensors"), weights)
    small_as_full.mkdir(parents=True)
    halves = {name: value.half() for name, value in weights.items()}
    write_safetensors(halves, small_as_full / backbones.DINO_FILE_NAME)
    loaded = load_dino_weights()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert is_bitwise_equal(loaded, {name: value.float() for name, value in halves.items()})
    with pytest.raises(ModelError, match="does not fit"):
        DinoBackbone(loaded, VisionTransformerConfig(channels=24))
    config = DiscriminatorConfig(backbone_weights=str(tmp_path / "copy.safetensors"), hidden_channels=8)
    network: Any = Discriminator(config).backbone.network
    assert is_bitwise_equal(network.state_dict(), weights)


def test_dino_weights_that_the_hubs_cache_holds(small_as_full: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--timm--vit_base_patch16_224.dino"
    snapshot = folder / "snapshots" / backbones.DINO_REPOSITORY.revision
    snapshot.mkdir(parents=True)
    write_safetensors(tiny_weights(), snapshot / "model.safetensors")
    assert is_bitwise_equal(load_dino_weights(), tiny_weights())


def test_dino_weights_are_fetched_from_the_hub_once(
    small_as_full: Path,
    tmp_path: Path,
    hub_server: HubServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository = backbones.DINO_REPOSITORY
    write_safetensors(tiny_weights(), tmp_path / "served.safetensors")
    content = (tmp_path / "served.safetensors").read_bytes()
    hub_server.files[repository.name] = {"README.md": b"read me", "model.safetensors": content}
    hub_server.commits[repository.name] = repository.revision
    monkeypatch.setenv("HF_ENDPOINT", hub_server.address)

    hub_server.sent_instead["model.safetensors"] = content[:-1] + b"?"
    with pytest.raises(MissingExtraError, match=r"arrived damaged .* fetch it anew"):
        load_dino_weights()
    hub_server.sent_instead.clear()
    hub_server.statuses["/api/"] = 404
    with pytest.raises(MissingExtraError, match="status 404: not there; S3DIFF_DINO_REVISION names other commits"):
        load_dino_weights()
    hub_server.statuses.clear()

    reported: list[tuple[int, int]] = []
    assert is_bitwise_equal(
        load_dino_weights(progress=lambda done, total: reported.append((done, total))), tiny_weights()
    )
    assert reported[-1] == (len(content), len(content))
    assert not any(request.path.endswith("README.md") for request in hub_server.requests)
    hub_server.requests.clear()
    assert is_bitwise_equal(load_dino_weights(), tiny_weights())
    assert not hub_server.requests

    hub_server.files[repository.name].pop("model.safetensors")
    monkeypatch.setenv("S3DIFF_DINO_REVISION", "main")
    with pytest.raises(MissingExtraError, match=r"holds no model.safetensors at revision main"):
        load_dino_weights()
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(MissingExtraError, match=r"'hub.example' .* must start with http"):
        load_dino_weights()


def test_dino_weights_without_a_hub_are_one_line_that_says_how(small_as_full: Path) -> None:
    with pytest.raises(MissingExtraError) as error:
        load_dino_weights()
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "timm/vit_base_patch16_224.dino",
        "model.safetensors",
        str(small_as_full / "dino_vit_b16.safetensors"),
        "adversarial.discriminator.backbone=vgg16",
        "adversarial.discriminator.backbone_weights=FILE",
        "http://127.0.0.1:9 cannot be reached",
    ):
        assert part in message, message


def test_dino_weights_that_do_not_fit_are_named(small_as_full: Path, tmp_path: Path) -> None:
    weights = tiny_weights()
    del weights["blocks.2.attn.qkv.bias"]
    weights["head.weight"] = torch.zeros(2, 2)
    weights["blocks.0.mlp.fc1.weight"] = torch.zeros(3, 5)
    write_safetensors(weights, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError) as error:
        load_dino_weights(tmp_path / "odd.safetensors")
    for part in ("blocks.2.attn.qkv.bias", "head.weight", "blocks.0.mlp.fc1.weight ([3, 5] instead of [48, 32])"):
        assert part in str(error.value)
    with pytest.raises(ModelError, match="nowhere does not exist"):
        load_dino_weights(Path("nowhere"))


@pytest.fixture
def vgg16() -> Vgg16Backbone:
    try:
        return Vgg16Backbone()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 49)])
def test_vgg16_judges_images_of_any_size(vgg16: Vgg16Backbone, height: int, width: int) -> None:
    discriminator = Discriminator(DiscriminatorConfig(backbone="vgg16", hidden_channels=8), backbone=vgg16)
    given = images(2, height, width).requires_grad_()
    maps, vector = vgg16(given)
    assert [tuple(features.shape) for features in maps] == [
        (2, 256, height // 4, width // 4),
        (2, 512, height // 8, width // 8),
    ]
    assert vector.shape == (2, 512)
    torch.testing.assert_close(maps[0].square().mean(dim=1), torch.ones(2, height // 4, width // 4))
    logits = discriminator(given)
    assert [tuple(level.shape) for level in logits] == [
        (2, 1, height // 16, width // 16),
        (2, 1, height // 32, width // 32),
        (2, 1),
    ]
    (gradient,) = torch.autograd.grad(adversarial_loss(logits, RELEASED_REAL_LABEL), given)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_vgg16_has_the_weights_of_lpips(vgg16: Vgg16Backbone) -> None:
    assert is_bitwise_equal(vgg16.network.state_dict(), LPIPS("vgg").state_dict())


def test_building_a_backbone_draws_nothing_from_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    RandomBackbone()
    tiny_dino()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert is_bitwise_equal(RandomBackbone().parameters(), RandomBackbone().parameters())


# --- the discriminator ------------------------------------------------------------------------------------------------


def test_heads_follow_the_released_layout() -> None:
    """Shapes of the heads at full width, on features instead of an 86 million parameter network."""

    class Given(RandomBackbone):
        def __init__(self) -> None:
            super().__init__()
            self.map_channels, self.vector_channels = (768, 768), 768

        def forward(self, images: Tensor) -> backbones.Features:
            patches = images.new_ones(len(images), 768, 14, 14)
            return backbones.Features([patches, patches], images.new_ones(len(images), 768))

    discriminator = Discriminator(DiscriminatorConfig(), backbone=Given())
    assert [tuple(level.shape) for level in discriminator(images(2))] == [(2, 1, 3, 3), (2, 1, 3, 3), (2, 1)]
    trained = {name: tuple(value.shape) for name, value in discriminator.named_parameters()}
    assert sorted(trained.values()) == sorted(
        [(128, 768, 3, 3), (128,), (1, 128, 1, 1), (1,)] * 2 + [(128, 768), (128,), (1, 128), (1,)]
    )


def test_blur_is_the_binomial_filter() -> None:
    blur = random_discriminator().heads[0][0]
    impulse = torch.zeros(1, 2, 5, 5)
    impulse[0, 0, 2, 2] = 64
    blurred = blur(impulse)
    row = torch.tensor([1.0, 3, 3, 1])
    assert torch.equal(blurred[0, 0, 1:5, 1:5], torch.outer(row, row))
    assert blurred.shape == (1, 2, 6, 6)
    assert blurred[0, 0].sum() == 64
    assert not blurred[0, 1].any()


def test_map_heads_equal_a_computation_by_hand() -> None:
    """Blur, convolution, LeakyReLU, blur, convolution, each weight divided by its largest singular value."""
    discriminator = random_discriminator().eval()
    given = images()
    first = discriminator(given)[0]
    hidden = discriminator.backbone(given).maps[0]
    row = torch.tensor([1.0, 3, 3, 1]) / 8
    for layer, padding in ((1, 2), (4, 1)):
        padded = F.pad(hidden, (padding,) * 4)
        windows = padded.unfold(2, 4, 1).unfold(3, 4, 1)
        hidden = torch.einsum("bcyxij,i,j->bcyx", windows, row, row)
        convolution = discriminator.heads[0][layer]
        raw = convolution.parametrizations.weight.original
        largest = torch.linalg.matrix_norm(raw.flatten(1), ord=2)
        hidden = F.conv2d(hidden, raw / largest, convolution.bias, stride=2)
        if layer == 1:
            hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    # The 15 power iterations at the start come close to the largest singular value.
    torch.testing.assert_close(first, hidden, rtol=0.02, atol=0.005)


def test_backbone_is_frozen_and_in_no_state() -> None:
    discriminator = Discriminator(DiscriminatorConfig(hidden_channels=8), backbone=tiny_dino())
    assert all(name.startswith("heads.") for name in discriminator.state_dict())
    assert all(name.startswith("heads.") for name, _ in discriminator.named_parameters())
    before = copy.deepcopy(list(discriminator.backbone.parameters()))
    assert before
    discriminator.train()
    discriminator_loss(discriminator(images(seed=1)), discriminator(images(seed=2))).backward()
    torch.optim.SGD(discriminator.parameters(), lr=1.0).step()
    for parameter in discriminator.backbone.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    assert not any(module.training for module in discriminator.backbone.modules())
    assert is_bitwise_equal(before, discriminator.backbone.parameters())
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_moving_the_discriminator_moves_the_backbone() -> None:
    discriminator = Discriminator(RANDOM).to(torch.float64)
    assert {value.dtype for value in discriminator.backbone.parameters()} == {torch.float64}
    wrapped = nn.ModuleList([Discriminator(RANDOM)]).to("meta")
    assert {value.device.type for value in wrapped[0].backbone.parameters()} == {"meta"}


def test_saved_state_goes_on_bit_by_bit() -> None:
    """Spectral norm carries state from pass to pass; without it the resumed logits differ."""
    first, second = random_discriminator(0), random_discriminator(1)
    first(images())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for seed in range(3):
        assert is_bitwise_equal(first(images(seed=seed)), second(images(seed=seed)))
    assert is_bitwise_equal(first.state_dict(), second.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        second.load_state_dict({})


def test_spectral_norm_depends_on_weights_and_number_of_passes_only() -> None:
    """So the buffers of processes that see different images stay equal."""
    first, second = random_discriminator(), random_discriminator()
    for seed in range(3):
        first(images(2, seed=seed), draw_augmentation(2, 32, 32, seeded(seed)))
        second(images(5, 48, 40, seed=seed + 9))
    assert is_bitwise_equal(first.state_dict(), second.state_dict())
    for head in first.heads:
        for layer in head:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item()
                assert largest == pytest.approx(1, abs=0.05)


def test_losses_equal_a_computation_by_hand() -> None:
    def cross_entropy(logit: float, label: float) -> float:
        probability = 1 / (1 + math.exp(-logit))
        return -(label * math.log(probability) + (1 - label) * math.log(1 - probability))

    real = [torch.tensor([[[[1.0, -2.0]]], [[[0.5, 3.0]]]]), torch.tensor([[0.25], [-1.5]])]
    fake = [torch.tensor([[[[-1.0, 0.0]]], [[[2.5, 1.0]]]]), torch.tensor([[-0.75], [4.0]])]

    def by_hand(logits: list[Tensor], label: float) -> float:
        levels = [[cross_entropy(logit, label) for logit in level.flatten().tolist()] for level in logits]
        return sum(sum(level) / len(level) for level in levels)

    assert discriminator_loss(real, fake, 0.8).item() == pytest.approx(by_hand(real, 0.8) + by_hand(fake, 0), rel=1e-6)
    assert discriminator_loss(real, fake, 1.0).item() == pytest.approx(by_hand(real, 1) + by_hand(fake, 0), rel=1e-6)
    assert discriminator_loss(real, fake).item() == discriminator_loss(real, fake, 0.8).item()
    assert adversarial_loss(fake, 0.8).item() == pytest.approx(by_hand(fake, 0.8), rel=1e-6)
    assert adversarial_loss(fake, 1.0).item() == pytest.approx(by_hand(fake, 1), rel=1e-6)
    assert adversarial_loss(fake, 0.0).item() == pytest.approx(by_hand(fake, 0), rel=1e-6)
    # The mean over a batch is the mean of the means of its halves: two processes equal one.
    halves = [adversarial_loss([level[i : i + 1] for level in real], 0.8).item() for i in (0, 1)]
    assert sum(halves) / 2 == pytest.approx(by_hand(real, 0.8), rel=1e-6)


def test_generator_loss_is_least_at_the_smoothed_label() -> None:
    logit = torch.tensor([[math.log(0.8 / 0.2)]], requires_grad=True)
    (gradient,) = torch.autograd.grad(adversarial_loss([logit], RELEASED_REAL_LABEL), logit)
    assert gradient.abs().item() < 1e-6


def test_discriminator_learns_to_tell_reddish_from_bluish_noise() -> None:
    discriminator = random_discriminator()
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=0.01)
    tint = torch.tensor([0.6, 0.0, -0.6])[:, None, None]

    def batches(seed: int) -> tuple[Tensor, Tensor]:
        return images(4, seed=seed) * 0.4 + tint, images(4, seed=seed + 1000) * 0.4 - tint

    losses = []
    for step in range(40):
        draws = [draw_augmentation(4, 32, 32, seeded(2 * step + i)) for i in range(2)]
        real, fake = (discriminator(batch, draw) for batch, draw in zip(batches(step), draws, strict=True))
        loss = discriminator_loss(real, fake)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 3.5  # one that knows nothing has three levels of two times log 2: 4.16
    assert sum(losses[-5:]) / 5 < 2.6  # one that knows everything has three times the entropy of 0.8: 1.50
    with torch.no_grad():
        real, fake = (discriminator(batch) for batch in batches(999))
    for real_level, fake_level in zip(real, fake, strict=True):
        assert real_level.min() > fake_level.max()


def test_gradient_flows_through_augmentation_to_the_images() -> None:
    given = images(4).requires_grad_()
    draw = draw_augmentation(4, 32, 32, seeded(3))
    (gradient,) = torch.autograd.grad(adversarial_loss(random_discriminator()(given, draw), RELEASED_REAL_LABEL), given)
    assert gradient.isfinite().all()
    assert all(part.abs().sum() > 0 for part in gradient)


def test_frozen_keeps_gradients_out_of_the_heads_and_ends() -> None:
    discriminator = random_discriminator()
    discriminator.heads[0][1].bias.requires_grad_(False)  # stays as it was, also afterwards
    given = images().requires_grad_()
    with frozen(discriminator):
        assert not any(parameter.requires_grad for parameter in discriminator.parameters())
        loss = adversarial_loss(discriminator(given), RELEASED_REAL_LABEL)
    loss.backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert [name for name, parameter in discriminator.named_parameters() if not parameter.requires_grad] == [
        "heads.0.1.bias"
    ]
    with pytest.raises(ZeroDivisionError), frozen(discriminator):
        raise ZeroDivisionError
    assert sum(parameter.requires_grad for parameter in discriminator.parameters()) == 11


@pytest.mark.parametrize("name", ["random", "dino"])
def test_bfloat16_autocast_is_finite_and_near_float32(name: str) -> None:
    backbone = RandomBackbone() if name == "random" else tiny_dino()
    discriminator = Discriminator(RANDOM, backbone=backbone).eval()
    given = images(2, 48, 48).requires_grad_()
    expected = discriminator(given)
    seen: list[torch.dtype] = []
    backbone.register_forward_hook(lambda _, inputs, result: seen.extend([inputs[0].dtype, result.maps[0].dtype]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = discriminator(given, neutral_draw(2))
    adversarial_loss(logits, RELEASED_REAL_LABEL).backward()
    assert seen[0] == torch.float32
    assert name != "random" or seen[1] == torch.bfloat16
    for level, exact in zip(logits, expected, strict=True):
        assert level.dtype == torch.float32
        torch.testing.assert_close(level, exact, rtol=0, atol=0.05 * exact.abs().max().item() + 0.01)
    assert given.grad is not None
    assert given.grad.isfinite().all()


def test_refused_images() -> None:
    discriminator = random_discriminator()
    for shape in ((3, 32, 32), (1, 1, 32, 32), (1, 3, 15, 32)):
        with pytest.raises(PictureError, match=r"at least 16 x 16 pixels for the backbone random"):
            discriminator(torch.zeros(shape))
    assert discriminator(torch.zeros(1, 3, 16, 17))[1].shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "clip"}, "backbone is 'clip'; give one of dino, vgg16, random, pixels, none"),
        ({"backbone": "vgg16", "backbone_weights": "x"}, "backbone_weights is for the backbone dino, not vgg16"),
        ({"hidden_channels": 0}, "hidden_channels is 0; give 1 or more"),
        ({"real_label": 0.2}, "real_label is 0.2; give a value above 0.5, at most 1"),
        ({"augmentation": ("blur",)}, "augmentation 'blur' does not exist"),
    ],
)
def test_refused_configurations(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DiscriminatorConfig(**values)


def test_a_run_without_adversarial_phase_builds_no_discriminator() -> None:
    with pytest.raises(OptionError, match="backbone is none"):
        Discriminator(DiscriminatorConfig(backbone="none"))
