"""Run a small Gradio demo of the embedded model; the service's own page does far more.

pip install -c constraints.txt ".[demo]"
python -m s3diff.apps.gradio_demo [--model NAME] [--share]
"""

from __future__ import annotations

import argparse

from s3diff.apps.terminal import one_line_errors
from s3diff.checkpoints.registry import DEFAULT_MODEL
from s3diff.integrations.gradio import demo
from s3diff.restoration.restorer import Restorer


def main() -> None:
    """Load a model and launch the demo."""
    parser = argparse.ArgumentParser(description="A small Gradio demo of s3diff.")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a model's name or folder (default: %(default)s)")
    parser.add_argument("--share", action="store_true", help="make a public address through Gradio's servers")
    given = parser.parse_args()
    with one_line_errors():
        demo(Restorer.from_pretrained(given.model)).launch(share=given.share)


if __name__ == "__main__":
    main()
