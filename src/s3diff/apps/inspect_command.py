"""Run ``s3diff inspect``: print a file's statement of its making, and check its signature."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s3diff.apps.terminal import EXIT_SOME_FAILED, on_one_line, one_line_errors

if TYPE_CHECKING:
    from s3diff.images.files.credentials import Credentials
    from s3diff.images.files.inspection import Inspection
    from s3diff.images.files.provenance_xmp import Statement
    from s3diff.images.provenance import Provenance


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A picture, such as a result of s3diff restore.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print a picture's statement of its making, and check its Content Credentials (extra provenance).

    Exit code: 0, 1 when a signature does not hold or the file cannot be read.
    """
    with one_line_errors():
        from s3diff.images.files.inspection import inspect_file

        found = inspect_file(file)
        if as_json:
            typer.echo(json.dumps(found.as_json()))
        else:
            for line in _lines(found):
                typer.echo(on_one_line(line))
        if not found.is_intact:
            raise typer.Exit(EXIT_SOME_FAILED)


def _lines(found: Inspection) -> Iterator[str]:
    statements = (found.statement, *found.further_pages)
    for number, stated in enumerate(statements, 1):
        if len(statements) > 1:
            yield f"page {number} of {len(statements)}"
        yield from _statement(stated)
    if found.credentials is not None:
        yield from _signature(found.credentials)
    else:
        yield f"signature     {f'not checked: {found.unchecked}' if found.unchecked else 'none'}"


def _statement(stated: Statement) -> Iterator[str]:
    from s3diff.images.provenance import term_of

    if stated.source_type:
        yield f"source type   {term_of(stated.source_type)}"
    if stated.creator_tool:
        yield f"creator tool  {stated.creator_tool}"
    for made in stated.restorations:
        yield from _restoration(made)
    if not (stated.source_type or stated.creator_tool or stated.restorations):
        yield "says nothing of its making in XMP"


def _restoration(made: Provenance) -> Iterator[str]:
    from s3diff.option_texts import flag_of
    from s3diff.options import RestoreOptions

    yield f"restored      with {made.model} {made.fingerprint}"
    streamed, compiled = " streamed" * made.is_streamed, " compiled" * made.is_compiled
    yield f"  by          s3diff {made.version}, {made.precision} on {made.device}{streamed}{compiled}"
    yield f"  degrees     blur {made.blur:.4f} (estimated {made.estimated_blur:.4f}), noise {made.noise:.4f} " + (
        f"(estimated {made.estimated_noise:.4f})"
    )
    usual = RestoreOptions()
    changed = {name: value for name, value in vars(made.options).items() if value != getattr(usual, name)}
    told = [f"{flag_of(name)} {value}" for name, value in changed.items()]
    if made.tiles:
        told.append(f"(tiles: {made.tiles})")
    if made.quality is not None:
        told.append(f"--quality {made.quality}")
    yield f"  options     {' '.join(told) or 'the defaults'}"
    if made.input_creator_tool or made.input_source_type:
        yield f"  input       {' '.join(filter(None, (made.input_creator_tool, made.input_source_type)))}"


def _signature(signed: Credentials) -> Iterator[str]:
    if not signed.holds:
        yield f"signature     DOES NOT HOLD: {', '.join(signed.failures) or 'it cannot be verified'}"
    else:
        trust = "trusted" if signed.is_trusted else "whose certificate is on no list of trusted ones"
        yield f"signature     holds, by {signed.signer or 'an unnamed signer'} ({signed.organisation}), {trust}"
    if signed.actions:
        yield f"  actions     {', '.join(signed.actions)}"
    if signed.inputs:
        yield f"  made of     {', '.join(signed.inputs)}"
