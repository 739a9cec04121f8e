"""``s3diff train``. Everything heavy is imported inside the functions: ``--help`` does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s3diff.apps.terminal import one_line_errors


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
    with one_line_errors():
        from s3diff.training.run import train_recipe

        typer.echo(f"{train_recipe(recipe, data, output, estimator, resume=resume, changes=tuple(changes or ()))}")
