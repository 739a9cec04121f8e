"""Run ``s3diff cluster`` on many machines. Everything heavy is imported inside the functions."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3diff.apps.option_flags import takes_options
from s3diff.apps.restore_command import DEFAULT_NAME
from s3diff.apps.restore_outcomes import show_sums
from s3diff.apps.serve_command import signals_as_exceptions, tell_address
from s3diff.apps.service_flags import require_number, takes_service_flags
from s3diff.apps.terminal import EXIT_SOME_FAILED, load_torch, on_one_line, one_line_errors, remark, remarks
from s3diff.errors import OptionError
from s3diff.options import OutputOptions, Precision, RestoreOptions
from s3diff.serving.assembly import ServiceSettings

if TYPE_CHECKING:
    from s3diff.integrations.ray.cluster import Workers
    from s3diff.integrations.ray.run import ClusterResult, ClusterRun

#: Where nobody looks at a terminal, a line about the progress comes at most so often.
_LINE_SECONDS = 30.0
_ADDRESS_HELP = (
    "Of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT. [default: RAY_ADDRESS, or a Ray of this machine, started "
    "for the run]"
)
_LocalCpus = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="CPUs of a Ray that is started here. [default: all]")
]
_Dashboard = Annotated[bool, typer.Option("--dashboard", help="With Ray's dashboard, where a Ray is started here.")]

cluster = typer.Typer(
    name="cluster",
    help="Restore and serve on many machines: Ray, folders and object stores. Needs the extra cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@takes_options
def restore(
    output: Annotated[
        str, typer.Option("--output", "-o", help="A folder that all machines see, or an address: s3://BUCKET/PREFIX.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Folders, pictures, addresses (s3://, gs://, az://), or quoted patterns: 's3://photos/**/*.jpg'.",
        ),
    ] = None,
    *,
    listed: Annotated[
        str | None,
        typer.Option("--list", metavar="FILE", help="Also the pictures named in FILE, one a line; - is stdin."),
    ] = None,
    listed_null: Annotated[
        str | None, typer.Option("--list0", metavar="FILE", help="The same, each name ending with a null.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A name, or a model folder at the same path on every machine.")
    ] = DEFAULT_NAME,
    options: RestoreOptions,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help=_ADDRESS_HELP,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many workers. [default: all that fit]")
    ] = None,
    cpus_per_worker: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPUs, and threads, of a worker. [default: 1]")
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(min=0, metavar="N", help="GPUs of a worker; 0.5 shares one. [default: 1 where there are any]"),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="At most so many small pictures of one size run together.")
    ] = 1,
    local_cpus: _LocalCpus = None,
    dashboard: _Dashboard = False,
    device: Annotated[str, typer.Option(help="Of the workers: auto, cuda, mps or cpu.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Number format of the networks.")] = "auto",
    fast: Annotated[bool, typer.Option("--fast", help="Compile the networks, in each worker.")] = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Search subfolders too.")] = False,
    writing: OutputOptions,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip pictures whose output is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print how many pictures, megapixels and hours it would be; no Ray.")
    ] = False,
    seconds_per_megapixel: Annotated[
        float | None,
        typer.Option(min=0, metavar="S", help="Of one worker, for --dry-run. [default: measured on this machine]"),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, metavar="P", help="Of one worker for an hour, for --dry-run.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Restore pictures on a Ray cluster, from folders and object stores into one of them.

    The output holds a manifest; the same command goes on from there after whatever interrupted it.
    Exit code: 0 all done, 1 something failed (the other pictures are written), 2 wrong use.
    """
    with one_line_errors():
        if skip_existing and writing.overwrite:
            raise OptionError("--skip-existing and --overwrite exclude each other; give one of them")
        load_torch()
        from s3diff.folders.lists import read_lists
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
            _show_estimate(run, workers or 1, seconds_per_megapixel, price)
            return
        if run.plan.jobs:
            with connected(address, cpus=local_cpus, dashboard=dashboard):
                chosen = choose_workers(workers, cpus_per_worker, gpus_per_worker)
                if not quiet:
                    remark(f"{len(run.plan.jobs)} pictures  {_described(chosen)}")
                _follow(run.rows(chosen), run, quiet)
        else:
            run.close()
        if not quiet:
            show_sums(run.result)
            _show_speed(run.result)
        if run.result.failed:
            raise typer.Exit(EXIT_SOME_FAILED)


cluster.command()(restore)


