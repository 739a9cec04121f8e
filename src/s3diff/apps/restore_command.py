"""Run ``s3diff restore``. Everything heavy is imported inside the functions: ``--help`` does not import torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from s3diff.apps.model_loading import load_model
from s3diff.apps.option_flags import takes_options
from s3diff.apps.replay import Replay, model_of, read_replay, require_one_picture
from s3diff.apps.restore_outcomes import show_outcome, show_sums
from s3diff.apps.restore_video import (
    Batch,
    Codec,
    PixelFormat,
    ServedVideo,
    SteadyShare,
    check_for_video,
    restore_video,
    video_of,
)
from s3diff.apps.terminal import (
    BACKEND_HELP,
    DEVICE_HELP,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    SIGN_HELP,
    THREADS_HELP,
    load_torch,
    one_line_errors,
    remark,
)
from s3diff.errors import OptionError
from s3diff.options import Backend, OutputOptions, Precision, RestoreOptions
from s3diff.video_options import VideoOptions

if TYPE_CHECKING:
    from s3diff.apps.picture_progress import PictureProgress
    from s3diff.folders.jobs import RestorePlan
    from s3diff.folders.restore import FolderRun
    from s3diff.folders.runners import JobRunner
    from s3diff.images.files.credentials import ResultSigner
    from s3diff.restoration.restorer import Restorer
    from s3diff.restoration.result import Degrees

#: The model where none is named; the registry, whose default it is, would import torch.
DEFAULT_NAME = "compact"


@takes_options
def restore(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Pictures, folders of pictures, or quoted patterns: 'photos/**/*.jpg'."),
    ] = None,
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the result goes: a file for one picture, a folder (made when missing) for several. [default: "
            "photo_restored.jpg next to photo.jpg, photos_restored/ next to the folder photos, restored/ for several]",
        ),
    ] = None,
    listed: Annotated[
        str | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="Restore the pictures named in FILE too, one name a line; - reads the names from stdin.",
        ),
    ] = None,
    listed_null: Annotated[
        str | None,
        typer.Option(
            "--list0",
            metavar="FILE",
            help="Like --list, with a null byte after each name, as find -print0 writes them.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="compact (comes with s3diff), s3diff (the authors', fetched on first use) or a model's folder; with "
            "--server one of its models. [default: compact, or the service's]",
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
        typer.Option(
            metavar="TOKEN",
            help="Password of the service, where it asks for one. The environment variable S3DIFF_TOKEN is safer: "
            "other users of this computer can read a command line.",
        ),
    ] = None,
    options: RestoreOptions,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help=THREADS_HELP)] = None,
    precision: Annotated[
        Precision, typer.Option(help="Number format that the networks compute in; auto is safe everywhere.")
    ] = "auto",
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="Compile the networks first: many pictures of one size are restored faster, one is not."
        ),
    ] = False,
    backend: Annotated[Backend, typer.Option(help=BACKEND_HELP)] = "torch",
    codec: Codec = "auto",
    pixel_format: PixelFormat = "auto",
    steady: SteadyShare = VideoOptions.steady,
    batch: Batch = VideoOptions.batch,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Restore the pictures in subfolders too.")
    ] = False,
    writing: OutputOptions,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Restore one TIFF, PNG or JPEG that is larger than memory, part by part, into a BigTIFF (.tif); the "
            "same command goes on after an interruption. Needs the extra large.",
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
        typer.Option("--sign", metavar="CERT KEY", help=SIGN_HELP),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip pictures whose result is there already.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Restore only part I of N of the pictures, counted from 0: for N jobs on a cluster."
        ),
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File that notes which pictures of a folder's run are done; the same command goes on from there. "
            "[default: .s3diff-journal.jsonl in the output folder, hidden; once all is done it may be deleted, and is "
            "then only missed when pictures are added]",
        ),
    ] = None,
    no_journal: Annotated[
        bool, typer.Option("--no-journal", help="Keep no journal: after an interruption give --skip-existing to go on.")
    ] = False,
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write every picture's outcome there, one JSON object a line.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Restore pictures. A file that is there already is only replaced with --overwrite.

    s3diff photo.jpg is short for s3diff restore photo.jpg.
    An interrupted folder goes on where it stopped when the same command is given again.
    Exit code: 0 all done, 1 something failed (the other pictures are written), 2 wrong use.
    """
    with one_line_errors():
        if not inputs and listed is None and listed_null is None:
            raise OptionError("no picture is given; name pictures or folders, or a list of them with --list")
        if skip_existing and writing.overwrite:
            raise OptionError("--skip-existing and --overwrite exclude each other; give one of them")
        if "{scale}" in writing.name and (options.size, options.long_side, options.megapixels) != (None, None, None):
            raise OptionError(
                f"name is {writing.name!r}, but a size gives each picture its own scale; leave out {{scale}}"
            )
        video = video_of(inputs or []) if listed is None and listed_null is None else None
        video_flags = {"codec": codec, "pixel_format": pixel_format, "steady": steady, "batch": batch}
        check_for_video(
            video, video_flags, format=writing.format is not None, name=writing.name != OutputOptions.name,
            stream=stream, from_result=from_result is not None, sign=sign is not None,
            skip_existing=skip_existing, shard=shard is not None, journal=journal is not None,
        )  # fmt: skip
        replay = None
        if from_result is not None:
            require_one_picture(is_many=False, is_at_server=server is not None)
            replay = read_replay(from_result, options, writing, stream=stream)
            options, writing, stream = replay.options, replay.writing, replay.made.is_streamed
        if sign is not None and not writing.provenance:
            raise OptionError("--sign and --no-provenance exclude each other; leave out one of them")
        if server is not None:
            _check_for_server(
                sign=sign is not None,
                stream=stream,
                device=device != "auto",
                precision=precision != "auto",
                fast=fast,
                backend=backend != "torch",
                threads=threads is not None,
                batch=batch != VideoOptions.batch,
            )
        from s3diff.apps.picture_progress import PictureProgress
        from s3diff.folders.default_output import default_output
        from s3diff.folders.jobs import parse_shard, plan_jobs
        from s3diff.folders.lists import read_lists
        from s3diff.folders.restore import FolderRun, describe_run, open_journal
        from s3diff.images.codecs import silence_libtiff

        silence_libtiff()
        name_of_model = DEFAULT_NAME if model is None else model
        if replay is not None:
            name_of_model = model_of(replay.made) if model is None else model
            precision = cast(Precision, replay.made.precision) if precision == "auto" else precision
        load = partial(load_model, name_of_model, device, precision, quiet, fast=fast, backend=backend, replay=replay)
        if video is not None:
            if server is None:
                load_torch(threads, quiet=quiet)
            with _video_server(server, token, model) as at_server:
                restore_video(
                    video, output, options, writing, video_flags,
                    load=load, at_server=at_server, report=report, quiet=quiet,
                )  # fmt: skip
            return
        part = parse_shard(shard)
        names = {"model": Path(name_of_model).name, "scale": f"{options.scale:g}"}
        if output is None:
            output = default_output(
                inputs or [],
                replace(writing, format="tif") if stream and writing.format is None else writing,
                names,
                is_listed=listed is not None or listed_null is not None,
                keeps_name=writing.overwrite or skip_existing or stream,
            )
            if not output.endswith(os.sep):
                writing = replace(writing, name=OutputOptions.name)  # is in the output's name already
        plan = plan_jobs(
            inputs or [],
            output,
            recursive=recursive,
            listed=read_lists(listed, listed_null),
            writing=writing,
            shard=part,
            names=names,
            journal=None if journal is None else Path(journal),
        )
        if server is None:  # a name that is wrong is said before
            load_torch(threads, quiet=quiet)
        if replay is not None:
            require_one_picture(is_many=plan.is_many, is_at_server=False)
        signer = None
        if sign is not None:
            from s3diff.images.files.credentials import ResultSigner

            signer = ResultSigner(*sign)
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
                show_outcome(done, quiet, replay)
            return
        described = describe_run(
            "" if server and model is None else name_of_model, options, writing, is_signed=signer is not None
        )
        with (
            open_journal(plan, described, path=journal, shard=part, keep=not no_journal) as kept,
            _runner(
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
            ) as runner,
        ):
            run = FolderRun(
                plan, runner, journal=kept, report=report, overwrite=writing.overwrite, skip_existing=skip_existing
            )
            if run.num_resumed and run.num_pending and not quiet:
                remark(f"going on: {run.num_resumed} of {run.num_resumed + run.num_pending} pictures are done")
            run.watcher = shown = PictureProgress(run.num_pending, quiet, _speed_of(runner, options), run.work(options))
            with closing(shown):
                _work_through(run, shown, quiet, replay, goes_on=kept is not None)
        if run.result.num_not_tried:
            remark(f"s3diff: stopped, {run.result.num_not_tried} pictures were not tried; make room and run it again")
        if not quiet and (plan.is_many or run.result.skipped):
            show_sums(run.result)
        if run.result.failed:
            raise typer.Exit(EXIT_SOME_FAILED)


