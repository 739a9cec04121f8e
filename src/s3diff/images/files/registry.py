"""Find the codec of a format, or of a file by its content."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from s3diff.formats import FORMATS, Format
from s3diff.images.files.codec import Codec


@cache
def codec_of(form: Format) -> Codec:
    """Load the codec of a format: ``CODEC`` of the module that its row names."""
    codec: type[Codec] = import_module(f"s3diff.images.files.{form.codec}").CODEC
    return codec(form)


def recognised_codec(head: bytes) -> Codec | None:
    """Find the codec of a file by its first ``HEAD_BYTES``; None for a file that is no picture."""
    return next((codec for codec in map(codec_of, FORMATS) if codec.recognises(head)), None)
