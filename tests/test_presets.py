"""Presets: named options, what wins over them, and the user's own file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from command_runs import Command
from s3diff.errors import OptionError
from s3diff.option_texts import option_fields
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.presets import PRESETS, all_presets, find_preset


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file of presets, not yet written."""
    monkeypatch.setenv("S3DIFF_CONFIG", str(tmp_path))
    return tmp_path / "presets.ini"


def test_the_built_in_presets() -> None:
    assert list(PRESETS) == ["photo", "denoise", "scan", "web", "text", "drawing"]
    assert PRESETS["photo"].options(RestoreOptions) == RestoreOptions()
    assert PRESETS["denoise"].options(RestoreOptions).output_size(60, 40) == (60, 40)
    made = [preset.options(RestoreOptions) for preset in PRESETS.values()]
    assert all(first != second for index, first in enumerate(made) for second in made[:index])
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.title
        assert preset.summary.endswith((".", ":"))
        assert set(preset.values) <= set(option_fields())
        for option, value in preset.values.items():
            assert getattr(preset.options(RestoreOptions), option) == value


def test_what_is_given_wins() -> None:
    scan = PRESETS["scan"]
    assert scan.options(RestoreOptions, noise=0.5).noise == 0.5
    assert scan.options(RestoreOptions, noise=None).noise is None  # given, and so no longer the preset's
    # Any size replaces the preset's.
    long_side = scan.options(RestoreOptions, long_side=300)
    assert long_side.output_size(100, 50) == (300, 150)
    assert long_side.noise == "+0.2"


def test_a_size_by_hand_replaces_a_size_of_another_kind(own: Path) -> None:
    own.write_text("[album]\nlong-side = 4096\n")
    assert find_preset("album").options(RestoreOptions, scale=2).output_size(100, 50) == (200, 100)


def test_own_presets(own: Path) -> None:
    assert all_presets() == dict(PRESETS)  # no file is no fault
    own.write_text(
        "[Album 1]\nsummary = For the album, 100 %\nlong-side = 4096\nnoise = +0.1\nprompt =\n"
        "format = jpg\nquality=80\n[tiny]\nscale = 1.5\n"
    )
    album = find_preset("Album 1")
    assert album.summary == "For the album, 100 %"
    assert album.options(RestoreOptions) == RestoreOptions(long_side=4096, noise="+0.1", positive_prompt="")
    assert album.options(OutputOptions) == OutputOptions(format="jpg", quality=80)
    assert album.options(OutputOptions, quality=90).quality == 90
    assert list(all_presets()) == [*PRESETS, "Album 1", "tiny"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("scale = 2\n", "no file of presets"),
        ("[a]\n[a]\n", "no file of presets"),
        ("[scan]\nscale = 3\n", "[scan]: a preset of s3diff has this name"),
        ("[mine]\nsharpness = 3\n", "[mine]: sharpness is no option; give some of scale, "),
        ("[mine]\nscale = -1\n", "[mine]: scale is -1.0; give a number above 0"),
        ("[mine]\nmax-megapixels = 3\n", "[mine]: max-megapixels is no option"),
    ],
)
def test_a_file_that_cannot_be_used(own: Path, content: str, said: str) -> None:
    own.write_text(content)
    with pytest.raises(OptionError) as error:
        find_preset("mine")
    assert str(error.value).startswith(str(own))
    assert said in str(error.value)
    assert find_preset("scan") is PRESETS["scan"]  # does not depend on the file


def test_bytes_that_are_no_text(own: Path) -> None:
    own.write_bytes(b"[a]\nname = \xff\xfe\n")
    with pytest.raises(OptionError, match="no file of presets"):
        all_presets()


def test_the_command(command: Command, own: Path, small: Path, here: Path) -> None:
    own.write_text("[little]\nscale = 0.5\nformat = bmp\n")
    Image.new("RGB", (24, 16), "gray").save("a.png")
    for name, arguments, size in (
        ("one.png", ("--preset", "denoise"), (24, 16)),
        ("two.png", ("--preset", "denoise", "--scale", "2"), (48, 32)),
        ("three.png", ("--preset", "denoise", "--long-side", "30"), (30, 20)),
        # The default, given by hand, wins as well.
        ("four.png", ("--preset", "denoise", "--scale", "4"), (96, 64)),
        ("five.bmp", ("--preset", "little"), (12, 8)),
    ):
        assert command("restore", "a.png", "-o", name, "-m", small, *arguments).code == 0
        with Image.open(name) as image:
            assert image.size == size
    assert command("restore", "a.png", "-o", "folder/", "-m", small, "--preset", "little").code == 0
    assert [path.name for path in Path("folder").iterdir()] == ["a.bmp"]
    refused = command("restore", "a.png", "-o", "b.png", "--preset", "portrait")
    assert refused.code == 2
    assert refused.error == (
        "s3diff: preset is 'portrait'; give one of photo, denoise, scan, web, text, drawing, little "
        "(s3diff presets explains them)"
    )


def test_the_list(command: Command, own: Path) -> None:
    own.write_text("[album]\nsummary = For the album\nlong-side = 4096\nreleased_tiles = yes\n")
    listed = command("presets")
    assert listed.code == 0
    for preset in PRESETS.values():
        assert f"{preset.name:10} {preset.summary}\n" in listed.out
    assert "--scale 1 --restore-at model --noise +0.3 --strength 0.8\n" in listed.out
    assert "album      For the album\n" in listed.out
    assert "--long-side 4096 --released-tiles\n" in listed.out
    assert str(own) in listed.out


def test_every_option_can_be_in_a_preset(own: Path) -> None:
    """A field that is new is known to the file as well."""
    for options in (RestoreOptions, OutputOptions):
        for field in fields(options):
            if field.name in option_fields() and isinstance(field.default, str | int | float):
                own.write_text(f"[one]\n{field.name} = {field.default}\n")
                assert find_preset("one").values == {field.name: field.default}
