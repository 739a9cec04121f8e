"""Name results: the extension they get, and the name that a template makes."""

from __future__ import annotations

import string
from collections.abc import Mapping

from s3diff.formats import format_of_extension
from s3diff.images.codecs import can_be_written
from s3diff.options import OutputOptions

#: What a picture is written as whose own format can be read but not written.
FALLBACK_EXTENSION = ".png"


def result_extension(extension: str, writing: OutputOptions) -> str:
    """Find the extension with its dot: the format asked for, or the input's, spelled as there where both are one."""
    if writing.format is not None:
        wanted = f".{writing.format}"
        return extension if format_of_extension(extension) == format_of_extension(wanted) else wanted
    return extension if can_be_written(extension) else FALLBACK_EXTENSION


def result_stem(writing: OutputOptions, values: Mapping[str, str]) -> str:
    """Make a result's name without extension; ``values``: what the template may use (see :class:`OutputOptions`)."""
    parts = string.Formatter().parse(writing.name)
    return "".join(text + (values[field] if field is not None else "") for text, field, _, _ in parts)
