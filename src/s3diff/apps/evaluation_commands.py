"""Run ``s3diff degrade``, ``evaluate`` and ``benchmark``. Heavy imports are in functions: ``--help`` needs no torch."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from s3diff.apps.option_flags import takes_flags
from s3diff.apps.terminal import EXIT_SOME_FAILED, load_torch, on_one_line, remark, remarks
from s3diff.errors import OptionError
from s3diff.options import Precision, Preset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s3diff.evaluation.methods import Method
    from s3diff.evaluation.protocols import Protocol
    from s3diff.evaluation.sets import EvaluationSet


@takes_flags()
def evaluate(
    results: list[str],
    *,
    truth: str | None = None,
    protocol: str = "osediff-paper",
    metrics: str | None = None,
    plugins: list[Path] | None = None,
    output: Path | None = None,
    partial: bool = False,
    device: str = "auto",
    batch_size: int = 1,
    quiet: bool = False,
) -> None:
    """Score folders of anyone's results. The table goes to stdout; with --output every report is written.

    Without --truth only measures that need none are computed. Pairing is by name; the extension may differ.

    Args:
        results (RESULTS): Folders of restored pictures, each FOLDER or NAME=FOLDER.
        truth (FOLDER): The true pictures, named like the results.
        output (--output -o): Folder for JSON lines, CSV, Markdown and the HTML page.
        quiet (--quiet -q): No progress on stderr.
    """
    load_torch()
    from s3diff.evaluation.methods import Results, split_name
    from s3diff.evaluation.protocols import choose_protocol
    from s3diff.evaluation.sets import results_set
    from s3diff.user_code import load_plugin

    for path in plugins or ():
        load_plugin(path)
    chosen = choose_protocol(protocol, metrics)
    named = [split_name(text) for text in results]
    if len({name for name, _ in named}) < len(named):
        raise OptionError("two folders of results have one name; give them other ones: NAME=FOLDER")
    evaluation_set = results_set(truth, [Path(folder) for _, folder in named])
    methods = [Results(name, Path(folder), evaluation_set.items, partial=partial) for name, folder in named]
    _run(evaluation_set, methods, chosen, output, device, 1.0, batch_size, quiet)


@takes_flags()
def benchmark(
    models: list[str],
    *,
    name: str,
    truth: str | None = None,
    preset: str | None = None,
    scale: int = 4,
    seed: int = 0,
    protocol: str = "osediff-paper",
    metrics: str | None = None,
    plugins: list[Path] | None = None,
    output: Path = Path("benchmark"),
    limit: int | None = None,
    partial: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int = 1,
    quiet: bool = False,
) -> None:
    """Restore a set with several methods and score them. An interrupted run resumes; changed files are done again.

    The table goes to stdout; OUTPUT gets results/, scores.jsonl, scores.csv, report.md and report.html.

    Args:
        models (MODEL): Each WHAT or NAME=WHAT: bicubic, lanczos, a model's name or folder, a folder of results, a
            function FILE.py:FUNCTION, or a command with {input} {output}.
        name (--set NAME|FOLDER): A folder with lr/ and hr/, of inputs, or with --preset of truths; or a set's name in
            $S3DIFF_SETS.
        truth (FOLDER): The truths of the inputs in --set.
        preset: Make the inputs from truths, as s3diff degrade --preset does.
        scale: Result side over input side, where no truth tells it, and of --preset.
        seed: Of --preset.
        output (--output -o): Folder of the run: results, scores, reports. Runs resume there.
        limit (>=1): Only the first N pictures of the set.
        precision: Number format of the models' networks; measures have float32.
        quiet (--quiet -q): No progress on stderr.
    """
    load_torch()
    from s3diff.degradation.settings import DegradeOptions
    from s3diff.evaluation.methods import parse_methods
    from s3diff.evaluation.protocols import choose_protocol
    from s3diff.evaluation.sets import find_set
    from s3diff.user_code import load_plugin

    for path in plugins or ():
        load_plugin(path)
    chosen = choose_protocol(protocol, metrics)
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
