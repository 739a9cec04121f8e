"""Settings as a command: what the page shows is what the command understands."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any, Literal

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from s3diff import option_texts
from s3diff.apps import option_flags
from s3diff.apps.cli import app
from s3diff.folders import plan
from s3diff.options import OutputOptions, ReleasedTiles, RestoreOptions
from s3diff.serving.page import controls
from s3diff.serving.page.plan import command_line


class _Parsed(Exception):
    """Ends the command after its options are made."""


def parsed(line: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command makes of a line: its options and arguments, without restoring anything."""
    seen: dict[str, Any] = {}

    read = option_flags._options

    def keep(options: type, *given: Any) -> Any:
        seen[{RestoreOptions: "options", OutputOptions: "writing"}.get(options, "video")] = value = read(
            options, *given
        )
        return value

    def stop(*_: object, **__: object) -> None:
        raise _Parsed

    with monkeypatch.context() as patch:
        patch.setattr(option_flags, "_options", keep)
        patch.setattr(plan, "plan_jobs", stop)
        words = shlex.split(line)
        assert words[0] == "s3diff"
        with pytest.raises(_Parsed):
            app(words[1:], standalone_mode=False)
    return seen


CHANGED: dict[str, Any] = {
    "scale": 2.5,
    "size": (3840, 2160),
    "size_mode": "fill",
    "long_side": 4096,
    "megapixels": 24.5,
    "restore_at": "output",
    "guidance": -0.5,
    "positive_prompt": "--a 'photograph' of $HOME",
    "negative_prompt": "-blurred; rm -rf /",
    "color_match": "adain",
    "blur": "-0.25",
    "noise": 0.1,
    "strength": 0.85,
    "lora_scale": 1.25,
    "latent": "sample",
    "seed": 2**40,
    "upsampling": "bicubic",
    "grey": "keep",
    "tile": 512,
    "released_tiles": ReleasedTiles(),
    "decoder": "tiny",
    "alpha": "bicubic",
    "pages": "1,3-5",
    "max_output_pixels": 16_000_000,
    "max_input_pixels": 12_345_678,
    "max_file_bytes": 5_000_000,
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(RestoreOptions)])
def test_every_option_comes_back_through_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = RestoreOptions(**{name: CHANGED[name]})
    line = command_line(options, OutputOptions(), names=["photo.jpg"])
    assert parsed(line, monkeypatch)["options"] == options, line


def test_all_at_once_and_how_results_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {name: value for name, value in CHANGED.items() if name not in ("long_side", "megapixels")}
    options, writing = RestoreOptions(**both), OutputOptions(format="webp", quality=80, name="{stem}-large")
    line = command_line(options, writing, model="s3diff", names=["a.jpg", "b.png"])
    seen = parsed(line, monkeypatch)
    assert (seen["options"], seen["writing"]) == (options, writing)
    assert "--model s3diff" in line
    assert "-o restored/" in line


@settings(max_examples=60, deadline=None)
@given(number=st.floats(0.01, 1e6), degree=st.floats(0, 1))
def test_numbers_keep_every_digit(number: float, degree: float) -> None:
    options = RestoreOptions(scale=number, noise=degree)
    words = shlex.split(command_line(options, OutputOptions()))
    told = {flag: words[words.index(flag) + 1] for flag in ("--scale", "--noise") if flag in words}
    assert float(told.get("--scale", 4)) == number
    assert float(told["--noise"]) == degree


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "s3diff restore PICTURE.jpg -o PICTURE-restored.jpg"),
        (["photo.jpg"], "s3diff restore photo.jpg -o photo-restored.jpg"),
        (["my photo.jp2"], "s3diff restore 'my photo.jp2' -o 'my photo.png'"),
        (["-x.png"], "s3diff restore ./-x.png -o ./-x-restored.png"),
        (["a'b.tif", "$(c).tif"], "s3diff restore 'a'\"'\"'b.tif' '$(c).tif' -o restored/"),
    ],
)
def test_names_are_quoted_and_no_picture_is_written_over(names: list[str], told: str) -> None:
    assert command_line(RestoreOptions(), OutputOptions(), names=names) == told


def test_the_format_of_one_result_is_its_extension() -> None:
    line = command_line(RestoreOptions(), OutputOptions(format="png", name="{stem}-large"), names=["photo.jpg"])
    assert line == "s3diff restore photo.jpg -o photo-large.png"


def test_a_new_option_is_a_flag_without_a_line_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A field of the option dataclasses is all that the command's flag, its choices and its help need."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Longer(RestoreOptions):
        """Options with one more.

        Attributes:
            border: what stands around the picture: ``mirror`` or ``black``.
        """

        border: Literal["mirror", "black"] = "mirror"

    monkeypatch.setattr(option_flags, "RestoreOptions", Longer)
    monkeypatch.setattr(option_texts, "RestoreOptions", Longer)
    seen: list[Longer] = []

    def enlarge(*, options: Any, writing: OutputOptions) -> None:
        seen.append(options)

    enlarge.__annotations__["options"] = Longer
    door = typer.Typer(rich_markup_mode=None)
    door.command()(option_flags.takes_flags()(enlarge))
    door(["--border", "black", "--scale", "2"], standalone_mode=False)
    assert (seen[0].border, seen[0].scale) == ("black", 2)
    door(["--help"], standalone_mode=False)
    assert "What stands around the picture: mirror or black." in " ".join(capsys.readouterr().out.split())
    assert option_texts.option_schemas()["border"]["enum"] == ["mirror", "black"]
    assert option_texts.options_from_texts({"border": "black"})[0] == Longer(border="black")
    monkeypatch.setattr(controls, "RestoreOptions", Longer)
    shown = next(each for each in controls.page_controls(["compact"], "compact") if each.field == "border")
    assert (shown.kind, shown.start, shown.choices) == ("menu", "mirror", ("mirror", "black"))
