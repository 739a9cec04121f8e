"""Run a restoration on a cluster: plan, skip finished pictures, restore, write the manifest, count.

Ray Data distributes tasks of a few pictures to a pool of actors, each of which has a model.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s3diff.errors import S3DiffError
from s3diff.folders.manifest import Manifest, run_id
from s3diff.folders.plan import RestoreJob
from s3diff.folders.restore import FolderResult, describe_run
from s3diff.folders.run_jobs import Outcome
from s3diff.folders.store_plan import StoreJob, StorePlan, leave_out_done, plan_store_jobs
from s3diff.folders.store_worker import StoreWorker, TaskResult, WorkerOptions
from s3diff.folders.stores import open_store
from s3diff.integrations.ray.cluster import Workers, import_ray, ray_errors
from s3diff.options import OutputOptions, Precision, RestoreOptions

#: Pictures per task: enough that fetching and restoring overlap, few enough that workers end at about the same time.
_MOST_ROWS, _TASKS_OF_A_WORKER = 32, 16
#: Most blocks of names in Ray at once; the others follow.
_ROWS_AT_ONCE = 200_000

#: What restores a task; :class:`StoreWorker` has this method.
RestoreTask = Callable[[Sequence[StoreJob]], TaskResult]


@dataclass
class ClusterResult(FolderResult):
    """Hold how a cluster run ended.

    Attributes:
        megapixels: size of all results, in millions of pixels.
    """

    megapixels: float = 0.0

    def lines(self) -> Iterator[str]:
        """Describe the run as a folder's, and its speed."""
        yield from super().lines()
        if self.num_done and self.seconds:
            yield f"{'speed':8} {self.speed(self.num_done, self.seconds)}"

    def speed(self, num_pictures: int, seconds: float, digits: int = 2) -> str:
        """Describe the speed of that many pictures in some time; ``digits``: decimals of the pictures."""
        return f"{num_pictures / seconds:.{digits}f} pictures/s, {self.megapixels / seconds:.2f} megapixels/s"


class ClusterRun:
    """Hold a planned run; iterate over it once, on a connected cluster.

    Args:
        inputs: see :func:`s3diff.folders.store_plan.plan_store_jobs`.
        output: name of the folder or address of the results and their manifest.
        model: a name or a model folder, at the same path on every machine.
        writing: format, names and quality of the results, and whether they may replace objects.
        device, precision, fast: of each worker; see :class:`s3diff.Restorer`.
        recursive: descend into folders and prefixes.
        listed: further pictures by path or address.
        skip_existing: skip pictures whose output exists.
        batch: most small pictures of one size that run together in a worker.

    Attributes:
        plan: the pending pictures.
        result: complete when the iteration has ended.

    Raises:
        PictureError: an input does not exist or holds no pictures.
        OutputError: an object exists that may not be replaced, or the manifest's folder holds something else.
        OptionError, ModelError, MissingExtraError, StoreError: nothing can be restored like this.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        output: str,
        options: RestoreOptions | None = None,
        *,
        model: str = "compact",
        writing: OutputOptions | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        fast: bool = False,
        recursive: bool = False,
        listed: Iterable[str] | None = None,
        skip_existing: bool = False,
        batch: int = 1,
    ) -> None:
        options = RestoreOptions() if options is None else options
        writing = OutputOptions() if writing is None else writing
        name, fingerprint, place = _described(model)
        store = open_store(output)
        self.plan: StorePlan = plan_store_jobs(
            inputs, store, recursive=recursive, listed=listed, writing=writing,
            names={"model": name, "scale": f"{options.scale:g}"},
        )  # fmt: skip
        run = describe_run(fingerprint, options, writing)
        self._manifest = Manifest(store, run, run_id())
        leave_out_done(self.plan, store, self._manifest, skip_existing=skip_existing, overwrite=writing.overwrite)
        self.worker_options = WorkerOptions(
            output=store.name, run=run, run_id=self._manifest.run_id, model=place, options=options,
            writing=writing, device=device, precision=precision, fast=fast, batch=batch,
        )  # fmt: skip
        self.result = ClusterResult(skipped=dict(self.plan.skipped), left_out=self.plan.left_out)
        for source, reason in self.plan.failed:
            self._count_failed(source, "", reason)

    def rows(self, workers: Workers) -> Generator[dict[str, Any], None, None]:
        """Restore the pictures; yield one row of the manifest for each.

        Raises:
            S3DiffError: no further picture can be restored; finished ones are in the manifest.
        """
        started = time.monotonic()
        options = replace(self.worker_options, threads=workers.cpus)
        try:
            with closing(run_tasks(self.plan.jobs, options, workers)) as tasks:
                for task in tasks:
                    self._manifest.add(task.rows, task.flight)
                    for row in task.rows:
                        self._count(row)
                        yield row
                    if task.error is not None:
                        raise S3DiffError(task.error)
        finally:
            self._manifest.flush()
            self.result.seconds = time.monotonic() - started

    def close(self) -> None:
        """Record the results of interrupted runs, if no picture is pending.

        Raises:
            StoreError: the store cannot be reached.
        """
        self._manifest.flush()

    def _count(self, row: dict[str, Any]) -> None:
        if row["state"] == "failed":
            self._count_failed(row["source"], row["target"], row["reason"])
        else:
            self.result.num_done += 1
            self.result.megapixels += (
                row.get("width", 0) * row.get("height", 0) * row.get("frames", row.get("pages", 1)) / 1e6
            )

    def _count_failed(self, source: str, target: str, reason: str) -> None:
        self.result.failed.append(Outcome(RestoreJob(Path(source), Path(target)), "failed", " ".join(reason.split())))


def _described(model: str) -> tuple[str, str, str]:
    """Return name, fingerprint and path of a model; a downloaded model is identified by its name only."""
    from s3diff.checkpoints.registry import NAMED_MODELS, model_folder, read_description

    if model in NAMED_MODELS and not NAMED_MODELS[model].is_present:
        return model, model, model
    folder = model_folder(model)
    description = read_description(folder)
    return description.name, description.fingerprint, model if model in NAMED_MODELS else os.path.abspath(folder)


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
