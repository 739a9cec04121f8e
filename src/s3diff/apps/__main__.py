"""Start the command ``s3diff`` or ``python -m s3diff.apps``, with Ctrl-C as one line from the first moment.

Slow imports are not at the top, so that this also holds while the command is being imported.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; before it handles Ctrl-C itself, end with the usual exit code."""
    try:
        from s3diff.apps.cli import main as command

        command()
    except KeyboardInterrupt:
        print("s3diff: stopped; nothing half written is left", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
