"""What every command says and how it ends: remarks on stderr, a user's mistake in one line, exit codes."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from s3diff.errors import OptionError, S3DiffError

#: Progress and remarks go to stderr; stdout carries one line per restored picture. Names of files are shown as they
#: are: ":dog:" is no emoji and "[red]" no colour.
remarks = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)

#: Where nobody looks at a terminal, a line about the progress comes at most so often.
_LINE_SECONDS = 30.0

#: 0 all done, 1 something failed, 2 wrong use: of an option's name (typer's own) or of its value.
EXIT_USER_ERROR = 1
EXIT_SOME_FAILED = 1
EXIT_WRONG_USE = 2
EXIT_INTERRUPTED = 130


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and a non-zero exit code; a programming error keeps its traceback.

    Warnings of the libraries are for programmers: ``python -W`` shows them.
    """
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    except S3DiffError as error:
        remark(f"s3diff: {error}")
        raise typer.Exit(EXIT_WRONG_USE if isinstance(error, OptionError) else EXIT_USER_ERROR) from None
    except KeyboardInterrupt:
        remark("s3diff: stopped; nothing half written is left")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(EXIT_USER_ERROR) from None
    except OSError as error:  # the machine's refusals, such as a name too long or a folder closed to the user
        where = f"{error.filename}: " if error.filename is not None else "the command's own output: "
        reason = error.strerror.lower() if error.strerror else error
        remark(f"s3diff: {where}{reason}; check the path, its permissions and the disk")
        raise typer.Exit(EXIT_USER_ERROR) from None


def load_torch() -> Any:
    """Import torch. Ctrl-C meanwhile ends the process at once: inside its libraries it would end in a C++ abort."""
    before = signal.getsignal(signal.SIGINT)
    is_usual = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if is_usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return importlib.import_module("torch")
    finally:
        if is_usual:
            signal.signal(signal.SIGINT, before)


def remark(text: str) -> None:
    remarks.print(on_one_line(text))


def say_large(text: str, below: Sequence[str] = ()) -> None:
    """Print one thing that must not be overlooked, with lines below it, in a frame on the terminal."""
    lines = [Text(f"\n{text}\n", style="bold"), *(Text(line, style="dim") for line in below)]
    remarks.print(Panel(Group(*lines), expand=False, padding=(0, 4)))


def on_one_line(text: str) -> str:
    """Write out line ends, terminal codes and undecodable bytes, which names of files may hold."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


class Counter:
    """How many parts of a picture are done: a bar with the time left on a terminal, now and then a line elsewhere.

    Args:
        unit: what is counted, such as ``tiles``.
        quiet: show nothing.
    """

    def __init__(self, unit: str, quiet: bool) -> None:
        self._unit, self._quiet = unit, quiet
        #: Told instead of a bar of its own where another bar is shown already.
        self.instead: Callable[[str], None] | None = None
        self._bar: Progress | None = None
        self._started = self._said = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._quiet:
            return
        if self.instead is not None:
            self.instead(f"{done} of {total} {self._unit}")
        elif remarks.is_terminal:
            if self._bar is None:
                columns = (TextColumn(self._unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
                self._bar = Progress(*columns, console=remarks)
                self._bar.start()
                self._bar.add_task("", total=total)
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        else:
            self._line(done, total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _line(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._first = done - 1 if self._first is None or done <= self._first else self._first
        if now - self._said >= _LINE_SECONDS and done < total:
            left = (now - self._started) / (done - self._first) * (total - done)
            remark(f"{done} of {total} {self._unit}, about {left / 60:.0f} min left")
            self._said = now
