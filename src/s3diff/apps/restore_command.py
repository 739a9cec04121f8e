"""``s3diff restore``. Everything heavy is imported inside the functions: ``--help`` does not import torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from s3diff.apps.option_flags import takes_options
from s3diff.apps.replay import Replay, model_of, read_replay, require_one_picture
from s3diff.apps.terminal import EXIT_SOME_FAILED, Counter, load_torch, on_one_line, one_line_errors, remark, remarks
from s3diff.errors import OptionError
from s3diff.formats import holds_pages
from s3diff.options import OutputOptions, Precision, RestoreOptions

if TYPE_CHECKING:
    from s3diff.checkpoints.hub import DownloadPlan
    from s3diff.folders.jobs import RestorePlan
    from s3diff.folders.restore import FolderResult, FolderRun
    from s3diff.folders.run import Outcome, Way
    from s3diff.images.files.credentials import ResultSigner
    from s3diff.restoration.restorer import Restorer
    from s3diff.restoration.result import Degrees

#: The model where none is named; the registry, whose default it is, would import torch.
DEFAULT_NAME = "compact"
#: Failed pictures that the table at the end names again; the report holds all of them.
_FAILURES_SHOWN = 20


@takes_options
def restore(
    output: Annotated[
        str, typer.Option("--output", "-o", help="A file for one picture, otherwise a folder (made when missing).")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Pictures, folders of pictures, or quoted patterns: 'photos/**/*.jpg'."),
    ] = None,
    *,
    listed: Annotated[
        str | None,
        typer.Option("--list", metavar="FILE", help="Also the pictures named in FILE, one a line; - is stdin."),
    ] = None,
    listed_null: Annotated[
        str | None,
        typer.Option("--list0", metavar="FILE", help="The same, each name ending with a null: find ... -print0."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="compact (embedded), s3diff (fetched on first use) or a model folder; with --server a model that it "
            "offers. [default: compact, or the server's]",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Restore at a service (s3diff serve) instead of here. Needs the extra client."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Of the service. Better in the environment variable S3DIFF_TOKEN."),
    ] = None,
    options: RestoreOptions,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Number format of the networks.")] = "auto",
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Compile the networks (CUDA: as graphs): for many pictures; the first one waits."),
    ] = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also the folders inside folders.")] = False,
    writing: OutputOptions,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Restore one TIFF, PNG or JPEG of any size part by part into a .tif (BigTIFF); goes on after an "
            "interruption. Needs the extra large.",
        ),
    ] = False,
    from_result: Annotated[
        str | None,
        typer.Option(
            metavar="RESULT",
            help="Make RESULT again from the same INPUT, with the model, options and degrees that it states.",
        ),
    ] = None,
    sign: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--sign",
            metavar="CERT KEY",
            help="Sign results as Content Credentials (C2PA) with a certificate and its private key, PEM files. Needs "
            "the extra provenance.",
        ),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave pictures alone whose output is there.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only part I of N of the pictures, counted from 0: for N jobs on a cluster."),
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Where a folder's run writes down what is done; the same command goes on from there. [default: "
            ".s3diff-journal.jsonl in the output folder]",
        ),
    ] = None,
    no_journal: Annotated[bool, typer.Option("--no-journal", help="Write down nothing.")] = False,
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write every picture's outcome there, one JSON object a line.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Restore pictures; nothing that is there is replaced unless --overwrite is given.

    A folder's run that was interrupted goes on where it stopped when the same command is given again.
    Exit code: 0 all done, 1 something failed (the other pictures are written), 2 wrong use.
    """
    with one_line_errors():
        if skip_existing and writing.overwrite:
            raise OptionError("--skip-existing and --overwrite exclude each other; give one of them")
        if "{scale}" in writing.name and (options.size, options.long_side, options.megapixels) != (None, None, None):
            raise OptionError(
                f"name is {writing.name!r}, but a size gives each picture its own scale; leave out {{scale}}"
            )
        replay = None
        if from_result is not None:
            require_one_picture(is_many=False, is_at_server=server is not None)
            replay = read_replay(from_result, options, writing, stream=stream)
            options, writing, stream = replay.options, replay.writing, replay.made.is_streamed
        if sign is not None and not writing.provenance:
            raise OptionError("--sign and --no-provenance exclude each other; leave out one of them")
        if server is not None:
            _check_for_server(
                sign=sign is not None, stream=stream, device=device != "auto", precision=precision != "auto", fast=fast
            )
        else:
            load_torch()
        from s3diff.folders.jobs import parse_shard, plan_jobs
        from s3diff.folders.restore import FolderRun, describe_run, open_journal
        from s3diff.images.codecs import silence_libtiff

        silence_libtiff()
        name_of_model = DEFAULT_NAME if model is None else model
        if replay is not None:
            name_of_model = model_of(replay.made) if model is None else model
            precision = cast(Precision, replay.made.precision) if precision == "auto" else precision
        load = partial(_load, name_of_model, device, precision, quiet, fast=fast, replay=replay)
        part = parse_shard(shard)
        plan = plan_jobs(
            inputs or [],
            output,
            recursive=recursive,
            listed=names_of_lists(listed, listed_null),
            writing=writing,
            shard=part,
            names={"model": Path(name_of_model).name, "scale": f"{options.scale:g}"},
            journal=None if journal is None else Path(journal),
        )
        if replay is not None:
            require_one_picture(is_many=plan.is_many, is_at_server=False)
        signer = None if sign is None else _signer(*sign)
        if server is None and _streams(stream, plan, options):
            if signer is not None:
                raise OptionError(
                    "a picture that is restored part by part (--stream) cannot be signed; leave out --sign"
                )
            from s3diff.apps.restore_streamed import restore_streamed

            done = restore_streamed(
                plan,
                options,
                load=load,
                writing=writing,
                degrees=None if replay is None else replay.degrees,
                skip_existing=skip_existing,
                report=report,
                quiet=quiet,
            )
            if done is not None:
                _show(done, quiet, replay)
            return
        described = describe_run(
            "" if server and model is None else name_of_model, options, writing, is_signed=signer is not None
        )
        counter = Counter("frames", quiet)
        with (
            open_journal(plan, described, path=journal, shard=part, keep=not no_journal) as kept,
            _way(
                server,
                token,
                model,
                load,
                options,
                writing,
                plan,
                fast=fast,
                quiet=quiet,
                signer=signer,
                degrees=None if replay is None else replay.degrees,
            ) as way,
        ):
            run = FolderRun(
                plan,
                way,
                journal=kept,
                report=report,
                overwrite=writing.overwrite,
                skip_existing=skip_existing,
                progress=counter,
            )
            with closing(counter), closing(_with_progress(run, quiet, counter)) as outcomes:
                for outcome in outcomes:
                    _show(outcome, quiet, replay)
        if run.result.num_not_tried:
            remark(
                f"s3diff: stopped, {run.result.num_not_tried} pictures were not tried; make room and run the same "
                "command"
            )
        if not quiet and (plan.is_many or run.result.skipped):
            show_sums(run.result)
        if run.result.failed:
            raise typer.Exit(EXIT_SOME_FAILED)


