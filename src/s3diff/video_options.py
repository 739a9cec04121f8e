"""Hold how a restored video is made and encoded; no torch, no PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from s3diff.errors import OptionError
from s3diff.formats import VideoCodec

#: The largest share of the result before: above it a frame hardly shows anything of its own.
MAX_STEADY = 0.9
#: Most frames that are restored together: those of a segment, which is restored batch by batch.
MAX_BATCH = 48


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How a restored video is made and encoded.

    Attributes:
        codec: ``auto`` is h264, h265 for more than 8 bits, and vp9 for .webm.
        pixel_format: FFmpeg's name; ``auto`` keeps depth and sampling of the source.
        quality: 1 to 100.
        steady: share, 0 to 0.9, that a frame takes over of the result before where both inputs show the same; 0
            restores every frame on its own.
        batch: frames that go through the networks together, 1 to 48; results are the same within a grey level.
            A divisor of 48, the frames of a segment, leaves no small batch.
        overwrite: whether a file that is there may be replaced.
        provenance: whether the file's comment states how it was made.

    Raises:
        OptionError: a value is not allowed.
    """

    codec: VideoCodec = "auto"
    pixel_format: str = "auto"
    quality: int = 95
    steady: float = 0.5
    batch: int = 1
    overwrite: bool = True
    provenance: bool = True

    def __post_init__(self) -> None:
        if self.codec not in get_args(VideoCodec):
            raise OptionError(f"codec is {self.codec!r}; give {', '.join(get_args(VideoCodec))}")
        if (
            isinstance(self.steady, bool)
            or not isinstance(self.steady, int | float)
            or not 0 <= self.steady <= MAX_STEADY
        ):
            raise OptionError(f"steady is {self.steady!r}; give a share from 0 to {MAX_STEADY}")
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or not 1 <= self.batch <= MAX_BATCH:
            raise OptionError(f"batch is {self.batch!r}; give a whole number from 1 to {MAX_BATCH}")
