"""Read lists of pictures' names as editors, ``find -print0`` and PowerShell write them."""

from __future__ import annotations

import codecs
import os
import sys

from s3diff.errors import PictureError
from s3diff.messages import reason_of


def read_list(name: str, *, null_separated: bool = False) -> list[str]:
    """Read the names of a list: a file, or standard input (``-``).

    Args:
        name: the list, in UTF-8 or, as PowerShell writes it, UTF-16; other bytes are names as they are. Quotes around
            a name are removed unless a file's name has them.
        null_separated: whether names end with a null character, as ``find -print0`` writes them, not with a line.

    Raises:
        PictureError: the list cannot be read, or holds no names.
    """
    try:
        if name == "-":
            content = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:
                content = file.read()
    except (OSError, ValueError) as error:
        raise PictureError(
            f"the list {name} cannot be read ({reason_of(error)}); give a file with one name a line"
        ) from error
    if null_separated:
        names = [os.fsdecode(each) for each in _null_separated_bytes(name, content).split(b"\0") if each]
    else:
        lines = _as_utf_8(name, content).replace(b"\r\n", b"\n").split(b"\n")
        names = [_without_quotes(os.fsdecode(line)) for line in lines if line.strip()]
    if not names:
        raise PictureError(f"the list {name} is empty; give one name a line")
    if any("\0" in each for each in names):
        raise PictureError(
            f"the list {name} holds null characters; give a text file with one name a line, or --list0 for names that "
            "end with a null character"
        )
    return names


def _null_separated_bytes(name: str, content: bytes) -> bytes:
    """Return the list as bytes of names; a text with a byte order mark becomes UTF-8.

    Raises:
        PictureError: it looks like UTF-16 without a mark, where every letter would be a name.
    """
    has_mark = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8))
    letters = [each for each in content.split(b"\0") if each]
    is_spread = len(letters) > 1 and all(len(each) == 1 for each in letters)
    is_no_file = not any(os.path.lexists(each) for each in letters if each not in (b".", b"/", b"\\"))
    if not has_mark and is_spread and is_no_file:
        raise PictureError(f"the list {name} looks like UTF-16; write it again, as UTF-8")
    return _as_utf_8(name, content) if has_mark else content


def read_lists(lines: str | None, null_separated: str | None) -> list[str] | None:
    """Read the names of two lists, one name a line and with null characters; None where neither is given."""
    if lines is None and null_separated is None:
        return None
    names = [] if lines is None else read_list(lines)
    return names + ([] if null_separated is None else read_list(null_separated, null_separated=True))


def _as_utf_8(name: str, content: bytes) -> bytes:
    """Remove the byte order mark. UTF-16 without a mark is recognised by a null in its first character: no file name
    has one.
    """
    encoding = None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif len(content) % 2 == 0 and content[1:2] == b"\0" and content[:1] != b"\0":
        encoding = "utf-16-le"
    elif len(content) % 2 == 0 and content[:1] == b"\0" and content[1:2] not in (b"", b"\0"):
        encoding = "utf-16-be"
    if encoding is None:
        return content.removeprefix(codecs.BOM_UTF8)
    try:
        return os.fsencode(content.decode(encoding, "surrogatepass"))
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise PictureError(f"the list {name} is no whole UTF-16 text; write it again, best as UTF-8") from error


def _without_quotes(name: str) -> str:
    plain = name.strip()
    is_quoted = len(plain) > 2 and plain[0] == plain[-1] and plain[0] in "\"'"
    return plain[1:-1] if is_quoted and not os.path.lexists(name) else name
