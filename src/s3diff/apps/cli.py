"""The command ``s3diff``. Everything heavy is imported inside the functions: ``--help`` does not import torch."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3diff.apps.degrade_command import degrade
from s3diff.apps.evaluation_commands import benchmark, evaluate
from s3diff.apps.terminal import (
    EXIT_SOME_FAILED,
    EXIT_USER_ERROR,
    load_torch,
    on_one_line,
    one_line_errors,
    remark,
    remarks,
)
from s3diff.apps.training_commands import train, train_estimator
from s3diff.errors import ModelError, OptionError, OutputError, PictureError
from s3diff.options import MAX_OUTPUT_PIXELS, ReleasedTiles, RestoreOptions
from s3diff.version import __version__

if TYPE_CHECKING:
    from s3diff.checkpoints.hub import DownloadPlan
    from s3diff.restoration.restored import Restored
    from s3diff.restoration.restorer import Restorer

app = typer.Typer(
    name="s3diff",
    help="Restore and enlarge photographs in one diffusion step, guided by how degraded each picture is.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"s3diff {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def restore(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Pictures, or folders of pictures.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="A file for one picture, otherwise a folder (made when missing).")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="compact (embedded), s3diff (fetched on first use) or a model folder.")
    ] = "compact",
    scale: Annotated[float, typer.Option(help="Output side over input side, a number above 0.")] = 4.0,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Exact output size in pixels; replaces --scale.")
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="Positive against negative prompt; 1 skips the negative pass.")
    ] = 1.07,
    prompt: Annotated[str | None, typer.Option(help="Positive prompt (models with a text encoder).")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="Negative prompt (models with a text encoder).")] = None,
    color_match: Annotated[
        ColorMatchChoice, typer.Option(help="How the input's colours are kept.")
    ] = ColorMatchChoice.wavelet,
    blur: Annotated[float | None, typer.Option(help="Blur degree 0 to 1 instead of the estimate.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise degree 0 to 1 instead of the estimate.")] = None,
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
    quality: Annotated[int, typer.Option(help="1 to 100, of JPEG and WebP outputs.")] = 95,
    max_megapixels: Annotated[
        float, typer.Option(help="Largest output accepted; it is held in memory.")
    ] = MAX_OUTPUT_PIXELS / 1e6,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave pictures alone whose output is there.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Restore pictures (PNG, JPEG, WebP, TIFF). Existing outputs are replaced unless --skip-existing is given."""
    with one_line_errors():
        options = RestoreOptions(
            scale=scale,
            size=_parse_size(size),
            guidance=guidance,
            positive_prompt=prompt,
            negative_prompt=negative_prompt,
            color_match=color_match.value,
            blur=blur,
            noise=noise,
            latent=latent.value,
            seed=seed,
            upsampling=upsampling.value if upsampling else None,
            grey=grey.value,
            tile=_parse_tile(tile),
            released_tiles=ReleasedTiles() if released_tiles else None,
            max_output_pixels=_pixels(max_megapixels),
        )
        load_torch()
        from s3diff.apps.restore_jobs import open_picture, plan_jobs

        jobs, skipped = plan_jobs(inputs, output, recursive=recursive, skip_existing=skip_existing, quality=quality)
        if skipped and not quiet:
            remark(f"{skipped} skipped, their outputs are there")
        if not jobs:
            return
        # A picture on its own is looked at before a model is loaded, let alone fetched.
        only = open_picture(jobs[0], options) if len(jobs) == 1 and not skipped else None
        restorer = _load(model, device, precision.value, quiet, fast=fast)
        restorer.check(options)
        if not quiet:
            remark(f"model {restorer.model.name}  device {restorer.device}  precision {restorer.precision}")
            for reason in restorer.acceleration.reasons if fast else ():
                remark(f"  {reason}")
        num_failed = 0
        with closing(_with_progress(jobs, quiet)) as waiting:
            for job in waiting:
                try:
                    restored = restorer.restore(only or open_picture(job, options), options)
                    notes = (*restored.picture.notes, *restored.notes, *restored.save(job.target, quality=quality))
                except (PictureError, OutputError) as error:
                    if only is not None:
                        raise
                    remark(f"s3diff: {error}")
                    num_failed += 1
                    continue
                if not quiet:
                    print(on_one_line(_report(job.target, restored)), flush=True)
                    for note in notes:
                        remark(f"{job.source}: {note}")
        if num_failed:
            rest = "; the others are written" if num_failed < len(jobs) else ""
            remark(f"s3diff: {num_failed} of {len(jobs)} pictures failed, see above{rest}")
            raise typer.Exit(EXIT_SOME_FAILED)


