"""Small picture files for the tests of the service."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def photo(width: int = 32, height: int = 24, seed: int = 0) -> bytes:
    """A PNG with smooth colours and some noise."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    smooth = np.stack([x, y, (x + y) / 2], axis=-1) * 200
    noise = np.random.default_rng(seed).normal(25, 12, (height, width, 3))
    return _encoded(Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)), "PNG")


def jpeg_with_metadata(width: int = 32, height: int = 24) -> bytes:
    exif = Image.Exif()
    exif[0x0110] = "Camera"
    image = Image.open(io.BytesIO(photo(width, height)))
    return _encoded(image, "JPEG", exif=exif, dpi=(300, 300), quality=95)


def deep_grey(width: int = 32, height: int = 24) -> bytes:
    ramp = np.linspace(0, 65535, width * height).reshape(height, width).astype(np.uint16)
    return _encoded(Image.fromarray(ramp), "PNG")


def transparent(width: int = 32, height: int = 24) -> bytes:
    image = Image.open(io.BytesIO(photo(width, height))).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((width, height)))
    return _encoded(image, "PNG")


def png_claiming(width: int, height: int) -> bytes:
    """A tiny file whose header claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def _encoded(image: Image.Image, form: str, **settings: object) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **settings)
    return data.getvalue()
