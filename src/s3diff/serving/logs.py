"""Write logs with each line's request: one JSON object per line, or plain lines for a terminal.

Logs never contain pictures, their names, tokens or whole job ids, which open results.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any

#: The request that is being answered.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
#: Fields of a log line besides its message.
_FIELDS = ("job", "state", "seconds", "method", "route", "status", "bytes", "client")
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Characters of a job's id in logs: enough to find its lines, too few to fetch its result.
_SHOWN_ID = 8


def new_request_id(given: str | None) -> str:
    """Return the proxy's id if it is plain, or a new one."""
    return given if given and _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)


class PlainFormatter(logging.Formatter):
    """Format a record for a terminal: ``14:03:22  POST /api/v1/restore  200  1.42 s``."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [time.strftime("%H:%M:%S", time.localtime(record.created))]
        if (status := getattr(record, "status", None)) is not None:
            facts = (getattr(record, name, None) for name in ("method", "route", "client"))
            parts += [*(str(fact) for fact in facts if fact), str(status), f"{getattr(record, 'seconds', 0):.2f} s"]
        else:
            if record.levelno >= logging.WARNING:
                parts.append(record.levelname.lower())
            parts.append(record.getMessage().strip())
            if (job := getattr(record, "job", None)) is not None:
                facts = (getattr(record, name, None) for name in ("state", "seconds"))
                parts += [f"job {job[:_SHOWN_ID]}", *(str(fact) for fact in facts if fact is not None)]
        line = "  ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "logger": record.name}
        line["message"] = record.getMessage()
        asked = getattr(record, "request", None) or request_id.get()
        if asked:
            line["request"] = asked
        for name in _FIELDS:
            if (value := getattr(record, name, None)) is not None:
                line[name] = value[:_SHOWN_ID] if name == "job" else value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def set_up_logs(*, plain: bool = False) -> None:
    """Send the service's and the server's own logs to stderr.

    Args:
        plain: lines for people instead of JSON, without those on the server's start and end.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter() if plain else JsonFormatter())
    for name in ("s3diff.serving", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [] if name == "uvicorn.error" else [handler]
        logger.setLevel(logging.WARNING if plain and name.startswith("uvicorn") else logging.INFO)
        logger.propagate = name == "uvicorn.error"
    # Malformed forms are reported in the answer.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    # Its lines contain whole addresses; ours contain routes.
    logging.getLogger("uvicorn.access").disabled = True
