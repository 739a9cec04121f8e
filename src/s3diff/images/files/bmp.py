"""Read and write BMP."""

from __future__ import annotations

import struct
from typing import BinaryIO

from PIL import BmpImagePlugin, ImageFile

from s3diff.images.files.codec import Codec
from s3diff.images.icc_profiles import DAMAGED_PROFILE, StatedColors, colors_of_gamma

_FILE_HEADER_BYTES = 14
#: Headers of version 4 and 5 (BITMAPV4HEADER, BITMAPV5HEADER) by their length.
_VERSION_4_BYTES, _VERSION_5_BYTES = 108, 124
_CALIBRATED, _EMBEDDED, _LINKED = 0, 0x4D424544, 0x4C494E4B
_LARGEST_PROFILE_BYTES = 1 << 24


class BmpCodec(Codec):
    """Read and write BMP, with 8 bits per channel of grey or colour, without profile."""

    def recognises(self, head: bytes) -> bool:
        return head.startswith(b"BM")

    def header(self, file: BinaryIO) -> ImageFile.ImageFile:
        return BmpImagePlugin.BmpImageFile(file)

    def stated_colors(self, file: BinaryIO, image: ImageFile.ImageFile) -> StatedColors:
        place = file.tell()
        file.seek(_FILE_HEADER_BYTES)
        header = file.read(_VERSION_5_BYTES)
        stated = StatedColors()
        if len(header) == _VERSION_5_BYTES and header[0] in (_VERSION_4_BYTES, _VERSION_5_BYTES):
            (color_space,) = struct.unpack_from("<I", header, 56)
            if color_space == _CALIBRATED:
                stated = _calibrated(header, is_grey=image.mode in ("1", "L"))
            elif color_space == _EMBEDDED and header[0] == _VERSION_5_BYTES:
                start, length = struct.unpack_from("<II", header, 112)
                file.seek(_FILE_HEADER_BYTES + start)
                profile = file.read(min(length, _LARGEST_PROFILE_BYTES))
                stated = StatedColors(profile) if profile else StatedColors(None, (DAMAGED_PROFILE,))
            elif color_space == _LINKED:
                stated = StatedColors(None, ("left out: the link to a colour profile in another file",))
        file.seek(place)
        return stated


def _calibrated(header: bytes, *, is_grey: bool) -> StatedColors:
    """Make a profile of the header's end points (2.30 fixed point) and powers (16.16); zeros state nothing."""
    values = [value / 2**30 for value in struct.unpack_from("<9i", header, 60)]
    red, green, blue = (values[index : index + 3] for index in (0, 3, 6))
    power = struct.unpack_from("<I", header, 100)[0] / 65536
    if min(map(sum, (red, green, blue))) <= 0:
        primaries = None
    else:
        # End points that are chromaticities have a sum of 1 each, and leave the white point open.
        sums = [sum(each) for each in zip(red, green, blue, strict=True)]
        are_chromaticities = all(abs(sum(each) - 1) < 0.01 for each in (red, green, blue))
        white = (0.3127, 0.3290) if are_chromaticities else (sums[0] / sum(sums), sums[1] / sum(sums))
        ends = tuple((each[0] / sum(each), each[1] / sum(each)) for each in (red, green, blue))
        primaries = (white, ends[0], ends[1], ends[2])
    if primaries is None and power == 0:
        return StatedColors()
    return colors_of_gamma(1 / power if power else None, primaries, is_grey, "end points and gamma of BMP")


CODEC = BmpCodec
