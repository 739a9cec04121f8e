"""Steady videos: motion is found, what is the same is blended, what is new leaves no trail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import REPOSITORY
from s3diff.restoration.video_steadiness import Steady, agreement, find_motion, move

PHOTO = REPOSITORY / "assets/photos/budgerigar.jpg"
needs_photo = pytest.mark.skipif(not PHOTO.is_file(), reason="needs the pictures of the repository")
SIDE = 96


def photo(left: int, top: int) -> np.ndarray:
    """A part of a photograph, [SIDE, SIDE, 3]."""
    return np.asarray(Image.open(PHOTO).convert("RGB").crop((left, top, left + SIDE, top + SIDE)))


def small(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None]


@needs_photo
def test_the_motion_is_found() -> None:
    new, old = tensor(photo(63, 62)), tensor(photo(60, 60))
    motion = find_motion(new.mean(dim=1, keepdim=True), old.mean(dim=1, keepdim=True))
    inner = motion[0, :, 16:-16, 16:-16].flatten(1)
    assert inner.median(dim=1).values.tolist() == pytest.approx([3, 2], abs=0.1)
    assert (move(old, motion) - new).abs().mean() < 0.25 * (old - new).abs().mean()


@needs_photo
def test_what_stands_still_shimmers_less() -> None:
    """Noise of the result falls, and what it shows stays."""
    truth, random = photo(60, 60), np.random.default_rng(0)
    steady = Steady(0.5, torch.device("cpu"))
    noisy = [(truth + random.normal(0, 8, truth.shape)).clip(0, 255).round().astype(np.uint8) for _ in range(8)]
    made = [steady.steadied(small(truth), each) for each in noisy]
    assert np.array_equal(made[0], noisy[0])
    errors = [np.abs(each.astype(int) - truth).mean() for each in (noisy[-1], made[-1])]
    # With a share of 0.5 the noise's variance falls to a third.
    assert errors[1] == pytest.approx(errors[0] / np.sqrt(3), rel=0.08)


@needs_photo
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_new_leaves_no_trail(dtype: type) -> None:
    """A bright square jumps over a picture that stands still: where it was, and where it is, is the new frame."""
    full = np.iinfo(dtype).max // 255
    steady, truths = Steady(0.9, torch.device("cpu")), []
    for place in (8, 56):
        truth = photo(60, 60).copy()
        truth[32:64, place : place + 32] = (250, 250, 20)
        truths.append(truth)
        made = steady.steadied(small(truth).astype(dtype) * full, truth.astype(dtype) * full)
    assert made.dtype == dtype
    difference = np.abs(made / full - truths[1])
    assert difference[36:60, 12:36].mean() < 3
    assert difference[36:60, 60:84].mean() < 3


@needs_photo
def test_the_middle_part_moves_as_the_whole() -> None:
    """Results of ``fill`` are the middle of the input's: a pan is followed there, and nothing comes from outside."""
    distances = {}
    for height in (SIDE, 32):
        steady, top = Steady(0.9, torch.device("cpu"), (SIDE, SIDE)), (SIDE - height) // 2
        for step in range(3):
            truth = photo(60 + 8 * step, 60 + 4 * step)
            fresh = truth[top : top + height]
            made = steady.steadied(small(truth), fresh)
        distances[height] = np.abs(made.astype(int) - fresh).mean(axis=(1, 2))
    assert distances[32].mean() < 1.1 * distances[SIDE][32:64].mean()
    assert distances[32][-4:].mean() < 0.3 * distances[32].mean()


@needs_photo
def test_nothing_agrees_with_another_scene() -> None:
    new, old = tensor(photo(0, 0)), tensor(255 - photo(140, 140))
    motion = find_motion(new.mean(dim=1, keepdim=True), old.mean(dim=1, keepdim=True))
    assert agreement(new, old, motion).mean() < 0.05
    away = torch.full((1, 2, SIDE, SIDE), 2.0 * SIDE)
    assert agreement(new, new, away).max() == 0
    assert agreement(new, new, torch.zeros(1, 2, SIDE, SIDE)).min() == 1


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (17, 5)])
def test_the_smallest_frames(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    steady = Steady(0.5, torch.device("cpu"))
    for _ in range(2):
        given = random.integers(0, 256, (*size, 3), np.uint8)
        made = steady.steadied(given, given.repeat(4, axis=0).repeat(4, axis=1))
        assert made.shape == (4 * size[0], 4 * size[1], 3)


def test_apples_devices_are_left_out() -> None:
    """Not every torch samples bicubically there: the result is the CPU's, also on a machine without one."""
    random = np.random.default_rng(0)
    pairs = [[random.integers(0, 256, (side, side, 3), np.uint8) for side in (16, 32)] for _ in range(2)]
    by_cpu, by_apple = (Steady(0.5, torch.device(name)) for name in ("cpu", "mps"))
    for pair in pairs:
        assert np.array_equal(by_apple.steadied(*pair), by_cpu.steadied(*pair))


def test_a_new_scene_and_no_share() -> None:
    random = np.random.default_rng(0)
    given, one, two = (random.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(3))
    for share, forgets in ((0.5, True), (0.0, False)):
        steady = Steady(share, torch.device("cpu"))
        steady.steadied(given, one)
        if forgets:
            steady.forget()
        assert np.array_equal(steady.steadied(given, two), two)
