"""Restoration options: every field's allowed and refused values, and the sizes that they lead to."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3diff.errors import OptionError, S3DiffError
from s3diff.options import MAX_OUTPUT_PIXELS, RestoreOptions

ALLOWED: dict[str, list[Any]] = {
    "scale": [4, 2.5, 1, 0.01, 1e-300, np.float64(3), np.float32(2.5), np.int64(2), Fraction(5, 2)],
    "size": [None, (1, 1), (1920, 1080)],  # other sequences: below
    "guidance": [1.07, 1, 0, -3.5, 12, np.float16(1.5)],
    "positive_prompt": [None, "", "a photograph", "日本"],
    "negative_prompt": [None, "", "blur"],
    "color_match": ["wavelet", "adain", "none"],
    "blur": [None, 0, 1, 0.5, np.float32(0.5)],
    "noise": [None, 0, 1, 0.25],
    "latent": ["mean", "sample"],
    "seed": [0, 1, 2**63 - 1, np.uint8(3), np.int64(4)],
    "upsampling": [None, "bilinear", "bicubic"],
    "grey": ["auto", "keep", "color"],
    "max_output_pixels": [1, 10**9, np.int32(5)],
}
REFUSED: dict[str, list[Any]] = {
    "scale": [0, -1, -0.0, math.nan, math.inf, -math.inf, 1e308, 10**400, "4", None, True, (4, 4), np.float32(0)],
    "size": [(0, 5), (5, -1), (5,), (5, 5, 5), (5.0, 5), (True, 5), [5, 0], [5], "5x5", "55", b"55", 5, {5, 6}],
    "guidance": [math.nan, math.inf, 1e38, -(10**400), "1", None, False, np.True_, 2j],
    "positive_prompt": [3, b"text", ["text"]],
    "negative_prompt": [3, b"text", ["text"]],
    "color_match": ["", "Wavelet", None, 1, []],
    "blur": [-0.01, 1.01, 2, math.nan, "0.5", True],
    "noise": [-0.01, 1.01, 2, math.nan, "0.5", True],
    "latent": ["", "mode", None, 0],
    "seed": [-1, 2**63, 1.0, "1", None, True, np.float64(1), np.int8(-1)],
    "upsampling": ["nearest", "", 1],
    "grey": ["gray", None, True],
    "max_output_pixels": [0, -1, 1.5, math.inf, None, True],
}


def test_every_field_is_tried() -> None:
    names = {field.name for field in dataclasses.fields(RestoreOptions)}
    assert set(ALLOWED) == set(REFUSED) == names


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ALLOWED.items() for value in values])
def test_allowed(name: str, value: Any) -> None:
    kept = getattr(RestoreOptions(**{name: value}), name)
    assert kept == value
    assert type(kept) in (float, int, str, tuple, type(None)), "Python's own, whatever was given"


@pytest.mark.parametrize("size", [[20, 30], np.array([20, 30]), (np.int64(20), np.uint16(30)), range(20, 31, 10)])
def test_a_size_is_kept_as_two_python_numbers(size: Any) -> None:
    options = RestoreOptions(size=size)
    assert options.size == (20, 30)
    assert [type(side) for side in options.size or ()] == [int, int]
    assert hash(options) == hash(RestoreOptions(size=(20, 30)))
    assert options.output_size(1, 1) == (20, 30)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_refused_in_one_line_that_names_field_and_value(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as error:
        RestoreOptions(**{name: value})
    text = str(error.value)
    assert text.startswith(f"{name} is {value!r}; give ")
    assert "\n" not in text


def test_an_option_error_is_a_value_error_and_an_s3diff_error() -> None:
    assert issubclass(OptionError, ValueError)
    assert issubclass(OptionError, S3DiffError)


def test_defaults_are_the_methods() -> None:
    options = RestoreOptions()
    assert (options.scale, options.guidance, options.color_match, options.latent) == (4.0, 1.07, "wavelet", "mean")
    assert options.max_output_pixels == MAX_OUTPUT_PIXELS == 16_777_216
    assert options.blur is options.noise is options.upsampling is options.size is None


def test_options_are_values() -> None:
    options = RestoreOptions(scale=2)
    assert options == RestoreOptions(scale=2)
    assert hash(options) == hash(RestoreOptions(scale=2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.scale = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        RestoreOptions(2)  # type: ignore[call-arg,misc]
    with pytest.raises(OptionError, match="scale"):
        dataclasses.replace(options, scale=-1)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (RestoreOptions(), (48, 36)),
        (RestoreOptions(scale=1), (12, 9)),
        (RestoreOptions(scale=2.5), (30, 22)),  # 22.5 to the even neighbour
        (RestoreOptions(scale=0.5), (6, 4)),
        (RestoreOptions(scale=0.01), (1, 1)),
        (RestoreOptions(size=(7, 100)), (7, 100)),
        (RestoreOptions(size=(7, 100), scale=9), (7, 100)),
    ],
)
def test_output_size(options: RestoreOptions, size: tuple[int, int]) -> None:
    assert options.output_size(12, 9) == size


@given(st.floats(1e-6, 1e6), st.integers(1, 10_000), st.integers(1, 10_000))
def test_output_size_of_any_scale(scale: float, width: int, height: int) -> None:
    sides = RestoreOptions(scale=scale).output_size(width, height)
    for side, side_before in zip(sides, (width, height), strict=True):
        assert side >= 1
        assert abs(side - max(1.0, side_before * scale)) <= 0.5
