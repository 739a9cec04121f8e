"""Show and keep the figures of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def show_and_keep(report: Mapping[str, Any], output: Path | None) -> None:
    """Print a report as JSON, and write it to a file where one is given."""
    text = json.dumps(report, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")
