"""Restoration options: every field's allowed and refused values, and the sizes that they lead to."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3diff.errors import OptionError, S3DiffError
from s3diff.option_keywords import RestoreChanges
from s3diff.options import MAX_OUTPUT_PIXELS, RANGES, OutputOptions, RestoreOptions, choices_of
from s3diff.restoration.sizes import sizes_of
from s3diff.video_options import VideoOptions

ALLOWED: dict[str, list[Any]] = {
    "scale": [4, 2.5, 1, 0.01, 1e-300, np.float64(3), np.float32(2.5), np.int64(2), Fraction(5, 2)],
    "size": [None, (1, 1), (1920, 1080)],  # other sequences: below
    "size_mode": ["stretch", "fit", "fill"],
    "long_side": [None, 1, 4096, np.int64(7)],
    "megapixels": [None, 24, 0.5, np.float32(2.5)],
    "restore_at": ["auto", "model", "output"],
    "strength": [0, 1, 0.5, np.float32(0.5)],
    "lora_scale": [0, 1, 2, np.float32(0.5)],
    "decoder": ["model", "tiny"],
    "alpha": ["guided", "bicubic"],
    "pages": ["all", "1", "1,3-5", "2-"],
    "guidance": [None, 1.07, 1, 0, -3.5, 12, np.float16(1.5)],
    "positive_prompt": [None, "", "a photograph", "日本"],
    "negative_prompt": [None, "", "blur"],
    "color_match": ["wavelet", "adain", "none"],
    "blur": [None, 0, 1, 0.5, np.float32(0.5), "+0.2", "-1"],
    "noise": [None, 0, 1, 0.25, "-0.1", "+0"],
    "latent": ["mean", "sample"],
    "seed": [0, 1, 2**63 - 1, np.uint8(3), np.int64(4)],
    "upsampling": [None, "bilinear", "bicubic"],
    "grey": ["auto", "keep", "color"],
    "tile": ["auto", "off", 256, np.int64(4096)],
    "released_tiles": [None],
    "max_output_pixels": [1, 10**9, np.int32(5)],
    "max_input_pixels": [1, 10**9, np.int32(5)],
    "max_file_bytes": [1, 10**12, np.int64(5)],
}
REFUSED: dict[str, list[Any]] = {
    "scale": [0, -1, -0.0, math.nan, math.inf, -math.inf, 1e308, 10**400, "4", None, True, (4, 4), np.float32(0)],
    "size": [(0, 5), (5, -1), (5,), (5, 5, 5), (5.0, 5), (True, 5), [5, 0], [5], "5x5", "55", b"55", 5, {5, 6}],
    "guidance": [math.nan, math.inf, 1e38, -(10**400), "1", False, np.True_, 2j],
    "positive_prompt": [3, b"text", ["text"]],
    "negative_prompt": [3, b"text", ["text"]],
    "color_match": ["", "Wavelet", None, 1, []],
    "size_mode": ["crop", None, 1],
    "long_side": [0, -1, 1.5, "1", True, 10**10],
    "megapixels": [0, -1, math.nan, math.inf, "1", True],
    "restore_at": ["input", None, 4],
    "strength": [-0.01, 1.01, math.nan, None, "1", True],
    "lora_scale": [-0.01, 2.01, math.nan, None, "1", True],
    "decoder": ["", None, "taesd"],
    "alpha": ["", None, "linear"],
    "pages": ["", "0", "3-1", "one", 1, None],
    "blur": [-0.01, 1.01, 2, math.nan, "0.5", True, "+1.1", "+", "-nan", "++0.1", "+0.1x", "+1e-1", "", "+٣"],
    "noise": [-0.01, 1.01, 2, math.nan, "0.5", True, "-2"],
    "latent": ["", "mode", None, 0],
    "seed": [-1, 2**63, 1.0, "1", None, True, np.float64(1), np.int8(-1)],
    "upsampling": ["nearest", "", 1],
    "grey": ["gray", None, True],
    "tile": ["", "on", 255, 1.5, None, True],
    "released_tiles": [True, 3, "yes"],
    "max_output_pixels": [0, -1, 1.5, math.inf, None, True],
    "max_input_pixels": [0, -1, 1.5, math.inf, None, True],
    "max_file_bytes": [0, -1, 1.5, math.inf, None, True],
}


def test_every_field_is_tried() -> None:
    names = {field.name for field in dataclasses.fields(RestoreOptions)}
    assert set(ALLOWED) == set(REFUSED) == names


def test_every_field_has_its_range_or_choices() -> None:
    """What has neither is checked by lines of its own."""
    for options, own in (
        (RestoreOptions, {"size", "positive_prompt", "negative_prompt", "tile", "released_tiles", "pages"}),
        (OutputOptions, {"format", "name"}),
        (VideoOptions, {"pixel_format"}),
    ):
        names = {field.name for field in dataclasses.fields(options) if field.type != "bool"}
        assert names - set(RANGES) - set(choices_of(options)) == own


def test_keyword_arguments_have_the_fields_types() -> None:
    """A type checker needs them written out; what it is told must be what holds."""
    assert get_type_hints(RestoreChanges) == get_type_hints(RestoreOptions)
    assert not RestoreChanges.__required_keys__


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
    assert (options.scale, options.guidance, options.color_match, options.latent) == (4.0, None, "wavelet", "mean")
    assert options.max_output_pixels == MAX_OUTPUT_PIXELS == 268_435_456
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
        (RestoreOptions(size=(24, 24), size_mode="fit"), (24, 18)),
        (RestoreOptions(size=(100, 9), size_mode="fit"), (12, 9)),
        (RestoreOptions(size=(24, 24), size_mode="fill"), (24, 24)),
        (RestoreOptions(long_side=7), (7, 5)),
        (RestoreOptions(megapixels=108e-6), (12, 9)),
        (RestoreOptions(megapixels=0.0012), (40, 30)),
    ],
)
def test_output_size(options: RestoreOptions, size: tuple[int, int]) -> None:
    assert options.output_size(12, 9) == size


@pytest.mark.parametrize(
    ("options", "uncut", "working"),
    [
        (RestoreOptions(), (48, 36), (48, 36)),
        (RestoreOptions(scale=2.5), (30, 22), (48, 36)),
        (RestoreOptions(scale=8), (96, 72), (96, 72)),
        (RestoreOptions(scale=8, restore_at="model"), (96, 72), (48, 36)),
        (RestoreOptions(scale=2.5, restore_at="output"), (30, 22), (30, 22)),
        (RestoreOptions(scale=2.5, max_output_pixels=48 * 36 - 1), (30, 22), (30, 22)),
        (RestoreOptions(size=(24, 24), size_mode="fill"), (32, 24), (48, 36)),
        (RestoreOptions(size=(7, 100)), (7, 100), (48, 36)),
    ],
)
def test_where_the_networks_work(options: RestoreOptions, uncut: tuple[int, int], working: tuple[int, int]) -> None:
    assert sizes_of((12, 9), options).uncut == uncut
    assert sizes_of((12, 9), options).working == working


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 9000), st.integers(1, 9000))
def test_sizes_asked_for_are_met(width: int, height: int, asked_width: int, asked_height: int) -> None:
    asked = (asked_width, asked_height)
    fitted = RestoreOptions(size=asked, size_mode="fit").output_size(width, height)
    assert fitted[0] == asked_width or fitted[1] == asked_height
    assert fitted[0] <= asked_width
    assert fitted[1] <= asked_height
    filled = RestoreOptions(size=asked, size_mode="fill")
    assert filled.output_size(width, height) == asked
    assert all(side >= wanted for side, wanted in zip(sizes_of((width, height), filled).uncut, asked, strict=True))
    assert max(RestoreOptions(long_side=asked_width).output_size(width, height)) == asked_width


def test_only_one_size_can_be_asked_for() -> None:
    for given_ in ({"size": (3, 3), "long_side": 9}, {"long_side": 9, "megapixels": 1}):
        with pytest.raises(OptionError, match="give one of them"):
            RestoreOptions(**given_)  # type: ignore[arg-type]


def test_degrees_are_set_or_moved() -> None:
    options = RestoreOptions(blur=0.25, noise="+0.2")
    assert options.degree("blur", 0.9) == 0.25
    assert options.degree("noise", 0.5) == 0.7
    assert options.degree("noise", 0.9) == 1
    assert RestoreOptions(noise=" -.30 ").noise == "-0.3"
    assert RestoreOptions(noise="-0.3").degree("noise", 0.1) == 0
    assert RestoreOptions().degree("blur", 0.123) == 0.123


@given(st.floats(1e-6, 1e6), st.integers(1, 10_000), st.integers(1, 10_000))
def test_output_size_of_any_scale(scale: float, width: int, height: int) -> None:
    sides = RestoreOptions(scale=scale).output_size(width, height)
    for side, side_before in zip(sides, (width, height), strict=True):
        assert side >= 1
        assert abs(side - max(1.0, side_before * scale)) <= 0.5
