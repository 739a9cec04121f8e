"""Options as frozen values. No torch here: the command's help and the option checks start instantly."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from s3diff.errors import OptionError

ColorMatch = Literal["wavelet", "adain", "none"]
Latent = Literal["mean", "sample"]
Upsampling = Literal["bilinear", "bicubic"]
Grey = Literal["auto", "keep", "color"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

#: No option is meant to be larger; whole numbers above 1e308 are no floats at all.
_LARGEST = 1e9

#: Largest output in pixels: 16384 x 16384. A result is held in memory, 3 or 6 bytes per pixel, and little else is.
MAX_OUTPUT_PIXELS = 16384 * 16384
#: Smallest tile that can be asked for, in pixels of the output: room for its halos.
MIN_TILE_PX = 256


@dataclass(frozen=True, kw_only=True)
class ReleasedTiles:
    """The tile sizes of the released S3Diff code: with them its tiled results are reproduced, seams included.

    Attributes:
        latent: side of a UNet tile, in latents; larger latents are tiled.
        latent_overlap: of neighbouring UNet tiles. Where a picture is so thin that the release would never end, the
            overlap is half of the tile.
        encoder_px: side of an encoder tile without its padding of 32 px.
        decoder: side of a decoder tile in latents without its padding of 11.

    Raises:
        OptionError: a side below 1, or an overlap below 0.
    """

    latent: int = 96
    latent_overlap: int = 32
    encoder_px: int = 1024
    decoder: int = 224

    def __post_init__(self) -> None:
        if min(self.latent, self.encoder_px, self.decoder) < 1 or self.latent_overlap < 0:
            raise OptionError(f"released tiles are {self}; give sides of 1 or more and an overlap of 0 or more")


@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """How one picture is restored. Values are checked when the object is made.

    Numbers may be numpy's and a size may be a list; they are kept as Python's own.

    Attributes:
        scale: output side over input side, any number above 0 (ignored when ``size`` is given).
        size: exact output size (width, height) in pixels; replaces ``scale``.
        guidance: weight of the positive against the negative prompt (classifier-free guidance);
            at exactly 1 the negative pass is not run.
        positive_prompt: None for the model's stored prompt.
        negative_prompt: None for the model's stored prompt.
        color_match: take the colours of the enlarged input by ``wavelet`` (lowest band), ``adain``
            (mean and standard deviation) or ``none``.
        blur: blur degree in [0, 1] that replaces the estimated one: 0 sharp, 1 the strongest blur.
        noise: noise degree in [0, 1] that replaces the estimated one.
        latent: ``mean`` of the encoder's Gaussian (deterministic) or a ``sample`` drawn with ``seed``.
        seed: seed of that draw; used by ``sample`` alone.
        upsampling: filter that enlarges the input; None for the one the model was made for
            (the S3Diff release restores with ``bilinear`` and trains with ``bicubic``).
        grey: what a grey input becomes: ``keep`` grey, ``color`` as the S3Diff release writes it, or ``auto``: grey
            unless the model put real colour into it, which a written grey picture would lose.
        tile: largest side of a tile in pixels of the output; ``auto`` chooses by the free memory, ``off`` restores the
            picture at once.
        released_tiles: cut as the released S3Diff code does, seams included, instead of ``tile``; None for our own way.
        max_output_pixels: largest output accepted, in pixels.

    Raises:
        OptionError: a value is outside what it allows.
    """

    scale: float = 4.0
    size: tuple[int, int] | None = None
    guidance: float = 1.07
    positive_prompt: str | None = None
    negative_prompt: str | None = None
    color_match: ColorMatch = "wavelet"
    blur: float | None = None
    noise: float | None = None
    latent: Latent = "mean"
    seed: int = 0
    upsampling: Upsampling | None = None
    grey: Grey = "auto"
    tile: int | Literal["auto", "off"] = "auto"
    released_tiles: ReleasedTiles | None = None
    max_output_pixels: int = MAX_OUTPUT_PIXELS

    def __post_init__(self) -> None:
        self._keep_number("scale", "a number above 0, such as 4 or 2.5", above=0)
        if self.size is not None:
            object.__setattr__(self, "size", _checked_size(self.size))
        self._keep_number("guidance", "a finite number; 1.07 is the method's, 1 skips the negative pass")
        for name in ("blur", "noise"):
            if getattr(self, name) is not None:
                self._keep_number(name, "a degree from 0 to 1, or nothing to use the estimate", low=0, high=1)
        for name in ("positive_prompt", "negative_prompt"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise OptionError(f"{name} is {value!r}; give a text, or nothing to use the model's own prompt")
        _require_choice("color_match", self.color_match, get_args(ColorMatch))
        _require_choice("latent", self.latent, get_args(Latent))
        _require_choice("grey", self.grey, get_args(Grey))
        if self.upsampling is not None:
            _require_choice("upsampling", self.upsampling, get_args(Upsampling))
        self._keep_tile()
        self._keep_integer("seed", low=0, high=2**63 - 1)
        self._keep_integer("max_output_pixels", low=1, high=2**63 - 1)

    def _keep_number(
        self,
        name: str,
        allowed: str,
        *,
        above: float | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        value = getattr(self, name)
        number = _real(value)
        ok = abs(number) <= _LARGEST and (above is None or number > above)
        ok = ok and (low is None or number >= low) and (high is None or number <= high)
        if not ok:
            raise OptionError(f"{name} is {value!r}; give {allowed}")
        object.__setattr__(self, name, number)

    def _keep_integer(self, name: str, *, low: int, high: int) -> None:
        value = getattr(self, name)
        whole = _whole(value)
        if whole is None or not low <= whole <= high:
            raise OptionError(f"{name} is {value!r}; give a whole number from {low} to {high}")
        object.__setattr__(self, name, whole)

    def _keep_tile(self) -> None:
        if self.released_tiles is not None and not isinstance(self.released_tiles, ReleasedTiles):
            raise OptionError(f"released_tiles is {self.released_tiles!r}; give ReleasedTiles(), or nothing")
        if self.tile in ("auto", "off"):
            return
        side = _whole(self.tile)
        if side is None or not MIN_TILE_PX <= side <= _LARGEST:
            raise OptionError(f"tile is {self.tile!r}; give auto, off, or a side of at least {MIN_TILE_PX} px")
        object.__setattr__(self, "tile", side)

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """The output's (width, height) in pixels for an input of that size, at least 1 x 1."""
        if self.size is not None:
            return self.size
        return max(1, round(width * self.scale)), max(1, round(height * self.scale))


def _require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} is {value!r}; give one of {', '.join(choices)}")


def _real(value: Any) -> float:
    """A number of whatever type as Python's float, NaN for anything else; True is none here."""
    try:
        return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def _whole(value: Any) -> int | None:
    """A whole number of whatever type as Python's, None for anything else; True is none here."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _checked_size(size: Any) -> tuple[int, int]:
    is_sequence = isinstance(size, Sequence) or hasattr(size, "__array__")
    sides = [_whole(side) for side in size] if is_sequence and not isinstance(size, str | bytes) else []
    if len(sides) != 2 or sides[0] is None or sides[1] is None or min(sides[0], sides[1]) < 1:
        raise OptionError(f"size is {size!r}; give whole pixels above 0: (1920, 1080), or 1920x1080 to --size")
    return sides[0], sides[1]
