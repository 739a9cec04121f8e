"""Define how one format is read and written: the base class of every format's codec.

A format is a row of :data:`s3diff.formats.FORMATS` and the module that it names, which ends with ``CODEC = ...``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from s3diff.errors import PictureError
from s3diff.formats import FORMATS, Format
from s3diff.images.files.dropped_contents import attachments, left_out_note
from s3diff.images.files.exif_block import ExifBlock
from s3diff.images.files.geotiff import remove_position
from s3diff.images.files.metadata import Metadata
from s3diff.images.files.pillow_metadata import metadata_of
from s3diff.images.files.pillow_pictures import all_channels, picture_of, to_image
from s3diff.images.icc_profiles import StatedColors
from s3diff.images.picture import Picture
from s3diff.messages import too_many_pixels
from s3diff.options import MAX_OUTPUT_PIXELS

if TYPE_CHECKING:
    from s3diff.images.files.animations import Animation

#: Most pages or frames of one file: finding the end of a chain of n takes Pillow n² steps.
MAX_FRAMES = 10_000
#: Number of first bytes that identify a format.
HEAD_BYTES = 64


class Codec:
    """Read and write the files of one format; methods that a subclass does not override use Pillow."""

    def __init__(self, form: Format) -> None:
        self.form = form

    # Reading.

    def recognises(self, head: bytes) -> bool:
        """Check whether a file that begins with these :data:`HEAD_BYTES` is of this format."""
        raise NotImplementedError

    def check(self, file: BinaryIO, head: bytes) -> None:
        """Refuse structures that no program writes and that keep a decoder busy for hours.

        A decoder in C cannot be stopped from Python. Pixels themselves are limited by the header, texts and profiles
        by Pillow.

        Args:
            file: opened; its position is not restored.
            head: the first :data:`HEAD_BYTES`.

        Raises:
            PictureError: the file has too many scans, pages or frames, or holds another picture than it shows.
        """

    def holds_reduced_copy_first(self, file: BinaryIO) -> bool:
        """Check whether a decoder that reads the file's first picture would get a reduced copy."""
        return False

    def header(self, file: BinaryIO) -> ImageFile.ImageFile:
        """Open the header, of whatever size, from an opened file at its beginning.

        ``Image.open`` would do the same, but warns or fails at a pixel limit that is not ours.
        """
        raise NotImplementedError

    def require_whole(self, file: BinaryIO) -> None:
        """Refuse a file that is cut off, if that is visible without decoding; the file's position is not restored."""

    def size(self, file: BinaryIO) -> tuple[int, int]:
        """Read (width, height) as stored, without decoding."""
        image = self.checked_header(file)
        return image.width, image.height

    def stated_size(self, file: BinaryIO) -> tuple[int, int]:
        """Read (width, height) as stored; a format whose :meth:`check` reads the whole file leaves the check out."""
        return self.size(file)

    def checked_header(self, file: BinaryIO) -> ImageFile.ImageFile:
        """Open the header of a file after checking its structure."""
        file.seek(0)
        self.check(file, file.read(HEAD_BYTES))
        file.seek(0)
        return self.header(file)

    def opened(self, file: BinaryIO, path: Path, limit: int) -> ImageFile.ImageFile:
        """Open a picture that is not too large and, as far as is visible without decoding, whole.

        Args:
            limit: largest picture accepted, in pixels.

        Raises:
            PictureError: the picture is too large, or cut off.
        """
        image = self.checked_header(file)
        if image.width * image.height > limit:
            raise PictureError(too_many_pixels(path, (image.width, image.height), limit))
        place = file.tell()
        self.require_whole(file)
        file.seek(place)
        return image

    def read(self, file: BinaryIO, path: Path, limit: int) -> Picture:
        """Read the first picture, upright; the arguments and errors are those of :meth:`opened`."""
        image = self.opened(file, path, limit)
        stated = self.stated_colors(file, image)
        notes = (*frame_notes(image), *self.header_notes(file))
        return picture_of(image, path, notes, None, stated, attachments(file))

    def header_notes(self, file: BinaryIO) -> tuple[str, ...]:
        """List what the decoder leaves out although the header states it; the file's position is not restored."""
        return ()

    def page_sizes(self, file: BinaryIO) -> list[tuple[int, int]]:
        """Read (width, height) of every page, upright, without decoding."""
        return [self.size(file)]

    def read_pages(self, file: BinaryIO, path: Path, limit: int, numbers: Sequence[int]) -> Iterator[Picture]:
        """Read the pages with these numbers, from 1, on demand; errors are those of :meth:`opened`."""
        for _ in numbers:
            yield self.read(file, path, limit)

    def xmp(self, file: BinaryIO, path: Path) -> bytes | None:
        """Read only the XMP packet, as stored.

        Raises:
            PictureError: the picture has more pixels than a result in memory may have, or the file is cut off.
        """
        return metadata_of(self.opened(file, path, MAX_OUTPUT_PIXELS))[0].xmp

    def page_xmps(self, file: BinaryIO, path: Path) -> list[bytes | None]:
        """Read the XMP packet of every page; see :meth:`xmp`."""
        return [self.xmp(file, path)]

    def stated_colors(self, file: BinaryIO, image: ImageFile.ImageFile) -> StatedColors:
        """Make a profile of colours that the file states by other means than an ICC profile; restore its position.

        Raises:
            PictureError: the picture is HDR, or of narrow range.
        """
        return StatedColors()

    # Writing.

    def num_channels(self, picture: Picture) -> int:
        """Return how many channels of colour are written, 1 or 3."""
        return int(picture.pixels.shape[2])

    @property
    def can_write(self) -> bool:
        """Check whether files of this format can be written here."""
        return True

    def require_encoder(self) -> None:
        """Raise an error if the encoder is missing.

        Raises:
            OutputError: the encoder is not installed; the message says what to install.
        """

    def fitted_exif(self, exif: bytes) -> tuple[bytes | None, tuple[str, ...]]:
        """Return the EXIF block as the format can hold it, and notes; only TIFF can hold a geographic position."""
        block = ExifBlock(exif)
        lost = remove_position(block)
        return (bytes(block.data) if lost else exif), left_out_note(lost)

    def settings(self, picture: Picture, metadata: Metadata, quality: int) -> dict[str, Any]:
        """Make Pillow's settings for everything but the pixels; None for missing values.

        Profile and DPI are the picture's, the metadata is what the format can hold; ``quality``: 1 to 100.
        """
        settings: dict[str, Any] = {"icc_profile": picture.icc_profile, "dpi": picture.dpi}
        settings |= {"exif": metadata.exif, "xmp": metadata.xmp}
        return {**settings, "quality": quality} if self.form.has_quality else settings

    def encode(self, picture: Picture, settings: dict[str, Any]) -> tuple[bytes, tuple[str, ...]]:
        """Return a file's bytes, and notes on losses that the format causes.

        Args:
            picture: in a depth and colours that the format holds.
            settings: from :meth:`settings`, without the values that are None.
        """
        image = to_image(picture, with_alpha=self.form.has_alpha, with_16_bits=16 in self.form.bits)
        return self.saved(image, settings), ()

    def saved(self, image: Image.Image, settings: dict[str, Any]) -> bytes:
        """Return the bytes of a file that Pillow writes."""
        data = io.BytesIO()
        image.save(data, self.form.name, **settings)
        return data.getvalue()

    def write_frames(
        self, file: BinaryIO, pictures: Iterator[Picture], animation: Animation, settings: dict[str, Any]
    ) -> tuple[str, ...]:
        """Write an animation, in formats that hold frames.

        Args:
            pictures: the frames, one by one, of 8 bits, in colours that the format holds.
            animation: the durations, the number of plays and the size of the frames.
            settings: from :meth:`settings`.

        Returns:
            Notes on losses that the format causes.
        """
        raise NotImplementedError


