"""Small files whose colours, transparency and depths are stated in every way; what is right stands beside each of them.

Four fields of one colour each, 8 x 8 pixels; what a viewer that manages colours shows of them is computed here from the
definitions of the colour spaces, without the code under test.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from s3diff.images.files.gif_blocks import with_extension
from s3diff.images.icc_profiles import adobe_rgb_profile, profile_of_code_points
from tiff_builder import Entries, Storage, Tiff, stored

SIDE = 16
#: Within sRGB in every space here, and far enough from grey that a wrong space shows.
FIELDS = np.array([[[90, 120, 150], [160, 110, 100]], [[110, 150, 110], [128, 128, 128]]], np.uint8)
RGB = FIELDS.repeat(8, 0).repeat(8, 1)
GREY = np.array([[60, 100], [160, 220]], np.uint8).repeat(8, 0).repeat(8, 1)
#: Opacity: the left half is opaque, the right half nearly clear.
OPACITY = np.where(np.arange(SIDE) < 8, 255, 51).astype(np.uint8) * np.ones((SIDE, 1), np.uint8)
CLEAR_RIGHT = np.where(OPACITY == 255, 255, 0).astype(np.uint8)
Primaries = tuple[tuple[float, float], ...]
Words = tuple[str, ...]
WHITE = (0.3127, 0.3290)
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3_PRIMARIES = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))


class PictureCase(NamedTuple):
    """A file.

    Attributes:
        name: what it is.
        extension: of its name.
        content: the bytes.
        shown: [H, W, 3] or [H, W, 1] in [0, 1], as sRGB; None where the file is refused.
        alpha: opacity in [0, 1]; None for none.
        bits: per channel of what is read, 8 or 16.
        words: each of them has to stand in a remark, or in the refusal; where there are none, there is no remark.
        tolerance: of the colours, in 255ths.
    """

    name: str
    extension: str
    content: bytes
    shown: np.ndarray | None
    alpha: np.ndarray | None = None
    bits: int = 8
    words: Words = ()
    tolerance: float = 2.0


def to_xyz(primaries: Primaries) -> np.ndarray:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([WHITE[0] / WHITE[1], 1, (1 - sum(WHITE)) / WHITE[1]])
    return columns * np.linalg.solve(columns, white)


def linear_of_srgb(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_of_linear(values: np.ndarray) -> np.ndarray:
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)


def shown(pixels: np.ndarray, primaries: Primaries = SRGB_PRIMARIES, power: float = 0) -> np.ndarray:
    """What pixels of 8 bits look like, as sRGB; a power of 0 is sRGB's own curve."""
    values = pixels / 255
    linear = values**power if power else linear_of_srgb(values)
    if values.ndim == 2:
        return srgb_of_linear(linear)[..., None]
    return srgb_of_linear(linear @ (np.linalg.inv(to_xyz(SRGB_PRIMARIES)) @ to_xyz(primaries)).T)


P3, ADOBE = profile_of_code_points(12, 13) or b"", adobe_rgb_profile()
SHOWN, SHOWN_P3, SHOWN_GREY = shown(RGB), shown(RGB, P3_PRIMARIES), shown(GREY)
SHOWN_ADOBE = shown(RGB, ADOBE_PRIMARIES, 563 / 256)


def saved(pixels: np.ndarray, format_name: str, mode: str | None = None, **settings: object) -> bytes:
    data = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(data, format_name, **settings)
    return data.getvalue()


def chunks(*parts: tuple[bytes, bytes], damaged: bytes = b"") -> bytes:
    whole = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in parts:
        total = zlib.crc32(kind + body) ^ (kind == damaged)
        whole.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", total))
    return b"".join(whole)


def png(rows: np.ndarray, bits: int, kind: int, *stated: tuple[bytes, bytes], damaged: bytes = b"") -> bytes:
    """A PNG of rows of bytes."""
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    size = struct.pack(">IIBBBBB", SIDE, SIDE, bits, kind, 0, 0, 0)
    return chunks((b"IHDR", size), *stated, (b"IDAT", zlib.compress(lines)), (b"IEND", b""), damaged=damaged)


def packed(levels: np.ndarray, bits: int) -> np.ndarray:
    """Rows of bytes of numbers of fewer than 8 bits."""
    digits = (levels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(levels), -1).astype(np.uint8), axis=1)


def chrm(primaries: Primaries) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(value * 1e5) for pair in (WHITE, *primaries) for value in pair))


def gama(power: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(1e5 / power))


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"x\0\0" + zlib.compress(profile)


