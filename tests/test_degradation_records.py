"""Draws written down as JSON and read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from s3diff.degradation.application import DegradationDraw, apply
from s3diff.degradation.records import from_records, to_records
from s3diff.degradation.settings import PRESETS
from s3diff.degradation.synthesis import draw
from s3diff.degradation.variants import extreme, with_stronger_blur, with_stronger_noise
from s3diff.errors import OptionError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same(first: object, second: object, where: str) -> None:
    assert type(first) is type(second), where
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, tuple):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    elif is_dataclass(first):
        for item in fields(first):
            assert_same(getattr(first, item.name), getattr(second, item.name), f"{where}.{item.name}")
    else:
        assert first == second, where


def through_json(drawn: DegradationDraw) -> DegradationDraw:
    return from_records(json.loads(json.dumps(to_records(drawn), allow_nan=False)), drawn.settings)


@pytest.mark.parametrize("like_release", [False, True])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_field_comes_back_and_gives_the_same_bits(preset: str, like_release: bool) -> None:
    settings = replace(PRESETS[preset], like_release=like_release)
    ground_truth = torch.rand(5, 3, 64, 96, generator=generator())
    for seed in range(4):
        drawn = draw(settings, 5, 64, 96, 4, generator(seed))
        back = through_json(drawn)
        assert_same(back, drawn, "draw")
        assert torch.equal(apply(ground_truth, back), apply(ground_truth, drawn))


def test_a_record_of_one_image_is_that_image() -> None:
    drawn = draw(PRESETS["s3diff"], 3, 64, 64, 4, generator())
    for row, record in enumerate(to_records(drawn)):
        assert_same(from_records([record], drawn.settings), drawn.rows(row, row + 1), f"row {row}")


def test_the_variants_of_the_estimators_training_come_back() -> None:
    settings = PRESETS["realesrgan"]
    drawn = draw(settings, 4, 64, 64, 4, generator())
    for variant in (
        with_stronger_blur(drawn, generator(1)),
        with_stronger_noise(drawn, generator(1)),
        extreme(settings, 4, 64, 64, 4, generator(1)),
        draw(replace(settings, clean_probability=1.0), 4, 64, 64, 4, generator(1)),
    ):
        assert_same(through_json(variant), variant, "draw")


def set_in(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        inner: Any = record
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return change


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda record: record.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("noise_seed"), "a record lacks noise_seed"),
        (set_in("more", to=1), "unknown field more"),
        (set_in("noise_seed", to=2**63), "noise_seed is 9223372036854775808; give a whole number"),
        (set_in("noise_seed", to=1.5), "noise_seed is 1.5"),
        (set_in("jpeg_is_last", to=1), "jpeg_is_last is 1; give true or false"),
        (set_in("final_mode", to="lanczos"), "final_mode is 'lanczos'; give one of area"),
        (set_in("final_mode", to=["area"]), "final_mode is \\['area'\\]"),
        (set_in("stages", to=[{}]), "stages is no list of 2"),
        (set_in("stages", 0, to=3), r"stages\[0\] is 3; give an object"),
        (set_in("stages", 0, "size_px", to=[5, 64]), r"stages\[0\].size_px is 5; give a whole number from 11"),
        (set_in("stages", 1, "size_px", to=64), r"stages\[1\].size_px is 64; give height and width"),
        (set_in("stages", 1, "jpeg_quality", to=0.5), r"stages\[1\].jpeg_quality is between 0 and 1"),
        (set_in("stages", 1, "noise_strength", to=float("nan")), r"stages\[1\].noise_strength is nan"),
        (set_in("stages", 1, "blur", "family", to="round"), r"stages\[1\].blur.family is 'round'"),
        (set_in("final_sinc", "side_px", to=8), "final_sinc.side_px is .*; give odd sides"),
        (set_in("final_sinc", "beta", to=0), "final_sinc.beta is 0; give a number from 0.001"),
    ],
)
def test_a_damaged_record_gets_one_line(change: Callable[[dict[str, Any]], None], message: str) -> None:
    record = to_records(draw(PRESETS["s3diff"], 1, 64, 64, 4, generator()))[0]
    change(record)
    with pytest.raises(OptionError, match=message) as caught:
        from_records([record], PRESETS["s3diff"])
    assert "\n" not in str(caught.value)


def test_records_of_different_batches_do_not_go_together() -> None:
    first, second = (draw(PRESETS["s3diff"], 1, 64, side, 4, generator()) for side in (64, 96))
    with pytest.raises(OptionError, match="ground_truth_size_px differs"):
        from_records(to_records(first) + to_records(second), PRESETS["s3diff"])
    with pytest.raises(OptionError, match="0 records"):
        from_records([], PRESETS["s3diff"])
