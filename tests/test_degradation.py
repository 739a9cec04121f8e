"""The degradation as a whole: what is drawn, what ``apply`` makes of it, and the variants for the estimator."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from s3diff.degradation.application import GAUSSIAN, DegradationDraw, StageDraw, apply, apply_reference
from s3diff.degradation.jpeg import compress_jpeg
from s3diff.degradation.kernels import (
    PULSE,
    SHARPENING,
    SINC,
    KernelParameters,
    filter_per_image,
    gaussian_kernels,
)
from s3diff.degradation.noise import MIN_PHOTONS
from s3diff.degradation.resize import RESIZE_MODES, resize
from s3diff.degradation.settings import PRESETS, DegradationSettings
from s3diff.degradation.synthesis import draw
from s3diff.degradation.variants import extreme, with_stronger_blur, with_stronger_noise
from s3diff.errors import OptionError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def textured_pictures(batch_size: int, side_px: int) -> Tensor:
    """Pictures with edges and fine texture at several sizes, in [0.1, 0.9]."""
    random = generator(7)
    layers = [
        functional.interpolate(torch.rand(batch_size, 3, cells, cells, generator=random), size=side_px, mode="nearest")
        for cells in (4, 12, side_px // 4, side_px)
    ]
    return 0.1 + 0.8 * (0.4 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2] + 0.1 * layers[3])


def gradient_energy(pictures: Tensor) -> Tensor:
    return (pictures[..., 1:] - pictures[..., :-1]).square().mean(dim=(1, 2, 3))


def quiet(settings: DegradationSettings, **changes: float) -> DegradationSettings:
    """Settings without noise, JPEG and final sinc: what is left is blur and resize."""
    still = {"noise_probability": 0.0, "jpeg_probability": 0.0}
    first, second = replace(settings.first, **still), replace(settings.second, **still)
    return replace(settings, first=first, second=second, final_sinc_probability=0.0, clean_probability=0.0, **changes)


# The whole


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize(("height", "width", "scale"), [(96, 128, 4), (66, 48, 2), (40, 40, 1)])
def test_results_are_8_bit_pictures_of_the_reduced_size(preset: str, height: int, width: int, scale: int) -> None:
    ground_truth = torch.rand(5, 3, height, width, generator=generator())
    drawn = draw(PRESETS[preset], 5, height, width, scale, generator(2))
    low_quality = apply(ground_truth, drawn)
    assert low_quality.shape == (5, 3, height // scale, width // scale)
    assert low_quality.dtype == torch.float32
    assert float(low_quality.min()) >= 0
    assert float(low_quality.max()) <= 1
    torch.testing.assert_close(low_quality * 255, (low_quality * 255).round(), rtol=0, atol=1e-4)
    assert torch.equal(apply(ground_truth, drawn), low_quality), "a function of the picture and the draw alone"


def test_draws_follow_the_generator() -> None:
    ground_truth = textured_pictures(4, 64)
    first, again, other = (apply(ground_truth, draw(PRESETS["s3diff"], 4, 64, 64, 4, generator(s))) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    ground_truth = textured_pictures(4, 64)
    drawn = draw(PRESETS["realesrgan"], 4, 64, 64, 4, generator(5))
    expected = apply(ground_truth, drawn)
    changed = ground_truth.clone()
    changed[0] = 0.5
    assert torch.equal(apply(changed, drawn)[1:], expected[1:])


def draw_for(preset: str, batch_size: int, side_px: int, seed: int, **changes: object) -> DegradationDraw:
    return draw(replace(PRESETS[preset], **changes), batch_size, side_px, side_px, 4, generator(seed))


@pytest.mark.parametrize("like_release", [False, True])
@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("side_px", [64, 160])
def test_rows_of_a_draw_give_the_same_bits(preset: str, like_release: bool, side_px: int) -> None:
    """Pictures of 64 px go through the steps together, those of 160 px on a processor one by one."""
    ground_truth = textured_pictures(6, side_px)
    for seed in range(4):
        drawn = draw_for(preset, 6, side_px, seed, like_release=like_release)
        expected = apply(ground_truth, drawn)
        for start, stop in ((0, 6), (0, 1), (2, 5), (5, 6)):
            part = drawn.rows(start, stop)
            assert part.batch_size == stop - start
            assert torch.equal(apply(ground_truth[start:stop], part), expected[start:stop])


def test_rows_give_the_same_bits_before_the_last_rounding_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding to 8 bits would hide what the steps do otherwise in another batch."""
    monkeypatch.setattr(Tensor, "round_", lambda self: self)
    for side_px in (64, 160):
        ground_truth = textured_pictures(6, side_px)
        for seed in range(6):
            drawn = draw_for("realesrgan", 6, side_px, seed)
            expected = apply(ground_truth, drawn)
            for start, stop in ((0, 1), (2, 5), (5, 6)):
                assert torch.equal(apply(ground_truth[start:stop], drawn.rows(start, stop)), expected[start:stop])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_gpu_does_it_too(preset: str) -> None:
    ground_truth = textured_pictures(6, 128)
    drawn = draw_for(preset, 6, 128, 0)
    low_quality = apply(ground_truth.cuda(), drawn)
    assert low_quality.is_cuda
    assert torch.equal(apply(ground_truth[2:5].cuda(), drawn.rows(2, 5)), low_quality[2:5])
    difference = (low_quality - apply_reference(ground_truth.cuda(), drawn)).abs() * 255
    assert float((difference > 0.5).double().mean()) < 1e-3
    if preset == "bicubic":  # the only one without noise, whose numbers are another device's
        assert float((low_quality.cpu() - apply(ground_truth, drawn)).abs().max()) < 1.5 / 255


