"""Read a file's statement of its making: its XMP, and its Content Credentials, which are checked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from s3diff.errors import MissingExtraError
from s3diff.formats import PicturePath
from s3diff.images.files.credentials import Credentials, read_credentials
from s3diff.images.files.left_behind import CREDENTIALS, attachments
from s3diff.images.files.provenance_xmp import Statement, statement_of
from s3diff.images.files.reading import reading, recognised
from s3diff.images.provenance import Provenance, options_as_json, term_of
from s3diff.messages import shown_path
from s3diff.options import MAX_OUTPUT_PIXELS


class Inspection(NamedTuple):
    """Hold a file's statement of its making.

    Attributes:
        statement: the statement in XMP.
        credentials: the Content Credentials; None if there are none, or they were not checked.
        unchecked: why they were not checked; otherwise empty.
    """

    statement: Statement
    credentials: Credentials | None = None
    unchecked: str = ""

    @property
    def is_intact(self) -> bool:
        """Whether no signature is broken."""
        return self.credentials is None or self.credentials.holds

    def as_json(self) -> dict[str, Any]:
        """Return the statement as JSON values."""
        stated = self.statement
        signed = None
        if self.credentials is not None:
            signed = {**self.credentials._asdict(), "restoration": dict(self.credentials.restoration)}
        return {
            "digital_source_type": term_of(stated.source_type) or None,
            "creator_tool": stated.creator_tool or None,
            "restorations": [_values(each) for each in stated.restorations],
            "credentials": signed,
            "unchecked": self.unchecked or None,
        }


def _values(made: Provenance) -> dict[str, Any]:
    return {**dataclasses.asdict(made), "options": json.loads(options_as_json(made.options))}


def read_statement(path: PicturePath) -> Statement:
    """Read the XMP statement of a file's making; pixels are not read.

    Raises:
        PictureError: the file cannot be read, is no picture, or its statement is damaged.
    """
    shown = shown_path(path)
    with reading(shown, MAX_OUTPUT_PIXELS), open(path, "rb") as file:
        return statement_of(recognised(file, shown).xmp(file, Path(path)))


def inspect_file(path: PicturePath) -> Inspection:
    """Read the statement of a file's making, and check its signature if it has one.

    Raises:
        PictureError: as :func:`read_statement`.
    """
    shown = shown_path(path)
    statement = read_statement(path)
    with reading(shown, MAX_OUTPUT_PIXELS), open(path, "rb") as file:
        codec = recognised(file, shown)
        try:
            return Inspection(statement, read_credentials(file, codec.form))
        except MissingExtraError as error:
            has_some = CREDENTIALS in attachments(file)
            return Inspection(statement, None, str(error) if has_some else "")
