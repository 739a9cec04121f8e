"""Run ``s3diff export``. Heavy imports stay inside functions: ``--help`` needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from s3diff.apps.terminal import load_torch, one_line_errors
from s3diff.option_texts import describe_option, parse_size
from s3diff.options import ColorMatch, RestoreOptions


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or folder.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A new file: .onnx, .pt2 (torch) or .xml (openvino).")],
    form: Annotated[
        Literal["onnx", "torch", "openvino"] | None, typer.Option("--format", help="[default: by OUT's extension]")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size of all low-quality pictures. [default: any size]")
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="ONNX and OpenVINO: store the weights in float16, half the size.")
    ] = False,
    need_degrees: Annotated[
        bool,
        typer.Option("--need-degrees", help="ONNX: degrees must be given, as runtimes like onnxruntime-web want it."),
    ] = False,
    guidance: Annotated[float | None, typer.Option(help=describe_option("guidance"))] = RestoreOptions.guidance,
    color_match: Annotated[
        ColorMatch, typer.Option(help=describe_option("color_match").replace("`", ""))
    ] = RestoreOptions.color_match,
) -> None:
    """Write a model as one graph, from the low-quality picture to the result, that runs without s3diff."""
    with one_line_errors():
        options = RestoreOptions(guidance=guidance, color_match=color_match)
        pixels = parse_size(size)
        load_torch()
        from s3diff.export.writing import export_model

        for path in export_model(
            model, output, form, size=pixels, half=half, need_degrees=need_degrees, options=options
        ):
            typer.echo(str(path))
