"""``s3diff restore``. Everything heavy is imported inside the functions: ``--help`` does not import torch.

(Longer than 400 lines because every option stands here with its help.)
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3diff.apps.terminal import EXIT_SOME_FAILED, Counter, load_torch, on_one_line, one_line_errors, remark, remarks
from s3diff.errors import DiskFullError, OptionError
from s3diff.option_texts import parse_degree, parse_size, parse_tile, whole_millions
from s3diff.options import (
    LIMITS,
    MAX_FILE_BYTES,
    MAX_OUTPUT_PIXELS,
    MAX_PICTURE_PIXELS,
    OutputOptions,
    ReleasedTiles,
    RestoreOptions,
)

if TYPE_CHECKING:
    from s3diff.checkpoints.hub import DownloadPlan
    from s3diff.folders.jobs import RestorePlan
    from s3diff.folders.journal import Journal
    from s3diff.folders.run import Outcome, Selection, Way
    from s3diff.restoration.restorer import Restorer

#: The model where none is named; the registry, whose default it is, would import torch.
DEFAULT_NAME = "compact"
#: Name of a folder's journal, inside the output folder.
JOURNAL_NAME = ".s3diff-journal"
#: Failed pictures that the table at the end names again; the report holds all of them.
_FAILURES_SHOWN = 20


class ColorMatchChoice(str, Enum):
    wavelet = "wavelet"
    adain = "adain"
    none = "none"


class LatentChoice(str, Enum):
    mean = "mean"
    sample = "sample"


class UpsamplingChoice(str, Enum):
    bilinear = "bilinear"
    bicubic = "bicubic"


class GreyChoice(str, Enum):
    auto = "auto"
    keep = "keep"
    color = "color"


class PrecisionChoice(str, Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class SizeModeChoice(str, Enum):
    stretch = "stretch"
    fit = "fit"
    fill = "fill"


class RestoreAtChoice(str, Enum):
    auto = "auto"
    model = "model"
    output = "output"


class AlphaChoice(str, Enum):
    guided = "guided"
    bicubic = "bicubic"


class FormatChoice(str, Enum):
    png = "png"
    jpg = "jpg"
    webp = "webp"
    tif = "tif"
    avif = "avif"
    bmp = "bmp"
    gif = "gif"
    heic = "heic"


def restore(
    output: Annotated[
        str, typer.Option("--output", "-o", help="A file for one picture, otherwise a folder (made when missing).")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Pictures, folders of pictures, or quoted patterns: 'photos/**/*.jpg'."),
    ] = None,
    listed: Annotated[
        str | None,
        typer.Option("--list", metavar="FILE", help="Also the pictures named in FILE, one a line; - is stdin."),
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
    scale: Annotated[float, typer.Option(help="Output side over input side, a number above 0, such as 2.5.")] = 4.0,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Output size in pixels, such as 3840x2160; replaces --scale.")
    ] = None,
    size_mode: Annotated[
        SizeModeChoice,
        typer.Option(help="How --size is met: stretch, fit inside it, or fill it and cut what stands over."),
    ] = SizeModeChoice.stretch,
    long_side: Annotated[
        int | None, typer.Option(help="Longer side of the output in pixels, such as 4096; replaces --scale.")
    ] = None,
    megapixels: Annotated[
        float | None, typer.Option(help="Area of the output in megapixels, such as 24; replaces --scale.")
    ] = None,
    restore_at: Annotated[
        RestoreAtChoice,
        typer.Option(
            help="Where the networks work: at the model's scale of 4 and resampled to the size asked for, or at the "
            "output's size; auto: the larger of both."
        ),
    ] = RestoreAtChoice.auto,
    blur: Annotated[
        str | None,
        typer.Option(
            metavar="DEGREE",
            help="How blurred the input is taken to be: 0 sharp to 1, or +0.2 / -0.1 on top of the estimate, which is "
            "printed. More sharpens more.",
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(metavar="DEGREE", help="How noisy the input is taken to be, likewise. More smooths more."),
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(help="Positive against negative prompt: more is crisper, less true; 1 skips the negative pass."),
    ] = 1.07,
    strength: Annotated[
        float, typer.Option(help="How much of the restoration is taken: 0 the enlarged input, 1 all of it.")
    ] = 1.0,
    prompt: Annotated[str | None, typer.Option(help="Positive prompt (models with a text encoder).")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="Negative prompt (models with a text encoder).")] = None,
    color_match: Annotated[
        ColorMatchChoice, typer.Option(help="How the input's colours are kept.")
    ] = ColorMatchChoice.wavelet,
    latent: Annotated[
        LatentChoice, typer.Option(help="Mean of the latent, or a sample drawn with --seed.")
    ] = LatentChoice.mean,
    seed: Annotated[int, typer.Option(help="Seed of --latent sample.")] = 0,
    upsampling: Annotated[
        UpsamplingChoice | None, typer.Option(help="Filter that enlarges the input. [default: the model's own]")
    ] = None,
    grey: Annotated[
        GreyChoice,
        typer.Option(help="Grey inputs: keep grey, write color, or auto: grey unless the model coloured it."),
    ] = GreyChoice.auto,
    alpha: Annotated[
        AlphaChoice, typer.Option(help="How transparency is enlarged: guided by the restored colours, or bicubic.")
    ] = AlphaChoice.guided,
    tile: Annotated[
        str, typer.Option(metavar="auto|off|N", help="Largest tile in pixels of the output; auto: by the free memory.")
    ] = "auto",
    released_tiles: Annotated[
        bool, typer.Option("--released-tiles", help="Cut as the S3Diff release does, seams included.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    precision: Annotated[PrecisionChoice, typer.Option(help="Number format of the networks.")] = PrecisionChoice.auto,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Compile the networks (CUDA: as graphs): for many pictures; the first one waits."),
    ] = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also the folders inside folders.")] = False,
    format_: Annotated[
        FormatChoice | None, typer.Option("--format", help="Format of the results in a folder. [default: the input's]")
    ] = None,
    quality: Annotated[int, typer.Option(help="1 to 100, of JPEG, WebP, AVIF and HEIC outputs.")] = 95,
    name: Annotated[
        str,
        typer.Option(help="Names of the results in a folder, from {stem}, {extension}, {model} and {scale}."),
    ] = "{stem}",
    max_megapixels: Annotated[
        float,
        typer.Option(help="Largest output held in memory; a larger one goes part by part into a .tif, or is refused."),
    ] = MAX_OUTPUT_PIXELS / 1e6,
    max_input_megapixels: Annotated[
        float, typer.Option(help="Largest input read into memory, judged by its header before it is decoded.")
    ] = MAX_PICTURE_PIXELS / 1e6,
    max_file_megabytes: Annotated[
        float, typer.Option(help="Largest file read into memory, in millions of bytes.")
    ] = MAX_FILE_BYTES / 1e6,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Restore one TIFF, PNG or JPEG of any size part by part into a .tif (BigTIFF); goes on after an "
            "interruption. Needs the extra large.",
        ),
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave pictures alone whose output is there.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only part I of N of the pictures, counted from 0: for N jobs on a cluster."),
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Where a folder's run writes down what is done; the same command goes on from there. [default: "
            f"{JOURNAL_NAME}.jsonl in the output folder]",
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
        options = RestoreOptions(
            scale=scale,
            size=parse_size(size),
            size_mode=size_mode.value,
            long_side=long_side,
            megapixels=megapixels,
            restore_at=restore_at.value,
            guidance=guidance,
            strength=strength,
            positive_prompt=prompt,
            negative_prompt=negative_prompt,
            color_match=color_match.value,
            blur=parse_degree("blur", blur),
            noise=parse_degree("noise", noise),
            latent=latent.value,
            seed=seed,
            upsampling=upsampling.value if upsampling else None,
            grey=grey.value,
            alpha=alpha.value,
            tile=parse_tile(tile),
            released_tiles=ReleasedTiles() if released_tiles else None,
            max_output_pixels=whole_millions("max-megapixels", max_megapixels),
            max_input_pixels=whole_millions("max-input-megapixels", max_input_megapixels),
            max_file_bytes=whole_millions("max-file-megabytes", max_file_megabytes),
        )
        writing = OutputOptions(
            format=format_.value if format_ else None, quality=quality, name=name, overwrite=overwrite
        )
        if skip_existing and overwrite:
            raise OptionError("--skip-existing and --overwrite exclude each other; give one of them")
        if "{scale}" in name and (size, long_side, megapixels) != (None, None, None):
            raise OptionError(f"name is {name!r}, but a size gives each picture its own scale; leave out {{scale}}")
        if server is not None:
            _check_for_server(stream=stream, device=device != "auto", precision=precision.value != "auto", fast=fast)
        load_torch()
        from s3diff.folders.jobs import parse_shard, plan_jobs, read_list
        from s3diff.images.codecs import silence_libtiff

        silence_libtiff()
        name_of_model = DEFAULT_NAME if model is None else model
        load = partial(_load, name_of_model, device, precision.value, quiet, fast=fast)
        part = parse_shard(shard)
        plan = plan_jobs(
            inputs or [],
            output,
            recursive=recursive,
            listed=None if listed is None else read_list(listed),
            writing=writing,
            shard=part,
            names={"model": Path(name_of_model).name, "scale": f"{scale:g}"},
        )
        if server is None and _streams(stream, plan, options):
            from s3diff.apps.restore_streamed import restore_streamed

            done = restore_streamed(
                plan,
                options,
                load=load,
                overwrite=overwrite,
                skip_existing=skip_existing,
                report=report,
                quiet=quiet,
            )
            if done is not None:
                _show(done, quiet)
            return
        run = {
            "model": "" if server and model is None else name_of_model,
            "options": _of_run(options),
            "quality": quality,
        }
        with (
            _opened(plan, journal, no_journal, part, run) as kept,
            _way(server, token, model, load, options, writing, plan, fast=fast, quiet=quiet) as way,
        ):
            _work_through(
                plan,
                kept,
                way,
                overwrite=overwrite,
                skip_existing=skip_existing,
                report=report,
                quiet=quiet,
            )


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
        yield LocalWay(loaded, options, writing, plan.root)
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


def _work_through(
    plan: RestorePlan,
    journal: Journal | None,
    way: Way,
    *,
    overwrite: bool,
    skip_existing: bool,
    report: str | None,
    quiet: bool,
) -> None:
    """Everything after the plan."""
    from s3diff.folders.run import Report, open_stamped, run_jobs, select_jobs

    selection = select_jobs(plan.jobs, plan.root, journal, skip_existing=skip_existing, overwrite=overwrite)
    opened = None
    if selection.pending and not plan.is_many:
        # A picture on its own is read before a model is loaded, let alone fetched.
        opened = open_stamped(selection.pending[0], way)
    written = Report(report)
    started, tally = time.monotonic(), _Tally(selection)
    with closing(written):
        for outcome in selection.skipped:
            written.add(outcome)
        if selection.pending:
            counter = Counter("frames", quiet)
            way.prepare()
            outcomes = run_jobs(
                selection.pending, way, root=plan.root, journal=journal, opened=opened, progress=counter
            )
            opened = None  # the run's own now
            progress = _with_progress(outcomes, len(selection.pending), quiet, counter)
            with closing(counter), closing(progress) as waiting:
                try:
                    for outcome in waiting:
                        tally.add(outcome)
                        written.add(outcome)
                        _show(outcome, quiet)
                except DiskFullError:
                    left = len(selection.pending) - tally.num_ended
                    remark(f"s3diff: stopped, {left} pictures were not tried; make room and run the same command")
    if not quiet and (plan.is_many or selection.skipped):
        tally.show(time.monotonic() - started)
    if tally.num_failed:
        raise typer.Exit(EXIT_SOME_FAILED)


class _Tally:
    """The table at the end."""

    def __init__(self, selection: Selection) -> None:
        self.num_done = 0
        self.failed: list[str] = []
        self.num_failed = 0
        self.skipped: dict[str, int] = {}
        for outcome in selection.skipped:
            self.skipped[outcome.reason] = self.skipped.get(outcome.reason, 0) + 1

    @property
    def num_ended(self) -> int:
        return self.num_done + self.num_failed

    def add(self, outcome: Outcome) -> None:
        if outcome.state == "done":
            self.num_done += 1
            return
        self.num_failed += 1
        if len(self.failed) < _FAILURES_SHOWN:
            self.failed.append(outcome.reason)

    def show(self, seconds: float) -> None:
        rows = [("done", self.num_done, f"in {seconds:.1f} s")]
        rows += [("skipped", count, reason) for reason, count in self.skipped.items()]
        if self.num_failed:
            rows.append(("failed", self.num_failed, "see above" if self.num_failed <= 1 else "namely"))
        width = max(len(str(count)) for _, count, _ in rows)
        for state, count, text in rows:
            remark(f"{state:8} {count:{width}}  {text}")
        if self.num_failed > 1:
            for reason in self.failed:
                remark(f"  {reason}")
            if self.num_failed > len(self.failed):
                remark(f"  and {self.num_failed - len(self.failed)} more, all of them in --report")


def _show(outcome: Outcome, quiet: bool) -> None:
    if outcome.state == "failed":
        remark(f"s3diff: {outcome.reason}")
        return
    if not quiet:
        print(on_one_line(_line(outcome)), flush=True)
        for note in outcome.notes:
            remark(f"{outcome.job.source}: {note}")


def _line(outcome: Outcome) -> str:
    """One picture on stdout; where a degree was set or moved by hand, what had been estimated stands behind it."""
    facts = outcome.facts or {}
    degrees = []
    for name in ("blur", "noise"):
        used, estimated = facts[name], facts[f"estimated_{name}"]
        degrees.append(f"{name} {used:.3f}" + (f" (estimated {estimated:.3f})" if used != estimated else ""))
    size = f"{facts['width']}x{facts['height']}" + (f", {facts['frames']} frames" if "frames" in facts else "")
    return "  ".join([str(outcome.job.target), size, *degrees, f"{facts['seconds']:.2f} s"])


def _of_run(options: RestoreOptions) -> dict[str, Any]:
    """What decides how a result looks; limits and tiles leave it as it is."""
    return {name: value for name, value in dataclasses.asdict(options).items() if name not in (*LIMITS, "tile")}


@contextmanager
def _opened(
    plan: RestorePlan, path: str | None, no_journal: bool, shard: tuple[int, int] | None, run: dict[str, Any]
) -> Iterator[Journal | None]:
    if no_journal and path is not None:
        raise OptionError("--journal and --no-journal exclude each other; give one of them")
    if no_journal or plan.root is None or not (plan.is_many or path is not None):
        with nullcontext():
            yield None
        return
    from s3diff.folders.jobs import require_inside
    from s3diff.folders.journal import Journal

    part = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
    place = plan.root / f"{JOURNAL_NAME}{part}.jsonl" if path is None else Path(path)
    if path is None:
        require_inside(place, plan.root)
    with Journal(place, run) as journal:
        yield journal


def _load(model: str, device: str, precision: Any, quiet: bool, *, fast: bool = False) -> Restorer:
    from s3diff.restoration.restorer import Restorer

    with _download_bar(quiet) as (announce, progress):
        return Restorer.from_pretrained(
            model,
            device=device,
            precision=precision,
            announce=announce,
            progress=progress,
            fast=fast,
            remark=None if quiet else remark,
        )


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


def _with_progress(
    outcomes: Iterable[Outcome], total: int, quiet: bool, counter: Counter
) -> Generator[Outcome, None, None]:
    """A bar over many pictures, where somebody looks at a terminal; it also shows what is counted of one of them."""
    if quiet or total == 1 or not remarks.is_terminal:
        yield from outcomes
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # On a terminal a line has to go above the bar; in a file it must stay what it is.
    with Progress(*columns, console=remarks, redirect_stdout=sys.stdout is not None and sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=total)
        counter.instead = lambda text: bar.update(task, description=text)
        for outcome in outcomes:
            bar.update(task, description=on_one_line(outcome.job.source.name), advance=1)
            yield outcome
