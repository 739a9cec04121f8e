"""Restore folders of pictures: pair inputs with outputs, go on after interruptions, write down how each one ended."""

from s3diff.folders.restore import FolderResult, restore_folder
from s3diff.folders.run import Outcome

__all__ = ["FolderResult", "Outcome", "restore_folder"]
