"""What the command shows on a terminal, as text, and how far its time left is from the truth: docs/recordings.md.

    python benchmarks/recordings.py docs/recordings.md [--full FOLDER] [--only NAME ...]

Each command runs on a pseudo-terminal of 100 columns, and what stood there is kept with its second. Of a bar the
moments at each tenth of the time are written down. ``--full`` names a model folder of the paper's size; without one it
is made with random weights (2 GB), which restore nothing, but take as long. Needs Linux or macOS and the extra web.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import urllib.request
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import NamedTuple

import torch
from hardware import machine
from latency_models import latency_model
from PIL import Image

from s3diff.checkpoints.model_folder import save_model

ROOT = Path(__file__).resolve().parent.parent
PHOTO = ROOT / "assets" / "photos" / "budgerigar.jpg"
COLUMNS, ROWS = 100, 40
#: Terminal codes: erase, move, colours, modes.
CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
BAR = re.compile(r"^[━╸╺ ]{20} ")
LEFT = re.compile(r"about (?:(\d+) h)? ?(?:(\d+) min)? ?(?:(\d+) s)? ?left")
#: A time is judged from this share of the whole time on, and to the second one: at the end rounding decides.
JUDGED = (0.2, 0.8)


class Moment(NamedTuple):
    """A line as it stood on the terminal, when, in seconds from the beginning, and the CPU seconds until then."""

    seconds: float
    line: str
    cpu: float = 0.0


def at_seconds(moment: Moment) -> float:
    """The order of moments; those of one second stay as they are."""
    return moment.seconds


class Terminal:
    """As much of a terminal as the command's output asks for: lines, the cursor, erasing."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        """Take what a program writes."""
        while text:
            code = CODE.match(text)
            if code:
                self._obey(code[2], int(re.sub(r"\D", "", code[1]) or 1))
            elif text[0] == "\r":
                self._column = 0
            elif text[0] == "\n":
                self._row += 1
                if self._row == len(self.lines):
                    self.lines.append("")
            else:
                line = self.lines[self._row].ljust(self._column)
                self.lines[self._row] = line[: self._column] + text[0] + line[self._column + 1 :]
                self._column += 1
            text = text[len(code[0]) if code else 1 :]

    def _obey(self, letter: str, number: int) -> None:
        if letter == "A":
            self._row = max(0, self._row - number)
        elif letter == "K":
            self.lines[self._row] = "" if number == 2 else self.lines[self._row][: self._column]


class Recording(NamedTuple):
    """One command."""

    command: str
    shown: list[Moment]
    bar: list[Moment]
    is_stopped: bool

    def text(self) -> str:
        """The lines that stayed, and the bar at each tenth of its time."""
        moments = [*self.shown]
        begin, end = (self.bar[0].seconds, self.bar[-1].seconds) if self.bar else (0.0, 0.0)
        for tenth in range(1, 11):
            at = begin + (end - begin) * (tenth - 0.5) / 10
            moments += [moment for moment in self.bar if moment.seconds <= at][-1:]
        lines = [f"{moment.seconds:5.0f} s  {moment.line}" for moment in sorted(dict.fromkeys(moments), key=at_seconds)]
        return "\n".join([f"$ {self.command}", *lines])

    def worst_factor(self, by_cpu: bool = False) -> float | None:
        """How far the time left was from the truth at worst; None where none was told or the end never came.

        Args:
            by_cpu: as if the machine had granted all the time what it granted until then: CPU seconds in place of the
                clock's.
        """
        if not self.bar or self.is_stopped:
            return None
        first, last = self.bar[0], self.bar[-1]
        if by_cpu and last.cpu <= first.cpu:
            return None
        factors = []
        for moment in self.bar:
            told = LEFT.search(moment.line)
            passed, rest = moment.seconds - first.seconds, last.seconds - moment.seconds
            share = 1.0
            if by_cpu:
                share = (moment.cpu - first.cpu) / max(passed, 1e-9)
                passed, rest = moment.cpu - first.cpu, last.cpu - moment.cpu
            if told and JUDGED[0] <= passed / max(passed + rest, 1e-9) <= JUDGED[1]:
                hours, minutes, seconds = (int(part or 0) for part in told.groups())
                left = (3600 * hours + 60 * minutes + seconds) * share
                factors.append(max(left / rest, rest / max(left, share)))
        return max(factors, default=None)


def cpu_seconds(process_id: int) -> float:
    """CPU seconds of a running process; 0 where the system does not say."""
    try:
        words = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def record(command: str, folder: Path, stop: Callable[[list[str], float], bool] | None = None) -> Recording:
    """Run a command of ``s3diff`` on a terminal of its own.

    Args:
        command: as typed.
        folder: where it is typed.
        stop: gets the lines that stand there and the seconds; Ctrl-C is pressed once it says so.
    """
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(COLUMNS), "S3DIFF_STATE": str(folder / "state")}
    started = time.monotonic()
    words = [sys.executable, "-m", *command.split()]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job ignores it, and hands that on
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    os.close(slave)
    terminal, shown, bar, is_stopped = Terminal(), {}, [], False
    rest = b""
    while True:
        ready, _, _ = select.select([master], [], [], 0.2)
        now = time.monotonic() - started
        if ready:
            try:
                data = os.read(master, 1 << 16)
            except OSError:  # Linux says so that the other side is closed
                data = b""
            if not data:
                break
            text = (rest + data).decode(errors="ignore")
            cut = text.rfind("\x1b") if re.search(r"\x1b(\[[0-9;?]*)?$", text) else len(text)
            terminal.feed(text[:cut])
            rest = text[cut:].encode()
        for row, line in enumerate(terminal.lines):
            if BAR.match(line):
                if not bar or bar[-1].line != line:
                    bar.append(Moment(now, line.rstrip(), cpu_seconds(process.pid)))
            elif line.strip() and shown.get(row, Moment(0, "")).line != line.rstrip():
                shown[row] = Moment(now, line.rstrip())
        if stop is not None and not is_stopped and stop(terminal.lines, now):
            os.kill(process.pid, signal.SIGINT)
            is_stopped = True
    process.wait()
    os.close(master)
    kept = [moment for row, moment in sorted(shown.items()) if terminal.lines[row].strip() == moment.line.strip()]
    return Recording(command, kept, bar, is_stopped)


