"""Estimate the time left for one picture from its own stages and from earlier pictures on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3diff.atomic_write import write_atomically
from s3diff.errors import OutputError
from s3diff.options import RestoreOptions
from s3diff.restoration.process_limits import processor_and_threads
from s3diff.user_folders import state_folder

if TYPE_CHECKING:
    from s3diff.restoration.device_model import DeviceModel

#: Stages that come once before all parts of a picture, once for each part, and once at the end.
FIRST, PER_PART, LAST = ("estimate", "fold"), ("prepare", "encode", "predict", "decode", "color"), ("finish",)
#: Stages that the first pass over a video reports: its beginning, after an earlier run or not, and its frames.
FIRST_PASS = ("look_resumed", "look")
#: Shares of the stages without measurements: the work of the paper's networks for 512 px, in TFLOP
#: (docs/performance.md, "The floor"), and little for all other work.
_TYPICAL = {"estimate": 0.04, "prepare": 0.02, "encode": 1.12, "predict": 1.61, "decode": 2.51, "color": 0.05}
#: Share of the work from which a time is estimated without earlier measurements.
_ENOUGH = 0.1
#: Weight of earlier measurements, as a share of this picture's work.
_TRUST = 0.05
#: A stage that has not ended yet takes longer by at least this share of its time so far.
_MORE = 0.2
#: Below, minutes are too coarse: "2 min" for 91 s is a third off.
_MINUTES_FROM_SECONDS = 175


class TimeLeft:
    """Follow one picture's stages and parts, and estimate its progress and time.

    Args:
        expected: seconds of each stage, for all parts together; None without measurements.
        now: a clock in seconds.
    """

    def __init__(self, expected: Mapping[str, float] | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._is_measured = now, expected is not None
        self._work = dict(_TYPICAL if expected is None else expected)
        self._started = self._marked = now()
        self._stage, self._within = "", 0.0
        self._part = self._num_skipped = 0
        self._is_resumed = False
        self._num_parts = 1
        self._took: dict[str, float] = {}
        self._fraction = 0.0

    @property
    def stage(self) -> str:
        """The current stage; empty before the first."""
        return self._stage

    def resume(self, done: int, total: int) -> None:
        """Begin with parts that are there from an earlier run; the time before this moment does not count."""
        self._started = self._marked = self._now()
        self._part = self._num_skipped = done
        self._is_resumed = True
        self._num_parts, self._stage, self._within, self._took = max(1, total), "", 0.0, {}

    def begin(self, stage: str, part: int = 0, num_parts: int = 1) -> None:
        """Begin a stage of a part, which ends the stage before."""
        self._mark()
        if part < self._part and stage not in LAST:  # begun anew, in smaller tiles: memory ran out
            self._started, self._part, self._num_skipped, self._took = self._marked, 0, 0, {}
        self._num_skipped += max(0, part - self._part)  # there from an earlier run
        self._part, self._num_parts = max(part, self._part), num_parts
        self._stage, self._within = stage, 0.0

    def within(self, share: float) -> None:
        """Record the finished share of the current stage."""
        self._mark()
        self._within = share

    def part(self, done: int, total: int) -> None:
        """Record the number of finished parts of the picture."""
        self._mark()
        if not self._is_resumed:  # else several are made at once
            self._num_skipped += max(0, done - self._part - 1)  # there from an earlier run
        self._part, self._num_parts, self._stage, self._within = done, total, "", 0.0
        num_made = done - self._num_skipped
        if num_made > 0:
            # This picture's own parts are the best measure of the others.
            took = self._took or {PER_PART[0]: self.elapsed}  # stages may not be told
            self._work.update({stage: took[stage] for stage in FIRST if stage in took})
            self._work.update({stage: took.get(stage, 0.0) * total / num_made for stage in PER_PART})
            self._is_measured = True

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._now() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds; None while unknown."""
        first, networks = self._sum(FIRST), self._sum(PER_PART)
        done = self._done()
        # Folding moves memory: its seconds say little about the networks', so their speed is found from their own.
        made = max(0.0, done - first) - self._share_of_skipped()
        if not self._is_measured and made < _ENOUGH * networks:
            return None
        since = self._now() - self._marked
        expected = self._speed_by_first_stages(since)
        prior = _TRUST * networks if self._is_measured else 0.0
        spent = self._marked - self._started - sum(self._took[stage] for stage in self._took if stage not in PER_PART)
        rate = (spent + prior * expected) / (made + prior) if made > 0 else expected
        current = self._rest_of_stage()
        if self._stage in FIRST:
            rest = max(current - since, _MORE * since) + max(0.0, first - done - current)
            return rest + rate * (networks + self._sum(LAST))
        if made + current > 0:
            # The current stage is unfinished: it takes at least the time so far, and a little more.
            rate = max(rate, (spent + (1 + _MORE) * since + prior * expected) / (made + current + prior))
        whole = sum(self._work.values())
        return max(0.0, rate * current - since) + rate * max(0.0, whole - done - current)

    @property
    def fraction(self) -> float:
        """Share of the time that has passed, in [0, 1]; it never falls. Parts of an earlier run count as the others."""
        left = self.seconds_left
        if left is not None:
            rest = max(sum(self._work.values()) - self._done(), 1e-9)
            passed = self.elapsed + left * self._share_of_skipped() / rest
            self._fraction = max(self._fraction, min(1.0, passed / max(passed + left, 1e-9)))
        return self._fraction

    def _speed_by_first_stages(self, since: float) -> float:
        """Estimate from the stages before the networks how many times the measured seconds the networks will take.

        Slower stages may mean a busy machine or cold memory: their square root is a mistake of less than 1.5 times in
        both cases. Faster ones mean that memory is warm now.
        """
        begun = [stage for stage in FIRST if stage in self._took or stage == self._stage]
        first = sum(self._work.get(stage, 0.0) for stage in begun)
        if not self._is_measured or first <= _ENOUGH * sum(self._work.values()):
            return 1.0
        took = sum(self._took.get(stage, 0.0) for stage in begun)
        if self._stage in FIRST:
            took += since
        return max(1.0, took / first) ** 0.5

    def _mark(self) -> None:
        now = self._now()
        if self._stage:
            self._took[self._stage] = self._took.get(self._stage, 0.0) + now - self._marked
        self._marked = now

    def _done(self) -> float:
        """Add up finished work, including parts of an earlier run."""
        before = self._sum(FIRST)
        if self._stage in FIRST:
            earlier = FIRST[: FIRST.index(self._stage)]
            return self._sum(earlier) + self._within * self._work.get(self._stage, 0.0)
        per_part = self._sum(PER_PART) / self._num_parts
        if self._stage in PER_PART:
            earlier = PER_PART[: PER_PART.index(self._stage)]
            in_part = self._sum(earlier) + self._within * self._work.get(self._stage, 0.0)
            return before + self._part * per_part + in_part / self._num_parts
        if self._stage in LAST:
            return before + self._sum(PER_PART)
        return before + self._part * per_part if self._part else 0.0

    def _rest_of_stage(self) -> float:
        work = (1 - self._within) * self._work.get(self._stage, 0.0)
        return work / self._num_parts if self._stage in PER_PART else work

    def _share_of_skipped(self) -> float:
        return self._num_skipped * self._sum(PER_PART) / self._num_parts

    def _sum(self, stages: tuple[str, ...]) -> float:
        return sum(self._work.get(stage, 0.0) for stage in stages)


