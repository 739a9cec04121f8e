"""EXIF, XMP and DPI as Pillow has them, both ways; and the TIFF whose pixels it has no mode for."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, TiffTags

from s3diff.images.files.formats import Format
from s3diff.images.files.metadata import EXIF_PREFIX, without_orientation

_MAX_JPEG_EXIF_BYTES = 65533
#: TIFF tags that say something about the scene; the others describe how this one file stores its pixels.
_DESCRIPTIVE_TAGS = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298)
_TIFF_XMP, _TIFF_IPTC = 0x02BC, 0x83BB
_PHOTOSHOP_IPTC = 0x0404
_EXIF_GROUP, _GPS_GROUP, _INTEROPERABILITY_GROUP = 0x8769, 0x8825, 0xA005


class _StoredText(str):
    """Text of a tag as it is stored, mostly UTF-8, which Pillow reads as Latin-1; it would write ? beyond ASCII."""

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return str.encode(self, "latin-1")


def _as_stored(value: Any) -> Any:
    if isinstance(value, dict):
        return {tag: _as_stored(entry) for tag, entry in value.items()}
    return _StoredText(value) if isinstance(value, str) else value


def exif_of(image: Image.Image) -> tuple[bytes | None, bool]:
    """The EXIF block with its prefix, and whether there was one too damaged to keep."""
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            return descriptive_exif(image.getexif()), False
        raw = image.info.get("exif")
        if raw is None:  # ImageMagick writes it into PNG texts instead
            kept = image.getexif()
            raw = kept.tobytes() if len(kept) else None
    except Exception:  # noqa: BLE001 - tags of any content must not cost the picture; the loss is reported
        return None, True
    if not raw:
        return None, False
    body = raw.removeprefix(EXIF_PREFIX)
    damaged = not body.startswith((b"II*\0", b"MM\0*"))
    return (None, True) if damaged else (EXIF_PREFIX + body, False)


def descriptive_exif(exif: Image.Exif) -> bytes | None:
    """Without the tags that describe the storage of pixels in one TIFF file, which are wrong in any other file."""
    kept = Image.Exif()
    for tag in _DESCRIPTIVE_TAGS:
        if tag in exif:
            kept[tag] = _as_stored(exif[tag])
    for group in (_EXIF_GROUP, _GPS_GROUP):
        entries = {tag: value for tag, value in exif.get_ifd(group).items() if tag != _INTEROPERABILITY_GROUP}
        if entries:
            kept[group] = _as_stored(entries)
    return kept.tobytes() if len(kept) else None


def xmp_of(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "surrogateescape")
    return xmp if isinstance(xmp, bytes) and xmp else None


def has_iptc(image: Image.Image) -> bool:
    """Whether the file holds captions and keywords as IPTC, which are not carried over."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _TIFF_IPTC in image.tag_v2
    blocks = image.info.get("photoshop")
    return isinstance(blocks, dict) and _PHOTOSHOP_IPTC in blocks


def dpi_of(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def exif_for(form: Format, exif: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    """The EXIF block as this format can hold it, and what to say if it cannot."""
    if exif is None:
        return None, ()
    if not form.has_exif:
        return None, (f"{form.name} holds no EXIF; it was left out",)
    if form.name == "JPEG" and len(exif) > _MAX_JPEG_EXIF_BYTES:
        return None, (f"the EXIF block of {len(exif)} bytes is too long for a JPEG file and was left out",)
    if form.name == "AVIF":
        # Pillow would take it out itself, and write the whole block anew with ? for all beyond ASCII.
        return without_orientation(exif), ()
    if form.name != "TIFF":
        return exif, ()
    tags = Image.Exif()
    try:
        tags.load(exif)
        return descriptive_exif(tags), ()
    except Exception:  # noqa: BLE001 - as in reading
        return None, ("the EXIF block is damaged and was left out",)


def tiff_tags(exif: bytes | None, xmp: bytes | None) -> Image.Exif:
    """The tags of a TIFF that describe its picture."""
    tags = Image.Exif()
    if exif is not None:
        tags.load(exif)
        for tag in list(tags):
            if tag in (_EXIF_GROUP, _GPS_GROUP):
                group = tags.get_ifd(tag)  # kept and written by Pillow as it is now
                group.update(_as_stored(group))
            else:
                tags[tag] = _as_stored(tags[tag])
    if xmp is not None:
        tags[_TIFF_XMP] = xmp
    return tags


def deep_tiff(
    pixels: np.ndarray, tags: Image.Exif, icc_profile: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
    """An uncompressed TIFF in one strip, for pixels that Pillow has no mode for.

    Args:
        pixels: [H, W, 1 to 4] uint16: grey or RGB and, as the last channel, opacity that is not premultiplied.
        tags: from :func:`tiff_tags`.
        icc_profile: of the pixels.
        dpi: pixels per inch, across and down.
    """
    height, width, channels = pixels.shape
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag in tags:
        directory[tag] = tags.get_ifd(tag) if tag in (_EXIF_GROUP, _GPS_GROUP) else tags[tag]
    storage: dict[int, Any] = {
        TiffImagePlugin.IMAGEWIDTH: width,
        TiffImagePlugin.IMAGELENGTH: height,
        TiffImagePlugin.BITSPERSAMPLE: (16,) * channels,
        TiffImagePlugin.COMPRESSION: 1,
        TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 2 if channels >= 3 else 1,
        TiffImagePlugin.STRIPOFFSETS: 0,  # the directory's own length is added when it is written
        TiffImagePlugin.SAMPLESPERPIXEL: channels,
        TiffImagePlugin.ROWSPERSTRIP: height,
        TiffImagePlugin.PLANAR_CONFIGURATION: 1,
    }
    directory.tagtype[TiffImagePlugin.STRIPBYTECOUNTS] = TiffTags.LONG
    storage[TiffImagePlugin.STRIPBYTECOUNTS] = pixels.nbytes
    if channels in (2, 4):
        storage[TiffImagePlugin.EXTRASAMPLES] = 2
    if icc_profile is not None:
        storage[TiffImagePlugin.ICCPROFILE] = icc_profile
    if dpi is not None:
        storage |= {TiffImagePlugin.X_RESOLUTION: dpi[0], TiffImagePlugin.Y_RESOLUTION: dpi[1]}
        storage[TiffImagePlugin.RESOLUTION_UNIT] = 2
    for tag, value in storage.items():
        directory[tag] = value
    data = io.BytesIO()
    directory.save(data)
    data.write(pixels.astype("<u2", copy=False).tobytes())
    return data.getvalue()
