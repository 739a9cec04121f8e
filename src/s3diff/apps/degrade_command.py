"""Run ``s3diff degrade``. Everything heavy is imported inside the function: ``--help`` does not import torch."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import typer

from s3diff.apps.option_flags import takes_flags
from s3diff.apps.terminal import EXIT_SOME_FAILED, on_one_line, remark
from s3diff.errors import OptionError
from s3diff.options import Preset


@takes_flags()
def degrade(
    source: str,
    output: str,
    *,
    preset: Preset | None = None,
    scale: int | None = None,
    seed: int | None = None,
    truth: str | None = None,
    rebuild: str | None = None,
    recursive: bool = False,
    quiet: bool = False,
) -> None:
    """Make low-quality pictures (PNG, 8 bits, RGB) of good ones, and record the drawn parameters of each.

    The drawn parameters go to OUTPUT/degradations.json, or for a single OUTPUT.png to OUTPUT.json; existing files
    are replaced.

    Args:
        source (INPUT): A picture, or a folder of pictures.
        output (OUTPUT): A .png file for one picture, otherwise a folder (made if missing).
        preset: Kind of damage that is drawn at random; bicubic only makes smaller. [default: s3diff]
        scale: How many times smaller each side becomes, a whole number. [default: 4]
        seed: Number that the damage is drawn from: another one draws another set. [default: 0]
        truth (FOLDER): Write the inputs there as PNG, cropped to multiples of the scale.
        rebuild (FILE): Make the pictures of this degradations.json again, byte for byte.
        recursive (--recursive -r): Degrade the pictures in subfolders too.
    """
    asked = {"preset": preset, "scale": scale, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if rebuild is not None and given:
        raise OptionError("--rebuild takes everything from its file; leave out --preset, --scale and --seed")
    from s3diff.degradation.settings import DegradeOptions
    from s3diff.folders.degrade import degrade_pictures, plan_degrading, plan_rebuilding

    if rebuild is not None:
        jobs, options, record = plan_rebuilding(source, output, truth, rebuild), None, None
    else:
        options = DegradeOptions(**given)
        jobs, record = plan_degrading(source, output, truth, recursive=recursive)
    num_failed = 0
    with closing(degrade_pictures(jobs, options, record)) as made:
        for job, notes, error in made:
            if error is not None:
                if len(jobs) == 1:
                    raise error
                remark(f"s3diff: {error}")
                num_failed += 1
            elif not quiet:
                print(on_one_line(str(job.target)), flush=True)
                for note in notes:
                    remark(f"{job.source}: {note}")
    if num_failed:
        rest = "; the others are written" if num_failed < len(jobs) else ""
        remark(f"s3diff: {num_failed} of {len(jobs)} pictures failed, see above{rest}")
        raise typer.Exit(EXIT_SOME_FAILED)
