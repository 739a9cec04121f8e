"""Kernels, JPEG, noise and resizes of the degradation against the numbers of the S3Diff release."""

from __future__ import annotations

import io
import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from conftest import goldens_path, shared_path
from s3diff.degradation.jpeg import compress_jpeg
from s3diff.degradation.kernels import (
    KERNEL_FAMILIES,
    SINC,
    KernelParameters,
    cut_kernels,
    filter_per_image,
    gaussian_kernels,
    needed_radii,
    pulse_parameters,
)
from s3diff.degradation.noise import MIN_PHOTONS, _alias_table, _photon_powers, gaussian_noise, poisson_noise
from s3diff.degradation.resize import resize
from s3diff.errors import OptionError

#: Side, sigma x, sigma y, rotation, generalised beta, plateau beta of the golden kernels (goldens/MANIFEST.md).
GOLDEN_KERNELS = (
    (7, 0.4, 1.3, 0.3, 0.7, 1.4),
    (13, 1.1, 0.5, -1.2, 1.6, 1.2),
    (21, 1.5, 0.2, 2.6, 0.5, 1.5),
    (21, 3.0, 0.9, -2.9, 2.0, 1.0),
)
#: Cut-off, side, padded side of the golden sinc kernels.
GOLDEN_SINCS = (
    (math.pi / 3, 7, 7),
    (2.0, 13, 13),
    (math.pi, 21, 21),
    (1.3, 9, 21),
    (math.pi / 5, 15, 21),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def golden_operations() -> dict[str, Tensor]:
    with np.load(goldens_path("degr_ops.npz")) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def all_golden_operations() -> dict[str, Tensor]:
    """Also those that the clone leaves out for their size."""
    with np.load(shared_path("goldens/degr_ops.npz")) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def textured_pictures(batch_size: int, side_px: int) -> Tensor:
    """Pictures with edges and fine texture at several sizes, in [0.1, 0.9]."""
    random = generator(7)
    layers = [
        functional.interpolate(torch.rand(batch_size, 3, cells, cells, generator=random), size=side_px, mode="nearest")
        for cells in (4, 12, side_px // 4, side_px)
    ]
    return 0.1 + 0.8 * (0.4 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2] + 0.1 * layers[3])


# Kernels


def sinc_kernels(side_px: int, cutoff: torch.Tensor, padded_side_px: int) -> torch.Tensor:
    parameters = pulse_parameters(len(cutoff), side_px)
    family = torch.full_like(parameters.family, SINC)
    return replace(parameters, cutoff=cutoff, family=family).kernels(padded_side_px)


def kernels_of(family: str, side_px: int, sigma_x_px: Tensor, **others: Tensor) -> Tensor:
    plain = pulse_parameters(1, side_px)
    number = torch.full_like(plain.family, KERNEL_FAMILIES.index(family))
    return replace(plain, family=number, sigma_x_px=sigma_x_px, **others).kernels(side_px)


@pytest.mark.parametrize("index", range(len(GOLDEN_KERNELS)))
def test_kernels_match_the_release(index: int) -> None:
    side, sigma_x, sigma_y, rotation, beta, plateau = GOLDEN_KERNELS[index]
    first, second, turn = one(sigma_x), one(sigma_y), one(rotation)
    kernels = {
        "iso": gaussian_kernels(side, first),
        "aniso": kernels_of("anisotropic", side, first, sigma_y_px=second, rotation=turn),
        "giso": kernels_of("generalised_isotropic", side, first, beta=one(beta)),
        "ganiso": kernels_of("generalised_anisotropic", side, first, sigma_y_px=second, rotation=turn, beta=one(beta)),
        "piso": kernels_of("plateau_isotropic", side, first, beta=one(plateau)),
        "paniso": kernels_of("plateau_anisotropic", side, first, sigma_y_px=second, rotation=turn, beta=one(plateau)),
    }
    with np.load(goldens_path("degr_kernels.npz")) as golden:
        for name, kernel in kernels.items():
            np.testing.assert_allclose(kernel[0].numpy(), golden[f"{name}_{index}"], rtol=0, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("index", range(len(GOLDEN_SINCS)))
def test_sinc_kernels_match_the_release(index: int) -> None:
    cutoff, side, padded_side = GOLDEN_SINCS[index]
    kernel = sinc_kernels(side, one(cutoff), padded_side)[0]
    with np.load(goldens_path("degr_kernels.npz")) as golden:
        # torch's Bessel function is good to 5e-7 alone, below the single precision that the filter runs in.
        np.testing.assert_allclose(kernel.numpy(), golden[f"sinc_{index}"], rtol=0, atol=2e-7)


def test_a_mixed_batch_of_kernels_equals_each_alone() -> None:
    count = len(KERNEL_FAMILIES)
    random = generator(3)
    parameters = KernelParameters(
        family=torch.arange(count),
        side_px=7 + 2 * torch.randint(8, (count,), generator=random),
        sigma_x_px=0.3 + torch.rand(count, generator=random, dtype=torch.float64),
        sigma_y_px=0.3 + torch.rand(count, generator=random, dtype=torch.float64),
        rotation=torch.rand(count, generator=random, dtype=torch.float64),
        beta=0.5 + torch.rand(count, generator=random, dtype=torch.float64),
        cutoff=1 + torch.rand(count, generator=random, dtype=torch.float64),
    )
    batch = parameters.kernels()
    torch.testing.assert_close(batch.sum(dim=(1, 2)), torch.ones(count, dtype=torch.float64))
    for row in range(count):
        values = {field.name: getattr(parameters, field.name)[row : row + 1] for field in fields(parameters)}
        side = int(parameters.side_px[row])
        margin = (21 - side) // 2
        alone = KernelParameters(**values).kernels(side)
        torch.testing.assert_close(batch[row : row + 1], functional.pad(alone, (margin,) * 4), rtol=0, atol=1e-15)


def test_filter_matches_the_release() -> None:
    golden = golden_operations()
    filtered = filter_per_image(golden["x"], golden["kernels"])
    torch.testing.assert_close(filtered, golden["filter2d_batch"], rtol=0, atol=1e-6)
    filtered = filter_per_image(golden["x"], golden["kernels"][:1])
    torch.testing.assert_close(filtered, golden["filter2d_single"], rtol=0, atol=1e-6)


def test_a_kernel_cut_to_what_counts_filters_alike() -> None:
    images = torch.rand(1, 3, 40, 33, generator=generator())
    plateau = kernels_of("plateau_isotropic", 21, one(1), beta=one(1))
    kernels = torch.cat([sinc_kernels(9, one(1.7), 21), gaussian_kernels(21, one(0.5)), plateau])
    radii = needed_radii(kernels)
    assert radii == [4, 2, 10]
    for kernel, radius in zip(kernels[:, None], radii, strict=True):
        cut = cut_kernels(kernel, radius)
        assert cut.shape == (1, 2 * radius + 1, 2 * radius + 1)
        torch.testing.assert_close(filter_per_image(images, cut), filter_per_image(images, kernel), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(11, 12), (40, 33), (64, 97)])
def test_an_image_is_filtered_alike_in_every_batch(height: int, width: int) -> None:
    """Alone it is cut into strips, with seven others it is not."""
    images = torch.rand(8, 3, height, width, generator=generator())
    kernels = torch.rand(8, 21, 21, generator=generator()).softmax(dim=0)
    together = filter_per_image(images, kernels)
    plain = functional.conv2d(functional.pad(images[:1], (10,) * 4, mode="reflect").transpose(0, 1), kernels[:1, None])
    torch.testing.assert_close(together[:1], plain.transpose(0, 1), rtol=1e-5, atol=1e-5)
    for start, stop in ((0, 1), (3, 5), (1, 8)):
        assert torch.equal(filter_per_image(images[start:stop], kernels[start:stop]), together[start:stop])


def test_filter_refuses_what_it_cannot_mirror() -> None:
    with pytest.raises(OptionError, match="at least 11 px"):
        filter_per_image(torch.zeros(1, 3, 10, 40), torch.ones(1, 21, 21))
    with pytest.raises(OptionError, match="odd k"):
        filter_per_image(torch.zeros(1, 3, 40, 40), torch.ones(1, 4, 4))
    with pytest.raises(OptionError, match="for 3 images"):
        filter_per_image(torch.zeros(3, 3, 40, 40), torch.ones(2, 5, 5))


# JPEG


@pytest.mark.parametrize("name", ["jpeg_q30", "jpeg_q95", "jpeg_qtensor"])
def test_jpeg_matches_the_release(name: str) -> None:
    golden = golden_operations()
    quality = golden["qtensor"] if name == "jpeg_qtensor" else float(name.removeprefix("jpeg_q"))
    assert_close_but_for_ties(compress_jpeg(golden["x"], quality, "release"), golden[name])


@pytest.mark.shared
def test_jpeg_matches_the_release_at_quality_60() -> None:
    golden = all_golden_operations()
    assert_close_but_for_ties(compress_jpeg(golden["x"], 60.0, "release"), golden["jpeg_q60"])


def assert_close_but_for_ties(actual: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 but for at most one pixel in 500: another processor may round a coefficient at a half otherwise."""
    error = (actual - expected).abs()
    assert float((error > 1e-5).double().mean()) < 0.002
    assert float(error.mean()) < 1e-4


@pytest.mark.parametrize("quality", [30, 60, 75, 95, 100])
def test_jpeg_is_near_a_real_encoder(quality: int) -> None:
    pictures = (textured_pictures(2, 100)[..., :83] * 255).round()
    pictures = filter_per_image(pictures, gaussian_kernels(7, one(0.8))).clamp(0, 255).round()
    ours = compress_jpeg(pictures / 255, quality) * 255
    release = compress_jpeg(pictures / 255, quality, "release") * 255
    real = torch.stack([through_pillow(picture, quality) for picture in pictures])
    error = (ours - real).square().mean().sqrt()
    assert error < 2, "grey levels, root mean square"
    assert error < 0.6 * (release - real).square().mean().sqrt()
    if quality < 100:
        assert error < 0.5 * (pictures - real).square().mean().sqrt(), "far nearer than doing nothing"


def through_pillow(picture: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    pixels = picture.permute(1, 2, 0).to(torch.uint8).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()


def test_jpeg_of_a_batch_equals_each_alone() -> None:
    pictures = textured_pictures(3, 48)
    qualities = torch.tensor([35.0, 70.0, 92.0])
    for convention in ("encoder", "release"):
        batch = compress_jpeg(pictures, qualities, convention)
        for row in range(3):
            alone = compress_jpeg(pictures[row : row + 1], float(qualities[row]), convention)
            assert_close_but_for_ties(batch[row : row + 1], alone)


def test_jpeg_refuses_what_it_cannot_do() -> None:
    with pytest.raises(OptionError, match="from 1 to 100"):
        compress_jpeg(torch.zeros(1, 3, 16, 16), 0)
    with pytest.raises(OptionError, match="2 JPEG qualities for 3 images"):
        compress_jpeg(torch.zeros(3, 3, 16, 16), torch.tensor([50.0, 60.0]))
    with pytest.raises(OptionError, match="RGB"):
        compress_jpeg(torch.zeros(1, 1, 16, 16), 50)
    assert torch.isfinite(compress_jpeg(torch.rand(1, 3, 16, 16, generator=generator()), 100, "release")).all()


# Noise


def noise_case(name: str) -> tuple[str, float, bool, Tensor]:
    kind, strength, grey, picture = name.split("_")
    pictures = {"ramp": (torch.arange(256) / 255).expand(8, 3, 64, 256), "flat0.5": torch.full((8, 3, 128, 128), 0.5)}
    images = pictures[picture]
    return kind, float(strength.removeprefix("sigma").removeprefix("scale")), grey == "gray1", images


def noise_statistics() -> dict[str, dict[str, float]]:
    golden = json.loads(goldens_path("degr_noise_stats.json").read_text())
    return {name: golden[name] for name in golden if name.startswith(("gaussian_sigma", "poisson_scale"))}


@pytest.mark.parametrize("name", sorted(noise_statistics()))
def test_noise_has_the_statistics_of_the_release(name: str) -> None:
    expected = noise_statistics()[name]
    kind, strength, is_grey, images = noise_case(name)
    strengths, greys = torch.full((8,), strength), torch.full((8,), is_grey)
    if kind == "gaussian":
        noise = gaussian_noise(images, strengths, greys, generator(1))
    else:
        noise = poisson_noise(images, strengths, greys, generator(1), min_photons=1)
    assert float(noise.std()) == pytest.approx(expected["std"], rel=0.02)
    assert abs(float(noise.mean())) < 0.01 * expected["std"] + 1e-4
    # The extremes of some 400,000 numbers, which differ from draw to draw.
    assert float(noise.min()) == pytest.approx(expected["min"], rel=0.25)
    assert float(noise.max()) == pytest.approx(expected["max"], rel=0.25)
    correlation = np.corrcoef(noise[:, 0].flatten().numpy(), noise[:, 1].flatten().numpy())[0, 1]
    assert correlation == pytest.approx(expected["rg_corr"], abs=0.02)


def test_grey_noise_differs_between_the_images_of_a_batch() -> None:
    images, grey = torch.full((2, 3, 32, 32), 0.5), torch.tensor([True, True])
    for noise in (
        gaussian_noise(images, torch.tensor([9.0, 9.0]), grey, generator()),
        poisson_noise(images, torch.ones(2), grey, generator()),
    ):
        assert torch.equal(noise[0, 0], noise[0, 2])
        assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("photons", [1, 2, 16, 128, 256])
def test_the_tables_of_counts_hold_the_chances_of_poissons_law(photons: int) -> None:
    """Not by sampling: what each cell gives to its own count and to the other, added up."""
    table = _alias_table(photons)
    share, other = table.share.view(256, 256).double(), table.other.view(256, 256).long()
    chances = share.scatter_add(1, other, 1 - share) / 256
    counts = table.first.double().view(-1, 1) + torch.arange(256)
    for level in (0, 1, 40, 128, 254, 255):
        expected = scipy.stats.poisson(level * photons / 255).pmf(counts[level].numpy())
        np.testing.assert_allclose(chances[level].numpy(), expected, rtol=0, atol=5e-7)
        assert not chances[level][torch.from_numpy(expected < 1e-8)].any(), "what never occurs"
        assert float(chances[level].sum()) == pytest.approx(1, abs=1e-7)


def test_a_pixels_noise_is_its_own() -> None:
    """Another level in one pixel leaves the noise of all others alone: the sampler takes one number for each."""
    images = textured_pictures(1, 64)
    changed = images.clone()
    changed[0, :, 3, 5] = 0.9
    before, after = (
        poisson_noise(picture, torch.ones(1), torch.tensor([False]), generator()) for picture in (images, changed)
    )
    assert int((before != after).any(dim=1).sum()) == 1


def test_a_batch_of_mixed_poisson_noise() -> None:
    images = torch.full((3, 3, 96, 96), 0.4)
    scale, grey = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([True, False, True])
    noise = poisson_noise(images, scale, grey, generator())
    assert torch.equal(noise[0, 0], noise[0, 1])
    assert not torch.equal(noise[1, 0], noise[1, 1])
    assert torch.equal(noise[2, 0], noise[2, 2])
    expected = scale.double() * math.sqrt(0.4 / MIN_PHOTONS)
    torch.testing.assert_close(noise.double().std(dim=(1, 2, 3)), expected, rtol=0.03, atol=0)
    with pytest.raises(OptionError, match="power of two"):
        poisson_noise(images, scale, grey, generator(), min_photons=100)


def test_noise_is_grey_and_strong_for_each_image_by_its_own() -> None:
    noise = gaussian_noise(
        torch.zeros(2, 3, 64, 64), torch.tensor([2.0, 20.0]), torch.tensor([True, False]), generator()
    )
    assert torch.equal(noise[0, 0], noise[0, 1])
    assert not torch.equal(noise[1, 0], noise[1, 1])
    assert float(noise[1].std() / noise[0].std()) == pytest.approx(10, rel=0.1)


def test_poisson_noise_does_not_explode_on_flat_pictures() -> None:
    flat = torch.full((1, 3, 128, 128), 0.5)
    never = torch.tensor([False])
    assert float(poisson_noise(flat, torch.ones(1), never, generator()).std()) == pytest.approx(
        math.sqrt(0.5 / MIN_PHOTONS), rel=0.03
    )
    assert float(poisson_noise(flat, torch.ones(1), never, generator(), min_photons=1).std()) > 0.6


@pytest.mark.shared
def test_the_floor_leaves_photographs_untouched() -> None:
    photographs = sorted(shared_path("data/train/photos").glob("*.jpg"))[::6]
    untouched = []
    for path in photographs:
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).int()
        untouched += [
            2 ** int(_photon_powers(pixels[None, :, top : top + 512, left : left + 512])) >= MIN_PHOTONS
            for top in range(0, pixels.shape[1] - 511, 512)
            for left in range(0, pixels.shape[2] - 511, 512)
        ]
    assert len(untouched) > 20
    assert np.mean(untouched) > 0.95


# Resizing


def resize_by_hand(image: Tensor, size_px: tuple[int, int], steps: tuple[float, float], mode: str) -> Tensor:
    """Bilinear or bicubic (a = -3/4) of [C, H, W]; output pixel i lies at (i + 1/2) * step - 1/2."""
    for axis, (length, step) in enumerate(zip(size_px, steps, strict=True), start=1):
        source = image.shape[axis]
        weights = torch.zeros(length, source, dtype=torch.float64)
        for index in range(length):
            position = (index + 0.5) * step - 0.5
            position = max(position, 0.0) if mode == "bilinear" else position
            base = math.floor(position)
            for tap in range(base - 1, base + 3):
                weight = tap_weight(abs(position - tap), mode)
                weights[index, min(max(tap, 0), source - 1)] += weight
        image = torch.movedim(torch.tensordot(weights, image, dims=([1], [axis])), 0, axis)
    return image


def tap_weight(distance: float, mode: str) -> float:
    if mode == "bilinear":
        return max(0.0, 1 - distance)
    a = -0.75
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2 else 0.0


@pytest.mark.parametrize("factor", [0.37, pytest.param(1.42, marks=pytest.mark.shared)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resizes_are_those_of_the_release_but_for_the_corners(mode: str, factor: float) -> None:
    golden = golden_operations() if factor < 1 else all_golden_operations()
    image, expected = golden["x"][:1], golden[f"resize_{mode}_{factor}"]
    size = (expected.shape[2], expected.shape[3])
    # The release samples by the factor: steps of 1 / factor. We sample by the size, which keeps the corners in place.
    by_factor = resize_by_hand(image[0].double(), size, (1 / factor, 1 / factor), mode)
    torch.testing.assert_close(by_factor.float(), expected[0], rtol=0, atol=1e-5)
    by_size = resize_by_hand(image[0].double(), size, (61 / size[0], 83 / size[1]), mode)
    torch.testing.assert_close(resize(image, size, mode)[0], by_size.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", ["0.37", "1.42"])
def test_area_resizes_match_the_release(factor: str) -> None:
    golden = golden_operations()
    expected = golden[f"resize_area_{factor}"]
    ours = resize(golden["x"][:1], (expected.shape[2], expected.shape[3]), "area")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_resize_refuses_unknown_modes() -> None:
    with pytest.raises(OptionError, match="'lanczos'"):
        resize(torch.zeros(1, 3, 8, 8), (4, 4), "lanczos")
