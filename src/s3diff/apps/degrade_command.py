"""Run ``s3diff degrade``. Everything heavy is imported inside the function: ``--help`` does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s3diff.apps.terminal import EXIT_SOME_FAILED, on_one_line, one_line_errors, remark
from s3diff.errors import OptionError, OutputError, PictureError
from s3diff.options import Preset

if TYPE_CHECKING:
    from s3diff.degradation.settings import DegradeOptions
    from s3diff.folders.degrade import DegradeJob


def degrade(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A picture, or a folder of pictures.")],
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="A .png file for one picture, otherwise a folder (made if missing).")
    ],
    preset: Annotated[
        Preset | None,
        typer.Option(help="Kind of damage that is drawn at random; bicubic only makes smaller. [default: s3diff]"),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(help="How many times smaller each side becomes, a whole number. [default: 4]")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Number that the damage is drawn from: another one draws another set. [default: 0]"),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Write the inputs there as PNG, cropped to multiples of the scale."),
    ] = None,
    rebuild: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Make the pictures of this degradations.json again, byte for byte."),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Degrade the pictures in subfolders too.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make low-quality pictures (PNG, 8 bits, RGB) of good ones, and record the drawn parameters of each.

    The drawn parameters go to OUTPUT/degradations.json, or for a single OUTPUT.png to OUTPUT.json; existing files
    are replaced.
    """
    with one_line_errors():
        if rebuild is not None and (preset is not None or scale is not None or seed is not None):
            raise OptionError("--rebuild takes everything from its file; leave out --preset, --scale and --seed")
        from s3diff.degradation.settings import DegradeOptions
        from s3diff.folders.degrade import plan_degrading, plan_rebuilding

        if rebuild is not None:
            _work_through(plan_rebuilding(source, output, truth, rebuild), None, None, quiet)
            return
        options = DegradeOptions(
            preset=preset or "s3diff",
            scale=4 if scale is None else scale,
            seed=0 if seed is None else seed,
        )
        jobs, record = plan_degrading(source, output, truth, recursive=recursive)
        _work_through(jobs, options, record, quiet)


def _work_through(jobs: list[DegradeJob], options: DegradeOptions | None, record: Path | None, quiet: bool) -> None:
    """Make every picture, from its record if there are no options; continue after a bad one."""
    from s3diff.folders.degrade import degrade_picture, rebuild_picture, write_record

    entries: list[dict[str, Any]] = []
    num_failed = 0
    try:
        for job in jobs:
            try:
                if options is None:
                    notes = rebuild_picture(job)
                else:
                    entry, notes = degrade_picture(job, options)
                    entries.append(entry)
            except (PictureError, OutputError) as error:
                if len(jobs) == 1:
                    raise
                remark(f"s3diff: {error}")
                num_failed += 1
                continue
            if not quiet:
                print(on_one_line(str(job.target)), flush=True)
                for note in notes:
                    remark(f"{job.source}: {note}")
    finally:
        # Also after Ctrl-C: finished pictures need their record.
        if record is not None and options is not None and entries:
            write_record(record, options, entries)
    if num_failed:
        rest = "; the others are written" if num_failed < len(jobs) else ""
        remark(f"s3diff: {num_failed} of {len(jobs)} pictures failed, see above{rest}")
        raise typer.Exit(EXIT_SOME_FAILED)
