"""Read a file's statement of its making: its XMP, and its Content Credentials, which are checked."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from s3diff.errors import MissingExtraError
from s3diff.formats import PicturePath
from s3diff.images.files.content_credentials import Credentials, read_credentials
from s3diff.images.files.dropped_contents import CREDENTIALS, attachments
from s3diff.images.files.provenance_xmp import Statement, statement_of
from s3diff.images.files.reading import opened_file
from s3diff.images.provenance import Provenance, options_as_json, term_of
from s3diff.option_texts import flag_of
from s3diff.options import MAX_OUTPUT_PIXELS, RestoreOptions

#: Of a file that is not decoded.
_ANY_SIZE = sys.maxsize


class Inspection(NamedTuple):
    """Hold a file's statement of its making.

    Attributes:
        statement: the statement in XMP; of several pages that of the first one.
        credentials: the Content Credentials; None if there are none, or they were not checked.
        unchecked: why they were not checked; otherwise empty.
        further_pages: the statements of the other pages.
    """

    statement: Statement
    credentials: Credentials | None = None
    unchecked: str = ""
    further_pages: tuple[Statement, ...] = ()

    @property
    def is_intact(self) -> bool:
        """Whether no signature is broken."""
        return self.credentials is None or self.credentials.holds

    def as_json(self) -> dict[str, Any]:
        """Return the statement as JSON values."""
        signed = None
        if self.credentials is not None:
            signed = {**self.credentials._asdict(), "restoration": dict(self.credentials.restoration)}
        return {
            **_statement_values(self.statement),
            "credentials": signed,
            "unchecked": self.unchecked or None,
            "further_pages": [_statement_values(each) for each in self.further_pages],
        }

    def lines(self) -> Iterator[str]:
        """Describe the statement and the signature for people."""
        statements = (self.statement, *self.further_pages)
        for number, stated in enumerate(statements, 1):
            if len(statements) > 1:
                yield f"page {number} of {len(statements)}"
            yield from _statement_lines(stated)
        if self.credentials is not None:
            yield from _signature_lines(self.credentials)
        else:
            yield f"signature     {f'not checked: {self.unchecked}' if self.unchecked else 'none'}"


def _statement_values(stated: Statement) -> dict[str, Any]:
    return {
        "digital_source_type": term_of(stated.source_type) or None,
        "creator_tool": stated.creator_tool or None,
        "restorations": [
            {**dataclasses.asdict(made), "options": json.loads(options_as_json(made.options))}
            for made in stated.restorations
        ],
    }


def read_statement(path: PicturePath) -> Statement:
    """Read the XMP statement of a file's making, of several pages that of the first one; pixels are not read.

    Raises:
        PictureError: the file cannot be read, is no picture, or its statement is damaged.
    """
    with opened_file(path, MAX_OUTPUT_PIXELS, _ANY_SIZE) as (file, codec, _):
        return statement_of(codec.xmp(file, Path(path)))


def inspect_file(path: PicturePath) -> Inspection:
    """Read the statement of a file's making, and check its signature if it has one.

    Raises:
        PictureError: as :func:`read_statement`.
    """
    with opened_file(path, MAX_OUTPUT_PIXELS, _ANY_SIZE) as (file, codec, _):
        first, *further = map(statement_of, codec.page_xmps(file, Path(path)))
        found = Inspection(first, further_pages=tuple(further))
        try:
            return found._replace(credentials=read_credentials(file, codec.form))
        except MissingExtraError as error:
            return found._replace(unchecked=str(error) if CREDENTIALS in attachments(file) else "")


def _statement_lines(stated: Statement) -> Iterator[str]:
    if stated.source_type:
        yield f"source type   {term_of(stated.source_type)}"
    if stated.creator_tool:
        yield f"creator tool  {stated.creator_tool}"
    for made in stated.restorations:
        yield from _restoration_lines(made)
    if not (stated.source_type or stated.creator_tool or stated.restorations):
        yield "says nothing of its making in XMP"


def _restoration_lines(made: Provenance) -> Iterator[str]:
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


def _signature_lines(signed: Credentials) -> Iterator[str]:
    if not signed.holds:
        yield f"signature     DOES NOT HOLD: {', '.join(signed.failures) or 'it cannot be verified'}"
    else:
        trust = "trusted" if signed.is_trusted else "whose certificate is on no list of trusted ones"
        yield f"signature     holds, by {signed.signer or 'an unnamed signer'} ({signed.organisation}), {trust}"
    if signed.actions:
        yield f"  actions     {', '.join(signed.actions)}"
    if signed.inputs:
        yield f"  made of     {', '.join(signed.inputs)}"
