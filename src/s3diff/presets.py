"""Hold presets of ``restore``: named options, from s3diff and from a user's file. No torch here.

The command (``--preset``), the service and the page offer them from here; ``s3diff presets`` lists them.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from s3diff.errors import OptionError
from s3diff.messages import reason_of
from s3diff.option_texts import flag_of, option_fields, option_text, options_from_texts
from s3diff.user_folders import config_folder

#: Options that each decide the output's size: one given by hand replaces all of a preset's.
_SIZES = ("scale", "size", "long_side", "megapixels")
Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class RestorePreset:
    """Hold options under a name.

    Attributes:
        name: the value of ``--preset``.
        title: a few words for a menu.
        summary: a sentence on the preset's purpose.
        values: fields of ``RestoreOptions`` and ``OutputOptions`` with their values; all others keep their defaults.
    """

    name: str
    title: str
    summary: str
    values: Mapping[str, Any]

    def options(self, kind: type[Options], **given: Any) -> Options:
        """Make options of the preset.

        Args:
            kind: the dataclass: ``RestoreOptions`` or ``OutputOptions``.
            given: fields given by hand: they have priority, and a size replaces the preset's.

        Raises:
            OptionError: a given value is not allowed.
        """
        replaced = {*given, *(_SIZES if any(name in given for name in _SIZES) else ())}
        kept = {field.name for field in fields(kind)} - replaced  # type: ignore[arg-type]
        return kind(**{name: value for name, value in self.values.items() if name in kept}, **given)


def _preset(name: str, title: str, summary: str, **values: Any) -> RestorePreset:
    return RestorePreset(name=name, title=title, summary=summary, values=MappingProxyType(values))


#: The presets that come with s3diff; the first one has the options' defaults.
PRESETS: Mapping[str, RestorePreset] = MappingProxyType(
    {
        each.name: each
        for each in (
            _preset("photo", "Enlarge", "A photograph, four times as large: the defaults."),
            # At the output's own size the networks would smear detail: the result is reduced from four times the size.
            _preset(
                "denoise",
                "Denoise, keep the size",
                "A noisy photograph at its own size, with a little of its grain.",
                scale=1.0,
                restore_at="model",
                noise="+0.3",
                strength=0.8,
            ),
            _preset(
                "scan",
                "Scanned print",
                "A scanned print or slide, twice as large: less grain of film and paper, grey stays grey.",
                scale=2.0,
                noise="+0.2",
                grey="keep",
            ),
            # Enlarged less before the networks see them, JPEG's blocks are nearer to those that models are trained to
            # remove: at twice the size they go best, but edges get an outline; at four times they become edges.
            _preset(
                "web",
                "Picture from the web",
                "A small picture with strong JPEG compression, three times as large: its blocks become plainer.",
                scale=3.0,
                restore_at="output",
                guidance=1.0,
            ),
            _preset(
                "text",
                "Text",
                "Print, handwriting or a screenshot, twice as large: strokes stay near the input, grey stays grey.",
                scale=2.0,
                guidance=1.0,
                strength=0.8,
                grey="keep",
            ),
            _preset(
                "drawing",
                "Drawing",
                "Lines and even colours, four times as large: areas are smoothed, outlines crisp.",
                blur="+0.1",
                noise="+0.2",
                guidance=1.0,
            ),
        )
    }
)


def own_presets_file() -> Path:
    """Find the file of the user's own presets: ``presets.ini`` in s3diff's configuration folder."""
    return config_folder() / "presets.ini"


def read_presets(path: Path) -> dict[str, RestorePreset]:
    """Read presets from a file, one section each; none if the file does not exist.

    ::

        [wedding]
        summary = For the album
        long-side = 4096
        noise = +0.1
        format = jpg

    A key is an option's name (``long_side``), or its flag without the leading hyphens.

    Raises:
        OptionError: the file cannot be read, names an unknown option, or has a value that is not allowed.
    """
    parser = configparser.ConfigParser(interpolation=None, default_section="", delimiters=("=",))
    try:
        parser.read_string(path.read_text("utf-8-sig"), source=str(path))
    except FileNotFoundError:
        return {}
    except (configparser.Error, UnicodeDecodeError) as error:
        raise OptionError(
            f"{path} is no file of presets ({reason_of(error)}); write [name], and below it lines option = value"
        ) from error
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({reason_of(error)}); give a readable file") from error
    return {name: _own_preset(path, name, dict(parser[name])) for name in parser.sections()}


def all_presets() -> dict[str, RestorePreset]:
    """Return the presets by name: those of s3diff, then the user's own; see :func:`own_presets_file`.

    Raises:
        OptionError: the file cannot be used, see :func:`read_presets`.
    """
    return {**PRESETS, **read_presets(own_presets_file())}


def describe_presets() -> Iterator[str]:
    """Describe the presets with their options in lines for people, and how to add one.

    Raises:
        OptionError: the user's file cannot be used, see :func:`read_presets`.
    """
    for preset in all_presets().values():
        texts = {flag_of(name): option_text(name, value) for name, value in preset.values.items()}
        flags = [flag if text == "true" else f"{flag} {text}" for flag, text in texts.items()]
        yield f"{preset.name:10} {preset.summary}".rstrip()
        yield f"{'':10} {' '.join(flags) or 'the defaults of s3diff restore'}"
    yield f"Your own: {own_presets_file()}"
    yield "  [album]\n  summary = For the album\n  long-side = 4096\n  noise = +0.1\n  format = jpg"
    yield "then: s3diff restore photo.jpg --preset album"


def find_preset(name: str) -> RestorePreset:
    """Find a preset by name; the user's file is read only for names that are not built in.

    Raises:
        OptionError: there is no such preset, or the file cannot be used.
    """
    if name in PRESETS:
        return PRESETS[name]
    known = all_presets()
    if name not in known:
        raise OptionError(f"preset is {name[:60]!r}; give one of {', '.join(known)} (s3diff presets explains them)")
    return known[name]


def _own_preset(path: Path, name: str, texts: dict[str, str]) -> RestorePreset:
    where = f"{path}, [{name}]"
    if name in PRESETS:
        raise OptionError(f"{where}: a preset of s3diff has this name; choose another one")
    summary = texts.pop("summary", "")
    names = {name: name for name in option_fields()} | {flag_of(name)[2:]: name for name in option_fields()}
    if unknown := [key for key in texts if key not in names]:
        raise OptionError(f"{where}: {unknown[0][:60]} is no option; give some of {', '.join(option_fields())}")
    given = {names[key]: text for key, text in texts.items()}
    try:
        options, writing = options_from_texts(given)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error
    values = {key: getattr(options if hasattr(options, key) else writing, key) for key in given}
    return RestorePreset(name=name, title=name, summary=summary, values=MappingProxyType(values))
