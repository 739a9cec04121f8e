"""The time that is left of a picture: whatever the stages take, within a factor of 1.5 from the first fifth on."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest

from s3diff.restoration.time_left import Speeds, TimeLeft, duration_in_words

PER_PART = ("prepare", "encode", "predict", "decode", "color")
#: Seconds of the stages of one part, as two models have them: SD-Turbo's networks, and small ones with slow colours.
LARGE = {"prepare": 0.1, "encode": 8.0, "predict": 13.0, "decode": 17.0, "color": 0.5}
SMALL = {"prepare": 0.02, "encode": 0.1, "predict": 0.25, "decode": 0.3, "color": 0.12}


class Clock:
    """Time that a test turns."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def worst_factor(
    stages: dict[str, float],
    num_parts: int,
    expected: dict[str, float] | None,
    *,
    tiles: int = 1,
    seed: int = 0,
    num_skipped: int = 0,
    told_from: float = 0.2,
    fold: float = 0.2,
    bend: float | None = None,
) -> float:
    """How far an estimate is from the truth at worst, from ``told_from`` of the time on to four fifths.

    Args:
        bend: share of a network's work that its blocks report, as a power of its share of time; None for no report.
    """
    rng, clock = random.Random(seed), Clock()
    left = TimeLeft(expected, clock)
    told: list[tuple[float, float | None]] = []
    fractions = []

    def work(seconds: float, tile: int = 0, num_tiles: int = 1, is_network: bool = False) -> None:
        for step in range(10):
            clock.seconds += seconds / 10
            if is_network and bend is not None:
                left.within((tile + ((step + 1) / 10) ** bend) / num_tiles)
            told.append((clock.seconds, left.seconds_left))
            fractions.append(left.fraction)

    for name in ("estimate", "fold"):
        left.begin(name, 0, num_parts)
        work(0.2 if name == "estimate" else fold)
    for part in range(num_skipped, num_parts):
        speed = rng.uniform(0.85, 1.15)
        for name in PER_PART:
            left.begin(name, part, num_parts)
            num_tiles = tiles if name == "predict" else 1
            for tile in range(num_tiles):
                work(stages[name] * speed / num_tiles, tile, num_tiles, name in ("encode", "predict", "decode"))
                if num_tiles > 1:
                    left.within((tile + 1) / num_tiles)
        left.part(part + 1, num_parts)
    left.begin("finish", num_parts, num_parts)
    work(0.1)
    end = clock.seconds
    assert all(first <= second for first, second in pairwise(fractions)), "a bar never goes back"
    assert fractions[-1] > 0.9
    worst = 1.0
    for at, seconds in told:
        if told_from * end <= at <= 0.8 * end:
            assert seconds is not None, "a time is told"
            ratio = max(seconds, 1e-9) / (end - at)
            worst = max(worst, ratio, 1 / ratio)
    return worst


def whole(stages: dict[str, float], num_parts: int, factor: float = 1.0) -> dict[str, float]:
    """What earlier pictures took."""
    return {"estimate": 0.2, "fold": 0.2, "finish": 0.1} | {k: v * num_parts * factor for k, v in stages.items()}


@pytest.mark.parametrize("num_parts", [8, 12, 60])
@pytest.mark.parametrize("stages", [LARGE, SMALL])
def test_many_parts_without_a_measure(stages: dict[str, float], num_parts: int) -> None:
    assert worst_factor(stages, num_parts, None) < 1.5


def test_at_once_without_a_measure() -> None:
    """A picture at full size: its stages take a minute each, and only the tiles of one are told."""
    # The first stage that tells anything, the encoder, ends a little after the first fifth.
    assert worst_factor(LARGE, 1, None, tiles=9, told_from=0.25) < 1.5
    assert worst_factor(LARGE, 1, None, told_from=0.25) < 1.5
    # Folding is as long as encoder and decoder where the picture is small: a model of a billion weights.
    assert worst_factor(LARGE, 1, None, told_from=0.7, fold=38.0) < 1.5


@pytest.mark.parametrize(
    ("fold_before", "fold", "slower"), [(36.0, 16.0, 1.2), (27.0, 36.0, 1.0), (24.0, 30.0, 1.2), (16.0, 16.0, 1.25)]
)
def test_folding_says_little_about_the_networks(fold_before: float, fold: float, slower: float) -> None:
    """A model of a billion weights, whose folding moves memory: cold in one run, warm in the other."""
    before = whole(LARGE, 1) | {"fold": fold_before}
    stages = {name: seconds * slower for name, seconds in LARGE.items()}
    assert worst_factor(stages, 1, before, fold=fold, tiles=9) < 1.5


