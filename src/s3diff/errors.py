"""Define the exception tree. Every message states the given value, the allowed ones and the remedy."""

import errno

#: Numbers of the system's errors for a disk, or a share of it, without room.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class S3DiffError(Exception):
    """Root of everything that s3diff raises on purpose; the command prints it as one line."""


class OptionError(S3DiffError, ValueError):
    """An option has a value that is not allowed."""


class PictureError(S3DiffError, ValueError):
    """A picture cannot be read, or has a size or content that cannot be restored."""


class PictureTooLargeError(PictureError):
    """A picture, its file, its result or a video is larger than what is taken."""


class OutputError(S3DiffError, OSError):
    """A result cannot be written where it was asked for."""


class DiskFullError(OutputError):
    """There is no room for a result; the message says how much was missing."""


class ModelError(S3DiffError, ValueError):
    """A model folder or checkpoint is missing, incomplete, misshapen or unsafe."""


class DownloadError(S3DiffError, OSError):
    """Weights could not be fetched; the message names the files and the way to use a copy on disk."""


class StoreError(S3DiffError, OSError):
    """An object store or a folder of many pictures cannot be reached or refuses; the same call resumes later."""


class TrainingError(S3DiffError, RuntimeError):
    """A run cannot continue; the message names the step and the reason."""


class MissingExtraError(S3DiffError, ImportError):
    """An optional package or its data is not installed; the message names the command that installs it."""


class ServiceError(S3DiffError, RuntimeError):
    """A service refused a request, failed or could not be reached; the message says which."""


class QueueFullError(ServiceError):
    """As many pictures wait as may wait.

    Attributes:
        retry_after_seconds: when to come back.
    """

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QuotaError(QueueFullError):
    """A client has used up its quota; the service has room for others."""


class ServiceClosedError(ServiceError):
    """The service is ending and takes nothing new."""


class JobNotFoundError(ServiceError):
    """There is no such job, or it is somebody else's."""


class JobCancelledError(ServiceError):
    """A job was cancelled, so there is no result."""


class JobTimeoutError(ServiceError):
    """A job took longer than the service allows."""