def names_of_lists(lines: str | None, null_separated: str | None) -> list[str] | None:
    """Read the names of both lists; None where neither is given."""
    from s3diff.folders.lists import read_list

    if lines is None and null_separated is None:
        return None
    names = [] if lines is None else read_list(lines)
    return names + ([] if null_separated is None else read_list(null_separated, null_separated=True))


def _check_for_server(**given: bool) -> None:
    """Options that say how this machine computes mean nothing to a service."""
    for name, is_given in given.items():
        if is_given:
            raise OptionError(f"--server and --{name} exclude each other; leave out one of them")


@contextmanager
def _way(
    server: str | None,
    token: str | None,
    model: str | None,
    load: Callable[[], Restorer],
    options: RestoreOptions,
    writing: OutputOptions,
    plan: RestorePlan,
    *,
    fast: bool,
    quiet: bool,
    signer: ResultSigner | None,
    degrees: Degrees | None,
) -> Iterator[Way]:
    """Here or at a service; a model is loaded only if a picture needs it."""
    from s3diff.folders.run import LocalWay

    def loaded() -> Restorer:
        restorer = load()
        restorer.check(options)
        if not quiet:
            remark(f"model {restorer.model.name}  device {restorer.device}  precision {restorer.precision}")
            for reason in restorer.acceleration.reasons if fast else ():
                remark(f"  {reason}")
        return restorer

    if server is None:
        yield LocalWay(loaded, options, writing, plan.root, degrees, signer)
        return
    from s3diff.apps.restore_remote import ServerWay
    from s3diff.client import Client

    with (
        Client(server, token or os.environ.get("S3DIFF_TOKEN") or None) as client,
        closing(ServerWay(client, options, writing, model, plan.root)) as way,
    ):
        yield way