@cluster.command()
@takes_service_flags
def serve(
    *,
    settings: ServiceSettings,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on, on every machine.")] = 8000,
    address: Annotated[str | None, typer.Option(metavar="ADDRESS", help=_ADDRESS_HELP)] = None,
    replicas: Annotated[
        str, typer.Option(metavar="N|auto", help="How many; auto for as many as the requests need.")
    ] = "auto",
    most_replicas: Annotated[int, typer.Option(min=1, metavar="N", help="Of --replicas auto.")] = 8,
    cpus_per_replica: Annotated[float, typer.Option(min=0.1, metavar="N", help="CPUs, and threads, of a replica.")] = 1,
    gpus_per_replica: Annotated[float, typer.Option(min=0, metavar="N", help="GPUs of a replica; 0.5 shares one.")] = 0,
    local_cpus: _LocalCpus = None,
    dashboard: _Dashboard = False,
    grace: Annotated[float, typer.Option(help="Seconds for a stopped replica to finish running pictures.")] = 30,
) -> None:
    """Serve the page and the HTTP service of `s3diff serve` by replicas on a Ray cluster, until Ctrl-C.

    Any replica answers for any job: jobs and results lie at --job-store. Needs the extras cluster and web.
    """
    with one_line_errors(), signals_as_exceptions():
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


def _described(workers: Workers) -> str:
    gpus = f", {workers.gpus:g} GPU" if workers.gpus else ""
    return f"{workers.num} workers of {workers.cpus} CPU{gpus}"


def _follow(rows: Iterable[dict[str, Any]], run: ClusterRun, quiet: bool) -> None:
    """Show failures as they come, and the progress."""
    started, total = time.monotonic(), len(run.plan.jobs)
    with _progress(total, quiet) as show:
        for done, row in enumerate(rows, 1):
            if row["state"] == "failed":
                remark(f"s3diff: {row['reason']}")
            seconds, result = max(time.monotonic() - started, 1e-3), run.result
            show(
                done,
                f"{done / seconds:.1f} pictures/s, {result.megapixels / seconds:.2f} megapixels/s, "
                f"{len(result.failed)} failed",
            )


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Any]:
    """Show a bar on a terminal, now and then a line elsewhere; called with finished pictures and speed."""
    if quiet or not remarks.is_terminal:
        said = started = time.monotonic()

        def line(done: int, speed: str) -> None:
            nonlocal said
            now = time.monotonic()
            if not quiet and now - said >= _LINE_SECONDS and done < total:
                left = (now - started) / done * (total - done)
                remark(f"{done} of {total} pictures, {speed}, about {left / 60:.0f} min left")
                said = now

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=remarks, redirect_stdout=sys.stdout is not None and sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, speed: bar.update(task, completed=done, description=on_one_line(speed))


def _show_speed(result: ClusterResult) -> None:
    if result.num_done and result.seconds:
        remark(
            f"{'speed':8} {result.num_done / result.seconds:.2f} pictures/s, "
            f"{result.megapixels / result.seconds:.2f} megapixels/s"
        )


def _show_estimate(run: ClusterRun, num_workers: int, seconds_per_megapixel: float | None, price: float | None) -> None:
    """Print the plan and the estimate on stdout, which were requested."""
    from s3diff.folders.store_estimate import estimate_run
    from s3diff.restoration.restorer import Restorer

    for reason, count in run.plan.skipped.items():
        typer.echo(f"skipped     {count}  {reason}")
    if not run.plan.jobs:
        typer.echo("pictures    0  nothing is left to do")
        return
    settings = run.worker_options
    restorer = (
        None
        if seconds_per_megapixel is not None
        else Restorer.from_pretrained(settings.model, device=settings.device, precision=settings.precision)
    )
    found = estimate_run(
        run.plan.jobs, settings.options, restorer=restorer, seconds_per_megapixel=seconds_per_megapixel
    )
    hours = found.seconds / 3600
    typer.echo(f"pictures    {found.num_pictures}")
    typer.echo(f"megapixels  {found.megapixels:.1f}  of the results, by {found.num_sampled} sampled pictures")
    typer.echo(f"speed       {found.seconds / found.megapixels:.3f}  seconds per megapixel, of one worker")
    typer.echo(f"hours       {hours / num_workers:.2f}  with {num_workers} workers, {hours:.2f} hours of one")
    if price is not None:
        typer.echo(f"cost        {hours * price:.2f}  at {price:g} for an hour of a worker")
