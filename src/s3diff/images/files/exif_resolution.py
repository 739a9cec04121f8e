"""Make a file's two statements of its resolution agree: the format's own (JFIF, PNG's pHYs) and EXIF's."""

from __future__ import annotations

from fractions import Fraction

from s3diff.images.files.exif_block import ExifBlock

_RESOLUTIONS, _UNIT = (0x011A, 0x011B), 0x0128
#: Units of EXIF's resolution in inches; without a unit it is inches (CIPA DC-008, section 4.6.2).
_INCH, _CM = 2, 3
_PER_INCH = {_INCH: Fraction(1), _CM: Fraction(254, 100)}
#: What EXIF asks writers to state where no resolution is known, and what libraries write into JFIF; 1 is a number that
#: stands for none, as for :func:`s3diff.images.files.pillow_metadata.dpi_of`.
_UNKNOWN, _PLACEHOLDER = 72, 1
#: JFIF holds whole numbers and PNG whole pixels per metre: closer numbers count as equal.
_ROUNDING = 1.0


def agreed_resolution(
    dpi: tuple[float, float] | None, exif: bytes | None
) -> tuple[tuple[float, float] | None, bytes | None]:
    """Return pixels per inch and the EXIF block of a picture, of which both say the same.

    EXIF wins, unless it says "not known": 72 per inch in whatever spelling, or 1. Then its block is changed.

    Args:
        dpi: the format's own statement, across and down; None if there is none.
        exif: the block with its prefix, upright as ``dpi`` is.
    """
    if dpi is None or exif is None:
        return dpi, exif
    block = ExifBlock(exif)
    found = [block.numbers("IFD0", tag) for tag in _RESOLUTIONS]
    unit = block.numbers("IFD0", _UNIT) or (Fraction(_INCH),)
    factor = _PER_INCH.get(int(unit[0]))
    if factor is None or not all(found):
        return dpi, exif
    stated = [numbers[0] for numbers in found if numbers]
    across, down = (float(number * factor) for number in stated)
    is_unknown = all(abs(each - _UNKNOWN) <= _ROUNDING for each in (across, down)) or stated == [_PLACEHOLDER] * 2
    is_usable = 0 < across < 1e6 and 0 < down < 1e6
    if abs(across - dpi[0]) <= _ROUNDING and abs(down - dpi[1]) <= _ROUNDING:
        return dpi, exif
    if is_usable and not is_unknown:
        return (across, down), exif
    for tag, value in zip(_RESOLUTIONS, dpi, strict=True):
        if not block.set_numbers("IFD0", tag, (Fraction(value).limit_denominator(1000) / factor,)):
            block.remove("IFD0", tag)
    return dpi, bytes(block.data)
