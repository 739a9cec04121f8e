"""Which files and functions a picture's journey enters, and how often the same is decided on the way.

    python benchmarks/journey.py [restore ...] [--list] [--label before] [--json FILE]

Counts calls with ``sys.setprofile`` in every thread: of ``s3diff restore``, of a picture sent to the HTTP interface, of
``s3diff evaluate`` and of one step of ``s3diff train``. Nothing is timed. With ``--json`` the figures are added to the
file under the label.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "s3diff"
PHOTO = PACKAGE.parent.parent / "assets" / "photos" / "budgerigar.jpg"
#: What should happen once for a picture: the functions that decide it, by file and name.
DECISIONS = {
    "output size computed": {("options.py", "output_size")},
    "options validated": {("options.py", "__post_init__")},
    "target checked": {("writing.py", "check_writable")},
}


class Trace:
    """The package's code that was entered, with the number of calls."""

    def __init__(self) -> None:
        self.calls: Counter[CodeType] = Counter()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            self.calls[frame.f_code] += 1

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count in this thread and in those that are started meanwhile."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]

    def functions(self) -> list[CodeType]:
        """List what was entered; bodies of modules and classes, which run when they are imported, are no functions."""
        return [code for code in self.calls if code.co_flags & inspect.CO_OPTIMIZED]

    def listed(self) -> str:
        """Name every file with its functions and the number of their calls."""
        files: dict[str, list[str]] = {}
        for code in sorted(self.functions(), key=lambda code: code.co_firstlineno):
            place = Path(code.co_filename).relative_to(PACKAGE).as_posix()
            files.setdefault(place, []).append(f"{getattr(code, 'co_qualname', code.co_name)} {self.calls[code]}")
        return "\n".join(f"{place}: {', '.join(names)}" for place, names in sorted(files.items()))

    def figures(self) -> dict[str, int]:
        """Count files, functions and decisions."""
        functions = self.functions()
        decided = {
            label: sum(
                count for code, count in self.calls.items() if (Path(code.co_filename).name, code.co_name) in places
            )
            for label, places in DECISIONS.items()
        }
        return {"files": len({code.co_filename for code in functions}), "functions": len(functions), **decided}


def small_photo(folder: Path, name: str = "photo.png") -> Path:
    """A part of a photograph, 48 x 40 px, as a file."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(PHOTO) as photo:
        photo.crop((60, 60, 108, 100)).save(folder / name)
    return folder / name


def command(*arguments: object) -> None:
    """Run ``s3diff`` in this process; it has to succeed."""
    from s3diff.apps.cli import main

    sys.argv = ["s3diff", *map(str, arguments)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"s3diff {' '.join(sys.argv[1:])} ended with {end.code}: {said.getvalue()}") from end


def restore(folder: Path, trace: Trace) -> None:
    """One picture by the command."""
    source = small_photo(folder)
    with trace.running():
        command("restore", source, "-o", folder / "restored.png", "--device", "cpu", "--quiet")


def serve(folder: Path, trace: Trace) -> None:
    """One picture by HTTP: the request and its job, without the service's start."""
    from fastapi.testclient import TestClient

    from s3diff.serving.http.api import create_app
    from s3diff.serving.limits import ServiceSettings
    from s3diff.serving.service import RestorationService

    content = small_photo(folder).read_bytes()
    with trace.running():  # the service's threads take the trace when they begin
        service = RestorationService(ServiceSettings(device="cpu", folder=folder))
        with service, TestClient(create_app(service)) as client:
            trace.calls.clear()
            answer = client.post("/api/v1/restore", files={"picture": ("photo.png", content)})
            ended = trace.calls.copy()
        trace.calls = ended
    if answer.status_code != 200:
        raise RuntimeError(f"the service answered {answer.status_code}: {answer.text}")


def evaluate(folder: Path, trace: Trace) -> None:
    """One result against its truth, by two measures."""
    for name in ("results", "truth"):
        small_photo(folder / name)
    arguments = ("evaluate", folder / "results", "--truth", folder / "truth", "--metrics", "psnr_y,ssim_y")
    with trace.running():
        command(*arguments, "--device", "cpu", "--quiet")


def train(folder: Path, trace: Trace) -> None:
    """One step of the smallest recipe, without a discriminator, after its estimator's five."""
    from PIL import Image

    (folder / "photos").mkdir()
    with Image.open(PHOTO) as photo:
        photo.crop((40, 40, 200, 200)).save(folder / "photos" / "photo.png")
    changes = ("adversarial.weight=0", "optimiser.max_steps=1", "data.held_out=[]", "validation.every=0")
    options = [part for change in changes for part in ("--set", change)]
    with trace.running():
        command("train", "debug", "--data", folder / "photos", "--output", folder / "run", "--cpu", *options)


JOURNEYS: dict[str, Callable[[Path, Trace], None]] = {
    "restore": restore,
    "serve": serve,
    "evaluate": evaluate,
    "train": train,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journeys", nargs="*", choices=[*JOURNEYS, []], help="all of them by default")
    parser.add_argument("--list", action="store_true", help="name the files and functions")
    parser.add_argument("--label", default="now", help="under which the figures are stored")
    parser.add_argument("--json", type=Path, help="file that the figures are added to")
    arguments = parser.parse_args()
    figures = {}
    for name in arguments.journeys or JOURNEYS:
        trace = Trace()
        with tempfile.TemporaryDirectory() as folder:
            JOURNEYS[name](Path(folder), trace)
        figures[name] = trace.figures()
        print(f"{name:9}", "  ".join(f"{label} {count}" for label, count in figures[name].items()))
        if arguments.list:
            print(trace.listed())
    if arguments.json is not None:
        stored = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        stored[arguments.label] = {**stored.get(arguments.label, {}), **figures}
        arguments.json.write_text(json.dumps(stored, indent=2) + "\n")


if __name__ == "__main__":
    main()