def _colors_of_png() -> Iterator[PictureCase]:
    def case(name: str, *stated: tuple[bytes, bytes], expected: np.ndarray | None, words: Words = ()) -> PictureCase:
        return PictureCase(f"PNG {name}", ".png", png(RGB, 8, 2, *stated), expected, words=words)

    p3, srgb = (b"cICP", bytes([12, 13, 0, 1])), (b"cICP", bytes([1, 13, 0, 1]))
    yield case("that states nothing", expected=SHOWN)
    yield case("cICP Display P3", p3, expected=SHOWN_P3)
    yield case("cICP sRGB", srgb, expected=SHOWN)
    yield case("cICP before iCCP", p3, iccp(ADOBE), expected=SHOWN_P3)
    yield case("iCCP before gAMA", iccp(P3), gama(1.8), expected=SHOWN_P3)
    yield case("sRGB before gAMA", (b"sRGB", b"\0"), gama(1.8), expected=SHOWN)
    yield case("gAMA 1.8", gama(1.8), expected=shown(RGB, power=1.8))
    yield case("gAMA 1", gama(1), expected=shown(RGB, power=1))
    yield case("gAMA and cHRM", gama(2.2), chrm(ADOBE_PRIMARIES), expected=shown(RGB, ADOBE_PRIMARIES, 2.2))
    yield case("cHRM alone", chrm(P3_PRIMARIES), expected=SHOWN_P3)
    yield case("PQ", (b"cICP", bytes([9, 16, 0, 1])), expected=None, words=("HDR",))
    yield case("HLG", (b"cICP", bytes([9, 18, 0, 1])), expected=None, words=("HDR",))
    yield PictureCase("PNG grey with gAMA", ".png", png(GREY, 8, 0, gama(1.8)), shown(GREY, power=1.8))
    yield PictureCase(
        "PNG grey with a profile for RGB", ".png", png(GREY, 8, 0, iccp(P3)), SHOWN_GREY, words=("not one for grey",)
    )


