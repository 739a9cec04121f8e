"""Make batches of ground-truth crops for the trainer in worker processes.

``open_source`` finds the pictures, ``CropDataset`` says which crop comes when, ``crop_batches`` brings them.
"""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from s3diff.errors import OptionError, S3DiffError, TrainingError
from s3diff.training.data.crops import CropDataset

#: In the message of DataLoader's error about a worker that is gone.
_DEAD_WORKER = "DataLoader worker"


@dataclass(frozen=True, eq=False)
class CropBatch:
    """Hold one process's crops for one step.

    Attributes:
        pixels: [rows, 3, crop_px, crop_px] uint8 RGB.
        skipped: one line for each picture that was passed over, see :class:`Crop`; each once.
    """

    pixels: Tensor
    skipped: tuple[str, ...]

    def pin_memory(self) -> CropBatch:
        """Copy the batch into page-locked memory; DataLoader calls this method by its name."""
        return CropBatch(self.pixels.pin_memory(), self.skipped)


def crop_batches(
    dataset: CropDataset,
    *,
    first_step: int,
    rows: range,
    global_batch_size: int,
    num_workers: int = 0,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> Generator[CropBatch, None, None]:
    """Yield this process's part of every batch from a step on, without end; ``close()`` stops the workers.

    Leaves torch's global generator untouched. Workers ignore Ctrl-C and a first SIGTERM, which often go to a whole
    group of processes: the trainer decides when to stop, and ends them.

    Args:
        dataset: the crops. Its cache is divided among the workers.
        first_step: step of the first batch.
        rows: this process's rows of the global batch, e.g. ``range(4, 8)`` for the second of two processes with 4.
        global_batch_size: crops per step of all processes together.
        num_workers: processes that decode; 0 decodes in this one.
        pin_memory: hand the batches out in page-locked memory; without a CUDA device it has no effect.
        start_method: ``fork``, ``forkserver`` or ``spawn``; None for ``spawn`` with a remote source, since clients of
            object stores do not survive a fork, and for the platform's usual one otherwise.

    Raises:
        OptionError: numbers that fit no batch.
        PictureError, TrainingError: from the iterator, as :class:`CropDataset`; also when a worker dies.
    """
    if not rows or rows.step < 1 or rows[0] < 0 or rows[-1] >= global_batch_size:
        raise OptionError(f"rows are {rows} of a batch of {global_batch_size}; give some that lie within it")
    if first_step < 0 or num_workers < 0:
        raise OptionError(f"first_step is {first_step}, num_workers {num_workers}; give at least 0 for each")
    if num_workers and start_method is None and dataset.source.is_remote:
        start_method = "spawn"
    loader: DataLoader[Any] = DataLoader(
        _Batches(dataset),
        batch_sampler=([step * global_batch_size + row for row in rows] for step in itertools.count(first_step)),
        num_workers=num_workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory and torch.cuda.is_available(),
        worker_init_fn=partial(_start_worker, dataset.cache_bytes // max(1, num_workers)) if num_workers else None,
        multiprocessing_context=start_method if num_workers else None,
        generator=torch.Generator(),  # or DataLoader draws its seed from the global one
    )
    return _iterate(loader)


def _iterate(loader: DataLoader[Any]) -> Generator[CropBatch, None, None]:
    with _signals_held_back(loader.num_workers > 0), _deaths_noticed_by_reading():
        batches = iter(loader)
    stop = partial(_stop_workers, batches)
    atexit.register(stop)  # multiprocessing's own exit sends each worker one SIGTERM, then waits
    try:
        while True:
            batch = next(batches)
            if isinstance(batch, S3DiffError):
                raise batch
            yield batch
    except (RuntimeError, OSError, EOFError) as error:
        # A batch that was under way when its worker died ends in the middle of the connection to it.
        is_dead_worker = _DEAD_WORKER in str(error) or isinstance(error, ConnectionError | EOFError)
        is_dead_worker |= any(not worker.is_alive() for worker in getattr(batches, "_workers", ()))
        if loader.num_workers == 0 or not is_dead_worker or isinstance(error, S3DiffError):
            raise
        raise TrainingError(
            f"a data worker ended unexpectedly ({' '.join(str(error).split())[:200]}); memory may be short, /dev/shm "
            "too: use fewer workers or a smaller cache"
        ) from error
    finally:
        atexit.unregister(stop)
        stop()


def _stop_workers(batches: Any) -> None:
    """Stop the workers now: when the iterator is collected as part of a cycle, its queues may be gone before."""
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()
    for worker in getattr(batches, "_workers", ()):
        if worker.is_alive():  # stuck in a read, and it ignored the one SIGTERM that was sent
            worker.kill()
            worker.join(1)


class _Batches(Dataset[Any]):
    """Read whole batches. Our own errors travel as values: DataLoader would wrap them in a worker's traceback."""

    def __init__(self, crops: CropDataset) -> None:
        self.crops = crops

    def __getitems__(self, positions: list[int]) -> CropBatch | S3DiffError:
        try:
            crops = [self.crops[position] for position in positions]
        except S3DiffError as error:
            return error
        skipped = dict.fromkeys(line for crop in crops for line in crop.skipped)
        return CropBatch(torch.stack([crop.pixels for crop in crops]), tuple(skipped))


def _unchanged(batch: Any) -> Any:
    return batch


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _signals_held_back(starts_workers: bool) -> Iterator[None]:
    """Deliver stop signals later: workers inherit the mask and so cannot be hit before they are ready for them."""
    if not starts_workers or not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _deaths_noticed_by_reading() -> Iterator[None]:
    """Keep DataLoader from handling SIGCHLD: its error would come up anywhere in this process, in a loss or a file.

    Who waits for a batch looks after the workers every few seconds anyway.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield  # no such signal, or no place to set its handler: DataLoader sets none either
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)  # None: set from outside Python


def _start_worker(cache_bytes: int, worker_id: int) -> None:
    cast(_Batches, get_worker_info().dataset).crops.start_worker(cache_bytes)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_next_time)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _end_next_time(number: int, frame: object) -> None:
    """End at the next SIGTERM: a scheduler sends one to all processes; a second, from parent or user, means it."""
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
