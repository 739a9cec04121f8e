"""The conveyor: order, bounds, errors in their place, cancelling, and an end that loses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest

from s3diff.restoration.conveyor import READ_AHEAD, Conveyor

SECONDS = 30


def run(conveyor: Conveyor[int, int, int]) -> Iterator[int]:
    """Restore everything; yields each item before it is handed on."""
    with conveyor:
        while (taken := conveyor.take()) is not None:
            yield taken[0]
            conveyor.hand_on(taken[1] * 10)
        conveyor.flush()


def wait_until(condition: object) -> None:
    until = time.monotonic() + SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.005)


def test_everything_comes_through_in_its_order() -> None:
    written: list[int] = []
    assert list(run(Conveyor(lambda item: item + 1, written.append, range(20)))) == list(range(20))
    assert written == [(item + 1) * 10 for item in range(20)]
    assert list(run(Conveyor(lambda item: item, written.append, ()))) == []


def test_nothing_piles_up() -> None:
    """While one picture is restored, so many are read ahead and no more."""
    begun: list[int] = []

    def read(item: int) -> int:
        begun.append(item)
        return item

    for item in run(Conveyor(read, lambda _: None, range(12))):
        expected = min(12, item + 1 + READ_AHEAD)
        wait_until(lambda expected=expected: len(begun) == expected)
        time.sleep(0.01)
        assert len(begun) == expected


def test_results_wait_for_the_writer() -> None:
    may_write = threading.Event()
    written: list[int] = []
    taken: list[int] = []

    def write(made: int) -> None:
        assert may_write.wait(SECONDS)
        written.append(made)

    def restore() -> None:
        taken.extend(run(Conveyor(lambda item: item, write, range(6))))

    restoring = threading.Thread(target=restore)
    restoring.start()
    time.sleep(0.1)
    assert written == []
    may_write.set()
    restoring.join(SECONDS)
    assert written == [0, 10, 20, 30, 40, 50]


def test_what_read_raises_comes_after_what_was_read_before() -> None:
    written: list[int] = []

    def read(item: int) -> int:
        if item == 3:
            raise OSError("no such file")
        return item

    restored: list[int] = []
    with pytest.raises(OSError, match="no such file"):
        restored.extend(run(Conveyor(read, written.append, range(9))))
    assert restored == [0, 1, 2]
    assert written == [0, 10, 20]


def test_what_write_raises_is_raised() -> None:
    def write(made: int) -> None:
        if made == 20:
            raise OSError("disk full")

    restored: list[int] = []
    with pytest.raises(OSError, match="disk full"):
        restored.extend(run(Conveyor(lambda item: item, write, range(9))))
    assert restored[:3] == [0, 1, 2]
    assert len(restored) <= 4
    with pytest.raises(OSError, match="disk full"):
        list(run(Conveyor(lambda item: item, write, range(3))))  # the last one of all


def test_who_stops_early_loses_nothing_that_was_made() -> None:
    written: list[int] = []
    begun: list[int] = []

    def write(made: int) -> None:
        time.sleep(0.02)
        written.append(made)

    def read(item: int) -> int:
        begun.append(item)
        return item

    with closing(run(Conveyor(read, write, range(100)))) as conveyor:
        for item in conveyor:
            if item == 4:
                break
    assert written == [0, 10, 20, 30]
    assert len(begun) <= 4 + 1 + READ_AHEAD + 1


def test_an_endless_conveyor_takes_what_is_put_and_gives_back_what_is_removed() -> None:
    may_read = threading.Event()

    def read(item: str) -> str:
        assert may_read.wait(SECONDS)
        return item.upper()

    conveyor: Conveyor[str, str, str] = Conveyor(read, lambda _: None)
    assert not conveyor.is_alive
    items = ["a", "b", "c", "d"]
    assert [conveyor.put(item, limit=3) for item in items] == [True, True, True, False]
    assert [conveyor.position(item) for item in items] == [0, 1, 2, None]
    assert conveyor.remove("b")
    assert not conveyor.remove("b")
    with conveyor:
        assert conveyor.is_alive
        assert conveyor.take(seconds=0.01) is None
        may_read.set()
        assert conveyor.take(lambda ready: ready == "C", SECONDS) == ("c", "C")
        assert conveyor.remove("a"), "it was ready and nobody had taken it"
        assert conveyor.take(seconds=0.01) is None
    assert conveyor.take() is None
    assert not conveyor.is_alive


def batches(items: Sequence[int], most: int, room: int, read: Callable[[int], int]) -> list[list[int]]:
    """Items in batches of even or odd ones; those that can be divided by 10 come without others."""
    conveyor: Conveyor[int, int, int] = Conveyor(read, lambda _: None, items, has_room=lambda ready: len(ready) < room)
    taken = []
    with conveyor:
        while batch := conveyor.take_batch(lambda ready: ready % 2 if ready % 10 else None, most):
            taken.append([item for item, _ in batch])
    return taken


@pytest.mark.parametrize("slow", [(), (2, 5), (1,)], ids=["fast", "some", "second"])
def test_batches_depend_on_the_items_and_on_no_clock(slow: tuple[int, ...]) -> None:
    def read(item: int) -> int:
        time.sleep(0.05 * (item in slow))
        return item

    items = [1, 3, 2, 5, 4, 10, 7, 6, 8, 12]
    assert batches(items, 3, 4, read) == [[1, 3, 5], [2, 4], [10], [7], [6, 8, 12]]
    assert batches(items, 2, 4, read) == [[1, 3], [2, 4], [5, 7], [10], [6, 8], [12]]
    assert batches(items, 1, 2, read) == [[item] for item in items]
    assert batches([], 3, 4, read) == []


def test_an_error_of_reading_comes_after_the_batches_before_it() -> None:
    def read(item: int) -> int:
        if item == 7:
            raise ValueError("seven")
        return item

    conveyor: Conveyor[int, int, int] = Conveyor(read, lambda _: None, [1, 3, 7, 9], has_room=lambda _: True)
    with conveyor:
        assert [item for item, _ in conveyor.take_batch(lambda ready: ready % 2, 9)] == [1, 3]
        with pytest.raises(ValueError, match="seven"):
            conveyor.take_batch(lambda ready: ready % 2, 9)
