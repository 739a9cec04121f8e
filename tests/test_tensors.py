"""Tensors in and out: numbers of ``restore``, layouts, gradients, stages, and what is refused; options as keywords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from s3diff import RestoredTensors, RestoreOptions, Restorer
from s3diff.errors import ModelError, OptionError, PictureError, S3DiffError
from s3diff.images.files.reading import read_picture
from s3diff.networks.one_step_generator import STAGE_RESULTS
from s3diff.restoration.result import Result

LEVEL = 1 / 255


def pictures(count: int = 2, height: int = 6, width: int = 9, seed: int = 0) -> Tensor:
    """[count, 3, height, width] float32 in [0, 1]."""
    coarse = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def as_array(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def sd(tiny: Path) -> Restorer:
    """The goldens' tiny SD-Turbo: statistics and attention over the whole picture."""
    return Restorer.from_pretrained(tiny, device="cpu")


@pytest.mark.parametrize("model", ["restorer", "sd"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale": 2.5, "strength": 0.5, "color_match": "adain"},
        {"size": (30, 21), "size_mode": "fill", "guidance": 1, "latent": "sample", "seed": 3, "noise": "+0.2"},
    ],
)
def test_numbers_are_those_of_restore(model: str, changes: dict[str, Any], request: pytest.FixtureRequest) -> None:
    restorer: Restorer = request.getfixturevalue(model)
    one = pictures(1)
    made = restorer.restore_tensor(one, **changes)
    expected = restorer.restore(as_array(one[0]), **changes)
    assert expected.array.dtype == np.float32, "floats in, floats out"
    assert np.array_equal(as_array(made.images[0]), expected.array)
    assert made.degrees.tolist() == [list(expected.degrees)]
    assert made.latent.shape[:2] == (1, restorer.config.unet.latent_channels)
    assert set(made.seconds) >= {"encode", "predict", "decode", "total"}


def test_floats_are_not_rounded(restorer: Restorer, tmp_path: Path) -> None:
    """A float64 array gives float32, also in tiles and in grey; a file gets 16 bits."""
    one = as_array(pictures(1, 9, 110)[0]).astype(np.float64)
    tiled = restorer.restore(one, tile=384)
    levels = tiled.array * np.float32(65535)
    assert np.abs(levels - levels.round()).max() > 0.2
    assert np.abs(tiled.array - restorer.restore(one, tile="off").array).max() < 1e-4
    for options in (RestoreOptions(grey="keep"), RestoreOptions(grey="keep", tile=384, color_match="adain")):
        grey = restorer.restore(one[..., 0], options)
        assert (grey.array.shape, grey.array.dtype) == ((36, 440, 1), np.float32)
    tiled.save(tmp_path / "o.png")
    written = read_picture(tmp_path / "o.png").pixels
    assert np.array_equal(written, np.rint(tiled.array * 65535).astype(np.uint16))
    assert tiled.image.getpixel((5, 7)) == tuple(int(value) for value in np.rint(tiled.array[7, 5] * 255))
    with_alpha = restorer.restore(np.concatenate([one, one[..., :1]], axis=2)).picture
    assert with_alpha.alpha is not None
    assert with_alpha.alpha.dtype == np.float32


@pytest.mark.parametrize("model", ["restorer", "sd"])
def test_layouts_and_types(model: str, request: pytest.FixtureRequest) -> None:
    restorer: Restorer = request.getfixturevalue(model)
    batch = pictures()
    first = restorer.restore_tensor(batch).images
    assert (first.shape, first.dtype) == ((2, 3, 24, 36), torch.float32)
    last = restorer.restore_tensor(batch.permute(0, 2, 3, 1)).images
    assert torch.equal(last.permute(0, 3, 1, 2), first)
    levels = (batch * 255).round().to(torch.uint8)
    in_bytes = restorer.restore_tensor(levels).images
    assert in_bytes.dtype == torch.uint8
    from_levels = restorer.restore_tensor(levels.float() / 255).images
    assert torch.equal(in_bytes, (from_levels * 255).round().to(torch.uint8))
    assert restorer.restore_tensor(batch.double()).images.dtype == torch.float64
    narrow = pictures(1, 6, 3)
    assert restorer.restore_tensor(narrow).images.shape == (1, 3, 24, 12), "two sides of 3: channels first"
    assert restorer.restore_tensor(narrow.permute(0, 2, 3, 1), channels_last=True).images.shape == (1, 24, 12, 3)


