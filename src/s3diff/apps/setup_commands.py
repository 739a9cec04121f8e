"""Run the commands on models, results and this installation. Functions import everything heavy themselves."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Literal

import typer

from s3diff.apps.option_flags import takes_flags
from s3diff.apps.terminal import EXIT_SOME_FAILED, EXIT_USER_ERROR, load_torch, on_one_line, remark, waiting_line
from s3diff.errors import ModelError, OptionError, OutputError
from s3diff.option_texts import parse_size
from s3diff.options import ColorMatch, RestoreOptions
from s3diff.presets import describe_presets


@takes_flags()
def convert(
    output: Path,
    *,
    base: Path | None = None,
    s3diff: Path | None = None,
    estimator: Path | None = None,
    to_official: Path | None = None,
    half: bool = False,
    name: str = "s3diff",
) -> None:
    """Make a model folder of the authors' files, or (--to-official) write the authors' layout back; OUT must be new.

    Only tensors are read; no code in a file ever runs.

    Args:
        output (OUT): The model folder to write, or the .pkl to write.
        base: SD-Turbo's folder (diffusers layout); to compare with, for --to-official.
        s3diff: The authors' s3diff.pkl.
        estimator: The authors' de_net.pth; with --to-official, where to write it.
        to_official (MODEL): Write this model folder back as an s3diff.pkl at OUT.
        half: Store the base model in float16: half the size.
        name: Name of the model.
    """
    if to_official is not None:
        if s3diff is not None or half or name != "s3diff":
            raise OptionError("--to-official reads a model folder; leave out --s3diff, --half and --name")
        if base is None:
            raise OptionError(
                "--to-official needs --base SD_TURBO_FOLDER, the model's own: what was trained beyond what an "
                "s3diff.pkl holds would be lost without a word"
            )
        load_torch()
        from s3diff.checkpoints.convert import to_official as write_back

        write_back(to_official, output, estimator, base_folder=base)
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


@takes_flags()
def models(*, verify: bool = False) -> None:
    """List the models that --model knows by name, and their folders, which may be removed as a whole.

    Args:
        verify: Load every model that is there and compare it with its fingerprint.
    """
    if verify:
        load_torch()
    from s3diff.checkpoints.registry import NAMED_MODELS

    num_damaged = 0
    for named in NAMED_MODELS.values():
        try:
            state = named.state(verify=verify)
        except ModelError as error:
            remark(f"s3diff: {error}")
            state, num_damaged = "damaged", num_damaged + 1
        typer.echo(f"{named.name:10} {state:16} {named.summary}")
        if named.is_present:
            known = "" if state == "damaged" else f"  {named.fingerprint[:23]}"
            typer.echo(f"{'':10} {'':16} {named.folder()}{known}")
    if num_damaged:
        raise typer.Exit(EXIT_USER_ERROR)


@takes_flags()
def presets() -> None:
    """List the presets of s3diff restore with their purposes and options, and explain how to add your own."""
    for line in describe_presets():
        typer.echo(line)


@takes_flags()
def doctor() -> None:
    """Check the installation: print versions, devices, models, and the extras with their purposes."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # why a device is not found is said in warnings
        from s3diff.diagnosis import diagnose

        for line in diagnose():
            typer.echo(line)


@takes_flags()
def inspect(file: Path, *, as_json: bool = False) -> None:
    """Print a picture's statement of its making, and check its Content Credentials (extra provenance).

    Exit code: 0, 1 when a signature does not hold or the file cannot be read.

    Args:
        file (FILE): A picture, such as a result of s3diff restore.
        as_json (--json): Print one JSON object.
    """
    from s3diff.images.files.provenance_inspection import inspect_file

    found = inspect_file(file)
    for line in [json.dumps(found.as_json())] if as_json else found.lines():
        typer.echo(on_one_line(line))
    if not found.is_intact:
        raise typer.Exit(EXIT_SOME_FAILED)


@takes_flags()
def export(
    model: str,
    output: Path,
    *,
    form: Literal["onnx", "torch", "openvino"] | None = None,
    size: str | None = None,
    half: bool = False,
    need_degrees: bool = False,
    guidance: float | None = RestoreOptions.guidance,
    color_match: ColorMatch = RestoreOptions.color_match,
) -> None:
    """Write a model as one graph, from the low-quality picture to the result, that runs without s3diff.

    Args:
        model (MODEL): A model's name or folder.
        output (OUT): A new file: .onnx, .pt2 (torch) or .xml (openvino).
        form (--format): [default: by OUT's extension]
        size (WxH): Size of all low-quality pictures. [default: any size]
        half: .onnx and .xml: store the weights in float16, half the size.
        need_degrees: .onnx: degrees must be given, as runtimes like onnxruntime-web want it.
    """
    options = RestoreOptions(guidance=guidance, color_match=color_match)
    pixels = parse_size(size)
    load_torch()
    from s3diff.export.writing import export_model

    with waiting_line(f"exporting {model}, for a minute or more ..."):
        made = export_model(model, output, form, size=pixels, half=half, need_degrees=need_degrees, options=options)
    for path in made:
        typer.echo(str(path))
