"""What the page offers to turn, as data: one control for each option that a person may set.

Ranges, choices and start values come from the option dataclasses; an option without a control of its own gets a plain
one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from s3diff.formats import FORMATS, LOSSY_TITLES
from s3diff.images.codecs import can_be_written
from s3diff.option_texts import describe_option, option_fields, option_schemas
from s3diff.options import LIMITS, MIN_TILE_PX, OutputOptions, RestoreOptions

Kind = Literal["slider", "number", "choice", "menu", "text", "switch"]
Group = Literal["model", "size", "dial", "look", "colour", "method", "file"]

#: Options that have no control: limits belong to whoever runs the service.
WITHOUT_CONTROL = frozenset(LIMITS)
#: The controls of which exactly one sets the output's size.
SIZE_FIELDS = ("scale", "size", "long_side", "megapixels")


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control.

    Attributes:
        field: the option that it sets: of ``RestoreOptions``, of ``OutputOptions``, ``model``, or ``size_by``, which
            only chooses among :data:`SIZE_FIELDS`.
        kind: what it looks like.
        label: its name.
        info: what it does, in one short sentence.
        group: where it stands.
        start: the value that it starts with. A control that stands at its start is not sent, so that the option's own
            default holds.
        choices: (words, value), of choices and menus.
        low: smallest value, of sliders.
        high: largest value, of sliders.
        step: of sliders and numbers.
        placeholder: of texts.
    """

    field: str
    kind: Kind
    label: str
    info: str
    group: Group
    start: Any = None
    choices: tuple[tuple[str, str], ...] = ()
    low: float = 0
    high: float = 1
    step: float = 0.01
    placeholder: str = ""


def _default(name: str) -> Any:
    for options in (RestoreOptions, OutputOptions):
        for field in fields(options):
            if field.name == name:
                return field.default
    raise KeyError(name)


