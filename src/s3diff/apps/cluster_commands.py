"""Run ``s3diff cluster`` on many machines. Everything heavy is imported inside the functions."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import typer

from s3diff.apps.option_flags import takes_flags
from s3diff.apps.restore_command import DEFAULT_NAME
from s3diff.apps.serve_command import tell_address
from s3diff.apps.terminal import EXIT_SOME_FAILED, load_torch, progress_bar, remark, remarks
from s3diff.errors import MissingExtraError, OptionError
from s3diff.messages import counted, install_command
from s3diff.options import OutputOptions, Precision, RestoreOptions
from s3diff.serving.assembly import WEB_PACKAGES, require_number, service_settings
from s3diff.serving.limits import ServiceSettings
from s3diff.serving.signals import signals_as_exceptions

if TYPE_CHECKING:
    from s3diff.integrations.ray.run import ClusterRun

#: Where nobody looks at a terminal, a line about the progress comes at most so often.
_LINE_SECONDS = 30.0
cluster = typer.Typer(
    name="cluster",
    help="Restore and serve on many machines: Ray, folders and object stores. Needs the extra cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@cluster.command()
@takes_flags()
def restore(
    inputs: list[str] | None = None,
    *,
    output: str,
    listed: str | None = None,
    listed_null: str | None = None,
    model: str = DEFAULT_NAME,
    options: RestoreOptions,
    address: str | None = None,
    workers: int | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    batch: int = 1,
    local_cpus: int | None = None,
    dashboard: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    fast: bool = False,
    recursive: bool = False,
    writing: OutputOptions,
    skip_existing: bool = False,
    dry_run: bool = False,
    seconds_per_megapixel: float | None = None,
    price: float | None = None,
    quiet: bool = False,
) -> None:
    """Restore pictures on a Ray cluster, from folders and object stores into one of them.

    The output holds a manifest; the same command goes on from there after whatever interrupted it.
    Exit code: 0 all done, 1 something failed (the other pictures are written), 2 wrong use.

    Args:
        inputs (SOURCE): Folders, pictures, addresses (s3://, gs://, az://), or quoted patterns: 's3://photos/**/*.jpg'.
        output (--output -o): A folder that all machines see, or an address: s3://BUCKET/PREFIX.
        model (--model -m): A name, or a model folder at the same path on every machine.
        workers (N >=1): At most so many workers. [default: all that fit]
        cpus_per_worker (N >=1): CPUs, and threads, of a worker. [default: 1]
        gpus_per_worker (N >=0): GPUs of a worker; 0.5 shares one. [default: 1 where there are any]
        batch (N >=1): At most so many small pictures of one size run together.
        device: Of the workers: auto, cuda, mps or cpu.
        fast: Compile the networks, in each worker.
        dry_run: Print how many pictures, megapixels and hours it would be; no Ray.
        seconds_per_megapixel (S >=0): Of one worker, for --dry-run. [default: measured on this machine]
        price (P >=0): Of one worker for an hour, for --dry-run.
    """
    if skip_existing and writing.overwrite:
        raise OptionError("--skip-existing and --overwrite exclude each other; give one of them")
    if not dry_run and (seconds_per_megapixel, price) != (None, None):
        raise OptionError("--seconds-per-megapixel and --price are for --dry-run; add it, or leave them out")
    load_torch((cpus_per_worker or 1) if dry_run else None)
    from s3diff.folders.plan import read_lists
    from s3diff.integrations.ray.cluster import choose_workers, connected, import_ray
    from s3diff.integrations.ray.run import ClusterRun

    if not dry_run:
        import_ray()  # before a long search
    run = ClusterRun(
        inputs or [],
        output,
        options,
        model=model,
        writing=writing,
        device=device,
        precision=precision,
        fast=fast,
        recursive=recursive,
        listed=read_lists(listed, listed_null),
        skip_existing=skip_existing,
        batch=batch,
    )
    if dry_run:
        from s3diff.folders.store_estimate import describe_estimate

        for line in describe_estimate(run.plan, run.worker_options, workers or 1, seconds_per_megapixel, price):
            typer.echo(line)
        raise typer.Exit(EXIT_SOME_FAILED if run.result.failed else 0)
    if run.plan.jobs:
        with connected(address, cpus=local_cpus, dashboard=dashboard):
            chosen = choose_workers(workers, cpus_per_worker, gpus_per_worker)
            if not quiet:
                remark(f"{counted(len(run.plan.jobs), 'picture')}  {chosen}")
            _follow(run.rows(chosen), run, quiet)
    else:
        run.close()
    if not quiet:
        for line in run.result.lines():
            remark(line)
    if run.result.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@functools.wraps(service_settings)
def _replica_settings(*given: Any, **named: Any) -> ServiceSettings:
    """Check both extras before the settings, which need one of them."""
    needed = {"cluster": ("ray", "obstore"), "web": WEB_PACKAGES}
    missing = [extra for extra, packages in needed.items() if not all(map(find_spec, packages))]
    if len(missing) > 1:
        named_extras = f"replicas of the service need the extras {' and '.join(missing)}"
        raise MissingExtraError(f"{named_extras}: {install_command(','.join(missing))}")
    return service_settings(*given, **named)


@cluster.command()
@takes_flags(settings=_replica_settings)
def serve(
    *,
    settings: ServiceSettings,
    port: int = 8000,
    address: str | None = None,
    replicas: str = "auto",
    most_replicas: int = 8,
    cpus_per_replica: float = 1,
    gpus_per_replica: float = 0,
    local_cpus: int | None = None,
    dashboard: bool = False,
    grace: float = 30,
) -> None:
    """Serve the page and the HTTP service of `s3diff serve` by replicas on a Ray cluster, until Ctrl-C.

    Any replica answers for any job: jobs and results lie at --job-store. Needs the extras cluster and web.

    Args:
        port (>=1 <=65535): Port to listen on, on every machine.
        replicas (N|auto): How many; auto for as many as the requests need.
        most_replicas (N >=1): Of --replicas auto.
        cpus_per_replica (N >=0.1): CPUs, and threads, of a replica.
        gpus_per_replica (N >=0): GPUs of a replica; 0.5 shares one.
        grace: Seconds for a stopped replica to finish running pictures.
    """
    with signals_as_exceptions():
        require_number("grace", grace, "number", low=0)
        if replicas != "auto" and not (replicas.isdecimal() and int(replicas) > 0):
            raise OptionError(f"replicas is {replicas!r}; give a whole number above 0, or auto")
        load_torch()
        from s3diff.integrations.ray.cluster import connected, import_ray
        from s3diff.integrations.ray.serving import Replicas, prepare, serve_until

        import_ray()
        if settings.job_store is None:
            raise OptionError("replicas share their jobs; give --job-store, a folder that all see or an address")
        chosen = Replicas(
            num="auto" if replicas == "auto" else int(replicas),
            most=most_replicas,
            cpus=cpus_per_replica,
            gpus=gpus_per_replica,
            grace_seconds=grace,
        )
        from s3diff.serving.http.server import address_at

        own = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
        prepare()
        with connected(address, cpus=local_cpus, dashboard=dashboard), suppress(KeyboardInterrupt):
            serve_until(
                settings,
                chosen,
                port=port,
                on_start=lambda: tell_address([address_at(own, port)], settings.root_path, open_page=False),
            )


def _follow(rows: Iterable[dict[str, Any]], run: ClusterRun, quiet: bool) -> None:
    """Show failures as they come, and the progress: a bar on a terminal, now and then a line elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    total, has_bar = len(run.plan.jobs), not quiet and remarks.is_terminal
    said = started = time.monotonic()
    with progress_bar(*columns, quiet=not has_bar) as show:
        show(0, total)
        for done, row in enumerate(rows, 1):
            if row["state"] == "failed":
                remark(f"s3diff: {row['reason']}")
            now = time.monotonic()
            seconds = max(now - started, 1e-3)
            text = f"{run.result.speed(done, seconds, digits=1)}, {len(run.result.failed)} failed"
            show(done, total, text)
            if not quiet and not has_bar and now - said >= _LINE_SECONDS and done < total:
                left = seconds / done * (total - done)
                remark(f"{done} of {total} pictures, {text}, about {left / 60:.0f} min left")
                said = now
