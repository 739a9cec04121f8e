"""Restore the pictures of a plan on a Ray cluster: Ray Data distributes tasks to a pool of actors with a model each."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Sequence
from typing import Any

from s3diff.errors import S3DiffError
from s3diff.folders.store_plan import StoreJob
from s3diff.folders.store_worker import StoreWorker, TaskResult, WorkerOptions
from s3diff.integrations.ray.cluster import Workers, import_ray, ray_errors

#: Pictures per task: enough that fetching and restoring overlap, few enough that workers end at about the same time.
_MOST_ROWS, _TASKS_OF_A_WORKER = 32, 16
#: Most blocks of names in Ray at once; the others follow.
_ROWS_AT_ONCE = 200_000

#: What restores a task; :class:`StoreWorker` has this method.
RestoreTask = Callable[[Sequence[StoreJob]], TaskResult]


def run_tasks(
    jobs: Sequence[StoreJob],
    options: WorkerOptions,
    workers: Workers,
    *,
    rows_per_task: int | None = None,
    load: Callable[[WorkerOptions], RestoreTask] | None = None,
) -> Generator[TaskResult, None, None]:
    """Restore pictures on the connected cluster; yield the result of each task, in any order.

    A task whose worker or node dies is repeated, and continues from the earlier try's records. Pixels stay on workers.

    Args:
        rows_per_task: pictures per task; None chooses by the number of pictures and workers, never less than a batch.
        load: creates the object that restores tasks, in each worker; None for :class:`StoreWorker`.

    Raises:
        ServiceError: the cluster failed.
    """
    if rows_per_task is None:
        rows_per_task = max(options.batch, min(_MOST_ROWS, len(jobs) // (workers.num * _TASKS_OF_A_WORKER)))
    for start in range(0, len(jobs), _ROWS_AT_ONCE):
        with ray_errors():
            yield from _run_part(jobs[start : start + _ROWS_AT_ONCE], options, workers, rows_per_task, load)


def _run_part(
    jobs: Sequence[StoreJob],
    options: WorkerOptions,
    workers: Workers,
    rows_per_task: int,
    load: Callable[[WorkerOptions], RestoreTask] | None,
) -> Generator[TaskResult, None, None]:
    import_ray()
    import ray.data as data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    tasks = [json.dumps(jobs[start : start + rows_per_task]) for start in range(0, len(jobs), rows_per_task)]
    # Actors that die are started again, and their tasks run again, as often as it takes: Ray Data's default.
    results = data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        _Actor,
        fn_constructor_args=(options, load),
        batch_size=1,  # a task; with GPUs Ray Data wants a number
        batch_format="pyarrow",
        compute=data.ActorPoolStrategy(min_size=1, max_size=min(workers.num, len(tasks))),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
    )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            yield TaskResult(json.loads(row["rows"]), row["flight"], row["error"])


class _Actor:
    """Run a worker in the pool. Failures are part of its results: Ray would repeat a task that raises for ever."""

    def __init__(self, options: WorkerOptions, load: Callable[[WorkerOptions], RestoreTask] | None) -> None:
        self._error: str | None = None
        try:
            self._restore = StoreWorker(options).restore if load is None else load(options)
        except S3DiffError as error:
            self._error = " ".join(str(error).split())

    def __call__(self, batch: Any) -> Any:
        import pyarrow

        results = []
        for task in batch["item"].to_pylist():
            jobs = [StoreJob(*job) for job in json.loads(task)]
            result = TaskResult([], None, self._error) if self._error is not None else self._restore(jobs)
            results.append({"rows": json.dumps(result.rows), "flight": result.flight, "error": result.error})
        schema = pyarrow.schema([(name, pyarrow.string()) for name in ("rows", "flight", "error")])
        return pyarrow.Table.from_pylist(results, schema=schema)