def page_controls(models: list[str], model: str) -> list[Control]:
    """Every control, in the page's order.

    Args:
        models: names that the service can restore with.
        model: the one that is chosen first.
    """
    controls = [
        Control(
            field="size_by",
            kind="choice",
            label="Enlarge",
            info="",
            group="size",
            start="scale",
            choices=(
                ("Factor", "scale"),
                ("Exact size", "size"),
                ("Long side", "long_side"),
                ("Megapixels", "megapixels"),
            ),
        ),
        Control(
            field="scale",
            kind="number",
            label="Times as wide and high",
            info="",
            group="size",
            start=_default("scale"),
            step=0.5,
        ),
        Control(
            field="size",
            kind="text",
            label="Width x height in pixels",
            info="",
            group="size",
            start="",
            placeholder="3840x2160",
        ),
        Control(
            field="size_mode",
            kind="choice",
            label="Where the proportions differ",
            info="",
            group="size",
            start=_default("size_mode"),
            choices=(("Stretch", "stretch"), ("Fit inside", "fit"), ("Fill and cut", "fill")),
        ),
        Control(
            field="long_side",
            kind="number",
            label="Long side in pixels",
            info="",
            group="size",
            start=_default("long_side"),
            step=1,
            placeholder="4096",
        ),
        Control(
            field="megapixels",
            kind="number",
            label="Megapixels",
            info="",
            group="size",
            start=_default("megapixels"),
            step=1,
            placeholder="24",
        ),
        Control(
            field="blur",
            kind="slider",
            label="Blur",
            info="More sharpens more.",
            group="dial",
            start=0.0,
        ),
        Control(
            field="noise",
            kind="slider",
            label="Noise",
            info="More smooths more.",
            group="dial",
            start=0.0,
        ),
        Control(
            field="strength",
            kind="slider",
            label="Strength",
            info="Share of the restoration that is taken.",
            group="look",
            start=_default("strength"),
        ),
        Control(
            field="guidance",
            kind="slider",
            label="Guidance",
            info="More is crisper, less true; 1 is off.",
            group="look",
            start=_default("guidance"),
            high=4,
        ),
        Control(
            field="model",
            kind="menu",
            label="Model",
            info="",
            group="model",
            start=model,
            choices=tuple((name, name) for name in models),
        ),
        Control(
            field="color_match",
            kind="choice",
            label="Colour matching",
            info="How the picture's own colours are kept.",
            group="colour",
            start=_default("color_match"),
            choices=(("Wavelet", "wavelet"), ("Mean and spread", "adain"), ("Off", "none")),
        ),
        Control(
            field="grey",
            kind="choice",
            label="Grey pictures",
            info="Automatic: grey, unless the model coloured them.",
            group="colour",
            start=_default("grey"),
            choices=(("Automatic", "auto"), ("Stay grey", "keep"), ("In colour", "color")),
        ),
        Control(
            field="alpha",
            kind="choice",
            label="Transparency",
            info="Its edges follow the restored colours, or are enlarged plainly.",
            group="colour",
            start=_default("alpha"),
            choices=(("Follow the colours", "guided"), ("Plain", "bicubic")),
        ),
        Control(
            field="tile",
            kind="text",
            label="Tile size",
            info=f"auto, off, or the largest side of a tile in pixels, {MIN_TILE_PX} or more.",
            group="method",
            start=_default("tile"),
        ),
        Control(
            field="restore_at",
            kind="choice",
            label="Where the network works",
            info="At its own scale of 4, at the result's size, or at the larger of both.",
            group="method",
            start=_default("restore_at"),
            choices=(("The larger", "auto"), ("Its own scale", "model"), ("The result's size", "output")),
        ),
        Control(
            field="upsampling",
            kind="menu",
            label="First enlargement",
            info="",
            group="method",
            start="",
            choices=(("The model's own", ""), ("Bilinear", "bilinear"), ("Bicubic", "bicubic")),
        ),
        Control(
            field="latent",
            kind="choice",
            label="Latent",
            info="The mean gives the same result every time; a sample is drawn with the seed.",
            group="method",
            start=_default("latent"),
            choices=(("Mean", "mean"), ("Sample", "sample")),
        ),
        Control(
            field="seed",
            kind="number",
            label="Seed",
            info="Only a sample uses it.",
            group="method",
            start=_default("seed"),
            step=1,
        ),
        Control(
            field="released_tiles",
            kind="switch",
            label="Cut as the S3Diff release does, seams included",
            info="",
            group="method",
            start=False,
        ),
        Control(
            field="positive_prompt",
            kind="text",
            label="Prompt",
            info="For models with a text encoder.",
            group="method",
            start="",
            placeholder="the model's own",
        ),
        Control(
            field="negative_prompt",
            kind="text",
            label="Negative prompt",
            info="",
            group="method",
            start="",
            placeholder="the model's own",
        ),
        Control(
            field="format",
            kind="menu",
            label="Format",
            info="",
            group="file",
            start="",
            choices=(
                ("The picture's own", ""),
                *((form.title, form.extensions[0][1:]) for form in FORMATS if can_be_written(form.extensions[0])),
            ),
        ),
        Control(
            field="quality",
            kind="number",
            label="Quality",
            info=f"1 to 100, of {LOSSY_TITLES}.",
            group="file",
            start=_default("quality"),
            step=1,
        ),
    ]
    shown = {control.field for control in controls} | {"name"}
    return controls + [_plain_control(name) for name in option_fields() if name not in shown]


def _plain_control(name: str) -> Control:
    """A control for an option that has no own one above: a switch, a menu of its choices, or a text."""
    choices = option_schemas()[name].get("enum", ())
    if isinstance(_default(name), bool):
        info = describe_option(name).replace("`", "")
        return Control(
            field=name, kind="switch", label=name.capitalize(), info=info, group="file", start=_default(name)
        )
    return Control(
        field=name,
        kind="menu" if choices else "text",
        label=name.replace("_", " ").capitalize(),
        info=describe_option(name).replace("`", ""),
        group="method",
        start=_default(name) if choices else "",
        choices=tuple((choice.capitalize(), choice) for choice in choices),
        placeholder="" if choices or _default(name) is None else str(_default(name)),
    )
