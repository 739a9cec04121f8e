"""Describe the page's controls as data: one for each option that a person may set.

Ranges, choices and start values come from the option dataclasses. Names and explanations stand in each language in
``static/texts.json``, where numbers of the options are left open (:func:`told_values`); an option without a control of
its own gets a plain one, which is named in English.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from s3diff.formats import FORMATS, VideoCodec
from s3diff.images.files.writing import can_be_written
from s3diff.option_texts import describe_option, option_fields, option_schemas
from s3diff.options import (
    METHOD_SCALE,
    MIN_TILE_PX,
    RANGES,
    Alpha,
    ColorMatch,
    Decoder,
    Grey,
    Latent,
    OutputOptions,
    RestoreAt,
    RestoreOptions,
    SizeMode,
    Upsampling,
)
from s3diff.video_options import VideoOptions

Kind = Literal["slider", "number", "choice", "menu", "text", "size", "switch"]
Group = Literal["size", "dial", "look", "method", "colour", "file", "video"]

_CODEC_TITLES = {"h264": "H.264", "h265": "H.265", "av1": "AV1", "vp9": "VP9", "ffv1": "FFV1"}
#: The controls of which exactly one sets the output's size.
SIZE_FIELDS = ("scale", "size", "long_side", "megapixels")


@dataclass(frozen=True, kw_only=True)
class Control:
    """Describe one control.

    Attributes:
        field: an option of ``RestoreOptions``, ``OutputOptions`` or ``VideoOptions``, ``model``, or ``size_by``, which
            only chooses among :data:`SIZE_FIELDS`.
        default: the option's own default; a control with this value is not sent.
        choices: the values of choices and menus; an empty one stands for none.
        titles: of choices that are named alike in every language, by value.
        low, high: smallest and largest value, of sliders.
        step: of sliders and numbers.
        placeholder: of numbers and texts.
        label, info: of a plain control, whose name stands in no file of texts.
    """

    field: str
    kind: Kind
    group: Group
    start: Any = None
    default: Any = None
    choices: tuple[str, ...] = ()
    titles: dict[str, str] | None = None
    low: float = 0
    high: float = 1
    step: float = 0.01
    placeholder: str = ""
    label: str = ""
    info: str = ""

    @property
    def allowed(self) -> dict[str, float | bool] | None:
        """The allowed numbers; None for other options."""
        found = RANGES.get(self.field)
        return None if found is None else {"low": found.low, "high": found.high, "isOpen": found.is_open}


def page_controls(models: list[str], model: str) -> list[Control]:
    """List all controls in the page's order."""
    formats = {form.extensions[0][1:]: form.title for form in FORMATS if can_be_written(form.extensions[0])}
    controls = [
        Control(field="size_by", kind="choice", group="size", start="scale", default="scale", choices=SIZE_FIELDS),
        _control("scale", "number", "size", step=0.5),
        Control(field="size", kind="size", group="size", start=""),
        # A picture keeps its proportions by default.
        _control("size_mode", "choice", "size", start="fit", choices=("fit", "fill", "stretch"), of=SizeMode),
        _control("long_side", "number", "size", step=1, placeholder="4096"),
        _control("megapixels", "number", "size", step=1, placeholder="24"),
        Control(field="blur", kind="slider", group="dial"),
        Control(field="noise", kind="slider", group="dial"),
        _control("strength", "slider", "look"),
        Control(field="model", kind="menu", group="method", start=model, choices=tuple(models)),
        _control("guidance", "number", "method", start="", step=0.01),
        _control("lora_scale", "slider", "method", high=2),
        _control("restore_at", "choice", "method", choices=get_args(RestoreAt), of=RestoreAt),
        _control("upsampling", "menu", "method", start="", choices=("", *get_args(Upsampling)), of=Upsampling),
        _control("latent", "choice", "method", choices=get_args(Latent), of=Latent),
        _control("seed", "number", "method", step=1),
        _control("decoder", "choice", "method", choices=get_args(Decoder), of=Decoder),
        _control("tile", "text", "method"),
        _control("pages", "text", "method"),
        _control("released_tiles", "switch", "method", start=False),
        _control("positive_prompt", "text", "method", start=""),
        _control("negative_prompt", "text", "method", start=""),
        _control("color_match", "choice", "colour", choices=get_args(ColorMatch), of=ColorMatch),
        _control("grey", "choice", "colour", choices=get_args(Grey), of=Grey),
        _control("alpha", "choice", "colour", choices=get_args(Alpha), of=Alpha),
        Control(field="format", kind="menu", group="file", start="", choices=("", *formats), titles=formats),
        _control("quality", "number", "file", step=1),
        _control("provenance", "switch", "file"),
        _control("codec", "menu", "video", choices=get_args(VideoCodec), of=VideoCodec, titles=_CODEC_TITLES),
        _control("steady", "slider", "video", high=RANGES["steady"].high, step=0.05),
        _control("pixel_format", "text", "video"),
    ]
    shown = {control.field for control in controls} | {"name"}
    return controls + [_plain_control(name) for name in option_fields() if name not in shown]


def told_values() -> dict[str, str]:
    """Give the facts of the options that the page's texts leave open in braces."""
    return {
        "factor": str(METHOD_SCALE),
        "smallestTile": str(MIN_TILE_PX),
        "lossy": ", ".join(form.title for form in FORMATS if form.has_quality),
    }


def _default(name: str) -> Any:
    return next(getattr(kind, name) for kind in (RestoreOptions, OutputOptions, VideoOptions) if hasattr(kind, name))


def _control(
    name: str,
    kind: Kind,
    group: Group,
    *,
    start: Any = ...,
    choices: tuple[str, ...] = (),
    of: Any = None,
    **about: Any,
) -> Control:
    """Make the control of an option, with the option's default; ``of``: the type whose values the choices are."""
    if of is not None and {*get_args(of)} != {*choices} - {""}:
        raise ValueError(f"the control of {name} offers {choices}, the option {get_args(of)}")
    default = _default(name)
    start = default if start is ... else start
    return Control(field=name, kind=kind, group=group, start=start, default=default or start, choices=choices, **about)


def _plain_control(name: str) -> Control:
    """Make a control for an option that has none above: a switch, a menu of its choices, or a text."""
    choices, default = option_schemas()[name].get("enum", ()), _default(name)
    label, info = name.replace("_", " ").capitalize(), describe_option(name).replace("`", "")
    if isinstance(default, bool):
        return Control(field=name, kind="switch", group="file", label=label, info=info, start=default, default=default)
    return Control(
        field=name,
        kind="menu" if choices else "text",
        label=label,
        info=info,
        group="method",
        start=default if choices else "",
        default=default if choices else "",
        choices=tuple(choices),
        titles={choice: choice.capitalize() for choice in choices},
        placeholder="" if choices or default is None else str(default),
    )
