"""Hold the package's version, read by the build and by ``s3diff --version``."""

__version__ = "0.1.0"
