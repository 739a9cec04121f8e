"""Read TIFF pixels for which Pillow has no mode: more than 8 bits, floats, Lab, CMYK with transparency.

libtiff, through Pillow, unpacks the rows of such a file as bytes: in a copy of the file the directory describes a grey
picture of 8 bits, as wide as a row has bytes. The bytes are interpreted here (TIFF 6.0 and its supplements).
"""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from s3diff.errors import PictureError
from s3diff.images.color_profiles import by_bands, srgb_from_lab
from s3diff.images.files.pillow_pictures import rgb_from_cmyk, turned_upright
from s3diff.images.files.tiff_directories import Directory, PatchedTiff, TiffDirectories

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS = 0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0111
_ORIENTATION = 0x0112
_SAMPLES, _STRIP_BYTES, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILES = 0x0115, 0x0117, 0x011C, 0x013D, 0x0142, 0x0144
_TILE_BYTES, _INK_SET, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 0x0145, 0x014C, 0x0152, 0x0153
#: A tag near ``_EXTRA_SAMPLES`` without meaning.
_MEANINGLESS = 0x014F
#: Compressions of bytes of any kind: none, LZW, deflate, PackBits, LZMA, Zstandard.
_OF_BYTES = (1, 5, 8, 32773, 32946, 34925, 50000)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK, _YCBCR, _CIE_LAB, _ICC_LAB = 0, 1, 2, 5, 6, 8, 9
_NUM_COLORS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4, _CIE_LAB: 3, _ICC_LAB: 3}
_PREMULTIPLIED, _OPACITY = 1, 2
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED, _COMPLEX = 1, 2, 3, 4, (5, 6)
_DIFFERENCES, _FLOAT_DIFFERENCES = 2, 3
#: Numbers of bits that are whole words.
_WORDS = (8, 16, 32, 64)
_MOST_SAMPLES, _MOST_BITS = 32, 64
_BAND_ROWS = 64
#: Largest size of a tile, as a multiple of the largest picture.
_TILE_EXCESS = 4


class TiffImage(TiffImagePlugin.TiffImageFile):
    """Keep what Pillow's image forgets when it is loaded, and its place in the file.

    Attributes:
        stored_orientation: 1 to 8.
        stored_size: (width, height) in pixels.
        stored_bits: per channel, if the directory was changed; otherwise 0.
        place_among_pages: the page's number, from 0, and the number of pages.
    """

    stored_orientation = 1
    stored_size = (0, 0)
    stored_bits = 0
    place_among_pages = (0, 1)

    def _setup(self) -> None:
        orientation = self.tag_v2.get(_ORIENTATION, 1)
        self.stored_orientation = orientation if orientation in range(1, 9) else 1
        super()._setup()
        # Pillow's own size is already that of the turned picture.
        self.stored_size = self.tag_v2[_WIDTH], self.tag_v2[_HEIGHT]


class Samples(NamedTuple):
    """Hold pixels and how they were read.

    Attributes:
        image: loaded, with the file's metadata; its pixels are unused.
        array: [H, W, 1 to 4], grey or RGB and opacity, upright; uint8 or uint16.
        is_srgb: whether colours were converted to sRGB, so that the file's profile does not apply.
        notes: losses, one sentence each.
    """

    image: TiffImage
    array: np.ndarray
    is_srgb: bool
    notes: tuple[str, ...]