def test_rows_slice_every_tensor() -> None:
    drawn = draw_for("realesrgan", 5, 64, 0)
    part = drawn.rows(1, 3)

    def compare(whole: object, sliced: object) -> int:
        if isinstance(whole, Tensor):
            assert torch.equal(whole[1:3], sliced)
            return 1
        if isinstance(whole, StageDraw | KernelParameters):
            return sum(compare(getattr(whole, item.name), getattr(sliced, item.name)) for item in fields(whole))
        return 0

    pairs = [(getattr(drawn, item.name), getattr(part, item.name)) for item in fields(drawn)]
    pairs += list(zip(drawn.stages, part.stages, strict=True))
    assert sum(compare(*pair) for pair in pairs) == 2 * (7 + 6) + 7 + 3
    assert part.shared_noise_seed == drawn.shared_noise_seed
    assert len(drawn.noise_seeds.unique()) == 5


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (3, 2), (0, 6)])
def test_rows_that_are_not_there(start: int, stop: int) -> None:
    with pytest.raises(OptionError, match="0 <= start < stop"):
        draw_for("mild", 5, 64, 0).rows(start, stop)


@pytest.mark.parametrize("like_release", [False, True])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_fast_way_equals_its_readable_twin(preset: str, like_release: bool) -> None:
    """Both agree to 1e-5 before a rounding; where a value lies that near to a half it may go the other way.

    In the last rounding that moves a pixel by one level; in JPEG one coefficient by one step, so all of a block a
    little. Over the seeds, fewer than one value in 2000 differs at all, and the mean difference is nothing.
    """
    differences = []
    for seed in range(12):
        side_px = 96 if seed % 2 else 144
        ground_truth = textured_pictures(4, side_px)
        drawn = draw_for(preset, 4, side_px, seed, like_release=like_release)
        difference = (apply(ground_truth, drawn) - apply_reference(ground_truth, drawn)).abs() * 255
        differences.append(difference.round().flatten())
    together = torch.cat(differences)
    assert float((together > 0).double().mean()) < 5e-4
    assert float((together > 1).double().mean()) < 1e-4
    assert float(together.max()) <= 8


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_without_roundings_the_twins_agree_to_1e5(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blur, resize and Gaussian noise alone, seen before the last rounding."""
    monkeypatch.setattr(Tensor, "round", lambda self: self)
    monkeypatch.setattr(Tensor, "round_", lambda self: self)
    stages = {name: getattr(PRESETS[preset], name) for name in ("first", "second")}
    stages = {name: replace(stage, jpeg_probability=0.0, gaussian_probability=1.0) for name, stage in stages.items()}
    for seed in range(6):
        ground_truth = textured_pictures(4, 144)
        drawn = draw_for(preset, 4, 144, seed, **stages)
        fast, plain = apply(ground_truth, drawn), apply_reference(ground_truth, drawn)
        assert len((fast * 255 - (fast * 255).floor()).unique()) > 100, "not rounded"
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)


def test_noise_of_a_preset_on_flat_pictures_is_bounded() -> None:
    """With the strongest Poisson noise of the presets a flat picture stays recognisable."""
    settings = quiet(PRESETS["realesrgan"])
    noisy = replace(settings.second, noise_probability=1.0, gaussian_probability=0.0, poisson_scale=(2.5, 2.5))
    drawn = draw(replace(settings, second=noisy), 6, 96, 96, 4, generator())
    low_quality = apply(torch.full((6, 3, 96, 96), 0.5), drawn)
    assert float((low_quality - 0.5).std(dim=(1, 2, 3)).max()) < 1.2 * 2.5 * math.sqrt(0.5 / MIN_PHOTONS)


def test_grey_noise_differs_between_the_images_of_a_batch() -> None:
    settings = quiet(PRESETS["realesrgan"])
    noisy = replace(settings.second, noise_probability=1.0, grey_probability=1.0, resize_probabilities=(0.0, 0.0, 1.0))
    low_quality = apply(
        torch.full((3, 3, 96, 96), 0.5), draw(replace(settings, second=noisy), 3, 96, 96, 4, generator())
    )
    assert not torch.equal(low_quality[0], low_quality[1])
    assert not torch.equal(low_quality[1], low_quality[2])
    torch.testing.assert_close(low_quality[:, 0], low_quality[:, 2])


def drawn_choices(drawn: DegradationDraw) -> dict[str, Tensor]:
    choices = {"final_mode": drawn.final_mode, "jpeg_is_last": drawn.jpeg_is_last}
    for number, stage in enumerate(drawn.stages):
        choices[f"height_{number}"] = stage.size_px[:, 0]
        choices[f"mode_{number}"] = stage.resize_mode
        choices[f"kind_{number}"] = stage.noise_kind
    choices["second_blur"] = drawn.stages[1].blur.family == PULSE
    return choices


def test_every_choice_is_made_for_each_image() -> None:
    drawn = draw(PRESETS["s3diff"], 64, 64, 64, 4, generator())
    for name, values in drawn_choices(drawn).items():
        assert len(values.unique()) > 1, name


def test_like_release_makes_them_for_the_batch() -> None:
    settings = replace(PRESETS["s3diff"], like_release=True, clean_probability=0.0)
    for seed in range(5):
        for name, values in drawn_choices(draw(settings, 64, 64, 64, 4, generator(seed))).items():
            assert len(values.unique()) == 1, name


def test_like_release_repeats_grey_noise_and_explodes_on_flat_pictures() -> None:
    stage = replace(
        PRESETS["s3diff"].first,
        blur_probability=0.0,
        resize_probabilities=(0.0, 0.0, 1.0),
        grey_probability=1.0,
        jpeg_probability=0.0,
        gaussian_sigma=(9.0, 9.0),
        poisson_scale=(1.0, 1.0),
    )
    settings = quiet(replace(PRESETS["s3diff"], first=stage, second=replace(stage, noise_probability=0.0)))
    flat = torch.full((2, 3, 64, 64), 0.5)
    for probability, like_release in ((1.0, True), (1.0, False), (0.0, True), (0.0, False)):
        first = replace(stage, gaussian_probability=probability)
        variant = replace(settings, first=first, like_release=like_release)
        low_quality = apply(flat, draw(variant, 2, 64, 64, 1, generator()))
        if probability == 1:
            assert torch.equal(low_quality[0], low_quality[1]) == like_release
        else:
            assert (float(low_quality.std()) > 0.3) == like_release


def test_draws_have_the_frequencies_and_ranges_of_the_settings() -> None:
    settings = replace(PRESETS["s3diff"], clean_probability=0.0)
    count = 4000
    drawn = draw(settings, count, 400, 400, 4, generator())
    close = {"abs": 4 * 0.5 / math.sqrt(count)}
    for stage, values, base in zip((settings.first, settings.second), drawn.stages, (400, 100), strict=True):
        blurred = values.blur.family != PULSE
        assert float(blurred.double().mean()) == pytest.approx(stage.blur_probability, **close)
        assert float((values.blur.family[blurred] == SINC).double().mean()) == pytest.approx(0.1, **close)
        for index, probability in enumerate(settings.kernel_probabilities):
            share = float((values.blur.family[blurred] == index).double().mean())
            assert share == pytest.approx(0.9 * probability, **close)
        heights = values.size_px[:, 0]
        shares = [float(part.double().mean()) for part in (heights > base, heights < base, heights == base)]
        # The 1 % nearest to a factor of 1 round down to one pixel less, or to no change.
        assert shares == pytest.approx(stage.resize_probabilities, abs=0.05)
        assert int(heights.min()) >= math.floor(stage.resize_factor[0] * base)
        assert int(heights.max()) <= stage.resize_factor[1] * base
        gaussian = values.noise_kind == GAUSSIAN
        assert float(gaussian.double().mean()) == pytest.approx(0.5, **close)
        assert_fills(values.noise_strength[gaussian], stage.gaussian_sigma)
        assert_fills(values.noise_strength[~gaussian], stage.poisson_scale)
        assert_fills(values.jpeg_quality, stage.jpeg_quality)
        assert_fills(values.blur.sigma_x_px, stage.blur_sigma_px)
        assert float(values.noise_is_grey.double().mean()) == pytest.approx(0.4, **close)
        assert set(values.blur.side_px.tolist()) == set(range(7, 22, 2))
    assert float((drawn.final_sinc.family == SINC).double().mean()) == pytest.approx(0.8, **close)
    assert float(drawn.jpeg_is_last.double().mean()) == pytest.approx(0.5, **close)


def assert_fills(values: Tensor, ends: tuple[float, float]) -> None:
    margin = 0.02 * (ends[1] - ends[0])
    assert ends[0] <= float(values.min()) < ends[0] + margin
    assert ends[1] - margin < float(values.max()) <= ends[1]


def test_jpeg_is_before_or_after_the_last_resize_and_sinc() -> None:
    ground_truth = textured_pictures(1, 64)
    settings = quiet(PRESETS["s3diff"])
    unchanged = replace(settings.first, blur_probability=0.0, resize_probabilities=(0.0, 0.0, 1.0))
    settings = replace(
        settings, first=unchanged, second=replace(unchanged, jpeg_probability=1.0, jpeg_quality=(40, 40))
    )
    drawn = draw(replace(settings, final_sinc_probability=1.0), 1, 64, 64, 4, generator(1))
    # The second stage keeps the low-quality size, so that the resize after it changes nothing.
    reduced = resize(ground_truth, (16, 16), RESIZE_MODES[int(drawn.stages[1].resize_mode)])
    sinc = drawn.final_sinc.kernels()
    expected = {True: compress_jpeg(filter_per_image(reduced, sinc), 40)}
    expected[False] = filter_per_image(compress_jpeg(reduced, 40), sinc)
    for is_last, picture in expected.items():
        low_quality = apply(ground_truth, replace(drawn, jpeg_is_last=torch.tensor([is_last])))
        torch.testing.assert_close(low_quality, picture.clamp(0, 1), rtol=0, atol=0.51 / 255)


def test_without_noise_and_jpeg_the_steps_are_blur_resize_blur_resize() -> None:
    ground_truth = textured_pictures(3, 96)
    drawn = draw(quiet(PRESETS["realesrgan"]), 3, 96, 96, 4, generator(4))
    first, second = drawn.stages
    for row in range(3):
        image = ground_truth[row : row + 1]
        for stage in (first, second):
            # The whole, padded kernel: apply trims it for speed.
            image = filter_per_image(image, stage.blur.kernels()[row : row + 1])
            height, width = stage.size_px[row].tolist()
            image = resize(image, (height, width), RESIZE_MODES[int(stage.resize_mode[row])])
        image = resize(image, (24, 24), RESIZE_MODES[int(drawn.final_mode[row])])
        expected = (image.clamp(0, 1) * 255).round() / 255
        torch.testing.assert_close(apply(ground_truth, drawn)[row : row + 1], expected, rtol=0, atol=1.01 / 255)
        assert float((apply(ground_truth, drawn)[row : row + 1] - expected).abs().mean()) < 1e-4


def test_the_bicubic_preset_is_the_reduction_of_the_benchmarks() -> None:
    ground_truth = textured_pictures(2, 96)
    reduced = functional.interpolate(ground_truth, size=(24, 24), mode="bicubic", antialias=True)
    expected = (reduced.clamp(0, 1) * 255).round() / 255
    assert torch.equal(apply(ground_truth, draw(PRESETS["bicubic"], 2, 96, 96, 4, generator())), expected)


def test_small_pictures_stay_large_enough_for_every_kernel() -> None:
    for seed in range(10):
        drawn = draw(PRESETS["realesrgan"], 4, 44, 48, 4, generator(seed))
        assert apply(torch.rand(4, 3, 44, 48, generator=generator()), drawn).shape == (4, 3, 11, 12)


@pytest.mark.parametrize(("height", "width", "scale"), [(66, 64, 4), (40, 40, 4), (64, 64, 0)])
def test_draw_refuses_sizes_it_cannot_reduce(height: int, width: int, scale: int) -> None:
    with pytest.raises(OptionError, match="multiples of the scale"):
        draw(PRESETS["s3diff"], 1, height, width, scale, generator())


def test_apply_refuses_other_pictures_than_those_drawn_for() -> None:
    drawn = draw(PRESETS["s3diff"], 2, 64, 64, 4, generator())
    for shape in ((1, 3, 64, 64), (2, 3, 64, 60), (2, 1, 64, 64)):
        with pytest.raises(OptionError, match="draw for these"):
            apply(torch.zeros(shape), drawn)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blur_probability", 1.5),
        ("blur_sigma_px", (0.0, 1.0)),
        ("resize_probabilities", (0.5, 0.5, 0.5)),
        ("resize_factor", (0.3, 0.9)),
        ("gaussian_sigma", (5.0, 1.0)),
        ("jpeg_quality", (0.0, 95.0)),
        ("poisson_scale", (0.0, math.nan)),
    ],
)
def test_stage_settings_are_checked(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"^{name} is .*; give "):
        replace(PRESETS["s3diff"].first, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel_probabilities", (1.0,)),
        ("generalised_beta", (1.5, 2.0)),
        ("resize_modes", ()),
        ("clean_modes", ("nearest",)),
        ("clean_probability", -0.1),
    ],
)
def test_settings_are_checked(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"^{name} is .*; give "):
        replace(PRESETS["s3diff"], **{name: value})


# Variants for the estimator


def same(first: object, second: object) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, KernelParameters):
        return all(same(getattr(first, field.name), getattr(second, field.name)) for field in fields(first))
    return first == second


def changed_fields(before: DegradationDraw, after: DegradationDraw) -> set[str]:
    names = {field.name for field in fields(before) if field.name != "stages"}
    changed = {name for name in names if not same(getattr(before, name), getattr(after, name))}
    for old, new in zip(before.stages, after.stages, strict=True):
        changed |= {field.name for field in fields(old) if not same(getattr(old, field.name), getattr(new, field.name))}
    return changed


def test_stronger_blur_changes_blur_and_size_alone() -> None:
    drawn = draw(PRESETS["realesrgan"], 32, 128, 128, 4, generator())
    stronger = with_stronger_blur(drawn, generator(1))
    assert changed_fields(drawn, stronger) == {"blur", "size_px"}
    for old, new in zip(drawn.stages, stronger.stages, strict=True):
        assert bool((new.blur.sigma_x_px > old.blur.sigma_x_px).all())
        assert bool((new.blur.cutoff < old.blur.cutoff).all())
        assert bool((new.size_px <= old.size_px).all())
        assert bool((new.size_px[:, 0] < old.size_px[:, 0]).any())


def test_stronger_blur_is_blurrier() -> None:
    ground_truth = textured_pictures(16, 128)
    settings = quiet(PRESETS["realesrgan"], resize_modes=("area",))
    drawn = draw(settings, 16, 128, 128, 4, generator())
    before = gradient_energy(apply(ground_truth, drawn))
    after = gradient_energy(apply(ground_truth, with_stronger_blur(drawn, generator(1))))
    assert bool((after < before).all())


def test_stronger_noise_changes_noise_and_jpeg_alone() -> None:
    drawn = draw(PRESETS["realesrgan"], 32, 128, 128, 4, generator())
    stronger = with_stronger_noise(drawn, generator(1))
    assert changed_fields(drawn, stronger) == {"noise_strength", "jpeg_quality"}
    for old, new in zip(drawn.stages, stronger.stages, strict=True):
        assert bool((new.noise_strength > old.noise_strength).all())
        assert bool((new.jpeg_quality < old.jpeg_quality).all())


def test_stronger_noise_is_farther_from_the_clean_picture() -> None:
    ground_truth = textured_pictures(16, 128)
    drawn = draw(PRESETS["realesrgan"], 16, 128, 128, 4, generator())
    off = [torch.zeros(16, dtype=torch.long), torch.zeros(16, dtype=torch.float64)]
    stages = [replace(s, noise_kind=off[0], noise_strength=off[1], jpeg_quality=off[1]) for s in drawn.stages]
    clean = apply(ground_truth, replace(drawn, stages=tuple(stages)))
    before = (apply(ground_truth, drawn) - clean).square().mean(dim=(1, 2, 3))
    after = (apply(ground_truth, with_stronger_noise(drawn, generator(1))) - clean).square().mean(dim=(1, 2, 3))
    # Not every time: a lower quality may round faint noise away.
    assert int((after > before).sum()) >= 15
    assert float(after.mean()) > 1.3 * float(before.mean())


def test_stronger_variants_of_a_clean_picture_gain_that_one_thing() -> None:
    ground_truth = textured_pictures(4, 128)
    drawn = draw(replace(PRESETS["s3diff"], clean_probability=1.0), 4, 128, 128, 4, generator())
    clean = apply(ground_truth, drawn)
    blurrier = apply(ground_truth, with_stronger_blur(drawn, generator(1)))
    assert bool((gradient_energy(blurrier) < gradient_energy(clean)).all())
    noisier = apply(ground_truth, with_stronger_noise(drawn, generator(1)))
    assert bool(((noisier - clean).square().mean(dim=(1, 2, 3)) > 1e-5).all())


def test_clean_draws_only_reduce() -> None:
    ground_truth = textured_pictures(8, 96)
    drawn = draw(replace(PRESETS["realesrgan"], clean_probability=1.0), 8, 96, 96, 4, generator())
    low_quality = apply(ground_truth, drawn)
    modes = [RESIZE_MODES[index] for index in drawn.stages[1].resize_mode.tolist()]
    assert set(modes) == {"area", "bicubic_antialiased"}
    for row, mode in enumerate(modes):
        expected = resize(ground_truth[row : row + 1], (24, 24), mode).clamp(0, 1)
        torch.testing.assert_close(low_quality[row : row + 1], (expected * 255).round() / 255)


def test_extreme_has_every_strength_at_its_most() -> None:
    settings = PRESETS["s3diff"]
    drawn = extreme(settings, 8, 192, 192, 4, generator())
    for stage, values, base in zip((settings.first, settings.second), drawn.stages, (192, 48), strict=True):
        assert bool((values.blur.family == 0).all())
        assert bool((values.blur.sigma_x_px == stage.blur_sigma_px[1]).all())
        assert bool((values.size_px == math.floor(base * stage.resize_factor[0])).all())
        strongest = torch.where(values.noise_kind == GAUSSIAN, stage.gaussian_sigma[1], stage.poisson_scale[1])
        torch.testing.assert_close(values.noise_strength, strongest.double())
        torch.testing.assert_close(values.jpeg_quality, torch.full((8,), stage.jpeg_quality[0], dtype=torch.float64))
    assert apply(textured_pictures(8, 192), drawn).shape == (8, 3, 48, 48)


def test_sharpening_is_an_unsharp_mask_with_rims() -> None:
    settings = replace(PRESETS["bicubic"], clean_probability=0.0, sharpening_probability=1.0)
    drawn = draw(settings, 40, 64, 64, 4, generator(3)).final_sinc
    assert (drawn.family == SHARPENING).all()
    assert 0.2 <= float(drawn.beta.min()) < 0.5 < 1.7 < float(drawn.beta.max()) <= 2
    picture = torch.rand(1, 1, 48, 48, dtype=torch.float64, generator=generator(4))
    for row in range(4):
        one = replace(drawn.rows(row, row + 1), side_px=torch.tensor([21]))
        blurred = filter_per_image(picture, gaussian_kernels(21, one.sigma_x_px))
        expected = picture + one.beta * (picture - blurred)
        assert torch.allclose(filter_per_image(picture, one.kernels()), expected, atol=1e-9)
    # An edge gets a rim on both sides, a plain stays as it is.
    edge = torch.full((1, 1, 48, 48), 0.2, dtype=torch.float64)
    edge[..., 24:] = 0.7
    line = filter_per_image(edge, drawn.rows(0, 1).kernels())[0, 0, 24]
    assert float(line.min()) < 0.19 < 0.71 < float(line.max())
    assert float(line[2]) == pytest.approx(0.2)


def test_processed_noise_has_spread_over_neighbours() -> None:
    """Demosaicing and resizing do that in a camera; ``grainy`` is what a sensor's single pixels make."""
    grey = torch.full((24, 3, 128, 128), 0.5)
    correlations = []
    for preset in ("processed", "grainy"):
        settings = replace(PRESETS[preset], clean_probability=0.0)
        luma = apply(grey, draw(settings, 24, 128, 128, 4, generator(1))).mean(1)
        noise = luma - luma.mean((1, 2), keepdim=True)
        power = noise.square().mean((1, 2))
        neighbours = (noise[:, :, 1:] * noise[:, :, :-1]).mean((1, 2))
        seen = power > (0.4 / 255) ** 2
        correlations.append(float((neighbours / power)[seen].median()))
    assert correlations[0] > 0.25 > 0.15 > correlations[1]


def test_presets_without_sharpening_draw_what_they_always_did() -> None:
    """A set of pictures is rebuilt from its seed."""
    plain = draw(PRESETS["camera"], 6, 64, 64, 4, generator(5))
    sharpened = draw(PRESETS["sharpened"], 6, 64, 64, 4, generator(5))
    assert torch.equal(plain.stages[1].noise_strength, sharpened.stages[1].noise_strength)
    assert torch.equal(plain.final_sinc.cutoff, sharpened.final_sinc.cutoff)
    assert not (plain.final_sinc.family == SHARPENING).any()
    assert not torch.equal(plain.noise_seeds, sharpened.noise_seeds)
