"""Read the multipart form with the picture, as any program sends it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import unquote_to_bytes

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from s3diff.errors import OptionError

#: A form has one picture and the options; more parts mean something else.
_MAX_PARTS, _MAX_FIELD_BYTES = 40, 1 << 16
#: Text that a sender may put before the first boundary (RFC 2046, section 5.1.1).
_MAX_PREAMBLE_BYTES = 1 << 16
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]*)"|([^\s;"]+))', re.IGNORECASE)
#: A file's name as RFC 5987 writes it: ``filename*=UTF-8''na%C3%AFve.png``.
_EXTENDED_NAME = re.compile(rb";\s*filename\*=\s*\"?([\w-]+)'[\w-]*'([^;\s\"]+)\"?", re.IGNORECASE)
_PLAIN_NAME = re.compile(rb";\s*filename=(?:\"(?:[^\"\\]|\\.)*\"|[^;\s]+)", re.IGNORECASE)


async def read_form(request: Request) -> FormData:
    """Parse a request's body.

    Raises:
        HTTPException: 415 for another media type, 400 for a malformed form.
        ClientDisconnect: the client has left.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise HTTPException(415, "send the picture as multipart/form-data, in a field named picture")
    named = _BOUNDARY.search(content_type)
    boundary = b"" if named is None else (named[1] or named[2] or "").encode("latin-1")
    try:
        async with aclosing(_without_preamble(request.stream(), b"--" + boundary)) as stream:
            return await _FormParser(
                request.headers,
                stream,
                max_files=_MAX_PARTS,  # several are refused by name; all of them together are as large as one may be
                max_fields=_MAX_PARTS,
                max_part_size=_MAX_FIELD_BYTES,
            ).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    except (HTTPException, ClientDisconnect):
        raise
    except (ValueError, LookupError) as error:  # of charsets that do not exist, and of what a parser did not foresee
        raise HTTPException(400, f"the form cannot be read ({type(error).__name__})") from error


def picture_and_options(form: FormData) -> tuple[UploadFile, dict[str, str]]:
    """Separate the picture from the options of a form.

    Returns:
        The picture's file and the texts of all other fields by name.

    Raises:
        OptionError: the picture is missing, or a field is given twice or has the wrong kind.
    """
    texts: dict[str, str] = {}
    picture, strangers = None, []
    for name, value in form.multi_items():
        if name in texts or (name == "picture" and picture is not None):
            raise OptionError(f"{name[:60]} is given twice; give it once")
        if isinstance(value, UploadFile):
            if name == "picture":
                picture = value
            else:
                strangers.append(name[:60] or "a file without a field's name")
        elif name == "picture":
            raise OptionError("picture is a text; send it as a file with a name (curl: -F picture=@photo.jpg)")
        else:
            texts[name] = value
    if strangers:
        missing = "picture is missing; " if picture is None else ""
        raise OptionError(f"{missing}{strangers[0]} is no field of a file; send one file, in a field named picture")
    if picture is None:
        raise OptionError("picture is missing; send the file in a field named picture")
    return picture, texts


class _FormParser(MultiPartParser):
    """Parse a form whose file name may be given only as ``filename*``, which RFC 7578 forbids and programs send."""

    def on_header_end(self) -> None:
        if self._current_partial_header_name.lower() == b"content-disposition":
            self._current_partial_header_value = _with_plain_name(self._current_partial_header_value)
        super().on_header_end()


def _with_plain_name(disposition: bytes) -> bytes:
    """Copy the extended name, which has priority, to the plain one."""
    extended = _EXTENDED_NAME.search(disposition)
    if extended is None:
        return disposition
    try:
        name = unquote_to_bytes(extended[2]).decode(extended[1].decode("ascii"))
    except (LookupError, UnicodeDecodeError):
        return disposition
    plain = name.replace("\\", "\\\\").replace('"', '\\"').encode("utf-8", "replace")
    rest = _PLAIN_NAME.sub(b"", _EXTENDED_NAME.sub(b"", disposition))
    return rest + b'; filename="' + plain + b'"'


async def _without_preamble(stream: AsyncGenerator[bytes, None], delimiter: bytes) -> AsyncGenerator[bytes, None]:
    """Yield the body from its first boundary; leave a body without one to the parser, which refuses it."""
    head = b""
    async for piece in stream:
        head += piece
        start = 0 if head.startswith(delimiter) else head.find(b"\r\n" + delimiter) + 2
        if head.startswith(delimiter) or start > 1:
            yield head[start:]
            break
        if len(head) > _MAX_PREAMBLE_BYTES:
            yield head
            break
    else:
        yield head
    async for piece in stream:
        yield piece
