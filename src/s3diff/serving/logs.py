"""Logs as JSON, one object a line, with the request they belong to. Pictures, their names and whole job ids, which open
results, are in none of them.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any

#: The request that is being answered.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
#: What a log may hold beside its message.
_FIELDS = ("job", "state", "seconds", "method", "route", "status", "bytes", "client")
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Enough of a job's id to find its lines again, too little to fetch its result.
_SHOWN_ID = 8


def new_request_id(given: str | None) -> str:
    """The id that a proxy gave, if it is a plain one, or a new one."""
    return given if given and _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)


class JsonFormatter(logging.Formatter):
    """A record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
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


def set_up_logs(level: int = logging.INFO) -> None:
    """The service's and the server's own logs go to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("s3diff.serving", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [] if name == "uvicorn.error" else [handler]
        logger.setLevel(level)
        logger.propagate = name == "uvicorn.error"
    # Its lines hold whole addresses; ours hold routes.
    logging.getLogger("uvicorn.access").disabled = True
