"""Describe how a result was made, and derive its statement of origin.

Origins are the terms of IPTC's NewsCodes "Digital Source Type".
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from s3diff.errors import OptionError
from s3diff.options import LIMITS, ReleasedTiles, RestoreOptions

#: Prefix of the vocabulary's terms.
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
ENHANCED, COMPOSITE, GENERATED = (
    "algorithmicallyEnhanced", "compositeWithTrainedAlgorithmicMedia", "trainedAlgorithmicMedia",
)  # fmt: skip
#: Terms for pictures of the world, which an enhanced picture no longer is.
_CAPTURES = frozenset(
    {
        "digitalCapture", "computationalCapture", "compositeCapture", "negativeFilm", "positiveFilm", "print",
        "screenCapture", "minorHumanEdits", "humanEdits", ENHANCED,
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """State how a result was made: enough to make the same bytes again from the same input.

    Attributes:
        fingerprint: ``sha256:...`` of the model; see :class:`s3diff.checkpoints.model_folder.ModelDescription`.
        is_generative: whether the model can invent detail that the input has lost.
        version: of s3diff.
        precision: the number format of the networks, such as ``float32``.
        device: ``cpu``, ``cuda`` or ``mps``, with the backend unless it was torch: ``cpu with openvino``.
        is_streamed: whether the picture was restored part by part, from disk to disk.
        options: with the machine's choices filled in, without limits.
        tiles: the tiles of each network, where no value of the option ``tile`` means them; empty elsewhere.
        blur, noise: the used degrees, in [0, 1].
        estimated_blur, estimated_noise: the estimate, in [0, 1].
        quality: 1 to 100, for lossy formats.
        input_digest: ``sha256:...`` of the input's pixels and opacity as they were read; empty where it was restored
            part by part.
        input_creator_tool: XMP's ``CreatorTool`` of the input; empty if it had none.
        input_source_type: ``DigitalSourceType`` of the input; empty if it had none.
    """

    model: str
    fingerprint: str
    version: str
    is_generative: bool
    precision: str
    device: str
    options: RestoreOptions
    blur: float
    noise: float
    estimated_blur: float
    estimated_noise: float
    is_compiled: bool = False
    is_streamed: bool = False
    tiles: str = ""
    quality: int | None = None
    input_digest: str = ""
    input_creator_tool: str = ""
    input_source_type: str = ""

    @property
    def creator_tool(self) -> str:
        """XMP's ``CreatorTool`` of the result."""
        return f"s3diff {self.version}"

    @property
    def source_type(self) -> str:
        """``DigitalSourceType`` of the result: the input's or the model's, whichever means more synthesis.

        An unknown term stays: a weaker one in its place would be a false statement.
        """
        earlier = term_of(self.input_source_type)
        own = SOURCE_TYPES + (COMPOSITE if self.is_generative else ENHANCED)
        if not earlier or earlier in _CAPTURES:
            return own
        return own if self.is_generative and earlier != GENERATED else self.input_source_type


def term_of(source_type: str) -> str:
    """Return the term, a source type's last part; a text that is no address is returned as it is."""
    return source_type.strip().rstrip("/").rpartition("/")[2]


def options_as_json(options: RestoreOptions) -> str:
    """Write every option except the limits as one line of JSON, with defaults: a later version may have others."""
    values = {name: value for name, value in dataclasses.asdict(options).items() if name not in LIMITS}
    return json.dumps(values, separators=(",", ":"))


def options_of_json(text: str) -> RestoreOptions:
    """Read the options that :func:`options_as_json` wrote.

    Raises:
        OptionError: the text holds no options, or those of another version.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise OptionError("the stated options cannot be read; the statement is damaged") from None
    known = {field.name for field in dataclasses.fields(RestoreOptions)} - {*LIMITS}
    if not isinstance(values, dict) or not set(values) <= known:
        raise OptionError("the stated options are none that this version knows; use the stated version of s3diff")
    tiles = values.get("released_tiles")
    try:
        if tiles is not None:
            values["released_tiles"] = ReleasedTiles(**tiles)
        return RestoreOptions(**values)
    except TypeError as error:
        raise OptionError("the stated options cannot be read; the statement is damaged") from error
