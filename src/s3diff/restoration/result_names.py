"""Name results by format and template."""

from __future__ import annotations

import string
from collections.abc import Mapping

from s3diff.formats import VIDEO_TYPES, format_of_extension
from s3diff.images.codecs import can_be_written
from s3diff.options import OutputOptions

#: Extension for pictures of formats that are only read.
FALLBACK_EXTENSION = ".png"
#: Extension for videos whose own container is only read.
FALLBACK_VIDEO_EXTENSION = ".mp4"


def result_extension(extension: str, writing: OutputOptions) -> str:
    """Return the extension with its dot: the requested format's, or the input's if that has the same format."""
    if writing.format is not None:
        wanted = f".{writing.format}"
        return extension if format_of_extension(extension) == format_of_extension(wanted) else wanted
    return extension if can_be_written(extension) else FALLBACK_EXTENSION


def video_extension(extension: str) -> str:
    """Return the extension with its dot of a restored video: its own, if that container is written."""
    return extension if extension.lower() in VIDEO_TYPES else FALLBACK_VIDEO_EXTENSION


def result_stem(writing: OutputOptions, values: Mapping[str, str]) -> str:
    """Make a result's name without extension; ``values``: the template's fields (see :class:`OutputOptions`)."""
    parts = string.Formatter().parse(writing.name)
    return "".join(text + (values[field] if field is not None else "") for text, field, _, _ in parts)
