"""Write the outcome of every picture for other programs."""

from __future__ import annotations

import json
import os
from pathlib import Path

from s3diff.errors import OutputError
from s3diff.folders.run import Outcome
from s3diff.json_lines import AppendedLines
from s3diff.messages import reason_of


class Report:
    """Write outcomes as JSON lines, each on the disk at once. An existing report is continued, any other file refused.

    Args:
        path: the file; None for no report.

    Raises:
        OutputError: the file cannot be written, or exists and is no report.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._lines = None if path is None else AppendedLines(Path(path))
        if self._lines is not None:
            try:
                if os.path.exists(self._lines.path) and not _is_report(self._lines.path):
                    raise OutputError(f"{path} is there and no report; choose another name for the report")
                self._lines.open()
            except OutputError:
                raise
            except (OSError, ValueError) as error:
                raise OutputError(
                    f"the report {path} cannot be written ({reason_of(error)}); choose another place"
                ) from error

    def add(self, outcome: Outcome) -> None:
        """Write one line.

        Raises:
            OutputError: the disk does not take it.
        """
        if self._lines is not None:
            try:
                self._lines.append([outcome.as_json()])
            except OSError as error:
                raise OutputError(
                    f"the report {self._lines.path} cannot be written ({reason_of(error)}); make room and run again"
                ) from error

    def close(self) -> None:
        """Close the file; write errors were raised when lines were added."""
        if self._lines is not None:
            self._lines.close()


def _is_report(path: Path) -> bool:
    """Check whether a file is empty or begins with a line of a report."""
    with open(path, "rb") as file:
        line = file.readline(1 << 16)  # of a file that is no report it may have no end
    if not line:
        return path.is_file()
    try:
        first = json.loads(line)
    except ValueError:
        return False
    return isinstance(first, dict) and {"state", "source", "target"} <= set(first)