def duration_in_words(seconds: float) -> str:
    """Round seconds for people: ``40 s``, ``130 s``, ``3 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < _MINUTES_FROM_SECONDS:
        return f"{10 * round(seconds / 10)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


#: The stage with a fixed time.
_FIXED = "fold"
#: Fixed work of every picture, as a number of pixels: reading, estimating, colours. By the seconds of nine pictures
#: of 256 x 256 to 960 x 720 px (`compact`, two cores): 1.9 s, and 20 s for a million pixels.
EACH_PIXELS = 100_000
#: Weight of earlier measurements against a new picture.
_KEPT = 0.7


class Speeds:
    """Keep seconds and megapixels of earlier pictures, by model, device and settings; large pictures weigh more.

    A file that cannot be read counts as empty; failures to write are ignored: nothing depends on it.

    Args:
        path: the file; None for ``speed.json`` in s3diff's state folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = state_folder() / "speed.json" if path is None else path
        self._measured: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_text("utf-8"))
            items = found.items() if isinstance(found, dict) else ()
            self._measured = {key: value for key, value in items if _is_entry(value)}

    def expected(self, key: str, num_pixels: int) -> dict[str, float] | None:
        """Estimate the seconds of each stage of a picture; None without measurements.

        Args:
            key: from :func:`speed_key`.
        """
        entry = self._measured.get(key)
        if entry is None:
            return None
        each = EACH_PIXELS / 1e6
        factor = (num_pixels / 1e6 + each) / (entry["megapixels"] + each * entry["pictures"])
        return {
            stage: seconds / entry["pictures"] if stage == _FIXED else seconds * factor
            for stage, seconds in entry["seconds"].items()
        }

    def add(self, key: str, num_pixels: int, seconds: Mapping[str, float]) -> None:
        """Add a picture's ``Result.seconds``."""
        old = self._measured.get(key, {"pictures": 0.0, "megapixels": 0.0, "seconds": {}})
        stages = [stage for stage in seconds if stage != "total"]
        self._measured[key] = {
            "pictures": _KEPT * old["pictures"] + 1,
            "megapixels": _KEPT * old["megapixels"] + num_pixels / 1e6,
            "seconds": {stage: _KEPT * old["seconds"].get(stage, 0.0) + seconds[stage] for stage in stages},
        }

    def save(self) -> None:
        """Write the file; failures are ignored."""
        with suppress(OSError, OutputError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(json.dumps(self._measured, indent=1).encode(), self._path, True)


def speed_key(model: DeviceModel, options: RestoreOptions) -> str:
    """Name model, device and settings, which decide the speed for a given size."""
    import torch

    on_cpu = model.device.type == "cpu"
    device = processor_and_threads() if on_cpu else str(model.device)
    if model.backend != "torch":
        device += f", {model.backend}"
    if model.device.type == "cuda":
        device = torch.cuda.get_device_name(model.device)
    passes = "one prompt" if options.guidance == 1 else "two prompts"
    compiled = ", compiled" if model.acceleration.compiled else ""
    decoder = ", tiny decoder" if options.decoder == "tiny" else ""
    return f"{model.model.fingerprint[:23]}, {device}, {model.precision}, {passes}{compiled}{decoder}"


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("seconds"), dict):
        return False
    numbers = [value.get("pictures"), value.get("megapixels"), *value["seconds"].values()]
    is_plain = all(isinstance(number, int | float) and number >= 0 for number in numbers)
    return is_plain and value["pictures"] > 0 and value["megapixels"] > 0
