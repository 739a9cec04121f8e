"""The command ``s3diff``. Everything heavy is imported inside the functions: ``--help`` does not import torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from s3diff.errors import OptionError, S3DiffError
from s3diff.options import MAX_OUTPUT_PIXELS, RestoreOptions
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
#: Progress and remarks go to stderr; stdout carries one line per restored picture.
_remarks = Console(stderr=True, highlight=False, soft_wrap=True)

EXIT_USER_ERROR = 1
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130


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
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Pictures, or folders of pictures.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="A file for one picture, otherwise a folder (made when missing).")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="compact (embedded), s3diff (fetched on first use) or a model folder.")
    ] = "compact",
    scale: Annotated[float, typer.Option(help="Output side over input side, any number above 0.")] = 4.0,
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
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    precision: Annotated[PrecisionChoice, typer.Option(help="Number format of the networks.")] = PrecisionChoice.auto,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also the folders inside folders.")] = False,
    quality: Annotated[int, typer.Option(help="1 to 100, of JPEG and WebP outputs.")] = 95,
    max_megapixels: Annotated[
        float, typer.Option(help="Largest output accepted; memory grows with it.")
    ] = MAX_OUTPUT_PIXELS / 1e6,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave pictures alone whose output is there.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Restore pictures (PNG, JPEG, WebP, TIFF). Existing outputs are replaced unless --skip-existing is given."""
    with _one_line_errors():
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
            max_output_pixels=_pixels(max_megapixels),
        )
        from s3diff.apps.restore_jobs import plan_jobs
        from s3diff.images.codecs import check_writable, read_picture

        jobs, skipped = plan_jobs(inputs, output, recursive=recursive, skip_existing=skip_existing, quality=quality)
        if skipped and not quiet:
            _remarks.print(f"{skipped} skipped, their outputs are there", markup=False)
        if not jobs:
            return
        restorer = _load(model, device, precision.value, quiet)
        if not quiet:
            _remarks.print(f"model {restorer.model.name}  device {restorer.device}  precision {restorer.precision}")
        failed = 0
        for job in _with_progress(jobs, quiet):
            try:
                picture = read_picture(job.source)
                result_size = options.output_size(picture.width, picture.height)
                check_writable(job.target, size=result_size, transparent=picture.is_transparent)
                restored = restorer.restore(picture, options)
                notes = (*restored.picture.notes, *restored.save(job.target, quality=quality))
            except S3DiffError as error:
                if len(jobs) == 1:
                    raise
                _remarks.print(f"s3diff: {error}", markup=False)
                failed += 1
                continue
            if not quiet:
                typer.echo(_report(job.target, restored))
                for note in notes:
                    _remarks.print(f"{job.source}: {note}", markup=False)
        if failed:
            _remarks.print(f"s3diff: {failed} of {len(jobs)} pictures failed, see above; the others are written")
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
    """Make a model folder of the authors' files, or (--to-official) write the authors' layout back.

    Only tensors are read; no code in a file ever runs.
    """
    with _one_line_errors():
        if to_official is not None:
            if base is not None or s3diff is not None:
                raise OptionError("--to-official reads a model folder; leave out --base and --s3diff")
            from s3diff.checkpoints.convert import to_official as write_back

            write_back(to_official, output, estimator)
            typer.echo(f"{output}")
            return
        if base is None or s3diff is None or estimator is None:
            raise OptionError(
                "convert needs three inputs: --base SD_TURBO_FOLDER --s3diff s3diff.pkl --estimator de_net.pth OUT"
            )
        import torch

        from s3diff.checkpoints.convert import convert

        dtype = torch.float16 if half else torch.float32
        description = convert(base, s3diff, estimator, output, dtype=dtype, name=name)
        typer.echo(f"{output}  {description.fingerprint}")


@app.command()
def models() -> None:
    """List the models that --model knows by name, and where they lie."""
    with _one_line_errors():
        from s3diff.checkpoints.registry import NAMED_MODELS, read_description

        for named in NAMED_MODELS.values():
            state = "ready" if named.is_present else "not fetched yet"
            typer.echo(f"{named.name:10} {state:16} {named.summary}")
            if named.is_present:
                typer.echo(f"{'':10} {'':16} {named.folder()}  {read_description(named.folder()).fingerprint[:23]}")


@app.command()
def doctor() -> None:
    """Print versions, devices, optional packages and what each would enable."""
    with _one_line_errors():
        from s3diff.apps.diagnosis import diagnose

        for line in diagnose():
            typer.echo(line)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, such as compact.")],
    data: Annotated[Path, typer.Option(help="Folder of ground-truth pictures.")],
    output: Annotated[Path, typer.Option(help="Folder of the run: checkpoint, log and the model folder.")],
    estimator: Annotated[
        Path | None, typer.Option(help="A model folder whose estimator is used; trained first when left out.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, such as loss.dists=0.5.")
    ] = None,
) -> None:
    """Train a model on a folder of photographs. The run's folder ends up with a model folder that restore takes."""
    with _one_line_errors():
        from s3diff.training.run import train_recipe

        typer.echo(f"{train_recipe(recipe, data, output, estimator, resume=resume, changes=tuple(changes or ()))}")


def main() -> None:
    """Entry point of the command."""
    # Tokenizer threads and advisory notices have no place in a command's output.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    app()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """A user's mistake is one line on stderr and a non-zero exit code; a programming error keeps its traceback."""
    try:
        yield
    except S3DiffError as error:
        _remarks.print(f"s3diff: {error}", markup=False)
        raise typer.Exit(EXIT_USER_ERROR) from None
    except KeyboardInterrupt:
        _remarks.print("s3diff: stopped; nothing half written is left")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(EXIT_USER_ERROR) from None


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, separator, height = text.lower().partition("x")
    if not separator or not width.strip().isdigit() or not height.strip().isdigit():
        raise OptionError(f"size is {text!r}; give width and height in pixels, such as 1920x1080")
    return int(width), int(height)


def _pixels(megapixels: float) -> int:
    if not 0 < megapixels < 1e9:
        raise OptionError(f"max-megapixels is {megapixels}; give a number above 0, such as 16")
    return max(1, round(megapixels * 1e6))


def _load(model: str, device: str, precision: Any, quiet: bool) -> Restorer:
    from s3diff.restoration.restorer import Restorer

    with _download_bar(quiet) as (announce, progress):
        return Restorer.from_pretrained(model, device=device, precision=precision, announce=announce, progress=progress)


@contextmanager
def _download_bar(quiet: bool) -> Iterator[tuple[Callable[[DownloadPlan], None], Callable[[int, int], None]]]:
    """What is to come, with its size and licences, before a download starts; then a bar."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    bar = Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=_remarks, disable=quiet
    )
    task = None

    def announce(plan: DownloadPlan) -> None:
        _remarks.print(plan.summary(), markup=False)

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


def _with_progress(jobs: list[Any], quiet: bool) -> Iterator[Any]:
    """A bar over many pictures, where somebody looks at a terminal."""
    if quiet or len(jobs) == 1 or not _remarks.is_terminal:
        yield from jobs
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_remarks) as bar:
        task = bar.add_task("", total=len(jobs))
        for job in jobs:
            bar.update(task, description=Path(job.source).name)
            yield job
            bar.advance(task)


def _report(target: Path, restored: Restored) -> str:
    degrees = f"blur {restored.degrees.blur:.3f}  noise {restored.degrees.noise:.3f}"
    size = f"{restored.picture.width}x{restored.picture.height}"
    return f"{target}  {size}  {degrees}  {restored.seconds['total']:.2f} s"


if __name__ == "__main__":
    main()
