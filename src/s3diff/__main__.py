"""Run the command ``s3diff`` by ``python -m s3diff``."""

from s3diff.apps.__main__ import main

if __name__ == "__main__":
    main()
