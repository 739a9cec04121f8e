"""TAESD's decoder: numbers of the reference implementation, tiles that do not show, other models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from command_runs import Command
from s3diff import Restorer
from s3diff.checkpoints.assembly import load_tiny_decoder
from s3diff.errors import OptionError
from s3diff.networks.tiny_decoder import RECEPTIVE_LATENTS, TinyDecoder
from s3diff.options import RestoreOptions
from s3diff.restoration.tile_plan import plan_tiles
from s3diff.restoration.tiled_stages import TiledStages


@pytest.fixture(scope="module")
def decoder() -> TinyDecoder:
    return load_tiny_decoder()


@pytest.fixture(scope="module")
def sd(tiny: Path) -> Restorer:
    """The goldens' tiny SD-Turbo."""
    return Restorer.from_pretrained(tiny, device="cpu")


def latents(height: int = 9, width: int = 13) -> Tensor:
    return 2 * torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(0))


def test_numbers_are_those_of_diffusers(decoder: TinyDecoder) -> None:
    diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
    reference = diffusers.AutoencoderTiny()
    reference.decoder.load_state_dict(decoder.state_dict())
    with torch.inference_mode():
        expected = reference.decode(latents()).sample
        made = decoder(latents())
    assert made.shape == (2, 3, 72, 104)
    assert (made - expected).abs().max() < 1e-5
    assert expected.std() > 0.1


def test_a_pixel_depends_on_the_latents_around_it() -> None:
    """Positive weights cancel nothing, so that every pixel that a latent reaches shows."""
    layers = TinyDecoder().layers
    for name, parameter in layers.named_parameters():
        torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 5e-3)
    side, middle = 2 * RECEPTIVE_LATENTS + 3, RECEPTIVE_LATENTS + 1
    latent = torch.zeros(1, 4, side, 1)
    latent[:, :, middle] = 1
    with torch.inference_mode():
        rows = layers(latent)[0].amax(dim=(0, 2)).nonzero()[:, 0] // 8
    assert max(middle - int(rows.min()), int(rows.max()) - middle) == RECEPTIVE_LATENTS


def test_a_result_is_what_it_makes_of_the_clean_latent(sd: Restorer, decoder: TinyDecoder) -> None:
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    made = sd.restore_tensor(images, decoder="tiny", color_match="none")
    with torch.inference_mode():
        expected = (decoder(made.latent)[..., :32, :32] / 2 + 0.5).clamp(0, 1)
    assert (made.images - expected).abs().max() < 1e-5
    assert not torch.equal(made.images, sd.restore_tensor(images, color_match="none").images)
    given = images.clone().requires_grad_()
    sd.restore_tensor(given, decoder="tiny", differentiable=True).images.sum().backward()
    assert given.grad is not None
    assert given.grad.abs().max() > 0


def test_tiles_do_not_show(sd: Restorer, decoder: TinyDecoder) -> None:
    model = sd.model.generator
    latent, side = torch.randn(1, 4, 3, 120, generator=torch.Generator().manual_seed(2)), 8
    image = torch.zeros(1, 3, 3 * side, 120 * side)
    parts: list[tuple[int, int]] = []
    options = RestoreOptions(tile=256)
    plan = plan_tiles(model.config, *image.shape[2:], options, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        tiled = TiledStages(model, plan, lambda done, total: parts.append((done, total)), decoder).decode(latent, image)
        whole = decoder(latent).clamp(-1, 1)
    assert parts[-1][0] == parts[-1][1] == len(parts) > 1
    assert (tiled - whole).abs().max() < 1e-4


def test_a_model_with_latents_of_its_own_says_so(restorer: Restorer, command: Command, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"decoder is 'tiny'.*Stable Diffusion"):
        restorer.restore_tensor(torch.zeros(1, 3, 8, 8), decoder="tiny")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    outcome = command("restore", tmp_path / "a.png", "-o", tmp_path / "o.png", "--decoder", "tiny")
    assert "decoder is 'tiny'" in outcome.error
    assert not (tmp_path / "o.png").exists()