@pytest.mark.parametrize("bend", [0.75, 1.0, 1.3])
@pytest.mark.parametrize("factor", [0.33, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("num_parts", [1, 2, 4])
def test_within_a_stage(num_parts: int, factor: float, bend: float) -> None:
    """Blocks tell how far a stage is: also on a machine that is three times as slow as it was, or twice as fast."""
    assert worst_factor(LARGE, num_parts, whole(LARGE, num_parts, factor), seed=1, bend=bend) < 1.5
    assert worst_factor(LARGE, num_parts, None, seed=1, bend=bend) < 1.5


@pytest.mark.parametrize("num_parts", [1, 2, 4, 30])
@pytest.mark.parametrize("stages", [LARGE, SMALL])
@pytest.mark.parametrize("factor", [0.75, 1.0, 1.2])
def test_with_a_measure(stages: dict[str, float], num_parts: int, factor: float) -> None:
    """Also where the machine is slower or faster than it was then."""
    assert worst_factor(stages, num_parts, whole(stages, num_parts, factor), seed=1) < 1.5


def test_a_run_that_goes_on() -> None:
    """Parts of an earlier run are there: the others take their time all the same."""
    assert worst_factor(SMALL, 40, None, num_skipped=20) < 1.5


def test_stages_that_are_not_told() -> None:
    """Frames of an animation, tiles of a streamed picture: parts are enough."""
    clock = Clock()
    left = TimeLeft(None, clock)
    assert left.seconds_left is None
    for done in range(1, 11):
        clock.seconds += 2
        left.part(done, 10)
        assert left.seconds_left == pytest.approx(2 * (10 - done), abs=0.5)
        assert left.fraction == pytest.approx(done / 10, abs=0.02)


def test_parts_that_an_earlier_run_made() -> None:
    """A resumed video: the time left is of the frames that are missing, and the bar begins where it was."""
    clock = Clock()
    left = TimeLeft(None, clock)
    clock.seconds = 500.0  # the model is loaded, finished frames are passed over
    left.resume(80, 100)
    assert left.seconds_left is None
    for done in range(81, 101):
        clock.seconds += 2
        left.part(done, 100)
        assert left.seconds_left == pytest.approx(2 * (100 - done), abs=0.5)
        assert left.fraction == pytest.approx(done / 100, abs=0.02)


def test_a_stage_that_does_not_end_keeps_its_time() -> None:
    clock = Clock()
    left = TimeLeft({"encode": 10, "predict": 10, "decode": 80}, clock)
    left.begin("encode")
    clock.seconds = 300.0  # the machine is busy with something else
    assert left.seconds_left is not None
    assert left.seconds_left > 500


@pytest.mark.parametrize("expected", [{}, {"fold": 0.0, "encode": 0.0}])
def test_measurements_without_a_second(expected: dict[str, float]) -> None:
    """Of a clock that stood still."""
    left = TimeLeft(expected, Clock())
    left.begin("fold")
    assert left.seconds_left == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (40, "40 s"),
        (94, "90 s"),
        (131, "130 s"),
        (180, "3 min"),
        (3599, "1 h 0 min"),
        (4800, "1 h 20 min"),
    ],
)
def test_words(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words


def test_speeds_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a" / "speed.json"
    speeds = Speeds(path)
    assert speeds.expected("key", 1_000_000) is None
    speeds.add("key", 2_000_000, {"fold": 0.5, "encode": 4.0, "total": 4.5})
    speeds.save()
    again = Speeds(path)
    expected = again.expected("key", 4_000_000)
    assert expected is not None
    assert expected == {"fold": 0.5, "encode": pytest.approx(8.0, rel=0.05)}
    assert again.expected("another", 4_000_000) is None
    for _ in range(12):  # the machine has become twice as fast
        again.add("key", 2_000_000, {"fold": 0.5, "encode": 2.0, "total": 2.5})
    expected = again.expected("key", 4_000_000)
    assert expected is not None
    assert expected["encode"] == pytest.approx(4.0, rel=0.05)


def test_a_tiny_picture_teaches_no_nonsense(tmp_path: Path) -> None:
    """Its time is that of reading and estimating, not that of its 16 pixels."""
    speeds = Speeds(tmp_path / "speed.json")
    speeds.add("key", 16, {"encode": 0.2})
    assert sum((speeds.expected("key", 5_000) or {}).values()) < 0.3


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"key": {"seconds": {}, "pictures": 0, "megapixels": 0}}'])
def test_a_file_that_says_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "speed.json"
    path.write_text(content)
    speeds = Speeds(path)
    assert speeds.expected("key", 10) is None
    speeds.add("key", 10, {"encode": 1.0})
    speeds.save()
    assert list(json.loads(path.read_text())) == ["key"]


def test_a_folder_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    speeds = Speeds(tmp_path / "file" / "speed.json")
    speeds.add("key", 10, {"encode": 1.0})
    speeds.save()  # nothing depends on it


def test_parts_that_are_made_several_at_a_time_count_all() -> None:
    """Frames of a video come in batches, those of an earlier run first."""
    clock = Clock()
    left = TimeLeft(None, clock)
    left.resume(8, 48)
    for done in (12, 16, 20):
        clock.seconds += 8.0
        left.part(done, 48)
    assert left.seconds_left == pytest.approx(28 * 2.0, rel=0.05)
