"""Estimate the time left for one picture from earlier measurements and its own stages.

No torch here; the clock is an argument, so that tests can set it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

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
