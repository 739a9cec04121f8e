"""Update the position of a GeoTIFF (OGC 19-008r4): values in pixels follow the picture. No Pillow here."""

from __future__ import annotations

import os

from s3diff.images.files.coordinates import Numbers, Transform
from s3diff.images.files.exif_block import ExifBlock
from s3diff.images.files.tiff_directories import TiffDirectories

POSITION = "the GeoTIFF position"
_PIXEL_SCALE, _TIE_POINTS, _MATRIX, KEYS = 0x830E, 0x8482, 0x85D8, 0x87AF
#: All tags; the last two hold the keys' values.
TAGS = (_PIXEL_SCALE, _TIE_POINTS, _MATRIX, KEYS, 0x87B0, 0x87B1)
#: The key for whether whole numbers mean the corners or the centers of pixels.
_RASTER_TYPE, _IS_POINT = 1025, 2
_TIE_POINT_NUMBERS = 6


def follow_position(block: ExifBlock, transform: Transform) -> list[str]:
    """Scale the pixel size on the ground, cut and scale tie points and the matrix; name what had to be removed."""
    keys = block.numbers("IFD0", KEYS)
    if keys is None:
        return []
    is_point = any(keys[at : at + 4 : 3] == (_RASTER_TYPE, _IS_POINT) for at in range(4, len(keys) - 3, 4))
    half = 0.5 if is_point else 0.0
    across, down = transform.scale
    # A place i of the picture is i' / across + begin for the place i' of the result.
    begin = (transform.kept[0] + half / across - half, transform.kept[1] + half / down - half)
    if transform.orientation == 1 and _set(block, (across, down), begin):
        return []
    return remove_position(block)


def remove_position(block: ExifBlock) -> list[str]:
    """Remove all tags; return their name, if there were any."""
    removed = [block.remove("IFD0", tag) for tag in TAGS]
    return [POSITION] if any(removed) else []


def is_geotiff(path: str | os.PathLike[str]) -> bool:
    """Check whether the first page of a TIFF states a position."""
    with open(path, "rb") as file:
        pages = TiffDirectories(file, 1).pages
    return bool(pages) and KEYS in pages[0].entries


def _set(block: ExifBlock, scale: tuple[float, float], begin: tuple[float, float]) -> bool:
    """Write the result's numbers; return whether all could be written."""
    if scale == (1, 1) and begin == (0, 0):
        return True
    changed: dict[int, Numbers] = {}
    if size := block.numbers("IFD0", _PIXEL_SCALE):
        changed[_PIXEL_SCALE] = (float(size[0]) / scale[0], float(size[1]) / scale[1], *size[2:])
    points = list(block.numbers("IFD0", _TIE_POINTS) or ())
    for start in range(0, len(points), _TIE_POINT_NUMBERS):
        for axis in (0, 1):
            points[start + axis] = (float(points[start + axis]) - begin[axis]) * scale[axis]  # type: ignore[call-overload]
    if points:
        changed[_TIE_POINTS] = tuple(points)
    if matrix := block.numbers("IFD0", _MATRIX):
        rows = [list(map(float, matrix[start : start + 4])) for start in range(0, len(matrix), 4)]
        for row in rows[:3]:
            row[3] += row[0] * begin[0] + row[1] * begin[1]
            row[0], row[1] = row[0] / scale[0], row[1] / scale[1]
        changed[_MATRIX] = tuple(number for row in rows for number in row)
    is_known = all(
        len(changed.get(tag, bytes(count))) == count for tag, count in {_PIXEL_SCALE: 3, _MATRIX: 16}.items()
    )
    return is_known and bool(changed) and all(block.set_numbers("IFD0", tag, new) for tag, new in changed.items())