def _work_through(run: FolderRun, shown: PictureProgress, quiet: bool, replay: Replay | None, *, goes_on: bool) -> None:
    """Restore, and print every outcome; after Ctrl-C print how to resume."""
    try:
        with closing(iter(run)) as outcomes:
            for outcome in outcomes:
                shown.ended(outcome)
                show_outcome(outcome, quiet, replay)
    except KeyboardInterrupt:
        if not goes_on:
            raise
        shown.close()  # its bar would be drawn below the last line
        remark(
            f"s3diff: stopped; nothing half written is left. {run.count_done()} of {run.num_resumed + run.num_pending} "
            "pictures are done; to go on, give the same command again"
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _speed_of(runner: JobRunner, options: RestoreOptions) -> Callable[[], str] | None:
    """Return the function that names this machine's speed; None for a service."""
    from s3diff.folders.runners import LocalRunner
    from s3diff.restoration.speed import speed_key

    return (
        (lambda: speed_key(runner.restorer, runner.restorer.resolved(options)))
        if isinstance(runner, LocalRunner)
        else None
    )


def _check_for_server(**given: bool) -> None:
    """Refuse options about this machine's computing, which a service ignores."""
    for name, is_given in given.items():
        if is_given:
            raise OptionError(f"--server and --{name} exclude each other; leave out one of them")


@contextmanager
def _runner(
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
) -> Iterator[JobRunner]:
    """Create the runner: here, with a model that is loaded on first use, or at a service."""
    from s3diff.folders.runners import LocalRunner

    def loaded() -> Restorer:
        restorer = load()
        restorer.check(options)
        if not quiet:
            where = restorer.device if restorer.runtime is None else restorer.runs_on
            remark(f"model {restorer.model.name}  device {where}  precision {restorer.precision}")
            for reason in restorer.acceleration.reasons if fast else ():
                remark(f"  {reason}")
        return restorer

    if server is None:
        yield LocalRunner(loaded, options, writing, plan.root, degrees, signer)
        return
    from s3diff.apps.restore_remote import ServerRunner
    from s3diff.client import Client

    with (
        Client(server, token or os.environ.get("S3DIFF_TOKEN") or None) as client,
        closing(ServerRunner(client, options, writing, model, plan.root)) as runner,
    ):
        yield runner


@contextmanager
def _video_server(server: str | None, token: str | None, model: str | None) -> Iterator[ServedVideo | None]:
    if server is None:
        yield None
        return
    from s3diff.apps.restore_remote import restore_video_at
    from s3diff.client import Client

    with Client(server, token or os.environ.get("S3DIFF_TOKEN") or None) as client:
        yield lambda job, options, writing, video_options, tell: restore_video_at(
            client, job, options, writing, video_options, model, tell
        )


def _streams(asked: bool, plan: RestorePlan, options: RestoreOptions) -> bool:
    """Decide whether the picture is restored part by part: requested, or needed for want of memory."""
    if asked or plan.is_many or plan.jobs[0].target.suffix.lower() not in (".tif", ".tiff"):
        return asked
    from s3diff.apps.restore_streamed import is_too_large_for_memory

    return is_too_large_for_memory(plan, options)
