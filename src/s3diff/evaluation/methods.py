"""Define the compared methods: models, plain interpolation, others' results, and any program that restores one
picture.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s3diff.atomic_write import whole_path
from s3diff.checkpoints.registry import NAMED_MODELS
from s3diff.errors import OptionError, OutputError, PictureError
from s3diff.evaluation.scorebook import Score
from s3diff.evaluation.sets import SetItem, match_results
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, from_tensor, to_tensor
from s3diff.images.resampling import BASELINE_KERNELS, resample
from s3diff.options import Precision, RestoreOptions
from s3diff.restoration.restorer import Restorer, as_picture
from s3diff.user_code import is_function_of_file, load_function, told_in_one_line

#: Stand for the input and the output in the command of a program.
INPUT_MARK, OUTPUT_MARK = "{input}", "{output}"
#: Longest time that a program may take for one picture, in seconds.
PROGRAM_LIMIT_SECONDS = 3600.0
#: Side of the corner that a model restores before its first timed picture.
WARM_UP_PX = 64


class Method(ABC):
    """Describe one column of the comparison.

    Attributes:
        name: in tables and in the names of folders.
        identity: everything that decides its results, as a text; results of another identity are made again.
        needs_input: whether the method makes its results itself.
    """

    name: str
    identity: str
    needs_input = True

    @abstractmethod
    def result_path(self, item: SetItem, folder: Path) -> Path | None:
        """Return the path of a picture's result, also of a future one; None where there is none (a partial folder)."""

    @abstractmethod
    def restore(self, item: SetItem, target: Path, size: tuple[int, int]) -> Score:
        """Make the result of one picture at ``target``, of ``size`` (width, height) pixels.

        Returns:
            The beginning of the picture's line, from :meth:`made`.

        Raises:
            S3DiffError: it cannot be made; the message says why.
        """

    def made(self, item: SetItem, seconds: float | None = None, degrees: tuple[float, float] | None = None) -> Score:
        """Begin the line of a picture.

        Args:
            seconds: wall-clock time, reading and writing files left out except for programs, and a model's warm-up;
                None for results of others.
            degrees: (blur, noise) that the result was made for, None where there are none.
        """
        return Score(self.name, item.name, seconds=seconds, degrees=degrees, made_by=self.identity)


class _Maker(Method):
    def result_path(self, item: SetItem, folder: Path) -> Path | None:
        return folder / self.name / f"{item.name}.png"


class Baseline(_Maker):
    """Plain interpolation with one of ``BASELINE_KERNELS``."""

    def __init__(self, name: str, kernel: str) -> None:
        self.name, self.kernel, self.identity = name, kernel, f"baseline {kernel}"

    def restore(self, item: SetItem, target: Path, size: tuple[int, int]) -> Score:
        picture = _input_of(item)
        started = time.perf_counter()
        image = resample(to_tensor(picture), size[1], size[0], self.kernel)
        result = Picture(from_tensor(image, picture))
        seconds = time.perf_counter() - started
        write_picture(result, target)
        return self.made(item, seconds)


class Model(_Maker):
    """Restore with one of our models and its defaults."""

    def __init__(
        self,
        name: str,
        model: str,
        device: str,
        precision: Precision = "auto",
        announce: Callable[..., None] | None = None,
    ) -> None:
        self.name = name
        self.restorer = Restorer.from_pretrained(model, device=device, precision=precision, announce=announce)
        self.identity = f"model {self.restorer.model.fingerprint} {self.restorer.precision}"
        self.options = RestoreOptions()
        self._is_warm = False

    def restore(self, item: SetItem, target: Path, size: tuple[int, int]) -> Score:
        picture = _input_of(item)
        if not self._is_warm:  # the warm-up, which only a first picture pays for, is no part of its seconds
            corner = Picture(np.ascontiguousarray(picture.pixels[:WARM_UP_PX, :WARM_UP_PX]))
            self.restorer.restore(corner, self.options)
            self._is_warm = True
        restored = self.restorer.restore(picture, replace(self.options, size=size))
        write_picture(replace(restored.picture, exif=None, provenance=None), target)
        return self.made(item, restored.seconds["total"], (restored.degrees.blur, restored.degrees.noise))


