"""Estimate the time of a run over stores from a sample of its pictures."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3diff.errors import PictureError, S3DiffError
from s3diff.folders.store_plan import StoreJob, StorePlan
from s3diff.folders.store_run import WorkerOptions
from s3diff.folders.stores import fetch
from s3diff.images.files.reading import picture_header
from s3diff.messages import counted
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.sizes import sizes_of

#: Size of the sample, spread evenly over the run.
_SAMPLE = 24


@dataclass(frozen=True)
class RunEstimate:
    """Hold the estimate for a run.

    Attributes:
        num_pictures: pictures of the run.
        num_sampled: pictures of the sample that could be read.
        megapixels: of all results, in millions of pixels.
        seconds: time of one worker for all pictures.
    """

    num_pictures: int
    num_sampled: int
    megapixels: float
    seconds: float


def estimate_run(
    jobs: Sequence[StoreJob], options: RestoreOptions, *, restorer: Restorer | None, seconds_per_megapixel: float | None
) -> RunEstimate:
    """Read a sample of pictures; restore the median one unless the speed is given.

    Args:
        jobs: the run's pictures.
        options: for all pictures.
        restorer: the model, on a device like a worker's; None if ``seconds_per_megapixel`` is given.
        seconds_per_megapixel: time of one worker for a million pixels of the result.

    Raises:
        PictureError: no picture of the sample can be read.
        StoreError: a store cannot be reached.
    """
    count = min(_SAMPLE, len(jobs))
    megapixels: dict[StoreJob, float] = {}
    reason = "there are none"
    for job in [jobs[int((index + 0.5) * len(jobs) / count)] for index in range(count)]:
        with tempfile.TemporaryDirectory(prefix="s3diff-") as scratch:
            try:
                header = picture_header(fetch(job.source, Path(scratch), options.max_file_bytes))
                width, height = sizes_of((header.width, header.height), options).output
                megapixels[job] = width * height / 1e6
            except (PictureError, OverflowError) as error:
                reason = str(error)
    if not megapixels:
        raise PictureError(f"none of {count} sampled pictures can be read: {reason}")
    if seconds_per_megapixel is None:
        assert restorer is not None, "the speed is given or measured"
        seconds_per_megapixel = _measured(megapixels, options, restorer)
    total = statistics.fmean(megapixels.values()) * len(jobs)
    return RunEstimate(len(jobs), len(megapixels), total, total * seconds_per_megapixel)


def describe_estimate(
    plan: StorePlan, settings: WorkerOptions, num_workers: int, seconds_per_megapixel: float | None, price: float | None
) -> Iterator[str]:
    """Write what a run will skip and how long it will take, in lines for people.

    Args:
        settings: of every worker.
        num_workers: that work at the same time.
        seconds_per_megapixel: see :func:`estimate_run`; None to measure it here.
        price: of one worker for an hour; None for no costs.
    """
    for source, reason in plan.failed:
        yield f"failed      {source}  {' '.join(reason.split())}"
    for count, what in plan.left_out.lines():
        yield f"left out    {count}  {what}"
    for reason, count in plan.skipped.items():
        yield f"skipped     {count}  {reason}"
    if not plan.jobs:
        yield "pictures    0  nothing is left to do"
        return
    restorer = None
    if seconds_per_megapixel is None:
        restorer = Restorer.from_pretrained(settings.model, device=settings.device, precision=settings.precision)
    found = estimate_run(plan.jobs, settings.options, restorer=restorer, seconds_per_megapixel=seconds_per_megapixel)
    hours = found.seconds / 3600
    yield f"pictures    {found.num_pictures}"
    yield f"megapixels  {found.megapixels:.1f}  of the results, by {counted(found.num_sampled, 'sampled picture')}"
    yield f"speed       {found.seconds / found.megapixels:.3f}  seconds per megapixel, of one worker"
    yield f"hours       {hours / num_workers:.2f}  with {counted(num_workers, 'worker')}, {hours:.2f} hours of one"
    if price is not None:
        yield f"cost        {hours * price:.2f}  at {price:g} for an hour of a worker"


def _measured(megapixels: dict[StoreJob, float], options: RestoreOptions, restorer: Restorer) -> float:
    """Time a picture of median size, or the next one that can be restored; the first run warms up."""
    ordered = sorted(megapixels, key=lambda job: megapixels[job])
    failure: S3DiffError | None = None
    for job in ordered[len(ordered) // 2 :]:
        with tempfile.TemporaryDirectory(prefix="s3diff-") as scratch:
            try:
                path = fetch(job.source, Path(scratch), options.max_file_bytes)
                restorer.restore(path, options)
                started = time.perf_counter()
                restorer.restore(path, options)
                return (time.perf_counter() - started) / megapixels[job]
            except PictureError as error:
                failure = error
    assert failure is not None
    raise failure
