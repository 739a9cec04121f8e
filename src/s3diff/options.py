"""Hold options as frozen values. No torch here: the command's help and the option checks start instantly."""

from __future__ import annotations

import copy
import functools
import math
import numbers
import operator
import re
import string
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from s3diff.errors import OptionError
from s3diff.formats import OUTPUT_FORMATS

ColorMatch = Literal["wavelet", "adain", "none"]
Latent = Literal["mean", "sample"]
Upsampling = Literal["bilinear", "bicubic"]
Grey = Literal["auto", "keep", "color"]
SizeMode = Literal["stretch", "fit", "fill"]
RestoreAt = Literal["auto", "model", "output"]
Alpha = Literal["guided", "bicubic"]
Decoder = Literal["model", "tiny"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
#: Runtimes of the networks; ``auto`` is OpenVINO where that was measured to be faster, else torch.
Backend = Literal["torch", "openvino", "onnxruntime", "auto"]
#: Presets of degradations; ``s3diff.degradation.settings`` holds their ranges.
Preset = Literal["realesrgan", "s3diff", "mild", "camera", "sharpened", "processed", "grainy", "bicubic"]

#: Largest output in pixels: 16384 x 16384. A result is held in memory, 3 or 6 bytes per pixel, and little else is.
MAX_OUTPUT_PIXELS = 16384 * 16384
#: Largest picture read into memory, in pixels: 8192 x 8192, below Pillow's own warning limit.
MAX_PICTURE_PIXELS = 8192 * 8192
#: Largest picture file read into memory, in bytes: room for any picture of so many pixels, uncompressed with 16 bits.
MAX_FILE_BYTES = 10**9
#: Smallest tile that can be asked for, in pixels of the output: room for its halos.
MIN_TILE_PX = 256
#: Value of ``RestoreOptions.pages`` for all pages.
ALL_PAGES = "all"


@dataclass(frozen=True, kw_only=True)
class ReleasedTiles:
    """Hold the released code's tile sizes, which reproduce its tiled results, seams included.

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


#: Options that decide whether a picture is restored, never how its result looks.
LIMITS = ("max_output_pixels", "max_input_pixels", "max_file_bytes")
#: Output side over input side that the method is trained for.
METHOD_SCALE = 4

#: Upper limit of all options: larger whole numbers may not fit into a float.
_LARGEST = 1e9
_DEGREE = (
    "a degree from 0 to 1, or a signed text such as '+0.2' or '-0.1' that is added to the estimate, or nothing to use "
    "the estimate"
)


class Range(NamedTuple):
    """Describe the numbers that an option allows, besides None as a default, from ``low`` to ``high``.

    ``words`` are the allowed values, for messages; empty for whole numbers. If ``is_open``, ``low`` is not allowed.
    """

    low: float
    high: float
    words: str = ""
    is_open: bool = False


#: Ranges of all numeric options.
RANGES: Mapping[str, Range] = {
    "scale": Range(0, _LARGEST, "a number above 0, such as 4 or 2.5", is_open=True),
    "long_side": Range(1, int(_LARGEST)),
    "megapixels": Range(0, _LARGEST, "a number above 0, such as 24", is_open=True),
    "guidance": Range(-_LARGEST, _LARGEST, "a finite number; 1.07 is the S3Diff release's, 1 skips the negative pass"),
    "blur": Range(0, 1, _DEGREE),
    "noise": Range(0, 1, _DEGREE),
    "strength": Range(0, 1, "a number from 0, the enlarged input, to 1"),
    "lora_scale": Range(0, 2, "a number from 0, the base model, to 2; 1 is as trained"),
    "seed": Range(0, 2**63 - 1),
    "quality": Range(1, 100),
    # Of a larger share of the result before a frame hardly shows anything of its own.
    "steady": Range(0, 0.9, "a share from 0 to 0.9"),
    "batch": Range(1, 48),
    **{name: Range(1, 2**63 - 1) for name in LIMITS},
}


@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """Hold how one picture is restored. Values are validated here, and kept as Python's own types.

    Attributes:
        scale: how many times larger each side becomes, any number above 0, such as 2.5; 1 keeps the size.
        size: output size in pixels, (width, height), such as 3840x2160; replaces the scale.
        size_mode: how a picture of other proportions comes to that size: ``stretch`` changes its proportions, ``fit``
            keeps them inside that size (one side may become smaller), ``fill`` cuts the excess, evenly on both
            sides.
        long_side: longer side of the output in pixels, such as 4096; replaces the scale.
        megapixels: area of the output in millions of pixels, such as 24, met as nearly as whole sides allow; replaces
            the scale.
        restore_at: the size at which the networks work: ``model``, four times the input's, which they were trained
            for, and the result is resampled to the output's size; ``output``, the output's own, which is faster below
            a scale of 4 and worse; ``auto``, the larger of both, as long as the limit of the output's pixels allows.
        guidance: weight of the positive against the negative prompt (classifier-free guidance): more is crisper and
            less true; 1 leaves out the pass for the negative prompt, and its time. Nothing for the model's own: 1.07 of
            the S3Diff release, 1 of ``compact``.
        positive_prompt: description of a good result, for models with a text encoder; nothing for the model's own.
        negative_prompt: description of a bad result, for models with a text encoder; nothing for the model's own.
        color_match: how the colours of the enlarged input are kept: by ``wavelet`` (lowest band), ``adain`` (mean and
            standard deviation), or not at all (``none``).
        blur: how blurred the input is, from 0, sharp, to 1, in place of the estimate; or, with a sign such as +0.2 or
            -0.1, a number that is added to the estimate. More sharpens more.
        noise: how noisy the input is, from 0 to 1, in place of the estimate; or, with a sign such as +0.2 or -0.1, a
            number that is added to the estimate. More smooths more.
        strength: how much of the restoration is used: 1 all of it, 0.5 half of it and half of the plain enlargement, 0
            the plain enlargement.
        lora_scale: weight of the LoRA that follows the degrees, from 0, the base model, through 1, as trained, to 2.
        latent: ``mean`` of the encoder's Gaussian, the same result every time, or a ``sample`` of it: a variation,
            which the seed draws.
        seed: which variation a latent sample is; a mean has none.
        upsampling: filter that enlarges the input for the networks; nothing for the one that the model was made for
            (the S3Diff release restores with ``bilinear`` and trains with ``bicubic``).
        grey: colour of a grey input's result: ``keep`` grey, ``color`` as the S3Diff release writes it, or ``auto``:
            grey unless the result has visible colour. Three equal channels are grey too, and stay three.
        tile: largest side, in pixels of the output, of the pieces that a picture is restored in; ``auto`` chooses by
            the free memory, ``off`` restores the picture at once.
        released_tiles: use the tiles of the authors' released code, seams included, to get its results.
        decoder: network that makes the picture of the latents: the ``model``'s own decoder, or TAESD's ``tiny`` one for
            a quick preview with less detail, of models on Stable Diffusion such as ``s3diff``.
        alpha: how transparency is enlarged: ``guided`` by the edges of the restored colours, or ``bicubic``.
        pages: which pages of a TIFF of several are restored: ``all``, where the result is a TIFF too (into another
            format the first one goes), or numbers and ranges from 1 such as 1,3-5.
        max_output_pixels: largest output held in memory, in pixels (the command takes millions); a larger one goes part
            by part into a .tif, or is refused.
        max_input_pixels: largest input read into memory, in pixels (the command takes millions), judged by its header
            before it is decoded.
        max_file_bytes: largest file read into memory, in bytes (the command takes millions).

    Raises:
        OptionError: a value is not allowed.
    """

    scale: float = 4.0
    size: tuple[int, int] | None = None
    size_mode: SizeMode = "stretch"
    long_side: int | None = None
    megapixels: float | None = None
    restore_at: RestoreAt = "auto"
    guidance: float | None = None
    positive_prompt: str | None = None
    negative_prompt: str | None = None
    color_match: ColorMatch = "wavelet"
    blur: float | str | None = None
    noise: float | str | None = None
    strength: float = 1.0
    lora_scale: float = 1.0
    latent: Latent = "mean"
    seed: int = 0
    upsampling: Upsampling | None = None
    grey: Grey = "auto"
    tile: int | Literal["auto", "off"] = "auto"
    released_tiles: ReleasedTiles | None = None
    decoder: Decoder = "model"
    alpha: Alpha = "guided"
    pages: str = ALL_PAGES
    max_output_pixels: int = MAX_OUTPUT_PIXELS
    max_input_pixels: int = MAX_PICTURE_PIXELS
    max_file_bytes: int = MAX_FILE_BYTES

    def __post_init__(self) -> None:
        for name in ("blur", "noise"):
            if isinstance(getattr(self, name), str):
                self._keep_relative(name)
        check_fields(self)
        if self.size is not None:
            object.__setattr__(self, "size", checked_size(self.size))
        if sum(value is not None for value in (self.size, self.long_side, self.megapixels)) > 1:
            raise OptionError("size, long_side and megapixels each set the output's size; give one of them")
        for name in ("positive_prompt", "negative_prompt"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise OptionError(f"{name} is {value!r}; give a text, or nothing to use the model's own prompt")
        self._keep_tile()
        self._keep_pages()

    def _keep_tile(self) -> None:
        if self.released_tiles is not None and not isinstance(self.released_tiles, ReleasedTiles):
            raise OptionError(f"released_tiles is {self.released_tiles!r}; give ReleasedTiles(), or nothing")
        if self.tile in ("auto", "off"):
            return
        side = as_whole(self.tile)
        if side is None or not MIN_TILE_PX <= side <= _LARGEST:
            raise OptionError(f"tile is {self.tile!r}; give auto, off, or a side of at least {MIN_TILE_PX} px")
        object.__setattr__(self, "tile", side)

    def _keep_pages(self) -> None:
        """Normalise numbers and ranges to one spelling."""
        text = re.sub(r"\s+", "", self.pages) if isinstance(self.pages, str) else ""
        parts = [re.fullmatch(r"([1-9][0-9]{0,5})(?:-([1-9][0-9]{0,5})?)?", part) for part in text.split(",")]
        is_right = all(part is not None and (part[2] is None or int(part[1]) <= int(part[2])) for part in parts)
        if text.lower() != ALL_PAGES and not is_right:
            raise OptionError(f"pages is {self.pages!r}; give all, or numbers and ranges from 1 such as 1,3-5")
        object.__setattr__(self, "pages", text.lower())

    def _keep_relative(self, name: str) -> None:
        """Normalise a text with a sign to one spelling: ``"+0.2"`` for ``" +.20"``."""
        value = getattr(self, name)
        match = re.fullmatch(r"\s*([+-])\s*([0-9]{1,9}\.?[0-9]{0,9}|\.[0-9]{1,9})\s*", value)
        if match is None or float(match[2]) > 1:
            raise OptionError(f"{name} is {value!r}; give {_DEGREE}")
        object.__setattr__(self, name, f"{match[1]}{float(match[2]):g}")

    def degree(self, name: str, estimated: float) -> float:
        """Compute the degree to use, in [0, 1], from an estimate in [0, 1]."""
        value = getattr(self, name)
        if value is None:
            return estimated
        return min(1.0, max(0.0, estimated + float(value))) if isinstance(value, str) else value

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """Compute the output's (width, height) in pixels for an input of that size, at least 1 x 1."""
        if self.size is not None and self.size_mode != "fit":
            return self.size
        return _rounded(width, height, self._factor(width, height))

    def covering_size(self, width: int, height: int) -> tuple[int, int]:
        """Compute the (width, height) that ``fill`` cuts to ``size``."""
        assert self.size is not None
        covering = _rounded(width, height, self._factor(width, height))
        return max(covering[0], self.size[0]), max(covering[1], self.size[1])

    def for_model(self, upsampling: Upsampling, guidance: float) -> RestoreOptions:
        """Fill in the model's own enlarging filter and guidance where the options give none."""
        own = {"upsampling": upsampling, "guidance": guidance}
        missing = {name: value for name, value in own.items() if getattr(self, name) is None}
        return self.with_valid(**missing) if missing else self

    def with_valid(self, **changes: Any) -> RestoreOptions:
        """Copy with changes that are known to be valid, without validating again."""
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        return changed

    def _factor(self, width: int, height: int) -> float:
        if self.size is not None:
            sides = (self.size[0] / width, self.size[1] / height)
            return max(sides) if self.size_mode == "fill" else min(sides)
        if self.long_side is not None:
            return self.long_side / max(width, height)
        if self.megapixels is not None:
            return math.sqrt(self.megapixels * 1e6 / (width * height))
        return self.scale


_NAME_FIELDS = ("stem", "extension", "model", "scale")


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Hold how results are named and written.

    Attributes:
        format: format of every result; nothing for the input's own (PNG where that cannot be written).
        quality: quality of results in JPEG and other formats that lose something, 1 to 100.
        name: name of a result without its extension: a text with ``{stem}`` (the input's) and, if wanted,
            ``{extension}`` (the input's, without dot), ``{model}`` and ``{scale}``.
        overwrite: replace files that are there.
        provenance: state in the result's XMP how it was made: model, version, options and degrees. Without it,
            what the input states of an earlier restoration stays.

    Raises:
        OptionError: a value is not allowed.
    """

    format: str | None = None
    quality: int = 95
    name: str = "{stem}"
    overwrite: bool = False
    provenance: bool = True

    def __post_init__(self) -> None:
        if self.format is not None:
            _require_choice("format", self.format, OUTPUT_FORMATS)
        check_fields(self)
        parts: list[tuple[Any, ...]] = []
        with suppress(ValueError, TypeError):
            parts = list(string.Formatter().parse(self.name))
        fields = [field for _, field, _, _ in parts if field is not None]
        is_plain = not any(form or conversion for _, _, form, conversion in parts)
        if "stem" not in fields or not set(fields) <= set(_NAME_FIELDS) or not is_plain:
            allowed = ", ".join(f"{{{each}}}" for each in _NAME_FIELDS)
            raise OptionError(f"name is {self.name!r}; give a name with {{stem}}, and no others than {allowed}")
        for name in ("overwrite", "provenance"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} is {getattr(self, name)!r}; give True or False")
        if any(sign in self.name for sign in "/\\\0"):
            raise OptionError(f"name is {self.name!r}; give the name of a file without folders")


def _rounded(width: int, height: int, factor: float) -> tuple[int, int]:
    return max(1, round(width * factor)), max(1, round(height * factor))


@functools.cache
def choices_of(options: type) -> Mapping[str, tuple[str, ...]]:
    """List the choices of every field of a dataclass whose type is a ``Literal``, or one and None."""
    found = {}
    for name, hint in get_type_hints(options).items():
        kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
        kind = hint if get_origin(hint) is Literal else kinds[0]
        if get_origin(kind) is Literal and (kind is hint or len(kinds) == 1):
            found[name] = get_args(kind)
    return found


def check_fields(options: Any) -> None:
    """Check the numbers of a frozen dataclass by range and texts by choices; convert numbers to Python's own.

    Raises:
        OptionError: a value is not allowed.
    """
    choices = choices_of(options.__class__)
    for name, field in options.__dataclass_fields__.items():
        value = getattr(options, name)
        if (value is None and field.default is None) or (isinstance(value, str) and name in ("blur", "noise")):
            continue
        if name in choices:
            _require_choice(name, value, choices[name])
        elif name in RANGES:
            object.__setattr__(options, name, _checked_number(name, value, RANGES[name]))


def _checked_number(name: str, value: Any, allowed: Range) -> float:
    words = allowed.words or f"a whole number from {allowed.low} to {allowed.high}"
    number = _real(value) if allowed.words else as_whole(value)
    if number is None or not allowed.low <= number <= allowed.high or (allowed.is_open and number == allowed.low):
        if number is not None and allowed.words and _LARGEST < abs(number) < math.inf:
            words = f"at most {_LARGEST:g}" if number > 0 and allowed.high == _LARGEST else words
            words = f"at least {-_LARGEST:g}" if number < 0 and allowed.low == -_LARGEST else words
        raise OptionError(f"{name} is {value!r}; give {words}")
    return number


def _require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} is {value!r}; give one of {', '.join(choices)}")


def _real(value: Any) -> float:
    """Convert a number of any type to Python's float; NaN for anything else, True included."""
    try:
        return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def as_whole(value: Any) -> int | None:
    """Convert a whole number of any type to Python's int; None for anything else, True included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def checked_size(size: Any) -> tuple[int, int]:
    """Convert a (width, height) of whole pixels to Python's own types; raise OptionError for anything else."""
    is_sequence = isinstance(size, Sequence) or hasattr(size, "__array__")
    sides = [as_whole(side) for side in size] if is_sequence and not isinstance(size, str | bytes) else []
    if len(sides) != 2 or sides[0] is None or sides[1] is None or min(sides[0], sides[1]) < 1:
        raise OptionError(f"size is {size!r}; give whole pixels above 0: (1920, 1080), or 1920x1080 to --size")
    return sides[0], sides[1]
