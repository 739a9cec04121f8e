"""Restore folders of pictures: pair inputs with outputs, resume interrupted runs, record how each picture ended."""

from s3diff.folders.restore import FolderResult, restore_folder
from s3diff.folders.run_jobs import Outcome

__all__ = ["FolderResult", "Outcome", "restore_folder"]
