"""Print every command's remarks and errors, choose exit codes, and get torch ready."""

from __future__ import annotations

import importlib
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from s3diff.errors import OptionError, S3DiffError
from s3diff.messages import shown_path as on_one_line

#: Progress and remarks go to stderr; stdout carries one line per restored picture. File names are printed literally:
#: ":dog:" is no emoji and "[red]" no colour.
remarks = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)

#: 0 all done, 1 something failed, 2 wrong use of an option's name (typer's own) or value, 130 stopped by Ctrl-C.
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
    except ConnectionError as error:
        if isinstance(error, BrokenPipeError) and _is_reader_gone():  # as of: s3diff models | head -1
            sys.stderr.close()
        else:
            remark(
                f"s3diff: the connection to another process or to a service broke ({error.strerror or error}); give "
                "the same command again"
            )
        raise typer.Exit(EXIT_USER_ERROR) from None
    except OSError as error:  # the machine's refusals, such as a name too long or a folder closed to the user
        where = f"{error.filename}: " if error.filename is not None else "the command's own output: "
        reason = error.strerror.lower() if error.strerror else error
        remark(f"s3diff: {where}{reason}; check the path, its permissions and the disk")
        raise typer.Exit(EXIT_USER_ERROR) from None


def _is_reader_gone() -> bool:
    """Check whether nobody reads this command's output any longer; true where the system cannot say, as on Windows."""
    if not hasattr(select, "poll"):
        return True
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # no stream, or none with a file
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if poll.poll(0):  # poll reports an error of the other end without a request
                return True
    return False


@contextmanager
def waiting_line(text: str, quiet: bool = False) -> Iterator[Callable[[], None]]:
    """Show a line on a terminal until the block ends, or until the function that it gives is called."""
    can_erase = remarks.is_terminal and not remarks.is_dumb_terminal and not remarks.legacy_windows
    is_shown = can_erase and not quiet

    def erase() -> None:
        nonlocal is_shown
        if is_shown:
            remarks.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
        is_shown = False

    if is_shown:
        remarks.print(on_one_line(text), end="")
    try:
        yield erase
    finally:
        erase()


@contextmanager
def progress_bar(*columns: Any, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Show a bar from the first call with (done, total, text) on; another total begins another bar."""
    from rich.progress import Progress

    is_shared = sys.stdout is not None and sys.stdout.isatty()
    bar = Progress(*columns, console=remarks, redirect_stdout=is_shared, disable=quiet)

    def show(done: int, total: int, text: str = "") -> None:
        if not bar.tasks or bar.tasks[0].total != total:
            for task in bar.tasks:
                bar.remove_task(task.id)
            bar.start()
            bar.add_task(text, total=total, completed=done)
        bar.update(bar.tasks[0].id, completed=done, description=on_one_line(text))

    try:
        yield show
    finally:
        if bar.tasks:
            bar.stop()


def load_torch(threads: int | None = None, *, quiet: bool = False) -> Any:
    """Import torch and set its number of threads; None for all that the machine grants.

    A terminal shows meanwhile that the command is at work. Ctrl-C ends the process at once: inside torch's libraries it
    would end in a C++ abort.
    """
    before = signal.getsignal(signal.SIGINT)
    is_usual = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if is_usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with waiting_line("getting ready ...", quiet):
            limits = importlib.import_module("s3diff.restoration.process_limits")
            limits.let_threads_sleep()
            limits.keep_freed_memory()
            torch = importlib.import_module("torch")
            limits.set_threads(threads)
            return torch
    finally:
        if is_usual:
            signal.signal(signal.SIGINT, before)


def remark(text: str) -> None:
    remarks.print(on_one_line(text))
