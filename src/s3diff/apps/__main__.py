"""Where the command ``s3diff`` begins, ``python -m s3diff.apps`` as well: from here on Ctrl-C is one line.

Nothing is imported at the top that takes time, so that this holds while the command itself is being imported.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; Ctrl-C before it can answer for itself ends it with the usual exit code."""
    try:
        from s3diff.apps.cli import main as command

        command()
    except KeyboardInterrupt:
        print("s3diff: stopped; nothing half written is left", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