def frame_notes(image: Image.Image) -> tuple[str, ...]:
    """Note that a file holds more frames than the one that is read."""
    num_frames = getattr(image, "n_frames", 1)
    if num_frames == 1 or image.format == "MPO":  # whose further pictures get their own notes
        return ()
    return (f"the file holds {num_frames} frames; the first one is used",)


def require_few(what: str, number: int) -> None:
    """Refuse a file of more than ``MAX_FRAMES`` frames or pages.

    Raises:
        PictureError: there are more.
    """
    if number > MAX_FRAMES:
        raise PictureError(f"the file holds more than {MAX_FRAMES} {what}; take out those that are wanted")


def frame_image(picture: Picture) -> Image.Image:
    """Make a colour image: an encoder that began with grey accepts no colours later."""
    array = all_channels(picture)
    if picture.is_grey:
        array = np.concatenate([np.repeat(picture.pixels, 3, axis=2), array[..., 1:]], axis=-1)
    return Image.fromarray(array)


class FrameImages(Image.Image):
    """Pass pictures one by one to Pillow's encoders as the frames of one image."""

    is_animated = True

    def __init__(self, pictures: Iterator[Picture], num_images: int) -> None:
        super().__init__()
        self.n_frames, self._coming, self._position = num_images, map(frame_image, pictures), -1
        self.seek(0)

    def seek(self, frame: int) -> None:
        if frame >= self.n_frames:
            raise EOFError
        while self._position < frame:
            vars(self).update(vars(next(self._coming)))
            self._position += 1
        # At the end an encoder seeks to the first frame without reading it.

    def tell(self) -> int:
        return 0


@cache
def codec_of(form: Format) -> Codec:
    """Load the codec of a format: ``CODEC`` of the module that its row names."""
    codec: type[Codec] = import_module(f"s3diff.images.files.{form.codec}").CODEC
    return codec(form)


def recognised_codec(head: bytes) -> Codec | None:
    """Find the codec of a file by its first ``HEAD_BYTES``; None for a file that is no picture."""
    return next((codec for codec in map(codec_of, FORMATS) if codec.recognises(head)), None)
