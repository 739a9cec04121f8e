"""Make a command's flags from its docstring and the option dataclasses: names, types, choices, defaults and help.

A new field of ``RestoreOptions``, ``OutputOptions`` or ``VideoOptions`` becomes a flag without a change here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import typer

from s3diff.apps.terminal import one_line_errors
from s3diff.formats import FORMATS, in_words
from s3diff.option_texts import describe_option, docstring_entries, flag_of, parse_own, whole_millions
from s3diff.options import LIMITS, OutputOptions, ReleasedTiles, RestoreOptions
from s3diff.presets import PRESETS, RestorePreset, find_preset
from s3diff.video_options import VideoOptions

#: Kind of a parameter that is a flag and no argument.
_FLAG = inspect.Parameter.KEYWORD_ONLY
#: Fields given as texts, and the help's names for the texts.
_METAVARS = {"scale": "FACTOR", "size": "WxH", "blur": "DEGREE", "noise": "DEGREE", "tile": "auto|off|N"}
_METAVARS |= {"pixel_format": "NAME", "batch": "N"}
_METAVARS |= {"format": "|".join(form.extensions[0][1:] for form in FORMATS)}
#: Help of flags that several commands have, as entries of a docstring.
_SHARED = f"""
    device: Device that computes: cuda (a graphics card of NVIDIA or AMD; cuda:1 is the second one), mps (Apple) or cpu;
        auto takes the first of these that is there.
    threads (N >=1): Threads that compute on the CPU. [default: as many as the machine grants: the cores that this
        process may use, the CPU quota of its container, or SLURM_CPUS_PER_TASK; OMP_NUM_THREADS where it is set]
    precision: Number format that the networks compute in; auto is safe everywhere.
    sign (CERT KEY): Sign results as Content Credentials (C2PA) with a certificate and its private key, PEM files. Needs
        the extra provenance.
    listed (--list FILE): Restore the pictures named in FILE too, one name a line; - reads the names from stdin.
    listed_null (--list0 FILE): Like --list, with a null byte after each name, as find -print0 writes them.
    recursive (--recursive -r): Restore the pictures in subfolders too.
    skip_existing: Skip pictures whose result is there already.
    address (ADDRESS): Of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT. [default: RAY_ADDRESS, or a Ray of this
        machine, started for the run]
    local_cpus (N >=1): CPUs of a Ray that is started here. [default: all]
    dashboard: With Ray's dashboard, where a Ray is started here.
    protocol: s3diff-paper, osediff-paper, realesrgan, or a plugin's.
    metrics: Comma-separated measures instead of the protocol's, such as psnr_y,lpips_alex,grid.
    batch_size (>=1): Results of one size that are measured together.
    partial: Compare only the pictures that both the set and the results have.
    plugins (--plugin FILE): Python file that registers measures or protocols; it is run.
    data: Ground-truth pictures: a folder, tar shards (a{{000..012}}.tar, *.tar), local or remote.
    resume: Go on from the run's newest checkpoint.
    accept_changes: With --resume: go on although the settings changed.
    changes (--set FIELD=VALUE): Change a field, such as loss.dists=0.5.
    cpu: Compute on the CPU even where there is a GPU.
    quiet (--quiet -q): Print errors only.
    preset (NAME): Options for a kind of picture: {in_words(tuple(PRESETS))}, or a preset of your own (s3diff presets
        explains them). An option given with it wins.
"""


class _Flags(NamedTuple):
    """Hold the flags of a function, and what calls it with their values and typer's context."""

    parameters: list[inspect.Parameter]
    call: Callable[[Mapping[str, Any], Any], Any]


def takes_flags(**made_by: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a command's parameters flags, or arguments where they may be given without a name.

    The help of each is its entry under ``Args:``, as in ``output (--output -o FILE): Where the result goes.``, or that
    which several commands share. Parameters of the option dataclasses become the flags of all their fields: an option
    comes from the command line, else from the preset, else it has its default. A user's mistake ends the command with
    one line.

    Args:
        made_by: functions that make the value of a parameter of that name from flags of their own.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., None]:
        flags = _flags(command, made_by)
        signature = inspect.Signature(flags.parameters)

        @functools.wraps(command)
        def run(**given: Any) -> None:
            with one_line_errors():
                bound = signature.bind(**given)
                bound.apply_defaults()
                values = bound.arguments
                if "preset" in values and "context" in values:
                    values["preset"] = find_preset(values["preset"])
                flags.call(values, values.get("context"))

        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in flags.parameters}
        run.__doc__ = _split(command.__doc__)[0]
        return run

    return decorate