def photographs(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Photographs of these sizes in a folder."""
    folder.mkdir(exist_ok=True)
    names = ("beach", "boat", "cliff", "dunes", "harbour", "island", "lighthouse", "pier", "reef", "sail")
    with Image.open(PHOTO) as photo:
        for name, size in zip(names, sizes, strict=False):
            photo.convert("RGB").resize(size).save(folder / f"{name}.jpg", quality=92)


def full_size(folder: Path, given: Path | None) -> list[Recording]:
    """One picture with a model of the paper's size, the second time with what the first has taught."""
    model = given or folder / "full"
    if given is None:
        made = latency_model("full")
        save_model(model, made.generator, made.prompts, name="full-random", dtype=torch.float16)
    if not (folder / "full").exists():
        (folder / "full").symlink_to(model.resolve())
    photographs(folder, [(64, 64)])
    command = "s3diff restore beach.jpg --model full -o {}.png"
    return [record(command.format(name), folder) for name in ("first", "second")]


def tiles(folder: Path) -> list[Recording]:
    """One picture in about twenty tiles."""
    photographs(folder, [(160, 120)])
    return [record("s3diff restore beach.jpg -o tiles.png --tile 256", folder)]


def resumed(folder: Path) -> list[Recording]:
    """A folder that is stopped by Ctrl-C, and gone on with."""
    sizes = [(96, 72), (120, 90), (72, 96), (150, 100), (64, 64), (128, 96), (100, 140), (90, 60)]
    photographs(folder / "holiday", sizes)
    is_enough = lambda lines, _: sum("holiday_restored" in line for line in lines) >= 3  # noqa: E731
    return [record("s3diff restore holiday", folder, is_enough), record("s3diff restore holiday", folder)]


def many(folder: Path) -> list[Recording]:
    """A folder of pictures of several sizes."""
    small, large = [(96, 72), (72, 96), (64, 64), (90, 60), (96, 96)], [(200, 150), (150, 100), (240, 180), (180, 180)]
    photographs(folder / "album", [*small[:2], *large[:2], *small[2:], *large[2:]])
    return [record("s3diff restore album", folder)]


def serve(folder: Path) -> list[Recording]:
    """The service, one picture through it, and Ctrl-C."""

    def is_done(lines: list[str], seconds: float) -> bool:
        found = re.search(r"http://[\d.:]+", "\n".join(lines))
        if found is None:
            return seconds > 600
        photographs(folder, [(64, 48)])
        boundary = "recording"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="picture"; filename="beach.jpg"\r\n\r\n'
        body = head.encode() + (folder / "beach.jpg").read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Accept": "image/*"}
        request = urllib.request.Request(f"{found[0]}/api/v1/restore", body, headers)
        with urllib.request.urlopen(request, timeout=300) as answer:
            answer.read()
        time.sleep(1)
        return True

    return [record("s3diff serve --port 0", folder, is_done)]


PARTS: dict[str, tuple[str, Callable[..., list[Recording]]]] = {
    "full": ("One picture at full size", full_size),
    "tiles": ("One picture in tiles", tiles),
    "resumed": ("A folder, stopped and gone on with", resumed),
    "many": ("A folder of several sizes", many),
    "serve": ("The service", serve),
}


def main() -> None:
    """Record, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--full", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    given = parser.parse_args()
    for name in given.only:
        folder = Path(tempfile.mkdtemp(prefix="s3diff-recordings-"))
        try:
            title, make = PARTS[name]
            made = make(folder, given.full) if name == "full" else make(folder)
        finally:
            shutil.rmtree(folder)
        load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
        processor = machine(torch.device("cpu"))["processor"]
        facts = f"{processor}, {os.cpu_count()} cores, load {load}, {time.strftime('%Y-%m-%d')}"
        section = [f"## {title}", "", *(f"{line}" for each in made for line in ("```text", each.text(), "```", ""))]
        for each in made:
            if (factor := each.worst_factor()) is not None:
                by_cpu = each.worst_factor(by_cpu=True)
                more = "" if by_cpu is None else f", in CPU seconds {by_cpu:.2f} times"
                section.append(
                    f"Time left of `{each.command}`: at worst {factor:.2f} times off the truth{more} ({facts})."
                )
        write(given.page, title, "\n".join(section).rstrip() + "\n")
        print("\n".join(section), flush=True)


def write(page: Path, title: str, section: str) -> None:
    """Put a section in its place on the page; the other ones stay."""
    text = page.read_text("utf-8")
    old = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    page.write_text(text.replace(old[0], section + "\n") if old else f"{text.rstrip()}\n\n{section}", "utf-8")


if __name__ == "__main__":
    main()
