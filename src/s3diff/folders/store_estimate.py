"""Estimate the time of a run over stores from a sample of its pictures."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from s3diff.errors import PictureError, S3DiffError
from s3diff.folders.store_plan import StoreJob, StorePlan
from s3diff.folders.store_worker import WorkerOptions
from s3diff.folders.stores import fetch
from s3diff.images.files.reading import picture_header
from s3diff.messages import counted
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.sizes import sizes_of

#: Size of the sample, spread evenly over the run.
_SAMPLE = 24


def describe_estimate(
    plan: StorePlan, settings: WorkerOptions, num_workers: int, seconds_per_megapixel: float | None, price: float | None
) -> Iterator[str]:
    """Write what a run will skip and how long it will take, in lines for people.

    Args:
        seconds_per_megapixel: of the result, of one worker; None to measure it here, with a picture of median size.
        price: of one worker for an hour; None for no costs.

    Raises:
        PictureError: no picture of the sample can be read.
        StoreError: a store cannot be reached.
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
    sampled = _sampled_megapixels(plan.jobs, settings.options)
    if seconds_per_megapixel is None:
        restorer = Restorer.from_pretrained(settings.model, device=settings.device, precision=settings.precision)
        seconds_per_megapixel = _measured(sampled, settings.options, restorer)
    megapixels = statistics.fmean(sampled.values()) * len(plan.jobs)
    hours = megapixels * seconds_per_megapixel / 3600
    yield f"pictures    {len(plan.jobs)}"
    yield f"megapixels  {megapixels:.1f}  of the results, by {counted(len(sampled), 'sampled picture')}"
    yield f"speed       {seconds_per_megapixel:.3f}  seconds per megapixel, of one worker"
    yield f"hours       {hours / num_workers:.2f}  with {counted(num_workers, 'worker')}, {hours:.2f} hours of one"
    if price is not None:
        yield f"cost        {hours * price:.2f}  at {price:g} for an hour of a worker"


def _sampled_megapixels(jobs: Sequence[StoreJob], options: RestoreOptions) -> dict[StoreJob, float]:
    """Return the size of the results, in millions of pixels, of those pictures of a sample that can be read."""
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
    return megapixels


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
