"""Run ``s3diff evaluate`` and ``s3diff benchmark``. Heavy imports stay inside functions: ``--help`` needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s3diff.apps.terminal import (
    DEVICE_HELP,
    EXIT_SOME_FAILED,
    load_torch,
    on_one_line,
    one_line_errors,
    remark,
    remarks,
)
from s3diff.errors import OptionError
from s3diff.options import Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s3diff.evaluation.methods import Method
    from s3diff.evaluation.protocols import Protocol
    from s3diff.evaluation.sets import EvaluationSet


ProtocolName = Annotated[
    str, typer.Option("--protocol", help="s3diff-paper, osediff-paper, realesrgan, or a plugin's.")
]
Metrics = Annotated[
    str | None, typer.Option(help="Comma-separated measures instead of the protocol's, such as psnr_y,lpips_alex,grid.")
]
Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
BatchSize = Annotated[int, typer.Option(min=1, help="Results of one size that are measured together.")]
Partial = Annotated[
    bool, typer.Option("--partial", help="Compare only the pictures that both the set and the results have.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N pictures of the set.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Python file that registers measures or protocols; it is run."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


def evaluate(
    results: Annotated[
        list[str], typer.Argument(metavar="RESULTS", help="Folders of restored pictures, each FOLDER or NAME=FOLDER.")
    ],
    truth: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The true pictures, named like the results.")
    ] = None,
    protocol: ProtocolName = "osediff-paper",
    metrics: Metrics = None,
    plugins: Plugins = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for JSON lines, CSV, Markdown and the HTML page.")
    ] = None,
    partial: Partial = False,
    device: Device = "auto",
    batch_size: BatchSize = 1,
    quiet: Quiet = False,
) -> None:
    """Score folders of anyone's results. The table goes to stdout; with --output every report is written.

    Without --truth only measures that need none are computed. Pairing is by name; the extension may differ.
    """
    with one_line_errors():
        load_torch()
        from s3diff.evaluation.methods import Results, split_name
        from s3diff.evaluation.protocols import choose_protocol
        from s3diff.evaluation.sets import results_set

        _load_plugins(plugins)
        chosen = choose_protocol(protocol, _names(metrics))
        named = [split_name(text) for text in results]
        if len({name for name, _ in named}) < len(named):
            raise OptionError("two folders of results have one name; give them other ones: NAME=FOLDER")
        evaluation_set = results_set(truth, [Path(folder) for _, folder in named])
        methods = [Results(name, Path(folder), evaluation_set.items, partial=partial) for name, folder in named]
        _run(evaluation_set, methods, chosen, output, device, 1.0, batch_size, quiet)


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Each WHAT or NAME=WHAT: bicubic, lanczos, a model's name or folder, a folder of results, a "
            "function FILE.py:FUNCTION, or a command with {input} {output}.",
        ),
    ],
    name: Annotated[
        str,
        typer.Option(
            "--set",
            metavar="NAME|FOLDER",
            help="A folder with lr/ and hr/, of inputs, or with --preset of truths; or a set's name in $S3DIFF_SETS.",
        ),
    ],
    truth: Annotated[str | None, typer.Option(metavar="FOLDER", help="The truths of the inputs in --set.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Make the inputs from truths, as s3diff degrade --preset does.")
    ] = None,
    scale: Annotated[
        int, typer.Option(help="Result side over input side, where no truth tells it, and of --preset.")
    ] = 4,
    seed: Annotated[int, typer.Option(help="Of --preset.")] = 0,
    protocol: ProtocolName = "osediff-paper",
    metrics: Metrics = None,
    plugins: Plugins = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run: results, scores, reports. Runs resume there.")
    ] = Path("benchmark"),
    limit: Limit = None,
    partial: Partial = False,
    device: Device = "auto",
    precision: Annotated[
        Precision, typer.Option(help="Number format of the models' networks; measures have float32.")
    ] = "auto",
    batch_size: BatchSize = 1,
    quiet: Quiet = False,
) -> None:
    """Restore a set with several methods and score them. An interrupted run resumes; changed files are done again.

    The table goes to stdout; OUTPUT gets results/, scores.jsonl, scores.csv, report.md and report.html.
    """
    with one_line_errors():
        load_torch()
        from s3diff.degradation.settings import DegradeOptions
        from s3diff.evaluation.methods import parse_methods
        from s3diff.evaluation.protocols import choose_protocol
        from s3diff.evaluation.sets import find_set

        _load_plugins(plugins)
        chosen = choose_protocol(protocol, _names(metrics))
        if scale < 1:
            raise OptionError(f"scale is {scale}; give a whole number of at least 1")
        degradation = None if preset is None else DegradeOptions(preset, scale, seed)
        whole = find_set(name, truth, degradation, work=output)
        evaluation_set = whole.limited(limit)
        methods = parse_methods(
            models,
            whole.items,
            device=device,
            precision=precision,
            partial=partial or limit is not None,
            announce=lambda plan: remarks.print(plan.summary()),
        )
        _run(evaluation_set, methods, chosen, output, device, float(scale), batch_size, quiet)


def _run(
    evaluation_set: EvaluationSet,
    methods: Sequence[Method],
    protocol: Protocol,
    output: Path | None,
    device: str,
    scale: float,
    batch_size: int,
    quiet: bool,
) -> None:
    """Evaluate, print the table, write the reports; exit with 1 if pictures failed."""
    from s3diff.evaluation.report import markdown
    from s3diff.evaluation.report_page import write_reports
    from s3diff.evaluation.scoring import evaluate as run_evaluation

    def show(done: int, total: int, text: str) -> None:
        if quiet:
            return
        line = on_one_line(f"{done} of {total}  {text}")
        if remarks.is_terminal:  # over the line before, whatever its length
            remarks.print(f"{line[: remarks.width - 1]:<{remarks.width - 1}}", end="\r")
        else:
            remarks.print(line)

    found = run_evaluation(
        evaluation_set,
        methods,
        protocol,
        folder=output,
        device=device,
        scale=scale,
        batch_size=batch_size,
        remark=lambda text: remark(f"s3diff: {text}"),
        progress=show,
    )
    typer.echo(markdown(found))
    if output is not None:
        for path in write_reports(found, output):
            typer.echo(str(path))
    if found.failures:
        remark(f"s3diff: {len(found.failures)} failed, see above; the others are scored")
        raise typer.Exit(EXIT_SOME_FAILED)


def _load_plugins(plugins: list[Path] | None) -> None:
    from s3diff.user_code import load_plugin

    for path in plugins or ():
        load_plugin(path)


def _names(metrics: str | None) -> list[str] | None:
    return None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
