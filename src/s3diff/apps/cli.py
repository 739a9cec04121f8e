"""Define the command ``s3diff``. Each command is imported when it is wanted."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from s3diff.apps.terminal import EXIT_USER_ERROR, EXIT_WRONG_USE, one_line_errors, remark
from s3diff.formats import format_of
from s3diff.version import __version__

#: What typer raises for arguments that it does not understand: its own click's in later versions, click's before.
_UsageError: Any = typer.BadParameter.__base__


#: The commands in the order of the help, for people first: the function that runs each, and the help's line.
_COMMANDS = {
    "restore": ("restore_command.restore", "Make pictures larger and clearer."),
    "app": ("serve_command.app", "Open the web page in the browser, for this machine only."),
    "serve": ("serve_command.serve", "Serve the web page and the HTTP service to others."),
    "presets": ("setup_commands.presets", "List settings for kinds of pictures: scans, text, ..."),
    "inspect": ("setup_commands.inspect", "Show how a result was made."),
    "models": ("setup_commands.models", "List the models and their folders."),
    "doctor": ("setup_commands.doctor", "Show which parts are installed."),
    "cluster": ("cluster_commands.cluster", "Restore and serve on many machines."),
    "train": ("training_commands.train", "Train a model on your own photographs."),
    "train-estimator": ("training_commands.train_estimator", "Train the network that finds blur and noise."),
    "degrade": ("evaluation_commands.degrade", "Make low-quality pictures of good ones, for tests."),
    "evaluate": ("evaluation_commands.evaluate", "Score folders of results."),
    "benchmark": ("evaluation_commands.benchmark", "Restore a set with several methods and score them."),
    "convert": ("setup_commands.convert", "Make a model folder of the authors' files, or back."),
    "export": ("setup_commands.export", "Write a model for ONNX, OpenVINO or torch.export."),
}


@functools.cache
def _command(name: str) -> Any:
    (module, function), summary = _COMMANDS[name][0].split("."), _COMMANDS[name][1]
    found = getattr(import_module(f"s3diff.apps.{module}"), function)
    if not isinstance(found, typer.Typer):
        door = typer.Typer(add_completion=False, rich_markup_mode=None)
        door.command(name)(found)
        found = door
    command = typer.main.get_command(found)
    command.short_help = summary
    return command


class _Commands(Mapping[str, Any]):
    """Hold the commands, each of which is imported when it is wanted."""

    def __getitem__(self, name: str) -> Any:
        return _command(name)  # which raises KeyError for others

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _CommandOrPicture(TyperGroup):
    """Group the commands; ``s3diff photo.jpg`` is ``s3diff restore photo.jpg``."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands: Any = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

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


def main() -> None:
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


if __name__ == "__main__":
    main()
