"""The pipeline of diffusers: results are the Restorer's, and its own classes load what is saved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from s3diff import RestoreOptions, Restorer
from s3diff.errors import MissingExtraError, ModelError, OptionError, OutputError, PictureError
from s3diff.images.resampling import enlarge, to_network_range

pytest.importorskip("diffusers", reason="the extra diffusers is not installed")

from s3diff.integrations.diffusers import S3DiffPipeline

DEGREES = (0.25, 0.75)


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> S3DiffPipeline:
    return S3DiffPipeline(Restorer.from_pretrained(tiny, device="cpu", precision="float32"))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_results_are_the_restorers(pipe: S3DiffPipeline, photo: np.ndarray) -> None:
    restorer = pipe.restorer
    one = pipe(Image.fromarray(photo)).images
    assert np.array_equal(np.asarray(one[0]), restorer.restore(photo).array)
    asked = pipe(photo, "a red flower", "blur", 1.5, torch.Generator().manual_seed(7), options=RestoreOptions(scale=2))
    expected = restorer.restore(
        photo, positive_prompt="a red flower", negative_prompt="blur", guidance=1.5, latent="sample", seed=7, scale=2
    )
    assert np.array_equal(np.asarray(asked.images[0]), expected.array)
    several = pipe([photo, photo[::-1].copy()], output_type="np").images
    assert (several.shape, several.dtype) == ((2, 24, 36, 3), np.float32)
    assert np.array_equal(np.rint(several[0] * 255).astype(np.uint8), np.asarray(one[0]))

    tensor = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    made = restorer.restore_tensor(tensor)
    assert torch.equal(pipe(tensor, output_type="pt").images, made.images)
    assert torch.equal(pipe(tensor, output_type="latent").images, made.latent)
    assert np.array_equal(np.asarray(pipe(tensor).images[0]), np.asarray(one[0]))
    assert pipe.to("cpu") is pipe
    assert (str(pipe.device), pipe.dtype) == ("cpu", torch.float32)


def test_only_what_the_call_gives_replaces_an_option(pipe: S3DiffPipeline, photo: np.ndarray) -> None:
    """An argument that is left out changes no option, whichever it is."""
    options = RestoreOptions(
        guidance=3.0, positive_prompt="a red flower", negative_prompt="blur", latent="sample", seed=5
    )
    expected = pipe.restorer.restore(photo, options).array
    assert np.array_equal(np.asarray(pipe(photo, options=options).images[0]), expected)
    assert not np.array_equal(expected, pipe.restorer.restore(photo).array)
    other = np.asarray(pipe(photo, guidance_scale=1.5, options=options).images[0])
    assert np.array_equal(other, pipe.restorer.restore(photo, options, guidance=1.5).array)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_tensor_of_either_layout_and_type_gives_one_result(
    pipe: S3DiffPipeline, photo: np.ndarray, dtype: torch.dtype
) -> None:
    whole = torch.from_numpy(photo)[None]
    channels_last = whole if dtype == torch.uint8 else whole / 255
    expected = pipe.restorer.restore_tensor(whole.permute(0, 3, 1, 2) / 255).images
    for given in (channels_last, channels_last.permute(0, 3, 1, 2)):
        assert torch.equal(pipe(given, output_type="pt").images, expected)
        assert np.array_equal(pipe(given, output_type="np").images, expected.permute(0, 2, 3, 1).numpy())
        assert np.array_equal(np.asarray(pipe(given).images[0]), np.asarray(pipe(photo).images[0]))


def test_latents_pass_a_callback(pipe: S3DiffPipeline, photo: np.ndarray) -> None:
    seen: list[Tensor] = []

    def halve(pipeline: S3DiffPipeline, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        assert (pipeline, step, timestep) == (pipe, 0, 999)
        seen.append(tensors["latents"].clone())
        return {"latents": tensors["latents"] / 2}

    tensor = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    changed = pipe(tensor, output_type="latent", callback_on_step_end=halve).images
    assert torch.equal(changed, seen[0] / 2)
    plain = pipe(photo, callback_on_step_end=lambda *_: None).images[0]
    assert np.array_equal(np.asarray(plain), np.asarray(pipe(photo).images[0]))


def test_diffusers_own_classes_load_what_is_saved(pipe: S3DiffPipeline, photo: np.ndarray, tmp_path: Path) -> None:
    """Their networks, folded for fixed degrees, make the picture that the restorer makes for these."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    folder = tmp_path / "saved"
    pipe.save_pretrained(folder, degrees=DEGREES)
    again = S3DiffPipeline.from_pretrained(folder, torch_dtype=torch.float32, device="cpu")
    assert np.array_equal(np.asarray(again(photo).images[0]), np.asarray(pipe(photo).images[0]))

    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    stages: dict[str, Tensor] = {}
    tensor = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(1))
    pipe.restorer.restore_tensor(
        tensor, degrees=torch.tensor(DEGREES), on_stage=lambda name, value: stages.update({name: value.clone()})
    )
    prompts = pipe.restorer.model.prompts
    with torch.no_grad():
        image = to_network_range(enlarge(tensor, 64, 128))
        latent = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
        context = torch.stack([prompts.positive, prompts.negative])
        positive, negative = unet(latent.expand(2, -1, -1, -1), 999, context).sample.split(1)
        prediction = negative + 1.07 * (positive - negative)
        clean = scheduler.step(prediction, 999, latent).pred_original_sample
        decoded = vae.decode(clean / vae.config.scaling_factor).sample.clamp(-1, 1)
    for name, value in (("latent", latent), ("prediction", prediction), ("decoded", decoded)):
        assert (stages[name] - value).abs().max() < 1e-3 * stages[name].abs().max(), name


def test_what_is_refused_in_one_line(
    pipe: S3DiffPipeline, restorer: Restorer, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: pipe(photo, output_type="jpg"), OptionError, "output_type is 'jpg'"),  # type: ignore[arg-type]
        (lambda: pipe(photo, output_type="latent"), OptionError, "is for tensors"),
        (lambda: pipe([photo, photo[:3]], output_type="np"), OptionError, "several sizes"),
        (lambda: pipe(photo, guidance_scale=float("nan")), OptionError, "guidance is nan"),
        (lambda: pipe([]), OptionError, "empty list"),
        (lambda: pipe([], output_type="np"), OptionError, "empty list"),
        (lambda: pipe(photo, generator=[torch.Generator()]), OptionError, "generator is a list"),  # type: ignore[arg-type]
        (lambda: pipe(photo, callback_on_step_end=lambda *_: [1]), OptionError, "returned a list"),  # type: ignore[arg-type,return-value]
        (lambda: pipe(torch.rand(1, 8, 8, 4)), PictureError, "has shape"),
        (lambda: pipe.save_pretrained(tmp_path / "a", degrees="a"), OptionError, "degrees are 'a'"),  # type: ignore[arg-type]
        (lambda: pipe.save_pretrained(tmp_path / "a", degrees=(0.5,)), OptionError, "degrees are"),  # type: ignore[arg-type]
        (lambda: pipe.save_pretrained(tmp_path), OutputError, "exists"),
        (lambda: pipe.save_pretrained(tmp_path / "a", degrees=(0, 2)), OptionError, "degrees are"),
        (lambda: S3DiffPipeline(restorer).save_pretrained(tmp_path / "b"), ModelError, "no group norm"),
        (lambda: S3DiffPipeline.from_pretrained(torch_dtype=torch.int8), OptionError, "torch_dtype is"),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind, match=words) as error:
            call()
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r'pip install .* "\.\[diffusers\]"'):
        S3DiffPipeline(restorer)
