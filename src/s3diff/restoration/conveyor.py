"""Read ahead, restore and write at the same time: the conveyor of folders, the service and animations.

Memory holds a few pictures, however many wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Made = TypeVar("Made")

#: Pictures read ahead: one is ready while the next one is decoded.
READ_AHEAD = 2


class Conveyor(Generic[Item, Ready, Made]):
    """Run a reading and a writing thread for the caller, which calls :meth:`take`, restores, and calls
    :meth:`hand_on`.

    Items keep their order. An exception of ``read`` is raised again by :meth:`take` after all items read before; one
    of ``write`` by :meth:`hand_on` or :meth:`flush`. Either ends the conveyor.

    Args:
        read: reads an item; None drops the item.
        items: all items; None for an endless conveyor that :meth:`put` feeds.
        has_room: decides from the ready items whether one more may be read.
        max_unwritten: most unwritten results, including the one being written.
    """

    def __init__(
        self,
        read: Callable[[Item], Ready | None],
        write: Callable[[Made], None],
        items: Iterable[Item] | None = None,
        *,
        has_room: Callable[[Sequence[Ready]], bool] = lambda ready: len(ready) < READ_AHEAD,
        max_unwritten: int = 1,
    ) -> None:
        self._read, self._write, self._has_room, self._max_unwritten = read, write, has_room, max_unwritten
        self._is_endless = items is None
        self._waiting: deque[Item] = deque(items or ())
        self._ready: list[tuple[Item, Ready]] = []
        self._unwritten: deque[Made] = deque()
        self._is_reading = self._is_writing = self._is_over = False
        self._read_error: BaseException | None = None
        self._write_error: BaseException | None = None
        self._turn = threading.Condition()
        loops = {"read": self._read_all, "write": self._write_all}
        self._threads = [
            threading.Thread(target=loop, name=f"s3diff-{stage}", daemon=True) for stage, loop in loops.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self, seconds: float | None = None) -> None:
        """Stop reading, write pending results, and wait for that at most this many seconds."""
        with self._turn:
            self._is_over = True
            self._turn.notify_all()
        until = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            if thread.is_alive():
                thread.join(until and max(0.0, until - time.monotonic()))

    def __enter__(self) -> Conveyor[Item, Ready, Made]:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether both threads run."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def num_waiting(self) -> int:
        """Number of items that are not read yet."""
        return len(self._waiting)

    def put(self, item: Item, limit: int) -> bool:
        """Append an item unless ``limit`` items wait; return whether it was appended."""
        with self._turn:
            if len(self._waiting) >= limit:
                return False
            self._waiting.append(item)
            self._turn.notify_all()
            return True

    def position(self, item: Item) -> int | None:
        """Count the items that wait before this one; None if it does not wait."""
        with self._turn:
            return self._waiting.index(item) if item in self._waiting else None

    def ready_items(self, wanted: Callable[[Ready], bool]) -> list[Item]:
        """List the items that are ready and wanted, in their order."""
        with self._turn:
            return [item for item, ready in self._ready if wanted(ready)]

    def remove(self, item: Item) -> bool:
        """Remove an item that waits or is ready; return whether it was there."""
        with self._turn:
            held = len(self._waiting) + len(self._ready)
            self._waiting = deque(each for each in self._waiting if each is not item)
            self._ready = [each for each in self._ready if each[0] is not item]
            self._turn.notify_all()
            return len(self._waiting) + len(self._ready) < held

    def take(
        self, wanted: Callable[[Ready], bool] = lambda _: True, seconds: float | None = None
    ) -> tuple[Item, Ready] | None:
        """Wait for the first wanted item that is ready; None after so many seconds, or if no more will come."""

        def find() -> tuple[Item, Ready] | None:
            return next((each for each in self._ready if wanted(each[1])), None)

        def is_settled() -> bool:
            is_done = not (self._is_endless or self._waiting or self._is_reading)
            return self._is_over or is_done or self._read_error is not None or find() is not None

        with self._turn:
            self._turn.wait_for(is_settled, seconds)
            if not self._is_over and (found := find()) is not None:
                self._ready.remove(found)
                self._turn.notify_all()
                return found
            if self._read_error is not None:
                raise self._read_error
            return None

    def take_batch(self, key_of: Callable[[Ready], Hashable], most: int) -> list[tuple[Item, Ready]]:
        """Take the first item and others with its key, ``most`` in all; an empty list if no more will come.

        For more than one item the call waits until nothing more is read ahead, so that batches depend on the items and
        on no clock.

        Args:
            key_of: names what items of one batch have in common; None for an item that comes without others.
        """

        def is_settled() -> bool:
            is_done = not (self._is_endless or self._waiting or self._is_reading)
            is_full = not self._is_reading and not self._has_room([ready for _, ready in self._ready])
            return self._is_over or is_done or is_full or self._read_error is not None

        if most == 1:
            taken = self.take()
            return [] if taken is None else [taken]
        with self._turn:
            self._turn.wait_for(is_settled)
            if self._ready and not self._is_over:
                first, *others = self._ready
                key = key_of(first[1])
                alike = [each for each in others if key is not None and key_of(each[1]) == key]
                batch = [first, *alike[: most - 1]]
                self._ready = [each for each in self._ready if not any(each is taken for taken in batch)]
                self._turn.notify_all()
                return batch
            if self._read_error is not None:
                raise self._read_error
            return []

    def hand_on(self, made: Made) -> None:
        """Pass a result to the writer; wait while the writer is behind, so that results do not pile up."""

        def has_room() -> bool:
            num_unwritten = len(self._unwritten) + self._is_writing
            return self._is_over or self._write_error is not None or num_unwritten < self._max_unwritten

        with self._turn:
            self._turn.wait_for(has_room)
            self._raise_write_error()
            self._unwritten.append(made)
            self._turn.notify_all()

    def flush(self) -> None:
        """Wait until all results are written."""
        with self._turn:
            self._turn.wait_for(lambda: self._write_error or not (self._unwritten or self._is_writing))
            self._raise_write_error()

    def _raise_write_error(self) -> None:
        if self._write_error is not None:
            raise self._write_error

    def _read_all(self) -> None:
        # Each step has a frame of its own: nothing is held while the next picture is waited for.
        try:
            while self._read_next():
                pass
        except BaseException as error:  # noqa: BLE001 - raised again by take
            with self._turn:
                self._read_error = error
                self._turn.notify_all()

    def _write_all(self) -> None:
        try:
            while self._write_next():
                pass
        except BaseException as error:  # noqa: BLE001 - raised again by hand_on or flush
            with self._turn:
                self._write_error = error
                self._turn.notify_all()

    def _read_next(self) -> bool:
        with self._turn:
            self._turn.wait_for(
                lambda: self._is_over or (self._waiting and self._has_room([ready for _, ready in self._ready]))
            )
            if self._is_over:
                return False
            item = self._waiting.popleft()
            self._is_reading = True
        ready = self._read(item)
        with self._turn:
            self._is_reading = False
            if ready is not None:
                self._ready.append((item, ready))
            self._turn.notify_all()
        return self._is_endless or bool(self._waiting)

    def _write_next(self) -> bool:
        with self._turn:
            self._turn.wait_for(lambda: self._is_over or self._unwritten)
            if not self._unwritten:
                return False
            made = self._unwritten.popleft()
            self._is_writing = True
        self._write(made)
        with self._turn:
            self._is_writing = False
            self._turn.notify_all()
        return True


def read_ahead(items: Iterator[Item], count: int) -> Iterator[Item]:
    """Yield ``count`` items; read each while the caller works on the one before it."""
    with Conveyor[int, Item, None](
        lambda _: next(items, None), lambda _: None, range(count), has_room=lambda ready: not ready
    ) as conveyor:
        while (taken := conveyor.take()) is not None:
            yield taken[1]
