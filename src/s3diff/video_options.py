"""Hold how a restored video is made and encoded; no torch, no PyAV."""

from __future__ import annotations

from dataclasses import dataclass

from s3diff.formats import VideoCodec
from s3diff.options import RANGES, check_fields

#: Most frames that are restored together: those of a segment, which is restored batch by batch.
MAX_BATCH = int(RANGES["batch"].high)


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How a restored video is made and encoded.

    Attributes:
        codec: codec of a video; ``auto`` is h264, h265 for more than 8 bits, and vp9 for .webm.
        pixel_format: pixel format of a video, by FFmpeg's name; ``auto`` keeps depth and sampling of the source.
        quality: 1 to 100.
        steady: share, 0 to 0.9, of the previous result that is mixed into a frame of a video where both inputs show the
            same, against flicker; 0 restores every frame on its own.
        batch: frames of a video that go through the networks together, 1 to 48: faster on a GPU, with more memory;
            results are the same within a grey level. A divisor of 48, the frames of a segment, leaves no small batch.
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
        check_fields(self)
