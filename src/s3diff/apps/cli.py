"""Define the command ``s3diff``. Functions import everything heavy themselves: ``--help`` does not import torch."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from s3diff.apps.cluster_commands import cluster
from s3diff.apps.degrade_command import degrade
from s3diff.apps.evaluation_commands import benchmark, evaluate
from s3diff.apps.export_command import export
from s3diff.apps.inspect_command import inspect
from s3diff.apps.restore_command import restore
from s3diff.apps.serve_command import app as open_app
from s3diff.apps.serve_command import serve
from s3diff.apps.terminal import EXIT_USER_ERROR, EXIT_WRONG_USE, load_torch, one_line_errors, remark
from s3diff.apps.training_commands import train, train_estimator
from s3diff.errors import ModelError, OptionError, OutputError
from s3diff.formats import format_of
from s3diff.option_texts import flag_of, option_text
from s3diff.presets import all_presets, own_presets_file
from s3diff.version import __version__

#: What typer raises for arguments that it does not understand: its own click's in later versions, click's before.
_UsageError: Any = typer.BadParameter.__base__


#: The commands in the order of the help, for people first, each in a line.
_COMMANDS = {
    "restore": "Make pictures larger and clearer.",
    "app": "Open the web page in the browser, for this machine only.",
    "serve": "Serve the web page and the HTTP service to others.",
    "presets": "List settings for kinds of pictures: scans, text, ...",
    "inspect": "Show how a result was made.",
    "models": "List the models and their folders.",
    "doctor": "Show which parts are installed.",
    "cluster": "Restore and serve on many machines.",
    "train": "Train a model on your own photographs.",
    "train-estimator": "Train the network that finds blur and noise.",
    "degrade": "Make low-quality pictures of good ones, for tests.",
    "evaluate": "Score folders of results.",
    "benchmark": "Restore a set with several methods and score them.",
    "convert": "Make a model folder of the authors' files, or back.",
    "export": "Write a model for ONNX, OpenVINO or torch.export.",
}


class _CommandOrPicture(TyperGroup):
    """Group the commands; ``s3diff photo.jpg`` is ``s3diff restore photo.jpg``."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.short_help = _COMMANDS[cmd_name]
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [word for word in args if not word.startswith("-")]
        names_files = [os.path.lexists(word) or format_of(word) is not None for word in words]
        # A word that is neither a command nor a file is reported as a mistake. Options may come first.
        begins_with_option = bool(args) and args[0].startswith("-")
        is_short = any(names_files) if begins_with_option else bool(words) and names_files[0]
        is_short = is_short and not set(self.commands) & set(words if begins_with_option else words[:1])
        return super().parse_args(ctx, ["restore", *args] if is_short else args)