class SampleReader:
    """Read the samples of one page."""

    def __init__(self, file: BinaryIO, directories: TiffDirectories, page: Directory) -> None:
        self._file, self._directories, self._page = file, directories, page

        def number(tag: int, default: int = 1) -> int:
            return directories.numbers(page, tag, (default,))[0]

        self.bits = directories.numbers(page, _BITS, (1,))
        self.num_samples, self.photometric = number(_SAMPLES), number(_PHOTOMETRIC, -1)
        self.formats = set(directories.numbers(page, _SAMPLE_FORMAT, (_UNSIGNED,)))
        self.compression, self.is_planar = number(_COMPRESSION), number(_PLANAR) == 2 and self.num_samples > 1
        self.predictor, self.ink_set = number(_PREDICTOR), number(_INK_SET)
        self.tile_width = number(_TILE_WIDTH, 0) if _TILES in page.entries else 0
        self.orientation = number(_ORIENTATION)
        num_extra = max(0, self.num_samples - _NUM_COLORS.get(self.photometric, self.num_samples))
        is_unlabelled = num_extra == 1 and _EXTRA_SAMPLES not in page.entries and self.photometric != _CMYK
        stated = (_OPACITY,) if is_unlabelled else directories.numbers(page, _EXTRA_SAMPLES)
        #: Meaning of each sample behind the colours; unspecified ones are opacity, as in other programs.
        self.extra = (*stated[:num_extra], *[0] * (num_extra - len(stated)))

    @property
    def is_needed(self) -> bool:
        """Check whether Pillow would refuse the page, or read fewer bits."""
        if self.photometric not in _NUM_COLORS or self.compression not in _OF_BYTES:
            return False
        if max(self.bits) > 8 or _FLOAT in self.formats:
            return True
        if self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
            return self.num_samples > 1
        if self.photometric == _RGB:
            return set(self.bits) != {8} or self.num_samples > 4
        return self.photometric != _CMYK or self.num_samples > 4

    def left_out_note(self) -> tuple[str, ...]:
        """Note samples that are neither colours nor transparency."""
        num_lost = len(self.extra) - any(each in (_PREMULTIPLIED, _OPACITY) for each in self.extra)
        if num_lost <= 0:
            return ()
        what = "a further channel" if num_lost == 1 else f"{num_lost} further channels"
        return (f"{what} of the TIFF (masks, spot colours) {'is' if num_lost == 1 else 'are'} left out",)

    def require_numbers(self) -> None:
        """Refuse signed and complex numbers and YCbCr that is not compressed, which Pillow would misread.

        Raises:
            PictureError: the page has such numbers.
        """
        if self.photometric == _YCBCR and self.compression == 1:
            raise PictureError(
                "the TIFF's kind of pixels is not supported (YCbCr that is not compressed); save it as RGB or grey"
            )
        if self.formats & {_SIGNED, *_COMPLEX}:
            raise PictureError("the TIFF holds signed or complex numbers; save it as RGB or grey of 8 or 16 bits")

    def require_known(self, limit: int) -> None:
        """Refuse samples that no function here can read.

        Args:
            limit: largest picture accepted, in pixels.

        Raises:
            PictureError: the message names the samples' kind.
        """
        bits, is_lab = self.bits[0], self.photometric in (_CIE_LAB, _ICC_LAB)
        refusals = {
            f"channels of {' and '.join(map(str, sorted(set(self.bits))))} bits": len(set(self.bits)) > 1,
            f"{bits} bits per channel": not 1 <= bits <= _MOST_BITS,
            f"{self.num_samples} channels": not _NUM_COLORS[self.photometric] <= self.num_samples <= _MOST_SAMPLES,
            "signed or complex numbers": not self.formats
            <= {_UNSIGNED, _FLOAT, _UNDEFINED, *((_SIGNED,) if is_lab else ())},
            "numbers of several kinds": _FLOAT in self.formats and len(self.formats) > 1,
            f"floating-point numbers of {bits} bits": _FLOAT in self.formats and bits not in (16, 32, 64),
            "inks other than CMYK": self.photometric == _CMYK and self.ink_set != 1,
            f"Lab of {bits} bits": is_lab and bits not in (8, 16) and _FLOAT not in self.formats,
            f"predictor {self.predictor} for {bits} bits": not self._knows_predictor(),
        }
        for what, is_so in refusals.items():
            if is_so:
                raise PictureError(
                    f"the TIFF's kind of pixels is not supported ({what}); save it as RGB or grey of 8 or 16 bits"
                )
        if self._padded_width * self._page.height > _TILE_EXCESS * limit:
            raise PictureError(
                f"the TIFF has tiles of {self.tile_width} pixels across for a picture of {self._page.width}; save it "
                "with smaller ones"
            )

    def _knows_predictor(self) -> bool:
        if self.compression in (1, 32773) or self.predictor not in (_DIFFERENCES, _FLOAT_DIFFERENCES):
            return True  # there is none, whatever the tag says
        return self.bits[0] in _WORDS and (self.predictor == _DIFFERENCES or _FLOAT in self.formats)

    @property
    def _padded_width(self) -> int:
        return -(-self._page.width // self.tile_width) * self.tile_width if self.tile_width else self._page.width

    def read(self) -> Samples:
        """Read the page, after :meth:`require_known`.

        Raises:
            PictureError: the page holds numbers that are not finite.
            OSError, struct.error: the file is damaged.
        """
        image, planes = None, []
        for plane in range(self.num_samples if self.is_planar else 1):
            opened = self._opened(plane)
            opened.load()
            planes.append(self._values(np.asarray(opened), 1 if self.is_planar else self.num_samples))
            image = image or opened
        assert image is not None
        image.stored_orientation = self.orientation if self.orientation in range(1, 9) else 1
        image.stored_size, image.stored_bits = (self._page.width, self._page.height), max(self.bits)
        values = np.concatenate(planes, axis=2) if len(planes) > 1 else planes[0]
        array, is_srgb, notes = self._pixels(values, image.info.get("icc_profile"))
        return Samples(image, turned_upright(array, image.stored_orientation), is_srgb, notes + self.left_out_note())

    def _opened(self, plane: int) -> TiffImage:
        """Open the page as a grey picture of its rows' bytes."""
        patched, bits_of_pixel = PatchedTiff(self._file, self._directories, self._page), self.bits[0]
        if self.is_planar:
            for tag in (_TILES, _TILE_BYTES) if self.tile_width else (_STRIPS, _STRIP_BYTES):
                count = patched.count(tag) // self.num_samples
                patched.keep_part(tag, plane * count, count)
        else:
            bits_of_pixel *= self.num_samples
        changed = {
            _WIDTH: -(-self._padded_width * bits_of_pixel // 8), _BITS: 8, _PHOTOMETRIC: _BLACK_IS_ZERO, _SAMPLES: 1,
            _PLANAR: 1, _PREDICTOR: 1, _SAMPLE_FORMAT: _UNSIGNED, _ORIENTATION: 1,
            _TILE_WIDTH: -(-self.tile_width * bits_of_pixel // 8),
        }  # fmt: skip
        for tag, value in changed.items():
            patched.set(tag, value)
        patched.rename(_EXTRA_SAMPLES, _MEANINGLESS)
        return TiffImage(patched.opened())

    def _values(self, rows: np.ndarray, num_samples: int) -> np.ndarray:
        """Convert [H, B] bytes to [H, W, S] numbers."""
        bits, has_predictor = self.bits[0], self.compression not in (1, 32773)
        shape = (len(rows), -1, self.tile_width or self._page.width, num_samples)
        if has_predictor and self.predictor == _FLOAT_DIFFERENCES:
            # Bytes of like significance stand together, the highest first, each as the difference from the one before.
            row_bytes = shape[2] * num_samples * bits // 8
            sums = np.cumsum(rows.reshape(len(rows), -1, row_bytes // num_samples, num_samples), axis=2, dtype=np.uint8)
            planes = sums.reshape(len(rows), -1, bits // 8, shape[2] * num_samples).swapaxes(2, 3)
            values = np.ascontiguousarray(planes).view(f">f{bits // 8}").reshape(shape)
        else:
            kind = "f" if _FLOAT in self.formats and not has_predictor else "u"
            if bits in _WORDS:
                values = rows.view(f"{self._directories.order}{kind}{bits // 8}").reshape(shape)
            else:
                values = _unpacked(rows, bits, shape[2] * num_samples, self._directories.order).reshape(shape)
            if has_predictor and self.predictor == _DIFFERENCES:
                values = np.cumsum(values, axis=2, dtype=values.dtype.newbyteorder("="))
            if _FLOAT in self.formats and kind == "u":
                values = values.view(values.dtype.str.replace("u", "f"))
        values = values.reshape(len(rows), -1, num_samples)[:, : self._page.width]
        return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))

    def _pixels(self, values: np.ndarray, icc_profile: bytes | None) -> tuple[np.ndarray, bool, tuple[str, ...]]:
        """Return grey or RGB and opacity, whether it was converted to sRGB, and notes on losses."""
        bits, num_colors = self.bits[0], _NUM_COLORS[self.photometric]
        notes: tuple[str, ...] = ()
        kinds = [kind in (_PREMULTIPLIED, _OPACITY) for kind in self.extra]
        alpha = values[..., num_colors + kinds.index(True)] if any(kinds) else None
        is_premultiplied = alpha is not None and self.extra[kinds.index(True)] == _PREMULTIPLIED
        if self.photometric in (_CIE_LAB, _ICC_LAB):
            colors, notes = self._from_lab(values[..., :3])
            if alpha is not None:
                alpha, more = self._rounded(alpha, "values of the transparency")
                alpha, notes = alpha.astype(colors.dtype), notes + more
            return _joined(colors, alpha), True, notes
        values = _joined(values[..., :num_colors], alpha)
        if _FLOAT in self.formats and is_premultiplied:
            values = np.concatenate(
                [values[..., :-1] / np.where(values[..., -1:] > 0, values[..., -1:], 1), values[..., -1:]], axis=2
            )
        array, notes = self._rounded(values, "values")
        if _FLOAT not in self.formats and is_premultiplied:
            array = unpremultiplied(array)
        if self.photometric == _WHITE_IS_ZERO:
            array[..., :1] = np.iinfo(array.dtype).max - array[..., :1]
        if self.photometric != _CMYK:
            return array, False, notes
        if array.dtype == np.uint16:
            array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
            cut = tuple(note for note in notes if "were cut" in note)
            notes = (f"{bits} bits per channel were reduced to 8: CMYK pictures are read with 8", *cut)
        cmyk = Image.frombytes("CMYK", (array.shape[1], array.shape[0]), np.ascontiguousarray(array[..., :4]).tobytes())
        converted, how = rgb_from_cmyk(cmyk, icc_profile)
        colors = np.asarray(converted)
        joined = _joined(colors, array[..., 4] if alpha is not None else None)
        return joined, True, (*notes, f"CMYK was converted to RGB {how}")

    def _rounded(self, values: np.ndarray, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return whole numbers of 8 or 16 bits, and notes on losses."""
        if _FLOAT in self.formats:
            values = _finite(values)
            notes: tuple[str, ...] = ("floating-point values were rounded to 16 bits",)
            if values.min() < 0 or values.max() > 1:
                notes += (f"{what} from {values.min():g} to {values.max():g} were cut to the range from 0 to 1",)
            return by_bands(values, lambda band: np.rint(band.astype(np.float64).clip(0, 1) * 65535), np.uint16), notes
        bits, largest = self.bits[0], 2 ** self.bits[0] - 1
        if bits in (8, 16):
            return values.copy(), ()
        depth = np.uint8 if bits < 8 else np.uint16
        top = int(np.iinfo(depth).max)
        notes = (f"{bits} bits per channel were rounded to 16",) if bits > 16 else ()
        if bits > 32:  # the numbers times 65535 would not fit
            shift = bits - 32
            return by_bands(values, lambda band: ((band >> shift) * top + (1 << 31)) // ((1 << 32) - 1), depth), notes
        return by_bands(values, lambda band: (band.astype(np.uint64) * top + largest // 2) // largest, depth), notes

    def _from_lab(self, values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
        """Convert to sRGB, 8 bits from 8 and 16 from more; TIFF 6.0, section 23, and Adobe's note on ICCLab."""
        bits = self.bits[0]
        if _FLOAT in self.formats:
            lab = _finite(values).astype(np.float64)
        elif self.photometric == _CIE_LAB:
            signed = np.ascontiguousarray(values).view(np.int8 if bits == 8 else np.int16).astype(np.float64)
            lab = signed / (1 if bits == 8 else 256)
            lab[..., 0] = values[..., 0] * (100 / (2**bits - 1))
        else:
            lab = values.astype(np.float64) / (1 if bits == 8 else 256) - 128
            lab[..., 0] = values[..., 0] * (100 / (255 if bits == 8 else 65280))
        srgb, top, depth = srgb_from_lab(lab), 255 if bits == 8 else 65535, np.uint8 if bits == 8 else np.uint16
        is_outside = bool((np.abs(srgb - 0.5) > 0.5 + 1 / 255).any())
        note = "Lab was converted to sRGB" + ("; colours outside it were cut off" if is_outside else "")
        return np.rint(srgb.clip(0, 1) * top).astype(depth), (note,)


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise PictureError("the picture holds values that are no finite numbers; save it with 8 or 16 bits")
    return values


def _joined(colors: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    return colors if alpha is None else np.dstack([colors, alpha])


def _unpacked(rows: np.ndarray, bits: int, numbers_per_block: int, order: str) -> np.ndarray:
    """Unpack [H, N] whole numbers from bytes; numbers of partial bytes begin with their highest bit."""
    num_numbers = rows.shape[1] * 8 // bits
    num_numbers -= num_numbers % numbers_per_block
    depth = next(np.dtype(f"u{size}") for size in (1, 2, 4, 8) if size * 8 >= bits)
    result = np.zeros((len(rows), num_numbers), depth)
    if bits % 8 == 0:
        parts = rows[:, : num_numbers * bits // 8].reshape(len(rows), num_numbers, bits // 8).astype(depth)
        for index in range(bits // 8):
            place = index if order == "<" else bits // 8 - 1 - index
            result |= parts[..., index] << depth.type(8 * place)
        return result
    for start in range(0, len(rows), _BAND_ROWS):
        some = slice(start, start + _BAND_ROWS)
        digits = np.unpackbits(rows[some], axis=1)[:, : num_numbers * bits].reshape(-1, num_numbers, bits)
        for index in range(bits):
            result[some] |= digits[..., index].astype(depth) << depth.type(bits - 1 - index)
    return result


def unpremultiplied(pixels: np.ndarray) -> np.ndarray:
    """Divide the colours of [H, W, C] by the last channel, in their depth."""
    top = int(np.iinfo(pixels.dtype).max)
    alpha = pixels[..., -1:].astype(np.uint64)
    colors = (pixels[..., :-1].astype(np.uint64) * top + alpha // 2) // np.maximum(alpha, 1)
    return np.concatenate([np.minimum(colors, top).astype(pixels.dtype), pixels[..., -1:]], axis=-1)