@app.command("convert")
def convert_command(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write, or the .pkl to write.")],
    base: Annotated[Path | None, typer.Option(help="SD-Turbo's folder (diffusers layout).")] = None,
    s3diff: Annotated[Path | None, typer.Option(help="The authors' s3diff.pkl.")] = None,
    estimator: Annotated[
        Path | None, typer.Option(help="The authors' de_net.pth; with --to-official, where to write it.")
    ] = None,
    to_official: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Write this model folder back as an s3diff.pkl at OUT.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the base model in float16: half the size.")] = False,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "s3diff",
) -> None:
    """Make a model folder of the authors' files, or (--to-official) write the authors' layout back; OUT must be new.

    Only tensors are read; no code in a file ever runs.
    """
    with one_line_errors():
        if to_official is not None:
            if base is not None or s3diff is not None or half or name != "s3diff":
                raise OptionError("--to-official reads a model folder; leave out --base, --s3diff, --half and --name")
            _require_places(to_official, [output, estimator] if estimator else [output])
            load_torch()
            from s3diff.checkpoints.convert import to_official as write_back

            write_back(to_official, output, estimator)
            typer.echo(f"{output}")
            return
        if base is None or s3diff is None or estimator is None:
            raise OptionError(
                "convert needs three inputs: --base SD_TURBO_FOLDER --s3diff s3diff.pkl --estimator de_net.pth OUT"
            )
        if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
            raise OutputError(f"{output} exists; remove it, or choose a new name")
        torch = load_torch()
        from s3diff.checkpoints.convert import convert

        dtype = torch.float16 if half else torch.float32
        description = convert(base, s3diff, estimator, output, dtype=dtype, name=name)
        typer.echo(f"{output}  {description.fingerprint}")


@app.command()
def models(
    verify: Annotated[
        bool, typer.Option("--verify", help="Load every model that is there and compare it with its fingerprint.")
    ] = False,
) -> None:
    """List the models that --model knows by name, and where they lie: a folder that may be removed as a whole."""
    with one_line_errors():
        if verify:
            load_torch()
        from s3diff.checkpoints.registry import NAMED_MODELS, load_model, read_description

        num_damaged = 0
        for named in NAMED_MODELS.values():
            state = "ready" if named.is_present else "missing" if named.kind == "embedded" else "not fetched yet"
            if named.is_present and verify:
                try:
                    load_model(named.folder(), verify=True)
                    state = "verified"
                except ModelError as error:
                    remark(f"s3diff: {error}")
                    state, num_damaged = "damaged", num_damaged + 1
            typer.echo(f"{named.name:10} {state:16} {named.summary}")
            if named.is_present:
                known = "" if state == "damaged" else f"  {read_description(named.folder()).fingerprint[:23]}"
                typer.echo(f"{'':10} {'':16} {named.folder()}{known}")
        if num_damaged:
            raise typer.Exit(EXIT_USER_ERROR)


@app.command()
def doctor() -> None:
    """Print versions, devices, models, and the extras with what each would enable."""
    with one_line_errors(), warnings.catch_warnings():
        warnings.simplefilter("default")  # why a device is not found is said in warnings
        from s3diff.apps.diagnosis import diagnose

        for line in diagnose():
            typer.echo(line)


app.command()(degrade)
app.command()(evaluate)
app.command()(benchmark)
app.command()(train)
app.command()(train_estimator)


def main() -> None:
    """Entry point of the command."""
    # Tokenizer threads and advisory notices have no place in a command's output.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # A file's name that the terminal has no letters for must not end the run.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # What typer itself prints and reads: --help into a full disk, Ctrl-C before a command begins.
    try:
        with one_line_errors():
            app()
    except typer.Exit as end:
        sys.exit(end.exit_code)


def _require_places(model: Path, outputs: list[Path]) -> None:
    """Each file has its own new place outside the model that it is made of, in a folder that is there."""
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise OptionError(f"{outputs[0]} cannot take both files; give --estimator another name than OUT")
    for path in outputs:
        if model.resolve() in (path.resolve(), *path.resolve().parents):
            raise OutputError(f"{path} would change the model folder {model}; choose another place")
        if not path.parent.is_dir():
            raise OutputError(f"{path} cannot be written: {path.parent} is no folder; make it first")
        if os.path.lexists(path):
            raise OutputError(f"{path} exists and would be replaced; remove it, or choose a new name")


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if sides := re.fullmatch(r"\s*([0-9]{1,9})\s*[xX]\s*([0-9]{1,9})\s*", text):
        return int(sides[1]), int(sides[2])
    raise OptionError(f"size is {text!r}; give width and height in pixels, such as 1920x1080")


def _parse_tile(tile: str) -> Any:
    return int(tile) if tile.isascii() and tile.isdigit() else tile


def _pixels(megapixels: float) -> int:
    if 0 < megapixels < 1e9:
        return max(1, round(megapixels * 1e6))
    raise OptionError(f"max-megapixels is {megapixels}; give a number above 0, such as 16")


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


def _with_progress(jobs: list[Any], quiet: bool) -> Generator[Any, None, None]:
    """A bar over many pictures, where somebody looks at a terminal."""
    if quiet or len(jobs) == 1 or not remarks.is_terminal:
        yield from jobs
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # On a terminal a line has to go above the bar; in a file it must stay what it is.
    with Progress(*columns, console=remarks, redirect_stdout=sys.stdout is not None and sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=len(jobs))
        for job in jobs:
            bar.update(task, description=on_one_line(job.source.name))
            yield job
            bar.advance(task)


def _report(target: Path, restored: Restored) -> str:
    picture, (blur, noise) = restored.picture, restored.degrees
    seconds = restored.seconds["total"]
    return f"{target}  {picture.width}x{picture.height}  blur {blur:.3f}  noise {noise:.3f}  {seconds:.2f} s"


if __name__ == "__main__":
    main()