def _streams(asked: bool, plan: RestorePlan, options: RestoreOptions) -> bool:
    """Whether the picture is restored part by part: asked for, or because memory would not hold it."""
    if asked or plan.is_many or plan.jobs[0].target.suffix.lower() not in (".tif", ".tiff"):
        return asked
    from s3diff.apps.restore_streamed import is_too_large_for_memory

    return is_too_large_for_memory(plan, options)


def show_sums(result: FolderResult) -> None:
    """Show the table at the end."""
    rows = [("done", result.num_done, f"in {result.seconds:.1f} s")]
    rows += [("skipped", count, reason) for reason, count in result.skipped.items()]
    rows += [("left out", count, what) for count, what in result.left_out.lines()]
    if result.failed:
        rows.append(("failed", len(result.failed), "see above" if len(result.failed) <= 1 else "namely"))
    width = max(len(str(count)) for _, count, _ in rows)
    for state, count, text in rows:
        remark(f"{state:8} {count:{width}}  {text}")
    if len(result.failed) > 1:
        for outcome in result.failed[:_FAILURES_SHOWN]:
            remark(f"  {outcome.reason}")
        if len(result.failed) > _FAILURES_SHOWN:
            remark(f"  and {len(result.failed) - _FAILURES_SHOWN} more, all of them in --report")


def _show(outcome: Outcome, quiet: bool, replay: Replay | None = None) -> None:
    if outcome.state == "skipped":
        return
    if outcome.state == "failed":
        remark(f"s3diff: {outcome.reason}")
        return
    if not quiet:
        print(on_one_line(_line(outcome)), flush=True)
        for note in outcome.result.notes if outcome.result else ():
            remark(f"{outcome.job.source}: {note}")
    for note in replay.strangeness(outcome.result) if replay is not None and outcome.result is not None else ():
        remark(f"{outcome.job.source}: {note}")


def _line(outcome: Outcome) -> str:
    """One picture on stdout; where a degree was set or moved by hand, what had been estimated stands behind it."""
    facts = outcome.result.facts if outcome.result else {}
    degrees = []
    for name in ("blur", "noise"):
        used, estimated = facts[name], facts[f"estimated_{name}"]
        degrees.append(f"{name} {used:.3f}" + (f" (estimated {estimated:.3f})" if used != estimated else ""))
    several = "pages" if holds_pages(outcome.job.target) else "frames"
    size = f"{facts['width']}x{facts['height']}" + (f", {facts['frames']} {several}" if "frames" in facts else "")
    return "  ".join([str(outcome.job.target), size, *degrees, f"{facts['seconds']:.2f} s"])


def _signer(certificate: str, key: str) -> ResultSigner:
    from s3diff.images.files.credentials import ResultSigner

    return ResultSigner(certificate, key)


def _load(
    model: str, device: str, precision: Any, quiet: bool, *, fast: bool = False, replay: Replay | None = None
) -> Restorer:
    from s3diff.restoration.restorer import Restorer

    with _download_bar(quiet) as (announce, progress):
        restorer = Restorer.from_pretrained(
            model,
            device=device,
            precision=precision,
            announce=announce,
            progress=progress,
            fast=fast,
            remark=None if quiet else remark,
        )
    if replay is not None:
        replay.check(restorer)
        for difference in replay.differences(restorer):
            remark(difference)
    return restorer


@contextmanager
def _download_bar(quiet: bool) -> Iterator[tuple[Callable[[DownloadPlan], None], Callable[[int, int], None]]]:
    """What is to come, with its size and licences, before a download starts; then a bar."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=remarks, disable=quiet)
    task = None

    def announce(plan: DownloadPlan) -> None:
        remarks.print(plan.summary())

    def progress(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task("", total=total)
        bar.update(task, completed=done, total=total)

    try:
        yield announce, progress
    finally:
        if task is not None:
            bar.stop()


def _with_progress(run: FolderRun, quiet: bool, counter: Counter) -> Generator[Outcome, None, None]:
    """A bar over many pictures, where somebody looks at a terminal; it also shows what is counted of one of them."""
    if quiet or run.num_pending <= 1 or not remarks.is_terminal:
        yield from run
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # On a terminal a line has to go above the bar; in a file it must stay what it is.
    with Progress(*columns, console=remarks, redirect_stdout=sys.stdout is not None and sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=run.num_pending)
        counter.instead = lambda text: bar.update(task, description=text)
        for outcome in run:
            if outcome.state != "skipped":
                bar.update(task, description=on_one_line(outcome.job.source.name), advance=1)
            yield outcome
