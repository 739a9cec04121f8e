"""The documents as data: their code blocks, and what a command line in them is."""

from __future__ import annotations

import re
import shlex
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import click
import typer
from typer.main import get_command

from conftest import REPOSITORY
from s3diff.apps.cli import app
from s3diff.formats import format_of
from s3diff.training.recipes import RECIPES, with_change

#: Everything with commands that a reader copies.
DOCUMENTS = (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"^(?P<indent>[ ]*)(?:<!-- not run: (?P<reason>\S.*?) -->\n(?P=indent))?```(?P<language>bash|powershell|python)\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_COMMAND_LINE = re.compile(r"^(?:[ ]{4,}|\$ ?|>>> ?)(?:s3diff|pip|python3?|curl) .*$", re.MULTILINE)
_ROOT = get_command(app)


class Block(NamedTuple):
    """A code block of a document; ``reason``: why no test runs it, if none does."""

    document: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Of a shell's block: its lines, without comments, continued ones joined, ``a && b`` apart."""
        joined = re.sub(r"[ ]*\\\n\s*", " ", self.text)
        lines = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines()]
        return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


def blocks() -> list[Block]:
    """Of bash, PowerShell and Python, in all documents."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("language")) + 1
            code = textwrap.dedent(match["text"])
            found.append(Block(str(path.relative_to(REPOSITORY)), line, match["language"], code, match["reason"]))
    return found


#: What a terminal showed: a block of text that begins with a prompt and the command.
_RECORDING = re.compile(r"^```text\n\$ (s3diff [^\n]+)\n.*?^```$", re.MULTILINE | re.DOTALL)


def hidden_commands() -> list[str]:
    """Lines that look like commands but stand in no block of ``bash``, PowerShell or Python, nor in a recording."""
    found = []
    for path in DOCUMENTS:
        text = _RECORDING.sub("", _BLOCK.sub("", path.read_text("utf-8")))
        found += [f"{path.name}: {line.strip()}" for line in re.findall(_COMMAND_LINE, text)]
    return found


def commands_in_prose() -> list[tuple[str, str]]:
    """``s3diff`` with arguments in inline code and recordings, each with its document.

    ``...`` means that something is left out.
    """
    found = []
    for path in DOCUMENTS:
        found += [(path.name, command) for command in _RECORDING.findall(path.read_text("utf-8"))]
        prose = re.sub(r"^[ ]*```.*?^[ ]*```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"(?<!`)`(s3diff\s[^`]+)`(?!`)", prose):
            found.append((path.name, re.sub(r"\s+", " ", code).removesuffix(" ...")))
    return found


def flags_of_the_command() -> set[str]:
    """Every option of every command."""
    return {
        flag
        for command in _ROOT.commands.values()  # type: ignore[attr-defined]
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }


def require_understood(words: list[str], *, in_part: bool = False) -> None:
    """Parse the arguments behind ``s3diff`` as the command does, without running it.

    Args:
        words: the command's name and its arguments.
        in_part: arguments may be left out, as in prose about one option.

    Raises:
        AssertionError: no such command, no such option, or a value that it does not take.
    """
    name, arguments = words[0], words[1:]
    if name not in _ROOT.commands and format_of(name) is not None:  # type: ignore[attr-defined]
        name, arguments = "restore", list(words)  # the short form
    command = _ROOT.commands.get(name)  # type: ignore[attr-defined]
    if command is None:
        assert name.startswith("-"), f"there is no command {name}"
        return
    while hasattr(command, "commands") and arguments:
        name, arguments = arguments[0], arguments[1:]
        command = command.commands.get(name)
        assert command is not None, f"s3diff {shlex.join(words)}: there is no command {name}"
    problem = _problem(command, name, arguments)
    left_out = problem.startswith("Missing") or problem.endswith("requires an argument.")
    assert not problem or (in_part and left_out), f"s3diff {shlex.join(words)}: {problem}"
    if name == "train":
        for field, change in pairwise(arguments):
            if field == "--set":
                with_change(RECIPES.get(arguments[0], RECIPES["tune"])(), change)


def _problem(command: click.Command, name: str, arguments: list[str]) -> str:
    """What is wrong with a command's arguments; nothing if they are understood, or ask for help."""
    try:
        command.make_context(name, list(arguments))
    except (click.exceptions.Exit, typer.Exit):
        return ""
    except Exception as error:  # typer's own click in later versions, click's before
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())
    return ""


def shell_words(command: str) -> list[str]:
    """The words of a command without variables set before it: ``A=b s3diff serve`` is ``s3diff serve``."""
    words = shlex.split(command)
    while words and re.match(r"[A-Z0-9_]+=", words[0]):
        words.pop(0)
    return words


def mentioned_files() -> set[tuple[str, Path]]:
    """Scripts of benchmarks and tests that documents name, each with its document."""
    found = set()
    for path in DOCUMENTS:
        for name in re.findall(r"(?<![\w/])(?:benchmarks|tests)/[\w/]+\.(?:py|sh)", path.read_text("utf-8")):
            found.add((path.name, REPOSITORY / name))
    return found