def _pixels_of_png() -> Iterator[PictureCase]:
    for bits in (1, 2, 4):
        top = 2**bits - 1
        levels = GREY.astype(int) >> (8 - bits)
        values = (levels * 255 // top).astype(np.uint8)
        clear = int(levels[0, 8])
        content = png(packed(levels, bits), bits, 0, (b"tRNS", struct.pack(">H", clear)))
        yield PictureCase(f"PNG grey of {bits} bits", ".png", png(packed(levels, bits), bits, 0), shown(values))
        yield PictureCase(
            f"PNG grey of {bits} bits with a clear one", ".png", content, shown(values), (levels != clear).astype(float)
        )
    grey_16, rgb_16 = (GREY.astype(">u2") * 257), (RGB.astype(">u2") * 257)
    alpha_16 = OPACITY.astype(">u2") * 257
    yield PictureCase("PNG grey of 16 bits", ".png", png(grey_16, 16, 0), SHOWN_GREY, bits=16)
    yield PictureCase("PNG of 16 bits", ".png", png(rgb_16, 16, 2), SHOWN, bits=16)
    clear_16 = struct.pack(">3H", *(257 * FIELDS[0, 0].astype(int)))
    is_clear = (FIELDS[0, 0] != RGB).any(axis=2).astype(float)
    yield PictureCase("PNG of 16 bits, one clear", ".png", png(rgb_16, 16, 2, (b"tRNS", clear_16)), SHOWN, is_clear, 16)
    with_alpha = np.dstack([rgb_16, alpha_16])
    yield PictureCase("PNG RGBA of 16 bits", ".png", png(with_alpha, 16, 6), SHOWN, OPACITY / 255, 16)
    yield PictureCase(
        "PNG LA of 16 bits", ".png", png(np.dstack([grey_16, alpha_16]), 16, 4), SHOWN_GREY, OPACITY / 255, 16
    )
    yield PictureCase("PNG RGBA", ".png", png(np.dstack([RGB, OPACITY]), 8, 6), SHOWN, OPACITY / 255)
    palette = (b"PLTE", FIELDS.reshape(-1, 3).tobytes())
    index = np.array([[0, 1], [2, 3]], np.uint8).repeat(8, 0).repeat(8, 1)
    yield PictureCase("PNG palette", ".png", png(index, 8, 3, palette), SHOWN)
    half = (index != 1) + (index == 1) * (51 / 255)
    content = png(index, 8, 3, palette, (b"tRNS", bytes([255, 51])))
    yield PictureCase("PNG palette with opacity", ".png", content, SHOWN, half)
    title = (b"tEXt", b"Title\0x")
    content = png(RGB, 8, 2, title, damaged=b"tEXt")
    yield PictureCase("PNG with a damaged text", ".png", content, SHOWN, words=("tEXt is damaged",))
    yield PictureCase("PNG cut off", ".png", png(RGB, 8, 2)[:-40], None, words=("damaged",))


def _of_jpeg() -> Iterator[PictureCase]:
    settings = {"quality": 97, "subsampling": 0}
    yield PictureCase("JPEG", ".jpg", saved(RGB, "JPEG", **settings), SHOWN, tolerance=4)
    yield PictureCase("JPEG by another name", ".jfif", saved(RGB, "JPEG", **settings), SHOWN, tolerance=4)
    yield PictureCase("JPEG progressive", ".jpg", saved(RGB, "JPEG", progressive=True, **settings), SHOWN, tolerance=4)
    yield PictureCase("JPEG grey", ".jpg", saved(GREY, "JPEG", **settings), SHOWN_GREY, tolerance=4)
    yield PictureCase("JPEG Display P3", ".jpg", saved(RGB, "JPEG", icc_profile=P3, **settings), SHOWN_P3, tolerance=4)
    for name, group in {"ColorSpace 2": {0xA001: 2}, "Interop R03": {0xA001: 65535, 0xA005: {1: "R03"}}}.items():
        block = Image.Exif()
        block[0x8769] = group
        content = saved(RGB, "JPEG", exif=block, **settings)
        yield PictureCase(f"JPEG {name}", ".jpg", content, SHOWN_ADOBE, tolerance=4)
    cmyk = saved(RGB, "JPEG", "CMYK", quality=97)
    yield PictureCase("JPEG CMYK", ".jpg", cmyk, SHOWN, words=("CMYK was converted to RGB",), tolerance=6)


def _of_others() -> Iterator[PictureCase]:
    yield PictureCase("WebP", ".webp", saved(RGB, "WEBP", lossless=True), SHOWN)
    with_alpha = np.dstack([RGB, OPACITY])
    yield PictureCase("WebP RGBA", ".webp", saved(with_alpha, "WEBP", lossless=True), SHOWN, OPACITY / 255)
    yield PictureCase("WebP Display P3", ".webp", saved(RGB, "WEBP", lossless=True, icc_profile=P3), SHOWN_P3)
    yield PictureCase("GIF", ".gif", saved(RGB, "GIF"), SHOWN)
    yield PictureCase(
        "GIF with a profile", ".gif", with_extension(saved(RGB, "GIF"), gif_extension(b"ICCRGBG1012", P3)), SHOWN_P3
    )
    yield PictureCase("BMP", ".bmp", saved(RGB, "BMP"), SHOWN)
    yield PictureCase("BMP grey", ".bmp", saved(GREY, "BMP"), SHOWN_GREY)
    yield PictureCase("BMP RGB565", ".bmp", bmp_565(), SHOWN, tolerance=8)
    for name, expected in {"calibrated": SHOWN_ADOBE, "embedded": SHOWN_P3, "sRGB": SHOWN}.items():
        yield PictureCase(f"BMP version 5 {name}", ".bmp", bmp_5(name), expected, tolerance=3)
    if features.check("avif"):
        for name, code, expected in (
            ("Display P3", (12, 13), SHOWN_P3),
            ("sRGB", (1, 13), SHOWN),
            ("PQ", (9, 16), None),
        ):
            words = () if expected is not None else ("HDR",)
            yield PictureCase(f"AVIF nclx {name}", ".avif", avif(*code), expected, words=words, tolerance=5)
        content = saved(with_alpha, "AVIF", quality=98, subsampling="4:4:4")
        yield PictureCase("AVIF RGBA", ".avif", content, SHOWN, OPACITY / 255, tolerance=5)


def gif_extension(name: bytes, content: bytes) -> bytes:
    parts = [content[start : start + 255] for start in range(0, len(content), 255)]
    return b"!\xff\x0b" + name + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def avif(primaries: int, curve: int) -> bytes:
    changed = bytearray(saved(RGB, "AVIF", quality=98, subsampling="4:4:4"))
    place = changed.index(b"nclx") + 4
    changed[place : place + 4] = struct.pack(">HH", primaries, curve)
    return bytes(changed)


def bmp_565() -> bytes:
    red, green, blue = (RGB.astype(np.uint16) * (31, 63, 31) // 255).transpose(2, 0, 1)
    rows = (red << 11 | green << 5 | blue)[::-1].astype("<u2").tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 16, 3, len(rows), 0, 0, 0, 0)
    header += struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows


def bmp_5(kind: str) -> bytes:
    space = {"calibrated": 0, "embedded": 0x4D424544, "sRGB": 0x73524742}[kind]
    rows = np.ascontiguousarray(RGB[::-1, :, ::-1]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, SIDE, SIDE, 1, 24, 0, len(rows), 0, 0, 0, 0)
    header += struct.pack("<5I", 0xFF0000, 0xFF00, 0xFF, 0, space)
    header += struct.pack("<9i", *(round(value * 2**30) for value in to_xyz(ADOBE_PRIMARIES).T.ravel()))
    header += struct.pack("<3I", *[round(563 / 256 * 65536)] * 3)
    header += struct.pack("<4I", 4, 124 + len(rows), len(P3), 0)
    whole = header + rows + P3
    return b"BM" + struct.pack("<IHHI", 14 + len(whole), 0, 0, 14 + 124) + whole


def _grey_of_tiff() -> Iterator[PictureCase]:
    def case(name: str, content: bytes, bits: int = 8, words: Words = (), tolerance: float = 2) -> PictureCase:
        return PictureCase(
            f"TIFF grey {name}", ".tif", content, SHOWN_GREY, bits=bits, words=words, tolerance=tolerance
        )

    grey = GREY[..., None]
    share = grey / 255
    for order in "<>":
        yield case(f"of 16 bits {order}", stored(grey.astype("u2") * 257, 1, {}, order), 16)
        yield case(f"of 32 bits {order}", stored(grey.astype("u4") * 0x01010101, 1, {}, order), 16, ("32 bits",))
        yield case(f"of floats {order}", stored(share.astype("f4"), 1, {}, order), 16, ("floating-point",))
    yield case("of 8 bits", stored(grey, 1, {}))
    yield case("white is zero", stored(255 - grey, 0, {}))
    yield case("of 16 bits, white is zero", stored(65535 - grey.astype("u2") * 257, 0, {}), 16)
    yield case("of 12 bits", stored(np.rint(share * 4095).astype("u2"), 1, {}, bits=12), 16)
    yield case("of 4 bits", stored(np.rint(share * 15).astype("u1"), 1, {}, bits=4), tolerance=9)
    yield case("of floats beyond", beyond(share), 16, ("floating-point", "cut to the range"))
    both = np.concatenate([grey, OPACITY[..., None]], axis=2)
    yield PictureCase("TIFF LA", ".tif", stored(both, 1, {338: (3, [2])}), SHOWN_GREY, OPACITY / 255)
    content = stored(both.astype("u2") * 257, 1, {338: (3, [2])})
    yield PictureCase("TIFF LA of 16 bits", ".tif", content, SHOWN_GREY, OPACITY / 255, 16)


def beyond(share: np.ndarray) -> bytes:
    """Floats of which one is far above white, where the picture is brightest."""
    numbers = share.astype("f4")
    numbers[-1, -1] = 3
    return stored(numbers, 1, {})


def _colors_of_tiff() -> Iterator[PictureCase]:
    def case(name: str, content: bytes, bits: int = 8, words: Words = ()) -> PictureCase:
        return PictureCase(f"TIFF {name}", ".tif", content, SHOWN, bits=bits, words=words)

    share, deep = RGB / 255, RGB.astype("u2") * 257
    layouts = {
        "tiles": Storage(tile=16), "planes": Storage(planar=True), "LZW": Storage(compression=5),
        "deflate with differences": Storage(compression=8, predictor=2),
    }  # fmt: skip
    for name, how in layouts.items():
        yield case(f"in {name}", stored(RGB, 2, {}, how=how))
        yield case(f"of 16 bits in {name}", stored(deep, 2, {}, ">", how), 16)
    yield case("of 12 bits", stored(np.rint(share * 4095).astype("u2"), 2, {}, bits=12), 16)
    yield case("of 32 bits", stored(RGB.astype("u4") * 0x01010101, 2, {}), 16, ("32 bits",))
    yield case("of floats", stored(share.astype("f4"), 2, {}), 16, ("floating-point",))
    yield case("of half floats", stored(share.astype("f2"), 2, {}), 16, ("floating-point",))
    mask = np.dstack([RGB, OPACITY])
    yield case("with a mask", stored(mask, 2, {338: (3, [0])}), words=("a further channel",))
    yield PictureCase("TIFF RGBA", ".tif", stored(mask, 2, {338: (3, [2])}), SHOWN, OPACITY / 255)
    content = stored(mask.astype("u2") * 257, 2, {338: (3, [2])}, ">")
    yield PictureCase("TIFF RGBA of 16 bits", ".tif", content, SHOWN, OPACITY / 255, 16)
    premultiplied = np.rint(np.dstack([share * (OPACITY / 255)[..., None], OPACITY / 255]) * 65535).astype("u2")
    content = stored(premultiplied, 2, {338: (3, [1])})
    yield PictureCase("TIFF premultiplied", ".tif", content, SHOWN, OPACITY / 255, 16)
    cmyk = 255 - np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    words = ("CMYK was converted to RGB",)
    yield case("CMYK", stored(cmyk, 5, {}), words=words)
    content = stored(np.dstack([cmyk, OPACITY]), 5, {338: (3, [2])})
    yield PictureCase("TIFF CMYK with opacity", ".tif", content, SHOWN, OPACITY / 255, words=words)
    spot = stored(np.dstack([cmyk, OPACITY]), 5, {338: (3, [0])})
    yield case("CMYK with a spot colour", spot, words=(*words, "a further channel"))
    yield case("CMYK of 16 bits", stored(cmyk.astype("u2") * 257, 5, {}), words=(*words, "16 bits"))
    for bits in (8, 16):
        for photometric, name in ((8, "CIELab"), (9, "ICCLab")):
            content = stored(lab(bits, photometric), photometric, {})
            yield PictureCase(f"TIFF {name} of {bits} bits", ".tif", content, SHOWN, None, bits, ("Lab was",), 4)


def lab(bits: int, photometric: int) -> np.ndarray:
    """RGB as Lab under D50, by Bradford's adaptation."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50, d65 = np.array([0.9642, 1, 0.8249]), np.array([0.95047, 1, 1.08883])
    adaptation = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ d65)) @ bradford
    xyz = linear_of_srgb(RGB / 255) @ (adaptation @ to_xyz(SRGB_PRIMARIES)).T / d50
    roots = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = roots.transpose(2, 0, 1)
    values = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
    unit, top = (1, 255) if bits == 8 else (256, 65535 if photometric == 8 else 65280)
    numbers = np.rint((values + (128 if photometric == 9 else 0)) * unit).astype(np.int64)
    numbers[..., 0] = np.rint(values[..., 0] / 100 * top)
    return (numbers & (2**bits - 1)).astype(f"u{bits // 8}")


def _structures_of_tiff() -> Iterator[PictureCase]:
    small = np.full((4, 4, 3), 9, np.uint8)
    reduced: Entries = {254: (4, [1])}
    tiff = Tiff()
    full = tiff.directory(RGB, {})
    content = tiff.begin_at(tiff.directory(small, {**reduced, 330: (4, [full])}))
    yield PictureCase("TIFF with a reduced first page", ".tif", content, SHOWN)
    tiff = Tiff(">")
    second = tiff.directory(small, {})
    content = tiff.begin_at(tiff.directory(RGB, {}, following=second))
    yield PictureCase("TIFF of two pages", ".tif", content, SHOWN, words=("2 pages",))
    tiff = Tiff()
    ends = [round(value * 1e5) for pair in P3_PRIMARIES for value in pair]
    white = [round(value * 1e5) for value in WHITE]
    stated: Entries = {
        318: (5, [part for value in white for part in (value, 100_000)]),
        319: (5, [part for value in ends for part in (value, 100_000)]),
    }
    yield PictureCase("TIFF with primaries", ".tif", tiff.begin_at(tiff.directory(RGB, stated)), SHOWN_P3)
    content = stored(RGB.astype("u2") * 257, 2, stated)
    yield PictureCase("TIFF of 16 bits with primaries", ".tif", content, SHOWN_P3, bits=16)
    tiff = Tiff()
    raw: Entries = {50706: (1, [1, 4, 0, 0])}
    yield PictureCase("DNG", ".dng", tiff.begin_at(tiff.directory(small, raw)), None, words=("raw file",))
    tiff = Tiff()
    signed: Entries = {339: (3, [2] * 3)}
    yield PictureCase("TIFF signed", ".tif", tiff.begin_at(tiff.directory(RGB, signed)), None, words=("signed",))


PICTURES = (
    *_colors_of_png(), *_pixels_of_png(), *_of_jpeg(), *_of_others(), *_grey_of_tiff(), *_colors_of_tiff(),
    *_structures_of_tiff(),
)  # fmt: skip
