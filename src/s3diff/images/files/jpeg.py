"""Read and write JPEG."""

from __future__ import annotations

import itertools
from typing import Any, BinaryIO

from PIL import ImageFile, JpegImagePlugin

from s3diff.errors import PictureError
from s3diff.images.files.codec import Codec
from s3diff.images.files.dropped_contents import left_out_note
from s3diff.images.files.jpeg_segments import START_OF_SCAN, segments, with_metadata
from s3diff.images.files.metadata import Metadata, comments_of
from s3diff.images.picture import Picture

#: A progressive JPEG has about 10 scans, and cannot use more than some hundred. 500 of 67 megapixels take 12 s.
MAX_JPEG_SCANS = 500


class JpegCodec(Codec):
    """Read and write JPEG, without colour subsampling. A file of several pictures (MPO) is a JPEG."""

    def recognises(self, head: bytes) -> bool:
        return head.startswith(b"\xff\xd8\xff")

    def check(self, file: BinaryIO, head: bytes) -> None:
        file.seek(0)
        if _num_scans(file.read()) > MAX_JPEG_SCANS:
            raise PictureError(
                f"the JPEG data has more than {MAX_JPEG_SCANS} scans, which no program writes; save the picture anew"
            )

    def header(self, file: BinaryIO) -> ImageFile.ImageFile:
        return JpegImagePlugin.jpeg_factory(file)

    def stated_size(self, file: BinaryIO) -> tuple[int, int]:
        file.seek(0)
        image = self.header(file)  # the check would read the whole file
        return image.width, image.height

    def require_whole(self, file: BinaryIO) -> None:
        # Compressed data cannot contain the end marker, so its absence is certain proof. Without this check a file
        # whose rest was never downloaded (zeros) would decode to half a picture.
        if b"\xff\xd9" not in file.read():
            raise PictureError("the file is cut off: the end of the JPEG data is missing; fetch the file again")

    def settings(self, picture: Picture, metadata: Metadata, quality: int) -> dict[str, Any]:
        # Metadata goes into more segments than Pillow writes.
        return super().settings(picture, Metadata(), quality) | {"subsampling": "4:4:4", "metadata": metadata}

    def encode(self, picture: Picture, settings: dict[str, Any]) -> tuple[bytes, tuple[str, ...]]:
        metadata: Metadata = settings.pop("metadata")
        data, _ = super().encode(picture, settings)
        data, lost = with_metadata(data, metadata.exif, metadata.xmp, metadata.iptc, comments_of(metadata))
        return data, left_out_note(lost)


def _num_scans(data: bytes) -> int:
    """Count the scans of the first picture, up to one more than allowed."""
    scans = (segment for segment in segments(data) if segment.marker == START_OF_SCAN)
    return sum(1 for _ in itertools.islice(scans, MAX_JPEG_SCANS + 1))


CODEC = JpegCodec
