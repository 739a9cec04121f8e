"""The embedded model: what the package must hold, and that it does what a model is for.

How good it is, `benchmarks/quality.py --check` measures and compares with the recorded figures.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import REPOSITORY
from s3diff import RestoreOptions, Restorer
from s3diff.checkpoints.registry import NAMED_MODELS
from s3diff.errors import ModelError
from s3diff.evaluation.psnr_ssim import psnr_y
from s3diff.images.files.reading import read_picture
from s3diff.images.picture import to_tensor
from s3diff.images.resampling import enlarge
from s3diff.training.recipes import compact_generator

MAX_PACKAGE_BYTES = 20 * 10**6
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
    """Grey with noise of 25 levels; `benchmarks/compact_report.py --only dial` measures how well, on photographs."""
    noise = np.random.default_rng(0).normal(0, 25, (64, 64, 3))
    pixels = (128 + noise).round().clip(0, 255).astype(np.uint8)
    kept, removed = (float(compact.restore(pixels, RestoreOptions(noise=degree)).array.std()) for degree in (0, 1))
    assert removed < 0.5 * kept


def test_it_has_only_its_stored_prompts(compact: Restorer) -> None:
    with pytest.raises(ModelError, match="stored prompts"):
        compact.restore(PHOTOS / "kitten.jpg", RestoreOptions(positive_prompt="a cat"))