def test_tiles(restorer: Restorer, sd: Restorer) -> None:
    batch = pictures(2, 9, 103)
    for color_match in ("wavelet", "adain"):
        whole = restorer.restore_tensor(batch, tile="off", color_match=color_match)
        tiled = restorer.restore_tensor(batch, tile=384, color_match=color_match)
        assert (tiled.images - whole.images).abs().max() < 0.05 * LEVEL
        assert (tiled.latent - whole.latent).abs().max() < 1e-4
    assert sd.restore_tensor(pictures(2, 5, 66), tile=256).images.shape == (2, 3, 20, 264)


def test_gradients_reach_pictures_and_degrees(compact: Restorer, sd: Restorer) -> None:
    """As a difference quotient has it, through enlargement, estimate, networks and colours."""
    for model in (compact, sd):
        low_quality, direction = pictures(1, 5, 6) * 0.8 + 0.1, pictures(1, 5, 6, seed=1) - 0.5
        plain = model.restore_tensor(low_quality).images
        assert not plain.requires_grad
        asked = low_quality.clone().requires_grad_()
        made = model.restore_tensor(asked, differentiable=True, noise="+0.1")
        weights = torch.randn_like(made.images)
        (made.images * weights).sum().backward()
        assert asked.grad is not None
        step = 1e-4
        ahead, behind = (
            (model.restore_tensor(low_quality + sign * step * direction, noise="+0.1").images * weights).sum()
            for sign in (1, -1)
        )
        expected = float((ahead - behind) / (2 * step))
        assert float((asked.grad * direction).sum()) == pytest.approx(expected, rel=0.02, abs=0.1)
        assert (model.restore_tensor(asked, differentiable=True).images - plain).abs().max() < 0.2 * LEVEL

        degrees = torch.tensor([0.4, 0.6], requires_grad=True)
        model.restore_tensor(low_quality, degrees=degrees, differentiable=True).images.sum().backward()
        assert degrees.grad is not None
        assert bool((degrees.grad != 0).all())


def test_degrees_by_hand(restorer: Restorer) -> None:
    batch = pictures()
    both = restorer.restore_tensor(batch, degrees=torch.tensor([[0.2, 0.3], [0.9, 0.1]]))
    assert torch.equal(both.degrees, torch.tensor([[0.2, 0.3], [0.9, 0.1]]))
    alone = restorer.restore_tensor(batch[1:], RestoreOptions(blur=0.9, noise=0.1))
    assert (both.images[1:] - alone.images).abs().max() < 0.5 * LEVEL
    assert restorer.restore_tensor(batch, degrees=torch.tensor([0.5, 0.5])).degrees.shape == (2, 2)
    assert restorer.restore(as_array(batch[0]), blur=0.25).degrees.blur == 0.25


def test_lora_scale(compact: Restorer, sd: Restorer) -> None:
    """0 is the base model, whose weights know no degrees; in a batch as alone."""
    batch = pictures(2, 5, 6)
    for model in (compact, sd):
        base = model.restore_tensor(batch[:1], lora_scale=0, degrees=torch.tensor([0.1, 0.9]))
        again = model.restore_tensor(batch[:1], lora_scale=0, degrees=torch.tensor([0.8, 0.2]))
        assert torch.equal(base.images, again.images)
        halves = model.restore_tensor(batch, lora_scale=0.5).images
        assert (halves[:1] - model.restore_tensor(batch[:1], lora_scale=0.5).images).abs().max() < LEVEL
        trained = model.restore_tensor(batch[:1]).images
        assert not torch.equal(trained, base.images)
        assert not torch.equal(trained, halves[:1])


