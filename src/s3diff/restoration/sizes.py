"""Compute a picture's sizes once, from its width and height; every later step receives this value."""

from __future__ import annotations

from dataclasses import dataclass

from s3diff.errors import PictureError
from s3diff.messages import in_megapixels
from s3diff.options import METHOD_SCALE, RestoreOptions

#: (width, height) in pixels.
Size = tuple[int, int]


@dataclass(frozen=True)
class Sizes:
    """Hold a picture's (width, height) in pixels at each step of its restoration.

    Attributes:
        input: the picture as read.
        working: the networks' result before resampling.
        uncut: the resampled result before ``fill`` cuts it.
        output: the result.
    """

    input: Size
    working: Size
    uncut: Size
    output: Size

    @property
    def num_working_pixels(self) -> int:
        """Number of pixels that the networks produce; their time grows with it."""
        return self.working[0] * self.working[1]

    def padded(self, multiple: int) -> Size:
        """Round the working size up to multiples of the networks' stride."""
        width, height = (-(-side // multiple) * multiple for side in self.working)
        return width, height


def sizes_of(size: Size, options: RestoreOptions) -> Sizes:
    """Compute all sizes of a picture of this (width, height).

    Raises:
        OverflowError: the result's size overflows.
    """
    output = options.output_size(*size)
    uncut = options.covering_size(*size) if options.size is not None and options.size_mode == "fill" else output
    method = (size[0] * METHOD_SCALE, size[1] * METHOD_SCALE)
    method_pixels = method[0] * method[1]
    works_at_method = options.restore_at == "model" or (
        options.restore_at == "auto" and uncut[0] * uncut[1] < method_pixels <= options.max_output_pixels
    )
    return Sizes(size, method if works_at_method else uncut, uncut, output)


def allowed_sizes(size: Size, options: RestoreOptions, name: object = None) -> Sizes:
    """Compute all sizes of a picture, if the options allow its result's number of pixels.

    Args:
        size: the picture's (width, height).

    Raises:
        PictureError: the result would be too large.
    """
    name = name or "the picture"
    try:
        sizes = sizes_of(size, options)
        width, height = sizes.output
        megapixels = in_megapixels(width * height)
    except OverflowError:
        raise PictureError(f"{name} would become larger than any picture; choose a smaller scale or size") from None
    if width * height > options.max_output_pixels:
        raise PictureError(
            f"{name} would become {width:.9g} x {height:.9g} px, {megapixels} megapixels; at most "
            f"{in_megapixels(options.max_output_pixels)} are allowed: choose a smaller scale or size, raise the limit "
            "(max_output_pixels, --max-megapixels), or stream it into a .tif (restore_file, --stream)"
        )
    return sizes
