"""The embedded model: what the package must hold, and what it must be worth on real photographs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import REPOSITORY, shared_path
from s3diff import RestoreOptions, Restorer
from s3diff.checkpoints.registry import NAMED_MODELS
from s3diff.errors import MissingExtraError, ModelError
from s3diff.evaluation.metrics import psnr_y
from s3diff.evaluation.perceptual import DISTS, LPIPS
from s3diff.evaluation.perceptual_weights import load_perceptual_weights
from s3diff.evaluation.spectrum import grid_contrasts, grid_measure
from s3diff.images.codecs import from_array, list_pictures, read_picture, to_tensor
from s3diff.images.resampling import enlarge
from s3diff.training.recipes import compact_generator

MAX_PACKAGE_BYTES = 20 * 10**6
NUM_PAIRS = 8
QUALITY = REPOSITORY / "benchmarks" / "results" / "compact-quality.json"
#: How far other processors and versions of torch may move the means over the pairs.
ROUNDING = 0.001
PHOTOS = REPOSITORY / "assets" / "photos"


def test_the_embedded_model_is_small_whole_and_of_the_recipes_shape(compact: Restorer) -> None:
    folder = NAMED_MODELS["compact"].folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_PACKAGE_BYTES
    assert compact.model.config == compact_generator()
    assert (folder / "MODEL_CARD.md").is_file()
    assert compact.model.fingerprint in (folder / "MODEL_CARD.md").read_text("utf-8")


def test_it_restores_a_photograph_it_has_not_seen_with_more_detail_than_bicubic(compact: Restorer) -> None:
    """The held-out budgerigar: more gradient than the bicubic enlargement, and the same picture when reduced again."""
    picture = read_picture(PHOTOS / "budgerigar.jpg")
    restored = compact.restore(picture)
    assert (restored.picture.width, restored.picture.height) == (4 * picture.width, 4 * picture.height)
    result, low_quality = to_tensor(restored.picture), to_tensor(picture)
    bicubic = enlarge(low_quality, result.shape[2], result.shape[3], mode="bicubic")

    def detail(image: torch.Tensor) -> float:
        return float(image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean())

    assert detail(result) > 1.1 * detail(bicubic)
    reduced = enlarge(result, picture.height, picture.width, mode="bicubic")
    assert float(psnr_y(reduced, low_quality)) > 26


def test_whole_picture_statistics_are_absent_so_far_pixels_do_not_matter(compact: Restorer) -> None:
    """With equal degrees, changing the right edge leaves the left edge as it was: tiles with a halo are exact."""
    options = RestoreOptions(blur=0.3, noise=0.3, color_match="none")
    pixels = read_picture(PHOTOS / "kitten.jpg").pixels[:32, :160].copy()
    other = pixels.copy()
    other[:, -8:] = 255 - other[:, -8:]
    first, second = (compact.restore(array, options).array for array in (pixels, other))
    assert np.array_equal(first[:, :64], second[:, :64])
    assert not np.array_equal(first[:, -32:], second[:, -32:])


def test_the_degrees_change_the_result(compact: Restorer) -> None:
    photo = PHOTOS / "kitten.jpg"
    low, high = (compact.restore(photo, RestoreOptions(blur=value, noise=value)).array for value in (0.0, 1.0))
    assert np.abs(low.astype(int) - high).mean() > 0.05


def test_the_noise_dial_keeps_grain_at_0_and_removes_it_at_1(compact: Restorer) -> None:
    """Grey with noise of 25 levels; measured on photographs by `benchmarks/compact_report.py --only dial`."""
    noise = np.random.default_rng(0).normal(0, 25, (64, 64, 3))
    pixels = (128 + noise).round().clip(0, 255).astype(np.uint8)
    bicubic = enlarge(to_tensor(from_array(pixels)), 256, 256, mode="bicubic")
    kept, removed = (float(compact.restore(pixels, RestoreOptions(noise=degree)).array.std()) for degree in (0, 1))
    assert kept > 0.75 * 255 * float(bicubic.std())
    assert removed < 0.5 * kept


def test_drawn_edges_overshoot_hardly_more_than_bicubic(compact: Restorer) -> None:
    """Dark bars of several widths on pale ground, far from black and white, so that nothing is clipped.

    Colour matching moves whole areas, and so the limit.
    """
    pixels = np.full((64, 96, 3), 191, dtype=np.uint8)
    for width, left in ((1, 8), (2, 20), (3, 34), (8, 50), (16, 70)):
        pixels[8:56, left : left + width] = 64
    result = compact.restore(pixels, RestoreOptions(color_match="none")).array.astype(int)
    bicubic = 255 * enlarge(to_tensor(from_array(pixels)), 256, 384, mode="bicubic")
    levels = compact.model.config.autoencoder.overshoot_levels
    assert 0 < levels <= 12
    assert result.max() <= float(bicubic.max()) + levels + 1
    assert result.min() >= float(bicubic.min()) - levels - 1


def test_it_has_only_its_stored_prompts(compact: Restorer) -> None:
    with pytest.raises(ModelError, match="stored prompts"):
        compact.restore(PHOTOS / "kitten.jpg", RestoreOptions(positive_prompt="a cat"))


@pytest.mark.shared
@pytest.mark.slow
def test_real_photographs_come_out_as_near_to_the_truth_as_real_esrgans_and_without_a_grid(compact: Restorer) -> None:
    """All 97 real-camera pairs; `benchmarks/quality.py` prints the table, with Real-ESRGAN's figures."""
    figures = json.loads(QUALITY.read_text("utf-8"))["results"]
    real_esrgan, recorded = figures["real-esrgan"], figures["compact"]
    folder: Path = shared_path("data/realsr_pairs")
    try:
        load_perceptual_weights("dists")
    except MissingExtraError as error:
        pytest.skip(str(error))
    lpips, dists = LPIPS("alex"), DISTS()
    paths = list_pictures(folder / "lr")
    scores, contrasts = [], []
    with torch.inference_mode():
        for path in paths:
            restored, truth = (
                to_tensor(compact.restore(path).picture),
                to_tensor(read_picture(folder / "hr" / path.name)),
            )
            values = psnr_y(restored, truth), lpips(2 * restored - 1, 2 * truth - 1), dists(restored, truth)
            scores.append([float(value) for value in values])
            contrasts.append(grid_contrasts(restored))
    of_psnr_y, of_lpips, of_dists = np.mean(scores, axis=0)
    assert of_psnr_y >= 27.0
    assert of_lpips <= real_esrgan["lpips_alex"]
    assert of_dists <= real_esrgan["dists"]
    assert of_lpips == pytest.approx(recorded["lpips_alex"], abs=ROUNDING)
    assert of_dists == pytest.approx(recorded["dists"], abs=ROUNDING)
    assert grid_measure(contrasts).contrast <= 1.5
    assert np.mean([grid_measure([of_one]).contrast for of_one in contrasts]) <= 1.5, "the mean of the pictures' own"
    assert grid_measure(contrasts[:: len(paths) // NUM_PAIRS][:NUM_PAIRS]).contrast <= 1.5, "the pairs with large print"