def _flags(function: Callable[..., Any], made_by: Mapping[str, Callable[..., Any]]) -> _Flags:
    helps = docstring_entries(_SHARED) | docstring_entries(_split(function.__doc__)[1])
    found: dict[str, inspect.Parameter] = {}
    sources: dict[str, Any] = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind = parameter.annotation
        if name in made_by:
            made = _flags(made_by[name], {})
            found |= {each.name: each for each in made.parameters}
            sources[name] = made
        elif kind in (RestoreOptions, OutputOptions, VideoOptions):
            if kind is RestoreOptions:
                found["context"] = inspect.Parameter("context", _FLAG, annotation=typer.Context)
                preset = inspect.Parameter("preset", parameter.kind, default=next(iter(PRESETS)), annotation=str)
                found["preset"] = _flag(preset, *helps["preset"])
            own = {field.name for field in fields(kind)} - {*found}
            found |= {each: _option(kind, each) for each in kind.__dataclass_fields__ if each in own}
            sources[name] = kind
        else:
            found[name] = _flag(parameter, *(helps[name] if name in helps else ((), describe_option(name))))
            sources[name] = None

    def call(given: Mapping[str, Any], context: Any) -> Any:
        values = {}
        for name, source in sources.items():
            if isinstance(source, _Flags):
                values[name] = source.call(given, context)
            else:
                values[name] = given[name] if source is None else _options(source, given, context)
        return function(**values)

    return _Flags([*found.values()], call)


def _split(text: str | None) -> tuple[str, str]:
    """Split a docstring into what comes before ``Args:`` and the entries below it."""
    before, _, below = inspect.cleandoc(text or "").partition("\n\nArgs:\n")
    return before, below.partition("\n\n")[0]


def _flag(parameter: inspect.Parameter, words: Sequence[str], text: str) -> inspect.Parameter:
    """Make one flag, or an argument of a parameter that may be given without a name.

    Args:
        words: the flag's names where they are not the parameter's, then the name of its value, and limits: ``>=1``.
        text: the help.
    """
    names: list[str] = []
    values: list[str] = []
    limits = {}
    for word in words:
        if word[0] in "<>":
            limits[word[0]] = float(word[2:]) if "." in word else int(word[2:])
        else:
            (names if word[0] == "-" else values).append(word)
    text, metavar = text.replace("`", ""), " ".join(values) or None
    if isinstance(parameter.default, float) and parameter.default.is_integer():
        parameter = parameter.replace(default=int(parameter.default))  # 4 and not 4.0 in the help
    if parameter.kind is not _FLAG:
        argument = typer.Argument(help=text, metavar=metavar)
        return parameter.replace(kind=_FLAG, annotation=Annotated[parameter.annotation, argument])
    if not names and parameter.annotation is bool:
        flag = flag_of(parameter.name)
        names = [f"{flag}/--no-{flag[2:]}" if parameter.default is True else flag]
    option = typer.Option(*names, help=text, metavar=metavar, min=limits.get(">"), max=limits.get("<"))
    return parameter.replace(annotation=Annotated[parameter.annotation, option])


def _option(options: type, name: str) -> inspect.Parameter:
    hint, default = get_type_hints(options)[name], getattr(options, name)
    metavar = _METAVARS.get(name)
    if name in LIMITS:
        hint, default = float, default / 1e6
    elif hint == ReleasedTiles | None:
        hint, default = bool, False
    elif metavar is not None and hint is not int:
        hint = str | None if type(None) in get_args(hint) else str
        default = f"{default:g}" if isinstance(default, float) else default
    text = describe_option(name).replace("in pixels (the command takes millions)", "in megapixels")
    text = text.replace("in bytes (the command takes millions)", "in megabytes")
    words = (*([] if hint is bool else [flag_of(name)]), *([metavar] if metavar else []))
    plain = inspect.Parameter(name, _FLAG, default=default, annotation=hint)
    return _flag(plain, words, text)


def _options(options: Any, given: Mapping[str, Any], context: typer.Context) -> Any:
    preset: RestorePreset = given["preset"]
    by_hand = {}
    for name in options.__dataclass_fields__:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            by_hand[name] = _value(name, given[name])
    return preset.options(options, **by_hand)


def _value(name: str, value: Any) -> Any:
    if name == "released_tiles":
        return ReleasedTiles() if value else None
    if name in LIMITS:
        return whole_millions(flag_of(name)[2:], value)
    return parse_own(name, value)