app = typer.Typer(
    name="s3diff",
    cls=_CommandOrPicture,
    help="Make small, blurred or noisy photographs larger and clearer, on this computer.\n\n"
    "s3diff photo.jpg writes photo_restored.jpg, four times as large; s3diff app opens a page in the browser.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"s3diff {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(restore)
app.command()(inspect)


@app.command("convert")
def convert_command(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write, or the .pkl to write.")],
    base: Annotated[
        Path | None, typer.Option(help="SD-Turbo's folder (diffusers layout); to compare with, for --to-official.")
    ] = None,
    s3diff: Annotated[Path | None, typer.Option(help="The authors' s3diff.pkl.")] = None,
    estimator: Annotated[
        Path | None, typer.Option(help="The authors' de_net.pth; with --to-official, where to write it.")
    ] = None,
    to_official: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Write this model folder back as an s3diff.pkl at OUT.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the base model in float16: half the size.")] = False,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "s3diff",
) -> None:
    """Make a model folder of the authors' files, or (--to-official) write the authors' layout back; OUT must be new.

    Only tensors are read; no code in a file ever runs.
    """
    with one_line_errors():
        if to_official is not None:
            if s3diff is not None or half or name != "s3diff":
                raise OptionError("--to-official reads a model folder; leave out --s3diff, --half and --name")
            if base is None:
                raise OptionError(
                    "--to-official needs --base SD_TURBO_FOLDER, the model's own: what was trained beyond what an "
                    "s3diff.pkl holds would be lost without a word"
                )
            _require_places(to_official, [output, estimator] if estimator else [output])
            load_torch()
            from s3diff.checkpoints.convert import to_official as write_back

            write_back(to_official, output, estimator, base_folder=base)
            typer.echo(f"{output}")
            return
        if base is None or s3diff is None or estimator is None:
            raise OptionError(
                "convert needs three inputs: --base SD_TURBO_FOLDER --s3diff s3diff.pkl --estimator de_net.pth OUT"
            )
        if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
            raise OutputError(f"{output} exists; remove it, or choose a new name")
        torch = load_torch()
        from s3diff.checkpoints.convert import convert

        dtype = torch.float16 if half else torch.float32
        description = convert(base, s3diff, estimator, output, dtype=dtype, name=name)
        typer.echo(f"{output}  {description.fingerprint}")


@app.command()
def models(
    verify: Annotated[
        bool, typer.Option("--verify", help="Load every model that is there and compare it with its fingerprint.")
    ] = False,
) -> None:
    """List the models that --model knows by name, and their folders, which may be removed as a whole."""
    with one_line_errors():
        if verify:
            load_torch()
        from s3diff.checkpoints.registry import NAMED_MODELS, load_model, read_description

        num_damaged = 0
        for named in NAMED_MODELS.values():
            state = "ready" if named.is_present else "missing" if named.kind == "embedded" else "not fetched yet"
            if named.is_present and verify:
                try:
                    load_model(named.folder(), verify=True)
                    state = "verified"
                except ModelError as error:
                    remark(f"s3diff: {error}")
                    state, num_damaged = "damaged", num_damaged + 1
            typer.echo(f"{named.name:10} {state:16} {named.summary}")
            if named.is_present:
                known = "" if state == "damaged" else f"  {read_description(named.folder()).fingerprint[:23]}"
                typer.echo(f"{'':10} {'':16} {named.folder()}{known}")
        if num_damaged:
            raise typer.Exit(EXIT_USER_ERROR)


@app.command()
def presets() -> None:
    """List the presets of s3diff restore with their purposes and options, and explain how to add your own."""
    with one_line_errors():
        for preset in all_presets().values():
            texts = {flag_of(name): option_text(name, value) for name, value in preset.values.items()}
            flags = [flag if text == "true" else f"{flag} {text}" for flag, text in texts.items()]
            typer.echo(f"{preset.name:10} {preset.summary}".rstrip())
            typer.echo(f"{'':10} {' '.join(flags) or 'the defaults of s3diff restore'}")
        typer.echo(
            f"Your own: {own_presets_file()}\n"
            "  [album]\n  summary = For the album\n  long-side = 4096\n  noise = +0.1\n  format = jpg\n"
            "then: s3diff restore photo.jpg --preset album"
        )


@app.command()
def doctor() -> None:
    """Check the installation: print versions, devices, models, and the extras with their purposes."""
    with one_line_errors(), warnings.catch_warnings():
        warnings.simplefilter("default")  # why a device is not found is said in warnings
        from s3diff.apps.diagnosis import diagnose

        for line in diagnose():
            typer.echo(line)


app.command()(export)
app.command()(serve)
app.command("app")(open_app)
app.add_typer(cluster)
app.command()(degrade)
app.command()(evaluate)
app.command()(benchmark)
app.command()(train)
app.command()(train_estimator)


def main() -> None:
    """Run the command."""
    # Tokenizer threads and advisory notices have no place in a command's output.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # A file name that the terminal cannot encode must not end the run.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # What typer itself prints and reads: --help into a full disk, Ctrl-C before a command begins.
    try:
        with one_line_errors():
            code = app(prog_name="s3diff", standalone_mode=False)
    except typer.Exit as end:
        code = end.exit_code
    except typer.Abort:
        code = EXIT_USER_ERROR
    except _UsageError as error:
        code = EXIT_WRONG_USE
        command = error.ctx.command_path if error.ctx is not None else "s3diff"
        if error.ctx is not None and error.format_message() in ("", error.ctx.get_help()):
            typer.echo(error.ctx.get_help(), err=True)  # no arguments at all
        else:
            message = error.format_message().replace("Value error, ", "").rstrip(".")  # typer's words about a Literal
            if command == "s3diff":  # where a picture may stand as well
                message = message.replace("No such command", "No such command, file or folder:", 1)
            remark(f"s3diff: {message}{' See' if message.endswith('?') else '; see'} {command} --help")
    sys.exit(code if isinstance(code, int) else 0)


def _require_places(model: Path, outputs: list[Path]) -> None:
    """Check that each output is a new path outside the input model, in an existing folder."""
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise OptionError(f"{outputs[0]} cannot take both files; give --estimator another name than OUT")
    for path in outputs:
        if model.resolve() in (path.resolve(), *path.resolve().parents):
            raise OutputError(f"{path} would change the model folder {model}; choose another place")
        if not path.parent.is_dir():
            raise OutputError(f"{path} cannot be written: {path.parent} is no folder; make it first")
        if os.path.lexists(path):
            raise OutputError(f"{path} exists and would be replaced; remove it, or choose a new name")


if __name__ == "__main__":
    main()