class Results(Method):
    """Read a folder of results that others made.

    Raises:
        PictureError: see :func:`s3diff.evaluation.sets.match_results`.
    """

    needs_input = False

    def __init__(self, name: str, folder: Path, items: Sequence[SetItem], *, partial: bool) -> None:
        self.name, self.identity = name, "results"
        self.paths = match_results(folder, items, partial=partial)

    def result_path(self, item: SetItem, folder: Path) -> Path | None:
        return self.paths.get(item.name)

    def restore(self, item: SetItem, target: Path, size: tuple[int, int]) -> Score:
        return self.made(item)


class Program(_Maker):
    """Start a program once for each picture, without a shell.

    Args:
        command: with ``{input}`` and ``{output}``; the output is a .png file.

    Raises:
        OptionError: the command cannot be taken apart.
    """

    def __init__(self, name: str, command: str) -> None:
        self.name, self.identity = name, f"program {command}"
        try:
            self.words = _words(command)
        except ValueError as error:
            raise OptionError(f"the command {command!r} cannot be taken apart ({error}); check its quotes") from error

    def restore(self, item: SetItem, target: Path, size: tuple[int, int]) -> Score:
        assert item.low_quality is not None
        made = target.with_name(f"unfinished-{target.name}")  # ends as the program expects
        marks = {INPUT_MARK: str(item.low_quality.resolve()), OUTPUT_MARK: str(made.resolve())}
        words = self.words
        for mark, path in marks.items():
            words = [word.replace(mark, path) for word in words]
        with whole_path(target, temporary=made):
            made.unlink(missing_ok=True)
            started = time.perf_counter()
            try:
                done = subprocess.run(
                    words, capture_output=True, text=True, errors="replace", check=False, timeout=PROGRAM_LIMIT_SECONDS
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise OutputError(f"{self.name}: {words[0]} could not be run ({error}); check the command") from error
            seconds = time.perf_counter() - started
            if done.returncode != 0 or not made.is_file():
                last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
                ended = f"ended with {done.returncode}" if done.returncode else "wrote no output"
                raise OutputError(f"{self.name} {ended} on {item.name}: {last[0]}; try the command by hand")
        return self.made(item, seconds)


class Function(_Maker):
    """Call a function of a user's file.

    It takes the low-quality picture, [h, w, 3] or [h, w, 1] uint8 or uint16, and the result's (width, height), and
    returns the result as an array (uint8, uint16 or float in [0, 1]) or as a Pillow image.

    Args:
        function: ``FILE.py:FUNCTION``; a changed file makes its results again.

    Raises:
        OptionError: no such file or function.
    """

    def __init__(self, name: str, function: str) -> None:
        self.name, self._text = name, function
        self._function = load_function("method", function, "of a low-quality array and a size, to a restored array")
        digest = hashlib.sha256(Path(function.rpartition(":")[0]).read_bytes()).hexdigest()
        self.identity = f"function {function} sha256:{digest}"

    def restore(self, item: SetItem, target: Path, size: tuple[int, int]) -> Score:
        picture = _input_of(item)
        started = time.perf_counter()
        with told_in_one_line("method", self._text):
            made = self._function(picture.pixels.copy(), size)
        seconds = time.perf_counter() - started
        result = as_picture(made, RestoreOptions())
        if (result.width, result.height) != size:
            raise PictureError(
                f"{self._text} gave {result.width} x {result.height} px for {item.name}; give {size[0]} x {size[1]}"
            )
        write_picture(result, target)
        return self.made(item, seconds)


def _words(command: str) -> list[str]:
    """Split a command; on Windows a backslash belongs to a path, so that quotes are removed here."""
    if os.name != "nt":
        return shlex.split(command)
    words = shlex.split(command, posix=False)
    return [
        word[1:-1] if word[:1] == word[-1:] and word[:1] in ("'", '"') and len(word) > 1 else word for word in words
    ]


def parse_methods(
    given: Sequence[str],
    items: Sequence[SetItem],
    *,
    device: str,
    precision: Precision = "auto",
    partial: bool = False,
    announce: Callable[..., None] | None = None,
) -> list[Method]:
    """Make the methods that a command line names.

    Args:
        given: each ``WHAT`` or ``NAME=WHAT``. WHAT is ``bicubic`` or ``lanczos``, a model's name or folder, a folder of
            results, a function as ``FILE.py:FUNCTION``, or a command with ``{input}`` and ``{output}``.
        partial: folders of results may lack pictures.

    Raises:
        OptionError: a method is none of these, or two have one name.
        PictureError: a folder of results does not fit the set.
        ModelError: a model cannot be loaded.
        DownloadError: the release could not be fetched.
    """
    named = [split_name(text) for text in given]
    names = [name for name, _ in named]
    if twice := [name for name in names if names.count(name) > 1]:
        raise OptionError(f"{twice[0]!r} is the name of two methods; give them other ones: NAME={twice[0]}")
    # Cheap ones first: a wrong folder is an error before a model is loaded. The table keeps the order given.
    made: dict[str, Method] = {}
    for name, what in sorted(named, key=lambda pair: _is_model(pair[1])):
        made[name] = _method(name, what, items, device, precision, partial, announce)
    return [made[name] for name in names]


def _method(
    name: str,
    what: str,
    items: Sequence[SetItem],
    device: str,
    precision: Precision,
    partial: bool,
    announce: Callable[..., None] | None,
) -> Method:
    if INPUT_MARK in what and OUTPUT_MARK in what:
        return Program(name, what)
    if what in BASELINE_KERNELS:
        return Baseline(name, what)
    if is_function_of_file(what):
        return Function(name, what)
    if _is_model(what):
        return Model(name, what, device, precision, announce)
    if Path(what).is_dir():
        return Results(name, Path(what), items, partial=partial)
    hint = f"; a command needs both {INPUT_MARK} and {OUTPUT_MARK}" if " " in what else ""
    raise OptionError(
        f"{what!r} is nothing to compare; give {', '.join((*BASELINE_KERNELS, *NAMED_MODELS))}, a model folder, a "
        f"folder of results, a function as FILE.py:FUNCTION, or a command with {INPUT_MARK} {OUTPUT_MARK}{hint}"
    )


def _is_model(what: str) -> bool:
    return what in NAMED_MODELS or (Path(what) / "config.json").is_file()


def split_name(text: str) -> tuple[str, str]:
    """Split ``NAME=WHAT``, or make a name of WHAT where there is none."""
    name, mark, what = text.partition("=")
    if mark and name and what and not any(sign in name for sign in "/\\{} "):
        if name.startswith(".") or not all(sign.isalnum() or sign in "-_.+" for sign in name):
            raise OptionError(f"{name!r} is no name for a method; give letters, digits, and - _ . + inside")
        return name, what
    if is_function_of_file(text):
        name = text.rpartition(":")[2]
    elif INPUT_MARK in text:
        words = text.split()
        name = Path(words[0]).stem if words else "program"
    else:
        name = Path(text).resolve().name if Path(text).is_dir() else text
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in name) or "method", text


def _input_of(item: SetItem) -> Picture:
    if item.low_quality is None:
        raise PictureError(f"{item.name} has no low-quality picture to restore; give a set with inputs")
    return read_picture(item.low_quality)


def describe_machine(device: Any) -> dict[str, str]:
    """Describe what seconds depend on, for reports."""
    chosen = torch.device(device)
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else platform.machine()
    return {"device": f"{chosen} ({name})", "threads": str(torch.get_num_threads()), "torch": torch.__version__}
