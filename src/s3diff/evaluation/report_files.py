"""Write every report of a run into its folder."""

from __future__ import annotations

from pathlib import Path

from s3diff.atomic_write import write_atomically
from s3diff.evaluation.report import csv_text, markdown
from s3diff.evaluation.report_page import page
from s3diff.evaluation.scoring import Evaluation

CSV_NAME, MARKDOWN_NAME, PAGE_NAME = "scores.csv", "report.md", "report.html"


def write_reports(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write the CSV, the Markdown and the page into the folder of the run; returns their paths.

    Raises:
        PictureError: no picture was scored.
        OutputError: the folder cannot be written.
    """
    contents = {
        CSV_NAME: csv_text(evaluation),
        MARKDOWN_NAME: markdown(evaluation),
        PAGE_NAME: page(evaluation),
    }
    for name, content in contents.items():
        write_atomically(content, folder / name)
    return [folder / name for name in contents]