def test_stages_are_seen_and_can_be_replaced(restorer: Restorer) -> None:
    seen: dict[str, Tensor] = {}
    one = pictures(1)
    made = restorer.restore_tensor(one, on_stage=lambda name, tensor: seen.update({name: tensor.clone()}))
    assert tuple(seen) == STAGE_RESULTS
    schedule = restorer.config.schedule
    assert torch.equal(schedule.clean_latent(seen["latent"], seen["prediction"]), seen["clean"])
    assert torch.equal(made.latent, seen["clean"])
    assert seen["decoded"].aminmax().min >= -1

    other = restorer.restore_tensor(one, on_stage=lambda name, tensor: tensor * 0 if name == "clean" else None)
    assert not bool(other.latent.any())
    assert not torch.equal(other.images, made.images)
    array = restorer.restore(
        as_array(one[0]), on_stage=lambda name, tensor: tensor * 0 if name == "clean" else None
    ).array
    assert np.array_equal(array, as_array(other.images[0]))
    for wrong in (lambda *_: torch.zeros(2), lambda *_: 5):
        with pytest.raises(OptionError, match="on_stage returned"):
            restorer.restore_tensor(one, on_stage=wrong)  # type: ignore[arg-type]


def test_what_is_refused_in_one_line(restorer: Restorer) -> None:
    good = pictures(1)
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (good[0], {}, PictureError, "has shape"),
        (good[:, :2], {}, PictureError, "has shape"),
        (good[:0], {}, PictureError, "has shape"),
        (good, {"channels_last": True}, PictureError, "has shape"),
        (good.to(torch.int32), {}, PictureError, "of type torch.int32"),
        (good.numpy(), {}, PictureError, "no tensor"),
        (good + 0.5, {}, PictureError, "clamp=True"),
        (good * torch.nan, {"clamp": True}, PictureError, "nan"),
        (good + torch.inf, {"clamp": True}, PictureError, "inf"),
        (good, {"degrees": torch.tensor([0.5])}, OptionError, "give \\[2\\] or \\[1, 2\\]"),
        (good, {"degrees": torch.tensor([0.5, 1.5])}, OptionError, "from 0 to 1"),
        (good, {"degrees": torch.tensor([])}, OptionError, "shape \\[0\\]"),
        (good, {"degrees": "a"}, OptionError, "degrees are 'a'"),
        (good, {"degrees": (None, 0.2)}, OptionError, "degrees are \\(None"),
        (good.to("meta"), {}, PictureError, "is meta"),
        (good.to_sparse(), {}, PictureError, "is torch.sparse"),
        (good, {"max_output_pixels": 10}, PictureError, "megapixels"),
        (good, {"scale": -1}, OptionError, "scale is -1"),
        (good, {"positive_prompt": "a cat"}, ModelError, "prompt"),
        (good, {"scal": 2}, TypeError, "scal"),
    ]
    for images, changes, kind, words in cases:
        with pytest.raises(kind, match=words) as error:
            restorer.restore_tensor(images, **changes)
        assert "\n" not in str(error.value)
    assert float(restorer.restore_tensor(good * 1.001 - 0.0005, clamp=True).images.max()) <= 1
    with pytest.raises(PictureError, match="restore_tensor"):
        restorer.restore(good)  # type: ignore[arg-type]


def test_a_batch_with_bad_pictures(restorer: Restorer) -> None:
    good = as_array(pictures(1)[0])
    results = restorer.restore_batch([good, "absent.png", good, good[:, :, :2]], on_error="return", scale=2)
    assert [isinstance(each, Result) for each in results] == [True, False, True, False]
    assert [type(each) for each in results[1::2]] == [PictureError, PictureError]
    assert isinstance(results[0], Result)
    assert results[0].size == (18, 12)
    with pytest.raises(PictureError, match="absent"):
        restorer.restore_batch([good, "absent.png"])
    with pytest.raises(OptionError, match="on_error is 'skip'"):
        restorer.restore_batch([good], on_error="skip")  # type: ignore[call-overload]
    with pytest.raises(S3DiffError, match="prompt"):
        restorer.restore_batch([good], on_error="return", positive_prompt="a cat")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_that_is_placed_again_gives_the_same_numbers(small: Path, precision: Any) -> None:
    """There is one device here; what moving does beside the copy, it does on this one as well."""
    model = Restorer.from_pretrained(small, device="cpu", precision=precision)
    before: RestoredTensors = model.restore_tensor(pictures())
    assert model.to("cpu") is model
    model._place(torch.device("cpu"))
    assert torch.equal(model.restore_tensor(pictures()).images, before.images)
    one = pictures(1)
    assert torch.equal(
        model.restore_tensor(one).images,
        Restorer.from_pretrained(small, device="cpu", precision=precision).restore_tensor(one).images,
    )
    with pytest.raises(OptionError, match="device"):
        model.to("cuda:77")
