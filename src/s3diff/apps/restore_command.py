"""Run ``s3diff restore``. Everything heavy is imported inside the functions: ``--help`` does not import torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from s3diff.apps.option_flags import takes_flags
from s3diff.apps.terminal import EXIT_INTERRUPTED, EXIT_SOME_FAILED, load_torch, remark
from s3diff.errors import OptionError
from s3diff.formats import is_video
from s3diff.options import Backend, OutputOptions, Precision, RestoreOptions
from s3diff.video_options import VideoOptions

if TYPE_CHECKING:
    from s3diff.client import Client
    from s3diff.folders.picture_runners import JobRunner
    from s3diff.folders.plan import RestoreJob, RestorePlan
    from s3diff.folders.restore import FolderRun
    from s3diff.restoration.replay import Replay
    from s3diff.restoration.restorer import Restorer

#: The model where none is named; the registry, whose default it is, would import torch.
DEFAULT_NAME = "compact"


@takes_flags()
def restore(
    inputs: list[str] | None = None,
    *,
    output: str | None = None,
    listed: str | None = None,
    listed_null: str | None = None,
    model: str | None = None,
    server: str | None = None,
    token: str | None = None,
    options: RestoreOptions,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "auto",
    fast: bool = False,
    backend: Backend = "torch",
    recursive: bool = False,
    writing: OutputOptions,
    video: VideoOptions,
    stream: bool = False,
    from_result: str | None = None,
    sign: tuple[str, str] | None = None,
    skip_existing: bool = False,
    shard: str | None = None,
    journal: str | None = None,
    no_journal: bool = False,
    report: str | None = None,
    quiet: bool = False,
) -> None:
    """Restore pictures. A file that is there already is only replaced with --overwrite.

    s3diff photo.jpg is short for s3diff restore photo.jpg.
    An interrupted folder goes on where it stopped when the same command is given again.
    Exit code: 0 all done, 1 something failed (the other pictures are written), 2 wrong use.

    Args:
        inputs (INPUT): Pictures, folders of pictures, or quoted patterns: 'photos/**/*.jpg'.
        output (--output -o): Where the result goes: a file for one picture, a folder (made when missing) for several.
            [default: photo_restored.jpg next to photo.jpg, photos_restored/ next to the folder photos, restored/ for
            several]
        model (--model -m): compact (comes with s3diff), s3diff (the authors', fetched on first use) or a model's
            folder; with --server one of its models. [default: compact, or the service's]
        server (URL): Restore at a service (s3diff serve) instead of here. Needs the extra client.
        token (TOKEN): Password of the service, where it asks for one. The environment variable S3DIFF_TOKEN is safer:
            other users of this computer can read a command line.
        fast: Compile the networks first: many pictures of one size are restored faster, one is not.
        backend: Package that runs the networks: torch; openvino or onnxruntime, on the CPU (extras of these names; the
            first run makes their graphs, about a minute); auto takes OpenVINO where it was measured to be faster on
            this machine.
        stream: Restore one TIFF, PNG or JPEG that is larger than memory, part by part, into a BigTIFF (.tif); the same
            command goes on after an interruption. Needs the extra large.
        from_result (RESULT): Make RESULT again from the same INPUT, with the model, options and degrees that it states.
        shard (I/N): Restore only part I of N of the pictures, counted from 0: for N jobs on a cluster.
        journal (FILE): File that notes which pictures of a folder's run are done; the same command goes on from there.
            [default: .s3diff-journal.jsonl in the output folder, hidden; once all is done it may be deleted, and is
            then only missed when pictures are added]
        no_journal: Keep no journal: after an interruption give --skip-existing to go on.
        report (FILE): Write every picture's outcome there, one JSON object a line.
    """
    is_listed = listed is not None or listed_null is not None
    if not inputs and not is_listed:
        raise OptionError("no picture is given; name pictures or folders, or a list of them with --list")
    if skip_existing and writing.overwrite:
        raise OptionError("--skip-existing and --overwrite exclude each other; give one of them")
    if "{scale}" in writing.name and (options.size, options.long_side, options.megapixels) != (None, None, None):
        raise OptionError(f"name is {writing.name!r}, but a size gives each picture its own scale; leave out {{scale}}")
    if "{model}" in writing.name and server is not None and model is None:
        raise OptionError(
            f"name is {writing.name!r}, but the service chooses the model; give --model, or leave out {{model}}"
        )
    film = Path(inputs[0]) if inputs and len(inputs) == 1 and not is_listed and is_video(inputs[0]) else None
    own = ("codec", "pixel_format", "steady", "batch")
    changed = {name: getattr(video, name) != getattr(VideoOptions, name) for name in own}
    if film is None:
        _refuse("", " is only for one video as the input; leave it out", **changed)
    else:
        _refuse(
            f"{film} is a video, and ", " is for pictures; leave it out",
            format=writing.format, name=writing.name != OutputOptions.name, stream=stream,
            pages=options.pages != RestoreOptions.pages, from_result=from_result, sign=sign,
            skip_existing=skip_existing, shard=shard, journal=journal,
        )  # fmt: skip
    replay, name_of_model = None, DEFAULT_NAME if model is None else model
    if from_result is not None:
        from s3diff.restoration.replay import model_of, read_replay

        _refuse("--from-result and ", " exclude each other; leave out one of them", server=server)
        replay = read_replay(from_result, options, writing, stream=stream)
        options, writing, stream = replay.options, replay.writing, replay.made.is_streamed
        name_of_model = model_of(replay.made) if model is None else model
        precision = cast(Precision, replay.made.precision) if precision == "auto" else precision
    if sign is not None and not writing.provenance:
        raise OptionError("--sign and --no-provenance exclude each other; leave out one of them")
    if server is not None:
        _refuse(
            "--server and ", " exclude each other; leave out one of them",
            sign=sign, stream=stream, device=device != "auto", precision=precision != "auto", fast=fast,
            backend=backend != "torch", threads=threads, batch=changed["batch"],
            # A service has limits of its own.
            max_megapixels=options.max_output_pixels != RestoreOptions.max_output_pixels,
            max_input_megapixels=options.max_input_pixels != RestoreOptions.max_input_pixels,
        )  # fmt: skip
    if stream:
        _refuse("--stream and ", " exclude each other; leave out one of them", journal=journal, shard=shard)
    from s3diff.apps.restore_display import load_model
    from s3diff.folders.default_output import default_output, video_output
    from s3diff.folders.plan import RestoreJob, parse_shard, plan_jobs, read_lists
    from s3diff.images.files.tiff import silence_libtiff

    silence_libtiff()
    load = partial(
        load_model, name_of_model, device, precision, options, fast=fast, backend=backend, replay=replay, quiet=quiet
    )
    if film is not None:  # VideoOptions' own default would replace files
        video = replace(video, **{name: getattr(writing, name) for name in ("quality", "overwrite", "provenance")})
        if server is None:
            load_torch(threads, quiet=quiet)
        job = RestoreJob(film, video_output(film, output, overwrite=writing.overwrite, is_here=server is None))
        with _client(server, token) as client:
            _restore_film(job, options, writing, video, load, client, model, report=report, quiet=quiet)
        return
    part = parse_shard(shard)
    names = {"model": Path(name_of_model).name, "scale": f"{options.scale:g}"}
    if output is None:
        output = default_output(
            inputs or [],
            replace(writing, format="tif") if stream and writing.format is None else writing,
            names,
            is_listed=is_listed,
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
    if replay is not None and plan.is_many:
        raise OptionError("--from-result takes the one picture that the result was made of; give that file")
    signer = None
    if sign is not None:
        from s3diff.images.files.content_credentials import ResultSigner

        signer = ResultSigner(*sign)
    if server is None and _streams(stream, plan, options):
        if signer is not None:
            raise OptionError("a picture that is restored part by part (--stream) cannot be signed; leave out --sign")
        _restore_streamed(plan, options, writing, load, replay, skip_existing=skip_existing, report=report, quiet=quiet)
        return
    from s3diff.folders.picture_runners import LocalRunner
    from s3diff.folders.restore import FolderRun, describe_run, open_journal

    told = "" if server is not None and model is None else name_of_model
    described = describe_run(told, options, writing, is_signed=signer is not None)
    with (
        open_journal(plan, described, path=journal, shard=part, keep=not no_journal) as kept,
        _client(server, token) as client,
        ExitStack() as stack,
    ):
        runner: JobRunner = LocalRunner(load, options, writing, plan.root, replay and replay.degrees, signer)
        if client is not None:
            from s3diff.integrations.remote_restore import ServerRunner

            runner = stack.enter_context(closing(ServerRunner(client, options, writing, model, plan.root)))
        run = FolderRun(
            plan, runner, journal=kept, report=report, overwrite=writing.overwrite, skip_existing=skip_existing
        )
        _work_through(run, runner, options, quiet, replay, goes_on=kept is not None)
    if run.result.num_not_tried:
        remark(f"s3diff: stopped, {run.result.num_not_tried} pictures were not tried; make room and run it again")
    if not quiet and (plan.is_many or run.result.skipped):
        for line in run.result.lines():
            remark(line)
    if run.result.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _refuse(before: str, after: str, **given: object) -> None:
    """Refuse the first flag that is given, which is neither None nor False."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise OptionError(f"{before}--{name.replace('_', '-')}{after}")


def _client(server: str | None, token: str | None) -> AbstractContextManager[Client | None]:
    if server is None:
        return nullcontext()
    from s3diff.client import Client

    return Client(server, token or os.environ.get("S3DIFF_TOKEN") or None)


def _work_through(
    run: FolderRun, runner: JobRunner, options: RestoreOptions, quiet: bool, replay: Replay | None, *, goes_on: bool
) -> None:
    """Restore, and print every outcome; after Ctrl-C print how to resume."""
    from s3diff.apps.restore_display import PictureProgress, show_outcome
    from s3diff.folders.picture_runners import LocalRunner

    num_all = run.num_resumed + run.num_pending
    if run.num_resumed and run.num_pending and not quiet:
        remark(f"going on: {run.num_resumed} of {num_all} pictures are done")
    speed_of = runner.speed_key if isinstance(runner, LocalRunner) else None  # of a service no speed is known
    run.watcher = shown = PictureProgress(run.num_pending, quiet, speed_of, run.work(options))
    with closing(shown), closing(iter(run)) as outcomes:
        try:
            for outcome in outcomes:
                shown.ended(outcome)
                show_outcome(outcome, quiet, replay)
        except KeyboardInterrupt:
            if not goes_on:
                raise
            shown.close()  # its bar would be drawn below the last line
            remark(
                f"s3diff: stopped; nothing half written is left. {run.count_done()} of {num_all} pictures are done; to "
                "go on, give the same command again"
            )
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _restore_film(
    job: RestoreJob, options: RestoreOptions, writing: OutputOptions, video: VideoOptions,
    load: Callable[[], Restorer], client: Client | None, model: str | None, *, report: str | None, quiet: bool,
) -> None:  # fmt: skip
    from s3diff.apps.restore_display import restore_single
    from s3diff.folders.picture_runners import restore_film
    from s3diff.folders.run_jobs import reporting

    with reporting(report) as written:
        if client is None:
            restore_single(job, partial(restore_film, job, options, video), load, written, quiet=quiet)
            return
        from s3diff.integrations.remote_restore import restore_video_at

        work = partial(restore_video_at, job, options, writing, video, model)
        then = "the service ends the work, which begins anew"
        restore_single(job, work, lambda: client, written, quiet=quiet, then=then)


def _restore_streamed(
    plan: RestorePlan, options: RestoreOptions, writing: OutputOptions, load: Callable[..., Restorer],
    replay: Replay | None, *, skip_existing: bool, report: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Restore the plan's one picture part by part, unless it is skipped."""
    from s3diff.apps.restore_display import restore_single
    from s3diff.folders.picture_runners import restore_large
    from s3diff.folders.run_jobs import reporting, select_jobs

    if plan.is_many or len(plan.jobs) != 1:
        raise OptionError("--stream takes one picture and a name that ends in .tif; start it for each large picture")
    selection = select_jobs(plan.jobs, plan.root, None, skip_existing=skip_existing, overwrite=writing.overwrite)
    with reporting(report) as written:
        for skipped in selection.skipped:
            written(skipped)
            if not quiet:
                remark(f"{skipped.job.target}: skipped, {skipped.reason}")
        for job in selection.pending:
            work = partial(restore_large, job, options, writing, plan.root, replay and replay.degrees)
            restore_single(job, work, partial(load, how="  streamed"), written, quiet=quiet, replay=replay)


def _streams(asked: bool, plan: RestorePlan, options: RestoreOptions) -> bool:
    """Decide whether the picture is restored part by part: requested, or needed for want of memory."""
    if asked or plan.is_many or len(plan.jobs) != 1 or plan.jobs[0].target.suffix.lower() not in (".tif", ".tiff"):
        return asked
    from s3diff.restoration.streaming import exceeds_memory

    return exceeds_memory(plan.jobs[0].source, options)
